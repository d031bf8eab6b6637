//! `POST /v1/explain`: what would become of a packet, and why.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::extract::{Body, Failure};
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking, internal};
use super::types::Direction;
use crate::explain::{ExplainError, explain};

/// The largest body that is taken, in bytes: some ten thousand questions.
const LIMIT: usize = 16 << 20;

/// `POST /v1/explain`: one, or an array of them, which is answered by an array.
///
/// The packet is given by `frame`, or by its fields, of which `protocol` and `remote` are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuestion {
    /// The host's device.
    pub interface: String,
    /// Seen from the instance.
    pub direction: Direction,
    /// An Ethernet frame in hexadecimal digits, judged as it is. Of the other fields only `to` may be given beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// `tcp`, `udp`, `icmp` (the remote's family's), another name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The other side's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// The destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The instance's address; the interface's first of the remote's family if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The source port, if the question is about a connection that lives; the identifier of ICMP queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// An echo request if absent; with `quoted`, an unreachable port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// `syn`, `syn,ack`, …, `none`. If absent: a SYN; with a source port, a segment in mid-stream if the connection lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// A piece of a datagram instead of a whole packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<Fragment>,
    /// The frame carries a VLAN tag, 1 to 4094.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The hardware address of whoever sends, `52:54:00:12:34:56`; the interface's own, if it is the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What an ICMP error is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<Quoted>,
    /// The interface of this host that the packet goes to: its inbound verdict is told too. By itself, that of the remote
    /// address, if there is one in the same VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A piece of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    pub piece: Piece,
    /// In bytes, a multiple of 8; 1480 if absent. The first piece has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u16>,
    /// The identification; 1 if absent. To ask about a datagram of which pieces have passed, give its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// With the transport header; more follow
    First,
    /// More follow
    Middle,
    /// The end
    #[value(alias = "later")]
    Last,
}

/// The packet that an ICMP error is about, as whoever sent it did: the instance, if the error is inbound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quoted {
    pub protocol: String,
    /// Whom the instance talked to; the error's sender if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// The destination port of the quoted packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its source port; the identifier of an ICMP query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
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
    pub interface: String,
    pub direction: Direction,
    pub verdict: Verdict,
    /// The name under which the packet would be counted.
    pub reason: String,
    pub text: String,
    /// The packet that was asked about, in words.
    pub packet: String,
    /// What of it could not be read, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Whether the loaded program has given the verdict. If not, it follows from the rules of the policy alone.
    pub asked_kernel: bool,
    /// The rules that allow the packet, any of which is enough.
    pub rules: Vec<RuleText>,
    /// For a denial: the rule that comes nearest to allowing it.
    pub nearest: Option<RuleText>,
    /// For a denial: a rule that would allow it.
    pub add: Option<Addition>,
    /// For a denial: what to do about it.
    pub remedy: Option<String>,
    pub notes: Vec<String>,
    /// The verdict at the other end, if that is an interface of this host too: both must let the packet pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_end: Option<Box<Self>>,
}

impl ExplainAnswer {
    /// Whether the packet arrives, as far as this host's filter is asked.
    pub fn passes(&self) -> bool {
        self.verdict != Verdict::Drop && self.other_end.as_ref().is_none_or(|other| other.passes())
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

/// A rule to add to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Addition {
    pub group: String,
    pub project: String,
    /// Absent for `default`, which every VPC of the project sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// `inbound` or `outbound`.
    pub list: String,
    pub rule: serde_json::Value,
    /// What an absent list meant, and would not any more once it is written: to be written with the rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<serde_json::Value>,
    /// The command that adds it.
    pub command: String,
    /// Further interfaces of this policy to which the group is attached, and the rule applies too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
}

/// One question, or several.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
enum Questions {
    One(Box<ExplainQuestion>),
    Many(Vec<ExplainQuestion>),
}

impl<'de> Deserialize<'de> for Questions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Tells them apart by their brackets, so that what is wrong is told of the question and not of the choice.
struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Questions;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a question or an array of questions")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Questions, A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(Questions::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Questions, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(seq)).map(Questions::Many)
    }
}

/// As many as there were questions.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Answers {
    One(Box<ExplainAnswer>),
    Many(Vec<ExplainAnswer>),
}

pub(super) fn routes() -> Routes {
    Routes::new().ask(
        "/v1/explain",
        post_explain,
        Doc::new(
            "explain",
            "Whether a packet would pass, and which rule decides; of several, in one request",
        )
        .refuses(404, "There is no such interface.")
        .refuses(409, "No policy is in force.")
        .largest_body(LIMIT),
    )
}

async fn post_explain(
    State(shared): State<Shared>,
    Body(questions): Body<Questions>,
) -> Result<Json<Answers>, Failure> {
    blocking(move || {
        let questions = match questions {
            Questions::One(question) => {
                let answer = explain(&mut shared.enforcer(), &question).map_err(failure)?;
                return Ok(Answers::One(Box::new(answer)));
            }
            Questions::Many(questions) => questions,
        };
        let mut answers = Vec::with_capacity(questions.len());
        for (question, number) in questions.iter().zip(1..) {
            // Others want to be answered too.
            let answer = explain(&mut shared.enforcer(), question).map_err(|error| {
                let Failure(status, why) = failure(error);
                Failure(status, format!("question {number}: {why}"))
            })?;
            answers.push(answer);
        }
        Ok(Answers::Many(answers))
    })
    .await
    .map(Json)
}

fn failure(error: ExplainError) -> Failure {
    let status = match &error {
        ExplainError::Kernel(_) => return internal(error),
        ExplainError::NoPolicy => StatusCode::CONFLICT,
        ExplainError::UnknownInterface { .. } => StatusCode::NOT_FOUND,
        ExplainError::Families { .. } | ExplainError::Question(_) => StatusCode::BAD_REQUEST,
    };
    Failure(status, error.to_string())
}
