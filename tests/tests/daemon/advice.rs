//! Errors, provoked one by one: each says what is wrong, and what to do.

use std::fs;
use std::process::Command;

use serde_json::json;
use sg_tests::{Daemon, binary};

use crate::api::{Answer, JSON, ask as request};
use crate::world::{World, interface, policy, tcp_from};

/// What is done, what of it is wrong, and what to do.
type Case<'c> = (&'c [&'c str], &'c str, &'c str);

fn site() -> (World, String) {
    let world = World::new(2);
    let text = policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] },
            { "name": "admins", "inbound": [] },
        ],
        "interfaces": [interface(world.guest(0), &["webs"]), interface(world.guest(1), &["admins"])],
        "peers": [{ "address": "203.0.113.9", "security_groups": ["admins"] }],
    }));
    (world, text)
}

/// All that do not are told of together.
#[derive(Default)]
struct Silent(Vec<String>);

impl Silent {
    fn says(&mut self, what: &dyn std::fmt::Debug, complaint: &str, wrong: &str, to_do: &str) {
        if !complaint.contains(wrong) {
            self.0.push(format!("{what:?} does not say what is wrong, {wrong:?}: {complaint}"));
        }
        if !complaint.contains(to_do) {
            self.0.push(format!("{what:?} does not say what to do, {to_do:?}: {complaint}"));
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

#[test]
fn every_complaint_of_sgctl_says_what_to_do() {
    let mut silent = Silent::default();
    let (world, text) = site();
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    let directory = world.site.lab.directory().to_owned();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let faulty = file("faulty.json", "{ \"version\": 1 }");
    let other = file("other.json", "{ \"hello\": 1 }");
    let cut = file("cut.json", "{ \"SecurityGroups\": [");
    let empty = file("empty.flows", "");
    let nowhere = directory.join("none").join("out.json").display().to_string();
    let missing = directory.join("missing").display().to_string();
    let rule = r#"{"protocol": "TCP", "source": "10.0.0.0/8", "port": 90}"#;
    let cases: &[Case<'_>] = &[
        (&["flows", "--interface", "tapp0"], "tapp0", "did you mean \"tap0\"?"),
        (&["flows", "--interface", "elsewhere"], "elsewhere", "sgctl status lists"),
        (&["flows", "--sort", "bytes"], "not counted", "start sgd with --flow-log PATH"),
        (&["flows", "--sort", "colour"], "colour", "sorted by interface, age"),
        (&["flows", "--count-by", "colour"], "colour", "counted by interface, state"),
        (&["flows", "--state", "open"], "open", "the state is syn_sent"),
        (&["flows", "--count", "--limit", "3"], "a limit is of counts", "say what to count by"),
        (&["flows", "--remote", "here"], "here", "a network such as 10.0.0.0/8"),
        (&["flows", "revoke", "--all"], "to cut connections", "say which"),
        (&["flows", "revoke", "--interface", "tap9"], "tap9", "did you mean \"tap0\"?"),
        (&["flows", "export", "--interface", "tap9"], "tap9", "`sgctl status` lists what is"),
        (&["flows", "import", &missing], "No such file", "name the file that `sgctl flows export` wrote"),
        (&["flows", "import", &empty], "the file is empty", "what `sgctl flows export` writes"),
        (&["stats", "tap9"], "tap9", "did you mean"),
        (&["rules", "--group", "kubernetes"], "kubernetes", "sgctl rules"),
        (&["monitor", "--interface", "elsewhere"], "elsewhere", "`sgctl status` lists"),
        (&["monitor", "--rule", "kubernetes"], "kubernetes", "`sgctl group list` shows all"),
        (&["monitor", "--verdict", "allow", "--reason", "no_rule"], "no packet", "leave one of them out"),
        (&["monitor", "--rate", "0"], "0", "1"),
        (&["top"], "needs a terminal", "use `sgctl top --once`"),
        (
            &[
                "explain",
                "--interface",
                "elsewhere",
                "--direction",
                "inbound",
                "--protocol",
                "tcp",
                "--remote",
                "192.0.2.1",
                "--port",
                "80",
            ],
            "elsewhere",
            "`sgctl status` lists the interfaces",
        ),
        (
            &["explain", "--interface", "tap0", "--direction", "inbound", "--hex", "zz"],
            "no hexadecimal digit",
            "give the frame as",
        ),
        (
            &["explain", "--interface", "tap0", "--direction", "inbound", "--hex", "abc"],
            "no whole bytes",
            "add the one that is missing",
        ),
        (&["group", "show", "kubernetes"], "kubernetes", "there is \"admins\", \"default\", \"webs\""),
        (&["group", "create", "webs"], "already", "give another name"),
        (&["group", "delete", "default"], "never be deleted", "remove its rules instead"),
        (&["group", "delete", "webs"], "in use", "detach it and remove these rules first"),
        (&["group", "copy", "webs", "webs"], "already", "give the copy another name"),
        (&["group", "copy", "webs", "new-one", "new-one"], "twice", "a name of its own"),
        (&["rule", "add", "kubernetes", "inbound", rule], "kubernetes", "there is \"admins\""),
        (&["rule", "add", "webs", "inbound", "{"], "no JSON", "write it as in a file, such as"),
        (&["rule", "add", "webs", "inbound"], "say what the rule allows", "--protocol"),
        (&["rule", "remove", "webs", "inbound", "7"], "there is no rule 7", "counted from 0"),
        (&["rule", "remove", "webs", "inbound"], "say which rule", "its index or tag"),
        (&["rule", "list", "kubernetes"], "kubernetes", "`sgctl group list`"),
        (&["interface", "show", "elsewhere"], "elsewhere", "there is \"tap0\", \"tap1\""),
        (&["interface", "attach", "tap0", "kubernetes"], "kubernetes", "there is \"admins\""),
        (&["interface", "detach", "tap0", "webs"], "the only group", "attach another one first"),
        (
            &["interface", "wait", "nosuch0", "--timeout", "1s"],
            "there is no device nosuch0",
            "make the device",
        ),
        (&["peer", "remove", "203.0.113.77"], "has no peer", "`sgctl peer list`"),
        (&["peer", "add", "nobody", "admins"], "nobody", "address"),
        (&["apply", &faulty], "faulty", "correct what is told above"),
        (&["apply", "--confirm", "forever", &faulty], "forever", "such as"),
        (&["confirm"], "no policy waits", "see `sgctl status`"),
        (&["rollback"], "no policy waits", "`sgctl apply --confirm TIME`"),
        (&["check", &missing], "missing", "No such file"),
        (&["import", "aws", &missing], "No such file", "give a file that can be read"),
        (&["import", "aws", &other], "expected an object with", "The right one comes from"),
        (&["import", "aws", &cut], "cut.json:1:", "give the document as the cloud's command prints it"),
        (&["export", "aws", &faulty], "the policy has faults", "correct them first"),
    ];
    let ask = |daemon: &Daemon, arguments: &[&str]| {
        let output = daemon.sgctl(arguments).unwrap();
        // Findings about files are what `sgctl check` is asked for.
        let complaint = String::from_utf8([output.stderr, output.stdout].concat()).unwrap();
        assert!(!output.status.success(), "{arguments:?}: {complaint}");
        assert!(!complaint.trim().is_empty(), "{arguments:?}");
        complaint
    };
    for (arguments, wrong, to_do) in cases {
        silent.says(arguments, &ask(&daemon, arguments), wrong, to_do);
    }
    let generation = daemon.generation().unwrap();
    assert_eq!(generation, 1, "nothing was changed");
    // What cannot be written.
    let exported = ["flows", "export", "--interface", "tap0", "--output", &nowhere];
    silent.says(&exported, &ask(&daemon, &exported), "No such file", "name a file that can be written");

    // Faults of the files themselves.
    fs::write(daemon.policy_path(), "{").unwrap();
    for (arguments, wrong, to_do) in [
        (&["apply"][..], "the policy is refused", "policy.json:1:"),
        (&["group", "create", "new-one"], "faults already", "mend them first (`sgctl check`)"),
        (&["plan"], "the policy is refused", "policy.json:1:"),
    ] {
        silent.says(&arguments, &ask(&daemon, arguments), wrong, to_do);
    }
    daemon.terminate().unwrap();
    for arguments in [&["status"][..], &["flows"], &["top", "--once"], &["apply"]] {
        let complaint = ask(&daemon, arguments);
        silent.says(&arguments, &complaint, "cannot reach sgd at", "is it running, and is --socket right?");
    }
    silent.none();
}

#[test]
fn every_answer_of_the_api_that_is_no_says_what_to_do() {
    let mut silent = Silent::default();
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let socket = daemon.socket();
    let long = format!("{{\"names\": [\"{}\"]}}", "x".repeat(2 << 20));
    let cases: &[(&str, &str, &str, u16, &str, &str)] = &[
        ("GET", "/v1/nothing", "", 404, "no such resource", "`sgctl openapi` lists all"),
        ("DELETE", "/v1/status", "", 405, "DELETE", "`Allow` says what is"),
        ("GET", "/v1/flows?colour=red", "", 400, "colour", "`sgctl openapi` says what is expected"),
        ("GET", "/v1/flows?sort=bytes", "", 409, "not counted", "--flow-log PATH"),
        ("GET", "/v1/flows?by=state", "", 400, "count by", "/v1/flows/count"),
        ("GET", "/v1/flows/count?sort=age", "", 400, "order of their own", "leave out sort"),
        ("GET", "/v1/groups/%ff", "", 400, "name", "`sgctl openapi` says what is expected"),
        ("GET", "/v1/groups/kubernetes", "", 404, "kubernetes", "there is \"admins\""),
        ("POST", "/v1/explain", "{", 400, "JSON", "`sgctl openapi` says what is expected"),
        (
            "POST",
            "/v1/explain",
            "{\"interface\": 1}",
            400,
            "interface",
            "`sgctl openapi` says what is expected",
        ),
        ("POST", "/v1/groups/webs/copy", &long, 413, "larger", "send less at once"),
        ("POST", "/v1/policy/edit", "{\"edits\": []}", 400, "edits", "1 to"),
        ("POST", "/v1/policy/confirm", "", 409, "no policy waits", "`sgctl status`"),
        ("POST", "/v1/flows/import", "\u{1}", 400, "line 1", "`sgctl flows export` writes"),
        ("DELETE", "/v1/groups/webs/rules/inbound/0", "", 428, "If-Match", "tag"),
        ("GET", "/v1/monitor?interface=elsewhere", "", 404, "elsewhere", "`sgctl status` lists"),
        ("GET", "/v1/monitor?rate=0", "", 400, "rate", "from 1 to"),
    ];
    for &(method, path, body, status, wrong, to_do) in cases {
        let headers = if body.is_empty() { "" } else { JSON };
        let answer: Answer = request(&socket, method, path, headers, body.as_bytes());
        let what = (method, path);
        assert_eq!(answer.status, status, "{what:?}: {}", String::from_utf8_lossy(&answer.body));
        silent.says(&what, &answer.error(), wrong, to_do);
    }
    // Not JSON at all.
    let answer = request(&socket, "POST", "/v1/explain", "content-type: text/plain\r\n", b"x");
    silent.says(&"a body of text", &answer.error(), "Content-Type: application/json", "sgctl openapi");
    silent.none();
}

#[test]
fn a_daemon_that_does_not_start_says_what_to_do() {
    let mut silent = Silent::default();
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let directory = world.site.lab.directory().to_owned();
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(path("plain"), "").unwrap();
    fs::write(path("faulty.json"), "{").unwrap();
    let (pin_dir, policy_path) =
        (daemon.pin_dir().display().to_string(), daemon.policy_path().display().to_string());
    let start = |arguments: &[&str]| {
        let usual = [
            ("--policy", policy_path.clone()),
            ("--pin-dir", format!("{pin_dir}-other")),
            ("--state-dir", path("state-of-another")),
            ("--socket", path("another.sock")),
        ];
        let mut command = world.site.host.command(binary("sgd").unwrap().display().to_string());
        for (name, value) in usual {
            let given = arguments.iter().position(|argument| *argument == name);
            command.args([name, given.map_or(value.as_str(), |at| arguments[at + 1])]);
        }
        let known = ["--policy", "--pin-dir", "--state-dir", "--socket"];
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if known.contains(argument) {
                rest.next();
            } else {
                command.arg(argument);
            }
        }
        let output = ended(command);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}: {complaint}");
        complaint
    };
    let (plain, faulty, missing) = (path("plain"), path("faulty.json"), path("missing.json"));
    let (link, in_file) = (path("link.log"), format!("{}/state", path("plain")));
    std::os::unix::fs::symlink(&plain, &link).unwrap();
    let socket = daemon.socket().display().to_string();
    let cases: &[Case<'_>] = &[
        (
            &["--pin-dir", &pin_dir],
            "another sgd holds the pin directory",
            "stop that one, or pass another --pin-dir",
        ),
        (&["--pin-dir", &plain], "plain", "on a BPF file system"),
        (&["--socket", &socket], "another sgd listens there", "pass another --socket"),
        (&["--socket", &plain], "no socket", "remove it, or pass another --socket"),
        (
            &["--state-dir", &in_file],
            "cannot make the state directory",
            "pass one that sgd may write to (--state-dir)",
        ),
        (&["--policy", &faulty], "no policy to start with", "`sgctl check`"),
        (&["--policy", &missing], "no policy to start with", "`sgctl check`"),
        (&["--flow-log", &link], "symbolic link", "name the file itself"),
        (&["--flow-log", "/dev/null"], "not an ordinary file", "name one"),
        (&["--metrics", "0.0.0.0:9776"], "not an address of the loopback device", "--metrics-not-loopback"),
        (&["--live-flows", "1"], "--live-flows", "1024"),
        (&["--tc", "magic"], "magic", "possible values"),
    ];
    for (arguments, wrong, to_do) in cases {
        silent.says(arguments, &start(arguments), wrong, to_do);
    }
    // And the one that runs has noticed nothing.
    daemon.status().unwrap();
    silent.none();
}

/// A program that is to end by itself.
fn ended(mut command: Command) -> std::process::Output {
    use std::process::Stdio;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

#[test]
#[should_panic(expected = "does not say what to do")]
fn a_complaint_without_advice_is_noticed() {
    let mut silent = Silent::default();
    silent.says(&"nothing", "there is no group \"web\"", "no group", "did you mean");
    silent.none();
}
