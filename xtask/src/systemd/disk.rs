//! The disk of a virtual machine, with a root file system and a kernel's modules, made once and kept in cargo's target directory.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sg_tests::Lab;

use super::rootfs::{self, unit};
use super::site::{CLOSED, HOST, IN, MAC, OPEN, OUT};
use crate::package::said;
use crate::vm::fetch::Tree;
use crate::vm::image;

/// Marks of the shell: it is there; behind what a command has printed; behind what it has complained of, with its exit code.
pub const UP: &str = "=== up";
pub const ERRORS: &str = "=== errors";
pub const END: &str = "=== end";

const SIZE: &str = "1200M";

const SHELL: &str = r#"#!/bin/sh
# Runs what comes by the third serial port, a script a line.
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
exec 3<>/dev/ttyS2
stty -F /dev/ttyS2 raw -echo
printf '\n=== up\n' >&3
while read -r line <&3; do
    printf '%b' "$line" > /run/lab-script
    sh /run/lab-script > /run/lab-said 2> /run/lab-complaints < /dev/null
    code=$?
    { cat /run/lab-said; printf '\n=== errors\n'; cat /run/lab-complaints; printf '\n=== end %s\n' $code; } >&3
done
"#;

const SHELL_UNIT: &str = "[Service]\nExecStart=/usr/local/sbin/lab-shell\n";

/// What listens before anything filters, or has an address.
const ECHO_UNIT: &str = "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nConflicts=shutdown.target\nBefore=shutdown.target\n\n\
                         [Service]\nExecStart=/usr/local/sbin/lab-echo\n";

/// Sends everything back, by TCP and UDP. In Perl, which every Debian has.
fn echo() -> String {
    format!(
        r#"#!/usr/bin/perl
use strict; use warnings;
use IO::Select; use IO::Socket::INET; use Socket;
my %listens; my %datagrams; my $all = IO::Select->new;
for my $port ({OPEN}, {CLOSED}) {{
    my $socket = IO::Socket::INET->new(Proto => "tcp", LocalPort => $port, Listen => 100, ReuseAddr => 1) or die $!;
    $listens{{fileno $socket}} = 1; $all->add($socket);
}}
for my $port ({OUT}, {IN}) {{
    my $socket = IO::Socket::INET->new(Proto => "udp", LocalPort => $port) or die $!;
    setsockopt($socket, SOL_SOCKET, 33, pack("i", 64 << 20)) or die $!; # SO_RCVBUFFORCE
    $datagrams{{fileno $socket}} = 1; $all->add($socket);
}}
while (1) {{
    for my $socket ($all->can_read) {{
        my $number = fileno $socket;
        if ($listens{{$number}}) {{ my $new = $socket->accept; $all->add($new) if $new; next }}
        if ($datagrams{{$number}}) {{ my $from = recv($socket, my $data, 65536, 0); send($socket, $data, 0, $from) if $from; next }}
        if (sysread($socket, my $data, 65536)) {{ syswrite($socket, $data) }} else {{ $all->remove($socket); close $socket }}
    }}
}}
"#
    )
}

/// How the machine's network is set up, by systemd-networkd.
fn network() -> String {
    format!(
        "[Match]\nMACAddress={MAC}\n\n[Network]\nAddress={HOST}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )
}

/// Its path. Other contents make it anew.
pub fn make(lab: &Lab, tree: &Tree) -> Result<PathBuf> {
    let mut contents = DefaultHasher::new();
    let release = &tree.release;
    (SIZE, SHELL, SHELL_UNIT, ECHO_UNIT, echo(), network(), rootfs::CONTENTS, release).hash(&mut contents);
    let disk = rootfs::directory().join(format!("{release}-{:016x}.ext4", contents.finish()));
    if disk.exists() {
        return Ok(disk);
    }
    let root = rootfs::unpack(lab)?;
    println!("making the disk of the machine, once: {}", disk.display());
    fill(&root, tree)?;
    // What is half made is none.
    let half = disk.with_extension("half");
    let mut mkfs = Command::new("mke2fs");
    mkfs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&root).arg(&half).arg(SIZE);
    said(&mut mkfs)?;
    fs::rename(&half, &disk)?;
    fs::remove_dir_all(&root)?;
    Ok(disk)
}

fn fill(root: &Path, tree: &Tree) -> Result<()> {
    image::index(tree)?;
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules)?;
    said(Command::new("cp").arg("--archive").arg(&tree.modules).arg(&modules))?;
    let write = |path: &str, text: &str| {
        fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))
    };
    for (name, text) in [("lab-shell", SHELL), ("lab-echo", &echo())] {
        let path = format!("usr/local/sbin/{name}");
        write(&path, text)?;
        said(Command::new("chmod").arg("755").arg(root.join(path)))?;
    }
    unit(root, "lab-shell.service", SHELL_UNIT, "multi-user.target")?;
    unit(root, "lab-echo.service", ECHO_UNIT, "sysinit.target")?;
    write("etc/systemd/network/lab.network", &network())?;
    // Who sets up a network waits for its device.
    let drop_in = "etc/systemd/system/lab-network.service.d";
    fs::create_dir_all(root.join(drop_in))?;
    let device = "sys-subsystem-net-devices-eth0.device";
    write(&format!("{drop_in}/device.conf"), &format!("[Unit]\nWants={device}\nAfter={device}\n"))?;
    // Emulated processors take their time.
    let drop_in = "etc/systemd/system/sgd.service.d";
    fs::create_dir_all(root.join(drop_in))?;
    write(&format!("{drop_in}/slow.conf"), "[Service]\nTimeoutStartSec=600\nWatchdogSec=600\n")?;
    // One that has been here before: nobody is asked for a name or a password.
    write("etc/machine-id", "5d0c0de05d0c0de05d0c0de05d0c0de0\n")?;
    write("etc/hostname", "lab\n")?;
    write("etc/fstab", "")?;
    let mut systemctl = Command::new("systemctl");
    systemctl.arg("--quiet").arg("--root").arg(root);
    said(systemctl.args(["enable", "systemd-networkd.service"]))?;
    let mut systemctl = Command::new("systemctl");
    systemctl.arg("--quiet").arg("--root").arg(root).arg("mask");
    said(systemctl.args([
        "systemd-firstboot.service",
        "systemd-networkd-wait-online.service",
        "getty@tty1.service",
        "serial-getty@ttyS0.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
    ]))?;
    let mut systemctl = Command::new("systemctl");
    systemctl.arg("--quiet").arg("--root").arg(root);
    said(systemctl.args(["set-default", "multi-user.target"]))?;
    Ok(())
}
