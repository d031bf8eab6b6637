//! What the fast path goes by: ports of bridges, and who is behind them.

use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use sg_common::abi::{Port, Station, StationKey, map};

use super::mapped::Mapped;
use super::tables::{full, gone};
use super::{Kernel, KernelError};

/// The maps `PORTS` and `STATIONS`, to be written without the kernel in hand.
#[derive(Debug)]
pub struct StationMaps {
    ports: Mapped<Port>,
    stations: HashMap<MapData, StationKey, Station>,
    /// Jiffies a second.
    hz: u32,
    /// A moment, and what it was in jiffies.
    anchor: (Instant, u64),
}

impl Kernel {
    /// # Errors
    ///
    /// If a map cannot be opened once more.
    pub fn station_maps(&mut self) -> Result<StationMaps, KernelError> {
        let again = |name| MapData::from_pin(self.pins.map(name)).map_err(KernelError::map(name));
        let ports = again(map::PORTS)?;
        let rows = ports.info().map_err(KernelError::map(map::PORTS))?.max_entries();
        let stations = Map::HashMap(again(map::STATIONS)?);
        Ok(StationMaps {
            ports: Mapped::new(ports.fd().as_fd(), rows)
                .map_err(|source| KernelError::Io { name: map::PORTS, source })?,
            stations: HashMap::try_from(stations).map_err(KernelError::map(map::STATIONS))?,
            hz: self.hz(),
            anchor: (Instant::now(), self.now()?),
        })
    }
}

impl StationMaps {
    /// So much later than now, in jiffies as programs have them.
    pub fn in_time(&self, time: Duration) -> u64 {
        let (moment, jiffies) = self.anchor;
        jiffies + self.jiffies(moment.elapsed() + time)
    }

    pub fn jiffies(&self, time: Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(u64::from(self.hz)) / 1000
    }

    /// Whoever an earlier daemon wrote down: by now they may be elsewhere.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        for row in 0..self.ports.len() {
            self.close(row);
        }
        let keys: Vec<StationKey> =
            self.stations.keys().collect::<Result<_, _>>().map_err(KernelError::map(map::STATIONS))?;
        keys.iter().try_for_each(|key| self.remove(key))
    }

    /// From now on all packets of the interface go through its bridge.
    pub fn close(&mut self, row: u32) {
        self.ports.store(row, offset_of!(Port, until), 0u64);
        self.ports.store(row, offset_of!(Port, station), 0u64);
    }

    /// Until then they may go past it.
    pub fn open(&mut self, row: u32, until: u64, bridge: u32, patience: u32) {
        self.ports.store(row, offset_of!(Port, bridge), bridge);
        self.ports.store(row, offset_of!(Port, patience), patience);
        self.ports.store(row, offset_of!(Port, until), until);
    }

    /// Who alone is behind the port, as [`Port::station`] has it, if that has changed. The next packet goes through the bridge.
    pub fn set_station(&mut self, row: u32, station: u64) {
        if self.ports.get(row).is_some_and(|port| port.station != station) {
            self.ports.store(row, offset_of!(Port, station), 0u64);
            self.ports.store(row, offset_of!(Port, seen), 0u64);
            self.ports.store(row, offset_of!(Port, station), station);
        }
    }

    /// # Errors
    ///
    /// If the map is full, or the kernel refuses.
    pub fn write(&mut self, key: &StationKey, station: &Station) -> Result<(), KernelError> {
        self.stations.insert(key, station, 0).map_err(full(map::STATIONS))
    }

    /// # Errors
    ///
    /// If the kernel refuses; one that is not there is no error.
    pub fn remove(&mut self, key: &StationKey) -> Result<(), KernelError> {
        gone(map::STATIONS, self.stations.remove(key))
    }
}
