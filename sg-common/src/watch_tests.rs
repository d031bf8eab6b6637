use super::*;
use crate::abi::{Direction, KIND_WORDS, packet_kind};
use crate::verdict::Reason;

const EVERYTHING: Watcher = Watcher {
    active: 1,
    ifindex: 0,
    kinds: [u32::MAX; KIND_WORDS],
    family: 0,
    protocol: ANY,
    port: ANY,
    padding: 0,
    remote: [Be32(0); 4],
    remote_mask: [Be32(0); 4],
    local: [Be32(0); 4],
    local_mask: [Be32(0); 4],
    interval: 0,
    burst: 0,
};

fn packet() -> Tuple {
    Tuple {
        family: 4,
        protocol: 6,
        has_ports: 1,
        ports: FlowPorts { local: 443, remote: 40_000 },
        local: [Be32::from_host(0x0a00_0005), Be32(0), Be32(0), Be32(0)],
        remote: [Be32::from_host(0xc633_6407), Be32(0), Be32(0), Be32(0)],
    }
}

const KIND: u32 = packet_kind(Direction::Inbound, Reason::NoRule as u32);

fn is_wanted(watcher: &Watcher) -> bool {
    wants(watcher, 7, KIND, &packet())
}

#[test]
fn every_part_of_a_filter_must_fit() {
    assert!(is_wanted(&EVERYTHING));
    assert!(!is_wanted(&Watcher { active: 0, ..EVERYTHING }));
    assert!(is_wanted(&Watcher { ifindex: 7, ..EVERYTHING }));
    assert!(!is_wanted(&Watcher { ifindex: 8, ..EVERYTHING }));
    assert!(is_wanted(&Watcher { family: 4, ..EVERYTHING }));
    assert!(!is_wanted(&Watcher { family: 6, ..EVERYTHING }));
    assert!(is_wanted(&Watcher { protocol: 6, ..EVERYTHING }));
    assert!(!is_wanted(&Watcher { protocol: 17, ..EVERYTHING }));
    for (port, wanted) in [(443, true), (40_000, true), (80, false), (0, false)] {
        assert_eq!(is_wanted(&Watcher { port, ..EVERYTHING }), wanted, "{port}");
    }
    let kinds = |kind: u32| {
        let mut kinds = [0; KIND_WORDS];
        kinds[kind as usize / 32] = 1 << (kind % 32);
        kinds
    };
    assert!(is_wanted(&Watcher { kinds: kinds(KIND), ..EVERYTHING }));
    for other in (0..2 * crate::abi::REASON_SLOTS).filter(|kind| *kind != KIND) {
        assert!(!is_wanted(&Watcher { kinds: kinds(other), ..EVERYTHING }), "{other}");
    }
}

#[test]
fn addresses_are_compared_where_the_mask_has_ones() {
    let net = |address: u32, bits: u32| {
        let mask = Be32::from_host(u32::MAX.checked_shl(32 - bits).unwrap_or(0));
        ([Be32::from_host(address), Be32(0), Be32(0), Be32(0)], [mask, Be32(0), Be32(0), Be32(0)])
    };
    for (address, bits, wanted) in
        [(0xc633_6400, 24, true), (0xc633_6500, 24, false), (0xc633_6407, 32, true), (0xc633_6406, 32, false)]
    {
        let (remote, remote_mask) = net(address, bits);
        assert_eq!(is_wanted(&Watcher { remote, remote_mask, ..EVERYTHING }), wanted, "{address:x}");
        // The instance's own address is another matter.
        assert!(!is_wanted(&Watcher { local: remote, local_mask: remote_mask, ..EVERYTHING }));
    }
    let (local, local_mask) = net(0x0a00_0000, 8);
    assert!(is_wanted(&Watcher { local, local_mask, ..EVERYTHING }));
    // Each of the four words counts.
    for word in 0..4 {
        let mut remote_mask = [Be32(0); 4];
        remote_mask[word] = Be32(1);
        let mut remote = packet().remote;
        assert!(is_wanted(&Watcher { remote, remote_mask, ..EVERYTHING }));
        remote[word].0 ^= 1;
        assert!(!is_wanted(&Watcher { remote, remote_mask, ..EVERYTHING }), "word {word}");
    }
}

#[test]
fn who_asks_for_a_port_is_told_of_packets_that_have_ports_only() {
    let icmp = Tuple { has_ports: 0, protocol: 1, ..packet() };
    let watcher = Watcher { port: 443, ..EVERYTHING };
    assert!(!wants(&watcher, 7, KIND, &icmp));
    // Of what was not read nobody knows yet.
    assert!(wants(&watcher, 7, KIND, &Tuple::UNKNOWN));
    assert!(!wants_tuple(&watcher, &Tuple::UNKNOWN));
}
