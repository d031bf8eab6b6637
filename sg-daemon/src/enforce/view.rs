//! What is in force, for those who look at it without holding the enforcer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::compile::image::Image;
use crate::policy::model::{Interface, Model};

/// A policy in force, and on what.
#[derive(Debug)]
pub struct View {
    pub generation: u64,
    pub model: Arc<Model>,
    pub image: Arc<Image>,
    /// The names of the devices that are filtered, by their indexes.
    pub devices: BTreeMap<u32, String>,
}

impl View {
    /// The model's interface of a device.
    pub fn interface(&self, ifindex: u32) -> Option<&Interface> {
        let name = self.devices.get(&ifindex)?;
        self.model.interfaces.iter().find(|interface| interface.name == *name)
    }
}

/// The last few policies: of a packet one hears when another policy may be in force already.
#[derive(Debug, Default)]
pub struct Views(Mutex<VecDeque<Arc<View>>>);

/// How many generations are kept, after [`Views::tidy`].
const KEPT: usize = 8;

impl Views {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<View>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a view, in place of the one of its generation.
    pub(super) fn add(&self, view: View) {
        let mut views = self.lock();
        views.retain(|known| known.generation != view.generation);
        // To take a large policy apart takes a while: mostly, `tidy` does.
        if views.len() == 2 * KEPT {
            views.pop_front();
        }
        views.push_back(Arc::new(view));
    }

    /// Frees the memory of those that are one too many.
    pub fn tidy(&self) {
        let gone: Vec<Arc<View>> = {
            let mut views = self.lock();
            let more = views.len().saturating_sub(KEPT);
            views.drain(..more).collect()
        };
        drop(gone);
    }

    /// The newest.
    pub fn newest(&self) -> Option<Arc<View>> {
        self.lock().back().cloned()
    }

    /// Of that generation, or the nearest one that is known.
    pub fn at(&self, generation: u64) -> Option<Arc<View>> {
        self.lock().iter().min_by_key(|view| view.generation.abs_diff(generation)).cloned()
    }
}
