//! Names of IP protocols, ICMP types and TCP flags, as people write them.

/// Protocols that a policy may name beside TCP, UDP, ICMP and ALL, with their IANA numbers.
pub(crate) const IN_POLICIES: &[(&str, u8)] = &[
    ("igmp", 2),
    ("ipip", 4),
    ("egp", 8),
    ("ipv6", 41),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// Those that only questions may name: a rule has the number.
const IN_QUESTIONS: &[(&str, u8)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("eigrp", 88),
    ("etherip", 97),
    ("ipcomp", 108),
    ("isis", 124),
    ("mpls-in-ip", 137),
];

/// ICMP types of IPv4 (IANA, "ICMP Type Numbers"); several names may mean one.
pub(crate) const ICMP_TYPES: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("ping", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("ttl-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("information-request", 15),
    ("information-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
];

/// ICMPv6 types (IANA, "ICMPv6 Parameters").
pub(crate) const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("ttl-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("ping", 128),
    ("echo-reply", 129),
    ("multicast-listener-query", 130),
    ("multicast-listener-report", 131),
    ("multicast-listener-done", 132),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbor-solicitation", 135),
    ("neighbor-advertisement", 136),
    ("redirect", 137),
    ("node-information-query", 139),
    ("node-information-response", 140),
    ("multicast-listener-report-v2", 143),
];

/// Names that mean a type with a code.
const ICMP_CODES: &[(&str, u8, u8)] = &[
    ("network-unreachable", 3, 0),
    ("host-unreachable", 3, 1),
    ("protocol-unreachable", 3, 2),
    ("port-unreachable", 3, 3),
    ("fragmentation-needed", 3, 4),
    ("source-route-failed", 3, 5),
    ("communication-prohibited", 3, 13),
    ("ttl-zero-during-transit", 11, 0),
    ("ttl-zero-during-reassembly", 11, 1),
];

/// As [`ICMP_CODES`], of IPv6.
const ICMPV6_CODES: &[(&str, u8, u8)] = &[
    ("no-route", 1, 0),
    ("communication-prohibited", 1, 1),
    ("address-unreachable", 1, 3),
    ("port-unreachable", 1, 4),
    ("fragmentation-needed", 2, 0),
    ("ttl-zero-during-transit", 3, 0),
    ("ttl-zero-during-reassembly", 3, 1),
];

/// The flags of a TCP segment, lowest bit first.
pub(crate) const TCP_FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

/// Every name of a protocol that a question may have, with its number.
pub fn names() -> impl Iterator<Item = (&'static str, Option<u8>)> {
    let all = IN_QUESTIONS.iter().chain(IN_POLICIES).map(|&(name, number)| (name, Some(number)));
    all.chain([("icmp", None)])
}

/// The IP protocol of that name or number; `icmp` is the family's.
pub fn number(text: &str, ipv6: bool) -> Option<u8> {
    let folded = text.to_ascii_lowercase();
    if let Some((_, number)) = names().find(|(name, _)| *name == folded) {
        return Some(number.unwrap_or(if ipv6 { 58 } else { 1 }));
    }
    text.parse().ok()
}

/// The name of a protocol in words, if it has one: `tcp`, `sctp`, `icmpv6`.
pub fn name(number: u8) -> Option<&'static str> {
    if number == 1 {
        return Some("icmp");
    }
    names().find(|(_, known)| *known == Some(number)).map(|(name, _)| name)
}

/// Names of ICMP types of a family, with what they mean; those that say a code too have one.
pub fn icmp_names(ipv6: bool) -> impl Iterator<Item = (&'static str, u8, Option<u8>)> {
    let (types, codes) = if ipv6 { (ICMPV6_TYPES, ICMPV6_CODES) } else { (ICMP_TYPES, ICMP_CODES) };
    types
        .iter()
        .map(|&(name, kind)| (name, kind, None))
        .chain(codes.iter().map(|&(name, kind, code)| (name, kind, Some(code))))
}

/// The type, and the code if the text says one: `8`, `echo-request`, `destination-unreachable/port-unreachable`, `3/4`.
pub fn icmp(text: &str, ipv6: bool) -> Option<(u8, Option<u8>)> {
    let folded = text.to_ascii_lowercase().replace('_', "-");
    let one = |text: &str| match text.parse() {
        Ok(number) => Some((number, None)),
        Err(_) => icmp_names(ipv6).find(|(name, ..)| *name == text).map(|(_, kind, code)| (kind, code)),
    };
    let Some((kind, code)) = folded.split_once('/') else { return one(&folded) };
    let (kind, None) = one(kind)? else { return None };
    if let Ok(number) = code.parse() {
        return Some((kind, Some(number)));
    }
    let named = icmp_names(ipv6).find(|(name, of, with)| *name == code && *of == kind && with.is_some());
    named.map(|(_, _, code)| (kind, code))
}

/// What an ICMP message is called: `echo-request`, `port-unreachable`.
pub fn icmp_name(kind: u8, code: u8, ipv6: bool) -> Option<&'static str> {
    let exact = icmp_names(ipv6).find(|(_, of, with)| *of == kind && *with == Some(code));
    exact
        .or_else(|| icmp_names(ipv6).find(|(_, of, with)| *of == kind && with.is_none()))
        .map(|(name, ..)| name)
}

/// The byte of TCP flags: `syn,ack`; `none`.
///
/// # Errors
///
/// The word that is no flag.
pub fn tcp_flags(text: &str) -> Result<u8, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(0);
    }
    let mut flags = 0;
    for word in text.split([',', '+', '|']) {
        let word = word.trim().to_ascii_lowercase();
        let bit = TCP_FLAGS.iter().position(|flag| *flag == word).ok_or_else(|| word.clone())?;
        flags |= 1 << bit;
    }
    Ok(flags)
}

/// `syn,ack`; `none`.
pub fn tcp_flag_words(flags: u8) -> String {
    let set: Vec<&str> = TCP_FLAGS
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, flag)| *flag)
        .collect();
    if set.is_empty() { "none".to_owned() } else { set.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names_and_numbers_both_ways() {
        for (text, v4, v6) in
            [("TCP", 6, 6), ("icmp", 1, 58), ("sctp", 132, 132), ("0", 0, 0), ("255", 255, 255)]
        {
            assert_eq!((number(text, false), number(text, true)), (Some(v4), Some(v6)), "{text}");
        }
        assert_eq!((number("256", false), number("tpc", false), number("", true)), (None, None, None));
        for protocol in 0..=255 {
            if let Some(name) = name(protocol) {
                assert_eq!(number(name, false), Some(protocol), "{name}");
            }
        }
    }

    #[test]
    fn icmp_messages_have_names_and_numbers_both_ways() {
        for (text, ipv6, expected) in [
            ("8", false, (8, None)),
            ("echo-request", false, (8, None)),
            ("echo_request", true, (128, None)),
            ("fragmentation-needed", false, (3, Some(4))),
            ("destination-unreachable/fragmentation-needed", false, (3, Some(4))),
            ("destination-unreachable/13", false, (3, Some(13))),
            ("3/4", false, (3, Some(4))),
            ("packet-too-big", true, (2, None)),
        ] {
            assert_eq!(icmp(text, ipv6), Some(expected), "{text}");
        }
        for text in
            ["", "256", "3/256", "/", "echo-request/port-unreachable", "port-unreachable/3", "packet-too-big"]
        {
            assert_eq!(icmp(text, false), None, "{text}");
        }
        assert_eq!(icmp_name(3, 3, false), Some("port-unreachable"));
        assert_eq!(icmp_name(3, 200, false), Some("destination-unreachable"));
        assert_eq!(icmp_name(200, 0, false), None);
    }

    #[test]
    fn tcp_flags_are_words_both_ways() {
        assert_eq!(
            (tcp_flags("syn,ack"), tcp_flags("SYN+ACK"), tcp_flags("none")),
            (Ok(0x12), Ok(0x12), Ok(0))
        );
        assert_eq!(tcp_flags("syn,akc"), Err("akc".to_owned()));
        for flags in 0..=255 {
            assert_eq!(tcp_flags(&tcp_flag_words(flags)), Ok(flags));
        }
    }
}
