//! OpenStack Neutron: `GET /v2.0/security-groups`, `/v2.0/ports` and `/v2.0/address-groups`.

mod export;
mod import;
pub mod shape;

pub use self::export::export;
pub use self::import::import;

/// Neutron's groups belong to a project, whatever network a port is in; the VPC is called this.
pub(super) const VPC: &str = "main";

/// The names and numbers that Neutron takes for protocols (API reference, "Security group rules").
pub(super) const PROTOCOLS: &[(&str, u8)] = &[
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("icmp", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("ip", 4),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
];
