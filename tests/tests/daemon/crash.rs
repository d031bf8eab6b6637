//! The daemon dies between any two steps of applying a policy (SPEC D20, D21).

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sg_daemon::crash::Point;
use sg_tests::{Connection, Daemon, binary, outside, patience};

use crate::apply::{candidate, sgctl};
use crate::chaos::survived;
use crate::life::entries;
use crate::world::{
    DEADLINE, Row, World, alive, allowed, ask, denied, expect, interface, policy, refused, tcp_from, with,
};

/// Names the file that names the place to die at: see `sg_daemon::crash`.
const VARIABLE: &str = "SGD_CRASH_FILE";
const NAME: &str = "sgd-crash-points";

/// `sgd` with the feature `crash-points`, built where this test was, or found where `SGD_BIN_DIR` says.
fn program() -> PathBuf {
    let sgd = binary("sgd").unwrap();
    if std::env::var_os("SGD_BIN_DIR").is_none() {
        let profile = sgd.parent().unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "-p", "sg-daemon", "--features", "crash-points", "--bin", NAME, "--target-dir"]);
        cargo.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    binary(NAME).unwrap()
}

/// What `sgctl` is told, so that the daemon comes by a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Apply,
    /// `apply --confirm`, at which it dies.
    Unconfirmed,
    Rollback,
    Confirm,
    /// An edit of one file, which goes another way: see `sg_daemon::supervise::edits`.
    Edit,
}

/// How the daemon comes by a place, and whether the new policy is the one it starts with then. A new place has to be put
/// here, or this does not compile.
fn way(point: Point) -> (Way, bool) {
    match point {
        Point::JournalPrepared
        | Point::JournalBegun
        | Point::FilesStaged
        | Point::CopyPrepared
        | Point::IdsTaken
        | Point::FirstEntryWritten
        | Point::EntriesWritten
        | Point::DeviceClaimed
        | Point::OneHookAttached
        | Point::DevicesAttached
        | Point::MembersStaged
        | Point::FirstInterfaceStaged
        | Point::Staged
        | Point::Flipped
        | Point::MembersStagedAgain
        | Point::StagedAgain
        | Point::OneHookDetached
        | Point::DeviceDetached
        | Point::DevicesDetached
        | Point::FirstEntryDeleted
        | Point::EntriesDeleted
        | Point::FirstFlowRevoked
        | Point::Revoked => (Way::Apply, false),
        Point::Unconfirmed => (Way::Unconfirmed, false),
        Point::RollbackBegun | Point::RolledBack => (Way::Rollback, false),
        Point::Decided
        | Point::CopyExchanged
        | Point::CopyKept
        | Point::FirstFileReplaced
        | Point::FilesReplaced => (Way::Apply, true),
        Point::FilesRemoved | Point::JournalEnded | Point::JournalRemoved => (Way::Confirm, true),
        Point::EditStaged => (Way::Edit, false),
        Point::EditDecided | Point::EditNamed | Point::EditPlaced | Point::EditSettled => (Way::Edit, true),
    }
}

/// What becomes of connections that no rule allows any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connections {
    /// They are cut before the answer, for which everything else of the change has to be done.
    Cut,
    /// What is left to be done of the change is done behind the answer.
    Kept,
}

/// Guest 0 has another policy afterwards, guest 1 leaves the filter, guest 2 comes into it. Two files each.
fn documents(world: &World, connections: Connections, new: bool) -> [(String, String); 2] {
    let port = if new { 81 } else { 80 };
    let groups = json!([
        { "name": "webs", "outbound": [], "inbound": [
            tcp_from("0.0.0.0/0", port), tcp_from("0.0.0.0/0", 90), tcp_from("@friends", port + 100),
            { "protocol": "TCP", "source": "203.0.113.0/24", "port": "1000-2000" },
            { "protocol": "TCP", "source": "203.0.113.0/24", "port": "3000-4000" },
        ] },
        { "name": "friends" },
    ]);
    let guests = if new { [0, 2] } else { [0, 1] };
    let interfaces: Vec<Value> =
        guests.iter().map(|&guest| with(interface(world.guest(guest), &["webs"]), "hook", "tc")).collect();
    let friend = if new { outside::STRANGER.to_string() } else { "203.0.113.77".to_owned() };
    [
        (
            "10-groups.json".to_owned(),
            policy(json!({
                "settings": { "on_rule_change": if connections == Connections::Cut { "revoke" } else { "keep" } },
                "security_groups": groups, "interfaces": interfaces,
            })),
        ),
        (
            if new { "30-new.json" } else { "20-old.json" }.to_owned(),
            policy(json!({
                "peers": [{ "address": friend, "security_groups": ["friends"] }],
            })),
        ),
    ]
}

/// What is seen of a policy, on the guest that both have.
fn common(world: &World, new: bool) -> Vec<Row> {
    let to = |port| world.tcp(outside::STRANGER, world.guest(0).v4, port);
    let [mine, other] = if new { [81, 80] } else { [80, 81] };
    let friend = if new { allowed(to(181)) } else { denied(to(180)) };
    vec![
        allowed(to(mine)),
        denied(to(other)),
        allowed(to(90)),
        denied(to(91)),
        friend,
        denied(to(if new { 180 } else { 181 })),
    ]
}

/// The same and the guests that only one has.
fn whole(world: &World, new: bool) -> Vec<Row> {
    let [inside, free] = if new { [2, 1] } else { [1, 2] };
    let to = |guest: usize, port| world.tcp(outside::STRANGER, world.guest(guest).v4, port);
    let mut rows = common(world, new);
    rows.extend([
        allowed(to(inside, if new { 81 } else { 80 })),
        denied(to(inside, if new { 80 } else { 81 })),
        denied(to(inside, 91)),
        allowed(to(free, 91)),
    ]);
    rows
}

/// The files of a directory, with what they say.
fn files(directory: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap()))
        .collect();
    files.sort();
    files
}

struct Site<'w> {
    world: &'w World,
    connections: Connections,
    daemon: Daemon,
    own: PathBuf,
    new: PathBuf,
    /// Entries of the tables under the old and the new policy, with nothing else in them.
    clean: [[usize; 6]; 2],
}

impl Site<'_> {
    fn write_own(&self, new: bool) {
        fs::remove_dir_all(&self.own).unwrap();
        fs::create_dir(&self.own).unwrap();
        for (name, text) in documents(self.world, self.connections, new) {
            fs::write(self.own.join(name), text).unwrap();
        }
    }

    /// A policy is in force whole, in the kernel, in the files and in what the daemon says, and nothing of another is left.
    #[track_caller]
    fn is_whole(&self, point: Point, new: bool) {
        let at = point.name();
        expect(&whole(self.world, new));
        let place = &self.daemon;
        assert_eq!(entries(place), self.clean[usize::from(new)], "{at}: entries of the tables");
        assert_eq!(
            files(&self.own),
            documents(self.world, self.connections, new),
            "{at}: the operator's files"
        );
        let state = fs::read_dir(place.state_dir()).unwrap().map(|file| file.unwrap().file_name());
        assert_eq!(state.collect::<Vec<_>>(), ["last-good"], "{at}: the state directory");
        let copies = files(&place.state_dir().join("last-good")).into_iter().map(|(_, text)| text);
        let texts = documents(self.world, self.connections, new).map(|(_, text)| text);
        assert_eq!(copies.collect::<Vec<_>>(), texts, "{at}: the last good copy");
        assert_eq!(refused(place), None, "{at}");
        let status = place.status().unwrap();
        assert!(status["unconfirmed"].is_null(), "{at}: {status:#}");
        let named = |name: &str| {
            status["interfaces"]
                .as_array()
                .unwrap()
                .iter()
                .any(|i| i["name"] == name && i["state"] == "enforced")
        };
        assert_eq!(["tap0", "tap1", "tap2"].map(named), [true, !new, new], "{at}: {status:#}");
        let port = if new { "81" } else { "80" };
        let remote = outside::STRANGER.to_string();
        let question = [
            "explain",
            "--json",
            "--interface",
            "tap0",
            "--direction",
            "inbound",
            "--protocol",
            "tcp",
            "--remote",
            &remote,
            "--port",
            port,
        ];
        assert_eq!(ask(place, &question, &[0])["verdict"], "allow", "{at}");
        sgctl(place, &["diff"], 0);
    }

    /// Applies the new policy until the daemon dies, starts it again and looks.
    #[track_caller]
    fn dies_at(&mut self, point: Point, wish: &Path, held: &mut Connection) {
        let (way, new) = way(point);
        let behind_the_answer = self.connections == Connections::Kept;
        let new = new || behind_the_answer;
        // By this one it would come as well when it notices, at some time, that the files have changed.
        let fresh = point == Point::CopyExchanged;
        if fresh {
            self.daemon.kill();
        }
        self.write_own(false);
        if fresh {
            self.daemon.resume().unwrap();
        } else {
            sgctl(&self.daemon, &["apply"], 0);
            // What is left to be done of that is not to be what the daemon dies at.
            sgctl(&self.daemon, &["flows", "revoke"], 0);
        }
        // Two that the new policy has no rule for, so that one of them can be cut first.
        let doomed =
            [0, 1].map(|_| self.world.hold(&self.world.tcp(outside::ADMIN, self.world.guest(0).v4, 80)));
        let candidate = self.new.to_str().unwrap().to_owned();
        match way {
            Way::Apply | Way::Unconfirmed | Way::Edit => {}
            Way::Rollback | Way::Confirm => {
                sgctl(&self.daemon, &["apply", "--confirm", "10m", &candidate], 0);
            }
        }
        fs::write(wish, point.name()).unwrap();
        let arguments = match way {
            Way::Apply => vec!["apply", &candidate],
            Way::Unconfirmed => vec!["apply", "--confirm", "10m", &candidate],
            Way::Rollback => vec!["rollback"],
            Way::Confirm => vec!["confirm"],
            Way::Edit => panic!("{} is no place of applying a candidate", point.name()),
        };
        let said = self.daemon.sgctl(&arguments).unwrap();
        // Behind the answer it dies sooner or later than the answer is read.
        if !behind_the_answer {
            assert_eq!(
                said.status.code(),
                Some(2),
                "{}: alive at the end of {arguments:?}: {said:?}",
                point.name()
            );
        }
        let end = self.daemon.wait_end(DEADLINE).unwrap();
        assert!(!end.success(), "{}: {end}", point.name());

        // Nobody is there. What both policies have is judged by one of them, whole.
        let new_now = self
            .world
            .tcp(outside::STRANGER, self.world.guest(0).v4, 81)
            .run(patience::DENIED)
            .unwrap()
            .answered();
        expect(&common(self.world, new_now));
        alive(held);

        fs::write(wish, "").unwrap();
        self.daemon.resume().unwrap();
        self.is_whole(point, new);
        alive(held);
        drop(doomed);
    }
}

/// Lets the daemon die at these places, one after the other.
fn crashes(connections: Connections, points: &[Point], fault: &str) {
    let program = program();
    let world = World::new(3);
    // Serves all ports before a namespace is looked at.
    for new in [false, true] {
        let rows = whole(&world, new);
        world.serve(rows.iter().map(|(probe, _)| probe));
    }
    let directory = world.site.lab.directory().to_owned();
    for (name, text) in documents(&world, connections, true) {
        candidate(&world, &format!("new/{name}"), &text);
    }
    let (own, new) = (directory.join("own"), directory.join("new"));
    fs::create_dir(&own).unwrap();
    let mut daemon = Daemon::start(&world.site, &policy(json!({}))).unwrap();
    daemon.kill();
    daemon.set_policy(&own);
    let mut site = Site { world: &world, connections, daemon, own, new, clean: [[0; 6]; 2] };
    for new in [true, false] {
        site.write_own(new);
        site.daemon.resume().unwrap();
        expect(&whole(&world, new));
        site.clean[usize::from(new)] = entries(&site.daemon);
        if new {
            site.daemon.kill();
        }
    }
    let mut held = world.hold(&world.tcp(outside::ADMIN, world.guest(0).v4, 90));
    site.daemon.kill();
    let wish = directory.join("wish");
    fs::write(&wish, "").unwrap();
    site.daemon.set_program(program);
    site.daemon.set_environment(VARIABLE, &wish);
    site.daemon.resume().unwrap();
    for &point in points {
        site.dies_at(point, &wish, &mut held);
    }
    site.daemon.set_usual_program().unwrap();
    site.daemon.restart().unwrap();
    expect(&whole(&world, true));
    alive(&mut held);
    survived(
        fault,
        points.len(),
        "packets, tables, files and answers are the old policy's or the new one's; a connection goes on",
    );
}

#[test]
fn spec_d20_d21_a_crash_at_every_step_leaves_the_old_policy_or_the_new_one() {
    let points = Point::EVERY.iter().copied().filter(|point| way(*point).0 != Way::Edit);
    crashes(Connections::Cut, &points.collect::<Vec<_>>(), "a crash at a step of applying a policy");
}

#[test]
fn spec_d20_d21_a_crash_behind_the_answer_leaves_the_new_policy() {
    let behind =
        [Point::MembersStagedAgain, Point::StagedAgain, Point::FirstEntryDeleted, Point::EntriesDeleted];
    crashes(Connections::Kept, &behind, "a crash while the policy before is cleared away");
}

/// Changes of one element of the kernel's maps have no halves and no swap (see `sg_daemon::plan`), and an edit of one file has no
/// journal (see `sg_daemon::supervise::edits`).
#[test]
fn spec_d20_d21_a_crash_at_every_step_of_an_edit_leaves_the_old_policy_or_the_new_one() {
    let world = World::new(1);
    let directory = world.site.lab.directory().to_owned();
    let friend = outside::STRANGER.to_string();
    let old = policy(json!({
        "security_groups": [
            { "name": "webs", "outbound": [], "inbound": [tcp_from("198.51.100.0/24", 90), tcp_from("@friends", 91)] },
            { "name": "friends" },
        ],
        "interfaces": [interface(world.guest(0), &["webs"])],
        "peers": [{ "address": "203.0.113.77", "security_groups": ["friends", "webs"] }],
    }));
    let to = |port| world.tcp(outside::STRANGER, world.guest(0).v4, port);
    let rule = ["--protocol", "tcp", "--source", "203.0.113.0/24", "--port", "92"];
    let rule = [["rule", "add", "webs", "inbound"].as_slice(), &rule].concat();
    // A member of a new combination of groups, and the only one of one; a rule on a new network, and one that makes a set of
    // ports of what there is; each with what it changes.
    let more = ["--protocol", "tcp", "--source", "198.51.100.0/24", "--port", "95"];
    let more = [["rule", "add", "webs", "inbound"].as_slice(), &more].concat();
    let changes: [(Vec<&str>, Option<u16>); 4] = [
        (vec!["peer", "add", &friend, "friends"], Some(91)),
        (vec!["peer", "remove", "203.0.113.77"], None),
        (rule, None),
        (more, Some(95)),
    ];
    world.serve(&[90, 91, 92, 95].map(to));
    let mut daemon = Daemon::start(&world.site, &old).unwrap();
    let clean = entries(&daemon);
    let mut held = world.hold(&to(90));
    daemon.kill();
    let wish = directory.join("wish");
    fs::write(&wish, "").unwrap();
    daemon.set_program(program());
    daemon.set_environment(VARIABLE, &wish);
    daemon.resume().unwrap();
    let of_kernel = [Point::IdsTaken, Point::EntriesWritten, Point::Flipped];
    let of_edits = Point::EVERY.iter().copied().filter(|point| way(*point).0 == Way::Edit);
    let points: Vec<Point> = of_kernel.into_iter().chain(of_edits).collect();
    let file = daemon.policy_path();
    let beside = file.with_file_name(".policy.json.sgd-new");
    for (change, opened) in &changes {
        let mut edited: Option<String> = None;
        for &point in &points {
            let at = format!("{change:?} at {}", point.name());
            fs::write(&wish, point.name()).unwrap();
            let said = daemon.sgctl(change).unwrap();
            // The last step is taken when nobody waits any more.
            let answered = point == Point::EditSettled && said.status.success();
            assert!(answered || said.status.code() == Some(2), "{at}: {said:?}");
            assert!(!daemon.wait_end(DEADLINE).unwrap().success(), "{at}");
            // Nobody is there.
            expect(&[allowed(to(90)), denied(to(93))]);
            alive(&mut held);
            fs::write(&wish, "").unwrap();
            daemon.resume().unwrap();
            let new = way(point) == (Way::Edit, true);
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(text != old, new, "{at}: {text}");
            if new {
                assert_eq!(edited.get_or_insert_with(|| text.clone()), &text, "{at}");
            }
            assert!(!beside.exists(), "{at}");
            let state = fs::read_dir(daemon.state_dir()).unwrap().map(|file| file.unwrap().file_name());
            assert_eq!(state.collect::<Vec<_>>(), ["last-good"], "{at}: the state directory");
            let copy = [("000000-policy.json".to_owned(), text)];
            assert_eq!(files(&daemon.state_dir().join("last-good")), copy, "{at}: the last good copy");
            sgctl(&daemon, &["diff"], 0);
            if let Some(port) = *opened {
                expect(&[if new { allowed(to(port)) } else { denied(to(port)) }]);
            }
            expect(&[allowed(to(90)), denied(to(92))]);
            alive(&mut held);
            assert_eq!(refused(&daemon), None, "{at}");
            if !new {
                assert_eq!(entries(&daemon), clean, "{at}: entries of the tables");
            }
            daemon.kill();
            daemon.write_policy(&old).unwrap();
            daemon.resume().unwrap();
            assert_eq!(entries(&daemon), clean, "{at}: back");
        }
    }
    survived(
        "a crash at a step of an edit",
        points.len() * changes.len(),
        "packets, tables, files and answers are the old policy's or the new one's; a connection goes on",
    );
}

/// Edits of two files at once go by the journal, and only the files that they are of are replaced.
#[test]
fn spec_d20_d21_a_crash_between_the_steps_of_edits_of_two_files_leaves_both_or_none() {
    let world = World::new(1);
    let directory = world.site.lab.directory().to_owned();
    let friend = outside::STRANGER.to_string();
    let own = directory.join("own");
    let documents = [
        (
            "10-groups.json".to_owned(),
            policy(json!({
                "security_groups": [
                    { "name": "webs", "outbound": [], "inbound": [tcp_from("198.51.100.0/24", 90), tcp_from("@friends", 91)] },
                    { "name": "friends" },
                ],
                "interfaces": [interface(world.guest(0), &["webs"])],
            })),
        ),
        (
            "20-peers.json".to_owned(),
            policy(json!({ "peers": [{ "address": "203.0.113.77", "security_groups": ["friends"] }] })),
        ),
        ("30-nothing.json".to_owned(), policy(json!({}))),
    ];
    let write = || {
        let _ = fs::remove_dir_all(&own);
        fs::create_dir(&own).unwrap();
        for (name, text) in &documents {
            fs::write(own.join(name), text).unwrap();
        }
    };
    write();
    let to = |port| world.tcp(outside::STRANGER, world.guest(0).v4, port);
    world.serve(&[90, 91, 92].map(to));
    let mut daemon = Daemon::start(&world.site, &policy(json!({}))).unwrap();
    daemon.kill();
    daemon.set_policy(&own);
    daemon.resume().unwrap();
    let mut held = world.hold(&to(90));
    daemon.kill();
    let wish = directory.join("wish");
    daemon.set_program(program());
    daemon.set_environment(VARIABLE, &wish);
    let edits = json!({ "edits": [
        { "edit": "peer_add", "address": friend, "groups": ["friends"] },
        { "edit": "rule_add", "group": "webs", "direction": "inbound", "rule": tcp_from("203.0.113.0/24", 92) },
    ] })
    .to_string();
    let before = [
        Point::JournalPrepared,
        Point::JournalBegun,
        Point::FilesStaged,
        Point::CopyPrepared,
        Point::IdsTaken,
        Point::Flipped,
    ];
    let after = [
        Point::Decided,
        Point::CopyExchanged,
        Point::CopyKept,
        Point::FirstFileReplaced,
        Point::FilesReplaced,
        Point::FilesRemoved,
        Point::JournalEnded,
        Point::JournalRemoved,
    ];
    let points =
        before.into_iter().map(|point| (point, false)).chain(after.into_iter().map(|point| (point, true)));
    for (point, new) in points {
        let at = point.name();
        write();
        fs::write(&wish, "").unwrap();
        daemon.resume().unwrap();
        fs::write(&wish, at).unwrap();
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        write!(
            stream,
            "POST /v1/policy/edit HTTP/1.1\r\nhost: sgd\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{edits}",
            edits.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{at}: {}", String::from_utf8_lossy(&answer));
        assert!(!daemon.wait_end(DEADLINE).unwrap().success(), "{at}");
        expect(&[allowed(to(90)), denied(to(93))]);
        alive(&mut held);
        fs::write(&wish, "").unwrap();
        daemon.resume().unwrap();
        expect(&[if new { allowed(to(91)) } else { denied(to(91)) }, allowed(to(90))]);
        alive(&mut held);
        let now = files(&own);
        let texts =
            |files: &[(String, String)]| files.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        let changed: Vec<bool> = now.iter().zip(&documents).map(|(now, old)| now != old).collect();
        assert_eq!(changed, [new, new, false], "{at}: {now:?}");
        let state = fs::read_dir(daemon.state_dir()).unwrap().map(|file| file.unwrap().file_name());
        assert_eq!(state.collect::<Vec<_>>(), ["last-good"], "{at}: the state directory");
        assert_eq!(
            texts(&files(&daemon.state_dir().join("last-good"))),
            texts(&now),
            "{at}: the last good copy"
        );
        assert_eq!(refused(&daemon), None, "{at}");
        sgctl(&daemon, &["diff"], 0);
        daemon.kill();
    }
    survived(
        "a crash between the steps of edits of two files",
        before.len() + after.len(),
        "both are in force and in their files, or none; a connection goes on",
    );
}

#[test]
fn the_program_that_is_installed_has_no_such_places() {
    let sgd = fs::read(binary("sgd").unwrap()).unwrap();
    assert!(!sgd.windows(VARIABLE.len()).any(|bytes| bytes == VARIABLE.as_bytes()));
}
