//! hping3: many packets of one kind.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sg_tests::{Process, outside};

use super::site::{Ends, Site, reason};
use super::table::{Seen, Table, Through};

const PATIENCE: Duration = Duration::from_secs(60);
/// On the site without the filter.
const FEW: u64 = 200;

struct Flood {
    name: &'static str,
    /// The guest that floods the name server outside; the outside floods guest a otherwise.
    guest: Option<usize>,
    arguments: &'static [&'static str],
    /// Besides the destination.
    counted: &'static str,
    reason: &'static str,
}

const fn inbound(
    name: &'static str,
    arguments: &'static [&'static str],
    counted: &'static str,
    reason: &'static str,
) -> Flood {
    Flood { name, guest: None, arguments, counted, reason }
}

const FLOODS: &[Flood] = &[
    inbound("hping3: SYN flood at a closed port", &["-S", "-p", "81"], "tcp dst port 81", "no_rule"),
    inbound(
        "hping3: SYN flood at a closed port, random sources",
        &["-S", "-p", "81", "--rand-source"],
        "tcp dst port 81",
        "no_rule",
    ),
    inbound("hping3: ACK flood at a closed port", &["-A", "-p", "81"], "tcp dst port 81", "no_rule"),
    inbound("hping3: FIN flood at the open port", &["-F", "-p", "80"], "tcp dst port 80", "tcp_flags"),
    inbound(
        "hping3: FIN+ACK flood at a closed port",
        &["-F", "-A", "-p", "81"],
        "tcp dst port 81",
        "no_rule",
    ),
    inbound("hping3: UDP flood at a closed port", &["-2", "-p", "54"], "udp dst port 54", "no_rule"),
    inbound("hping3: ICMP flood", &["-1"], "icmp[0] = 8", "no_rule"),
    inbound(
        "hping3: land (the guest's own address as source)",
        &["-S", "-p", "22", "-s", "22", "-k", "-a", "10.0.0.5"],
        "src host 10.0.0.5 and tcp dst port 22",
        "no_rule",
    ),
    Flood {
        name: "hping3: SYN flood with random sources, by guest a (XDP)",
        guest: Some(0),
        arguments: &["-S", "-p", "80", "--rand-source"],
        counted: "tcp dst port 80",
        reason: "source_address",
    },
    Flood {
        name: "hping3: SYN flood with random sources, by guest b (TC)",
        guest: Some(1),
        arguments: &["-S", "-p", "80", "--rand-source"],
        counted: "tcp dst port 80",
        reason: "source_address",
    },
];

const RESETS: &str = "hping3: resets with random numbers into a live connection";

pub fn run(table: &mut Table, bare: &Site, filtered: &Site, short: bool) -> Result<()> {
    let many = if short { 2_000 } else { 20_000 };
    if !FLOODS.iter().any(|flood| table.wants(flood.name)) && !table.wants(RESETS) {
        return Ok(());
    }
    table.heading("hping3: floods");
    for flood in FLOODS {
        table.row(flood.name, Through::Nothing, || {
            let open = attempt(flood, bare, FEW)?;
            let mut seen = attempt(flood, filtered, many)?;
            seen.check(open.sent > 0 && open.through == open.sent, || {
                format!("without the filter {} of {} came through", open.through, open.sent)
            });
            Ok(seen)
        });
    }
    // Of so few that hit the window by chance none ends the connection (RFC 5961).
    table.row(RESETS, Through::AtMost(many / 100), || resets(filtered, many));
    Ok(())
}

fn attempt(flood: &Flood, site: &Site, count: u64) -> Result<Seen> {
    let guest = site.guest(flood.guest.unwrap_or(0))?;
    let (from, to, target) = match flood.guest {
        None => (site.outside(), &guest.netns, guest.v4),
        Some(_) => (&guest.netns, site.outside(), outside::DNS.into()),
    };
    let before = site.status(&guest.device)?;
    let ends = Ends::new(from, to, &format!("dst host {target} and {}", flood.counted))?;
    hping(from, flood.arguments, count, &target.to_string())?;
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    seen.check(sent >= count, || format!("hping3 was to send {count}"));
    if site.daemon.is_some() {
        let counted = reason(&site.status(&guest.device)?, flood.reason) - reason(&before, flood.reason);
        seen.check(counted >= sent, || format!("the filter has counted {counted} as {}", flood.reason));
    }
    Ok(seen)
}

/// A connection to the open port; then resets as if from its client, of whom everything but the sequence number is known.
fn resets(site: &Site, count: u64) -> Result<Seen> {
    let guest = site.guest(0)?;
    let server = SocketAddr::from((guest.v4, 80));
    let _servers = guest.netns.serve_tcp(&[server])?;
    let mut stream = site.outside().run(|| TcpStream::connect_timeout(&server, PATIENCE))??;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    echo(&mut stream).context("before the attack")?;
    let (port, client) = (stream.local_addr()?.port().to_string(), stream.local_addr()?.ip().to_string());
    let expression = format!("tcp src port {port} and tcp dst port 80 and tcp[13] & 4 != 0");
    let ends = Ends::new(site.outside(), &guest.netns, &expression)?;
    let before = site.status(&guest.device)?;
    hping(
        site.outside(),
        &["-R", "-a", &client, "-s", &port, "-k", "-p", "80"],
        count,
        &guest.v4.to_string(),
    )?;
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    seen.check(sent >= count, || format!("hping3 was to send {count}"));
    let counted = reason(&site.status(&guest.device)?, "tcp_window") - reason(&before, "tcp_window");
    seen.check(counted + through >= sent, || format!("the filter has counted {counted} as tcp_window"));
    if let Err(error) = echo(&mut stream) {
        seen.fault(format!("the connection is dead: {error:#}"));
    }
    Ok(seen)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"alive")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"alive", "another answer: {answer:?}");
    Ok(())
}

fn hping(from: &sg_tests::Netns, arguments: &[&str], count: u64, target: &str) -> Result<()> {
    let mut command = from.command("hping3");
    // It ends with 1 when nobody answers, which is what is hoped for.
    command
        .args(["-q", "-n", "-I", "eth0", "-i", "u50", "-c", &count.to_string()])
        .args(arguments)
        .arg(target);
    Process::finish(command, PATIENCE).map(drop)
}
