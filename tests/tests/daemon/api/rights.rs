//! Who may do what, by what the kernel says of the peer.

use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};
use sg_tests::Daemon;

use super::{as_user, get, open_the_way, send, site};

/// Nobody in particular, and two groups that need no name.
const SOMEBODY: u32 = 64_001;
const READERS: u32 = 64_002;
const WRITERS: u32 = 64_003;

#[test]
fn who_may_only_read_changes_nothing_by_any_route() {
    let (world, text) = site();
    let daemon = Daemon::start_with(&world.site, &text, &["--socket-mode", "666"]).unwrap();
    open_the_way(&world, &daemon);
    let socket = daemon.socket();
    let before = std::fs::read(daemon.policy_path()).unwrap();
    let generation = daemon.generation().unwrap();
    let document = get(&socket, "/v1/openapi.json").json();
    let mut writes = 0;
    as_user(SOMEBODY, &[], || {
        assert_eq!(get(&socket, "/v1/status").status, 200);
        assert_eq!(send(&socket, "POST", "/v1/policy/diff", &json!({})).status, 200);
        for (route, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if operation["x-sgd-access"] != "write" {
                    continue;
                }
                writes += 1;
                let path =
                    route.replace("{direction}", "inbound").replace("{index}", "0").replace(['{', '}'], "");
                let answer = send(&socket, &method.to_ascii_uppercase(), &path, &Value::Null);
                assert_eq!(answer.status, 403, "{method} {path}");
                let error = answer.error();
                assert!(
                    error.contains("user 64001 may only read") && error.contains("--write-group"),
                    "{error}"
                );
            }
        }
    });
    assert!(writes >= 14, "{writes} operations write");
    assert_eq!(daemon.generation().unwrap(), generation);
    assert_eq!(std::fs::read(daemon.policy_path()).unwrap(), before);
}

#[test]
fn the_socket_is_for_root_unless_groups_are_named() {
    let (world, text) = site();
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    open_the_way(&world, &daemon);
    let socket = daemon.socket();
    let stat = |daemon: &Daemon| {
        let metadata = std::fs::metadata(daemon.socket()).unwrap();
        (metadata.gid(), metadata.mode() & 0o777)
    };
    let opens = |groups: &[u32]| {
        as_user(SOMEBODY, groups, || std::os::unix::net::UnixStream::connect(&socket).is_ok())
    };
    assert_eq!(stat(&daemon), (0, 0o660));
    assert!(!opens(&[READERS, WRITERS]));
    let create = |name: &str| send(&socket, "POST", "/v1/groups?dry_run=true", &json!({ "name": name }));

    let (readers, writers) = (READERS.to_string(), WRITERS.to_string());
    daemon.set_arguments(&["--write-group", &writers]);
    daemon.restart().unwrap();
    assert_eq!(stat(&daemon), (WRITERS, 0o660));
    assert!(!opens(&[READERS]));
    assert_eq!(as_user(SOMEBODY, &[WRITERS], || create("new-one").status), 200);

    daemon.set_arguments(&["--read-group", &readers, "--write-group", &writers]);
    daemon.restart().unwrap();
    // More groups than fit into one question to the kernel.
    let many: Vec<u32> = (70_000..70_100).chain([WRITERS]).collect();
    assert_eq!(as_user(SOMEBODY, &many, || create("new-one").status), 200);
    as_user(SOMEBODY, &[READERS], || {
        assert_eq!(get(&socket, "/v1/status").status, 200);
        assert_eq!(create("new-one").status, 403);
    });
    as_user(SOMEBODY, &[], || {
        let answer = get(&socket, "/v1/status");
        assert!(answer.status == 403 && answer.error().contains("--read-group"), "{answer:?}");
    });

    daemon.set_arguments(&["--read-group", "no-such-group-here"]);
    daemon.terminate().unwrap();
    let error = daemon.resume().unwrap_err();
    assert!(format!("{error:#}").contains("no group \"no-such-group-here\""), "{error:#}");
}
