//! Programs that people use every day, and that must not notice the filter.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sg_tests::{Netns, Process, outside, write_file};

use crate::setup::{postgresql, program};

use super::site::{Ends, Site, dropped, since, wait_until};
use super::table::{Seen, Table, Through};

const PATIENCE: Duration = Duration::from_secs(60);

const SSH: &str = "ssh: the administrator logs in by key and runs a command";
const SSH_STRANGER: &str = "ssh: a stranger with the same key";
const POSTGRESQL: &str = "PostgreSQL: pgbench, by an outbound rule";
const POSTGRESQL_DENIED: &str = "PostgreSQL: pg_isready of guest c, which has no such rule";
const IPERF: [(&str, &[&str]); 4] = [
    ("iperf3: TCP into the guest", &["-t", "1"]),
    ("iperf3: TCP out of the guest (-R)", &["-t", "1", "-R"]),
    ("iperf3: UDP in fragments into the guest", &["-t", "1", "-u", "-l", "8000", "-b", "20M"]),
    ("iperf3: UDP in fragments out of the guest (-R)", &["-t", "1", "-u", "-l", "8000", "-b", "20M", "-R"]),
];

pub fn run(table: &mut Table, bare: &Site, filtered: &Site) -> Result<()> {
    let names =
        [SSH, SSH_STRANGER, POSTGRESQL, POSTGRESQL_DENIED].into_iter().chain(IPERF.map(|(name, _)| name));
    if !names.into_iter().any(|name| table.wants(name)) {
        return Ok(());
    }
    table.heading("everyday: services on guest a, and a database outside");
    if table.wants(SSH) || table.wants(SSH_STRANGER) {
        let (open, server) = (Sshd::start(bare)?, Sshd::start(filtered)?);
        table.row(SSH, Through::All, || {
            let (mut seen, result) = server.login(filtered, outside::ADMIN.into())?;
            if let Err(error) = result {
                seen.fault(format!("{error:#}"));
            }
            Ok(seen)
        });
        table.row(SSH_STRANGER, Through::Nothing, || {
            open.login(bare, outside::STRANGER.into())?.1.context("without the filter")?;
            let (mut seen, result) = server.login(filtered, outside::STRANGER.into())?;
            seen.check(result.is_err(), || "he is in".to_owned());
            Ok(seen)
        });
    }
    table.row(POSTGRESQL, Through::All, || database(filtered));
    table.row(POSTGRESQL_DENIED, Through::Nothing, || {
        let open = is_ready(bare)?;
        let mut seen = is_ready(filtered)?;
        seen.check(open.sent > 0 && open.through == open.sent, || {
            format!("without the filter {} of {} came through", open.through, open.sent)
        });
        Ok(seen)
    });
    if !IPERF.iter().any(|(name, _)| table.wants(name)) {
        return Ok(());
    }
    let guest = filtered.guest(0)?;
    let mut command = guest.netns.command(program("iperf3")?);
    command.args(["-s", "-B"]).arg(guest.v4.to_string());
    let _server = Process::serve(command, &filtered.topology.lab.directory().join("iperf3.log"))?;
    listening(&guest.netns, 5201)?;
    for (name, arguments) in IPERF {
        table.row(name, Through::Most, || iperf(filtered, arguments));
    }
    Ok(())
}

/// Waits for a server, by what the kernel says.
fn listening(netns: &Netns, port: u16) -> Result<()> {
    let port = format!(":{port:04X} ");
    wait_until("a server listens", PATIENCE, || {
        let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
        // In state 0A, proc(5).
        Ok(table.lines().any(|line| line.contains(&port) && line.contains(" 0A ")))
    })
}

/// Runs a row: what is counted, and that the filter has dropped nothing, or `but` a few percent of what was sent: at full speed
/// segments are lost in queues, and what is sent again may come after the reset that has ended its connection.
fn undisturbed<T>(
    site: &Site,
    ends: &Ends,
    but: u64,
    work: impl FnOnce() -> Result<T>,
    judge: impl FnOnce(&mut Seen, T),
) -> Result<Seen> {
    let device = &site.guest(0)?.device;
    let before = site.status(device)?;
    let result = work();
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    match result {
        Ok(value) => judge(&mut seen, value),
        Err(error) => seen.fault(format!("{error:#}")),
    }
    let after = site.status(device)?;
    let dropped = dropped(&after) - dropped(&before);
    seen.check(dropped <= sent * but / 100, || {
        format!("the filter has dropped {dropped}: {}", since(&before, &after))
    });
    Ok(seen)
}

struct Sshd {
    key: PathBuf,
    _process: Process,
}

impl Sshd {
    fn start(site: &Site) -> Result<Self> {
        let directory = site.topology.lab.directory();
        let guest = site.guest(0)?;
        let (host_key, key) = (directory.join("host_key"), directory.join("user_key"));
        for file in [&host_key, &key] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file);
            Process::finish(command, PATIENCE)?.success("ssh-keygen")?;
        }
        let text = format!(
            "ListenAddress {}:22\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\n",
            guest.v4,
            host_key.display(),
            key.display()
        );
        let config = write_file(directory, "sshd_config", &text)?;
        let server = program("sshd")?;
        // It wants an empty directory below /run, which may not exist on this host.
        let script = format!(
            "mount -t tmpfs none /run && mkdir /run/sshd && exec {} -D -e -f {}",
            server.display(),
            config.display()
        );
        let mut command = guest.netns.command("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        let process = Process::serve(command, &directory.join("sshd.log"))?;
        listening(&guest.netns, 22)?;
        Ok(Self { key, _process: process })
    }

    /// Logs in from an address of the outside. The second is how that went.
    fn login(&self, site: &Site, source: IpAddr) -> Result<(Seen, Result<()>)> {
        let guest = site.guest(0)?;
        let expression = format!("tcp dst port 22 and src host {source}");
        let ends = Ends::new(site.outside(), &guest.netns, &expression)?;
        let mut command = site.outside().command("ssh");
        command
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "LogLevel=ERROR",
            ])
            .args([
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "ConnectTimeout=3",
            ])
            .args(["-b", &source.to_string(), "-i"])
            .arg(&self.key)
            .arg(format!("root@{}", guest.v4))
            .arg("echo in $((6 * 7))");
        let output = Process::finish(command, PATIENCE)?.success("ssh");
        let (sent, through) = ends.settled()?;
        let result = output.and_then(|output| {
            ensure!(output.stdout.trim() == "in 42", "ssh has said {}", output.stdout.trim());
            Ok(())
        });
        Ok((Seen { sent, through, faults: Vec::new() }, result))
    }
}

/// As the user of Debian's package, since the server refuses to be root.
fn as_postgres(netns: &Netns, program: &Path) -> Command {
    let mut command = netns.command("unshare");
    // What it leaves in System V memory when it is killed goes away with its namespace.
    command
        .args(["--ipc", "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(program)
        .env("LC_ALL", "C")
        .current_dir("/");
    command
}

fn database(site: &Site) -> Result<Seen> {
    let directory = site.topology.lab.directory();
    let data = directory.join("postgresql");
    std::fs::create_dir(&data)?;
    let mut command = Command::new("chown");
    command.arg("postgres:").arg(&data);
    Process::finish(command, PATIENCE)?.success("chown")?;
    let mut command = as_postgres(site.outside(), &postgresql("initdb")?);
    command.args(["--auth=trust", "--no-sync", "--username=shop", "-D"]).arg(&data);
    Process::finish(command, PATIENCE)?.success("initdb")?;
    write_file(&data, "pg_hba.conf", "host all all 0.0.0.0/0 trust\n")?;
    let mut command = as_postgres(site.outside(), &postgresql("postgres")?);
    command
        .arg("-D")
        .arg(&data)
        .args(["-c", "fsync=off", "-c", "unix_socket_directories="])
        .args(["-c", &format!("listen_addresses={}", outside::MYSQL)]);
    let log = directory.join("postgresql.log");
    let server = Process::serve(command, &log)?;
    let ready = wait_until("PostgreSQL", PATIENCE, || {
        ensure!(server.ended()?.is_none(), "PostgreSQL has ended");
        Ok(std::fs::read_to_string(&log).unwrap_or_default().contains("ready to accept connections"))
    });
    ready.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;

    let guest = site.guest(0)?;
    let pgbench = |arguments: &[&str]| {
        let mut command = guest.netns.command(postgresql("pgbench")?);
        command
            .args(["-h", &outside::MYSQL.to_string(), "-U", "shop"])
            .args(arguments)
            .arg("postgres")
            .current_dir("/");
        Process::finish(command, PATIENCE)?.success("pgbench")
    };
    let ends = Ends::new(&guest.netns, site.outside(), "tcp dst port 5432")?;
    let work = || {
        pgbench(&["-i", "-q"])?;
        pgbench(&["-n", "-c", "4", "-t", "50"])
    };
    undisturbed(site, &ends, 0, work, |seen, output| {
        let done = output.stdout.contains("200/200");
        seen.check(done, || format!("pgbench has said {}", output.stdout.trim()));
    })
}

/// Asks for the database from a guest without rules.
fn is_ready(site: &Site) -> Result<Seen> {
    let guest = site.guest(2)?;
    // Rows before this one may have left it without an address.
    guest.netns.ip(&format!(
        "address replace {}/24 dev eth0\nroute replace default via {}",
        guest.v4,
        outside::ROUTER
    ))?;
    let ends = Ends::new(&guest.netns, site.outside(), "tcp dst port 5432")?;
    let mut command = guest.netns.command(postgresql("pg_isready")?);
    command.args(["-t", "2", "-h", &outside::MYSQL.to_string()]);
    // It fails either way: without the filter nobody listens.
    Process::finish(command, PATIENCE)?;
    let (sent, through) = ends.settled()?;
    Ok(Seen { sent, through, faults: Vec::new() })
}

fn iperf(site: &Site, arguments: &[&str]) -> Result<Seen> {
    let guest = site.guest(0)?;
    let (from, to) = if arguments.contains(&"-R") {
        (&guest.netns, site.outside())
    } else {
        (site.outside(), &guest.netns)
    };
    let ends = Ends::new(from, to, &format!("ip and host {} and host {}", outside::ADMIN, guest.v4))?;
    let work = || {
        let mut command = site.outside().command(program("iperf3")?);
        command
            .args(["-J", "-c", &guest.v4.to_string(), "-B", &outside::ADMIN.to_string()])
            .args(["--connect-timeout", "5000"])
            .args(arguments);
        let output = Process::finish(command, PATIENCE)?;
        let report: Value = serde_json::from_str(&output.stdout).context("iperf3 -J is not JSON")?;
        if let Some(error) = report.get("error") {
            anyhow::bail!("iperf3: {error}");
        }
        Ok(report)
    };
    undisturbed(site, &ends, 1, work, |seen, report| {
        let sum = |name: &str, field: &str| report.get("end")?.get(name)?.get(field)?.as_f64();
        let bytes =
            if arguments.contains(&"-u") { sum("sum", "bytes") } else { sum("sum_received", "bytes") };
        seen.check(bytes.unwrap_or(0.0) > 100_000.0, || format!("iperf3 has moved {bytes:?} bytes"));
        if arguments.contains(&"-u") {
            let lost = sum("sum", "lost_percent").unwrap_or(100.0);
            seen.check(lost < 5.0, || format!("iperf3 has lost {lost} %"));
        }
    })
}
