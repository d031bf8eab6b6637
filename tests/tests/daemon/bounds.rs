//! Files, directories and disks that are not as they should be, under a daemon that runs (SPEC D22): a clear error, the old
//! policy in force, and no more memory than there has to be.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;
use sg_tests::{Daemon, binary, outside};

use crate::apply::{candidate, ports, sgctl};
use crate::chaos::survived;
use crate::world::{World, alive, allowed, denied, interface, policy, refused, tcp_from, wait, with};

/// Far more than the daemon needs, and far less than what it is given would take.
const MOST_MEMORY: u64 = 256 << 20;

/// The most memory that the daemon has had so far.
fn most_memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Port 80 is open and 81 is not.
#[track_caller]
fn in_force(world: &World) {
    let to = world.guest(0).v4;
    world.expect(&[
        allowed(world.tcp(outside::STRANGER, to, 80)),
        denied(world.tcp(outside::STRANGER, to, 81)),
    ]);
}

/// A file of a part that is repeated.
fn repeated(path: &PathBuf, begin: &str, part: &str, end: &str, bytes: usize) {
    let mut file = File::create(path).unwrap();
    file.write_all(begin.as_bytes()).unwrap();
    let block = part.repeat((1 << 20) / part.len());
    for _ in 0..bytes / block.len() {
        file.write_all(block.as_bytes()).unwrap();
    }
    file.write_all(end.as_bytes()).unwrap();
}

/// What is wrong with a file, how it is made, and what the error says.
type Hostile<'f> = (&'f str, &'f dyn Fn(&PathBuf), &'f [&'f str]);

#[test]
fn spec_d22_hostile_files_are_refused_in_bounded_memory() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &ports(&world, 80, &[0])).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let begin = r#"{"version":1,"project":"p","vpc":"v","peers":["#;
    let random = |path: &PathBuf| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        fs::write(path, noise.take(1 << 20).flatten().collect::<Vec<u8>>()).unwrap();
    };
    let cases: &[Hostile<'_>] = &[
        (
            "100 MB of JSON",
            &|path| repeated(path, begin, r#"{"x":1},"#, "1]}", 100_000_000),
            &["larger than 64 MiB"],
        ),
        (
            "100 MB in one string",
            &|path| repeated(path, r#"{"version":""#, "a", r#""}"#, 100_000_000),
            &["larger than 64 MiB"],
        ),
        (
            "49 MiB of small objects",
            &|path| repeated(path, begin, r#"{"x":1},"#, "1]}", 49 << 20),
            &["too many values", "160 MiB"],
        ),
        // A little below the limit: all of them are read, and each is a fault.
        (
            "as many small objects as are read",
            &|path| repeated(path, begin, r#"{"x":1},"#, "1]}", 2 << 20),
            &["… and"],
        ),
        (
            "60 MiB of empty objects",
            &|path| repeated(path, begin, "{},", "1]}", 60 << 20),
            &["too many values"],
        ),
        ("60 MiB of lists", &|path| repeated(path, begin, "[[1]],", "1]}", 60 << 20), &["too many values"]),
        ("60 MiB of numbers", &|path| repeated(path, begin, "1,", "1]}", 60 << 20), &["too many values"]),
        ("60 MiB of line feeds", &|path| repeated(path, "", "\n", "", 60 << 20), &["not JSON"]),
        (
            "60 MiB in one string",
            &|path| repeated(path, r#"{"version":""#, "a", r#""}"#, 60 << 20),
            &["missing field"],
        ),
        ("60 MiB of quotes", &|path| repeated(path, "", "\"", "", 60 << 20), &["not JSON"]),
        ("8 MiB of random bytes", &random, &["is not UTF-8"]),
        ("deep lists", &|path| repeated(path, "", "[", "", 60 << 20), &["nested more than 64 deep"]),
        ("deep objects", &|path| repeated(path, "", r#"{"a":"#, "", 60 << 20), &["nested more than 64 deep"]),
        ("half a million faults", &|path| repeated(path, begin, "1,", "1]}", 1 << 20), &["… and 5"]),
    ];
    for (what, make, words) in cases {
        let hidden = daemon.policy_path().with_file_name(".made");
        make(&hidden);
        fs::rename(&hidden, daemon.policy_path()).unwrap();
        wait(what, || refused(&daemon).is_some());
        let why = refused(&daemon).unwrap();
        assert!(words.iter().all(|word| why.contains(word)), "{what}: {}", &why[..why.len().min(500)]);
        assert!(why.contains("policy.json"), "{what}: {}", &why[..why.len().min(500)]);
        let memory = most_memory(&daemon);
        assert!(memory < MOST_MEMORY, "{what}: {memory} bytes");
        println!("{what}: at most {} MiB so far", memory >> 20);
        in_force(&world);
        alive(&mut held);
        daemon.write_policy(&ports(&world, 80, &[0])).unwrap();
        wait("the file is right again", || refused(&daemon).is_none());
    }
    let most = most_memory(&daemon) >> 20;
    let note =
        format!("up to 100 MB; at most {most} MiB of memory, the old policy in force, a connection goes on");
    survived("a hostile policy file", cases.len(), &note);
}

#[test]
fn spec_d22_a_policy_directory_that_vanishes_takes_no_policy_with_it() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &ports(&world, 80, &[0])).unwrap();
    daemon.terminate().unwrap();
    let own = world.site.lab.directory().join("own");
    candidate(&world, "own/a.json", &ports(&world, 80, &[0]));
    daemon.set_policy(&own);
    daemon.resume().unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    fs::remove_dir_all(&own).unwrap();
    wait("that it is missing is said", || {
        refused(&daemon).is_some_and(|why| why.contains("own: ") && why.contains("No such file"))
    });
    in_force(&world);
    let said = sgctl(&daemon, &["apply"], 1);
    assert!(said.contains("No such file"), "{said}");
    let new = candidate(&world, "new.json", &ports(&world, 81, &[0]));
    let said = sgctl(&daemon, &["apply", new.to_str().unwrap()], 1);
    assert!(said.contains("has to exist before"), "{said}");
    in_force(&world);
    daemon.restart().unwrap();
    in_force(&world);
    candidate(&world, "own/b.json", &ports(&world, 81, &[0]));
    wait("the new one is in force", || refused(&daemon).is_none());
    world.expect(&[allowed(world.tcp(outside::STRANGER, world.guest(0).v4, 81))]);
    alive(&mut held);
    survived("a policy directory that vanishes", 1, "");
}

/// `sgd` with a small disk of its own as its state directory, which is gone when the process is.
fn small_disk(world: &World, daemon: &Daemon) -> PathBuf {
    let script = world.site.lab.directory().join("sgd-on-a-small-disk");
    let sgd = binary("sgd").unwrap();
    let text = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -c \
         'mount -t tmpfs -o size=256k tmpfs \"$STATE\" && exec \"$0\" \"$@\"' '{}' \"$@\"\n",
        sgd.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(daemon.state_dir().exists());
    script
}

#[test]
fn spec_d22_a_full_disk_keeps_the_old_policy_and_says_so() {
    let world = World::new(1);
    let mut daemon = Daemon::start(&world.site, &ports(&world, 80, &[0])).unwrap();
    daemon.terminate().unwrap();
    let script = small_disk(&world, &daemon);
    daemon.set_program(script);
    daemon.set_environment("STATE", daemon.state_dir());
    daemon.resume().unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    // In the mount namespace of the daemon.
    let state =
        PathBuf::from(format!("/proc/{}/root{}", daemon.pid().unwrap(), daemon.state_dir().display()));
    assert!(state.join("last-good").exists());
    let full = state.join("full");
    let mut file = File::create(&full).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    drop(file);

    let edit = ["group", "create", "more"];
    let said = sgctl(&daemon, &edit, 1);
    assert!(said.contains("No space left") && said.contains("nothing has changed"), "{said}");
    assert_eq!(fs::read_dir(state.join("last-good")).unwrap().count(), 1, "only the text");
    in_force(&world);

    let new = ports(&world, 81, &[0]);
    daemon.write_policy(&new).unwrap();
    wait("the refusal", || refused(&daemon).is_some());
    let why = refused(&daemon).unwrap();
    assert!(
        why.contains("No space left") && why.contains("state directory") && why.contains("make room"),
        "{why}"
    );
    in_force(&world);
    let path = candidate(&world, "new.json", &new);
    for arguments in
        [&["apply", path.to_str().unwrap()][..], &["apply", "--confirm", "1m", path.to_str().unwrap()]]
    {
        let said = sgctl(&daemon, arguments, 1);
        assert!(said.contains("No space left") && said.contains("nothing has changed"), "{said}");
    }
    in_force(&world);
    let left: Vec<_> = {
        let mut names: Vec<_> = fs::read_dir(&state).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(left, ["full", "last-good"], "nothing half written is left");

    fs::remove_file(&full).unwrap();
    sgctl(&daemon, &["apply"], 0);
    assert_eq!(refused(&daemon), None);
    // With room for its lines, an edit takes no more.
    sgctl(&daemon, &edit, 0);
    let mut file = File::create(&full).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    sgctl(&daemon, &["group", "delete", "more"], 0);
    assert_eq!(fs::read_to_string(daemon.policy_path()).unwrap(), new);
    world.expect(&[allowed(world.tcp(outside::STRANGER, world.guest(0).v4, 81))]);
    alive(&mut held);
    survived("a full disk under the state directory", 4, "");
}

#[test]
fn spec_d21_a_policy_that_does_not_fit_is_refused_before_anything_is_written() {
    let world = World::new(1);
    let daemon = Daemon::start(&world.site, &ports(&world, 80, &[0])).unwrap();
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 80));
    let before = crate::life::entries(&daemon);
    // Each of these prefixes has a set of ports of its own, which is not one range.
    let rules: Vec<_> = (0..1100_u16)
        .flat_map(|n| {
            let net = format!("10.{}.{}.0/24", n / 250, n % 250);
            [tcp_from(&net, 1000 + n), tcp_from(&net, 5000 + n)]
        })
        .collect();
    let sets = policy(json!({
        "settings": { "quotas": { "rules_per_group": 3000 } },
        "security_groups": [{ "name": "webs", "inbound": rules, "outbound": [] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }));
    let addresses: Vec<_> = (0..66_000_u32).map(|n| std::net::Ipv4Addr::from_bits((11 << 24) + n)).collect();
    let own = policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [] }],
        "interfaces": [with(interface(world.guest(0), &["webs"]), "allowed_addresses", json!(addresses))],
    }));
    for (text, words) in
        [(sets, "1024 different sets of ports"), (own, "room for 65536 IPv4 addresses of guests")]
    {
        let path = candidate(&world, "new.json", &text);
        let plan = sgctl(&daemon, &["plan", path.to_str().unwrap()], 1);
        assert!(
            plan.contains("would be refused") && plan.contains(words),
            "{}",
            &plan[plan.len().saturating_sub(500)..]
        );
        let said = sgctl(&daemon, &["apply", path.to_str().unwrap()], 1);
        assert!(said.contains(words), "{said}");
        daemon.write_policy(&text).unwrap();
        wait(words, || refused(&daemon).is_some_and(|why| why.contains(words)));
        assert_eq!(crate::life::entries(&daemon), before);
        in_force(&world);
    }
    alive(&mut held);
    survived("a policy that does not fit the tables", 2, "");
}
