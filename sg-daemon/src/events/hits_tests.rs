use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn key(text: &str) -> Arc<RuleKey> {
    Arc::new(RuleKey {
        project: "shop".into(),
        vpc: Some("main".into()),
        group: Some("web".into()),
        list: "inbound".into(),
        text: text.into(),
    })
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn every_rule_that_allows_a_packet_is_credited_and_what_none_does_is_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut hits = Hits::load(dir.path());
    let (ssh, all) = (key("TCP port 22 from 0.0.0.0/0"), key("ALL from 10.0.0.0/8"));
    hits.count([&ssh, &all].into_iter(), at(10));
    hits.count([&all].into_iter(), at(20));
    hits.count(std::iter::empty(), at(30));
    hits.lost_so_far(5);
    hits.lost_so_far(7);
    assert_eq!(hits.counts[&ssh], Count { hits: 1, last_hit: Some(10), since: 10 });
    assert_eq!(hits.counts[&all], Count { hits: 2, last_hit: Some(20), since: 10 });
    assert_eq!(hits.unattributed, 8);
}

#[test]
fn counts_are_there_after_a_restart_and_a_file_that_is_none_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut hits = Hits::load(dir.path());
    let ssh = key("TCP port 22 from 0.0.0.0/0");
    hits.count([&ssh].into_iter(), at(10));
    hits.lost_so_far(5);
    hits.save();
    let mut hits = Hits::load(dir.path());
    assert_eq!((hits.counts[&ssh].hits, hits.unattributed), (1, 5));
    // What was lost meanwhile is added; in new maps the kernel's count begins anew.
    hits.lost_so_far(8);
    assert_eq!(hits.unattributed, 8);
    hits.lost_so_far(2);
    assert_eq!(hits.unattributed, 10);
    hits.count([&ssh].into_iter(), at(9));
    assert_eq!(hits.counts[&ssh], Count { hits: 2, last_hit: Some(10), since: 10 });
    fs::write(dir.path().join("rule-hits.json"), "{").unwrap();
    let hits = Hits::load(dir.path());
    assert_eq!((hits.counts.len(), hits.unattributed), (0, 0));
    assert_eq!(fs::read_to_string(dir.path().join("rule-hits.json.bad")).unwrap(), "{");
}

fn of_group(group: &str, list: &str, text: &str) -> Arc<RuleKey> {
    Arc::new(RuleKey { group: Some(group.into()), list: list.into(), ..(*key(text)).clone() })
}

fn told(hits: &Hits) -> Vec<(String, u64)> {
    let groups = hits.summary().groups.into_iter();
    groups.map(|(key, count)| (format!("{} {}", key.group, key.list), count)).collect()
}

#[test]
fn a_group_is_counted_once_for_a_packet_and_its_number_never_falls() {
    let dir = tempfile::tempdir().unwrap();
    let mut hits = Hits::load(dir.path());
    let (ssh, all) = (of_group("web", "inbound", "ssh"), of_group("web", "inbound", "all"));
    let out = of_group("web", "outbound", "all");
    let bastion = of_group("bastion", "inbound", "ssh");
    let rules = [&ssh, &all, &out, &bastion];
    hits.follow_groups(rules.into_iter());
    hits.count([&ssh, &all].into_iter(), at(10));
    hits.count([&all, &bastion].into_iter(), at(10));
    hits.count([&out].into_iter(), at(10));
    hits.count(std::iter::empty(), at(10));
    let of = |name: &str, count| (name.to_owned(), count);
    assert_eq!(told(&hits), [of("bastion inbound", 1), of("web inbound", 2), of("web outbound", 1)]);
    // A rule goes, the group stays: its number too. A group goes: so does its number.
    hits.follow_groups([&all, &out].into_iter());
    assert_eq!(told(&hits), [of("web inbound", 2), of("web outbound", 1)]);
    // What is allowed by rules that are not in force any more is counted with those beyond the bound.
    hits.count([&bastion].into_iter(), at(11));
    assert_eq!((told(&hits).len(), hits.summary().others), (2, [1, 0]));
    hits.follow_groups(rules.into_iter());
    assert_eq!(told(&hits), [of("bastion inbound", 0), of("web inbound", 2), of("web outbound", 1)]);
}

#[test]
fn there_are_no_more_groups_than_their_bound_and_the_others_are_counted_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut hits = Hits::load(dir.path());
    let rules: Vec<_> =
        (0..MOST_GROUPS + 5).map(|number| of_group(&format!("g{number:05}"), "inbound", "ssh")).collect();
    hits.follow_groups(rules.iter());
    rules.iter().for_each(|rule| hits.count([rule].into_iter(), at(10)));
    let summary = hits.summary();
    assert_eq!((summary.groups.len(), summary.others), (MOST_GROUPS, [5, 0]));
    assert!(summary.groups.iter().all(|(_, count)| *count == 1));
    // Those without a number of their own stay so while there is no room, and begin at nothing when there is.
    hits.follow_groups(rules[1..].iter());
    hits.count([&rules[MOST_GROUPS]].into_iter(), at(10));
    let summary = hits.summary();
    assert_eq!((summary.groups.len(), summary.others), (MOST_GROUPS, [5, 0]));
    assert_eq!(summary.groups.last().map(|(key, count)| (key.group.as_str(), *count)), Some(("g01000", 1)));
}

fn policy(rules: &[Vec<(u16, u8)>]) -> Arc<Model> {
    let groups = rules.iter().enumerate().map(|(number, rules)| {
        let rules = rules.iter().map(|(port, kind)| match kind {
            0 => format!(r#"{{"protocol":"TCP","source":"10.0.0.0/8","port":{port}}}"#),
            1 => format!(r#"{{"protocol":"ICMP","source":"10.0.0.0/8","icmp_type":{port}}}"#),
            2 => format!(r#"{{"protocol":1,"source":"10.0.0.0/8","icmp_type":{port}}}"#),
            _ => format!(r#"{{"protocol":"UDP","source":"@default","port":{port}}}"#),
        });
        let rules = rules.collect::<Vec<_>>().join(",");
        format!(r#"{{"name":"group{number}","inbound":[{rules}]}}"#)
    });
    let groups = groups.collect::<Vec<_>>().join(",");
    let text = format!(r#"{{"version":1,"project":"shop","vpc":"main","security_groups":[{groups}]}}"#);
    crate::policy::load_bytes([("p.json".into(), text.into_bytes())]).unwrap().model
}

fn lists() -> impl Strategy<Value = Vec<Vec<(u16, u8)>>> {
    prop::collection::vec(prop::collection::vec((1..6u16, 0..4u8), 0..9), 2..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Of policies that follow one another only what differs is looked at: it comes to the same as a look at all of each.
    #[test]
    fn a_policy_that_follows_another_one_is_followed_as_if_it_were_the_first(
        first in lists(),
        changes in prop::collection::vec((0..3usize, 0..9usize, prop::option::of((1..6u16, 0..4u8))), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut hits = Hits::load(dir.path());
        let mut rules = first;
        let mut before: Option<Arc<Model>> = None;
        for (group, at, change) in changes {
            let model = policy(&rules);
            hits.follow(&model, before.as_deref());
            let mut anew = Hits::load(dir.path());
            anew.follow(&model, None);
            prop_assert_eq!(&hits.in_force, &anew.in_force);
            prop_assert_eq!(&hits.of_rules, &anew.of_rules);
            prop_assert_eq!(&hits.groups, &anew.groups);
            prop_assert!(anew.counts.keys().all(|key| hits.counts.contains_key(key)));
            before = Some(model);
            let group = group % rules.len();
            let list = &mut rules[group];
            match change {
                Some(rule) => list.insert(at.min(list.len()), rule),
                None if list.is_empty() => {}
                None => drop(list.remove(at % list.len())),
            }
        }
    }
}
