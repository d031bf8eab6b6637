//! Handlers for policies that are not in force yet, and for cutting connections.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use ipnet::IpNet;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::candidate::{
    ApplyAnswer, Candidate, DeviceBecomes, DeviceChange, DiffAnswer, EntryCount, PlanAnswer, RevokeAnswer,
    RevokeQuestion,
};
use super::server::{Failure, Shared, blocking, internal};
use crate::diff::diff;
use crate::enforce::{Becomes, FlowFilter};
use crate::policy::model::{Model, OnRuleChange};
use crate::policy::{self, Loaded};
use crate::protocols;
use crate::supervise::status::flow_status;
use crate::supervise::steward::{self, Order, Refusal};

/// As large as a policy may be; in JSON its text is somewhat longer.
const LARGEST: usize = 64 << 20;
/// Longer than this nobody forgets a policy.
const LONGEST: u64 = 24 * 60 * 60;

pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/v1/policy/diff", post(post_diff))
        .route("/v1/policy/plan", post(post_plan))
        .route("/v1/policy/apply", post(post_apply))
        .layer(DefaultBodyLimit::max(LARGEST))
        .route("/v1/policy/confirm", post(post_confirm))
        .route("/v1/policy/rollback", post(post_rollback))
        .route("/v1/flows/revoke", post(post_revoke))
}

/// The candidate, and the right to have it in memory.
async fn candidate(shared: &Shared, request: Request) -> Result<(Candidate, OwnedMutexGuard<()>), Failure> {
    let alone = shared.large.clone().lock_owned().await;
    match Json::from_request(request, &()).await {
        Ok(Json(candidate)) => Ok((candidate, alone)),
        Err(rejection) => {
            let status = match &rejection {
                JsonRejection::BytesRejection(_) => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            let limit = LARGEST >> 20;
            Err(Failure(status, format!("{}; at most {limit} MiB are read", rejection.body_text())))
        }
    }
}

fn named(candidate: Candidate) -> Option<Vec<(PathBuf, Vec<u8>)>> {
    let files = candidate.files?;
    Some(files.into_iter().map(|file| (PathBuf::from(file.name), file.text.into_bytes())).collect())
}

fn load(shared: &Shared, candidate: Candidate) -> Result<Loaded, Failure> {
    let loaded = match named(candidate) {
        Some(files) => policy::load_bytes(files),
        None => policy::load(&shared.policy),
    };
    loaded.map_err(|error| Failure(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

fn no_policy() -> Failure {
    Failure(StatusCode::CONFLICT, "no policy is in force".to_owned())
}

async fn post_diff(State(shared): State<Shared>, request: Request) -> Result<Json<DiffAnswer>, Failure> {
    let (candidate, _alone) = candidate(&shared, request).await?;
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

async fn post_plan(State(shared): State<Shared>, request: Request) -> Result<Json<PlanAnswer>, Failure> {
    let (candidate, _alone) = candidate(&shared, request).await?;
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

async fn post_apply(State(shared): State<Shared>, request: Request) -> Result<Json<ApplyAnswer>, Failure> {
    let (candidate, _alone) = candidate(&shared, request).await?;
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
    let (answer, outcome) = oneshot::channel();
    let gone = || Failure(StatusCode::SERVICE_UNAVAILABLE, "sgd is about to end".to_owned());
    shared.orders.send(steward::Request { order, answer }).await.map_err(|_| gone())?;
    outcome.await.map_err(|_| gone())?.map(Json).map_err(|refusal| {
        let status = match &refusal {
            Refusal::Faulty(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure(status, refusal.to_string())
    })
}

async fn post_revoke(
    State(shared): State<Shared>,
    question: Result<Json<RevokeQuestion>, JsonRejection>,
) -> Result<Json<RevokeAnswer>, Failure> {
    let Json(question) =
        question.map_err(|rejection| Failure(StatusCode::BAD_REQUEST, rejection.body_text()))?;
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
            return Err(Failure(StatusCode::NOT_FOUND, format!("no interface {name:?} is filtered")));
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
