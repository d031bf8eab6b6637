//! `cargo xtask setup`: finds or installs what building, the demo and the tests need. One line for each thing:
//!
//! ```text
//! found       network tools: ip utility, iproute2-6.1.0
//! installing  bpf-linker
//! done        bpf-linker: bpf-linker 0.13.0
//! cannot      BTF: … what is wrong and what to do
//! ```

mod install;
mod kernel;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use sg_ebpf_build::{Linker, Toolchain};

/// Finds what is needed and installs what is missing.
pub fn install() -> Result<()> {
    go(false)
}

/// Only looks.
pub fn check() -> Result<()> {
    go(true)
}

/// Finds what the fuzz targets need and installs what is missing.
pub fn fuzz() -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    report.tool("C++ compiler", || version("c++", "--version"), || install::apt(&["g++"]));
    report.tool("Rust for BPF", bpf_toolchain, install::bpf_toolchain);
    report.tool("bpf-linker", bpf_linker, install::bpf_linker);
    report.tool("cargo-fuzz", || version("cargo-fuzz", "--version"), install::cargo_fuzz);
    report.finish()
}

/// Finds what makes the book of docs/ and installs it if it is missing, which takes a minute or two.
pub fn book() -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    report.tool("mdBook", || version("mdbook", "--version"), install::mdbook);
    report.finish()
}

fn go(only_check: bool) -> Result<()> {
    let mut report = Report { only_check, missing: 0 };
    report.tool("C compiler", || version("cc", "--version"), || install::apt(&["gcc", "libc6-dev"]));
    report.tool("network tools", || version("ip", "-V"), || install::apt(&["iproute2"]));
    report.tool("nsenter", || version("nsenter", "--version"), || install::apt(&["util-linux"]));
    let tcpdump = || version("tcpdump", "--version");
    report.tool("tcpdump", tcpdump, || install::apt(&["tcpdump"]));
    // For the test that runs the commands of the docs.
    report.tool("curl", || version("curl", "--version"), || install::apt(&["curl"]));
    report.tool("tmux", || version("tmux", "-V"), || install::apt(&["tmux"]));
    report.tool("nftables", || version("nft", "--version"), || install::apt(&["nftables"]));
    // For the tests of metrics and alerts; the server beside it is not started.
    report.tool(
        "promtool",
        || version("promtool", "--version"),
        || install::without_services(&["prometheus"]),
    );
    // For the test of the API's description.
    let validator = || version("openapi-spec-validator", "--version");
    report.tool("openapi-spec-validator", validator, install::openapi_validator);
    report.tool("terminal", || version("script", "--version"), || install::apt(&["bsdutils"]));
    // For the score of the unit. Nothing is booted with it.
    let analyze = || version("systemd-analyze", "--version");
    report.tool("systemd-analyze", analyze, || install::without_services(&["systemd"]));
    for shell in ["bash", "zsh", "fish"] {
        report.tool(shell, || version(shell, "--version"), || install::apt(&[shell]));
    }
    report.tool("Rust for BPF", bpf_toolchain, install::bpf_toolchain);
    report.tool("bpf-linker", bpf_linker, install::bpf_linker);
    if Uid::effective().is_root() {
        kernel::examine(&mut report);
    } else {
        report.fact(
            "root",
            Err("network namespaces and BPF programs need it: run this as root (`sudo -E cargo xtask …`)"
                .into()),
        );
    }
    report.finish()
}

/// Finds what makes a Debian package and installs what is missing.
pub fn install_packager() -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    packager(&mut report);
    report.finish()
}

fn packager(report: &mut Report) {
    let shlibdeps = || version("dpkg-shlibdeps", "--version");
    report.tool("dpkg-dev", shlibdeps, || install::apt(&["dpkg-dev"]));
    report.tool("strip", || version("strip", "--version"), || install::apt(&["binutils"]));
}

/// Finds the clippy of the toolchain that builds the kernel side and installs it if it is missing.
pub fn bpf_clippy() -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    report.tool("Rust for BPF", bpf_toolchain, install::bpf_toolchain);
    report.tool("bpf-linker", bpf_linker, install::bpf_linker);
    let clippy = || match Toolchain::find() {
        Ok(toolchain) if toolchain.has_clippy() => Ok(format!("of {toolchain}")),
        Ok(toolchain) => Err(format!("{toolchain} has none")),
        Err(error) => Err(error.to_string()),
    };
    report.tool("clippy for BPF", clippy, install::bpf_clippy);
    report.finish()
}

/// Finds cargo-deny and installs it if it is missing, which takes a minute or two.
pub fn install_deny() -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    report.tool("C compiler", || version("cc", "--version"), || install::apt(&["gcc", "libc6-dev"]));
    report.tool("cargo-deny", || version("cargo-deny", "--version"), install::cargo_deny);
    report.finish()
}

/// Finds what makes a root file system with a real systemd, or the disk of a machine, and installs what is missing.
pub fn install_systemd_test(machine: bool) -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    packager(&mut report);
    report.tool("mmdebstrap", || version("mmdebstrap", "--version"), || install::apt(&["mmdebstrap"]));
    if machine {
        programs(&mut report, &VIRTUAL);
        programs(&mut report, &[("mke2fs", "e2fsprogs")]);
    }
    report.finish()
}

/// Finds the programs that `cargo xtask attack` runs and installs those that are missing.
pub fn install_attackers() -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    programs(&mut report, &ATTACKERS);
    report.tool("scapy", scapy, || install::without_services(&["python3-scapy"]));
    report.tool("PostgreSQL", postgresql_version, || install::without_services(&["postgresql"]));
    if report.missing > 0 {
        bail!("{} of the things above are missing", report.missing);
    }
    Ok(())
}

/// Finds the programs that `cargo xtask vm-test` runs and installs those that are missing.
pub fn install_vm() -> Result<()> {
    install_programs(&VIRTUAL)
}

/// Finds the filters that `cargo xtask bench` measures beside this one and installs those that are missing.
pub fn install_peers() -> Result<()> {
    install_programs(&PEERS)
}

fn install_programs(names: &[(&'static str, &'static str)]) -> Result<()> {
    let mut report = Report { only_check: false, missing: 0 };
    programs(&mut report, names);
    report.finish()
}

/// Finds programs or installs the Debian packages that they are in.
fn programs(report: &mut Report, names: &[(&'static str, &'static str)]) {
    for &(name, package) in names {
        let find = || program(name).map(|path| path.display().to_string()).map_err(|error| error.to_string());
        report.tool(name, find, || install::without_services(&[package]));
    }
}

/// Programs and the Debian packages that they are in.
const VIRTUAL: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("dpkg", "dpkg"),
];

const PEERS: [(&str, &str); 3] = [("nft", "nftables"), ("iptables-restore", "iptables"), ("ipset", "ipset")];

/// Programs and the Debian packages that they are in.
const ATTACKERS: [(&str, &str); 10] = [
    ("nmap", "nmap"),
    ("hping3", "hping3"),
    ("dnsmasq", "dnsmasq-base"),
    ("udhcpc", "udhcpc"),
    ("radvd", "radvd"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
    ("setpriv", "util-linux"),
];

/// The one that Debian's modules are for, whichever comes first in PATH.
pub const PYTHON: &str = "/usr/bin/python3";

fn scapy() -> Result<String, String> {
    match Command::new(PYTHON).args(["-c", "import scapy; print(scapy.VERSION)"]).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(_) => Err("Debian's python3 has no module scapy".to_owned()),
        Err(error) => Err(format!("{PYTHON} cannot be run: {error}")),
    }
}

/// Where a program is, by PATH and where Debian keeps servers.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no {name}"))
}

fn postgresql_version() -> Result<String, String> {
    let initdb = postgresql("initdb").map_err(|error| error.to_string())?;
    postgresql("pgbench").map_err(|error| error.to_string())?;
    version(&initdb.to_string_lossy(), "--version")
}

/// A program of the newest PostgreSQL here. Debian keeps servers out of PATH, as several may be installed.
pub fn postgresql(program: &str) -> Result<PathBuf> {
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(program))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().with_context(|| format!("there is no {program} in /usr/lib/postgresql"))
}

fn bpf_toolchain() -> Result<String, String> {
    Toolchain::find().map(|toolchain| toolchain.to_string()).map_err(|error| error.to_string())
}

fn bpf_linker() -> Result<String, String> {
    let linker = Linker::find().map_err(|error| error.to_string())?;
    version(&linker.path().to_string_lossy(), "--version")
}

/// Prints, and counts what is missing.
struct Report {
    only_check: bool,
    missing: u32,
}

impl Report {
    fn finish(self) -> Result<()> {
        if self.missing > 0 {
            bail!("{} of the things above are missing", self.missing);
        }
        Ok(())
    }

    /// A thing that can be installed.
    fn tool(
        &mut self,
        what: &str,
        find: impl Fn() -> Result<String, String>,
        install: impl FnOnce() -> Result<()>,
    ) {
        let reason = match find() {
            Ok(detail) => return say("found", what, &detail),
            Err(reason) => reason,
        };
        if self.only_check {
            return self.fact(what, Err(reason));
        }
        say("installing", what, "");
        match install().map_err(|error| format!("{error:#}")).and_then(|()| find()) {
            Ok(detail) => say("done", what, &detail),
            Err(reason) => self.fact(what, Err(reason)),
        }
    }

    /// A thing that is so or not.
    fn fact(&mut self, what: &str, fact: Result<String, String>) {
        match fact {
            Ok(detail) => say("found", what, &detail),
            Err(reason) => {
                self.missing += 1;
                say(if self.only_check { "missing" } else { "cannot" }, what, &reason);
            }
        }
    }
}

fn say(state: &str, what: &str, detail: &str) {
    let colon = if detail.is_empty() { "" } else { ": " };
    println!("{state:<11} {what}{colon}{detail}");
}

/// The first line that a program prints about itself.
fn version(program: &str, flag: &str) -> Result<String, String> {
    match Command::new(program).arg(flag).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
        }
        Ok(output) => Err(format!("`{program} {flag}` fails ({})", output.status)),
        Err(error) => Err(format!("`{program}` cannot be run: {error}")),
    }
}
