//! Policies that follow the one in force in one step that packets see: see `plan::patch`.

use std::sync::Arc;

use super::{Applied, ApplyError, Enforcer};
use crate::compile::image::Image;
use crate::crash::{self, Point};
use crate::kernel::KernelError;
use crate::plan::{Patch, Step};
use crate::policy::model::Model;

impl Enforcer {
    /// Both halves of everything are the same before and after, so the next generation is but a number.
    pub(super) fn patch(
        &mut self,
        patch: Patch,
        model: &Arc<Model>,
        image: Image,
    ) -> Result<Applied, ApplyError> {
        self.kernel.store_next_ids(patch.next_ids());
        crash::at(Point::IdsTaken);
        for (written, entry) in patch.write.iter().enumerate() {
            if let Err(error) = self.kernel.write(entry) {
                self.unwrite(&patch, written);
                return Err(error.into());
            }
        }
        crash::at(Point::EntriesWritten);
        if let Err(error) = self.step(&patch.step) {
            self.unwrite(&patch, patch.write.len());
            return Err(error.into());
        }
        let image = Arc::new(image);
        self.views.add(self.view(self.kernel.generation() + 1, model, &image));
        let generation = self.kernel.count_generation();
        self.swaps += 1;
        crash::at(Point::Flipped);
        let (written, deleted) = patch.counts();
        self.resident.patched(patch);
        if let Some(active) = &mut self.active {
            active.model = Arc::clone(model);
            active.image = image;
        }
        Ok(Applied { generation, changed: true, written, deleted, revoked: 0 })
    }

    fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::Show { member, set } => self.kernel.show_member(member, *set),
            Step::Add { class: entry } | Step::Replace { class: entry } => self.kernel.write(entry),
            Step::Hide { member: entry } | Step::Remove { class: entry } => self.kernel.delete(entry),
        }
    }

    fn unwrite(&mut self, patch: &Patch, written: usize) {
        for entry in patch.write.iter().take(written).rev() {
            if let Err(error) = self.kernel.delete(entry) {
                tracing::warn!(%error, "an entry of the refused policy stays");
            }
        }
    }

    /// Deletes what patches have left behind, once no packet sees it any more. A swap does that, too.
    pub fn settle(&mut self) {
        if self.resident.is_settled() {
            return;
        }
        self.kernel.settle();
        for entry in self.resident.settle() {
            if let Err(error) = self.kernel.delete(&entry) {
                tracing::warn!(%error, "an entry of the old policy stays");
            }
        }
    }
}
