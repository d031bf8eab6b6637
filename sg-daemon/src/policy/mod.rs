//! Policy: the operator's JSON in, a checked [`model::Model`] out.
pub mod model;
