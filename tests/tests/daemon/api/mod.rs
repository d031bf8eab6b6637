//! The API as others meet it: what it says is what it has documented, whoever asks gets what they may, and nobody takes it away
//! from others.

mod conformance;
mod edits;
mod hostile;
mod rights;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sg_tests::Daemon;

use crate::world::{World, interface, policy, tcp_from, with};

/// Longer than any limit of the server.
const PATIENCE: Duration = Duration::from_secs(90);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| *field == name).map(|(_, value)| value.trim())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads to the end; `None` if the connection was closed without an answer.
fn read(stream: &mut UnixStream) -> Option<Answer> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        // Closed before all that was sent was read.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no end within {PATIENCE:?}: {error}"),
    }
    let end = all.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().unwrap();
    let body = &all[end + 4..];
    let body = if head.contains("transfer-encoding: chunked") { whole(body) } else { body.to_vec() };
    Some(Answer { status, head, body })
}

/// A body that came in chunks (RFC 9112, section 7.1).
fn whole(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = chunks.windows(2).position(|window| window == b"\r\n").expect("the length of a chunk");
        let length = usize::from_str_radix(std::str::from_utf8(&chunks[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&chunks[line + 2..][..length]);
        chunks = &chunks[line + 2 + length + 2..];
    }
}

/// One request on a connection of its own.
pub fn ask(socket: &Path, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = connect(socket);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: sgd\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    // A server that says no before it has read all closes.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    read(&mut stream).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

fn get(socket: &Path, path: &str) -> Answer {
    ask(socket, "GET", path, "", b"")
}

pub const JSON: &str = "content-type: application/json\r\n";

fn send(socket: &Path, method: &str, path: &str, body: &Value) -> Answer {
    ask(socket, method, path, JSON, body.to_string().as_bytes())
}

/// A site of two guests and a policy with something of everything.
fn site() -> (World, String) {
    let world = World::new(2);
    let text = policy(json!({
        "security_groups": [
            { "name": "webs", "inbound": [tcp_from("0.0.0.0/0", 80), tcp_from("@admins", 22)] },
            { "name": "admins" },
        ],
        "interfaces": [
            interface(world.guest(0), &["webs"]),
            with(interface(world.guest(1), &["webs", "admins"]), "enforcement", "audit"),
        ],
        "peers": [{ "address": "203.0.113.9", "security_groups": ["admins"] }],
    }));
    (world, text)
}

/// Lets other users come as far as the socket.
fn open_the_way(world: &World, daemon: &Daemon) {
    for directory in [world.site.lab.directory(), daemon.socket().parent().unwrap()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Does something as another user. Raw system calls change the one thread that makes them.
fn as_user<T: Send>(uid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let id = libc::c_ulong::from(uid);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: `groups` has as many elements as are said; the other calls take numbers.
            let outcomes = unsafe {
                [
                    libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                    libc::syscall(libc::SYS_setresgid, id, id, id),
                    libc::syscall(libc::SYS_setresuid, id, id, id),
                ]
            };
            assert_eq!(outcomes, [0; 3], "{}", io::Error::last_os_error());
            work()
        });
        thread.join().unwrap()
    })
}

/// In bytes.
fn memory(daemon: &Daemon, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
