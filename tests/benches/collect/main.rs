//! What it costs to collect the connections that are over, and how long a packet waits meanwhile. Says figures, judges none.
//!
//! `cargo xtask bench collect` runs it. The time is the kernel's, so the profile that this is built with does not matter.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on stops where it is"
)]

#[path = "../fill.rs"]
mod fill;
mod packets;
mod table;

use std::io;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use sg_tests::Lab;
use sg_tests::figures::Figures;

use self::packets::{Packets, Waits};
use self::table::{Fill, Table};

const ROUNDS: usize = 7;
/// The collector's CPU, and the one that sends packets and watches them.
const COLLECTOR: usize = 0;
const OTHER: usize = 1;

fn main() {
    // `cargo bench` adds `--bench`.
    let flows = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    assert!(cpus() >= 2, "one CPU collects and another watches: this takes a machine with two");
    let quick = std::env::args().any(|argument| argument == "quick");
    let lab = Lab::new().unwrap();
    let netns = lab.netns("bench").unwrap();
    netns.run(|| run(&lab, netns.name(), flows, quick)).unwrap();
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn run(lab: &Lab, netns: &str, flows: u32, quick: bool) {
    let uname = nix::sys::utsname::uname().unwrap();
    println!("Linux {}, {} CPUs, load {}", uname.release().display(), cpus(), load());
    let rounds = if quick { 3 } else { ROUNDS };
    println!("{flows} live flows of IPv4, {rounds} rounds; milliseconds: median (least … most)\n");
    let mut table = Table::open(lab, flows).unwrap();
    costs(&mut table, rounds, flows);
    if !quick {
        waits(&mut table, netns);
    }
    table.close();
}

/// The collector alone.
fn costs(table: &mut Table, rounds: usize, flows: u32) {
    pin_to(COLLECTOR);
    let fills = [Fill::All, Fill::Half, Fill::None];
    let mut cpu: [Vec<Duration>; 3] = Default::default();
    let mut wall: [Vec<Duration>; 3] = Default::default();
    // Interleaved, so that a neighbour's load falls on all of them.
    for _ in 0..rounds {
        for (index, fill) in fills.into_iter().enumerate() {
            table.fill(fill).unwrap();
            let (began, cpu_before) = (Instant::now(), thread_time());
            let collected = table.collect();
            cpu[index].push(thread_time().saturating_sub(cpu_before));
            wall[index].push(began.elapsed());
            table.check(fill, collected);
        }
    }
    println!("{:<24} {:>26} {:>26}", "one collection", "CPU", "wall");
    let mut figures = Figures::open().unwrap();
    for (index, fill) in fills.into_iter().enumerate() {
        let ms: Vec<f64> = cpu[index].iter().map(|time| time.as_secs_f64() * 1e3).collect();
        figures.add("collecting", "ms", &json!({ "flows": flows, "over": fill.text() }), &ms).unwrap();
        println!("{:<24} {:>26} {:>26}", fill.text(), spread(&mut cpu[index]), spread(&mut wall[index]));
    }
}

/// What a packet waits for the filter's verdict, with the collector at rest and at work.
fn waits(table: &mut Table, netns: &str) {
    println!(
        "\n{:<44} {:>8} {:>10} {:>10} {:>10}   microseconds",
        "a packet's wait for its verdict", "packets", "median", "99 %", "most"
    );
    for (name, cpu) in [("the collector's CPU", COLLECTOR), ("the other CPU", OTHER)] {
        packets::steer(netns, cpu).unwrap();
        let mut idle = Waits::default();
        let mut busy = Waits::default();
        let mut collecting = Vec::new();
        for _ in 0..ROUNDS {
            table.fill(Fill::All).unwrap();
            let packets = Packets::start(table.pins(), OTHER).unwrap();
            pin_to(COLLECTOR);
            std::thread::sleep(Duration::from_millis(100));
            let began = Instant::now();
            let collected = table.collect();
            let ended = Instant::now();
            std::thread::sleep(Duration::from_millis(100));
            table.check(Fill::All, collected);
            collecting.push(ended - began);
            for wait in packets.stop() {
                // Whatever had part in the collection, however short.
                let meanwhile = wait.sent < ended && wait.judged > began;
                (if meanwhile { &mut busy } else { &mut idle }).add(wait);
            }
        }
        println!("{:<44} {}", format!("{name}, idle"), idle.text());
        println!("{:<44} {}", format!("{name}, collecting {} ms", spread(&mut collecting)), busy.text());
    }
    threads(table);
}

/// A thread that wants to run on the collector's CPU: what packets wait that a thread hands over, as a worker of vhost does.
fn threads(table: &mut Table) {
    let mut late = Waits::default();
    for _ in 0..ROUNDS {
        table.fill(Fill::All).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                pin_to(COLLECTOR);
                let mut waits = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let sent = Instant::now();
                    std::thread::sleep(Duration::from_micros(200));
                    waits.push(packets::Wait { sent, judged: Instant::now() });
                }
                waits
            });
            std::thread::sleep(Duration::from_millis(50));
            let began = Instant::now();
            let collected = table.collect();
            let ended = Instant::now();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for wait in watcher.join().unwrap() {
                if wait.sent < ended && wait.judged > began {
                    late.add(wait);
                }
            }
            table.check(Fill::All, collected);
        });
    }
    println!("{:<44} {}", "a thread on the collector's CPU, after 200 µs", late.text());
}

fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills a live structure.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn load() -> String {
    let load: io::Result<String> = std::fs::read_to_string("/proc/loadavg");
    load.unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

/// Milliseconds: median (least … most).
fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let [first, .., last] = times else { return "-".to_owned() };
    let (least, most) = (ms(*first), ms(*last));
    format!("{:.1} ({least:.1} … {most:.1})", ms(times[times.len() / 2]))
}
