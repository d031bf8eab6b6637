//! What README and docs/ say is true: pages that are made from the code are what the code says, links lead somewhere, what is
//! named exists, and every command that is shown does what is shown.
//!
//! `cargo xtask docs` writes the pages that are made, by the tests that hold them (`SGD_WRITE_DOCS`).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod commands;
mod compare;
mod links;
mod pages;
mod policy;
mod prose;
mod run;
mod shell;
