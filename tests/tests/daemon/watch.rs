//! What makes the daemon read its policy again, and what does not (SPEC K10).

use std::fs;
use std::time::Duration;

use serde_json::json;
use sg_tests::Daemon;

use crate::world::{World, interface, policy, tcp_from, wait};

fn web_policy(world: &World, port: u16) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", port)], "outbound": [] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }))
}

/// `sgd` with nothing but the policy in the policy's directory.
struct Bare {
    child: std::process::Child,
    directory: std::path::PathBuf,
    pins: std::path::PathBuf,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.pins);
    }
}

impl Bare {
    fn start(world: &World, text: &str) -> Self {
        let directory = world.site.lab.directory().join("bare");
        fs::create_dir_all(directory.join("policy.d")).unwrap();
        fs::write(directory.join("policy.d/policy.json"), text).unwrap();
        let pins = std::path::Path::new("/sys/fs/bpf").join(format!("{}-bare", world.site.lab.name()));
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = world
            .site
            .host
            .command(sg_tests::binary("sgd").unwrap())
            .args(["--policy".as_ref(), directory.join("policy.d/policy.json").as_os_str()])
            .args(["--state-dir".as_ref(), directory.join("state").as_os_str()])
            .args(["--socket".as_ref(), directory.join("sock").as_os_str()])
            .args(["--pin-dir".as_ref(), pins.as_os_str()])
            .env("NO_COLOR", "1")
            .stderr(log)
            .spawn()
            .unwrap();
        let bare = Self { child, directory, pins };
        wait("ready", || bare.log().contains(" ready"));
        bare
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.directory.join("new"), text).unwrap();
        fs::rename(self.directory.join("new"), self.directory.join("policy.d/policy.json")).unwrap();
    }
}

/// The watch has heard of the change and waits for quiet; then a device changes.
#[test]
fn spec_k10_a_changed_file_is_not_forgotten_when_a_device_changes_meanwhile() {
    let world = World::new(1);
    let daemon = Bare::start(&world, &web_policy(&world, 80));
    world.site.host.ip("link add noise type bridge").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for round in 0..5u16 {
        daemon.write(&web_policy(&world, 8000 + round));
        std::thread::sleep(Duration::from_millis(10));
        world.site.host.ip("link set noise up\nlink set noise down").unwrap();
        wait(&format!("the policy of round {round} is in force:\n{}", daemon.log()), || {
            daemon.log().matches("policy applied").count() == 2 + usize::from(round)
        });
    }
}

/// The daemon's own log beside the policy, for example. (Policies of hundreds of groups make it a load of one processor.)
#[test]
fn spec_k10_a_file_that_is_no_policy_does_not_make_the_daemon_read_the_policy() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &web_policy(&world, 80)).unwrap();
    daemon.apply(&web_policy(&world, 81)).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let read = daemon.log().matches("policy unchanged").count();
    assert!(read <= 1, "read {read} times in 3 s");
}
