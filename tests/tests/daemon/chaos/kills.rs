//! `kill -9`, again and again, under traffic.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sg_tests::Daemon;

use super::traffic::{the_policy, under_traffic};
use super::{Toll, long};
use crate::world::World;

struct Size {
    kills: u32,
    every: Duration,
    interfaces: usize,
}

fn size() -> Size {
    if long() {
        Size { kills: 60, every: Duration::from_secs(2), interfaces: 100 }
    } else {
        Size { kills: 4, every: Duration::from_millis(200), interfaces: 10 }
    }
}

/// Devices that have nothing to do but be there.
fn idle_devices(world: &World, count: usize) -> Vec<Value> {
    let mut script = String::new();
    let interfaces = (0..count)
        .map(|number| {
            let (device, peer) = (format!("idle{number}"), format!("ildi{number}"));
            writeln!(script, "link add {device} type veth peer name {peer}\nlink set {device} up").unwrap();
            let address = format!("10.9.{}.{}", number / 200, 1 + number % 200);
            json!({ "name": device, "addresses": [address], "security_groups": ["webs"] })
        })
        .collect();
    world.site.host.ip(&script).unwrap();
    interfaces
}

#[test]
fn spec_d20_killing_the_daemon_costs_neither_a_connection_nor_a_verdict() {
    let size = size();
    let world = World::new(2);
    let text = the_policy(&world, idle_devices(&world, size.interfaces - 2));
    let mut daemon = Daemon::start(&world.site, &text).unwrap();
    let mut restarts = Vec::new();
    let seconds = 3 + (size.every * size.kills).as_secs() + u64::from(size.kills);
    let cost = under_traffic(&world, &mut daemon, seconds, |daemon| {
        for _ in 0..size.kills {
            std::thread::sleep(size.every);
            daemon.kill();
            let begin = Instant::now();
            daemon.resume().unwrap();
            restarts.push(begin.elapsed());
        }
    });
    restarts.sort();
    let (median, slowest) = (restarts[restarts.len() / 2], restarts[restarts.len() - 1]);
    Toll {
        fault: "kill -9 of the daemon",
        times: restarts.len() as u64,
        lost: cost.lost,
        wrong: cost.wrong,
        note: format!(
            "{}; ready again with {} interfaces in {} ms (median), {} ms at most",
            cost.note,
            size.interfaces,
            median.as_millis(),
            slowest.as_millis()
        ),
    }
    .settle();
}
