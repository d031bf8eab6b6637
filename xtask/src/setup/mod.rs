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

use std::process::{Command, Stdio};

use anyhow::{Result, bail};
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

fn go(only_check: bool) -> Result<()> {
    let mut report = Report { only_check, missing: 0 };
    report.tool("C compiler", || version("cc", "--version"), || install::apt(&["gcc", "libc6-dev"]));
    report.tool("network tools", || version("ip", "-V"), || install::apt(&["iproute2"]));
    report.tool("nsenter", || version("nsenter", "--version"), || install::apt(&["util-linux"]));
    report.tool("nftables", || version("nft", "--version"), || install::apt(&["nftables"]));
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
    if report.missing > 0 {
        bail!("{} of the things above are missing", report.missing);
    }
    Ok(())
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
    /// A thing that can be installed.
    fn tool(
        &mut self,
        what: &str,
        find: fn() -> Result<String, String>,
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
