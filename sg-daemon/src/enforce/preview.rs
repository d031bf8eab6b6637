//! What a policy would do, without doing it.

use std::collections::{BTreeMap, BTreeSet};

use super::{ApplyError, Enforcer, names, targets};
use crate::compile::compile;
use crate::kernel::FlowEntry;
use crate::plan::{self, PlanError, plan};
use crate::policy::model::Model;

/// What becomes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// It is not filtered yet, and a policy names it.
    Filtered,
    /// It is managed and in no policy.
    Closed,
    /// It is filtered and would not be any more.
    Open,
}

/// The consequences of a policy.
#[derive(Debug)]
pub struct Preview {
    /// How many entries are to be written and to be deleted, by table; or what does not fit.
    pub entries: Result<BTreeMap<&'static str, (usize, usize)>, PlanError>,
    /// The devices whose state changes.
    pub devices: BTreeMap<String, Becomes>,
    /// Devices for which the policy would be refused, as they carry no Ethernet frames.
    pub not_ethernet: Vec<String>,
    /// The connections of devices that stay filtered which the policy would not admit, and whether the one in force would.
    pub flows: Vec<(String, FlowEntry, bool)>,
    /// How many connections there are on those devices.
    pub all_flows: usize,
}

impl Enforcer {
    /// What [`Self::apply`] would do.
    ///
    /// # Errors
    ///
    /// If the devices or the connections cannot be listed.
    pub fn preview(&mut self, model: &Model) -> Result<Preview, ApplyError> {
        // What is left of the last change takes room.
        self.settle();
        let image = compile(model);
        let (targets, unfilterable) = targets(model, &image)?;
        let entries = plan(&image, &self.resident, self.kernel.capacity()).map(|plan| plan::counts(&plan));
        let mut devices = BTreeMap::new();
        for target in &targets {
            let now = self.devices.get(&target.name).filter(|device| device.ifindex == target.ifindex);
            let closed_now = now.is_some()
                && self.active.as_ref().is_some_and(|active| active.interface(&target.name).is_none());
            match (target.interface, now) {
                (Some(_), None) => devices.insert(target.name.clone(), Becomes::Filtered),
                (Some(_), Some(_)) if closed_now => devices.insert(target.name.clone(), Becomes::Filtered),
                (None, _) if !closed_now => devices.insert(target.name.clone(), Becomes::Closed),
                _ => None,
            };
        }
        let stay: BTreeSet<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        for name in self.devices.keys().filter(|name| !stay.contains(name.as_str())) {
            devices.insert(name.clone(), Becomes::Open);
        }
        let zones = self.zones();
        let (mut flows, mut all_flows) = (Vec::new(), 0);
        for flow in self.kernel.flows()? {
            let Some(name) = zones.get(&flow.zone).filter(|name| stay.contains(name.as_str())) else {
                continue;
            };
            all_flows += 1;
            let admitted = image.interface(name).is_some_and(|interface| image.admits(interface, &flow));
            if !admitted {
                let now = self.active.as_ref().is_some_and(|active| {
                    active.interface(name).is_some_and(|interface| active.admits(interface, &flow))
                });
                flows.push((name.clone(), flow, now));
            }
        }
        let not_ethernet = unfilterable.into_iter().filter(|name| names(&image, name)).collect();
        Ok(Preview { entries, devices, not_ethernet, flows, all_flows })
    }
}
