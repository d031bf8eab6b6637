//! `sgctl monitor`: packets and their verdicts, as they come by.

use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::output::{color, complain};
use super::{NO, Outcome, names};
use crate::api::client::{ClientError, follow};
use crate::api::explain::Verdict;
use crate::api::monitor::{MonitorLine, MonitorLost, MonitorPacket, MonitorQuestion};
use crate::api::types::Direction;

/// Show packets and their verdicts as they come by.
///
/// A line for each packet that fits all of the filters, until Ctrl-C. At most --rate packets a second are told of on each CPU;
/// how many more there were is told too.
///
/// Exit code: 0 ended by --count, by Ctrl-C or by whoever read the output, 1 a filter is refused, 2 sgd cannot be reached or
/// has ended.
#[derive(Debug, Args)]
pub struct Monitor {
    /// Only packets of this interface
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: Option<String>,
    /// Only packets of this direction, seen from the instance
    #[arg(long)]
    direction: Option<Direction>,
    /// Only packets with one of these verdicts: allow, drop, would_drop (in audit)
    #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
    verdict: Vec<String>,
    /// Only packets that passed or were dropped for one of these reasons, such as no_rule
    #[arg(long, value_name = "REASON", value_delimiter = ',', add = names::reasons())]
    reason: Vec<String>,
    /// Only packets of this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, add = names::protocols())]
    protocol: Option<String>,
    /// Only TCP and UDP packets with this port, on either side
    #[arg(long)]
    port: Option<u16>,
    /// Only packets whose other side has this address, or one of this network
    #[arg(long, visible_alias = "address", value_name = "ADDRESS")]
    remote: Option<String>,
    /// Only packets whose instance has this address, or one of this network
    #[arg(long, value_name = "ADDRESS")]
    local: Option<String>,
    /// Only new connections that this rule allows: "web", "web inbound" or "web inbound[2]"
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// At most so many packets a second on each CPU
    #[arg(long, value_name = "PACKETS", default_value_t = crate::events::Rate::USUAL)]
    rate: u32,
    /// End after so many packets
    #[arg(long, value_name = "PACKETS")]
    count: Option<u64>,
    /// Print a line of JSON for each packet
    #[arg(long)]
    json: bool,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    packets: u64,
    lost: u64,
    failed: Option<io::Error>,
}

impl Monitor {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let query = serde_urlencoded::to_string(self.question())?;
        let mut seen = Seen::default();
        if self.count == Some(0) {
            return Ok(ExitCode::SUCCESS);
        }
        let ended = follow(socket, &format!("/v1/monitor?{query}"), |line| self.show(line, &mut seen));
        if !self.json && seen.failed.is_none() {
            let lost = if seen.lost > 0 { format!(", {} lost", thousands(seen.lost)) } else { String::new() };
            // Beside the output, which may be read by a program.
            let _ = writeln!(io::stderr().lock(), "{} packets{lost}", thousands(seen.packets));
        }
        match (ended, seen.failed) {
            (_, Some(error)) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            (Err(ClientError::Refused(why)), _) => {
                complain(&why);
                Ok(ExitCode::from(NO))
            }
            (Err(error), _) => Err(error.into()),
            (Ok(()), _) => Ok(ExitCode::SUCCESS),
        }
    }

    fn question(&self) -> MonitorQuestion {
        let listed = |words: &[String]| (!words.is_empty()).then(|| words.join(","));
        MonitorQuestion {
            interface: self.interface.clone(),
            direction: self.direction,
            verdict: listed(&self.verdict),
            reason: listed(&self.reason),
            protocol: self.protocol.clone(),
            port: self.port,
            remote: self.remote.clone(),
            local: self.local.clone(),
            rule: self.rule.clone(),
            rate: Some(self.rate),
        }
    }

    fn show(&self, line: &str, seen: &mut Seen) -> ControlFlow<()> {
        let Ok(read) = serde_json::from_str::<MonitorLine>(line) else {
            seen.failed = Some(io::Error::other("sgd's answer is not what this version of sgctl expects"));
            return ControlFlow::Break(());
        };
        let text = match &read {
            _ if self.json => line.to_owned(),
            MonitorLine::Packet(packet) => packet_line(packet),
            MonitorLine::Lost(lost) => lost_line(lost),
        };
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
            seen.failed = Some(error);
            return ControlFlow::Break(());
        }
        match read {
            MonitorLine::Packet(_) => seen.packets += 1,
            MonitorLine::Lost(lost) => seen.lost += lost.lost,
        }
        if self.count == Some(seen.packets) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// `13:30:01.123456  tap0  inbound  DROP  no_rule  tcp  198.51.100.7:40000 → 10.0.0.5:22  S  60 bytes`.
fn packet_line(packet: &MonitorPacket) -> String {
    let time = packet.time.split_once('T').map_or(packet.time.as_str(), |(_, time)| time);
    let device = match &packet.interface {
        Some(name) => name.clone(),
        None => format!("#{}", packet.ifindex),
    };
    let direction = match packet.direction {
        Direction::Inbound => "in ",
        Direction::Outbound => "out",
    };
    let (verdict, paint) = match packet.verdict {
        Verdict::Allow => ("allow", GREEN),
        Verdict::Drop => ("DROP", RED),
        Verdict::WouldDrop => ("would drop", YELLOW),
        Verdict::NotEnforced => ("not enforced", ""),
    };
    let mut text = format!(
        "{}  {device:8}  {direction}  {}  {:12}  {}",
        time.trim_end_matches('Z'),
        painted(&format!("{verdict:10}"), paint),
        packet.reason,
        what(packet),
    );
    for rule in &packet.rules {
        let group = rule.group.as_deref().map_or_else(String::new, |group| format!("{group} "));
        text += &format!("  [{group}{}]", rule.rule);
    }
    text
}

/// The packet itself.
fn what(packet: &MonitorPacket) -> String {
    let mut parts = Vec::new();
    if let Some(protocol) = &packet.protocol {
        parts.push(format!("{protocol:5}"));
    } else if let Some(operation) = packet.arp {
        let says = match operation {
            1 => "who-has",
            2 => "is-at",
            _ => "",
        };
        parts.push(format!("arp   {says}").trim_end().to_owned());
    } else if let Some(kind) = &packet.ether_type {
        parts.push(format!("ethertype {kind}"));
    }
    if let (Some(source), Some(destination)) = (packet.source, packet.destination) {
        parts.push(format!(
            "{} → {}",
            endpoint(source, packet.source_port),
            endpoint(destination, packet.destination_port)
        ));
    }
    if let (Some(kind), Some(code)) = (packet.icmp_type, packet.icmp_code) {
        parts.push(format!("type {kind} code {code}"));
    }
    if packet.later_piece {
        parts.push("piece".to_owned());
    }
    parts.extend(packet.tcp_flags.as_ref().filter(|flags| !flags.is_empty()).cloned());
    parts.extend(packet.vlan.map(|id| if id == 0 { "vlan".to_owned() } else { format!("vlan {id}") }));
    parts.push(format!("{} bytes", packet.bytes));
    parts.join("  ")
}

fn endpoint(address: IpAddr, port: Option<u16>) -> String {
    match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    }
}

fn lost_line(lost: &MonitorLost) -> String {
    let causes = [
        (lost.limited, "faster than --rate"),
        (lost.full, "no room between kernel and sgd"),
        (lost.slow, "not read fast enough"),
    ];
    let causes: Vec<&str> = causes.iter().filter(|(count, _)| *count > 0).map(|(_, cause)| *cause).collect();
    painted(&format!("… {} events lost ({})", thousands(lost.lost), causes.join(", ")), YELLOW)
}

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";

fn painted(text: &str, paint: &str) -> String {
    if color() && !paint.is_empty() { format!("{paint}{text}\x1b[0m") } else { text.to_owned() }
}

/// `1,234`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits.get(..first).unwrap_or_default().to_owned();
    for group in digits.get(first..).unwrap_or_default().as_bytes().chunks(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text += &String::from_utf8_lossy(group);
    }
    text
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
