//! What two policies have in common, found without a look at every name: ids are indexes, so where both have the same names in
//! the same order they mean the same.

use super::model::{Group, Match, Model, Protocol, Remote, Rule, Rules};

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

/// Equal for rules that allow the same, if ids mean the same.
pub(crate) fn said(rule: &Rule) -> (Protocol, Remote, &Match) {
    (rule.protocol, rule.remote, &rule.matches)
}

/// Whether two lists of rules allow the same in the same order, if ids mean the same. Descriptions and places do not count.
pub(crate) fn same_rules(one: &Rules, other: &Rules) -> bool {
    match (one, other) {
        (Rules::Implied, Rules::Implied) => true,
        (Rules::Written(one), Rules::Written(other)) => {
            let mut pairs = one.iter().zip(other);
            one.is_same(other)
                || one.len() == other.len() && pairs.all(|(one, other)| said(one) == said(other))
        }
        _ => false,
    }
}

/// What is between the elements with which both lists begin and those with which they end.
pub(crate) fn others<T>(lists: [&[T]; 2], same: impl Fn(&T, &T) -> bool) -> [&[T]; 2] {
    let same = |(one, other): &(&T, &T)| same(one, other);
    let [before, after] = lists;
    let front = before.iter().zip(after).take_while(same).count();
    let [before, after] = lists.map(|list| list.get(front..).unwrap_or_default());
    let back = before.iter().rev().zip(after.iter().rev()).take_while(same).count();
    [before, after].map(|list| list.get(..list.len() - back).unwrap_or_default())
}
