//! `sgd --detach`: takes the filter off without a daemon.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::lock;
use crate::kernel;

/// Removes all that is pinned under a pin directory, by whatever version. The devices that were filtered, in order.
///
/// # Errors
///
/// If a daemon runs, which would lose its maps, or something stays.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>> {
    if !pin_dir.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock::lock(pin_dir)?;
    kernel::detach(pin_dir).with_context(|| {
        format!(
            "something stays under {}; run it again as root, or remove what is left there",
            pin_dir.display()
        )
    })
}
