//! Debian's root file system, made once and kept packed in cargo's target directory.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sg_tests::Lab;

use crate::cargo;
use crate::package::said;

pub const SUITE: &str = "bookworm";
/// Beside what is essential. The container's manager is in it too, so that both are of one version and nothing is installed here; what
/// looks after devices is for a machine.
const PACKAGES: &str = "systemd,systemd-sysv,systemd-container,iproute2,logrotate,procps,udev,kmod";
/// What does so: the devices of a container are those of the machine that it is on.
const DEVICES: [&str; 4] = [
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
];

/// What a machine's systemd does before any unit, and a container's does not.
const BPFFS: &str = "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\nConditionVirtualization=container\n\n\
                     [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=mount -t bpf bpf /sys/fs/bpf\n";

/// Looks at what is filtered, at the moment at which a host would set up its network.
const NETWORK: &str = "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=network.target\n\
                       Wants=network.target\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                       ExecStart=-/bin/sh -c 'sgctl status --json > /var/lib/lab-network.json'\n";

/// What a file system that is made of it depends on.
pub const CONTENTS: [&str; 4] = [SUITE, PACKAGES, BPFFS, NETWORK];

/// Where what is made once is kept.
pub fn directory() -> PathBuf {
    cargo::target().join("systemd-test")
}

/// A fresh one, in the lab's directory.
pub fn unpack(lab: &Lab) -> Result<PathBuf> {
    let mut contents = DefaultHasher::new();
    PACKAGES.hash(&mut contents);
    let packed = directory().join(format!("{SUITE}-{:016x}.tar", contents.finish()));
    if !packed.exists() {
        make(&packed)?;
    }
    let root = lab.directory().join("root");
    fs::create_dir(&root)?;
    said(Command::new("tar").arg("--extract").arg("--file").arg(&packed).arg("--directory").arg(&root))?;
    unit(&root, "lab-bpffs.service", BPFFS, "local-fs.target")?;
    unit(&root, "lab-network.service", NETWORK, "multi-user.target")?;
    // A journal that is there after a reboot.
    fs::create_dir_all(root.join("var/log/journal"))?;
    Ok(root)
}

/// The same for a container.
pub fn unpack_for_container(lab: &Lab) -> Result<PathBuf> {
    let root = unpack(lab)?;
    for unit in DEVICES {
        std::os::unix::fs::symlink("/dev/null", root.join("etc/systemd/system").join(unit))?;
    }
    Ok(root)
}

fn make(packed: &Path) -> Result<()> {
    println!("making Debian's {SUITE}, once: {}", packed.display());
    let directory = packed.parent().context("a file is in a directory")?;
    fs::create_dir_all(directory)?;
    // What is half made is none.
    let half = packed.with_extension("half.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--include", PACKAGES, SUITE]).arg(&half);
    said(&mut command)?;
    fs::rename(&half, packed)?;
    Ok(())
}

/// A unit that some target wants.
pub fn unit(root: &Path, name: &str, text: &str, wanted_by: &str) -> Result<()> {
    let units = root.join("etc/systemd/system");
    fs::write(units.join(name), text)?;
    let wants = units.join(format!("{wanted_by}.wants"));
    fs::create_dir_all(&wants)?;
    std::os::unix::fs::symlink(format!("../{name}"), wants.join(name))?;
    Ok(())
}
