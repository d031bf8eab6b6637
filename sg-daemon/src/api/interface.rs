//! `GET /v1/interfaces/NAME`: whether a device may be let up.

use axum::Json;
use axum::extract::{Path, State};

use super::server::{Failure, Shared, blocking};
use super::types::Readiness;
use crate::supervise::status::readiness;

pub(super) async fn get_interface(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Readiness>, Failure> {
    blocking(move || {
        let refused = shared.refused().clone();
        Ok(readiness(&mut shared.enforcer(), &name, refused))
    })
    .await
    .map(Json)
}
