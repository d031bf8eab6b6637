//! The daemon's side: every handler takes the enforcer for a moment, on a thread where it may block.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aide::openapi::OpenApi;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

pub(super) use super::extract::Failure;
use super::listen::listen;
use super::peer::{Access, Socket};
use super::routes::{self, Doc, Routes};
use super::types::Status;
use crate::enforce::Enforcer;
use crate::events::Events;
use crate::flowlog::FlowLog;
use crate::live::Readers;
use crate::policy::Memo;
use crate::supervise::edits::Kept;
use crate::supervise::inject;
use crate::supervise::status::status;
use crate::supervise::steward::{Changes, Orders};

/// What the handlers share with the rest of the daemon.
#[derive(Clone)]
pub struct Shared {
    pub enforcer: Arc<Mutex<Enforcer>>,
    /// Why the newest policy is not in force.
    pub refused: Arc<Mutex<Option<String>>>,
    /// What became of policies lately.
    pub changes: Arc<Mutex<Changes>>,
    /// Whoever changes the policy does it through this.
    pub orders: Orders,
    /// Where the daemon's own policy is.
    pub policy: Arc<[PathBuf]>,
    /// What the policy's files said lately.
    pub memo: Memo,
    /// What the last good copy says.
    pub kept: Kept,
    /// Places for policies that were sent along.
    pub large: Arc<Large>,
    /// Who reads the connection tables.
    pub readers: Arc<Readers>,
    /// What the programs tell of packets.
    pub events: Events,
    /// What is written of flows, if anything. Whoever takes the enforcer too takes this first.
    pub flow_log: Arc<Mutex<Option<FlowLog>>>,
}

/// A policy that was sent along is in memory once at a time, and who only asks does not hold up who changes something.
pub struct Large {
    pub of_readers: Arc<Semaphore>,
    pub of_writers: Arc<Semaphore>,
}

impl Default for Large {
    fn default() -> Self {
        Self { of_readers: Arc::new(Semaphore::new(1)), of_writers: Arc::new(Semaphore::new(1)) }
    }
}

impl Shared {
    /// The enforcer. A thread that panicked with it in hand may have left its notes incomplete, never the kernel:
    /// the next policy sets them right.
    pub fn enforcer(&self) -> MutexGuard<'_, Enforcer> {
        self.enforcer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finishes the last change of the policy, if it is not finished. The enforcer is free while packets are waited for.
    pub fn settle(&self) {
        let Some((generation, graces)) = self.enforcer().unsettled() else { return };
        graces.wait(generation);
        // Another change meanwhile is not waited for with the enforcer in hand.
        self.enforcer().waited_for(generation);
    }

    pub fn flow_log(&self) -> MutexGuard<'_, Option<FlowLog>> {
        self.flow_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn refused(&self) -> MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds the socket. One that a dead daemon left is replaced.
///
/// # Errors
///
/// If another daemon listens there, or the path cannot be used.
pub fn bind(path: &Path, socket: Socket) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file that is no socket; remove it, or pass another --socket",
            ));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another sgd listens there"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    if let Some(group) = socket.group {
        chown(path, None, Some(group)).map_err(|error| {
            let why = format!("the socket cannot be given to group {group}: {error}; sgd needs CAP_CHOWN for that, or to be a member (SupplementaryGroups=)");
            io::Error::new(error.kind(), why)
        })?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(socket.mode))?;
    Ok(listener)
}

/// Serves until the task is dropped.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve(listener: UnixListener, shared: Shared, access: Access) -> io::Result<()> {
    let (router, _) = router();
    listen(listener, router.with_state(shared), access).await
}

/// Everything that can be asked for, and the document that describes it.
pub fn router() -> (Router<Shared>, OpenApi) {
    routes::begin();
    let (router, document) = Routes::new()
        .get("/v1/status", get_status, Doc::new("getStatus", "What is enforced, and what was counted"))
        .merge(super::edit::routes())
        .merge(super::explain::routes())
        .merge(super::flows::routes())
        .merge(super::interface::routes())
        .merge(super::monitor::routes())
        .merge(super::names::routes())
        .merge(super::objects::routes())
        .merge(super::openapi::routes())
        .merge(super::policy::routes())
        .merge(super::stats::routes())
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
        let flow_log = shared.flow_log().as_ref().map(FlowLog::status);
        let mut enforcer = shared.enforcer();
        inject::here("status");
        let status = status(&mut enforcer, refused, &changes).map_err(internal)?;
        Ok(Status { flow_log, ..status })
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
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let why = format!("a task has failed: {error}; restart sgd, and report what its log says");
        Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, why))
    })
}
