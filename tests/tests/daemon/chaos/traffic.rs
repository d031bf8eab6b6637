//! What goes on while things break: connections that are there, new ones, datagrams that must arrive and such that must not, and
//! one sender that never pauses.

use std::net::{IpAddr, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sg_tests::{Connection, Daemon, Netns, Outcome, Probe, outside, patience};

use super::long;
use crate::counters::reason;
use crate::world::{World, interface, policy, status_of, tcp_from, udp_from, with};

const WEB: u16 = 80;
const BULK: u16 = 5201;
/// Allowed, and nobody answers.
const OPEN: u16 = 5000;
/// Allowed by no rule.
const CLOSED: u16 = 9;

const WORKERS: u32 = 4;

/// A policy for guest 0 by XDP, guest 1 by TC, and what else there is.
pub fn the_policy(world: &World, further: Vec<Value>) -> String {
    let mut interfaces = vec![
        with(interface(world.guest(0), &["webs"]), "hook", "xdp"),
        with(interface(world.guest(1), &["webs"]), "hook", "tc"),
    ];
    interfaces.extend(further);
    let inbound =
        json!([tcp_from("0.0.0.0/0", WEB), tcp_from("0.0.0.0/0", BULK), udp_from("0.0.0.0/0", OPEN)]);
    policy(json!({
        // With a hundred interfaces each has a share of 2,048 live connections, which those that are over would use up (D16).
        "settings": { "timeouts": { "tcp_time_wait": 5 } },
        "security_groups": [{ "name": "webs", "inbound": inbound, "outbound": [] }],
        "interfaces": interfaces,
    }))
}

/// What one guest is sent while the daemon dies, and what becomes of it.
#[derive(Debug, Default)]
struct Tally {
    connected: AtomicU64,
    not_connected: AtomicU64,
    sent_open: AtomicU64,
    sent_closed: AtomicU64,
}

/// New connections, each with data both ways.
fn connect(from: &Netns, guest: IpAddr, pause: Duration, running: &AtomicBool, tally: &Tally) {
    let probe = Probe::tcp(from, (guest, WEB));
    while running.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let answered = probe.run(patience::ALLOWED).unwrap() == Outcome::Answered;
        let count = if answered { &tally.connected } else { &tally.not_connected };
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(pause.saturating_sub(begin.elapsed()));
    }
}

/// Datagrams of which every one must arrive, and datagrams of which none may.
fn send(socket: &UdpSocket, guest: IpAddr, pause: Duration, running: &AtomicBool, tally: &Tally) {
    while running.load(Ordering::Relaxed) {
        for (port, count) in [(OPEN, &tally.sent_open), (CLOSED, &tally.sent_closed)] {
            socket.send_to(b"?", (guest, port)).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(pause);
    }
}

fn received(socket: &UdpSocket) -> u64 {
    socket.set_read_timeout(Some(patience::DENIED)).unwrap();
    let mut count = 0;
    while socket.recv(&mut [0; 8]).is_ok() {
        count += 1;
    }
    count
}

/// A sender that never pauses: iperf3 where the long form has installed it, else a stream of our own.
enum Bulk {
    Iperf(Child, Child),
    Stream(std::thread::JoinHandle<std::io::Result<u64>>),
}

impl Bulk {
    fn start(world: &World, guest: usize, seconds: u64) -> Self {
        let address = world.guest(guest).v4;
        let netns = &world.guest(guest).netns;
        if !long() {
            let listener = netns.run(|| std::net::TcpListener::bind((address, BULK)).unwrap()).unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept()?;
                std::io::copy(&mut stream, &mut std::io::sink())
            });
            let mut stream = world.site.outside.run(|| TcpStream::connect((address, BULK)).unwrap()).unwrap();
            stream.set_write_timeout(Some(patience::ALLOWED)).unwrap();
            let until = Instant::now() + Duration::from_secs(seconds);
            return Self::Stream(std::thread::spawn(move || {
                let mut sent = 0;
                while Instant::now() < until {
                    std::io::Write::write_all(&mut stream, &[0; 16 << 10])?;
                    sent += 16 << 10;
                }
                Ok(sent)
            }));
        }
        let program = |on: &Netns, arguments: &[&str]| {
            let mut command = on.command("iperf3");
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
            command
                .spawn()
                .unwrap_or_else(|error| panic!("iperf3 (`cargo xtask chaos` installs it): {error}"))
        };
        let (address, seconds) = (address.to_string(), seconds.to_string());
        let server = program(netns, &["--server", "--one-off", "--bind", &address]);
        std::thread::sleep(Duration::from_millis(500));
        let client = program(&world.site.outside, &["--client", &address, "--time", &seconds, "--json"]);
        Self::Iperf(server, client)
    }

    /// Bytes that went through to the end; `None` if the connection was lost.
    fn end(self) -> Option<u64> {
        match self {
            Self::Stream(thread) => thread.join().unwrap().ok(),
            Self::Iperf(mut server, client) => {
                let output = client.wait_with_output().unwrap();
                let _ = server.kill();
                let _ = server.wait();
                let said: Value = serde_json::from_slice(&output.stdout).ok()?;
                output.status.success().then(|| said["end"]["sum_received"]["bytes"].as_u64()).flatten()
            }
        }
    }
}

/// What the traffic has cost.
#[derive(Debug)]
pub struct Cost {
    pub lost: u64,
    pub wrong: u64,
    pub note: String,
}

/// Does `work` under traffic that follows [`the_policy`]. `work` may end the daemon and start it again; it must run when that
/// returns. `seconds`: how long the sender that never pauses sends, which should be longer than the work takes.
pub fn under_traffic(
    world: &World,
    daemon: &mut Daemon,
    seconds: u64,
    work: impl FnOnce(&mut Daemon),
) -> Cost {
    let (idle, per_second) = if long() { (500, 200) } else { (50, 100) };
    let pause = Duration::from_secs(1) * WORKERS / per_second;
    let guests = [0, 1].map(|guest| world.guest(guest).v4);
    let mut connections: Vec<Connection> =
        (0..idle).map(|number| world.hold(&world.tcp(outside::ADMIN, guests[number % 2], WEB))).collect();
    let listen = |guest: usize, port: u16| {
        let bind = || UdpSocket::bind((guests[guest], port)).unwrap();
        let socket = world.guest(guest).netns.run(bind).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(8 << 20)).unwrap();
        socket
    };
    let sinks = [0, 1].map(|guest| (listen(guest, OPEN), listen(guest, CLOSED)));
    let dropped = |daemon: &Daemon| {
        ["tap0", "tap1"].map(|tap| reason(&status_of(daemon, tap), "inbound", "no_rule")).iter().sum::<u64>()
    };
    let before = dropped(daemon);
    let bulk = Bulk::start(world, 1, seconds);

    let (running, tally) = (AtomicBool::new(true), Tally::default());
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (outside, running, tally) = (&world.site.outside, &running, &tally);
            let guest = guests[(worker % 2) as usize];
            scope.spawn(move || connect(outside, guest, pause, running, tally));
        }
        for guest in guests {
            let (running, tally) = (&running, &tally);
            let socket = world.site.outside.run(|| UdpSocket::bind((outside::ADMIN, 0)).unwrap()).unwrap();
            scope.spawn(move || send(&socket, guest, pause, running, tally));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(daemon)));
        running.store(false, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });

    let bulk = bulk.end();
    // An error of the socket is an end too.
    let dead = connections
        .iter_mut()
        .map(|connection| connection.exchange(patience::ALLOWED))
        .filter(|outcome| !matches!(outcome, Ok(Outcome::Answered)))
        .count() as u64;
    let (open, closed) = sinks
        .iter()
        .map(|(open, closed)| (received(open), received(closed)))
        .fold((0, 0), |(open, closed), (more, more_closed)| (open + more, closed + more_closed));
    let [connected, not_connected, sent_open, sent_closed] =
        [tally.connected, tally.not_connected, tally.sent_open, tally.sent_closed].map(AtomicU64::into_inner);
    assert!(connected > 0 && sent_open > 0 && sent_closed > 0, "traffic has passed all the while");
    // Every datagram that no rule allows was dropped and counted for that, and nothing else was.
    let miscounted = (dropped(daemon) - before).abs_diff(sent_closed);
    Cost {
        lost: u64::from(bulk.is_none()) + dead + not_connected + sent_open.abs_diff(open),
        wrong: closed + miscounted,
        note: format!(
            "{idle} idle and {connected} new connections, {sent_open} + {sent_closed} datagrams, {} MB in bulk; lost: {dead} \
             idle, {not_connected} new, {} datagrams",
            bulk.unwrap_or_default() >> 20,
            sent_open.abs_diff(open)
        ),
    }
}
