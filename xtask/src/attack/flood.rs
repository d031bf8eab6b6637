//! The flood: connection requests from random sources to a port that is open to everybody, beside people who use it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use sg_tests::{Daemon, Guest};

use super::site::{DEVICE, Ends, OUTSIDE_MAC, Site, dropped, since};
use super::syn::{self, Target};
use super::table::{Seen, Table, Through};

const PORT: u16 = 80;
/// How long one attempt of a new connection may take, and how many it has.
const ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;
/// For an answer on a connection that lives, once the flood is over.
const ALIVE: Duration = Duration::from_secs(5);

/// An interface's part of the tables while there are few of them (ARCHITECTURE.md, "Flows"): they are shared out among 16.
const LIVE_SHARE: u64 = 262_144 / 16;
const HALF_OPEN_SHARE: u64 = 131_072 / 16;
/// What a program may breathe. It keeps nothing of the flows: they are in maps of a fixed size.
const BREATH: u64 = 8 << 20;

const NAMES: [&str; 6] = [
    "flood: SYNs with random sources to the open port of guest a",
    "flood: live connections of guest a that live on",
    "flood: new connections to guest a meanwhile",
    "flood: live connections of its neighbour, guest b",
    "flood: new connections to guest b meanwhile",
    "flood: flows of guest a, within its share; memory as before",
];

/// How much of everything.
struct Size {
    requests: u64,
    live: usize,
    new: u64,
    neighbor: usize,
}

pub fn run(table: &mut Table, bare: &Site, short: bool) -> Result<()> {
    if !NAMES.iter().any(|name| table.wants(name)) {
        return Ok(());
    }
    let size = if short {
        Size { requests: 100_000, live: 200, new: 100, neighbor: 50 }
    } else {
        Size { requests: 1_000_000, live: 1_000, new: 500, neighbor: 100 }
    };
    table.heading("the flood (connections: as many as were there, or were tried)");
    super::table::progress(&format!("{} SYNs", size.requests));
    // A site of its own: on the other, complaints about what went before would still be under way.
    let rows = Site::new(true).and_then(|site| scene(bare, &site, &size));
    let [requests, live, new, live_b, new_b, flows] = NAMES;
    let at_least = |number: u64| Through::AtLeast(number - number / 100);
    let expected = [
        (requests, Through::AtMost(size.requests)),
        (live, Through::All),
        (new, at_least(size.new)),
        (live_b, Through::All),
        (new_b, Through::All),
        (flows, Through::AtMost(LIVE_SHARE + HALF_OPEN_SHARE)),
    ];
    match rows {
        Ok(rows) => {
            for ((name, expected), seen) in expected.into_iter().zip(rows) {
                table.show(name, expected, Ok(seen));
            }
        }
        Err(error) => table.show(requests, Through::All, Err(error)),
    }
    Ok(())
}

fn scene(bare: &Site, site: &Site, size: &Size) -> Result<[Seen; 6]> {
    let (a, b) = (site.guest(0)?, site.guest(1)?);
    let daemon = site.daemon()?;
    let open = requests(bare, bare.guest(0)?, 1_000, &AtomicU64::new(0))?;

    let _servers = (Echo::serve(a)?, Echo::serve(b)?);
    let mut live_a = connections(site, a, size.live)?;
    let mut live_b = connections(site, b, size.neighbor)?;
    let memory = Memory::of(daemon)?;
    let before_b = site.status(&b.device)?;

    let progress = AtomicU64::new(0);
    let (flood, new_a, new_b) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let seen = requests(site, a, size.requests, &progress);
            // Whoever waits for more of it would wait for ever.
            progress.store(u64::MAX, Ordering::Relaxed);
            seen
        });
        let new_a = scope.spawn(|| meanwhile(site, a, size.new, size.requests, &progress));
        let new_b = scope.spawn(|| meanwhile(site, b, size.neighbor as u64, size.requests, &progress));
        let panicked = || anyhow!("a thread has panicked");
        (
            flood.join().unwrap_or_else(|_| Err(panicked())),
            new_a.join().unwrap_or_else(|_| Err(panicked())),
            new_b.join().unwrap_or_else(|_| Err(panicked())),
        )
    });
    let (mut flood, new_a, mut new_b) = (flood?, new_a?, new_b?);
    flood.check(open.sent > 0 && open.through == open.sent, || {
        format!("without the filter {} of {} came through", open.through, open.sent)
    });
    flood.check(flood.through > 0, || "nothing of the flood has reached the guest".to_owned());

    let alive_a = alive(&mut live_a);
    let alive_b = alive(&mut live_b);
    let after_b = site.status(&b.device)?;
    new_b.check(dropped(&after_b) == dropped(&before_b), || {
        format!("the filter has dropped packets of guest b: {}", since(&before_b, &after_b))
    });
    let flows = tables(daemon, a, &memory, size)?;
    Ok([flood, alive_a, new_a, alive_b, new_b, flows])
}

/// The flood itself.
fn requests(site: &Site, guest: &Guest, count: u64, progress: &AtomicU64) -> Result<Seen> {
    let IpAddr::V4(address) = guest.v4 else { bail!("{} is not IPv4", guest.v4) };
    let target = Target { from_mac: bytes(OUTSIDE_MAC)?, mac: bytes(&guest.mac)?, address, port: PORT };
    let ours =
        format!("tcp dst port {PORT} and tcp[13] = 2 and dst host {address} and not src net 10.0.0.0/24");
    let ends = Ends::new(site.outside(), &guest.netns, &ours)?;
    site.outside().run(|| syn::flood(DEVICE, target, count, progress))??;
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    seen.check(sent == count, || format!("{count} were to be sent"));
    Ok(seen)
}

fn bytes(mac: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    <[u8; 6]>::try_from(bytes).map_err(|_| anyhow!("{mac} is no hardware address"))
}

/// Sends back what it receives. Unlike the lab's, its threads sleep until there is something: there are a thousand of them.
struct Echo(Arc<AtomicBool>, SocketAddr, sg_tests::Netns);

impl Echo {
    fn serve(guest: &Guest) -> Result<Self> {
        let address = SocketAddr::from((guest.v4, PORT));
        let listener = guest.netns.run(|| TcpListener::bind(address))?.context("cannot listen")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let echo = move || echo_until_closed(stream);
                let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(echo);
            }
        });
        Ok(Self(stop, address, guest.netns.clone()))
    }
}

impl Drop for Echo {
    /// Wakes it up.
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.2.run(|| TcpStream::connect_timeout(&self.1, ATTEMPT));
    }
}

fn echo_until_closed(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
}

fn connections(site: &Site, guest: &Guest, count: usize) -> Result<Vec<TcpStream>> {
    let address = SocketAddr::from((guest.v4, PORT));
    let connect = |_| {
        let mut stream = TcpStream::connect_timeout(&address, ALIVE)?;
        exchange(&mut stream, ALIVE)?;
        Ok(stream)
    };
    site.outside().run(|| (0..count).map(connect).collect())?
}

/// Data both ways.
fn exchange(stream: &mut TcpStream, patience: Duration) -> Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"alive")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"alive", "another answer: {answer:?}");
    Ok(())
}

fn alive(streams: &mut [TcpStream]) -> Seen {
    let mut seen = Seen { sent: streams.len() as u64, ..Seen::default() };
    for stream in streams {
        match exchange(stream, ALIVE) {
            Ok(()) => seen.through += 1,
            Err(error) if seen.faults.is_empty() => seen.fault(format!("the first one lost: {error:#}")),
            Err(_) => {}
        }
    }
    seen
}

/// New connections, spread over the flood.
fn meanwhile(site: &Site, guest: &Guest, count: u64, requests: u64, progress: &AtomicU64) -> Result<Seen> {
    const WORKERS: u64 = 4;
    let address = SocketAddr::from((guest.v4, PORT));
    let done = AtomicU64::new(0);
    let worker = |first: u64| {
        let mut number = first;
        while number < count {
            while progress.load(Ordering::Relaxed) < requests * number / count {
                std::thread::sleep(Duration::from_millis(1));
            }
            let attempt = || {
                let begin = Instant::now();
                let right = TcpStream::connect_timeout(&address, ATTEMPT)
                    .map_err(anyhow::Error::from)
                    .and_then(|mut stream| exchange(&mut stream, ATTEMPT))
                    .is_ok();
                if !right {
                    std::thread::sleep(ATTEMPT.saturating_sub(begin.elapsed()));
                }
                right
            };
            if (0..ATTEMPTS).any(|_| attempt()) {
                done.fetch_add(1, Ordering::Relaxed);
            }
            number += WORKERS;
        }
    };
    site.outside().run(|| {
        std::thread::scope(|scope| {
            for first in 0..WORKERS {
                scope.spawn({
                    let worker = &worker;
                    move || worker(first)
                });
            }
        });
    })?;
    Ok(Seen { sent: count, through: done.into_inner(), faults: Vec::new() })
}

/// What the daemon and its maps take.
struct Memory {
    resident: u64,
    /// By the maps' ids.
    maps: BTreeMap<u64, u64>,
}

impl Memory {
    fn of(daemon: &Daemon) -> Result<Self> {
        let pid = daemon.pid().context("the daemon is not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = field(&status, "VmRSS:").context("no VmRSS")? * 1024;
        let mut maps = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
            // A descriptor may have been closed since the list was made.
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if let (Some(id), Some(bytes)) = (field(&text, "map_id:"), field(&text, "memlock:")) {
                maps.insert(id, bytes);
            }
        }
        ensure!(!maps.is_empty(), "the daemon has no maps");
        Ok(Self { resident, maps })
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the flood has left in the tables, and what it has cost.
fn tables(daemon: &Daemon, guest: &Guest, before: &Memory, size: &Size) -> Result<Seen> {
    // First, as the daemon needs memory to list the flows.
    let after = Memory::of(daemon)?;
    let output = daemon.sgctl(&["flows", "--json"])?;
    ensure!(output.status.success(), "sgctl flows: {}", String::from_utf8_lossy(&output.stderr).trim());
    let flows: Vec<Value> = serde_json::from_slice(&output.stdout).context("sgctl flows --json")?;
    let text =
        |flow: &Value, name: &str| flow.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ours: Vec<_> = flows.iter().filter(|flow| text(flow, "interface") == guest.device).collect();
    let established = ours.iter().filter(|flow| text(flow, "state").contains("established")).count();
    let half_open = ours.iter().filter(|flow| text(flow, "state").contains("syn")).count() as u64;
    let mut seen = Seen { sent: ours.len() as u64, through: ours.len() as u64, faults: Vec::new() };
    seen.check(half_open <= HALF_OPEN_SHARE, || format!("{half_open} flows are half-open"));
    seen.check(half_open > 0, || "no flow of the flood is there".to_owned());
    seen.check(established >= size.live, || format!("only {established} flows are established"));
    seen.check(after.maps == before.maps, || format!("maps: {:?} became {:?}", before.maps, after.maps));
    seen.check(after.resident <= before.resident + BREATH, || {
        format!("the daemon grew from {} to {} bytes", before.resident, after.resident)
    });
    Ok(seen)
}
