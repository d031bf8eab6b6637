//! HTTP and JSON over a Unix socket: how `sgctl`, and anything else on the host, reaches the daemon.

pub mod candidate;
pub mod client;
mod extract;
pub(crate) mod interface;
mod listen;
pub mod openapi;
mod peer;
mod policy;
mod routes;
pub mod server;
pub mod transfer;
pub mod types;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sgd/sgd.sock";
