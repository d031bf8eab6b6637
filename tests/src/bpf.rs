//! bpf(2), as far as benches take it: aya can neither load instructions that are not in an object nor put a pinned program behind a
//! tail call of another object, nor have a device receive frames.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// include/uapi/linux/bpf.h: commands.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const OBJ_GET: libc::c_int = 7;
const TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;

/// Types of maps.
pub const HASH: u32 = 1;
pub const ARRAY: u32 = 2;
pub const PROG_ARRAY: u32 = 3;
pub const LRU_HASH: u32 = 9;
pub const LPM_TRIE: u32 = 11;
/// What a trie must be made with: `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;

const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const LIVE_FRAMES: u32 = 1 << 1;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
/// `BPF_XDP` of `enum bpf_attach_type`: programs that call each other are loaded for the same.
const ATTACH_XDP: u32 = 37;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tc,
    Xdp,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    at: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// # Safety
///
/// Pointers in `attr` are to live memory, as large as the command takes it to be.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attribute is a live structure of its own size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made the descriptor, for this caller alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// One element with a key of four bytes.
pub fn map(map_type: u32, value_size: u32) -> Result<OwnedFd> {
    map_of(map_type, [4, value_size], 1, 0)
}

/// A map with keys and values of so many bytes, and flags of `BPF_MAP_CREATE`.
pub fn map_of(
    map_type: u32,
    [key_size, value_size]: [u32; 2],
    max_entries: u32,
    flags: u32,
) -> Result<OwnedFd> {
    let mut attr = MapCreate { map_type, key_size, value_size, max_entries, flags };
    // SAFETY: no pointers.
    Ok(owned(unsafe { bpf(MAP_CREATE, &mut attr) }.context("BPF_MAP_CREATE")?))
}

/// Sets the only element.
pub fn set(map: &OwnedFd, value: &[u8]) -> Result<()> {
    put(map, &0u32.to_ne_bytes(), value)
}

/// Sets an element, whose key and value are as large as the map's.
pub fn put(map: &OwnedFd, key: &[u8], value: &[u8]) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { element(MAP_UPDATE, map, key, value.as_ptr() as u64) }.context("BPF_MAP_UPDATE_ELEM")
}

/// The only element, in so many bytes.
pub fn get(map: &OwnedFd, value: &mut [u8]) -> Result<()> {
    // SAFETY: as in `set`.
    unsafe { element(MAP_LOOKUP, map, &0u32.to_ne_bytes(), value.as_mut_ptr() as u64) }
        .context("BPF_MAP_LOOKUP_ELEM")
}

/// # Safety
///
/// The key must have as many bytes as the map's, and at `value` there must be as many as a value of it has.
unsafe fn element(command: libc::c_int, map: &OwnedFd, key: &[u8], value: u64) -> io::Result<()> {
    let map_fd = map.as_raw_fd() as u32;
    let mut attr = MapUpdate { map_fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 };
    // SAFETY: the caller's promise.
    unsafe { bpf(command, &mut attr) }.map(drop)
}

/// Attaches a program to what comes in at a device of this network namespace, until the descriptor is closed. TC needs Linux 6.6.
pub fn attach(program: &OwnedFd, kind: Kind, ifindex: u32) -> Result<OwnedFd> {
    link(program, if kind == Kind::Xdp { ATTACH_XDP } else { ATTACH_TCX_INGRESS }, ifindex)
}

/// The same, to what leaves by a device.
pub fn attach_egress(program: &OwnedFd, ifindex: u32) -> Result<OwnedFd> {
    link(program, ATTACH_TCX_EGRESS, ifindex)
}

fn link(program: &OwnedFd, attach_type: u32, ifindex: u32) -> Result<OwnedFd> {
    let mut attr = [0u32; 16];
    attr[..3].copy_from_slice(&[program.as_raw_fd() as u32, ifindex, attach_type]);
    // SAFETY: no pointers.
    Ok(owned(unsafe { bpf(LINK_CREATE, &mut attr) }.context("BPF_LINK_CREATE")?))
}

/// A program or map that somebody has pinned.
pub fn pinned(path: &Path) -> Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet { path: text.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: a live string that ends.
    let fd = unsafe { bpf(OBJ_GET, &mut attr) };
    Ok(owned(fd.with_context(|| format!("nothing is pinned at {}", path.display()))?))
}

pub fn load(kind: Kind, instructions: &[u64]) -> Result<OwnedFd> {
    let mut log = vec![0u8; 1 << 16];
    let license = c"Dual MIT/GPL";
    let mut attr = ProgLoad {
        kind: if kind == Kind::Xdp { 6 } else { 3 },
        instructions: instructions.len() as u32,
        at: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        flags: if kind == Kind::Xdp { XDP_HAS_FRAGS } else { 0 },
        expected_attach_type: if kind == Kind::Xdp { ATTACH_XDP } else { 0 },
        ..ProgLoad::default()
    };
    // SAFETY: live buffers with their lengths.
    match unsafe { bpf(PROG_LOAD, &mut attr) } {
        Ok(fd) => Ok(owned(fd)),
        Err(error) => bail!("BPF_PROG_LOAD: {error}\n{}", String::from_utf8_lossy(&log).trim_matches('\0')),
    }
}

/// What test runs have returned and how long each took, on the average.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub result: u32,
    pub nanoseconds: u32,
}

/// Runs a program on a frame of a device of this network namespace, again and again.
pub fn run(program: &OwnedFd, kind: Kind, ifindex: u32, frame: &[u8], repeat: u32) -> Result<Run> {
    test_run(program, kind, ifindex, frame, repeat, 0)
}

/// Has a device receive a frame so often, as its driver hands them on behind XDP: the program is run on each and says what becomes of
/// it. The device must have an XDP program. What the host does to a frame, such as counting down its hops, may be seen by a later run
/// of the program.
pub fn receive(program: &OwnedFd, ifindex: u32, frame: &[u8], repeat: u32) -> Result<Run> {
    test_run(program, Kind::Xdp, ifindex, frame, repeat, LIVE_FRAMES)
}

fn test_run(
    program: &OwnedFd,
    kind: Kind,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
    flags: u32,
) -> Result<Run> {
    // `ifindex` is the eleventh word of `struct __sk_buff`, and `ingress_ifindex` the fourth of `struct xdp_md`.
    let mut context = [0u32; 48];
    let size = match kind {
        Kind::Tc => {
            context[10] = ifindex;
            192
        }
        Kind::Xdp => {
            (context[1], context[3]) = (frame.len() as u32, ifindex);
            24
        }
    };
    let mut attr = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        context_size_in: size,
        context_in: context.as_ptr() as u64,
        flags,
        ..TestRun::default()
    };
    // SAFETY: live buffers with their lengths; nothing is written back.
    unsafe { bpf(TEST_RUN, &mut attr) }.context("BPF_PROG_TEST_RUN")?;
    Ok(Run { result: attr.result, nanoseconds: attr.duration })
}

/// `struct bpf_insn`: the code (RFC 9669), the registers to and from, an offset and a constant.
pub const fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> u64 {
    code as u64
        | ((to | from << 4) as u64) << 8
        | (offset as u16 as u64) << 16
        | (constant as u32 as u64) << 32
}

pub const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

/// A program that passes everything.
pub fn empty(kind: Kind) -> Result<OwnedFd> {
    // XDP_PASS is 2, TC_ACT_UNSPEC -1.
    let result = if kind == Kind::Xdp { 2 } else { -1 };
    load(kind, &[instruction(0xb7, 0, 0, 0, result), EXIT])
}

/// Counts IPv4 and drops it, where the last device of a way would receive it.
#[derive(Debug)]
pub struct Sink {
    count: OwnedFd,
    _attached: OwnedFd,
}

/// What has come to a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    /// From the Ethernet header on.
    pub bytes: u64,
}

impl Sink {
    /// At a device of this network namespace (Linux 6.6 or later).
    pub fn new(ifindex: u32) -> Result<Self> {
        let i = instruction;
        let count = map(ARRAY, size_of::<[u64; 2]>() as u32)?;
        let program = load(
            Kind::Tc,
            &[
                i(0xb7, 0, 0, 0, -1),
                // `protocol` of `struct __sk_buff`
                i(0x61, 2, 1, 16, 0),
                i(0x55, 2, 0, 7, i32::from(0x0800u16.to_be())),
                // `len`
                i(0x61, 3, 1, 0, 0),
                i(0x18, 1, 2, 0, count.as_raw_fd()),
                0,
                i(0xb7, 2, 0, 0, 1),
                // Atomic additions.
                i(0xdb, 1, 2, 0, 0),
                i(0xdb, 1, 3, 8, 0),
                // TC_ACT_SHOT
                i(0xb7, 0, 0, 0, 2),
                EXIT,
            ],
        )?;
        let attached =
            attach(&program, Kind::Tc, ifindex).context("a program that counts (Linux 6.6 or later)")?;
        Ok(Self { count, _attached: attached })
    }

    /// So far.
    pub fn count(&self) -> Result<Counted> {
        let mut bytes = [0; 16];
        get(&self.count, &mut bytes)?;
        let (packets, bytes) = bytes.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).context("a counter");
        Ok(Counted { packets: number(packets)?, bytes: number(bytes)? })
    }
}
