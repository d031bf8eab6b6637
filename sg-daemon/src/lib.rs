//! The library behind `sgd` and `sgctl`.
pub mod policy;
