//! `sgctl explain` says what happens, and why, and changes nothing (SPEC section 8).

use std::net::IpAddr;

use serde_json::{Value, json};
use sg_tests::{Daemon, Outcome, Probe, Transport, outside};

use crate::world::{Row, World, ask, interface, ping_from, policy, status_of, tcp_from, udp_from, with};

fn question(
    interface: &str,
    direction: &str,
    protocol: &str,
    remote: IpAddr,
    port: Option<u16>,
) -> Vec<String> {
    let mut words: Vec<String> = [
        "explain",
        "--interface",
        interface,
        "--direction",
        direction,
        "--protocol",
        protocol,
        "--remote",
        &remote.to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend(port.into_iter().flat_map(|port| ["--port".to_owned(), port.to_string()]));
    words
}

fn explain(daemon: &Daemon, words: &[String]) -> Value {
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["--json"]).collect();
    ask(daemon, &words, &[0, 1])
}

#[test]
fn spec_k27_explain_says_why_the_metadata_service_is_denied_and_what_to_add() {
    let world = World::new(1);
    let on = |group: Value| {
        policy(json!({ "security_groups": [group], "interfaces": [interface(world.guest(0), &["webs"])] }))
    };
    let daemon = Daemon::start(&world.site, &on(json!({ "name": "webs" }))).unwrap();
    let words =
        "explain --interface tap0 --direction outbound --protocol tcp --remote 169.254.169.254 --port 80";
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let output = daemon.sgctl(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("denied"), "{text}");
    assert!(text.contains("reserved") && text.contains("\"webs\""), "{text}");
    assert!(text.contains("169.254.169.0/24"), "{text}");

    // Adding exactly that rule is enough, with what the absent list meant.
    let answer = explain(&daemon, &words);
    assert_eq!((&answer["verdict"], &answer["add"]["group"]), (&json!("drop"), &json!("webs")), "{answer:#}");
    assert_eq!(answer["add"]["list"], "outbound");
    let rule = answer["add"]["rule"].clone();
    let probe = world.tcp(world.guest(0).v4, outside::METADATA, 80);
    world.expect(&[crate::world::denied(probe.clone())]);
    daemon.apply(&on(json!({ "name": "webs", "outbound": [rule] }))).unwrap();
    world.expect(&[crate::world::allowed(probe)]);
    let answer = explain(&daemon, &words);
    assert_eq!(
        (&answer["verdict"], &answer["rules"][0]["group"]),
        (&json!("allow"), &json!("webs")),
        "{answer:#}"
    );
}

#[test]
fn explain_names_group_rule_file_and_line_or_the_nearest_rule() {
    let world = World::new(1);
    let text = policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80), tcp_from("203.0.113.0/24", 22)] },
            { "name": "other", "inbound": [tcp_from("@friends", 22)], "outbound": [] },
            { "name": "friends" },
        ],
        "interfaces": [interface(world.guest(0), &["webs", "other"])],
        "peers": [{ "address": "10.7.0.1", "security_groups": ["friends"] }],
    }));
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let file = daemon.policy_path();
    let line = |nth: usize| {
        let rules = text.lines().zip(1..).filter(|(line, _)| line.contains("\"protocol\""));
        rules.map(|(_, number)| number - 1).nth(nth).unwrap()
    };
    let ask = |remote: &str, port: u16| {
        explain(&daemon, &question("tap0", "inbound", "tcp", remote.parse().unwrap(), Some(port)))
    };
    for (remote, port, group, rule, nth) in [
        ("198.51.100.7", 80, "webs", "inbound[0]", 0),
        ("203.0.113.10", 22, "webs", "inbound[1]", 1),
        ("10.7.0.1", 22, "other", "inbound[0]", 2),
    ] {
        let answer = ask(remote, port);
        assert_eq!(
            (&answer["verdict"], &answer["reason"]),
            (&json!("allow"), &json!("new_flow")),
            "{answer:#}"
        );
        let [found] = &answer["rules"].as_array().unwrap()[..] else { panic!("{answer:#}") };
        assert_eq!((&found["group"], &found["rule"]), (&json!(group), &json!(rule)), "{answer:#}");
        assert_eq!((&found["file"], &found["line"]), (&json!(file), &json!(line(nth))), "{answer:#}\n{text}");
    }
    let answer = ask("203.0.113.10", 23);
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("drop"), &json!("no_rule")), "{answer:#}");
    assert_eq!(answer["nearest"]["group"], "webs");
    assert!(answer["nearest"]["because"].as_str().unwrap().contains("port 23"), "{answer:#}");
    // The nearest rule for a stranger's SSH is one for port 22 or one for strangers, and says what does not fit.
    let answer = ask("198.51.100.7", 22);
    assert_eq!(answer["verdict"], "drop");
    assert!(answer["nearest"]["line"].is_u64() && answer["nearest"]["because"].is_string(), "{answer:#}");
    // An implied rule has no line.
    let answer = explain(&daemon, &question("tap0", "outbound", "udp", outside::DNS.into(), Some(53)));
    assert_eq!(
        (&answer["verdict"], &answer["rules"][0]["group"]),
        (&json!("allow"), &json!("webs")),
        "{answer:#}"
    );
}

#[test]
fn explain_knows_live_connections_and_those_whose_rule_is_gone() {
    let world = World::new(1);
    let guest = world.guest(0);
    let on = |rules: Value| {
        policy(json!({
            "security_groups": [{ "name": "webs", "inbound": rules, "outbound": [] }],
            "interfaces": [interface(guest, &["webs"])],
        }))
    };
    let daemon = Daemon::start(&world.site, &on(json!([tcp_from("203.0.113.0/24", 80)]))).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, guest.v4, 80));
    let flows = ask(&daemon, &["flows", "--json"], &[0]);
    let port = flows[0]["remote_port"].to_string();
    let mut words = question("tap0", "inbound", "tcp", outside::ADMIN.into(), Some(80));
    words.extend(["--source-port".to_owned(), port]);
    assert_eq!(explain(&daemon, &words)["reason"], "established");
    daemon.apply(&on(json!([]))).unwrap();
    let answer = explain(&daemon, &words);
    assert_eq!(
        (&answer["verdict"], &answer["reason"]),
        (&json!("allow"), &json!("established")),
        "{answer:#}"
    );
    assert!(answer["notes"].to_string().contains("until it times out"), "{answer:#}");
    let new = question("tap0", "inbound", "tcp", outside::ADMIN.into(), Some(80));
    assert_eq!(explain(&daemon, &new)["reason"], "no_rule");
    crate::world::alive(&mut held);
}

/// Pseudo-random numbers, the same in every run (xorshift64).
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The lowest bits are the poorest.
        self.0 >> 8
    }

    pub fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[(self.number() % values.len() as u64) as usize]
    }
}

#[test]
fn explain_agrees_with_real_packets_and_changes_nothing() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let all = |destination: &str| json!({ "protocol": "ALL", "destination": destination, "port": "ALL" });
    let text = policy(json!({
        "ipv6": true,
        "security_groups": [
            { "name": "webs",
              "inbound": [
                  json!({ "protocol": "TCP", "source": "0.0.0.0/0", "port": "80-443" }), tcp_from("2001:db8:a::/64", 22),
                  udp_from("198.51.100.0/24", 53), ping_from("203.0.113.0/24"), tcp_from("@apps", 8080) ],
              "outbound": [
                  json!({ "protocol": "TCP", "destination": "8.8.8.8/32", "port": "ALL" }), all("2001:db8:53::/64"),
                  json!({ "protocol": "UDP", "destination": "0.0.0.0/0", "port": "53" }), all("@apps") ] },
            { "name": "apps", "inbound": [
                  tcp_from("@webs", 80), json!({ "protocol": "UDP", "source": "@webs", "port": "ALL" }),
                  ping_from("2001:db8:bad::/64"), tcp_from("203.0.113.10/32", 8080), tcp_from("169.254.0.0/16", 22) ] },
        ],
        "interfaces": [with(interface(a, &["webs"]), "hook", "xdp"), with(interface(b, &["apps"]), "hook", "tc")],
    }));
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let remotes: [IpAddr; 8] = [
        outside::ADMIN.into(),
        outside::STRANGER.into(),
        outside::METADATA.into(),
        outside::DNS.into(),
        outside::SQL_SERVER.into(),
        outside::ADMIN_V6.into(),
        outside::STRANGER_V6.into(),
        outside::DNS_V6.into(),
    ];
    // Every tuple once; between the guests both ends have their say.
    let mut tuples = std::collections::BTreeSet::new();
    while tuples.len() < 110 {
        let guest = random.one_of(&[0, 1]);
        let remote =
            random.one_of(&[&remotes[..], &[world.guest(1 - guest).v4, world.guest(1 - guest).v6]].concat());
        let inbound = random.one_of(&[true, false]);
        let transport = random.one_of(&[Transport::Tcp, Transport::Tcp, Transport::Udp, Transport::Icmp]);
        let port = if transport == Transport::Icmp { 0 } else { random.one_of(&[22, 53, 80, 443, 8080]) };
        tuples.insert((guest, remote, inbound, transport, port));
    }
    // Opens a few flows, which the questions must leave alone.
    let _held = [world.hold(&world.tcp(outside::ADMIN, a.v4, 80)), world.hold(&world.tcp(a.v4, b.v4, 80))];
    let before = state(&daemon);
    let tuples: Vec<_> = tuples.into_iter().collect();
    let passes = |guest: usize, inbound: bool, transport: Transport, remote: IpAddr, port: u16| {
        let protocol = match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Icmp => "icmp",
        };
        let direction = if inbound { "inbound" } else { "outbound" };
        let port = (transport != Transport::Icmp).then_some(port);
        let answer = explain(&daemon, &question(&format!("tap{guest}"), direction, protocol, remote, port));
        assert!(!answer["notes"].to_string().contains("disagree"), "{answer:#}");
        answer["verdict"] == "allow"
    };
    let mut rows: Vec<Row> = Vec::new();
    for &(guest, remote, inbound, transport, port) in &tuples {
        let own = world.guest(guest);
        let local = if remote.is_ipv4() { own.v4 } else { own.v6 };
        let (from, to) = if inbound { (remote, local) } else { (local, remote) };
        let mut pass = passes(guest, inbound, transport, remote, port);
        let other = 1 - guest;
        if [world.guest(other).v4, world.guest(other).v6].contains(&remote) {
            pass &= passes(other, !inbound, transport, local, port);
        }
        let probe: Probe = match transport {
            Transport::Tcp => world.tcp(from, to, port),
            Transport::Udp => world.udp(from, to, port),
            Transport::Icmp => world.ping(from, to),
        };
        rows.push((probe, if pass { Outcome::Answered } else { Outcome::TimedOut }));
    }
    assert_eq!(state(&daemon), before, "asking changes nothing");
    let pass = rows.iter().filter(|(_, outcome)| outcome.answered()).count();
    assert!((10..100).contains(&pass), "{pass} of {} pass: too one-sided to mean much", rows.len());
    world.expect(&rows);
    assert_ne!(state(&daemon), before, "packets do");
}

/// The flows and the counters, without what the neighbours' own chatter changes.
fn state(daemon: &Daemon) -> Value {
    let mut flows = ask(daemon, &["flows", "--json"], &[0]);
    for flow in flows.as_array_mut().unwrap() {
        let flow = flow.as_object_mut().unwrap();
        flow.retain(|field, _| field != "age" && field != "expires_in");
    }
    let counters = ["tap0", "tap1"].map(|tap| {
        let status = status_of(daemon, tap);
        ["inbound", "outbound"].map(|direction| {
            let reasons = status[direction]["reasons"].as_array().unwrap().iter();
            let chatter = ["arp", "neighbor_discovery"].map(Value::from);
            reasons.filter(|reason| !chatter.contains(&reason["reason"])).cloned().collect::<Vec<_>>()
        })
    });
    json!([flows, counters])
}

/// Text of `sgctl explain`, and whether it says that the packet passes.
fn told(daemon: &Daemon, question: &str) -> (String, Option<i32>) {
    let words: Vec<&str> = std::iter::once("explain").chain(question.split_whitespace()).collect();
    let output = daemon.sgctl(&words).unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (text, output.status.code())
}

#[test]
fn spec_8_every_kind_of_packet_can_be_asked_about() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let with_mac =
        |guest: &sg_tests::Guest, groups: &[&str]| with(interface(guest, groups), "mac", guest.mac.as_str());
    let text = policy(json!({
        "ipv6": true,
        "settings": { "managed": ["extra*"] },
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80), ping_from("203.0.113.0/24"),
                                          json!({ "protocol": "gre", "source": "203.0.113.0/24" })] },
            { "name": "apps", "inbound": [tcp_from("@webs", 80)], "outbound": [] } ],
        "interfaces": [with_mac(a, &["webs"]), with_mac(b, &["apps"]),
            json!({ "name": "absent0", "addresses": ["10.0.0.77"], "security_groups": ["webs"] })],
    }));
    world.site.host.ip("link add extra0 type veth peer name extra1").unwrap();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let inbound = "--interface tap0 --direction inbound";
    let outbound = "--interface tap0 --direction outbound";
    // An ARP request of the guest's for its router, in which it says that it is somebody else.
    let arp = "525400000001525400000005080600010800060400015254000000050a0000060000000000000a000001";
    let mut faults = Vec::new();
    for (question, code, seen) in [
        // Kinds of packets.
        (
            format!("{inbound} --protocol icmp --remote 203.0.113.10 --icmp-type echo-request"),
            0,
            &["by group \"webs\""][..],
        ),
        (
            format!("{inbound} --protocol icmp --remote 203.0.113.10 --icmp-type 13"),
            1,
            &["(no_rule)", "\"icmp_type\":13"],
        ),
        (format!("{inbound} --protocol gre --remote 203.0.113.10"), 0, &["protocol 47 (gre)"]),
        (
            format!("{inbound} --protocol sctp --remote 203.0.113.10"),
            1,
            &["{\"protocol\":132,\"source\":\"203.0.113.10/32\"}"],
        ),
        (
            format!("{inbound} --protocol tcp --port 80 --remote 203.0.113.10 --flags syn,fin"),
            1,
            &["(tcp_flags)", "port scanner"],
        ),
        (
            format!("{inbound} --protocol tcp --port 80 --remote 203.0.113.10 --fragment first"),
            0,
            &["(new_flow)", "first fragment, id 1"],
        ),
        (
            format!("{inbound} --protocol udp --port 80 --remote 203.0.113.10 --fragment first"),
            1,
            &["(no_rule)", "first fragment, id 1"],
        ),
        (
            "--interface tap1 --direction inbound --protocol udp --remote 203.0.113.10 --fragment last --offset 800 --id 9".to_owned(),
            1,
            &["(fragment_limit)", "last fragment, at byte 800, id 9"],
        ),
        (
            format!("{inbound} --protocol tcp --remote 203.0.113.10 --fragment middle"),
            0,
            &["(early_fragment)"],
        ),
        (
            format!("{inbound} --remote 203.0.113.10 --quoted-protocol udp --quoted-port 53"),
            1,
            &["port-unreachable", "about 10.0.0.5:40000 > 203.0.113.10:53 UDP", "this one's is not"],
        ),
        // Guards: whose the address is, and what switches them off.
        (
            format!("{outbound} --protocol tcp --port 80 --remote 8.8.8.8 --mac 52:54:00:00:00:99"),
            1,
            &["(source_mac)", "52:54:00:00:00:05", "settings.guest_baseline.source_mac"],
        ),
        (
            format!("{outbound} --protocol tcp --port 80 --remote 8.8.8.8 --local 10.0.0.66"),
            1,
            &["(source_address)", "allowed_addresses", "10.0.0.5"],
        ),
        (
            format!("{outbound} --protocol tcp --port 80 --remote 8.8.8.8 --vlan 7"),
            1,
            &["(vlan)", "VLAN 7", "trunk"],
        ),
        (
            format!("{outbound} --hex {arp}"),
            1,
            &["(arp_spoof)", "ARP request: 10.0.0.6 is at 52:54:00:00:00:05", "settings.guest_baseline.arp"],
        ),
        (format!("{outbound} --hex {}", arp.replace("0a000006", "0a000005")), 0, &["(arp)"]),
        (format!("{outbound} --hex {}", &arp[..34]), 1, &["(malformed)", "could not be read: ARP"]),
        // Both ends, by name and by address.
        (
            format!("{outbound} --protocol tcp --port 80 --to tap1"),
            0,
            &["passes both ends: tap0 → tap1", "by group \"apps\""],
        ),
        (
            "--interface tap0 --protocol tcp --port 81 --to tap1".to_owned(),
            1,
            &[
                "denied by the receiver's interface: tap0 → tap1",
                "sgctl rule add apps inbound --protocol TCP --source 10.0.0.5/32 --port 81",
            ],
        ),
        (
            "--interface tap1 --direction outbound --protocol tcp --port 80 --remote 10.0.0.5".to_owned(),
            1,
            &["denied by both ends: tap1 → tap0"],
        ),
        // Devices that are not as others.
        (
            "--interface extra0 --direction outbound --protocol tcp --port 80 --remote 8.8.8.8".to_owned(),
            1,
            &["(no_rule)", "closed: it is managed", "\"extra*\"", "Name the device"],
        ),
        (
            "--interface absent0 --direction inbound --protocol tcp --port 80 --remote 203.0.113.9"
                .to_owned(),
            0,
            &["allowed (new_flow)", "the kernel was not asked"],
        ),
        (
            "--interface up0 --direction inbound --protocol tcp --port 80 --remote 203.0.113.9".to_owned(),
            0,
            &["passes (not_enforced)", "settings.managed"],
        ),
        // What cannot be asked.
        (
            "--interface tap00 --direction inbound --protocol tcp --port 80 --remote 203.0.113.9".to_owned(),
            2,
            &["did you mean \"tap0\"?", "sgctl status"],
        ),
        (format!("{inbound} --protocol scpt --remote 203.0.113.9"), 2, &["did you mean sctp?"]),
        (
            format!("{inbound} --protocol icmp --icmp-type echo-requst --remote 203.0.113.9"),
            2,
            &["did you mean echo-request?"],
        ),
        (
            format!("{inbound} --protocol icmp --icmp-type 8 --flags syn --remote 203.0.113.9"),
            2,
            &["only TCP has flags"],
        ),
        (
            format!("{inbound} --protocol udp --port 1 --remote 203.0.113.9 --fragment last --offset 9"),
            2,
            &["multiples of 8"],
        ),
        (
            format!("{inbound} --protocol tcp --port 80 --remote 203.0.113.9 --to tap1"),
            2,
            &["--direction outbound"],
        ),
        (format!("{inbound} --hex 5254"), 2, &["begins with 14 bytes"]),
        (format!("{inbound} --hex {arp} --packet 2"), 2, &["there are 1 packets"]),
        (format!("{inbound} --protocol 44 --remote 2001:db8::1"), 2, &["extension header"]),
    ] {
        let (text, found) = told(&daemon, &question);
        let lacks: Vec<&&str> = seen.iter().filter(|part| !text.contains(**part)).collect();
        if found != Some(code) || !lacks.is_empty() {
            faults.push(format!("{question}: {found:?} instead of {code}, and no {lacks:?} in {text}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
