//! What the filter should say, written a second time, for tests.
//!
//! [`rules`] reads the operator's JSON and knows SPEC sections 1 to 4; it shares no code with what it judges.
//! [`expect`] knows sections 5 and 6, from frame to verdict, likewise. [`host`] is what is judged: the decisions of `sg-common`,
//! over tables in memory. [`frame`] builds frames byte for byte, [`world`] and [`guarded`] make random policies, and [`traffic`]
//! makes random traffic for them. [`trial`] has both judge it.

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
pub mod host;
pub mod progress;
pub mod rules;
pub mod small;
pub mod traffic;
pub mod trial;
pub mod world;
