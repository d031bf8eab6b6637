//! Parts of a policy in words.

use std::net::IpAddr;

use serde::Serialize;
use sg_common::abi::Direction;

use crate::explain;
use crate::policy::model::{GroupId, Model, Remote, Rule, Timeouts};

pub fn list(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// The order of addresses means nothing.
pub fn addresses(addresses: &[IpAddr]) -> String {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    list(&sorted.iter().map(IpAddr::to_string).collect::<Vec<_>>())
}

pub fn group_names(model: &Model, ids: &[GroupId]) -> String {
    let mut names: Vec<String> = ids.iter().map(|id| group_name(model, *id)).collect();
    names.sort();
    list(&names)
}

fn group_name(model: &Model, id: GroupId) -> String {
    model.groups.get(id.0).map_or_else(String::new, |group| group.name.clone())
}

/// A word as it is written in a policy.
pub fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
}

/// A rule in words; `field` is the list that it stands in.
pub fn rule_words(model: &Model, rule: &Rule, field: &str) -> String {
    let direction = if field == "inbound" { Direction::Inbound } else { Direction::Outbound };
    let remote = match rule.remote {
        Remote::Cidr(net) => Remote::Cidr(net.trunc()),
        group @ Remote::Group(_) => group,
    };
    explain::words(model, rule.protocol, remote, &rule.matches, direction)
}

/// Each timeout by the name of its field.
pub fn seconds(timeouts: &Timeouts) -> Vec<(&'static str, String)> {
    let Timeouts {
        tcp_syn_sent,
        tcp_syn_recv,
        tcp_established,
        tcp_fin_wait,
        tcp_close_wait,
        tcp_last_ack,
        tcp_time_wait,
        tcp_close,
        udp,
        udp_stream,
        icmp,
        other,
    } = *timeouts;
    [
        ("timeouts.tcp_syn_sent", tcp_syn_sent),
        ("timeouts.tcp_syn_recv", tcp_syn_recv),
        ("timeouts.tcp_established", tcp_established),
        ("timeouts.tcp_fin_wait", tcp_fin_wait),
        ("timeouts.tcp_close_wait", tcp_close_wait),
        ("timeouts.tcp_last_ack", tcp_last_ack),
        ("timeouts.tcp_time_wait", tcp_time_wait),
        ("timeouts.tcp_close", tcp_close),
        ("timeouts.udp", udp),
        ("timeouts.udp_stream", udp_stream),
        ("timeouts.icmp", icmp),
        ("timeouts.other", other),
    ]
    .map(|(name, seconds)| (name, format!("{seconds} s")))
    .to_vec()
}
