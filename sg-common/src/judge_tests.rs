use super::*;
use crate::abi::INTERFACE_SLOTS;

pub const CLOSED: InterfaceHalf = InterfaceHalf {
    policy: 0,
    vpc: 0,
    flags: 0,
    granularity: 0,
    timeouts: [0; 12],
    mac: [0; 6],
    reserved: 0,
    guard: 0,
    own_v4: crate::abi::Be32(0),
    own_v6: [crate::abi::Be32(0); 4],
    ether_types: [0; 8],
    patience_v4: 0,
    patience_v6: 0,
    reserved_too: [0; 2],
};

pub const fn entry(ifindex: u32) -> Interface {
    Interface {
        ifindex,
        zone: 0,
        row: 0,
        live_limit: 0,
        half_limit_v4: 0,
        half_base_v4: 0,
        half_limit_v6: 0,
        half_base_v6: 0,
        datagram_limit: 0,
        datagram_base: 0,
        watched: [0; crate::abi::KIND_WORDS],
        halves: [CLOSED; 2],
    }
}

static FREE: Interface = entry(0);
static WANTED: Interface = entry(7);

/// One interface, in one entry.
struct OneAt(u32);

impl Environment for OneAt {
    const DRY_RUN: bool = false;

    fn moment(&self) -> Option<Moment> {
        None
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        assert!(index < INTERFACE_SLOTS);
        Some(if index == self.0 { &WANTED } else { &FREE })
    }

    fn pair(&self, _key: &PairKey) -> Option<&Row> {
        None
    }

    fn port_table_contains(&self, _index: u32, _number: u16) -> bool {
        false
    }

    fn add_live(&self, _row: u32, _change: i64) -> u64 {
        0
    }

    fn is_accounting(&self) -> bool {
        false
    }

    fn accounts(&self, _row: u32, _change: u64) -> Option<(u64, u32)> {
        None
    }

    fn count_unrecorded(&self, _row: u32) {}
}

#[test]
fn an_interface_is_looked_for_where_it_may_be_and_no_further() {
    for probe in 0..INTERFACE_PROBES {
        let tables = OneAt(interface_slot(7, probe));
        assert_eq!(find_interface(&tables, 7).map(|found| found.ifindex), Some(7), "{probe}");
        assert!(find_interface(&tables, 8).is_none());
    }
    assert!(find_interface(&OneAt(interface_slot(7, INTERFACE_PROBES)), 7).is_none());
}

#[test]
fn what_is_told_of_a_packet_names_the_generation_that_it_was_judged_by_when_others_are_in_force() {
    for judged_by in [0, 1, 3, 255, 256, 511, 1 << 40, u64::MAX - 255] {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let at = At::new(&WANTED, &CLOSED, judged_by, direction, 0);
            assert_eq!((at.parity(), at.direction()), ((judged_by & 1) as u32, direction));
            let outcome = Judgement::new(Verdict::of(Reason::NoRule), &at, 4).outcome;
            for later in [0, 1, 2, 64, 255] {
                assert_eq!(outcome.generation(judged_by + later), judged_by, "{later} later");
            }
        }
    }
}

#[test]
fn the_short_way_of_packets_of_flows_ends_where_the_long_one_does() {
    for (row, audit, seed) in
        [(0, false, 0), (7, true, 1), (MAX_INTERFACES, false, u32::MAX), (3, true, 0x5555_aaaa)]
    {
        for direction in [Direction::Inbound, Direction::Outbound] {
            for word in 0..crate::abi::KIND_WORDS {
                let mut watched = [seed >> 1; crate::abi::KIND_WORDS];
                watched[word] = seed;
                let interface = Interface { row, watched, ..entry(7) };
                let half = InterfaceHalf { flags: if audit { FLAG_AUDIT } else { 0 }, ..CLOSED };
                let at = At::new(&interface, &half, 0x1ab, direction, 0);
                let verdict = Verdict::new(Reason::Established, AdmittedBy::Nothing, 4, 9);
                let long = Judgement::new(verdict, &at, 6);
                let short = Judgement::established(verdict.word(), &at, 6);
                let said = |judgement: &Judgement| {
                    let Judgement { verdict, outcome } = judgement;
                    (
                        *verdict,
                        judgement.action(),
                        judgement.is_audited(),
                        outcome.kind(),
                        judgement.counter(),
                        outcome.is_watched(),
                    )
                };
                assert_eq!(said(&short), said(&long));
                assert_eq!(short.outcome.established(), long.outcome.established());
                // The rest is for those who watch.
                if long.outcome.is_watched() {
                    assert_eq!(short.outcome, long.outcome);
                }
            }
        }
    }
}
