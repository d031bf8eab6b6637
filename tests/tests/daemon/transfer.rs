//! Two hosts, an `sgd` on each: a guest moves from one to the other, and its connections with it.

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use sg_oracle::frame::{self, Packet};
use sg_tests::{Daemon, Guest, Topology, outside, patience};

use crate::flows::Pings;
use crate::packets::RawIp;
use crate::world::{
    World, alive, allowed, ask, cut, denied, interface, ping_from, policy, status_of, tcp_from, udp_from,
    wait, with,
};

/// A second host whose bridge is the first one's neighbour.
fn second_host(first: &World) -> Topology {
    let second = Topology::with_guests(0).unwrap();
    second.host.ip("link set up0 down").unwrap();
    let line = format!(
        "link add trunk0 type veth peer name trunk0 netns {}\nlink set trunk0 master br0 up",
        second.host.name()
    );
    first.site.host.ip(&line).unwrap();
    second.host.ip("link set trunk0 master br0 up").unwrap();
    second
}

/// The guest's end of the cable moves to a port of the other host. The guest itself does not notice but for a pause.
fn migrate(guest: &Guest, from: &World, to: &Topology, device: &str) {
    from.site.host.ip(&format!("link delete {}", guest.device)).unwrap();
    to.host
        .ip(&format!(
            "link add {device} type veth peer name eth0 address {} netns {}\nlink set {device} master br0 up",
            guest.mac,
            guest.netns.name()
        ))
        .unwrap();
    guest
        .netns
        .ip(&format!(
            "link set eth0 up\naddress add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad\n\
             route add default via {}\nroute add default via {} dev eth0",
            guest.v4,
            guest.v6,
            outside::ROUTER,
            outside::ROUTER_V6
        ))
        .unwrap();
}

/// The guest may be asked at port 7000 and may ask at 7001; or nothing at all.
#[expect(clippy::needless_pass_by_value, reason = "called with json!(…)")]
fn rules(interface: Value, open: bool) -> String {
    let mut inbound = Vec::new();
    let mut outbound = Vec::new();
    if open {
        for net in ["203.0.113.0/24", "2001:db8:a::/64"] {
            inbound.extend([tcp_from(net, 7000), udp_from(net, 7000), ping_from(net)]);
        }
        outbound.push(json!({ "protocol": "TCP", "destination": "203.0.113.0/24", "port": 7001 }));
    }
    policy(json!({
        "security_groups": [{ "name": "moves", "inbound": inbound, "outbound": outbound }],
        "interfaces": [interface],
    }))
}

/// `sgctl flows export` to a file.
fn export(daemon: &Daemon, interface: &str, file: &Path) {
    let output = daemon
        .sgctl(&["flows", "export", "--interface", interface, "--output", file.to_str().unwrap()])
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn spec_k11_connections_go_on_at_another_host() {
    let world = World::new(1);
    let other = second_host(&world);
    let guest = world.guest(0);
    let moved = Guest { device: "tap9".to_owned(), ..guest.clone() };
    let here = Daemon::start(&world.site, &rules(interface(guest, &["moves"]), true)).unwrap();
    let there = Daemon::start(&other, &rules(interface(&moved, &["moves"]), false)).unwrap();
    let probes = [
        world.tcp(outside::ADMIN, guest.v4, 7000),
        world.tcp(outside::ADMIN_V6, guest.v6, 7000),
        world.tcp(guest.v4, outside::ADMIN, 7001),
        world.udp(outside::ADMIN, guest.v4, 7000),
        world.udp(outside::ADMIN_V6, guest.v6, 7000),
    ];
    let mut held: Vec<_> = probes.iter().map(|probe| world.hold(probe)).collect();
    let mut ping = Pings::new(&world.site.outside, outside::ADMIN.into(), guest.v4, 0x3333);
    assert!(ping.answered(patience::ALLOWED));
    // No rule of either host would let them begin any more.
    here.apply(&rules(interface(guest, &["moves"]), false)).unwrap();
    held.iter_mut().for_each(alive);

    let file = world.site.lab.directory().join("flows.ndjson");
    export(&here, "tap0", &file);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 7, "{text}");
    migrate(guest, &world, &other, "tap9");
    wait("the other host filters the guest", || status_of(&there, "tap9")["state"] == "enforced");
    // It is the file that makes them go on.
    cut(&mut held[4]);
    assert!(!ping.answered(patience::DENIED));

    let arguments = ["flows", "import", "--interface", "tap9", "--json", file.to_str().unwrap()];
    let imported = ask(&there, &arguments, &[0]);
    let counts = ["live", "half_open", "kept", "over", "revoked"].map(|name| imported[name].as_u64());
    assert_eq!(counts, [6, 0, 0, 0, 0].map(Some), "{imported:#}");
    held.iter_mut().for_each(alive);
    assert!(ping.answered(patience::ALLOWED));
    let flows = ask(&there, &["flows", "--json"], &[0]);
    let flows = flows.as_array().unwrap();
    assert_eq!(flows.len(), 6);
    assert!(flows.iter().all(|flow| flow["admitted_now"] == false && flow["replied"] == true), "{flows:#?}");
    assert_eq!(status_of(&there, "tap9")["live_flows"]["used"], 6);
    world.expect(&[denied(probes[0].clone()), denied(probes[2].clone()), denied(probes[3].clone())]);

    // What is known of the sequence numbers has come along: a reset that only guesses them is dropped.
    let resets = |daemon: &Daemon| {
        let reasons = status_of(daemon, "tap9")["inbound"]["reasons"].clone();
        let window = reasons.as_array().unwrap().iter().find(|reason| reason["reason"] == "tcp_window");
        window.map_or(0, |reason| reason["packets"].as_u64().unwrap())
    };
    let find = |text: &str| -> Value {
        let records = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap());
        let tcp = |record: &Value| record["protocol"] == 6 && record["direction"] == "inbound";
        let mut found = records.filter(|record: &Value| tcp(record) && record["local"] == json!(guest.v4));
        found.next().unwrap()
    };
    let port = find(&text)["remote_port"].as_u64().unwrap() as u16;
    let (client, server) = (SocketAddrV4::new(outside::ADMIN, port), (guest.v4, 7000));
    let raw = RawIp::new(&world.site.outside);
    let reset = |sequence: u32| {
        let packet = Packet::tcp(client.into(), server.into(), frame::RST).sequence(sequence, 0);
        let server = SocketAddrV4::new(guest.v4.to_string().parse().unwrap(), 7000);
        raw.packet(server, &packet.frame()[14..]);
    };
    let end = |daemon: &Daemon| {
        let text = daemon.sgctl(&["flows", "export", "--interface", "tap9"]).unwrap().stdout;
        find(&String::from_utf8(text).unwrap())["tcp"]["origin"]["end"].as_u64().unwrap() as u32
    };
    assert_eq!(resets(&there), 0);
    reset(end(&there).wrapping_add(0x8000_0000));
    wait("the reset is counted", || resets(&there) == 1);
    held.iter_mut().for_each(alive);
    // While one that knows them ends the connection.
    reset(end(&there));
    wait("the connection is closed", || {
        let flows = ask(&there, &["flows", "--json"], &[0]);
        flows.as_array().unwrap().iter().any(|flow| flow["remote_port"] == port && flow["state"] == "close")
    });
    alive(&mut held[1]);
}

/// A host with one connection, and its file.
fn one_connection(live_flows: &str) -> (World, Daemon, sg_tests::Connection, String) {
    let world = World::new(2);
    let mut open: Value = serde_json::from_str(&rules(interface(world.guest(0), &["moves"]), true)).unwrap();
    open["settings"] = json!({ "managed": ["tap*"] });
    let daemon = Daemon::start_with(&world.site, &open.to_string(), &["--live-flows", live_flows]).unwrap();
    let held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 7000));
    let output = daemon.sgctl(&["flows", "export", "--interface", "tap0"]).unwrap();
    assert!(output.status.success());
    (world, daemon, held, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn spec_d22_a_file_that_cannot_be_taken_changes_nothing() {
    let (world, daemon, mut held, good) = one_connection("1024");
    let file = world.site.lab.directory().join("flows");
    let import = |text: &[u8], interface: Option<&str>| {
        fs::write(&file, text).unwrap();
        let mut arguments = vec!["flows", "import"];
        arguments.extend(interface.iter().flat_map(|name| ["--interface", name]));
        arguments.push(file.to_str().unwrap());
        let output = daemon.sgctl(&arguments).unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // Flows but for the times, and the share.
    let state = || {
        let mut flows = ask(&daemon, &["flows", "--json"], &[0]);
        for flow in flows.as_array_mut().unwrap() {
            (flow["age"], flow["expires_in"]) = (Value::Null, Value::Null);
        }
        (flows, status_of(&daemon, "tap0")["live_flows"].clone())
    };
    let before = state();
    assert_eq!(before.1, json!({ "used": 1, "limit": 64 }));
    let (header, line) = good.trim_end().split_once('\n').unwrap();
    let many = |count: u16| {
        let port = |number: u16| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            record["remote_port"] = (number + 1).into();
            record.to_string()
        };
        let lines: Vec<String> = (0..count).map(port).collect();
        format!("{}\n{}\n", header.replace("\"flows\":1", &format!("\"flows\":{count}")), lines.join("\n"))
    };
    let foreign = good.replace(&format!("\"{}\"", world.guest(0).v4), "\"10.0.0.77\"");
    for (text, interface, words) in [
        ("", None, "empty"),
        ("{\"version\": 1, \"project\": \"shop\"}", None, "header"),
        (&good[..good.len() / 2 + header.len() / 2], None, "1 flows, 0 follow"),
        (header, None, "1 flows, 0 follow"),
        (&good.replace("\"version\":1", "\"version\":7"), None, "version 7"),
        (&good.replace("\"protocol\":6", "\"protocol\":17"), None, "line 2"),
        (&foreign, None, "10.0.0.77"),
        (&many(64), None, "room for 63"),
        (&good, Some("tap7"), "did you mean \"tap"),
        (&good, Some("tap1"), "closed"),
        (&good, Some("br0"), "not filtered"),
    ] {
        let (code, complaint) = import(text.as_bytes(), interface);
        assert_eq!(code, 1, "{words}: {complaint}");
        assert!(complaint.contains(words), "{words:?} is not in {complaint:?}");
        assert_eq!(state(), before, "{words}");
    }
    let (code, complaint) = import(&[0xff, 0xfe, 0, 1], None);
    assert!(code == 1 && complaint.contains("not text"), "{complaint}");
    fs::remove_file(&file).unwrap();
    let missing = daemon.sgctl(&["flows", "import", file.to_str().unwrap()]).unwrap();
    assert_eq!(missing.status.code(), Some(2));
    let nothing = daemon.sgctl(&["flows", "export", "--interface", "tap7"]).unwrap();
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(1), 0));
    assert_eq!(state(), before);
    alive(&mut held);

    // As much as fits is taken, to the last place.
    let (code, complaint) = import(many(63).as_bytes(), None);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert_eq!(status_of(&daemon, "tap0")["live_flows"], json!({ "used": 64, "limit": 64 }));
    let (code, complaint) = import(many(64).as_bytes(), None);
    assert!(code == 1 && complaint.contains("room for 0"), "{complaint}");
    alive(&mut held);
}

#[test]
fn spec_k11_where_rules_revoke_a_file_brings_back_nothing_that_no_rule_allows() {
    let world = World::new(1);
    let guest = world.guest(0);
    let revoking = |open: bool| {
        let mut file: Value = serde_json::from_str(&rules(interface(guest, &["moves"]), open)).unwrap();
        file["settings"] = json!({ "on_rule_change": "revoke" });
        file.to_string()
    };
    let daemon = Daemon::start(&world.site, &revoking(true)).unwrap();
    let mut held = world.hold(&world.udp(outside::ADMIN, guest.v4, 7000));
    let file = world.site.lab.directory().join("flows");
    export(&daemon, "tap0", &file);
    daemon.apply(&revoking(false)).unwrap();
    let arguments = ["flows", "import", "--json", file.to_str().unwrap()];
    let imported = ask(&daemon, &arguments, &[0]);
    assert_eq!((&imported["live"], &imported["revoked"]), (&json!(0), &json!(1)));
    cut(&mut held);
    daemon.apply(&revoking(true)).unwrap();
    assert_eq!(ask(&daemon, &arguments, &[0])["live"], 1);
    alive(&mut held);
    world.expect(&[allowed(world.udp(outside::ADMIN, guest.v4, 7000))]);
    let with_hook = with(interface(guest, &["moves"]), "hook", "xdp");
    daemon.apply(&rules(with_hook, false)).unwrap();
    alive(&mut held);
}
