//! Checksums that are still to be written when a frame is judged, before both judges: at every place of every kind of frame.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the way tests do")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use sg_common::verdict::Reason;
use sg_oracle::expect::Oracle;
use sg_oracle::frame::{DESTINATION_OPTIONS, Packet, SYN, arp, ethernet, tagged};
use sg_oracle::host::Host;
use sg_oracle::trial::ROOM;

fn files() -> Vec<Value> {
    vec![json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "settings": { "guest_baseline": { "ether_types": [0x1234] } },
        "security_groups": [{ "name": "outward" }],
        "interfaces": [
            { "name": "sg0", "mac": "52:54:00:00:00:05", "addresses": ["10.0.0.5", "fd00::5"], "security_groups": ["outward"] },
            { "name": "sg1", "trunk": true, "security_groups": ["outward"] },
            { "name": "eth0", "role": "host", "addresses": ["10.0.0.5", "fd00::5"], "security_groups": ["outward"] } ],
    })]
}

/// One of each kind that is read in another way.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (here, there) in [("10.0.0.5:4000", "198.51.100.7:53"), ("[fd00::5]:4000", "[2001:db8::7]:53")] {
        let (here, there): (SocketAddr, SocketAddr) = (here.parse().unwrap(), there.parse().unwrap());
        let udp = Packet::udp(here, there, b"a question of some length");
        let mut optional = udp.clone();
        if here.is_ipv4() {
            optional.options = vec![1; 4];
        } else {
            optional.extensions = vec![(DESTINATION_OPTIONS, vec![1, 4, 0, 0, 0, 0])];
        }
        let piece = |offset: u16, more: bool| {
            let mut piece = udp.clone();
            piece.payload = vec![7; 24];
            piece.payload[..8].copy_from_slice(&udp.payload[..8]);
            piece.fragment = Some((offset, more, 9));
            piece
        };
        let packets = [
            Packet::tcp(here, there, SYN),
            udp.clone(),
            optional,
            Packet::ping(here.ip(), there.ip(), 7),
            Packet::new(here.ip(), there.ip(), 47, vec![0; 16]),
            piece(0, true),
            piece(24, false),
        ];
        frames.extend(packets.iter().map(Packet::frame));
        frames.push(tagged(&udp.frame(), 0x8100, 7));
    }
    frames.push(arp([10, 0, 0, 5].into(), [10, 0, 0, 1].into()));
    frames.push(ethernet(0x8035, &[0; 28]));
    frames.push(ethernet(0x1234, &[0; 28]));
    frames.push(ethernet(0x4321, &[0; 28]));
    frames.iter().cloned().chain(frames.iter().map(|frame| frame[..20].to_vec())).collect()
}

#[test]
fn spec_6_a_pending_checksum_changes_nothing_that_was_judged() {
    let mut refused = 0;
    for device in ["sg0", "sg1", "eth0"] {
        for ingress in [true, false] {
            for frame in frames() {
                let plain = Host::new(&files(), ROOM).judge(device, ingress, &frame).verdict.reason();
                for place in (0..frame.len()).chain([0xffff, 0x1_fffe]) {
                    let (host, mut oracle) = (Host::new(&files(), ROOM), Oracle::new(&files(), ROOM));
                    let judged = host.judge_pending(device, ingress, &frame, place as u32).verdict;
                    let said = oracle.judge_pending(device, ingress, &frame, Some(place));
                    let reason = judged.reason().unwrap();
                    assert_eq!(reason.name(), said.reason, "{device} {ingress} {place} {frame:02x?}");
                    if reason != Reason::ChecksumPlace {
                        assert_eq!(
                            Some(reason),
                            plain,
                            "the place alone: {device} {ingress} {place} {frame:02x?}"
                        );
                    }
                    refused += usize::from(reason == Reason::ChecksumPlace);
                    // What XDP passes, the program behind it judges by the place alone, to the same end.
                    if ingress
                        && plain.is_some_and(|reason| Reason::EVERY.contains(&reason) && (reason as u32) < 32)
                    {
                        let behind = host.check_pending(device, &frame, place as u32);
                        assert_eq!(
                            behind.is_some(),
                            reason == Reason::ChecksumPlace,
                            "{device} {place} {frame:02x?}"
                        );
                    }
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}
