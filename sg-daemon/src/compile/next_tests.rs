use proptest::prelude::*;
use serde_json::{Value, json};

use super::{compile, compile_next};
use crate::policy;
use crate::policy::model::Model;
use std::sync::Arc;

/// Networks inside of each other, and the metadata reservation's.
const REMOTES: [&str; 14] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "10.2.0.0/16",
    "169.254.0.0/16",
    "169.254.169.0/24",
    "169.254.169.254/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "@webs",
    "@apps",
];

#[derive(Debug, Clone, Copy)]
struct Rule(usize, u8);

/// The rules of two directions; without a list the implied ones.
type Group = [Option<Vec<Rule>>; 2];

fn rule(Rule(remote, what): Rule, direction: &str) -> Value {
    let (protocol, port) = match what {
        0 => ("ALL", json!("ALL")),
        1 => ("UDP", json!("53")),
        2 => ("TCP", json!("79-81")),
        more => ("TCP", json!(more)),
    };
    json!({ "protocol": protocol, direction: REMOTES[remote], "port": port })
}

fn written(name: &str, lists: &Group) -> Value {
    let mut group = json!({ "name": name });
    for ((field, remote), rules) in
        [("inbound", "source"), ("outbound", "destination")].into_iter().zip(lists)
    {
        if let Some(rules) = rules {
            group[field] = rules.iter().map(|one| rule(*one, remote)).collect();
        }
    }
    group
}

/// The last group is another VPC's, where one of the others has its name, and where `default` is seen too.
fn model([default, webs, apps, others]: &[Group; 4], role: bool) -> Arc<Model> {
    let groups = [written("default", default), written("webs", webs), written("apps", apps)];
    let role = if role { "host" } else { "guest" };
    let document = json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true, "security_groups": groups,
        "interfaces": [
            { "name": "tap0", "addresses": ["10.1.2.3"], "security_groups": ["webs", "apps"] },
            { "name": "tap1", "addresses": ["10.1.2.4"], "security_groups": ["default"] },
            { "name": "tap2", "role": role, "addresses": ["10.1.2.5"], "security_groups": ["apps", "default", "webs"] },
        ],
    });
    let other = json!({
        "version": 1, "project": "shop", "vpc": "edge", "security_groups": [written("webs", others), { "name": "apps" }],
        "interfaces": [{ "name": "tap3", "addresses": ["10.1.2.6"], "security_groups": ["webs", "default"] }],
    });
    let files = [("p.json", document), ("q.json", other)];
    let files = files.map(|(name, document)| (name.into(), document.to_string().into_bytes()));
    policy::load_bytes(files).unwrap().model
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec((0..REMOTES.len(), 0..5u8).prop_map(|(remote, what)| Rule(remote, what)), 0..10)
}

fn group() -> impl Strategy<Value = Group> {
    [prop::option::weighted(0.8, rules()), prop::option::weighted(0.8, rules())]
}

#[derive(Debug, Clone)]
enum Change {
    Add(usize, usize, Rule),
    Remove(usize, usize, prop::sample::Index),
    List(usize, usize, Option<Vec<Rule>>),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || (0..4usize, 0..2usize);
    prop_oneof![
        4 => (at(), 0..REMOTES.len(), 0..5u8).prop_map(|((group, list), remote, what)| Change::Add(group, list, Rule(remote, what))),
        4 => (at(), any::<prop::sample::Index>()).prop_map(|((group, list), index)| Change::Remove(group, list, index)),
        1 => (at(), prop::option::of(rules())).prop_map(|((group, list), rules)| Change::List(group, list, rules)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_policy_after_another_one_is_what_it_is_from_nothing(
        first in [group(), group(), group(), group()],
        host in any::<bool>(),
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut groups = first;
        let mut before = model(&groups, host);
        let mut image = compile(&before);
        for change in changes {
            match change {
                Change::Add(group, list, rule) => groups[group][list].get_or_insert_default().push(rule),
                Change::Remove(group, list, index) => {
                    if let Some(rules) = groups[group][list].as_mut().filter(|rules| !rules.is_empty()) {
                        rules.remove(index.index(rules.len()));
                    }
                }
                Change::List(group, list, rules) => groups[group][list] = rules,
            }
            let after = model(&groups, host);
            let next = compile_next(&after, (&before, &image));
            prop_assert_eq!(&next, &compile(&after));
            (before, image) = (after, next);
        }
    }
}
