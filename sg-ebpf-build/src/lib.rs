//! Builds `sg-ebpf` for `bpfel-unknown-none`.
//!
//! The BPF target has no `core` in a stable toolchain, so one of two others is needed: a rustup nightly with `rust-src`
//! (the usual way, `-Z build-std=core`), or Debian's own rustc, for which `core` is packaged precompiled. Both need
//! [bpf-linker](https://github.com/aya-rs/bpf-linker). `cargo xtask setup` installs what is missing.
//!
//! Used by `sg-daemon/build.rs`, which embeds the object, and by `xtask`, which looks for the same tools.

mod tools;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

pub use tools::{BPF_TARGET, Linker, PINNED_NIGHTLY, Toolchain};

/// Why there is no object. The text is what the person at the terminal reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither kind of toolchain is complete. Each line of `tried` says what is wrong with one.
    #[error(
        "no Rust toolchain here can build for {BPF_TARGET}; run `cargo xtask setup`, which installs one\n{}",
        tried.join("\n")
    )]
    NoToolchain { tried: Vec<String> },
    /// Neither on `PATH` nor in cargo's bin directory.
    #[error("bpf-linker is not on PATH nor in {}; run `cargo xtask setup`, which installs it", cargo_bin.display())]
    NoLinker { cargo_bin: PathBuf },
    /// cargo or rustup went away between being found and being run.
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: std::io::Error },
    /// A compile error in `sg-ebpf`; cargo has already printed it to stderr.
    #[error("`{command}` failed ({status}); its messages are above")]
    Cargo { command: String, status: ExitStatus },
    /// cargo succeeded but the file is not where its profile puts it.
    #[error("the build succeeded but {} is not there", path.display())]
    NoObject { path: PathBuf },
}

/// Compiles the object for the sources in `workspace`, with cargo's own incremental state in `target_dir`, and returns its path.
///
/// `target_dir` must not be the one the outer cargo works in: that one is locked while a build script runs.
pub fn build(workspace: &Path, target_dir: &Path) -> Result<PathBuf, Error> {
    cargo(workspace, target_dir, &["build", "--profile", "bpf", "--bin", "sgd-bpf"])?;
    let path = target_dir.join(BPF_TARGET).join("bpf").join("sgd-bpf");
    if path.is_file() { Ok(path) } else { Err(Error::NoObject { path }) }
}

/// Runs clippy over the kernel side. `Ok(false)`: the toolchain that builds here has no clippy of its own.
pub fn clippy(workspace: &Path, target_dir: &Path) -> Result<bool, Error> {
    let toolchain = Toolchain::find()?;
    let Some(clippy) = toolchain.clippy() else { return Ok(false) };
    let options = ["--profile", "bpf", "--bin", "sgd-bpf"];
    run(
        &toolchain,
        clippy,
        workspace,
        target_dir,
        &[&["clippy"][..], &options].concat(),
        &["--", "-D", "warnings"],
    )?;
    Ok(true)
}

fn cargo(workspace: &Path, target_dir: &Path, verb: &[&str]) -> Result<(), Error> {
    let toolchain = Toolchain::find()?;
    run(&toolchain, toolchain.cargo(), workspace, target_dir, verb, &[])
}

fn run(
    toolchain: &Toolchain,
    mut command: Command,
    workspace: &Path,
    target_dir: &Path,
    verb: &[&str],
    last: &[&str],
) -> Result<(), Error> {
    let linker = Linker::find()?;
    clear_inherited(&mut command);
    toolchain.configure(&mut command);
    command
        .current_dir(workspace)
        .args(verb)
        .args(["--package", "sg-ebpf", "--target", BPF_TARGET, "--locked"])
        .arg("--target-dir")
        .arg(target_dir)
        .args(toolchain.build_args())
        .args(last)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker))
        // A build script's stdout is read by the outer cargo as instructions.
        .stdout(Stdio::null());
    let status = command.status().map_err(|source| Error::Run { program: toolchain.to_string(), source })?;
    if status.success() {
        Ok(())
    } else {
        let command = format!("cargo {} --package sg-ebpf ({toolchain})", verb.join(" "));
        Err(Error::Cargo { command, status })
    }
}

/// Separated by 0x1f, which is how cargo tells flags apart even when a path contains a space.
fn rustflags(linker: &Linker) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker.path());
    // BTF needs debug information. v3 brings 32-bit jumps and atomics that return the old value.
    for flag in ["-Clink-arg=--btf", "-Cdebuginfo=2", "-Ctarget-cpu=v3"] {
        flags.push("\u{1f}");
        flags.push(flag);
    }
    flags
}

/// What an outer cargo (or clippy, or a coverage wrapper) sets for its own crates and a nested one must not obey.
fn clear_inherited(command: &mut Command) {
    const NAMES: [&str; 14] = [
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTC_WRAPPER",
        "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
    ];
    for name in NAMES {
        command.env_remove(name);
    }
    // cargo's description of the crate whose build script this is: CARGO_PKG_*, CARGO_CFG_*, CARGO_FEATURE_*, …
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "DEP_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}
