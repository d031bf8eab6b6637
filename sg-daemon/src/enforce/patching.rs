//! Policies that follow the one in force in one step that packets see: see `plan::patch`.

use std::slice::from_ref;
use std::sync::Arc;

use super::{Applied, ApplyError, Enforcer};
use crate::compile::image::Image;
use crate::crash::{self, Point};
use crate::kernel::KernelError;
use crate::plan::{Entry, Patch, Step};
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
        let mut written = 0;
        let outcome = self.kernel.write(&patch.write, &mut written).and_then(|()| {
            crash::at(Point::EntriesWritten);
            self.step(&patch.step)
        });
        if let Err(error) = outcome {
            self.unwrite(&patch.write, written);
            return Err(error.into());
        }
        let image = Arc::new(image);
        self.views.add(self.view(self.kernel.generation() + 1, model, &image));
        let generation = self.kernel.flip();
        self.swaps += 1;
        crash::at(Point::Flipped);
        let (written, deleted) = patch.counts();
        self.resident.patched(patch, generation);
        if let Some(active) = &mut self.active {
            active.model = Arc::clone(model);
            active.image = image;
        }
        Ok(Applied { generation, changed: true, written, deleted, revoked: 0 })
    }

    fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::Show { member, set } => self.kernel.show_member(member, *set),
            Step::Add { class: entry } | Step::Replace { class: entry } => {
                self.kernel.write(from_ref(entry), &mut 0)
            }
            Step::Hide { member: entry } | Step::Remove { class: entry } => {
                self.kernel.delete(from_ref(entry))
            }
        }
    }

    /// Deletes the first entries of those that were to be written.
    pub(super) fn unwrite(&mut self, entries: &[Entry], written: usize) {
        if let Err(error) = self.kernel.delete(entries.get(..written).unwrap_or_default()) {
            tracing::warn!(%error, "an entry of the refused policy stays");
        }
    }
}
