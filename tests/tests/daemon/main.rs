//! The daemon in force: a real `sgd` on the host of a private site, real sockets on both sides of it.
//! Test names begin with the line of the specification they hold to, where there is one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod adopt;
mod advice;
mod agreement;
mod api;
mod appear;
mod apply;
mod audit;
mod bounds;
mod chaos;
mod checksums;
mod completion;
mod counters;
mod crash;
mod ctl;
mod detach;
mod devices;
mod doctor;
mod enforce;
mod explain;
mod fast_path;
mod files;
#[path = "../../benches/fill.rs"]
mod fill;
mod flood;
mod flowlog;
mod flows;
mod hooks;
mod life;
mod live;
mod metadata;
mod metrics;
mod mixed;
mod monitor;
mod notify;
mod packets;
mod revoke;
mod rules;
mod sizes;
mod terminal;
mod top;
mod transfer;
mod watch;
mod world;
