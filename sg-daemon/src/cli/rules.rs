//! `sgctl rules`: what each rule has allowed, and which ones nobody needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::output::{counted, print, table};
use super::rates::span;
use super::{Outcome, names};
use crate::api::client::call;
use crate::api::types::{Direction, InterfaceStatus, Status};
use crate::policy::names::did_you_mean;

/// List the rules in force, what each has allowed and when last, or those that have allowed nothing.
///
/// A hit is a connection that began because the rule allows it, or a packet of a kind that begins none. A packet that several
/// rules allow is a hit of each. What a connection sends later is none. A rule is counted from when it was first in force, over
/// restarts of sgd and changes of other rules; one that is changed is a new one.
///
/// Exit code: 0 done, also if there are none; 2 there is no such group or interface, or sgd cannot be reached.
#[derive(Debug, Args)]
pub struct Rules {
    /// Only those of this group
    #[arg(long, value_name = "NAME", add = names::groups())]
    group: Option<String>,
    /// Only those that hold on this interface
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: Option<String>,
    /// Only those that stand in the policy and have never had a hit
    #[arg(long)]
    unused: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// `GET /v1/rules/hits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    rules: Vec<Rule>,
    unattributed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    project: String,
    vpc: Option<String>,
    group: Option<String>,
    direction: Direction,
    rule: String,
    text: String,
    file: Option<String>,
    line: Option<u32>,
    hits: u64,
    last_hit: Option<u64>,
    since: u64,
}

impl Rules {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let mut answer: Answer = call::<(), _>(socket, Method::GET, "/v1/rules/hits", None)?;
        if let Some(name) = &self.group {
            of_group(&mut answer.rules, name)?;
        }
        if let Some(name) = &self.interface {
            let status: Status = call::<(), _>(socket, Method::GET, "/v1/status", None)?;
            of_interface(&mut answer.rules, name, &status.interfaces)?;
        }
        if self.unused {
            answer.rules.retain(|rule| rule.hits == 0 && rule.file.is_some());
        }
        print(&if self.json {
            format!("{}\n", serde_json::to_string_pretty(&answer)?)
        } else {
            text(&answer, self.unused, now())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn of_group(rules: &mut Vec<Rule>, name: &str) -> Result<(), String> {
    let known: BTreeSet<String> = rules.iter().filter_map(|rule| rule.group.clone()).collect();
    rules.retain(|rule| rule.group.as_deref() == Some(name));
    if rules.is_empty() {
        let near = did_you_mean(name, known.iter().map(String::as_str));
        let hint = near.unwrap_or_else(|| "`sgctl rules` lists those that have some".to_owned());
        return Err(format!("no group {name:?} has rules in force; {hint}"));
    }
    Ok(())
}

/// Those of its groups, and of the settings.
fn of_interface(rules: &mut Vec<Rule>, name: &str, interfaces: &[InterfaceStatus]) -> Result<(), String> {
    let Some(interface) = interfaces.iter().find(|interface| interface.name == name) else {
        let near = did_you_mean(name, interfaces.iter().map(|interface| interface.name.as_str()));
        let hint = near.unwrap_or_else(|| "`sgctl status` lists those that there are".to_owned());
        return Err(format!("sgd knows no interface {name:?}; {hint}"));
    };
    rules.retain(|rule| match &rule.group {
        Some(group) => {
            interface.security_groups.contains(group)
                && interface.project.as_deref() == Some(rule.project.as_str())
                // `default` is the project's, whatever the VPC.
                && (rule.vpc.is_none() || rule.vpc == interface.vpc)
        }
        // The failsafe is for hosts; the metadata service is for all.
        None => interface.role == "host" || !rule.rule.contains("failsafe"),
    });
    Ok(())
}

fn text(answer: &Answer, unused: bool, now: u64) -> String {
    let ago = |time: u64| span(now.saturating_sub(time));
    let vpcs: BTreeSet<_> = answer.rules.iter().map(|rule| (&rule.project, &rule.vpc)).collect();
    let group = |rule: &Rule| match (&rule.group, &rule.vpc) {
        (None, _) => "(settings)".to_owned(),
        (Some(group), _) if vpcs.len() < 2 => group.clone(),
        (Some(group), None) => format!("{}: {group}", rule.project),
        (Some(group), Some(vpc)) => format!("{}/{vpc}: {group}", rule.project),
    };
    let mut text = String::new();
    if !answer.rules.is_empty() {
        let head = ["GROUP", "RULE", "ALLOWS", "HITS", "LAST HIT", "COUNTED FOR", "WHERE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(answer.rules.iter().map(|rule| {
            vec![
                group(rule),
                rule.rule.clone(),
                rule.text.clone(),
                rule.hits.to_string(),
                rule.last_hit.map_or_else(|| "never".to_owned(), |time| format!("{} ago", ago(time))),
                ago(rule.since),
                match (&rule.file, rule.line) {
                    (Some(file), Some(line)) => format!("{file}:{line}"),
                    (Some(file), None) => file.clone(),
                    _ => "-".to_owned(),
                },
            ]
        }));
        text += &table(&rows);
        text.push('\n');
    }
    let rules = counted(answer.rules.len(), "rule");
    text += &match (unused, answer.rules.iter().map(|rule| rule.since).min()) {
        (true, None) => "every rule has had a hit\n".to_owned(),
        (true, Some(_)) => format!("{rules} without a hit, each since it is counted\n"),
        (false, None) => "no rules\n".to_owned(),
        (false, Some(since)) => format!("{rules}, counted since {} ago at the earliest\n", ago(since)),
    };
    if answer.unattributed > 0 {
        text += &format!(
            "{} packets that rules have allowed could not be attributed to any: a rule without hits may have allowed some of them\n",
            answer.unattributed
        );
    }
    text
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
