//! Faults on request, in debug builds only: tests must see what becomes of them, and no real one can be had when it is wanted.

use std::path::PathBuf;
use std::time::Duration;

/// The directory in which a file `PLACE.panic` or `PLACE.stuck` asks for a fault, as long as it is there.
const VARIABLE: &str = "SGD_INJECT";

/// Panics or hangs here if a test asks for it.
pub fn here(place: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(directory) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return };
    #[expect(clippy::panic, reason = "what is asked for")]
    if directory.join(format!("{place}.panic")).exists() {
        panic!("injected");
    }
    while directory.join(format!("{place}.stuck")).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
}
