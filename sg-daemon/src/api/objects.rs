//! `GET /v1/groups`, `/v1/interfaces` and `/v1/peers`: the policy in force, object by object.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{At, Failure, Params};
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking};
use crate::policy::find::{self, Missing};
use crate::policy::model::Model;
use crate::policy::view::{self, GroupView, InterfaceView, PeerView};

pub(super) fn routes() -> Routes {
    const NONE: &str = "No policy is in force.";
    Routes::new()
        .get(
            "/v1/groups",
            get_groups,
            Doc::new("listGroups", "All groups, and who is in them").refuses(409, NONE),
        )
        .get(
            "/v1/groups/{name}",
            get_group,
            Doc::new("getGroup", "One group")
                .refuses(404, "There is no such group; a near name may be suggested.")
                .refuses(409, NONE),
        )
        .get(
            "/v1/interfaces",
            get_interfaces,
            Doc::new("listInterfaces", "The interfaces of the policy").refuses(409, NONE),
        )
        .get("/v1/peers", get_peers, Doc::new("listPeers", "Members on other hosts").refuses(409, NONE))
}

/// Which of several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scope {
    /// Only those of this project.
    project: Option<String>,
    /// Only those of this VPC; "default" is in each of its project.
    vpc: Option<String>,
}

impl Scope {
    fn find(&self) -> find::Scope<'_> {
        find::Scope { project: self.project.as_deref(), vpc: self.vpc.as_deref() }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Named {
    /// The group.
    name: String,
}

async fn model(shared: Shared) -> Result<Arc<Model>, Failure> {
    blocking(move || {
        let model = shared.enforcer().active().map(|active| Arc::clone(&active.model));
        model.ok_or_else(|| Failure(StatusCode::CONFLICT, "no policy is in force; `sgctl apply` puts one in force, and `sgctl status` says why there is none".to_owned()))
    })
    .await
}

async fn get_groups(
    State(shared): State<Shared>,
    Params(scope): Params<Scope>,
) -> Result<Json<Vec<GroupView>>, Failure> {
    let model = model(shared).await?;
    blocking(move || Ok(view::in_scope(view::groups(&model), scope.find()))).await.map(Json)
}

async fn get_group(
    State(shared): State<Shared>,
    At(Named { name }): At<Named>,
    Params(scope): Params<Scope>,
) -> Result<Json<GroupView>, Failure> {
    let model = model(shared).await?;
    blocking(move || {
        view::group(&model, &name, scope.find()).map_err(|missing| match missing {
            Missing::None(why) => Failure(StatusCode::NOT_FOUND, why),
            Missing::Several(why) => Failure(StatusCode::BAD_REQUEST, why),
        })
    })
    .await
    .map(Json)
}

async fn get_interfaces(
    State(shared): State<Shared>,
    Params(scope): Params<Scope>,
) -> Result<Json<Vec<InterfaceView>>, Failure> {
    let model = model(shared).await?;
    Ok(Json(view::in_scope(view::interfaces(&model), scope.find())))
}

async fn get_peers(
    State(shared): State<Shared>,
    Params(scope): Params<Scope>,
) -> Result<Json<Vec<PeerView>>, Failure> {
    let model = model(shared).await?;
    blocking(move || Ok(view::in_scope(view::peers(&model), scope.find()))).await.map(Json)
}
