//! Which packets the programs tell of, and where they do.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, PerCpuValues, RingBuf};
use sg_common::abi::{
    Control, Direction, Event, Interface, KIND_WORDS, NEW_FLOW_WATCHER, WATCHERS, Watched, Watcher, map,
    packet_kind,
};
use sg_common::verdict::Reason;
use zerocopy::FromBytes as _;

use super::{Kernel, KernelError, Slot};

/// A ring of events, for the one who reads it.
pub struct EventRing(RingBuf<MapData>);

impl EventRing {
    /// The oldest event that nobody has read, if there is any.
    pub fn read(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            // Records have one size; what else there could be is no event.
            if let Ok(event) = Event::read_from_bytes(&item) {
                return Some(event);
            }
        }
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What one reads of who watches.
pub struct EventMaps {
    pub events: EventRing,
    pub new_flows: EventRing,
    pub counts: WatchCounts,
}

/// How many events each watcher was told of, and how many not.
pub struct WatchCounts(PerCpuArray<MapData, Watched>);

impl WatchCounts {
    /// Of all CPUs together; `due` means nothing.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn of(&self, watcher: u32) -> Result<Watched, KernelError> {
        let values = self.0.get(&watcher, 0).map_err(KernelError::map(map::WATCHED))?;
        Ok(values.iter().fold(NOTHING, |sum, cpu| Watched {
            due: 0,
            // A CPU takes back what it told if the ring has no room; between two of its stores it may be one ahead.
            told: sum.told.wrapping_add(cpu.told),
            limited: sum.limited.wrapping_add(cpu.limited),
            full: sum.full.wrapping_add(cpu.full),
        }))
    }
}

const NOTHING: Watched = Watched { due: 0, told: 0, limited: 0, full: 0 };

/// Takes the maps that are read elsewhere out of the object.
pub(super) fn take(ebpf: &mut Ebpf) -> Result<EventMaps, KernelError> {
    let mut ring = |name: &'static str| -> Result<EventRing, KernelError> {
        let map = ebpf.take_map(name).ok_or(KernelError::Missing { name })?;
        Ok(EventRing(map.try_into().map_err(KernelError::map(name))?))
    };
    let (events, new_flows) = (ring(map::EVENTS)?, ring(map::NEW_FLOWS)?);
    let name = map::WATCHED;
    let counts = ebpf.take_map(name).ok_or(KernelError::Missing { name })?;
    let counts = WatchCounts(counts.try_into().map_err(KernelError::map(name))?);
    Ok(EventMaps { events, new_flows, counts })
}

impl Kernel {
    /// The events, for whoever reads them; `None` if somebody does already.
    pub fn take_events(&mut self) -> Option<EventMaps> {
        self.events.take()
    }

    /// From now on programs tell of the packets that `watcher` wants. The place must be free.
    ///
    /// # Errors
    ///
    /// If its counts cannot be cleared.
    pub fn watch(&mut self, place: u32, watcher: Watcher) -> Result<(), KernelError> {
        if place < WATCHERS {
            let name = map::WATCHED;
            let mut counts: PerCpuArray<MapData, Watched> = aya::maps::Map::PerCpuArray(
                MapData::from_pin(self.pins.map(name)).map_err(KernelError::map(name))?,
            )
            .try_into()
            .map_err(KernelError::map(name))?;
            let cpus = aya::util::nr_cpus().map_err(|(_, source)| KernelError::Io { name, source })?;
            let nothing = PerCpuValues::try_from(vec![NOTHING; cpus])
                .map_err(|source| KernelError::Io { name, source })?;
            counts.set(place, nothing, 0).map_err(KernelError::map(name))?;
            self.watchers.set(place, Watcher { active: 0, ..watcher });
            self.watchers.store(place, offset_of!(Watcher, active), 1u32);
            self.store_watched();
        }
        Ok(())
    }

    /// The same watcher wants packets of another device.
    pub fn watch_device(&mut self, place: u32, ifindex: u32) {
        self.watchers.store(place, offset_of!(Watcher, ifindex), ifindex);
        self.store_watched();
    }

    /// Frees a place. When this returns, no packet is told of for its sake any more.
    pub fn unwatch(&mut self, place: u32) {
        self.watchers.store(place, offset_of!(Watcher, active), 0u32);
        self.store_watched();
        self.settle();
    }

    /// The daemon's own watcher. Where an earlier daemon's is there it goes on, with its counts: no packet is missed.
    ///
    /// # Errors
    ///
    /// As [`Self::watch`].
    pub fn watch_new_flows(&mut self, watcher: Watcher) -> Result<(), KernelError> {
        if self.watchers.get(NEW_FLOW_WATCHER) == Some(watcher) {
            return Ok(());
        }
        self.unwatch(NEW_FLOW_WATCHER);
        self.watch(NEW_FLOW_WATCHER, watcher)
    }

    /// Nobody watches: who did for an earlier daemon is gone with it.
    pub(super) fn forget_watchers(&mut self) {
        for place in (0..self.watchers.len()).filter(|place| *place != NEW_FLOW_WATCHER) {
            self.watchers.store(place, offset_of!(Watcher, active), 0u32);
        }
        self.store_watched();
    }

    /// What anybody wants of a device.
    pub(super) fn watched_of(&self, ifindex: u32) -> [u32; KIND_WORDS] {
        let mut watched = [0; KIND_WORDS];
        let watchers = (0..self.watchers.len()).filter_map(|place| self.watchers.get(place));
        for watcher in watchers.filter(|watcher| watcher.active != 0) {
            if watcher.ifindex == 0 || watcher.ifindex == ifindex {
                for (word, wanted) in watched.iter_mut().zip(watcher.kinds) {
                    *word |= wanted;
                }
            }
        }
        watched
    }

    fn store_watched(&mut self) {
        let active = |place: &u32| self.watchers.get(*place).is_some_and(|watcher| watcher.active != 0);
        let places = (0..self.watchers.len()).rev().find(active).map_or(0, |last| u64::from(last) + 1);
        self.control.store(0, offset_of!(Control, watch_places), places);
        for (ifindex, Slot(index)) in self.devices() {
            for (number, word) in self.watched_of(ifindex).into_iter().enumerate() {
                let offset = offset_of!(Interface, watched) + number * size_of::<u32>();
                self.interfaces.store(index, offset, word);
            }
        }
        // Devices without an entry: those who watch any device.
        let watched = self.watched_of(0);
        let mut unknown = 0;
        for direction in [Direction::Inbound, Direction::Outbound] {
            let kind = packet_kind(direction, Reason::UnknownInterface as u32);
            if watched.get((kind / 32) as usize).is_some_and(|word| word >> (kind % 32) & 1 == 1) {
                unknown |= 1u32 << direction as u32;
            }
        }
        self.control.store(0, offset_of!(Control, watch_unknown), unknown);
    }
}
