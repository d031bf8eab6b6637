//! `sgctl explain`: would this packet pass, and why?

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::print;
use super::{NO, Outcome, names};
use crate::api::client::call;
use crate::api::types::{Direction, ExplainAnswer, ExplainQuestion, RuleText, Verdict};

/// Ask the loaded program what it would do with a packet, and which rule makes it so. Nothing is changed by asking.
///
/// Exit code: 0 the packet passes (in audit: whatever the rules say), 1 it is dropped, 2 the question cannot be answered.
#[derive(Debug, Args)]
pub struct Explain {
    /// The host's device
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: String,
    /// Seen from the instance
    #[arg(long, value_enum)]
    direction: Direction,
    /// tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip or a number
    #[arg(long)]
    protocol: String,
    /// The other side's address
    #[arg(long, value_name = "ADDRESS")]
    remote: IpAddr,
    /// The destination port (TCP, UDP)
    #[arg(long)]
    port: Option<u16>,
    /// The instance's address [default: the interface's first of the remote's family]
    #[arg(long, value_name = "ADDRESS")]
    local: Option<IpAddr>,
    /// The source port, to ask about a connection that lives
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// [default: echo request]
    #[arg(long, value_name = "NUMBER")]
    icmp_type: Option<u8>,
    /// [default: 0]
    #[arg(long, value_name = "NUMBER")]
    icmp_code: Option<u8>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let question = ExplainQuestion {
            interface: self.interface,
            direction: self.direction,
            protocol: self.protocol,
            remote: self.remote,
            port: self.port,
            local: self.local,
            source_port: self.source_port,
            icmp_type: self.icmp_type,
            icmp_code: self.icmp_code,
        };
        let answer: ExplainAnswer = call(socket, Method::POST, "/v1/explain", Some(&question))?;
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            print(&text(&answer)?)?;
        }
        Ok(if answer.verdict == Verdict::Drop { ExitCode::from(NO) } else { ExitCode::SUCCESS })
    }
}

fn text(answer: &ExplainAnswer) -> Result<String, serde_json::Error> {
    let verdict = match answer.verdict {
        Verdict::Allow => "allowed",
        Verdict::Drop => "denied",
        Verdict::WouldDrop => "would be denied (audit)",
        Verdict::NotEnforced => "passes",
    };
    let mut text = match answer.verdict {
        // The reason stands behind, so that what is unusual stands in front.
        Verdict::WouldDrop => format!("{verdict}: {} ({})\n", answer.text, answer.reason),
        _ => format!("{verdict} ({}): {}\n", answer.reason, answer.text),
    };
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
    if let Some(add) = &answer.add {
        let rule = serde_json::to_string(&add.rule)?;
        text += &format!("  to allow it, add to \"{}\" of group {:?}:\n    {rule}\n", add.list, add.group);
    }
    Ok(text)
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
