//! What a start finds pinned: taken over, refused, or replaced when the operator says so.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use aya::programs::ProgramInfo;
use aya::programs::links::PinnedLink;
use serde_json::json;
use sg_common::abi::{ABI_VERSION, map};
use sg_tests::{Daemon, Probe, Way, outside};

use crate::flood::{self, Flood};
use crate::world::{
    World, alive, allowed, as_the_unit_has_it, denied, expect, interface, plug_as, policy, refused, tcp_from,
    with,
};

/// A guest behind XDP and one behind TC.
fn two(world: &World) -> String {
    policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
        "interfaces": [
            with(interface(world.guest(0), &["webs"]), "hook", "xdp"),
            with(interface(world.guest(1), &["webs"]), "hook", "tc"),
        ],
    }))
}

fn layout(daemon: &Daemon, version: u32) -> std::path::PathBuf {
    daemon.pin_dir().join(format!("v{version}"))
}

/// Every pin, with its inode.
fn pins(daemon: &Daemon) -> BTreeMap<String, u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    let mut directories = vec![daemon.pin_dir().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
            found.insert(entry.path().display().to_string(), entry.metadata().unwrap().ino());
        }
    }
    found
}

/// What a start that must fail says.
fn refusal(daemon: &mut Daemon) -> String {
    let said = format!("{:#}", daemon.resume().unwrap_err());
    assert!(said.contains("sgd ended (exit status: 1)"), "{said}");
    daemon.kill();
    said
}

#[test]
fn spec_d20_a_filter_of_another_layout_goes_on_until_it_is_replaced() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &two(&world)).unwrap();
    let rows = [0, 1].map(|guest| {
        let address = world.guest(guest).v4;
        [allowed(world.tcp(outside::ADMIN, address, 80)), denied(world.tcp(outside::STRANGER, address, 80))]
    });
    let rows = rows.concat();
    world.expect(&rows);
    let mut held = [0, 1].map(|guest| world.hold(&world.tcp(outside::ADMIN, world.guest(guest).v4, 80)));
    daemon.kill();
    let other = ABI_VERSION + 41;
    fs::rename(layout(&daemon, ABI_VERSION), layout(&daemon, other)).unwrap();
    let before = pins(&daemon);

    let said = refusal(&mut daemon);
    for word in [&format!("layout {other}"), &format!("layout {ABI_VERSION}"), "--replace-layout", "goes on"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(pins(&daemon), before, "nothing is touched");
    expect(&rows);
    held.iter_mut().for_each(alive);

    // A policy that cannot be put in force replaces nothing.
    let good = fs::read_to_string(daemon.policy_path()).unwrap();
    daemon.set_arguments(&["--replace-layout"]);
    daemon.write_policy("{").unwrap();
    let state = daemon.state_dir().join("last-good");
    let aside = daemon.state_dir().join("aside");
    fs::rename(&state, &aside).unwrap();
    let said = refusal(&mut daemon);
    assert!(said.contains("no policy to start with"), "{said}");
    assert_eq!(pins(&daemon), before, "nothing is touched");
    expect(&rows);
    daemon.write_policy(&good).unwrap();
    fs::rename(&aside, &state).unwrap();

    // What is denied comes through at no time.
    let guests = [0, 1].map(|guest| world.guest(guest).v4);
    let counters = [0, 1].map(|guest| {
        let expression = format!("udp port {}", flood::PORT);
        world.guest(guest).netns.count("eth0", Way::Received, &expression).unwrap()
    });
    let flood = Flood::start(&world.site.outside, outside::STRANGER.into(), &guests);
    flood.more(1000);
    daemon.resume().unwrap();
    flood.more(1000);
    flood.stop();
    assert_eq!(counters.each_ref().map(|counter| counter.read().unwrap()), [0, 0]);
    assert_eq!(refused(&daemon), None);
    assert!(!layout(&daemon, other).exists() && layout(&daemon, ABI_VERSION).exists());
    expect(&rows);
    // They are forgotten, but a rule allows what the client sends next.
    held.iter_mut().for_each(alive);
    // Nothing is left to replace.
    daemon.restart().unwrap();
    expect(&rows);
}

#[test]
fn spec_d20_pins_that_are_something_else_are_refused_and_nothing_is_touched() {
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
    daemon.kill();
    let maps = layout(&daemon, ABI_VERSION).join("maps");
    // BPF_MAP_TYPE_*, include/uapi/linux/bpf.h; `SHARES` is an array of values of 64 bytes, mmapable.
    let (hash, array, mmapable) = (1, 2, 1 << 10);
    let size = aya::maps::MapInfo::from_pin(maps.join(map::SHARES)).unwrap().value_size();
    for (what, kind, value, flags, word) in [
        ("type", hash, size, 0, "type Hash".to_owned()),
        ("size", array, size + 8, mmapable, format!("values of {} bytes", size + 8)),
        ("flags", array, size, 0, "flags 0x0".to_owned()),
    ] {
        let aside = maps.join("aside");
        fs::rename(maps.join(map::SHARES), &aside).unwrap();
        make_map(&maps.join(map::SHARES), kind, value, flags);
        let before = pins(&daemon);
        let said = refusal(&mut daemon);
        let expected = format!("values of {size} bytes");
        for part in
            [maps.join(map::SHARES).to_str().unwrap(), word.as_str(), expected.as_str(), "flags 0x400"]
        {
            assert!(said.contains(part), "{what}: {part}: {said}");
        }
        assert_eq!(pins(&daemon), before, "{what}: nothing is touched");
        expect(&rows);
        fs::rename(&aside, maps.join(map::SHARES)).unwrap();
    }
    daemon.resume().unwrap();
    expect(&rows);
}

#[test]
fn spec_d20_a_start_with_the_same_programs_loads_none() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &two(&world)).unwrap();
    let programs = layout(&daemon, ABI_VERSION).join("programs");
    let loaded = || {
        let mut loaded = BTreeMap::new();
        for directory in fs::read_dir(&programs).unwrap().flatten() {
            for pin in fs::read_dir(directory.path()).unwrap().flatten() {
                let id = ProgramInfo::from_pin(pin.path()).unwrap().id();
                loaded.insert(pin.file_name().into_string().unwrap(), id);
            }
        }
        loaded
    };
    let first = loaded();
    assert_eq!(first.len(), 7, "{first:?}");
    daemon.kill();
    // Programs of another sgd: they go.
    fs::create_dir(programs.join("other")).unwrap();
    let any = fs::read_dir(&programs).unwrap().flatten().find(|entry| entry.file_name() != "other").unwrap();
    // A pin that is not what its name says is no reason to trust it.
    let ingress = any.path().join("sgd_tc_ingress");
    let egress = any.path().join("sgd_tc_egress");
    daemon.resume().unwrap();
    assert_eq!(loaded(), first);
    assert!(!programs.join("other").exists());
    daemon.kill();
    fs::remove_file(&ingress).unwrap();
    fs::rename(&egress, &ingress).unwrap();
    daemon.resume().unwrap();
    let now = loaded();
    assert!(
        now["sgd_tc_ingress"] != first["sgd_tc_egress"] && now["sgd_xdp_ingress"] == first["sgd_xdp_ingress"]
    );
    let links = layout(&daemon, ABI_VERSION).join("links");
    let running: Vec<u32> = fs::read_dir(links)
        .unwrap()
        .flatten()
        .map(|pin| {
            let link = aya::programs::links::FdLink::from(PinnedLink::from_pin(pin.path()).unwrap());
            link.info().unwrap().program_id()
        })
        .collect();
    // Two of each device, and one more behind XDP.
    assert_eq!(running.len(), 5);
    assert!(running.iter().all(|id| now.values().any(|loaded| loaded == id)), "{running:?} of {now:?}");
}

/// A map as somebody else might have pinned it.
fn make_map(path: &Path, kind: u32, value: u32, flags: u32) {
    const BPF_MAP_CREATE: i32 = 0;
    const BPF_OBJ_PIN: i32 = 6;
    let call = |command: i32, attributes: &[u32]| {
        // SAFETY: the attributes are what the command reads, with their size; a path in them lives longer than the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
        assert!(result >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        i32::try_from(result).unwrap()
    };
    let fd = call(BPF_MAP_CREATE, &[kind, 4, value, 16, flags]);
    // SAFETY: the descriptor is new and ours.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let address = path.as_ptr() as u64;
    call(BPF_OBJ_PIN, &[address as u32, (address >> 32) as u32, map.as_raw_fd() as u32, 0]);
}

/// As after a reboot: the state directory is all that is left, the operator's files cannot be read, the devices come later.
#[test]
fn spec_d25_the_last_good_policy_is_in_force_after_a_reboot_before_any_device_is() {
    let world = World::new(0);
    let text = policy(json!({
        "settings": { "managed": ["tap*"] },
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
        "interfaces": [{ "name": "tap0", "instance": "web", "addresses": ["10.0.0.25"], "security_groups": ["webs"] }],
    }));
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    for unreadable in [false, true] {
        daemon.kill();
        fs::remove_dir_all(layout(&daemon, ABI_VERSION)).unwrap();
        // Gone, or nothing that can be read.
        if unreadable {
            fs::write(daemon.policy_path(), [0xff, 0xfe]).unwrap();
        } else {
            fs::remove_file(daemon.policy_path()).unwrap();
        }
        daemon.resume().unwrap();
        let why = refused(&daemon).unwrap();
        assert!(why.contains("policy.json"), "{why}");
        assert!(daemon.log().contains("the last good policy is used"));
        // An address of its own: three seconds after the first was asked for in vain, the router says that nobody has it.
        let other = if unreadable { 27 } else { 26 };
        let [named, managed] = [("tap0", 25), ("tap1", other)].map(|(device, number)| {
            let guest = plug_as(&world.site, device, number, if unreadable { "second" } else { "first" });
            let server = guest.netns.serve_tcp(&[(guest.v4, 80).into()]).unwrap();
            let waited = daemon.sgctl(&["interface", "wait", device, "--state", "closed"]).unwrap();
            assert!(waited.status.success(), "{waited:?}");
            (guest, server)
        });
        let to = |address, source: IpAddr| Probe::tcp(&world.site.outside, (address, 80)).source(source);
        expect(&[
            allowed(to(named.0.v4, outside::ADMIN.into())),
            denied(to(named.0.v4, outside::STRANGER.into())),
            denied(to(managed.0.v4, outside::ADMIN.into())),
        ]);
        world.site.host.ip("link delete tap0\nlink delete tap1").unwrap();
    }
    // And when there is nothing left at all, that is said.
    daemon.kill();
    fs::remove_dir_all(daemon.state_dir().join("last-good")).unwrap();
    let said = refusal(&mut daemon);
    let state = daemon.state_dir().display().to_string();
    for word in ["no policy to start with", "policy.json", state.as_str()] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn the_daemon_needs_three_capabilities_and_no_more() {
    let world = World::new(2);
    let mut daemon = Daemon::start(&world.site, &two(&world)).unwrap();
    as_the_unit_has_it(&mut daemon);
    daemon.kill();
    fs::remove_dir_all(layout(&daemon, ABI_VERSION)).unwrap();
    let rows = [0, 1].map(|guest| {
        let address = world.guest(guest).v4;
        [allowed(world.tcp(outside::ADMIN, address, 80)), denied(world.tcp(outside::STRANGER, address, 80))]
    });
    let rows = rows.concat();
    // With nothing there, and with everything.
    for _ in 0..2 {
        daemon.resume().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid().unwrap())).unwrap();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        let effective = u64::from_str_radix(effective, 16).unwrap();
        // CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF, include/uapi/linux/capability.h.
        assert_eq!(effective, 1 << 12 | 1 << 38 | 1 << 39);
        world.expect(&rows);
        daemon.apply(&two(&world).replace("\"port\": 80", "\"port\": 81")).unwrap();
        daemon.apply(&two(&world)).unwrap();
        for question in [&["flows"][..], &["status"]] {
            assert!(daemon.sgctl(question).unwrap().status.success());
        }
        let explain = ["explain", "--interface", "tap0", "--direction", "inbound", "--protocol", "tcp"];
        let explain = [&explain[..], &["--remote", "203.0.113.10", "--port", "80"]].concat();
        assert!(daemon.sgctl(&explain).unwrap().status.success());
        let _late =
            plug_as(&world.site, "tap9", 29, if daemon.generation().unwrap() < 4 { "a" } else { "b" });
        world.site.host.ip("link delete tap9").unwrap();
        assert!(!daemon.log().contains("Operation not permitted"), "{}", daemon.log());
        daemon.kill();
    }
}
