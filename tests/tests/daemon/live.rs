//! Connections listed, filtered and counted by the daemon: held against the kernel's tables, read a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use aya::maps::{Array, Map, MapData};
use serde_json::{Value, json};
use sg_common::abi::{
    Be32, FLOW_LIVE, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED, Flow, FlowKeyV4, FlowKeyV6, FlowPorts, FlowSlotV4,
    FlowSlotV6, FlowTags, map,
};
use sg_common::conntrack::State;
use sg_daemon::kernel::{FlowKey, Pins};
use sg_tests::{Daemon, binary, outside};

use crate::fill;
use crate::world::{World, ask, interface, policy, tcp_from, wait};

/// Both guests admit web clients of 198.51.0.0/16 and nothing else.
fn web_policy(world: &World) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "outbound": [], "inbound": [
            { "protocol": "TCP", "source": "198.51.0.0/16", "port": "443-444" }, tcp_from("203.0.113.0/24", 80),
        ] }],
        "interfaces": [interface(world.guest(0), &["webs"]), interface(world.guest(1), &["webs"])],
    }))
}

/// What a flow is called here: interface, protocol, local, remote, ports and who began it.
type Name = (String, String, IpAddr, Option<u16>, IpAddr, Option<u16>, bool);

/// The table of a family, read by other means than the daemon's: which slots are in use, and what they hold.
fn table<S: aya::Pod>(daemon: &Daemon, tags: &str, slots: &str) -> Vec<S> {
    let open = |name| Map::Array(MapData::from_pin(Pins::at(daemon.pin_dir()).map(name)).unwrap());
    let tags: Array<MapData, FlowTags> = open(tags).try_into().unwrap();
    let slots: Array<MapData, S> = open(slots).try_into().unwrap();
    let mut found = Vec::new();
    for bucket in 0..tags.len() {
        let FlowTags { tags } = tags.get(&bucket, 0).unwrap();
        for (position, _) in (0..).zip(tags).filter(|(_, tag)| *tag != 0) {
            found.push(slots.get(&(bucket * 16 + position), 0).unwrap());
        }
    }
    found
}

const LIVE_V4: u32 = 12_000;
const LIVE_V6: u32 = 2_500;
const HALF_V4: u32 = 1_000;
/// Every so many flows there is one more that is over.
const OVER: u32 = 10;

/// Fills the tables; returns every flow that is not over.
struct Filled {
    flows: Vec<(Name, Flow)>,
    like: Flow,
}

fn fill(world: &World, daemon: &Daemon) -> Filled {
    // A real one says what the time is and which zone the first guest has.
    let held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let FlowSlotV4 { key, flow: like } = table(daemon, map::TAGS_V4, map::FLOWS_V4)[0];
    let zone = key.zone_protocol >> 8;
    drop(held);
    let flow = |number: u32, place: u32, state: State, flags: u8| {
        let over = number % OVER == 1;
        Flow {
            expires: if over { 1 } else { like.expires + 1_000_000 + u64::from(number) },
            // Each is older than the one before.
            created: like.created.saturating_sub(number % 700),
            place,
            state: state as u8,
            flags,
            ..like
        }
    };
    // A row that no interface has: the shares stay what they are.
    let live = FLOW_LIVE;
    // Of a guest each, and of a device that is gone.
    let zone_protocol = |number: u32, protocol: u32| {
        let zone = if number % 97 == 2 { 0x00ff_ff00 } else { zone + number % 2 };
        zone << 8 | protocol
    };
    let local = |number: u32| Be32::from_host(0x0a00_0005 + number % 2);
    let v4 = |number: u32| {
        let tcp = !number.is_multiple_of(3);
        let ports = if tcp {
            FlowPorts { local: 442 + (number / 2 % 4) as u16, remote: 1024 + (number >> 3) as u16 }
        } else {
            FlowPorts { local: 2000 + number as u16, remote: 53 }
        };
        let key = FlowKeyV4 {
            zone_protocol: zone_protocol(number, if tcp { 6 } else { 17 }),
            local: local(number),
            remote: Be32::from_host(0xc633_0000 + (number % 300)),
            ports,
        };
        let flags = FLOW_REPLIED | if tcp { 0 } else { FLOW_ORIGIN_OUTBOUND };
        let state = match (tcp, number % 5) {
            (false, _) => State::UdpStream,
            (true, 0) => State::TcpTimeWait,
            (true, _) => State::TcpEstablished,
        };
        (key, flow(number, live, state, flags))
    };
    let half = |number: u32| {
        let key = FlowKeyV4 {
            zone_protocol: zone_protocol(number, 6),
            local: local(number),
            remote: Be32::from_host(0xcb00_7100 + (number % 200)),
            ports: FlowPorts { local: 80, remote: 1024 + number as u16 },
        };
        // In a part of the ring that no interface has.
        (key, flow(number, 100_000 + number, State::TcpSynSent, 0))
    };
    let words = |low: u32| [0xfd00_0000, 0, 0, low].map(Be32::from_host);
    let v6 = |number: u32| {
        let key = FlowKeyV6 {
            zone_protocol: zone_protocol(number, 58),
            local: words(5 + number % 2),
            remote: words(0x1000 + number),
            ports: FlowPorts { local: number as u16, remote: 128 << 8 },
        };
        (key, flow(number, live, State::Icmp, FLOW_REPLIED))
    };
    let memory = fill::memory(daemon.pin_dir());
    for (key, flow) in (0..LIVE_V4).map(v4).chain((0..HALF_V4).map(half)) {
        fill::put(&memory, &FlowKey::V4(key), &flow);
    }
    for (key, flow) in (0..LIVE_V6).map(v6) {
        fill::put(&memory, &FlowKey::V6(key), &flow);
    }
    let mut flows = Vec::new();
    for FlowSlotV4 { key, flow } in table(daemon, map::TAGS_V4, map::FLOWS_V4) {
        let address = |address: Be32| Ipv4Addr::from_bits(address.to_host()).into();
        let ends = (address(key.local), address(key.remote));
        flows.push((key.zone_protocol, ends, key.ports, flow));
    }
    for FlowSlotV6 { key, flow, .. } in table(daemon, map::TAGS_V6, map::FLOWS_V6) {
        let address = |words: [Be32; 4]| {
            let bits = words.iter().fold(0, |bits, word| bits << 32 | u128::from(word.to_host()));
            Ipv6Addr::from_bits(bits).into()
        };
        flows.push((key.zone_protocol, (address(key.local), address(key.remote)), key.ports, flow));
    }
    let flows: Vec<_> = flows
        .into_iter()
        .filter(|(.., flow)| flow.expires > 1)
        .filter_map(|(zone_protocol, (local, remote), ports, flow)| {
            let guest = (zone_protocol >> 8).checked_sub(zone).filter(|guest| *guest < 2)?;
            let (protocol, local_port, remote_port) = match zone_protocol & 0xff {
                6 => ("tcp", Some(ports.local), Some(ports.remote)),
                17 => ("udp", Some(ports.local), Some(ports.remote)),
                _ => ("icmpv6", Some(ports.local), None),
            };
            let outbound = flow.flags & FLOW_ORIGIN_OUTBOUND != 0;
            let name = (
                format!("tap{guest}"),
                protocol.to_owned(),
                local,
                local_port,
                remote,
                remote_port,
                outbound,
            );
            Some((name, flow))
        })
        .collect();
    Filled { flows, like }
}

fn name(flow: &Value) -> Name {
    let text = |field: &str| flow[field].as_str().unwrap().to_owned();
    let port = |field: &str| flow[field].as_u64().map(|port| port as u16);
    let address = |field: &str| text(field).parse().unwrap();
    (
        text("interface"),
        text("protocol"),
        address("local"),
        port("local_port"),
        address("remote"),
        port("remote_port"),
        text("direction") == "outbound",
    )
}

fn names(answer: &Value) -> BTreeSet<Name> {
    let flows = answer.as_array().unwrap();
    let names: BTreeSet<Name> = flows.iter().map(name).collect();
    assert_eq!(names.len(), flows.len(), "each connection once");
    names
}

#[test]
fn what_is_listed_filtered_and_counted_is_what_the_tables_hold() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let Filled { flows, like } = fill(&world, &daemon);
    assert!(flows.len() > 12_000, "{}", flows.len());
    let of = |fits: &dyn Fn(&Name, &Flow) -> bool| -> BTreeSet<Name> {
        flows.iter().filter(|(name, flow)| fits(name, flow)).map(|(name, _)| name.clone()).collect()
    };
    let listed = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["flows", "--json"].into_iter().chain(arguments.iter().copied()).collect();
        names(&ask(&daemon, &arguments, &[0]))
    };
    assert_eq!(listed(&[]), of(&|_, _| true));
    let in_net = |address: IpAddr, net: &str| net.parse::<ipnet::IpNet>().unwrap().contains(&address);
    // Of the rules, second-hand: TCP 443-444 from 198.51.0.0/16, TCP 80 from 203.0.113.0/24, in.
    let admitted = |name: &Name| {
        let (_, protocol, _, local_port, remote, _, outbound) = name;
        let port = local_port.unwrap_or(0);
        protocol == "tcp"
            && !outbound
            && (in_net(*remote, "198.51.0.0/16") && (443..=444).contains(&port)
                || in_net(*remote, "203.0.113.0/24") && port == 80)
    };
    type Fits<'f> = &'f dyn Fn(&Name, &Flow) -> bool;
    let age = |flow: &Flow| like.created.saturating_sub(flow.created);
    let rows: [(&[&str], Fits<'_>); 14] = [
        (&["--interface", "tap1"], &|name, _| name.0 == "tap1"),
        (&["--interface", "tap0,tap1", "--protocol", "udp"], &|name, _| name.1 == "udp"),
        (&["--protocol", "icmp"], &|name, _| name.1 == "icmpv6"),
        (&["--direction", "outbound"], &|name, _| name.6),
        (&["--remote", "198.51.0.0/25"], &|name, _| in_net(name.4, "198.51.0.0/25")),
        (&["--remote", "fd00::1134"], &|name, _| in_net(name.4, "fd00::1134/128")),
        (&["--local", "10.0.0.6", "--port", "443"], &|name, _| {
            in_net(name.2, "10.0.0.6/32") && name.1 == "tcp" && name.3 == Some(443)
        }),
        (&["--port", "50-445"], &|name, _| match name.1.as_str() {
            "tcp" => name.3.is_some_and(|port| (50..=445).contains(&port)),
            "udp" => name.5.is_some_and(|port| (50..=445).contains(&port)),
            _ => false,
        }),
        (&["--local-port", "443"], &|name, _| name.1 != "icmpv6" && name.3 == Some(443)),
        (&["--remote-port", "53"], &|name, _| name.5 == Some(53)),
        (&["--state", "time_wait,syn_sent"], &|_, flow| {
            [State::TcpTimeWait as u8, State::TcpSynSent as u8].contains(&flow.state)
        }),
        (&["--replied=false"], &|_, flow| flow.flags & FLOW_REPLIED == 0),
        (&["--admitted"], &|name, _| admitted(name)),
        (&["--admitted=false", "--interface", "tap0"], &|name, _| !admitted(name) && name.0 == "tap0"),
    ];
    for (arguments, fits) in rows {
        let expected = of(fits);
        assert!(!expected.is_empty() && expected.len() < flows.len(), "{arguments:?} says something");
        assert_eq!(listed(arguments), expected, "{arguments:?}");
        let count: Vec<&str> =
            ["flows", "--json", "--count"].into_iter().chain(arguments.iter().copied()).collect();
        let count = ask(&daemon, &count, &[0]);
        assert_eq!(count["total"], json!(expected.len()), "{arguments:?}");
    }

    // Counts by what they have in common.
    let counts = ask(&daemon, &["flows", "--json", "--count-by", "interface,state"], &[0]);
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (name, flow) in &flows {
        let state = State::from_number(flow.state).unwrap().name().to_owned();
        *expected.entry((name.0.clone(), state)).or_default() += 1;
    }
    let text = |count: &Value, field: &str| count[field].as_str().unwrap().to_owned();
    let counted = |counts: &Value, field: &str| -> Vec<(String, u64)> {
        let counts = counts["counts"].as_array().unwrap().iter();
        counts.map(|count| (text(count, field), count["count"].as_u64().unwrap())).collect()
    };
    let found: BTreeMap<(String, String), u64> = counts["counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| ((text(count, "interface"), text(count, "state")), count["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, expected);
    let half_open = flows.iter().filter(|(_, flow)| flow.is_half_open()).count();
    assert_eq!((&counts["total"], &counts["half_open"]), (&json!(flows.len()), &json!(half_open)));
    // By the rules that would let them begin, each connection for each of them; and those that none would.
    let counts = ask(&daemon, &["flows", "--json", "--count-by", "group,rule"], &[0]);
    let by_rule = |rule: Option<&str>| -> u64 {
        let counts = counts["counts"].as_array().unwrap().iter();
        let of_rule = counts.filter(|count| count["rule"].as_str() == rule);
        let group = rule.map(|_| "webs");
        of_rule
            .inspect(|count| assert_eq!(count["group"].as_str(), group))
            .map(|count| count["count"].as_u64().unwrap())
            .sum()
    };
    let http = |name: &Name| admitted(name) && name.3 == Some(80);
    let https = |name: &Name| admitted(name) && name.3 != Some(80);
    let many = |fits: &dyn Fn(&Name) -> bool| flows.iter().filter(|(name, _)| fits(name)).count() as u64;
    let rules = ["webs/inbound[0]", "webs/inbound[1]"].map(|rule| by_rule(Some(rule)));
    let expected = [many(&https), many(&http)];
    assert!(expected.iter().all(|count| *count > 0), "{expected:?}");
    assert_eq!(rules, expected, "{counts:#}");
    assert_eq!(by_rule(None), many(&|name| !admitted(name)));
    assert_eq!(counts["total"], json!(flows.len()));

    // The largest first, and what is left out is said.
    let counts = ask(&daemon, &["flows", "--json", "--count-by", "remote", "--limit", "5"], &[0]);
    let mut by_remote: BTreeMap<IpAddr, u64> = BTreeMap::new();
    flows.iter().for_each(|(name, _)| *by_remote.entry(name.4).or_default() += 1);
    let mut largest: Vec<u64> = by_remote.values().copied().collect();
    largest.sort_by(|a, b| b.cmp(a));
    let found = counted(&counts, "remote");
    assert_eq!(found.iter().map(|(_, count)| *count).collect::<Vec<_>>(), largest[..5]);
    assert!(found.iter().all(|(remote, count)| by_remote[&remote.parse::<IpAddr>().unwrap()] == *count));
    assert_eq!(counts["left_out"], json!(by_remote.len() - 5));

    // In order, the first few or all of them, with or without an end.
    let ages = |arguments: &[&str]| -> Vec<u64> {
        let arguments: Vec<&str> = ["flows", "--json"].into_iter().chain(arguments.iter().copied()).collect();
        let flows = ask(&daemon, &arguments, &[0]);
        flows.as_array().unwrap().iter().map(|flow| flow["age"].as_u64().unwrap()).collect()
    };
    let oldest = ages(&["--sort", "age", "--limit", "2000"]);
    let all = ages(&["--sort", "age"]);
    assert_eq!((oldest.len(), all.len()), (2000, flows.len()));
    assert!(all.is_sorted_by(|a, b| a >= b) && all[0] > all[all.len() - 1]);
    // Between the two questions they may have aged by a second or two.
    assert!(oldest.iter().zip(&all).all(|(one, other)| other - one < 20), "the first of the same order");
    assert!(ages(&["--sort", "age", "--reverse"]).is_sorted());
    let past = all[all.len() / 2].to_string();
    let old = ages(&["--min-age", &past]);
    assert!(old.iter().all(|age| *age >= all[all.len() / 2]) && old.len() < flows.len(), "{}", old.len());
    assert!(flows.iter().any(|(_, flow)| age(flow) > 0));

    // As text and as lines it is the same.
    let output = daemon.sgctl(&["flows", "--interface", "tap1"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1 + of(&|name, _| name.0 == "tap1").len());
    assert!(text.lines().skip(1).all(|line| line.starts_with("tap1 ")));
    let output = daemon.sgctl(&["flows", "--json-lines", "--sort", "none"]).unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Value = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    assert_eq!(names(&lines), of(&|_, _| true));
}

#[test]
fn nothing_and_nonsense_are_answered_in_words() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    assert_eq!(ask(&daemon, &["flows", "--json"], &[0]), json!([]));
    assert_eq!(daemon.sgctl(&["flows", "--json-lines"]).unwrap().stdout, b"");
    let count = daemon.sgctl(&["flows", "--count"]).unwrap();
    assert_eq!(String::from_utf8(count.stdout).unwrap(), "0 connections\n");
    for (arguments, words) in [
        (&["--interface", "tpa0"][..], &["tpa0", "did you mean \"tap0\"?"][..]),
        (&["--interface", "elsewhere"], &["elsewhere", "sgctl status"]),
        (&["--protocol", "tpc"], &["tpc", "tcp, udp, icmp"]),
        (&["--remote", "10.0.0.0/33"], &["remote", "10.0.0.0/33", "a network such as"]),
        (&["--local", "web-1"], &["local", "web-1"]),
        (&["--port", "2000-1000"], &["port", "2000-1000", "a range such as"]),
        (&["--state", "estabished"], &["did you mean \"established\"?"]),
        (&["--sort", "aeg"], &["did you mean \"age\"?"]),
        (&["--count-by", "remtoe"], &["did you mean \"remote\"?"]),
        (&["--count", "--limit", "3"], &["say what to count by"]),
        (&["--limit", "0"], &["--limit"]),
        (&["--min-age", "9", "--max-age", "8"], &["at least 9 s", "at most 8 s"]),
        (&["--count", "--sort", "age"], &["--sort"]),
    ] {
        let arguments: Vec<&str> = ["flows"].into_iter().chain(arguments.iter().copied()).collect();
        let output = daemon.sgctl(&arguments).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{arguments:?}");
        for word in words {
            assert!(complaint.contains(word), "{arguments:?}: {word} in {complaint}");
        }
    }
}

#[test]
fn nobody_waits_for_a_list_that_is_being_made() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let faults = world.site.lab.directory().to_owned();
    daemon.set_environment("SGD_INJECT", &faults);
    daemon.restart().unwrap();
    let _held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let fault = faults.join("flows.stuck");
    std::fs::write(&fault, "").unwrap();
    let list = |arguments: &[&str]| {
        let mut command = Command::new(binary("sgctl").unwrap());
        command.arg("--socket").arg(daemon.socket()).arg("flows").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut slow = [list(&["--json"]), list(&["--count", "--json"])];
    // While both are at it, whatever takes the enforcer goes on: questions, policies, explanations.
    for _ in 0..20 {
        daemon.status().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    daemon.apply(&web_policy(&world).replace("443-444", "443")).unwrap();
    assert!(slow.iter_mut().all(|list| list.try_wait().unwrap().is_none()), "they are still at it");
    // No more than two at a time keep a thread and memory.
    let third = list(&["--count"]).wait_with_output().unwrap();
    let complaint = String::from_utf8(third.stderr).unwrap();
    assert_eq!(third.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("is being read for others") && complaint.contains("try again"), "{complaint}");
    std::fs::remove_file(&fault).unwrap();
    let [all, count] = slow.map(|list| list.wait_with_output().unwrap());
    let flows: Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(flows.as_array().unwrap().len(), 1, "{flows:#}");
    let count: Value = serde_json::from_slice(&count.stdout).unwrap();
    assert_eq!(count["total"], 1, "{count:#}");
    wait("others have their turn", || daemon.sgctl(&["flows", "--count"]).unwrap().status.success());
}
