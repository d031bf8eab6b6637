//! The library behind `sgd` and `sgctl`.
//!
//! [`policy`] reads JSON into a checked model, [`compile`] turns the model into an image, [`plan`] compares the image
//! with what is in the kernel, and [`kernel`] is the only module that talks to bpf(2).

pub mod cli;
pub mod compile;
pub mod enforce;
pub mod kernel;
pub mod plan;
pub mod policy;
