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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The router itself tells its paths only in its debug output; if that changes, there are none and this fails.
    #[test]
    fn every_path_of_the_router_is_in_the_document_and_the_other_way_round() {
        let (router, _) = server::router();
        let told = format!("{router:?}");
        let routed: BTreeSet<&str> = told.split('"').filter(|part| part.starts_with("/v1/")).collect();
        let documented: BTreeSet<&str> =
            document()["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(routed.len() > 10, "{told}");
        assert_eq!(routed, documented);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_its_right_its_answers_and_its_parameters() {
        let mut names = BTreeSet::new();
        for (path, item) in document()["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let what = format!("{method} {path}: {operation:#}");
                assert!(names.insert(operation["operationId"].as_str().unwrap()), "{what}");
                assert!(!operation["summary"].as_str().unwrap().is_empty(), "{what}");
                let writes = operation["x-sgd-access"] == "write";
                assert!(writes || operation["x-sgd-access"] == "read", "{what}");
                // Sequence numbers are not for everybody.
                assert_eq!(method == "get" && writes, path == "/v1/flows/export", "{what}");
                assert!(operation["responses"]["200"]["content"].is_object(), "{what}");
                let braces: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let told: BTreeSet<&str> = parameters
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| parameter["name"].as_str().unwrap())
                    .collect();
                assert_eq!(braces, told, "{what}");
            }
        }
        assert!(names.len() > 20);
    }

    #[test]
    fn every_schema_is_one_and_refers_to_those_that_are_there() {
        let components = &document()["components"];
        for name in components["schemas"].as_object().unwrap().keys() {
            let schema = serde_json::json!({ "$ref": format!("#/components/schemas/{name}"), "components": components });
            jsonschema::validator_for(&schema).unwrap();
        }
        let text = document().to_string();
        for reference in text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let target = document().pointer(reference.trim_start_matches('#'));
            assert!(target.is_some(), "{reference}");
        }
    }
}
