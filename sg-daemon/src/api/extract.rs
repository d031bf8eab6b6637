//! What handlers take and how they refuse, each with its part of the OpenAPI document.

use aide::OperationOutput;
use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, RequestBody, Response as Described, SchemaObject};
use aide::operation::{OperationInput, ParamLocation, add_parameters, parameters_from_schema, set_body};
use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::paced::TooSlow;
use super::types::Problem;

/// Seconds after which to come again if the daemon is busy.
pub const RETRY_AFTER: u32 = 1;

/// A response that is not 2xx: the status, and what is wrong and what to do.
#[derive(Debug)]
pub struct Failure(pub StatusCode, pub String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let again = matches!(self.0, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        let mut response = (self.0, Json(Problem { error: self.1 })).into_response();
        if again {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        response
    }
}

impl Failure {
    pub fn bad_request(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    /// The answer's form.
    pub fn described(context: &mut GenContext) -> Described {
        Described { content: json(context.schema.subschema_for::<Problem>()), ..Described::default() }
    }
}

/// The statuses are named with the route.
impl OperationOutput for Failure {
    type Inner = Problem;

    fn operation_response(context: &mut GenContext, _: &mut Operation) -> Option<Described> {
        Some(Self::described(context))
    }
}

/// An answer that is no JSON. Its media type is named with the route.
#[derive(Debug)]
pub struct Raw(pub Response);

impl IntoResponse for Raw {
    fn into_response(self) -> Response {
        self.0
    }
}

impl OperationOutput for Raw {
    type Inner = Self;
}

fn json<C: FromIterator<(String, MediaType)>>(schema: schemars::Schema) -> C {
    let schema = SchemaObject { json_schema: schema, external_docs: None, example: None };
    let media = MediaType { schema: Some(schema), ..MediaType::default() };
    [("application/json".to_owned(), media)].into_iter().collect()
}

/// A body of JSON.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::BytesRejection(rejection)) => Err(unread(&rejection)),
            Err(rejection) => Err(unfit(&rejection.body_text())),
        }
    }
}

/// A request that is not of the form that the resource has.
fn unfit(why: &str) -> Failure {
    Failure::bad_request(format!("{}; `sgctl openapi` says what is expected here", why.trim_end_matches('.')))
}

/// Why a body was not read to its end.
pub fn unread(rejection: &BytesRejection) -> Failure {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than this resource takes; send less at once (docs/api.md has the limits)"
                .to_owned(),
        ),
        _ => match too_slow(rejection) {
            Some(slow) => Failure(StatusCode::REQUEST_TIMEOUT, slow.to_string()),
            None => unfit(&rejection.body_text()),
        },
    }
}

fn too_slow<'e>(mut error: &'e (dyn std::error::Error + 'static)) -> Option<&'e TooSlow> {
    loop {
        if let Some(slow) = error.downcast_ref() {
            return Some(slow);
        }
        error = error.source()?;
    }
}

impl<T: JsonSchema> OperationInput for Body<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let content = json(context.schema.subschema_for::<T>());
        set_body(context, operation, RequestBody { content, required: true, ..RequestBody::default() });
    }
}

/// The header `If-Match`, without quotation marks: what is there has to be what was seen before.
#[derive(Debug)]
pub struct IfMatch(pub String);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let tag = parts.headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
        tag.map(|tag| Self(tag.trim_matches('"').to_owned())).ok_or_else(|| {
            let why = "the header If-Match is missing: send the \"tag\" with which it is listed".to_owned();
            Failure(StatusCode::PRECONDITION_REQUIRED, why)
        })
    }
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only described")]
struct IfMatchHeader {
    /// The `tag` with which it is listed.
    #[serde(rename = "If-Match")]
    tag: String,
}

impl OperationInput for IfMatch {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = IfMatchHeader::json_schema(&mut context.schema);
        let parameters = parameters_from_schema(context, schema, ParamLocation::Header);
        add_parameters(context, operation, parameters);
    }
}

/// The query of the URL. Unknown names are refused if `T` does.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection| unfit(&rejection.body_text()))
    }
}

impl<T: JsonSchema> OperationInput for Params<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = T::json_schema(&mut context.schema);
        let parameters = parameters_from_schema(context, schema, ParamLocation::Query);
        add_parameters(context, operation, parameters);
    }
}

/// The parts of the path in braces, by name.
#[derive(Debug)]
pub struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|rejection| unfit(&rejection.body_text()))
    }
}

impl<T: JsonSchema> OperationInput for At<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = T::json_schema(&mut context.schema);
        let parameters = parameters_from_schema(context, schema, ParamLocation::Path);
        add_parameters(context, operation, parameters);
    }
}
