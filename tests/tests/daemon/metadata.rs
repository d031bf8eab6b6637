//! The metadata service (SPEC K27), asked the way an instance asks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use sg_tests::{Daemon, Guest, outside, patience};

use crate::world::{World, allowed, denied, interface, policy};

const INSTANCE_ID: &str = "i-0123456789";

/// Answers every request for the instance's id, one after the other, until the test ends.
fn serve_metadata(world: &World) {
    let address: SocketAddr = (outside::METADATA, 80).into();
    let listener = world.site.outside.run(|| TcpListener::bind(address).unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    request.read_line(&mut first)?;
    let status =
        if first.starts_with("GET /latest/meta-data/instance-id ") { "200 OK" } else { "404 Not Found" };
    let length = INSTANCE_ID.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{INSTANCE_ID}")
}

/// The instance's id, if the service can be reached.
fn instance_id(guest: &Guest, expected: bool) -> Option<String> {
    let patience = if expected { patience::ALLOWED } else { patience::DENIED };
    let connect = || TcpStream::connect_timeout(&(outside::METADATA, 80).into(), patience);
    let mut stream = guest.netns.run(connect).unwrap().ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Some(body.to_owned())
}

#[test]
fn spec_k27_an_instance_reads_its_metadata_when_the_rules_say_so() {
    let world = World::new(1);
    let guest = world.guest(0);
    serve_metadata(&world);
    assert_eq!(instance_id(guest, true).as_deref(), Some(INSTANCE_ID), "without a filter");

    let all = json!({ "protocol": "ALL", "destination": "0.0.0.0/0", "port": "ALL" });
    let service = json!({ "protocol": "TCP", "destination": "169.254.169.0/24", "port": 80 });
    let on = |groups: Value, attached: &[&str], metadata: &str| {
        policy(json!({
            "settings": { "metadata": metadata }, "security_groups": groups, "interfaces": [interface(guest, attached)],
        }))
    };
    let custom = json!([{ "name": "webs" }, { "name": "more", "outbound": [all] }]);
    let daemon = Daemon::start(&world.site, &on(custom.clone(), &["webs"], "explicit")).unwrap();
    let cases = [
        ("M2", on(json!([{ "name": "webs", "outbound": [all, service] }]), &["webs"], "explicit"), true),
        ("M1", on(custom.clone(), &["more"], "explicit"), false),
        ("M3", on(custom.clone(), &["webs", "default"], "explicit"), true),
        ("M7", on(custom.clone(), &["webs", "more"], "explicit"), false),
        ("cidr", on(custom.clone(), &["webs", "more"], "cidr"), true),
        (
            "M5",
            on(
                json!([{ "name": "webs" }, { "name": "default", "outbound": [] }]),
                &["webs", "default"],
                "explicit",
            ),
            false,
        ),
        ("exempt", on(json!([{ "name": "webs", "outbound": [] }]), &["webs"], "exempt"), true),
    ];
    // M1 as the daemon began, with M4 and M6.
    assert_eq!(instance_id(guest, false), None, "M1");
    world.expect(&[
        allowed(world.tcp(guest.v4, outside::DNS, 80)),
        allowed(world.tcp(guest.v4, outside::METADATA, 8080)),
        allowed(world.udp(guest.v4, outside::METADATA, 80)),
        allowed(world.ping(guest.v4, outside::METADATA)),
        denied(world.tcp(outside::METADATA, guest.v4, 80)),
    ]);
    for (name, policy, reaches) in cases {
        daemon.apply(&policy).unwrap();
        assert_eq!(instance_id(guest, reaches).as_deref(), reaches.then_some(INSTANCE_ID), "{name}");
    }
}
