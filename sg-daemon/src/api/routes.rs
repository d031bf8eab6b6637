//! How a route comes to be: path, handler, who may use it and its documentation in one step.
//!
//! ```text
//! Routes::new().get("/v1/flows", get_flows, Doc::new("listFlows", "Connections that live"))
//! ```
//!
//! What a handler takes and returns is read off its signature: [`Body`], [`Params`] and [`At`] for what it is asked,
//! `Result<Json<Answer>, Failure>` for what it says. The types derive `JsonSchema`. There is no other way into the router, so
//! there is no route that the OpenAPI document does not have.

use std::sync::Arc;

use aide::OperationOutput;
use aide::axum::ApiRouter;
use aide::axum::routing::{ApiMethodRouter, delete_with, get_with, post_with, put_with};
use aide::generate::in_context;
use aide::openapi::{Info, MediaType, OpenApi, ReferenceOr, RequestBody, Response, Server, StatusCode};
use aide::operation::{OperationHandler, OperationInput};
use aide::transform::TransformOperation;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::Response as Answer;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use tokio::sync::Semaphore;

use super::extract::Failure;
use super::limits::{LARGE_ANSWERS, turn};
use super::paced::Held;
use super::peer::writers_only;
use super::server::Shared;

/// The largest body of a request, in bytes, unless the route says otherwise.
pub const USUAL_BODY: usize = 64 << 10;

/// What the OpenAPI document says of one operation.
pub struct Doc {
    id: &'static str,
    summary: &'static str,
    refusals: Vec<(u16, &'static str)>,
    body: usize,
    /// Media types, where they are others than JSON.
    takes: Option<&'static str>,
    answers: Option<&'static str>,
    large_answer: bool,
}

impl Doc {
    /// `id` is the operation's name for programs: `listFlows`.
    pub const fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            refusals: Vec::new(),
            body: USUAL_BODY,
            takes: None,
            answers: None,
            large_answer: false,
        }
    }

    /// A status that the handler itself answers with, and when. Those of [`COMMON`] need not be named.
    pub fn refuses(mut self, status: u16, when: &'static str) -> Self {
        self.refusals.push((status, when));
        self
    }

    /// The largest body, in bytes.
    pub const fn largest_body(mut self, bytes: usize) -> Self {
        self.body = bytes;
        self
    }

    /// The answer is no JSON, but of this media type.
    pub const fn answers_as(mut self, media_type: &'static str) -> Self {
        self.answers = Some(media_type);
        self
    }

    /// The answer may take megabytes: few are in memory at once.
    pub const fn large_answer(mut self) -> Self {
        self.large_answer = true;
        self
    }

    /// The body is no JSON, but of this media type.
    pub const fn takes(mut self, media_type: &'static str) -> Self {
        self.takes = Some(media_type);
        self
    }
}

/// What any operation may answer, and when.
pub const COMMON: [(u16, &str); 7] = [
    (400, "The request makes no sense; `error` says what was expected."),
    (403, "The peer may not do this."),
    (408, "The request did not come in time."),
    (413, "The body is too large."),
    (429, "This user has too many connections; `Retry-After` says when to come again."),
    (500, "The system would not."),
    (503, "The daemon is busy or about to end; `Retry-After` says when to come again."),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Routes and their documentation.
pub struct Routes(ApiRouter<Shared>);

impl Routes {
    pub fn new() -> Self {
        Self(ApiRouter::new())
    }

    /// A question without a body. Whoever can open the socket may ask.
    pub fn get<H, I, O, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Shared> + OperationHandler<I, O>,
        I: OperationInput,
        O: OperationOutput,
        T: 'static,
    {
        self.add(path, Access::Read, doc, |describe| get_with(handler, describe))
    }

    /// A question whose answer others could do harm with: for root and the write group.
    pub fn get_for_writers<H, I, O, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Shared> + OperationHandler<I, O>,
        I: OperationInput,
        O: OperationOutput,
        T: 'static,
    {
        self.add(path, Access::Write, doc, |describe| get_with(handler, describe))
    }

    /// A question with a body, which changes nothing. Whoever can open the socket may ask.
    pub fn ask<H, I, O, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Shared> + OperationHandler<I, O>,
        I: OperationInput,
        O: OperationOutput,
        T: 'static,
    {
        self.add(path, Access::Read, doc, |describe| post_with(handler, describe))
    }

    /// A POST that changes something: for root and the write group.
    pub fn post<H, I, O, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Shared> + OperationHandler<I, O>,
        I: OperationInput,
        O: OperationOutput,
        T: 'static,
    {
        self.add(path, Access::Write, doc, |describe| post_with(handler, describe))
    }

    /// A PUT, for root and the write group.
    pub fn put<H, I, O, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Shared> + OperationHandler<I, O>,
        I: OperationInput,
        O: OperationOutput,
        T: 'static,
    {
        self.add(path, Access::Write, doc, |describe| put_with(handler, describe))
    }

    /// A DELETE, for root and the write group.
    pub fn delete<H, I, O, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Shared> + OperationHandler<I, O>,
        I: OperationInput,
        O: OperationOutput,
        T: 'static,
    {
        self.add(path, Access::Write, doc, |describe| delete_with(handler, describe))
    }

    pub fn merge(self, other: Self) -> Self {
        Self(self.0.merge(other.0))
    }

    fn add(
        self,
        path: &str,
        access: Access,
        doc: Doc,
        route: impl FnOnce(Box<Describe>) -> ApiMethodRouter<Shared>,
    ) -> Self {
        let tag = path.split('/').nth(2).unwrap_or_default().to_owned();
        let (body, large) = (doc.body, doc.large_answer);
        let route = route(Box::new(move |operation| describe(operation, &doc, access, &tag)));
        let route = match access {
            Access::Read => route,
            Access::Write => route.layer(from_fn(writers_only)),
        };
        let route = if large {
            let places = Arc::new(Semaphore::new(LARGE_ANSWERS));
            route.layer(from_fn(move |request: Request, next: Next| held(Arc::clone(&places), request, next)))
        } else {
            route
        };
        Self(self.0.api_route(path, route.layer(DefaultBodyLimit::max(body))))
    }

    /// The router, and the document that describes it.
    pub fn finish(self) -> (Router<Shared>, OpenApi) {
        let mut document = OpenApi {
            openapi: "3.1.0".into(),
            info: Info {
                title: "sgd".to_owned(),
                description: Some(DESCRIPTION.to_owned()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Info::default()
            },
            servers: vec![Server { url: "http://sgd".to_owned(), ..Server::default() }],
            ..OpenApi::default()
        };
        let router = self.0.finish_api(&mut document);
        (router, document)
    }
}

/// Answers while there is a place, which the answer keeps until it has been sent.
async fn held(places: Arc<Semaphore>, request: Request, next: Next) -> Result<Answer, Failure> {
    let place = turn(&places).await?;
    Ok(next.run(request).await.map(|body| Body::new(Held::new(body, place))))
}

/// What is written into an operation when its route is made.
type Describe = dyn for<'t> FnOnce(TransformOperation<'t>) -> TransformOperation<'t>;

const DESCRIPTION: &str = "HTTP and JSON over the daemon's Unix socket; the host of the URL does not matter. Whoever can open the \
socket may read; root and the members of sgd's --write-group may write (`x-sgd-access`). Every answer that is not 2xx has a body \
`{\"error\": \"…\"}` that says what is wrong and what to do.";

fn describe<'t>(
    operation: TransformOperation<'t>,
    doc: &Doc,
    access: Access,
    tag: &str,
) -> TransformOperation<'t> {
    let mut operation = operation.id(doc.id).summary(doc.summary).tag(tag);
    let problem = in_context(Failure::described);
    let inner = operation.inner_mut();
    let word = if access == Access::Write { "write" } else { "read" };
    inner.extensions.insert("x-sgd-access".to_owned(), word.into());
    if let Some(media) = doc.takes {
        let body = RequestBody { content: content(media), required: true, ..RequestBody::default() };
        inner.request_body = Some(ReferenceOr::Item(body));
    }
    let mut responses = inner.responses.take().unwrap_or_default();
    if let Some(ReferenceOr::Item(answer)) = responses.responses.get_mut(&StatusCode::Code(200)) {
        doc.summary.clone_into(&mut answer.description);
    }
    for (status, when) in COMMON.iter().chain(&doc.refusals) {
        let response = Response { description: (*when).to_owned(), ..problem.clone() };
        responses.responses.insert(StatusCode::Code(*status), ReferenceOr::Item(response));
    }
    if let Some(media) = doc.answers {
        let response =
            Response { description: doc.summary.to_owned(), content: content(media), ..Response::default() };
        responses.responses.insert(StatusCode::Code(200), ReferenceOr::Item(response));
    }
    inner.responses = Some(responses);
    operation
}

fn content<C: FromIterator<(String, MediaType)>>(media: &str) -> C {
    [(media.to_owned(), MediaType::default())].into_iter().collect()
}

/// Before the first route: schemas in the form that OpenAPI 3.1 has.
pub fn begin() {
    in_context(|context| {
        context.schema = SchemaGenerator::new(SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "#/components/schemas/".into();
            settings.meta_schema = None;
        }));
    });
}
