//! What the service manager is told, and what becomes of a daemon that has a fault.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::json;
use sg_tests::{Daemon, outside, patience};

use crate::world::{
    DEADLINE, World, allowed, denied, expect, interface, must_refuse, plug, policy, status_of, tcp_from,
};

/// How often the daemon has to say that it is alive, in microseconds: twice in this time.
const WATCHDOG: &str = "400000";

/// In place of the service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// Listens to the daemon, as of its next start.
    fn of(world: &World, daemon: &mut Daemon) -> Self {
        let path = world.site.lab.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        daemon.set_environment("NOTIFY_SOCKET", path);
        daemon.set_environment("WATCHDOG_USEC", WATCHDOG);
        Self(socket)
    }

    /// The next message, one assignment a line.
    fn next(&self, patience: Duration) -> Option<Vec<String>> {
        self.0.set_read_timeout(Some(patience)).unwrap();
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap().lines().map(str::to_owned).collect())
    }

    /// The next message that is no sign of life.
    #[track_caller]
    fn state(&self) -> Vec<String> {
        loop {
            let message = self.next(DEADLINE).expect("a message");
            if message != ["WATCHDOG=1"] {
                return message;
            }
        }
    }

    #[track_caller]
    fn sign_of_life(&self) {
        while self.next(DEADLINE).expect("a sign of life") != ["WATCHDOG=1"] {}
    }

    fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }
}

fn web(world: &World, port: u16) -> String {
    policy(json!({
        "settings": { "managed": ["tap*"] },
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", port)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }))
}

#[test]
fn spec_d20_the_service_manager_is_told_when_the_policy_is_in_force() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &web(&world, 80)).unwrap();
    let manager = Manager::of(&world, &mut daemon);
    // As after a boot: nothing is filtered before.
    daemon.kill();
    std::fs::remove_dir_all(daemon.pin_dir().join(format!("v{}", sg_common::abi::ABI_VERSION))).unwrap();
    world.serve([&world.tcp(outside::STRANGER, world.guest(0).v4, 80)]);
    let resumed = std::thread::scope(|scope| {
        let resume = scope.spawn(|| daemon.resume());
        let ready = manager.state();
        assert_eq!(ready[0], "READY=1");
        assert!(ready[1].starts_with("STATUS=generation 1 in force, 1 interfaces filtered"), "{ready:?}");
        // Not a moment later.
        expect(&[denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80))]);
        resume.join().unwrap()
    });
    resumed.unwrap();
    manager.sign_of_life();

    daemon.apply(&web(&world, 81)).unwrap();
    let reloading = manager.state();
    assert_eq!(reloading[0], "RELOADING=1");
    assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
    let ready = manager.state();
    assert_eq!(ready[0], "READY=1");
    assert!(ready[1].contains("generation 2 in force") && !ready[1].contains("refused"), "{ready:?}");
    must_refuse(&daemon, "{", &["policy.json"]);
    assert_eq!(manager.state()[0], "RELOADING=1");
    let ready = manager.state();
    assert_eq!(ready[0], "READY=1", "it does what it did before");
    assert!(ready[1].contains("generation 2 in force") && ready[1].contains("refused"), "{ready:?}");
    manager.sign_of_life();
    daemon.terminate().unwrap();
    assert_eq!(manager.state()[0], "STOPPING=1");
}

#[test]
fn a_daemon_that_hangs_gives_no_sign_of_life() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &web(&world, 80)).unwrap();
    let manager = Manager::of(&world, &mut daemon);
    let faults = world.site.lab.directory().to_owned();
    daemon.set_environment("SGD_INJECT", &faults);
    daemon.restart().unwrap();
    manager.sign_of_life();
    // The main loop waits for the enforcer; then only a question has it, and the main loop waits for nothing.
    for place in ["reconcile", "status"] {
        let fault = faults.join(format!("{place}.stuck"));
        std::fs::write(&fault, "").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| match place {
                "reconcile" => world.site.host.ip("link add other0 type bridge").unwrap(),
                _ => drop(daemon.sgctl(&["status"]).unwrap()),
            });
            // Until the last sign of life of before is read.
            let last = (0..50).any(|_| manager.next(Duration::from_secs(2)).is_none());
            assert!(last, "{place}: it says that it is alive and hangs");
            assert_eq!(manager.next(Duration::from_secs(2)), None, "{place}");
            assert!(daemon.pid().is_some_and(|pid| std::fs::exists(format!("/proc/{pid}")).unwrap()));
            std::fs::remove_file(&fault).unwrap();
        });
        manager.sign_of_life();
        manager.sign_of_life();
        manager.forget();
    }
}

#[test]
fn spec_d20_a_fault_in_any_task_ends_the_daemon_loudly_and_not_the_filter() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &web(&world, 80)).unwrap();
    let faults = world.site.lab.directory().to_owned();
    daemon.set_environment("SGD_INJECT", &faults);
    daemon.restart().unwrap();
    let rows = [
        allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80)),
        denied(world.tcp(outside::STRANGER, world.guest(0).v4, 80)),
    ];
    world.expect(&rows);
    for (number, place) in (20..).zip(["reconcile", "status"]) {
        let fault = faults.join(format!("{place}.panic"));
        std::fs::write(&fault, "").unwrap();
        let late = match place {
            "reconcile" => Some(plug(&world.site, "tap9", number)),
            _ => {
                assert_eq!(daemon.sgctl(&["status"]).unwrap().status.code(), Some(2));
                None
            }
        };
        assert_eq!(daemon.wait_end(patience::ALLOWED).unwrap().code(), Some(101), "{place}");
        let log = daemon.log();
        let error = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default();
        assert!(error.contains("has a fault") && error.contains("injected"), "{log}");
        expect(&rows);
        std::fs::remove_file(&fault).unwrap();
        daemon.resume().unwrap();
        expect(&rows);
        if late.is_some() {
            assert_eq!(status_of(&daemon, "tap9")["state"], "closed");
        }
    }
}
