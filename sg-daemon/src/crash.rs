//! Places at which a test lets the daemon die, to see what is left behind.
//!
//! Only with the feature `crash-points`, which no program that is installed has: without it [`at`] is nothing. The list is
//! here in one place, and the test goes through it, so no place can be forgotten.

/// Declares the places: what has happened by then, and the name by which a test asks for it.
macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)+) => {
        /// A step between two changes to something that outlives the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point { $($(#[$doc])* $point,)+ }

        impl Point {
            /// In the order in which they come.
            pub const EVERY: &'static [Self] = &[$(Self::$point,)+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)+ }
            }
        }
    };
}

points! {
    /// The candidate's texts are beside the journal's place.
    JournalPrepared = "journal-prepared",
    /// The journal is there, undecided.
    JournalBegun = "journal-begun",
    /// New texts are written beside the operator's files.
    FilesStaged = "files-staged",
    /// The next last good copy is written beside the one there is.
    CopyPrepared = "copy-prepared",
    /// The text with an edit in it is in a file without a name, or there is a spare one for it.
    EditStaged = "edit-staged",
    /// The new ids are remembered; nothing is written under them.
    IdsTaken = "ids-taken",
    FirstEntryWritten = "first-entry-written",
    EntriesWritten = "entries-written",
    /// A new device has an entry, closed, and no program.
    DeviceClaimed = "device-claimed",
    /// What a new device sends is not filtered yet, what it is sent is.
    OneHookAttached = "one-hook-attached",
    DevicesAttached = "devices-attached",
    MembersStaged = "members-staged",
    FirstInterfaceStaged = "first-interface-staged",
    Staged = "staged",
    /// The new policy is in force.
    Flipped = "flipped",
    /// One of the hooks of a device that leaves the policy is free.
    OneHookDetached = "one-hook-detached",
    /// No program is attached to a device that leaves the policy; its entry is there.
    DeviceDetached = "device-detached",
    DevicesDetached = "devices-detached",
    /// From here on nobody waits, unless connections are cut.
    MembersStagedAgain = "members-staged-again",
    StagedAgain = "staged-again",
    FirstEntryDeleted = "first-entry-deleted",
    EntriesDeleted = "entries-deleted",
    /// Of several connections that no rule allows one is cut.
    FirstFlowRevoked = "first-flow-revoked",
    Revoked = "revoked",
    /// A candidate that waits to be confirmed is in force.
    Unconfirmed = "unconfirmed",
    RollbackBegun = "rollback-begun",
    /// The policy before is in force again; the journal is still there.
    RolledBack = "rolled-back",
    /// From here on the new policy is the one that is started with.
    Decided = "decided",
    /// An edit is noted beside the last good copy: from here on the policy with it is the one that is started with.
    EditDecided = "edit-decided",
    /// The text with the edit in it has a name beside the operator's file.
    EditNamed = "edit-named",
    /// It is in the place of the operator's file, perhaps not on the disk.
    EditPlaced = "edit-placed",
    /// It is on the disk, which is not noted yet.
    EditSettled = "edit-settled",
    /// The old and the new last good copy have changed places.
    CopyExchanged = "copy-exchanged",
    CopyKept = "copy-kept",
    FirstFileReplaced = "first-file-replaced",
    FilesReplaced = "files-replaced",
    /// Files that the candidate does not have are removed.
    FilesRemoved = "files-removed",
    /// The journal has another name, and is still there.
    JournalEnded = "journal-ended",
    JournalRemoved = "journal-removed",
}

/// Names the file that holds the name of the place to die at. A file, not the name itself, as a daemon comes by most
/// places when it starts, before there is anything to see.
#[cfg(feature = "crash-points")]
pub const VARIABLE: &str = "SGD_CRASH_FILE";

/// Dies here if a test wants it, as by `kill -9`: no destructor runs.
#[cfg(feature = "crash-points")]
pub fn at(point: Point) {
    let wanted = std::env::var_os(VARIABLE).and_then(|file| std::fs::read_to_string(file).ok());
    if wanted.is_some_and(|wanted| wanted.trim() == point.name()) {
        std::process::abort();
    }
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn at(_point: Point) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different() {
        let names: std::collections::BTreeSet<_> = Point::EVERY.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::EVERY.len());
    }
}
