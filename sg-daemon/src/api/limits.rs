//! How much one user, and all together, may ask of the daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::extract::Failure;
use super::peer::Peer;

/// Connections at once, of everybody.
pub const CONNECTIONS: usize = 128;
/// Of them, those that only root may have.
pub const FOR_ROOT: usize = 32;
/// Connections at once of one user other than root.
pub const CONNECTIONS_OF_USER: usize = 32;
/// Requests that are worked on at once, of one user.
pub const REQUESTS_OF_USER: usize = 8;
/// Large answers that are in memory at once, of everybody.
pub const LARGE_ANSWERS: usize = 2;
/// How long a request waits for its turn.
pub const TURN: Duration = Duration::from_secs(10);
/// How long the head of a request may take, and how long a connection may wait for one.
pub const HEAD: Duration = Duration::from_secs(10);
/// How long the body of a request may take.
pub const BODY: Duration = Duration::from_secs(30);
/// How long a client may leave what was written to it unread.
pub const UNREAD: Duration = Duration::from_secs(30);
/// Connections that are one too many, and are told so, at once.
pub const REFUSALS: usize = 64;
/// How long each of those may take.
pub const REFUSAL: Duration = Duration::from_secs(2);

#[derive(Default)]
struct User {
    connections: usize,
    requests: Option<Arc<Semaphore>>,
}

/// Who has how many connections.
#[derive(Clone, Default)]
pub struct Limits(Arc<Mutex<HashMap<u32, User>>>);

/// One connection's place. It is free again when this is dropped.
pub struct Place {
    limits: Limits,
    uid: u32,
    requests: Arc<Semaphore>,
}

impl Limits {
    /// A place for a connection.
    ///
    /// # Errors
    ///
    /// What to answer if there is none.
    pub fn admit(&self, peer: Peer) -> Result<Place, Failure> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = users.values().map(|user| user.connections).sum();
        let root = users.get(&0).map_or(0, |user| user.connections);
        let own = users.get(&peer.uid).map_or(0, |user| user.connections);
        if peer.uid != 0 && own >= CONNECTIONS_OF_USER {
            let why = format!(
                "user {} has {own} connections to sgd already, which is the most; end one of them (`sgctl monitor`, `sgctl top`), or wait",
                peer.uid
            );
            return Err(Failure(StatusCode::TOO_MANY_REQUESTS, why));
        }
        let room = if peer.uid == 0 { all < CONNECTIONS } else { all - root < CONNECTIONS - FOR_ROOT };
        if !room {
            let why = "sgd has as many connections as it takes; end some (`sgctl monitor`, `sgctl top`), or try again".to_owned();
            return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        let user = users.entry(peer.uid).or_default();
        user.connections += 1;
        let requests = user.requests.get_or_insert_with(|| Arc::new(Semaphore::new(REQUESTS_OF_USER)));
        Ok(Place { limits: self.clone(), uid: peer.uid, requests: Arc::clone(requests) })
    }
}

impl Place {
    /// The right to have a request worked on, when it is its turn.
    ///
    /// # Errors
    ///
    /// What to answer if it has waited too long.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, Failure> {
        turn(&self.requests).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.get_mut(&self.uid) {
            user.connections -= 1;
            if user.connections == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// Waits for one of a number of places.
///
/// # Errors
///
/// What to answer if it takes too long.
pub async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    let waited = tokio::time::timeout(TURN, Arc::clone(places).acquire_owned()).await;
    waited.ok().and_then(Result::ok).ok_or_else(busy)
}

pub fn busy() -> Failure {
    let why = format!("sgd is busy: the request has waited {} s for its turn; try again", TURN.as_secs());
    Failure(StatusCode::SERVICE_UNAVAILABLE, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer { uid, may_read: true, may_write: uid == 0 }
    }

    fn status(refused: Result<Place, Failure>) -> u16 {
        refused.err().map(|Failure(status, _)| status.as_u16()).unwrap()
    }

    #[test]
    fn a_user_has_a_part_of_the_connections_and_root_always_has_some() {
        let limits = Limits::default();
        let mut places: Vec<Place> =
            (0..CONNECTIONS_OF_USER).map(|_| limits.admit(peer(1)).ok().unwrap()).collect();
        assert_eq!(status(limits.admit(peer(1))), 429);
        for uid in 2..5 {
            while let Ok(place) = limits.admit(peer(uid)) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), CONNECTIONS - FOR_ROOT);
        assert_eq!(status(limits.admit(peer(9))), 503);
        let root: Vec<Place> = (0..FOR_ROOT).map(|_| limits.admit(peer(0)).ok().unwrap()).collect();
        assert_eq!(status(limits.admit(peer(0))), 503);
        drop((places, root));
        assert!(limits.0.lock().unwrap().is_empty());
        assert!(limits.admit(peer(9)).is_ok());
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let limits = Limits::default();
        let mut places: Vec<Place> =
            (0..CONNECTIONS_OF_USER).map(|_| limits.admit(peer(7)).ok().unwrap()).collect();
        places.pop();
        assert!(limits.admit(peer(7)).is_ok());
    }
}
