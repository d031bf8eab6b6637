//! Amazon EC2: `describe-security-groups` and `describe-network-interfaces`.

mod export;
mod import;
pub mod shape;

pub use self::export::export;
pub use self::import::{import, prefix_list};
