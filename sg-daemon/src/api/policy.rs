//! Handlers for policies that are not in force yet, and for cutting connections.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use aide::generate::GenContext;
use aide::openapi::Operation;
use aide::operation::OperationInput;
use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use ipnet::IpNet;
use tokio::sync::OwnedSemaphorePermit;

use super::candidate::{
    ApplyAnswer, Candidate, DeviceBecomes, DeviceChange, DiffAnswer, EntryCount, PlanAnswer, PolicyFiles,
    ReadFile, RevokeAnswer, RevokeQuestion,
};
use super::extract::{Body, Failure};
use super::limits::turn;
use super::peer::Peer;
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking, internal};
use crate::diff::diff;
use crate::enforce::{Becomes, FlowFilter};
use crate::policy::find::hint;
use crate::policy::model::{Model, OnRuleChange};
use crate::policy::{self, Loaded};
use crate::protocols;
use crate::supervise::status::flow_status;
use crate::supervise::steward::{Order, Refusal};

/// As large as a policy may be; in JSON its text is somewhat longer.
const LARGEST: usize = 64 << 20;
/// Longer than this nobody forgets a policy.
const LONGEST: u64 = 24 * 60 * 60;

const REFUSED: &str = "The policy is refused; the one before stays in force.";
const NOT_NOW: &str = "Not now, or not so; the policy before stays in force.";

pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/v1/policy/files",
            get_files,
            Doc::new("policyFiles", "The policy files, as sgd would read them now").large_answer(),
        )
        .ask(
            "/v1/policy/diff",
            post_diff,
            Doc::new("diffPolicy", "What a policy says that the one in force does not")
                .refuses(409, "No policy is in force.")
                .refuses(422, "The policy has faults.")
                .largest_body(LARGEST),
        )
        .ask(
            "/v1/policy/plan",
            post_plan,
            Doc::new("planPolicy", "What would become of a policy, without doing it")
                .refuses(409, "No policy is in force.")
                .refuses(422, "The policy has faults.")
                .largest_body(LARGEST)
                .large_answer(),
        )
        .post(
            "/v1/policy/apply",
            post_apply,
            Doc::new("applyPolicy", "Puts a policy in force, and in the place of the daemon's files")
                .refuses(409, NOT_NOW)
                .refuses(422, REFUSED)
                .largest_body(LARGEST),
        )
        .post(
            "/v1/policy/confirm",
            post_confirm,
            Doc::new("confirmPolicy", "Keeps the policy that waits to be confirmed")
                .refuses(409, "None waits, or it cannot be kept."),
        )
        .post(
            "/v1/policy/rollback",
            post_rollback,
            Doc::new("rollbackPolicy", "Goes back to the policy before the one that waits")
                .refuses(409, "None waits."),
        )
        .post(
            "/v1/flows/revoke",
            post_revoke,
            Doc::new("revokeFlows", "Cuts connections that no rule in force allows")
                .refuses(404, "There is no such interface."),
        )
}

/// A candidate, and the right to have it in memory.
struct Alone(Candidate, OwnedSemaphorePermit);

impl FromRequest<Shared> for Alone {
    type Rejection = Failure;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Failure> {
        let writes = request.extensions().get::<Peer>().is_some_and(|peer| peer.may_write);
        let places = if writes { &shared.large.of_writers } else { &shared.large.of_readers };
        let alone = turn(places).await?;
        let Body(candidate) = Body::from_request(request, shared).await.map_err(|failure| match failure {
            Failure(StatusCode::PAYLOAD_TOO_LARGE, _) => {
                let limit = LARGEST >> 20;
                Failure(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the policy is too large; at most {limit} MiB are read"),
                )
            }
            other => other,
        })?;
        Ok(Self(candidate, alone))
    }
}

impl OperationInput for Alone {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        Body::<Candidate>::operation_input(context, operation);
    }
}

fn named(candidate: Candidate) -> Option<Vec<(PathBuf, Vec<u8>)>> {
    let files = candidate.files?;
    Some(files.into_iter().map(|file| (PathBuf::from(file.name), file.text.into_bytes())).collect())
}

fn load(shared: &Shared, candidate: Candidate) -> Result<Loaded, Failure> {
    let loaded = match named(candidate) {
        Some(files) => policy::load_bytes(files),
        None => policy::load_next(&shared.policy, &shared.memo),
    };
    loaded.map_err(|error| Failure(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

fn no_policy() -> Failure {
    Failure(
        StatusCode::CONFLICT,
        "no policy is in force; `sgctl apply` puts one in force, and `sgctl status` says why there is none"
            .to_owned(),
    )
}

async fn get_files(State(shared): State<Shared>) -> Result<Json<PolicyFiles>, Failure> {
    let alone = turn(&shared.large.of_readers).await?;
    blocking(move || {
        let texts = policy::texts(&shared.policy);
        drop(alone);
        let files = texts.files.into_iter().map(|(path, text, byte_order_mark)| ReadFile {
            path: path.display().to_string(),
            text,
            byte_order_mark,
        });
        Ok(PolicyFiles { files: files.collect(), faults: texts.faults, refused: shared.refused().clone() })
    })
    .await
    .map(Json)
}

async fn post_diff(
    State(shared): State<Shared>,
    Alone(candidate, _alone): Alone,
) -> Result<Json<DiffAnswer>, Failure> {
    blocking(move || {
        let loaded = load(&shared, candidate)?;
        let old = shared.enforcer().active().map(|active| active.model.clone()).ok_or_else(no_policy)?;
        let files = |model: &Model| model.files.iter().map(|file| file.display().to_string()).collect();
        Ok(DiffAnswer {
            old_files: files(&old),
            new_files: files(&loaded.model),
            changes: diff(&old, &loaded.model),
        })
    })
    .await
    .map(Json)
}

async fn post_plan(
    State(shared): State<Shared>,
    Alone(candidate, _alone): Alone,
) -> Result<Json<PlanAnswer>, Failure> {
    blocking(move || {
        let loaded = load(&shared, candidate)?;
        let mut enforcer = shared.enforcer();
        let old = enforcer.active().map(|active| active.model.clone()).ok_or_else(no_policy)?;
        let preview = enforcer.preview(&loaded.model).map_err(internal)?;
        drop(enforcer);
        let changes = diff(&old, &loaded.model);
        let foreign = preview.not_ethernet.first().map(|name| {
            format!("interface {name} carries no Ethernet frames; only Ethernet devices can be filtered")
        });
        let (entries, full) = match preview.entries {
            Ok(entries) => (entries, None),
            Err(error) => (Default::default(), Some(error.to_string())),
        };
        Ok(PlanAnswer {
            changes,
            refused: full.or(foreign),
            entries: entries
                .into_iter()
                .map(|(table, (written, deleted))| EntryCount { table: table.to_owned(), written, deleted })
                .collect(),
            devices: preview
                .devices
                .into_iter()
                .map(|(name, becomes)| DeviceChange {
                    name,
                    becomes: match becomes {
                        Becomes::Filtered => DeviceBecomes::Enforced,
                        Becomes::Closed => DeviceBecomes::Closed,
                        Becomes::Open => DeviceBecomes::NotFiltered,
                    },
                })
                .collect(),
            revokes: loaded.model.settings.on_rule_change == OnRuleChange::Revoke,
            not_admitted: preview
                .flows
                .iter()
                .map(|(name, flow, now)| flow_status(name, flow, *now))
                .collect(),
            live_flows: preview.all_flows,
        })
    })
    .await
    .map(Json)
}

async fn post_apply(
    State(shared): State<Shared>,
    Alone(candidate, _alone): Alone,
) -> Result<Json<ApplyAnswer>, Failure> {
    let confirm = candidate.confirm_seconds;
    if confirm.is_some_and(|seconds| !(1..=LONGEST).contains(&seconds)) {
        let why = format!("the time to confirm in is 1 to {LONGEST} seconds");
        return Err(Failure(StatusCode::BAD_REQUEST, why));
    }
    let order = match named(candidate) {
        Some(files) => Order::Apply { files, confirm: confirm.map(Duration::from_secs) },
        None if confirm.is_some() => {
            let why =
                "only a candidate that is sent along can be rolled back; the daemon's own files say already \
                       what they say"
                    .to_owned();
            return Err(Failure(StatusCode::BAD_REQUEST, why));
        }
        None => Order::Reload,
    };
    give(&shared, order).await
}

async fn post_confirm(State(shared): State<Shared>) -> Result<Json<ApplyAnswer>, Failure> {
    give(&shared, Order::Confirm).await
}

async fn post_rollback(State(shared): State<Shared>) -> Result<Json<ApplyAnswer>, Failure> {
    give(&shared, Order::Rollback).await
}

async fn give(shared: &Shared, order: Order) -> Result<Json<ApplyAnswer>, Failure> {
    let answer = shared.orders.carry_out(order).await.ok_or_else(gone)?;
    answer.map(Json).map_err(|refusal| failure(&refusal))
}

/// Nobody carries out orders any more.
pub(super) fn gone() -> Failure {
    Failure(StatusCode::SERVICE_UNAVAILABLE, "sgd is about to end; ask again when it runs anew".to_owned())
}

pub(super) fn failure(refusal: &Refusal) -> Failure {
    let status = match refusal {
        Refusal::Faulty(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::Conflict(_) | Refusal::Edit(_) => StatusCode::CONFLICT,
        Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure(status, refusal.to_string())
}

async fn post_revoke(
    State(shared): State<Shared>,
    Body(question): Body<RevokeQuestion>,
) -> Result<Json<RevokeAnswer>, Failure> {
    let protocols = match question.protocol.as_deref() {
        None => Vec::new(),
        Some(name) => numbers(name)?,
    };
    let filter = FlowFilter {
        interface: question.interface,
        remote: question.remote.as_deref().map(network).transpose()?,
        protocols,
        port: question.port,
        allowed_too: question.all,
    };
    if filter.allowed_too && !filter.narrows() {
        let why = "to cut connections that rules allow, say which: by interface, remote, protocol or port"
            .to_owned();
        return Err(Failure(StatusCode::BAD_REQUEST, why));
    }
    blocking(move || {
        let mut enforcer = shared.enforcer();
        if let Some(name) = &filter.interface
            && !enforcer.devices().contains_key(name)
        {
            return Err(Failure(
                StatusCode::NOT_FOUND,
                format!(
                    "no interface {name:?} is filtered{}",
                    hint(name, enforcer.devices().keys().map(String::as_str))
                ),
            ));
        }
        let revoked = enforcer.revoke(&filter, question.dry_run).map_err(internal)?;
        if !question.dry_run && !revoked.is_empty() {
            tracing::info!(connections = revoked.len(), "cut as asked");
        }
        let active = enforcer.active();
        let flows = revoked.iter().map(|(name, flow)| {
            let admitted = active.is_some_and(|active| {
                active.interface(name).is_some_and(|interface| active.admits(interface, flow))
            });
            flow_status(name, flow, admitted)
        });
        Ok(RevokeAnswer { dry_run: question.dry_run, flows: flows.collect() })
    })
    .await
    .map(Json)
}

fn network(text: &str) -> Result<IpNet, Failure> {
    let host = || text.parse().ok().map(|address: IpAddr| IpNet::from(address));
    text.parse().ok().or_else(host).ok_or_else(|| {
        let why = format!("the remote is an address or a network such as 10.0.0.0/8, not {text:?}");
        Failure(StatusCode::BAD_REQUEST, why)
    })
}

fn numbers(name: &str) -> Result<Vec<u8>, Failure> {
    match (protocols::number(name, false), protocols::number(name, true)) {
        (Some(v4), Some(v6)) => Ok(vec![v4, v6]),
        _ => {
            let why = format!(
                "the protocol is tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip or a number, not {name:?}"
            );
            Err(Failure(StatusCode::BAD_REQUEST, why))
        }
    }
}
