use std::time::Duration;

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
