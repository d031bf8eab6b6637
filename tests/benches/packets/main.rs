//! What a packet costs in the programs that are loaded: established, reply, new, denied; IPv4 and IPv6; XDP and TC; with few rules and
//! with many; of one flow and of very many in random order. Says figures, judges none.
//!
//! `cargo xtask bench packets` runs it. The time is the kernel's own, for test runs, so the profile that this is built with does not
//! matter. Every packet of a figure is also looked up in the filter's counters: it has to have been what the figure says.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on stops where it is"
)]

mod driver;
mod policy;
mod session;

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use sg_daemon::kernel::TableSizes;
use sg_tests::Lab;
use sg_tests::bpf::{self, Kind};
use sg_tests::figures::{Figures, Spread};

use self::driver::Driver;
use self::policy::Size;
use self::session::{Hook, Session, What, plug};

/// How much of everything.
struct Effort {
    rounds: usize,
    /// Packets of a figure in each round.
    repeat: u32,
    sizes: Vec<Size>,
    /// Flows, by the session they are in: the last is one with a table for all of them.
    many: u32,
    members: usize,
}

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let quick = words.iter().any(|word| word == "quick");
    let effort = if quick {
        Effort {
            rounds: 3,
            repeat: 50_000,
            sizes: vec![Size { rules: 10, members: 0 }, Size { rules: 10_000, members: 0 }],
            many: 1 << 20,
            members: 0,
        }
    } else {
        let sizes = [10, 100, 1000, 10_000].map(|rules| Size { rules, members: 0 });
        Effort { rounds: 7, repeat: 200_000, sizes: sizes.to_vec(), many: 1 << 20, members: 100_000 }
    };
    // The cache of one CPU.
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let lab = Lab::new()?;
    let netns = lab.netns("bench")?;
    let mut sizes = effort.sizes.clone();
    if effort.members > 0 {
        sizes.push(Size { rules: 10, members: effort.members });
    }
    let devices = (0..=sizes.len()).map(|number| plug(&netns, number)).collect::<Result<Vec<_>>>()?;
    netns.run(|| run(&effort, &sizes, devices))?
}

/// One figure.
struct Case {
    session: usize,
    hook: Hook,
    v6: bool,
    what: What,
    /// None: the packets are all the same, and nothing stands in front of the program.
    flows: Option<u32>,
    /// In front of the program, and of one that does nothing.
    drivers: Option<[Driver; 2]>,
    /// Nanoseconds of each round.
    values: Vec<f64>,
}

/// Connections in random order, in tables as large as they are by default.
const SOME: [u32; 2] = [1 << 10, 1 << 16];

fn run(effort: &Effort, sizes: &[Size], mut devices: Vec<[String; 2]>) -> Result<()> {
    let mut figures = Figures::open()?;
    let large = devices.pop().unwrap();
    let mut sessions = Vec::new();
    for (size, devices) in sizes.iter().zip(devices) {
        sessions.push(Session::open(devices, *size, TableSizes::default())?);
    }
    let room = TableSizes::new(effort.many + effort.many / 8, TableSizes::HALF_OPEN);
    sessions.push(Session::open(large, sizes[0], room)?);
    let mut cases = Vec::new();
    for (number, session) in sessions.iter_mut().enumerate() {
        let last = number == sizes.len();
        for hook in Hook::ALL {
            for v6 in [false, true] {
                if last {
                    many(&mut cases, session, (number, hook, v6), effort.many)?;
                } else {
                    few(&mut cases, session, (number, hook, v6))?;
                }
            }
        }
    }
    let empty = [bpf::empty(Kind::Tc)?, bpf::empty(Kind::Xdp)?];
    for case in &mut cases {
        if case.flows.is_some() {
            let target = sessions[case.session].program(case.hook);
            let driver = |target| Session::driver(case.hook, case.v6, case.what, target);
            case.drivers = Some([driver(target)?, driver(&empty[case.hook.kind() as usize])?]);
        }
    }
    let mut floors = [Vec::new(), Vec::new()];
    let mut overheads = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        // Interleaved, so that a neighbour's load falls on all of them.
        let mut floor = [0.0; 2];
        for kind in [Kind::Tc, Kind::Xdp] {
            let frame = [0u8; 64];
            let program = &empty[kind as usize];
            let ns = f64::from(
                bpf::run(program, kind, sessions[0].ifindex(hook_of(kind))?, &frame, effort.repeat)?
                    .nanoseconds,
            );
            floor[kind as usize] = ns;
            floors[kind as usize].push(ns);
        }
        for case in &mut cases {
            let session = &mut sessions[case.session];
            let (hook, v6, what) = (case.hook, case.v6, case.what);
            let value = match (&case.drivers, case.flows) {
                (Some([real, nothing]), Some(flows)) => {
                    let with =
                        f64::from(session.mixed(real, (hook, v6, what), flows, effort.repeat, true)?);
                    let without =
                        f64::from(session.mixed(nothing, (hook, v6, what), flows, effort.repeat, false)?);
                    let kind = hook.kind() as usize;
                    overheads[kind].push(without - floor[kind]);
                    with - without + floor[kind]
                }
                _ => f64::from(session.same(hook, v6, what, effort.repeat)?),
            };
            case.values.push(value);
        }
    }
    report(&mut figures, effort, &sessions, &cases, &floors, &overheads)?;
    sessions.into_iter().try_for_each(Session::close)
}

fn hook_of(kind: Kind) -> Hook {
    if kind == Kind::Xdp { Hook::XdpIngress } else { Hook::TcIngress }
}

fn few(cases: &mut Vec<Case>, session: &mut Session, (number, hook, v6): (usize, Hook, bool)) -> Result<()> {
    let mut add = |what, flows| {
        cases.push(Case { session: number, hook, v6, what, flows, drivers: None, values: Vec::new() });
    };
    for what in [What::Established, What::Reply] {
        session.open_one(hook, v6, what)?;
        add(what, None);
    }
    add(What::Denied, None);
    add(What::New, Some(session::NEW_FLOWS));
    // Connections are what they are, whatever the rules.
    if number == 0 {
        add(what_passes(hook), Some(1));
        if hook != Hook::TcEgress {
            session.open_flows(hook, v6, SOME[1])?;
        }
        for flows in SOME {
            add(what_passes(hook), Some(flows));
        }
    }
    Ok(())
}

/// What comes by of the connections that guests have opened.
fn what_passes(hook: Hook) -> What {
    if hook == Hook::TcEgress { What::Reply } else { What::Established }
}

/// A table that is nearly full of IPv4, on TC.
fn many(
    cases: &mut Vec<Case>,
    session: &mut Session,
    (number, hook, v6): (usize, Hook, bool),
    flows: u32,
) -> Result<()> {
    if v6 || hook == Hook::XdpIngress {
        return Ok(());
    }
    if hook == Hook::TcIngress {
        session.open_flows(hook, v6, flows)?;
    }
    let what = what_passes(hook);
    cases.push(Case {
        session: number,
        hook,
        v6,
        what,
        flows: Some(flows),
        drivers: None,
        values: Vec::new(),
    });
    Ok(())
}

fn report(
    figures: &mut Figures,
    effort: &Effort,
    sessions: &[Session],
    cases: &[Case],
    floors: &[Vec<f64>; 2],
    overheads: &[Vec<f64>; 2],
) -> Result<()> {
    println!(
        "nanoseconds a packet, {} rounds of {} packets, interleaved: median (least … most)",
        effort.rounds, effort.repeat
    );
    println!("what stands before the program to make other flows of the packet is taken off again\n");
    println!(
        "{:<12} {:<6} {:<12} {:>7} {:>8} {:>9}  ns",
        "hook", "family", "packet", "rules", "members", "flows"
    );
    for kind in [Kind::Xdp, Kind::Tc] {
        let name = if kind == Kind::Xdp { "XDP" } else { "TC" };
        for (figure, values) in
            [("empty program", &floors[kind as usize]), ("driver", &overheads[kind as usize])]
        {
            println!("{name:<12} {:<6} {figure:<38}  {}", "", Spread::of(values));
            figures.add(figure, "ns", &json!({ "hook": name }), values)?;
        }
    }
    for case in cases {
        let Size { rules, members } = sessions[case.session].size;
        let family = if case.v6 { "IPv6" } else { "IPv4" };
        let (hook, what) = (case.hook.name(), case.what.name());
        let flows = match case.flows {
            None => "same".to_owned(),
            Some(_) if case.what == What::New => "each".to_owned(),
            Some(flows) => flows.to_string(),
        };
        println!(
            "{hook:<12} {family:<6} {what:<12} {rules:>7} {members:>8} {flows:>9}  {}",
            Spread::of(&case.values)
        );
        let labels = json!({ "hook": hook, "family": family, "packet": what, "rules": rules, "members": members, "flows": flows });
        figures.add("packet", "ns", &labels, &case.values)?;
    }
    Ok(())
}
