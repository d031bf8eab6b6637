use sg_common::watch::{Tuple, wants};

use super::*;

fn kinds(filter: &Filter) -> Vec<(Direction, u32)> {
    let kinds = filter.kinds();
    let slots = 0..REASON_SLOTS;
    let both = [Direction::Inbound, Direction::Outbound];
    both.into_iter()
        .flat_map(|direction| slots.clone().map(move |slot| (direction, slot)))
        .filter(|&(direction, slot)| {
            let kind = packet_kind(direction, slot);
            kinds[kind as usize / 32] >> (kind % 32) & 1 == 1
        })
        .collect()
}

#[test]
fn who_asks_for_nothing_hears_of_everything() {
    let drops = Reason::EVERY.iter().filter(|reason| reason.action() == Action::Drop).count();
    let allows = Reason::EVERY.len() - drops;
    // Nothing of an unknown device would be dropped only.
    assert_eq!(kinds(&Filter::default()).len(), 2 * (allows + 2 * drops - 1));
}

#[test]
fn verdicts_reasons_and_directions_are_all_to_fit() {
    let filter =
        Filter { verdicts: vec![Verdict::WouldDrop], reasons: vec![Reason::NoRule], ..Filter::default() };
    let slot = Reason::NoRule as u32 + WOULD_DROP;
    assert_eq!(kinds(&filter), [(Direction::Inbound, slot), (Direction::Outbound, slot)]);
    let filter =
        Filter { direction: Some(Direction::Outbound), reasons: vec![Reason::Arp], ..Filter::default() };
    assert_eq!(kinds(&filter), [(Direction::Outbound, Reason::Arp as u32)]);
    let never = Filter { verdicts: vec![Verdict::Drop], reasons: vec![Reason::Arp], ..Filter::default() };
    assert!(matches!(never.watcher(None), Err(FilterError::Nothing(_))));
}

#[test]
fn rules_are_asked_about_packets_that_begin_something() {
    let rule = RuleFilter { group: "web".into(), direction: Some(Direction::Inbound), rule: None };
    let filter = Filter { rule: Some(rule), ..Filter::default() };
    let expected = [Reason::NewFlow, Reason::RuleOnly].map(|reason| (Direction::Inbound, reason as u32));
    assert_eq!(kinds(&filter), expected);
}

#[test]
fn networks_are_compared_as_the_kernel_has_addresses() {
    let kind = packet_kind(Direction::Inbound, Reason::NoRule as u32);
    let packet = |family, remote: [Be32; 4]| Tuple { family, remote, ..Tuple::UNKNOWN };
    let v4 = |text: &str| {
        let address: std::net::Ipv4Addr = text.parse().unwrap();
        packet(4, [Be32(u32::from_ne_bytes(address.octets())), Be32(0), Be32(0), Be32(0)])
    };
    let v6 = |text: &str| packet(6, words_of(text.parse().unwrap()));
    let told = |net: &str, packet: &Tuple| {
        let filter = Filter { remote: Some(net.parse().unwrap()), ..Filter::default() };
        wants(&filter.watcher(None).unwrap(), 1, kind, packet)
    };
    assert!(told("10.1.0.0/16", &v4("10.1.255.3")));
    assert!(!told("10.1.0.0/16", &v4("10.2.0.3")));
    assert!(told("10.1.2.3/32", &v4("10.1.2.3")));
    assert!(told("0.0.0.0/0", &v4("10.1.2.3")));
    assert!(!told("0.0.0.0/0", &v6("fd00::1")));
    assert!(told("fd00::/8", &v6("fdff::1")));
    assert!(!told("fd00::/8", &v6("fc00::1")));
    assert!(!told("2001:db8::1/128", &v6("2001:db8::2")));
}
