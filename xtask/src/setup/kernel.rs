//! What the kernel must be able to do, tried in a network namespace that vanishes with its thread.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Report;

// linux/bpf.h
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
/// linux/if_link.h: XDP in the driver, not in the generic path behind it.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

const DEVICE: &str = "sgsetup0";

pub fn examine(report: &mut Report) {
    report.fact("BTF", btf());
    report.fact("bpffs", bpffs());
    let trial = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("a namespace cannot be made: {error} (CONFIG_NET_NS, CAP_SYS_ADMIN)"))?;
        Ok::<_, String>((veth(), bridge(), netfilter(), xdp(), tc()))
    });
    match trial.join() {
        Ok(Ok((veth, bridge, netfilter, xdp, tc))) => {
            report.fact("veth", veth);
            report.fact("bridge", bridge);
            report.fact("netfilter", netfilter);
            report.fact("XDP", xdp);
            report.fact("TC", tc);
        }
        Ok(Err(reason)) => report.fact("network namespaces", Err(reason)),
        Err(_) => report.fact("network namespaces", Err("the trial panicked".into())),
    }
}

fn btf() -> Result<String, String> {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        Ok(path.to_owned())
    } else {
        Err(format!("{path} is not there: the kernel needs CONFIG_DEBUG_INFO_BTF (and /sys must be mounted)"))
    }
}

fn bpffs() -> Result<String, String> {
    if statfs("/sys/fs/bpf").is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok("mounted on /sys/fs/bpf".to_owned());
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("\tbpf")) {
        return Err("the kernel has none: it needs CONFIG_BPF_SYSCALL".to_owned());
    }
    if !Path::new("/sys/fs/bpf").is_dir() {
        return Err("there is no /sys/fs/bpf to mount it on: mount sysfs on /sys".to_owned());
    }
    Ok("can be mounted on /sys/fs/bpf".to_owned())
}

fn veth() -> Result<String, String> {
    try_command("ip", &["link", "add", DEVICE, "type", "veth", "peer", "name", "sgsetup1"], "CONFIG_VETH")
}

fn bridge() -> Result<String, String> {
    try_command("ip", &["link", "add", "sgsetupbr", "type", "bridge"], "CONFIG_BRIDGE")
}

/// What the test against nftables compares with: rules that know connections, for what a bridge forwards, and conntrack's
/// own account of them. After [`bridge`].
fn netfilter() -> Result<String, String> {
    let options =
        ["link", "set", "sgsetupbr", "type", "bridge", "nf_call_iptables", "1", "nf_call_ip6tables", "1"];
    try_command("ip", &options, "CONFIG_BRIDGE_NETFILTER")?;
    let rules = "add table inet sgsetup; \
        add chain inet sgsetup forward { type filter hook forward priority 0; }; \
        add rule inet sgsetup forward ct state established accept; \
        add table bridge sgsetup; \
        add chain bridge sgsetup prerouting { type filter hook prerouting priority 0; }";
    try_command("nft", &[rules], "CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_CT")?;
    let account = "/proc/thread-self/net/nf_conntrack";
    if Path::new(account).exists() {
        Ok("nftables, conntrack, bridges".to_owned())
    } else {
        Err(format!("{account} is not there: the kernel needs CONFIG_NF_CONNTRACK_PROCFS"))
    }
}

fn xdp() -> Result<String, String> {
    let program = load(BPF_PROG_TYPE_XDP, BPF_XDP, 2 /* XDP_PASS */)?;
    attach(&program, BPF_XDP, XDP_FLAGS_DRV_MODE)
        .map(|()| "in the driver of veth".to_owned())
        .map_err(|error| format!("a program cannot be attached to veth: {error}"))
}

/// TCX since Linux 6.6; before that the clsact queueing discipline does.
fn tc() -> Result<String, String> {
    let program = load(BPF_PROG_TYPE_SCHED_CLS, 0, -1 /* TCX_NEXT */)?;
    match attach(&program, BPF_TCX_INGRESS, 0) {
        Ok(()) => Ok("TCX".to_owned()),
        Err(_) => try_command(
            "tc",
            &["qdisc", "add", "dev", DEVICE, "clsact"],
            "CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF",
        )
        .map(|_| "clsact (this kernel has no TCX)".to_owned()),
    }
}

fn try_command(program: &str, arguments: &[&str], config: &str) -> Result<String, String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok("works".to_owned()),
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{program} {}`: {} (the kernel needs {config})", arguments.join(" "), error.trim()))
        }
        Err(error) => Err(format!("`{program}` cannot be run: {error}")),
    }
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` of `BPF_LINK_CREATE`, as far as it is used.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads a program that returns `value` for every packet.
fn load(prog_type: u32, expected_attach_type: u32, value: i32) -> Result<OwnedFd, String> {
    // Two of struct bpf_insn: code, registers, offset, immediate.
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    let code: [u8; 16] = [0xb7, 0, 0, 0, v0, v1, v2, v3, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let license = c"GPL";
    let attributes = ProgLoad {
        prog_type,
        insn_cnt: 2,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type,
        ..ProgLoad::default()
    };
    // SAFETY: the attributes are those of this command, and both pointers in them outlive the call.
    unsafe { bpf(BPF_PROG_LOAD, &attributes) }
        .map_err(|error| format!("the kernel refuses a BPF program: {error}"))
}

/// Attaches to the trial device; detaches at once, when the link is closed.
fn attach(program: &OwnedFd, attach_type: u32, flags: u32) -> io::Result<()> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: if_nametoindex(DEVICE)?,
        attach_type,
        flags,
    };
    // SAFETY: the attributes are those of this command; there is no pointer in them.
    unsafe { bpf(BPF_LINK_CREATE, &attributes) }.map(drop)
}

/// bpf(2), for the commands that return a file descriptor.
///
/// # Safety
/// `attributes` must be what `command` reads, and pointers in it must be valid for the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes and takes the rest as zero; the caller answers for their meaning.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match i32::try_from(result) {
        // SAFETY: both commands return a new descriptor, which nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
