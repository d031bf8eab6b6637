use proptest::prelude::*;

use super::*;
use crate::abi::FlowPorts;
use crate::judge::tests::{CLOSED, entry};
use crate::tcp::{ACK, FIN, NO_SCALE, RST, SYN, Seen};

const NOW: u64 = 1_000_000;
const TIMEOUT: u32 = 1000;
const GRANULARITY: u32 = 10;

/// Numbers around a few that all are taken from, so that they meet.
fn sequence() -> impl Strategy<Value = u32> {
    let near = prop_oneof![Just(0u32), Just(5000), Just(0x8000_0000), Just(u32::MAX - 1000)];
    let off = prop_oneof![3 => 0..4u32, 1 => 990..1010u32, 1 => 0xff00..0x1_0100u32];
    (near, off).prop_map(|(near, off)| near.wrapping_add(off))
}

fn window() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0u32), Just(1), Just(1000), Just(0x2_0000), any::<u32>()]
}

fn flow() -> impl Strategy<Value = Flow> {
    let numbers = [sequence().boxed(), sequence().boxed(), window().boxed()];
    let numbers = [numbers.clone(), numbers].concat();
    // Mostly as a connection is that both sides know all about.
    let known = prop_oneof![3 => (0..0x400u16).prop_map(|scales| 0x3c00 | scales), 1 => 0..0x8000u16];
    let state =
        prop_oneof![4 => Just(State::TcpEstablished as u8), 2 => Just(State::UdpStream as u8), 1 => 0..14u8];
    let flags = prop_oneof![
        3 => prop_oneof![Just(FLOW_REPLIED), Just(FLOW_REPLIED | FLOW_ORIGIN_OUTBOUND)],
        1 => 0..16u8
    ];
    let expires = NOW + u64::from(TIMEOUT);
    let expires = prop_oneof![4 => expires - 20..expires + 2, 1 => NOW - 1..NOW + 2];
    let place = prop_oneof![8 => Just(FLOW_LIVE), 1 => Just(0)];
    (numbers, known, state, flags, expires, place).prop_map(|(numbers, tcp, state, flags, expires, place)| {
        Flow {
            expires,
            created: 0,
            place,
            policy: 0,
            state,
            flags,
            tcp,
            sequence: numbers.try_into().unwrap(),
        }
    })
}

fn transport() -> impl Strategy<Value = Transport> {
    let kind = prop_oneof![
        6 => Just(Kind::Tcp),
        2 => Just(Kind::Udp),
        1 => Just(Kind::IcmpRequest),
        1 => Just(Kind::IcmpReply),
        1 => Just(Kind::IcmpOther),
        1 => Just(Kind::Other),
    ];
    let flags =
        prop_oneof![4 => Just(ACK), 1 => any::<u8>(), 1 => Just(ACK | FIN), 1 => Just(RST), 1 => Just(SYN)];
    let payload = prop_oneof![Just(0u32), Just(1), Just(1000)];
    let partial = proptest::bool::weighted(0.1);
    let scale = prop_oneof![Just(NO_SCALE), 0..15u8];
    (kind, flags, sequence(), sequence(), payload, partial, any::<u16>(), scale).prop_map(
        |(kind, flags, sequence, acknowledgment, payload, partial, window, scale)| Transport {
            number: 0,
            ports: FlowPorts { local: 0, remote: 0 },
            kind,
            seen: Seen { flags, sequence, acknowledgment, payload, partial, window, scale },
        },
    )
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)]
}

/// What a way of judging says of a packet, and what the flow is then.
fn judged<R>(
    flow: &Flow,
    direction: Direction,
    judge: impl FnOnce(&FlowRef<'_>, &At<'_>) -> R,
) -> (R, [u64; 6]) {
    let mut half = CLOSED;
    half.timeouts = [TIMEOUT; 12];
    half.granularity = GRANULARITY;
    let interface = entry(1);
    let mut flow = *flow;
    // SAFETY: the flow outlives the reference to it, and nobody else has one.
    let reference = unsafe { FlowRef::new(NonNull::from(&mut flow)) };
    let said = judge(&reference, &At::new(&interface, &half, 0, direction, NOW));
    const { assert!(size_of::<Flow>() == size_of::<[u64; 6]>()) };
    // SAFETY: a flow has no padding.
    (said, unsafe { core::mem::transmute::<Flow, [u64; 6]>(flow) })
}

/// What both ways of judging a packet of a live flow say, and what becomes of the flow.
type Both = ((Option<State>, [u64; 6]), (Known, [u64; 6]));

fn both(flow: &Flow, direction: Direction, transport: &Transport) -> Both {
    let short = judged(flow, direction, |flow, at| steady(flow, at, transport));
    let long = judged(flow, direction, |flow, at| {
        let mut change = Change::NOTHING;
        known::<false>(flow, at, transport, &mut change)
    });
    (short, long)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spec_k6_d11_d12_the_short_way_says_and_does_what_the_long_one_does(
        flow in flow(),
        direction in direction(),
        transport in transport(),
    ) {
        let unchanged = judged(&flow, direction, |_, _| ()).1;
        let ((short, after_short), (long, after_long)) = both(&flow, direction, &transport);
        match short {
            Some(state) => {
                prop_assert_eq!(long, Known::Pass { state, now_live: false });
                prop_assert_eq!(after_short, after_long);
                prop_assert_eq!(flow.place & FLOW_LIVE, FLOW_LIVE, "a half-open flow is for the long way");
            }
            None => prop_assert_eq!(after_short, unchanged, "who says nothing does nothing"),
        }
    }
}

/// That nearly all packets go the short way, and not only those that nothing is said of.
#[test]
fn ordinary_packets_go_the_short_way() {
    let flow = Flow {
        expires: NOW + 1,
        created: 0,
        place: FLOW_LIVE,
        policy: 0,
        state: State::TcpEstablished as u8,
        flags: FLOW_REPLIED | FLOW_ORIGIN_OUTBOUND,
        tcp: 0x3c00,
        sequence: [100, 500, 1000, 500, 100, 1000],
    };
    let seen = Seen {
        flags: ACK,
        sequence: 100,
        acknowledgment: 500,
        payload: 10,
        partial: false,
        window: 2000,
        scale: NO_SCALE,
    };
    let ports = FlowPorts { local: 0, remote: 0 };
    let segment = Transport { number: 0, ports, kind: Kind::Tcp, seen };
    let ((short, after), _) = both(&flow, Direction::Outbound, &segment);
    assert_eq!(short, Some(State::TcpEstablished));
    let [expires, .., end_ack, window_end, _] = after;
    assert_eq!(expires, NOW + u64::from(TIMEOUT));
    assert_eq!((end_ack as u32, end_ack >> 32, window_end as u32), (110, 500, 2000));
    for (kind, state) in [
        (Kind::Udp, State::UdpStream),
        (Kind::IcmpRequest, State::Icmp),
        (Kind::IcmpReply, State::Icmp),
        (Kind::Other, State::Other),
    ] {
        let flow = Flow { state: state as u8, ..flow };
        let ((short, _), _) = both(&flow, Direction::Outbound, &Transport { kind, ..segment });
        assert_eq!(short, Some(state));
    }
}
