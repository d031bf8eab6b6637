//! Known flows: one entry for both directions (SPEC D10), refreshed in place.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::abi::{Direction, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED, Flow, InterfaceHalf};
use crate::packet::Kind;
use crate::tcp::{self, Segment, Step};
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
        fn $set(&self, value: $type) {
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
        policy: u32 = policy;
        state_number, set_state_number: u8 = state;
        flags, set_flags: u8 = flags;
    }
}

/// What a known flow says of a packet.
#[derive(Debug, Clone, Copy)]
pub enum Known {
    /// The packet belongs to the flow, which is in this state now.
    Pass(State),
    Drop(Reason),
    /// The entry is over: the packet is judged as the first of a new flow, which takes the entry's place.
    Over,
}

/// Judges a packet by its flow, and refreshes the flow unless `DRY_RUN`.
#[inline(always)]
pub fn known<const DRY_RUN: bool>(
    flow: &FlowRef<'_>,
    half: &InterfaceHalf,
    direction: Direction,
    kind: &Kind,
    now: u64,
) -> Known {
    let expires = flow.expires();
    if expires <= now {
        return Known::Over;
    }
    let Some(state) = State::from_number(flow.state_number()) else { return Known::Over };
    let flags = flow.flags();
    let from_origin = (flags & FLOW_ORIGIN_OUTBOUND != 0) == (direction as u8 == Direction::Outbound as u8);
    let next = match kind {
        Kind::Tcp(header) => {
            let Some(segment) = Segment::of(header.flags) else { return Known::Drop(Reason::TcpFlags) };
            match tcp::step(state, segment, from_origin) {
                Step::To(next) => next,
                Step::Restart => return Known::Over,
                Step::Invalid => return Known::Drop(Reason::TcpState),
            }
        }
        Kind::Udp if !from_origin => State::UdpStream,
        Kind::Udp | Kind::IcmpQuery { .. } | Kind::IcmpOther | Kind::Other => state,
    };
    if !DRY_RUN {
        if !from_origin && flags & FLOW_REPLIED == 0 {
            flow.set_flags(flags | FLOW_REPLIED);
        }
        let until = now + u64::from(timeout(half, next));
        if next as u8 != state as u8 {
            flow.set_state_number(next as u8);
            flow.set_expires(until);
        } else if until > expires + u64::from(half.granularity) {
            flow.set_expires(until);
        }
    }
    Known::Pass(next)
}

/// Jiffies that a flow in `state` may be idle.
#[inline(always)]
pub fn timeout(half: &InterfaceHalf, state: State) -> u32 {
    // The compiler knows that a state is at most 12 and would drop the check; the verifier does not know and needs it.
    let index = core::hint::black_box(state as usize) - 1;
    half.timeouts.get(index).copied().unwrap_or(0)
}

/// The entry of a flow that starts with a packet in `direction`.
#[inline(always)]
pub fn start(half: &InterfaceHalf, direction: Direction, state: State, now: u64) -> Flow {
    Flow {
        expires: now + u64::from(timeout(half, state)),
        created: now,
        policy: half.policy,
        state: state as u8,
        flags: if matches!(direction, Direction::Outbound) { FLOW_ORIGIN_OUTBOUND } else { 0 },
        reserved: 0,
        sequence: [0; 6],
    }
}
