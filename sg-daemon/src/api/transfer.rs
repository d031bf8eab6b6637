//! `GET /v1/flows/export` and `POST /v1/flows/import`: connections as a file (docs/flows.md).

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Deserialize;

use super::extract::{Failure, Params, Raw, unread};
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking, internal};
use crate::transfer::record::{read, write};
use crate::transfer::{Imported, TransferError, export, import};

/// A line for each element: <https://github.com/ndjson/ndjson-spec>.
pub const NDJSON: &str = "application/x-ndjson";
/// The largest file that is taken, in bytes: half a million connections at least.
pub const LIMIT: usize = 256 << 20;

/// Of which interface.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exported {
    /// The interface's name on this host.
    interface: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportedTo {
    /// The interface's name on this host; that of the file, if absent.
    interface: Option<String>,
}

pub(super) fn routes() -> Routes {
    // Whoever has the sequence numbers of a connection can forge its packets.
    Routes::new()
        .get_for_writers(
            "/v1/flows/export",
            get_export,
            Doc::new("exportFlows", "The connections of an interface, for another host; a line each")
                .refuses(404, "The interface is not filtered.")
                .refuses(409, "The interface is closed.")
                .answers_as(NDJSON)
                .large_answer(),
        )
        .post(
            "/v1/flows/import",
            post_import,
            Doc::new("importFlows", "Takes connections that another host has exported")
                .refuses(404, "The interface is not filtered.")
                .refuses(409, "The interface is closed, or there is no room.")
                .takes(NDJSON)
                .largest_body(LIMIT),
        )
}

async fn get_export(
    State(shared): State<Shared>,
    Params(Exported { interface }): Params<Exported>,
) -> Result<Raw, Failure> {
    let text = blocking(move || {
        // Written without the enforcer in hand, as others wait for it.
        let records = export(&mut shared.enforcer(), &interface).map_err(refused)?;
        write(&interface, &records).map_err(internal)
    })
    .await?;
    Ok(Raw(([(CONTENT_TYPE, NDJSON)], text).into_response()))
}

async fn post_import(
    State(shared): State<Shared>,
    Params(ImportedTo { interface }): Params<ImportedTo>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Failure> {
    let body = body.map_err(|rejection| match unread(&rejection) {
        Failure(status @ StatusCode::PAYLOAD_TOO_LARGE, _) => Failure(
            status,
            format!("the file is larger than {} MiB; let connections end, and export them anew", LIMIT >> 20),
        ),
        other => other,
    })?;
    blocking(move || {
        let text = std::str::from_utf8(&body).map_err(|error| {
            Failure(
                StatusCode::BAD_REQUEST,
                format!("the file is not text: {error}; expected is what `sgctl flows export` writes"),
            )
        })?;
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
