//! Edits through the daemon: in force and in the files at once, or not at all (SPEC K2, K10, K23, D3, D21, D22).

use std::fs::{self, File};
use std::io::read_to_string;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use sg_tests::{Daemon, outside};

use super::site;
use crate::apply::{candidate, sgctl};
use crate::world::{World, allowed, ask, denied, interface, policy, tcp_from};

#[test]
fn spec_k10_d21_a_rule_is_in_force_and_in_the_file_when_the_answer_comes() {
    let (world, text) = site();
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    let to = world.guest(0).v4;
    let probe = world.tcp(outside::STRANGER, to, 8080);
    world.expect(&[denied(probe.clone())]);
    let generation = daemon.generation().unwrap();
    let rule = ["--protocol", "tcp", "--source", "0.0.0.0/0", "--port", "8080"];
    let add = [&["rule", "add", "webs", "inbound"][..], &rule].concat();

    let said = sgctl(&daemon, &[&add[..], &["--dry-run"]].concat(), 0);
    assert!(
        said.contains("+ inbound: TCP port 8080 from 0.0.0.0/0") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(daemon.policy_path()).unwrap(), text);
    assert_eq!(daemon.generation().unwrap(), generation);

    let said = sgctl(&daemon, &add, 0);
    assert!(said.contains("inbound[2] of group \"webs\"") && said.contains("in force: generation"), "{said}");
    world.expect(&[allowed(probe.clone())]);
    let new = fs::read_to_string(daemon.policy_path()).unwrap();
    assert!(new.contains("8080"), "{new}");
    assert_eq!(daemon.generation().unwrap(), generation + 1, "one swap");
    sgctl(&daemon, &["diff"], 0);
    // Again: it says so already.
    let again = ask(&daemon, &[&add[..], &["--json"]].concat(), &[0]);
    assert_eq!((&again["done"][0]["changed"], &again["generation"]), (&json!(false), &json!(generation + 1)));

    daemon.kill();
    daemon.resume().unwrap();
    world.expect(&[allowed(probe.clone())]);
    let remove = [&["rule", "remove", "webs", "inbound"][..], &rule].concat();
    sgctl(&daemon, &remove, 0);
    world.expect(&[denied(probe)]);
    assert_eq!(fs::read_to_string(daemon.policy_path()).unwrap(), text, "as it was, byte for byte");
    // What explain says to add, whole.
    let device = &world.guest(0).device;
    let question = [
        "explain",
        "--interface",
        device,
        "--direction",
        "inbound",
        "--protocol",
        "udp",
        "--remote",
        "192.0.2.1",
        "--port",
        "53",
    ];
    let advice = ask(&daemon, &[&question[..], &["--json"]].concat(), &[1]);
    let add = &advice["add"];
    let rule = add["rule"].to_string();
    sgctl(&daemon, &["rule", "add", add["group"].as_str().unwrap(), add["list"].as_str().unwrap(), &rule], 0);
    sgctl(&daemon, &question, 0);
}

#[test]
fn spec_k2_k23_d3_what_may_not_be_is_refused_and_changes_nothing() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let generation = daemon.generation().unwrap();
    let device = world.guest(0).device.as_str();
    for (arguments, words) in [
        (&["group", "delete", "default"][..], "never be deleted"),
        (&["group", "delete", "webs"], "attached to interface \"tap0\""),
        (&["group", "delete", "admins"], "named by inbound[1] of group \"webs\""),
        (&["group", "delete", "admns"], "did you mean \"admins\"?"),
        (&["group", "show", "wbes"], "did you mean \"webs\"?"),
        (&["interface", "detach", device, "webs"], "attach another one first"),
        (
            &["rule", "add", "webs", "inbound", "--protocol", "tcp", "--source", "10.0.0.1/8", "--port", "1"],
            "write \"10.0.0.0/8\"",
        ),
    ] {
        let said = sgctl(&daemon, arguments, 1);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(fs::read_to_string(daemon.policy_path()).unwrap(), text);
    assert_eq!(daemon.generation().unwrap(), generation);
}

#[test]
fn spec_d22_edits_wait_for_a_policy_that_waits_to_be_confirmed() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let other = candidate(&world, "other.json", &text.replace("\"80\"", "\"81\""));
    sgctl(&daemon, &["apply", "--confirm", "5m", other.to_str().unwrap()], 0);
    let said = sgctl(&daemon, &["group", "create", "new-one"], 1);
    assert!(said.contains("run `sgctl confirm` or `sgctl rollback` first"), "{said}");
    sgctl(&daemon, &["group", "create", "new-one", "--dry-run"], 0);
    sgctl(&daemon, &["rollback"], 0);
    assert_eq!(fs::read_to_string(daemon.policy_path()).unwrap(), text);
    sgctl(&daemon, &["group", "create", "new-one"], 0);
}

/// Only the file in which the object stands is replaced, wherever it is, and a crash later finds the whole policy.
#[test]
fn spec_d25_an_edit_of_one_file_of_several_keeps_the_others_and_the_whole_copy() {
    let world = World::new(1);
    let more =
        policy(json!({ "security_groups": [{ "name": "more", "inbound": [tcp_from("0.0.0.0/0", 81)] }] }));
    let webs = policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }));
    let directory = candidate(&world, "policies/a.json", &webs).parent().unwrap().to_owned();
    let marked = format!("\u{feff}{more}");
    let second = candidate(&world, "policies/b.json", &marked);
    let elsewhere = policy(json!({ "peers": [{ "address": "203.0.113.9", "security_groups": ["more"] }] }));
    let third = candidate(&world, "elsewhere.json", &elsewhere);
    let mut daemon = Daemon::start(&world.site, &webs).unwrap();
    daemon.terminate().unwrap();
    daemon.set_policy(&directory);
    daemon.set_arguments(&["--policy", third.to_str().unwrap()]);
    daemon.resume().unwrap();

    let inode = fs::metadata(&second).unwrap().ino();
    sgctl(&daemon, &["interface", "attach", &world.guest(0).device, "more"], 0);
    assert_eq!(fs::metadata(&second).unwrap().ino(), inode, "untouched");
    world.expect(&[allowed(world.tcp(outside::STRANGER, world.guest(0).v4, 81))]);
    sgctl(&daemon, &["group", "create", "new-one"], 0);
    sgctl(&daemon, &["peer", "add", "203.0.113.9", "webs"], 0);
    assert!(fs::read_to_string(&third).unwrap().contains("\"webs\""));
    sgctl(&daemon, &["rule", "remove", "more", "inbound", "0"], 0);
    let new = fs::read_to_string(&second).unwrap();
    assert!(new.starts_with('\u{feff}') && new.contains("\"inbound\": []"), "{new}");
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.json", "b.json"]);
    // The copy of the last good policy has all of it.
    let before = ask(&daemon, &["group", "list", "--json"], &[0]);
    fs::remove_dir_all(&directory).unwrap();
    daemon.kill();
    daemon.resume().unwrap();
    let after = ask(&daemon, &["group", "list", "--json"], &[0]);
    let names = |groups: &serde_json::Value| -> Vec<(String, usize)> {
        let group = |group: &serde_json::Value| {
            (group["name"].to_string(), group["inbound"].as_array().unwrap().len())
        };
        groups.as_array().unwrap().iter().map(group).collect()
    };
    assert_eq!(names(&after), names(&before));
    assert_eq!(names(&after).len(), 4, "webs, more, new-one, default");
}

/// A file of 64 KiB and more is not written anew for each edit, and nobody notices but by its speed.
#[test]
fn spec_d4_d20_edits_of_a_large_file_in_a_row_are_whole_for_every_reader_and_leave_nothing() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let world = World::new(1);
    let peers = (0..2000).map(|number| {
        let address = Ipv4Addr::from_bits(0xc612_0000 + number);
        json!({ "address": address, "security_groups": ["friends"] })
    });
    let text = policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [{ "protocol": "TCP", "source": "@friends", "port": 80 }] },
            { "name": "friends" },
        ],
        "interfaces": [interface(world.guest(0), &["webs"])],
        "peers": peers.collect::<Vec<_>>(),
    }));
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    let path = daemon.policy_path();
    let hidden = path.with_file_name(format!(".{}.sgd-new", path.file_name().unwrap().to_str().unwrap()));
    let said = || fs::read_to_string(&path).unwrap();
    let mut readers = Vec::new();
    for number in 1..=12 {
        if number % 3 == 0 {
            readers.push((File::open(&path).unwrap(), said()));
        }
        let address = format!("203.0.113.{number}");
        sgctl(&daemon, &["peer", "add", &address, "friends"], 0);
        assert!(said().contains(&address));
        // What somebody still reads is not for the next edit.
        assert!(hidden.exists() || number % 3 == 0);
    }
    let probe = world.tcp(outside::STRANGER, world.guest(0).v4, 80);
    world.expect(&[denied(probe.clone())]);
    sgctl(&daemon, &["peer", "add", &outside::STRANGER.to_string(), "friends"], 0);
    world.expect(&[allowed(probe)]);
    for (reader, said) in readers {
        assert_eq!(read_to_string(reader).unwrap(), said);
    }
    let last = Instant::now();
    while hidden.exists() {
        assert!(last.elapsed() < PATIENCE, "{} is still there", hidden.display());
        sleep(Duration::from_millis(100));
    }
    // The next one is written to a file without a name, and the one after it to what that has replaced.
    for address in ["203.0.113.12", "203.0.113.11"] {
        sgctl(&daemon, &["peer", "remove", address], 0);
        assert!(!said().contains(address));
    }
    assert!(hidden.exists());
    daemon.terminate().unwrap();
    assert!(!hidden.exists());
    daemon.resume().unwrap();
    sgctl(&daemon, &["diff"], 0);
    sgctl(&daemon, &["peer", "remove", "203.0.113.1"], 0);
    assert!(hidden.exists());
    daemon.kill();
    daemon.resume().unwrap();
    assert!(!hidden.exists());
    assert!(!said().contains("\"203.0.113.1\"") && said().contains("203.0.113.10"));
}
