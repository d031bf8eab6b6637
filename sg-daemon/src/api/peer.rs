//! Who is on the other side of a connection, and what they may do.

use std::io;
use std::os::fd::AsRawFd as _;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use nix::unistd::geteuid;
use tokio::net::UnixStream;

use super::extract::Failure;

/// The process that has opened the connection, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub may_write: bool,
}

/// Who may change something, beside root and whoever the daemon itself runs as.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writers {
    pub group: Option<u32>,
}

impl Peer {
    /// Whoever has opened the connection, with the groups of that moment.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn of(stream: &UnixStream, writers: &Writers) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let uid = credentials.uid();
        let may_write = uid == 0
            || uid == geteuid().as_raw()
            || match writers.group {
                None => false,
                Some(group) => credentials.gid() == group || groups(stream)?.contains(&group),
            };
        Ok(Self { uid, may_write })
    }
}

/// The supplementary groups of the peer: SO_PEERCRED has only the first one.
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    /// As many as a process can have (NGROUPS_MAX).
    const MOST: usize = 65_536;
    let mut room = 64;
    loop {
        let mut groups: Vec<libc::gid_t> = vec![0; room];
        let mut length = libc::socklen_t::try_from(room * size_of::<libc::gid_t>()).unwrap_or(0);
        // SAFETY: the option writes at most `length` bytes, which `groups` has, and then says how many in `length`.
        let outcome = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if outcome == 0 {
            groups.truncate(length as usize / size_of::<libc::gid_t>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || room >= MOST {
            return Err(error);
        }
        room = MOST;
    }
}

/// Before a handler that changes something, and before its body is read.
pub async fn writers_only(request: Request, next: Next) -> Result<Response, Failure> {
    let peer = request.extensions().get::<Peer>().copied();
    if peer.is_some_and(|peer| peer.may_write) {
        return Ok(next.run(request).await);
    }
    let who = peer.map_or_else(|| "somebody unknown".to_owned(), |peer| format!("user {}", peer.uid));
    let why =
        format!("{who} may only read here; root and the members of sgd's --write-group may change something");
    Err(Failure(StatusCode::FORBIDDEN, why))
}
