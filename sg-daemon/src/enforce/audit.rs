//! Whether the kernel has what the daemon takes it to have. A plan starts from what was written, not from what is there, as
//! nobody else writes to the maps; this reads them all, and says where that is wrong.

use std::collections::BTreeSet;

use super::{Enforcer, targets};
use crate::kernel::KernelError;
use crate::plan::{Entry, Staged};

impl Enforcer {
    /// Every difference between the policy in force and the kernel's maps, in words; none if all is well.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn audit(&mut self) -> Result<Vec<String>, KernelError> {
        self.settle();
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let expected = match self.resident.expected(&active.image) {
            Ok(expected) => expected,
            Err(why) => return Ok(vec![why]),
        };
        let mut wrong = Vec::new();
        for entry in &expected {
            if let Entry::PortTable { index, ranges } = entry
                && self.kernel.port_table(*index)? != Some(*ranges.to_table())
            {
                wrong.push(format!("wrong: port set {index}, of {ranges:?}"));
            }
        }
        let in_words = |entries: &[Entry]| -> BTreeSet<String> {
            let of_maps = entries.iter().filter(|entry| !matches!(entry, Entry::PortTable { .. }));
            of_maps.map(|entry| format!("{entry:?}")).collect()
        };
        let (there, expected) = (in_words(&self.kernel.policy_entries()?), in_words(&expected));
        wrong.extend(expected.difference(&there).map(|entry| format!("missing: {entry}")));
        wrong.extend(there.difference(&expected).map(|entry| format!("left over: {entry}")));
        for Staged { vpc, address, set } in self.resident.member_sets() {
            if self.kernel.member_sets(vpc, address) != Some([set; 2]) {
                wrong.push(format!("{address} is not in the set {set}"));
            }
        }
        if let Ok((targets, _)) = targets(&active.model, &active.image) {
            for target in targets.iter().filter(|target| target.interface.is_some()) {
                let Some(device) = self.devices.get(&target.name) else { continue };
                if self.kernel.halves(device.slot) != [Some(self.half_in_force(target)); 2] {
                    wrong.push(format!("{} is judged by something else", target.name));
                }
            }
        }
        Ok(wrong)
    }
}
