//! Chains of IPv6 extension headers as long as they may be and longer, before both judges.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the way tests do")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use sg_common::verdict::Reason::{
    self, Established, ExtensionHeaders, NewFlow, NoRule, Related, SourceRoute,
};
use sg_oracle::frame::{AUTHENTICATION, DESTINATION_OPTIONS, HOP_BY_HOP, Packet, ROUTING};
use sg_oracle::traffic::Step;
use sg_oracle::trial::{ROOM, Trial};

fn trial() -> Trial {
    let files: Value = json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "security_groups": [{ "name": "outward" }],
        "interfaces": [{ "name": "sg0", "addresses": ["fd00::5"], "security_groups": ["outward"] }],
    });
    Trial::new(&[files], ROOM)
}

fn judged(trial: &mut Trial, outbound: bool, packet: &Packet) -> Reason {
    let (device, frame) = ("sg0".to_owned(), packet.frame());
    trial.step(&Step::Frame { device, ingress: outbound, frame }).unwrap().unwrap().reason
}

fn question() -> Packet {
    let [here, there]: [SocketAddr; 2] =
        ["[fd00::5]:4000", "[2001:db8::7]:53"].map(|address| address.parse().unwrap());
    Packet::udp(here, there, b"a question")
}

/// Behind so many headers of a kind, each of so many bytes.
fn behind(packet: Packet, count: usize, number: u8, bytes: usize) -> Packet {
    // Padding options; a routing header of type 4.
    let body = |_| if number == ROUTING { vec![4; bytes - 2] } else { vec![0; bytes - 2] };
    (0..count).map(body).fold(packet, |packet, body| packet.extension(number, &body))
}

#[test]
fn spec_d15_six_extension_headers_are_walked_and_no_more() {
    for number in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
        for bytes in [8, 16, 40] {
            for count in 0..=8 {
                let mut trial = trial();
                let fits = count <= 6;
                let reason = if fits { NewFlow } else { ExtensionHeaders };
                assert_eq!(judged(&mut trial, true, &behind(question(), count, number, bytes)), reason);
                // It is the same flow, so the ports were found.
                let reason = if fits { Established } else { NewFlow };
                assert_eq!(judged(&mut trial, true, &question()), reason, "{count} of {number}");
            }
        }
    }
    // What an authentication header says of its length counts otherwise (RFC 4302, section 2.2).
    for count in 0..=7 {
        let reason = if count <= 6 { NewFlow } else { ExtensionHeaders };
        assert_eq!(judged(&mut trial(), true, &behind(question(), count, AUTHENTICATION, 8)), reason);
    }
    for (number, reason) in
        [(135, ExtensionHeaders), (139, ExtensionHeaders), (140, ExtensionHeaders)].into_iter().chain([
            (253, ExtensionHeaders),
            (254, ExtensionHeaders),
            (50, NewFlow),
            (59, NewFlow),
            (255, NewFlow),
        ])
    {
        for before in [0, 1, 5] {
            let packet = behind(question(), before, DESTINATION_OPTIONS, 8);
            let packet = Packet { protocol: number, ..packet };
            assert_eq!(judged(&mut trial(), true, &packet), reason, "{number} behind {before}");
        }
    }
}

#[test]
fn spec_d15_behind_the_last_extension_header_there_may_be_nothing() {
    for number in [50, 59, 255] {
        for count in 0..=6 {
            let packet =
                Packet { protocol: number, payload: Vec::new(), ..behind(question(), count, HOP_BY_HOP, 8) };
            assert_eq!(judged(&mut trial(), true, &packet), NewFlow, "{number} behind {count}");
        }
    }
}

#[test]
fn spec_6_a_routing_header_of_type_0_is_found_behind_others() {
    for before in 0..6 {
        for (kind, reason) in [(0, SourceRoute), (4, NewFlow)] {
            let packet = behind(question(), before, DESTINATION_OPTIONS, 16);
            let packet = packet.extension(ROUTING, &[kind, 0, 0, 0, 0, 0]);
            assert_eq!(judged(&mut trial(), true, &packet), reason, "{kind} behind {before}");
        }
        // One of another type behind it does not make up for it.
        let packet = question().extension(ROUTING, &[0; 6]).extension(ROUTING, &[4, 0, 0, 0, 0, 0]);
        assert_eq!(judged(&mut trial(), true, &packet), SourceRoute);
    }
}

#[test]
fn spec_d13_errors_quote_up_to_six_extension_headers() {
    for number in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
        for bytes in [8, 16, 40] {
            for count in 0..=8 {
                let mut trial = trial();
                assert_eq!(judged(&mut trial, true, &question()), NewFlow);
                let about = behind(question(), count, number, bytes);
                let error = about.error("2001:db8::1".parse().unwrap(), 1, 4);
                let reason = if count <= 6 { Related } else { NoRule };
                assert_eq!(judged(&mut trial, false, &error), reason, "{count} of {number}");
            }
        }
    }
    for count in 0..=7 {
        let mut trial = trial();
        assert_eq!(judged(&mut trial, true, &question()), NewFlow);
        // A fragment header is one more.
        let about = behind(question(), count, DESTINATION_OPTIONS, 8).fragment(0, false, 5);
        let reason = if count <= 5 { Related } else { NoRule };
        assert_eq!(judged(&mut trial, false, &about.error("2001:db8::1".parse().unwrap(), 3, 0)), reason);
    }
}
