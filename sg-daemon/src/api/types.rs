//! What goes over the socket, in both directions.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sg_common::abi;

use super::candidate::UnconfirmedStatus;

/// Seen from the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl From<Direction> for abi::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }
}

impl From<abi::Direction> for Direction {
    fn from(direction: abi::Direction) -> Self {
        match direction {
            abi::Direction::Inbound => Self::Inbound,
            abi::Direction::Outbound => Self::Outbound,
        }
    }
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub version: String,
    /// How often the policy in force was swapped since the maps were made.
    pub generation: u64,
    /// The files of the policy in force.
    pub files: Vec<String>,
    /// Why the newest policy is not the one in force; absent if it is.
    pub refused: Option<String>,
    /// The policy in force waits to be confirmed, and is rolled back if it is not.
    #[serde(default)]
    pub unconfirmed: Option<UnconfirmedStatus>,
    /// What happened to a policy without anybody waiting for an answer, such as a rollback; until the next one.
    #[serde(default)]
    pub notice: Option<String>,
    pub interfaces: Vec<InterfaceStatus>,
    pub tables: TableStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceStatus {
    pub name: String,
    pub state: InterfaceState,
    /// Why the state is not what the policy asks for; absent if it is.
    #[serde(default)]
    pub why: Option<String>,
    pub ifindex: Option<u32>,
    /// Empty for devices that only match a managed pattern.
    pub instance: String,
    pub role: String,
    pub security_groups: Vec<String>,
    /// `xdp`, `tcx` or `clsact`.
    pub ingress: Option<String>,
    /// `tcx` or `clsact`.
    pub egress: Option<String>,
    /// Its connections; absent if it is not filtered.
    pub live_flows: Option<ShareStatus>,
    pub inbound: Counters,
    pub outbound: Counters,
}

/// `GET /v1/interfaces/NAME`: whether a device may be let up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Of the device that has this name now; `absent` too if nothing is known of the name.
    pub state: InterfaceState,
    /// The policy in force names it.
    pub named: bool,
    /// Of the present device.
    pub ifindex: Option<u32>,
    /// Why the state is not what the policy asks for.
    pub why: Option<String>,
    /// Why the newest policy is not the one in force; absent if it is.
    pub refused: Option<String>,
}

/// An interface's share of the table of live connections (D16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShareStatus {
    /// Those that are over count until they are collected.
    pub used: u64,
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceState {
    /// The policy is enforced.
    Enforced,
    /// Nothing is dropped; what would have been is counted.
    Audit,
    /// Bare metal: rules are not enforced (K3).
    BareMetal,
    /// The host has no such device; it is filtered as soon as it appears.
    Absent,
    /// Everything is dropped: managed and in no policy (D23), or in one by which it cannot be filtered.
    Closed,
    /// The device carries no Ethernet frames, which is all that the filter reads: everything passes.
    Unfilterable,
    /// The kernel does not let the filter on the device: everything passes.
    NotFiltered,
}

impl InterfaceState {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Audit => "AUDIT (NOTHING IS DROPPED)",
            Self::BareMetal => "not enforced (bare metal)",
            Self::Absent => "absent",
            Self::Closed => "closed",
            Self::Unfilterable => "NOT FILTERED (no Ethernet device)",
            Self::NotFiltered => "NOT FILTERED",
        }
    }
}

/// Packets of one direction. `allowed + dropped` is every packet that the filter has seen (D24), and so is the sum of
/// `reasons` and `would_drop_reasons`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    pub allowed: u64,
    pub dropped: u64,
    /// Those of `allowed` that passed only because the interface is, or was, in audit.
    pub would_drop: u64,
    /// By reason, those that happened.
    pub reasons: Vec<ReasonCounter>,
    /// By the reason for which they would have been dropped.
    pub would_drop_reasons: Vec<ReasonCounter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCounter {
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableStatus {
    /// Compiled policies; interfaces with equal groups share one.
    pub policies: usize,
    /// Member addresses of all groups.
    pub members: usize,
    /// Sets of ports that are not one range.
    pub port_tables: usize,
    /// How many live connections there is room for.
    pub live_flows_size: u32,
    /// How many half-open connections of IPv4.
    pub half_open_flows_size: u32,
    /// And of IPv6.
    pub half_open_flows_v6_size: u32,
}

/// An element of `GET /v1/flows`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowStatus {
    pub interface: String,
    pub protocol: String,
    pub local: IpAddr,
    /// TCP and UDP; the identifier of ICMP queries.
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    /// Which way its first packet went.
    pub direction: Direction,
    pub state: String,
    pub replied: bool,
    /// Seconds.
    pub age: u64,
    /// Seconds.
    pub expires_in: u64,
    /// False if it lives on although no rule in force would admit it anew (K11).
    pub admitted_now: bool,
}

/// `POST /v1/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuestion {
    pub interface: String,
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp` (the remote's family's) or a number.
    pub protocol: String,
    pub remote: IpAddr,
    /// The destination port.
    pub port: Option<u16>,
    /// The instance's address; the interface's first of the remote's family if absent.
    pub local: Option<IpAddr>,
    /// The source port, if the question is about a connection that lives.
    pub source_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
}

impl ExplainQuestion {
    /// The IP protocol asked about; `None` if the name is not known.
    pub fn protocol_number(&self, ipv6: bool) -> Option<u8> {
        protocol_number(&self.protocol, ipv6)
    }
}

/// The IP protocol of that name or number; `icmp` is the family's.
pub fn protocol_number(name: &str, ipv6: bool) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(if ipv6 { 58 } else { 1 }),
        "icmpv6" => Some(58),
        "gre" => Some(47),
        "esp" => Some(50),
        "ah" => Some(51),
        "sctp" => Some(132),
        "ipip" => Some(4),
        number => number.parse().ok(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allow,
    Drop,
    /// It passes, but only because the interface is in audit.
    WouldDrop,
    /// The filter does not look at the interface's packets: they pass.
    NotEnforced,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainAnswer {
    pub verdict: Verdict,
    /// The name under which the packet would be counted.
    pub reason: String,
    pub text: String,
    /// The rules that allow the packet, any of which is enough.
    pub rules: Vec<RuleText>,
    /// For a denial: the rule that comes nearest to allowing it.
    pub nearest: Option<RuleText>,
    /// For a denial: a rule that would allow it.
    pub add: Option<Addition>,
    pub notes: Vec<String>,
}

impl ExplainAnswer {
    pub fn not_enforced(text: &str) -> Self {
        Self {
            verdict: Verdict::NotEnforced,
            reason: "not_enforced".to_owned(),
            text: text.to_owned(),
            rules: Vec::new(),
            nearest: None,
            add: None,
            notes: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleText {
    pub group: Option<String>,
    /// `inbound[0]`, counted as in the file.
    pub rule: String,
    /// The rule in words.
    pub text: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// Why the rule does not allow the packet.
    pub because: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Addition {
    pub group: String,
    /// `inbound` or `outbound`.
    pub list: String,
    pub rule: serde_json::Value,
}

/// The body of every response that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    pub error: String,
}
