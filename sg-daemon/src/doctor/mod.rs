//! What this host can do for the filter: its kernel, its settings, and each of its devices. Looks, and changes nothing.

mod devices;
mod ethtool;
mod xdp;

use std::fs;
use std::io;

use serde::Serialize;

pub use self::devices::{Device, Xdp};
use crate::kernel::probe;

/// Whether the host can run `sgd`, and what that depends on.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `uname -r`
    pub kernel: String,
    /// `sgd` can run here; absent if it cannot be told without further rights.
    pub able: Option<bool>,
    pub checks: Vec<Check>,
    /// In the order of their indexes.
    pub interfaces: Vec<Device>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Good,
    /// `sgd` runs, but slower, or not everywhere.
    Warning,
    /// `sgd` cannot run.
    Bad,
    /// The kernel does not say.
    Unknown,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Good, found: found.into(), advice: None }
    }

    fn other(name: &'static str, outcome: Outcome, found: impl Into<String>, advice: &str) -> Self {
        Self { name, outcome, found: found.into(), advice: Some(advice.to_owned()) }
    }

    fn unknown(name: &'static str, error: &io::Error) -> Self {
        let advice = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "run this as root",
            _ => "report it, with the kernel's version",
        };
        Self::other(name, Outcome::Unknown, format!("not known: {error}"), advice)
    }
}

/// Looks at this host. Devices are those of this network namespace.
///
/// # Errors
///
/// If the devices cannot be listed.
pub fn examine() -> io::Result<Report> {
    let tcx = probe::tcx();
    let mut checks = vec![kernel()];
    checks.extend(probe::NEEDS.iter().map(need));
    checks.extend([links(&tcx), compiler(), bpffs(), capabilities(), locked_memory()]);
    let interfaces = devices::examine(tcx.ok())?;
    Ok(Report { kernel: probe::release(), able: able(&checks), checks, interfaces })
}

fn able(checks: &[Check]) -> Option<bool> {
    let any = |outcome| checks.iter().any(|check| check.outcome == outcome);
    if any(Outcome::Bad) {
        Some(false)
    } else if any(Outcome::Unknown) {
        None
    } else {
        Some(true)
    }
}

fn kernel() -> Check {
    let release = probe::release();
    let (major, minor) = probe::OLDEST;
    match probe::version(&release) {
        Some(version) if version < probe::OLDEST => Check::other(
            "kernel",
            Outcome::Warning,
            format!("Linux {release}"),
            &format!(
                "Linux {major}.{minor} or later is tested; an older one works if the checks below say so"
            ),
        ),
        _ => Check::good("kernel", format!("Linux {release}")),
    }
}

fn need(need: &probe::Need) -> Check {
    match need.is_met() {
        Ok(true) => Check::good(need.name, need.what),
        Ok(false) => {
            let (major, minor) = probe::OLDEST;
            let advice = format!("it takes {}; use Linux {major}.{minor} or later", need.since);
            Check::other(need.name, Outcome::Bad, format!("no {}", need.what), &advice)
        }
        Err(error) => Check::unknown(need.name, &error),
    }
}

fn links(tcx: &io::Result<bool>) -> Check {
    match tcx {
        Ok(true) => Check::good("tc", "TCX: programs are replaced in place, by links"),
        Ok(false) => Check::good("tc", "clsact, as there is no TCX before Linux 6.6"),
        Err(error) => Check::unknown("tc", error),
    }
}

fn compiler() -> Check {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(setting) if setting.trim() == "0" => Check::other(
            "jit",
            Outcome::Warning,
            "programs are interpreted, several times slower",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Ok(_) => Check::good("jit", "programs are compiled to machine code"),
        Err(error) => Check::other(
            "jit",
            Outcome::Warning,
            format!("/proc/sys/net/core/bpf_jit_enable: {error}"),
            "use a kernel with CONFIG_BPF_JIT: programs are interpreted otherwise, several times slower",
        ),
    }
}

fn bpffs() -> Check {
    const PLACE: &str = "/sys/fs/bpf";
    if crate::kernel::is_bpffs(std::path::Path::new(PLACE)) {
        return Check::good("bpffs", format!("mounted at {PLACE}"));
    }
    Check::other(
        "bpffs",
        Outcome::Warning,
        format!("none at {PLACE}"),
        "sgd mounts it if it may; or: mount -t bpf bpf /sys/fs/bpf",
    )
}

/// include/uapi/linux/capability.h
const CAPABILITIES: [(u32, &str); 3] = [(39, "CAP_BPF"), (NET_ADMIN, "CAP_NET_ADMIN"), (38, "CAP_PERFMON")];
const NET_ADMIN: u32 = 12;
/// It may what the others may, but for devices.
const SYS_ADMIN: u32 = 21;

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let missing = missing_capabilities(mask);
    if missing.is_empty() {
        return Check::good("capabilities", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    Check::other(
        "capabilities",
        Outcome::Unknown,
        format!("this was run without {}", missing.join(", ")),
        "run this as root, to be told what sgd would find",
    )
}

fn missing_capabilities(mask: u64) -> Vec<&'static str> {
    let has = |number: u32| mask >> number & 1 == 1;
    let may = |number: u32| has(number) || (number != NET_ADMIN && has(SYS_ADMIN));
    CAPABILITIES.iter().filter(|(number, _)| !may(*number)).map(|(_, name)| *name).collect()
}

/// Before Linux 5.11 maps counted as locked memory; since then as the control group's.
fn locked_memory() -> Check {
    let version = probe::version(&probe::release());
    if version.is_none_or(|version| version >= (5, 11)) {
        return Check::good("memory", "of maps counts as the control group's, not as locked");
    }
    Check::other(
        "memory",
        Outcome::Warning,
        "of maps counts as locked, as before Linux 5.11",
        "give sgd a limit of locked memory of some GiB (ulimit -l, or LimitMEMLOCK= of its unit)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome) -> Check {
        Check { name: "any", outcome, found: String::new(), advice: None }
    }

    #[test]
    fn what_is_missing_weighs_more_than_what_is_not_known() {
        use Outcome::{Bad, Good, Unknown, Warning};
        let able = |outcomes: &[Outcome]| able(&outcomes.iter().map(|&o| check(o)).collect::<Vec<_>>());
        assert_eq!(able(&[Good, Warning]), Some(true));
        assert_eq!(able(&[Good, Unknown, Warning]), None);
        assert_eq!(able(&[Unknown, Bad, Good]), Some(false));
    }

    #[test]
    fn root_has_every_capability_and_an_administrator_those_of_bpf() {
        assert!(missing_capabilities(0x1ff_ffff_ffff).is_empty());
        assert!(missing_capabilities(1 << 39 | 1 << 38 | 1 << 12).is_empty());
        assert_eq!(missing_capabilities(1 << 21), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    }
}
