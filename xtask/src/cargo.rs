//! Calling cargo on this workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::setup;

/// The root of the repository: in `SGD_WORKSPACE` if xtask runs where it was not built.
pub fn workspace() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("SGD_WORKSPACE").map_or_else(built, PathBuf::from)
}

/// cargo, in the workspace. The one that runs xtask, unless xtask was started by hand.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(arguments);
    // What cargo has set for xtask itself would make crates that look at it build again.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs cargo to its end, showing what it says.
pub fn run(arguments: &[&str]) -> Result<()> {
    let status = cargo(arguments).status().context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", arguments.join(" "));
    Ok(())
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

pub fn clippy_bpf() -> Result<()> {
    setup::bpf_clippy()?;
    let checked = sg_ebpf_build::clippy(&workspace(), &target().join("bpf-clippy"))?;
    ensure!(checked, "the toolchain that builds the kernel side has no clippy");
    Ok(())
}
