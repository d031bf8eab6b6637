//! The laboratory itself: a test that trusts it needs probes that tell the truth and nothing left behind.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail the way tests do")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sg_tests::{
    Daemon, Lab, Netns, Outcome, Probe, Process, Topology, Way, outside, patience, run_all, sweep,
};

const WEB: u16 = 80;

fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

/// Loses every answer to `asking` on a blackhole route: silence that no filter of ours has made.
fn silence(answering: &Netns, asking: IpAddr) {
    let bits = if asking.is_ipv4() { 32 } else { 128 };
    answering.ip(&format!("route add blackhole {asking}/{bits}")).unwrap();
}

#[test]
fn every_path_of_the_standard_site_is_open_without_a_filter() {
    let site = Topology::new().unwrap();
    let (g0, g1) = (site.guest(0).unwrap(), site.guest(1).unwrap());
    let ends: Vec<SocketAddr> = [g0.v4, g0.v6].map(|address| (address, WEB).into()).to_vec();
    let world: Vec<SocketAddr> = [
        IpAddr::from(outside::METADATA),
        outside::DNS.into(),
        outside::DNS_V6.into(),
        outside::MYSQL.into(),
        outside::SQL_SERVER.into(),
    ]
    .map(|address| (address, WEB).into())
    .to_vec();
    let _servers = [
        g0.netns.serve_tcp(&ends).unwrap(),
        g0.netns.serve_udp(&ends).unwrap(),
        site.outside.serve_tcp(&world).unwrap(),
        site.outside.serve_udp(&world).unwrap(),
    ];
    let mut probes = Vec::new();
    for from in [&site.outside, &g1.netns] {
        for end in &ends {
            probes.extend([Probe::tcp(from, *end), Probe::udp(from, *end), Probe::ping(from, end.ip())]);
        }
    }
    for end in &world {
        probes.extend([
            Probe::tcp(&g1.netns, *end),
            Probe::udp(&g1.netns, *end),
            Probe::ping(&g1.netns, end.ip()),
        ]);
    }
    for (source, end) in [
        (IpAddr::from(outside::ADMIN), g0.v4),
        (outside::STRANGER.into(), g0.v4),
        (outside::ADMIN_V6.into(), g0.v6),
        (outside::STRANGER_V6.into(), g0.v6),
    ] {
        probes.push(Probe::tcp(&site.outside, (end, WEB)).source(source));
        probes.push(Probe::udp(&site.outside, (end, WEB)).source(source));
        probes.push(Probe::ping(&site.outside, end).source(source));
    }
    let probes: Vec<_> = probes.into_iter().map(|probe| (probe, patience::ALLOWED)).collect();
    for ((probe, _), outcome) in probes.iter().zip(run_all(&probes)) {
        assert_eq!(outcome.unwrap(), Outcome::Answered, "{probe}");
    }
}

#[test]
fn a_closed_port_is_refused() {
    let site = Topology::new().unwrap();
    let g0 = site.guest(0).unwrap();
    for address in [g0.v4, g0.v6] {
        let tcp = Probe::tcp(&site.outside, (address, WEB)).run(patience::ALLOWED).unwrap();
        let udp = Probe::udp(&site.outside, (address, WEB)).run(patience::ALLOWED).unwrap();
        assert_eq!((tcp, udp), (Outcome::Refused, Outcome::Refused), "{address}");
    }
}

#[test]
fn silence_is_a_time_out_and_takes_no_longer_than_asked() {
    let site = Topology::new().unwrap();
    let g0 = site.guest(0).unwrap();
    silence(&g0.netns, outside::STRANGER.into());
    silence(&g0.netns, outside::STRANGER_V6.into());
    let mut probes = Vec::new();
    for (source, end) in
        [(IpAddr::from(outside::STRANGER), g0.v4), (IpAddr::from(outside::STRANGER_V6), g0.v6)]
    {
        probes.push(Probe::tcp(&site.outside, (end, WEB)).source(source));
        probes.push(Probe::udp(&site.outside, (end, WEB)).source(source));
        probes.push(Probe::ping(&site.outside, end).source(source));
    }
    let probes: Vec<_> = probes.into_iter().map(|probe| (probe, patience::DENIED)).collect();
    let begin = Instant::now();
    for ((probe, _), outcome) in probes.iter().zip(run_all(&probes)) {
        assert_eq!(outcome.unwrap(), Outcome::TimedOut, "{probe}");
    }
    assert!(begin.elapsed() < patience::DENIED * 4, "{:?}", begin.elapsed());
}

#[test]
fn an_address_that_nobody_has_is_unreachable_not_filtered() {
    let site = Topology::with_guests(1).unwrap();
    let g0 = site.guest(0).unwrap();
    let nobody = Probe::tcp(&g0.netns, "10.0.0.77:80".parse::<SocketAddr>().unwrap());
    assert_eq!(nobody.run(patience::ALLOWED).unwrap(), Outcome::Unreachable);
}

#[test]
fn a_held_connection_answers_until_it_is_silenced() {
    let site = Topology::new().unwrap();
    let g0 = site.guest(0).unwrap();
    let _tcp = g0.netns.serve_tcp(&[(g0.v4, WEB).into()]).unwrap();
    let _udp = g0.netns.serve_udp(&[(g0.v4, WEB).into()]).unwrap();
    let to = (g0.v4, WEB);
    for probe in [Probe::tcp(&site.outside, to), Probe::udp(&site.outside, to)] {
        let probe = probe.source(outside::ADMIN);
        let mut held = probe.hold(patience::ALLOWED).unwrap();
        assert_eq!(held.exchange(patience::ALLOWED).unwrap(), Outcome::Answered, "{probe}");
        silence(&g0.netns, outside::ADMIN.into());
        assert_eq!(held.exchange(patience::DENIED).unwrap(), Outcome::TimedOut, "{probe}");
        g0.netns.ip(&format!("route del blackhole {}/32", outside::ADMIN)).unwrap();
        // TCP sends again what was lost; both ends are as they were.
        assert_eq!(held.exchange(patience::ALLOWED).unwrap(), Outcome::Answered, "{probe}");
    }
}

#[test]
fn packets_are_counted_where_they_leave_and_where_they_arrive() {
    let site = Topology::with_guests(1).unwrap();
    let guest = site.guest(0).unwrap();
    let to = SocketAddr::new(guest.v4, 9);
    let expression = "udp dst port 9";
    let count = |netns: &Netns, way| netns.count("eth0", way, expression).unwrap();
    let [sent, taken] = [count(&site.outside, Way::Sent), count(&guest.netns, Way::Received)];
    let [back, there] = [count(&guest.netns, Way::Sent), count(&site.outside, Way::Received)];
    for probe in [Probe::udp(&site.outside, to), Probe::udp(&site.outside, (guest.v4, 10))] {
        assert_eq!(probe.run(patience::ALLOWED).unwrap(), Outcome::Refused);
    }
    let counted = || [&sent, &taken, &back, &there].map(|counter| counter.read().unwrap());
    assert_eq!(counted(), [1, 1, 0, 0]);
    assert_eq!(counted(), [1, 1, 0, 0], "reading changes nothing");
    assert!(site.outside.count("eth0", Way::Sent, "udp dst prt 9").is_err());
}

#[test]
fn a_program_ends_with_its_guard_and_so_does_what_it_has_started() {
    let lab = Lab::new().unwrap();
    let netns = lab.netns("programs").unwrap();
    let alive = || {
        let output = Command::new("ip").args(["netns", "pids", netns.name()]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    let mut command = netns.command("sh");
    command.args(["-c", "sleep 1000 & sleep 1000"]);
    let process = Process::spawn(command).unwrap();
    let deadline = Instant::now() + patience::ALLOWED;
    while alive() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(alive(), 3);
    drop(process);
    while alive() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(alive(), 0);

    let mut command = netns.command("sh");
    command.args(["-c", "echo out; echo err >&2; exit 3"]);
    let finished = Process::finish(command, patience::ALLOWED).unwrap();
    assert_eq!((&*finished.stdout, &*finished.stderr), ("out\n", "err\n"));
    assert!(format!("{:#}", finished.success("sh").unwrap_err()).contains("out | err"));
    let mut command = netns.command("sleep");
    command.arg("1000");
    assert!(Process::finish(command, Duration::from_millis(50)).is_err());
    assert_eq!(alive(), 0);
}

#[test]
fn two_sites_live_side_by_side() {
    let (a, b) = (Topology::with_guests(1).unwrap(), Topology::with_guests(1).unwrap());
    assert_ne!(a.host.name(), b.host.name());
    let end = (a.guest(0).unwrap().v4, WEB);
    let _server = a.guest(0).unwrap().netns.serve_tcp(&[end.into()]).unwrap();
    assert_eq!(Probe::tcp(&a.outside, end).run(patience::ALLOWED).unwrap(), Outcome::Answered);
    assert_eq!(Probe::tcp(&b.outside, end).run(patience::ALLOWED).unwrap(), Outcome::Refused);
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let (tell, told) = std::sync::mpsc::channel();
    let panicking = std::thread::spawn(move || {
        let site = Topology::new().unwrap();
        let netns =
            [&site.host, &site.outside, &site.guest(0).unwrap().netns].map(|netns| netns.name().to_owned());
        tell.send((netns, site.lab.directory().to_owned())).unwrap();
        site.host.run(|| panic!("inside the namespace")).unwrap();
    });
    assert!(panicking.join().is_err());
    let (netns, directory) = told.recv().unwrap();
    for name in netns {
        assert!(!exists(&name), "{name}");
    }
    assert!(!directory.exists());
}

#[test]
fn a_daemon_can_be_stopped_killed_and_started_again_and_leaves_no_pins() {
    let policy = include_str!("../../examples/demo.json");
    let site = Topology::new().unwrap();
    let mut daemon = Daemon::start(&site, policy).unwrap();
    let web = site.guest(0).unwrap();
    let closed = Probe::tcp(&site.outside, (web.v4, 22)).source(outside::STRANGER);
    let pins = daemon.pin_dir().to_owned();

    let before = daemon.generation().unwrap();
    let after = daemon.apply(&policy.replace("203.0.113.0/24", "203.0.113.0/25")).unwrap();
    assert!(after > before);

    daemon.terminate().unwrap();
    assert!(daemon.status().is_err(), "nobody answers");
    assert!(pins.exists());
    assert_eq!(closed.run(patience::DENIED).unwrap(), Outcome::TimedOut, "the kernel side goes on");
    daemon.resume().unwrap();
    daemon.kill();
    daemon.resume().unwrap();
    assert_eq!(closed.run(patience::DENIED).unwrap(), Outcome::TimedOut);

    drop(daemon);
    assert!(!pins.exists());
    assert_eq!(closed.run(patience::ALLOWED).unwrap(), Outcome::Refused, "the filter is gone");
}

/// The test below starts this executable again to run only this. On its own it does nothing, so that it can stand among the others.
#[test]
fn helper_that_holds_a_site() {
    if std::env::var_os("SG_LAB_HELPER").is_none() {
        return;
    }
    let site = Topology::with_guests(1).unwrap();
    println!("site {}", site.host.name());
    std::thread::sleep(Duration::from_secs(60));
    panic!("nobody has ended this helper");
}

fn start_helper() -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_holds_a_site", "--nocapture"])
        .env("SG_LAB_HELPER", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let name = lines
        .map(Result::unwrap)
        .find_map(|line| line.split_once("site ").map(|(_, name)| name.to_owned()))
        .expect("the helper prints its site");
    (child, name)
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn sigint_and_sigterm_leave_nothing_behind() {
    use std::os::unix::process::ExitStatusExt;
    for sent in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
        let (mut child, name) = start_helper();
        assert!(exists(&name), "{name}");
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().signal(), Some(sent as i32), "ends as if it had not caught it");
        assert!(!exists(&name), "{name}");
    }
}

#[test]
fn the_sweep_removes_what_a_killed_process_left_and_nothing_else() {
    let mine = Lab::new().unwrap();
    let alive = mine.netns("alive").unwrap();
    let (mut child, dead) = start_helper();
    sweep();
    assert!(exists(&dead), "its owner is alive: {dead}");
    let mut inside =
        Command::new("nsenter").args([&format!("--net=/run/netns/{dead}"), "sleep", "60"]).spawn().unwrap();
    signal(&child, nix::sys::signal::SIGKILL);
    child.wait().unwrap();
    // Another test may have swept in the meantime, which is as good. It must not be this process's own namespace.
    sweep();
    assert!(!exists(&dead), "{dead}");
    assert!(exists(alive.name()));
    assert!(!inside.wait().unwrap().success(), "a process inside is ended");
}
