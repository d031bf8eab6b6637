//! Which rules in force let connections begin, asked of very many of them. The kernel does not remember the rule that did.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::abi::Direction;
use sg_common::packet::protocol;

use crate::compile::fit::{Fit, Policy, Tuple};
use crate::compile::image::Image;
use crate::compile::rules::{self, Effective, Origin};
use crate::explain::rule_id;
use crate::kernel::FlowEntry;
use crate::policy::model::{Interface, Model};

/// The rules of each interface, with the indexes of their names and of their groups' names.
pub struct Rulebook {
    model: Arc<Model>,
    image: Arc<Image>,
    /// By the view's index of interfaces: that of the model, and the rules inbound and outbound.
    interfaces: Vec<Option<(usize, [Vec<Known>; 2])>>,
    names: Names,
}

struct Known {
    rule: Effective,
    told: Rule,
}

/// A rule as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub name: u32,
    /// None of rules of the settings.
    pub group: Option<u32>,
}

#[derive(Default)]
struct Names {
    names: Vec<String>,
    indexes: HashMap<String, u32>,
}

impl Names {
    fn index(&mut self, name: String) -> u32 {
        let next = self.names.len() as u32;
        *self.indexes.entry(name).or_insert_with_key(|name| {
            self.names.push(name.clone());
            next
        })
    }
}

impl Rulebook {
    pub fn new(model: Arc<Model>, image: Arc<Image>, devices: &[String]) -> Self {
        let mut names = Names::default();
        let interfaces = devices.iter().map(|name| {
            let at = model.interfaces.iter().position(|interface| interface.name == *name)?;
            let interface = model.interfaces.get(at)?;
            let rules = [Direction::Inbound, Direction::Outbound].map(|direction| {
                let rules = rules::of_interface(&model, interface, direction).into_iter();
                rules.map(|rule| Known { told: told(&model, &rule, direction, &mut names), rule }).collect()
            });
            Some((at, rules))
        });
        let interfaces = interfaces.collect();
        Self { model, image, interfaces, names }
    }

    pub fn name(&self, index: u32) -> &str {
        self.names.names.get(index as usize).map_or("", String::as_str)
    }

    /// The rules that would let a flow of the interface begin now, each once.
    pub fn allowing(&self, interface: u32, flow: &FlowEntry) -> Vec<Rule> {
        let mut allowing = Vec::new();
        let Some(Some((at, rules))) = self.interfaces.get(interface as usize) else { return allowing };
        let Some(interface) = self.model.interfaces.get(*at) else { return allowing };
        let [inbound, outbound] = rules;
        let rules = if flow.origin == Direction::Inbound { inbound } else { outbound };
        let (policy, first) = (Policy { model: &self.model, image: &self.image }, first(flow));
        for known in rules.iter().filter(|known| fits(known, &first, policy, interface)) {
            if !allowing.contains(&known.told) {
                allowing.push(known.told);
            }
        }
        allowing
    }
}

fn fits(known: &Known, first: &Tuple, policy: Policy<'_>, interface: &Interface) -> bool {
    Fit::of(&known.rule, first, policy, interface).allows()
}

fn told(model: &Model, rule: &Effective, direction: Direction, names: &mut Names) -> Rule {
    let group = match rule.origin {
        Origin::Written { group, .. } | Origin::Implied { group } => model.groups.get(group.0),
        Origin::Failsafe | Origin::MetadataExempt => None,
    };
    Rule {
        name: names.index(rule_id(model, rule, direction)),
        group: group.map(|group| names.index(group.name.clone())),
    }
}

/// What began the flow. Of a query the code is taken for 0, as all have it.
fn first(flow: &FlowEntry) -> Tuple {
    let is_icmp = flow.protocol == if flow.remote.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    let has_ports = matches!(flow.protocol, protocol::TCP | protocol::UDP);
    Tuple {
        direction: flow.origin,
        protocol: flow.protocol,
        remote: flow.remote,
        port: has_ports.then(|| flow.number()),
        icmp: is_icmp.then(|| ((flow.number() >> 8) as u8, 0)),
    }
}
