//! Rows made with scapy: each case from behind XDP, from behind TC, and from outside.

use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, anyhow};
use serde_json::{Map, Value};
use sg_tests::Netns;

use super::cases::{self, By, Case};
use super::identity;
use super::scapy::{self, Scapy, marked};
use super::site::{Ends, POLICY, Site, reason};
use super::table::{Seen, Table};

/// One site's senders.
struct Senders {
    guests: [Scapy; 3],
    outside: Scapy,
}

const A: usize = 0;
const B: usize = 1;
/// The one with an address of one family.
const D: usize = 2;

impl Senders {
    fn new(site: &Site) -> Result<Self> {
        let [a, b, d] = [site.guest(0)?, site.guest(1)?, site.guest(3)?];
        let mut senders = Self {
            guests: [Scapy::guest(site, a, b)?, Scapy::guest(site, b, a)?, Scapy::guest(site, d, a)?],
            outside: Scapy::outside(site, a)?,
        };
        for sender in senders.guests.iter_mut().chain([&mut senders.outside]) {
            sender.ready()?;
        }
        Ok(senders)
    }
}

/// Who attacks in a section of the table.
#[derive(Debug, Clone, Copy)]
enum Sender {
    Guest(usize),
    Outside,
}

impl Sender {
    fn tries(self, from: By) -> bool {
        match self {
            Self::Guest(_) => from != By::Outside,
            Self::Outside => matches!(from, By::Both | By::Outside),
        }
    }
}

pub fn run(table: &mut Table, bare: &Site, filtered: &Site) -> Result<()> {
    let every = [cases::FRAGMENTS, cases::HEADERS, cases::ERRORS, identity::IDENTITY].concat();
    let others = [identity::ANY_LINK_LOCAL, identity::OTHER_FAMILY].concat();
    if !every.iter().chain(&others).any(|case| table.wants(case.name)) {
        return Ok(());
    }
    let (mut open, mut closed) = std::thread::scope(|scope| {
        let open = scope.spawn(|| Senders::new(bare));
        let closed = Senders::new(filtered);
        let open = open.join().unwrap_or_else(|_| Err(anyhow!("a thread has panicked")));
        Ok::<_, anyhow::Error>((open?, closed?))
    })?;
    let mut stage = Stage { table, bare, filtered, open: &mut open, closed: &mut closed };
    stage.section("scapy: from guest a, through XDP", Sender::Guest(A), &every)?;
    stage.section("scapy: from guest b, through TC", Sender::Guest(B), &every)?;
    stage.section("scapy: from outside to guest a", Sender::Outside, &every)?;
    stage.section(
        "scapy: from guest d, which has IPv4 addresses only",
        Sender::Guest(D),
        identity::OTHER_FAMILY,
    )?;
    if others.iter().any(|case| stage.table.wants(case.name)) {
        filtered.daemon()?.apply(&POLICY.replace("\"derived\"", "\"any\""))?;
        for (name, guest) in [("XDP", A), ("TC", B)] {
            let heading = format!("scapy: guests may use any link-local address ({name})");
            stage.section(&heading, Sender::Guest(guest), identity::ANY_LINK_LOCAL)?;
        }
        filtered.daemon()?.apply(POLICY)?;
    }
    Ok(())
}

struct Stage<'a> {
    table: &'a mut Table,
    bare: &'a Site,
    filtered: &'a Site,
    open: &'a mut Senders,
    closed: &'a mut Senders,
}

impl Stage<'_> {
    fn section(&mut self, heading: &str, sender: Sender, cases: &[Case]) -> Result<()> {
        let wanted: Vec<_> =
            cases.iter().filter(|case| sender.tries(case.from) && self.table.wants(case.name)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.table.heading(heading);
        for case in wanted {
            let Self { table, bare, filtered, open, closed } = self;
            table.row(case.name, case.through, || both(case, sender, bare, open, filtered, closed));
        }
        Ok(())
    }
}

/// Tries a case on both sites at once.
fn both(
    case: &Case,
    sender: Sender,
    bare: &Site,
    open: &mut Senders,
    filtered: &Site,
    closed: &mut Senders,
) -> Result<Seen> {
    /// Marks the packets of a case: what follows must not be taken for fragments of what went before.
    static NEXT: AtomicU16 = AtomicU16::new(0x4000);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (open, closed) = std::thread::scope(|scope| {
        let open = scope.spawn(|| attempt(case, sender, id, bare, open));
        let closed = attempt(case, sender, id, filtered, closed);
        (open.join().unwrap_or_else(|_| Err(anyhow!("a thread has panicked"))), closed)
    });
    let (open, mut seen) = (open?, closed?);
    seen.check(open.through == open.sent && open.sent == seen.sent, || {
        format!("without the filter {} of {} came through", open.through, open.sent)
    });
    Ok(seen)
}

fn attempt(case: &Case, sender: Sender, id: u16, site: &Site, senders: &mut Senders) -> Result<Seen> {
    let [a, b, d] = &mut senders.guests;
    let outside = &mut senders.outside;
    let (me, peer, neighbor, device): (&mut Scapy, &mut Scapy, Netns, &str) = match sender {
        Sender::Guest(A) => (a, outside, b.netns.clone(), "tap0"),
        Sender::Guest(B) => (b, outside, a.netns.clone(), "tap1"),
        Sender::Guest(_) => (d, outside, a.netns.clone(), "tap3"),
        Sender::Outside => (outside, a, site.guest(0)?.netns.clone(), "tap0"),
    };
    let target = match case.from {
        By::Neighbor => neighbor,
        _ if matches!(sender, Sender::Outside) => neighbor,
        _ => site.outside().clone(),
    };
    if let Some(before) = case.before {
        // Outside answers whoever attacks it; the guest that is attacked asks the outside, as ever.
        let whom = match sender {
            Sender::Guest(B) => scapy::peer(site.guest(1)?),
            Sender::Guest(_) | Sender::Outside => Value::Object(Map::new()),
        };
        peer.send_to(id, before, &me.netns, &whom)?;
    }
    let expression = case.counted.map_or_else(|| marked(id), ToOwned::to_owned);
    let before = site.status(device)?;
    let ends = Ends::new(&me.netns, &target, &expression)?;
    me.send(id, case.frames, &target)?;
    let (sent, through) = ends.now()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if site.daemon.is_some() && !case.reasons.is_empty() {
        let after = site.status(device)?;
        let counted: u64 =
            case.reasons.iter().map(|name| reason(&after, name).saturating_sub(reason(&before, name))).sum();
        let wanted = if through < sent { sent - through } else { 1 };
        seen.check(counted >= wanted, || {
            format!("the filter has counted {counted} as {}", case.reasons.join(" or "))
        });
    }
    Ok(seen)
}
