//! `sgctl plan`: what applying a policy would do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::{Tone, counted, paint, print};
use super::progress::during;
use super::{NO, Outcome, candidate, diff, flows, refused};
use crate::api::candidate::{DeviceBecomes, PlanAnswer};
use crate::api::client::call;

/// Show what applying policy files would do, to the kernel's tables, devices and connections, without doing it.
///
/// Connections that the policy would not admit live on until they are over, unless its "on_rule_change" is "revoke".
///
/// Exit code: 0 the policy would be applied, 1 it would be refused, 2 trouble (unreadable files, sgd cannot be reached).
#[derive(Debug, Args)]
pub struct Plan {
    /// Policy files, or directories of *.json files; all of them together are one policy. None: those that sgd was started
    /// with, as they are now
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let candidate = match candidate::read(&self.paths, NO) {
            Ok(candidate) => candidate,
            Err(code) => return Ok(code),
        };
        let answer: PlanAnswer = match refused(during("sgd plans the change", || {
            call(socket, Method::POST, "/v1/policy/plan", Some(&candidate))
        }))? {
            Ok(answer) => answer,
            Err(code) => return Ok(code),
        };
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            print(&text(&answer))?;
        }
        Ok(if answer.refused.is_some() { ExitCode::from(NO) } else { ExitCode::SUCCESS })
    }
}

fn text(plan: &PlanAnswer) -> String {
    let changes = diff::text(&plan.changes);
    let mut text = if changes.is_empty() { "no difference\n".to_owned() } else { changes };
    text.push('\n');
    if let Some(refused) = &plan.refused {
        text += &format!("{} {refused}\n", paint(Tone::Bad, "The policy would be refused:"));
    }
    for entry in &plan.entries {
        text += &format!("kernel: {} written, {} deleted ({})\n", entry.written, entry.deleted, entry.table);
    }
    for device in &plan.devices {
        let becomes = match device.becomes {
            DeviceBecomes::Enforced => "the policy would be enforced",
            DeviceBecomes::Closed => "it would be closed to new connections (managed, in no policy)",
            DeviceBecomes::NotFiltered => "it would not be filtered any more: everything passes",
        };
        text += &format!("interface {}: {becomes}\n", device.name);
    }
    let mut by_interface: BTreeMap<&str, usize> = BTreeMap::new();
    for flow in &plan.not_admitted {
        *by_interface.entry(&flow.interface).or_default() += 1;
    }
    let end = if plan.revokes { "they would be cut" } else { "they live on until they are over" };
    text += &format!(
        "{} of {} would not be admitted{}\n",
        plan.not_admitted.len(),
        counted(plan.live_flows, "connection"),
        if plan.not_admitted.is_empty() { String::new() } else { format!("; {end}:") }
    );
    for (interface, count) in by_interface {
        text += &format!("  {interface}: {count}\n");
    }
    if !plan.not_admitted.is_empty() {
        text += &format!("\n{}", flows::text(&plan.not_admitted));
    }
    text
}
