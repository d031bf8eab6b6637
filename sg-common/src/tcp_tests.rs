use super::*;
use State::*;

/// A segment without payload; the window is 1000 bytes.
fn seen(flags: u8, sequence: u32, acknowledgment: u32) -> Seen {
    Seen { flags, sequence, acknowledgment, payload: 0, partial: false, window: 1000, scale: NO_SCALE }
}

fn data(sequence: u32, acknowledgment: u32, payload: u32) -> Seen {
    Seen { payload, ..seen(ACK, sequence, acknowledgment) }
}

/// The connection is kept as the side sees it that began it.
fn advance(connection: &mut Connection, segment: &Seen, from_origin: bool) -> Step {
    let turned = |connection: &Connection| match connection {
        same if from_origin => *same,
        Connection { state, fins, known, sender, receiver } => Connection {
            state: *state,
            fins: turn_fins(*fins),
            known: turn(*known),
            sender: *receiver,
            receiver: *sender,
        },
    };
    let mut seen = turned(connection);
    let step = seen.advance(Segment::of(segment.flags).unwrap(), segment, from_origin);
    *connection = turned(&seen);
    step
}

/// The client has used 100, the server 500.
fn established() -> Connection {
    let mut connection = Connection::start(TcpSynSent, &seen(SYN, 99, 0));
    assert_eq!(advance(&mut connection, &seen(SYN | ACK, 499, 100), false), Step::To(TcpSynReceived));
    assert_eq!(advance(&mut connection, &seen(ACK, 100, 500), true), Step::To(TcpEstablished));
    connection
}

#[test]
fn spec_d12_a_handshake_establishes() {
    let connection = established();
    assert_eq!(connection.sender, Side { end: 100, ack: 500, window: 1000 });
    assert_eq!(connection.receiver, Side { end: 500, ack: 100, window: 1000 });
}

#[test]
fn spec_d12_a_guess_at_the_handshake_establishes_nothing() {
    let mut connection = Connection::start(TcpSynSent, &seen(SYN, 99, 0));
    assert_eq!(advance(&mut connection, &seen(SYN | ACK, 499, 100_000), false), Step::Invalid);
    assert_eq!(advance(&mut connection, &seen(SYN | ACK, 499, 100), false), Step::To(TcpSynReceived));
    for flags in [ACK, FIN | ACK] {
        for (acknowledgment, what) in
            [(500u32.wrapping_sub(100_000), "a guess"), (501, "acknowledges what was not sent")]
        {
            let guess = seen(flags, 100, acknowledgment);
            assert_eq!(advance(&mut connection, &guess, true), Step::Ignore, "{what}");
        }
    }
    assert_eq!(advance(&mut connection, &seen(SYN | ACK, 499, 100_000), false), Step::Invalid);
    assert_eq!(connection.state, TcpSynReceived);
}

#[test]
fn spec_d12_a_syn_sent_again_without_its_data_is_answered() {
    // RFC 7413: the first attempt carries data, the next one perhaps not.
    let mut connection = Connection::start(TcpSynSent, &Seen { payload: 10, ..seen(SYN, 99, 0) });
    assert_eq!(advance(&mut connection, &seen(SYN, 99, 0), true), Step::To(TcpSynSent));
    for acknowledgment in [110, 100] {
        let mut connection = connection;
        let answer = seen(SYN | ACK, 499, acknowledgment);
        assert_eq!(advance(&mut connection, &answer, false), Step::To(TcpSynReceived), "{acknowledgment}");
    }
    // Another attempt is another connection.
    assert_eq!(advance(&mut connection, &seen(SYN, 900_000, 0), true), Step::To(TcpSynSent));
    assert_eq!(advance(&mut connection, &seen(SYN | ACK, 499, 100), false), Step::Invalid);
    assert_eq!(advance(&mut connection, &seen(SYN | ACK, 499, 900_001), false), Step::To(TcpSynReceived));
}

#[test]
fn spec_d12_both_may_open_at_once() {
    // RFC 9293, figure 8. Whether the second SYN may open a connection is for the rules of its own direction to say, so it begins
    // anew; if it may not, the other side answers it all the same.
    for last in [true, false] {
        let mut c = Connection::start(TcpSynSent, &seen(SYN, 99, 0));
        assert_eq!(advance(&mut c, &seen(SYN, 499, 0), false), Step::Restart);
        assert_eq!(advance(&mut c, &seen(SYN | ACK, 499, 100), false), Step::To(TcpSynReceived));
        assert_eq!(advance(&mut c, &seen(SYN, 499, 0), false), Step::Invalid, "it has acknowledged");
        assert_eq!(advance(&mut c, &seen(SYN, 99, 0), true), Step::Ignore);
        assert_eq!(advance(&mut c, &seen(SYN | ACK, 99, 900), true), Step::Invalid, "of another connection");
        assert_eq!(advance(&mut c, &seen(SYN | ACK, 99, 500), true), Step::To(TcpSynReceived));
        let (sequence, acknowledgment) = if last { (100, 500) } else { (500, 100) };
        assert_eq!(advance(&mut c, &seen(ACK, sequence, acknowledgment), last), Step::To(TcpEstablished));
    }
    let mut c = Connection::start(TcpSynReceived, &seen(SYN | ACK, 99, 500));
    assert_eq!(advance(&mut c, &seen(SYN, 499, 0), false), Step::Restart);
}

#[test]
fn spec_d12_an_older_connection_is_taken_up_whatever_its_scales() {
    let mut c = Connection::start(TcpEstablished, &seen(ACK, 100, 500));
    advance(&mut c, &seen(ACK, 500, 100), false);
    assert_eq!((c.sender.window, c.receiver.window), (1000 << 14, 1000 << 14));
    // A SYN+ACK tells its sender's: here that there is no scaling at all.
    let mut c = Connection::start(TcpSynReceived, &seen(SYN | ACK, 99, 500));
    advance(&mut c, &seen(ACK, 500, 100), false);
    assert_eq!((c.sender.window, c.receiver.window), (1000, 1000));
}

#[test]
fn spec_d12_two_fins_and_their_acks_end_in_time_wait() {
    let mut c = established();
    assert_eq!(advance(&mut c, &seen(FIN | ACK, 100, 500), true), Step::To(TcpFinWait));
    assert_eq!(advance(&mut c, &seen(ACK, 500, 101), false), Step::To(TcpCloseWait));
    assert_eq!(advance(&mut c, &seen(FIN | ACK, 500, 101), false), Step::To(TcpLastAck));
    assert_eq!(advance(&mut c, &seen(ACK, 101, 501), true), Step::To(TcpTimeWait));
}

#[test]
fn spec_d12_both_may_finish_at_once() {
    let mut c = established();
    assert_eq!(advance(&mut c, &seen(FIN | ACK, 100, 500), true), Step::To(TcpFinWait));
    assert_eq!(advance(&mut c, &seen(FIN | ACK, 500, 100), false), Step::To(TcpLastAck));
    assert_eq!(advance(&mut c, &seen(ACK, 101, 501), true), Step::To(TcpTimeWait));
}

#[test]
fn spec_d12_a_half_closed_connection_stays_open_for_the_other_side() {
    let mut c = established();
    advance(&mut c, &seen(FIN | ACK, 100, 500), true);
    assert_eq!(
        advance(&mut c, &data(500, 100, 300), false),
        Step::To(TcpFinWait),
        "the FIN is not acknowledged yet"
    );
    assert_eq!(advance(&mut c, &data(800, 101, 300), false), Step::To(TcpCloseWait));
    assert_eq!(advance(&mut c, &seen(ACK, 101, 1100), true), Step::To(TcpCloseWait));
    assert_eq!(
        advance(&mut c, &seen(FIN | ACK, 100, 500), true),
        Step::To(TcpCloseWait),
        "the FIN, sent again"
    );
    assert_eq!(advance(&mut c, &data(1100, 101, 300), false), Step::To(TcpCloseWait));
}

#[test]
fn spec_d12_an_exact_reset_closes() {
    for from_origin in [true, false] {
        let (sequence, acknowledgment) = if from_origin { (100, 500) } else { (500, 100) };
        let mut c = established();
        assert_eq!(advance(&mut c, &seen(RST, sequence, 0), from_origin), Step::To(TcpClose));
        let mut c = established();
        assert_eq!(
            advance(&mut c, &seen(RST | ACK, sequence, acknowledgment), from_origin),
            Step::To(TcpClose)
        );
    }
}

#[test]
fn spec_d12_a_reset_behind_data_on_its_way_is_exact() {
    let mut c = established();
    advance(&mut c, &data(100, 500, 50), true);
    assert_eq!(advance(&mut c, &seen(RST, 150, 0), true), Step::To(TcpClose));
}

#[test]
fn spec_d12_a_reset_inside_the_window_changes_nothing() {
    for sequence in [101, 1099] {
        let mut c = established();
        let before = c;
        assert_eq!(advance(&mut c, &seen(RST, sequence, 0), true), Step::Ignore);
        assert_eq!(c, before);
    }
}

#[test]
fn spec_d12_a_reset_outside_of_the_window_is_dropped() {
    for sequence in [99, 0, 1100, 0x8000_0000, u32::MAX] {
        let mut c = established();
        let before = c;
        assert_eq!(advance(&mut c, &seen(RST, sequence, 0), true), Step::OutOfWindow, "{sequence}");
        assert_eq!(c, before);
    }
}

#[test]
fn spec_d12_a_window_is_scaled_only_if_both_sides_said_so() {
    let with_scale =
        |flags, sequence, acknowledgment| Seen { scale: 7, ..seen(flags, sequence, acknowledgment) };
    let mut c = Connection::start(TcpSynSent, &with_scale(SYN, 99, 0));
    advance(&mut c, &with_scale(SYN | ACK, 499, 100), false);
    advance(&mut c, &seen(ACK, 100, 500), true);
    assert_eq!(c.sender.window, 128_000);
    assert_eq!(c.receiver.window, 1000, "the window of a SYN is never scaled");
    assert_eq!(advance(&mut c, &seen(RST, 500 + 127_999, 0), false), Step::Ignore);
    assert_eq!(advance(&mut c, &seen(RST, 500 + 128_000, 0), false), Step::OutOfWindow);

    let mut c = Connection::start(TcpSynSent, &with_scale(SYN, 99, 0));
    advance(&mut c, &seen(SYN | ACK, 499, 100), false);
    advance(&mut c, &seen(ACK, 100, 500), true);
    assert_eq!(c.sender.window, 1000);
}

#[test]
fn spec_d12_segments_outside_of_the_window_pass_and_move_nothing() {
    let mut c = established();
    let before = c;
    for segment in [seen(ACK, 1_000_000, 500), seen(FIN | ACK, 1_000_000, 500), data(3_000_000_000, 500, 10)]
    {
        assert_eq!(advance(&mut c, &segment, true), Step::Ignore);
    }
    assert_eq!(advance(&mut c, &seen(ACK, 100, 501), true), Step::Ignore, "acknowledges what was not sent");
    assert_eq!(c, before);
}

#[test]
fn spec_d12_a_syn_on_a_live_connection_changes_nothing() {
    let mut c = established();
    let before = c;
    assert_eq!(advance(&mut c, &seen(SYN, 7, 0), true), Step::Ignore);
    assert_eq!(advance(&mut c, &seen(SYN, 7, 0), false), Step::Invalid);
    assert_eq!(c, before);
}

#[test]
fn spec_d12_time_wait_is_reused_by_a_higher_sequence_only() {
    let mut c = established();
    for (segment, from_origin) in
        [(seen(FIN | ACK, 100, 500), true), (seen(FIN | ACK, 500, 101), false), (seen(ACK, 101, 501), true)]
    {
        advance(&mut c, &segment, from_origin);
    }
    assert_eq!(c.state, TcpTimeWait);
    assert_eq!(advance(&mut c, &seen(SYN, 102, 0), true), Step::Restart);
    assert_eq!(advance(&mut c, &seen(SYN, 101, 0), true), Step::Ignore);
    assert_eq!(advance(&mut c, &seen(SYN, 502, 0), false), Step::Restart);
    assert_eq!(advance(&mut c, &seen(SYN, 501, 0), false), Step::Invalid);
}

#[test]
fn spec_d12_a_refused_connection_closes_only_if_the_syn_is_acknowledged() {
    let mut c = Connection::start(TcpSynSent, &seen(SYN, 99, 0));
    assert_eq!(advance(&mut c, &seen(RST | ACK, 0, 99), false), Step::OutOfWindow);
    assert_eq!(advance(&mut c, &seen(RST, 0, 0), false), Step::OutOfWindow);
    assert_eq!(advance(&mut c, &seen(RST | ACK, 0, 100), false), Step::To(TcpClose));
}

#[test]
fn spec_d12_a_connection_older_than_its_entry_goes_on() {
    let mut c = Connection::start(TcpEstablished, &data(5000, 9000, 100));
    assert_eq!(advance(&mut c, &data(9000, 5100, 1400), false), Step::To(TcpEstablished));
    assert_eq!(advance(&mut c, &data(5100, 10_400, 60_000), true), Step::To(TcpEstablished));
    assert_eq!(c.sender.window, 1000 << 14, "the scale may be any");
    assert_eq!(advance(&mut c, &seen(RST, 0x9000_0000, 0), true), Step::OutOfWindow);
}

#[test]
fn spec_d12_sequence_numbers_wrap_around() {
    let mut c = Connection::start(TcpSynSent, &seen(SYN, u32::MAX, 0));
    advance(&mut c, &seen(SYN | ACK, u32::MAX - 1, 0), false);
    assert_eq!(advance(&mut c, &seen(ACK, 0, u32::MAX), true), Step::To(TcpEstablished));
    assert_eq!(advance(&mut c, &data(u32::MAX, 0, 10), false), Step::To(TcpEstablished));
    assert_eq!(c.receiver.end, 9);
    assert_eq!(advance(&mut c, &seen(ACK, 0, 9), true), Step::To(TcpEstablished));
    assert_eq!(advance(&mut c, &seen(RST, 8, 0), false), Step::OutOfWindow);
    assert_eq!(advance(&mut c, &seen(RST, 9, 0), false), Step::To(TcpClose));
}

#[test]
fn flags_that_no_tcp_sends_are_no_segment() {
    for flags in [0, FIN, SYN | FIN, SYN | RST, SYN | FIN | ACK, FIN | RST, 8, 0x20, 0x29] {
        assert_eq!(Segment::of(flags), None, "{flags:#x}");
    }
    assert_eq!(Segment::of(SYN | 0xc0), Some(Segment::Syn), "ECE and CWR ask for ECN (RFC 3168)");
    assert_eq!(Segment::of(ACK | 8 | 0x20), Some(Segment::Ack));
}

#[test]
fn spec_d12_a_syn_sent_again_forgets_that_the_first_came_in_pieces() {
    let mut c = Connection::start(TcpSynSent, &Seen { partial: true, ..seen(SYN, 99, 0) });
    assert_eq!(advance(&mut c, &seen(SYN, 99, 0), true), Step::To(TcpSynSent));
    assert_eq!(advance(&mut c, &seen(SYN | ACK, 499, 100), false), Step::To(TcpSynReceived));
    assert_eq!(advance(&mut c, &seen(ACK, 100, 500), true), Step::To(TcpEstablished));
    assert_eq!(advance(&mut c, &seen(ACK, 500, 200), false), Step::Ignore, "nobody has sent that much");
}

#[test]
fn what_is_known_can_be_taken_apart_and_put_together() {
    for known in 0..1u16 << 15 {
        let (origin, reply, pieces) = told(known);
        // A scale that nobody has offered is not there, whatever the bits say.
        let mut meant = known;
        for (offered, scale) in [(SENDER_SCALES, SCALE_MASK), (RECEIVER_SCALES, SCALE_MASK << RECEIVER_SHIFT)]
        {
            if known & offered == 0 {
                meant &= !scale;
            }
        }
        assert_eq!(known_of(origin, reply, pieces), meant);
        let (sender, receiver, _) = told(turn(known));
        assert_eq!((sender, receiver), (reply, origin));
    }
}
