//! Connections that are cut on request (SPEC K11).

use serde_json::{Value, json};
use sg_tests::{Daemon, outside};

use crate::apply::sgctl;
use crate::world::{World, alive, ask, cut, interface, policy, tcp_from, udp_from};

/// Anybody may use port 7000 of both guests, or not any more; the administrator port 7001 always.
fn server(world: &World, open: bool) -> String {
    let mut rules = vec![tcp_from("203.0.113.0/24", 7001), udp_from("203.0.113.0/24", 7001)];
    if open {
        rules.extend([tcp_from("0.0.0.0/0", 7000), udp_from("0.0.0.0/0", 7000)]);
    }
    policy(json!({
        "security_groups": [{ "name": "server", "inbound": rules, "outbound": [] }],
        "interfaces": [interface(world.guest(0), &["server"]), interface(world.guest(1), &["server"])],
    }))
}

fn flows(answer: &Value) -> usize {
    answer["flows"].as_array().unwrap().len()
}

#[test]
fn spec_k11_flows_revoke_cuts_exactly_the_connections_that_no_rule_allows() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &server(&world, true)).unwrap();
    let (a, b) = (world.guest(0).v4, world.guest(1).v4);
    let mut tcp_a = world.hold(&world.tcp(outside::ADMIN, a, 7000));
    let mut udp_a = world.hold(&world.udp(outside::ADMIN, a, 7000));
    let mut tcp_b = world.hold(&world.tcp(outside::ADMIN, b, 7000));
    let mut stranger = world.hold(&world.tcp(outside::STRANGER, b, 7000));
    let mut stays =
        [world.hold(&world.tcp(outside::ADMIN, a, 7001)), world.hold(&world.udp(outside::ADMIN, b, 7001))];
    let live = || ask(&daemon, &["flows", "--json"], &[0]).as_array().unwrap().len();
    assert_eq!(live(), 6);

    // Every rule is there: none to cut.
    assert_eq!(flows(&ask(&daemon, &["flows", "revoke", "--json"], &[0])), 0);
    daemon.apply(&server(&world, false)).unwrap();
    let said = sgctl(&daemon, &["flows", "revoke", "--dry-run"], 0);
    assert!(said.starts_with("4 connections would be cut\n"), "{said}");
    assert_eq!(live(), 6, "only told");
    for (filters, expected) in [
        (&["--interface", "tap0"][..], 2),
        (&["--interface", "tap1", "--protocol", "udp"], 0),
        (&["--protocol", "tcp"], 3),
        (&["--protocol", "17"], 1),
        (&["--remote", "203.0.113.0/24"], 3),
        (&["--remote", &outside::STRANGER.to_string()], 1),
        (&["--remote", "2001:db8::/32"], 0),
        (&["--port", "7000"], 4),
        (&["--port", "7001"], 0),
        (&["--port", "7001", "--all"], 2),
    ] {
        let arguments = [&["flows", "revoke", "--json", "--dry-run"], filters].concat();
        assert_eq!(flows(&ask(&daemon, &arguments, &[0])), expected, "{filters:?}");
    }
    for (arguments, words) in [
        (&["--all"][..], "say which"),
        (&["--interface", "tap9"], "tap9"),
        (&["--remote", "elsewhere"], "elsewhere"),
        (&["--protocol", "tpc"], "tpc"),
    ] {
        let said = sgctl(&daemon, &[&["flows", "revoke"], arguments].concat(), 2);
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(live(), 6);

    sgctl(&daemon, &["flows", "revoke", "--remote", &outside::STRANGER.to_string()], 0);
    cut(&mut stranger);
    [&mut tcp_a, &mut udp_a, &mut tcp_b].into_iter().for_each(alive);
    let said = sgctl(&daemon, &["flows", "revoke"], 0);
    assert!(
        said.starts_with("3 connections cut\n") && said.contains("tap0") && said.contains("tap1"),
        "{said}"
    );
    [&mut tcp_a, &mut udp_a, &mut tcp_b].into_iter().for_each(cut);
    stays.iter_mut().for_each(alive);
    assert_eq!(live(), 2);

    // One that a rule allows is cut, and begins anew where a rule allows its next packet.
    let answer = ask(
        &daemon,
        &["flows", "revoke", "--json", "--all", "--protocol", "udp", "--interface", "tap1"],
        &[0],
    );
    assert_eq!((flows(&answer), &answer["flows"][0]["admitted_now"]), (1, &json!(true)));
    assert_eq!(live(), 1);
    alive(&mut stays[1]);
}
