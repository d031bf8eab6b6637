//! `sgctl rules`: what rules have allowed, and which nobody needs.

use serde_json::{Value, json};
use sg_tests::{Daemon, outside};

use crate::world::{World, allowed, ask, denied, interface, policy, tcp_from, wait};

fn two_groups(world: &World) -> String {
    policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80), tcp_from("203.0.113.0/24", 81)], "outbound": [] },
            { "name": "sqls", "inbound": [tcp_from("203.0.113.0/24", 1433)] },
        ],
        "interfaces": [interface(world.guest(0), &["webs"]), interface(world.guest(1), &["sqls"])],
    }))
}

/// Group, rule and hits.
fn rules(answer: &Value) -> Vec<(String, String, u64)> {
    let text = |rule: &Value, field: &str| rule[field].as_str().unwrap_or_default().to_owned();
    let rules = answer["rules"].as_array().unwrap().iter();
    rules.map(|rule| (text(rule, "group"), text(rule, "rule"), rule["hits"].as_u64().unwrap())).collect()
}

#[test]
fn rules_are_listed_with_their_hits_and_those_without_are_found() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &two_groups(&world)).unwrap();
    let web = world.guest(0);
    let _held: Vec<_> = (0..3).map(|_| world.hold(&world.tcp(outside::ADMIN, web.v4, 80))).collect();
    world.expect(&[
        denied(world.tcp(outside::STRANGER, web.v4, 80)),
        allowed(world.tcp(outside::ADMIN, world.guest(1).v4, 1433)),
    ]);
    let hits = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["rules", "--json"].into_iter().chain(arguments.iter().copied()).collect();
        rules(&ask(&daemon, &arguments, &[0]))
    };
    let rule = |group: &str, rule: &str, hits: u64| (group.to_owned(), rule.to_owned(), hits);
    wait("every hit is counted", || hits(&["--group", "sqls"]).contains(&rule("sqls", "inbound[0]", 1)));
    let of_webs = [rule("webs", "inbound[0]", 3), rule("webs", "inbound[1]", 0)];
    assert_eq!(hits(&["--group", "webs"]), of_webs);
    assert_eq!(hits(&["--interface", "tap0"]), of_webs);
    // What no file says cannot be taken out of one.
    assert!(hits(&[]).iter().any(|(group, _, hits)| group == "default" && *hits == 0));
    assert_eq!(hits(&["--unused"]), [rule("webs", "inbound[1]", 0)]);

    let output = daemon.sgctl(&["rules", "--unused"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("inbound[1]")).unwrap_or_else(|| panic!("{text}"));
    for words in ["webs", "TCP port 81 from 203.0.113.0/24", "never", "policy.json:"] {
        assert!(line.contains(words), "{words} in {line}");
    }
    assert!(text.contains("1 rule without a hit"), "{text}");
    for (arguments, words) in
        [(["--group", "wbes"], "did you mean \"webs\"?"), (["--interface", "tpa0"], "did you mean \"tap0\"?")]
    {
        let output = daemon.sgctl(&[&["rules"], &arguments[..]].concat()).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
    }
}
