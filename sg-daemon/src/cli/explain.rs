//! `sgctl explain`: would this packet pass, and why?

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::{Tone, paint, print};
use super::{NO, Outcome, frames, names};
use crate::api::client::call;
use crate::api::explain::{ExplainAnswer, ExplainQuestion, Fragment, Piece, Quoted, RuleText, Verdict};
use crate::api::types::Direction;
use crate::protocols;

/// Ask the loaded program what it would do with a packet, and which rule makes it so. Nothing is changed by asking.
///
/// The packet is told by its fields, or given whole with --hex. If it goes from one interface of this host to another, both
/// are asked: the sender's outbound rules and the receiver's inbound rules.
///
/// Exit code: 0 the packet passes (in audit: whatever the rules say), 1 it is dropped, 2 the question cannot be answered.
#[derive(Debug, Args)]
pub struct Explain {
    /// The host's device
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: String,
    /// Seen from the instance [default: outbound, with --to]
    #[arg(long, value_enum, required_unless_present = "to")]
    direction: Option<Direction>,
    /// tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip, another name or a number
    #[arg(long, value_name = "PROTOCOL", add = names::protocols(), required_unless_present_any = ["hex", "quoted_protocol"])]
    protocol: Option<String>,
    /// The other side's address
    #[arg(long, value_name = "ADDRESS", add = names::addresses(), required_unless_present_any = ["hex", "to"])]
    remote: Option<IpAddr>,
    /// The destination port (TCP, UDP)
    #[arg(long)]
    port: Option<u16>,
    /// The instance's address [default: the interface's first of the remote's family]
    #[arg(long, value_name = "ADDRESS", add = names::addresses())]
    local: Option<IpAddr>,
    /// The source port, to ask about a connection that lives; the identifier of an ICMP query
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// A number or a name, with a code if wanted: 8, echo-request, 3/4, port-unreachable [default: echo-request]
    #[arg(long, value_name = "TYPE", add = names::icmp_types())]
    icmp_type: Option<String>,
    /// [default: 0]
    #[arg(long, value_name = "NUMBER")]
    icmp_code: Option<u8>,
    /// TCP flags: syn, syn,ack, rst, …, none [default: syn; with --source-port ack, if the connection lives]
    #[arg(long, value_name = "FLAGS")]
    flags: Option<String>,
    /// A fragment instead of a whole packet
    #[arg(long, value_enum)]
    fragment: Option<Piece>,
    /// Where the fragment begins, in bytes [default: 1480]
    #[arg(long, value_name = "BYTES", requires = "fragment")]
    offset: Option<u16>,
    /// The fragment's identification, to ask about a datagram of which some have passed [default: 1]
    #[arg(long, value_name = "NUMBER", requires = "fragment")]
    id: Option<u32>,
    /// The frame carries this VLAN tag
    #[arg(long, value_name = "NUMBER")]
    vlan: Option<u16>,
    /// The sender's hardware address [default: the interface's own, if it sends]
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// The packet that an ICMP error is about: its protocol
    #[arg(long, value_name = "PROTOCOL", add = names::protocols())]
    quoted_protocol: Option<String>,
    /// Whom the instance talked to [default: the error's sender]
    #[arg(long, value_name = "ADDRESS", requires = "quoted_protocol")]
    quoted_remote: Option<IpAddr>,
    /// Its destination port
    #[arg(long, value_name = "PORT", requires = "quoted_protocol")]
    quoted_port: Option<u16>,
    /// Its source port, or the identifier of the ICMP query
    #[arg(long, value_name = "PORT", requires = "quoted_protocol")]
    quoted_source_port: Option<u16>,
    /// A whole Ethernet frame in hexadecimal digits, as tcpdump -xx, xxd or Wireshark print it; "-" is standard input,
    /// @FILE a file with digits or a capture (pcap, pcapng)
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["protocol", "remote", "port", "local", "source_port", "icmp_type",
        "icmp_code", "flags", "fragment", "vlan", "mac", "quoted_protocol"])]
    hex: Option<String>,
    /// Which packet of --hex, if it has several [default: 1]
    #[arg(long, value_name = "NUMBER", requires = "hex")]
    packet: Option<usize>,
    /// The interface of this host that the packet goes to [default: the one that has the remote address, if any]
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    to: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let json = self.json;
        let (question, note) = self.question()?;
        let mut answer: ExplainAnswer = call(socket, Method::POST, "/v1/explain", Some(&question))?;
        answer.notes.extend(note);
        if json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            print(&text(&answer)?)?;
        }
        Ok(if answer.passes() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    /// What is asked, and what has to be said of it.
    fn question(self) -> Result<(ExplainQuestion, Option<String>), String> {
        let direction = self.direction.unwrap_or(Direction::Outbound);
        if let Some(source) = &self.hex {
            let packets = frames::read(source).map_err(|why| format!("--hex: {why}"))?;
            let number = self.packet.unwrap_or(1);
            let frame = number.checked_sub(1).and_then(|index| packets.get(index)).ok_or_else(|| {
                format!(
                    "--packet {number}: there are {} packets, counted from 1; give one of their numbers",
                    packets.len()
                )
            })?;
            let several = self.packet.is_none() && packets.len() > 1;
            let note = several.then(|| {
                format!("this is the first of {} packets; --packet 2 asks about the next", packets.len())
            });
            let question = ExplainQuestion {
                interface: self.interface,
                direction,
                frame: Some(hex::encode(frame)),
                to: self.to,
                ..ExplainQuestion::default()
            };
            return Ok((question, note));
        }
        let ipv6 = self.remote.or(self.local).is_some_and(|address| address.is_ipv6())
            || self.protocol.as_deref().is_some_and(|name| protocols::number(name, false) == Some(58));
        let icmp = self.icmp_type.as_deref().map(|text| icmp(text, ipv6)).transpose()?;
        let quoted = self.quoted_protocol.map(|protocol| Quoted {
            protocol,
            remote: self.quoted_remote,
            port: self.quoted_port,
            source_port: self.quoted_source_port,
        });
        let question = ExplainQuestion {
            interface: self.interface,
            direction,
            frame: None,
            protocol: self.protocol,
            remote: self.remote,
            port: self.port,
            local: self.local,
            source_port: self.source_port,
            icmp_type: icmp.map(|(kind, _)| kind),
            icmp_code: self.icmp_code.or(icmp.and_then(|(_, code)| code)),
            tcp_flags: self.flags,
            fragment: self.fragment.map(|piece| Fragment { piece, offset: self.offset, id: self.id }),
            vlan: self.vlan,
            mac: self.mac,
            quoted,
            to: self.to,
        };
        Ok((question, None))
    }
}

fn icmp(text: &str, ipv6: bool) -> Result<(u8, Option<u8>), String> {
    protocols::icmp(text, ipv6).ok_or_else(|| {
        let family = if ipv6 { "ICMPv6" } else { "ICMP" };
        let known = protocols::icmp_names(ipv6).map(|(name, ..)| name);
        let near = crate::policy::nearest(text, known).map_or_else(
            || {
                format!(
                    "such as {}",
                    if ipv6 { "128, echo-request, packet-too-big" } else { "8, echo-request, 3/4" }
                )
            },
            |name| format!("did you mean {name}?"),
        );
        format!("--icmp-type {text:?}: no type of {family}; give a number or a name, {near}")
    })
}

fn text(answer: &ExplainAnswer) -> Result<String, serde_json::Error> {
    let Some(other) = &answer.other_end else {
        return Ok(format!("{}{}", headline(answer), details(answer)?));
    };
    let (sender, receiver) =
        if answer.direction == Direction::Outbound { (answer, &**other) } else { (&**other, answer) };
    let whole = match (sender.verdict == Verdict::Drop, receiver.verdict == Verdict::Drop) {
        (false, false) => paint(Tone::Good, "passes both ends"),
        (true, false) => paint(Tone::Bad, "denied by the sender's interface"),
        (false, true) => paint(Tone::Bad, "denied by the receiver's interface"),
        (true, true) => paint(Tone::Bad, "denied by both ends"),
    };
    let mut text = format!("{whole}: {} → {}\n", sender.interface, receiver.interface);
    for (end, direction) in [(sender, "outbound"), (receiver, "inbound")] {
        let heading = paint(Tone::Heading, &format!("{} {direction}", end.interface));
        text += &format!("{heading}: {}{}", headline(end), details(end)?);
    }
    Ok(text)
}

fn headline(answer: &ExplainAnswer) -> String {
    let (tone, verdict) = match answer.verdict {
        Verdict::Allow => (Tone::Good, "allowed"),
        Verdict::Drop => (Tone::Bad, "denied"),
        Verdict::WouldDrop => (Tone::Warning, "would be denied (audit)"),
        Verdict::NotEnforced => (Tone::Warning, "passes"),
    };
    let verdict = paint(tone, verdict);
    match answer.verdict {
        // The reason stands behind, so that what is unusual stands in front.
        Verdict::WouldDrop => format!("{verdict}: {} ({})\n", answer.text, answer.reason),
        _ => format!("{verdict} ({}): {}\n", answer.reason, answer.text),
    }
}

fn details(answer: &ExplainAnswer) -> Result<String, serde_json::Error> {
    let mut text = paint(Tone::Faint, &format!("  packet: {}", answer.packet)) + "\n";
    if let Some(unread) = &answer.unread {
        text += &format!("  could not be read: {unread}\n");
    }
    for rule in &answer.rules {
        text += &format!("  by {}\n", described(rule));
    }
    for note in &answer.notes {
        text += &format!("  note: {note}\n");
    }
    if let Some(nearest) = &answer.nearest {
        let because = nearest.because.as_deref().unwrap_or_default();
        text += &format!("  nearest: {}\n           but {because}\n", described(nearest));
    }
    let Some(add) = &answer.add else {
        if let Some(remedy) = &answer.remedy {
            text += &format!("  {} {remedy}\n", paint(Tone::Heading, "what to do:"));
        }
        return Ok(text);
    };
    let rule = serde_json::to_string(&add.rule)?;
    let heading = format!("to allow it, add to \"{}\" of group {:?}:", add.list, add.group);
    text += &format!("  {}\n    {rule}\n", paint(Tone::Heading, &heading));
    if !add.keep.is_empty() {
        let list = &add.list;
        text += &format!("  the group has no \"{list}\" yet; to keep what that stands for, write also\n");
        for rule in &add.keep {
            text += &format!("    {}\n", serde_json::to_string(rule)?);
        }
    }
    text += &format!("  or: {}\n", add.command);
    if !add.also.is_empty() {
        text += &format!("  the group is also on {}\n", few(&add.also));
    }
    Ok(text)
}

/// The first of many.
fn few(names: &[String]) -> String {
    const FEW: usize = 5;
    let shown: Vec<&str> = names.iter().take(FEW).map(String::as_str).collect();
    let more = names.len().saturating_sub(FEW);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// Group, rule and place.
fn described(rule: &RuleText) -> String {
    let group = rule.group.as_ref().map_or_else(String::new, |group| format!("group {group:?}, "));
    let place = match (&rule.file, rule.line) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        _ => String::new(),
    };
    format!("{group}{}: {}{place}", rule.rule, rule.text)
}
