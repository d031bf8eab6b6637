//! `sgctl group`: the groups of a policy, made, deleted, copied and shown.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::edit::{How, Scope, Which, list, place};
use super::output::{color, complain, print, table};
use super::{NO, Outcome, TROUBLE, names};
use crate::api::client::escaped;
use crate::policy::edit::{self, CopyError, CopyRequest, Edit};
use crate::policy::render::render;
use crate::policy::view::{self, EnforcementView, GroupView, RuleView};

/// Make, delete, copy and show security groups.
#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    verb: GroupVerb,
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    Create(Create),
    Delete(Delete),
    Copy(Copy),
    Show(Show),
    List(List),
}

/// Make a group without inbound rules: nothing may enter, everything may leave.
///
/// Exit code: 0 done, 1 refused (the name is taken, a quota), 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Create {
    /// 4 to 250 letters, digits, `-` and `_`
    name: String,
    /// For people, at most 100 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Let nothing out either, until there is an outbound rule
    #[arg(long)]
    no_outbound: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// Delete a group.
///
/// Refused for "default", and for a group that is attached or that rules of others name; who does is listed.
///
/// Exit code: 0 done, 1 refused, 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Delete {
    #[arg(add = names::groups())]
    name: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// Copy a group: the same rules under one or more new names.
///
/// The copies stand right after the original in its file; the rest of the file stays as it is, byte for byte. The
/// whole policy is checked with the copies in it before anything is written. Copies are not attached to interfaces.
///
/// Exit code: 0 done, 1 refused, 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Copy {
    /// The group to copy; "default" too
    #[arg(value_name = "SRC", add = names::groups())]
    source: String,
    /// Names of the copies
    #[arg(required = true, value_name = "NEW")]
    names: Vec<String>,
    /// Let rules of a copy that refer to @SRC refer to the copy instead
    #[arg(long)]
    rewrite_self: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// Show a group: its rules, who is in it, whose rules name it.
///
/// Exit code: 0 done, 1 there is no such group, 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Show {
    #[arg(add = names::groups())]
    name: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    which: Which,
}

/// List the groups.
///
/// Exit code: 0 done, 1 no policy is in force, or the files have faults, 2 trouble.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    which: Which,
}

impl Group {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        match self.verb {
            GroupVerb::Create(Create {
                name,
                description,
                no_outbound,
                scope: Scope { vpc, project },
                how,
            }) => {
                let outbound = no_outbound.then(Vec::new);
                let edit = Edit::GroupCreate { name, description, inbound: None, outbound, project, vpc };
                how.edit(socket, vec![edit])
            }
            GroupVerb::Delete(Delete { name, scope: Scope { vpc, project }, how }) => {
                how.edit(socket, vec![Edit::GroupDelete { name, project, vpc }])
            }
            GroupVerb::Copy(verb) => verb.run(socket),
            GroupVerb::Show(verb) => verb.run(socket),
            GroupVerb::List(verb) => verb.run(socket),
        }
    }
}

impl Copy {
    fn run(self, socket: &Path) -> Outcome {
        let Self { source, names, rewrite_self, scope: Scope { vpc, project }, how } = self;
        let Some(path) = how.plain_files() else {
            return how.edit(socket, vec![Edit::GroupCopy { source, names, rewrite_self, project, vpc }]);
        };
        let request = CopyRequest { source, names, rewrite_self, project, vpc };
        match edit::copy_group(path, &request) {
            Ok(copied) => {
                for copy in &copied {
                    print(&format!(
                        "{}:{}: {} is a copy of {}\n",
                        copy.file.display(),
                        copy.line,
                        copy.name,
                        request.source
                    ))?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                if let CopyError::Before(faults) | CopyError::After(faults) = &error {
                    for finding in &faults.diagnostics {
                        print(&format!("{}\n", render(finding, color())))?;
                    }
                }
                complain(&error.to_string());
                Ok(ExitCode::from(if error.is_trouble() { TROUBLE } else { NO }))
            }
        }
    }
}

impl Show {
    fn run(self, socket: &Path) -> Outcome {
        let Self { name, scope, which } = self;
        let path = format!("/v1/groups/{}{}", escaped(&name), scope.query());
        match which.get(socket, &path, |model| view::group(model, &name, scope.find()))? {
            Ok(group) => which.tell(&group, text),
            Err(code) => Ok(code),
        }
    }
}

impl List {
    fn run(self, socket: &Path) -> Outcome {
        let Self { scope, which } = self;
        match groups(socket, &scope, &which)? {
            Ok(groups) => which.tell(&groups, |groups| lines(groups)),
            Err(code) => Ok(code),
        }
    }
}

/// The groups of a project and VPC.
pub fn groups(
    socket: &Path,
    scope: &Scope,
    which: &Which,
) -> Result<Result<Vec<GroupView>, ExitCode>, Box<dyn std::error::Error + Send + Sync>> {
    let path = format!("/v1/groups{}", scope.query());
    which.get(socket, &path, |model| Ok(view::in_scope(view::groups(model), scope.find())))
}

fn lines(groups: &[GroupView]) -> String {
    let title = ["GROUP", "VPC", "IN", "OUT", "INTERFACES", "PEERS", "PLACE"].map(str::to_owned).to_vec();
    let row = |group: &GroupView| {
        vec![
            group.name.clone(),
            group
                .vpc
                .as_ref()
                .map_or_else(|| group.project.clone(), |vpc| format!("{}/{vpc}", group.project)),
            group.inbound.len().to_string(),
            group.outbound.len().to_string(),
            group.interfaces.len().to_string(),
            group.peers.len().to_string(),
            place(group.file.as_deref(), group.line),
        ]
    };
    table(&[title].into_iter().chain(groups.iter().map(row)).collect::<Vec<_>>())
}

fn text(group: &GroupView) -> String {
    let vpc = group.vpc.as_ref().map_or_else(String::new, |vpc| format!("/{vpc}"));
    let audit = if group.enforcement == EnforcementView::Audit { ", AUDIT (NOTHING IS DROPPED)" } else { "" };
    let mut text = format!(
        "group {} of {}{vpc}{audit}  ({})\n",
        group.name,
        group.project,
        place(group.file.as_deref(), group.line)
    );
    if !group.description.is_empty() {
        text += &format!("  {}\n", group.description);
    }
    for (name, rules) in [("inbound", &group.inbound), ("outbound", &group.outbound)] {
        text +=
            &format!("{name}: {}\n", if rules.is_empty() { "nothing" } else { "" }).replace(": \n", ":\n");
        text += &table(&rules.iter().map(rule_row).collect::<Vec<_>>());
    }
    text += &format!("interfaces: {}\npeers: {}\n", list(&group.interfaces), list(&group.peers));
    text += &format!("named by rules of: {}\n", list(&group.named_by));
    text
}

/// A rule as a row: index, tag, what it says.
pub fn rule_row(rule: &RuleView) -> Vec<String> {
    let description = rule.rule.get("description").and_then(|text| text.as_str());
    let mut words = rule.text.clone();
    if let Some(description) = description {
        words += &format!("  # {description}");
    }
    if rule.implied {
        words += "  (not written: the standard rule)";
    }
    vec![format!("  [{}]", rule.index), rule.tag.clone(), words]
}
