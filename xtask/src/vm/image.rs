//! The file system of a guest: busybox, a few modules, and programs of this machine with their libraries.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::boot::Job;
use super::fetch::Tree;
use crate::setup;

/// What the filter and the tests' network are made of, where the kernel has it as modules.
const MODULES: [&str; 8] =
    ["virtio_pci", "virtio_net", "veth", "tun", "bridge", "cls_bpf", "sch_ingress", "ipv6"];

/// The first program. The exit codes go out by the second serial port, and what a step has said that failed by the first.
///
/// How many times as slow as a processor of today this one is, now, is measured by a loop, which takes 7 hundredths of a second there;
/// tests wait twice as many times as long, and at least ten times.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/root
busybox mkdir -p /proc /sys /dev /tmp /run /root /etc /var/lib
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t bpf bpf /sys/fs/bpf
busybox mount -t tmpfs tmp /tmp
busybox mount -t tmpfs run /run
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
busybox ip link set lo up
read up idle < /proc/uptime; begin=${up%.*}${up#*.}
i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done
read up idle < /proc/uptime; patience=$(((${up%.*}${up#*.} - begin) * 2 / 7))
[ $patience -gt 10 ] || patience=10
echo $patience > /tmp/patience
echo "=== patience: $patience times"
for step in $(busybox seq $(cat /steps/count)); do
    busybox sh /steps/$step > /tmp/said 2>&1
    code=$?
    [ $code = 0 ] || { echo "=== step $step, exit code $code"; cat /tmp/said; }
    echo $code > /dev/ttyS1
done
busybox sleep 0.2
busybox poweroff -f
"#;

/// Applets that the jobs and the lab call by their names.
const APPLETS: [&str; 8] = ["sh", "cat", "grep", "sleep", "mkdir", "ping", "true", "kill"];

/// What the file system on the first disk needs, where the kernel has it as modules.
const OF_DISK: [&str; 4] = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

/// The first program where there is a disk. What is on it does the rest.
const OVER: &str = r#"#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
until [ -e /dev/vda ]; do busybox sleep 0.1; done
busybox mount -t ext4 /dev/vda /disk && exec busybox switch_root /disk /sbin/init
"#;

/// Writes an initial file system that hands over to the one on the first disk to `to`, compressed.
pub fn write_over(tree: &Tree, scratch: &Path, to: &Path) -> Result<()> {
    let root = scratch.join("initial");
    bare(tree, &root, &OF_DISK, OVER)?;
    for directory in ["dev", "proc", "disk"] {
        fs::create_dir(root.join(directory))?;
    }
    pack(&root, to)
}

/// Writes the initial file system of `job` to `to`, compressed.
pub fn write(tree: &Tree, job: &Job, scratch: &Path, to: &Path) -> Result<()> {
    let root = scratch.join("root");
    bare(tree, &root, &MODULES, INIT)?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for program in &job.programs {
        copy(&setup::program(program)?, &root, &Path::new("/bin").join(program))?;
    }
    for (from, to) in &job.files {
        copy(from, &root, to)?;
        strip(&root.join(to.strip_prefix("/").unwrap_or(to)));
    }
    fs::create_dir_all(root.join("steps"))?;
    fs::write(root.join("steps/count"), job.steps.len().to_string())?;
    for (number, step) in (1..).zip(&job.steps) {
        fs::write(root.join(format!("steps/{number}")), format!("{}\n{}\n", job.environment, step.script))?;
    }
    pack(&root, to)
}

/// busybox, modules and the first program.
fn bare(tree: &Tree, root: &Path, names: &[&str], init: &str) -> Result<()> {
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("modules"))?;
    copy(&setup::program("busybox")?, root, Path::new("/bin/busybox"))?;
    modules(tree, names, &root.join("modules"))?;
    executable(&root.join("init"), init)
}

fn pack(root: &Path, to: &Path) -> Result<()> {
    let mut pack = Command::new("sh");
    pack.current_dir(root)
        .args(["-c", "find . | cpio --create --format newc --quiet | gzip -1 > \"$0\""])
        .arg(to);
    let status = pack.stdin(Stdio::null()).status().context("cannot run sh")?;
    ensure!(status.success(), "the guest's file system cannot be packed ({status})");
    Ok(())
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Copies a file and, if it is a program, the libraries that it wants.
fn copy(from: &Path, root: &Path, to: &Path) -> Result<()> {
    place(from, root, to)?;
    let output = Command::new("ldd").arg(from).output().context("cannot run ldd")?;
    // What ldd does not know is no dynamic program.
    for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if word.starts_with('/') && word.contains(".so") {
            place(Path::new(word), root, Path::new(word))?;
        }
    }
    Ok(())
}

/// Leaves out what only debuggers read, most of what is built for tests. Of what is no program nothing changes.
fn strip(path: &Path) {
    let _ = Command::new("strip").arg("--strip-debug").arg(path).stderr(Stdio::null()).status();
}

fn place(from: &Path, root: &Path, to: &Path) -> Result<()> {
    let to = root.join(to.strip_prefix("/").unwrap_or(to));
    if to.exists() {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// Puts the modules and a list of them, in the order in which they have to be loaded, into a directory.
fn modules(tree: &Tree, names: &[&str], to: &Path) -> Result<()> {
    let index = index(tree)?;
    let mut order: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for module in names {
        // Not there: built in.
        let Some((path, depends)) = entry(&index, module) else { continue };
        for path in depends.split_whitespace().rev().chain([path]) {
            if seen.insert(path.to_owned()) {
                order.push(unpack(&tree.modules.join(path), to)?);
            }
        }
    }
    fs::write(to.join("order"), order.join("\n"))?;
    Ok(())
}

/// modules.dep of a tree, which depmod writes if the package has not brought it.
pub fn index(tree: &Tree) -> Result<String> {
    let index = tree.modules.join("modules.dep");
    if !index.exists() {
        let base = tree.modules.ancestors().nth(3).context("modules are in lib/modules")?;
        let output = Command::new(setup::program("depmod")?)
            .arg("-b")
            .arg(base)
            .arg(&tree.release)
            .output()
            .context("cannot run depmod")?;
        // It warns of lists that come with another package, and that nobody asks here.
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "depmod failed ({}): {}", output.status, said.trim());
    }
    fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()))
}

/// The line of modules.dep of a module: its file, and the files that it depends on, the nearest first.
fn entry<'a>(index: &'a str, module: &str) -> Option<(&'a str, &'a str)> {
    index.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| {
        let name = path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
        name.replace('-', "_") == module
    })
}

/// Copies a module, unpacked, and returns its name.
fn unpack(from: &Path, to: &Path) -> Result<String> {
    let name = from.file_name().context("a module has a name")?.to_string_lossy().into_owned();
    let (tool, plain) = match name.rsplit_once('.') {
        Some((plain, "xz")) => (Some("xz"), plain.to_owned()),
        Some((plain, "zst")) => (Some("zstd"), plain.to_owned()),
        _ => (None, name),
    };
    let to: PathBuf = to.join(&plain);
    match tool {
        None => {
            fs::copy(from, &to)?;
        }
        Some(tool) => {
            let status = Command::new(tool)
                .args(["--decompress", "--stdout", "--quiet"])
                .arg(from)
                .stdout(fs::File::create(&to)?)
                .status()
                .with_context(|| format!("cannot run {tool}"))?;
            ensure!(status.success(), "{tool} cannot unpack {}", from.display());
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::entry;

    #[test]
    fn modules_are_found_whatever_their_names_look_like() {
        let index = "kernel/net/sched/cls_bpf.ko.xz:\nkernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
                     kernel/drivers/net/sch-ingress.ko:\n";
        assert_eq!(entry(index, "cls_bpf"), Some(("kernel/net/sched/cls_bpf.ko.xz", "")));
        assert_eq!(entry(index, "bridge").unwrap().1.split_whitespace().count(), 2);
        assert!(entry(index, "sch_ingress").is_some());
        assert_eq!(entry(index, "veth"), None);
    }
}
