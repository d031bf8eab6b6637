//! The daemon comes and goes; the filter stays (SPEC D20).

use std::path::Path;
use std::process::Command;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, Map, MapData};
use serde_json::json;
use sg_common::abi::{ABI_VERSION, ClassKeyV4, ClassKeyV6, Interface, MembersV4, MembersV6, Pairs, Row, map};
use sg_tests::{Daemon, outside, patience};

use crate::world::{
    World, alive, allowed, cut, denied, expect, interface, policy, refused, status_of, tcp_from, udp_from,
    wait, with,
};

fn web_policy(world: &World) -> String {
    let groups = |rules: serde_json::Value| {
        json!([{ "name": "webs", "inbound": rules, "outbound": [
            { "protocol": "TCP", "destination": "8.8.8.8/32", "port": 443 },
            { "protocol": "TCP", "destination": "@peers", "port": 444 },
        ] }, { "name": "peers" }])
    };
    policy(json!({
        "security_groups": groups(json!([
            tcp_from("203.0.113.0/24", 80), udp_from("2001:db8:a::/64", 80), tcp_from("@peers", 81),
            { "protocol": "TCP", "source": "203.0.113.0/24", "port": "1000-2000" },
        ])),
        "interfaces": [
            with(interface(world.guest(0), &["webs"]), "hook", "xdp"),
            with(interface(world.guest(1), &["webs"]), "hook", "tc"),
        ],
        "peers": [{ "address": outside::STRANGER, "security_groups": ["peers"] },
                  { "address": outside::STRANGER_V6, "security_groups": ["peers"] }],
    }))
}

/// How many entries each map has that grows with the policy.
pub fn entries(daemon: &Daemon) -> [usize; 6] {
    let maps = daemon.pin_dir().join(format!("v{ABI_VERSION}")).join("maps");
    let pinned = |name: &str| MapData::from_pin(maps.join(name)).unwrap();
    fn elements<T: aya::Pod>(data: MapData) -> Vec<T> {
        let array = Array::<_, T>::try_from(Map::Array(data)).unwrap();
        array.iter().map(Result::unwrap).collect()
    }
    /// Entries whose key begins with something.
    fn exact<B>(buckets: Vec<B>, begins: impl Fn(B) -> [u32; 4]) -> usize {
        buckets.into_iter().flat_map(begins).filter(|&begin| begin != 0).count()
    }
    fn trie<K: aya::Pod>(data: MapData) -> usize {
        LpmTrie::<_, K, Row>::try_from(Map::LpmTrie(data)).unwrap().keys().count()
    }
    let interfaces: Vec<Interface> = elements(pinned(map::INTERFACES));
    [
        trie::<ClassKeyV4>(pinned(map::CLASSES_V4)),
        trie::<ClassKeyV6>(pinned(map::CLASSES_V6)),
        exact(elements(pinned(map::MEMBERS_V4)), |bucket: MembersV4| {
            bucket.entries.map(|entry| entry.key.vpc)
        }),
        exact(elements(pinned(map::MEMBERS_V6)), |bucket: MembersV6| {
            bucket.entries.map(|entry| entry.key.vpc)
        }),
        exact(elements(pinned(map::PAIRS)), |bucket: Pairs| {
            bucket.entries.map(|entry| entry.key.policy_direction)
        }),
        interfaces.iter().filter(|interface| interface.ifindex != 0).count(),
    ]
}

/// Dies by SIGKILL, is told to end by SIGTERM, and comes back, again and again.
fn come_and_go(arguments: &[&str]) {
    let world = World::new(2);
    let (xdp, tc) = (world.guest(0), world.guest(1));
    let mut daemon = Daemon::start_with(&world.site, &web_policy(&world), arguments).unwrap();
    let hooks = |daemon: &Daemon| {
        ["tap0", "tap1"].map(|tap| {
            let status = status_of(daemon, tap);
            (status["ingress"].clone(), status["egress"].clone())
        })
    };
    let attached = hooks(&daemon);
    let first = entries(&daemon);
    assert!(first.iter().all(|&count| count > 0), "{first:?}");
    let mut held = Vec::new();
    for guest in [xdp, tc] {
        held.extend([
            world.hold(&world.tcp(outside::ADMIN, guest.v4, 80)),
            world.hold(&world.udp(outside::ADMIN_V6, guest.v6, 80)),
            world.hold(&world.tcp(guest.v4, outside::DNS, 443)),
            world.hold(&world.tcp(outside::STRANGER_V6, guest.v6, 81)),
        ]);
    }
    let mut rows = Vec::new();
    for guest in [xdp, tc] {
        rows.extend([
            allowed(world.tcp(outside::ADMIN, guest.v4, 80)),
            denied(world.tcp(outside::STRANGER, guest.v4, 80)),
            allowed(world.tcp(outside::STRANGER, guest.v4, 81)),
            denied(world.udp(outside::STRANGER_V6, guest.v6, 80)),
            denied(world.tcp(guest.v4, outside::DNS, 80)),
        ]);
    }
    world.expect(&rows);
    for round in 0..patience::rounds(4, 2) {
        let generation = daemon.generation().unwrap();
        if round % 2 == 0 {
            daemon.kill();
        } else {
            daemon.terminate().unwrap();
        }
        assert_eq!(daemon.sgctl(&["status"]).unwrap().status.code(), Some(2), "nobody answers");
        held.iter_mut().for_each(alive);
        world.expect(&rows);
        daemon.resume().unwrap();
        held.iter_mut().for_each(alive);
        world.expect(&rows);
        assert!(daemon.generation().unwrap() > generation, "generations are counted on");
        assert_eq!(entries(&daemon), first, "nothing is left of the policy before, round {round}");
        assert_eq!(hooks(&daemon), attached);
        assert_eq!(refused(&daemon), None);
    }
    // Adopted flows are known to the new daemon, which can cut them.
    let revoke = web_policy(&world)
        .replace("\"version\": 1,", "\"version\": 1, \"settings\": {\"on_rule_change\": \"revoke\"},");
    daemon.apply(&revoke.replace("\"port\": 80", "\"port\": 8080")).unwrap();
    cut(&mut held[0]);
    alive(&mut held[2]);
}

#[test]
fn spec_d20_the_filter_outlives_the_daemon_and_is_taken_over() {
    come_and_go(&[]);
}

#[test]
fn spec_d20_the_filter_outlives_the_daemon_with_clsact_filters_too() {
    come_and_go(&["--tc", "clsact"]);
}

fn tc_filters(world: &World, device: &str, direction: &str) -> usize {
    tc_filters_named(world, device, direction, "")
}

/// Those of a program whose name begins so. `tc filter show` prints a filter in one line without and in one more with the handle.
fn tc_filters_named(world: &World, device: &str, direction: &str, name: &str) -> usize {
    let output =
        world.site.host.command("tc").args(["filter", "show", "dev", device, direction]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    shown.lines().filter(|line| line.contains(" handle ") && line.contains(&format!(" {name}"))).count()
}

fn has_xdp(world: &World, device: &str) -> bool {
    let output = world.site.host.command("ip").args(["link", "show", device]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().contains("xdp")
}

/// The process of this daemon, by the socket on its command line.
fn pid_of(daemon: &Daemon) -> i32 {
    let socket = daemon.socket();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let is_sgd = words.next()?.ends_with(b"/sgd");
        (is_sgd && words.any(|word| word == socket.as_os_str().as_encoded_bytes())).then_some(pid)
    });
    let pids: Vec<i32> = ours.collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    pids[0]
}

#[test]
fn spec_d20_detach_on_exit_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    for (arguments, signal) in [
        (&["--detach-on-exit"][..], Signal::SIGTERM),
        (&["--detach-on-exit", "--tc", "clsact"], Signal::SIGINT),
    ] {
        let world = World::new(2);
        let (xdp, tc) = (world.guest(0), world.guest(1));
        let mut daemon = Daemon::start_with(&world.site, &web_policy(&world), arguments).unwrap();
        let closed = [
            world.tcp(outside::STRANGER, xdp.v4, 80),
            world.tcp(outside::STRANGER, tc.v4, 80),
            world.tcp(xdp.v4, outside::DNS, 80),
            world.tcp(tc.v4, outside::DNS, 80),
        ];
        world.expect(&closed.clone().map(denied));
        assert!(has_xdp(&world, "tap0"));

        // A daemon that dies has no say in it.
        daemon.kill();
        world.expect(&closed.clone().map(denied));
        daemon.resume().unwrap();

        kill(Pid::from_raw(pid_of(&daemon)), signal).unwrap();
        daemon.wait_log("stopped and detached", patience::ALLOWED).unwrap();
        wait("the pins are gone", || !daemon.pin_dir().exists());
        // The socket goes last, after the daemon has said so: a kill that comes first would leave it.
        wait("the socket is gone", || !daemon.socket().exists());
        daemon.kill();
        assert!(!has_xdp(&world, "tap0") && !has_xdp(&world, "tap1"));
        for device in ["tap0", "tap1"] {
            for direction in ["ingress", "egress"] {
                assert_eq!(tc_filters(&world, device, direction), 0, "{device} {direction}");
            }
        }
        world.expect(&closed.map(allowed));
    }
}

#[test]
fn spec_d20_clsact_has_one_filter_for_each_direction_whatever_happens() {
    let world = World::new(2);
    let mut daemon = Daemon::start_with(&world.site, &web_policy(&world), &["--tc", "clsact"]).unwrap();
    // On tap0, which XDP judges, what looks at checksums behind it.
    let filters = || {
        ["tap0", "tap1"].map(|device| {
            let [ingress, egress] =
                ["ingress", "egress"].map(|direction| tc_filters(&world, device, direction));
            let behind_xdp = tc_filters_named(&world, device, "ingress", "sgd_tc_checksum");
            (ingress, behind_xdp, egress)
        })
    };
    let (xdp, tc) = ((1, 1, 1), (1, 0, 1));
    assert_eq!(filters(), [xdp, tc]);
    daemon.restart().unwrap();
    assert_eq!(filters(), [xdp, tc]);
    daemon.kill();
    daemon.resume().unwrap();
    assert_eq!(filters(), [xdp, tc]);
    let other_hook = web_policy(&world).replace("\"xdp\"", "\"tc\"");
    daemon.apply(&other_hook).unwrap();
    assert_eq!(filters(), [tc, tc]);
    daemon.apply(&web_policy(&world)).unwrap();
    assert_eq!(filters(), [xdp, tc]);
}

#[test]
fn nothing_of_a_test_is_left_when_it_is_over() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let pins = daemon.pin_dir().to_owned();
    let directory = world.site.lab.directory().to_owned();
    let name = world.site.lab.name().to_owned();
    let pid = pid_of(&daemon);
    let named = |at: &str| {
        let mine = format!("{name}-");
        std::fs::read_dir(at)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(&mine))
            .count()
    };
    assert!(pins.exists() && directory.exists());
    assert_eq!((named("/run/netns"), named("/sys/fs/bpf")), (4, 1));
    drop(daemon);
    drop(world);
    assert!(!pins.exists() && !directory.exists());
    assert_eq!((named("/run/netns"), named("/sys/fs/bpf")), (0, 0));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let world = World::new(1);
    let rows = [
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80)),
    ];
    let text = policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }));
    let daemon = Daemon::start(&world.site, &text).unwrap();
    world.expect(&rows);
    let open = world.site.lab.directory().join("open.json");
    std::fs::write(&open, text.replace("203.0.113.0/24", "0.0.0.0/0")).unwrap();
    let second = second_daemon(&world, &open, &daemon.socket(), daemon.pin_dir());
    assert!(!second.status.success());
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        complaint.contains("another sgd") && complaint.contains(daemon.socket().to_str().unwrap()),
        "{complaint}"
    );
    assert_eq!(refused(&daemon), None, "the first one still answers");
    expect(&rows);
}

#[test]
fn spec_d20_a_second_daemon_with_the_same_pins_is_refused() {
    let world = World::new(1);
    let text = policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }));
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    let rows = [
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80)),
    ];
    world.expect(&rows);
    let open = world.site.lab.directory().join("open.json");
    std::fs::write(&open, text.replace("203.0.113.0/24", "0.0.0.0/0")).unwrap();
    let socket = world.site.lab.directory().join("second.sock");
    // Another name of the directory is no way around.
    let alias = world.site.lab.directory().join("pins");
    std::os::unix::fs::symlink(daemon.pin_dir(), &alias).unwrap();
    for pins in [daemon.pin_dir(), &alias] {
        let second = second_daemon(&world, &open, &socket, pins);
        let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{complaint}");
        assert!(
            complaint.contains("another sgd") && complaint.contains(pins.to_str().unwrap()),
            "{complaint}"
        );
        assert!(!socket.exists(), "it leaves nothing behind");
    }
    expect(&rows);
    // Whoever is dead holds nothing.
    daemon.kill();
    daemon.resume().unwrap();
    expect(&rows);
}

/// Runs another `sgd` on the host to its end, which must come by itself.
fn second_daemon(world: &World, policy: &Path, socket: &Path, pins: &Path) -> std::process::Output {
    let mut command: Command = world.site.host.command("timeout");
    command
        .arg("20")
        .arg(sg_tests::binary("sgd").unwrap())
        .args(["--policy".as_ref(), policy, "--socket".as_ref(), socket, "--pin-dir".as_ref(), pins])
        .arg("--state-dir")
        .arg(world.site.lab.directory().join("second"))
        .env("NO_COLOR", "1");
    command.output().unwrap()
}
