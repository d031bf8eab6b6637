//! D12, RFC 9293, RFC 5961, RFC 7323.

use serde_json::json;

use super::{PLENTY, at, established, files, oracle, syn};
use crate::expect::{Limits, Oracle};
use crate::frame::{ACK, FIN, FIRST, PSH, Packet, RST, SYN, URG};

/// The window that frames have by default, unscaled.
const WINDOW: u32 = 0xffff;

/// With a window scale option behind the header.
fn scaled(mut packet: Packet, shift: u8) -> Packet {
    packet.payload[12] = 0x60;
    packet.data(&[1, 3, 3, shift])
}

#[test]
fn spec_d12_a_connection_lives_as_rfc_9293_says() {
    let mut oracle = oracle();
    let syn = syn();
    let mut states = Vec::new();
    let life = [
        (true, syn.clone()),
        (false, syn.answer(SYN | ACK)),
        (true, syn.then(ACK)),
        (true, syn.then(ACK | PSH).data(b"GET")),
        (false, syn.answer(ACK).sequence(FIRST + 1, FIRST + 4)),
        (false, syn.answer(FIN | ACK).sequence(FIRST + 1, FIRST + 4)),
        (true, syn.then(ACK).sequence(FIRST + 4, FIRST + 2)),
        (true, syn.then(FIN | ACK).sequence(FIRST + 4, FIRST + 2)),
        (false, syn.answer(ACK).sequence(FIRST + 2, FIRST + 5)),
    ];
    for (out, packet) in &life {
        let reason = if *out { oracle.sent(packet) } else { oracle.received(packet) };
        assert_eq!(reason, if states.is_empty() { "new_flow" } else { "established" });
        states.push((oracle.state(), oracle.only_flow().live, oracle.only_flow().seconds_left));
    }
    assert_eq!(
        states,
        [
            ("syn_sent", false, 30),
            ("syn_recv", false, 60),
            ("established", true, 432_000),
            ("established", true, 432_000),
            ("established", true, 432_000),
            ("fin_wait", true, 120),
            ("close_wait", true, 60),
            ("last_ack", true, 30),
            ("time_wait", true, 120),
        ]
    );
}

#[test]
fn spec_d12_both_may_open_at_once() {
    // RFC 9293, figure 7. No rule lets the other side's SYN in, but it answers the one that it gets.
    let mut oracle = oracle();
    let syn = syn();
    oracle.sent(&syn);
    assert_eq!(oracle.received(&syn.answer(SYN)), "no_rule");
    assert_eq!(oracle.state(), "syn_sent");
    assert_eq!(oracle.received(&syn.answer(SYN | ACK)), "established");
    assert_eq!(oracle.state(), "syn_recv");
    assert_eq!(oracle.sent(&syn.then(SYN | ACK)), "established");
    assert_eq!(oracle.sent(&syn.then(ACK)), "established");
    assert_eq!(oracle.state(), "established");
}

#[test]
fn spec_d12_resets_as_in_rfc_5961() {
    // Section 3.2: outside of the window nothing, inside of it a challenge, exact a reset.
    let next = FIRST + 1;
    for (sequence, reason, state) in [
        (next, "established", "close"),
        (next + 1, "established", "established"),
        (next + WINDOW - 1, "established", "established"),
        (next + WINDOW, "tcp_window", "established"),
        (next - 1, "tcp_window", "established"),
        (next.wrapping_sub(65_536), "tcp_window", "established"),
    ] {
        let mut oracle = oracle();
        let syn = established(&mut oracle);
        assert_eq!(oracle.received(&syn.answer(RST).sequence(sequence, 0)), reason, "{sequence}");
        assert_eq!(oracle.state(), state, "{sequence}");
    }
}

#[test]
fn spec_d12_a_challenge_is_no_news() {
    let mut oracle = oracle();
    let syn = established(&mut oracle);
    oracle.advance(100);
    oracle.received(&syn.answer(RST).sequence(FIRST + 2, 0));
    assert_eq!(oracle.only_flow().seconds_left, 431_900);
}

#[test]
fn spec_d12_a_refusal_acknowledges_the_syn() {
    for (acknowledgment, flags, reason) in [
        (FIRST + 1, RST | ACK, "established"),
        (FIRST + 1, RST, "tcp_window"),
        (FIRST, RST | ACK, "tcp_window"),
        (FIRST + 2, RST | ACK, "tcp_window"),
    ] {
        let mut oracle = oracle();
        oracle.sent(&syn());
        assert_eq!(oracle.received(&syn().answer(flags).sequence(0, acknowledgment)), reason);
        assert_eq!(oracle.state(), if reason == "established" { "close" } else { "syn_sent" });
    }
}

#[test]
fn spec_d12_windows_are_scaled_if_both_say_so() {
    // RFC 7323, section 2.2: by what the receiver of the reset has offered.
    for (mine, theirs, window) in
        [(Some(7), Some(0), WINDOW << 7), (Some(7), None, WINDOW), (None, Some(7), WINDOW)]
    {
        let mut oracle = oracle();
        let wrap = |packet: Packet, shift: Option<u8>| match shift {
            Some(shift) => scaled(packet, shift),
            None => packet,
        };
        oracle.sent(&wrap(syn(), mine));
        oracle.received(&wrap(syn().answer(SYN | ACK), theirs));
        oracle.sent(&syn().then(ACK));
        let reset = |above: u32| syn().answer(RST).sequence(FIRST + 1 + above, 0);
        assert_eq!(oracle.received(&reset(window)), "tcp_window", "{mine:?} {theirs:?}");
        assert_eq!(oracle.received(&reset(window - 1)), "established", "{mine:?} {theirs:?}");
    }
}

#[test]
fn spec_d12_time_wait_ends_with_a_higher_sequence() {
    // RFC 9293, section 3.6.1; RFC 6191 without time stamps.
    for (sequence, reason) in [(FIRST + 3, "new_flow"), (FIRST + 2, "established"), (FIRST, "established")] {
        let mut oracle = oracle();
        let syn = established(&mut oracle);
        oracle.sent(&syn.then(FIN | ACK));
        oracle.received(&syn.answer(FIN | ACK).sequence(FIRST + 1, FIRST + 2));
        oracle.sent(&syn.then(ACK).sequence(FIRST + 2, FIRST + 2));
        assert_eq!(oracle.state(), "time_wait");
        assert_eq!(oracle.sent(&syn.clone().sequence(sequence, 0)), reason, "{sequence}");
        assert_eq!(oracle.state(), if reason == "new_flow" { "syn_sent" } else { "time_wait" });
    }
}

#[test]
fn spec_d12_no_one_but_the_rules_lets_a_connection_begin_anew() {
    let mut oracle = oracle();
    let syn = established(&mut oracle);
    oracle.sent(&syn.then(RST));
    assert_eq!(oracle.state(), "close");
    // To the client's own port: no rule lets that in.
    assert_eq!(oracle.received(&syn.answer(SYN)), "no_rule");
    assert_eq!(oracle.state(), "close");
    assert_eq!(oracle.sent(&syn), "new_flow");
}

#[test]
fn spec_d12_an_older_connection_is_taken_up_where_rules_allow() {
    for (flags, state) in [(ACK, "established"), (FIN | ACK, "fin_wait"), (SYN | ACK, "syn_recv")] {
        let mut oracle = oracle();
        assert_eq!(oracle.sent(&syn().then(flags)), "new_flow");
        assert_eq!(oracle.state(), state);
        // A side that has sent no acknowledgment yet may have opened at the same time, if a rule lets it.
        let reason = if state == "syn_recv" { "no_rule" } else { "tcp_state" };
        assert_eq!(oracle.received(&syn().reply()), reason);
        assert_eq!(oracle.state(), state);
    }
    assert_eq!(oracle().received(&syn().answer(ACK)), "no_rule");
    let mut strict = Oracle::new(&files(&json!({ "strict_tcp": true })), PLENTY);
    for flags in [ACK, FIN | ACK, SYN | ACK, RST] {
        assert_eq!(strict.sent(&syn().then(flags)), "strict_tcp");
    }
    assert_eq!(strict.sent(&syn()), "new_flow");
}

#[test]
fn spec_d12_flags_that_make_no_sense() {
    let mut oracle = oracle();
    for flags in [0, FIN, SYN | FIN, SYN | RST, PSH | URG, FIN | RST | ACK, SYN | FIN | ACK] {
        assert_eq!(oracle.sent(&syn().then(flags)), "tcp_flags", "{flags:#x}");
    }
    let syn = established(&mut oracle);
    assert_eq!(oracle.received(&syn.answer(0)), "tcp_flags");
    assert_eq!(oracle.received(&syn.answer(ACK | PSH | URG)), "established");
}

#[test]
fn spec_d12_what_was_never_sent_cannot_be_acknowledged() {
    let mut oracle = oracle();
    let syn = established(&mut oracle);
    oracle.advance(10);
    assert_eq!(oracle.received(&syn.answer(FIN | ACK).sequence(FIRST + 1, FIRST + 2)), "established");
    assert_eq!((oracle.state(), oracle.only_flow().seconds_left), ("established", 431_990));
    // A segment in pieces does not tell how long it is: what is acknowledged after it counts as sent.
    let whole = syn.then(ACK).data(&[0; 60]);
    assert_eq!(oracle.sent(&whole.piece(0, 40, 1)), "established");
    assert_eq!(oracle.received(&syn.answer(FIN | ACK).sequence(FIRST + 1, FIRST + 61)), "established");
    assert_eq!(oracle.state(), "fin_wait");
}

#[test]
fn spec_d16_a_flow_is_live_once_it_has_been_answered() {
    let mut oracle =
        Oracle::new(&files(&json!({})), Limits { live: 1, half_v4: 2, half_v6: 1, datagrams: 1 });
    let syn = established(&mut oracle);
    let other = Packet::tcp(at("10.0.0.5:40001"), at("8.8.8.8:443"), SYN);
    assert_eq!(oracle.sent(&other), "new_flow");
    assert_eq!(oracle.received(&other.answer(SYN | ACK)), "established");
    assert_eq!(oracle.sent(&other.then(ACK)), "table_full");
    let flows = oracle.flows();
    let second = flows.iter().find(|flow| flow.ports.0 == 40001).unwrap();
    assert_eq!((second.live, second.state, second.seconds_left), (false, "syn_recv", 60));
    // Two more, and it is gone; the live one is not.
    for port in [1, 2] {
        oracle.sent(&Packet::tcp(at(&format!("10.0.0.5:{port}")), at("8.8.8.8:443"), SYN));
    }
    let ports: Vec<u16> = oracle.flows().iter().map(|flow| flow.ports.0).collect();
    assert_eq!(ports, [1, 2, 40000]);
    assert_eq!(oracle.received(&syn.answer(ACK)), "established");
}

#[test]
fn spec_d11_what_is_over_is_over_at_once() {
    let mut oracle = oracle();
    oracle.sent(&syn());
    oracle.advance(29);
    assert_eq!(oracle.flows().len(), 1);
    oracle.advance(1);
    assert_eq!(oracle.flows(), []);
    assert_eq!(oracle.received(&syn().answer(SYN | ACK)), "no_rule");
}

#[test]
fn spec_k11_flows_outlive_the_rule_that_let_them_begin() {
    let mut oracle = oracle();
    let syn = established(&mut oracle);
    let mut closed = files(&json!({ "timeouts": { "tcp_established": 60 } }));
    closed[0]["security_groups"][0]["outbound"] = json!([]);
    oracle.set_policy(&closed);
    assert_eq!(oracle.sent(&syn.then(ACK)), "established");
    // Shorter times cut none that runs.
    assert_eq!(oracle.only_flow().seconds_left, 432_000);
    assert_eq!(oracle.sent(&Packet::tcp(at("10.0.0.5:1"), at("8.8.8.8:443"), SYN)), "no_rule");
}
