//! The daemon's side: every handler takes the enforcer for a moment, on a thread where it may block.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aide::openapi::OpenApi;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::extract::Body;
pub(super) use super::extract::Failure;
use super::listen::listen;
use super::peer::Writers;
use super::routes::{self, Doc, Routes};
use super::types::{ExplainAnswer, ExplainQuestion, FlowStatus, Status};
use crate::enforce::Enforcer;
use crate::explain::{ExplainError, explain};
use crate::supervise::inject;
use crate::supervise::status::{flows, status};
use crate::supervise::steward::{Changes, Orders};

/// What the handlers share with the rest of the daemon.
#[derive(Clone)]
pub struct Shared {
    pub enforcer: Arc<Mutex<Enforcer>>,
    /// Why the newest policy is not in force.
    pub refused: Arc<Mutex<Option<String>>>,
    /// What became of policies lately.
    pub changes: Arc<Mutex<Changes>>,
    /// To whoever changes the policy.
    pub orders: Orders,
    /// Where the daemon's own policy is.
    pub policy: Arc<[PathBuf]>,
    /// Held while a policy that was sent along is in memory: one at a time.
    pub large: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    /// The enforcer. A thread that panicked with it in hand may have left its notes incomplete, never the kernel:
    /// the next policy sets them right.
    pub fn enforcer(&self) -> MutexGuard<'_, Enforcer> {
        self.enforcer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn refused(&self) -> MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds the socket: for root and its group only. A socket that a dead daemon left is replaced.
///
/// # Errors
///
/// If another daemon listens there, or the path cannot be used.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another sgd listens there"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until the task is dropped.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve(listener: UnixListener, shared: Shared) -> io::Result<()> {
    let (router, _) = router();
    listen(listener, router.with_state(shared), Writers::default()).await
}

/// Everything that can be asked for, and the document that describes it.
pub fn router() -> (Router<Shared>, OpenApi) {
    routes::begin();
    let (router, document) = Routes::new()
        .get("/v1/status", get_status, Doc::new("getStatus", "What is enforced, and what was counted"))
        .get("/v1/flows", get_flows, Doc::new("listFlows", "Connections that live"))
        .ask(
            "/v1/explain",
            post_explain,
            Doc::new("explain", "Whether a packet would pass, and which rule decides")
                .refuses(404, "There is no such interface.")
                .refuses(409, "No policy is in force."),
        )
        .merge(super::interface::routes())
        .merge(super::openapi::routes())
        .merge(super::policy::routes())
        .merge(super::transfer::routes())
        .finish();
    let router = router
        .fallback(async || {
            Failure(StatusCode::NOT_FOUND, "no such resource; `sgctl openapi` lists all".to_owned())
        })
        .method_not_allowed_fallback(async |method: Method| {
            Failure(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{method} is not for this resource; `Allow` says what is"),
            )
        });
    (router, document)
}

async fn get_status(State(shared): State<Shared>) -> Result<Json<Status>, Failure> {
    blocking(move || {
        let refused = shared.refused().clone();
        let changes = shared.changes().clone();
        let mut enforcer = shared.enforcer();
        inject::here("status");
        status(&mut enforcer, refused, &changes).map_err(internal)
    })
    .await
    .map(Json)
}

async fn get_flows(State(shared): State<Shared>) -> Result<Json<Vec<FlowStatus>>, Failure> {
    blocking(move || flows(&mut shared.enforcer()).map_err(internal)).await.map(Json)
}

async fn post_explain(
    State(shared): State<Shared>,
    Body(question): Body<ExplainQuestion>,
) -> Result<Json<ExplainAnswer>, Failure> {
    blocking(move || {
        explain(&mut shared.enforcer(), &question).map_err(|error| match error {
            ExplainError::Kernel(error) => internal(error),
            ExplainError::NoPolicy => Failure(StatusCode::CONFLICT, error.to_string()),
            ExplainError::UnknownInterface { .. } => Failure(StatusCode::NOT_FOUND, error.to_string()),
            ExplainError::Families { .. } | ExplainError::Question(_) => {
                Failure(StatusCode::BAD_REQUEST, error.to_string())
            }
        })
    })
    .await
    .map(Json)
}

pub(super) fn internal<E: std::error::Error + Send + Sync + 'static>(error: E) -> Failure {
    Failure(StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", anyhow::Error::new(error)))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}
