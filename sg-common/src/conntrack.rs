//! Known flows: one entry for both directions (SPEC D10), refreshed in place.
//!
//! A flow begins *half-open*. Each interface has a ring of places of its own for such flows: the newest takes the place of the
//! oldest, so a flood pushes out nothing but its own interface's half-open flows. It becomes *live*, where it is in the
//! table, when the other side has answered: for TCP with the handshake, otherwise with the first packet of the other direction.
//! Nothing ever pushes a live flow out; when an interface's share is used up, no further flow of it becomes live (SPEC D16).

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::abi::{
    CREATED_UNIT, Direction, FLOW_FIN_ORIGIN, FLOW_FIN_REPLY, FLOW_LIVE, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED,
    Flow, Interface, InterfaceHalf,
};
use crate::family::Aligned;
use crate::judge::{At, Scratch, Tables};
use crate::packet::{Kind, ReadIp, Transport, copy, load, store};
use crate::table::Taken;
use crate::tcp::{self, Connection, Segment, Side, SideRef, Step, turn, turn_fins};
use crate::verdict::Reason;

/// What a flow is in; the timeout depends on it (SPEC D11). 0 is no state, so that an entry of zeros is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    TcpSynSent = 1,
    TcpSynReceived = 2,
    TcpEstablished = 3,
    TcpFinWait = 4,
    TcpCloseWait = 5,
    TcpLastAck = 6,
    TcpTimeWait = 7,
    TcpClose = 8,
    Udp = 9,
    UdpStream = 10,
    Icmp = 11,
    Other = 12,
}

impl State {
    pub const EVERY: [Self; 12] = [
        Self::TcpSynSent,
        Self::TcpSynReceived,
        Self::TcpEstablished,
        Self::TcpFinWait,
        Self::TcpCloseWait,
        Self::TcpLastAck,
        Self::TcpTimeWait,
        Self::TcpClose,
        Self::Udp,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
    ];

    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::TcpSynSent),
            2 => Some(Self::TcpSynReceived),
            3 => Some(Self::TcpEstablished),
            4 => Some(Self::TcpFinWait),
            5 => Some(Self::TcpCloseWait),
            6 => Some(Self::TcpLastAck),
            7 => Some(Self::TcpTimeWait),
            8 => Some(Self::TcpClose),
            9 => Some(Self::Udp),
            10 => Some(Self::UdpStream),
            11 => Some(Self::Icmp),
            12 => Some(Self::Other),
            _ => None,
        }
    }

    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpSynSent => "syn_sent",
            Self::TcpSynReceived => "syn_recv",
            Self::TcpEstablished => "established",
            Self::TcpFinWait => "fin_wait",
            Self::TcpCloseWait => "close_wait",
            Self::TcpLastAck => "last_ack",
            Self::TcpTimeWait => "time_wait",
            Self::TcpClose => "close",
            Self::Udp => "udp",
            Self::UdpStream => "udp_stream",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }
}

/// A flow in the table, shared with other CPUs.
///
/// Fields are loaded and stored one by one, without locks, and never through a reference. Two CPUs that handle packets
/// of one flow at once may overwrite each other's store; each stored value is one that the flow may have had, and the
/// next packet mends it: a lost `REPLIED` bit is set by the next reply, a lost state by the next segment.
#[derive(Debug, Clone, Copy)]
pub struct FlowRef<'a> {
    flow: NonNull<Flow>,
    table: PhantomData<&'a Flow>,
}

macro_rules! fields {
    ($($get:ident $(, $set:ident)?: $type:ty = $field:ident;)*) => {$(
        #[inline(always)]
        pub fn $get(&self) -> $type {
            // SAFETY: `new` promised a flow that stays readable; the field is aligned.
            unsafe { (&raw const (*self.flow.as_ptr()).$field).read_volatile() }
        }

        $(#[inline(always)]
        pub fn $set(&self, value: $type) {
            // SAFETY: `new` promised a flow that stays writable; the field is aligned.
            unsafe { (&raw mut (*self.flow.as_ptr()).$field).write_volatile(value) }
        })?
    )*};
}

impl FlowRef<'_> {
    /// # Safety
    ///
    /// `flow` must stay readable and writable for the lifetime of the result, and nobody may hold a reference to it.
    #[inline(always)]
    pub const unsafe fn new(flow: NonNull<Flow>) -> Self {
        Self { flow, table: PhantomData }
    }

    fields! {
        expires, set_expires: u64 = expires;
        created: u32 = created;
        place, set_place: u32 = place;
        policy: u32 = policy;
        state_number, set_state_number: u8 = state;
        flags, set_flags: u8 = flags;
        tcp, set_tcp: u16 = tcp;
    }

    /// The flow as it is now.
    #[inline(always)]
    pub fn copy(&self) -> Flow {
        // SAFETY: `new` promised a flow that stays readable.
        unsafe { self.flow.as_ptr().read_volatile() }
    }

    /// As [`Flow::is_half_open`].
    #[inline(always)]
    pub fn is_half_open(&self) -> bool {
        self.place() & FLOW_LIVE == 0
    }

    /// What is known of a side of a TCP connection.
    #[inline(always)]
    fn side(&self, from_origin: bool) -> Side {
        // SAFETY: `new` promised a flow that stays readable, and `sequence` holds two sides.
        unsafe { self.side_at(from_origin).read_volatile() }
    }

    #[inline(always)]
    fn set_side(&self, from_origin: bool, side: Side) {
        // SAFETY: as in `side`; the flow stays writable.
        unsafe { self.side_at(from_origin).write_volatile(side) }
    }

    #[inline(always)]
    fn side_ref(&self, from_origin: bool) -> SideRef<'_> {
        // SAFETY: `new` promised a flow that stays readable and writable, and `sequence` holds two sides.
        unsafe { SideRef::new(NonNull::new_unchecked(self.side_at(from_origin))) }
    }

    #[inline(always)]
    fn side_at(&self, from_origin: bool) -> *mut Side {
        const _: () = assert!(size_of::<[Side; 2]>() == size_of::<[u32; 6]>());
        // SAFETY: `new` promised a flow; nothing is read.
        unsafe { (&raw mut (*self.flow.as_ptr()).sequence).cast::<Side>().add(usize::from(!from_origin)) }
    }

    /// A TCP connection as the side sees it that began it, or the other.
    #[inline(always)]
    fn connection(&self, state: State, flags: u8, from_origin: bool) -> Connection {
        let fins = flags & (FLOW_FIN_ORIGIN | FLOW_FIN_REPLY);
        Connection {
            state,
            fins: if from_origin { fins } else { turn_fins(fins) },
            known: if from_origin { self.tcp() } else { turn(self.tcp()) },
            sender: self.side(from_origin),
            receiver: self.side(!from_origin),
        }
    }

    /// Stores what has become of `before`, which [`Self::connection`] made. The flags and the state are stored elsewhere.
    #[inline(always)]
    fn set_connection(&self, before: &Connection, after: &Connection, from_origin: bool) {
        if after.known != load(&before.known) {
            self.set_tcp(if from_origin { after.known } else { turn(after.known) });
        }
        if differs(&before.sender, after.sender) {
            self.set_side(from_origin, after.sender);
        }
        if differs(&before.receiver, after.receiver) {
            self.set_side(!from_origin, after.receiver);
        }
    }
}

/// Compared where it is, as it would take a part of the stack to load it whole.
#[inline(always)]
fn differs(before: &Side, after: Side) -> bool {
    load(&before.end) != after.end || load(&before.ack) != after.ack || load(&before.window) != after.window
}

const fn sequence_of(origin: Side, reply: Side) -> [u32; 6] {
    [origin.end, origin.ack, origin.window, reply.end, reply.ack, reply.window]
}

/// What a known flow says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The packet belongs to the flow, which is in this state now.
    Pass {
        state: State,
        /// The flow is half-open and the packet makes it live.
        now_live: bool,
    },
    Drop(Reason),
    /// The entry is over: the packet is judged as the first of a new flow, which takes the entry's place.
    Over,
}

/// Whether a flow is live or may become it. A number, of which the verifier need not know what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing(pub u32);

impl Standing {
    pub const LIVE: Self = Self(0);
    /// It is half-open, and one more flow of the interface may become live.
    pub const ROOM: Self = Self(1);
    /// It is half-open and stays so.
    pub const NO_ROOM: Self = Self(2);
}

/// What a packet changes: memory to work in, as the stack has no room for it.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Said before [`known`] is asked.
    pub standing: Standing,
    /// The connection.
    before: Connection,
    after: Connection,
}

impl Change {
    /// Nothing is written to it yet.
    pub const NOTHING: Self =
        Self { standing: Standing::LIVE, before: Connection::NOTHING, after: Connection::NOTHING };
}

/// Judges a packet by its flow, and refreshes the flow unless `DRY_RUN`. A packet that would make it live where there is none is dropped and
/// changes nothing.
#[inline(always)]
pub fn known<const DRY_RUN: bool>(
    flow: &FlowRef<'_>,
    at: &At<'_>,
    transport: &Transport,
    Change { standing, before, after }: &mut Change,
) -> Known {
    let direction = at.direction();
    if flow.expires() <= at.now {
        return Known::Over;
    }
    let Some(state) = State::from_number(flow.state_number()) else { return Known::Over };
    let flags = flow.flags();
    let from_origin = (flags & FLOW_ORIGIN_OUTBOUND != 0) == matches!(direction, Direction::Outbound);
    let mut flags_after = if from_origin { flags } else { flags | FLOW_REPLIED };
    *after = flow.connection(state, flags, from_origin);
    // To memory, and not to the stack.
    store(&mut before.known, after.known);
    for (before, after) in [(&mut before.sender, after.sender), (&mut before.receiver, after.receiver)] {
        store(&mut before.end, after.end);
        store(&mut before.ack, after.ack);
        store(&mut before.window, after.window);
    }
    let next = match transport.kind {
        Kind::Tcp => {
            let seen = &transport.seen;
            let Some(segment) = Segment::of(seen.flags) else { return Known::Drop(Reason::TcpFlags) };
            match after.advance(segment, seen, from_origin) {
                Step::To(_) => {}
                Step::Ignore => return Known::Pass { state, now_live: false },
                Step::Restart => return Known::Over,
                Step::Invalid => return Known::Drop(Reason::TcpState),
                Step::OutOfWindow => return Known::Drop(Reason::TcpWindow),
            }
            if matches!(after.state, State::TcpClose) {
                // A reset is no answer that makes a flow live.
                flags_after = flags;
            }
            flags_after |= if from_origin { after.fins } else { turn_fins(after.fins) };
            after.state
        }
        // An answer alone is no conversation: a server that is asked with forged addresses answers each of them once.
        Kind::Udp if from_origin && flags & FLOW_REPLIED != 0 => State::UdpStream,
        Kind::Udp | Kind::IcmpRequest | Kind::IcmpReply | Kind::IcmpOther | Kind::Other => state,
    };
    let answered = flags_after & FLOW_REPLIED != 0
        && !matches!(next, State::TcpSynSent | State::TcpSynReceived | State::TcpClose);
    let standing = load(standing);
    let now_live = answered && standing.0 != Standing::LIVE.0;
    if now_live && standing.0 == Standing::NO_ROOM.0 {
        return Known::Drop(Reason::TableFull);
    }
    if !DRY_RUN {
        if matches!(transport.kind, Kind::Tcp) {
            flow.set_connection(before, after, from_origin);
        }
        if flags_after != flags {
            flow.set_flags(flags_after);
        }
        // Loaded again, which takes no room.
        let half = load(&at.half);
        let until = load(&at.now) + u64::from(timeout(half, next));
        if next as u8 != state as u8 {
            flow.set_state_number(next as u8);
            flow.set_expires(until);
        } else if until > flow.expires() + u64::from(half.granularity) {
            flow.set_expires(until);
        }
    }
    Known::Pass { state: next, now_live }
}

/// What [`known`] says and does where a live flow goes on as it was, and only numbers and the time move: by a shorter way, which nearly all
/// packets go. `None`: that one has to say.
#[inline(always)]
pub fn steady(flow: &FlowRef<'_>, at: &At<'_>, transport: &Transport) -> Option<State> {
    let At { half, now, .. } = *at;
    let direction = at.direction();
    let (expires, flags) = (flow.expires(), flow.flags());
    let state = State::from_number(flow.state_number())?;
    let from_origin = (flags & FLOW_ORIGIN_OUTBOUND != 0) == matches!(direction, Direction::Outbound);
    if expires <= now || flags & FLOW_REPLIED == 0 || flow.is_half_open() {
        return None;
    }
    match transport.kind {
        Kind::Tcp if matches!(state, State::TcpEstablished) => {
            let (sender, receiver) = (flow.side_ref(from_origin), flow.side_ref(!from_origin));
            if !tcp::steady(flow.tcp(), sender, receiver, &transport.seen, from_origin) {
                return None;
            }
        }
        Kind::Udp if matches!(state, State::UdpStream) || !from_origin => {}
        Kind::IcmpRequest | Kind::IcmpReply | Kind::Other => {}
        Kind::Tcp | Kind::Udp | Kind::IcmpOther => return None,
    }
    let until = now + u64::from(timeout(half, state));
    if until > expires + u64::from(half.granularity) {
        flow.set_expires(until);
    }
    Some(state)
}

/// Makes a half-open flow a live one, if the interface's share has room: the count is exact, also when several CPUs found the
/// last place free.
///
/// # Errors
///
/// The reason to drop the packet for; the flow stays half-open.
#[inline(never)]
pub fn make_live<F: ReadIp, T: Tables<F>>(
    tables: &T,
    interface: &Interface,
    key: &Aligned<F::FlowKey>,
) -> Result<(), Reason> {
    if tables.add_live(interface.row, 1) >= u64::from(interface.live_limit) {
        tables.add_live(interface.row, -1);
        return Err(Reason::TableFull);
    }
    // Another CPU was faster with a packet of the same flow, or has just pushed it out: then this packet is its last.
    if !tables.make_live(key, interface.row) {
        tables.add_live(interface.row, -1);
    }
    Ok(())
}

/// What became of an attempt to add an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    Done,
    Exists,
    Full,
}

/// Jiffies that a flow in `state` may be idle.
#[inline(always)]
pub fn timeout(half: &InterfaceHalf, state: State) -> u32 {
    // The compiler knows that a state is at most 12 and would drop the check; the verifier does not know and needs it.
    let index = core::hint::black_box(state as usize) - 1;
    half.timeouts.get(index).copied().unwrap_or(0)
}

/// Takes the flow of a key out of the table, which is over.
#[inline(always)]
pub fn end<F: ReadIp, T: Tables<F>>(tables: &T, key: &Aligned<F::FlowKey>) {
    // Whoever takes a live flow out counts it, also if that is the collector at this very moment.
    if let Some(row) = tables.remove(key).and_then(Taken::row) {
        tables.add_live(row, -1);
    }
}

/// Adds the half-open flow that starts with a packet in `direction`. It takes the next place in its interface's ring; the
/// flow that has that place, if it is half-open still, goes. False if there is no room.
#[inline(never)]
pub fn start<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &mut Scratch<F>, state: u8) -> bool {
    let At { interface, half, now, .. } = *at;
    let direction = at.direction();
    let Some(state) = State::from_number(state) else { return false };
    let Scratch { transport, key, flow, .. } = scratch;
    let (limit, base) = F::half_share(interface);
    if limit == 0 {
        return false;
    }
    let place = base + (tables.next_half_open(interface.row) % u64::from(limit)) as u32;
    // Each of them is stored, as there is another packet's flow.
    let Flow { expires, created, place: ring_place, policy, state: number, flags, tcp, sequence } = flow;
    *expires = now + u64::from(timeout(half, state));
    *created = (now / CREATED_UNIT) as u32;
    *ring_place = place;
    *policy = half.policy;
    *number = state as u8;
    *flags = if matches!(direction, Direction::Outbound) { FLOW_ORIGIN_OUTBOUND } else { 0 };
    // Here and not before, nor for both: what there is to store needs room on the stack until then.
    if matches!(transport.kind, Kind::Tcp) {
        let connection = Connection::start(state, &transport.seen);
        *flags |= connection.fins;
        *tcp = connection.known;
        *sequence = sequence_of(connection.sender, connection.receiver);
    } else {
        *tcp = 0;
        copy(sequence, [0; 6]);
    }
    // That it exists is as good: another CPU has begun it with a packet of the same flow.
    !matches!(tables.begin(key, flow), Insertion::Full)
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
