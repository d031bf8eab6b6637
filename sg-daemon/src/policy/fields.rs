//! Every field of the format, by object. The walk knows no others, and a test holds the JSON Schema to the same lists.

pub(crate) const POLICY: &[&str] =
    &["version", "project", "vpc", "ipv6", "settings", "security_groups", "interfaces", "peers"];
pub(crate) const SETTINGS: &[&str] = &[
    "metadata",
    "on_rule_change",
    "strict_tcp",
    "quotas",
    "timeouts",
    "managed",
    "failsafe",
    "guest_baseline",
];
pub(crate) const QUOTAS: &[&str] = &["groups_per_project", "rules_per_group", "groups_per_interface"];
pub(crate) const TIMEOUTS: &[&str] = &[
    "tcp_syn_sent",
    "tcp_syn_recv",
    "tcp_established",
    "tcp_fin_wait",
    "tcp_close_wait",
    "tcp_last_ack",
    "tcp_time_wait",
    "tcp_close",
    "udp",
    "udp_stream",
    "icmp",
    "other",
];
pub(crate) const FAILSAFE: &[&str] = &["inbound", "outbound"];
/// The guards first.
pub(crate) const GUEST_BASELINE: &[&str] = &[
    "source_mac",
    "source_address",
    "arp",
    "neighbor_discovery",
    "dhcp_server",
    "router_advertisements",
    "redirects",
    "vlan",
    "source_routing",
    "ether_types",
    "link_local",
    "routers",
    "dhcp_servers",
];
pub(crate) const GROUP: &[&str] =
    &["name", "description", "include_allowed_addresses", "enforcement", "inbound", "outbound"];
pub(crate) const INBOUND_RULE: &[&str] =
    &["protocol", "source", "port", "icmp_type", "icmp_code", "description"];
pub(crate) const OUTBOUND_RULE: &[&str] =
    &["protocol", "destination", "port", "icmp_type", "icmp_code", "description"];
pub(crate) const INTERFACE: &[&str] = &[
    "name",
    "instance",
    "kind",
    "role",
    "hook",
    "mac",
    "trunk",
    "fast_path",
    "addresses",
    "allowed_addresses",
    "security_groups",
    "timeouts",
    "enforcement",
];
pub(crate) const PEER: &[&str] = &["address", "security_groups"];
