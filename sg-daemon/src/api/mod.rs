//! HTTP and JSON over a Unix socket: how `sgctl`, and anything else on the host, reaches the daemon.

pub mod behind;
pub mod candidate;
pub mod client;
pub mod edit;
pub mod explain;
mod extract;
mod flows;
pub(crate) mod interface;
mod limits;
mod listen;
pub mod live;
pub mod monitor;
pub mod names;
mod objects;
pub mod openapi;
mod paced;
pub mod peer;
mod policy;
mod routes;
pub mod server;
pub mod stats;
pub mod transfer;
pub mod types;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sgd/sgd.sock";
