//! The words inside strings: protocols, CIDRs, ports, addresses, device names. Each function takes the text of one
//! value and gives the value or what is wrong with it; none knows where the text stands.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use super::diagnostic::{Fault, quote};
use super::model::{PortRange, Protocol};
use super::names::did_you_mean;
use crate::protocols::IN_POLICIES;

pub(crate) const DEFAULT_GROUP: &str = "default";
pub(crate) const GROUP_NAME_CHARS: RangeInclusive<usize> = 4..=250;
pub(crate) const GROUP_DESCRIPTION_CHARS: usize = 100;
pub(crate) const RULE_DESCRIPTION_CHARS: usize = 50;
pub(crate) const NAME_CHARS: usize = 250;
/// IFNAMSIZ of the kernel without the closing NUL (include/uapi/linux/if.h).
const DEVICE_NAME_BYTES: usize = 15;

const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;

pub(crate) const PROTOCOL_EXPECTED: &str =
    "TCP, UDP, ICMP, ALL, another protocol's name (icmpv6, gre, esp, ah, sctp, ipip, …) or a number 0 to 255";

pub(crate) fn protocol(text: &str) -> Result<Protocol, Fault> {
    let folded = text.to_ascii_lowercase();
    match folded.as_str() {
        "tcp" => return Ok(Protocol::Tcp),
        "udp" => return Ok(Protocol::Udp),
        "icmp" => return Ok(Protocol::Icmp),
        "all" => return Ok(Protocol::All),
        _ => {}
    }
    if let Some(&(_, number)) = IN_POLICIES.iter().find(|(name, _)| *name == folded) {
        return Ok(Protocol::Number(number));
    }
    if let Some(number) = decimal(text) {
        return protocol_number(number);
    }
    let names = ["TCP", "UDP", "ICMP", "ALL"].into_iter().chain(IN_POLICIES.iter().map(|(name, _)| *name));
    let suggestion = if matches!(folded.as_str(), "any" | "*" | "-1") {
        Some("write \"ALL\"".to_owned())
    } else {
        did_you_mean(text, names)
    };
    Err(Fault::error(format!("unknown protocol {}", quote(text)))
        .expected(PROTOCOL_EXPECTED)
        .suggest_opt(suggestion))
}

pub(crate) fn protocol_number(number: u64) -> Result<Protocol, Fault> {
    match u8::try_from(number) {
        Ok(6) => Ok(Protocol::Tcp),
        Ok(17) => Ok(Protocol::Udp),
        Ok(number) => Ok(Protocol::Number(number)),
        Err(_) => {
            Err(Fault::error(format!("protocol number {number} is out of range")).expected(PROTOCOL_EXPECTED))
        }
    }
}

/// Whether `icmp_type` and `icmp_code` mean something with this protocol.
pub(crate) fn is_icmp(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Icmp | Protocol::Number(ICMP_V4 | ICMP_V6))
}

/// `None` is ALL.
pub(crate) fn ports(text: &str) -> Result<Option<PortRange>, Fault> {
    const EXPECTED: &str = "a port (\"80\"), a range (\"1000-2000\") within 1 to 65535, or \"ALL\"";
    if text.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    let bad = |why: String| Fault::error(why).expected(EXPECTED);
    let one = |part: &str| -> Result<u16, Fault> {
        let Some(number) = decimal(part) else {
            return Err(bad(format!("{} is not a port or a range of ports", quote(text))));
        };
        port_number(number)
    };
    let Some((low, high)) = text.split_once('-') else {
        let port = one(text).map_err(|fault| fault.suggest_opt(service(text)))?;
        return Ok(Some(PortRange { min: port, max: port }));
    };
    let (min, max) = (one(low)?, one(high)?);
    if min > max {
        return Err(bad(format!("the range {} ends before it begins", quote(text)))
            .suggest(format!("write \"{max}-{min}\"")));
    }
    Ok(Some(PortRange { min, max }))
}

pub(crate) fn port_number(number: u64) -> Result<u16, Fault> {
    u16::try_from(number).ok().filter(|&port| port != 0).ok_or_else(|| {
        Fault::error(format!("port {number} is out of range")).expected("a port from 1 to 65535")
    })
}

/// A port for a word that people write in its place.
fn service(text: &str) -> Option<String> {
    let port = match text.to_ascii_lowercase().as_str() {
        "ssh" => 22,
        "dns" | "domain" => 53,
        "http" => 80,
        "https" => 443,
        "mysql" => 3306,
        "rdp" => 3389,
        "any" | "*" => return Some("write \"ALL\"".to_owned()),
        _ => return None,
    };
    Some(format!("write \"{port}\""))
}

/// Digits only, no sign, no leading zero: a number has one spelling.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain && (text == "0" || !text.starts_with('0')) { text.parse().ok() } else { None }
}

/// A remote that is not `@group`.
pub(crate) fn cidr(text: &str) -> Result<IpNet, Fault> {
    const EXPECTED: &str = "an IPv4 or IPv6 network such as \"10.0.0.0/8\", or \"@group\"";
    let bad = |why: String| Fault::error(why).expected(EXPECTED);
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => {
                let address = unmapped(address).unwrap_or(address);
                let prefix = if address.is_unspecified() { 0 } else { width(address) };
                bad(format!("{} has no prefix length", quote(text)))
                    .suggest(format!("write \"{address}/{prefix}\""))
            }
            Err(_) => bad(format!("{} is not a network", quote(text))).suggest_opt(remote_guess(text)),
        });
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(bad(format!("{} is not a network: bad address", quote(text))));
    };
    let Some(prefix) = decimal(prefix).filter(|&prefix| prefix <= u64::from(width(address))) else {
        return Err(bad(format!("{} has a bad prefix length", quote(text)))
            .expected(format!("a prefix length from 0 to {}", width(address))));
    };
    let prefix = prefix as u8;
    if let (Some(IpAddr::V4(v4)), 96..) = (unmapped(address), prefix) {
        let v4 = Ipv4Net::new_assert(v4, prefix - 96).trunc();
        return Err(bad(format!("{} is an IPv4 network written as IPv6; no packet carries it", quote(text)))
            .suggest(format!("write \"{v4}\"")));
    }
    let Ok(net) = IpNet::new(address, prefix) else {
        return Err(bad(format!("{} is not a network", quote(text))));
    };
    if net.trunc() != net {
        return Err(
            bad(format!("{} has host bits set", quote(text))).suggest(format!("write \"{}\"", net.trunc()))
        );
    }
    Ok(net)
}

fn remote_guess(text: &str) -> Option<String> {
    if matches!(text.to_ascii_lowercase().as_str(), "all" | "any" | "*") {
        Some("write \"0.0.0.0/0\" for every IPv4 address, \"::/0\" for every IPv6 address".to_owned())
    } else if text == DEFAULT_GROUP || group_name(text).is_ok() {
        Some(format!("a group is written \"@{text}\""))
    } else {
        None
    }
}

/// An address of an interface or peer.
pub(crate) fn address(text: &str) -> Result<IpAddr, Fault> {
    const EXPECTED: &str = "an IPv4 or IPv6 address such as \"10.0.0.5\"";
    let bad = |why: String| Fault::error(why).expected(EXPECTED);
    let Ok(address) = text.parse::<IpAddr>() else {
        let alone = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
        let why = if alone.is_some() { "is a network, not an address" } else { "is not an address" };
        return Err(
            bad(format!("{} {why}", quote(text))).suggest_opt(alone.map(|a| format!("write \"{a}\"")))
        );
    };
    if let Some(v4) = unmapped(address) {
        return Err(bad(format!("{} is an IPv4 address written as IPv6; no packet carries it", quote(text)))
            .suggest(format!("write \"{v4}\"")));
    }
    let unusable = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    };
    if unusable {
        Err(bad(format!("{} is not an address an interface can have", quote(text))))
    } else {
        Ok(address)
    }
}

/// The IPv4 address inside `::ffff:0:0/96`.
fn unmapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) => Ipv6Addr::to_ipv4_mapped(&v6).map(|v4: Ipv4Addr| IpAddr::V4(v4)),
        IpAddr::V4(_) => None,
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(crate) fn mac(text: &str) -> Result<[u8; 6], Fault> {
    const EXPECTED: &str = "a unicast MAC address such as \"52:54:00:12:34:56\"";
    let bad = |why: &str| Fault::error(format!("{} {why}", quote(text))).expected(EXPECTED);
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| bad("is not a MAC address"))?;
    }
    if parts.next().is_some() {
        return Err(bad("is not a MAC address"));
    }
    match mac {
        [0, 0, 0, 0, 0, 0] => Err(bad("is the zero address")),
        [first, ..] if first & 1 == 1 => Err(bad("is a multicast address")),
        _ => Ok(mac),
    }
}

/// A router that may advertise itself to guests.
pub(crate) fn router(text: &str) -> Result<Ipv6Addr, Fault> {
    const EXPECTED: &str = "an IPv6 address such as \"fe80::1\"";
    let is_v4 = |address: IpAddr| address.is_ipv4() || unmapped(address).is_some();
    match address(text) {
        Ok(IpAddr::V6(router)) => Ok(router),
        Err(fault) if !text.parse().is_ok_and(is_v4) => Err(fault.expected(EXPECTED)),
        _ => Err(Fault::error(format!("{} is an IPv4 address", quote(text)))
            .expected(format!("{EXPECTED}: routers advertise themselves in IPv6 only"))),
    }
}

/// A smaller number in its place is the length of the frame (IEEE 802.3).
pub(crate) const ETHER_TYPES: RangeInclusive<u64> = 0x0600..=0xffff;
pub(crate) const ETHER_TYPE_EXPECTED: &str =
    "an EtherType from \"0x0600\" to \"0xffff\", such as \"0x88cc\", or a number from 1536 to 65535";

/// EtherTypes that no list has to let pass (IEEE 802 numbers).
const HANDLED_ETHER_TYPES: &[(u16, &str)] = &[
    (0x0800, "IPv4"),
    (0x0806, "ARP"),
    (VLAN, "VLAN tags"),
    (0x86dd, "IPv6"),
    (0x88a8, "service VLAN tags"),
];
const VLAN: u16 = 0x8100;

pub(crate) fn ether_type(text: &str) -> Result<u16, Fault> {
    let bad = |why: String| Fault::error(why).expected(ETHER_TYPE_EXPECTED);
    let digits = |text: &str| -> Option<u16> {
        let plain = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if plain { u16::from_str_radix(text, 16).ok() } else { None }
    };
    let Some(number) = text.strip_prefix("0x").and_then(digits) else {
        let bare = text.strip_prefix("0X").unwrap_or(text);
        let meant = digits(bare)
            .or_else(|| ether_type_name(text))
            .filter(|&number| ETHER_TYPES.contains(&u64::from(number)) && ether_type_number(number).is_ok())
            .map(|number| format!("write \"{number:#06x}\""));
        return Err(bad(format!("{} is not an EtherType", quote(text))).suggest_opt(meant));
    };
    if !ETHER_TYPES.contains(&u64::from(number)) {
        return Err(bad(format!("{} is the length of a frame, not an EtherType", quote(text))));
    }
    ether_type_number(number)
}

pub(crate) fn ether_type_number(number: u16) -> Result<u16, Fault> {
    let Some((_, name)) = HANDLED_ETHER_TYPES.iter().find(|(handled, _)| *handled == number) else {
        return Ok(number);
    };
    let fault = Fault::error(format!("EtherType {number:#06x} ({name}) is handled by the filter itself"))
        .expected("EtherTypes beside IPv4, IPv6, ARP and VLAN tags");
    Err(fault.suggest(if number == VLAN {
        "remove it, and write \"trunk\": true on the interfaces whose frames may carry tags"
    } else {
        "remove it"
    }))
}

/// An EtherType for a word that people write in its place.
fn ether_type_name(text: &str) -> Option<u16> {
    match text.to_ascii_lowercase().as_str() {
        "lldp" => Some(0x88cc),
        "eapol" | "802.1x" => Some(0x888e),
        "mpls" => Some(0x8847),
        "ptp" => Some(0x88f7),
        _ => None,
    }
}

/// What the kernel accepts as a device name (`dev_valid_name` in net/core/dev.c), without control characters.
pub(crate) fn device_name(text: &str) -> Result<(), Fault> {
    let why = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > DEVICE_NAME_BYTES {
        format!("is {} bytes long", text.len())
    } else if text == "." || text == ".." {
        "is not a name a device can have".to_owned()
    } else if let Some(c) = text.chars().find(|&c| !device_char(c)) {
        format!("has the character {c:?}")
    } else {
        return Ok(());
    };
    Err(Fault::error(format!("device name {} {why}", quote(text)))
        .expected("a Linux device name: 1 to 15 bytes without '/', ':' or white space"))
}

fn device_char(c: char) -> bool {
    !(c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// A pattern over device names: `*` and `?` only.
pub(crate) fn device_pattern(text: &str) -> Result<(), Fault> {
    let bare = text.chars().filter(|&c| c != '*').collect::<String>();
    let why = if text.is_empty() {
        "is empty".to_owned()
    } else if bare.len() > DEVICE_NAME_BYTES {
        "can match no device: too long".to_owned()
    } else if let Some(c) =
        bare.chars().find(|&c| !device_char(c) || matches!(c, '[' | ']' | '{' | '}' | '\\'))
    {
        format!("has the character {c:?}")
    } else {
        return Ok(());
    };
    Err(Fault::error(format!("device pattern {} {why}", quote(text)))
        .expected("a device name with '*' (any characters) and '?' (one character), such as \"tap*\""))
}

/// The name of a custom group (K17). `default` is refused elsewhere: it is well formed.
pub(crate) fn group_name(text: &str) -> Result<(), Fault> {
    let letters = text.chars().count();
    let why = if !GROUP_NAME_CHARS.contains(&letters) {
        format!("has {letters} {}", if letters == 1 { "character" } else { "characters" })
    } else if let Some(c) = text.chars().find(|&c| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
        format!("has the character {c:?}")
    } else if text.starts_with(['-', '_']) || text.ends_with(['-', '_']) {
        "begins or ends with '-' or '_'".to_owned()
    } else {
        return Ok(());
    };
    Err(Fault::error(format!("group name {} {why}", quote(text)))
        .expected("4 to 250 letters, digits, '-' or '_', beginning and ending with a letter or digit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(result: Result<impl std::fmt::Debug, Fault>) -> String {
        format!("{:?}", result.unwrap_err())
    }

    #[test]
    fn spec_k14_protocols_have_names_in_any_case_and_numbers() {
        for (text, want) in [
            ("TCP", Protocol::Tcp),
            ("tcp", Protocol::Tcp),
            ("6", Protocol::Tcp),
            ("17", Protocol::Udp),
            ("Icmp", Protocol::Icmp),
            ("1", Protocol::Number(1)),
            ("ICMPv6", Protocol::Number(58)),
            ("gre", Protocol::Number(47)),
            ("sctp", Protocol::Number(132)),
            ("ipip", Protocol::Number(4)),
            ("all", Protocol::All),
            ("0", Protocol::Number(0)),
            ("255", Protocol::Number(255)),
        ] {
            assert_eq!(protocol(text).unwrap(), want, "{text}");
        }
        for text in ["256", "-1", "06", "+6", "", " tcp", "tcp ", "6.0"] {
            assert!(protocol(text).is_err(), "{text:?}");
        }
        assert!(told(protocol("TPC")).contains("did you mean \\\"TCP\\\"?"));
        assert!(told(protocol("any")).contains("write \\\"ALL\\\""));
    }

    #[test]
    fn spec_k16_ports() {
        let range = |min, max| Some(PortRange { min, max });
        for (text, want) in [
            ("80", range(80, 80)),
            ("1000-2000", range(1000, 2000)),
            ("1-65535", range(1, 65535)),
            ("aLL", None),
        ] {
            assert_eq!(ports(text).unwrap(), want, "{text}");
        }
        for text in ["0", "65536", "080", "+80", "-80", "80-", "1 - 2", " 80", "", "80-90-100", "0-80", "٨٠"]
        {
            assert!(ports(text).is_err(), "{text:?}");
        }
        assert!(told(ports("90-80")).contains("write \\\"80-90\\\""));
        assert!(told(ports("ssh")).contains("write \\\"22\\\""));
    }

    #[test]
    fn spec_k15_networks_say_what_to_write_instead() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.0.0.1/32", "::1/128"] {
            assert_eq!(cidr(text).unwrap().to_string(), text);
        }
        for (text, hint) in [
            ("10.0.0.1", "write \\\"10.0.0.1/32\\\""),
            ("0.0.0.0", "write \\\"0.0.0.0/0\\\""),
            ("2001:db8::1", "write \\\"2001:db8::1/128\\\""),
            ("10.0.0.1/8", "write \\\"10.0.0.0/8\\\""),
            ("2001:db8::1/64", "write \\\"2001:db8::/64\\\""),
            ("::ffff:10.0.0.0/104", "write \\\"10.0.0.0/8\\\""),
            ("::ffff:10.0.0.1", "write \\\"10.0.0.1/32\\\""),
            ("10.0.0.0/33", "from 0 to 32"),
            ("any", "0.0.0.0/0"),
            ("bastion", "\\\"@bastion\\\""),
        ] {
            assert!(told(cidr(text)).contains(hint), "{text}: {}", told(cidr(text)));
        }
        for text in
            ["10.0.0/8", "010.0.0.0/8", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/", "fe80::%eth0/64", "/8", ""]
        {
            assert!(cidr(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_ones_an_interface_can_have() {
        assert!(address("10.0.0.5").is_ok());
        assert!(address("fe80::1").is_ok());
        assert!(told(address("10.0.0.5/24")).contains("write \\\"10.0.0.5\\\""));
        assert!(told(address("::ffff:10.0.0.5")).contains("write \\\"10.0.0.5\\\""));
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "10.0.0", "x"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn routers_are_ipv6_addresses() {
        assert_eq!(router("fe80::1").unwrap().to_string(), "fe80::1");
        assert!(router("2001:db8::1").is_ok());
        assert!(told(router("fe80::1/64")).contains("write \\\"fe80::1\\\""));
        for text in ["10.0.0.1", "::ffff:10.0.0.1"] {
            assert!(told(router(text)).contains("routers advertise themselves in IPv6 only"), "{text}");
        }
        for text in ["::", "ff02::2", "fe80::1%eth0", ""] {
            assert!(told(router(text)).contains("\\\"fe80::1\\\""), "{text:?}");
        }
    }

    #[test]
    fn spec_section_6_ether_types_are_four_digits_and_no_length() {
        for (text, want) in [("0x0600", 0x0600), ("0x88cc", 0x88cc), ("0x88CC", 0x88cc), ("0xffff", 0xffff)] {
            assert_eq!(ether_type(text).unwrap(), want, "{text}");
        }
        for text in ["0x05ff", "0x0000", "0x600", "0x088cc", "0x10000", "0x+8cc", "0x88c ", "35020", "0x", ""]
        {
            assert!(ether_type(text).is_err(), "{text:?}");
        }
        for (text, hint) in [
            ("88cc", "write \\\"0x88cc\\\""),
            ("0X88cc", "write \\\"0x88cc\\\""),
            ("LLDP", "write \\\"0x88cc\\\""),
            ("0x05dc", "is the length of a frame"),
            ("0x8100", "\\\"trunk\\\": true"),
        ] {
            assert!(told(ether_type(text)).contains(hint), "{text}: {}", told(ether_type(text)));
        }
        assert!(!told(ether_type("0800")).contains("write"));
        for (number, _) in HANDLED_ETHER_TYPES {
            let text = format!("{number:#06x}");
            assert!(told(ether_type(&text)).contains("is handled by the filter itself"), "{text}");
            assert!(ether_type_number(*number).is_err(), "{text}");
        }
    }

    #[test]
    fn macs_are_unicast() {
        assert_eq!(mac("52:54:00:12:34:fF").unwrap(), [0x52, 0x54, 0, 0x12, 0x34, 0xff]);
        for text in [
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:4:0:1:3:5",
            "52-54-00-12-34-56",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn device_names_are_what_linux_takes() {
        for name in ["tap0", "a", "123456789012345", "br-0.5", "vnet@1"] {
            assert!(device_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "1234567890123456", "a/b", "a b", "a:b", "a\0", "가가가가가가"] {
            assert!(device_name(name).is_err(), "{name:?}");
        }
        for pattern in ["tap*", "vnet?", "*", "123456789012345*"] {
            assert!(device_pattern(pattern).is_ok(), "{pattern}");
        }
        for pattern in ["", "tap[0-9]", "1234567890123456*", "a b*"] {
            assert!(device_pattern(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn spec_k17_group_names() {
        for name in ["abcd", "Web-1_a", "0000", &"a".repeat(250)] {
            assert!(group_name(name).is_ok(), "{name}");
        }
        for name in ["abc", "-abcd", "abcd_", "ab cd", "웹서버들", "", &"a".repeat(251)] {
            assert!(group_name(name).is_err(), "{name}");
        }
        assert!(told(group_name("abc")).contains("has 3 characters"));
    }
}
