//! `GET /v1/interfaces/NAME`: whether a device may be let up.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{At, Failure};
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking};
use super::types::Readiness;
use crate::supervise::status::readiness;

pub(super) fn routes() -> Routes {
    Routes::new().get(
        "/v1/interfaces/{name}",
        get_interface,
        Doc::new("getInterface", "Whether a device may be let up"),
    )
}

/// Part of the path.
#[derive(Debug, Deserialize, JsonSchema)]
struct Named {
    /// The interface's name on this host.
    name: String,
}

async fn get_interface(
    State(shared): State<Shared>,
    At(Named { name }): At<Named>,
) -> Result<Json<Readiness>, Failure> {
    blocking(move || {
        let refused = shared.refused().clone();
        Ok(readiness(&mut shared.enforcer(), &name, refused))
    })
    .await
    .map(Json)
}
