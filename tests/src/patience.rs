//! How long a probe waits for an answer.
//!
//! Waiting proves a denial, so it has to be short; an answer ends the wait, so where one is expected the wait may be long
//! enough for a busy machine.

use std::time::Duration;

/// Where an answer is expected.
pub const ALLOWED: Duration = Duration::from_secs(5);

/// Where silence is expected. A packet crosses the lab in less than a millisecond.
pub const DENIED: Duration = Duration::from_millis(400);

/// What a daemon may take, `SGD_PATIENCE` times as long: on emulated processors it is slower by that much.
pub fn of_daemon(usual: Duration) -> Duration {
    usual * times()
}

/// Where an answer is expected, on whatever processors.
pub fn allowed() -> Duration {
    ALLOWED * times()
}

/// How often something is repeated that is slow with emulated processors.
pub fn rounds(usual: u32, emulated: u32) -> u32 {
    if times() > 1 { emulated } else { usual }
}

fn times() -> u32 {
    std::env::var("SGD_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}
