//! The same verdicts wherever the filter is attached.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sg_tests::{Daemon, Guest, outside, patience};

use crate::world::{
    Row, World, admin, alive, allowed, denied, interface, must_refuse, ping_from, policy, status_of,
    stranger, tcp_from, udp_from, with,
};

fn group() -> Value {
    let mut inbound = Vec::new();
    let mut outbound = Vec::new();
    for (any, admins, dns) in
        [("0.0.0.0/0", "203.0.113.0/24", "8.8.8.8/32"), ("::/0", "2001:db8:a::/64", "2001:db8:53::/64")]
    {
        inbound.extend([tcp_from(any, 80), udp_from(admins, 5000), ping_from(admins)]);
        outbound.extend([
            json!({ "protocol": "UDP", "destination": dns, "port": 53 }),
            json!({ "protocol": "TCP", "destination": dns, "port": "8000-8003" }),
        ]);
    }
    json!({ "name": "webs", "inbound": inbound, "outbound": outbound })
}

fn table(world: &World, guest: &Guest) -> Vec<Row> {
    let mut rows = Vec::new();
    for (address, dns) in
        [(guest.v4, outside::DNS.into()), (guest.v6, std::net::IpAddr::from(outside::DNS_V6))]
    {
        let (admin, stranger) = (admin(address), stranger(address));
        rows.extend([
            allowed(world.tcp(stranger, address, 80)),
            denied(world.tcp(stranger, address, 81)),
            denied(world.udp(stranger, address, 80)),
            allowed(world.udp(admin, address, 5000)),
            denied(world.udp(stranger, address, 5000)),
            allowed(world.ping(admin, address)),
            denied(world.ping(stranger, address)),
            allowed(world.udp(address, dns, 53)),
            denied(world.tcp(address, dns, 53)),
            allowed(world.tcp(address, dns, 8003)),
            denied(world.tcp(address, dns, 8004)),
            denied(world.udp(address, admin, 53)),
            denied(world.ping(address, dns)),
        ]);
    }
    rows
}

fn with_hooks(world: &World, hooks: &[&str]) -> String {
    let interfaces: Vec<Value> = hooks
        .iter()
        .zip(&world.site.guests)
        .map(|(&hook, guest)| with(interface(guest, &["webs"]), "hook", hook))
        .collect();
    policy(json!({ "security_groups": [group()], "interfaces": interfaces }))
}

fn everywhere(world: &World) -> Vec<Row> {
    world.site.guests.iter().flat_map(|guest| table(world, guest)).collect()
}

#[test]
fn one_table_of_verdicts_on_every_hook() {
    let world = World::new(3);
    let daemon = Daemon::start(&world.site, &with_hooks(&world, &["xdp", "tc", "auto"])).unwrap();
    let hooks = |tap| {
        let status = status_of(&daemon, tap);
        [&status["ingress"], &status["egress"]].map(|hook| hook.as_str().unwrap().to_owned())
    };
    let tc = hooks("tap1")[0].clone();
    assert!(["tcx", "clsact"].contains(&tc.as_str()), "{tc}");
    assert_eq!(hooks("tap0"), ["xdp", &tc]);
    assert_eq!(hooks("tap1"), [&*tc, &tc]);
    assert_eq!(hooks("tap2"), [&*tc, &tc]);
    world.expect(&everywhere(&world));
}

/// docs/hooks.md says why. The bridge has no native XDP, the others have.
#[test]
fn auto_is_tc_on_every_kind_of_device_and_xdp_is_there_for_who_asks() {
    let world = World::new(1);
    world.site.host.ip("tuntap add dev real0 mode tap").unwrap();
    let of = |hook: Option<&str>, names: &[&str]| {
        let interfaces: Vec<Value> = names
            .iter()
            .enumerate()
            .map(|(number, &name)| {
                let interface = json!({
                    "name": name, "role": if name == "br0" { "host" } else { "guest" },
                    "addresses": [format!("10.0.0.{}", 5 + number)], "security_groups": ["webs"],
                });
                if let Some(hook) = hook { with(interface, "hook", hook) } else { interface }
            })
            .collect();
        policy(json!({ "security_groups": [group()], "interfaces": interfaces }))
    };
    let every = ["tap0", "real0", "br0"];
    let daemon = Daemon::start(&world.site, &of(Some("auto"), &every)).unwrap();
    let ingress = |name: &str| status_of(&daemon, name)["ingress"].as_str().unwrap().to_owned();
    let tc = ingress("br0");
    assert!(["tcx", "clsact"].contains(&tc.as_str()), "{tc}");
    assert_eq!(every.map(ingress), [&*tc, &tc, &tc]);
    daemon.apply(&of(Some("xdp"), &["tap0", "real0"])).unwrap();
    assert_eq!(["tap0", "real0"].map(ingress), ["xdp", "xdp"]);
    // What is not said is "auto".
    daemon.apply(&of(None, &every)).unwrap();
    assert_eq!(every.map(ingress), [&*tc, &tc, &tc]);
}

#[test]
fn one_table_of_verdicts_with_clsact_also_after_a_restart() {
    let world = World::new(2);
    let mut daemon =
        Daemon::start_with(&world.site, &with_hooks(&world, &["xdp", "tc"]), &["--tc", "clsact"]).unwrap();
    assert_eq!(status_of(&daemon, "tap0")["ingress"], "xdp");
    assert_eq!(status_of(&daemon, "tap0")["egress"], "clsact");
    assert_eq!(status_of(&daemon, "tap1")["ingress"], "clsact");
    world.expect(&everywhere(&world));
    let mut held = [0, 1].map(|guest| world.hold(&world.tcp(outside::STRANGER, world.guest(guest).v4, 80)));
    daemon.restart().unwrap();
    held.iter_mut().for_each(alive);
    world.expect(&everywhere(&world));
}

#[test]
fn spec_d21_changing_the_hook_of_an_interface_leaves_no_gap() {
    for arguments in [&[][..], &["--tc", "clsact"]] {
        let world = World::new(1);
        let guest = world.guest(0);
        let daemon = Daemon::start_with(&world.site, &with_hooks(&world, &["xdp"]), arguments).unwrap();
        let mut held = world.hold(&world.tcp(guest.v4, outside::DNS, 8000));
        // Outbound packets that no rule allows, all the while.
        let sink = world.site.outside.run(|| UdpSocket::bind((outside::DNS, 9)).unwrap()).unwrap();
        sink.set_read_timeout(Some(patience::DENIED)).unwrap();
        let leak = guest.netns.run(|| UdpSocket::bind("10.0.0.5:0").unwrap()).unwrap();
        let sending = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while sending.load(Ordering::Relaxed) {
                    leak.send_to(b"!", (outside::DNS, 9)).unwrap();
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            let changes = || {
                for (hook, ingress) in
                    [("tc", "tc"), ("xdp", "xdp"), ("auto", "tc"), ("xdp", "xdp"), ("tc", "tc")]
                {
                    daemon.apply(&with_hooks(&world, &[hook])).unwrap();
                    let seen = status_of(&daemon, "tap0")["ingress"].as_str().unwrap().to_owned();
                    assert_eq!(if seen == "xdp" { "xdp" } else { "tc" }, ingress);
                    alive(&mut held);
                }
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(changes));
            sending.store(false, Ordering::Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        let leaked = sink.recv(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(leaked, Err(ErrorKind::WouldBlock));
        world.expect(&table(&world, guest));
        if status_of(&daemon, "tap0")["egress"] == "clsact" {
            break; // a kernel without TCX has done the second already
        }
    }
}

#[test]
fn spec_d21_a_hook_that_the_device_does_not_have_leaves_the_one_before() {
    let world = World::new(0);
    // A bridge has no native XDP.
    let of = |hook| {
        let bridge = json!({
            "name": "br0", "role": "host", "hook": hook, "addresses": ["10.0.0.2"], "security_groups": ["webs"],
        });
        policy(json!({ "security_groups": [group()], "interfaces": [bridge] }))
    };
    let daemon = Daemon::start_with(&world.site, &of("tc"), &["--tc", "clsact"]).unwrap();
    let filters = || {
        ["ingress", "egress"].map(|way| {
            let output =
                world.site.host.command("tc").args(["filter", "show", "dev", "br0", way]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().matches("direct-action").count()
        })
    };
    assert_eq!(filters(), [1, 1]);
    must_refuse(&daemon, &of("xdp"), &["br0", "the driver has no native XDP"]);
    assert_eq!(filters(), [1, 1]);
}
