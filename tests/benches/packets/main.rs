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
mod minimal;
mod policy;
mod program;
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
use self::minimal::Minimal;
use self::policy::Size;
use self::session::{Hook, Session, What, plug};

/// How much of everything.
struct Effort {
    rounds: usize,
    /// Packets of a figure in each round; more if not every flow would come by.
    repeat: u32,
    sizes: Vec<Size>,
    /// Where very many flows come by, and whether they are of IPv6.
    many: Vec<(Hook, bool)>,
}

impl Effort {
    /// The kinds of programs at which very many flows come by: each kind's are in a table of their own.
    fn tables_of_many(&self) -> impl Iterator<Item = Kind> {
        [Kind::Xdp, Kind::Tc]
            .into_iter()
            .filter(|kind| self.many.iter().any(|(hook, _)| hook.kind() == *kind))
    }
}

/// Very many flows.
const MANY: u32 = 1 << 20;
/// A table that they nearly fill.
const ROOM: TableSizes = TableSizes::new(MANY + MANY / 8, TableSizes::HALF_OPEN);

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let quick = words.iter().any(|word| word == "quick");
    let few = |rules| Size { rules, members: 0 };
    let members = Size { rules: 10, members: 100_000 };
    let effort = if quick {
        let many = vec![(Hook::TcIngress, false), (Hook::TcEgress, false)];
        Effort { rounds: 3, repeat: 50_000, sizes: vec![few(10), few(10_000), members], many }
    } else {
        let sizes = vec![few(10), few(100), few(1000), few(10_000), members];
        let many = Hook::ALL.into_iter().flat_map(|hook| [(hook, false), (hook, true)]).collect();
        Effort { rounds: 7, repeat: 200_000, sizes, many }
    };
    // The cache of one CPU.
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let lab = Lab::new()?;
    let netns = lab.netns("bench")?;
    let sessions = effort.sizes.len() + effort.tables_of_many().count();
    let devices = (0..sessions).map(|number| plug(&netns, number)).collect::<Result<Vec<_>>>()?;
    netns.run(|| run(&effort, devices))?
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
    /// What the minimal filter took for the same, right before each.
    minimal: Vec<f64>,
}

impl Case {
    fn new((session, hook, v6): (usize, Hook, bool), what: What, flows: Option<u32>) -> Self {
        Self { session, hook, v6, what, flows, drivers: None, values: Vec::new(), minimal: Vec::new() }
    }

    /// Of each round. Every flow comes at least once, and of new flows each is another one anyway.
    fn packets(&self, effort: &Effort) -> u32 {
        match self.flows {
            Some(flows) if self.what != What::New => effort.repeat.max(flows),
            _ => effort.repeat,
        }
    }

    /// What the minimal filter can be asked instead, which is at TC ingress: it has no IPv6 and no answers.
    fn of_minimal(&self) -> Option<(What, Option<u32>)> {
        match (self.what, self.flows) {
            _ if self.v6 || self.hook != Hook::TcIngress => None,
            (What::Established, None) | (What::Denied | What::New, _) => Some((self.what, self.flows)),
            (What::Established, Some(flows)) if flows == SOME[1] => Some((What::Established, Some(flows))),
            _ => None,
        }
    }
}

/// Connections in random order, in tables as large as they are by default.
const SOME: [u32; 2] = [1 << 10, 1 << 16];

fn run(effort: &Effort, devices: Vec<[String; 2]>) -> Result<()> {
    let mut figures = Figures::open()?;
    let mut devices = devices.into_iter();
    let mut sessions = Vec::new();
    let mut cases = Vec::new();
    for (number, (size, devices)) in effort.sizes.iter().zip(&mut devices).enumerate() {
        let mut session = Session::open(devices, *size, TableSizes::default())?;
        // While the table is empty: each then has the slot that is its own, and what it costs is no chance.
        for hook in Hook::ALL {
            for v6 in [false, true] {
                for what in [What::Established, What::Reply] {
                    session.open_one(hook, v6, what)?;
                }
            }
        }
        for hook in Hook::ALL {
            for v6 in [false, true] {
                few(&mut cases, &mut session, (number, hook, v6))?;
            }
        }
        sessions.push(session);
    }
    for (kind, devices) in effort.tables_of_many().zip(devices) {
        let mut session = Session::open(devices, effort.sizes[0], ROOM)?;
        for (hook, v6) in effort.many.iter().filter(|(hook, _)| hook.kind() == kind) {
            many(&mut cases, &mut session, (sessions.len(), *hook, *v6))?;
        }
        sessions.push(session);
    }
    let empty = [bpf::empty(Kind::Tc)?, bpf::empty(Kind::Xdp)?];
    for case in &mut cases {
        if case.flows.is_some() {
            let target = sessions[case.session].program(case.hook);
            let driver = |target| Session::driver(case.hook, case.v6, case.what, target);
            case.drivers = Some([driver(target)?, driver(&empty[case.hook.kind() as usize])?]);
        }
    }
    let mut minimal = Minimal::new(&sessions[0], &empty[Kind::Tc as usize], SOME[1])?;
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
            if let Some(asked) = case.of_minimal() {
                let floor = floor[Kind::Tc as usize];
                let ns = minimal.measure(&sessions[0], asked, case.packets(effort), floor)?;
                case.minimal.push(ns);
            }
            let session = &mut sessions[case.session];
            let (hook, v6, what) = (case.hook, case.v6, case.what);
            let packets = case.packets(effort);
            let value = match (&case.drivers, case.flows) {
                (Some([real, nothing]), Some(flows)) => {
                    let with = f64::from(session.mixed(real, (hook, v6, what), flows, packets)?);
                    let without =
                        f64::from(session.unfiltered(nothing, (hook, v6, what), flows, effort.repeat)?);
                    let kind = hook.kind() as usize;
                    overheads[kind].push(without - floor[kind]);
                    with - without + floor[kind]
                }
                _ => f64::from(session.same(hook, v6, what, packets)?),
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
        cases.push(Case::new((number, hook, v6), what, flows));
    };
    for what in [What::Established, What::Reply, What::Denied] {
        add(what, None);
    }
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

fn many(cases: &mut Vec<Case>, session: &mut Session, (number, hook, v6): (usize, Hook, bool)) -> Result<()> {
    if hook != Hook::TcEgress {
        session.open_flows(hook, v6, MANY)?;
    }
    let (what, flows) = (what_passes(hook), Some(MANY));
    cases.push(Case::new((number, hook, v6), what, flows));
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
        "nanoseconds a packet, {} rounds of {} packets, or of each flow's if there are more, interleaved: median (least … most)",
        effort.rounds, effort.repeat
    );
    println!("what stands before the program to make other flows of the packet is taken off again");
    println!("×: of what a minimal filter took right before each; it has no states, no ranges and no IPv6\n");
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
        print!(
            "{hook:<12} {family:<6} {what:<12} {rules:>7} {members:>8} {flows:>9}  {}",
            Spread::of(&case.values)
        );
        let labels = json!({ "hook": hook, "family": family, "packet": what, "rules": rules, "members": members, "flows": flows });
        figures.add("packet", "ns", &labels, &case.values)?;
        if !case.minimal.is_empty() {
            let times: Vec<f64> = case.values.iter().zip(&case.minimal).map(|(ns, of)| ns / of).collect();
            print!(", {} × {}", Spread::of(&times), Spread::of(&case.minimal));
            figures.add("packet over the minimal filter", "×", &labels, &times)?;
            figures.add("minimal filter beside", "ns", &labels, &case.minimal)?;
        }
        println!();
    }
    Ok(())
}
