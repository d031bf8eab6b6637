//! Policies that are looked at before they are in force, and those that wait to be confirmed (SPEC K10, K11, D21, D22).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use sg_tests::{Daemon, outside};

use crate::world::{
    World, alive, allowed, ask, denied, interface, policy, refused, tcp_from, udp_from, wait, with,
};

/// Guest 0 serves this port to everybody, and guest 1 as well if it is in the policy.
pub fn ports(world: &World, port: u16, guests: &[usize]) -> String {
    let interfaces: Vec<Value> =
        guests.iter().map(|&guest| interface(world.guest(guest), &["webs"])).collect();
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", port)], "outbound": [] }],
        "interfaces": interfaces,
    }))
}

/// A file beside the daemon's.
pub fn candidate(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.site.lab.directory().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// Runs `sgctl`, which must end with this code; what it has printed, on both streams.
#[track_caller]
pub fn sgctl(daemon: &Daemon, arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = daemon.sgctl(arguments).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "sgctl {arguments:?}:\n{said}\n{}", daemon.log_tail());
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One of the two ports is open, and the other is not.
#[track_caller]
fn only(world: &World, open: u16, closed: u16) {
    let to = world.guest(0).v4;
    world.expect(&[
        allowed(world.tcp(outside::STRANGER, to, open)),
        denied(world.tcp(outside::STRANGER, to, closed)),
    ]);
}

fn notice(daemon: &Daemon) -> String {
    daemon.status().unwrap()["notice"].as_str().unwrap_or_default().to_owned()
}

fn waits(daemon: &Daemon) -> bool {
    daemon.status().unwrap()["unconfirmed"].is_object()
}

#[test]
fn spec_k10_diff_tells_what_a_policy_changes_and_nothing_else() {
    let world = World::new(2);
    let old = policy(json!({
        "security_groups": [
            { "name": "webs", "description": "old", "inbound": [tcp_from("0.0.0.0/0", 80), tcp_from("@admins", 22)], "outbound": [] },
            { "name": "admins" },
        ],
        "interfaces": [interface(world.guest(0), &["webs"])],
        "peers": [{ "address": "203.0.113.9", "security_groups": ["admins"] }],
    }));
    let new = policy(json!({
        "settings": { "on_rule_change": "revoke" },
        "security_groups": [
            { "name": "databases", "inbound": [] },
            { "name": "admins" },
            { "name": "webs", "description": "new", "inbound": [tcp_from("@admins", 22), tcp_from("0.0.0.0/0", 443)], "outbound": [] },
        ],
        "interfaces": [with(interface(world.guest(0), &["webs", "databases"]), "hook", "xdp")],
    }));
    let daemon = Daemon::start(&world.site, &old).unwrap();
    let generation = daemon.generation().unwrap();
    let (same, new) = (candidate(&world, "same.json", &old), candidate(&world, "new.json", &new));

    assert_eq!(sgctl(&daemon, &["diff", text(&same)], 0), "no difference\n");
    sgctl(&daemon, &["diff"], 0);
    let said = sgctl(&daemon, &["diff", text(&new)], 1);
    for line in [
        "~ settings.on_rule_change: keep → revoke\n",
        "+ group \"databases\" of shop/main: inbound 0 rules, outbound the standard rules",
        "~ group \"webs\" of shop/main\n",
        "  - inbound: TCP port 80 from 0.0.0.0/0  (",
        "  + inbound: TCP port 443 from 0.0.0.0/0  (",
        "~ interface tap0 hook: auto → xdp",
        "~ interface tap0 security_groups: webs → databases, webs",
        "- peer 203.0.113.9 of shop/main: admins",
    ] {
        assert!(said.contains(line), "{line:?} in\n{said}");
    }
    assert_eq!(said.lines().count(), 8, "{said}");
    let found = ask(&daemon, &["diff", "--json", text(&new)], &[1]);
    let added = found["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|change| change["after"] == "TCP port 443 from 0.0.0.0/0");
    let added = added.unwrap();
    assert_eq!(
        (&added["what"], &added["part"], &added["name"]),
        (&json!("added"), &json!("rule"), &json!("webs"))
    );
    let line = fs::read_to_string(&new).unwrap().lines().position(|line| line.contains("443")).unwrap() + 1;
    // The rule's object begins before its port.
    let at = added["at"]["line"].as_u64().unwrap() as usize;
    assert!(at < line && line - at < 5 && added["at"]["file"] == text(&new), "{added}");

    let bad = candidate(&world, "bad.json", "{}");
    assert!(sgctl(&daemon, &["diff", text(&bad)], 2).contains("bad.json:1:1"));
    sgctl(&daemon, &["diff", "/none.json"], 2);
    assert_eq!((daemon.generation().unwrap(), refused(&daemon)), (generation, None), "nothing has changed");
}

#[test]
fn spec_k11_plan_tells_which_connections_a_policy_would_not_admit() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &ports(&world, 80, &[0, 1])).unwrap();
    let mut held = [
        world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        world.hold(&world.tcp(outside::STRANGER, world.guest(1).v4, 80)),
    ];
    let same = candidate(&world, "same.json", &ports(&world, 80, &[0, 1]));
    let plan = ask(&daemon, &["plan", "--json", text(&same)], &[0]);
    assert_eq!(
        (&plan["not_admitted"], &plan["live_flows"], &plan["changes"]),
        (&json!([]), &json!(2), &json!([]))
    );

    // Guest 1 leaves the filter: all of it passes.
    let new = candidate(&world, "new.json", &ports(&world, 81, &[0]));
    let plan = ask(&daemon, &["plan", "--json", text(&new)], &[0]);
    let flows = plan["not_admitted"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{plan:#}");
    assert_eq!(
        (&flows[0]["interface"], &flows[0]["local_port"], &flows[0]["admitted_now"]),
        (&json!("tap0"), &json!(80), &json!(true))
    );
    assert_eq!(plan["devices"], json!([{ "name": "tap1", "becomes": "not_filtered" }]));
    let entries = plan["entries"].as_array().unwrap();
    assert!(
        entries.iter().any(|count| count["written"] != 0)
            && entries.iter().any(|count| count["deleted"] != 0),
        "{plan:#}"
    );
    let said = sgctl(&daemon, &["plan", text(&new)], 0);
    assert!(
        said.contains(
            "1 of 1 connection would not be admitted; they live on until they are over:\n  tap0: 1\n"
        ),
        "{said}"
    );
    sgctl(&daemon, &["plan", text(&candidate(&world, "bad.json", "{"))], 1);

    assert_eq!(sgctl(&daemon, &["diff"], 0), "no difference\n", "nothing has changed");
    held.iter_mut().for_each(alive);
    only(&world, 80, 81);
}

#[test]
fn spec_d21_apply_replaces_the_policy_file_and_tells_the_outcome() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &ports(&world, 80, &[0])).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let new = candidate(&world, "new.json", &ports(&world, 81, &[0]));
    let generation = daemon.generation().unwrap();
    let answer = ask(&daemon, &["apply", "--json", text(&new)], &[0]);
    assert_eq!(
        (&answer["changed"], &answer["unconfirmed"], &answer["warning"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    only(&world, 81, 80);
    alive(&mut held);
    assert_eq!(fs::read(daemon.policy_path()).unwrap(), fs::read(&new).unwrap());
    let status = daemon.status().unwrap();
    assert_eq!(status["files"], json!([daemon.policy_path()]), "known by its own name");
    assert_eq!(status["generation"], generation + 1, "one swap");
    daemon.kill();
    daemon.resume().unwrap();
    only(&world, 81, 80);
    assert!(notice(&daemon).is_empty());

    // Without a path: what is wrong with the own file is answered, not only logged.
    fs::write(daemon.policy_path(), ports(&world, 80, &[0]).replace("TCP", "TPC")).unwrap();
    let said = sgctl(&daemon, &["apply"], 1);
    assert!(said.contains("policy.json:") && said.contains("TPC"), "{said}");
    only(&world, 81, 80);
    fs::write(daemon.policy_path(), ports(&world, 80, &[0])).unwrap();
    sgctl(&daemon, &["apply"], 0);
    only(&world, 80, 81);

    // What is refused changes no file.
    let before = fs::read(daemon.policy_path()).unwrap();
    sgctl(&daemon, &["apply", text(&candidate(&world, "bad.json", "{}"))], 1);
    sgctl(&daemon, &["apply", "/none.json"], 2);
    fs::create_dir(world.site.lab.directory().join("two")).unwrap();
    candidate(&world, "two/a.json", &ports(&world, 81, &[0]));
    candidate(&world, "two/b.json", &policy(json!({})));
    let said = sgctl(&daemon, &["apply", text(&world.site.lab.directory().join("two"))], 1);
    assert!(said.contains("from one file") && said.contains("has 2"), "{said}");
    let foreign = ports(&world, 81, &[0]).replace("tap0", "lo");
    let said = sgctl(&daemon, &["apply", text(&candidate(&world, "lo.json", &foreign))], 1);
    assert!(said.contains("no Ethernet frames"), "{said}");
    assert_eq!(fs::read(daemon.policy_path()).unwrap(), before);
    only(&world, 80, 81);
    let left: Vec<_> =
        fs::read_dir(daemon.state_dir()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["last-good"]);
}

#[test]
fn spec_d21_apply_replaces_the_set_of_files_of_a_directory() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &ports(&world, 80, &[0])).unwrap();
    daemon.terminate().unwrap();
    let own = world.site.lab.directory().join("own");
    candidate(&world, "own/10-old.json", &ports(&world, 80, &[0]));
    candidate(&world, "own/20-more.json", &policy(json!({})));
    candidate(&world, "own/README", "not a policy");
    daemon.set_policy(&own);
    daemon.resume().unwrap();
    let new = world.site.lab.directory().join("new");
    candidate(&world, "new/20-more.json", &policy(json!({ "security_groups": [{ "name": "more" }] })));
    candidate(&world, "new/30-web.json", &ports(&world, 81, &[0]));
    sgctl(&daemon, &["apply", text(&new)], 0);
    only(&world, 81, 80);
    let mut names: Vec<_> =
        fs::read_dir(&own).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["20-more.json", "30-web.json", "README"]);
    let status = daemon.status().unwrap();
    assert_eq!(status["files"], json!([own.join("20-more.json"), own.join("30-web.json")]));
    daemon.restart().unwrap();
    only(&world, 81, 80);
}

#[test]
fn spec_d22_a_policy_that_is_not_confirmed_is_rolled_back() {
    let world = World::new(1);
    let old = ports(&world, 80, &[0]);
    let mut daemon = Daemon::start(&world.site, &old).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let new = candidate(&world, "new.json", &ports(&world, 81, &[0]));
    let file = || fs::read_to_string(daemon.policy_path()).unwrap();
    for arguments in [&["confirm"][..], &["rollback"]] {
        assert!(sgctl(&daemon, arguments, 1).contains("no policy waits to be confirmed"));
    }
    sgctl(&daemon, &["apply", "--confirm", "60s"], 2);

    // Time runs out.
    let answer = ask(&daemon, &["apply", "--json", "--confirm", "1s", text(&new)], &[0]);
    assert_eq!(answer["unconfirmed"], 1);
    wait("the rollback", || !waits(&daemon));
    assert!(notice(&daemon).contains("not confirmed in time"), "{}", notice(&daemon));
    only(&world, 80, 81);
    assert!(daemon.log().contains("not confirmed in time"));

    // In force, in no file, and nothing else is put in force meanwhile.
    sgctl(&daemon, &["apply", "--confirm", "10m", text(&new)], 0);
    only(&world, 81, 80);
    alive(&mut held);
    assert_eq!(file(), old);
    let copy = fs::read_to_string(daemon.state_dir().join("last-good/000000-policy.json")).unwrap();
    assert_eq!(copy, old, "the last good policy is the old one");
    let said = sgctl(&daemon, &["status"], 1);
    assert!(said.contains("Unconfirmed: rolled back in"), "{said}");
    for arguments in [&["apply"][..], &["apply", text(&new)], &["apply", "--confirm", "5s", text(&new)]] {
        let said = sgctl(&daemon, arguments, 1);
        assert!(said.contains("waits to be confirmed") && said.contains("sgctl confirm"), "{said}");
    }
    // A change of the files is held until it is decided, and confirming must not overwrite it.
    let third = ports(&world, 82, &[0]);
    daemon.write_policy(&third).unwrap();
    wait("the change is noticed", || daemon.status().unwrap()["unconfirmed"]["files_changed"] == true);
    only(&world, 81, 82);
    let said = sgctl(&daemon, &["confirm"], 1);
    assert!(said.contains("the policy files have changed since"), "{said}");
    assert!(waits(&daemon));
    sgctl(&daemon, &["rollback"], 0);
    wait("the files are read", || daemon.status().unwrap()["files"] == json!([daemon.policy_path()]));
    only(&world, 82, 81);
    assert_eq!(file(), third);
    alive(&mut held);

    // Confirmed, it is the policy from then on.
    daemon.apply(&old).unwrap();
    sgctl(&daemon, &["apply", "--confirm", "10m", text(&new)], 0);
    sgctl(&daemon, &["confirm"], 0);
    assert_eq!(file(), ports(&world, 81, &[0]));
    assert!(!waits(&daemon) && notice(&daemon).is_empty());
    assert_eq!(daemon.status().unwrap()["files"], json!([daemon.policy_path()]));
    daemon.kill();
    daemon.resume().unwrap();
    only(&world, 81, 80);
    alive(&mut held);
}

#[test]
fn spec_d20_d22_an_unconfirmed_policy_does_not_outlive_the_daemon() {
    let world = World::new(1);
    let old = ports(&world, 80, &[0]);
    let mut daemon = Daemon::start(&world.site, &old).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let new = candidate(&world, "new.json", &ports(&world, 81, &[0]));
    // Killed: the kernel has the new one until there is a daemon again.
    sgctl(&daemon, &["apply", "--confirm", "10m", text(&new)], 0);
    daemon.kill();
    only(&world, 81, 80);
    daemon.resume().unwrap();
    only(&world, 80, 81);
    assert!(!waits(&daemon));
    assert!(notice(&daemon).contains("ended before the policy was confirmed"), "{}", notice(&daemon));
    assert!(daemon.log().contains("ended before the policy was confirmed"));
    assert!(sgctl(&daemon, &["status"], 0).contains("Note: sgd ended before"));
    // Told to end: nobody would roll back later.
    sgctl(&daemon, &["apply", "--confirm", "10m", text(&new)], 0);
    assert!(notice(&daemon).is_empty());
    daemon.terminate().unwrap();
    only(&world, 80, 81);
    daemon.resume().unwrap();
    only(&world, 80, 81);
    assert_eq!(fs::read_to_string(daemon.policy_path()).unwrap(), old);
    alive(&mut held);
}

/// Several paths: no file is the one to replace.
#[test]
fn a_daemon_with_several_paths_says_why_it_replaces_none() {
    let world = World::new(1);
    let second = candidate(
        &world,
        "second.json",
        &policy(json!({ "security_groups": [{ "name": "more", "inbound": [udp_from("0.0.0.0/0", 1)] }] })),
    );
    let daemon =
        Daemon::start_with(&world.site, &ports(&world, 80, &[0]), &["--policy", text(&second)]).unwrap();
    let new = candidate(&world, "new.json", &ports(&world, 81, &[0]));
    for arguments in [&["apply", text(&new)][..], &["apply", "--confirm", "1m", text(&new)]] {
        let said = sgctl(&daemon, arguments, 1);
        assert!(said.contains("2 paths") && said.contains("without a path"), "{said}");
    }
    only(&world, 80, 81);
    sgctl(&daemon, &["apply"], 0);
}
