//! Groups on interfaces: who may talk to whom, and how that follows the file.

use serde_json::json;
use sg_tests::{Daemon, Probe, outside};

use crate::world::{
    World, admin, allowed, denied, expect, interface, must_refuse, ping_from, plug, policy, refused,
    status_of, stranger, tcp_from, udp_from, wait, with,
};

const ANY: &str = "0.0.0.0/0";
const ANY_V6: &str = "::/0";
const ADMINS: &str = "203.0.113.0/24";
const ADMINS_V6: &str = "2001:db8:a::/64";

#[test]
fn spec_k1_two_interfaces_of_one_instance_differ() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let same_instance = |guest, group| with(interface(guest, &[group]), "instance", "web-1");
    let _daemon = Daemon::start(
        &world.site,
        &policy(json!({
            "ipv6": true,
            "security_groups": [
                { "name": "public", "inbound": [tcp_from(ANY, 80), tcp_from(ANY_V6, 80)] },
                { "name": "private", "inbound": [tcp_from(ADMINS, 22), tcp_from(ADMINS_V6, 22)] },
            ],
            "interfaces": [same_instance(a, "public"), same_instance(b, "private")],
        })),
    )
    .unwrap();
    let mut rows = Vec::new();
    for (to_a, to_b) in [(a.v4, b.v4), (a.v6, b.v6)] {
        rows.extend([
            allowed(world.tcp(admin(to_a), to_a, 80)),
            denied(world.tcp(admin(to_a), to_a, 22)),
            denied(world.tcp(admin(to_b), to_b, 80)),
            allowed(world.tcp(admin(to_b), to_b, 22)),
            denied(world.tcp(stranger(to_b), to_b, 22)),
        ]);
    }
    world.expect(&rows);
}

#[test]
fn spec_k2_k5_k12_d3_a_policy_with_a_fault_is_refused_whole_and_the_running_one_stays() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let web = |rules: serde_json::Value| json!({ "name": "webs", "inbound": rules });
    let good = json!({
        "security_groups": [web(json!([tcp_from(ANY, 80)]))],
        "interfaces": [interface(a, &["webs"]), interface(b, &["webs"])],
    });
    let daemon = Daemon::start(&world.site, &policy(good.clone())).unwrap();
    let rows = [
        allowed(world.tcp(outside::STRANGER, a.v4, 80)),
        denied(world.tcp(outside::STRANGER, a.v4, 81)),
        allowed(world.tcp(outside::STRANGER, b.v4, 80)),
        denied(world.tcp(outside::STRANGER, b.v4, 81)),
    ];
    world.expect(&rows);

    // Each would also open port 81, which must not happen.
    let opened = web(json!([tcp_from(ANY, 80), tcp_from(ANY, 81)]));
    let no_group = json!({
        "security_groups": [opened],
        "interfaces": [interface(a, &["webs"]), interface(b, &[])],
    });
    must_refuse(&daemon, &policy(no_group), &["tap1", "security group"]);
    world.expect(&rows);

    let deny = web(json!([tcp_from(ANY, 80), with(tcp_from(ANY, 81), "action", "deny")]));
    let text = policy(json!({ "security_groups": [deny], "interfaces": good["interfaces"] }));
    let line = 1 + text.lines().position(|line| line.contains("\"action\"")).unwrap();
    must_refuse(&daemon, &text, &[&format!("policy.json:{line}:"), "security_groups[0].inbound[1].action"]);
    world.expect(&rows);

    let quota = json!({
        "settings": { "quotas": { "rules_per_group": 1 } },
        "security_groups": [web(json!([tcp_from(ANY, 80), tcp_from(ANY, 81)]))],
        "interfaces": good["interfaces"],
    });
    must_refuse(&daemon, &policy(quota), &["webs", "rules_per_group"]);
    world.expect(&rows);

    // D3: the group goes, its users stay.
    let other = json!({ "name": "other", "inbound": [tcp_from("@webs", 81)] });
    let gone = json!({ "security_groups": [other], "interfaces": good["interfaces"] });
    must_refuse(&daemon, &policy(gone), &["\"webs\"", "interfaces[0]", "interfaces[1]", "inbound[0]"]);
    world.expect(&rows);

    // No generation to wait for: the policy in force is the same.
    daemon.write_policy(&policy(good)).unwrap();
    wait("the refusal is forgotten", || refused(&daemon).is_none());
}

#[test]
fn spec_k3_bare_metal_is_not_enforced_and_says_so() {
    let world = World::new(2);
    let (metal, vm) = (world.guest(0), world.guest(1));
    let bare = |groups: &[&str]| with(interface(metal, groups), "kind", "bare_metal");
    let with_groups = |groups: &[&str]| {
        policy(json!({
            "settings": { "managed": ["tap*"] },
            "security_groups": [{ "name": "closed", "inbound": [], "outbound": [] }],
            "interfaces": [bare(groups), interface(vm, &["closed"])],
        }))
    };
    let daemon = Daemon::start(&world.site, &with_groups(&[])).unwrap();
    let rows = [
        allowed(world.tcp(outside::STRANGER, metal.v4, 22)),
        allowed(world.udp(outside::STRANGER_V6, metal.v6, 53)),
        allowed(world.ping(outside::STRANGER, metal.v4)),
        denied(world.tcp(outside::STRANGER, vm.v4, 22)),
    ];
    world.expect(&rows);
    let says_so = || {
        assert_eq!(status_of(&daemon, "tap0")["state"], "bare_metal");
        let status = daemon.sgctl(&["status"]).unwrap();
        assert!(String::from_utf8_lossy(&status.stdout).contains("not enforced (bare metal)"));
        let question =
            ["--direction", "inbound", "--protocol", "tcp", "--remote", "198.51.100.7", "--port", "22"];
        let explain = daemon.sgctl(&[&["explain", "--interface", "tap0"][..], &question].concat()).unwrap();
        assert!(String::from_utf8_lossy(&explain.stdout).contains("not enforced (bare metal)"));
        assert_eq!(explain.status.code(), Some(0), "it passes");
    };
    says_so();
    // Also with a group assigned, and while it is being changed.
    daemon.write_policy(&with_groups(&["closed"])).unwrap();
    wait("the group is seen", || status_of(&daemon, "tap0")["security_groups"] == json!(["closed"]));
    world.expect(&rows);
    says_so();
}

#[test]
fn spec_k7_k8_groups_are_shared_and_add_up_in_any_order() {
    let world = World::new(3);
    let guests = [world.guest(0), world.guest(1), world.guest(2)];
    let groups = json!([
        { "name": "webs", "inbound": [tcp_from(ANY, 80)], "outbound": [] },
        { "name": "ssh-in", "inbound": [tcp_from(ADMINS, 22)],
          "outbound": [{ "protocol": "UDP", "destination": "8.8.8.8/32", "port": 53 }] },
    ]);
    let _daemon = Daemon::start(
        &world.site,
        &policy(json!({
            "security_groups": groups,
            "interfaces": [
                interface(guests[0], &["webs", "ssh-in"]),
                interface(guests[1], &["ssh-in", "webs"]),
                interface(guests[2], &["webs"]),
            ],
        })),
    )
    .unwrap();
    let mut rows = Vec::new();
    for (index, guest) in guests.into_iter().enumerate() {
        let both = index < 2;
        let only_both = |probe: Probe| if both { allowed(probe) } else { denied(probe) };
        rows.extend([
            allowed(world.tcp(outside::STRANGER, guest.v4, 80)),
            only_both(world.tcp(outside::ADMIN, guest.v4, 22)),
            denied(world.tcp(outside::STRANGER, guest.v4, 22)),
            only_both(world.udp(guest.v4, outside::DNS, 53)),
            denied(world.tcp(guest.v4, outside::DNS, 53)),
        ]);
    }
    world.expect(&rows);
}

#[test]
fn spec_k10_a_changed_rule_applies_to_every_interface_of_its_group() {
    let world = World::new(2);
    let guests = [world.guest(0), world.guest(1)];
    let with_rules = |rules: serde_json::Value| {
        policy(json!({
            "ipv6": true,
            "security_groups": [{ "name": "webs", "inbound": rules, "outbound": [] }],
            "interfaces": guests.map(|guest| interface(guest, &["webs"])),
        }))
    };
    let everywhere = |row: fn(Probe) -> (Probe, sg_tests::Outcome), port| {
        guests
            .iter()
            .flat_map(|guest| [guest.v4, guest.v6])
            .map(|address| row(world.tcp(stranger(address), address, port)))
            .collect::<Vec<_>>()
    };
    let daemon = Daemon::start(&world.site, &with_rules(json!([]))).unwrap();
    world.expect(&[everywhere(denied, 80), everywhere(denied, 81)].concat());
    // Added …
    daemon.apply(&with_rules(json!([tcp_from(ANY, 80), tcp_from(ANY_V6, 80)]))).unwrap();
    world.expect(&[everywhere(allowed, 80), everywhere(denied, 81)].concat());
    // … changed …
    daemon.apply(&with_rules(json!([tcp_from(ANY, 81), tcp_from(ANY_V6, 81)]))).unwrap();
    world.expect(&[everywhere(denied, 80), everywhere(allowed, 81)].concat());
    // … deleted.
    daemon.apply(&with_rules(json!([]))).unwrap();
    world.expect(&[everywhere(denied, 80), everywhere(denied, 81)].concat());
}

#[test]
fn spec_k20_k21_k22_k23_default_is_there_can_be_edited_and_comes_back() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let with_groups = |groups: serde_json::Value| {
        policy(json!({
            "security_groups": groups,
            "interfaces": [interface(a, &["default"]), interface(b, &["default"])],
        }))
    };
    let daemon = Daemon::start(&world.site, &with_groups(json!([]))).unwrap();
    let standard = [
        allowed(world.tcp(a.v4, b.v4, 9000)),
        allowed(world.tcp(b.v6, a.v6, 9000)),
        denied(world.udp(a.v4, b.v4, 9000)),
        denied(world.ping(b.v4, a.v4)),
        denied(world.tcp(outside::ADMIN, a.v4, 9000)),
        allowed(world.udp(a.v4, outside::DNS, 53)),
        allowed(world.ping(b.v4, outside::DNS)),
        denied(world.udp(a.v6, outside::DNS_V6, 53)),
    ];
    // K22: ::/0 only where the VPC says "ipv6": true, so members cannot leave by IPv6 either.
    let standard: Vec<_> = standard
        .into_iter()
        .map(
            |(probe, outcome)| {
                if probe.destination() == (a.v6, 9000).into() { denied(probe) } else { (probe, outcome) }
            },
        )
        .collect();
    world.expect(&standard);

    let edited = json!([{ "name": "default", "inbound": [udp_from("@default", 9000)] }]);
    daemon.apply(&with_groups(edited)).unwrap();
    world.expect(&[denied(world.tcp(a.v4, b.v4, 9000)), allowed(world.udp(a.v4, b.v4, 9000))]);

    // Deleting it from the file only takes the edits back.
    daemon.apply(&with_groups(json!([]))).unwrap();
    world.expect(&[allowed(world.tcp(a.v4, b.v4, 9000)), denied(world.udp(b.v4, a.v4, 9000))]);

    let twice = json!([{ "name": "default" }, { "name": "default", "inbound": [] }]);
    must_refuse(&daemon, &with_groups(twice), &["default", "policy.json:"]);
}

#[test]
fn spec_d1_membership_follows_interfaces_and_peers() {
    let world = World::new(3);
    let (server, member, other) = (world.guest(0), world.guest(1), world.guest(2));
    let with_members = |other_groups: &[&str], peers: serde_json::Value| {
        policy(json!({
            "ipv6": true,
            "security_groups": [
                { "name": "clients" },
                { "name": "guests" },
                { "name": "servers",
                  "inbound": [tcp_from("@clients", 3306), json!({ "protocol": "ICMP", "source": "@clients" })] },
            ],
            "interfaces": [
                interface(server, &["servers"]),
                interface(member, &["clients"]),
                interface(other, other_groups),
            ],
            "peers": peers,
        }))
    };
    let asks = |from: std::net::IpAddr, row: fn(Probe) -> (Probe, sg_tests::Outcome)| {
        let to = if from.is_ipv4() { server.v4 } else { server.v6 };
        [row(world.tcp(from, to, 3306)), row(world.ping(from, to))]
    };
    let daemon = Daemon::start(&world.site, &with_members(&["guests"], json!([]))).unwrap();
    let always =
        [asks(member.v4, allowed), asks(member.v6, allowed), asks(outside::STRANGER.into(), denied)].concat();
    let without =
        [asks(other.v4, denied), asks(other.v6, denied), asks(outside::ADMIN.into(), denied)].concat();
    let joined =
        [asks(other.v4, allowed), asks(other.v6, allowed), asks(outside::ADMIN.into(), allowed)].concat();
    world.expect(&[always.clone(), without.clone()].concat());

    let peers = json!([{ "address": outside::ADMIN, "security_groups": ["clients"] }]);
    daemon.apply(&with_members(&["guests", "clients"], peers)).unwrap();
    world.expect(&[always.clone(), joined].concat());

    daemon.apply(&with_members(&["guests"], json!([]))).unwrap();
    world.expect(&[always, without].concat());
}

#[test]
fn spec_d1_an_interface_is_a_member_before_its_device_appears() {
    let world = World::new(1);
    let server = world.guest(0);
    let late = json!({ "name": "tap5", "instance": "late", "addresses": ["10.0.0.25"], "security_groups": ["clients"] });
    let daemon = Daemon::start(
        &world.site,
        &policy(json!({
            "security_groups": [{ "name": "clients" }, { "name": "servers", "inbound": [tcp_from("@clients", 3306)] }],
            "interfaces": [interface(server, &["servers"]), late],
        })),
    )
    .unwrap();
    let late = plug(&world.site, "tap5", 25);
    wait("tap5 is filtered", || status_of(&daemon, "tap5")["state"] == "enforced");
    world.serve([&world.tcp(outside::ADMIN, server.v4, 3306), &world.tcp(outside::ADMIN, server.v4, 3307)]);
    expect(&[
        allowed(Probe::tcp(&late.netns, (server.v4, 3306))),
        denied(Probe::tcp(&late.netns, (server.v4, 3307))),
    ]);
}

#[test]
fn spec_d2_between_two_guests_of_a_host_both_interfaces_rules_apply() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let to =
        |destination: &str, port: u16| json!({ "protocol": "TCP", "destination": destination, "port": port });
    let _daemon = Daemon::start(
        &world.site,
        &policy(json!({
            "security_groups": [
                { "name": "sender", "outbound": [
                    to("10.0.0.6/32", 1000), to("10.0.0.6/32", 1001), to("fd00::6/128", 1000), to("fd00::6/128", 1001)] },
                { "name": "receiver", "outbound": [], "inbound": [
                    tcp_from("10.0.0.5/32", 1001), tcp_from("10.0.0.5/32", 1002),
                    tcp_from("fd00::5/128", 1001), tcp_from("fd00::5/128", 1002)] },
            ],
            "interfaces": [interface(a, &["sender"]), interface(b, &["receiver"])],
        })),
    )
    .unwrap();
    world.expect(&[
        denied(world.tcp(a.v4, b.v4, 1000)),
        allowed(world.tcp(a.v4, b.v4, 1001)),
        denied(world.tcp(a.v4, b.v4, 1002)),
        denied(world.tcp(a.v6, b.v6, 1000)),
        allowed(world.tcp(a.v6, b.v6, 1001)),
        denied(world.tcp(a.v6, b.v6, 1002)),
        denied(world.tcp(b.v4, a.v4, 1001)),
    ]);
}

/// Two VPCs with the same addresses, each with its own bridge and its own world behind it.
#[test]
fn spec_d2_overlapping_addresses_of_two_vpcs_never_mix() {
    use std::net::UdpSocket;
    use std::time::Duration;

    let world = World::new(0);
    let host = &world.site.host;
    let mut ends = Vec::new();
    for vpc in ["red", "blue"] {
        let (guest, client) = (
            world.site.lab.netns(&format!("{vpc}-g")).unwrap(),
            world.site.lab.netns(&format!("{vpc}-c")).unwrap(),
        );
        host.ip(&format!(
            "link add br-{vpc} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br-{vpc} up"
        ))
        .unwrap();
        for (device, netns, address) in
            [(format!("g-{vpc}"), &guest, "10.9.0.5"), (format!("c-{vpc}"), &client, "10.9.0.7")]
        {
            host.ip(&format!(
                "link add {device} type veth peer name eth0 netns {}\nlink set {device} master br-{vpc} up",
                netns.name()
            ))
            .unwrap();
            netns.ip(&format!("link set eth0 up\naddress add {address}/24 dev eth0")).unwrap();
        }
        ends.push((guest, client));
    }
    let of_vpc = |vpc: &str, rules: serde_json::Value| {
        json!({
            "version": 1, "project": "shop", "vpc": vpc,
            "security_groups": [
                { "name": "servers", "inbound": rules, "outbound": [] },
                { "name": "clients" },
            ],
            "interfaces": [
                { "name": format!("g-{vpc}"), "instance": "server", "addresses": ["10.9.0.5"], "security_groups": ["servers"] },
            ],
            "peers": if vpc == "red" { json!([{ "address": "10.9.0.7", "security_groups": ["clients"] }]) } else { json!([]) },
        })
        .to_string()
    };
    let blue = world.site.lab.directory().join("blue.json");
    std::fs::write(&blue, of_vpc("blue", json!([udp_from("@clients", 1000)]))).unwrap();
    let red = of_vpc("red", json!([udp_from("@clients", 1000)]));
    let _daemon = Daemon::start_with(&world.site, &red, &["--policy", blue.to_str().unwrap()]).unwrap();

    // The very same tuple in both, first where it is allowed.
    let exchange = |(guest, client): &(sg_tests::Netns, sg_tests::Netns), patience: Duration| {
        let server = guest.run(|| UdpSocket::bind("10.9.0.5:1000").unwrap()).unwrap();
        let client = client.run(|| UdpSocket::bind("10.9.0.7:5555").unwrap()).unwrap();
        server.set_read_timeout(Some(patience)).unwrap();
        client.set_read_timeout(Some(patience)).unwrap();
        client.send_to(b"?", "10.9.0.5:1000").unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).ok()?;
        server.send_to(b"!", from).unwrap();
        client.recv(&mut [0; 8]).ok()
    };
    assert!(exchange(&ends[0], sg_tests::patience::ALLOWED).is_some(), "a member in red");
    assert!(exchange(&ends[1], sg_tests::patience::DENIED).is_none(), "in blue the group has no member");
    assert!(exchange(&ends[0], sg_tests::patience::ALLOWED).is_some());
}

#[test]
fn spec_k15_k16_k14_ping_and_ports_by_family() {
    let world = World::new(1);
    let guest = world.guest(0);
    let _daemon = Daemon::start(
        &world.site,
        &policy(json!({
            "security_groups": [{ "name": "webs", "outbound": [], "inbound": [
                json!({ "protocol": "tcp", "source": ANY, "port": "8000-8002" }), ping_from(ADMINS), ping_from(ADMINS_V6),
                json!({ "protocol": "UDP", "source": ANY_V6, "port": "ALL" }),
            ] }],
            "interfaces": [interface(guest, &["webs"])],
        })),
    )
    .unwrap();
    world.expect(&[
        denied(world.tcp(outside::ADMIN, guest.v4, 7999)),
        allowed(world.tcp(outside::ADMIN, guest.v4, 8000)),
        allowed(world.tcp(outside::ADMIN, guest.v4, 8002)),
        denied(world.tcp(outside::ADMIN, guest.v4, 8003)),
        denied(world.tcp(outside::ADMIN_V6, guest.v6, 8000)),
        allowed(world.udp(outside::ADMIN_V6, guest.v6, 65535)),
        denied(world.udp(outside::ADMIN, guest.v4, 65535)),
        allowed(world.ping(outside::ADMIN, guest.v4)),
        denied(world.ping(outside::STRANGER, guest.v4)),
        allowed(world.ping(outside::ADMIN_V6, guest.v6)),
        denied(world.ping(outside::STRANGER_V6, guest.v6)),
    ]);
}
