//! Devices that come and go, and those of the host itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use sg_tests::{Daemon, Guest, Probe, outside};

use crate::counters::reason;
use crate::packets::RawEthernet;
use crate::world::{
    World, allowed, ask, denied, expect, interface, must_refuse, plug, plug_as, policy, refused, status_of,
    tcp_from, wait,
};

fn named(name: &str, address: &str) -> Value {
    json!({ "name": name, "instance": name, "addresses": [address], "security_groups": ["webs"] })
}

/// TCP from the administrator to a port of a guest that the site does not know.
fn to(world: &World, guest: &Guest, port: u16) -> Probe {
    Probe::tcp(&world.site.outside, (guest.v4, port)).source(outside::ADMIN)
}

/// A neighbour advertisement of fe80::1 to all nodes (RFC 4861, section 4.4); the filter looks at no checksum.
fn advertisement() -> Vec<u8> {
    let router = [&[0xfe, 0x80][..], &[0; 13], &[1]].concat();
    let all_nodes = [&[0xff, 0x02][..], &[0; 13], &[1]].concat();
    let message = [&[136, 0, 0, 0, 0xa0, 0, 0, 0][..], &router].concat();
    [&[0x60, 0, 0, 0, 0, 24, 58, 255][..], &router, &all_nodes, &message].concat()
}

#[test]
fn spec_d23_a_managed_device_is_closed_unless_a_policy_names_it() {
    let world = World::new(2);
    let webs = json!([{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80)] }]);
    let on = |interfaces: Value| {
        policy(json!({
            "settings": { "managed": ["tap*", "vnet?"] }, "security_groups": webs, "interfaces": interfaces,
        }))
    };
    let named_ones = json!([interface(world.guest(0), &["webs"]), named("tap8", "10.0.0.28")]);
    let daemon = Daemon::start(&world.site, &on(named_ones.clone())).unwrap();
    assert_eq!(status_of(&daemon, "tap8")["state"], "absent");
    // tap1 was there before the daemon and is in no policy.
    assert_eq!(status_of(&daemon, "tap1")["state"], "closed");
    let other = world.guest(1);
    world.expect(&[
        denied(world.tcp(outside::ADMIN, other.v4, 80)),
        denied(world.ping(outside::ADMIN_V6, other.v6)),
        denied(world.tcp(other.v4, outside::DNS, 80)),
        denied(world.udp(other.v6, outside::DNS_V6, 53)),
    ]);

    // It does not announce itself as somebody else either, in IPv4 or in IPv6: its own addresses nobody has told.
    let raw = RawEthernet::new(&other.netns, "eth0");
    let gateway = [10, 0, 0, 1];
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 2, 0x52, 0x54, 0, 0, 0, 5][..], &gateway, &[0; 6], &gateway].concat();
    let before = reason(&status_of(&daemon, "tap1"), "outbound", "no_rule");
    for _ in 0..5 {
        raw.send(0x0806, &arp);
        raw.send(0x86dd, &advertisement());
    }
    wait("all ten are dropped", || reason(&status_of(&daemon, "tap1"), "outbound", "no_rule") >= before + 10);
    for passed in ["arp", "neighbor_discovery", "dhcp"] {
        assert_eq!(reason(&status_of(&daemon, "tap1"), "outbound", passed), 0, "{passed}");
    }

    let late = [("vnet5", 25), ("tap8", 28), ("free0", 29)]
        .map(|(device, number)| plug(&world.site, device, number));
    let _servers = late
        .each_ref()
        .map(|guest| guest.netns.serve_tcp(&[(guest.v4, 80).into(), (guest.v4, 81).into()]).unwrap());
    wait("vnet5 is closed", || {
        daemon.status().unwrap()["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .any(|i| i["name"] == "vnet5" && i["state"] == "closed")
    });
    wait("tap8 is enforced", || status_of(&daemon, "tap8")["state"] == "enforced");
    let [vnet, tap, free] = &late;
    expect(&[
        denied(to(&world, vnet, 80)),
        denied(Probe::tcp(&vnet.netns, (outside::DNS, 80))),
        allowed(to(&world, tap, 80)),
        denied(to(&world, tap, 81)),
        allowed(to(&world, free, 80)),
        allowed(to(&world, free, 81)),
    ]);

    // Named, it opens as the rules say; no longer named, it closes again.
    let mut three = named_ones.as_array().unwrap().clone();
    three.push(named("vnet5", "10.0.0.25"));
    daemon.apply(&on(three.into())).unwrap();
    expect(&[allowed(to(&world, vnet, 80)), denied(to(&world, vnet, 81))]);
    daemon.apply(&on(named_ones)).unwrap();
    expect(&[denied(to(&world, vnet, 80)), denied(to(&world, vnet, 81))]);

    // Another device of the same name is filtered like the first.
    world.site.host.ip("link delete tap8").unwrap();
    wait("tap8 is gone", || status_of(&daemon, "tap8")["state"] == "absent");
    // With the first one's address: a guest may use no other.
    let again = plug_as(&world.site, "tap8", 28, "again");
    let _server = again.netns.serve_tcp(&[(again.v4, 80).into(), (again.v4, 81).into()]).unwrap();
    wait("the new tap8 is enforced", || status_of(&daemon, "tap8")["state"] == "enforced");
    expect(&[allowed(to(&world, &again, 80)), denied(to(&world, &again, 81))]);
}

#[test]
fn spec_d21_a_device_that_cannot_be_filtered_refuses_the_policy_and_changes_nothing() {
    let world = World::new(1);
    let guest = world.guest(0);
    world.site.host.ip("link add lan0 type bridge\nlink set lan0 up").unwrap();
    let on = |port: u16, more: &[Value]| {
        let mut interfaces = vec![interface(guest, &["webs"])];
        interfaces.extend_from_slice(more);
        policy(json!({
            "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", port)] }], "interfaces": interfaces,
        }))
    };
    let daemon = Daemon::start(&world.site, &on(80, &[])).unwrap();
    let rows =
        [allowed(world.tcp(outside::ADMIN, guest.v4, 80)), denied(world.tcp(outside::ADMIN, guest.v4, 81))];
    world.expect(&rows);
    // A bridge has no native XDP.
    let mut xdp = named("lan0", "10.0.0.77");
    xdp["hook"] = "xdp".into();
    must_refuse(&daemon, &on(81, &[xdp]), &["lan0", "\"hook\""]);
    world.expect(&rows);
    assert_eq!(daemon.status().unwrap()["interfaces"].as_array().unwrap().len(), 1);
    daemon.apply(&on(81, &[named("lan0", "10.0.0.77")])).unwrap();
    assert_eq!(refused(&daemon), None);
    world.expect(&[
        denied(world.tcp(outside::ADMIN, guest.v4, 80)),
        allowed(world.tcp(outside::ADMIN, guest.v4, 81)),
    ]);
}

#[test]
fn spec_d26_nobody_is_locked_out_of_a_host_unless_on_purpose() {
    let world = World::new(0);
    let host: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), "2001:db8:c::1".parse::<Ipv6Addr>().unwrap().into()];
    let far: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 2).into(), "2001:db8:c::2".parse::<Ipv6Addr>().unwrap().into()];
    let (here, there) = (&world.site.host, &world.site.outside);
    here.ip(&format!(
        "link add adm0 type veth peer name adm1 netns {}\nlink set adm0 up\n\
         address add 192.0.2.1/24 dev adm0\naddress add 2001:db8:c::1/64 dev adm0 nodad",
        there.name()
    ))
    .unwrap();
    there
        .ip("link set adm1 up\naddress add 192.0.2.2/24 dev adm1\naddress add 2001:db8:c::2/64 dev adm1 nodad")
        .unwrap();
    let on = |settings: Value, group: Value| {
        policy(json!({
            "settings": settings, "security_groups": [group],
            "interfaces": [{
                "name": "adm0", "instance": "hypervisor", "role": "host", "addresses": host, "security_groups": ["admin"],
            }],
        }))
    };
    let nothing = json!({ "name": "admin", "inbound": [], "outbound": [] });
    let web = json!({ "name": "admin", "inbound": [tcp_from("192.0.2.0/24", 80)], "outbound": [] });
    let daemon = Daemon::start(&world.site, &on(json!({}), nothing.clone())).unwrap();
    let ports = |address: IpAddr| [22, 53, 80, 443].map(|port| (address, port).into());
    let _servers: Vec<_> = [(here, host), (there, far)]
        .into_iter()
        .flat_map(|(netns, ends)| ends.map(|end| (netns, end)))
        .flat_map(|(netns, end)| {
            [netns.serve_tcp(&ports(end)).unwrap(), netns.serve_udp(&ports(end)).unwrap()]
        })
        .collect();
    for (host, far) in host.into_iter().zip(far) {
        expect(&[
            allowed(Probe::tcp(there, (host, 22))),
            denied(Probe::tcp(there, (host, 80))),
            denied(Probe::udp(there, (host, 22))),
            denied(Probe::ping(there, host)),
            allowed(Probe::udp(here, (far, 53))),
            allowed(Probe::tcp(here, (far, 53))),
            denied(Probe::tcp(here, (far, 443))),
            denied(Probe::tcp(here, (far, 22))),
        ]);
    }
    let question = |port| {
        let arguments = ["explain", "--json", "--interface", "adm0", "--direction", "inbound"];
        ask(
            &daemon,
            &[&arguments[..], &["--protocol", "tcp", "--remote", "192.0.2.2", "--port", port]].concat(),
            &[0, 1],
        )
    };
    let answer = question("22");
    assert_eq!(
        (&answer["verdict"], &answer["rules"][0]["rule"]),
        (&json!("allow"), &json!("settings.failsafe"))
    );

    // Rules count as on any interface.
    daemon.apply(&on(json!({}), web.clone())).unwrap();
    expect(&[
        allowed(Probe::tcp(there, (host[0], 80))),
        denied(Probe::tcp(there, (host[1], 80))),
        allowed(Probe::tcp(there, (host[1], 22))),
    ]);
    daemon.apply(&on(json!({ "failsafe": { "inbound": [], "outbound": [] } }), web)).unwrap();
    for (host, far) in host.into_iter().zip(far) {
        expect(&[
            denied(Probe::tcp(there, (host, 22))),
            denied(Probe::udp(here, (far, 53))),
            denied(Probe::tcp(here, (far, 53))),
        ]);
    }
    expect(&[allowed(Probe::tcp(there, (host[0], 80)))]);
    assert_eq!(question("22")["verdict"], "drop");
    daemon.apply(&on(json!({}), nothing)).unwrap();
    expect(&host.map(|host| allowed(Probe::tcp(there, (host, 22)))));
}

/// A rename is no way out of the filter.
#[test]
fn spec_d23_a_renamed_device_stays_filtered_if_it_is_managed() {
    let world = World::new(1);
    let text = policy(json!({
        "settings": { "managed": ["tap*"] },
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }));
    let daemon = Daemon::start(&world.site, &text).unwrap();
    world.expect(&[allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80))]);
    world.site.host.ip("link set tap0 down\nlink set tap0 name tap7\nlink set tap7 up").unwrap();
    wait("tap7 is closed", || {
        let status = daemon.status().unwrap();
        let interfaces = status["interfaces"].as_array().unwrap();
        interfaces.iter().any(|found| found["name"] == "tap7" && found["state"] == "closed")
    });
    world.expect(&[denied(world.tcp(outside::ADMIN, world.guest(0).v4, 80))]);
    // The policy follows in the same moment, or a little later; the device is filtered all the time.
    let under_its_new_name = text.replace("\"tap0\"", "\"tap7\"");
    assert_ne!(under_its_new_name, text);
    daemon.apply(&under_its_new_name).unwrap();
    world.expect(&[
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::ADMIN, world.guest(0).v4, 81)),
    ]);
}

/// It only matches a pattern: nobody has asked for it in particular.
#[test]
fn spec_k10_a_managed_device_without_ethernet_does_not_block_the_policy() {
    let world = World::new(1);
    let on = |port: u16| {
        policy(json!({
            "settings": { "managed": ["tap*", "lo"] },
            "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", port)] }],
            "interfaces": [interface(world.guest(0), &["webs"])],
        }))
    };
    let daemon = Daemon::start(&world.site, &on(80)).unwrap();
    assert_eq!(status_of(&daemon, "lo")["state"], "unfilterable");
    world.site.host.ip("tuntap add dev tap9 mode tun").unwrap();
    daemon.apply(&on(81)).unwrap();
    assert_eq!(refused(&daemon), None);
    world.expect(&[allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 81))]);
    wait("tap9 is shown", || {
        let status = daemon.status().unwrap();
        let interfaces = status["interfaces"].as_array().unwrap();
        interfaces.iter().any(|found| found["name"] == "tap9" && found["state"] == "unfilterable")
    });
    daemon.apply(&on(82)).unwrap();
    let text = daemon.sgctl(&["status"]).unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("NOT FILTERED"), "nobody overlooks it");
    // Each of the two is warned of once.
    assert_eq!(daemon.log().matches("carries no Ethernet frames").count(), 2, "{}", daemon.log());
    world.site.host.ip("link delete tap9").unwrap();
    wait("tap9 is gone", || {
        let status = daemon.status().unwrap();
        status["interfaces"].as_array().unwrap().iter().all(|found| found["name"] != "tap9")
    });
}

/// The policy was right, the device was not.
#[test]
fn spec_k10_a_policy_refused_for_a_device_is_in_force_when_the_device_is_right() {
    let world = World::new(1);
    let on = |more: &[Value]| {
        let mut interfaces = vec![interface(world.guest(0), &["webs"])];
        interfaces.extend_from_slice(more);
        let port = 80 + more.len();
        policy(json!({
            "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", port as u16)] }],
            "interfaces": interfaces,
        }))
    };
    let mut daemon = Daemon::start(&world.site, &on(&[])).unwrap();
    world.site.host.ip("tuntap add dev tap9 mode tun").unwrap();
    must_refuse(&daemon, &on(&[named("tap9", "10.0.0.77")]), &["tap9", "Ethernet"]);
    world.expect(&[
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::ADMIN, world.guest(0).v4, 81)),
    ]);
    let now = [
        denied(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 81)),
    ];
    world.site.host.ip("link delete tap9").unwrap();
    wait("it is accepted", || refused(&daemon).is_none());
    assert_eq!(status_of(&daemon, "tap9")["state"], "absent");
    world.expect(&now);

    // It comes back as what it was: that is said, and all others stay filtered.
    world.site.host.ip("tuntap add dev tap9 mode tun").unwrap();
    wait("it is seen", || status_of(&daemon, "tap9")["state"] == "unfilterable");
    world.expect(&now);
    // As after a boot: one wrong device does not leave all others open.
    daemon.kill();
    std::fs::remove_dir_all(daemon.pin_dir().join(format!("v{}", sg_common::abi::ABI_VERSION))).unwrap();
    daemon.resume().unwrap();
    assert!(refused(&daemon).unwrap().contains("tap9"));
    assert_eq!(status_of(&daemon, "tap9")["state"], "unfilterable");
    world.expect(&now);
    world.site.host.ip("link delete tap9").unwrap();
    wait("it is accepted again", || refused(&daemon).is_none());
    world.expect(&now);
}
