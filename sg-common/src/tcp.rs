//! TCP seen from the middle (SPEC D12): the states of RFC 9293, section 3.3.2, and as much of both sequence spaces as it
//! takes to tell a segment that the receiver will act on from one that somebody guesses (RFC 5961).
//!
//! Only resets are dropped for their sequence number. Other segments outside of the window pass, as the receiver drops
//! them itself, but they move nothing here: neither the state nor the window nor the time the connection lives.
//!
//! What is known of a side is stored without locks (see [`crate::conntrack::FlowRef`]): two CPUs that see segments of one
//! connection at once may lose an advance, which the next segment makes up for. A stale right edge is at most a window
//! too far left, where a reset is still judged "inside", not "exact", and closes nothing.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::abi::{FLOW_FIN_ORIGIN, FLOW_FIN_REPLY};
use crate::conntrack::State;

/// RFC 9293, section 3.1: control bits.
pub const FIN: u8 = 1;
pub const SYN: u8 = 1 << 1;
pub const RST: u8 = 1 << 2;
pub const ACK: u8 = 1 << 4;

/// What a segment does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Segment {
    /// The segment with these flags, or `None` if no TCP would send them together: no flag at all, SYN with FIN or
    /// RST, FIN without ACK. PSH, URG, ECE and CWR do not matter.
    #[inline(always)]
    pub const fn of(flags: u8) -> Option<Self> {
        match flags & (FIN | SYN | RST | ACK) {
            f if f == RST || f == RST | ACK => Some(Self::Rst),
            f if f == SYN => Some(Self::Syn),
            f if f == SYN | ACK => Some(Self::SynAck),
            f if f == FIN | ACK => Some(Self::Fin),
            f if f == ACK => Some(Self::Ack),
            _ => None,
        }
    }
}

/// A segment, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgment: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// The segment is in pieces, and this is the first: there is more payload than that.
    pub partial: bool,
    /// As it stands in the header.
    pub window: u16,
    /// The window scale option of a SYN (RFC 7323, section 2.2), at most [`MAX_SCALE`]; [`NO_SCALE`] if it has none.
    pub scale: u8,
}

/// No window scale option.
pub const NO_SCALE: u8 = 0xff;
/// The largest shift (RFC 7323, section 2.3); assumed where the handshake was not seen.
pub const MAX_SCALE: u8 = 14;

impl Seen {
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The sequence number behind the segment.
    const fn end(&self) -> u32 {
        let controls = (self.has(SYN) as u32) + (self.has(FIN) as u32);
        self.sequence.wrapping_add(self.payload).wrapping_add(controls)
    }
}

/// One side of a connection, as [`crate::abi::Flow::sequence`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Side {
    /// The highest sequence number that it has used, plus one.
    pub end: u32,
    /// The highest acknowledgment that it has sent: what it expects next.
    pub ack: u32,
    /// The window that it offered with that, in bytes.
    pub window: u32,
}

/// A connection, seen from the side that sends the segment at hand. The table has it as the side that began it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub state: State,
    /// `FLOW_FIN_*` of [`crate::abi::Flow::flags`]: the sender's in place of the origin's, the receiver's of the reply's.
    pub fins: u8,
    /// [`crate::abi::Flow::tcp`]: what is known of the two sides.
    pub known: u16,
    pub sender: Side,
    pub receiver: Side,
}

const SCALE_MASK: u16 = 0xf;
const RECEIVER_SHIFT: u16 = 4;
const SENDER_SCALES: u16 = 1 << 8;
const RECEIVER_SCALES: u16 = 1 << 9;
const SENDER_END: u16 = 1 << 10;
const RECEIVER_END: u16 = 1 << 11;
const SENDER_ACK: u16 = 1 << 12;
const RECEIVER_ACK: u16 = 1 << 13;
/// A segment came in pieces, of which only the first is looked at: the sides may have sent more than their `end` says.
const PIECES: u16 = 1 << 14;
/// Both sides scale, as far as they can: where the handshake was not seen.
const UNKNOWN_SCALES: u16 =
    SENDER_SCALES | RECEIVER_SCALES | MAX_SCALE as u16 | (MAX_SCALE as u16) << RECEIVER_SHIFT;

/// The flags of each side change places.
#[inline(always)]
pub const fn turn(known: u16) -> u16 {
    const SENDERS: u16 = SENDER_SCALES | SENDER_END | SENDER_ACK;
    const RECEIVERS: u16 = RECEIVER_SCALES | RECEIVER_END | RECEIVER_ACK;
    ((known & SCALE_MASK) << RECEIVER_SHIFT)
        | ((known >> RECEIVER_SHIFT) & SCALE_MASK)
        | ((known & SENDERS) << 1)
        | ((known & RECEIVERS) >> 1)
        | (known & PIECES)
}

/// What [`crate::abi::Flow::tcp`] says of one side, for those who look at flows from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The shift of its window; `None` without the option.
    pub scale: Option<u8>,
    /// Whether [`Side::end`] is known.
    pub end: bool,
    /// Whether [`Side::ack`] and [`Side::window`] are known.
    pub ack: bool,
}

/// [`crate::abi::Flow::tcp`] taken apart: the side that began the connection, the other, and whether segments came in pieces.
pub const fn told(known: u16) -> (Told, Told, bool) {
    (told_of_sender(known), told_of_sender(turn(known)), known & PIECES != 0)
}

const fn told_of_sender(known: u16) -> Told {
    let scale = if known & SENDER_SCALES == 0 { None } else { Some((known & SCALE_MASK) as u8) };
    Told { scale, end: known & SENDER_END != 0, ack: known & SENDER_ACK != 0 }
}

/// [`told`], put together again. A scale is at most [`MAX_SCALE`].
pub const fn known_of(origin: Told, reply: Told, pieces: bool) -> u16 {
    known_of_sender(origin) | turn(known_of_sender(reply)) | if pieces { PIECES } else { 0 }
}

const fn known_of_sender(told: Told) -> u16 {
    let scale = match told.scale {
        None => 0,
        Some(scale) => SENDER_SCALES | (scale as u16 & SCALE_MASK),
    };
    scale | if told.end { SENDER_END } else { 0 } | if told.ack { SENDER_ACK } else { 0 }
}

/// Likewise for [`Connection::fins`].
#[inline(always)]
pub const fn turn_fins(fins: u8) -> u8 {
    ((fins & FLOW_FIN_ORIGIN) << 1) | ((fins & FLOW_FIN_REPLY) >> 1)
}

const _: () = assert!(FLOW_FIN_REPLY == FLOW_FIN_ORIGIN << 1);

/// What follows from a segment of a known connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packet passes and the connection is in this state.
    To(State),
    /// The packet passes and nothing changes.
    Ignore,
    /// The packet opens a new connection in place of one that is over: the rules decide.
    Restart,
    /// The packet does not belong to the connection.
    Invalid,
    /// A reset that the receiver would not take.
    OutOfWindow,
}

/// Where a segment lies in the window that its receiver offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// The receiver has not said yet what it expects.
    Unknown,
    /// Exactly what is expected next.
    Exact,
    Inside,
    /// A retransmission.
    Old,
    Outside,
}

/// A [`Side`] that others look at and change meanwhile, word by word.
#[derive(Debug, Clone, Copy)]
pub struct SideRef<'a> {
    end: NonNull<u32>,
    of: PhantomData<&'a Side>,
}

impl SideRef<'_> {
    /// # Safety
    ///
    /// `side` must stay readable and writable for the lifetime of the result, and nobody may hold a reference to it.
    #[inline(always)]
    pub const unsafe fn new(side: NonNull<Side>) -> Self {
        Self { end: side.cast(), of: PhantomData }
    }

    #[inline(always)]
    fn get(self, word: usize) -> u32 {
        // SAFETY: `new` promised a side, which is three words.
        unsafe { self.end.add(word).read_volatile() }
    }

    /// Stores a word that is not what it was: who stores nothing leaves the memory to all CPUs.
    #[inline(always)]
    fn set(self, word: usize, was: u32, is: u32) {
        if was != is {
            // SAFETY: as in `get`; the side stays writable.
            unsafe { self.end.add(word).write_volatile(is) };
        }
    }

    #[inline(always)]
    fn end(self) -> u32 {
        self.get(0)
    }

    #[inline(always)]
    fn ack(self) -> u32 {
        self.get(1)
    }

    #[inline(always)]
    fn window(self) -> u32 {
        self.get(2)
    }
}

/// Takes a segment into account that acknowledges and does nothing else, as nearly all of an established connection do: what
/// [`Connection::advance`] makes of it, by a shorter way. `known` is as the table has it. False, and nothing is done: that one has to
/// say.
#[inline(always)]
pub fn steady(
    known: u16,
    sender: SideRef<'_>,
    receiver: SideRef<'_>,
    seen: &Seen,
    from_origin: bool,
) -> bool {
    const EVERYTHING: u16 = SENDER_END | RECEIVER_END | SENDER_ACK | RECEIVER_ACK;
    const SCALES: u16 = SENDER_SCALES | RECEIVER_SCALES;
    let all_known = known & (EVERYTHING | PIECES) == EVERYTHING;
    if !all_known || seen.flags & (SYN | FIN | RST | ACK) != ACK || seen.partial {
        return false;
    }
    let last = sender.end();
    let gap = distance(receiver.ack(), seen.sequence);
    let fits = gap == 0 || gap < receiver.window() || seen.sequence == last;
    if !fits || is_after(seen.acknowledgment, receiver.end()) {
        return false;
    }
    let end = seen.sequence.wrapping_add(seen.payload);
    if is_after(end, last) {
        sender.set(0, last, end);
    }
    let ack = sender.ack();
    // Not the opposite of the opposite: half of the sequence space away, a number is neither behind nor ahead.
    if seen.acknowledgment == ack || is_after(seen.acknowledgment, ack) {
        let shift = if from_origin { known } else { known >> RECEIVER_SHIFT } & SCALE_MASK;
        let shift = if known & SCALES == SCALES { shift } else { 0 };
        sender.set(1, ack, seen.acknowledgment);
        sender.set(2, sender.window(), u32::from(seen.window) << shift);
    }
    true
}

/// How far `a` is behind `b`, in sequence space (RFC 9293, section 3.4).
#[inline(always)]
const fn distance(a: u32, b: u32) -> u32 {
    b.wrapping_sub(a)
}

#[inline(always)]
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Connection {
    /// For memory that nothing is written to yet.
    pub const NOTHING: Self = Self {
        state: State::TcpSynSent,
        fins: 0,
        known: 0,
        sender: Side { end: 0, ack: 0, window: 0 },
        receiver: Side { end: 0, ack: 0, window: 0 },
    };

    /// The connection that a segment starts, which is a SYN unless the connection is older than its entry.
    #[inline(always)]
    pub fn start(state: State, seen: &Seen) -> Self {
        let mut connection = Self {
            state,
            fins: if seen.has(FIN) { FLOW_FIN_ORIGIN } else { 0 },
            known: if matches!(state, State::TcpSynSent) { 0 } else { UNKNOWN_SCALES },
            sender: Side::default(),
            receiver: Side::default(),
        };
        connection.see(seen);
        connection
    }

    const fn knows(&self, what: u16) -> bool {
        self.known & what != 0
    }

    /// Takes a segment of the sender into account, which began the connection (`from_origin`) or did not.
    #[inline(always)]
    pub fn advance(&mut self, segment: Segment, seen: &Seen, from_origin: bool) -> Step {
        if matches!(segment, Segment::Syn) && self.begins_anew(seen, from_origin) {
            return Step::Restart;
        }
        let step = self.step(segment, seen, from_origin);
        if let Step::To(state) = step {
            self.state = state;
        }
        step
    }

    /// Whether a SYN opens a connection in place of this one, for the rules of its own direction to judge.
    #[inline(always)]
    fn begins_anew(&self, seen: &Seen, from_origin: bool) -> bool {
        match self.state {
            State::TcpClose => true,
            // RFC 9293, section 3.10.7.4; RFC 6191.
            State::TcpTimeWait => !self.knows(SENDER_END) || is_after(seen.sequence, self.sender.end),
            // Both open at once (RFC 9293, figure 8), or the first SYN was forged to have this one pass.
            State::TcpSynSent | State::TcpSynReceived => !from_origin && !self.knows(SENDER_ACK),
            _ => false,
        }
    }

    #[inline(always)]
    fn step(&mut self, segment: Segment, seen: &Seen, from_origin: bool) -> Step {
        use State::{TcpSynReceived, TcpSynSent};
        let state = self.state;
        let next = match segment {
            Segment::Rst => return self.reset(seen, from_origin),
            Segment::Syn => match state {
                TcpSynSent if from_origin => {
                    // Sent again, perhaps without the data that the first one carried (RFC 7413, section 4.2.2); or another
                    // attempt with another sequence number.
                    let again = distance(seen.end(), self.sender.end) <= SHORT;
                    self.known = if again { self.known & SENDER_END } else { 0 };
                    TcpSynSent
                }
                // The receiver answers with a challenge (RFC 5961, section 4).
                _ if from_origin => return Step::Ignore,
                // A connection of its own, which the rules of the other direction do not cover.
                _ => return Step::Invalid,
            },
            Segment::SynAck => match (state, from_origin) {
                (TcpSynSent, false) | (TcpSynReceived, _) => {
                    if self.knows(RECEIVER_END) && !self.acknowledges_the_latest(seen) {
                        return Step::Invalid;
                    }
                    TcpSynReceived
                }
                (_, false) => return Step::Ignore,
                (_, true) => return Step::Invalid,
            },
            Segment::Fin | Segment::Ack => {
                if matches!(state, TcpSynSent) {
                    // Only a side that has seen the other's SYN can acknowledge it. The other may have got a SYN that it does
                    // not expect, and challenge it (RFC 5961, section 4.2).
                    let challenges = !from_origin && matches!(segment, Segment::Ack);
                    return if challenges { Step::Ignore } else { Step::Invalid };
                }
                if matches!(self.fit(seen), Fit::Outside) || !self.was_sent(seen) {
                    return Step::Ignore;
                }
                // Of a side whose SYN it has not seen, nobody knows what to acknowledge: in a wide gap this is a guess.
                let answers = self.knows(RECEIVER_END) && self.acknowledges_the_latest(seen);
                if matches!(state, TcpSynReceived) && from_origin && !answers {
                    return Step::Ignore;
                }
                self.after(matches!(segment, Segment::Fin), seen, from_origin)
            }
        };
        self.see(seen);
        Step::To(next)
    }

    #[inline(always)]
    fn reset(&self, seen: &Seen, from_origin: bool) -> Step {
        if matches!(self.state, State::TcpSynSent) && !from_origin {
            // The answer to a SYN: it must acknowledge it (RFC 9293, section 3.10.7.3).
            let answers = seen.has(ACK) && seen.acknowledgment == self.receiver.end;
            return if answers { Step::To(State::TcpClose) } else { Step::OutOfWindow };
        }
        match self.fit(seen) {
            Fit::Exact => Step::To(State::TcpClose),
            Fit::Unknown if self.knows(SENDER_END) && seen.sequence == self.sender.end => {
                Step::To(State::TcpClose)
            }
            Fit::Inside | Fit::Unknown => Step::Ignore,
            Fit::Old | Fit::Outside => Step::OutOfWindow,
        }
    }

    /// Whether the acknowledgment is of the last that the receiver has sent, or of what it sent shortly before.
    #[inline(always)]
    const fn acknowledges_the_latest(&self, seen: &Seen) -> bool {
        distance(seen.acknowledgment, self.receiver.end) <= SHORT
    }

    /// Whether the receiver can have sent what the segment acknowledges. Of segments in pieces, the acknowledgment tells how
    /// long they were.
    #[inline(always)]
    fn was_sent(&mut self, seen: &Seen) -> bool {
        if !self.knows(RECEIVER_END) || !is_after(seen.acknowledgment, self.receiver.end) {
            return true;
        }
        if !self.knows(PIECES) || distance(self.receiver.end, seen.acknowledgment) > SHORT {
            return false;
        }
        self.receiver.end = seen.acknowledgment;
        true
    }

    /// The state after a FIN or an ACK that the receiver takes.
    #[inline(always)]
    fn after(&mut self, fin: bool, seen: &Seen, from_origin: bool) -> State {
        use State::{TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynReceived, TcpTimeWait};
        let peer_has_finished = self.fins & FLOW_FIN_REPLY != 0;
        if fin {
            self.fins |= FLOW_FIN_ORIGIN;
        }
        let acknowledges_all = self.knows(RECEIVER_END) && seen.acknowledgment == self.receiver.end;
        match self.state {
            TcpSynReceived | TcpEstablished if fin => TcpFinWait,
            // From the other side, the end of a handshake in which both had sent a SYN of their own.
            TcpSynReceived if from_origin || (self.knows(RECEIVER_ACK) && acknowledges_all) => TcpEstablished,
            TcpFinWait | TcpCloseWait if fin && peer_has_finished => TcpLastAck,
            TcpFinWait if !fin && peer_has_finished && acknowledges_all => TcpCloseWait,
            TcpLastAck if !fin && acknowledges_all => TcpTimeWait,
            state => state,
        }
    }

    #[inline(always)]
    fn fit(&self, seen: &Seen) -> Fit {
        let Side { ack, window, .. } = self.receiver;
        if !self.knows(RECEIVER_ACK) {
            return Fit::Unknown;
        }
        // The receiver may have got data whose acknowledgment has not come by yet: then it expects what the sender
        // sends next.
        if seen.sequence == ack || (self.knows(SENDER_END) && seen.sequence == self.sender.end) {
            return Fit::Exact;
        }
        let window = if window == 0 { 1 } else { window };
        if distance(ack, seen.sequence) < window {
            return Fit::Inside;
        }
        let past = if window > SHORT { window } else { SHORT };
        if distance(seen.sequence, ack) <= past { Fit::Old } else { Fit::Outside }
    }

    /// Remembers what a segment tells of its sender.
    #[inline(always)]
    fn see(&mut self, seen: &Seen) {
        if seen.partial {
            self.known |= PIECES;
        }
        if seen.has(SYN) {
            self.known &= !(SENDER_SCALES | SCALE_MASK);
            if seen.scale != NO_SCALE {
                self.known |= SENDER_SCALES | u16::from(seen.scale);
            }
        }
        let end = seen.end();
        if !self.knows(SENDER_END) || is_after(end, self.sender.end) {
            self.sender.end = end;
            self.known |= SENDER_END;
        }
        let ack = seen.acknowledgment;
        let goes_on = !self.knows(SENDER_ACK) || ack == self.sender.ack || is_after(ack, self.sender.ack);
        if seen.has(ACK) && goes_on {
            self.sender.ack = ack;
            self.sender.window = self.scaled(seen);
            self.known |= SENDER_ACK;
        }
    }

    #[inline(always)]
    const fn scaled(&self, seen: &Seen) -> u32 {
        let both = SENDER_SCALES | RECEIVER_SCALES;
        // The window of a SYN is never scaled (RFC 7323, section 2.2).
        let scale = if seen.has(SYN) || self.known & both != both { 0 } else { self.known & SCALE_MASK };
        (seen.window as u32) << scale
    }
}

/// A gap in sequence space that an honest peer may leave and a guess rarely hits: 1 in 2^16.
const SHORT: u32 = 0xffff;

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
