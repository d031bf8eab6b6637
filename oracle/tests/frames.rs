//! Frames that random traffic does not make, before both judges.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the way tests do")]

use std::net::{Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use sg_common::verdict::Reason::{
    self, EarlyFragment, Established, Fragment, FragmentOverlap, Malformed, NeighborDiscovery, NewFlow,
    NoRule, Related, Vlan,
};
use sg_oracle::frame::{ACK, FIRST, Packet, SYN};
use sg_oracle::host::Host;
use sg_oracle::traffic::Step;
use sg_oracle::trial::{ROOM, Trial};

fn files() -> Vec<Value> {
    vec![json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "security_groups": [{ "name": "outward" }],
        "interfaces": [
            { "name": "sg0", "addresses": ["10.0.0.5", "fd00::5"], "security_groups": ["outward"] },
            { "name": "sg1", "addresses": ["10.0.0.6"], "trunk": true, "security_groups": ["outward"] },
            { "name": "eth0", "role": "host", "addresses": ["10.0.0.9"], "security_groups": ["outward"] } ],
    })]
}

fn sent(trial: &mut Trial, frame: Vec<u8>) -> Reason {
    trial.step(&Step::Frame { device: "sg0".to_owned(), ingress: true, frame }).unwrap().unwrap().reason
}

fn received(trial: &mut Trial, frame: Vec<u8>) -> Reason {
    trial.step(&Step::Frame { device: "sg0".to_owned(), ingress: false, frame }).unwrap().unwrap().reason
}

#[test]
fn spec_d24_super_packets_are_as_long_as_their_frame() {
    let here: [SocketAddr; 2] = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:443", "[2001:db8::7]:443"].map(|address| address.parse().unwrap());
    for (here, there) in here.into_iter().zip(there) {
        let (length_at, headers) = if here.is_ipv4() { (16, 14 + 20 + 20) } else { (18, 14 + 40 + 20) };
        let syn = Packet::tcp(here, there, SYN);
        let mut end = FIRST + 1;
        let mut trial = Trial::new(&files(), ROOM);
        assert_eq!(sent(&mut trial, syn.frame()), NewFlow);
        assert_eq!(received(&mut trial, syn.answer(SYN | ACK).frame()), Established);
        assert_eq!(sent(&mut trial, syn.then(ACK).frame()), Established);
        for (length, reason) in [(0xffff, Malformed), (0x1_0000, Established), (0x1_3333, Established)] {
            // The receiver's window is 65,535 bytes from what it has acknowledged.
            let mut frame = syn.then(ACK).sequence(end, FIRST + 1).frame();
            frame.resize(length, 7);
            frame[length_at..length_at + 2].fill(0);
            assert_eq!(sent(&mut trial, frame), reason, "{length}");
            if reason == Established {
                end += (length - headers) as u32;
                let answer = syn.answer(ACK).sequence(FIRST + 1, end);
                assert_eq!(received(&mut trial, answer.frame()), Established);
            }
            assert_eq!(trial.host().entries()[0].flow.sequence[0], end, "{length}");
        }
    }
}

#[test]
fn spec_6_a_tag_that_the_device_has_taken_out_is_a_tag() {
    let host = Host::new(&files(), ROOM);
    for (device, source, ingress, reason) in [
        ("sg0", "10.0.0.5:1000", true, Vlan),
        ("sg1", "10.0.0.6:1000", true, NewFlow),
        ("eth0", "10.0.0.9:1000", false, NewFlow),
    ] {
        let packet = Packet::udp(source.parse().unwrap(), "198.51.100.7:53".parse().unwrap(), b"?");
        let verdict = host.judge_tagged(device, ingress, &packet.frame()).verdict;
        assert_eq!(verdict.reason(), Some(reason), "{device}");
    }
}

#[test]
fn spec_6_options_that_only_the_device_has_are_not_taken_for_none() {
    const GRE: u8 = 47;
    let host = Host::new(&files(), ROOM);
    let [here, there] = ["10.0.0.5", "198.51.100.7"].map(|address| address.parse().unwrap());
    let plain = Packet::new(here, there, GRE, vec![7; 40]);
    let headers = 14 + 20;
    for (options, at_hand, reason) in [
        (&[][..], headers, NewFlow),
        (&[1; 8], headers + 8, Established),
        (&[1; 8], headers + 7, Malformed),
        (&[1; 8], headers, Malformed),
    ] {
        let frame = plain.clone().options(options).frame();
        let verdict = host.judge_first("sg0", true, &frame, at_hand).verdict;
        assert_eq!(verdict.reason(), Some(reason), "{options:?}, {at_hand} bytes");
    }
}

#[test]
fn spec_d13_what_an_error_quotes_ends_with_the_error() {
    // Behind the packet's end there may be anything, also what would make it pass.
    let here: [SocketAddr; 2] = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:443", "[2001:db8::7]:443"].map(|address| address.parse().unwrap());
    for (here, there) in here.into_iter().zip(there) {
        let (kind, header) = if here.is_ipv4() { (3, 20) } else { (1, 40) };
        let questions = [
            (Packet::tcp(here, there, SYN), 8),
            (Packet::udp(here, there, b"a question"), 8),
            (Packet::ping(here.ip(), there.ip(), 7), 8),
            (Packet::new(here.ip(), there.ip(), 47, vec![0; 16]), 0),
        ];
        for (question, ports) in questions {
            let mut trial = Trial::new(&files(), ROOM);
            assert_eq!(sent(&mut trial, question.frame()), NewFlow);
            let error = question.error(there.ip(), kind, 1);
            for quoted in 1..header + 16 {
                let mut shorter = error.clone();
                shorter.payload.truncate(8 + quoted);
                let mut frame = shorter.bare();
                frame.extend(&error.payload[8 + quoted..]);
                let reason = if quoted < header + ports { NoRule } else { Related };
                assert_eq!(received(&mut trial, frame), reason, "{quoted} of {question:?}");
            }
        }
    }
}

#[test]
fn spec_d13_an_error_about_a_later_piece_passes_as_long_as_the_datagram_is_known() {
    let here: [SocketAddr; 2] = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:443", "[2001:db8::7]:443"].map(|address| address.parse().unwrap());
    for (here, there) in here.into_iter().zip(there) {
        let kind = if here.is_ipv4() { 3 } else { 1 };
        let whole = Packet::udp(here, there, &[7; 100]);
        let (first, later) = (whole.piece(0, 48, 9), whole.piece(48, 108, 9));
        let end = if here.is_ipv4() { 30 } else { 60 };
        for (seconds, reason) in [(end - 1, Related), (end, NoRule)] {
            let mut trial = Trial::new(&files(), ROOM);
            assert_eq!(sent(&mut trial, first.frame()), NewFlow);
            assert_eq!(sent(&mut trial, later.frame()), Fragment);
            trial.step(&Step::Advance(seconds)).unwrap();
            assert_eq!(received(&mut trial, later.error(there.ip(), kind, 1).frame()), reason);
        }
    }
}

#[test]
fn spec_d14_an_identification_serves_again_once_its_datagram_is_whole() {
    let here: [SocketAddr; 2] = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:53", "[2001:db8::7]:53"].map(|address| address.parse().unwrap());
    for (here, there) in here.into_iter().zip(there) {
        let whole = Packet::udp(here, there, &[7; 100]);
        let (first, last) = (whole.piece(0, 48, 9), whole.piece(48, 108, 9));
        let mut trial = Trial::new(&files(), ROOM);
        for (piece, reason) in [
            (&last, EarlyFragment),
            // Now it is whole, so the same bytes are those of another.
            (&first, NewFlow),
            (&first, Established),
            (&last, Fragment),
            (&first, Established),
            // This one is not whole yet.
            (&first, FragmentOverlap),
        ] {
            assert_eq!(sent(&mut trial, piece.frame()), reason, "{here}");
        }
    }
}

#[test]
fn spec_6_a_port_is_no_message_type() {
    // The upper byte of the port stands where another packet has its ICMP type.
    let here: [SocketAddr; 2] = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there: [SocketAddr; 2] =
        ["198.51.100.7:0", "[2001:db8::7]:0"].map(|address| address.parse().unwrap());
    for (here, mut there) in here.into_iter().zip(there) {
        for kind in 0..=0xff {
            there.set_port(kind << 8 | 7);
            for hop_limit in [1, 64, 255] {
                let (udp, tcp) = (Packet::udp(here, there, b"?"), Packet::tcp(here, there, SYN));
                for packet in [udp, tcp] {
                    let mut trial = Trial::new(&files(), ROOM);
                    let reason = sent(&mut trial, packet.clone().hop_limit(hop_limit).frame());
                    assert_eq!(reason, NewFlow, "{packet:?}");
                }
            }
        }
    }
}

#[test]
fn spec_6_an_advertisement_ends_with_its_packet() {
    // A target behind the end is none, though it be the guest's own.
    let [own, everybody]: [Ipv6Addr; 2] = ["fd00::5", "ff02::1"].map(|address| address.parse().unwrap());
    let mut message = vec![136, 0, 0, 0, 0, 0, 0, 0];
    message.extend(own.octets());
    let whole = Packet::new(own.into(), everybody.into(), 58, message).hop_limit(255);
    for length in 8..=24 {
        let mut shorter = whole.clone();
        shorter.payload.truncate(length);
        let mut frame = shorter.bare();
        frame.extend(&whole.payload[length..]);
        let reason = if length == 24 { NeighborDiscovery } else { Malformed };
        assert_eq!(sent(&mut Trial::new(&files(), ROOM), frame), reason, "{length}");
    }
}
