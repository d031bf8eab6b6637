//! The files of the package, as they will lie on a host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::said;
use crate::cargo;

/// Files of the repository: from, to, mode. A directory goes with all that is in it.
const FILES: [(&str, &str, u32); 21] = [
    ("packaging/systemd/sgd.service", "usr/lib/systemd/system/sgd.service", 0o644),
    ("packaging/sysusers/sgd.conf", "usr/lib/sysusers.d/sgd.conf", 0o644),
    ("packaging/tmpfiles/sgd.conf", "usr/lib/tmpfiles.d/sgd.conf", 0o644),
    ("packaging/etc/default", "etc/default/sgd", 0o644),
    ("packaging/etc/README", "etc/sgd/README", 0o644),
    ("packaging/etc/policy.d", "etc/sgd/policy.d", 0o640),
    ("packaging/logrotate/sgd", "etc/logrotate.d/sgd", 0o644),
    ("packaging/prometheus/sgd.rules.yml", "usr/share/sgd/prometheus/sgd.rules.yml", 0o644),
    ("packaging/grafana/sgd.json", "usr/share/sgd/grafana/sgd.json", 0o644),
    ("packaging/libvirt/qemu", "usr/share/sgd/libvirt/qemu", 0o755),
    ("packaging/debian/copyright", "usr/share/doc/sgd/copyright", 0o644),
    ("LICENSE-MIT", "usr/share/doc/sgd/LICENSE-MIT", 0o644),
    ("LICENSE-APACHE", "usr/share/doc/sgd/LICENSE-APACHE", 0o644),
    ("README.md", "usr/share/doc/sgd/README.md", 0o644),
    ("ARCHITECTURE.md", "usr/share/doc/sgd/ARCHITECTURE.md", 0o644),
    ("docs", "usr/share/doc/sgd/docs", 0o644),
    ("examples", "usr/share/doc/sgd/examples", 0o644),
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
    ("packaging/debian/NEWS", "usr/share/doc/sgd/NEWS", 0o644),
];

pub const BINARIES: [&str; 2] = ["usr/bin/sgd", "usr/bin/sgctl"];

/// A directory that is laid out as the host's root.
pub struct Stage(PathBuf);

impl Stage {
    pub fn fill(root: &Path, binaries: &Path) -> Result<Self> {
        let stage = Self(root.to_owned());
        // Whatever the mask of whoever packages it.
        stage.directory(root)?;
        for (from, to, mode) in FILES {
            stage.copy(&cargo::workspace().join(from), &root.join(to), mode)?;
        }
        for to in BINARIES {
            let name = Path::new(to).file_name().context("a binary has a name")?;
            stage.copy(&binaries.join(name), &root.join(to), 0o755)?;
            // Debug information is an order of magnitude larger than the rest.
            said(Command::new("strip").arg("--strip-debug").arg(root.join(to)))?;
        }
        let sgctl = binaries.join("sgctl");
        stage.manual(&sgctl)?;
        stage.completions(&sgctl)?;
        Ok(stage)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Every file that a host gets, without the leading slash, in order.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut directories = vec![self.0.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                let name = path.strip_prefix(&self.0)?.to_str().context("names are UTF-8")?.to_owned();
                if path.is_dir() {
                    if name != "DEBIAN" {
                        directories.push(path);
                    }
                } else {
                    files.push(name);
                }
            }
        }
        files.sort();
        Ok(files)
    }

    pub fn write(&self, to: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = self.0.join(to);
        self.parents(&path)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path, mode: u32) -> Result<()> {
        if from.is_dir() {
            for entry in fs::read_dir(from)? {
                let entry = entry?;
                self.copy(&entry.path(), &to.join(entry.file_name()), mode)?;
            }
            return Ok(());
        }
        self.parents(to)?;
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(to, Permissions::from_mode(mode))?;
        Ok(())
    }

    fn parents(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
        self.parents(parent)?;
        self.directory(parent)
    }

    fn directory(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn manual(&self, sgctl: &Path) -> Result<()> {
        let pages = tempfile::tempdir()?;
        said(Command::new(sgctl).arg("man").arg(pages.path()))?;
        for page in fs::read_dir(pages.path())? {
            let page = page?;
            said(Command::new("gzip").args(["-9", "--no-name"]).arg(page.path()))?;
            let name = page.file_name().into_string().ok().context("names are UTF-8")?;
            let (_, section) = name.rsplit_once('.').context("pages are called NAME.SECTION")?;
            let to = self.0.join(format!("usr/share/man/man{section}/{name}.gz"));
            self.copy(&pages.path().join(format!("{name}.gz")), &to, 0o644)?;
        }
        Ok(())
    }

    fn completions(&self, sgctl: &Path) -> Result<()> {
        for program in ["sgctl", "sgd"] {
            let script = |shell: &str| said(Command::new(sgctl).args(["completions", shell, program]));
            let bash = format!("usr/share/bash-completion/completions/{program}");
            self.write(&bash, script("bash")? + "\n", 0o644)?;
            let fish = format!("usr/share/fish/vendor_completions.d/{program}.fish");
            self.write(&fish, script("fish")? + "\n", 0o644)?;
            let zsh = format!("usr/share/zsh/vendor-completions/_{program}");
            self.write(&zsh, autoloaded(&script("zsh")?, program)? + "\n", 0o644)?;
        }
        Ok(())
    }
}

/// zsh runs the file as the function that it autoloads, and its first run has to complete already. The script for sgd does so itself.
fn autoloaded(zsh: &str, program: &str) -> Result<String> {
    let itself = format!("\"$funcstack[1]\" = \"_{program}\"");
    if zsh.contains(&itself) {
        return Ok(zsh.to_owned());
    }
    let function = zsh
        .lines()
        .find_map(|line| line.strip_prefix("compdef ")?.split_whitespace().next())
        .with_context(|| format!("the script for zsh has no `compdef FUNCTION {program}`"))?;
    Ok(format!("{zsh}\nif [[ ${{funcstack[1]}} == _{program} ]]; then {function} \"$@\"; fi"))
}
