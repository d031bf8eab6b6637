//! What goes over the socket about what goes on: which connections live, how many, and how full the tables are.

use std::net::IpAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Direction, Status};

/// The query of `GET /v1/flows` and `GET /v1/flows/count`: connections that fit everything that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowQuestion {
    /// Names, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Which way the first packet went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// `tcp`, `udp`, `icmp` (of either family), another name or a number; several are separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The instance's side: an address or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The other side: an address or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The destination port of the first packet, or a range such as `1000-2000`. Only TCP and UDP have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The instance's port, or a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<String>,
    /// The other side's port, or a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<String>,
    /// States, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether a packet of the other direction was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replied: Option<bool>,
    /// Whether the rules in force would admit them anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<bool>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_age: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// `GET /v1/flows`: what they are sorted by: `interface`, `age`, `expires`, `remote`, `local`, `port`, `protocol`, `state`,
    /// `packets` or `bytes` (of both directions, the most first; only where they are counted), or `none`. Absent: by interface and remote if there are no more than 65,536 or there is a
    /// limit, else not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    /// `GET /v1/flows`: the other way round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<bool>,
    /// At most so many connections, or counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `GET /v1/flows/count`: what they are counted by, one or more of `interface`, `state`, `protocol`, `direction`, `local`,
    /// `remote`, `port`, `group` and `rule`, separated by commas. The kernel does not remember which rule let a connection begin:
    /// it counts for every rule in force, or group of such rules, that would let it begin now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `GET /v1/flows/count`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowCounts {
    /// Connections that fit.
    pub total: u64,
    /// Those of them that have no place of their own yet and may be pushed out by newer ones of their interface.
    pub half_open: u64,
    /// The largest first; empty unless the question says what they are counted by.
    pub counts: Vec<FlowCount>,
    /// How many further counts there are, of connections that are in `total` too.
    pub left_out: u64,
}

/// What is the same in all of them, as far as it was asked for, and how many they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowCount {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// The destination port of the first packet; absent too where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A group whose rules in force would let it begin; absent too where none would, and of rules of the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// A rule in force that would let it begin, as `web/inbound[0]`; absent too where none would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub count: u64,
}

/// `GET /v1/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Milliseconds since the daemon was started; counters of two answers and the time between them make a rate.
    pub at_ms: u64,
    /// Swaps of policies since the daemon was started.
    pub swaps: u64,
    pub status: Status,
    pub tables: Vec<TableFill>,
    pub collector: CollectorWork,
    /// Who has most connections; if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub talkers: Option<Talkers>,
}

/// How full a table of the kernel is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableFill {
    /// A name for programs, such as `flows_live_v4`.
    pub table: String,
    /// What its entries are, in words.
    pub what: String,
    pub used: u64,
    pub size: u64,
    /// How old the number is, in milliseconds: some tables are read through at most every few seconds.
    pub age_ms: u64,
}

/// What the daemon has done to connections that were over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectorWork {
    pub runs: u64,
    /// Connections deleted, since the daemon was started.
    pub collected: u64,
    /// By the last run.
    pub last_collected: u64,
    /// How long the last run took, in microseconds.
    pub last_us: u64,
    /// The longest run.
    pub longest_us: u64,
    /// All of them.
    #[serde(default)]
    pub total_us: u64,
    pub failures: u64,
}

impl CollectorWork {
    /// Adds a run, which has collected so many unless it failed.
    pub fn note(&mut self, collected: Option<u32>, took: Duration) {
        let took = took.as_micros() as u64;
        self.total_us += took;
        let Some(collected) = collected else {
            self.failures += 1;
            return;
        };
        self.runs += 1;
        self.last_collected = collected.into();
        self.collected += self.last_collected;
        self.last_us = took;
        self.longest_us = self.longest_us.max(self.last_us);
    }
}

/// The remotes with most connections and, where that is counted, those with most packets and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Talkers {
    /// How long ago they were counted, in milliseconds.
    pub age_ms: u64,
    /// How long that took, in microseconds.
    pub took_us: u64,
    /// The most connections first.
    pub remotes: Vec<Talker>,
    /// Each number of connections may be short by so much; 0 unless there are very many remotes.
    pub short_by: u64,
    /// Absent if packets and bytes are not counted: sgd counts them while it writes a flow log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TalkersTraffic>,
}

/// By how much the packets and bytes of remotes may be short; 0 unless there are very many remotes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TalkersTraffic {
    pub packets_short_by: u64,
    pub bytes_short_by: u64,
}

/// What connections have carried, in both directions together, since they began or since it is counted. Those that have ended
/// count until they are collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TalkerTraffic {
    pub packets: u64,
    /// Of IP packets, with their headers.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Talker {
    pub remote: IpAddr,
    /// Connections of another interface count apart.
    pub interface: String,
    pub connections: u64,
    /// Absent if packets and bytes are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TalkerTraffic>,
}
