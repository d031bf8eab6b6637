//! Installing, with apt where it may be used, else with rustup and cargo.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;
use sg_ebpf_build::{PINNED_NIGHTLY, Toolchain};

/// The version that builds with [`LLVM`] and has been tried with aya-ebpf of this workspace.
const BPF_LINKER: &str = "0.13.0";
/// The version whose arguments `cargo xtask fuzz` gives.
const CARGO_FUZZ: &str = "0.13.1";
/// The version whose settings `deny.toml` has, and that builds with the compiler of this workspace.
const CARGO_DENY: &str = "0.20.2";
/// The version that `cargo xtask book` has been tried with.
const MDBOOK: &str = "0.5.4";
/// The version whose words about a document `cargo xtask test` reads.
const OPENAPI_VALIDATOR: &str = "0.9.0";
/// Debian's LLVM that reads what both kinds of compiler write.
const LLVM: &str = "22";
/// The compiler and its precompiled `core` for BPF. Debian keeps the `-web` packages of its stable releases new, because browsers
/// need them; where they do not exist, the plain ones are new (testing, backports).
const BPF_RUST: [[&str; 2]; 2] = [["rustc-web", "libstd-rust-web-dev-bpf"], ["rustc", "libstd-rust-dev-bpf"]];

/// Installs Debian packages.
pub fn apt(packages: &[&str]) -> Result<()> {
    let by_hand = format!("install {} by hand", packages.join(" "));
    ensure!(has_apt(), "there is no apt-get here: {by_hand} (or what your distribution calls it)");
    ensure!(
        Uid::effective().is_root(),
        "apt-get needs root: run `sudo apt-get install --no-install-recommends {}`",
        packages.join(" ")
    );
    update()?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    quietly(apt_get(&arguments)).with_context(|| by_hand)
}

/// Installs Debian packages whose services must not start: they are run in namespaces, by whoever needs them.
pub fn without_services(packages: &[&str]) -> Result<()> {
    /// What invoke-rc.d asks before it starts anything. Where there is one already, its owner has decided.
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    let forbid = || -> Result<bool> {
        let mut file = match File::create_new(POLICY) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            file => file.with_context(|| format!("cannot write {POLICY}"))?,
        };
        file.write_all(b"#!/bin/sh\nexit 101\n")?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        Ok(true)
    };
    let ours = has_apt() && Uid::effective().is_root() && forbid()?;
    let result = apt(packages);
    if ours {
        fs::remove_file(POLICY).with_context(|| format!("cannot remove {POLICY}"))?;
    }
    result
}

/// A Rust compiler that knows BPF: Debian's packages, else a nightly of our own with `rust-src`.
pub fn bpf_toolchain() -> Result<()> {
    let Err(apt_error) = apt_bpf_toolchain() else { return Ok(()) };
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", PINNED_NIGHTLY, "--no-self-update"]).args([
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--component",
        "clippy",
    ]);
    quietly(rustup).with_context(|| format!("{apt_error:#}; and rustup cannot help"))
}

fn apt_bpf_toolchain() -> Result<()> {
    ensure!(has_apt(), "there is no apt-get here");
    if Uid::effective().is_root() {
        update()?;
    }
    for packages in BPF_RUST {
        if let [Some(rustc), Some(core)] = packages.map(candidate)
            && same_source(&rustc, &core)
        {
            return apt(&packages);
        }
    }
    bail!(
        "no package source here has {} in the same version (on Debian 12 and 13 the first pair is in main and security)",
        BPF_RUST.map(|packages| packages.join(" and ")).join(", nor ")
    )
}

/// The clippy of the toolchain that is there.
pub fn bpf_clippy() -> Result<()> {
    if let Toolchain::Nightly { rustup, name, .. } = Toolchain::find()? {
        let mut rustup = Command::new(rustup);
        rustup.args(["component", "add", "clippy", "--toolchain", name]);
        return quietly(rustup);
    }
    let has = |package: &str| {
        let mut dpkg = Command::new("dpkg-query");
        dpkg.args(["--show", package]).stdout(Stdio::null()).stderr(Stdio::null());
        dpkg.status().is_ok_and(|status| status.success())
    };
    apt(&[if has("rustc-web") { "rust-web-clippy" } else { "rust-clippy" }])
}

/// Whether two packages were built from the same source: a rebuild of one of them (`+b1`) does not matter.
fn same_source(one: &str, other: &str) -> bool {
    let source = |version: &str| match version.rsplit_once("+b") {
        Some((source, rebuild)) if rebuild.bytes().all(|byte| byte.is_ascii_digit()) => source.to_owned(),
        _ => version.to_owned(),
    };
    source(one) == source(other)
}

/// Debian's LLVM and, with it, bpf-linker.
pub fn bpf_linker() -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    let (llvm, polly) = (format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev"));
    let complete = [
        format!("{prefix}/bin/llvm-config"),
        format!("{prefix}/lib/libPolly.a"),
        "/usr/include/zstd.h".into(),
    ];
    if !complete.iter().all(|file| Path::new(file).exists()) {
        apt(&[&llvm, &polly, "libzstd-dev"])?;
    }
    let feature = format!("llvm-{LLVM}");
    let mut cargo = cargo_install("bpf-linker", BPF_LINKER);
    cargo.args(["--no-default-features", "--features", &feature]).env("LLVM_PREFIX", prefix);
    quietly(cargo)
}

pub fn cargo_fuzz() -> Result<()> {
    quietly(cargo_install("cargo-fuzz", CARGO_FUZZ))
}

pub fn cargo_deny() -> Result<()> {
    quietly(soon(cargo_install("cargo-deny", CARGO_DENY)))
}

pub fn mdbook() -> Result<()> {
    let mut cargo = cargo_install("mdbook", MDBOOK);
    // Neither its server nor its watching.
    cargo.args(["--no-default-features", "--features", "search"]);
    quietly(soon(cargo))
}

/// It is no package of Debian's, so it gets Python packages of its own, apart from the system's.
pub fn openapi_validator() -> Result<()> {
    apt(&["pipx"])?;
    let mut pipx = Command::new("pipx");
    pipx.args(["install", &format!("openapi-spec-validator=={OPENAPI_VALIDATOR}")])
        // For whoever runs the tests, not for who has installed it only.
        .envs([("PIPX_HOME", "/opt/pipx"), ("PIPX_BIN_DIR", "/usr/local/bin")]);
    quietly(pipx)
}

/// Of a program that runs for seconds the build is what takes time.
fn soon(mut cargo: Command) -> Command {
    for (setting, value) in [("OPT_LEVEL", "1"), ("LTO", "off"), ("CODEGEN_UNITS", "16")] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    cargo
}

fn cargo_install(program: &str, version: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", program, "--version", version, "--locked"])
        .env_remove("CARGO_TARGET_DIR")
        // Not the settings of this workspace.
        .current_dir("/");
    cargo
}

fn has_apt() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        // Another apt may be running, for example the unattended upgrade of a machine just started.
        .args(["--quiet", "--option", "DPkg::Lock::Timeout=300", "--option", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Once in a run.
fn update() -> Result<()> {
    static UPDATED: OnceLock<Result<(), String>> = OnceLock::new();
    let result = UPDATED.get_or_init(|| quietly(apt_get(&["update"])).map_err(|error| format!("{error:#}")));
    result.clone().map_err(anyhow::Error::msg)
}

/// The version that apt would install.
fn candidate(package: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Runs an installer; what it says is shown only when it fails.
fn quietly(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let shown = format!("{command:?}").replace('"', "");
    let output = output.with_context(|| format!("cannot run `{shown}`"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = std::env::temp_dir().join("sgd-setup.log");
    let _ = fs::write(&log, [output.stdout, output.stderr.clone()].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    let last: Vec<_> = errors.lines().rev().take(8).collect();
    bail!(
        "`{shown}` failed ({}):\n{}\n(all of it: {})",
        output.status,
        last.into_iter().rev().collect::<Vec<_>>().join("\n"),
        log.display()
    )
}

#[cfg(test)]
mod tests {
    use super::same_source;

    #[test]
    fn a_rebuild_is_the_same_source() {
        assert!(same_source("1.96.0+dfsg1-1~deb13u1+b1", "1.96.0+dfsg1-1~deb13u1"));
        // Stable has an old compiler, and only backports its core for BPF.
        assert!(!same_source("1.85.1+dfsg1-1+deb13u1", "1.96.1+dfsg1-2~bpo13+1"));
    }
}
