//! What goes over the socket about edits, and their routes: each is an [`Edit`] that the steward carries out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::extract::{At, Body, Failure, IfMatch, Params};
use super::policy::gone;
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking};
use crate::diff::{Change, diff};
use crate::policy::edit::{Done, Edit, EditError, EditedPolicy, RuleDirection, apply_next};
use crate::policy::model::Model;
use crate::supervise::steward::{EditOrder, Order, Refusal};

/// The most that are carried out at once.
pub const MOST_EDITS: usize = 100;

/// `POST /v1/policy/edit`: all of these, or none.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// Carried out one after the other; each has to leave a policy that is valid. At most 100.
    #[schemars(length(min = 1, max = 100))]
    pub edits: Vec<Edit>,
    /// Only tell what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What edits did, or would do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EditAnswer {
    pub dry_run: bool,
    /// One for each edit.
    pub done: Vec<Done>,
    /// What the policy says now that it did not.
    pub changes: Vec<Change>,
    /// Of the policy in force; absent in a dry run.
    pub generation: Option<u64>,
    /// Connections that were cut (`on_rule_change`).
    pub revoked: usize,
    /// What went wrong without making the policy invalid.
    pub warning: Option<String>,
}

impl EditAnswer {
    /// Of edits that are not in force, or not by a daemon.
    pub fn of(edited: &EditedPolicy, dry_run: bool) -> Self {
        Self::made(edited.done.clone(), (&edited.before, &edited.after), dry_run)
    }

    fn made(done: Vec<Done>, (before, after): (&Model, &Model), dry_run: bool) -> Self {
        Self { dry_run, done, changes: diff(before, after), generation: None, revoked: 0, warning: None }
    }

    /// The same of edits that are about to be in force, to be made on another thread.
    pub fn later(edited: &EditedPolicy) -> impl FnOnce() -> Self + Send + use<> {
        let EditedPolicy { done, before, after, .. } = edited;
        let (done, before, after) = (done.clone(), Arc::clone(before), Arc::clone(after));
        move || Self::made(done, (&before, &after), false)
    }
}

const CONFLICT: &str =
    "What is there forbids it, or another policy waits to be confirmed; nothing was changed.";
const INVALID: &str = "The policy would be refused with the edit in it; nothing was changed.";
const NOT_FOUND: &str = "There is nothing of that name; a near name may be suggested.";

fn edits(id: &'static str, summary: &'static str) -> Doc {
    Doc::new(id, summary)
        .refuses(404, NOT_FOUND)
        .refuses(409, CONFLICT)
        .refuses(412, STALE)
        .refuses(422, INVALID)
}

const STALE: &str = "Another rule is at the index by now; nothing was changed.";

pub(super) fn routes() -> Routes {
    Routes::new()
        .post(
            "/v1/policy/edit",
            post_edits,
            edits("editPolicy", "Carries out several edits, all or none").largest_body(4 << 20),
        )
        .post("/v1/groups", post_group, edits("createGroup", "Makes a group").largest_body(1 << 20))
        .delete("/v1/groups/{name}", delete_group, edits("deleteGroup", "Deletes a group that nothing uses"))
        .post(
            "/v1/groups/{name}/copy",
            post_copy,
            edits("copyGroup", "Copies a group under one or more names"),
        )
        .post("/v1/groups/{name}/rules/{direction}", post_rule, edits("addRule", "Adds a rule to a group"))
        .delete(
            "/v1/groups/{name}/rules/{direction}/{index}",
            delete_rule,
            edits("removeRule", "Removes the rule at an index, if it is the one of the tag in If-Match")
                .refuses(428, "If-Match is missing."),
        )
        .put(
            "/v1/interfaces/{name}/groups/{group}",
            put_attachment,
            edits("attachGroup", "Attaches a group to an interface"),
        )
        .delete(
            "/v1/interfaces/{name}/groups/{group}",
            delete_attachment,
            edits("detachGroup", "Detaches a group from an interface"),
        )
        .put("/v1/peers/{address}", put_peer, edits("addPeer", "Puts a peer into groups"))
        .delete(
            "/v1/peers/{address}",
            delete_peer,
            edits("removePeer", "Removes a peer, or takes it out of one group"),
        )
}

/// Where, if several VPCs have what is named.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scope {
    /// The project, where several have what is named.
    project: Option<String>,
    /// The VPC, likewise.
    vpc: Option<String>,
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PeerScope {
    /// Take the peer out of this group only.
    group: Option<String>,
    /// The project, where several have what is named.
    project: Option<String>,
    /// The VPC, likewise.
    vpc: Option<String>,
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DryRun {
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct GroupPath {
    /// The group.
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ListPath {
    /// The group.
    name: String,
    direction: RuleDirection,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct RulePath {
    /// The group.
    name: String,
    direction: RuleDirection,
    /// From 0, as listed.
    index: usize,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AttachmentPath {
    /// The interface.
    name: String,
    group: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct PeerPath {
    address: String,
}

/// A group to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewGroup {
    name: String,
    description: Option<String>,
    /// Rules as in the policy file. Absent: nothing may enter.
    inbound: Option<Vec<Value>>,
    /// Absent: everything may leave; an empty list: nothing.
    outbound: Option<Vec<Value>>,
}

/// Copies to be made of a group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Copies {
    #[schemars(length(min = 1))]
    names: Vec<String>,
    /// Whether rules of a copy that refer to the original refer to the copy instead.
    #[serde(default)]
    rewrite_self: bool,
}

/// The groups a peer is in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PeerGroups {
    #[schemars(length(min = 1))]
    security_groups: Vec<String>,
}

type Outcome = Result<Json<EditAnswer>, Failure>;

async fn post_edits(State(shared): State<Shared>, Body(Edits { edits, dry_run }): Body<Edits>) -> Outcome {
    if edits.is_empty() || edits.len() > MOST_EDITS {
        return Err(Failure::bad_request(format!(
            "\"edits\" has 1 to {MOST_EDITS} elements, not {}",
            edits.len()
        )));
    }
    carry_out(shared, edits, dry_run).await
}

async fn post_group(
    State(shared): State<Shared>,
    Params(Scope { project, vpc, dry_run }): Params<Scope>,
    Body(NewGroup { name, description, inbound, outbound }): Body<NewGroup>,
) -> Outcome {
    let edit = Edit::GroupCreate { name, description, inbound, outbound, project, vpc };
    carry_out(shared, vec![edit], dry_run).await
}

async fn delete_group(
    State(shared): State<Shared>,
    At(GroupPath { name }): At<GroupPath>,
    Params(Scope { project, vpc, dry_run }): Params<Scope>,
) -> Outcome {
    carry_out(shared, vec![Edit::GroupDelete { name, project, vpc }], dry_run).await
}

async fn post_copy(
    State(shared): State<Shared>,
    At(GroupPath { name: source }): At<GroupPath>,
    Params(Scope { project, vpc, dry_run }): Params<Scope>,
    Body(Copies { names, rewrite_self }): Body<Copies>,
) -> Outcome {
    carry_out(shared, vec![Edit::GroupCopy { source, names, rewrite_self, project, vpc }], dry_run).await
}

async fn post_rule(
    State(shared): State<Shared>,
    At(ListPath { name: group, direction }): At<ListPath>,
    Params(Scope { project, vpc, dry_run }): Params<Scope>,
    Body(rule): Body<Value>,
) -> Outcome {
    carry_out(shared, vec![Edit::RuleAdd { group, direction, rule, project, vpc }], dry_run).await
}

async fn delete_rule(
    State(shared): State<Shared>,
    At(RulePath { name: group, direction, index }): At<RulePath>,
    Params(Scope { project, vpc, dry_run }): Params<Scope>,
    IfMatch(tag): IfMatch,
) -> Outcome {
    let edit =
        Edit::RuleRemove { group, direction, index: Some(index), tag: Some(tag), rule: None, project, vpc };
    carry_out(shared, vec![edit], dry_run).await
}

async fn put_attachment(
    State(shared): State<Shared>,
    At(AttachmentPath { name: interface, group }): At<AttachmentPath>,
    Params(DryRun { dry_run }): Params<DryRun>,
) -> Outcome {
    carry_out(shared, vec![Edit::InterfaceAttach { interface, group }], dry_run).await
}

async fn delete_attachment(
    State(shared): State<Shared>,
    At(AttachmentPath { name: interface, group }): At<AttachmentPath>,
    Params(DryRun { dry_run }): Params<DryRun>,
) -> Outcome {
    carry_out(shared, vec![Edit::InterfaceDetach { interface, group }], dry_run).await
}

async fn put_peer(
    State(shared): State<Shared>,
    At(PeerPath { address }): At<PeerPath>,
    Params(Scope { project, vpc, dry_run }): Params<Scope>,
    Body(PeerGroups { security_groups: groups }): Body<PeerGroups>,
) -> Outcome {
    carry_out(shared, vec![Edit::PeerAdd { address, groups, project, vpc }], dry_run).await
}

async fn delete_peer(
    State(shared): State<Shared>,
    At(PeerPath { address }): At<PeerPath>,
    Params(PeerScope { group, project, vpc, dry_run }): Params<PeerScope>,
) -> Outcome {
    let groups = group.into_iter().collect();
    carry_out(shared, vec![Edit::PeerRemove { address, groups, project, vpc }], dry_run).await
}

async fn carry_out(shared: Shared, edits: Vec<Edit>, dry_run: bool) -> Outcome {
    if dry_run {
        let edited = move || {
            let edited = apply_next(&shared.policy, &edits, &shared.memo).map_err(|error| refused(&error))?;
            Ok(EditAnswer::of(&edited, true))
        };
        return blocking(edited).await.map(Json);
    }
    let (told, tells) = oneshot::channel();
    let order = Order::Edit(EditOrder { edits, told });
    let answer = shared.orders.carry_out(order).await.ok_or_else(gone)?;
    let applied = answer.map_err(|refusal| match refusal {
        Refusal::Edit(error) => refused(&error),
        other => super::policy::failure(&other),
    })?;
    let edited = tells.await.map_err(|_| gone())?;
    Ok(Json(EditAnswer {
        generation: Some(applied.generation),
        revoked: applied.revoked,
        warning: applied.warning,
        ..edited
    }))
}

fn refused(error: &EditError) -> Failure {
    let status = match error {
        EditError::NotFound(_) => StatusCode::NOT_FOUND,
        EditError::Ambiguous(_) | EditError::Invalid(_) => StatusCode::BAD_REQUEST,
        EditError::Before(_) | EditError::Conflict(_) => StatusCode::CONFLICT,
        EditError::Stale(_) => StatusCode::PRECONDITION_FAILED,
        EditError::After(_) => StatusCode::UNPROCESSABLE_ENTITY,
        EditError::Write { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure(status, error.to_string())
}
