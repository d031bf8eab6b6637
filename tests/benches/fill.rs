//! Connections put into the tables of a filter that is loaded: more than anybody could open, and known by heart.

use std::path::Path;

use sg_common::abi::Flow;
use sg_daemon::kernel::{FlowKey, FlowMemory, Inserted, Pins};

/// The tables of flows that are pinned.
#[expect(clippy::unwrap_used, reason = "who fills a table cannot go on without one")]
pub fn memory(pins: &Path) -> FlowMemory {
    FlowMemory::open(&Pins::at(pins)).unwrap()
}

/// Puts a flow into its table, whatever is there under its key. Into a table that is filled to the last flow that there is room for, one
/// in many millions does not go.
pub fn put(memory: &FlowMemory, key: &FlowKey, flow: &Flow) {
    if memory.insert(key, flow) == Inserted::Exists {
        memory.remove(key);
        assert_eq!(memory.insert(key, flow), Inserted::New);
    }
}
