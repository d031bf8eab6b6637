//! What two policies have in common, found without a look at every name: ids are indexes, so where both have the same names in
//! the same order they mean the same.

use super::model::{Group, Match, Model, Peer, Protocol, Remote, Rule, Rules};

/// Whether each id means the same VPC and the same group in both models.
pub(crate) fn same_names(one: &Model, other: &Model) -> bool {
    let group = |(group, other): (&Group, &Group)| {
        (&group.name, &group.project, group.vpc) == (&other.name, &other.project, other.vpc)
    };
    let mut vpcs = one.vpcs.iter().zip(&other.vpcs);
    one.vpcs.len() == other.vpcs.len()
        && vpcs.all(|(vpc, other)| (&vpc.project, &vpc.name) == (&other.project, &other.name))
        && one.groups.len() == other.groups.len()
        && one.groups.iter().zip(&other.groups).all(group)
}

/// Whether two lists of rules allow the same in the same order, if ids mean the same. Descriptions and places do not count.
pub(crate) fn same_rules(one: &Rules, other: &Rules) -> bool {
    fn said(rule: &Rule) -> (Protocol, Remote, &Match) {
        (rule.protocol, rule.remote, &rule.matches)
    }
    match (one, other) {
        (Rules::Implied, Rules::Implied) => true,
        (Rules::Written(one), Rules::Written(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| said(one) == said(other))
        }
        _ => false,
    }
}

/// What is between the peers with which both lists begin and those with which they end, if ids mean the same.
pub(crate) fn other_peers<'p>(old: &'p [Peer], new: &'p [Peer]) -> (&'p [Peer], &'p [Peer]) {
    let same = |(one, other): &(&Peer, &Peer)| {
        one.address == other.address && one.vpc == other.vpc && one.groups == other.groups
    };
    let front = old.iter().zip(new).take_while(same).count();
    let (old, new) = (old.get(front..).unwrap_or_default(), new.get(front..).unwrap_or_default());
    let back = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let rest = |peers: &'p [Peer]| peers.get(..peers.len() - back).unwrap_or_default();
    (rest(old), rest(new))
}
