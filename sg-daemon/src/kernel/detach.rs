//! The filter taken off, with nothing loaded: also where this version cannot load its programs, and whoever made what is there.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::MapData;
use sg_common::abi::{ABI_VERSION, Interface, map};

use super::hurry::Hurry;
use super::mapped::Mapped;
use super::pins::{Pins, check_maps};
use super::{KernelError, attach, other_layouts};
use crate::enforce::links;

/// Removes everything that is pinned under `pin_dir`, links first, and our clsact filters. The names of the devices that were
/// filtered and are there, in order.
///
/// # Errors
///
/// If a file stays.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>, KernelError> {
    let io = |name| move |source| KernelError::Io { name, source };
    let pins = Pins::at(pin_dir);
    let others = other_layouts(pin_dir)?;
    let present = links::present().map_err(io("the network devices"))?;
    let names: BTreeMap<u32, &str> = present.iter().map(|(name, &index)| (index, name.as_str())).collect();

    // Links name their devices. Of devices filtered by clsact only the map tells, and of another layout's not even that.
    let roots = others.iter().map(|layout| layout.root.join("links")).chain([pins.links()]);
    let mut filtered: BTreeMap<&str, u32> = roots
        .flat_map(|links| fs::read_dir(links).into_iter().flatten().flatten())
        .filter_map(|link| link.file_name().to_str()?.split_once('_')?.0.parse().ok())
        .filter_map(|index: u32| Some((*names.get(&index)?, index)))
        .collect();
    let _hurry = Hurry::begin(&pins, filtered.len());
    let asked: Vec<u32> = if others.is_empty() { of_map(&pins)? } else { names.keys().copied().collect() };
    for index in asked {
        if let Some(&name) = names.get(&index)
            && attach::detach_clsact(name)
        {
            filtered.insert(name, index);
        }
    }

    for layout in &others {
        let failed = |error| KernelError::Pin { path: layout.root.clone(), what: "remove", error };
        layout.remove().map_err(failed)?;
    }
    let root = pin_dir.join(format!("v{ABI_VERSION}"));
    if root.exists() {
        pins.remove().map_err(|error| KernelError::Pin { path: root, what: "remove", error })?;
    }
    Ok(filtered.into_keys().map(str::to_owned).collect())
}

/// The devices in the map of interfaces, if there is one.
fn of_map(pins: &Pins) -> Result<Vec<u32>, KernelError> {
    let Some(&length) = check_maps(pins)?.get(map::INTERFACES) else { return Ok(Vec::new()) };
    let data = MapData::from_pin(pins.map(map::INTERFACES)).map_err(KernelError::map(map::INTERFACES))?;
    let io = |source| KernelError::Io { name: map::INTERFACES, source };
    let interfaces: Mapped<Interface> = Mapped::new(data.fd().as_fd(), length).map_err(io)?;
    let indexes = (0..length).filter_map(|slot| interfaces.get(slot)).map(|interface| interface.ifindex);
    Ok(indexes.filter(|&index| index != 0).collect())
}
