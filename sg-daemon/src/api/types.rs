//! What goes over the socket, in both directions.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use sg_common::abi;

use super::candidate::UnconfirmedStatus;
use crate::flowlog::record::Format;

/// Seen from the instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Inbound,
    Outbound,
}

impl Direction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
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
    /// Absent if none is written.
    #[serde(default)]
    pub flow_log: Option<FlowLogStatus>,
}

/// The flow log (`sgd --flow-log`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowLogStatus {
    pub path: String,
    pub format: Format,
    /// Seconds.
    pub interval: u32,
    /// Lines written since the daemon was started.
    pub records: u64,
    /// Lines that could not be written.
    pub lost_records: u64,
    /// Packets that the kernel had no room to count flow by flow.
    pub unrecorded_packets: u64,
    /// Why the last lines were lost; absent once lines are written again.
    pub error: Option<String>,
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
    /// Absent for devices that only match a managed pattern.
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub vpc: Option<String>,
    pub security_groups: Vec<String>,
    /// `xdp`, `tcx` or `clsact`.
    pub ingress: Option<String>,
    /// `tcx` or `clsact`.
    pub egress: Option<String>,
    /// Its connections; absent if it is not filtered.
    pub live_flows: Option<ShareStatus>,
    /// Absent without `fast_path`, or if the interface is not filtered.
    #[serde(default)]
    pub fast_path: Option<FastPathStatus>,
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

/// Whether an interface with `fast_path` is on the fast path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FastPathStatus {
    /// What it sends to other ports of its bridge is handed to these directly, as far as the bridge has learned where they are.
    pub direct: bool,
    /// Why its packets go through the bridge.
    pub why: Option<String>,
    /// Packets that were handed on.
    pub packets: u64,
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
/// `reasons` and `would_drop_reasons`, less `counted_twice`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    pub allowed: u64,
    pub dropped: u64,
    /// Those of `allowed` that passed only because the interface is, or was, in audit.
    pub would_drop: u64,
    /// Packets that XDP has passed, and that are counted for that among `reasons`, and once more for what the program behind it
    /// has found (`checksum_place`).
    #[serde(default)]
    pub counted_twice: u64,
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
    /// Elements of maps, and words that programs share, that were written to put policies in force since sgd was started.
    pub map_writes: u64,
    /// Of them those for the last change.
    pub map_writes_of_last_change: u64,
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
    /// What it has carried since it began, or since packets are counted. Absent if they are not counted: sgd counts them while
    /// it writes a flow log. Null if nothing was counted for this one: no packet came since counting began, or there was no room.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub traffic: Option<Option<FlowTraffic>>,
}

/// Tells null from absent.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    field: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// What has passed, seen from the instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowTraffic {
    pub inbound: FlowAmount,
    pub outbound: FlowAmount,
}

/// What has passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowAmount {
    pub packets: u64,
    /// Of IP packets, with their headers.
    pub bytes: u64,
}

/// The body of every response that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    pub error: String,
}
