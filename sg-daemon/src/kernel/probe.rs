//! What the running kernel has of what the filter cannot do without. The kernel is asked, not its release: distributions carry
//! features back. Asking changes nothing: what is loaded is gone with its descriptor.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

use super::{KernelError, btf};

/// The oldest kernel on which all of the filter is tested.
pub const OLDEST: (u32, u32) = (6, 1);

/// Something that the programs or the daemon cannot do without.
#[derive(Clone, Copy)]
pub struct Need {
    pub name: &'static str,
    /// In words that follow "without".
    pub what: &'static str,
    /// The first Linux that has it, or what it takes.
    pub since: &'static str,
    probe: fn() -> io::Result<bool>,
}

impl Need {
    /// Whether the kernel has it.
    ///
    /// # Errors
    ///
    /// If the kernel does not say, mostly for want of capabilities.
    pub fn is_met(&self) -> io::Result<bool> {
        (self.probe)()
    }
}

pub const NEEDS: [Need; 7] = [
    Need {
        name: "btf",
        what: "a description of the kernel's own types (BTF)",
        since: "CONFIG_DEBUG_INFO_BTF",
        probe: || match btf::sk_buff() {
            Ok(_) => Ok(true),
            Err(KernelError::Btf { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(error)
            }
            Err(_) => Ok(false),
        },
    },
    Need { name: "batches", what: "reading maps in batches", since: "Linux 5.6", probe: batches },
    Need {
        name: "ring_buffer",
        what: "ring buffers",
        since: "Linux 5.8",
        probe: || is_map_supported(MapType::RingBuf).map_err(|error| error.io_error),
    },
    Need {
        name: "kernel_memory",
        what: "programs that read the kernel's memory",
        since: "Linux 5.5, and no lockdown for confidentiality",
        probe: || helper(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_probe_read_kernel),
    },
    Need {
        name: "atomics",
        what: "atomic operations that return a value",
        since: "Linux 5.12",
        probe: atomics,
    },
    Need {
        name: "walks",
        what: "programs that walk through maps",
        since: "Linux 5.13",
        probe: || helper(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_for_each_map_elem),
    },
    Need {
        name: "xdp_frags",
        what: "XDP programs for packets in several buffers",
        since: "Linux 5.18",
        probe: || helper(ProgramType::Xdp, BpfHelper::BPF_FUNC_xdp_get_buff_len),
    },
];

/// `uname -r`.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The first two numbers of a release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Refuses a kernel that is too old. One that is older than promised, but has all that is needed, is tried.
///
/// # Errors
///
/// If it lacks something.
pub(super) fn refuse_too_old() -> Result<(), KernelError> {
    let release = release();
    if version(&release).is_none_or(|version| version >= OLDEST) {
        return Ok(());
    }
    // What the kernel does not tell is found out by loading.
    let lacks: Vec<String> = NEEDS
        .iter()
        .filter(|need| matches!(need.is_met(), Ok(false)))
        .map(|need| format!("{} ({})", need.what, need.since))
        .collect();
    if lacks.is_empty() { Ok(()) } else { Err(KernelError::TooOld { release, lacks: lacks.join(", ") }) }
}

/// Whether TC programs can be attached by links (Linux 6.6); clsact has to do otherwise.
///
/// # Errors
///
/// If the kernel does not say.
pub fn tcx() -> io::Result<bool> {
    let program = load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, &PASS)?;
    let mut attr = nothing();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    // No device has it.
    attr.link_create.__bindgen_anon_2.target_ifindex = i32::MAX as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    match bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

fn helper(program: ProgramType, helper: BpfHelper) -> io::Result<bool> {
    is_helper_supported(program, helper).map_err(|error| match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    })
}

/// Without a map to read from, who knows the command says that, and who does not, that it does not.
fn batches() -> io::Result<bool> {
    let mut attr = nothing();
    attr.batch.map_fd = u32::MAX;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EBADF) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

fn atomics() -> io::Result<bool> {
    let program = [
        instruction(0x7a, 10, 0, -8, 0), // *(u64 *)(r10 - 8) = 0
        instruction(0xb7, 1, 0, 0, 1),   // r1 = 1
        instruction(0xdb, 10, 1, -8, 1), // r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)
        PASS[0],
        PASS[1],
    ];
    match load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, &program) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `r0 = 0; exit`
const PASS: [bpf_insn; 2] = [instruction(0xb7, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)];

/// See Documentation/bpf/standardization/instruction-set.rst.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> bpf_insn {
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: aya_obj::generated::__BindgenBitfieldUnit::new([registers]),
        off: offset,
        imm: immediate,
    }
}

fn load(kind: bpf_prog_type, program: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut attr = nothing();
    let licence = c"GPL";
    // SAFETY: the attribute's members for this command are plain numbers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = program.as_ptr() as u64;
    load.insn_cnt = program.len() as u32;
    load.license = licence.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn nothing() -> bpf_attr {
    // SAFETY: zeros are a valid attribute of every command.
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_int> {
    // SAFETY: what the attribute points to, if anything, lives in the caller.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as c_int, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_releases() {
        assert_eq!(version("6.1.0-40-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert_eq!(version("linux"), None);
        assert!((5, 18) < OLDEST && (6, 12) > OLDEST && (7, 0) > OLDEST);
    }

    /// What is refused here for want of a feature is refused by the programs too, so this kernel, which runs them, has all.
    #[test]
    fn the_kernel_that_runs_the_tests_has_all_that_is_needed() {
        for need in NEEDS {
            assert!(need.is_met().unwrap(), "{}", need.name);
        }
        assert!(refuse_too_old().is_ok());
    }

    #[test]
    fn a_helper_that_no_kernel_has_is_not_found() {
        // Its number is one above the newest, whatever the bindings know.
        assert!(!helper(ProgramType::Xdp, BpfHelper::__BPF_FUNC_MAX_ID).unwrap());
        // For sockets' ends, not for packets.
        assert!(!helper(ProgramType::Xdp, BpfHelper::BPF_FUNC_skb_load_bytes).unwrap());
    }
}
