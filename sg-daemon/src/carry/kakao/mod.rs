//! KakaoCloud: security groups and network interfaces as its VPC API answers them.

mod export;
mod import;
pub mod shape;

pub use self::export::export;
pub use self::import::import;

/// Where the answer says no VPC.
pub(super) const VPC: &str = "main";
