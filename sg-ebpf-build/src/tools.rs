//! Finding a compiler that knows the BPF target, and the linker that goes with it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// Little-endian BPF without an operating system: what the machines that run guests are.
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// The LLVM that `cargo xtask setup` builds bpf-linker with. It reads the bitcode of this version and of older ones.
const LINKER_LLVM: u32 = 22;

/// The nightly that `cargo xtask setup` installs where Debian's compiler is not to be had: dated, so that it brings an LLVM that the
/// linker reads and so that nobody's own `nightly` is updated behind their back.
pub const PINNED_NIGHTLY: &str = "nightly-2026-05-16";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Of the package rust-web-clippy. It is for the compiler of the same version only.
const DEBIAN_CLIPPY: [&str; 2] = ["/usr/bin/cargo-clippy", "/usr/bin/clippy-driver"];

/// A compiler that can build for [`BPF_TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's nightly with `rust-src`: `core` is compiled along with the program.
    Nightly { rustup: PathBuf, name: &'static str, has_clippy: bool },
    /// Debian's rustc with the `core` that Debian compiled for BPF.
    Debian { rustc: PathBuf },
}

impl Toolchain {
    /// A nightly if one is complete, else Debian's. The error says what each lacks.
    pub fn find() -> Result<Self, Error> {
        let mut tried = Vec::new();
        let candidates: [fn() -> Result<Self, String>; 3] =
            [|| find_nightly(PINNED_NIGHTLY), || find_nightly("nightly"), find_debian];
        for find in candidates {
            match find() {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => tried.push(reason),
            }
        }
        Err(Error::NoToolchain { tried })
    }

    /// What `cargo clippy` of this toolchain is, if it has one.
    pub(crate) fn clippy(&self) -> Option<Command> {
        match self {
            Self::Nightly { has_clippy, .. } => has_clippy.then(|| self.cargo()),
            Self::Debian { rustc } => {
                let [clippy, driver] = DEBIAN_CLIPPY;
                // `clippy 0.1.96` is that of `rustc 1.96`.
                let of_clippy = output(Command::new(driver).arg("--version"))?;
                let of_rustc = output(Command::new(rustc).arg("--version"))?;
                let minor =
                    of_clippy.trim_start_matches("clippy ").split('.').nth(2)?.split(' ').next()?.parse();
                if release(&of_rustc)? != (1, minor.ok()?) {
                    return None;
                }
                Some(Command::new(clippy))
            }
        }
    }

    /// Whether [`clippy`](crate::clippy) can run.
    pub fn has_clippy(&self) -> bool {
        self.clippy().is_some()
    }

    pub(crate) fn cargo(&self) -> Command {
        match self {
            Self::Nightly { rustup, name, .. } => {
                let mut command = Command::new(rustup);
                command.args(["run", name, "cargo"]);
                command
            }
            // Any cargo does: it only drives the compiler named by RUSTC.
            Self::Debian { .. } => Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
        }
    }

    pub(crate) fn configure(&self, command: &mut Command) {
        match self {
            // `rustup run` chooses the toolchain; a variable inherited from the outer cargo must not.
            Self::Nightly { .. } => command.env_remove("RUSTUP_TOOLCHAIN"),
            Self::Debian { rustc } => command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1"),
        };
    }

    pub(crate) fn build_args(&self) -> &'static [&'static str] {
        match self {
            Self::Nightly { .. } => &["-Zbuild-std=core"],
            Self::Debian { .. } => &[],
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { name, .. } => write!(f, "rustup's {name} with rust-src"),
            Self::Debian { rustc } => write!(f, "Debian's {}", rustc.display()),
        }
    }
}

/// Where bpf-linker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker(PathBuf);

impl Linker {
    /// On `PATH` first, then where `cargo install` puts it.
    pub fn find() -> Result<Self, Error> {
        find_program("bpf-linker").map(Self).ok_or_else(|| Error::NoLinker { cargo_bin: cargo_bin() })
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn find_nightly(name: &'static str) -> Result<Toolchain, String> {
    let no = |why: &str| Err(format!("  rustup's {name}: {why}"));
    let Some(rustup) = find_program("rustup") else { return no("rustup is not installed") };
    let rustc = |arguments: &[&str]| {
        let mut command = Command::new(&rustup);
        command.args(["run", name, "rustc"]).args(arguments);
        command.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTUP_TOOLCHAIN");
        output(&mut command)
    };
    let Some(sysroot) = rustc(&["--print", "sysroot"]) else {
        return no("not installed");
    };
    let sysroot = PathBuf::from(sysroot);
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
        return no("has no rust-src");
    }
    match rustc(&["-vV"]).as_deref().and_then(llvm_major) {
        Some(major) if major > LINKER_LLVM => no(&format!(
            "made with LLVM {major}, which a bpf-linker made with LLVM {LINKER_LLVM} cannot read"
        )),
        _ => {
            let has_clippy = sysroot.join("bin/cargo-clippy").is_file();
            Ok(Toolchain::Nightly { rustup, name, has_clippy })
        }
    }
}

fn find_debian() -> Result<Toolchain, String> {
    let no = |why: &str| Err(format!("  Debian's rustc: {why}"));
    let rustc = PathBuf::from(DEBIAN_RUSTC);
    let Some(version) = output(Command::new(&rustc).arg("--version")) else {
        return no("not installed (package rustc-web)");
    };
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    if release(&version) < release(wanted) {
        return no(&format!("is {version}, but the workspace needs {wanted} (package rustc-web)"));
    }
    let libraries = output(Command::new(&rustc).args(["--print", "target-libdir", "--target", BPF_TARGET]));
    let has_core = libraries.and_then(|path| std::fs::read_dir(path).ok()).is_some_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    if !has_core {
        return no("has no core for BPF (package libstd-rust-web-dev-bpf)");
    }
    Ok(Toolchain::Debian { rustc })
}

/// Major and minor number of `rustc 1.96.0 (…)` or of `1.91`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches("rustc ").split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The number in a line like `LLVM version: 22.1.8` of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// What a command that succeeded has printed, trimmed.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([cargo_bin()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn cargo_bin() -> PathBuf {
    let home = |variable: &str| std::env::var_os(variable).filter(|value| value != OsStr::new(""));
    match home("CARGO_HOME") {
        Some(cargo_home) => PathBuf::from(cargo_home).join("bin"),
        None => PathBuf::from(home("HOME").unwrap_or_else(|| "/root".into())).join(".cargo/bin"),
    }
}

#[cfg(test)]
mod tests {
    use super::{llvm_major, release};

    #[test]
    fn release_is_compared_as_numbers() {
        assert_eq!(release("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert!(release("rustc 1.100.0-nightly") > release("1.91"));
        assert!(release("what?") < release("1.91"));
    }

    #[test]
    fn llvm_major_is_read_from_verbose_version() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }
}
