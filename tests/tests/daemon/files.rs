//! Policy files that are bad, and what the daemon makes of them (SPEC D22).

use std::fs;

use aya::maps::{Array, Map, MapData};
use serde_json::json;
use sg_common::abi::{ABI_VERSION, Control, map};
use sg_tests::{Daemon, outside, patience};

use crate::world::{
    Row, World, alive, allowed, denied, interface, must_refuse, policy, refused, tcp_from, wait,
};

fn web_policy(world: &World, port: u16) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", port)], "outbound": [] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }))
}

/// Port 80 is open and nothing else is.
fn in_force(world: &World) -> [Row; 3] {
    let guest = world.guest(0);
    [
        allowed(world.tcp(outside::STRANGER, guest.v4, 80)),
        denied(world.tcp(outside::STRANGER, guest.v4, 81)),
        denied(world.tcp(guest.v4, outside::DNS, 80)),
    ]
}

#[test]
fn spec_d22_a_bad_file_weakens_nothing_and_is_named() {
    let world = World::new(1);
    let good = web_policy(&world, 80);
    let daemon = Daemon::start(&world.site, &good).unwrap();
    let mut held = world.hold(&world.tcp(outside::STRANGER, world.guest(0).v4, 80));

    // Valid JSON with a fault in a field, and JSON that ends too early: file, line, column and field.
    let port = good.replace("\"port\": 80", "\"port\": 80000");
    let (line, column) =
        port.lines().zip(1..).find_map(|(line, number)| Some((number, line.find("80000")? + 1))).unwrap();
    let place = format!("policy.json:{line}:{column}");
    must_refuse(&daemon, &port, &[&place, "security_groups[0].inbound[0].port", "80000"]);
    world.expect(&in_force(&world));
    let cut_short = &good[..good.len() / 2];
    must_refuse(&daemon, cut_short, &[&format!("policy.json:{}:", cut_short.lines().count())]);

    must_refuse(&daemon, "", &["policy.json"]);
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(4096)
    .collect();
    let before = refused(&daemon);
    fs::write(daemon.policy_path(), noise).unwrap();
    wait("the noise is refused", || refused(&daemon).is_some_and(|why| Some(&why) != before.as_ref()));
    let before = refused(&daemon);
    fs::write(daemon.policy_path(), "[".repeat(1_000_000)).unwrap();
    wait("the brackets are refused", || refused(&daemon).is_some_and(|why| Some(&why) != before.as_ref()));
    let before = refused(&daemon);
    fs::write(daemon.policy_path(), "{\"security_groups\": ".repeat(100_000)).unwrap();
    wait("the braces are refused", || refused(&daemon).is_some_and(|why| Some(&why) != before.as_ref()));
    world.expect(&in_force(&world));

    fs::remove_file(daemon.policy_path()).unwrap();
    wait("that the file is missing is said", || {
        refused(&daemon).is_some_and(|why| why.contains("No such file"))
    });
    world.expect(&in_force(&world));
    alive(&mut held);
    let status = daemon.sgctl(&["status"]).unwrap();
    assert_eq!(status.status.code(), Some(1), "not what the file says is in force");
    let status_json = daemon.sgctl(&["status", "--json"]).unwrap();
    assert_eq!(status_json.status.code(), Some(0), "programs read the field");
    assert!(String::from_utf8_lossy(&status.stdout).contains("No such file"));

    // The file is right again, and then says something new.
    daemon.write_policy(&good).unwrap();
    wait("all is well", || refused(&daemon).is_none());
    assert_eq!(daemon.sgctl(&["status"]).unwrap().status.code(), Some(0));
    world.expect(&in_force(&world));
    daemon.apply(&web_policy(&world, 81)).unwrap();
    world.expect(&[
        denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80)),
        allowed(world.tcp(outside::STRANGER, world.guest(0).v4, 81)),
    ]);
    alive(&mut held);
}

#[test]
fn spec_d22_a_daemon_that_starts_with_a_bad_file_uses_the_last_good_one() {
    let world = World::new(1);
    let good = web_policy(&world, 80);
    let mut daemon = Daemon::start(&world.site, &web_policy(&world, 81)).unwrap();
    daemon.apply(&good).unwrap();
    let mut held = world.hold(&world.tcp(outside::STRANGER, world.guest(0).v4, 80));
    let bad = good.replace("\"TCP\"", "\"TPC\"");
    for kill in [true, false] {
        if kill {
            daemon.kill();
        } else {
            daemon.terminate().unwrap();
        }
        if kill {
            daemon.write_policy(&bad).unwrap();
        } else {
            fs::remove_file(daemon.policy_path()).unwrap();
        }
        daemon.resume().unwrap();
        let why = refused(&daemon).unwrap();
        assert!(why.contains(if kill { "TPC" } else { "No such file" }), "{why}");
        assert!(daemon.log().contains("the last good policy is used"));
        world.expect(&in_force(&world));
        alive(&mut held);
    }
    // Gone from the kernel too, as after a boot: the copy is all there is.
    daemon.kill();
    fs::remove_dir_all(daemon.pin_dir().join(format!("v{ABI_VERSION}"))).unwrap();
    world.expect(&[allowed(world.tcp(outside::STRANGER, world.guest(0).v4, 81))]);
    daemon.resume().unwrap();
    world.expect(&in_force(&world));

    daemon.write_policy(&good).unwrap();
    wait("the file is right again", || refused(&daemon).is_none());
    world.expect(&in_force(&world));
}

#[test]
fn spec_d22_without_any_good_policy_the_daemon_does_not_start_and_changes_nothing() {
    let world = World::new(1);
    let good = web_policy(&world, 80);
    let mut daemon = Daemon::start(&world.site, &good).unwrap();
    let mut held = world.hold(&world.tcp(outside::STRANGER, world.guest(0).v4, 80));
    daemon.terminate().unwrap();
    fs::remove_dir_all(daemon.state_dir().join("last-good")).unwrap();
    daemon.write_policy("{}").unwrap();
    let error = daemon.resume().unwrap_err().to_string();
    assert!(error.contains("sgd ended") && error.contains("policy.json:1:1"), "{error}");
    world.expect(&in_force(&world));
    alive(&mut held);
    daemon.kill(); // only the lab's note of it
    daemon.write_policy(&good).unwrap();
    daemon.resume().unwrap();
    world.expect(&in_force(&world));
    alive(&mut held);
}

#[test]
fn spec_d22_of_many_quick_edits_the_last_one_counts() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &web_policy(&world, 80)).unwrap();
    for round in 0..20u16 {
        let text = if round % 3 == 0 { "{".to_owned() } else { web_policy(&world, 8000 + round) };
        fs::write(daemon.policy_path(), text).unwrap();
    }
    let last = web_policy(&world, 81);
    daemon.write_policy(&last).unwrap();
    wait("the last file is in force", || {
        world.tcp(outside::STRANGER, world.guest(0).v4, 81).run(patience::DENIED).unwrap()
            != sg_tests::Outcome::TimedOut
    });
    wait("no fault is left", || refused(&daemon).is_none());
    world.expect(&[denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80))]);
}

/// The copy is what was put in force, not what the file says by then.
#[test]
fn spec_d22_the_last_good_copy_is_never_a_bad_file() {
    let world = World::new(1);
    let big = |port: u16| {
        let groups: Vec<_> = (0..90)
            .map(|group| {
                let rules: Vec<_> =
                    (0..100).map(|rule| tcp_from(&format!("10.{group}.{rule}.0/24"), port)).collect();
                json!({ "name": format!("group-{group}"), "inbound": rules })
            })
            .collect();
        let names: Vec<String> = (0..5).map(|group| format!("group-{group}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let interface = interface(world.guest(0), &names);
        policy(json!({ "security_groups": groups, "interfaces": [interface] }))
    };
    let mut daemon = Daemon::start(&world.site, &big(80)).unwrap();
    let path = daemon.pin_dir().join(format!("v{ABI_VERSION}/maps")).join(map::CONTROL);
    let control: Array<_, Control> = Map::Array(MapData::from_pin(path).unwrap()).try_into().unwrap();
    for round in 0..5 {
        let generation = control.get(&0, 0).unwrap().generation;
        daemon.write_policy(&big(1000 + round)).unwrap();
        wait("the swap", || {
            for _ in 0..100_000 {
                if control.get(&0, 0).unwrap().generation > generation {
                    return true;
                }
            }
            false
        });
        // The operator's next edit, with a fault.
        daemon.write_policy("{").unwrap();
        wait("the refusal", || refused(&daemon).is_some());
        daemon.kill();
        daemon.resume().unwrap();
        assert!(refused(&daemon).is_some());
        let copies = fs::read_dir(daemon.state_dir().join("last-good")).unwrap();
        let names: Vec<_> = copies.map(|copy| copy.unwrap().file_name()).collect();
        assert_eq!(names, ["000000-policy.json"]);
    }
}

/// Who has been told that a policy is in force finds it after a crash.
#[test]
fn spec_d22_a_daemon_killed_right_after_a_swap_has_kept_the_new_policy() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &web_policy(&world, 80)).unwrap();
    for port in 8000..8010 {
        daemon.apply(&web_policy(&world, port)).unwrap();
        daemon.kill();
        let copy = fs::read_to_string(daemon.state_dir().join("last-good/000000-policy.json")).unwrap();
        assert!(copy.contains(&port.to_string()), "{copy}");
        daemon.resume().unwrap();
    }
}
