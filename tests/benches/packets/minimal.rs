//! The least that a stateful filter of the usual maps does: what times of this machine, at this moment, are held against.
//!
//! IPv4 and TCP only, no states, no ranges, one direction: connections in the kernel's LRU hash by their 5-tuple, with the time in
//! place; for a new one, the remote's network in an LPM trie, and what that network may ask for in a hash. What such a filter took where
//! the bars were set stands in the report, beside what this one takes.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Result, ensure};
use sg_tests::bpf::{self, EXIT, Kind, instruction};

use super::driver::{Driver, Order};
use super::policy::{self, REMOTES_V4};
use super::program::{Line, code, resolve};
use super::session::{Hook, NEW_FLOWS, Session, What};

/// Connections that its table holds: twice as many as come by.
const ROOM: u32 = 1 << 17;
/// Rules, as many as a direction of the smallest policy has.
const NETWORKS: u32 = 10;

/// What it says of a packet; the driver says 0 of one that has not come here.
const KNOWN: u32 = 3;
const BEGUN: u32 = 4;
const DROPPED: u32 = 2;
/// Neither: not what it reads, or there was no room.
const FAILED: u32 = 5;

/// Two of them, so that new connections push none of the known ones out, and the drivers in front.
pub struct Minimal {
    known: Filter,
    new: Filter,
    nothing: Driver,
    order: Order,
    ifindex: u32,
}

struct Filter {
    program: OwnedFd,
    driver: Driver,
}

impl Minimal {
    /// Knows the connections that come by at a session's TC ingress hook, alone and as many.
    pub fn new(session: &Session, empty: &OwnedFd, flows: u32) -> Result<Self> {
        let driver = |target: &OwnedFd| Session::driver(Hook::TcIngress, false, What::New, target);
        let filter = || -> Result<Filter> {
            let program = load()?;
            Ok(Filter { driver: driver(&program)?, program })
        };
        let ifindex = session.ifindex(Hook::TcIngress)?;
        let order = Order::shuffled(1, NEW_FLOWS, REMOTES_V4.0);
        let minimal = Self { known: filter()?, new: filter()?, nothing: driver(empty)?, order, ifindex };
        let frame = frame(session, What::New);
        let run = bpf::run(&minimal.known.program, Kind::Tc, ifindex, &frame, 1)?;
        said(run.result, BEGUN)?;
        let run =
            minimal.known.driver.run(ifindex, &frame, Order::counting(0, flows, REMOTES_V4.0), flows)?;
        said(run.result, BEGUN)?;
        Ok(minimal)
    }

    /// Nanoseconds a packet, of the same packets as those of a session at TC ingress. `floor`: of an empty program.
    pub fn measure(
        &mut self,
        session: &Session,
        (what, flows): (What, Option<u32>),
        packets: u32,
        floor: f64,
    ) -> Result<f64> {
        let frame = frame(session, what);
        let Self { known, new, nothing, order: next, ifindex } = self;
        let (filter, expected) = match what {
            What::Denied => (new, DROPPED),
            What::New => (new, BEGUN),
            What::Established | What::Reply => (known, KNOWN),
        };
        let Some(flows) = flows else {
            let run = bpf::run(&filter.program, Kind::Tc, *ifindex, &frame, packets)?;
            said(run.result, expected)?;
            return Ok(f64::from(run.nanoseconds));
        };
        let order = if what == What::New {
            std::mem::replace(next, next.after(packets))
        } else {
            // Each has come by once before it counts, as with sgd.
            let order = Order::shuffled(1, flows, REMOTES_V4.0);
            filter.driver.run(*ifindex, &frame, order, flows)?;
            order
        };
        let with = filter.driver.run(*ifindex, &frame, order, packets)?;
        said(with.result, expected)?;
        let without = nothing.run(*ifindex, &frame, order, packets)?;
        Ok(f64::from(with.nanoseconds) - f64::from(without.nanoseconds) + floor)
    }
}

/// By its last packet: a figure for packets that were something else would be none.
fn said(result: u32, expected: u32) -> Result<()> {
    ensure!(result == expected, "the minimal filter said {result} of a packet, not {expected}");
    Ok(())
}

fn frame(session: &Session, what: What) -> Vec<u8> {
    session.packet(Hook::TcIngress, false, what).frame()
}

fn load() -> Result<OwnedFd> {
    let flows = bpf::map_of(bpf::LRU_HASH, [16, 8], ROOM, 0)?;
    let networks = bpf::map_of(bpf::LPM_TRIE, [8, 4], NETWORKS, bpf::NO_PREALLOC)?;
    let rules = bpf::map_of(bpf::HASH, [8, 4], 4 * NETWORKS, 0)?;
    for number in 0..NETWORKS {
        // The first is that of all remotes.
        let (address, length) =
            if number == 0 { (REMOTES_V4.0, 15u32) } else { (0xac10_0000 + (number << 8), 24) };
        bpf::put(&networks, &[length.to_ne_bytes(), address.to_be_bytes()].concat(), &number.to_ne_bytes())?;
        let asked = u32::from(policy::ASKED.to_be());
        bpf::put(&rules, &[number.to_ne_bytes(), asked.to_ne_bytes()].concat(), &1u32.to_ne_bytes())?;
    }
    bpf::load(Kind::Tc, &resolve(&lines(&flows, &networks, &rules)))
}

/// More codes, and numbers of helpers (include/uapi/linux/bpf.h).
fn lines(flows: &OwnedFd, networks: &OwnedFd, rules: &OwnedFd) -> Vec<Line> {
    use Line::{Do, Here, Jump};
    use code::{ADD_CONSTANT, CALL, IF_MORE, LOAD_MAP, LOAD_WORD, MOVE, MOVE_CONSTANT, STORE_WORD};
    const LOAD_HALF: u8 = 0x69;
    const LOAD_BYTE: u8 = 0x71;
    const STORE_LONG: u8 = 0x7b;
    const STORE_CONSTANT: u8 = 0x62;
    const IF_NOT_CONSTANT: u8 = 0x55;
    const IF_NULL: u64 = instruction(0x15, 0, 0, 0, 0);
    const IF_NOT_NULL: u64 = instruction(IF_NOT_CONSTANT, 0, 0, 0, 0);
    const LOOK_UP: i32 = 1;
    const UPDATE: i32 = 2;
    const COARSE_TIME: i32 = 160;
    // Where keys and the value are on the stack.
    const FLOW: i16 = -16;
    const NETWORK: i16 = -24;
    const RULE: i16 = -32;
    const TIME: i16 = -40;
    let i = |code, to, from, offset, constant| Do(instruction(code, to, from, offset, constant));
    let with_key =
        |register: u8, at: i16| [i(MOVE, register, 10, 0, 0), i(ADD_CONSTANT, register, 0, 0, i32::from(at))];
    // BPF_PSEUDO_MAP_FD
    let with_map = |map: &OwnedFd| [i(LOAD_MAP, 1, 1, 0, map.as_raw_fd()), Do(0)];
    let look_up = |map: &OwnedFd, key| {
        let [a, b] = with_map(map);
        let [c, d] = with_key(2, key);
        [a, b, c, d, i(CALL, 0, 0, 0, LOOK_UP)]
    };
    let copy = |code, offset, to| [i(code, 1, 7, offset, 0), i(STORE_WORD, 10, 1, to, 0)];
    let mut lines = vec![
        // `data` and `data_end` of `struct __sk_buff`
        i(LOAD_WORD, 7, 1, 76, 0),
        i(LOAD_WORD, 8, 1, 80, 0),
        i(MOVE, 2, 7, 0, 0),
        i(ADD_CONSTANT, 2, 0, 0, 54),
        Jump(instruction(IF_MORE, 2, 8, 0, 0), "fail"),
        i(LOAD_HALF, 1, 7, 12, 0),
        Jump(instruction(IF_NOT_CONSTANT, 1, 0, 0, i32::from(0x0800u16.to_be())), "fail"),
    ];
    lines.extend(copy(LOAD_WORD, 26, FLOW));
    lines.extend(copy(LOAD_WORD, 30, FLOW + 4));
    lines.extend(copy(LOAD_WORD, 34, FLOW + 8));
    lines.extend(copy(LOAD_BYTE, 23, FLOW + 12));
    lines.extend(look_up(flows, FLOW));
    lines.push(Jump(IF_NULL, "new"));
    lines.extend([
        i(MOVE, 9, 0, 0, 0),
        i(CALL, 0, 0, 0, COARSE_TIME),
        i(STORE_LONG, 9, 0, 0, 0),
        i(MOVE_CONSTANT, 0, 0, 0, KNOWN as i32),
        Do(EXIT),
        Here("new"),
        i(STORE_CONSTANT, 10, 0, NETWORK, 32),
    ]);
    lines.extend(copy(LOAD_WORD, 30, NETWORK + 4));
    lines.extend(look_up(networks, NETWORK));
    lines.push(Jump(IF_NULL, "drop"));
    lines.extend([i(LOAD_WORD, 1, 0, 0, 0), i(STORE_WORD, 10, 1, RULE, 0)]);
    lines.extend(copy(LOAD_HALF, 36, RULE + 4));
    lines.extend(look_up(rules, RULE));
    lines.push(Jump(IF_NULL, "drop"));
    lines.extend([i(CALL, 0, 0, 0, COARSE_TIME), i(STORE_LONG, 10, 0, TIME, 0)]);
    lines.extend(with_map(flows));
    lines.extend(with_key(2, FLOW));
    lines.extend(with_key(3, TIME));
    lines.extend([
        i(MOVE_CONSTANT, 4, 0, 0, 0),
        i(CALL, 0, 0, 0, UPDATE),
        Jump(IF_NOT_NULL, "fail"),
        i(MOVE_CONSTANT, 0, 0, 0, BEGUN as i32),
        Do(EXIT),
        Here("fail"),
        i(MOVE_CONSTANT, 0, 0, 0, FAILED as i32),
        Do(EXIT),
        Here("drop"),
        i(MOVE_CONSTANT, 0, 0, 0, DROPPED as i32),
        Do(EXIT),
    ]);
    lines
}
