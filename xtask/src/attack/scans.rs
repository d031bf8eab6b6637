//! nmap, from outside.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use sg_tests::{Process, outside};

use super::site::{Ends, Site};
use super::table::{Seen, Table, Through};

const PATIENCE: Duration = Duration::from_secs(60);

struct Scan {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Who asks, beside his decoys.
    source: IpAddr,
    ports: &'static str,
    /// What the rules let through of it, as a pcap expression.
    allowed: &'static str,
    expected: Through,
    /// What nmap must say, and the only port that it may say this of.
    finding: Option<&'static str>,
}

const TCP: &str = "22,23,53,80,443,3306,5201,8080";
const OPEN: &str = "tcp dst port 80";
const NONE: &str = "ether[0] = 0 and not ether[0] = 0";

fn scans() -> Vec<Scan> {
    let scan = |name, arguments, allowed, expected, finding| Scan {
        name,
        arguments,
        source: outside::STRANGER.into(),
        ports: TCP,
        allowed,
        expected,
        finding,
    };
    let by_rule = Through::OpenPort;
    let nothing = Through::Nothing;
    vec![
        scan("nmap: SYN scan (-sS)", &["-sS"], OPEN, by_rule, Some("80/open/")),
        Scan {
            source: outside::STRANGER_V6.into(),
            ..scan(
                "nmap: SYN scan, v6 (-6 -sS)",
                &["-6", "-sS"],
                "ip6[6] = 6 and ip6[42:2] = 80",
                by_rule,
                Some("80/open/"),
            )
        },
        Scan {
            source: outside::ADMIN.into(),
            ports: "22,23,53,443,3306,8080",
            ..scan(
                "nmap: SYN scan by the administrator",
                &["-sS"],
                "tcp dst port 22",
                by_rule,
                Some("22/open/"),
            )
        },
        // A connection older than its entry may go on where a rule allows it (D12).
        scan("nmap: ACK scan (-sA)", &["-sA"], OPEN, by_rule, Some("80/unfiltered/")),
        scan("nmap: FIN scan (-sF)", &["-sF"], NONE, nothing, None),
        scan("nmap: Xmas scan (-sX)", &["-sX"], NONE, nothing, None),
        scan("nmap: NULL scan (-sN)", &["-sN"], NONE, nothing, None),
        scan("nmap: fragmented SYN scan (-sS -f)", &["-sS", "-f"], NONE, nothing, None),
        scan("nmap: source port 53 (-g 53)", &["-sS", "-g", "53"], OPEN, by_rule, Some("80/open/")),
        scan("nmap: source port 80 (-g 80)", &["-sS", "-g", "80"], OPEN, by_rule, Some("80/open/")),
        scan(
            "nmap: decoys, one of them the administrator (-D)",
            &["-sS", "-D", "10.0.0.66,203.0.113.77,ME"],
            "tcp dst port 80 or (src host 203.0.113.77 and (tcp dst port 22 or tcp dst port 5201))",
            by_rule,
            Some("80/open/"),
        ),
        Scan {
            ports: "53,67,69,123,161,5201",
            ..scan("nmap: UDP scan (-sU)", &["-sU"], "udp dst port 53", by_rule, Some("53/open/"))
        },
    ]
}

pub fn run(table: &mut Table, bare: &Site, filtered: &Site) -> Result<()> {
    let wanted: Vec<_> = scans().into_iter().filter(|scan| table.wants(scan.name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let serve = |site: &Site| {
        let guest = site.guest(0)?;
        let tcp =
            [(guest.v4, 22).into(), (guest.v4, 80).into(), (guest.v6, 80).into(), (guest.v4, 23).into()];
        Ok::<_, anyhow::Error>((
            guest.netns.serve_tcp(&tcp)?,
            guest.netns.serve_udp(&[(guest.v4, 53).into()])?,
        ))
    };
    let _servers = (serve(bare)?, serve(filtered)?);
    table.heading("nmap: from outside against guest a");
    for scan in wanted {
        table.row(scan.name, scan.expected, || {
            let (open, _) = attempt(&scan, bare)?;
            let (mut seen, said) = attempt(&scan, filtered)?;
            seen.check(open.sent > 0 && open.through == open.sent, || {
                format!("without the filter {} of {} came through", open.through, open.sent)
            });
            let found = said.matches("/open/").count() + said.matches("/unfiltered/").count();
            let right = scan.finding.map_or(found == 0, |finding| found == 1 && said.contains(finding));
            seen.check(right, || format!("nmap has found {}", said.trim().replace(", ", " ")));
            Ok(seen)
        });
    }
    Ok(())
}

fn attempt(scan: &Scan, site: &Site) -> Result<(Seen, String)> {
    let guest = site.guest(0)?;
    let target = if scan.source.is_ipv4() { guest.v4 } else { guest.v6 };
    // Not how neighbours find each other, nor the kernel's complaints of answers that it knows no question for.
    let ours = format!("(ip or ip6) and dst host {target} and not icmp and not icmp6");
    let forbidden = format!("{ours} and not ({})", scan.allowed);
    let ends = Ends::new(site.outside(), &guest.netns, &ours)?;
    let wrong = Ends::new(site.outside(), &guest.netns, &forbidden)?;
    let mut command = site.outside().command("nmap");
    command
        .args(["-n", "-Pn", "-T4", "--max-retries", "2", "--initial-rtt-timeout", "300ms"])
        .args(["--max-rtt-timeout", "600ms", "-oG", "-", "-e", "eth0", "-S"])
        .arg(scan.source.to_string())
        .args(scan.arguments)
        .args(["-p", scan.ports])
        .arg(target.to_string());
    let output = Process::finish(command, PATIENCE)?.success("nmap")?;
    let (sent, through) = ends.settled()?;
    let (_, leaked) = wrong.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if site.daemon.is_some() {
        seen.check(leaked == 0, || format!("{leaked} packets came through that no rule allows"));
    }
    let ports =
        output.stdout.lines().find_map(|line| line.split_once("Ports: ").map(|(_, ports)| ports.to_owned()));
    Ok((seen, ports.unwrap_or_default()))
}
