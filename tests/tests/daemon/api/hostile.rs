//! Clients that send garbage, nothing, too much, too slowly, or too often: each gets its error, the daemon keeps its memory,
//! and others get their answers.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sg_tests::Daemon;

use super::{JSON, as_user, ask, connect, get, memory, open_the_way, read, send, site};

const SOMEBODY: u32 = 64_001;
/// What the daemon may grow by, whatever is done to it here: some hundred connections with 64 KiB each, and the threads
/// that work for them.
const ROOM: u64 = 96 << 20;

/// Of requests that are whole. Others end with their bytes, and who says no more is not always answered.
const CLOSE: &str = "connection: close\r\n";

/// The answer's status, or 0 if the connection was only closed.
fn raw(socket: &Path, bytes: &[u8]) -> u16 {
    let mut stream = connect(socket);
    let _ = stream.write_all(bytes);
    if !bytes.windows(CLOSE.len()).any(|window| window == CLOSE.as_bytes()) {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    read(&mut stream).map_or(0, |answer| answer.status)
}

#[test]
fn garbage_gets_its_error_and_costs_nothing() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let socket = daemon.socket();
    assert_eq!(get(&socket, "/v1/status").status, 200);
    let before = memory(&daemon, "VmRSS");
    let line = |length: usize| {
        format!("GET /{} HTTP/1.1\r\nhost: sgd\r\n{CLOSE}\r\n", "a".repeat(length)).into_bytes()
    };
    let head =
        |fields: &str| format!("POST /v1/explain HTTP/1.1\r\nhost: sgd\r\n{JSON}{fields}\r\n").into_bytes();
    let noise: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let many = (0..2000).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    for (what, bytes, statuses) in [
        ("noise", noise, &[0, 400, 414, 431][..]),
        ("zeros", vec![0; 1 << 20], &[0, 400, 431]),
        ("line feeds", b"\n".repeat(1 << 20), &[0, 400, 431]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[0, 400, 505]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        ("a long path", line(1 << 20), &[0, 400, 414, 431]),
        ("a path of 60,000", line(60_000), &[404, 414, 431]),
        ("many headers", head(&many), &[0, 400, 431]),
        ("a negative length", head("content-length: -1\r\n"), &[0, 400]),
        ("a length beyond numbers", head("content-length: 99999999999999999999\r\n"), &[0, 400]),
        ("a length that is not sent", head("content-length: 1000\r\n"), &[400, 408]),
        ("4 GiB announced", head("content-length: 4294967296\r\n"), &[400, 413]),
        ("bad chunks", [head("transfer-encoding: chunked\r\n"), b"zz\r\n".to_vec()].concat(), &[0, 400]),
        ("two lengths", head("content-length: 1\r\ncontent-length: 2\r\n"), &[0, 400]),
        (
            "no such method",
            format!("BREW /v1/status HTTP/1.1\r\nhost: sgd\r\n{CLOSE}\r\n").into_bytes(),
            &[405],
        ),
    ] {
        let status = raw(&socket, &bytes);
        assert!(statuses.contains(&status), "{what}: {status}");
    }
    // JSON that is none, or too much of it.
    let deep = "[".repeat(60_000);
    let wide = format!("[{}0]", "0,".repeat(2 << 20));
    for (what, path, body, status) in [
        ("deep", "/v1/explain", deep.as_bytes(), 400),
        ("deep", "/v1/policy/edit", deep.as_bytes(), 400),
        // Many questions may be asked at once, but these are none.
        ("wide", "/v1/explain", wide.as_bytes(), 400),
        ("wide", "/v1/flows/revoke", wide.as_bytes(), 413),
        ("wide", "/v1/policy/edit", wide.as_bytes(), 413),
        ("not UTF-8", "/v1/explain", b"\"\xff\"", 400),
        ("half", "/v1/policy/apply", b"{\"files\": [", 400),
        ("nothing", "/v1/policy/apply", b"", 400),
    ] {
        let answer = ask(&socket, "POST", path, JSON, body);
        assert_eq!(answer.status, status, "{what}, {path}: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.error().len() > 10);
    }
    // Edits that nest as deeply as JSON is read.
    let mut rule = json!(1);
    for _ in 0..100 {
        rule = json!({ "protocol": rule });
    }
    let edit =
        json!({ "edits": [{ "edit": "rule_add", "group": "webs", "direction": "inbound", "rule": rule }] });
    let answer = send(&socket, "POST", "/v1/policy/edit", &edit);
    assert!(
        matches!(answer.status, 400 | 422),
        "{}: {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );

    assert_eq!(get(&socket, "/v1/status").status, 200);
    let grown = memory(&daemon, "VmHWM").saturating_sub(before);
    println!("garbage: the daemon grew by {} KiB at most", grown >> 10);
    assert!(grown < ROOM, "{} MiB more", grown >> 20);
    assert!(!daemon.log().contains("panic"), "{}", daemon.log_tail());
}

#[test]
fn slow_clients_are_cut_off_and_hold_up_nobody_else() {
    let (world, text) = site();
    let daemon = Daemon::start_with(&world.site, &text, &["--socket-mode", "666"]).unwrap();
    open_the_way(&world, &daemon);
    let socket = daemon.socket();
    let before = memory(&daemon, "VmRSS");
    // As many as one user may have, each in the middle of something.
    let begin = |n: usize| {
        let mut stream = connect(&socket);
        let head = "POST /v1/policy/diff HTTP/1.1\r\nhost: sgd\r\n";
        let text = if n.is_multiple_of(2) {
            head.to_owned()
        } else {
            format!("{head}{JSON}content-length: 60000000\r\n\r\n{{\"files\":")
        };
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let mut slow: Vec<UnixStream> = as_user(SOMEBODY, &[], || (0..32).map(begin).collect());
    // One more is told so, at once.
    let refused = as_user(SOMEBODY, &[], || get(&socket, "/v1/status"));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{refused:?}");
    assert!(refused.error().contains("user 64001 has 32 connections"), "{refused:?}");
    // Others do not notice, whether they ask or change something.
    assert_eq!(as_user(SOMEBODY + 1, &[], || get(&socket, "/v1/status").status), 200);
    assert_eq!(send(&socket, "POST", "/v1/policy/diff", &json!({})).status, 200);
    assert_eq!(send(&socket, "POST", "/v1/policy/apply", &json!({})).status, 200);
    // Heads that do not come are waited for ten seconds; bodies half a minute, from their turn on.
    let heads: Vec<Option<u16>> =
        slow.iter_mut().step_by(2).map(|stream| read(stream).map(|answer| answer.status)).collect();
    assert!(heads.iter().all(|end| matches!(end, None | Some(408))), "{heads:?}");
    let bodies: Vec<u16> = slow
        .iter_mut()
        .skip(1)
        .step_by(2)
        .map(|stream| read(stream).map_or(0, |answer| answer.status))
        .collect();
    // The one whose turn it was did not send; the others had waited too long by then, and may come again.
    assert!(bodies.contains(&408) && bodies.iter().all(|end| matches!(end, 408 | 503)), "{bodies:?}");
    assert_eq!(as_user(SOMEBODY, &[], || get(&socket, "/v1/status").status), 200);
    let grown = memory(&daemon, "VmHWM").saturating_sub(before);
    println!("slow clients: the daemon grew by {} KiB at most", grown >> 10);
    assert!(grown < ROOM, "{} MiB more", grown >> 20);
}

#[test]
fn spec_d21_who_asks_for_a_change_and_goes_away_holds_up_nobody() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let socket = daemon.socket();
    let before = daemon.generation().unwrap();
    let route = "/v1/groups/webs/rules/inbound";
    let rule = |port: u64| json!({ "protocol": "TCP", "source": "192.0.2.0/24", "port": 1000 + port });
    for port in 0..50 {
        let body = rule(port).to_string();
        let head =
            format!("POST {route} HTTP/1.1\r\nhost: sgd\r\n{JSON}content-length: {}\r\n\r\n", body.len());
        let mut stream = connect(&socket);
        stream.write_all([head, body].concat().as_bytes()).unwrap();
        // Before it is begun, in the middle of it, or when it is done.
        std::thread::sleep(Duration::from_micros(port * 50));
    }
    assert_eq!(send(&socket, "POST", route, &rule(99)).status, 200);
    let done = daemon.generation().unwrap() - before;
    let text = fs::read_to_string(daemon.policy_path()).unwrap();
    assert_eq!(text.matches("192.0.2.0/24").count() as u64, done, "each whole or not at all");
    assert!((2..=51).contains(&done), "{done}");
}

#[test]
fn a_thousand_requests_at_once_are_answered_each() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let socket = daemon.socket();
    assert_eq!(get(&socket, "/v1/status").status, 200);
    let before = memory(&daemon, "VmRSS");
    let begun = Instant::now();
    let statuses: Vec<(u16, Option<String>)> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let socket = &socket;
            let thread = std::thread::Builder::new().stack_size(128 << 10);
            thread
                .spawn_scoped(scope, move || {
                    let question = json!({ "interface": "tap0", "direction": "inbound", "protocol": "tcp",
                                           "remote": "192.0.2.1", "port": 80 });
                    let answer = match n % 4 {
                        0 => get(socket, "/v1/status"),
                        1 => get(socket, "/v1/groups"),
                        2 => send(socket, "POST", "/v1/explain", &question),
                        _ => send(socket, "POST", "/v1/groups?dry_run=true", &json!({ "name": "dry-run" })),
                    };
                    let _: Value = answer.json();
                    (answer.status, answer.header("retry-after").map(str::to_owned))
                })
                .unwrap()
        };
        let threads: Vec<_> = (0..1000).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let done = statuses.iter().filter(|(status, _)| *status == 200).count();
    let grown = memory(&daemon, "VmHWM").saturating_sub(before);
    println!(
        "1,000 requests in {:?}: {done} done, {} told to come again; the daemon grew by {} KiB at most",
        begun.elapsed(),
        1000 - done,
        grown >> 10
    );
    for (status, again) in &statuses {
        assert!(*status == 200 || (*status == 503 && again.as_deref() == Some("1")), "{status} {again:?}");
    }
    assert!(done >= 64, "{done} of 1,000");
    assert!(grown < ROOM, "{} MiB more", grown >> 20);
    let answer = get(&socket, "/v1/status");
    assert_eq!(answer.status, 200);
    // Who comes again is served: nothing was kept of those that were turned away.
    std::thread::sleep(Duration::from_millis(100));
    assert!((0..100).all(|_| get(&socket, "/v1/status").status == 200));
}
