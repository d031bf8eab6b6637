//! The metrics that `sgd` exports, in one list: for `/metrics`, for `docs/metrics.md` and for the tests of the dashboard and
//! the alert rules. It stands here and not in the daemon so that the page can be made where the daemon cannot be built.

/// What Prometheus takes a metric for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    Gauge,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric. The labels of each are these and no others, and the values of each label are bounded as [`LABELS`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Ends in a full stop.
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, help: $help, labels: &[$($label),*] };)*
        /// Every metric of `sgd` itself, in the order of the page.
        pub const EVERY: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "sgd_build_info" ["version"] "Always 1; the label tells the version of sgd that runs.";
    PACKETS = Counter "sgd_packets_total" ["interface", "direction", "verdict", "reason"]
        "Packets by what became of them and why; direction as the instance sees it.";
    BYTES = Counter "sgd_bytes_total" ["interface", "direction", "verdict", "reason"]
        "Bytes of the packets in sgd_packets_total.";
    UNKNOWN_PACKETS = Counter "sgd_unknown_interface_packets_total" ["direction"]
        "Packets that were dropped on a device that the filter is attached to and has no policy for.";
    LIVE_FLOWS = Gauge "sgd_live_flows" ["interface"]
        "Live connections of an interface; those that are over count until they are collected.";
    LIVE_FLOWS_LIMIT = Gauge "sgd_live_flows_limit" ["interface"]
        "How many live connections the interface may have; new ones beyond that are dropped as table_full.";
    INTERFACE_STATE = Gauge "sgd_interface_state" ["interface", "state"]
        "Always 1; the label tells what is enforced on the interface, as sgctl status does.";
    INTERFACES = Gauge "sgd_interfaces" ["state"] "How many interfaces are in each state.";
    TABLE_ENTRIES = Gauge "sgd_table_entries" ["table"] "Entries in use of a table in the kernel.";
    TABLE_SIZE = Gauge "sgd_table_entries_limit" ["table"] "Entries that a table in the kernel has room for.";
    MAP_WRITES = Counter "sgd_map_writes_total" ["map", "operation"]
        "Elements of maps, and words that programs share, that were written or deleted to put policies in force.";
    GENERATION = Gauge "sgd_policy_generation" []
        "How often the policy in force was swapped since the maps were made; outlives sgd.";
    SWAPS = Counter "sgd_policy_swaps_total" ["outcome"]
        "Policies that were put in force (applied), said what was in force already (unchanged), or were not put in force (failed).";
    LAST_SUCCESS = Gauge "sgd_policy_last_success_timestamp_seconds" []
        "When a policy was last accepted by this sgd, in seconds since 1970.";
    REFUSED = Gauge "sgd_policy_refused" []
        "1 if the newest policy files were refused and an older policy is in force, else 0.";
    UNCONFIRMED = Gauge "sgd_policy_unconfirmed" []
        "1 if the policy in force is rolled back unless it is confirmed, else 0.";
    GROUP_HITS = Counter "sgd_group_hits_total" ["project", "vpc", "group", "direction"]
        "New connections, and packets of kinds that begin none, that rules of the group allow, each once; since sgd was started.";
    RULES = Gauge "sgd_rules" [] "Rules that stand in the policy in force.";
    RULES_UNUSED = Gauge "sgd_rules_unused" [] "Those of sgd_rules that have never had a hit; sgctl rules --unused lists them.";
    HITS_UNATTRIBUTED = Counter "sgd_rule_hits_unattributed_total" []
        "Packets that rules have allowed and that are counted for none, as too many came at once; outlives sgd.";
    EVENTS_LOST = Counter "sgd_monitor_lost_events_total" ["cause"]
        "Packets that fitted what somebody watches, and that he was not told of.";
    FLOW_LOG_RECORDS = Counter "sgd_flow_log_records_total" ["outcome"]
        "Records of the flow log that were written, or lost as the file could not be written; 0 without one.";
    FLOW_LOG_UNRECORDED = Counter "sgd_flow_log_unrecorded_packets_total" []
        "Packets that are in no record of the flow log, as there was no room to count their flow; 0 without one.";
    COLLECTOR_RUNS = Counter "sgd_collector_runs_total" ["outcome"]
        "How often flows that are over were looked for (done) or could not be (failed).";
    COLLECTOR_FLOWS = Counter "sgd_collector_flows_total" [] "Flows that were over and have been collected.";
    COLLECTOR_SECONDS = Counter "sgd_collector_seconds_total" [] "Time that was spent to collect flows.";
    SCRAPE_SECONDS = Gauge "sgd_scrape_duration_seconds" [] "Time that it took to gather these metrics.";
}

/// Those of the process, which a library exports under the names that every Prometheus client uses.
pub const PROCESS: &[Metric] = &[
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        help: "Time that sgd has spent on CPUs.",
        labels: &[],
    },
    Metric { name: "process_open_fds", kind: Kind::Gauge, help: "Open file descriptors.", labels: &[] },
    Metric { name: "process_max_fds", kind: Kind::Gauge, help: "How many there may be.", labels: &[] },
    Metric {
        name: "process_virtual_memory_bytes",
        kind: Kind::Gauge,
        help: "Virtual memory, without the maps in the kernel.",
        labels: &[],
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        help: "Resident memory, without the maps in the kernel.",
        labels: &[],
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        help: "When sgd started, in seconds since 1970.",
        labels: &[],
    },
    Metric { name: "process_threads", kind: Kind::Gauge, help: "Threads.", labels: &[] },
];

/// The labels, and why there cannot be many values of each.
pub const LABELS: &[(&str, &str)] = &[
    (
        "interface",
        "devices of the policy in force, and devices that match a managed pattern; at most 511 are filtered",
    ),
    ("direction", "`inbound`, `outbound`, as the instance sees it"),
    ("verdict", "`allowed`, `dropped`, `would_drop` (passed only because the interface is in audit)"),
    ("reason", "one of [drop-reasons.md](drop-reasons.md)"),
    ("state", "`enforced`, `audit`, `bare_metal`, `absent`, `closed`, `unfilterable`, `not_filtered`"),
    (
        "table",
        "`classes_v4`, `classes_v6`, `half_open_v4`, `half_open_v6`, `interfaces`, `live`, `members_v4`, `members_v6`, \
         `own_v4`, `own_v6`, `pairs`, `port_sets`, `zones`",
    ),
    (
        "map",
        "`classes_v4`, `classes_v6`, `control`, `interfaces`, `members_v4`, `members_v6`, `own_v4`, `own_v6`, \
         `pairs`, `port_sets`",
    ),
    ("operation", "`update`, `delete`"),
    (
        "outcome",
        "`applied`, `unchanged`, `failed`; of the collector `done`, `failed`; of the flow log `written`, `lost`",
    ),
    (
        "project",
        "those of the groups that are told of, see `group`; empty for `(others)` and for rules of the settings",
    ),
    ("vpc", "likewise; empty for `default` too, which is the project's"),
    (
        "group",
        "groups of the policy in force, up to 1,000 rows with their directions; those beyond are together in `(others)`, and rules of the \
         settings (`failsafe`, `metadata`) are together in the empty name. Single rules have no rows: they have no names, and there \
         may be 100 in each list of each group. `sgctl rules` tells their hits",
    ),
    (
        "cause",
        "`limited` (faster than was asked for), `full` (the ring between kernel and daemon), `slow` (whoever watches does not read)",
    ),
    ("version", "one"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_as_their_kind_wants() {
        for (index, metric) in EVERY.iter().enumerate() {
            assert!(EVERY[index + 1..].iter().all(|other| other.name != metric.name), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.name.starts_with("sgd_") && metric.help.ends_with('.'), "{}", metric.name);
            for label in metric.labels {
                assert!(LABELS.iter().any(|(known, _)| known == label), "{label}");
            }
        }
    }
}
