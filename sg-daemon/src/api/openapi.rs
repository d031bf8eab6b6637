//! `GET /v1/openapi.json`: what there is to ask, for programs.

use std::sync::OnceLock;

use axum::Json;
use serde_json::Value;

use super::extract::Failure;
use super::routes::{Doc, Routes};
use super::server;

/// The OpenAPI document.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let (_, document) = server::router();
        serde_json::to_value(document).unwrap_or_default()
    })
}

pub(super) fn routes() -> Routes {
    Routes::new().get("/v1/openapi.json", get_openapi, Doc::new("getOpenApi", "This document"))
}

async fn get_openapi() -> Result<Json<Value>, Failure> {
    Ok(Json(document().clone()))
}
