//! What the fuzz targets do with their bytes.
//!
//! A body panics if something is wrong, and otherwise says nothing. libFuzzer calls it through `fuzz/fuzz_targets/`,
//! `cargo test` with every input under `fuzz/corpus/` and `fuzz/crashes/`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "for test programs only: a panic is how it says what is wrong"
)]

pub mod compiler;
mod edit;
pub mod packet;
mod policy;

pub use compiler::compiler;
pub use edit::edit;
pub use packet::packet;
pub use policy::policy;

/// A target: its name, which is that of its program and its directories, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] =
    &[("compiler", compiler), ("edit", edit), ("packet", packet), ("policy", policy)];
