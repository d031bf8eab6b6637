//! `GET /v1/flows` and `GET /v1/flows/count`: the connections that live, while the table is read.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use aide::OperationOutput;
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Described, StatusCode};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode as Status};
use axum::response::{IntoResponse, Response};
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::extract::Params;
use super::live::{FlowCounts, FlowQuestion};
use super::routes::{Doc, Routes};
use super::server::{Failure, Shared, blocking, internal};
use super::transfer::NDJSON;
use super::types::FlowStatus;
use crate::live::{Filter, Group, Order, Readers, Turn, View, Wrong, count, list};

/// How long a question waits for others that are being answered. `sgctl` asks several times, and must hear why before it gives up.
const PATIENCE: Duration = Duration::from_secs(2);
/// A reader that takes nothing for so long is left alone if others wait.
const STALLED: u32 = 30;
/// Bytes that are sent at once.
const CHUNK: usize = 64 << 10;

pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/v1/flows",
            get_flows,
            Doc::new("listFlows", "Connections that live")
                .refuses(404, "No such interface is filtered.")
                .refuses(409, "They are to be sorted by packets or bytes, which are not counted."),
        )
        .get(
            "/v1/flows/count",
            get_count,
            Doc::new("countFlows", "How many connections live, and of which kind")
                .refuses(404, "No such interface is filtered."),
        )
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        let status = match &wrong {
            Wrong::Interface { .. } => Status::NOT_FOUND,
            Wrong::Field(_) => Status::BAD_REQUEST,
            Wrong::Uncounted => Status::CONFLICT,
        };
        Self(status, wrong.to_string())
    }
}

/// What may be read now, and by what.
pub(super) async fn view(shared: &Shared) -> Result<(View, Turn), Failure> {
    let turn = timeout(PATIENCE, shared.readers.turn()).await.map_err(|_| {
        let why = "the connection table is being read for others; try again, or end a `sgctl flows` that is not being read";
        Failure(Status::SERVICE_UNAVAILABLE, why.to_owned())
    })?;
    let shared = shared.clone();
    let view = blocking(move || View::new(&mut shared.enforcer()).map_err(internal)).await?;
    Ok((view, turn))
}

async fn get_count(
    State(shared): State<Shared>,
    Params(question): Params<FlowQuestion>,
) -> Result<Json<FlowCounts>, Failure> {
    if question.sort.is_some() || question.reverse.is_some() {
        let why =
            "counts have an order of their own, the largest first: leave out sort and reverse".to_owned();
        return Err(Failure(Status::BAD_REQUEST, why));
    }
    if question.limit.is_some() && question.by.is_none() {
        let why = "a limit is of counts: say what to count by, or leave it out".to_owned();
        return Err(Failure(Status::BAD_REQUEST, why));
    }
    let group = Group::new(question.by.as_deref())?;
    let (view, turn) = view(&shared).await?;
    let filter = Filter::new(&question, &view)?;
    blocking(move || {
        let counts = count(&view, &filter, group, question.limit).map_err(internal);
        drop(turn);
        counts
    })
    .await
    .map(Json)
}

/// A JSON array; or, for whoever accepts `application/x-ndjson`, a line for each connection. An answer that ends without its
/// end is none: the table could not be read, or was not read for too long.
async fn get_flows(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Params(question): Params<FlowQuestion>,
) -> Result<List, Failure> {
    if question.by.is_some() {
        let why = "what to count by is a question to /v1/flows/count".to_owned();
        return Err(Failure(Status::BAD_REQUEST, why));
    }
    let order = Order::new(&question)?;
    let (view, turn) = view(&shared).await?;
    order.check(&view)?;
    let filter = Filter::new(&question, &view)?;
    let lines = headers.get(ACCEPT).is_some_and(|accept| accept == NDJSON);
    let (sender, body) = Channel::new(4);
    let mut outlet = Outlet {
        handle: Handle::current(),
        sender,
        buffer: Vec::with_capacity(CHUNK + 1024),
        readers: Arc::clone(&shared.readers),
        between: if lines { b"\n" } else { b",\n" },
        empty: true,
        fault: None,
    };
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        if !lines {
            outlet.buffer.extend(b"[\n");
        }
        let read = list(&view, &filter, order, |row| match view.describe(&row) {
            Some(flow) => outlet.add(&flow),
            None => ControlFlow::Continue(()),
        });
        if let Err(error) = read {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "a list of connections ends early"
            );
            outlet.fault.get_or_insert_with(|| io::Error::other("the table cannot be read"));
        }
        outlet.end(if lines { b"\n" } else { b"\n]\n" });
    });
    let content_type = if lines { NDJSON } else { "application/json" };
    Ok(List(([(CONTENT_TYPE, content_type)], Body::new(body)).into_response()))
}

/// An answer that is sent as it is made: an array of connections.
struct List(Response);

impl IntoResponse for List {
    fn into_response(self) -> Response {
        self.0
    }
}

impl OperationOutput for List {
    type Inner = Vec<FlowStatus>;

    fn operation_response(context: &mut GenContext, operation: &mut Operation) -> Option<Described> {
        Json::<Self::Inner>::operation_response(context, operation)
    }

    fn inferred_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<StatusCode>, Described)> {
        Json::<Self::Inner>::inferred_responses(context, operation)
    }
}

/// Where a list goes as it is made.
struct Outlet {
    handle: Handle,
    sender: Sender<Bytes, io::Error>,
    buffer: Vec<u8>,
    readers: Arc<Readers>,
    between: &'static [u8],
    empty: bool,
    fault: Option<io::Error>,
}

impl Outlet {
    fn add(&mut self, element: &impl serde::Serialize) -> ControlFlow<()> {
        if !std::mem::replace(&mut self.empty, false) {
            self.buffer.extend(self.between);
        }
        if let Err(error) = serde_json::to_writer(&mut self.buffer, element) {
            self.fault = Some(error.into());
            return ControlFlow::Break(());
        }
        if self.buffer.len() < CHUNK { ControlFlow::Continue(()) } else { self.flush() }
    }

    /// Waits for the reader. One that has gone away is not worth another look at the table.
    fn flush(&mut self) -> ControlFlow<()> {
        let chunk = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        let mut stalled = 0;
        loop {
            let sending = timeout(Duration::from_secs(1), self.sender.send_data(chunk.clone()));
            match self.handle.block_on(sending) {
                Ok(Ok(())) => return ControlFlow::Continue(()),
                Ok(Err(_)) => return ControlFlow::Break(()),
                Err(_) => stalled += 1,
            }
            if stalled >= STALLED && self.readers.somebody_waits() {
                tracing::warn!("a list of connections ends early: it is not read, and others wait");
                self.fault = Some(io::Error::from(io::ErrorKind::TimedOut));
                return ControlFlow::Break(());
            }
        }
    }

    fn end(mut self, last: &[u8]) {
        if self.fault.is_none() {
            if !self.empty || last.len() > 1 {
                self.buffer.extend(last);
            }
            let _ = self.flush();
        }
        if let Some(fault) = self.fault {
            self.sender.abort(fault);
        }
    }
}
