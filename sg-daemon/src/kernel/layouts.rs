//! Filters of other versions of the maps' layout: found, left alone, or replaced when the operator says so.
//!
//! Their maps mean something else, so nothing in them is read. A device goes from the old filter to the new one without an
//! unfiltered moment: new TC programs are put beside the old ones, so that for a while both must allow a packet; of XDP there is
//! one program to a device, which is replaced in its old link. That happens when the new policy is in force in the new maps
//! already, and only then the old layout is removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sg_common::abi::ABI_VERSION;

use super::{Kernel, KernelError};
use crate::policy::model::HookChoice;

/// The pins of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub version: u32,
    pub root: PathBuf,
}

/// What is pinned under a pin directory by other versions.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn other_layouts(pin_dir: &Path) -> Result<Vec<Layout>, KernelError> {
    let failed = |error| KernelError::Pin { path: pin_dir.to_owned(), what: "read", error };
    let mut layouts = Vec::new();
    for entry in fs::read_dir(pin_dir).map_err(failed)? {
        let root = entry.map_err(failed)?.path();
        let name = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(version) = name.strip_prefix('v').and_then(|number| number.parse().ok()) else { continue };
        if version != ABI_VERSION && holds_anything(&root) {
            layouts.push(Layout { version, root });
        }
    }
    layouts.sort_by_key(|layout| layout.version);
    Ok(layouts)
}

/// Directories that a daemon made and never used are in nobody's way.
fn holds_anything(root: &Path) -> bool {
    ["maps", "links"]
        .into_iter()
        .any(|part| fs::read_dir(root.join(part)).is_ok_and(|mut entries| entries.next().is_some()))
}

impl Layout {
    /// Removes its pins, and so takes it off: links first, each by each.
    ///
    /// # Errors
    ///
    /// If a file stays.
    pub fn remove(&self) -> io::Result<()> {
        let links = self.root.join("links");
        if links.exists() {
            fs::remove_dir_all(links)?;
        }
        fs::remove_dir_all(&self.root)
    }
}

/// Attaching that waits until the policy is in force.
#[derive(Debug, Default)]
pub(super) struct Deferred(Vec<(String, u32, HookChoice)>);

impl Deferred {
    pub fn push(&mut self, interface: &str, ifindex: u32, hook: HookChoice) {
        self.0.push((interface.to_owned(), ifindex, hook));
    }
}

impl Kernel {
    /// From now on, until [`Self::replace`], attaching only makes a note. Devices keep the old layout's filter meanwhile.
    pub fn defer(&mut self) {
        self.deferred = Some(Deferred::default());
    }

    /// Puts this filter in place of those of other layouts, and removes them.
    ///
    /// # Errors
    ///
    /// If a device cannot be filtered, or a pin cannot be removed. Every device is filtered by one of them, or both; another
    /// attempt goes on from there.
    pub fn replace(&mut self, layouts: &[Layout]) -> Result<(), KernelError> {
        let Some(Deferred(devices)) = self.deferred.take() else { return Ok(()) };
        let _hurry = self.hurry(devices.len());
        for layout in layouts {
            self.inherit_xdp_links(&layout.root.join("links"))?;
        }
        for (interface, ifindex, hook) in devices {
            match self.attach(&interface, ifindex, hook) {
                Ok(_) => {}
                // Gone by now.
                Err(_) if nix::net::if_::if_nametoindex(interface.as_str()) != Ok(ifindex) => {}
                Err(error) => return Err(error),
            }
        }
        for layout in layouts {
            let failed = |error| KernelError::Pin { path: layout.root.clone(), what: "remove", error };
            layout.remove().map_err(failed)?;
        }
        Ok(())
    }
}
