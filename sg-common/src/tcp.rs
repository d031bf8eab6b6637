//! The TCP connection states of SPEC D11 and D12, seen from the middle (RFC 9293, section 3.3.2; the kernel's
//! nf_conntrack_proto_tcp.c answers the same questions).

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

/// What follows from a segment of a known connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packet passes and the connection is in this state.
    To(State),
    /// The packet opens a new connection in place of one that is over: the rules decide.
    Restart,
    /// The packet does not belong to the connection.
    Invalid,
}

/// The state after `segment`, sent by the side that opened the connection (`from_origin`) or by the other.
#[inline(always)]
pub const fn step(state: State, segment: Segment, from_origin: bool) -> Step {
    use State::TcpTimeWait;
    use State::{TcpClose, TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynReceived, TcpSynSent};
    match segment {
        Segment::Rst => Step::To(TcpClose),
        Segment::Syn => match (state, from_origin) {
            (TcpTimeWait | TcpClose, _) => Step::Restart,
            // Retransmitted, or a challenge that the receiver answers (RFC 5961, section 4).
            (_, true) => Step::To(state),
            // Both opened at once (RFC 9293, figure 8).
            (TcpSynSent, false) => Step::To(TcpSynReceived),
            // A connection of its own, which the rules of the other direction do not cover.
            (_, false) => Step::Invalid,
        },
        Segment::SynAck => match (state, from_origin) {
            (TcpSynSent, false) | (TcpSynReceived, true) => Step::To(TcpSynReceived),
            (_, false) => Step::To(state),
            (_, true) => Step::Invalid,
        },
        Segment::Fin => match state {
            TcpSynSent => Step::Invalid,
            TcpSynReceived | TcpEstablished => Step::To(TcpFinWait),
            TcpFinWait | TcpCloseWait | TcpLastAck => Step::To(TcpLastAck),
            other => Step::To(other),
        },
        Segment::Ack => match (state, from_origin) {
            // Only a side that has seen the other's SYN can acknowledge.
            (TcpSynSent, true) => Step::Invalid,
            (TcpSynReceived, true) => Step::To(TcpEstablished),
            (TcpFinWait, _) => Step::To(TcpCloseWait),
            (TcpLastAck, _) => Step::To(TcpTimeWait),
            (other, _) => Step::To(other),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    /// Plays segments, `true` for those of the side that opens.
    fn play(start: State, segments: &[(bool, Segment)]) -> Step {
        let mut state = start;
        for &(from_origin, segment) in segments {
            match step(state, segment, from_origin) {
                Step::To(next) => state = next,
                end => return end,
            }
        }
        Step::To(state)
    }

    #[test]
    fn spec_d12_a_handshake_establishes() {
        let segments = [(false, Segment::SynAck), (true, Segment::Ack)];
        assert_eq!(play(TcpSynSent, &segments), Step::To(TcpEstablished));
    }

    #[test]
    fn spec_d12_two_fins_and_their_acks_end_in_time_wait() {
        let segments =
            [(true, Segment::Fin), (false, Segment::Ack), (false, Segment::Fin), (true, Segment::Ack)];
        assert_eq!(play(TcpEstablished, &segments), Step::To(TcpTimeWait));
    }

    #[test]
    fn spec_d12_a_half_closed_connection_stays_open_for_the_other_side() {
        let segments = [(true, Segment::Fin), (false, Segment::Ack), (false, Segment::Ack)];
        assert_eq!(play(TcpEstablished, &segments), Step::To(TcpCloseWait));
    }

    #[test]
    fn spec_d12_a_syn_after_the_end_is_a_new_connection() {
        assert_eq!(step(TcpTimeWait, Segment::Syn, true), Step::Restart);
        assert_eq!(step(TcpTimeWait, Segment::Syn, false), Step::Restart);
        assert_eq!(step(TcpClose, Segment::Syn, true), Step::Restart);
    }

    #[test]
    fn spec_d12_a_syn_from_the_side_that_was_called_is_no_reply() {
        assert_eq!(step(TcpEstablished, Segment::Syn, false), Step::Invalid);
        assert_eq!(step(TcpEstablished, Segment::Syn, true), Step::To(TcpEstablished));
    }

    #[test]
    fn spec_d12_simultaneous_open() {
        let segments =
            [(false, Segment::Syn), (true, Segment::SynAck), (false, Segment::SynAck), (true, Segment::Ack)];
        assert_eq!(play(TcpSynSent, &segments), Step::To(TcpEstablished));
    }

    #[test]
    fn flags_that_no_tcp_sends_are_no_segment() {
        for flags in [0, FIN, SYN | FIN, SYN | RST, SYN | FIN | ACK, FIN | RST, 8, 0x20, 0x29] {
            assert_eq!(Segment::of(flags), None, "{flags:#x}");
        }
        assert_eq!(Segment::of(SYN | 0xc0), Some(Segment::Syn), "ECE and CWR ask for ECN (RFC 3168)");
        assert_eq!(Segment::of(ACK | 8 | 0x20), Some(Segment::Ack));
    }
}
