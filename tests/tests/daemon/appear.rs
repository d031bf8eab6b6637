//! Devices that appear, and those who wait for them.

use std::net::IpAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, Way, outside};

use crate::chaos::Toll;
use crate::flood::{self, Flood};
use crate::world::{
    World, allowed, denied, expect, interface, must_refuse, plug, plug_as, policy, status_of, tcp_from, wait,
    with,
};

fn managed(world: &World, more: &[Value]) -> String {
    let mut interfaces = vec![interface(world.guest(0), &["webs"])];
    interfaces.extend_from_slice(more);
    policy(json!({
        "settings": { "managed": ["tap*"] },
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80)] }],
        "interfaces": interfaces,
    }))
}

fn named(name: &str, address: &str) -> Value {
    json!({ "name": name, "instance": name, "addresses": [address], "security_groups": ["webs"] })
}

fn wait_for(daemon: &Daemon, device: &str, more: &[&str]) -> Output {
    daemon.sgctl(&[&["interface", "wait", device][..], more].concat()).unwrap()
}

/// Everybody who is asked for this address on the link, without being asked.
fn everybody(netns: &Netns, device: &str, address: IpAddr) {
    netns
        .ip(&format!("neighbour replace {address} lladdr ff:ff:ff:ff:ff:ff dev {device} nud permanent"))
        .unwrap();
}

/// What a device has received since it was made.
fn received(netns: &Netns, device: &str) -> u64 {
    let output = netns.command("ip").args(["-json", "-statistics", "link", "show", device]).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// With the hook: made, waited for, set up. Both ways, while both sides send.
#[test]
fn spec_d23_no_packet_passes_a_device_that_is_waited_for_before_it_is_set_up() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &managed(&world, &[])).unwrap();
    let expression = format!("udp port {}", flood::PORT);
    let (mut devices, mut open) = (0, 0);
    for (round, filtered) in [true, true, true, false].into_iter().enumerate() {
        // The last one is not managed: what passes there could have passed at the others.
        let device = if filtered { format!("tap{}", 20 + round) } else { "free0".to_owned() };
        let netns = world.site.lab.netns(&format!("late{round}")).unwrap();
        let v4: IpAddr = format!("10.0.0.{}", 40 + round).parse().unwrap();
        world
            .site
            .host
            .ip(&format!("link add {device} type veth peer name eth0 netns {}", netns.name()))
            .unwrap();
        netns.ip(&format!("link set eth0 up\naddress add {v4}/24 dev eth0")).unwrap();
        everybody(&world.site.outside, "eth0", v4);
        everybody(&netns, "eth0", outside::ROUTER.into());
        let out = world
            .site
            .outside
            .count("eth0", Way::Received, &format!("{expression} and src host {v4}"))
            .unwrap();
        let into = netns.count("eth0", Way::Received, &expression).unwrap();
        let floods = [
            Flood::start(&world.site.outside, outside::ROUTER.into(), &[v4]),
            Flood::start(&netns, v4, &[outside::ROUTER.into()]),
        ];
        if filtered {
            let waited = wait_for(&daemon, &device, &["--state", "closed"]);
            assert!(waited.status.success(), "{waited:?}");
        }
        world.site.host.ip(&format!("link set {device} master br0 up")).unwrap();
        floods.iter().for_each(|flood| flood.more(2000));
        for flood in floods {
            flood.stop();
        }
        let passed = [out.read().unwrap(), into.read().unwrap()];
        if filtered {
            devices += 1;
            open += passed.iter().sum::<u64>();
        } else {
            assert!(passed.iter().all(|&packets| packets > 0), "{passed:?}");
        }
    }
    Toll {
        fault: "a managed device that appears in a flood, and is waited for",
        times: devices,
        lost: 0,
        wrong: open,
        note: "2000 packets and more each way; one that is not managed passes them".to_owned(),
    }
    .settle();
}

/// Without the hook, and up from its first moment: some packets may pass before the daemon has heard of the device. Then none.
#[test]
fn spec_d23_a_device_that_appears_up_in_a_flood_is_closed_at_once() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &managed(&world, &[])).unwrap();
    let mut passed = Vec::new();
    for round in 0..10u8 {
        let (device, peer) = (format!("tap{}", 20 + round), format!("peer{round}"));
        let v4: IpAddr = format!("10.0.0.{}", 40 + round).parse().unwrap();
        everybody(&world.site.outside, "eth0", v4);
        let flood = Flood::start(&world.site.outside, outside::ROUTER.into(), &[v4]);
        // One request makes it and sets it up; the next one, at once, gives it a carrier.
        world
            .site
            .host
            .ip(&format!("link add {device} up master br0 type veth peer name {peer}\nlink set {peer} up"))
            .unwrap();
        let waited = wait_for(&daemon, &device, &["--state", "closed"]);
        assert!(waited.status.success(), "{waited:?}");
        // What was on its way when the program was attached has arrived.
        std::thread::sleep(Duration::from_millis(100));
        passed.push(received(&world.site.host, &peer));
        let after =
            world.site.host.count(&peer, Way::Received, &format!("udp port {}", flood::PORT)).unwrap();
        flood.more(2000);
        flood.stop();
        assert_eq!(after.read().unwrap(), 0, "{device}");
        world.site.host.ip(&format!("link delete {device}")).unwrap();
    }
    println!("packets that a device had seen when it was closed, made up in a flood: {passed:?}");
}

/// Its links are cut when it leaves the namespace, and its name and index are the same when it is back.
#[test]
fn spec_d23_a_device_that_leaves_and_comes_back_is_filtered_again() {
    let world = World::new(1);
    let guest = world.guest(0);
    for hook in ["tc", "xdp"] {
        let text = policy(json!({
            "settings": { "managed": ["tap*"] },
            "security_groups": [{ "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80)] }],
            "interfaces": [with(interface(guest, &["webs"]), "hook", hook)],
        }));
        let mut daemon = Daemon::start(&world.site, &text).unwrap();
        let rows = [
            allowed(world.tcp(outside::ADMIN, guest.v4, 80)),
            denied(world.tcp(outside::ADMIN, guest.v4, 81)),
        ];
        world.expect(&rows);
        let before = status_of(&daemon, "tap0")["ifindex"].clone();
        let elsewhere = world.site.lab.netns(&format!("elsewhere-{hook}")).unwrap();
        let away_and_back = || {
            world.site.host.ip(&format!("link set tap0 netns {}", elsewhere.name())).unwrap();
            let output = elsewhere
                .command("ip")
                .args(["link", "set", "tap0", "netns"])
                .arg(world.site.host.path().file_name().unwrap())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            world.site.host.ip("link set tap0 master br0 up").unwrap();
        };
        // It is back before the daemon hears that it has left.
        let pid = Pid::from_raw(i32::try_from(daemon.pid().unwrap()).unwrap());
        for pause in [true, false] {
            if pause {
                kill(pid, Signal::SIGSTOP).unwrap();
            }
            away_and_back();
            kill(pid, Signal::SIGCONT).unwrap();
            let waited = wait_for(&daemon, "tap0", &[]);
            assert!(waited.status.success(), "{waited:?}");
            expect(&rows);
        }
        assert_eq!(status_of(&daemon, "tap0")["ifindex"], before, "it has its index again");
        // Nobody was there to hear of it.
        daemon.kill();
        away_and_back();
        daemon.resume().unwrap();
        expect(&rows);
    }
}

#[test]
fn interface_wait_says_what_is_missing() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &managed(&world, &[named("tap8", "10.0.0.28")])).unwrap();
    let no = |device: &str, more: &[&str], words: &[&str]| {
        let output = wait_for(&daemon, device, &[&["--timeout", "200ms"][..], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    };
    assert!(wait_for(&daemon, "tap0", &["--timeout", "0s"]).status.success());
    no("tap8", &[], &["no device tap8", "a policy for it is in force"]);
    no("tap9", &[], &["no device tap9", "no policy in force names it"]);
    let _late = plug(&world.site, "tap9", 29);
    no("tap9", &[], &["tap9 is closed", "no policy in force names it"]);
    assert!(wait_for(&daemon, "tap9", &["--state", "closed"]).status.success());
    no("br0", &["--state", "closed"], &["br0 is not filtered"]);
    must_refuse(&daemon, "{", &["policy.json"]);
    no("tap9", &[], &["refused", "policy.json"]);

    // Somebody waits before there is anything to wait for.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait_for(&daemon, "tap9", &[]));
        let also = scope.spawn(|| wait_for(&daemon, "tap8", &[]));
        daemon.apply(&managed(&world, &[named("tap8", "10.0.0.28"), named("tap9", "10.0.0.29")])).unwrap();
        let _late = plug_as(&world.site, "tap8", 28, "waited");
        for waited in [waiting.join().unwrap(), also.join().unwrap()] {
            assert!(waited.status.success(), "{waited:?}");
        }
    });
}

/// XDP is what the policy says, and the driver of this device has none: closed, not open.
#[test]
fn spec_d23_a_device_that_cannot_be_filtered_as_the_policy_says_is_closed() {
    let world = World::new(1);
    let lan = with(named("lan0", "10.0.0.77"), "hook", "xdp");
    // The operator must get in: not closed, and nobody overlooks it.
    let mut host = with(named("lan1", "10.0.0.78"), "hook", "xdp");
    host["role"] = "host".into();
    let daemon = Daemon::start(&world.site, &managed(&world, &[lan, host])).unwrap();
    world.site.host.ip("link add lan1 type bridge").unwrap();
    wait("lan1 is not filtered", || status_of(&daemon, "lan1")["state"] == "not_filtered");
    let text = daemon.sgctl(&["status"]).unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("lan1: NOT FILTERED, as"), "{text:?}");
    world
        .site
        .host
        .ip("link add lan0 type bridge forward_delay 0\naddress add 192.0.2.1/24 dev lan0\nlink set lan0 up")
        .unwrap();
    wait("lan0 is closed", || status_of(&daemon, "lan0")["state"] == "closed");
    assert!(status_of(&daemon, "lan0")["why"].as_str().unwrap().contains("native XDP"));
    let text = daemon.sgctl(&["status"]).unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("native XDP"), "{text:?}");
    let no = wait_for(&daemon, "lan0", &["--timeout", "100ms"]);
    assert!(String::from_utf8_lossy(&no.stderr).contains("native XDP"), "{no:?}");
    let far = world.site.lab.netns("far").unwrap();
    world
        .site
        .host
        .ip(&format!(
            "link add port0 type veth peer name eth0 netns {}\nlink set port0 master lan0 up",
            far.name()
        ))
        .unwrap();
    far.ip("link set eth0 up").unwrap();
    everybody(&world.site.host, "lan0", "192.0.2.2".parse().unwrap());
    let arrived = far.count("eth0", Way::Received, &format!("udp port {}", flood::PORT)).unwrap();
    let flood = || {
        let here = "192.0.2.1".parse().unwrap();
        let flood = Flood::start(&world.site.host, here, &["192.0.2.2".parse().unwrap()]);
        flood.more(100);
        flood.stop();
    };
    flood();
    assert_eq!(arrived.read().unwrap(), 0);
    world.expect(&[allowed(world.tcp(outside::ADMIN, world.guest(0).v4, 80))]);
    // In no policy it is nobody's to close.
    daemon.apply(&managed(&world, &[named("tap8", "10.0.0.28")])).unwrap();
    flood();
    assert!(arrived.read().unwrap() > 0);
}

/// The example hook for libvirt, with what libvirt hands to it (<https://libvirt.org/hooks.html>).
#[test]
fn the_hook_of_libvirt_lets_a_guest_start_when_its_interfaces_are_enforced() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &managed(&world, &[named("tap8", "10.0.0.28")])).unwrap();
    let socket = daemon.socket();
    let hook = |operation: &str, devices: &[&str]| {
        let interfaces: String = devices
            .iter()
            .map(|device| {
                format!(
                    "<interface type='bridge'><mac address='52:54:00:00:00:05'/><source bridge='br0'/>\
                     <target dev='{device}'/><model type='virtio'/></interface>"
                )
            })
            .collect();
        let domain = format!(
            "<domain type='kvm' id='1'><name>web-1</name><devices>{interfaces}\
             <interface type='user'><mac address='52:54:00:00:00:06'/></interface></devices></domain>"
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/libvirt/qemu");
        let mut child = Command::new(path)
            .args(["web-1", operation, "begin", "-"])
            .env("SGCTL", sg_tests::binary("sgctl").unwrap())
            .env("SGD_SOCKET", &socket)
            .env("SGD_TIMEOUT", "1s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), domain.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    assert!(hook("start", &["tap0"]).status.success());
    let no = hook("start", &["tap0", "tap8"]);
    let said = String::from_utf8_lossy(&no.stderr).into_owned();
    assert!(!no.status.success() && said.contains("web-1") && said.contains("no device tap8"), "{said}");
    // Other operations are none of its business: at `prepare` there is no device yet.
    for operation in ["prepare", "started", "stopped", "release"] {
        assert!(hook(operation, &["tap8"]).status.success(), "{operation}");
    }
    let _late = plug(&world.site, "tap8", 28);
    let yes = hook("start", &["tap0", "tap8"]);
    assert!(yes.status.success(), "{yes:?}");
    daemon.kill();
    let no = hook("start", &["tap0"]);
    assert!(
        !no.status.success() && String::from_utf8_lossy(&no.stderr).contains("cannot reach sgd"),
        "{no:?}"
    );
}
