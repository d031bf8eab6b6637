//! Which rules have allowed a packet.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sg_common::abi::Direction;

use super::decode::Seen;
use crate::api::explain::RuleText;
use crate::compile::fit::{Fit, Policy, Tuple};
use crate::compile::rules::{self, Effective, Origin};
use crate::enforce::View;
use crate::explain::{rule_text, words};
use crate::policy::model::{Group, Interface, Model, Role, Rule, Rules};
use crate::policy::same::{self, said, same_names, same_rules};

/// A rule over reloads and edits of others: whose it is, and what it says. Two rules of a group that say the same are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleKey {
    pub project: String,
    /// Absent for `default`, which is the project's.
    pub vpc: Option<String>,
    /// Absent for rules of the settings.
    pub group: Option<String>,
    /// `inbound` or `outbound`.
    pub list: String,
    /// In words.
    pub text: String,
}

/// A rule in force and what is said of it.
#[derive(Debug, Clone)]
pub struct Known {
    pub rule: Effective,
    pub key: Arc<RuleKey>,
    pub text: RuleText,
}

impl Known {
    pub fn new(model: &Model, rule: Effective, direction: Direction) -> Self {
        let text = rule_text(model, &rule, direction);
        let id = match rule.origin {
            Origin::Written { group, .. } | Origin::Implied { group } => Some(group),
            Origin::Failsafe | Origin::MetadataExempt => None,
        };
        let group = id.and_then(|id| model.groups.get(id.0));
        let said = match rule.origin {
            // A rule of the settings is told from another by where it stands.
            Origin::Failsafe | Origin::MetadataExempt => format!("{}: {}", text.rule, text.text),
            _ => words(model, rule.protocol, rule.remote, &rule.matches, direction),
        };
        let key = RuleKey::new(model, group, direction, said);
        Self { rule, key: Arc::new(key), text }
    }
}

impl RuleKey {
    fn new(model: &Model, group: Option<&Group>, direction: Direction, text: String) -> Self {
        let vpc = group.and_then(|group| group.vpc).and_then(|vpc| model.vpcs.get(vpc.0));
        Self {
            project: group.map_or_else(String::new, |group| group.project.clone()),
            vpc: vpc.map(|vpc| vpc.name.clone()),
            group: group.map(|group| group.name.clone()),
            list: match direction {
                Direction::Inbound => "inbound".to_owned(),
                Direction::Outbound => "outbound".to_owned(),
            },
            text,
        }
    }
}

/// The rules of interfaces, as long as one policy is in force.
#[derive(Default)]
pub struct RulesOf {
    /// Whose view they are of.
    view: Option<Arc<View>>,
    rules: BTreeMap<(u32, bool), Vec<Known>>,
}

impl RulesOf {
    /// Every rule that allows the packet; none if the device is not the policy's.
    pub fn allowing(
        &mut self,
        view: &Arc<View>,
        ifindex: u32,
        direction: Direction,
        seen: &Seen,
    ) -> Vec<&Known> {
        if !self.view.as_ref().is_some_and(|known| Arc::ptr_eq(known, view)) {
            self.rules.clear();
            self.view = Some(Arc::clone(view));
        }
        let (Some(interface), Some(tuple)) = (view.interface(ifindex), tuple_of(direction, seen)) else {
            return Vec::new();
        };
        let rules = self
            .rules
            .entry((ifindex, direction == Direction::Outbound))
            .or_insert_with(|| of_interface(&view.model, interface, direction));
        let policy = Policy { model: &view.model, image: &view.image };
        rules.iter().filter(|known| Fit::of(&known.rule, &tuple, policy, interface).allows()).collect()
    }
}

fn of_interface(model: &Model, interface: &Interface, direction: Direction) -> Vec<Known> {
    let rules = rules::of_interface(model, interface, direction);
    rules.into_iter().map(|rule| Known::new(model, rule, direction)).collect()
}

fn tuple_of(direction: Direction, seen: &Seen) -> Option<Tuple> {
    let (_, remote) = seen.local_and_remote(direction);
    Some(Tuple {
        direction,
        protocol: seen.protocol?,
        remote: remote?,
        port: seen.ports.map(|(_, destination)| destination),
        icmp: seen.icmp,
    })
}

/// A rule that stands in one of two policies alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Other {
    Gone(RuleKey),
    Come(RuleKey),
}

/// So many rules at most are looked for in the whole list of the other policy.
const MOST_OTHERS: usize = 64;

/// What [`every`] says of a policy and not of the one before it, but for places and descriptions. `None` if more is different than
/// a few rules of lists that are written, and not empty, in both.
pub fn others(old: &Model, new: &Model) -> Option<Vec<Other>> {
    let has_host = |model: &Model| model.interfaces.iter().any(|interface| interface.role == Role::Host);
    let same_frame = old.settings == new.settings
        && old.vpcs == new.vpcs
        && has_host(old) == has_host(new)
        && same_names(old, new);
    let pairs = same_frame.then(|| old.groups.iter().zip(&new.groups))?;
    let mut others = Vec::new();
    for (before, after) in pairs {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let [was, is] = [before, after].map(|group| rules::list(group, direction));
            if same_rules(was, is) {
                continue;
            }
            let (Rules::Written(was), Rules::Written(is)) = (was, is) else { return None };
            if was.is_empty() || is.is_empty() {
                return None;
            }
            let [gone, come] = same::others([was, is], |one, other| said(one) == said(other));
            if gone.len() + come.len() > MOST_OTHERS {
                return None;
            }
            let key = |rule: &Rule| {
                let text = words(new, rule.protocol, rule.remote, &rule.matches, direction);
                RuleKey::new(new, Some(after), direction, text)
            };
            let only = |rules: &[Rule], others: &[Rule]| -> Vec<RuleKey> {
                let in_others = |rule: &&Rule| others.iter().any(|other| said(other) == said(rule));
                rules.iter().filter(|rule| !in_others(rule)).map(key).collect()
            };
            others.extend(only(gone, is).into_iter().map(Other::Gone));
            others.extend(only(come, was).into_iter().map(Other::Come));
        }
    }
    Some(others)
}

/// Every rule of the policy, attached to an interface or not, in the order of the files.
pub fn every(model: &Model) -> Vec<(Direction, Known)> {
    let mut every: Vec<(Direction, Known)> = Vec::new();
    let mut seen = HashSet::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        for rule in rules::of_model(model, direction) {
            let known = Known::new(model, rule, direction);
            if seen.insert(Arc::clone(&known.key)) {
                every.push((direction, known));
            }
        }
    }
    every
}
