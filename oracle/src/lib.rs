//! What the filter should say, written a second time, for tests.
//!
//! [`rules`] reads the operator's JSON and knows SPEC sections 1 to 4; it shares no code with what it judges.
//! [`frame`] builds frames byte for byte.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "for test programs only: a panic is how it says what is wrong"
)]

pub mod expect;
pub mod frame;
pub mod guarded;
pub mod rules;
pub mod traffic;
pub mod world;
