//! The fast path: packets between ports of one bridge that do not go through it.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sg_tests::{Daemon, outside};

use crate::world::{
    World, alive, allowed, as_the_unit_has_it, cut, denied, interface, policy, status_of, tcp_from, udp_from,
    wait, with,
};

/// Two guests on the fast path; a third one without. Port 1001 and UDP 53 are open to everybody.
fn fast(world: &World, more: &[(&str, Value)]) -> String {
    let group = json!({
        "name": "open", "inbound": [tcp_from("0.0.0.0/0", 1001), tcp_from("::/0", 1001), udp_from("0.0.0.0/0", 53)],
        "outbound": [{ "protocol": "ALL", "destination": "0.0.0.0/0" }, { "protocol": "ALL", "destination": "::/0" }],
    });
    let on = |index: usize| with(interface(world.guest(index), &["open"]), "fast_path", true);
    let first = more.iter().fold(on(0), |interface, (field, value)| with(interface, field, value.clone()));
    policy(json!({
        "security_groups": [group],
        "interfaces": [first, on(1), interface(world.guest(2), &["open"])],
    }))
}

fn handed_on(daemon: &Daemon, device: &str) -> u64 {
    status_of(daemon, device)["fast_path"]["packets"].as_u64().unwrap()
}

fn is_direct(daemon: &Daemon, device: &str) -> bool {
    status_of(daemon, device)["fast_path"]["direct"].as_bool().unwrap()
}

/// Why the device's packets go through the bridge.
fn why(daemon: &Daemon, device: &str) -> String {
    status_of(daemon, device)["fast_path"]["why"].as_str().unwrap_or_default().to_owned()
}

/// Two ends of a conversation, the first of which has spoken and been answered.
fn ends(world: &World, from: usize, to: usize) -> (UdpSocket, UdpSocket) {
    let bind = |index: usize, port: u16| {
        let own = world.guest(index).v4;
        let socket = world.guest(index).netns.run(|| UdpSocket::bind((own, port)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (ours, theirs) = (bind(from, 4000), bind(to, 53));
    ours.connect(theirs.local_addr().unwrap()).unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    talk(&ours, &theirs, 1);
    (ours, theirs)
}

/// So many datagrams each way, none of which is lost.
#[track_caller]
fn talk(ours: &UdpSocket, theirs: &UdpSocket, rounds: usize) {
    let mut buffer = [0; 64];
    for _ in 0..rounds {
        for (from, to) in [(ours, theirs), (theirs, ours)] {
            from.send(b"hello").unwrap();
            assert_eq!(to.recv(&mut buffer).unwrap(), 5);
        }
    }
}

#[test]
fn spec_d2_d24_guests_of_a_bridge_talk_past_it_and_both_interfaces_rules_apply() {
    let world = World::new(3);
    let daemon = Daemon::start(&world.site, &fast(&world, &[])).unwrap();
    wait("both are direct", || is_direct(&daemon, "tap0") && is_direct(&daemon, "tap1"));
    let (a, b, c) = (world.guest(0), world.guest(1), world.guest(2));
    let (ours, theirs) = ends(&world, 0, 1);
    wait("packets go past the bridge", || {
        talk(&ours, &theirs, 20);
        handed_on(&daemon, "tap0") > 0 && handed_on(&daemon, "tap1") > 0
    });
    // Each packet is counted where it was sent and where it was received, and but for one a second is handed on.
    let count = |device: &str, direction: &str| {
        let status = status_of(&daemon, device);
        let reasons = status[direction]["reasons"].as_array().unwrap().clone();
        let established = reasons.iter().find(|reason| reason["reason"] == "established");
        established.map_or(0, |reason| reason["packets"].as_u64().unwrap())
    };
    let before = (count("tap0", "outbound"), count("tap1", "inbound"), handed_on(&daemon, "tap0"));
    talk(&ours, &theirs, 500);
    let after = (count("tap0", "outbound"), count("tap1", "inbound"), handed_on(&daemon, "tap0"));
    assert_eq!((after.0 - before.0, after.1 - before.1), (500, 500));
    let handed = after.2 - before.2;
    assert!((400..=500).contains(&handed), "{handed} of 500");
    // What the other side's rules do not allow does not pass, whatever has passed before.
    world.expect(&[
        allowed(world.tcp(a.v4, b.v4, 1001)),
        allowed(world.tcp(a.v6, b.v6, 1001)),
        denied(world.tcp(a.v4, b.v4, 1002)),
        denied(world.tcp(a.v6, b.v6, 1002)),
        allowed(world.tcp(c.v4, a.v4, 1001)),
        allowed(world.tcp(outside::STRANGER, a.v4, 1001)),
        denied(world.tcp(outside::STRANGER, a.v4, 1002)),
    ]);
    assert!(status_of(&daemon, "tap2")["fast_path"].is_null());
    // A connection that is cut at the receiver's side only is cut.
    let mut held = world.hold(&world.tcp(a.v4, b.v4, 1001));
    alive(&mut held);
    let interfaces =
        [0, 1].map(|index| with(interface(world.guest(index), &["open"]), "fast_path", true)).to_vec();
    let closed = json!({ "security_groups": [{ "name": "open", "inbound": [] }], "interfaces": interfaces });
    daemon.write_policy(&policy(closed)).unwrap();
    wait("the rules are gone", || {
        daemon.sgctl(&["flows", "revoke", "--all", "--interface", "tap1"]).unwrap();
        held.exchange(Duration::from_millis(300)).unwrap() != sg_tests::Outcome::Answered
    });
    cut(&mut held);
}

#[test]
fn what_a_bridge_decides_otherwise_goes_through_the_bridge() {
    let world = World::new(3);
    let daemon = Daemon::start(&world.site, &fast(&world, &[])).unwrap();
    wait("both are direct", || is_direct(&daemon, "tap0") && is_direct(&daemon, "tap1"));
    let (ours, theirs) = ends(&world, 0, 1);
    let host = &world.site.host;
    let cases = [
        (
            "link set tap0 type bridge_slave learning off",
            "link set tap0 type bridge_slave learning on",
            "learn",
        ),
        ("link set br0 type bridge ageing_time 500", "link set br0 type bridge ageing_time 30000", "forgets"),
        (
            "link set br0 type bridge nf_call_iptables 1",
            "link set br0 type bridge nf_call_iptables 0",
            "netfilter",
        ),
    ];
    for (set, unset, words) in cases {
        host.ip(set).unwrap();
        wait(set, || why(&daemon, "tap0").contains(words));
        let before = handed_on(&daemon, "tap0");
        talk(&ours, &theirs, 10);
        assert_eq!(handed_on(&daemon, "tap0"), before, "{set}");
        host.ip(unset).unwrap();
        wait(unset, || is_direct(&daemon, "tap0"));
        wait("packets go past the bridge", || {
            talk(&ours, &theirs, 10);
            handed_on(&daemon, "tap0") > before
        });
    }
    // Isolated from each other.
    host.ip("link set tap0 type bridge_slave isolated on\nlink set tap1 type bridge_slave isolated on")
        .unwrap();
    let mut buffer = [0; 64];
    theirs.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    wait("isolated ports do not hear of each other", || {
        ours.send(b"hello").unwrap();
        theirs.recv(&mut buffer).is_err()
    });
    let before = handed_on(&daemon, "tap0");
    for _ in 0..10 {
        ours.send(b"hello").unwrap();
    }
    assert!(theirs.recv(&mut buffer).is_err());
    assert_eq!(handed_on(&daemon, "tap0"), before);
    host.ip("link set tap0 type bridge_slave isolated off\nlink set tap1 type bridge_slave isolated off")
        .unwrap();
    while theirs.recv(&mut buffer).is_ok() {}
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // By XDP nothing is handed on.
    daemon.write_policy(&fast(&world, &[("hook", "xdp".into())])).unwrap();
    wait("by XDP", || why(&daemon, "tap0").contains("\"hook\" to \"tc\""));
    let before = handed_on(&daemon, "tap0");
    talk(&ours, &theirs, 10);
    assert_eq!(handed_on(&daemon, "tap0"), before);
    // And none of it when it is not asked for any more, or again.
    daemon.write_policy(&fast(&world, &[])).unwrap();
    wait("by TC again", || is_direct(&daemon, "tap0"));
    wait("packets go past the bridge", || {
        talk(&ours, &theirs, 10);
        handed_on(&daemon, "tap0") > before
    });
    daemon.write_policy(&fast(&world, &[("fast_path", false.into())])).unwrap();
    wait("not asked for", || status_of(&daemon, "tap0")["fast_path"].is_null());
    let count = || handed_on(&daemon, "tap1");
    talk(&ours, &theirs, 10);
    let before = count();
    talk(&ours, &theirs, 10);
    assert!(count() > before, "the other way is asked for still");
}

/// A rule for what passes the bridge is asked about every packet, though the packets before it went past the bridge.
#[test]
fn rules_of_netfilters_bridge_family_see_every_packet() {
    let world = World::new(2);
    let own = [0, 1].map(|index| with(interface(world.guest(index), &["open"]), "fast_path", true)).to_vec();
    let group = json!({ "name": "open", "inbound": [udp_from("0.0.0.0/0", 53)] });
    let text = policy(json!({ "security_groups": [group], "interfaces": own }));
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    let nft = |line: &str| {
        let status = world.site.host.command("nft").arg(line).status().expect("nft: `cargo xtask setup`");
        assert!(status.success(), "{line}");
    };
    wait("both are direct", || is_direct(&daemon, "tap0") && is_direct(&daemon, "tap1"));
    let (ours, theirs) = ends(&world, 0, 1);
    let past = |daemon: &Daemon, before: u64| {
        wait("packets go past the bridge", || {
            talk(&ours, &theirs, 10);
            handed_on(daemon, "tap0") > before
        });
    };
    past(&daemon, 0);
    // What no packet meets is no reason to leave the fast path: another family, a table, a chain without a hook.
    nft("add table inet other; add chain inet other c { type filter hook forward priority 0; }");
    nft("add table bridge guests; add chain bridge guests common");
    std::thread::sleep(Duration::from_secs(1));
    assert!(is_direct(&daemon, "tap0"));
    nft("add chain bridge guests forward { type filter hook forward priority 0; }");
    wait("the chain is known", || why(&daemon, "tap0").contains("family bridge"));
    assert!(why(&daemon, "tap1").contains("nft list chains bridge"), "{}", why(&daemon, "tap1"));
    let before = handed_on(&daemon, "tap0");
    talk(&ours, &theirs, 10);
    nft("add rule bridge guests forward udp dport 53 drop");
    for _ in 0..10 {
        ours.send(b"hello").unwrap();
    }
    theirs.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(theirs.recv(&mut [0; 64]).is_err(), "the rule drops it");
    assert_eq!(handed_on(&daemon, "tap0"), before);
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    nft("delete table bridge guests");
    wait("direct again", || is_direct(&daemon, "tap0"));
    past(&daemon, before);
    // It is known at a start too, and needs no capability that the unit does not give.
    nft("add table bridge guests; add chain bridge guests out { type filter hook postrouting priority 0; }");
    wait("another chain", || why(&daemon, "tap0").contains("family bridge"));
    let before = handed_on(&daemon, "tap0");
    as_the_unit_has_it(&mut daemon);
    daemon.kill();
    daemon.resume().unwrap();
    wait("it is known at a start", || why(&daemon, "tap0").contains("family bridge"));
    assert_eq!(handed_on(&daemon, "tap0"), before);
    nft("flush ruleset");
    wait("direct once more", || is_direct(&daemon, "tap0"));
    past(&daemon, before);
}

/// Somebody's hardware address moves to another port.
#[test]
fn a_station_that_moves_is_found_where_it_is() {
    let world = World::new(3);
    let daemon = Daemon::start(&world.site, &fast(&world, &[])).unwrap();
    wait("both are direct", || is_direct(&daemon, "tap0") && is_direct(&daemon, "tap1"));
    let (ours, theirs) = ends(&world, 0, 1);
    wait("packets go past the bridge", || {
        talk(&ours, &theirs, 10);
        handed_on(&daemon, "tap0") > 0
    });
    // The guest behind tap1 is moved to a new port, as when it is restarted elsewhere; the old one stays.
    let (old, mac) = (world.guest(1).netns.clone(), &world.guest(1).mac);
    let new = world.site.lab.netns("moved").unwrap();
    old.ip("link set eth0 down").unwrap();
    world
        .site
        .host
        .ip(&format!(
            "link add new0 type veth peer name eth0 address {mac} netns {}\nlink set new0 master br0 up",
            new.name()
        ))
        .unwrap();
    new.ip(&format!("link set eth0 up\naddress add {}/24 dev eth0", world.guest(1).v4)).unwrap();
    let own = world.guest(1).v4;
    let theirs = new.run(|| UdpSocket::bind((own, 53)).unwrap()).unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    theirs.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 64];
    wait("it is heard at its new port", || {
        // It says where it is.
        let _ = theirs.send(b"here");
        ours.send(b"hello").unwrap();
        theirs.recv(&mut buffer).is_ok()
    });
    let before = handed_on(&daemon, "tap0");
    wait("and past the bridge", || {
        ours.send(b"hello").unwrap();
        handed_on(&daemon, "tap0") > before
    });
    assert!(theirs.recv(&mut buffer).is_ok());
}

/// A daemon that is gone follows no bridge: what it has written down holds for seconds and no longer.
#[test]
fn spec_d20_without_a_daemon_packets_go_through_the_bridge_again() {
    let world = World::new(3);
    let mut daemon = Daemon::start(&world.site, &fast(&world, &[])).unwrap();
    wait("both are direct", || is_direct(&daemon, "tap0") && is_direct(&daemon, "tap1"));
    let (ours, theirs) = ends(&world, 0, 1);
    wait("packets go past the bridge", || {
        talk(&ours, &theirs, 10);
        handed_on(&daemon, "tap0") > 0
    });
    let before = handed_on(&daemon, "tap0");
    daemon.kill();
    std::thread::sleep(Duration::from_secs(4));
    talk(&ours, &theirs, 20);
    daemon.resume().unwrap();
    assert_eq!(handed_on(&daemon, "tap0"), before);
    // And through the end of what it has written down.
    daemon.kill();
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        talk(&ours, &theirs, 10);
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.resume().unwrap();
    wait("direct again", || {
        talk(&ours, &theirs, 10);
        is_direct(&daemon, "tap0")
    });
    let before = handed_on(&daemon, "tap0");
    wait("past the bridge again", || {
        talk(&ours, &theirs, 10);
        handed_on(&daemon, "tap0") > before
    });
    daemon.terminate().unwrap();
}
