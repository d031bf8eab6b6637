//! One packet, one verdict.

use core::hint::black_box;

use crate::abi::{
    Account, COUNTED_TWICE, Datagram, Direction, FLAG_AUDIT, FLAG_ROLE_HOST, FLAG_STRICT_TCP, Flow,
    GUARD_VLAN, HANDED_ON, Hook, INTERFACE_PROBES, Interface, InterfaceHalf, MAX_INTERFACES, PairKey,
    REASON_SLOTS, Row, WOULD_DROP, counter_index, interface_slot, packet_kind, row_of,
};
use crate::account::{self, Counted};
use crate::baseline::{GuardFamily, Guarded};
use crate::checksum;
use crate::classify::{classify, look_ahead_for_member};
use crate::conntrack::{self, Change, FlowRef, Insertion, Known, Standing, State};
use crate::family::{Aligned, V4, V6};
use crate::fragment;
use crate::packet::{
    ETHERNET_BYTES, Ethernet, Ip, Kind, Opaque, Packet, ReadIp, Transport, VlanTag, ether_type, load,
    opposite, protocol, quoted_ports, read_transport, store,
};
use crate::table::Taken;
use crate::tcp::Segment;
use crate::verdict::{Action, AdmittedBy, FIRST_DROP, Reason, Verdict};

/// What holds for everything that is asked about one packet.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// [`crate::abi::Control::generation`], loaded once.
    pub generation: u64,
    /// Jiffies since boot, with [`crate::abi::Control::clock_offset`].
    pub now: u64,
}

/// The tables that do not depend on the address family.
pub trait Environment {
    /// Judge, but change nothing.
    const DRY_RUN: bool;

    fn moment(&self) -> Option<Moment>;
    /// The entry at `index` of [`crate::abi::INTERFACE_SLOTS`]. What is in force does not change while a packet can see it.
    fn interface(&self, index: u32) -> Option<&Interface>;
    fn pair(&self, key: &PairKey) -> Option<&Row>;
    fn port_table_contains(&self, index: u32, number: u16) -> bool;
    /// Adds to the number of an interface's live flows; returns what it was.
    fn add_live(&self, row: u32, change: i64) -> u64;
    /// [`crate::abi::Control::watch_unknown`].
    #[inline(always)]
    fn watch_unknown(&self) -> u32 {
        0
    }
    /// Whether packets are to be counted flow by flow.
    fn is_accounting(&self) -> bool;
    /// Adds to [`crate::abi::Share::accounts`]; returns what it was, and how many there may be.
    fn accounts(&self, row: u32, change: u64) -> Option<(u64, u32)>;
    /// Counts a packet of the interface that is in no account.
    fn count_unrecorded(&self, row: u32);
}

/// What is read from a packet.
///
/// It stands in map memory, one for each CPU, and not on the stack: of which there are 512 bytes, and which the verifier
/// remembers value by value, so that every way through the headers would be followed through all that comes after.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Scratch<F: ReadIp> {
    pub ip: Ip<F>,
    pub transport: Transport,
    pub key: Aligned<F::FlowKey>,
    /// For [`crate::account`].
    pub account: F::AccountKey,
    /// For [`crate::fragment`].
    pub datagram: Datagram,
    pub joined: fragment::Range,
    /// The datagram's key, and that of the one whose place it takes.
    pub piece: F::FragmentKey,
    pub oldest: F::FragmentKey,
    /// For [`crate::fragment`], and for loops over options.
    pub free: u32,
    /// The packet's flow was found, and is over: 1, else 0.
    pub over: u32,
    /// The flow that the packet begins.
    pub flow: Flow,
    /// For [`conntrack::known`].
    pub change: Change,
    pub verdict: Verdict,
    /// What has come of reading the headers.
    pub read: Result<(), Reason>,
    /// Where the IP header begins, if it was read.
    pub network: u32,
}

/// The tables of one address family.
pub trait Tables<F: ReadIp>: Environment {
    /// Memory of this CPU's own, with anything in it.
    #[expect(
        clippy::mut_from_ref,
        reason = "no program interrupts another on one CPU, and holds it once at a time"
    )]
    fn scratch(&self) -> Option<&mut Scratch<F>>;

    /// Longest match.
    fn class(&self, key: &F::ClassKey) -> Option<&Row>;
    /// The membership set of an address in a generation of this parity; 0 if it is in no group.
    fn member_set(&self, key: &F::MemberKey, parity: u32) -> u32;
    /// Looks where [`Self::member_set`] will look: what it finds there comes from memory meanwhile.
    #[inline(always)]
    fn look_ahead_for_member(&self, _key: &F::MemberKey) {}
    /// Whether the address is among those that the guard lets a guest use.
    fn owns(&self, key: &F::OwnKey) -> bool;

    /// The flow of a key, half-open or live.
    fn flow(&self, key: &Aligned<F::FlowKey>) -> Option<FlowRef<'_>>;
    /// Adds a half-open flow, which takes its place in the ring; the flow that has the place, if it is half-open still, goes.
    fn begin(&self, key: &Aligned<F::FlowKey>, flow: &Flow) -> Insertion;
    /// Makes the half-open flow of a key live; false if there is none.
    fn make_live(&self, key: &Aligned<F::FlowKey>, row: u32) -> bool;
    /// Removes the flow of a key; `None` if there is none.
    fn remove(&self, key: &Aligned<F::FlowKey>) -> Option<Taken>;
    /// Looks where [`Self::begin`] will look if the next half-open flow of the interface begins: what it finds there comes from memory
    /// meanwhile.
    #[inline(always)]
    fn look_ahead(&self, _interface: &Interface) {}
    /// How many half-open flows of the interface there were before this one.
    fn next_half_open(&self, row: u32) -> u64;

    /// Copies what is known of a datagram; false if there is nothing.
    fn datagram(&self, key: &F::FragmentKey, to: &mut Datagram) -> bool;
    /// [`Datagram::place`].
    fn datagram_place(&self, key: &F::FragmentKey) -> Option<u32>;
    /// Adds or replaces a datagram; if the table is full, it is not remembered.
    fn insert_datagram(&self, key: &F::FragmentKey, datagram: &Datagram);
    /// Changes a datagram, unless it is gone.
    fn update_datagram(&self, key: &F::FragmentKey, datagram: &Datagram);
    fn remove_datagram(&self, key: &F::FragmentKey);
    /// How many datagrams of the interface there were before this one.
    fn next_datagram(&self, row: u32) -> u64;
    /// Puts a key in a place of the ring and tells the one that was there; false if there is no such place.
    fn take_datagram_place(&self, place: u32, key: &F::FragmentKey, oldest: &mut F::FragmentKey) -> bool;

    /// Adds a packet to its account; false if there is none.
    fn add_to_account(&self, key: &F::AccountKey, counted: &Counted) -> bool;
    /// Adds an account.
    fn open_account(&self, key: &F::AccountKey, account: &Account) -> Insertion;
}

/// A verdict and where it is counted.
#[derive(Clone, Copy, Debug)]
#[must_use = "a verdict that nobody acts on is a packet that passes"]
pub struct Judgement {
    pub verdict: Verdict,
    pub outcome: Outcome,
}

/// What a packet is counted as, and whether anybody wants to hear of it, in one word: that is what is left of a packet's way
/// at its end, and the verifier follows it from all of its beginnings.
///
/// From the lowest bit: the index in `COUNTERS`, the [`packet_kind`], and the bits below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(u64);

impl Outcome {
    const KIND: u32 = 20;
    /// The verdict is to drop, and the interface in audit.
    const AUDIT: u32 = 28;
    /// Somebody watches packets of this kind.
    const WATCHED: u32 = 29;
    /// The family whose [`Scratch`] tells of the packet: 4, 6, or 0 for none.
    const FAMILY: u32 = 32;
    /// The lowest bits of the generation that the packet was judged by.
    const GENERATION: u32 = 36;

    #[inline(always)]
    const fn new(row: u32, direction: Direction, slot: u32) -> Self {
        const { assert!(counter_index(MAX_INTERFACES + 1, Direction::Inbound, 0) < 1 << Self::KIND) };
        const { assert!(packet_kind(Direction::Outbound, REASON_SLOTS) <= 1 << 8) };
        let kind = packet_kind(direction, slot);
        Self(counter_index(row, direction, slot) as u64 | (kind as u64) << Self::KIND)
    }

    #[inline(always)]
    const fn with(self, shift: u32, value: u32) -> Self {
        Self(self.0 | (value as u64) << shift)
    }

    #[inline(always)]
    const fn bit(self, shift: u32) -> u32 {
        (self.0 >> shift & 1) as u32
    }

    /// [`packet_kind`].
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        (self.0 >> Self::KIND & 0xff) as u32
    }

    /// Somebody wants to hear of packets like this one.
    #[inline(always)]
    pub const fn is_watched(self) -> bool {
        self.bit(Self::WATCHED) != 0
    }

    #[inline(always)]
    pub const fn is_audited(self) -> bool {
        self.bit(Self::AUDIT) != 0
    }

    #[inline(always)]
    pub const fn family(self) -> u32 {
        (self.0 >> Self::FAMILY & 0xf) as u32
    }

    /// The generation that the packet was judged by, if `now` is in force: fewer than 256 come in force while a packet is judged.
    #[inline(always)]
    pub const fn generation(self, now: u64) -> u64 {
        now.wrapping_sub(now.wrapping_sub(self.0 >> Self::GENERATION) & LOW_BITS)
    }

    /// 1 if it is outbound, else 0.
    #[inline(always)]
    pub const fn outbound(self) -> u32 {
        (self.kind() >= packet_kind(Direction::Outbound, 0)) as u32
    }

    /// The packet belongs to a flow, and passes for that: then the index in `COUNTERS` under which it is counted if it is handed
    /// to another port of the bridge.
    #[inline(always)]
    pub const fn established(self) -> Option<u32> {
        const { assert!(Reason::Established as u32 == 0) };
        if self.kind().is_multiple_of(REASON_SLOTS) { Some(self.counter() + HANDED_ON) } else { None }
    }

    /// The index in `COUNTERS` under which the packet is counted.
    #[inline(always)]
    const fn counter(self) -> u32 {
        (self.0 & ((1 << Self::KIND) - 1)) as u32
    }
}

impl Judgement {
    /// `family`: see [`Outcome::family`].
    #[inline(always)]
    fn outcome(verdict: u64, at: &At<'_>, family: u32) -> u64 {
        const { assert!(FLAG_AUDIT == 1 << 31) };
        let reason = (verdict & 0xff) as u32;
        let audit = at.half.flags >> 31 & drops(reason);
        let outcome = Outcome::new(at.interface.row, at.direction(), reason + audit * WOULD_DROP)
            .with(Outcome::AUDIT, audit)
            .with(Outcome::FAMILY, family)
            .with(Outcome::GENERATION, at.generation());
        outcome.with(Outcome::WATCHED, at.watched(outcome.kind())).0
    }

    #[inline(always)]
    pub(crate) fn new(verdict: Verdict, at: &At<'_>, family: u32) -> Self {
        Self { verdict, outcome: Outcome(Self::outcome(verdict.word(), at, family)) }
    }

    /// What [`Self::new`] makes of a packet that passes for its flow, as nearly all packets do: of the word of its verdict the compiler
    /// knows the reason then, and what follows from that.
    #[inline(always)]
    fn established(word: u64, at: &At<'_>, family: u32) -> Self {
        const { assert!(Reason::Established as u32 == 0) };
        let verdict = Verdict::of_word(word & !0xff);
        let direction = at.direction();
        let outcome = Outcome::new(at.interface.row, direction, 0);
        if at.watched(packet_kind(direction, 0)) == 0 {
            return Self { verdict, outcome };
        }
        let outcome = outcome.with(Outcome::FAMILY, family).with(Outcome::GENERATION, at.generation());
        Self { verdict, outcome: outcome.with(Outcome::WATCHED, 1) }
    }

    /// The packet passes although there is a reason to drop it.
    #[inline(always)]
    pub const fn is_audited(&self) -> bool {
        self.outcome.is_audited()
    }

    /// Which way the packet goes, seen from the instance.
    pub const fn direction(&self) -> Direction {
        if self.outcome.outbound() == 0 { Direction::Inbound } else { Direction::Outbound }
    }

    /// [`Interface::row`], 0 if the filter was not told of the device.
    pub const fn row(&self) -> u32 {
        row_of(self.counter())
    }

    /// What is to be done with the packet.
    #[inline(always)]
    pub const fn action(&self) -> Action {
        let drops = drops(self.verdict.reason_number()) & !self.outcome.bit(Outcome::AUDIT);
        if drops == 0 { Action::Allow } else { Action::Drop }
    }

    /// The index in `COUNTERS` under which the packet is counted.
    #[inline(always)]
    pub const fn counter(&self) -> u32 {
        self.outcome.counter()
    }

    /// The index under which it is counted that XDP has counted it too.
    #[inline(always)]
    pub const fn counted_twice(&self) -> u32 {
        self.counter() - self.outcome.kind() % REASON_SLOTS + COUNTED_TWICE
    }
}

/// 1 if the reason is one to drop, else 0.
#[inline(always)]
const fn drops(reason: u32) -> u32 {
    // Of reasons, which are below 64.
    const { assert!(FIRST_DROP == 1 << 5 && FIRST_DROP + WOULD_DROP == 1 << 6) };
    reason >> 5 & 1
}

/// Judges a frame that passes `hook` of the device `ifindex`, and does with the judgement what is to be done.
#[must_use = "a verdict that nobody acts on is a packet that passes"]
#[inline(always)]
pub fn judge<P, T, R>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    hook: Hook,
    act: impl FnOnce(&Judgement) -> R,
) -> R
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let Some(at) = place(tables, ifindex, hook) else { return act(&unknown(tables, hook)) };
    let (verdict, family) = judge_frame(packet, tables, &at);
    // The family goes through the same memory as the verdict: known to the verifier, each would have a way of its own.
    let word = forgotten(verdict.word() | u64::from(family) << FAMILY_SHIFT, packet.len());
    let family = (word >> FAMILY_SHIFT & 0xf) as u32;
    let verdict = Verdict::of_word(word & !(0xf << FAMILY_SHIFT));
    if !T::DRY_RUN && tables.is_accounting() {
        account::of_family(tables, &at, family, verdict);
    }
    if verdict.reason_number() == Reason::Established as u32 {
        return act(&Judgement::established(verdict.word(), &at, family));
    }
    act(&Judgement::new(verdict, &at, family))
}

/// Where and when a packet is that passes `hook` of a device; `None` if the filter was not told about that device.
#[inline(always)]
pub(crate) fn place<T: Environment>(tables: &T, ifindex: u32, hook: Hook) -> Option<At<'_>> {
    let moment = tables.moment()?;
    let interface = find_interface(tables, ifindex)?;
    // One load of one word decides which generation this packet sees, in everything that follows (SPEC D21).
    let parity = (moment.generation & 1) as u32;
    let half = interface.halves.get(parity as usize)?;
    let host = half.flags & FLAG_ROLE_HOST != 0;
    let direction = match (hook, host) {
        (Hook::Ingress, false) | (Hook::Egress, true) => Direction::Outbound,
        (Hook::Egress, false) | (Hook::Ingress, true) => Direction::Inbound,
    };
    let mut at = At::new(interface, half, moment.generation, direction, moment.now);
    if T::DRY_RUN {
        // Here the hook is a question, and the verifier would follow both answers to the end.
        at.way = forgotten(u64::from(at.way), moment.generation as u32) as u32;
    }
    Some(at)
}

/// So much of a generation tells it from those before and behind it.
const LOW_BITS: u64 = 0xff;

/// Where a verdict's word has nothing, there is room for the family.
const FAMILY_SHIFT: u32 = 24;

/// The same word, of which the verifier does not know the value: else it would follow each verdict to the end separately.
/// `any` is a word that it does not know.
#[inline(always)]
fn forgotten(word: u64, any: u32) -> u64 {
    black_box(word ^ u64::from(any)) ^ u64::from(any)
}

/// Fail closed: nothing passes an interface that the filter was not told about.
#[inline(always)]
fn unknown<T: Environment>(tables: &T, hook: Hook) -> Judgement {
    let direction = match hook {
        Hook::Ingress => Direction::Outbound,
        Hook::Egress => Direction::Inbound,
    };
    let watched = tables.watch_unknown() >> direction as u32 & 1;
    let generation = tables.moment().map_or(0, |moment| (moment.generation & LOW_BITS) as u32);
    Judgement {
        verdict: Verdict::of(Reason::UnknownInterface),
        outcome: Outcome::new(0, direction, Reason::UnknownInterface as u32)
            .with(Outcome::WATCHED, watched)
            .with(Outcome::GENERATION, generation),
    }
}

#[inline(always)]
fn find_interface<T: Environment>(tables: &T, ifindex: u32) -> Option<&Interface> {
    let mut probe = 0;
    while probe < INTERFACE_PROBES {
        let index = interface_slot(ifindex, probe);
        let interface = tables.interface(index)?;
        if interface.ifindex == ifindex {
            return Some(interface);
        }
        probe += 1;
    }
    None
}

/// Where and when the packet is.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub interface: &'a Interface,
    /// The half of it that is in force.
    pub half: &'a InterfaceHalf,
    pub now: u64,
    /// The direction, and above it [`LOW_BITS`] of the generation: see [`Self::direction`] and [`Self::generation`]. In one word of memory, of
    /// which neither the verifier nor the compiler know anything: what is taken out of it is a bit, each time.
    way: u32,
}

impl<'a> At<'a> {
    #[inline(always)]
    pub(crate) const fn new(
        interface: &'a Interface,
        half: &'a InterfaceHalf,
        generation: u64,
        direction: Direction,
        now: u64,
    ) -> Self {
        Self { interface, half, now, way: direction as u32 | ((generation & LOW_BITS) as u32) << 1 }
    }
}

impl At<'_> {
    #[inline(always)]
    pub fn direction(&self) -> Direction {
        if load(&self.way) & 1 == 0 { Direction::Inbound } else { Direction::Outbound }
    }

    /// Which half is in force.
    #[inline(always)]
    pub fn parity(&self) -> u32 {
        load(&self.way) >> 1 & 1
    }

    /// [`LOW_BITS`] of the generation that this packet sees.
    #[inline(always)]
    fn generation(&self) -> u32 {
        load(&self.way) >> 1
    }

    /// 1 if somebody watches packets of this [`packet_kind`], else 0.
    #[inline(always)]
    fn watched(&self, kind: u32) -> u32 {
        // Stored by the daemon while packets pass: a word of it, whenever.
        let word = self.interface.watched.get((kind >> 5) as usize);
        word.map_or(0, |word| load(word) >> (kind & 31) & 1)
    }

    #[inline(always)]
    fn guarded(&self) -> Guarded<'_> {
        Guarded { half: self.half, direction: self.direction() }
    }

    #[inline(always)]
    const fn is_trunk(&self) -> bool {
        self.half.flags & GUARD_VLAN == 0
    }

    /// The first word of flow and fragment keys.
    #[inline(always)]
    pub const fn zone_protocol(&self, protocol: u8) -> u32 {
        (self.interface.zone << 8) | protocol as u32
    }
}

/// The verdict, and the family whose [`Scratch`] tells of the packet: 4, 6, or 0 for none.
#[inline(always)]
fn judge_frame<P, T>(packet: &P, tables: &T, at: &At<'_>) -> (Verdict, u32)
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return (Verdict::of(Reason::Malformed), 0) };
    if let Err(reason) = at.guarded().ethernet(&ethernet) {
        return (Verdict::of(reason), 0);
    }
    if packet.has_offloaded_vlan() && !at.is_trunk() {
        return (Verdict::of(Reason::Vlan), 0);
    }
    let Some((kind, network)) = network_of(packet, at, u16::from_be(ethernet.ether_type)) else {
        return (Verdict::of(Reason::Malformed), 0);
    };
    match kind {
        ether_type::IPV4 => (judge_ip::<V4, P, T>(packet, tables, at, network), 4),
        ether_type::IPV6 => (judge_ip::<V6, P, T>(packet, tables, at, network), 6),
        other => {
            if checksum::spoils_frame(packet, network, other) {
                return (Verdict::of(Reason::ChecksumPlace), 0);
            }
            match at.guarded().non_ip(packet, tables, network, other) {
                Ok(reason) | Err(reason) => (Verdict::of(reason), 0),
            }
        }
    }
}

/// The EtherType of what a frame carries, and where that begins: behind a tag, on trunks. `None` if the frame ends before it.
#[inline(always)]
pub(crate) fn network_of<P: Packet>(packet: &P, at: &At<'_>, kind: u16) -> Option<(u16, u32)> {
    if kind != ether_type::VLAN || !at.is_trunk() {
        return Some((kind, ETHERNET_BYTES));
    }
    let tag = packet.read::<VlanTag>(ETHERNET_BYTES)?;
    Some((u16::from_be(tag.ether_type), ETHERNET_BYTES + 4))
}

/// A subprogram for each family: the two together would not fit the kernel's stack.
#[inline(never)]
fn judge_ip<F, P, T>(packet: &P, tables: &T, at: &At<'_>, network: u32) -> Verdict
where
    F: ReadIp + GuardFamily,
    P: Packet,
    T: Tables<F>,
{
    let Some(scratch) = tables.scratch() else { return Verdict::of(Reason::Malformed) };
    scratch.network = 0;
    // Forgotten, or the verifier would follow what lies behind a tag apart from the rest.
    let mut memory = Opaque(&mut scratch.free);
    memory.set(network);
    let network = memory.get();
    // Of another packet; only pieces look it up anew.
    scratch.datagram.ports = 0;
    scratch.transport.forget();
    let read = read::<F, P>(packet, at, network, scratch);
    let (read, scratch) = forgotten_read(read, scratch);
    let verdict = match read {
        Ok(()) => judge_read::<F, P, T>(packet, tables, at, scratch),
        // The other pieces are to know that their first one was dropped (SPEC D14).
        Err(Reason::TinyFragment) => Verdict::of(Reason::TinyFragment),
        Err(reason) => {
            if scratch.network == 0 {
                // Of the header before this one, or half of this one.
                scratch.ip = Ip::NOTHING;
            }
            store(&mut scratch.verdict, Verdict::of(reason));
            return load(&scratch.verdict);
        }
    };
    let verdict = if scratch.ip.piece.is_first() {
        fragment::first::<F, T>(tables, at, scratch, verdict)
    } else {
        verdict
    };
    // All ways meet here, and the verifier is to forget which verdict each of them has come with: else it would follow each
    // through all that comes.
    store(&mut scratch.verdict, verdict);
    load(&scratch.verdict)
}

/// The same, of which the verifier does not know for which reason.
#[inline(always)]
fn is_so(so: bool, mut memory: Opaque<'_>) -> bool {
    memory.set(u32::from(so));
    memory.get() != 0
}

/// What [`read`] has said and read, of which neither the compiler nor the verifier knows anything any more: else the verifier would
/// follow each kind of header separately through all that comes.
#[inline(always)]
fn forgotten_read<F: ReadIp>(
    read: Result<(), Reason>,
    scratch: &mut Scratch<F>,
) -> (Result<(), Reason>, &mut Scratch<F>) {
    store(&mut scratch.read, read);
    let scratch = black_box(scratch);
    (load(&scratch.read), scratch)
}

/// Judges a packet whose headers have been read.
#[inline(always)]
fn judge_read<F, P, T>(packet: &P, tables: &T, at: &At<'_>, scratch: &mut Scratch<F>) -> Verdict
where
    F: ReadIp + GuardFamily,
    P: Packet,
    T: Tables<F>,
{
    let Scratch { ip, free, .. } = &mut *scratch;
    if is_so(checksum::spoils(packet, ip), Opaque(free)) {
        return Verdict::of(Reason::ChecksumPlace);
    }
    let scratch = black_box(scratch);
    let ip = &scratch.ip;
    if let Err(reason) = at.guarded().route(ip) {
        return Verdict::of(reason);
    }
    if !ip.piece.is_later() {
        return judge_whole::<F, P, T>(packet, tables, at, scratch);
    }
    match at.guarded().source(tables, ip) {
        Ok(()) => Verdict::of(fragment::later::<F, T>(tables, at, scratch)),
        Err(reason) => Verdict::of(reason),
    }
}

/// Reads the packet's headers.
///
/// # Errors
///
/// The reason to drop the packet for.
#[inline(always)]
fn read<F: ReadIp, P: Packet>(
    packet: &P,
    at: &At<'_>,
    network: u32,
    scratch: &mut Scratch<F>,
) -> Result<(), Reason> {
    F::read_ip(packet, network, &mut scratch.ip, Opaque(&mut scratch.free))?;
    scratch.network = network;
    if scratch.ip.piece.is_later() {
        return Ok(());
    }
    let Scratch { ip, transport, free, .. } = scratch;
    read_transport(packet, ip, at.direction(), transport, Opaque(free))
}

/// Judges a packet that has its transport header.
#[inline(always)]
fn judge_whole<F, P, T>(packet: &P, tables: &T, at: &At<'_>, scratch: &mut Scratch<F>) -> Verdict
where
    F: ReadIp + GuardFamily,
    P: Packet,
    T: Tables<F>,
{
    let Scratch { ip, transport, free, .. } = &mut *scratch;
    if !is_so(at.guarded().lets_pass(ip, transport), Opaque(free))
        && let Some(reason) = guard::<F, P, T>(packet, tables, at, scratch)
    {
        return Verdict::of(reason);
    }
    let Scratch { ip, transport, .. } = &*scratch;
    let (local, remote) = ip.local_and_remote(at.direction());
    let (zone_protocol, ports) = (at.zone_protocol(ip.protocol), transport.ports);
    F::store_flow_key(&mut scratch.key, zone_protocol, local, remote, ports);
    scratch.over = 0;
    let Scratch { transport, key, free, over, change, .. } = &mut *scratch;
    let (transport, key) = (&*transport, &*key);
    if let Some(flow) = tables.flow(key) {
        let word = if T::DRY_RUN { KnownWord::ASK } else { steady_word(flow, at, transport) };
        if !word.is_over() {
            return word.verdict(&flow);
        }
        let standing = if flow.is_half_open() {
            let room = tables.add_live(at.interface.row, 0) < u64::from(at.interface.live_limit);
            if room { Standing::ROOM } else { Standing::NO_ROOM }
        } else {
            Standing::LIVE
        };
        store(&mut change.standing, standing);
        let known = known_word(T::DRY_RUN, flow, at, transport, change).forgotten(Opaque(free));
        if !known.is_over() {
            if known.is_live_from_now_on()
                && !T::DRY_RUN
                && let Err(reason) = conntrack::make_live::<F, T>(tables, at.interface, key)
            {
                return Verdict::of(reason);
            }
            return known.verdict(&flow);
        }
        *over = 1;
    }
    let is_error =
        matches!(transport.kind, Kind::IcmpOther) && F::icmp_is_error((transport.number >> 8) as u8);
    if is_error {
        let quoted = quotes_a_flow::<F, P, T>(packet, tables, at, scratch);
        if quoted == QUOTES_A_PIECE || quoted == QUOTES_A_KEY && is_alive::<F, T>(tables, at, scratch) {
            return Verdict::of(Reason::Related);
        }
    }
    let verdict = judge_new::<F, T>(tables, at, scratch);
    // For the verifier, as at the end of `judge_ip`.
    store(&mut scratch.verdict, verdict);
    let verdict = load(&scratch.verdict);
    if T::DRY_RUN || verdict.reason_number() != Reason::NewFlow as u32 {
        return verdict;
    }
    // From here, as it would go too deep for the stack from `start`.
    if scratch.over != 0 {
        conntrack::end::<F, T>(tables, &scratch.key);
    }
    if conntrack::start::<F, T>(tables, at, scratch, verdict.state()) {
        verdict
    } else {
        verdict.instead(Reason::TableFull)
    }
}

/// Subprograms have stack frames of their own, which are free again when they return; and they return words, as an enum
/// with data leaves parts of a register undefined, which the verifier refuses.
#[inline(never)]
fn guard<F, P, T>(packet: &P, tables: &T, at: &At<'_>, scratch: &mut Scratch<F>) -> Option<Reason>
where
    F: ReadIp + GuardFamily,
    P: Packet,
    T: Tables<F>,
{
    let Scratch { ip, transport, free, .. } = scratch;
    match at.guarded().ip(packet, tables, ip, transport, Opaque(free)) {
        Ok(reason) => reason,
        Err(reason) => Some(reason),
    }
}

/// [`Known`] in a word: what it is, its state or reason, and whether the flow becomes live.
#[derive(Clone, Copy)]
struct KnownWord(u32);

impl KnownWord {
    /// Of [`steady_word`].
    const ASK: Self = Self(0);
    const PASS: u32 = 1;
    const DROP: u32 = 2;
    const LIVE: u32 = 1 << 16;

    #[inline(always)]
    const fn of(known: &Known) -> Self {
        Self(match known {
            Known::Over => 0,
            Known::Drop(reason) => Self::DROP | ((*reason as u32) << 8),
            Known::Pass { state, now_live: false } => Self::PASS | ((*state as u32) << 8),
            Known::Pass { state, now_live: true } => Self::PASS | ((*state as u32) << 8) | Self::LIVE,
        })
    }

    /// The same word, of which the verifier does not know the value: else it would follow each separately.
    #[inline(always)]
    fn forgotten(self, mut memory: Opaque<'_>) -> Self {
        memory.set(self.0);
        Self(memory.get())
    }

    #[inline(always)]
    const fn is_over(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    const fn is_live_from_now_on(self) -> bool {
        self.0 & Self::LIVE != 0
    }

    /// The verdict on the packet, unless the flow is over.
    #[inline(always)]
    fn verdict(self, flow: &FlowRef<'_>) -> Verdict {
        let number = (self.0 >> 8) as u8;
        if self.0 & 0xff == Self::PASS {
            Verdict::new(Reason::Established, AdmittedBy::Nothing, number, flow.policy())
        } else {
            Verdict::of_number(number)
        }
    }
}

#[inline(always)]
fn known_word(
    dry_run: bool,
    flow: FlowRef<'_>,
    at: &At<'_>,
    transport: &Transport,
    change: &mut Change,
) -> KnownWord {
    if dry_run {
        known::<true>(flow, at, transport, change)
    } else {
        known::<false>(flow, at, transport, change)
    }
}

/// [`conntrack::steady`], or [`KnownWord::ASK`].
#[inline(always)]
fn steady_word(flow: FlowRef<'_>, at: &At<'_>, transport: &Transport) -> KnownWord {
    match conntrack::steady(&flow, at, transport) {
        None => KnownWord::ASK,
        Some(state) => KnownWord::of(&Known::Pass { state, now_live: false }),
    }
}

/// The same subprogram for both families.
#[inline(never)]
fn known<const DRY_RUN: bool>(
    flow: FlowRef<'_>,
    at: &At<'_>,
    transport: &Transport,
    change: &mut Change,
) -> KnownWord {
    KnownWord::of(&conntrack::known::<DRY_RUN>(&flow, at, transport, change))
}

/// Whether an ICMP error is about a packet of a flow that is not over (SPEC D13). Errors come from any router on the way,
/// but only to whoever sent the packet; and the flow is not refreshed by them.
///
/// What it quotes is [`QUOTES_NOTHING`] of that kind, [`QUOTES_A_PIECE`] that has passed, or [`QUOTES_A_KEY`], which is then in
/// the scratch: a look-up from here would go too deep for the stack.
#[inline(never)]
fn quotes_a_flow<F, P, T>(packet: &P, tables: &T, at: &At<'_>, scratch: &mut Scratch<F>) -> u32
where
    F: ReadIp,
    P: Packet,
    T: Tables<F>,
{
    let Scratch { ip, free, datagram, .. } = scratch;
    let Some(quoted) = F::read_quoted(packet, ip.transport + 8, Opaque(free)) else { return QUOTES_NOTHING };
    // What lies behind the end of the packet is padding, which anybody may have filled.
    let has_ports = !quoted.piece.is_later()
        && (quoted.protocol == protocol::TCP
            || quoted.protocol == protocol::UDP
            || quoted.protocol == F::ICMP);
    let end = quoted.transport + if has_ports { 8 } else { 0 };
    if quoted.source != ip.destination || end > ip.end {
        return QUOTES_NOTHING;
    }
    // The quoted packet went the other way.
    let direction = opposite(at.direction());
    if quoted.piece.is_later() {
        let has_passed = fragment::has_passed::<F, T>(tables, at, direction, &quoted, datagram);
        return if has_passed { QUOTES_A_PIECE } else { QUOTES_NOTHING };
    }
    let Some(ports) = quoted_ports(packet, &quoted, direction) else { return QUOTES_NOTHING };
    let (local, remote) = quoted.local_and_remote(direction);
    // The packet's own is not needed any more: what errors would begin is no flow.
    F::store_flow_key(&mut scratch.key, at.zone_protocol(quoted.protocol), local, remote, ports);
    QUOTES_A_KEY
}

const QUOTES_NOTHING: u32 = 0;
const QUOTES_A_PIECE: u32 = 1;
const QUOTES_A_KEY: u32 = 2;

/// Whether the flow of the key in the scratch is not over.
#[inline(never)]
fn is_alive<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &Scratch<F>) -> bool {
    tables.flow(&scratch.key).is_some_and(|flow| flow.expires() > at.now)
}

/// A packet of no known flow: the rules decide, and with the verdict [`Reason::NewFlow`] it starts one.
#[inline(always)]
fn judge_new<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &Scratch<F>) -> Verdict {
    // Where the keys are long, the stack has no room for them.
    if F::BIT == 0 { judge_new_here(tables, at, scratch) } else { judge_new_apart(tables, at, scratch) }
}

#[inline(never)]
fn judge_new_apart<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &Scratch<F>) -> Verdict {
    judge_new_here(tables, at, scratch)
}

#[inline(always)]
fn judge_new_here<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &Scratch<F>) -> Verdict {
    let Scratch { ip, transport, .. } = scratch;
    let (_, remote) = ip.local_and_remote(at.direction());
    // All of it first, so that it comes from memory together.
    if !T::DRY_RUN {
        look_ahead_for_member::<F, T>(tables, at, remote);
        tables.look_ahead(at.interface);
    }
    let start = match start_state(transport, at.half.flags & FLAG_STRICT_TCP != 0) {
        Ok(start) => start,
        Err(reason) => return Verdict::of(reason),
    };
    let policy = at.half.policy;
    let admitted_by = classify::<F, T>(tables, at, remote, ip.protocol, transport.number);
    if matches!(admitted_by, AdmittedBy::Nothing) {
        return Verdict::new(Reason::NoRule, admitted_by, 0, policy);
    }
    let Some(state) = start else { return Verdict::new(Reason::RuleOnly, admitted_by, 0, policy) };
    Verdict::new(Reason::NewFlow, admitted_by, state as u8, policy)
}

/// The state in which a packet starts a flow; `None` if it is of a kind that starts none.
#[inline(always)]
fn start_state(transport: &Transport, strict_tcp: bool) -> Result<Option<State>, Reason> {
    match transport.kind {
        Kind::Tcp => match Segment::of(transport.seen.flags) {
            None => Err(Reason::TcpFlags),
            Some(Segment::Syn) => Ok(Some(State::TcpSynSent)),
            Some(_) if strict_tcp => Err(Reason::StrictTcp),
            Some(Segment::Rst) => Ok(None),
            Some(Segment::SynAck) => Ok(Some(State::TcpSynReceived)),
            // The connection is older than its entry.
            Some(Segment::Fin) => Ok(Some(State::TcpFinWait)),
            Some(Segment::Ack) => Ok(Some(State::TcpEstablished)),
        },
        Kind::Udp => Ok(Some(State::Udp)),
        Kind::IcmpRequest => Ok(Some(State::Icmp)),
        Kind::IcmpReply | Kind::IcmpOther => Ok(None),
        Kind::Other => Ok(Some(State::Other)),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
pub(crate) mod tests;
