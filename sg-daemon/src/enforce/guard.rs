//! The enforcer's side of the gate, and devices that cannot be filtered as the policy says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::gate::{Gate, Guarded};
use super::{ApplyError, Enforcer, Target};
use crate::kernel::{KernelError, chain};
use crate::policy::model::{Kind, Model, Role};

/// Why a present device is not filtered by its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub ifindex: u32,
    pub why: String,
}

impl Enforcer {
    /// Lets a gate close the devices that appear.
    pub fn behind(mut self, gate: Arc<Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Present devices of the policy that are not filtered by it, as the kernel refuses; closed if that could be done.
    pub fn failures(&self) -> &BTreeMap<String, Failure> {
        &self.failures
    }

    /// A device that is gone may be back already, with the same name and index and no program on it: what is remembered of it
    /// would be taken for true.
    pub(super) fn forget_gone(&mut self) {
        let gone = self.gate.take_gone();
        let (over, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.devices)
            .into_iter()
            .partition(|(_, device)| gone.contains(&device.ifindex));
        self.devices = kept;
        self.kernel.release(&over.values().map(|device| device.slot).collect::<Vec<_>>());
        for name in over.keys() {
            tracing::info!(interface = name, "gone");
        }
    }

    /// Tells the gate what to close from now on, and opens what it has closed and nobody wants filtered.
    pub(super) fn guard(&mut self, model: &Model, targets: &[Target]) {
        self.hand_on(model);
        let (spared, named): (Vec<_>, Vec<_>) =
            model.interfaces.iter().partition(|interface| interface.kind == Kind::BareMetal);
        let [named, spared] =
            [named, spared].map(|interfaces| interfaces.into_iter().map(|i| i.name.clone()).collect());
        let guarded = Guarded { managed: model.settings.managed.clone(), named, spared };
        self.make_closer(&guarded);
        self.gate.guard(guarded, self.devices.values().map(|device| device.ifindex));
        let wanted: BTreeSet<u32> = targets.iter().map(|target| target.ifindex).collect();
        for (ifindex, name) in self.gate.take_strays(&wanted) {
            self.kernel.detach(&name, ifindex);
        }
        self.failures.retain(|name, failure| {
            targets.iter().any(|target| target.name == *name && target.ifindex == failure.ifindex)
                && !self.devices.contains_key(name)
        });
    }

    fn make_closer(&mut self, guarded: &Guarded) {
        if self.gate.has_closer() || guarded.is_empty() {
            return;
        }
        match self.kernel.closer() {
            Ok(closer) => self.gate.equip(closer),
            // Devices that appear are filtered a little later.
            Err(error) => tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "devices that appear are open until the daemon comes to them"
            ),
        }
    }

    /// Closes a device that the kernel does not let us filter as the policy says, if it lets us do that. Not one of the host
    /// itself: closed without a policy, it would not let its operator in (SPEC D26).
    pub(super) fn close(&mut self, target: &Target, error: &ApplyError) {
        let why = chain(error);
        if self.devices.get(&target.name).is_some_and(|device| device.ifindex == target.ifindex) {
            tracing::error!(interface = target.name, why, "filtered by the hook that it had");
            return;
        }
        if !self.gate.has_closer()
            && let Ok(closer) = self.kernel.closer()
        {
            self.gate.equip(closer);
        }
        let closed = match target.role {
            Role::Guest => self.gate.close_now(&target.name, target.ifindex),
            Role::Host => {
                self.kernel.detach(&target.name, target.ifindex);
                let why = "a device of the host itself is not closed".to_owned();
                Err(KernelError::Attach { interface: target.name.clone(), hook: "tc", why })
            }
        };
        let failure = Failure { ifindex: target.ifindex, why };
        if self.failures.get(&target.name) != Some(&failure) {
            let (interface, why) = (&target.name, &failure.why);
            match closed {
                Ok(()) => tracing::error!(interface, why, "closed: it cannot be filtered as the policy says"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(interface, why, error, "NOT FILTERED: everything passes");
                }
            }
        }
        self.failures.insert(target.name.clone(), failure);
    }
}
