//! `sgctl top` on a real terminal, `sgctl stats`, and what they do when there is none or no daemon.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sg_tests::{Daemon, Screen, binary, outside};

use crate::world::{DEADLINE, World, ask, denied, interface, must_refuse, policy, tcp_from, udp_from, wait};

fn web_policy(world: &World) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)], "outbound": [] }],
        "interfaces": [interface(world.guest(0), &["webs"]), interface(world.guest(1), &["webs"])],
    }))
}

/// What is typed to run it in a shell.
fn top(daemon: &Daemon) -> String {
    format!(
        "{} --socket {} top --interval 0.3",
        binary("sgctl").unwrap().display(),
        daemon.socket().display()
    )
}

/// The words of the line that begins with one.
fn row<'t>(text: &'t str, first: &str) -> Option<Vec<&'t str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&first))
}

#[test]
fn top_shows_what_goes_on_in_eighty_columns_and_leaves_the_terminal_as_it_was() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let web = world.guest(0);
    let _held: Vec<_> = (0..3).map(|_| world.hold(&world.tcp(outside::ADMIN, web.v4, 80))).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A stranger knocks, again and again.
        let socket = world.site.outside.run(|| UdpSocket::bind((outside::STRANGER, 0))).unwrap().unwrap();
        let (stop_it, to) = (&stop, web.v4);
        let knocks = scope.spawn(move || {
            while !stop_it.load(Ordering::Relaxed) {
                socket.send_to(b"x", (to, 22)).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| on_screen(&world, &mut daemon)));
        stop.store(true, Ordering::Relaxed);
        knocks.join().unwrap();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

fn on_screen(world: &World, daemon: &mut Daemon) {
    let screen = Screen::new(&world.site.lab, 80, 24).unwrap();
    let see = |what: &str, is: &dyn Fn(&str) -> bool| screen.wait(what, DEADLINE, is).unwrap();
    screen.type_text("echo before\n").unwrap();
    screen.type_text(&format!("{}\n", top(daemon))).unwrap();

    // Eighty columns and twenty-four lines hold all of it.
    let text = see("interfaces, reasons, remotes and tables", &|text| {
        let dropping = |words: &[&str]| words.get(1).is_some_and(|rate| *rate != "0");
        row(text, "no_rule").is_some_and(|words| dropping(&words)) && text.contains("203.0.113.10")
    });
    assert_eq!(text.lines().count(), 24, "{text}");
    let head = text.lines().next().unwrap();
    assert!(head.starts_with("sgd ") && head.contains("generation 1  policy in force"), "{text}");
    let tap0 = row(&text, "tap0").unwrap();
    assert_eq!((tap0[1], tap0.len()), ("enforced", 9), "{text}");
    assert_ne!(tap0[6], "0", "packets are dropped: {text}");
    assert_eq!(tap0[7..], ["3", "0%"], "connections and the part of the share: {text}");
    assert!(row(&text, "tap1").is_some_and(|words| words[1] == "enforced"), "{text}");
    // The remotes stand beside the reasons.
    let remote = text.lines().find(|line| line.contains("203.0.113.10")).unwrap();
    let words: Vec<_> = remote.split("203.0.113.10").nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words, ["tap0", "3"], "{text}");
    assert!(text.contains("live v4") && text.contains("3/262k"), "{text}");
    assert!(text.contains("q quit"), "{text}");
    assert!(!text.contains("before"), "the screen is its own: {text}");
    let painted = screen.painted().unwrap();
    assert!(painted.contains("\u{1b}[38;5;1m"), "drops are red: {painted:?}");

    // More room, more to see.
    assert!(!text.contains("port tables"), "{text}");
    screen.resize(120, 50).unwrap();
    let text = see("more tables", &|text| text.contains("port tables") && text.contains("zones"));
    assert_eq!(text.lines().count(), 50);
    screen.resize(80, 24).unwrap();
    see("as before", &|text| text.lines().count() == 24 && text.contains("q quit"));

    // One interface alone, and filters.
    screen.press("Right").unwrap();
    screen.press("Down").unwrap();
    see("drops of one interface", &|text| text.contains("DROPS OF tap"));
    screen.press("Escape").unwrap();
    see("drops of all", &|text| text.contains("DROPS  "));
    screen.type_text("/tap1").unwrap();
    see("tap1 alone", &|text| row(text, "tap0").is_none() && row(text, "tap1").is_some());
    screen.press("Enter").unwrap();
    see("the filter stays", &|text| text.contains("/tap1") && row(text, "tap0").is_none());
    screen.press("Escape").unwrap();
    see("both", &|text| row(text, "tap0").is_some() && row(text, "tap1").is_some());

    // What is wrong stands at the top.
    must_refuse(daemon, "{", &["policy.json"]);
    see("REFUSED", &|text| text.contains("policy REFUSED") && text.contains("refused: "));
    daemon.write_policy(&web_policy(world)).unwrap();
    see("in force", &|text| text.contains("policy in force"));
    daemon.kill();
    let text = see("NO ANSWER", &|text| text.contains("NO ANSWER since") && text.contains("cannot reach"));
    assert!(row(&text, "tap0").is_some(), "what was known stays: {text}");
    daemon.resume().unwrap();
    see("an answer", &|text| !text.contains("NO ANSWER") && row(text, "tap0").is_some());

    // However it ends, the terminal is as it was.
    screen.type_text("q").unwrap();
    see("the shell", &|text| text.contains("before") && !text.contains("q quit"));
    for end in ["C-c", "TERM"] {
        screen.type_text(&format!("clear; {}\n", top(daemon))).unwrap();
        see("it again", &|text| text.contains("q quit") && row(text, "tap0").is_some());
        match end {
            "TERM" => {
                let children = screen.children().unwrap();
                assert_eq!(children.len(), 1, "{children:?}");
                kill(Pid::from_raw(children[0]), Signal::SIGTERM).unwrap();
            }
            key => screen.press(key).unwrap(),
        }
        see("the shell again", &|text| !text.contains("q quit"));
        // Typing is seen, and lines end where they should.
        screen.type_text("stty -a | grep -o ' echo ' ; echo after\n").unwrap();
        see("echo", &|text| {
            // The shell's prompt may stand before what was typed early.
            let printed = |end: &str| text.lines().any(|line| line.ends_with(end) && !line.contains("stty"));
            printed(" echo") && printed("after")
        });
    }

    // Without colours it says the same.
    screen.type_text(&format!("clear; NO_COLOR=1 {}\n", top(daemon))).unwrap();
    see("reasons", &|text| row(text, "no_rule").is_some());
    let painted = screen.painted().unwrap();
    let colour = (30..38).find(|number| painted.contains(&format!("\u{1b}[{number}m")));
    assert!(colour.is_none() && !painted.contains("[38;5;"), "{painted:?}");
    screen.type_text("q").unwrap();
    see("the shell in the end", &|text| !text.contains("q quit"));
    wait("it has ended", || screen.children().unwrap().is_empty());
}

/// Who has most bytes and who has most connections are not always the same.
#[test]
fn top_sorts_remotes_by_bytes_and_with_a_key_by_connections() {
    let world = World::new(1);
    let web = world.guest(0);
    let text = policy(json!({
        "security_groups": [{ "name": "webs", "outbound": [],
            "inbound": [tcp_from("203.0.113.0/24", 80), udp_from("198.51.100.0/24", 53)] }],
        "interfaces": [interface(web, &["webs"])],
    }));
    let log = world.site.lab.directory().join("flows.log");
    let daemon = Daemon::start_with(&world.site, &text, &["--flow-log", log.to_str().unwrap()]).unwrap();
    let _held: Vec<_> = (0..3).map(|_| world.hold(&world.tcp(outside::ADMIN, web.v4, 80))).collect();
    // One flow of a stranger's, with more bytes than all of those.
    let server = web.netns.run(|| UdpSocket::bind((web.v4, 53)).unwrap()).unwrap();
    let client = world.site.outside.run(|| UdpSocket::bind((outside::STRANGER, 4000)).unwrap()).unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let (mut buffer, patience) = ([0; 2048], Some(Duration::from_secs(5)));
    server.set_read_timeout(patience).unwrap();
    client.set_read_timeout(patience).unwrap();
    for _ in 0..100 {
        client.send(&[0; 1000]).unwrap();
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&[0; 1000], from).unwrap();
        client.recv(&mut buffer).unwrap();
    }

    let screen = Screen::new(&world.site.lab, 80, 24).unwrap();
    screen.type_text(&format!("{}\n", top(&daemon))).unwrap();
    let (stranger, admin) = (outside::STRANGER.to_string(), outside::ADMIN.to_string());
    let is_before = |text: &str, first: &str, second: &str| {
        let line = |remote: &str| text.lines().position(|line| line.contains(remote));
        line(first).zip(line(second)).is_some_and(|(first, second)| first < second)
    };
    let by_bytes = |text: &str| text.contains("BYTES*") && is_before(text, &stranger, &admin);
    screen.wait("the most bytes first", DEADLINE, by_bytes).unwrap();
    screen.type_text("t").unwrap();
    let by_connections = |text: &str| text.contains("CONNS*") && is_before(text, &admin, &stranger);
    let text = screen.wait("the most connections first", DEADLINE, by_connections).unwrap();
    assert!(!text.contains("BYTES*"), "{text}");
    screen.type_text("t").unwrap();
    screen.wait("the most bytes first again", DEADLINE, by_bytes).unwrap();
    screen.type_text("q").unwrap();
}

#[test]
fn top_without_a_terminal_says_what_to_use_and_one_frame_is_text() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let output = daemon.sgctl(&["top"]).unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("--once") && complaint.contains("stats --json"), "{complaint}");

    let _held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let output = daemon.sgctl(&["top", "--once", "--interval", "0.2"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains('\u{1b}'), "{text:?}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let tap0 = row(&text, "tap0").unwrap();
    assert_eq!((tap0[1], &tap0[7..]), ("enforced", &["1", "0%"][..]), "{text}");
    assert!(text.contains("policy in force") && text.contains("203.0.113.10"), "{text}");

    let output = daemon.sgctl(&["top", "--interval", "0"]).unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("0.1 to 86400"));
    daemon.terminate().unwrap();
    let output = daemon.sgctl(&["top", "--once"]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot reach sgd"));
}

#[test]
fn stats_add_up_with_status_and_say_how_full_tables_are() {
    let world = World::new(2);
    // 1,024 live flows: 64 for each interface.
    let daemon = Daemon::start_with(&world.site, &web_policy(&world), &["--live-flows", "1024"]).unwrap();
    let web = world.guest(0);
    let _held: Vec<_> = (0..4).map(|_| world.hold(&world.tcp(outside::ADMIN, web.v4, 80))).collect();
    let _held_v6 = world.hold(&world.tcp(outside::ADMIN, web.v4, 80));
    world.expect(&[
        denied(world.tcp(outside::STRANGER, web.v4, 22)),
        denied(world.udp(web.v4, outside::DNS, 53)),
    ]);

    let stats = ask(&daemon, &["stats", "--json"], &[0]);
    let status = daemon.status().unwrap();
    let counters = |of: &serde_json::Value, direction: &str| {
        let interfaces = of["interfaces"].as_array().unwrap().iter();
        let tap0 = interfaces.clone().find(|interface| interface["name"] == "tap0").unwrap();
        let dropped = tap0[direction]["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .find(|reason| reason["reason"] == "no_rule");
        dropped.unwrap()["packets"].as_u64().unwrap()
    };
    for direction in ["inbound", "outbound"] {
        assert_eq!(counters(&stats["status"], direction), counters(&status, direction));
    }
    let table = |name: &str| {
        let tables = stats["tables"].as_array().unwrap().iter();
        let table = tables
            .clone()
            .find(|table| table["table"] == name)
            .unwrap_or_else(|| panic!("{name}: {stats:#}"));
        (table["used"].as_u64().unwrap(), table["size"].as_u64().unwrap())
    };
    assert_eq!(table("flows_live"), (5, 1024));
    assert_eq!(table("flows_live_v4"), (5, 1024));
    assert_eq!(table("flows_live_v6"), (0, 1024));
    assert!(table("flows_half_open_v4").0 > 0 || table("flows_half_open_v4").1 == 131_072);
    assert_eq!(table("interfaces"), (2, 511));
    assert_eq!(table("zones").0, 2);
    // Two guests' addresses of either family, in no group that a rule names; and one prefix.
    assert_eq!(table("classes_v4").0, 1);
    assert_eq!(table("own_v4").0, 2);
    assert_eq!((stats["swaps"].as_u64(), stats["status"]["generation"].as_u64()), (Some(1), Some(1)));
    daemon.apply(&web_policy(&world).replace("\"port\": 80", "\"port\": 81")).unwrap();
    let stats = ask(&daemon, &["stats", "--json", "tap1"], &[0]);
    assert_eq!(stats["swaps"], 2);
    let names = |stats: &serde_json::Value| -> Vec<String> {
        let interfaces = stats["status"]["interfaces"].as_array().unwrap().iter();
        interfaces.map(|interface| interface["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&stats), ["tap1"]);
    wait("the collector has run", || {
        ask(&daemon, &["stats", "--json"], &[0])["collector"]["runs"].as_u64().unwrap() > 1
    });

    let text = String::from_utf8(daemon.sgctl(&["stats"]).unwrap().stdout).unwrap();
    let row = |words: &[&str]| {
        let found =
            text.lines().find(|line| line.split_whitespace().take(words.len()).eq(words.iter().copied()));
        found.unwrap_or_else(|| panic!("{words:?} in {text}")).to_owned()
    };
    row(&["tap0", "inbound", "drop", "no_rule"]);
    row(&["tap0", "outbound", "drop", "no_rule"]);
    row(&["tap0", "inbound", "pass", "new_flow", "5"]);
    row(&["live", "connections", "of", "IPv4", "5", "1024", "0", "%"]);
    assert!(!text.contains("NEARLY FULL"), "{text}");
    let output = daemon.sgctl(&["stats", "tap7"]).unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("tap7") && complaint.contains("did you mean"), "{complaint}");
}

#[test]
fn stats_with_an_interval_are_rates_of_that_time() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let guest = world.guest(0);
    let stats = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&daemon, &["stats", "--json", "--interval", "3"], &[0]));
        std::thread::sleep(Duration::from_millis(500));
        // 200 that no rule lets out, at once: whenever they pass, they do so within the three seconds.
        let socket = guest.netns.run(|| UdpSocket::bind((guest.v4, 0))).unwrap().unwrap();
        for _ in 0..200 {
            socket.send_to(b"x", (outside::DNS, 9)).unwrap();
        }
        asked.join().unwrap()
    });
    let rates = &stats["rates"];
    let tap0 =
        rates["interfaces"].as_array().unwrap().iter().find(|interface| interface["name"] == "tap0").unwrap();
    let seconds = rates["seconds"].as_f64().unwrap();
    let dropped = tap0["outbound"]["packets_by_reason"]["no_rule"].as_f64().unwrap() * seconds;
    assert!(seconds >= 3.0 && (dropped - 200.0).abs() < 1.0, "{dropped} in {seconds} s: {rates:#}");
}

#[test]
fn top_ends_with_its_terminal() {
    let world = World::new(2);
    let daemon = Daemon::start(&world.site, &web_policy(&world)).unwrap();
    let screen = Screen::new(&world.site.lab, 80, 24).unwrap();
    screen.type_text(&format!("{}\n", top(&daemon))).unwrap();
    screen.wait("the policy", DEADLINE, |text| text.contains("policy in force")).unwrap();
    let [pid] = screen.children().unwrap()[..] else { panic!("one program") };
    drop(screen);
    let runs = || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    wait("sgctl top is gone", || !runs());
}
