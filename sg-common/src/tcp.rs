//! TCP seen from the middle (SPEC D12): the states of RFC 9293, section 3.3.2, and as much of both sequence spaces as it
//! takes to tell a segment that the receiver will act on from one that somebody guesses (RFC 5961).
//!
//! Only resets are dropped for their sequence number. Other segments outside of the window pass, as the receiver drops
//! them itself, but they move nothing here: neither the state nor the window nor the time the connection lives.
//!
//! What is known of a side is stored without locks (see [`crate::conntrack::FlowRef`]): two CPUs that see segments of one
//! connection at once may lose an advance, which the next segment makes up for. A stale right edge is at most a window
//! too far left, where a reset is still judged "inside", not "exact", and closes nothing.

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
    /// The window scale option of a SYN (RFC 7323, section 2.2), [`NO_SCALE`] if it has none.
    pub scale: u8,
}

/// No window scale option.
pub const NO_SCALE: u8 = 0xff;
/// The largest shift (RFC 7323, section 2.3); assumed where the handshake was not seen.
const MAX_SCALE: u8 = 14;

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

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Side {
    /// The highest sequence number that it has used, plus one.
    pub end: u32,
    /// The highest acknowledgment that it has sent: what it expects next.
    pub ack: u32,
    /// The window that it offered with that, in bytes.
    pub window: u32,
}

/// A connection as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub state: State,
    /// `FLOW_FIN_*` of [`crate::abi::Flow::flags`].
    pub fins: u8,
    /// [`crate::abi::Flow::tcp`]: `ORIGIN_*`, `REPLY_*` and [`PIECES`].
    pub known: u16,
    pub origin: Side,
    pub reply: Side,
}

const SCALE_MASK: u16 = 0xf;
const REPLY_SCALE_SHIFT: u16 = 4;
const ORIGIN_SCALES: u16 = 1 << 8;
const REPLY_SCALES: u16 = 1 << 9;
const ORIGIN_END: u16 = 1 << 10;
const REPLY_END: u16 = 1 << 11;
const ORIGIN_ACK: u16 = 1 << 12;
const REPLY_ACK: u16 = 1 << 13;
/// Both sides scale, as far as they can: where the handshake was not seen.
const UNKNOWN_SCALES: u16 =
    ORIGIN_SCALES | REPLY_SCALES | MAX_SCALE as u16 | (MAX_SCALE as u16) << REPLY_SCALE_SHIFT;
/// A segment came in pieces, of which only the first is looked at: the sides may have sent more than their `end` says.
const PIECES: u16 = 1 << 14;

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

/// How far `a` is behind `b`, in sequence space (RFC 9293, section 3.4).
#[inline(always)]
const fn distance(a: u32, b: u32) -> u32 {
    b.wrapping_sub(a)
}

#[inline(always)]
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// The bits of [`Connection::known`] that are about one side.
#[derive(Clone, Copy)]
struct Bits {
    end: u16,
    ack: u16,
    scales: u16,
    shift: u16,
    fin: u8,
}

const ORIGIN: Bits =
    Bits { end: ORIGIN_END, ack: ORIGIN_ACK, scales: ORIGIN_SCALES, shift: 0, fin: FLOW_FIN_ORIGIN };
const REPLY: Bits = Bits {
    end: REPLY_END,
    ack: REPLY_ACK,
    scales: REPLY_SCALES,
    shift: REPLY_SCALE_SHIFT,
    fin: FLOW_FIN_REPLY,
};

impl Connection {
    /// The connection that a segment starts, which is a SYN unless the connection is older than its entry.
    #[inline(always)]
    pub fn start(state: State, seen: &Seen) -> Self {
        let mut connection = Self {
            state,
            fins: if seen.has(FIN) { FLOW_FIN_ORIGIN } else { 0 },
            known: if matches!(state, State::TcpSynSent) { 0 } else { UNKNOWN_SCALES },
            origin: Side::default(),
            reply: Side::default(),
        };
        connection.see(seen, true);
        connection
    }

    /// Takes a segment of the side that began the connection (`from_origin`) or of the other into account.
    #[inline(always)]
    pub fn advance(&mut self, segment: Segment, seen: &Seen, from_origin: bool) -> Step {
        let step = self.step(segment, seen, from_origin);
        if let Step::To(state) = step {
            self.state = state;
        }
        step
    }

    #[inline(always)]
    fn step(&mut self, segment: Segment, seen: &Seen, from_origin: bool) -> Step {
        use State::{TcpClose, TcpSynReceived, TcpSynSent, TcpTimeWait};
        let (mine, theirs) = if from_origin { (ORIGIN, REPLY) } else { (REPLY, ORIGIN) };
        let (me, peer) = if from_origin { (self.origin, self.reply) } else { (self.reply, self.origin) };
        let state = self.state;
        match segment {
            Segment::Rst => {
                if matches!(state, TcpSynSent) && !from_origin {
                    // The answer to a SYN: it must acknowledge it (RFC 9293, section 3.10.7.3).
                    let answers = seen.has(ACK) && seen.acknowledgment == peer.end;
                    return if answers { Step::To(TcpClose) } else { Step::OutOfWindow };
                }
                match self.fit(seen, from_origin) {
                    Fit::Exact => Step::To(TcpClose),
                    Fit::Unknown if self.known & mine.end != 0 && seen.sequence == me.end => {
                        Step::To(TcpClose)
                    }
                    Fit::Inside | Fit::Unknown => Step::Ignore,
                    Fit::Old | Fit::Outside => Step::OutOfWindow,
                }
            }
            Segment::Syn => match state {
                TcpClose => Step::Restart,
                // RFC 9293, section 3.10.7.4; RFC 6191.
                TcpTimeWait if self.known & mine.end == 0 || is_after(seen.sequence, me.end) => Step::Restart,
                TcpSynSent if from_origin => {
                    // Sent again, perhaps without the data that the first one carried (RFC 7413, section 4.2.2); or another
                    // attempt with another sequence number.
                    let again = distance(seen.end(), me.end) <= SHORT;
                    self.known = if again { self.known & ORIGIN_END } else { 0 };
                    self.see(seen, true);
                    Step::To(TcpSynSent)
                }
                TcpSynSent => {
                    // Both opened at once (RFC 9293, figure 8).
                    self.see(seen, false);
                    Step::To(TcpSynReceived)
                }
                // Its own SYN again, as nothing has acknowledged it yet.
                TcpSynReceived if !from_origin && self.known & mine.ack == 0 => {
                    self.see(seen, false);
                    Step::To(TcpSynReceived)
                }
                // The receiver answers with a challenge (RFC 5961, section 4).
                _ if from_origin => Step::Ignore,
                // A connection of its own, which the rules of the other direction do not cover.
                _ => Step::Invalid,
            },
            Segment::SynAck => match (state, from_origin) {
                (TcpSynSent, false) => {
                    if distance(seen.acknowledgment, peer.end) > SHORT {
                        return Step::Invalid;
                    }
                    self.see(seen, false);
                    Step::To(TcpSynReceived)
                }
                (TcpSynReceived, _) => {
                    if self.known & theirs.end != 0 && distance(seen.acknowledgment, peer.end) > SHORT {
                        return Step::Invalid;
                    }
                    self.see(seen, from_origin);
                    Step::To(TcpSynReceived)
                }
                (_, false) => Step::Ignore,
                (_, true) => Step::Invalid,
            },
            Segment::Fin | Segment::Ack => {
                match (state, from_origin) {
                    // Only a side that has seen the other's SYN can acknowledge it.
                    (TcpSynSent, true) => return Step::Invalid,
                    // A challenge to a SYN that the receiver does not expect.
                    (TcpSynSent, false) => return Step::Ignore,
                    _ => {}
                }
                if matches!(self.fit(seen, from_origin), Fit::Outside) {
                    return Step::Ignore;
                }
                let mut peer = peer;
                if self.known & theirs.end != 0 && is_after(seen.acknowledgment, peer.end) {
                    let in_pieces = self.known & PIECES != 0;
                    if !in_pieces || distance(peer.end, seen.acknowledgment) > SHORT {
                        return Step::Ignore;
                    }
                    peer.end = seen.acknowledgment;
                    if from_origin {
                        self.reply.end = peer.end;
                    } else {
                        self.origin.end = peer.end;
                    }
                }
                // Of a side whose SYN it has not seen, nobody knows what to acknowledge: within a wide gap this is a guess.
                let answers =
                    self.known & theirs.end != 0 && distance(seen.acknowledgment, peer.end) <= SHORT;
                if matches!(state, TcpSynReceived) && from_origin && !answers {
                    return Step::Ignore;
                }
                self.see(seen, from_origin);
                Step::To(self.after(matches!(segment, Segment::Fin), seen, &peer, mine, theirs, from_origin))
            }
        }
    }

    /// The state after a FIN or an ACK that the receiver takes.
    #[inline(always)]
    fn after(
        &mut self,
        fin: bool,
        seen: &Seen,
        peer: &Side,
        mine: Bits,
        theirs: Bits,
        from_origin: bool,
    ) -> State {
        use State::{TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynReceived, TcpTimeWait};
        let peer_has_finished = self.fins & theirs.fin != 0;
        if fin {
            self.fins |= mine.fin;
        }
        let acknowledges_all = self.known & theirs.end != 0 && seen.acknowledgment == peer.end;
        match self.state {
            TcpSynReceived | TcpEstablished if fin => TcpFinWait,
            // From the other side, the end of a handshake in which both had sent a SYN of their own.
            TcpSynReceived if from_origin || (self.known & theirs.ack != 0 && acknowledges_all) => {
                TcpEstablished
            }
            TcpFinWait | TcpCloseWait if fin && peer_has_finished => TcpLastAck,
            TcpFinWait if !fin && peer_has_finished && acknowledges_all => TcpCloseWait,
            TcpLastAck if !fin && acknowledges_all => TcpTimeWait,
            state => state,
        }
    }

    #[inline(always)]
    fn fit(&self, seen: &Seen, from_origin: bool) -> Fit {
        let (mine, theirs) = if from_origin { (ORIGIN, REPLY) } else { (REPLY, ORIGIN) };
        let (me, peer) = if from_origin { (&self.origin, &self.reply) } else { (&self.reply, &self.origin) };
        if self.known & theirs.ack == 0 {
            return Fit::Unknown;
        }
        // The receiver may have got data whose acknowledgment has not come by yet: then it expects what the sender
        // sends next.
        if seen.sequence == peer.ack || (self.known & mine.end != 0 && seen.sequence == me.end) {
            return Fit::Exact;
        }
        let window = if peer.window == 0 { 1 } else { peer.window };
        if distance(peer.ack, seen.sequence) < window {
            return Fit::Inside;
        }
        let past = if window > SHORT { window } else { SHORT };
        if distance(seen.sequence, peer.ack) <= past { Fit::Old } else { Fit::Outside }
    }

    /// Remembers what a segment tells of its sender.
    #[inline(always)]
    fn see(&mut self, seen: &Seen, from_origin: bool) {
        let bits = if from_origin { ORIGIN } else { REPLY };
        if seen.partial {
            self.known |= PIECES;
        }
        let mut side = if from_origin { self.origin } else { self.reply };
        if seen.has(SYN) {
            self.known &= !(bits.scales | (SCALE_MASK << bits.shift));
            if seen.scale != NO_SCALE {
                let scale = if seen.scale > MAX_SCALE { MAX_SCALE } else { seen.scale };
                self.known |= bits.scales | (u16::from(scale) << bits.shift);
            }
        }
        let end = seen.end();
        if self.known & bits.end == 0 || is_after(end, side.end) {
            side.end = end;
            self.known |= bits.end;
        }
        let first = self.known & bits.ack == 0;
        if seen.has(ACK) {
            if first || !is_after(side.ack, seen.acknowledgment) {
                side.ack = seen.acknowledgment;
                side.window = self.scaled(seen, bits);
                self.known |= bits.ack;
            }
        } else if first {
            side.window = self.scaled(seen, bits);
        }
        if from_origin {
            self.origin = side;
        } else {
            self.reply = side;
        }
    }

    #[inline(always)]
    const fn scaled(&self, seen: &Seen, bits: Bits) -> u32 {
        let both = ORIGIN_SCALES | REPLY_SCALES;
        let scale = if seen.has(SYN) {
            // The window of a SYN is never scaled (RFC 7323, section 2.2).
            0
        } else if self.known & both != both {
            0
        } else {
            (self.known >> bits.shift) & SCALE_MASK
        };
        (seen.window as u32) << scale
    }
}

/// A gap in sequence space that an honest peer may leave and a guess rarely hits: 1 in 2^16.
const SHORT: u32 = 0xffff;

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
