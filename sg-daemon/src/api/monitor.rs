//! `GET /v1/monitor`: packets and their verdicts as they come by, a line of JSON each. `GET /v1/rules/hits`: what each rule has
//! allowed. (docs/monitor.md)

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use http_body_util::channel::{Channel, Sender};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sg_common::abi::{EVENT_BEHIND_XDP, EVENT_EGRESS, EVENT_VLAN};
use sg_common::verdict::Reason;

use super::explain::{RuleText, Verdict};
use super::extract::{Failure, Params, Raw};
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking, internal};
use super::transfer::NDJSON;
use super::types::Direction;
use crate::events::hits::RuleHitsAnswer;
use crate::events::{Filter, FilterError, Lost, Message, Rate, RuleFilter, Told, Watch, WatchError};
use crate::policy::{nearest, suggestion};
use crate::protocols;

/// An empty line is sent after this long without anything else, so that either side notices that the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Which packets; all parts must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MonitorQuestion {
    /// The interface's name on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Any of these, with commas between them: `allow`, `drop`, `would_drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Any of these names (docs/drop-reasons.md), with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Of TCP or UDP, of either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The other side's address, or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The instance's address, or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// New connections that this rule allows: `web`, `web inbound`, `web inbound[2]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// At most so many a second on each CPU, from 1 to 100,000; 2,000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
}

impl MonitorQuestion {
    /// # Errors
    ///
    /// Which part cannot be read, and what was expected.
    pub fn filter(&self) -> Result<Filter, String> {
        let protocol = match &self.protocol {
            None => None,
            Some(name) => {
                let ipv6 = self.remote.as_ref().or(self.local.as_ref()).is_some_and(|net| net.contains(':'));
                let number = protocols::number(name, ipv6);
                Some(
                    number.ok_or(
                        "the protocol is tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip or a number",
                    )?,
                )
            }
        };
        let per_second = self.rate.unwrap_or(Rate::USUAL);
        if !(1..=Rate::MAX).contains(&per_second) {
            return Err(format!("the rate is from 1 to {} events a second", Rate::MAX));
        }
        Ok(Filter {
            interface: self.interface.clone(),
            direction: self.direction.map(Into::into),
            verdicts: listed(self.verdict.as_deref(), verdict)?,
            reasons: listed(self.reason.as_deref(), reason)?,
            protocol,
            port: self.port,
            remote: self.remote.as_deref().map(|text| net("remote", text)).transpose()?,
            local: self.local.as_deref().map(|text| net("local", text)).transpose()?,
            rule: self.rule.as_deref().map(rule).transpose()?,
            rate: Rate { per_second },
        })
    }
}

fn listed<T>(text: Option<&str>, one: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.into_iter().flat_map(|text| text.split(',')).map(|word| one(word.trim())).collect()
}

fn verdict(word: &str) -> Result<Verdict, String> {
    match word {
        "allow" => Ok(Verdict::Allow),
        "drop" => Ok(Verdict::Drop),
        "would_drop" => Ok(Verdict::WouldDrop),
        _ => Err(format!("there is no verdict {word:?}; a verdict is allow, drop or would_drop")),
    }
}

fn reason(word: &str) -> Result<Reason, String> {
    Reason::EVERY.iter().copied().find(|reason| reason.name() == word).ok_or_else(|| {
        let near = nearest(word, Reason::EVERY.iter().map(|reason| reason.name()));
        format!("there is no reason {word:?}{} (docs/drop-reasons.md lists all)", suggestion(near))
    })
}

fn net(field: &str, text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| format!("{field}: {text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

fn rule(text: &str) -> Result<RuleFilter, String> {
    let expected = || {
        format!(
            "rule: {text:?} is not a group and one of its rules, such as \"web\", \"web inbound\" or \"web inbound[2]\""
        )
    };
    let (group, rule) = match text.trim().rsplit_once(' ') {
        None => (text.trim(), None),
        Some((group, rule)) => (group.trim(), Some(rule)),
    };
    let list = rule.map(|rule| rule.split('[').next().unwrap_or(rule));
    let direction = match list {
        None => None,
        Some("inbound") => Some(sg_common::abi::Direction::Inbound),
        Some("outbound") => Some(sg_common::abi::Direction::Outbound),
        Some(_) => return Err(expected()),
    };
    let index = rule.and_then(|rule| rule.split_once('[')).map(|(_, index)| index);
    if group.is_empty()
        || index.is_some_and(|index| index.strip_suffix(']').is_none_or(|n| n.parse::<u32>().is_err()))
    {
        return Err(expected());
    }
    Ok(RuleFilter {
        group: group.to_owned(),
        direction,
        rule: rule.filter(|_| index.is_some()).map(str::to_owned),
    })
}

/// A line of `GET /v1/monitor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum MonitorLine {
    Packet(Box<MonitorPacket>),
    Lost(MonitorLost),
}

/// A packet and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MonitorPacket {
    /// RFC 3339, with microseconds, UTC.
    pub time: String,
    /// Absent if the filter does not know the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub ifindex: u32,
    pub direction: Direction,
    /// The device's own, seen from the host: `ingress`, `egress`; `behind_xdp` if XDP has passed it before.
    pub hook: String,
    pub verdict: Verdict,
    pub reason: String,
    /// `0x0800`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ether_type: Option<String>,
    /// Of a tag in the frame; 0 if the device has taken one out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// `SA`: of F, S, R, P, A, U, E, C those that are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// A piece of a datagram that is not its first: it has no ports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub later_piece: bool,
    /// Of ARP: 1 asks, 2 answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp: Option<u16>,
    /// Bytes of the whole frame.
    pub bytes: u32,
    /// Of packets that rules were asked about and allow: every rule that does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleText>,
    /// Of the policy that it was judged by.
    pub generation: u64,
}

/// Packets of which nothing else is told, since the line before of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MonitorLost {
    /// All together.
    pub lost: u64,
    /// They came faster than `rate`.
    pub limited: u64,
    /// The ring between kernel and daemon was full.
    pub full: u64,
    /// Whoever watches did not read as fast.
    pub slow: u64,
}

impl From<Lost> for MonitorLost {
    fn from(lost: Lost) -> Self {
        Self { lost: lost.total(), limited: lost.limited, full: lost.full, slow: lost.slow }
    }
}

impl From<&Told> for MonitorPacket {
    fn from(told: &Told) -> Self {
        let (event, packet) = (&told.event, &told.packet);
        let hook = if event.flags & EVENT_BEHIND_XDP != 0 {
            "behind_xdp"
        } else if event.flags & EVENT_EGRESS != 0 {
            "egress"
        } else {
            "ingress"
        };
        Self {
            time: humantime::format_rfc3339_micros(told.time).to_string(),
            interface: told.interface.clone(),
            ifindex: event.ifindex,
            direction: told.direction.into(),
            hook: hook.to_owned(),
            verdict: told.verdict,
            reason: told.reason.name().to_owned(),
            ether_type: packet.ether_type.map(|kind| format!("{kind:#06x}")),
            vlan: packet.vlan.or((event.flags & EVENT_VLAN != 0).then_some(0)),
            protocol: packet.protocol.map(protocol_name),
            source: packet.source,
            source_port: packet.ports.map(|(source, _)| source),
            destination: packet.destination,
            destination_port: packet.ports.map(|(_, destination)| destination),
            icmp_type: packet.icmp.map(|(kind, _)| kind),
            icmp_code: packet.icmp.map(|(_, code)| code),
            tcp_flags: packet.tcp_flags.map(flags),
            later_piece: packet.later_piece,
            arp: packet.arp,
            bytes: event.bytes,
            rules: told.rules.clone(),
            generation: event.generation,
        }
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

fn flags(bits: u8) -> String {
    "FSRPAUEC".chars().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, flag)| flag).collect()
}

pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/v1/monitor",
            get_monitor,
            Doc::new("monitor", "Packets and their verdicts as they come by; a line each, without end")
                .refuses(404, "There is no such interface or group.")
                .answers_as(NDJSON),
        )
        .get("/v1/rules/hits", get_hits, Doc::new("ruleHits", "What each rule has allowed"))
}

async fn get_hits(State(shared): State<Shared>) -> Result<Json<RuleHitsAnswer>, Failure> {
    blocking(move || Ok(shared.events.rule_hits())).await.map(Json)
}

async fn get_monitor(
    State(shared): State<Shared>,
    Params(question): Params<MonitorQuestion>,
) -> Result<Raw, Failure> {
    let filter = question.filter().map_err(Failure::bad_request)?;
    let watch = blocking(move || {
        shared.events.watch(filter).map_err(|error| match error {
            WatchError::Filter(FilterError::Nothing(_)) => Failure::bad_request(error.to_string()),
            WatchError::Filter(_) => Failure(StatusCode::NOT_FOUND, error.to_string()),
            WatchError::Full(_) => Failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            WatchError::Kernel(error) => internal(error),
        })
    })
    .await?;
    let (sender, channel) = Channel::<Bytes, Infallible>::new(16);
    tokio::spawn(send(watch, sender));
    let response = Response::new(Body::new(channel));
    Ok(Raw(([(CONTENT_TYPE, NDJSON)], response).into_response()))
}

/// Until whoever watches has gone away.
async fn send(mut watch: Watch, mut sender: Sender<Bytes>) {
    // The answer begins at once, so that whoever asked knows that packets are told of from now on.
    let mut line = Vec::from(*b"\n");
    loop {
        if sender.send_data(Bytes::from(std::mem::take(&mut line))).await.is_err() {
            return;
        }
        match tokio::time::timeout(HEARTBEAT, watch.next()).await {
            Err(_) => {}
            Ok(None) => return,
            Ok(Some(message)) => {
                let written = match message {
                    Message::Told(told) => serde_json::to_writer(&mut line, &MonitorPacket::from(&*told)),
                    Message::Lost(lost) => serde_json::to_writer(&mut line, &MonitorLost::from(lost)),
                };
                if written.is_err() {
                    return;
                }
            }
        }
        line.push(b'\n');
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
