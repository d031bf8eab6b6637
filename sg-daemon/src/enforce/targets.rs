//! Which of the present devices a policy is for.

use std::collections::BTreeSet;

use super::{ApplyError, links};
use crate::compile::image::Image;
use crate::policy::model::{HookChoice, Kind, Model, Role};

/// The present devices of the policy in force.
#[derive(Debug)]
pub(super) struct Targets {
    pub targets: Vec<Target>,
    /// Those that cannot be filtered.
    pub unfilterable: BTreeSet<String>,
    /// By what messages had been heard of devices before these were asked for: see [`Gate::heard`](super::gate::Gate::heard).
    pub heard: Option<u64>,
}

/// A present device that is to be filtered.
#[derive(Debug)]
pub(super) struct Target {
    pub name: String,
    pub ifindex: u32,
    pub role: Role,
    pub hook: HookChoice,
    /// Index into [`Image::interfaces`]; `None` for a managed device that no policy names, which is closed (D23).
    pub interface: Option<usize>,
}

/// Whether a policy wants an interface filtered by name, and not only by a pattern.
pub(super) fn names(image: &Image, name: &str) -> bool {
    image.interfaces.iter().any(|interface| interface.policy.is_some() && interface.name == name)
}

/// The present devices that a policy wants filtered, and those of them that cannot be, as they are no Ethernet devices.
pub(super) fn targets(model: &Model, image: &Image) -> Result<(Vec<Target>, BTreeSet<String>), ApplyError> {
    let present = links::present().map_err(ApplyError::Devices)?;
    let mut targets = Vec::new();
    for (index, interface) in image.interfaces.iter().enumerate() {
        if let (Some(_), Some(&ifindex)) = (interface.policy, present.get(&interface.name)) {
            targets.push(Target {
                name: interface.name.clone(),
                ifindex,
                role: interface.role,
                hook: interface.hook,
                interface: Some(index),
            });
        }
    }
    for (name, &ifindex) in &present {
        let managed = model.settings.managed.iter().any(|pattern| links::matches(pattern, name));
        let bare = model.interfaces.iter().any(|i| i.name == *name && i.kind == Kind::BareMetal);
        if managed && !bare && !targets.iter().any(|target| target.name == *name) {
            targets.push(Target {
                name: name.clone(),
                ifindex,
                role: Role::Guest,
                hook: HookChoice::Auto,
                interface: None,
            });
        }
    }
    let mut unfilterable = BTreeSet::new();
    targets.retain(|target| match links::is_ethernet(&target.name) {
        Ok(true) => true,
        Ok(false) => {
            unfilterable.insert(target.name.clone());
            false
        }
        // Gone by now; for any other failure, attaching is tried and says what is wrong.
        Err(error) => error.raw_os_error() != Some(libc::ENODEV),
    });
    Ok((targets, unfilterable))
}
