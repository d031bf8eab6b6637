//! The library behind `sgd` and `sgctl`.
//!
//! [`policy`] reads JSON into a checked model, [`compile`] turns the model into an image, [`plan`] compares the image
//! with what is in the kernel, and [`kernel`] is the only module that talks to bpf(2). [`enforce`] carries a plan out,
//! [`fast_path`] follows bridges, [`explain`] asks the kernel about packets, [`events`] hears what it tells of them, [`live`] looks at what goes on,
//! [`flowlog`] writes down what has passed, [`carry`] brings groups from and to clouds, [`transfer`] moves connections
//! between hosts, [`supervise`] runs all of it as a daemon as [`arguments`] say, [`metrics`] tells Prometheus about it,
//! [`doctor`] looks at the host, and [`api`] is how [`cli`]
//! reaches it.

pub mod api;
pub mod arguments;
pub mod carry;
pub mod cli;
pub mod compile;
pub mod crash;
pub mod diff;
pub mod doctor;
pub mod enforce;
pub mod events;
pub mod explain;
pub mod facts;
pub mod fast_path;
pub mod flowlog;
pub mod kernel;
pub mod live;
pub mod metrics;
pub mod plan;
pub mod policy;
pub mod protocols;
pub(crate) mod shards;
pub mod supervise;
pub mod transfer;
