//! The daemon's side: every handler takes the enforcer for a moment, on a thread where it may block.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::policy;
use super::types::{FlowStatus, Problem, Status};
use crate::enforce::Enforcer;
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

/// A response that is not 2xx.
pub(super) struct Failure(pub StatusCode, pub String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
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
    let router = Router::new()
        .route("/v1/status", get(get_status))
        .route("/v1/interfaces/{name}", get(super::interface::get_interface))
        .route("/v1/flows", get(get_flows))
        .merge(super::transfer::routes())
        .merge(super::explain::routes())
        .merge(super::names::routes())
        .merge(policy::router())
        .fallback(|| async { Failure(StatusCode::NOT_FOUND, "no such resource".to_owned()) })
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(shared);
    axum::serve(listener, router).await
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
