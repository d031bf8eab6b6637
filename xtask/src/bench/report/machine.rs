//! What a figure depends on beside the code.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::cargo;

/// The machine, and how busy it was before.
pub struct Machine {
    facts: Vec<(&'static str, String)>,
    before: Times,
}

/// Clock ticks since boot, proc_stat(5).
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    all: u64,
    idle: u64,
    steal: u64,
}

impl Machine {
    pub fn look() -> Self {
        let facts = vec![
            ("CPU", processor()),
            ("CPUs", std::thread::available_parallelism().map_or(1, usize::from).to_string()),
            ("memory", memory()),
            ("kernel", text("/proc/sys/kernel/osrelease")),
            ("system", system()),
            ("hypervisor", hypervisor()),
            ("BPF JIT", text("/proc/sys/net/core/bpf_jit_enable")),
            ("frequency governor", governor()),
            ("mitigations", mitigations()),
            ("commit", commit()),
            ("nftables", said("nft", "--version")),
            ("iptables", said("iptables", "--version")),
            ("ipset", said("ipset", "--version")),
            ("load before", load()),
        ];
        Self { facts, before: Times::now() }
    }

    /// All facts; those about the time of the measuring too.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = self.facts.clone();
        let now = Times::now();
        let all = now.all.saturating_sub(self.before.all).max(1) as f64;
        let part =
            |before: u64, now: u64| format!("{:.1} %", now.saturating_sub(before) as f64 * 100.0 / all);
        facts.push(("load after", load()));
        facts.push(("idle meanwhile", part(self.before.idle, now.idle)));
        facts.push(("stolen by the hypervisor meanwhile", part(self.before.steal, now.steal)));
        facts
    }

    pub fn json(facts: &[(&'static str, String)]) -> Value {
        facts
            .iter()
            .map(|(name, fact)| ((*name).to_owned(), json!(fact)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl Times {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
        Self { all: ticks.iter().take(8).sum(), idle: at(3) + at(4), steal: at(7) }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The value of a line `name : value` or `name: value`.
fn line(path: &str, name: &str, between: char) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut found =
        text.lines().filter_map(|line| line.split_once(between)).filter(|(key, _)| key.trim() == name);
    found.next().map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().trim_matches('"').to_owned())
}

fn processor() -> String {
    line("/proc/cpuinfo", "model name", ':')
}

fn memory() -> String {
    let kib: u64 = line("/proc/meminfo", "MemTotal", ':').trim_end_matches(" kB").parse().unwrap_or(0);
    format!("{:.1} GiB", kib as f64 / f64::from(1 << 20))
}

fn system() -> String {
    line("/etc/os-release", "PRETTY_NAME", '=')
}

fn hypervisor() -> String {
    let flags = line("/proc/cpuinfo", "flags", ':');
    if flags.split(' ').any(|flag| flag == "hypervisor") { "yes".to_owned() } else { "no".to_owned() }
}

fn governor() -> String {
    text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
}

/// Those that cost something. What is told as vulnerable may have half of one: "Safe RET, no microcode" makes each return slow.
fn mitigations() -> String {
    let costs = |told: &str| told.starts_with("Mitigation") || told.starts_with("Vulnerable: ");
    let on = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let mut on: Vec<String> = on
        .map(|file| (file.file_name().to_string_lossy().into_owned(), text(&file.path().to_string_lossy())))
        .filter(|(_, told)| costs(told))
        .map(|(name, told)| match told.strip_prefix("Vulnerable: ") {
            Some(half) => format!("{name} ({half})"),
            None => name,
        })
        .collect();
    on.sort();
    if on.is_empty() { "none".to_owned() } else { on.join(", ") }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(cargo::workspace()).args(arguments).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    format!("{commit}{}", if changed { " and changes that are not committed" } else { "" })
}

fn said(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    output.map_or_else(
        |_| "not installed".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned(),
    )
}

pub fn load() -> String {
    text("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}
