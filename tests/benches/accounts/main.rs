//! What it costs a packet to be counted in the account of its flow. Says figures, judges none.
//!
//! `cargo xtask bench accounts` runs it. The time is the kernel's own, for test runs of the loaded program, so the profile that this is
//! built with does not matter.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on stops where it is"
)]

#[path = "../fill.rs"]
mod fill;
#[path = "../collect/table.rs"]
#[expect(dead_code, reason = "of the table, this bench only wants a filtered device")]
mod table;

use std::fs;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use sg_common::abi::{self, Control, map, program};
use sg_tests::Lab;

use self::table::{DEVICE, GUEST, Table};

const ROUNDS: usize = 101;
/// Runs of the program in each round.
const REPEAT: u32 = 100_000;

fn main() {
    let lab = Lab::new().unwrap();
    let netns = lab.netns("bench").unwrap();
    netns.run(|| run(&lab)).unwrap();
}

fn run(lab: &Lab) {
    let table = Table::open(lab, 65_536).unwrap();
    let pins = table.pins().join(format!("v{}", abi::ABI_VERSION));
    let program = loaded(&pins, program::TC_INGRESS);
    let control = MapData::from_pin(pins.join("maps").join(map::CONTROL)).unwrap();
    let mut control: Array<MapData, Control> = Map::Array(control).try_into().unwrap();
    let ifindex = nix::net::if_::if_nametoindex(DEVICE).unwrap();
    println!("nanoseconds a packet, {ROUNDS} rounds of {REPEAT} runs, interleaved; median (least … most)\n");
    println!("{:<44} {:>22} {:>22} {:>7}", "IPv4, UDP, TC ingress", "not counted", "counted", "ratio");
    for (what, frame) in [
        ("an established flow", frame(53, GUEST)),
        ("dropped: a source that is not the guest's", frame(53, [10, 0, 0, 6])),
    ] {
        let mut nanoseconds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (on, figures) in nanoseconds.iter_mut().enumerate() {
                let before = control.get(&0, 0).unwrap();
                control.set(0, Control { account: on as u64, ..before }, 0).unwrap();
                figures.push(time(&program, ifindex, &frame));
            }
        }
        let [off, on] = nanoseconds.map(spread);
        println!("{what:<44} {:>22} {:>22} {:>7.2}", off.1, on.1, on.0 as f64 / off.0 as f64);
    }
    table.close();
}

/// The program that the daemon has loaded and pinned.
fn loaded(pins: &Path, name: &str) -> SchedClassifier {
    let directory = fs::read_dir(pins.join("programs")).unwrap().next().unwrap().unwrap().path();
    SchedClassifier::from_pin(directory.join(name)).unwrap()
}

/// Nanoseconds of one run, on the average.
fn time(program: &SchedClassifier, ifindex: u32, frame: &[u8]) -> u64 {
    // `struct __sk_buff`, include/uapi/linux/bpf.h: `ifindex` is its eleventh word.
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat: REPEAT,
        ..TestRunOptions::new()
    };
    u64::try_from(program.test_run(options).unwrap().duration.as_nanos()).unwrap()
}

/// A datagram of 64 bytes from the guest's port 5000.
fn frame(port: u16, source: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 5, 0x08, 0x00];
    frame.extend([0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend([198, 51, 100, 7]);
    frame.extend(5000u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 30, 0, 0]);
    frame.resize(64, 7);
    frame
}

fn spread(mut figures: Vec<u64>) -> (u64, String) {
    figures.sort_unstable();
    let (least, most) = (figures[0], figures[figures.len() - 1]);
    let median = figures[figures.len() / 2];
    (median, format!("{median} ({least} … {most})"))
}
