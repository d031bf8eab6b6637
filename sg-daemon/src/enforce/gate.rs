//! The gate: closes a device in the moment that it appears, whatever else the daemon is doing.
//!
//! Its thread does nothing but read the kernel's messages about devices. To one that the policy in force manages or names it
//! attaches the loaded TC programs at once; they drop every packet of a device that has no entry in the maps. The entry, and with
//! it the device's policy, is the enforcer's work, which may have to wait for a reload or for a long answer.
//!
//! Of a device that is gone the gate forgets the links and tells the enforcer: the next device may have the same name and the
//! same index, and has no program on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sg_common::abi::program;

use super::links::{self, Change};
use crate::kernel::{Closer, KernelError};

/// What is shared between the gate's thread and the enforcer.
#[derive(Debug, Default)]
pub struct Gate(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    closer: Option<Closer>,
    guarded: Guarded,
    /// Devices that are filtered or closed already, by index.
    known: BTreeSet<u32>,
    /// Devices that the gate has closed; the enforcer may have given them a policy since.
    closed: BTreeMap<u32, String>,
    gone: BTreeSet<u32>,
    /// How many messages were heard, if somebody listens.
    heard: Option<u64>,
}

/// The devices to close.
#[derive(Debug, Default)]
pub struct Guarded {
    /// Patterns of names.
    pub managed: Vec<String>,
    pub named: BTreeSet<String>,
    /// Names that are left alone, although a pattern matches them.
    pub spared: BTreeSet<String>,
}

impl Guarded {
    fn wants(&self, name: &str) -> bool {
        self.named.contains(name)
            || (self.managed.iter().any(|pattern| links::matches(pattern, name))
                && !self.spared.contains(name))
    }

    pub fn is_empty(&self) -> bool {
        self.managed.is_empty() && self.named.is_empty()
    }
}

impl Gate {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on all messages about devices come here.
    pub fn listens(&self) {
        self.inner().heard.get_or_insert(0);
    }

    /// A number that is another one when a device has changed; `None` if nobody listens.
    pub fn heard(&self) -> Option<u64> {
        self.inner().heard
    }

    /// What the gate's thread does with a message.
    pub fn hear(&self, change: &Change) {
        let mut inner = self.inner();
        inner.heard.iter_mut().for_each(|heard| *heard += 1);
        match change {
            Change::Is { ifindex, name, ethernet: true } => inner.close(name, *ifindex),
            Change::Is { .. } => {}
            Change::Gone { ifindex } => inner.forget(*ifindex),
            Change::Lost => inner.look_again(),
        }
    }

    pub fn has_closer(&self) -> bool {
        self.inner().closer.is_some()
    }

    /// Without it nothing can be closed.
    pub fn equip(&self, closer: Closer) {
        self.inner().closer = Some(closer);
    }

    /// From now on these are closed when they appear. `known` are the devices that are filtered.
    pub fn guard(&self, guarded: Guarded, known: impl Iterator<Item = u32>) {
        let mut inner = self.inner();
        inner.guarded = guarded;
        inner.known.extend(known);
    }

    /// Closes a device, whatever it is called.
    ///
    /// # Errors
    ///
    /// If that cannot be done.
    pub fn close_now(&self, name: &str, ifindex: u32) -> Result<(), KernelError> {
        let mut inner = self.inner();
        let closer = inner.closer.as_mut().ok_or(KernelError::Missing { name: program::TC_INGRESS })?;
        closer.close(name, ifindex)?;
        inner.known.insert(ifindex);
        inner.closed.insert(ifindex, name.to_owned());
        Ok(())
    }

    /// Closes nothing any more.
    pub fn open(&self) {
        let mut inner = self.inner();
        *inner = Inner { heard: inner.heard, ..Inner::default() };
    }

    /// The devices that have gone since this was asked last: what is remembered of them is over.
    pub fn take_gone(&self) -> BTreeSet<u32> {
        std::mem::take(&mut self.inner().gone)
    }

    /// Devices that the gate has closed and that nobody wants filtered any more.
    pub fn take_strays(&self, wanted: &BTreeSet<u32>) -> BTreeMap<u32, String> {
        let mut inner = self.inner();
        let (kept, strays): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut inner.closed).into_iter().partition(|(ifindex, _)| wanted.contains(ifindex));
        inner.closed = kept;
        inner.known.retain(|ifindex| !strays.contains_key(ifindex));
        strays
    }
}

impl Inner {
    fn close(&mut self, name: &str, ifindex: u32) {
        if self.known.contains(&ifindex) || !self.guarded.wants(name) {
            return;
        }
        let Some(closer) = &mut self.closer else { return };
        match closer.close(name, ifindex) {
            Ok(()) => {
                self.known.insert(ifindex);
                self.closed.insert(ifindex, name.to_owned());
                tracing::debug!(interface = name, ifindex, "closed as it appeared");
            }
            // The enforcer looks at it next, and says so if it cannot be filtered.
            Err(error) => tracing::debug!(interface = name, %error, "not closed as it appeared"),
        }
    }

    fn forget(&mut self, ifindex: u32) {
        if let Some(closer) = &self.closer {
            closer.forget(ifindex);
        }
        self.known.remove(&ifindex);
        self.closed.remove(&ifindex);
        self.gone.insert(ifindex);
    }

    /// Messages were lost: any device may be another one.
    fn look_again(&mut self) {
        let present = links::present().unwrap_or_default();
        let indexes: BTreeSet<u32> = present.values().copied().collect();
        for ifindex in self.known.clone() {
            let cut = self.closer.as_mut().is_some_and(|closer| closer.is_cut(ifindex));
            if cut || !indexes.contains(&ifindex) {
                self.forget(ifindex);
            }
        }
        for (name, ifindex) in present {
            if links::is_ethernet(&name).unwrap_or(false) {
                self.close(&name, ifindex);
            }
        }
    }
}
