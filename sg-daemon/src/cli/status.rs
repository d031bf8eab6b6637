//! `sgctl status`: what is enforced, and is it what the files say?

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::{Tone, paint, print, table};
use super::{NO, Outcome};
use crate::api::candidate::UnconfirmedStatus;
use crate::api::client::call;
use crate::api::types::{FlowLogStatus, InterfaceState, ReasonCounter, Status as Answer};

/// Show what is enforced on which interface, and how many packets passed and were dropped.
///
/// Exit code: 0 the policy in the files is in force, 1 another one is (the newest was refused, or one waits to be
/// confirmed), 2 sgd cannot be reached. With --json, 0 in both of the first cases: the fields "refused" and "unconfirmed"
/// tell them apart.
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let status: Answer = call::<(), _>(socket, Method::GET, "/v1/status", None)?;
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        print(&text(&status))?;
        Ok(if status.refused.is_some() || status.unconfirmed.is_some() {
            ExitCode::from(NO)
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn text(status: &Answer) -> String {
    let mut text = format!(
        "sgd {}, generation {}, policy from {}\n",
        status.version,
        status.generation,
        status.files.join(", ")
    );
    if let Some(refused) = &status.refused {
        let heading = paint(Tone::Bad, "The newest policy was refused, an older one is in force:");
        text += &format!("\n{heading}\n{refused}\n");
    }
    if let Some(UnconfirmedStatus { rolls_back_in, files_changed }) = status.unconfirmed {
        let warning =
            format!("Unconfirmed: rolled back in {rolls_back_in} s unless `sgctl confirm` is run before.");
        text += &format!("\n{}\n", paint(Tone::Warning, &warning));
        if files_changed {
            text += "The policy files have changed meanwhile; they are read after a rollback.\n";
        }
    }
    if let Some(notice) = &status.notice {
        text += &format!("\nNote: {notice}\n");
    }
    let mut rows = vec![
        ["INTERFACE", "STATE", "GROUPS", "HOOKS", "IN ALLOWED", "IN DROPPED", "OUT ALLOWED", "OUT DROPPED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for interface in &status.interfaces {
        let hooks = match (&interface.ingress, &interface.egress) {
            (Some(ingress), Some(egress)) => format!("{ingress}/{egress}"),
            _ => "-".to_owned(),
        };
        rows.push(vec![
            interface.name.clone(),
            paint(tone(interface.state), interface.state.text()),
            if interface.security_groups.is_empty() {
                "-".to_owned()
            } else {
                interface.security_groups.join(",")
            },
            hooks,
            interface.inbound.allowed.to_string(),
            interface.inbound.dropped.to_string(),
            interface.outbound.allowed.to_string(),
            interface.outbound.dropped.to_string(),
        ]);
    }
    let audited: Vec<&str> = status
        .interfaces
        .iter()
        .filter(|interface| interface.state == InterfaceState::Audit)
        .map(|interface| interface.name.as_str())
        .collect();
    if !audited.is_empty() {
        let warning = format!("IN AUDIT, nothing is dropped on: {}", audited.join(", "));
        text += &format!("\n{}\n", paint(Tone::Warning, &warning));
    }
    text += &format!("\n{}", table(&rows));
    for interface in &status.interfaces {
        if let Some(why) = &interface.why {
            text += &format!("{}: {}, as {why}\n", interface.name, interface.state.text());
        }
    }
    for interface in &status.interfaces {
        if let Some(share) = interface.live_flows {
            text += &format!("{}: {} of {} live connections\n", interface.name, share.used, share.limit);
        }
    }
    for interface in &status.interfaces {
        if let Some(fast_path) = &interface.fast_path {
            let way = match &fast_path.why {
                None => "past the bridge".to_owned(),
                Some(why) => format!("through the bridge: {why}"),
            };
            text +=
                &format!("{}: fast path: {way}; {} packets handed on\n", interface.name, fast_path.packets);
        }
    }
    for interface in &status.interfaces {
        for (direction, counters) in [("inbound", &interface.inbound), ("outbound", &interface.outbound)] {
            if let Some(reasons) = reasons(&counters.reasons) {
                text += &format!("{} {direction}: {reasons}\n", interface.name);
            }
            if let Some(reasons) = reasons(&counters.would_drop_reasons) {
                text += &format!("{} {direction}, would be dropped: {reasons}\n", interface.name);
            }
        }
    }
    if let Some(log) = &status.flow_log {
        text += &flow_log(log);
    }
    text
}

fn flow_log(log: &FlowLogStatus) -> String {
    let mut text = format!("flow log {}: {} records written", log.path, log.records);
    if log.lost_records > 0 {
        text += &format!(", {} lost", log.lost_records);
    }
    if log.unrecorded_packets > 0 {
        text += &format!(
            ", {} packets not recorded, as there was no room for their flows",
            log.unrecorded_packets
        );
    }
    if let Some(error) = &log.error {
        text += &format!(
            "\nflow log: records are being lost: {error}; it goes on by itself when that has changed"
        );
    }
    text.push('\n');
    text
}

const fn tone(state: InterfaceState) -> Tone {
    match state {
        InterfaceState::Enforced => Tone::Good,
        InterfaceState::Audit | InterfaceState::BareMetal | InterfaceState::Closed => Tone::Warning,
        InterfaceState::Absent => Tone::Faint,
        InterfaceState::Unfilterable | InterfaceState::NotFiltered => Tone::Bad,
    }
}

fn reasons(reasons: &[ReasonCounter]) -> Option<String> {
    let reasons: Vec<String> =
        reasons.iter().map(|reason| format!("{} {}", reason.reason, reason.packets)).collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}
