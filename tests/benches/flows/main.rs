//! How long `sgctl` takes to list, filter and count very many connections, and what packets of another one notice meanwhile.
//! Says figures, judges none.
//!
//! `cargo xtask bench flows` runs it, with programs that are built for release.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on stops where it is"
)]

#[path = "../fill.rs"]
mod fill;
mod table;
mod traffic;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sg_tests::{Daemon, Topology, binary};

use self::traffic::{Seen, Traffic};

const ROUNDS: usize = 5;

/// What is asked, and how many lines the answer has at least: with so many connections, of which so many are of each kind.
const QUESTIONS: [(&str, &[&str]); 11] = [
    ("--count", &["--count"]),
    ("--count-by interface,state", &["--count-by", "interface,state"]),
    ("--count-by remote --limit 20", &["--count-by", "remote", "--limit", "20"]),
    ("--interface tap0 --count", &["--interface", "tap0", "--count"]),
    ("--remote 198.51.7.0/24", &["--remote", "198.51.7.0/24"]),
    ("--admitted=false --count", &["--admitted=false", "--count"]),
    ("--limit 20", &["--limit", "20"]),
    ("--sort age --limit 20", &["--sort", "age", "--limit", "20"]),
    ("(all, text)", &[]),
    ("--json (all)", &["--json"]),
    ("--sort age --json-lines (all)", &["--sort", "age", "--json-lines"]),
];

fn main() {
    // `cargo bench` adds `--bench`.
    let flows: u32 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let site = Topology::with_guests(2).unwrap();
    let size = (flows + 1024).next_power_of_two().to_string();
    let daemon = Daemon::start_with(&site, &table::policy(&site), &["--live-flows", &size]).unwrap();
    let traffic = Traffic::start(&site);
    table::fill(&daemon, flows);
    let uname = nix::sys::utsname::uname().unwrap();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "Linux {}, {cpus} CPUs, load {}; sgd and sgctl of release: {}",
        uname.release().display(),
        load.split(' ').next().unwrap_or_default(),
        !cfg!(debug_assertions) || binary("sgd").unwrap().to_string_lossy().contains("/release/"),
    );
    println!("{flows} live flows, {ROUNDS} rounds, interleaved\n");

    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); QUESTIONS.len()];
    let mut seen: Vec<Seen> = (0..QUESTIONS.len()).map(|_| Seen::default()).collect();
    let mut idle = Seen::default();
    for _ in 0..ROUNDS {
        for (index, (_, arguments)) in QUESTIONS.iter().enumerate() {
            let quiet = Instant::now();
            std::thread::sleep(Duration::from_millis(500));
            let began = Instant::now();
            ask(&daemon, arguments);
            let ended = Instant::now();
            times[index].push(ended - began);
            // Answers to what was sent meanwhile.
            std::thread::sleep(Duration::from_millis(50));
            idle.add(&traffic, quiet, began);
            seen[index].add(&traffic, began, ended);
        }
    }
    println!("{:<32} {:>24}   a query's way through the filter and back, µs", "sgctl flows …", "ms");
    println!("{:<32} {:>24}   {}", "", "median (least … most)", Seen::head());
    println!("{:<32} {:>24}   {}", "(nothing is asked)", "", idle.text());
    for (index, (name, _)) in QUESTIONS.iter().enumerate() {
        println!("{name:<32} {:>24}   {}", spread(&mut times[index]), seen[index].text());
    }
    let lost = traffic.stop();
    println!(
        "\n{} queries, one each {:?}; {lost} were never answered",
        idle.sent_by_all(&seen),
        traffic::PACE
    );
}

/// As an operator does who keeps the answer in a file.
fn ask(daemon: &Daemon, arguments: &[&str]) {
    let status = Command::new(binary("sgctl").unwrap())
        .arg("--socket")
        .arg(daemon.socket())
        .arg("flows")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(daemon.state_dir().join("answer")).unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "sgctl flows {arguments:?}: {status}");
}

/// Milliseconds: median (least … most).
fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let [first, .., last] = times else { return "-".to_owned() };
    let (least, most) = (ms(*first), ms(*last));
    format!("{:.0} ({least:.0} … {most:.0})", ms(times[times.len() / 2]))
}
