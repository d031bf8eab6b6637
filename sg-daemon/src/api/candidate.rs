//! What goes over the socket about policies that are not in force yet, and about cutting connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::FlowStatus;
use crate::diff::Change;

/// A policy that is sent along.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The candidate's files; absent: the daemon's own, as they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<CandidateFile>>,
    /// `POST /v1/policy/apply` with files: to be confirmed within so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CandidateFile {
    /// A path, for messages; its last part is the name that the file gets in a policy directory.
    pub name: String,
    pub text: String,
}

/// `GET /v1/policy/files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyFiles {
    /// In the order in which they are read.
    pub files: Vec<ReadFile>,
    /// Why some cannot be read; one line each.
    pub faults: Vec<String>,
    /// Why the newest policy is not the one in force; absent if it is. These files may be newer still.
    pub refused: Option<String>,
}

/// A policy file as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadFile {
    pub path: String,
    /// Without its byte order mark.
    pub text: String,
    /// Whether the file begins with a byte order mark.
    pub byte_order_mark: bool,
}

/// `POST /v1/policy/diff`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DiffAnswer {
    /// The files of the policy in force, and those compared with it.
    pub old_files: Vec<String>,
    pub new_files: Vec<String>,
    pub changes: Vec<Change>,
}

/// `POST /v1/policy/plan`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PlanAnswer {
    pub changes: Vec<Change>,
    /// Why the policy would be refused; absent if it would not.
    pub refused: Option<String>,
    /// What the kernel would be told; empty if the policy would be refused.
    pub entries: Vec<EntryCount>,
    /// Devices of which the state would change.
    pub devices: Vec<DeviceChange>,
    /// Whether connections that no rule allows would be cut (`on_rule_change`).
    pub revokes: bool,
    /// Connections that the policy would not admit. They live on unless `revokes` (K11). `admitted_now` says what the
    /// policy in force would do.
    pub not_admitted: Vec<FlowStatus>,
    /// How many connections there are on the devices that stay filtered.
    pub live_flows: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EntryCount {
    /// What the entries are, in words.
    pub table: String,
    pub written: usize,
    pub deleted: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DeviceChange {
    pub name: String,
    pub becomes: DeviceBecomes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceBecomes {
    /// Filtered by the policy.
    Enforced,
    /// Managed, and in no policy: closed to new connections.
    Closed,
    /// Not filtered any more.
    NotFiltered,
}

/// `POST /v1/policy/apply`, `confirm` and `rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApplyAnswer {
    pub generation: u64,
    /// False if the policy says what was in force already.
    pub changed: bool,
    /// Entries that were written to and deleted from the kernel's tables.
    pub written: usize,
    pub deleted: usize,
    /// Connections that were cut.
    pub revoked: usize,
    /// Within how many seconds the policy has to be confirmed; absent if it has not to be.
    pub unconfirmed: Option<u64>,
    /// What went wrong without making the policy invalid.
    pub warning: Option<String>,
}

/// A policy that is in force and rolled back unless it is confirmed, in `GET /v1/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnconfirmedStatus {
    /// Seconds.
    pub rolls_back_in: u64,
    /// The policy files have changed meanwhile; they are read after a rollback.
    pub files_changed: bool,
}

/// `POST /v1/flows/revoke`. Of the connections that fit every filter those are cut that no rule in force allows.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeQuestion {
    #[serde(default)]
    pub interface: Option<String>,
    /// An address or a network.
    #[serde(default)]
    pub remote: Option<String>,
    /// `tcp`, `udp`, `icmp` (of either family) or a number.
    #[serde(default)]
    pub protocol: Option<String>,
    /// The destination port of the first packet. Only TCP and UDP have one.
    #[serde(default)]
    pub port: Option<u16>,
    /// Also those that a rule allows; needs a filter.
    #[serde(default)]
    pub all: bool,
    /// Only tell which.
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RevokeAnswer {
    pub dry_run: bool,
    /// The connections that were cut, or would be.
    pub flows: Vec<FlowStatus>,
}
