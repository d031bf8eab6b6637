//! `sgctl monitor`: verdicts as they come by, on a terminal and for programs; and what each rule has allowed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, Screen, binary, outside};

use crate::world::{DEADLINE, World, allowed, denied, interface, policy, tcp_from, udp_from, wait};

fn site(world: &World) -> String {
    policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80), udp_from("203.0.113.0/24", 53)], "outbound": [] },
            { "name": "trial", "inbound": [], "outbound": [], "enforcement": "audit" },
        ],
        "interfaces": [interface(world.guest(0), &["webs"]), interface(world.guest(1), &["trial"])],
    }))
}

/// `sgctl monitor --json` with its lines.
struct Monitor {
    child: Child,
    /// Until nobody reads any more.
    lines: Option<std::io::Lines<BufReader<std::process::ChildStdout>>>,
}

impl Monitor {
    /// Returns when packets are told of.
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let before = watchers(daemon);
        let mut child = Command::new(binary("sgctl").unwrap())
            .arg("--socket")
            .arg(daemon.socket())
            .args(["monitor", "--json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Some(BufReader::new(child.stdout.take().unwrap()).lines());
        wait("somebody watches", || watchers(daemon) > before);
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.as_mut().unwrap().next().unwrap().unwrap()).unwrap()
    }

    /// The code it ends with.
    fn code(&mut self) -> Option<i32> {
        let mut code = None;
        wait("the end of sgctl monitor", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many watch, by the kernel's own word: places of `WATCHERS` that are taken, but for the daemon's own.
fn watchers(daemon: &Daemon) -> usize {
    use aya::maps::{Array, Map, MapData};
    use sg_common::abi::{ABI_VERSION, NEW_FLOW_WATCHER, WATCHERS, Watcher};
    let pin = daemon.pin_dir().join(format!("v{ABI_VERSION}/maps/WATCHERS"));
    let map: Array<MapData, Watcher> = Map::Array(MapData::from_pin(pin).unwrap()).try_into().unwrap();
    let places = (0..WATCHERS).filter(|place| *place != NEW_FLOW_WATCHER);
    places.filter(|place| map.get(place, 0).unwrap().active != 0).count()
}

fn datagrams(from: &Netns, source: std::net::Ipv4Addr, to: std::net::IpAddr, port: u16, count: usize) {
    let socket = from.run(|| UdpSocket::bind((source, 0))).unwrap().unwrap();
    for _ in 0..count {
        socket.send_to(b"!", (to, port)).unwrap();
    }
}

#[test]
fn a_terminal_shows_a_line_for_each_packet_in_color_until_ctrl_c() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    let (web, trial) = (world.guest(0), world.guest(1));
    let screen = Screen::new(&world.site.lab, 160, 40).unwrap();
    let (program, socket) = (binary("sgctl").unwrap(), daemon.socket());
    let command = format!("{} --socket {} monitor --direction inbound", program.display(), socket.display());
    screen.type_text(&command).unwrap();
    screen.press("Enter").unwrap();
    wait("somebody watches", || watchers(&daemon) == 1);

    world.expect(&[
        allowed(world.tcp(outside::ADMIN, web.v4, 80)),
        denied(world.tcp(outside::STRANGER, web.v4, 22)),
    ]);
    datagrams(&world.site.outside, outside::STRANGER, trial.v4, 7, 1);
    let text = screen
        .wait("three kinds of verdicts", DEADLINE, |text| {
            ["allow", "DROP", "would drop"].iter().all(|word| text.contains(word))
        })
        .unwrap();
    let line = |words: &[&str]| {
        let found = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("no line with {words:?}:\n{text}")).to_owned()
    };
    let (admin, stranger) = (outside::ADMIN.to_string(), outside::STRANGER.to_string());
    let begun = line(&["tap0", "new_flow", "tcp", &admin, &format!("→ {}:80", web.v4)]);
    assert!(begun.contains("allow") && begun.contains("[webs inbound[0]]"), "{begun}");
    let dropped = line(&["tap0", "DROP", "no_rule", &stranger, &format!("→ {}:22", web.v4), " S "]);
    assert!(!dropped.contains('['), "no rule has allowed it: {dropped}");
    line(&["tap1", "would drop", "no_rule", "udp", &format!("→ {}:7", trial.v4)]);
    // Colours: the verdict's.
    let painted = screen.painted().unwrap();
    assert!(painted.contains("\x1b[1m\x1b[31mDROP") || painted.contains("\x1b[1;31mDROP"), "{painted:?}");

    screen.press("C-c").unwrap();
    let is_over = |text: &str| text.contains(" packets") && text.trim_end().ends_with('$');
    screen.wait("the end, and the shell is back", DEADLINE, is_over).unwrap();
    wait("nobody watches", || watchers(&daemon) == 0);
    screen.type_text("echo code $?").unwrap();
    screen.press("Enter").unwrap();
    screen.wait("exit code 0", DEADLINE, |text| text.contains("code 0")).unwrap();
}

#[test]
fn programs_get_a_line_of_json_for_each_packet_that_fits_all_filters() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    let web = world.guest(0);
    let mut drops = Monitor::start(
        &daemon,
        &[
            "--interface",
            "tap0",
            "--verdict",
            "drop",
            "--remote",
            "198.51.100.0/24",
            "--port",
            "22",
            "--count",
            "2",
        ],
    );
    let mut rule = Monitor::start(&daemon, &["--rule", "webs inbound[1]", "--count", "1"]);
    world.expect(&[
        allowed(world.tcp(outside::ADMIN, web.v4, 80)),
        allowed(world.udp(outside::ADMIN, web.v4, 53)),
        denied(world.tcp(outside::ADMIN, web.v4, 22)),
        denied(world.tcp(outside::STRANGER, web.v4, 23)),
    ]);
    datagrams(&world.site.outside, outside::STRANGER, web.v4, 22, 2);
    for _ in 0..2 {
        let packet = drops.next();
        let expected = json!({
            "interface": "tap0", "direction": "inbound", "hook": "egress", "verdict": "drop", "reason": "no_rule",
            "protocol": "udp", "source": outside::STRANGER, "destination": web.v4, "destination_port": 22, "bytes": 43,
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(packet[field], *value, "{field} of {packet:#}");
        }
        assert!(packet["time"].as_str().unwrap().ends_with('Z'));
    }
    let packet = rule.next();
    assert_eq!(
        (&packet["reason"], &packet["destination_port"]),
        (&json!("new_flow"), &json!(53)),
        "{packet:#}"
    );
    assert_eq!(
        (&packet["rules"][0]["group"], &packet["rules"][0]["rule"]),
        (&json!("webs"), &json!("inbound[1]"))
    );
    assert_eq!(packet["rules"].as_array().unwrap().len(), 1);
    // --count has ended both.
    assert_eq!((drops.code(), rule.code()), (Some(0), Some(0)));
    wait("nobody watches", || watchers(&daemon) == 0);
}

#[test]
fn a_flood_costs_events_and_says_how_many() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    let web = world.guest(0);
    let mut monitor =
        Monitor::start(&daemon, &["--reason", "no_rule", "--direction", "inbound", "--rate", "10"]);
    const SENT: u64 = 3000;
    datagrams(&world.site.outside, outside::STRANGER, web.v4, 9, SENT as usize);
    let (mut told, mut lost) = (0, 0);
    while told + lost < SENT {
        let line = monitor.next();
        match line["lost"].as_u64() {
            None => told += 1,
            Some(more) => {
                assert_eq!(
                    (&line["limited"], &line["full"], &line["slow"]),
                    (&json!(more), &json!(0), &json!(0))
                );
                lost += more;
            }
        }
    }
    assert_eq!(told + lost, SENT, "each is told or lost");
    assert!(lost > SENT / 2, "{lost}");
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    let web = world.guest(0);
    let asleep = Monitor::start(&daemon, &["--rate", "100000"]);
    let pid = Pid::from_raw(i32::try_from(asleep.child.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut awake = Monitor::start(&daemon, &["--verdict", "allow", "--protocol", "tcp", "--count", "1"]);
    // More than pipes, sockets and queues hold.
    datagrams(&world.site.outside, outside::STRANGER, web.v4, 9, 30_000);
    world.expect(&[allowed(world.tcp(outside::ADMIN, web.v4, 80))]);
    assert_eq!(awake.next()["protocol"], "tcp");
    assert!(daemon.status().is_ok());
    kill(pid, Signal::SIGCONT).unwrap();
    let mut asleep = asleep;
    let mut slow = 0;
    while slow == 0 {
        slow = asleep.next()["slow"].as_u64().unwrap_or(0);
    }
    // A reader that goes away is forgotten, and sgctl ends well.
    asleep.lines = None;
    datagrams(&world.site.outside, outside::STRANGER, web.v4, 9, 10);
    assert_eq!(asleep.code(), Some(0));
    wait("nobody watches", || watchers(&daemon) == 0);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    for (arguments, code, words) in [
        (vec!["--interface", "tap9"], 1, ["tap9", "did you mean \"tap0\""]),
        (vec!["--rule", "wbes"], 1, ["wbes", "did you mean \"webs\""]),
        (vec!["--reason", "no_rul"], 1, ["no_rul", "no_rule"]),
        (vec!["--verdict", "reject"], 1, ["reject", "would_drop"]),
        (vec!["--remote", "10.0.0.0/33"], 1, ["remote", "network"]),
        (vec!["--verdict", "drop", "--reason", "arp"], 1, ["no packet fits", "verdict"]),
        (vec!["--port", "99999"], 2, ["99999", "--port"]),
    ] {
        let output = daemon.sgctl(&[vec!["monitor"], arguments.clone()].concat()).unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert!(words.iter().all(|word| complaint.contains(word)), "{arguments:?}: {complaint}");
    }
    // There is room for 15.
    let many: Vec<_> = (0..15).map(|_| Monitor::start(&daemon, &[])).collect();
    let output = daemon.sgctl(&["monitor"]).unwrap();
    assert_eq!(output.status.code(), Some(2), "it could not be asked");
    assert!(String::from_utf8_lossy(&output.stderr).contains("15 are watching already"));
    drop(many);
    wait("nobody watches", || watchers(&daemon) == 0);
}

/// The hits of a rule, by its words.
fn hits(daemon: &Daemon, text: &str) -> Option<u64> {
    let socket = daemon.socket();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /v1/rules/hits HTTP/1.0\r\nHost: sgd\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(body).unwrap();
    let rule = answer["rules"].as_array().unwrap().iter().find(|rule| rule["text"] == text)?;
    assert_eq!(rule["hits"] == 0, rule["last_hit"].is_null(), "{rule:#}");
    Some(rule["hits"].as_u64().unwrap())
}

#[test]
fn rules_are_credited_for_what_they_allow_over_reloads_and_restarts() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    let web = world.guest(0);
    let (http, dns) = ("TCP port 80 from 203.0.113.0/24", "UDP port 53 from 203.0.113.0/24");
    wait("the rules are known", || hits(&daemon, http) == Some(0) && hits(&daemon, dns) == Some(0));
    let visits = |count: usize| {
        for _ in 0..count {
            world.expect(&[allowed(world.tcp(outside::ADMIN, web.v4, 80))]);
        }
    };
    visits(3);
    wait("three connections", || hits(&daemon, http) == Some(3));
    assert_eq!(hits(&daemon, dns), Some(0), "what is refused or another's is no hit");
    // A rule before it that says nothing new: the compiled policy is the same, and the rule counts all the same.
    let mut edited: Value = serde_json::from_str(&site(&world)).unwrap();
    let list = edited["security_groups"][0]["inbound"].as_array_mut().unwrap();
    list.insert(0, tcp_from("203.0.113.0/25", 80));
    daemon.write_policy(&edited.to_string()).unwrap();
    let narrow = "TCP port 80 from 203.0.113.0/25";
    wait("the new rule is known", || hits(&daemon, narrow) == Some(0));
    visits(2);
    wait("five connections", || hits(&daemon, http) == Some(5));
    assert_eq!(hits(&daemon, narrow), Some(2), "both rules allow them");
    // One that lets more in, and the others stand elsewhere.
    let list = edited["security_groups"][0]["inbound"].as_array_mut().unwrap();
    list.insert(0, json!({ "protocol": "TCP", "source": "0.0.0.0/0", "port": "81" }));
    daemon.apply(&edited.to_string()).unwrap();
    wait("the third rule is known", || hits(&daemon, "TCP port 81 from 0.0.0.0/0") == Some(0));
    assert_eq!((hits(&daemon, http), hits(&daemon, narrow)), (Some(5), Some(2)));
    daemon.restart().unwrap();
    wait("still five", || hits(&daemon, http) == Some(5));
    // Also what comes while no daemon is there.
    daemon.terminate().unwrap();
    visits(1);
    daemon.resume().unwrap();
    wait("six connections", || hits(&daemon, http) == Some(6));
}

#[test]
fn who_watches_an_interface_goes_on_when_it_has_another_device() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &site(&world)).unwrap();
    let mut monitor =
        Monitor::start(&daemon, &["--interface", "tap0", "--reason", "arp,neighbor_discovery,no_rule"]);
    let host = &world.site.host;
    host.ip("link del tap0").unwrap();
    wait("it is gone", || crate::world::status_of(&daemon, "tap0")["state"] == "absent");
    host.ip("link add tap0 type veth peer name other0\nlink set other0 up\nlink set tap0 up").unwrap();
    wait("it is back", || crate::world::status_of(&daemon, "tap0")["state"] == "enforced");
    let ifindex = crate::world::status_of(&daemon, "tap0")["ifindex"].clone();
    let raw = crate::packets::RawEthernet::new(host, "other0");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                raw.send(
                    0x0806,
                    &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
                );
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let mut seen = monitor.next();
        while seen["ifindex"] != ifindex {
            seen = monitor.next();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(seen["interface"], "tap0");
    });
}
