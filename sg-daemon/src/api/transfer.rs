//! `GET /v1/flows/export` and `POST /v1/flows/import`: connections as a file (docs/flows.md).

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::server::{Failure, Shared, blocking, internal};
use crate::transfer::record::{read, write};
use crate::transfer::{Imported, TransferError, export, import};

/// A line for each element: <https://github.com/ndjson/ndjson-spec>.
pub const NDJSON: &str = "application/x-ndjson";
/// The largest file that is taken, in bytes: half a million connections at least.
pub const LIMIT: usize = 256 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Interface {
    /// Import: that of the file, if absent.
    interface: Option<String>,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/flows/export", get(get_export))
        .route("/v1/flows/import", post(post_import).layer(DefaultBodyLimit::max(LIMIT)))
}

async fn get_export(
    State(shared): State<Shared>,
    query: Result<Query<Interface>, QueryRejection>,
) -> Result<impl IntoResponse, Failure> {
    let interface = query
        .map_err(|rejection| Failure(StatusCode::BAD_REQUEST, rejection.body_text()))?
        .0
        .interface
        .ok_or_else(|| Failure(StatusCode::BAD_REQUEST, "say which: ?interface=NAME".to_owned()))?;
    let text = blocking(move || {
        // Written without the enforcer in hand, as others wait for it.
        let records = export(&mut shared.enforcer(), &interface).map_err(refused)?;
        write(&interface, &records).map_err(internal)
    })
    .await?;
    Ok(([(CONTENT_TYPE, NDJSON)], text))
}

async fn post_import(
    State(shared): State<Shared>,
    query: Result<Query<Interface>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Failure> {
    let Query(Interface { interface }) =
        query.map_err(|rejection| Failure(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let body = body.map_err(|rejection| {
        let status = rejection.status();
        let why = if status == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the file is larger than {} MiB", LIMIT >> 20)
        } else {
            rejection.body_text()
        };
        Failure(status, why)
    })?;
    blocking(move || {
        let text = std::str::from_utf8(&body)
            .map_err(|error| Failure(StatusCode::BAD_REQUEST, format!("the file is not text: {error}")))?;
        let (header, records) = read(text).map_err(|fault| refused(fault.into()))?;
        let interface = interface.unwrap_or(header.interface);
        let imported = import(&mut shared.enforcer(), &interface, &records).map_err(refused)?;
        tracing::info!(interface, live = imported.live, half_open = imported.half_open, "flows imported");
        Ok(imported)
    })
    .await
    .map(Json)
}

fn refused(error: TransferError) -> Failure {
    let status = match &error {
        TransferError::NotFiltered { .. } => StatusCode::NOT_FOUND,
        TransferError::Closed { .. } | TransferError::NoRoom(_) => StatusCode::CONFLICT,
        TransferError::File(_) | TransferError::ForeignAddress { .. } => StatusCode::BAD_REQUEST,
        TransferError::Kernel(_) | TransferError::Json(_) => return internal(error),
    };
    Failure(status, error.to_string())
}
