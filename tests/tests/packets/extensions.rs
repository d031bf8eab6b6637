//! SPEC D15: IPv6 extension headers.

use serde_json::{Value, json};
use sg_common::verdict::Reason::{
    self, Established, ExtensionHeaders, Malformed, NewFlow, NoRule, SourceRoute,
};

use crate::bench::{Bench, Way, ip, on_both_hooks};
use crate::frame::{
    AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, Packet, ROUTING, SYN, ethernet,
};
use crate::{GUEST, OTHER, at, with_rules};

/// How many headers are walked.
const BOUND: usize = 6;

/// Strangers may reach TCP 443, by IPv6.
fn inward(bench: &Bench) -> Value {
    let rules = json!([{ "protocol": "TCP", "source": "::/0", "port": 443 }]);
    with_rules(bench.ingress(), &rules, &json!([]))
}

fn syn(source_port: u16, port: u16) -> Packet {
    Packet::tcp(at(OTHER[1], source_port), at(GUEST[1], port), SYN)
}

/// The frame with these headers before the TCP header: each the number, and all of its bytes but the first.
fn chained(packet: &Packet, chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let whole = packet.bare();
    let (header, transport) = whole[14..].split_at(40);
    let mut following = Vec::new();
    for (index, (_, rest)) in chain.iter().enumerate() {
        following.push(chain.get(index + 1).map_or(packet.protocol, |next| next.0));
        following.extend(rest);
    }
    following.extend(transport);
    let mut header = header.to_vec();
    header[4..6].copy_from_slice(&(following.len() as u16).to_be_bytes());
    header[6] = chain.first().map_or(packet.protocol, |first| first.0);
    header.extend(following);
    ethernet(0x86dd, &header)
}

/// A header of so many 8-byte words, filled with padding.
fn padding(number: u8, words: u8) -> (u8, Vec<u8>) {
    let mut rest = vec![words - 1, 1, words * 8 - 4];
    rest.resize(usize::from(words) * 8 - 1, 0);
    (number, rest)
}

/// RFC 4302: lengths count 4-byte words, two of them not.
fn authentication(words: u8) -> (u8, Vec<u8>) {
    let mut rest = vec![words - 2];
    rest.resize(usize::from(words) * 4 - 1, 0xff);
    (AUTHENTICATION, rest)
}

/// RFC 8754; of no type that is forbidden.
fn routing(kind: u8) -> (u8, Vec<u8>) {
    (ROUTING, vec![0, kind, 0, 0, 0, 0, 0])
}

fn atomic() -> (u8, Vec<u8>) {
    (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 9])
}

#[test]
fn spec_d15_chains_are_walked_to_the_transport_header() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        let chains = [
            vec![padding(HOP_BY_HOP, 1)],
            vec![padding(HOP_BY_HOP, 3), padding(DESTINATION_OPTIONS, 2)],
            vec![routing(4)],
            vec![atomic()],
            vec![authentication(3)],
            vec![authentication(6)],
            vec![authentication(7), padding(DESTINATION_OPTIONS, 1)],
            vec![
                padding(HOP_BY_HOP, 1),
                padding(DESTINATION_OPTIONS, 1),
                routing(3),
                atomic(),
                authentication(6),
                padding(DESTINATION_OPTIONS, 31),
            ],
            (0..BOUND).map(|_| padding(DESTINATION_OPTIONS, 1)).collect(),
        ];
        for (number, chain) in chains.iter().enumerate() {
            let port = 1000 + number as u16;
            let names: Vec<u8> = chain.iter().map(|(name, _)| *name).collect();
            let run = |bench: &mut Bench, packet: &Packet| {
                bench.run_at("sg0", Way::Egress, &chained(packet, chain))
            };
            assert_eq!(run(bench, &syn(port, 443)), NewFlow, "{names:?}");
            assert_eq!(run(bench, &syn(port, 444)), NoRule, "{names:?}: what follows is judged");
            // The flow is the same with them and without.
            let answer = crate::answer(&syn(port, 443));
            assert_eq!(bench.sends(&answer), Established, "{names:?}");
            assert_eq!(bench.run_at("sg0", Way::Ingress, &chained(&answer, chain)), Established);
        }
        assert_eq!(bench.flows().len(), chains.len());
    });
}

#[test]
fn spec_d15_chains_that_are_too_long_or_unknown_are_dropped() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        let many = |count: usize| (0..count).map(|_| padding(DESTINATION_OPTIONS, 1)).collect::<Vec<_>>();
        let behind = |mut chain: Vec<_>, last| {
            chain.push(last);
            chain
        };
        let expect = |bench: &mut Bench, what: &str, chain: &[(u8, Vec<u8>)], expected: Reason| {
            let frame = chained(&syn(1, 443), chain);
            assert_eq!(bench.run_at("sg0", Way::Egress, &frame), expected, "{what}");
            assert_eq!(bench.ask("sg0", Way::Egress, &frame).reason, expected, "{what}");
            let frame = chained(&syn(1, 443).reply(), chain);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &frame), expected, "{what}");
        };
        for count in [BOUND + 1, BOUND + 2, 20] {
            expect(bench, &format!("{count} headers"), &many(count), ExtensionHeaders);
        }
        // Mobility, host identity, shim6, and two for experiments: known to be headers, and not what is in them.
        for number in [135, 139, 140, 253, 254] {
            let unknown = padding(number, 1);
            expect(bench, &format!("header {number}"), std::slice::from_ref(&unknown), ExtensionHeaders);
            let chain = behind(many(2), unknown);
            expect(bench, &format!("header {number} behind others"), &chain, ExtensionHeaders);
        }
        let piece = (FRAGMENT, vec![0, 0, 1, 0, 0, 0, 9]);
        expect(bench, "a piece of a piece", &[piece, atomic()], ExtensionHeaders);
        let unnumbered = || (FRAGMENT, vec![0; 7]);
        expect(bench, "two headers of whole datagrams", &[unnumbered(), unnumbered()], ExtensionHeaders);
        // Type 0 names routers to pass (RFC 5095).
        expect(bench, "routing of type 0", &[routing(0)], SourceRoute);
        // A header that is longer than what follows it.
        for (what, mut long) in [
            ("options", padding(HOP_BY_HOP, 1)),
            ("destination options", padding(DESTINATION_OPTIONS, 1)),
            ("routing", routing(4)),
            ("authentication", authentication(6)),
        ] {
            long.1[0] = 255;
            expect(bench, what, &[long], Malformed);
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_d15_no_next_header_is_a_protocol_without_a_header() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        let nothing = Packet::new(ip(OTHER[1]), ip(GUEST[1]), 59, vec![]).extension(HOP_BY_HOP, &[0; 6]);
        assert_eq!(bench.receives(&nothing), NoRule);
    });
}
