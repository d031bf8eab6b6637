//! `sgctl rule`: the rules of a group, added, removed and listed.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::edit::{How, Scope, Which};
use super::group::{groups, rule_row};
use super::output::{complain, table};
use super::{NO, Outcome, TROUBLE, names};
use crate::policy::edit::{Edit, RuleDirection};
use crate::policy::find;
use crate::policy::view::GroupView;

/// Add, remove and list the rules of groups.
#[derive(Debug, Args)]
pub struct Rule {
    #[command(subcommand)]
    verb: RuleVerb,
}

#[derive(Debug, Subcommand)]
enum RuleVerb {
    Add(Add),
    Remove(Remove),
    List(List),
}

/// Add a rule to a group.
///
/// The rule is given by options, or whole as JSON: what `sgctl explain` prints as "to allow it, add". It applies at once to every
/// interface that the group is attached to. Where the list is not written, what holds without it is written out first, so that a
/// rule more never takes anything away. A rule that the group has already is not added again.
///
/// Exit code: 0 done, 1 refused (a faulty rule, no such group, a quota), 2 trouble (usage, files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Add {
    #[arg(add = names::groups())]
    group: String,
    direction: RuleDirection,
    /// The rule as in a policy file: '{"protocol":"TCP","source":"10.0.0.0/8","port":"80"}'
    #[arg(value_name = "RULE", conflicts_with = "Flags")]
    rule: Option<String>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// Remove a rule from a group.
///
/// Which one is told by its place (0), by its tag, or by what it says, as options or as JSON; `sgctl rule list` shows both. A tag
/// stays right when rules before it go. Connections that the rule has admitted go on until they end (`on_rule_change`).
///
/// Exit code: 0 done, 1 refused (no such rule, another one is there by now), 2 trouble (usage, files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Remove {
    #[arg(add = names::groups())]
    group: String,
    direction: RuleDirection,
    /// Its index, its tag, or the rule as in a policy file
    #[arg(value_name = "INDEX|TAG|RULE", conflicts_with = "Flags")]
    rule: Option<String>,
    /// With an index: refuse if another rule is there by now
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// What a rule says.
#[derive(Debug, Args)]
#[group(id = "Flags", multiple = true)]
struct Flags {
    /// TCP, UDP, ICMP, ALL, another protocol's name or its number
    #[arg(long, value_name = "NAME", add = names::protocols())]
    protocol: Option<String>,
    /// Of an inbound rule: a network (10.0.0.0/8) or a group (@web)
    #[arg(long, value_name = "CIDR|@GROUP", add = names::remotes())]
    source: Option<String>,
    /// Of an outbound rule
    #[arg(long, value_name = "CIDR|@GROUP", add = names::remotes())]
    destination: Option<String>,
    /// Destination port: 80, 1000-2000 or ALL
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    #[arg(long, value_name = "N")]
    icmp_type: Option<u8>,
    #[arg(long, value_name = "N", requires = "icmp_type")]
    icmp_code: Option<u8>,
    /// For people, at most 50 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl Flags {
    /// As in a policy file; `None` if nothing was said.
    fn rule(self) -> Option<Value> {
        let Self { protocol, source, destination, port, icmp_type, icmp_code, description } = self;
        let protocol = protocol.map(|name| match name.parse::<u8>() {
            Ok(number) => json!(number),
            Err(_) => json!(name),
        });
        let fields = [
            ("protocol", protocol),
            ("source", source.map(|text| json!(text))),
            ("destination", destination.map(|text| json!(text))),
            ("port", port.map(|text| json!(text))),
            ("icmp_type", icmp_type.map(|number| json!(number))),
            ("icmp_code", icmp_code.map(|number| json!(number))),
            ("description", description.map(|text| json!(text))),
        ];
        let fields: Map<String, Value> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        (!fields.is_empty()).then(|| fields.into())
    }
}

/// List the rules of a group, or of all.
///
/// Exit code: 0 done, 1 there is no such group, 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct List {
    #[arg(add = names::groups())]
    group: Option<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    which: Which,
}

impl Rule {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        match self.verb {
            RuleVerb::Add(verb) => verb.run(socket),
            RuleVerb::Remove(verb) => verb.run(socket),
            RuleVerb::List(verb) => verb.run(socket),
        }
    }
}

impl Add {
    fn run(self, socket: &Path) -> Outcome {
        let Self { group, direction, rule, flags, scope: Scope { vpc, project }, how } = self;
        let rule = match rule {
            Some(text) => match parsed(&text) {
                Ok(rule) => Some(rule),
                Err(code) => return Ok(code),
            },
            None => flags.rule(),
        };
        let Some(rule) = rule else {
            complain(
                "say what the rule allows: --protocol, --source or --destination, --port; or the whole rule as JSON",
            );
            return Ok(ExitCode::from(TROUBLE));
        };
        how.edit(socket, vec![Edit::RuleAdd { group, direction, rule, project, vpc }])
    }
}

fn parsed(text: &str) -> Result<Value, ExitCode> {
    serde_json::from_str(text).map_err(|error| {
        complain(&format!("the rule is no JSON: {error}; write it as in a file, such as {EXAMPLE}"));
        ExitCode::from(TROUBLE)
    })
}

impl Remove {
    fn run(self, socket: &Path) -> Outcome {
        let Self { group, direction, rule, mut tag, flags, scope: Scope { vpc, project }, how } = self;
        let mut index = None;
        let mut content = flags.rule();
        match rule {
            Some(text) if text.trim_start().starts_with('{') => match parsed(&text) {
                Ok(rule) => content = Some(rule),
                Err(code) => return Ok(code),
            },
            // Twelve digits are a tag, even if all of them are decimal.
            Some(text) if text.len() < TAG && text.parse::<usize>().is_ok() => index = text.parse().ok(),
            Some(text) => tag = Some(text),
            None => {}
        }
        if index.is_none() && content.is_none() && tag.is_none() {
            complain("say which rule: its index or tag (`sgctl rule list`), or what it says");
            return Ok(ExitCode::from(TROUBLE));
        }
        how.edit(socket, vec![Edit::RuleRemove { group, direction, index, tag, rule: content, project, vpc }])
    }
}

const EXAMPLE: &str = r#"{"protocol": "TCP", "source": "10.0.0.0/8", "port": 80}"#;

/// How long a tag is.
const TAG: usize = 12;

impl List {
    fn run(self, socket: &Path) -> Outcome {
        let Self { group, scope, which } = self;
        let mut all = match groups(socket, &scope, &which)? {
            Ok(all) => all,
            Err(code) => return Ok(code),
        };
        if let Some(name) = group {
            if !all.iter().any(|group| group.name == name) {
                let hint = find::hint(&name, all.iter().map(|group| group.name.as_str()));
                complain(&format!("there is no group {name:?}{hint} (`sgctl group list`)"));
                return Ok(ExitCode::from(NO));
            }
            all.retain(|group| group.name == name);
        }
        which.tell(&all, |groups| text(groups))
    }
}

fn text(groups: &[GroupView]) -> String {
    let mut text = String::new();
    for group in groups {
        for (direction, rules) in [("inbound", &group.inbound), ("outbound", &group.outbound)] {
            let vpc = group.vpc.as_ref().map_or_else(String::new, |vpc| format!("/{vpc}"));
            let none = if rules.is_empty() { ": nothing" } else { "" };
            text += &format!("{} {direction} ({}{vpc}){none}\n", group.name, group.project);
            text += &table(&rules.iter().map(rule_row).collect::<Vec<_>>());
        }
    }
    text
}
