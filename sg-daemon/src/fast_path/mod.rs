//! The fast path's other half: writes down for the programs who is behind which port of which bridge, as long as that is known.
//!
//! A thread of its own hears the kernel's messages about bridges. What it has written holds for [`LEASE`] and is renewed while it
//! lives and hears: if it does not, all packets go through the bridges, as without it.

mod bridges;
mod netfilter;
mod netlink;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sg_common::abi::{Station, port_station};

use self::bridges::{Bridges, Obstacle, Place, key_of};
use self::netfilter::Netfilter;
use self::netlink::{Heard, Netlink};
use crate::kernel::{KernelError, StationMaps};

/// How long what is written down holds.
const LEASE: Duration = Duration::from_secs(3);
/// How often it is renewed, and how long a new wish may have to wait.
const RENEW: Duration = Duration::from_millis(250);
/// After this time a bridge sees a packet of a station again, so that it does not forget it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// An interface that the policy wants on the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its row in `PORTS`.
    pub row: u32,
    /// Why it cannot be, whatever its bridge does.
    pub why_not: Option<&'static str>,
}

/// What has become of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Past the bridge, as far as the bridge's decision is known.
    Direct { bridge: u32 },
    /// Through the bridge, and why.
    Bridge { why: String },
}

/// The thread, and the way to it.
#[derive(Debug)]
pub struct FastPath {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    maps: Mutex<StationMaps>,
    /// By ifindex.
    wanted: Mutex<BTreeMap<u32, Wanted>>,
    ways: Mutex<BTreeMap<u32, Way>>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FastPath {
    /// Forgets what an earlier daemon wrote down, and begins.
    ///
    /// # Errors
    ///
    /// If the maps cannot be written, or there is no thread left.
    pub fn start(mut maps: StationMaps) -> Result<Self, KernelError> {
        maps.clear()?;
        let shared = Arc::new(Shared {
            maps: Mutex::new(maps),
            wanted: Mutex::default(),
            ways: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bridges".to_owned())
            .spawn(move || theirs.run())
            .map_err(|source| KernelError::Io { name: "PORTS", source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on these interfaces, by ifindex, and no others.
    pub fn want(&self, wanted: BTreeMap<u32, Wanted>) {
        let before = std::mem::replace(&mut *lock(&self.shared.wanted), wanted);
        let now = lock(&self.shared.wanted);
        for (ifindex, was) in before {
            if now.get(&ifindex) != Some(&was) {
                lock(&self.shared.maps).close(was.row);
                lock(&self.shared.ways).remove(&ifindex);
            }
        }
    }

    /// `None` if it is not known yet, or nobody wants to know.
    pub fn way(&self, ifindex: u32) -> Option<Way> {
        lock(&self.shared.ways).get(&ifindex).cloned()
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.want(BTreeMap::new());
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.follow() {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the bridges cannot be followed; packets go through them, and it is tried again"
                );
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Follows the bridges until told to stop.
    fn follow(&self) -> anyhow::Result<()> {
        let netlink = Netlink::new()?;
        let mut netfilter = Netfilter::new()?;
        let mut bridges = Bridges::default();
        let mut written = BTreeMap::new();
        lock(&self.maps).clear()?;
        let (mut links, mut stations) = (true, true);
        let mut renewed = None;
        while !self.stop.load(Ordering::Relaxed) {
            let changed = links || stations;
            if std::mem::take(&mut links) {
                bridges.forget_links();
                netlink.links(|link| bridges.link(link))?;
            }
            if std::mem::take(&mut stations) {
                bridges.forget_stations();
                netlink.neighbours(|station| bridges.neighbour(station, false))?;
            }
            if changed || renewed.is_none_or(|renewed: Instant| renewed.elapsed() >= RENEW) {
                self.renew(&bridges, netfilter.obstacle()?, &mut written)?;
                renewed = Some(Instant::now());
            }
            let mut moved = false;
            netlink.wait(RENEW, |heard| match heard {
                Heard::Link => links = true,
                Heard::Neighbour { message, gone } => {
                    bridges.neighbour(&message, gone);
                    moved = true;
                }
                Heard::Lost => (links, stations) = (true, true),
            })?;
            if moved {
                self.write(&bridges, &mut written)?;
            }
        }
        Ok(())
    }

    /// Writes what has changed and renews the leases. `netfilter`: why it must see what passes bridges.
    fn renew(
        &self,
        bridges: &Bridges,
        netfilter: Option<Obstacle>,
        written: &mut Written,
    ) -> Result<(), KernelError> {
        // What is not right any more is closed before anything else, and what is right now written before it is opened.
        let wanted = lock(&self.wanted).clone();
        let mut ways = BTreeMap::new();
        for (&ifindex, wanted) in &wanted {
            let way = match (wanted.why_not, bridges.bridge_of(ifindex, netfilter)) {
                (Some(why), _) => Way::Bridge { why: why.to_owned() },
                (None, Ok(bridge)) => Way::Direct { bridge },
                (None, Err(obstacle)) => Way::Bridge { why: obstacle.text().to_owned() },
            };
            if matches!(way, Way::Bridge { .. }) {
                lock(&self.maps).close(wanted.row);
            }
            ways.insert(ifindex, way);
        }
        lock(&self.ways).clone_from(&ways);
        self.write(bridges, written)?;
        // Whoever is not wanted any more has been closed by whoever does not want it: with both in hand, it stays closed.
        let still = lock(&self.wanted);
        let mut maps = lock(&self.maps);
        for (ifindex, way) in ways {
            if let (Way::Direct { bridge }, Some(wanted)) = (way, still.get(&ifindex)) {
                let until = maps.in_time(LEASE);
                let patience = u32::try_from(maps.jiffies(PATIENCE)).unwrap_or(u32::MAX);
                maps.open(wanted.row, until, bridge, patience);
            }
        }
        Ok(())
    }

    /// Writes who is where on the bridges of the ports that are wanted.
    fn write(&self, bridges: &Bridges, written: &mut Written) -> Result<(), KernelError> {
        let direct: Vec<u32> = lock(&self.ways)
            .values()
            .filter_map(|way| match way {
                Way::Direct { bridge } => Some(*bridge),
                Way::Bridge { .. } => None,
            })
            .collect();
        let now = bridges.stations(|bridge| direct.contains(&bridge));
        // Whoever is alone behind a port is known with the port; so nobody is any more who has moved.
        let mut alone = BTreeMap::new();
        for ((_, mac), place) in &now {
            let station = port_station(*mac) | u64::from(place.flags) << 48;
            alone.entry(place.ifindex).and_modify(|station| *station = 0).or_insert(station);
        }
        let wanted = lock(&self.wanted);
        let mut maps = lock(&self.maps);
        for (ifindex, wanted) in &*wanted {
            maps.set_station(wanted.row, alone.get(ifindex).copied().unwrap_or(0));
        }
        for key in written.keys().filter(|key| !now.contains_key(key)) {
            maps.remove(&key_of(*key))?;
        }
        written.retain(|key, _| now.contains_key(key));
        for (key, place) in now {
            if written.get(&key) == Some(&place) {
                continue;
            }
            let Place { ifindex, mtu, flags } = place;
            // The next packet goes through the bridge.
            match maps.write(&key_of(key), &Station { seen: 0, ifindex, mtu, flags, reserved: 0 }) {
                Ok(()) => written.insert(key, place),
                // Whoever has no room is reached through the bridge.
                Err(KernelError::Full { .. }) => break,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

/// Who is written down where, by bridge and hardware address.
type Written = BTreeMap<(u32, [u8; 6]), Place>;
