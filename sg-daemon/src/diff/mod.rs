//! What one policy says that another does not. Pure.
//!
//! Compared is what is enforced, by name: order, layout, descriptions and the split into files do not count.

mod settings;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::model::{Enforcement, Group, Interface, Model, Peer, Rule, Rules, Source, Vpc, VpcId};
use crate::policy::same::{said, same_names, same_rules};
use words::{addresses, group_names, list, rule_words, seconds};

/// What has happened to a part of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Added,
    Removed,
    Changed,
}

/// A kind of part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Setting,
    Vpc,
    Group,
    /// Of the group that `name` names.
    Rule,
    Interface,
    Peer,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    pub file: String,
    pub line: u32,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    pub what: What,
    pub part: Part,
    /// `project/vpc`, or the project alone for its `default`; empty for settings and interfaces.
    pub scope: String,
    /// Of the group, interface, peer (its address) or setting.
    pub name: String,
    /// Of rules: `inbound` or `outbound`. Of interfaces, peers, groups and VPCs: which field has changed.
    pub field: Option<String>,
    /// What it was and is, in words; `None` where there was or is nothing.
    pub before: Option<String>,
    pub after: Option<String>,
    /// Where it stands, in the new policy if it is there, else in the old one.
    pub at: Option<Place>,
}

/// All differences from one policy to another, in a fixed order.
pub fn diff(old: &Model, new: &Model) -> Vec<Change> {
    let mut diff = Diff { old, new, same_ids: same_names(old, new), changes: Vec::new() };
    diff.settings();
    diff.vpcs();
    diff.groups();
    diff.interfaces();
    diff.peers();
    diff.changes
}

struct Diff<'m> {
    old: &'m Model,
    new: &'m Model,
    /// Whether groups and VPCs have the same ids in both.
    same_ids: bool,
    changes: Vec<Change>,
}

/// One side of a comparison: a value in words, and where it stands.
type Side = Option<(String, Option<Place>)>;

impl Diff<'_> {
    fn add(&mut self, part: Part, scope: &str, name: &str, field: Option<&str>, before: Side, after: Side) {
        let what = match (&before, &after) {
            (None, _) => What::Added,
            (_, None) => What::Removed,
            _ => What::Changed,
        };
        let place = |side: &Side| side.as_ref().and_then(|(_, place)| place.clone());
        let at = place(&after).or_else(|| place(&before));
        self.changes.push(Change {
            what,
            part,
            scope: scope.to_owned(),
            name: name.to_owned(),
            field: field.map(str::to_owned),
            before: before.map(|(words, _)| words),
            after: after.map(|(words, _)| words),
            at,
        });
    }

    /// The fields of which the values differ.
    fn fields(
        &mut self,
        part: Part,
        scope: &str,
        name: &str,
        fields: &[(&str, String, String)],
        at: Option<&Place>,
    ) {
        for (field, before, after) in fields {
            if before != after {
                let side = |words: &String| Some((words.clone(), at.cloned()));
                self.add(part, scope, name, Some(field), side(before), side(after));
            }
        }
    }

    fn settings(&mut self) {
        if self.old.settings == self.new.settings {
            return;
        }
        let (old, new) = (settings::words(self.old), settings::words(self.new));
        for ((name, before), (_, after)) in old.into_iter().zip(new) {
            if before != after {
                self.add(Part::Setting, "", &name, None, Some((before, None)), Some((after, None)));
            }
        }
    }

    fn vpcs(&mut self) {
        let by_name = |model: &Model| -> BTreeMap<String, bool> {
            model.vpcs.iter().map(|vpc| (scope_of(vpc), vpc.ipv6)).collect()
        };
        let (old, new) = (by_name(self.old), by_name(self.new));
        for (scope, ipv6) in pairs(&old, &new) {
            if let (Some(before), Some(after)) = ipv6 {
                let fields = [("ipv6", before.to_string(), after.to_string())];
                self.fields(Part::Vpc, scope, scope, &fields, None);
            } else {
                let side = |ipv6: Option<&bool>| ipv6.map(|ipv6| (format!("ipv6 {ipv6}"), None));
                self.add(Part::Vpc, scope, scope, None, side(ipv6.0), side(ipv6.1));
            }
        }
    }

    fn groups(&mut self) {
        let is_other = |index: usize| {
            let sides = (self.old.groups.get(index), self.new.groups.get(index));
            !(self.same_ids && matches!(sides, (Some(before), Some(after)) if same_group(before, after)))
        };
        let by_name = |model: &'_ Model| -> BTreeMap<(String, String), usize> {
            let groups = model.groups.iter().enumerate().filter(|(index, _)| is_other(*index));
            groups.map(|(index, group)| ((group_scope(model, group), group.name.clone()), index)).collect()
        };
        let (old, new) = (by_name(self.old), by_name(self.new));
        for ((scope, name), (before, after)) in pairs(&old, &new) {
            let before = before.and_then(|&index| self.old.groups.get(index));
            let after = after.and_then(|&index| self.new.groups.get(index));
            let place = |model: &Model, group: Option<&Group>| {
                group.and_then(|group| group.source).and_then(|source| place(model, source))
            };
            let at = (place(self.old, before), place(self.new, after));
            if before.is_none() || after.is_none() {
                let side = |group: Option<&Group>, at: &Option<Place>| {
                    group.map(|group| (summary(group), at.clone()))
                };
                self.add(Part::Group, scope, name, None, side(before, &at.0), side(after, &at.1));
            }
            if let (Some(before), Some(after)) = (before, after) {
                let fields: Vec<_> = group_fields(before)
                    .into_iter()
                    .zip(group_fields(after))
                    .map(|((field, was), (_, is))| (field, was, is))
                    .collect();
                self.fields(Part::Group, scope, name, &fields, at.1.as_ref());
            }
            for (field, of) in DIRECTIONS {
                let sides = (before.map(*of), after.map(*of));
                if let (Some(was), Some(is)) = sides {
                    let fields = [(*field, kind(was).to_owned(), kind(is).to_owned())];
                    self.fields(Part::Group, scope, name, &fields, at.1.as_ref());
                }
                self.rules(scope, name, field, [before.zip(sides.0), after.zip(sides.1)]);
            }
        }
    }

    /// Rules have no names: those of equal words are one.
    fn rules(&mut self, scope: &str, group: &str, field: &str, sides: [Option<(&Group, &Rules)>; 2]) {
        if let (true, [Some((_, before)), Some((_, after))]) = (self.same_ids, sides)
            && same_rules(before, after)
        {
            return;
        }
        fn written<'r>(side: Option<(&Group, &'r Rules)>) -> &'r [Rule] {
            match side {
                Some((_, Rules::Written(rules))) => rules,
                _ => &[],
            }
        }
        let [mut before, mut after] = sides.map(written);
        if self.same_ids {
            // What both begin with says the same in words.
            let same = |(one, other): &(&Rule, &Rule)| said(one) == said(other);
            let front = before.iter().zip(after).take_while(same).count();
            (before, after) =
                (before.get(front..).unwrap_or_default(), after.get(front..).unwrap_or_default());
        }
        let in_words = |model: &Model, side: Option<(&Group, &Rules)>, rules: &[Rule]| {
            let mut by_words: BTreeMap<String, Vec<Option<Place>>> = BTreeMap::new();
            for rule in rules {
                let at = side.and_then(|(group, _)| place(model, group.source_of(rule)));
                by_words.entry(rule_words(model, rule, field)).or_default().push(at);
            }
            by_words
        };
        let [was, is] = sides;
        let (old, new) = (in_words(self.old, was, before), in_words(self.new, is, after));
        for (words, (before, after)) in pairs(&old, &new) {
            let (before, after) =
                (before.map_or(&[][..], Vec::as_slice), after.map_or(&[][..], Vec::as_slice));
            let side = |at: &Option<Place>| Some((words.clone(), at.clone()));
            for at in before.iter().skip(after.len()) {
                self.add(Part::Rule, scope, group, Some(field), side(at), None);
            }
            for at in after.iter().skip(before.len()) {
                self.add(Part::Rule, scope, group, Some(field), None, side(at));
            }
        }
    }

    fn interfaces(&mut self) {
        let (old, new) = (self.old, self.new);
        let by_name = |model: &'_ Model| -> BTreeMap<String, usize> {
            model.interfaces.iter().enumerate().map(|(index, found)| (found.name.clone(), index)).collect()
        };
        for (name, (before, after)) in pairs(&by_name(old), &by_name(new)) {
            let before = before.and_then(|&index| old.interfaces.get(index));
            let after = after.and_then(|&index| new.interfaces.get(index));
            if let (Some(before), Some(after)) = (before, after) {
                let fields: Vec<_> = interface_fields(old, before)
                    .into_iter()
                    .zip(interface_fields(new, after))
                    .map(|((field, was), (_, is))| (field, was, is))
                    .collect();
                self.fields(Part::Interface, "", name, &fields, place(new, after.source).as_ref());
            } else {
                let side = |model: &Model, found: Option<&Interface>| {
                    found.map(|found| {
                        let groups = group_names(model, &found.groups);
                        (format!("{} with {groups}", addresses(&found.addresses)), place(model, found.source))
                    })
                };
                self.add(Part::Interface, "", name, None, side(old, before), side(new, after));
            }
        }
    }

    fn peers(&mut self) {
        let (old, new) = (self.old, self.new);
        let [before, after] = if self.same_ids {
            old.peers.others(&new.peers)
        } else {
            [old, new].map(|model| model.peers.iter().collect())
        };
        fn by_name<'p>(model: &Model, peers: Vec<&'p Peer>) -> BTreeMap<(String, IpAddr), &'p Peer> {
            peers.into_iter().map(|peer| ((vpc_scope(model, peer.vpc), peer.address), peer)).collect()
        }
        for ((scope, address), (before, after)) in pairs(&by_name(old, before), &by_name(new, after)) {
            let side = |model: &Model, peer: Option<&&Peer>| {
                peer.map(|peer| (group_names(model, &peer.groups), place(model, peer.source)))
            };
            let (before, after) = (side(old, before), side(new, after));
            let words = |side: &Side| side.as_ref().map(|(words, _)| words.clone());
            if words(&before) != words(&after) {
                let field = (before.is_some() && after.is_some()).then_some("security_groups");
                self.add(Part::Peer, scope, &address.to_string(), field, before, after);
            }
        }
    }
}

type List = fn(&Group) -> &Rules;

/// The lists of rules of a group.
const DIRECTIONS: &[(&str, List)] =
    &[("inbound", |group| &group.inbound), ("outbound", |group| &group.outbound)];

/// Every key of either map, in order, with what the two maps have under it.
fn pairs<'m, K: Ord, V>(
    old: &'m BTreeMap<K, V>,
    new: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = (&'m K, (Option<&'m V>, Option<&'m V>))> {
    let mut all: BTreeMap<&K, (Option<&V>, Option<&V>)> =
        old.iter().map(|(key, value)| (key, (Some(value), None))).collect();
    for (key, value) in new {
        all.entry(key).or_default().1 = Some(value);
    }
    all.into_iter()
}

fn place(model: &Model, source: Source) -> Option<Place> {
    let file = model.files.get(source.file.0)?.display().to_string();
    Some(Place { file, line: source.line })
}

fn scope_of(vpc: &Vpc) -> String {
    format!("{}/{}", vpc.project, vpc.name)
}

fn vpc_scope(model: &Model, id: VpcId) -> String {
    model.vpcs.get(id.0).map_or_else(String::new, scope_of)
}

fn group_scope(model: &Model, group: &Group) -> String {
    group.vpc.map_or_else(|| group.project.clone(), |id| vpc_scope(model, id))
}

const fn kind(rules: &Rules) -> &'static str {
    match rules {
        Rules::Implied => "not written: the standard rules",
        Rules::Written(_) => "written",
    }
}

fn summary(group: &Group) -> String {
    let count = |rules: &Rules| match rules {
        Rules::Implied => "the standard rules".to_owned(),
        Rules::Written(rules) => {
            format!("{} rule{}", rules.len(), if rules.len() == 1 { "" } else { "s" })
        }
    };
    format!("inbound {}, outbound {}", count(&group.inbound), count(&group.outbound))
}

// Taken apart without `..`: a field that is new must be compared too.
fn interface_fields(model: &Model, interface: &Interface) -> Vec<(&'static str, String)> {
    let Interface {
        name: _,
        instance,
        kind,
        role,
        hook,
        mac,
        trunk,
        fast_path,
        addresses: own,
        allowed_addresses,
        groups: _,
        vpc,
        timeouts,
        enforcement,
        source: _,
    } = interface;
    let mac = mac.map_or_else(|| "any".to_owned(), |mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let mut fields = vec![
        ("vpc", vpc_scope(model, *vpc)),
        ("instance", instance.clone()),
        ("kind", words::json(kind)),
        ("role", words::json(role)),
        ("hook", words::json(hook)),
        ("mac", mac),
        ("trunk", trunk.to_string()),
        ("fast_path", fast_path.to_string()),
        ("addresses", addresses(own)),
        ("allowed_addresses", addresses(allowed_addresses)),
        ("security_groups", list(&sorted_groups(model, interface))),
        ("enforcement", words::json(enforcement)),
    ];
    fields.extend(seconds(timeouts));
    fields
}

/// What is no list of rules.
fn group_fields(group: &Group) -> Vec<(&'static str, String)> {
    let (include_allowed_addresses, enforcement) = no_lists(group);
    vec![
        ("include_allowed_addresses", include_allowed_addresses.to_string()),
        ("enforcement", words::json(&enforcement)),
    ]
}

fn no_lists(group: &Group) -> (bool, Enforcement) {
    let Group {
        name: _,
        project: _,
        vpc: _,
        // Nothing that is enforced.
        description: _,
        inbound: _,
        outbound: _,
        include_allowed_addresses,
        enforcement,
        source: _,
    } = group;
    (*include_allowed_addresses, *enforcement)
}

/// Whether there is nothing to tell of a group, where ids mean the same.
fn same_group(before: &Group, after: &Group) -> bool {
    no_lists(before) == no_lists(after) && DIRECTIONS.iter().all(|(_, of)| same_rules(of(before), of(after)))
}

/// The order of an interface's groups means nothing (K8).
fn sorted_groups(model: &Model, interface: &Interface) -> Vec<String> {
    let mut names: Vec<String> =
        interface.groups.iter().filter_map(|id| Some(model.groups.get(id.0)?.name.clone())).collect();
    names.sort();
    names
}
