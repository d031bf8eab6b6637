//! What dpkg wants to know: dependencies, sums, and which files are the administrator's.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::said;
use super::stage::{BINARIES, Stage};

pub fn write(stage: &Stage, version: &str, architecture: &str) -> Result<()> {
    let files = stage.files()?;
    let mut kilobytes = 0;
    for file in &files {
        kilobytes += fs::metadata(stage.root().join(file))?.len().div_ceil(1024);
    }
    let libraries = libraries(stage)?;
    let control = format!(
        "Package: sgd\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: the authors of sgd <sgd@localhost>\n\
         Section: net\nPriority: optional\nInstalled-Size: {kilobytes}\nDepends: {libraries}, init-system-helpers, systemd\n\
         Suggests: logrotate, prometheus, python3\n\
         Description: cloud security groups for the network interfaces of a host\n \
         A stateful packet filter in eBPF: groups of whitelist rules, groups as sources and\n \
         destinations, replies that pass by themselves, and changes that take effect at once\n \
         without cutting a connection. The filter stays in force while the daemon is away.\n \
         .\n \
         Needs a kernel with BTF, and no compiler.\n"
    );
    stage.write("DEBIAN/control", control, 0o644)?;
    // dpkg asks before it replaces one of these that was changed.
    let of_administrator = files.iter().filter(|file| file.starts_with("etc/"));
    let conffiles: String = of_administrator.map(|file| format!("/{file}\n")).collect();
    stage.write("DEBIAN/conffiles", conffiles, 0o644)?;
    let sums = said(Command::new("md5sum").current_dir(stage.root()).args(&files))?;
    stage.write("DEBIAN/md5sums", sums + "\n", 0o644)
}

/// The packages whose libraries the programs need, with the versions that they need.
fn libraries(stage: &Stage) -> Result<String> {
    // It wants a source package around it.
    let source = tempfile::tempdir()?;
    fs::create_dir(source.path().join("debian"))?;
    fs::write(source.path().join("debian/control"), "Source: sgd\n\nPackage: sgd\nArchitecture: any\n")?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.current_dir(source.path()).arg("-O");
    let said = said(command.args(BINARIES.map(|binary| stage.root().join(binary))))?;
    let depends = said.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.with_context(|| format!("dpkg-shlibdeps has said `{said}`"))?.to_owned())
}
