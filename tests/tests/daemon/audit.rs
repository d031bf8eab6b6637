//! Audit mode as its operator sees it: what would be dropped passes, and is told.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sg_tests::{Daemon, outside};

use crate::world::{World, alive, allowed, denied, interface, policy, status_of, tcp_from, wait, with};

/// The guest serves port 80, and may ask nobody.
fn web(world: &World, interface_says: &str, group_says: &str) -> String {
    let group = json!({
        "name": "webs", "enforcement": group_says,
        "inbound": [tcp_from("203.0.113.0/24", 80)], "outbound": [],
    });
    policy(json!({
        "security_groups": [group],
        "interfaces": [with(interface(world.guest(0), &["webs"]), "enforcement", interface_says)],
    }))
}

fn run(daemon: &Daemon, words: &str) -> (Option<i32>, String) {
    let output = daemon.sgctl(&words.split(' ').collect::<Vec<_>>()).unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn number(of: &Value, direction: &str, name: &str) -> u64 {
    of[direction][name].as_u64().unwrap()
}

fn would_drop(status: &Value, direction: &str, reason: &str) -> u64 {
    let reasons = status[direction]["would_drop_reasons"].as_array().unwrap();
    let found = reasons.iter().find(|found| found["reason"] == reason);
    found.map_or(0, |found| found["packets"].as_u64().unwrap())
}

#[test]
fn spec_d24_audit_lets_everything_pass_and_says_what_it_would_have_dropped() {
    let world = World::new(1);
    let guest = world.guest(0);
    let daemon = Daemon::start(&world.site, &web(&world, "audit", "enforce")).unwrap();
    assert_eq!(status_of(&daemon, "tap0")["state"], "audit");
    let forbidden = [
        world.tcp(outside::ADMIN, guest.v4, 81),
        world.tcp(outside::STRANGER, guest.v4, 80),
        world.udp(guest.v4, outside::DNS, 53),
        world.ping(guest.v6, outside::DNS_V6),
    ];
    let rule = world.tcp(outside::ADMIN, guest.v4, 80);
    let mut rows: Vec<_> = forbidden.iter().cloned().map(allowed).collect();
    rows.push(allowed(rule.clone()));
    world.expect(&rows);
    let mut held = world.hold(&rule);

    let status = status_of(&daemon, "tap0");
    for direction in ["inbound", "outbound"] {
        let sum = |list: &str| -> u64 {
            let reasons = status[direction][list].as_array().unwrap();
            reasons.iter().map(|reason| reason["packets"].as_u64().unwrap()).sum()
        };
        assert_eq!(number(&status, direction, "dropped"), 0, "{status:#}");
        assert_eq!(number(&status, direction, "would_drop"), sum("would_drop_reasons"));
        assert_eq!(number(&status, direction, "allowed"), sum("reasons") + sum("would_drop_reasons"));
        // The answers to what would be dropped would be dropped too.
        assert!(would_drop(&status, direction, "no_rule") >= 4, "{status:#}");
    }
    let (code, text) = run(&daemon, "status");
    assert_eq!(code, Some(0));
    assert!(text.contains("IN AUDIT, nothing is dropped on: tap0"), "{text}");
    assert!(text.contains("AUDIT (NOTHING IS DROPPED)"), "{text}");
    assert!(text.contains("tap0 inbound, would be dropped: no_rule "), "{text}");

    let question = "explain --interface tap0 --direction inbound --protocol tcp --remote 203.0.113.10 --port";
    let (code, text) = run(&daemon, &format!("{question} 81"));
    assert_eq!(code, Some(0), "it passes");
    assert!(text.starts_with("would be denied (audit): "), "{text}");
    assert!(text.contains("no_rule") && text.contains("the interface says so"), "{text}");
    assert!(text.contains("to allow it, add to \"inbound\" of group \"webs\""), "{text}");
    assert!(run(&daemon, &format!("{question} 80")).1.starts_with("allowed"));
    let (code, text) = run(&daemon, &format!("check {}", daemon.policy_path().display()));
    assert_eq!(code, Some(0));
    assert!(text.contains("interface \"tap0\" is in audit (the interface says so)"), "{text}");

    // A group says it as well.
    let before = daemon.generation().unwrap();
    daemon.write_policy(&web(&world, "enforce", "audit")).unwrap();
    wait("the group says so", || {
        let (_, text) = run(&daemon, &format!("{question} 81"));
        text.contains("its group \"webs\" says so")
    });
    assert_eq!(daemon.generation().unwrap(), before, "to the kernel it is the same");
    world.expect(&[allowed(forbidden[0].clone())]);

    // And then it bites, for what is new and what had passed for audit's sake alone.
    daemon.apply(&web(&world, "enforce", "enforce")).unwrap();
    assert_eq!(status_of(&daemon, "tap0")["state"], "enforced");
    let rows: Vec<_> = forbidden.iter().cloned().map(denied).collect();
    world.expect(&rows);
    alive(&mut held);
    let after = status_of(&daemon, "tap0");
    assert!(number(&after, "inbound", "dropped") >= 2 && number(&after, "outbound", "dropped") >= 2);
    let (code, text) = run(&daemon, &format!("{question} 81"));
    assert!(code == Some(1) && text.starts_with("denied"), "{text}");
    assert!(!run(&daemon, "status").1.contains("IN AUDIT"));
}

#[test]
fn audit_drops_nothing_while_it_begins() {
    let world = World::new(1);
    let guest = world.guest(0);
    let address = std::net::SocketAddr::new(guest.v4, 0);
    let socket = guest.netns.run(|| UdpSocket::bind(address).unwrap()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = socket.send_to(b"?", (outside::DNS, 9));
                std::thread::yield_now();
            }
        });
        // Also if what follows fails.
        let _stop = Stop(&done);
        let daemon = Daemon::start(&world.site, &web(&world, "audit", "enforce")).unwrap();
        let many = |status: &Value| would_drop(status, "outbound", "no_rule") > 100;
        wait("packets are counted", || many(&status_of(&daemon, "tap0")));
        let status = status_of(&daemon, "tap0");
        for direction in ["inbound", "outbound"] {
            assert_eq!(number(&status, direction, "dropped"), 0, "{status:#}");
        }
    });
}

struct Stop<'d>(&'d AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
