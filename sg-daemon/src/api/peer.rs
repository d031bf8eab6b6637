//! Who is on the other side of a connection, and what they may do.

use std::io;
use std::os::fd::AsRawFd as _;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use nix::unistd::{Group, geteuid};
use tokio::net::UnixStream;

use super::extract::Failure;

/// The process that has opened the connection, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub may_read: bool,
    pub may_write: bool,
}

/// Who may do what, beside root and whoever the daemon itself runs as, who may do everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access {
    /// Whose members may read; without it, whoever can open the socket.
    pub read_group: Option<u32>,
    /// Whose members may read and write; without it, nobody else.
    pub write_group: Option<u32>,
}

/// The socket and who may use it, as the command line says.
#[derive(Debug, Clone, Default)]
pub struct SocketOptions {
    pub read_group: Option<String>,
    pub write_group: Option<String>,
    pub mode: Option<u32>,
}

/// What that comes to.
#[derive(Debug, Clone, Copy)]
pub struct Socket {
    pub mode: u32,
    /// The group that the file gets.
    pub group: Option<u32>,
    pub access: Access,
}

impl SocketOptions {
    /// The groups by number.
    ///
    /// # Errors
    ///
    /// If the host has no such group.
    pub fn resolve(&self) -> io::Result<Socket> {
        let of = |name: &Option<String>| name.as_deref().map(gid).transpose();
        let (read, write) = (of(&self.read_group)?, of(&self.write_group)?);
        // A file has one group. Where there are two, everybody can open the socket, and is turned away by the daemon.
        let two = self.mode.is_none() && matches!((read, write), (Some(read), Some(write)) if read != write);
        Ok(Socket {
            mode: self.mode.unwrap_or(if two { 0o666 } else { 0o660 }),
            group: read.or(write),
            access: Access { read_group: read.filter(|_| two), write_group: write },
        })
    }
}

fn gid(name: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("this host has no group {name:?}; make it (groupadd), or name another"),
        )
    };
    Group::from_name(name)?.map(|group| group.gid.as_raw()).ok_or_else(missing)
}

impl Peer {
    /// Whoever has opened the connection, with the groups of that moment.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn of(stream: &UnixStream, access: Access) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let uid = credentials.uid();
        if uid == 0 || uid == geteuid().as_raw() {
            return Ok(Self { uid, may_read: true, may_write: true });
        }
        let mut groups = groups(stream)?;
        groups.push(credentials.gid());
        let is_in = |group: u32| groups.contains(&group);
        let may_write = access.write_group.is_some_and(is_in);
        Ok(Self { uid, may_read: may_write || access.read_group.is_none_or(is_in), may_write })
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
    let why = format!("{who} may only read here; this is for root and the members of sgd's --write-group");
    Err(Failure(StatusCode::FORBIDDEN, why))
}
