//! A paced stream of queries through the filter, and how long each has taken.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sg_tests::{Servers, Topology, outside};

pub const PORT: u16 = 7000;
/// One query each.
pub const PACE: Duration = Duration::from_millis(1);
/// An answer that takes longer is none.
const LOST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Query {
    sent: Instant,
    /// `None`: it was lost.
    took: Option<Duration>,
}

pub struct Traffic {
    stop: Arc<AtomicBool>,
    queries: Arc<Mutex<Vec<Query>>>,
    thread: JoinHandle<()>,
    _servers: Servers,
}

impl Traffic {
    /// Between the administrator and the first guest, of a flow that lives when this returns.
    pub fn start(site: &Topology) -> Self {
        let guest = site.guest(0).unwrap();
        let servers = guest.netns.serve_udp(&[(guest.v4, PORT).into()]).unwrap();
        let socket = site.outside.run(|| UdpSocket::bind((outside::ADMIN, 0))).unwrap().unwrap();
        socket.connect((guest.v4, PORT)).unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let queries = Arc::new(Mutex::new(Vec::new()));
        let traffic = Self {
            thread: {
                let (stop, queries) = (Arc::clone(&stop), Arc::clone(&queries));
                std::thread::spawn(move || ask(&socket, &stop, &queries))
            },
            stop,
            queries,
            _servers: servers,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while traffic.queries.lock().unwrap().iter().filter(|query| query.took.is_some()).count() < 10 {
            assert!(Instant::now() < deadline, "no query is answered");
            std::thread::sleep(PACE);
        }
        traffic
    }

    /// How many were lost.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.queries.lock().unwrap().iter().filter(|query| query.took.is_none()).count()
    }
}

fn ask(socket: &UdpSocket, stop: &AtomicBool, queries: &Mutex<Vec<Query>>) {
    let mut number = 0u64;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        number += 1;
        let sent = Instant::now();
        // Whoever was late does not hurry afterwards.
        next = sent + PACE;
        socket.send(&number.to_be_bytes()).unwrap();
        let mut buffer = [0; 16];
        let took = loop {
            match socket.recv(&mut buffer) {
                Ok(8) if buffer[..8] == number.to_be_bytes() => break Some(sent.elapsed()),
                // One that was given up.
                Ok(_) => {}
                Err(_) => break None,
            }
        };
        queries.lock().unwrap().push(Query { sent, took });
    }
}

/// What became of the queries of some time.
#[derive(Debug, Default)]
pub struct Seen {
    took: Vec<Duration>,
    lost: usize,
}

impl Seen {
    pub fn add(&mut self, traffic: &Traffic, from: Instant, to: Instant) {
        let queries = traffic.queries.lock().unwrap();
        for query in queries.iter().rev().skip_while(|query| query.sent > to) {
            // Those that had part in it, however short.
            if query.sent + query.took.unwrap_or(LOST) < from {
                break;
            }
            match query.took {
                Some(took) => self.took.push(took),
                None => self.lost += 1,
            }
        }
    }

    pub fn head() -> String {
        format!("{:>8} {:>8} {:>8} {:>8} {:>6}", "queries", "median", "99 %", "most", "lost")
    }

    pub fn text(&self) -> String {
        let mut took = self.took.clone();
        took.sort();
        let at = |part: usize| {
            let took = took.get((took.len() * part / 1000).min(took.len().saturating_sub(1)));
            took.map_or("-".to_owned(), |took| format!("{:.0}", took.as_secs_f64() * 1e6))
        };
        format!("{:>8} {:>8} {:>8} {:>8} {:>6}", took.len(), at(500), at(990), at(1000), self.lost)
    }

    pub fn sent_by_all(&self, others: &[Self]) -> usize {
        others.iter().chain([self]).map(|seen| seen.took.len() + seen.lost).sum()
    }
}
