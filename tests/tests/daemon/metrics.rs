//! `sgd --metrics`: what Prometheus is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sg_common::metrics::{EVERY, LABELS, PROCESS};
use sg_tests::{Daemon, Guest, Netns, binary, outside};

use crate::packets::{VirtioEthernet, ipv4};
use crate::world::{
    World, allowed, ask, denied, interface, must_refuse, plug, plug_as, policy, status_of, tcp_from,
    udp_from, wait, with,
};

const ADDRESS: &str = "127.0.0.1:9776";
pub const METRICS: [&str; 2] = ["--metrics", ADDRESS];

/// One request in the host's namespace: the status line and the body.
fn request(host: &Netns, request: &str) -> (String, String) {
    let ask = || {
        let mut stream = TcpStream::connect(ADDRESS).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: sgd\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = host.run(ask).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// `name{labels}` and its value, as written.
pub type Samples = BTreeMap<String, f64>;

/// One that is not the last one again, which does for a second.
pub fn scrape(host: &Netns) -> (String, Samples) {
    std::thread::sleep(Duration::from_millis(1100));
    let (status, text) = request(host, "GET /metrics");
    assert!(status.contains(" 200 "), "{status}\n{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    let samples: Samples = samples.collect();
    (text, samples)
}

fn packets(interface: &str, direction: &str, verdict: &str, reason: &str) -> String {
    format!(
        "sgd_packets_total{{interface=\"{interface}\",direction=\"{direction}\",verdict=\"{verdict}\",reason=\"{reason}\"}}"
    )
}

fn webs(interfaces: &Value) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80), udp_from("203.0.113.0/24", 1000)] }],
        "interfaces": interfaces,
    }))
}

/// `name{a="b",c="d"}`: the name and the names of the labels.
fn parts(sample: &str) -> (&str, Vec<&str>) {
    let Some((name, rest)) = sample.split_once('{') else { return (sample, Vec::new()) };
    let labels = rest.trim_end_matches('}').split("\",").map(|pair| pair.split_once('=').unwrap().0);
    (name, labels.collect())
}

#[test]
fn spec_d24_metrics_say_what_status_says_and_promtool_finds_no_fault() {
    let world = World::new(3);
    let both = json!([
        interface(world.guest(0), &["webs"]),
        with(interface(world.guest(1), &["webs"]), "enforcement", "audit"),
        with(interface(world.guest(2), &["webs"]), "name", "tap9"),
    ]);
    let daemon = Daemon::start_with(&world.site, &webs(&both), &METRICS).unwrap();
    let host = &world.site.host;
    world.expect(&[
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80)),
        allowed(world.tcp(outside::STRANGER, world.guest(1).v4, 80)),
    ]);
    let _held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));

    // Packets come at any time: both are asked until nothing came in between.
    let mut agreed = None;
    wait("metrics and status agree", || {
        let before = daemon.status().unwrap();
        let (text, samples) = scrape(host);
        let same = daemon.status().unwrap()["interfaces"] == before["interfaces"];
        agreed = same.then_some((text, samples, before));
        same
    });
    let (text, samples, status) = agreed.unwrap();
    let mut compared = 0;
    for one in status["interfaces"].as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        let state = format!(
            "sgd_interface_state{{interface=\"{name}\",state=\"{}\"}}",
            one["state"].as_str().unwrap()
        );
        assert_eq!(samples.get(&state), Some(&1.0), "{state}\n{text}");
        for direction in ["inbound", "outbound"] {
            for (list, would) in [("reasons", None), ("would_drop_reasons", Some("would_drop"))] {
                for reason in one[direction][list].as_array().unwrap() {
                    let name_of = reason["reason"].as_str().unwrap();
                    let verdicts = would.map_or(vec!["allowed", "dropped"], |verdict| vec![verdict]);
                    let found: Vec<(String, f64)> = verdicts
                        .iter()
                        .map(|verdict| packets(name, direction, verdict, name_of))
                        .filter_map(|key| samples.get(&key).map(|value| (key, *value)))
                        .collect();
                    let [(key, value)] = &found[..] else { panic!("{name} {direction} {name_of}: {text}") };
                    assert_eq!(*value as u64, reason["packets"].as_u64().unwrap(), "{key}");
                    let bytes = key.replace("sgd_packets_total", "sgd_bytes_total");
                    assert_eq!(samples[&bytes] as u64, reason["bytes"].as_u64().unwrap(), "{bytes}");
                    compared += 1;
                }
            }
        }
        let live = samples.get(&format!("sgd_live_flows{{interface=\"{name}\"}}")).copied();
        assert_eq!(live.map(|live| live as u64), one["live_flows"]["used"].as_u64(), "{name}");
    }
    assert!(compared > 6, "{text}");
    assert!(samples[&packets("tap0", "inbound", "dropped", "no_rule")] > 0.0);
    assert!(samples[&packets("tap1", "inbound", "would_drop", "no_rule")] > 0.0);
    assert_eq!(
        samples.keys().filter(|key| key.starts_with("sgd_packets_total")).count(),
        compared,
        "no others"
    );
    let expected = [
        ("sgd_interfaces{state=\"enforced\"}", 1.0),
        ("sgd_interfaces{state=\"audit\"}", 1.0),
        ("sgd_interfaces{state=\"absent\"}", 1.0),
        ("sgd_table_entries{table=\"interfaces\"}", 2.0),
        ("sgd_table_entries_limit{table=\"live\"}", 262_144.0),
        ("sgd_policy_swaps_total{outcome=\"applied\"}", 1.0),
        ("sgd_policy_refused", 0.0),
    ];
    for (key, value) in expected {
        assert_eq!(samples.get(key), Some(&value), "{key}\n{text}");
    }
    for more in
        ["sgd_policy_last_success_timestamp_seconds", "process_resident_memory_bytes", "process_open_fds"]
    {
        assert!(samples[more] > 0.0, "{more}");
    }
    wait("the collector runs", || scrape(host).1["sgd_collector_runs_total{outcome=\"done\"}"] > 0.0);

    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool cannot be run: `cargo xtask setup` installs it");
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}\n{text}");
    spec_the_list_is_what_is_exported(&text, &samples);
}

/// Every family has its line in the list, with its help and labels, and every line of the list its family.
fn spec_the_list_is_what_is_exported(text: &str, samples: &Samples) {
    let families: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed: BTreeSet<&str> = EVERY.iter().chain(PROCESS).map(|metric| metric.name).collect();
    assert_eq!(families, listed);
    for metric in EVERY {
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
        assert!(
            text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.name())),
            "{}",
            metric.name
        );
    }
    for sample in samples.keys() {
        let (name, labels) = parts(sample);
        let metric = EVERY.iter().chain(PROCESS).find(|metric| metric.name == name).unwrap();
        let (found, known) =
            (labels.iter().collect::<BTreeSet<_>>(), metric.labels.iter().collect::<BTreeSet<_>>());
        assert_eq!(found, known, "{sample}");
        assert!(labels.iter().all(|label| LABELS.iter().any(|(known, _)| known == label)));
    }
}

#[test]
fn spec_d24_a_packet_that_two_programs_have_counted_is_one_in_the_metrics() {
    let world = World::new(1);
    let guest = world.guest(0);
    let Ok(own) = guest.v4.to_string().parse::<Ipv4Addr>() else { panic!("{}", guest.v4) };
    let text = policy(json!({
        "security_groups": [{
            "name": "senders", "inbound": [],
            "outbound": [{ "protocol": "UDP", "destination": "0.0.0.0/0", "port": 53 }],
        }],
        "interfaces": [with(interface(guest, &["senders"]), "hook", "xdp")],
    }));
    let daemon = Daemon::start_with(&world.site, &text, &METRICS).unwrap();
    let host = &world.site.host;
    // Nothing but these frames.
    guest.netns.ip("link set eth0 arp off multicast off").unwrap();
    let silence = || std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
    guest.netns.run(silence).unwrap().unwrap();
    let sender = VirtioEthernet::new(&guest.netns, "eth0");
    // UDP to port 53, a flow for each source port, whose checksum goes where it belongs or over the port.
    let send = |source: u16, offset: u16| {
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 5, 8, 0];
        frame.extend(ipv4(17, own, outside::DNS, 48));
        frame.extend([source.to_be_bytes(), 53u16.to_be_bytes(), 48u16.to_be_bytes(), [0, 0]].concat());
        frame.extend([7; 40]);
        sender.send(&frame, 34, offset);
    };
    let sums = |samples: &Samples, name: &str| {
        let of = |verdict: &str| -> f64 {
            let fits = |key: &str| {
                key.starts_with(name)
                    && ["\"tap0\"", "\"outbound\"", verdict].iter().all(|part| key.contains(part))
            };
            samples.iter().filter(|(key, _)| fits(key)).map(|(_, value)| value).sum()
        };
        ["\"allowed\"", "\"dropped\""].map(of)
    };
    let counted = || {
        let status = status_of(&daemon, "tap0");
        ["allowed", "dropped"].map(|verdict| status["outbound"][verdict].as_f64().unwrap())
    };
    let mut before = Samples::new();
    let (mut passed, mut dropped) = (0.0, 0.0);
    let start = counted();
    for (good, bad) in [(5, 3), (0, 4), (7, 0), (2, 9)] {
        (0..good).for_each(|source| send(2000 + source, 6));
        (0..bad).for_each(|source| send(3000 + source, 2));
        (passed, dropped) = (passed + f64::from(good), dropped + f64::from(bad));
        wait("all of them are counted", || counted() == [start[0] + passed, start[1] + dropped]);
        let (text, samples) = scrape(host);
        assert_eq!(sums(&samples, "sgd_packets_total"), [start[0] + passed, start[1] + dropped], "{text}");
        assert_eq!(samples[&packets("tap0", "outbound", "dropped", "checksum_place")], dropped, "{text}");
        // All frames are of one length.
        let [bytes_passed, bytes_dropped] = sums(&samples, "sgd_bytes_total");
        assert_eq!(bytes_dropped / dropped, 14.0 + 20.0 + 48.0, "{text}");
        if start == [0.0, 0.0] {
            assert_eq!(bytes_passed, passed * 82.0, "{text}");
        }
        for (key, value) in before
            .iter()
            .filter(|(key, _)| key.starts_with("sgd_packets_total") || key.starts_with("sgd_bytes_total"))
        {
            assert!(samples[key] >= *value, "{key} falls from {value}: {text}");
        }
        before = samples;
    }
}

#[test]
fn spec_d22_a_policy_that_is_refused_shows_in_the_metrics() {
    let world = World::new(1);
    let good = webs(&json!([interface(world.guest(0), &["webs"])]));
    let daemon = Daemon::start_with(&world.site, &good, &METRICS).unwrap();
    let host = &world.site.host;
    let (_, before) = scrape(host);
    assert_eq!(before["sgd_policy_refused"], 0.0);
    must_refuse(&daemon, &good.replace("\"TCP\"", "\"TPC\""), &["TPC"]);
    let (_, during) = scrape(host);
    assert_eq!(during["sgd_policy_refused"], 1.0);
    let failed = "sgd_policy_swaps_total{outcome=\"failed\"}";
    assert!(during[failed] > before[failed], "{} and {}", before[failed], during[failed]);
    let accepted = "sgd_policy_last_success_timestamp_seconds";
    for same in ["sgd_policy_generation", accepted] {
        assert_eq!(during[same], before[same], "{same}: the policy before is in force");
    }
    daemon.apply(&good.replace("1000", "1001")).unwrap();
    let (_, after) = scrape(host);
    assert_eq!(after["sgd_policy_refused"], 0.0);
    assert!(
        after["sgd_policy_generation"] > before["sgd_policy_generation"]
            && after[accepted] > before[accepted]
    );
}

#[test]
fn hits_of_groups_rules_without_any_and_what_is_lost_show_in_the_metrics() {
    let world = World::new(1);
    let guest = world.guest(0);
    let text = policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80), tcp_from("203.0.113.10/32", 80)], "outbound": [] },
            { "name": "none", "inbound": [udp_from("203.0.113.0/24", 1000)], "outbound": [] },
        ],
        "interfaces": [interface(guest, &["webs", "none"])],
    }));
    let daemon = Daemon::start_with(&world.site, &text, &METRICS).unwrap();
    let host = &world.site.host;
    let hits = |group: &str| {
        format!(
            "sgd_group_hits_total{{project=\"shop\",vpc=\"main\",group=\"{group}\",direction=\"inbound\"}}"
        )
    };
    let (text, before) = scrape(host);
    // What is not written, as the outbound rule of `default`, cannot be removed either.
    assert_eq!((before["sgd_rules"], before["sgd_rules_unused"]), (3.0, 3.0), "{text}");
    assert_eq!((before[&hits("webs")], before[&hits("none")]), (0.0, 0.0), "{text}");
    world.expect(&[
        allowed(world.tcp(outside::ADMIN, guest.v4, 80)),
        allowed(world.tcp(outside::ADMIN, guest.v4, 80)),
        denied(world.tcp(outside::STRANGER, guest.v4, 22)),
    ]);
    wait("both rules of webs have hits, and the group has them once", || {
        let (_, samples) = scrape(host);
        samples["sgd_rules_unused"] == 1.0 && samples[&hits("webs")] == 2.0 && samples[&hits("none")] == 0.0
    });
    let unused = ask(&daemon, &["rules", "--unused", "--json"], &[0]);
    assert_eq!(unused["rules"].as_array().unwrap().len(), 1, "{unused:#}");

    // Who asks for one packet a second is not told of the others.
    let lost = |cause: &str| scrape(host).1[&format!("sgd_monitor_lost_events_total{{cause=\"{cause}\"}}")];
    assert_eq!((lost("limited"), lost("full"), lost("slow")), (0.0, 0.0, 0.0));
    let mut monitor = Command::new(binary("sgctl").unwrap())
        .arg("--socket")
        .arg(daemon.socket())
        .args(["monitor", "--json", "--rate", "1", "--reason", "no_rule"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let socket = world.site.outside.run(|| UdpSocket::bind((outside::STRANGER, 0))).unwrap().unwrap();
    wait("some are lost", || {
        for _ in 0..100 {
            socket.send_to(b"x", (guest.v4, 9)).unwrap();
        }
        lost("limited") > 0.0
    });
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let (text, samples) = scrape(host);
    assert_eq!(samples["sgd_rule_hits_unattributed_total"], 0.0, "{text}");
    assert_eq!(samples["sgd_flow_log_records_total{outcome=\"lost\"}"], 0.0, "{text}");
}

#[test]
fn spec_d4_a_member_and_a_rule_more_through_the_api_take_three_and_two_map_writes() {
    let world = World::new(1);
    let host = &world.site.host;
    let peers: Vec<Value> = (0..500u32)
        .map(|number| {
            let address = Ipv4Addr::from(0xc612_0000 + number);
            json!({ "address": address, "security_groups": ["friends"] })
        })
        .collect();
    let text = policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": (0..50).map(|port| tcp_from("@friends", 80 + 2 * port)).collect::<Vec<_>>() },
            { "name": "friends" },
        ],
        "interfaces": [interface(world.guest(0), &["webs"])],
        "peers": peers,
    }));
    let daemon = Daemon::start_with(&world.site, &text, &METRICS).unwrap();
    let counts = || {
        let tables = &daemon.status().unwrap()["tables"];
        [&tables["map_writes"], &tables["map_writes_of_last_change"]].map(|count| count.as_u64().unwrap())
    };
    let (_, before) = scrape(host);
    let [all, _] = counts();
    let sum = |samples: &Samples| -> f64 {
        let writes = samples.iter().filter(|(name, _)| name.starts_with("sgd_map_writes_total{"));
        writes.map(|(_, count)| count).sum()
    };
    assert_eq!(sum(&before), all as f64);
    crate::apply::sgctl(&daemon, &["peer", "add", "192.0.2.1", "friends"], 0);
    // The address with its set, the generation.
    assert_eq!(counts(), [all + 2, 2]);
    let rule =
        ["rule", "add", "webs", "inbound", "--protocol", "tcp", "--source", "192.0.2.0/24", "--port", "1"];
    crate::apply::sgctl(&daemon, &rule, 0);
    // The prefix, the generation.
    assert_eq!(counts(), [all + 4, 2]);
    let (_, after) = scrape(host);
    let of = |samples: &Samples, map: &str, operation: &str| {
        samples[&format!("sgd_map_writes_total{{map=\"{map}\",operation=\"{operation}\"}}")]
    };
    for (map, writes) in
        [("members_v4", 1.0), ("classes_v4", 1.0), ("control", 2.0), ("interfaces", 0.0), ("pairs", 0.0)]
    {
        assert_eq!(of(&after, map, "update") - of(&before, map, "update"), writes, "{map}");
        assert_eq!(of(&after, map, "delete"), of(&before, map, "delete"), "{map}");
    }
}

#[test]
fn counters_do_not_fall_when_a_device_is_made_anew_and_vanish_with_the_interface() {
    let world = World::new(1);
    let host = &world.site.host;
    let named = json!({ "name": "tap8", "addresses": ["10.0.0.28"], "security_groups": ["webs"] });
    let first = plug(&world.site, "tap8", 28);
    let daemon = Daemon::start_with(
        &world.site,
        &webs(&json!([interface(world.guest(0), &["webs"]), named])),
        &METRICS,
    )
    .unwrap();
    let key = packets("tap8", "outbound", "allowed", "new_flow");
    // How many flows the device that is there has begun, by the daemon's word.
    let begun = || {
        let reasons = status_of(&daemon, "tap8")["outbound"]["reasons"].clone();
        let found = reasons.as_array().unwrap().iter().find(|reason| reason["reason"] == "new_flow").cloned();
        found.map_or(0.0, |reason| reason["packets"].as_f64().unwrap())
    };
    // The first packets may be lost while the guest looks for its router: as many as it takes.
    let flows = |guest: &Guest, count: f64| {
        let (wanted, mut port) = (begun() + count, 3000);
        wait("flows begin", || {
            let socket = guest.netns.run(|| UdpSocket::bind((guest.v4, port)).unwrap()).unwrap();
            socket.send_to(b"!", (outside::DNS, 53)).unwrap();
            port += 1;
            begun() >= wanted
        });
    };
    flows(&first, 7.0);
    let mut seen = 0.0;
    wait("metrics know of them", || {
        seen = scrape(host).1.get(&key).copied().unwrap_or(0.0);
        seen > 0.0 && seen == begun()
    });
    // These nobody has looked at when the device goes.
    flows(&first, 5.0);
    let mut last = begun();
    wait("the guest is quiet", || {
        std::thread::sleep(Duration::from_millis(200));
        let before = std::mem::replace(&mut last, begun());
        before == last
    });
    assert!(last >= seen + 5.0);
    host.ip("link delete tap8").unwrap();
    wait("tap8 is gone", || status_of(&daemon, "tap8")["state"] == "absent");
    assert_eq!(scrape(host).1.get(&key), Some(&last), "those of the device that is gone stay");
    let again = plug_as(&world.site, "tap8", 28, "again");
    wait("the new tap8 is enforced", || status_of(&daemon, "tap8")["state"] == "enforced");
    flows(&again, 3.0);
    wait("those of the new one are added", || {
        let begun = begun();
        begun >= 3.0 && scrape(host).1.get(&key) == Some(&(last + begun))
    });

    daemon.apply(&webs(&json!([interface(world.guest(0), &["webs"])]))).unwrap();
    let (text, _) = scrape(host);
    assert!(!text.contains("tap8") && text.contains("tap0"), "{text}");
}

#[test]
fn the_port_serves_metrics_only_and_whoever_says_nothing_holds_up_nobody() {
    let world = World::new(1);
    let text = webs(&json!([interface(world.guest(0), &["webs"])]));
    let mut daemon = Daemon::start_with(&world.site, &text, &METRICS).unwrap();
    let host = &world.site.host;
    for (ask, expected) in [
        ("GET /metrics", " 200 "),
        ("GET /", " 404 "),
        ("GET /v1/status", " 404 "),
        ("POST /metrics", " 405 "),
        ("DELETE /metrics", " 405 "),
    ] {
        assert!(request(host, ask).0.contains(expected), "{ask}: {}", request(host, ask).0);
    }
    // As many as are served at a time say nothing; after five seconds they are out.
    let _silent: Vec<TcpStream> =
        host.run(|| (0..16).map(|_| TcpStream::connect(ADDRESS).unwrap()).collect()).unwrap();
    scrape(host);
    // The rest of the daemon has not noticed.
    daemon.status().unwrap();

    // Beyond the loopback device only if the operator insists.
    daemon.terminate().unwrap();
    daemon.set_arguments(&["--metrics", "0.0.0.0:9776"]);
    let error = daemon.resume().unwrap_err().to_string();
    assert!(
        error.contains("is not an address of the loopback device")
            && error.contains("--metrics-not-loopback"),
        "{error}"
    );
    daemon.kill();
    daemon.set_arguments(&["--metrics", "0.0.0.0:9776", "--metrics-not-loopback"]);
    daemon.resume().unwrap();
    assert!(daemon.log().contains("metrics can be read by everybody"), "{}", daemon.log_tail());
    scrape(host);
    // Without the option nothing listens.
    daemon.terminate().unwrap();
    daemon.set_arguments(&[]);
    daemon.resume().unwrap();
    assert!(host.run(|| TcpStream::connect(ADDRESS).is_err()).unwrap());
}
