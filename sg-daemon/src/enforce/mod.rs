//! Policy in force: brings the kernel from one policy to the next, in steps that leave the old one whole until the swap.
//!
//! 1. *Write* the new policy beside the old one.
//! 2. *Attach* to devices that are not filtered yet, closed.
//! 3. *Stage* the halves that are not in force.
//! 4. *Flip* one word. Detach from devices that are not the policy's any more.
//! 5. *Settle*, when no packet sees the old policy any more: stage the other halves too, and delete what is left of the old
//!    policy. Nobody waits for this, but for who comes with the next change before it is done.
//!
//! If anything fails before the fourth step, what was done is undone and nothing has changed (SPEC D21).

mod audit;
pub mod gate;
mod guard;
mod halves;
pub mod links;
mod patching;
mod preview;
mod revoke;
mod settle;
mod targets;
mod view;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use sg_common::abi::{FLAG_AUDIT, InterfaceHalf};

use self::gate::Gate;
pub use self::guard::Failure;
pub use self::preview::{Becomes, Preview};
pub use self::revoke::FlowFilter;
use self::settle::Rest;
use self::targets::{Target, Targets, names, targets};
pub use self::view::{View, Views};
use crate::compile::image::{GuardImage, Image, InterfaceImage, VpcName};
use crate::compile::{compile, compile_next};
use crate::crash::{self, Point};
use crate::fast_path::{FastPath, Wanted, Way};
use crate::kernel::{Attached, FlowEntry, Graces, Kernel, KernelError, Slot, TableSizes, TcMode};
use crate::plan::{Plan, PlanError, Resident, Staged, patch, plan};
use crate::policy::model::{HookChoice, Model, OnRuleChange, Timeouts};

/// Why a policy was not put in force. The one before it still is.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(
        "the network devices cannot be listed; sgd needs a netlink socket (AF_NETLINK in the unit's RestrictAddressFamilies)"
    )]
    Devices(#[source] io::Error),
    #[error(
        "interface {name} carries no Ethernet frames, and only Ethernet devices can be filtered; take it out of the policy"
    )]
    NotEthernet { name: String },
}

/// A device that is filtered.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    pub ifindex: u32,
    pub slot: Slot,
    /// `None` until this daemon has looked after a device that an earlier one attached to.
    pub attached: Option<Attached>,
    hook: HookChoice,
}

/// The policy in force.
#[derive(Debug)]
pub struct Active {
    pub model: Arc<Model>,
    pub image: Arc<Image>,
    /// The kernel's id of each of the image's policies.
    pub policy_ids: Vec<u32>,
    vpc_ids: HashMap<VpcName, u32>,
    guard_ids: HashMap<Arc<GuardImage>, u32>,
}

/// What an application of a policy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub generation: u64,
    /// False if the policy says what was in force already.
    pub changed: bool,
    pub written: usize,
    pub deleted: usize,
    /// Connections that were cut because `on_rule_change` is `revoke`.
    pub revoked: usize,
}

/// The kernel and the policy in it.
pub struct Enforcer {
    kernel: Kernel,
    resident: Resident,
    devices: BTreeMap<String, Device>,
    unfilterable: BTreeSet<String>,
    /// Of the policy in force.
    targets: Option<Arc<Targets>>,
    failures: BTreeMap<String, Failure>,
    active: Option<Active>,
    /// What the last swap has left to be done.
    rest: Option<Rest>,
    graces: Arc<Graces>,
    gate: Arc<Gate>,
    /// Policies put in force, since the daemon was started.
    swaps: u64,
    /// Writes to maps until the last of them began.
    writes_before: u64,
    views: Arc<Views>,
    /// The names of devices by zone, of those that were attached to lately: they may be gone by now.
    zones_seen: BTreeMap<u32, String>,
    /// From when the first interface is to be on it.
    fast_path: Option<FastPath>,
}

impl Enforcer {
    /// Loads the programs, or takes over what an earlier daemon left in force.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or what is there is not ours.
    pub fn open(pin_dir: &Path, tc_mode: TcMode, sizes: TableSizes) -> Result<Self, ApplyError> {
        let mut kernel = Kernel::open(pin_dir, tc_mode, sizes)?;
        kernel.take_over_links()?;
        kernel.forget_other_programs();
        let resident = kernel.inherit()?;
        let mut enforcer = Self {
            kernel,
            resident,
            devices: BTreeMap::new(),
            unfilterable: BTreeSet::new(),
            targets: None,
            failures: BTreeMap::new(),
            active: None,
            rest: None,
            graces: Arc::default(),
            gate: Arc::default(),
            swaps: 0,
            writes_before: 0,
            views: Arc::default(),
            zones_seen: BTreeMap::new(),
            fast_path: None,
        };
        enforcer.find_devices()?;
        Ok(enforcer)
    }

    /// The devices that an earlier daemon left filtered; entries of devices that are gone are freed.
    fn find_devices(&mut self) -> Result<(), ApplyError> {
        let present = links::present().map_err(ApplyError::Devices)?;
        let names: BTreeMap<u32, String> = present.into_iter().map(|(name, index)| (index, name)).collect();
        let mut gone = Vec::new();
        for (ifindex, slot) in self.kernel.devices() {
            match names.get(&ifindex) {
                Some(name) => {
                    let device = Device { ifindex, slot, attached: None, hook: HookChoice::Auto };
                    self.devices.insert(name.clone(), device);
                }
                None => gone.push(slot),
            }
        }
        self.kernel.release(&gone);
        Ok(())
    }

    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    pub fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    pub fn resident(&self) -> &Resident {
        &self.resident
    }

    pub fn swaps(&self) -> u64 {
        self.swaps
    }

    /// Writes to the policy's maps since the daemon was started, and those that the last change took.
    pub fn map_writes(&self) -> (u64, u64) {
        let all = self.kernel.writes().total();
        (all, all - self.writes_before)
    }

    pub fn devices(&self) -> &BTreeMap<String, Device> {
        &self.devices
    }

    /// Present devices of the policy in force, named or managed, that are not filtered as they carry no Ethernet frames.
    pub fn unfilterable(&self) -> &BTreeSet<String> {
        &self.unfilterable
    }

    /// The kernel and the policy at once, for questions that need both.
    pub fn parts(&mut self) -> (&mut Kernel, Option<&Active>, &BTreeMap<String, Device>) {
        (&mut self.kernel, self.active.as_ref(), &self.devices)
    }

    /// Puts a policy in force.
    ///
    /// # Errors
    ///
    /// If the policy does not fit or the kernel refuses; the policy before it is still in force, untouched.
    pub fn apply(&mut self, model: Arc<Model>) -> Result<Applied, ApplyError> {
        let image = self.compiled(&model);
        let targets = self.targets(&model, &image)?;
        if let Some(name) = targets.unfilterable.iter().find(|name| names(&image, name)) {
            return Err(ApplyError::NotEthernet { name: name.clone() });
        }
        self.put_in_force(model, image, targets, Failures::Refuse)
    }

    /// The same for a policy that was accepted once: by now a device may be another one that cannot be filtered, which is
    /// no reason to leave all others open. It is closed, if it can be.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`], but not for what a device is like.
    pub fn apply_again(&mut self, model: Arc<Model>) -> Result<Applied, ApplyError> {
        let image = self.compiled(&model);
        let targets = self.targets(&model, &image)?;
        self.put_in_force(model, image, targets, Failures::Close)
    }

    /// The devices of a policy. They are not asked for again where the policy in force has the same interfaces and no device has changed.
    fn targets(&self, model: &Model, image: &Image) -> Result<Arc<Targets>, ApplyError> {
        let heard = self.gate.heard();
        let same_interfaces = |active: &Active| {
            active.image.interfaces == image.interfaces
                && active.model.settings.managed == model.settings.managed
        };
        if let Some(known) = self.targets.as_ref().filter(|known| heard.is_some() && known.heard == heard)
            && self.active.as_ref().is_some_and(same_interfaces)
        {
            return Ok(Arc::clone(known));
        }
        let (targets, unfilterable) = targets(model, image)?;
        Ok(Arc::new(Targets { targets, unfilterable, heard }))
    }

    /// What has not changed since the policy in force was compiled is not compiled again.
    fn compiled(&self, model: &Model) -> Image {
        let Some(active) = &self.active else { return compile(model) };
        let image = compile_next(model, (&active.model, &active.image));
        debug_assert!(image == compile(model), "the image depends on the one before it");
        image
    }

    fn put_in_force(
        &mut self,
        model: Arc<Model>,
        image: Image,
        targets: Arc<Targets>,
        failures: Failures,
    ) -> Result<Applied, ApplyError> {
        let applied = self.put_on_devices(model, image, &targets, failures)?;
        self.targets = Some(targets);
        Ok(applied)
    }

    fn put_on_devices(
        &mut self,
        model: Arc<Model>,
        image: Image,
        Targets { targets, unfilterable, .. }: &Targets,
        failures: Failures,
    ) -> Result<Applied, ApplyError> {
        self.forget_gone();
        let renamed = self.follow_names(targets);
        let same_settings = |active: &Active| active.model.settings == model.settings;
        let same_frame =
            self.active.as_ref().is_some_and(same_settings) && !self.devices_differ(targets) && !renamed;
        let before = self.active.as_ref().filter(|_| same_frame).map(|active| Arc::clone(&active.image));
        if before.as_ref().is_some_and(|before| **before == image) {
            let generation = self.kernel.generation();
            self.guard(&model, targets);
            if let Some(active) = &mut self.active {
                active.model = model;
            }
            self.note_unfilterable(unfilterable);
            self.publish();
            return Ok(Applied { generation, changed: false, written: 0, deleted: 0, revoked: 0 });
        }
        let capacity = self.kernel.capacity();
        let small = |resident: &Resident| patch(&image, before.as_ref()?, resident, capacity);
        // Not before a swap is finished, nor where a packet could see this step and one before it: those are waited for first.
        let at_once = if self.rest.is_none() { small(&self.resident) } else { None };
        let change = at_once.filter(|change| self.resident.may_follow(change)).or_else(|| {
            self.unsettled()?;
            self.settle();
            small(&self.resident)
        });
        self.writes_before = self.kernel.writes().total();
        if let Some(patch) = change {
            let applied = self.patch(patch, &model, image)?;
            self.note_unfilterable(unfilterable);
            self.guard(&model, targets);
            self.publish();
            return Ok(applied);
        }
        let plan = plan(&image, &self.resident, capacity)?;
        self.kernel.store_next_ids(plan.resident.next_ids());
        crash::at(Point::IdsTaken);
        let mut undo = Undo::default();
        if let Err(error) = self.prepare(&plan, &image, targets, failures, &mut undo) {
            self.undo(&plan, undo);
            return Err(error);
        }
        let halves = self.halves(targets, &image, &plan);
        crash::at(Point::DevicesAttached);
        self.stage(&plan.stage_members, Point::MembersStaged);
        for (number, &(slot, half)) in halves.iter().enumerate() {
            if number == 1 {
                crash::at(Point::FirstInterfaceStaged);
            }
            self.kernel.stage_interface(slot, half);
        }
        crash::at(Point::Staged);
        // Before any packet is judged by it.
        let image = Arc::new(image);
        self.views.add(self.view(self.kernel.generation() + 1, &model, &image));
        let generation = self.kernel.flip();
        self.swaps += 1;
        let revoke = image.on_rule_change == OnRuleChange::Revoke;
        let mut applied = Applied {
            generation,
            changed: true,
            written: plan.write.len(),
            deleted: plan.delete.len(),
            revoked: 0,
        };
        self.rest = Some(Rest {
            members: plan.stage_members,
            interfaces: halves.into_iter().map(|(slot, _)| slot).collect(),
            delete: plan.delete,
        });
        self.resident = plan.resident;
        self.active = Some(Active {
            model: Arc::clone(&model),
            image,
            policy_ids: plan.policy_ids,
            vpc_ids: plan.vpc_ids,
            guard_ids: plan.guard_ids,
        });
        crash::at(Point::Flipped);

        self.note_unfilterable(unfilterable);
        // Before anything is detached: what appears now is the new policy's.
        self.guard(&model, targets);
        self.detach_all_but(targets);
        crash::at(Point::DevicesDetached);
        if revoke {
            // The policy is in force, whatever becomes of the flows of the old one.
            match self.revoke(&FlowFilter::refused(), false) {
                Ok(revoked) => applied.revoked = revoked.len(),
                Err(error) => tracing::error!(%error, "connections that no rule allows may live on"),
            }
            crash::at(Point::Revoked);
        }
        self.publish();
        Ok(applied)
    }

    /// Looks at the devices again: attaches to those of the policy that appeared, forgets those that are gone.
    ///
    /// # Errors
    ///
    /// If the devices cannot be listed, or one has another name by now and its policy cannot be put in force. A device that
    /// cannot be filtered is closed: see [`Self::failures`].
    pub fn reconcile(&mut self) -> Result<bool, ApplyError> {
        self.forget_gone();
        let Some(active) = &self.active else { return Ok(false) };
        let model = Arc::clone(&active.model);
        let (targets, unfilterable) = targets(&active.model, &active.image)?;
        self.note_unfilterable(&unfilterable);
        if self.has_renamed(&targets) {
            // Under its new name a device may have another policy, which only a swap puts in force.
            return self.apply_again(model).map(|applied| applied.changed);
        }
        let differ = self.devices_differ(&targets);
        if differ {
            self.detach_all_but(&targets);
            let _hurry = self.kernel.hurry(self.to_attach(&targets));
            for target in &targets {
                let half = self.half_in_force(target);
                if let Err(error) = self.attach(target, half, &mut Undo::default()) {
                    self.close(target, &error);
                }
            }
        }
        self.guard(&model, &targets);
        self.publish();
        Ok(differ)
    }

    /// What is in force, for those who only want to know.
    pub fn views(&self) -> Arc<Views> {
        Arc::clone(&self.views)
    }

    fn publish(&self) {
        if let Some(Active { model, image, .. }) = &self.active {
            self.views.add(self.view(self.kernel.generation(), model, image));
        }
    }

    fn view(&self, generation: u64, model: &Arc<Model>, image: &Arc<Image>) -> View {
        let devices = self.devices.iter().map(|(name, device)| (device.ifindex, name.clone())).collect();
        View { generation, model: Arc::clone(model), image: Arc::clone(image), devices }
    }

    /// Tells the fast path which of the filtered devices are to be on it.
    fn hand_on(&mut self, model: &Model) {
        let mut wanted = BTreeMap::new();
        for interface in model.interfaces.iter().filter(|interface| interface.fast_path) {
            let Some(device) = self.devices.get(&interface.name) else { continue };
            let Some(row) = self.kernel.row(device.slot) else { continue };
            let by_xdp = device.attached.is_some_and(|attached| attached.ingress == "xdp");
            let why_not = by_xdp.then_some("XDP hands nothing on; set its \"hook\" to \"tc\" or \"auto\"");
            wanted.insert(device.ifindex, Wanted { row, why_not });
        }
        if self.fast_path.is_none() && !wanted.is_empty() {
            match self.kernel.station_maps().and_then(FastPath::start) {
                Ok(started) => self.fast_path = Some(started),
                Err(error) => tracing::warn!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "there is no fast path: packets go through their bridges"
                ),
            }
        }
        if let Some(fast_path) = &self.fast_path {
            fast_path.want(wanted);
        }
    }

    /// What has become of an interface's wish to be on the fast path.
    pub fn way(&self, ifindex: u32) -> Option<Way> {
        self.fast_path.as_ref()?.way(ifindex)
    }

    fn note_unfilterable(&mut self, now: &BTreeSet<String>) {
        for name in now.difference(&self.unfilterable) {
            tracing::warn!(interface = name, "not filtered: the device carries no Ethernet frames");
        }
        self.unfilterable.clone_from(now);
    }

    /// Whether a device has another name than before.
    fn has_renamed(&self, targets: &[Target]) -> bool {
        self.devices.iter().any(|(name, device)| {
            targets.iter().any(|target| target.ifindex == device.ifindex && target.name != *name)
        })
    }

    /// Devices are what their indexes say; names come and go. True if a device has another name than before.
    fn follow_names(&mut self, targets: &[Target]) -> bool {
        if !self.has_renamed(targets) {
            return false;
        }
        let name_of = |device: &Device| targets.iter().find(|target| target.ifindex == device.ifindex);
        let renamed =
            |name: &String, device: &Device| name_of(device).is_some_and(|target| target.name != *name);
        let (moved, stayed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.devices).into_iter().partition(|(name, device)| renamed(name, device));
        for (old, device) in moved {
            let name = name_of(&device).map_or(old, |target| target.name.clone());
            self.devices.insert(name, device);
        }
        for (name, device) in stayed {
            match self.devices.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(device);
                }
                // The device that had this name is gone.
                Entry::Occupied(taken) => {
                    self.kernel.detach(taken.key(), device.ifindex);
                    self.kernel.release(&[device.slot]);
                }
            }
        }
        true
    }

    fn devices_differ(&self, targets: &[Target]) -> bool {
        targets.len() != self.devices.len() || self.to_attach(targets) > 0
    }

    /// How many devices are not filtered yet, by the hook that they are to be filtered by.
    fn to_attach(&self, targets: &[Target]) -> usize {
        targets.iter().filter(|target| !self.is_filtered(target)).count()
    }

    fn is_filtered(&self, target: &Target) -> bool {
        self.devices.get(&target.name).is_some_and(|device| {
            device.ifindex == target.ifindex && device.hook == target.hook && device.attached.is_some()
        })
    }

    /// Steps 1 and 2.
    fn prepare(
        &mut self,
        plan: &Plan,
        image: &Image,
        targets: &[Target],
        failures: Failures,
        undo: &mut Undo,
    ) -> Result<(), ApplyError> {
        // One by itself, so that a test can let the daemon die behind it.
        let (first, others) = plan.write.split_at(plan.write.len().min(1));
        self.kernel.write(first, &mut undo.written)?;
        crash::at(Point::FirstEntryWritten);
        self.kernel.write(others, &mut undo.written)?;
        crash::at(Point::EntriesWritten);
        let _hurry = self.kernel.hurry(self.to_attach(targets));
        for target in targets {
            // A device that is filtered already keeps its half until the swap.
            let mut closed = self.closed(target.role, &Timeouts::default());
            let interface = target.interface.and_then(|index| image.interfaces.get(index));
            if interface.is_some_and(|interface| interface.audit) {
                // Closed until the swap, and nothing is dropped all the same.
                closed.flags |= FLAG_AUDIT;
            }
            match self.attach(target, closed, undo) {
                Err(error) if failures == Failures::Close => self.close(target, &error),
                attached => attached?,
            }
        }
        Ok(())
    }

    fn undo(&mut self, plan: &Plan, undo: Undo) {
        let _hurry = self.kernel.hurry(undo.attached.len());
        let mut free = Vec::new();
        for (name, before) in undo.attached.into_iter().rev() {
            match before {
                Some(device) => {
                    if let Err(error) = self.kernel.attach(&name, device.ifindex, device.hook) {
                        tracing::error!(interface = name, %error, "the hook stays changed");
                    }
                    self.devices.insert(name, device);
                }
                None => {
                    if let Some(device) = self.devices.remove(&name) {
                        self.kernel.detach(&name, device.ifindex);
                        free.push(device.slot);
                    }
                }
            }
        }
        self.kernel.release(&free);
        self.unwrite(&plan.write, undo.written);
    }

    /// Filters a device; a new one starts with `half`.
    fn attach(&mut self, target: &Target, half: InterfaceHalf, undo: &mut Undo) -> Result<(), ApplyError> {
        if self.is_filtered(target) {
            return Ok(());
        }
        let before = self.devices.get(&target.name).copied();
        if !links::is_ethernet(&target.name).map_err(ApplyError::Devices)? {
            return Err(ApplyError::NotEthernet { name: target.name.clone() });
        }
        let before = before.filter(|device| device.ifindex == target.ifindex);
        let slot = self.kernel.claim(target.ifindex, half)?;
        crash::at(Point::DeviceClaimed);
        match self.kernel.attach(&target.name, target.ifindex, target.hook) {
            Ok(attached) => {
                let device =
                    Device { ifindex: target.ifindex, slot, attached: Some(attached), hook: target.hook };
                if let Some(old) = self.devices.insert(target.name.clone(), device)
                    && old.ifindex != target.ifindex
                {
                    self.kernel.detach(&target.name, old.ifindex);
                    self.kernel.release(&[old.slot]);
                }
                if let Some(zone) = self.kernel.zone(slot) {
                    self.zones_seen.insert(zone, target.name.clone());
                    while self.zones_seen.len() > ZONES_SEEN {
                        self.zones_seen.pop_first();
                    }
                }
                undo.attached.push((target.name.clone(), before));
                tracing::info!(
                    interface = target.name,
                    ingress = attached.ingress,
                    egress = attached.egress,
                    "attached"
                );
                Ok(())
            }
            Err(error) => {
                if before.is_none() {
                    self.kernel.release(&[slot]);
                }
                Err(error.into())
            }
        }
    }

    fn detach_all_but(&mut self, targets: &[Target]) {
        let gone: Vec<(String, Device)> = self
            .devices
            .iter()
            .filter(|(name, device)| {
                !targets.iter().any(|target| target.name == **name && target.ifindex == device.ifindex)
            })
            .map(|(name, device)| (name.clone(), *device))
            .collect();
        let _hurry = self.kernel.hurry(gone.len());
        for (name, device) in &gone {
            self.kernel.detach(name, device.ifindex);
            crash::at(Point::DeviceDetached);
            self.devices.remove(name);
            tracing::info!(interface = name, "not filtered any more");
        }
        self.kernel.release(&gone.iter().map(|(_, device)| device.slot).collect::<Vec<_>>());
    }

    /// Sets the halves of members that are not in force.
    fn stage(&mut self, members: &[Staged], done: Point) {
        for &Staged { vpc, address, set } in members {
            self.kernel.stage_member(vpc, address, set);
        }
        crash::at(done);
    }

    /// Stops filtering and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// If a pinned file stays.
    pub fn detach_everything(&mut self) -> io::Result<()> {
        self.fast_path = None;
        self.gate.open();
        let devices = std::mem::take(&mut self.devices);
        let _hurry = self.kernel.hurry(devices.len());
        for (name, device) in &devices {
            self.kernel.detach(name, device.ifindex);
        }
        self.kernel.release(&devices.values().map(|device| device.slot).collect::<Vec<_>>());
        self.kernel.pins().remove()
    }
}

impl Active {
    /// The image's interface of that name.
    pub fn interface(&self, name: &str) -> Option<&InterfaceImage> {
        self.image.interface(name)
    }

    /// Whether the rules in force would admit a flow's first packet.
    pub fn admits(&self, interface: &InterfaceImage, flow: &FlowEntry) -> bool {
        self.image.admits(interface, flow)
    }
}

/// So many zones are remembered for whoever asks for them, the latest.
const ZONES_SEEN: usize = 4096;

/// What to do about a device that the kernel does not let us filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failures {
    /// Nothing changes.
    Refuse,
    /// It is closed, and the others are filtered.
    Close,
}

/// How far `prepare` came.
#[derive(Default)]
struct Undo {
    written: usize,
    /// Devices attached to, and what they were before.
    attached: Vec<(String, Option<Device>)>,
}
