//! What becomes of a panic: the end of the daemon, whatever task or thread it happens in.
//!
//! A panic is a fault of this program. What the program remembers may be wrong after it, what is in the kernel is not: the
//! filter goes on, and the next start takes over from it. A daemon that went on without one of its tasks would look alive
//! and not be.

use std::panic::{PanicHookInfo, set_hook};

/// As of a Rust program whose main thread panics.
const EXIT_CODE: i32 = 101;

/// From now on every panic is logged and ends the process.
pub fn is_the_end() {
    set_hook(Box::new(end));
}

fn end(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    tracing::error!(place, thread, "sgd has a fault and ends; the policy stays in force without it: {text}");
    std::process::exit(EXIT_CODE);
}
