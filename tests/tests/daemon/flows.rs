//! Connections that live while the rules change.

use std::io;
use std::net::IpAddr;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};
use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, outside, patience};

use crate::world::{
    World, admin, alive, allowed, ask, cut, denied, interface, ping_from, policy, status_of, tcp_from,
    udp_from, with,
};

/// An ICMP or ICMPv6 echo flow: every request has the same identifier.
pub struct Pings {
    socket: UdpSocket,
    v6: bool,
    id: u16,
    sequence: u16,
}

impl Pings {
    pub fn new(from: &Netns, source: IpAddr, to: IpAddr, id: u16) -> Self {
        let (family, protocol) = if to.is_ipv4() {
            (AddressFamily::Inet, SockProtocol::Icmp)
        } else {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        };
        let open = || -> nix::Result<OwnedFd> {
            let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
            nix::sys::socket::bind(raw, &SockaddrStorage::from(std::net::SocketAddr::new(source, 0)))?;
            connect(raw, &SockaddrStorage::from(std::net::SocketAddr::new(to, 0)))?;
            Ok(fd)
        };
        // std has no raw socket; send and recv are the same calls for every connected one.
        let socket = UdpSocket::from(from.run(open).unwrap().unwrap());
        Self { socket, v6: to.is_ipv6(), id, sequence: 0 }
    }

    /// Sends a request and waits for its reply.
    pub fn answered(&mut self, patience: Duration) -> bool {
        self.sequence += 1;
        let (request, reply) = if self.v6 { (128, 129) } else { (8, 0) };
        let [i0, i1] = self.id.to_be_bytes();
        let [s0, s1] = self.sequence.to_be_bytes();
        let mut packet = [request, 0, 0, 0, i0, i1, s0, s1];
        if !self.v6 {
            let sum = (u32::from(request) << 8) + u32::from(self.id) + u32::from(self.sequence);
            let sum = (sum & 0xffff) + (sum >> 16);
            let [c0, c1] = (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes();
            (packet[2], packet[3]) = (c0, c1);
        }
        self.socket.set_read_timeout(Some(patience)).unwrap();
        self.socket.send(&packet).unwrap();
        let mut buffer = [0; 256];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            };
            // A raw IPv4 socket hands over the IP header too.
            let header = if self.v6 { 0 } else { usize::from(buffer[0] & 0xf) * 4 };
            if length >= header + 8
                && buffer[header] == reply
                && buffer[header + 4..header + 8] == packet[4..8]
            {
                return true;
            }
        }
    }
}

fn outbound(rules: &Value) -> Value {
    let rules = rules.as_array().unwrap().iter().map(|rule| {
        let mut rule = rule.as_object().unwrap().clone();
        let source = rule.remove("source").unwrap();
        rule.insert("destination".to_owned(), source);
        Value::Object(rule)
    });
    rules.collect()
}

/// TCP 7000, UDP 7000 and ping with the administrator, in both families.
fn admin_rules() -> Value {
    let mut rules = Vec::new();
    for net in ["203.0.113.0/24", "2001:db8:a::/64"] {
        rules.extend([tcp_from(net, 7000), udp_from(net, 7000), ping_from(net)]);
    }
    rules.into()
}

/// Guest 0 may be asked by the administrator and guest 1 may ask him, one on XDP and one on TC, or, without `rules`, not any more.
fn server_and_client(world: &World, rules: bool, on_rule_change: &str) -> String {
    let (server, client) = (world.guest(0), world.guest(1));
    let rules = if rules { admin_rules() } else { json!([]) };
    policy(json!({
        "settings": { "on_rule_change": on_rule_change },
        "security_groups": [
            { "name": "server", "inbound": rules, "outbound": [] },
            { "name": "client", "inbound": [], "outbound": outbound(&rules) },
            { "name": "always", "inbound": [tcp_from("203.0.113.0/24", 7001), udp_from("203.0.113.0/24", 7001)], "outbound": [] },
        ],
        "interfaces": [
            with(interface(server, &["server", "always"]), "hook", "xdp"),
            with(interface(client, &["client"]), "hook", "tc"),
        ],
    }))
}

#[test]
fn spec_k11_existing_connections_outlive_their_rule_in_both_directions() {
    let world = World::new(2);
    let (server, client) = (world.guest(0), world.guest(1));
    let daemon = Daemon::start(&world.site, &server_and_client(&world, true, "keep")).unwrap();
    let ways = [(server.v4, true), (server.v6, true), (client.v4, false), (client.v6, false)];
    let ends =
        ways.map(|(guest, inbound)| if inbound { (admin(guest), guest) } else { (guest, admin(guest)) });
    let probes: Vec<_> =
        ends.iter().flat_map(|&(from, to)| [world.tcp(from, to, 7000), world.udp(from, to, 7000)]).collect();
    let mut held: Vec<_> = probes.iter().map(|probe| world.hold(probe)).collect();
    let mut pings: Vec<_> =
        ends.iter().map(|&(from, to)| Pings::new(world.site.owner(from), from, to, 0x1111)).collect();
    assert!(pings.iter_mut().all(|ping| ping.answered(patience::ALLOWED)));
    let flows = ask(&daemon, &["flows", "--json"], &[0]);
    assert!(flows.as_array().unwrap().iter().all(|flow| flow["admitted_now"] == true), "{flows:#}");

    daemon.apply(&server_and_client(&world, false, "keep")).unwrap();
    for round in 0..2 {
        held.iter_mut().for_each(alive);
        assert!(pings.iter_mut().all(|ping| ping.answered(patience::ALLOWED)), "round {round}");
        let new: Vec<_> = probes.iter().cloned().map(denied).collect();
        world.expect(&new);
        world.expect(&ends.map(|(from, to)| denied(world.ping(from, to))));
    }
    let flows = ask(&daemon, &["flows", "--json"], &[0]);
    let flows = flows.as_array().unwrap();
    for (state, count) in [("established", 4), ("udp_stream", 4), ("icmp", 4)] {
        let found: Vec<_> =
            flows.iter().filter(|flow| flow["state"] == state && flow["replied"] == true).collect();
        assert_eq!(found.len(), count, "{found:#?}");
        assert!(found.iter().all(|flow| flow["admitted_now"] == false), "{found:#?}");
    }
    let text = String::from_utf8(daemon.sgctl(&["flows"]).unwrap().stdout).unwrap();
    assert!(text.contains("not admitted by the rules in force"), "{text}");
}

#[test]
fn spec_k11_revoke_cuts_exactly_the_flows_that_no_rule_allows() {
    let world = World::new(2);
    let (server, client) = (world.guest(0), world.guest(1));
    let daemon = Daemon::start(&world.site, &server_and_client(&world, true, "revoke")).unwrap();
    let mut gone = [
        world.hold(&world.tcp(outside::ADMIN, server.v4, 7000)),
        world.hold(&world.udp(outside::ADMIN_V6, server.v6, 7000)),
        world.hold(&world.tcp(client.v6, outside::ADMIN_V6, 7000)),
        world.hold(&world.udp(client.v4, outside::ADMIN, 7000)),
    ];
    let mut stays = [
        world.hold(&world.tcp(outside::ADMIN, server.v4, 7001)),
        world.hold(&world.udp(outside::ADMIN, server.v4, 7001)),
    ];
    let mut ping = Pings::new(&world.site.outside, outside::ADMIN.into(), server.v4, 0x2222);
    assert!(ping.answered(patience::ALLOWED));
    let count = || ask(&daemon, &["flows", "--json"], &[0]).as_array().unwrap().len();
    assert_eq!(count(), 7);

    daemon.apply(&server_and_client(&world, false, "revoke")).unwrap();
    assert_eq!(count(), 2);
    std::thread::scope(|scope| {
        gone.iter_mut().for_each(|connection| {
            scope.spawn(|| cut(connection));
        });
    });
    assert!(!ping.answered(patience::DENIED));
    stays.iter_mut().for_each(alive);

    // Where keep was the setting, what lived on is cut as soon as revoke is.
    daemon.apply(&server_and_client(&world, true, "keep")).unwrap();
    let mut late = world.hold(&world.tcp(outside::ADMIN, server.v4, 7000));
    daemon.apply(&server_and_client(&world, false, "keep")).unwrap();
    alive(&mut late);
    daemon.apply(&server_and_client(&world, false, "revoke")).unwrap();
    cut(&mut late);
    stays.iter_mut().for_each(alive);
}

#[test]
fn spec_k11_a_connection_outlives_its_group_and_its_membership() {
    let world = World::new(2);
    let (server, client) = (world.guest(0), world.guest(1));
    let with_client = |client_groups: &[&str]| {
        policy(json!({
            "security_groups": [
                { "name": "clients" }, { "name": "others" },
                { "name": "servers", "inbound": [tcp_from("@clients", 3306)], "outbound": [] },
            ],
            "interfaces": [interface(server, &["servers"]), interface(client, client_groups)],
        }))
    };
    let daemon = Daemon::start(&world.site, &with_client(&["clients"])).unwrap();
    let probe = world.tcp(client.v4, server.v4, 3306);
    let mut held = world.hold(&probe);
    daemon.apply(&with_client(&["others"])).unwrap();
    alive(&mut held);
    world.expect(&[denied(probe.clone())]);
    daemon.apply(&with_client(&["clients"])).unwrap();
    alive(&mut held);
    world.expect(&[allowed(probe)]);
}

#[test]
fn spec_k11_d23_flows_of_a_managed_interface_that_left_the_policy_live_unless_revoked() {
    let world = World::new(2);
    let on = |on_rule_change: &str, interfaces: Value| {
        policy(json!({
            "settings": { "on_rule_change": on_rule_change, "managed": ["tap*"] },
            "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80)], "outbound": [] }],
            "interfaces": interfaces,
        }))
    };
    let [a, b] = [0, 1].map(|guest| interface(world.guest(guest), &["webs"]));
    let daemon = Daemon::start(&world.site, &on("keep", json!([a, b]))).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(1).v4, 80));
    daemon.apply(&on("keep", json!([a]))).unwrap();
    assert_eq!(status_of(&daemon, "tap1")["state"], "closed");
    alive(&mut held);
    world.expect(&[denied(world.tcp(outside::ADMIN, world.guest(1).v4, 80))]);
    daemon.apply(&on("revoke", json!([a, b]))).unwrap();
    alive(&mut held);
    daemon.apply(&on("revoke", json!([a]))).unwrap();
    cut(&mut held);

    // Nothing is filtered on bare metal, so there is nothing to cut.
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let bare = with(interface(world.guest(0), &[]), "kind", "bare_metal");
    daemon.apply(&on("revoke", json!([bare]))).unwrap();
    assert_eq!(status_of(&daemon, "tap0")["state"], "bare_metal");
    alive(&mut held);
}
