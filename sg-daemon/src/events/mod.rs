//! What the programs tell of packets: a thread reads the rings, counts what rules allow ([`hits`]), and hands events to those
//! who watch.
//!
//! Each who watches has a place in the kernel's `WATCHERS` with a filter and a bucket of its own, so that nobody takes
//! another's events; what comes too fast, or finds the ring full, is counted for each apart. A reader that is too slow loses
//! events too, and hears how many. Nobody here holds up the filter or the daemon.

mod decode;
mod filter;
pub mod hits;
mod reader;
mod rules;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use sg_common::abi::{WATCHERS, Watcher};
use tokio::sync::mpsc;

pub use self::decode::{Seen, Told};
pub use self::filter::{Filter, FilterError, Rate, RuleFilter, new_flows};
use self::hits::Hits;
use self::reader::Reader;
use crate::enforce::{Enforcer, Views};
use crate::kernel::KernelError;

/// How many events wait for one who watches, at most.
const QUEUE: usize = 4096;

/// Why nobody can watch.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("{} are watching already, and that is all there is room for; end one of them", .0)]
    Full(u32),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// What one who watches hears.
#[derive(Debug, Clone)]
pub enum Message {
    Told(Arc<Told>),
    /// So many packets fitted the filter, and nothing more is known of them.
    Lost(Lost),
}

/// Events that were lost since the message before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// They came faster than asked for.
    pub limited: u64,
    /// The ring between the kernel and the daemon was full.
    pub full: u64,
    /// Whoever watches does not read as fast.
    pub slow: u64,
}

impl Lost {
    pub fn total(self) -> u64 {
        self.limited + self.full + self.slow
    }
}

/// The daemon's ear. Clones are the same one.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    enforcer: Arc<Mutex<Enforcer>>,
    views: Arc<Views>,
    places: Mutex<Places>,
    hits: Mutex<Hits>,
    ends: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// By the places in `WATCHERS`, of which the first is the daemon's own.
type Places = [Option<Place>; WATCHERS as usize];

/// One who watches.
struct Place {
    filter: Filter,
    /// As it stands in the kernel.
    watcher: Watcher,
    sender: mpsc::Sender<Message>,
    /// Not told yet.
    lost: Lost,
    /// What of the kernel's counts was told.
    counted: Lost,
}

/// Packets and their verdicts, from now on until it is dropped.
pub struct Watch {
    number: u32,
    receiver: mpsc::Receiver<Message>,
    events: Events,
}

impl Watch {
    /// The next message. Never ends by itself while the daemon runs.
    pub async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (events, number) = (self.events.clone(), self.number);
        let end = move || {
            // Out of the kernel first: the place is another's as soon as it is free here.
            events.0.enforcer.lock().unwrap_or_else(PoisonError::into_inner).kernel().unwatch(number);
            if let Some(place) = events.places().get_mut(number as usize) {
                *place = None;
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(end)),
            Err(_) => end(),
        }
    }
}

impl Events {
    /// Begins to read, and to count what rules allow. `state_dir` has the counts of the daemon before.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or no thread can be made.
    pub fn start(enforcer: &Arc<Mutex<Enforcer>>, state_dir: &Path) -> anyhow::Result<Self> {
        let mut held = enforcer.lock().unwrap_or_else(PoisonError::into_inner);
        let views = held.views();
        let maps = held.kernel().take_events();
        let maps = maps.ok_or_else(|| anyhow::anyhow!("the events are read already"))?;
        held.kernel().watch_new_flows(new_flows())?;
        drop(held);
        let events = Self(Arc::new(Inner {
            enforcer: Arc::clone(enforcer),
            views,
            places: Mutex::new(Places::default()),
            hits: Mutex::new(Hits::load(state_dir)),
            ends: AtomicBool::new(false),
            thread: Mutex::new(None),
        }));
        let reader = Reader::new(events.clone(), maps);
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || reader.run())?;
        *events.0.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(events)
    }

    /// Reads what there is, writes the counts down, and reads no more. The programs go on telling of new connections, for the
    /// next daemon.
    pub fn stop(&self) {
        self.0.ends.store(true, Ordering::Relaxed);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads events has failed");
        }
    }

    fn ends(&self) -> bool {
        self.0.ends.load(Ordering::Relaxed)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of rules, for a moment.
    fn hits(&self) -> MutexGuard<'_, Hits> {
        self.0.hits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn views(&self) -> &Views {
        &self.0.views
    }

    /// What each rule of the policy in force has allowed, up to a tenth of a second ago.
    pub fn rule_hits(&self) -> hits::RuleHitsAnswer {
        let view = self.views().newest();
        self.hits().answer(view.as_deref())
    }

    /// The same for metrics.
    pub fn hits_summary(&self) -> hits::HitsSummary {
        self.hits().summary()
    }

    /// Begins to watch. Blocks while a policy is put in force.
    ///
    /// # Errors
    ///
    /// If the filter makes no sense, or too many watch already.
    pub fn watch(&self, filter: Filter) -> Result<Watch, WatchError> {
        let mut enforcer = self.0.enforcer.lock().unwrap_or_else(PoisonError::into_inner);
        let watcher = filter.watcher(self.views().newest().as_deref())?;
        let mut places = self.places();
        let free = places.iter_mut().enumerate().skip(1).find(|(_, place)| place.is_none());
        let (number, free) = free.ok_or(WatchError::Full(WATCHERS - 1))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        *free = Some(Place { filter, watcher, sender, lost: Lost::default(), counted: Lost::default() });
        drop(places);
        let number = number as u32;
        if let Err(error) = enforcer.kernel().watch(number, watcher) {
            if let Some(place) = self.places().get_mut(number as usize) {
                *place = None;
            }
            return Err(error.into());
        }
        Ok(Watch { number, receiver, events: self.clone() })
    }
}
