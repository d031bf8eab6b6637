//! `sgctl` and the daemon: flows, checks and exit codes.

use std::path::Path;

use serde_json::{Value, json};
use sg_tests::{Daemon, outside, patience};

use crate::flows::Pings;
use crate::world::{
    World, allowed, ask, denied, interface, ping_from, policy, refused, tcp_from, udp_from, with,
};

fn mixed_policy(world: &World) -> String {
    let mut rules = Vec::new();
    for net in ["203.0.113.0/24", "2001:db8:a::/64"] {
        rules.extend([tcp_from(net, 80), udp_from(net, 5000), ping_from(net)]);
    }
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": rules }],
        "interfaces": [
            with(interface(world.guest(0), &["webs"]), "hook", "xdp"),
            with(interface(world.guest(1), &["webs"]), "hook", "tc"),
        ],
    }))
}

#[test]
fn spec_d10_flows_lists_each_live_connection_once_with_its_state() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    let daemon = Daemon::start(&world.site, &mixed_policy(&world)).unwrap();
    assert_eq!(ask(&daemon, &["flows", "--json"], &[0]), json!([]));
    let _tcp = world.hold(&world.tcp(outside::ADMIN, a.v4, 80));
    let _tcp_v6 = world.hold(&world.tcp(outside::ADMIN_V6, a.v6, 80));
    let _udp = world.hold(&world.udp(outside::ADMIN, b.v4, 5000));
    let _out = world.hold(&world.tcp(b.v4, outside::DNS, 443));
    let mut ping = Pings::new(&world.site.outside, outside::ADMIN.into(), a.v4, 0x4321);
    assert!(ping.answered(patience::ALLOWED) && ping.answered(patience::ALLOWED));

    let flows = ask(&daemon, &["flows", "--json"], &[0]);
    let list = flows.as_array().unwrap();
    assert_eq!(list.len(), 5, "{flows:#}");
    let expected = [
        ("tap0", "tcp", a.v4, Some(80), outside::ADMIN.into(), "inbound", "established", 432_000),
        ("tap0", "tcp", a.v6, Some(80), outside::ADMIN_V6.into(), "inbound", "established", 432_000),
        ("tap0", "icmp", a.v4, Some(0x4321), outside::ADMIN.into(), "inbound", "icmp", 30),
        ("tap1", "udp", b.v4, Some(5000), outside::ADMIN.into(), "inbound", "udp", 30),
        ("tap1", "tcp", b.v4, None, std::net::IpAddr::from(outside::DNS), "outbound", "established", 432_000),
    ];
    for (interface, protocol, local, local_port, remote, direction, state, timeout) in expected {
        let found: Vec<&Value> = list
            .iter()
            .filter(|flow| {
                flow["interface"] == interface
                    && flow["protocol"] == protocol
                    && flow["local"] == json!(local)
                    && local_port.is_none_or(|port: u16| flow["local_port"] == port)
                    && flow["remote"] == json!(remote)
                    && flow["direction"] == direction
            })
            .collect();
        let [flow] = found[..] else { panic!("{interface} {protocol} {local}: {flows:#}") };
        assert_eq!(
            (&flow["state"], &flow["replied"], &flow["admitted_now"]),
            (&json!(state), &json!(true), &json!(true))
        );
        let expires = flow["expires_in"].as_u64().unwrap();
        assert!(expires <= timeout && expires + 30 > timeout, "{flow:#}");
    }
    let only = ask(&daemon, &["flows", "--json", "--interface", "tap1"], &[0]);
    assert_eq!(only.as_array().unwrap().len(), 2);
    let text = String::from_utf8(daemon.sgctl(&["flows", "--interface", "tap0"]).unwrap().stdout).unwrap();
    assert!(text.contains(&format!("{}:80", a.v4)) && text.contains(&format!("[{}]:80", a.v6)), "{text}");
    assert!(!text.contains("not admitted"), "{text}");
}

#[test]
fn spec_d12_flows_shows_a_handshake_without_an_answer_and_an_orderly_end() {
    let world = World::new(2);
    let guest = world.guest(0);
    let daemon = Daemon::start(&world.site, &mixed_policy(&world)).unwrap();
    // The SYN passes here and is lost behind: the guest does not know the way back.
    guest.netns.ip(&format!("route add blackhole {}/32", outside::ADMIN)).unwrap();
    world.expect(&[denied(world.tcp(outside::ADMIN, guest.v4, 80))]);
    let flows = ask(&daemon, &["flows", "--json"], &[0]);
    assert_eq!((&flows[0]["state"], &flows[0]["replied"]), (&json!("syn_sent"), &json!(false)), "{flows:#}");
    let text = String::from_utf8(daemon.sgctl(&["flows"]).unwrap().stdout).unwrap();
    assert!(text.contains("syn_sent (no reply)"), "{text}");
    guest.netns.ip(&format!("route del blackhole {}/32", outside::ADMIN)).unwrap();

    let connection = world.hold(&world.tcp(outside::ADMIN_V6, guest.v6, 80));
    drop(connection);
    crate::world::wait("the connection is over", || {
        let flows = ask(&daemon, &["flows", "--json"], &[0]);
        let flows = flows.as_array().unwrap();
        flows.iter().any(|flow| flow["local"] == json!(guest.v6) && flow["state"] == "time_wait")
    });
}

#[test]
fn spec_d22_check_of_a_broken_file_leaves_the_daemon_untouched() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &mixed_policy(&world)).unwrap();
    let rows = [
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80)),
    ];
    world.expect(&rows);
    let generation = daemon.generation().unwrap();
    let broken = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sg-daemon/tests/policy/data/broken.json");
    let output = daemon.sgctl(&["check", broken.to_str().unwrap()]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    // An unknown field, a deny rule, a bad CIDR, a dangling @group, an interface without a group, over quota.
    for (line, word) in [
        (9, "inbuond"),
        (12, "action"),
        (13, "10.0.0.0/8"),
        (14, "@databse"),
        (20, "security_groups"),
        (8, "over the quota of 3"),
    ] {
        assert!(text.contains(&format!("broken.json:{line}:")), "line {line} in {text}");
        assert!(text.contains(word), "{word} in {text}");
    }
    assert_eq!(daemon.generation().unwrap(), generation);
    assert_eq!(refused(&daemon), None);
    world.expect(&rows);
    // The very file that is in force is good.
    assert_eq!(
        daemon.sgctl(&["check", daemon.policy_path().to_str().unwrap()]).unwrap().status.code(),
        Some(0)
    );
}

#[test]
fn exit_codes_and_complaints() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &mixed_policy(&world)).unwrap();
    let run = |daemon: &Daemon, arguments: &str| {
        let output = daemon.sgctl(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code() == Some(2), !complaint.is_empty(), "{arguments}: {complaint}");
        (output.status.code(), complaint)
    };
    let explain = "explain --interface tap0 --direction inbound --protocol tcp --remote 203.0.113.10";
    assert_eq!(run(&daemon, "status").0, Some(0));
    assert_eq!(run(&daemon, "flows").0, Some(0));
    assert_eq!(run(&daemon, &format!("{explain} --port 80")).0, Some(0));
    assert_eq!(run(&daemon, &format!("{explain} --port 81")).0, Some(1));
    for (arguments, words) in [
        (explain.to_owned(), "need a port"),
        (format!("{explain} --port 80").replace("tap0", "tap9"), "tap"),
        (format!("{explain} --port 80").replace("tcp", "tpc"), "protocol"),
        (format!("{explain} --port 80").replace("tcp", "icmp"), "only TCP and UDP have ports"),
        (format!("{explain} --port 80 --local fd00::5"), "different families"),
        (format!("{explain} --port 80").replace("203.0.113.10", "nonsense"), "nonsense"),
        ("states".to_owned(), "status"),
    ] {
        let (code, complaint) = run(&daemon, &arguments);
        assert_eq!(code, Some(2), "{arguments}");
        assert!(complaint.contains(words), "{arguments}: {complaint}");
    }
    daemon.terminate().unwrap();
    for verb in ["status", "status --json", "flows", &format!("{explain} --port 80")] {
        let (code, complaint) = run(&daemon, verb);
        assert_eq!(code, Some(2), "{verb}");
        assert!(
            complaint.contains("cannot reach sgd at") && complaint.contains("is it running"),
            "{complaint}"
        );
    }
}
