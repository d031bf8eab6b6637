//! How many connections there is room for is the operator's to say (SPEC D16), and never at the price of one (D20).

use aya::maps::MapInfo;
use serde_json::json;
use sg_common::abi::{ABI_VERSION, map};
use sg_tests::{Daemon, binary, outside};

use crate::world::{World, alive, allowed, interface, policy, status_of, tcp_from};

/// Interfaces share out at least so many parts.
const PARTS: u64 = 16;

fn guest_policy(world: &World) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }))
}

/// What `status` says: live, half-open of IPv4 and of IPv6, and how many live flows the guest may have.
fn sizes(daemon: &Daemon) -> [u64; 4] {
    let status = daemon.status().unwrap();
    let size = |name: &str| status["tables"][name].as_u64().unwrap();
    let limit = status_of(daemon, "tap0")["live_flows"]["limit"].as_u64().unwrap();
    [size("live_flows_size"), size("half_open_flows_size"), size("half_open_flows_v6_size"), limit]
}

fn entries(daemon: &Daemon, name: &str) -> u32 {
    let maps = daemon.pin_dir().join(format!("v{ABI_VERSION}")).join("maps");
    MapInfo::from_pin(maps.join(name)).unwrap().max_entries()
}

const WARNING: &str = "the connection tables of the sgd before are kept";

#[test]
fn spec_d16_the_operator_says_how_many_connections_there_is_room_for() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &guest_policy(&world)).unwrap();
    assert_eq!(sizes(&daemon), [262_144, 131_072, 65_536, 262_144 / PARTS]);
    drop(daemon);

    let arguments = ["--live-flows", "1000000", "--half-open-flows", "4096"];
    let daemon = Daemon::start_with(&world.site, &guest_policy(&world), &arguments).unwrap();
    assert_eq!(sizes(&daemon), [1_000_000, 4096, 2048, 1_000_000 / PARTS]);
    for (name, expected) in [
        // A third more than flows, in sixteens.
        (map::FLOWS_V4, 1_338_800),
        (map::TAGS_V4, 1_338_800 / 16),
        (map::FLOWS_V6, 1_336_064),
        (map::TAGS_V6, 1_336_064 / 16),
        (map::RING_V4, 4096),
        (map::RING_V6, 2048),
    ] {
        assert_eq!(entries(&daemon, name), expected, "{name}");
    }
    assert!(!daemon.log().contains(WARNING), "{}", daemon.log());
    // A connection is counted, and shown to whoever asks.
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    alive(&mut held);
    assert_eq!(status_of(&daemon, "tap0")["live_flows"]["used"], 1);
    let text = String::from_utf8(daemon.sgctl(&["status"]).unwrap().stdout).unwrap();
    assert!(text.contains("tap0: 1 of 62500 live connections"), "{text}");
}

#[test]
fn spec_d20_a_start_with_other_sizes_keeps_every_connection_and_says_so() {
    let world = World::new(1);
    let small = ["--live-flows", "2048", "--half-open-flows", "1024"];
    let mut daemon = Daemon::start_with(&world.site, &guest_policy(&world), &small).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let before = sizes(&daemon);
    assert_eq!(before, [2048, 1024, 512, 2048 / PARTS]);

    daemon.terminate().unwrap();
    let seen = daemon.log().len();
    daemon.set_arguments(&["--live-flows", "4096", "--half-open-flows", "1024"]);
    daemon.resume().unwrap();
    let log = daemon.log().split_off(seen);
    let warning = log.lines().find(|line| line.contains(WARNING)).unwrap_or_else(|| panic!("{log}"));
    for words in ["2048 live flows", "4096 live flows", "--detach-on-exit"] {
        assert!(warning.contains(words), "{warning}");
    }
    assert_eq!(sizes(&daemon), before, "what is in force, not what was asked for");
    alive(&mut held);
    world.expect(&[allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80))]);

    // What the warning says helps.
    daemon.terminate().unwrap();
    daemon.set_arguments(&["--live-flows", "4096", "--half-open-flows", "1024", "--detach-on-exit"]);
    daemon.resume().unwrap();
    daemon.terminate().unwrap();
    let seen = daemon.log().len();
    daemon.resume().unwrap();
    assert!(!daemon.log().split_off(seen).contains(WARNING));
    assert_eq!(sizes(&daemon), [4096, 1024, 512, 4096 / PARTS]);
}

#[test]
fn sizes_out_of_bounds_are_refused_in_words() {
    for option in ["--live-flows", "--half-open-flows"] {
        for number in ["0", "1023", "16777217", "many"] {
            let output = std::process::Command::new(binary("sgd").unwrap())
                .args(["--policy", "/nonexistent", option, number])
                .output()
                .unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{complaint}");
            assert!(complaint.contains(option) && complaint.contains(number), "{complaint}");
            assert!(number == "many" || complaint.contains("1024..=16777216"), "{complaint}");
        }
    }
}
