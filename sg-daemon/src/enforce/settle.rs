//! What is left to be done when a policy is in force: it may be done when no packet sees the one before any more, and has to
//! be done before the next change, unless both are steps of which no packet sees two (`plan::patch`).

use std::sync::Arc;

use super::Enforcer;
use crate::crash::{self, Point};
use crate::kernel::{Graces, Slot};
use crate::plan::{Entry, Staged};

/// Of a swap. Until it is done, members and interfaces have the old policy in the half that is not in force; a daemon that
/// starts finds and does the same.
#[derive(Debug)]
pub(super) struct Rest {
    pub members: Vec<Staged>,
    pub interfaces: Vec<Slot>,
    pub delete: Vec<Entry>,
}

impl Enforcer {
    /// The generation whose change has left something to be done, and what to wait by before [`Self::settle`]: whoever waits
    /// without the enforcer in hand holds nobody up.
    pub fn unsettled(&self) -> Option<(u64, Arc<Graces>)> {
        let settled = self.rest.is_none() && self.resident.is_settled();
        (!settled).then(|| (self.kernel.generation(), Arc::clone(&self.graces)))
    }

    /// What can be done when packets were waited for by [`Self::unsettled`]: all, if nothing has changed since.
    pub fn waited_for(&mut self, generation: u64) {
        if self.kernel.generation() == generation {
            self.settle();
        } else {
            self.resident.waited_for(generation);
        }
    }

    /// Waits until no packet sees what was in force before, and finishes the last change. The next one does that, too, if it
    /// has to.
    pub fn settle(&mut self) {
        let Some((generation, graces)) = self.unsettled() else { return };
        graces.wait(generation);
        self.kernel.reuse();
        if let Some(Rest { members, interfaces, delete }) = self.rest.take() {
            self.stage(&members, Point::MembersStagedAgain);
            for slot in interfaces {
                self.kernel.even_out(slot);
            }
            crash::at(Point::StagedAgain);
            // One by itself, so that a test can let the daemon die behind it.
            let (first, others) = delete.split_at(delete.len().min(1));
            self.delete(first);
            crash::at(Point::FirstEntryDeleted);
            self.delete(others);
            crash::at(Point::EntriesDeleted);
        }
        let leftover = self.resident.settle();
        self.delete(&leftover);
    }

    /// An entry that stays takes room and nothing else: no packet asks for it any more.
    fn delete(&mut self, entries: &[Entry]) {
        if let Err(error) = self.kernel.delete(entries) {
            tracing::warn!(%error, "an entry of the old policy stays");
        }
    }
}
