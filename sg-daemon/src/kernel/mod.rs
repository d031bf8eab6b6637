//! The kernel side: the only module that talks to bpf(2).

mod accounts;
mod attach;
mod batch;
mod btf;
mod counters;
mod detach;
mod events;
mod exact;
mod explain;
mod flow_memory;
mod flows;
mod grace;
mod hurry;
mod layouts;
mod mapped;
mod pins;
pub mod probe;
mod programs;
mod reader;
mod sizes;
mod stations;
mod tables;
mod ticks;
mod traffic;
mod transfer;
mod writes;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aya::maps::{Map, MapData, MapError, RingBuf};
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfLoader};
use sg_common::abi::{
    Control, DATAGRAMS, INTERFACE_PROBES, Interface, InterfaceHalf, MAX_INTERFACES, MAX_ZONES, MemberSets,
    Share, SkBuff, Watcher, interface_slot, map, program,
};
use sg_common::table::SECRETS;

pub use self::accounts::{Collected, Due, TAKEN_AT_ONCE};
pub(crate) use self::attach::chain;
pub use self::attach::{Attached, Closer, TcMode};
pub use self::counters::{Counted, CounterReader, Retired, Sample};
pub use self::detach::detach;
pub use self::events::{EventMaps, EventRing, WatchCounts};
pub use self::explain::{Answer, RunHook};
pub use self::flow_memory::{FlowMemory, Inserted};
pub use self::flows::{FlowEntry, FlowKey};
pub use self::grace::Graces;
use self::grace::grace;
pub use self::hurry::Hurry;
use self::layouts::Deferred;
pub use self::layouts::{Layout, other_layouts};
use self::mapped::Mapped;
pub use self::pins::{Pins, is_bpffs};
use self::programs::Programs;
pub use self::reader::{Entries, FlowTables, RawFlow};
pub use self::sizes::TableSizes;
pub use self::stations::StationMaps;
use self::tables::TableMaps;
pub use self::tables::{v6_of, words_of};
pub use self::traffic::{Accounts, Traffic};
pub use self::transfer::{AddError, Added, ZoneFlows, described};
pub use self::writes::{MapWrites, Written};
use crate::api::live::CollectorWork;
use crate::compile::ranges;
use crate::plan::{Capacity, Entry, NextIds, Resident};
use crate::policy::model::Timeouts;

/// The eBPF object, built by this package's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SGD_BPF_OBJECT"));

/// The programs as they were compiled: an ELF file.
pub fn object() -> &'static [u8] {
    OBJECT
}

/// What can go wrong at the kernel's side. Causes name the system call.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "the eBPF object cannot be loaded; run sgd as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (`sgctl doctor` looks)"
    )]
    Load(#[source] aya::EbpfError),
    #[error("the filter needs Linux 6.1 or later; this is {release}, without {lacks}")]
    TooOld { release: String, lacks: String },
    #[error("the kernel refuses the program {name}; Linux 6.1 or later with BTF is needed (sgctl doctor)")]
    Program { name: &'static str, source: ProgramError },
    #[error("the object has no {name}, as it was not built from this source; build and install sgd anew")]
    Missing { name: &'static str },
    #[error(
        "the map {name} cannot be used; the filter goes on as it is: restart sgd, and report it if it happens again"
    )]
    Map { name: &'static str, source: MapError },
    #[error("map {name} is full, as the policy is too large; apply one with fewer rules or members")]
    Full { name: &'static str },
    #[error(
        "cannot {what} {path}; sgd has to be root, and the path on a BPF file system that it may write to"
    )]
    Pin {
        path: PathBuf,
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("{path} is not on a BPF file system; pass a --pin-dir under /sys/fs/bpf")]
    NotBpffs { path: PathBuf },
    #[error(
        "{path} is {found}, expected {expected}; stop whatever else uses this pin directory, or pass another --pin-dir"
    )]
    Foreign { path: PathBuf, found: String, expected: String },
    #[error(
        "map {name} cannot be read or mapped into memory; look at the limit of locked memory (ulimit -l)"
    )]
    Io { name: &'static str, source: io::Error },
    #[error("cannot attach to {interface} with hook {hook}: {why}{}", advice(.why))]
    Attach { interface: String, hook: &'static str, why: String },
    #[error(
        "at most {limit} interfaces can be filtered; name fewer, or narrow the patterns in settings.managed"
    )]
    TooManyInterfaces { limit: u32 },
    #[error("no zone is left; detach the filter and start it anew")]
    ZonesUsedUp,
    #[error(
        "the kernel's description of its own types, /sys/kernel/btf/vmlinux, {what}; a kernel built with CONFIG_DEBUG_INFO_BTF is \
         needed, as distributions build theirs"
    )]
    Btf {
        what: String,
        #[source]
        error: io::Error,
    },
    #[error(
        "the kernel's clock does not tick at a known rate ({0} Hz); report it, with the kernel's version"
    )]
    Clock(u64),
}

/// What to do about a device that the kernel does not let the filter on, unless it is said already.
fn advice(why: &str) -> &'static str {
    if why.contains(';') { "" } else { "; `sgctl doctor` says what this host and its devices can do" }
}

impl KernelError {
    fn map(name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { name, source }
    }
}

/// The loaded filter.
pub struct Kernel {
    programs: Programs,
    pins: Pins,
    tables: TableMaps,
    control: Mapped<Control>,
    interfaces: Mapped<Interface>,
    shares: Mapped<Share>,
    watchers: Mapped<Watcher>,
    /// Until somebody reads them.
    events: Option<EventMaps>,
    tc_mode: TcMode,
    hz: u32,
    /// What became of flows that were over.
    pub collector: CollectorWork,
    records: RingBuf<MapData>,
    /// While another layout's filter is being replaced.
    deferred: Option<Deferred>,
    /// Counters of zones that are gone, see [`Self::take_retired`].
    retired: VecDeque<Retired>,
    writes: MapWrites,
}

/// The entry of an interface in the kernel, by its index in `INTERFACES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl Kernel {
    /// Loads the programs and makes the maps, or takes over those that are pinned under `pin_dir`. Connection tables that
    /// are there keep their sizes, as they keep their connections: see [`Self::sizes`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses anything; what was there is as it was.
    pub fn open(pin_dir: &Path, tc_mode: TcMode, sizes: TableSizes) -> Result<Self, KernelError> {
        probe::refuse_too_old()?;
        let pins = Pins::open(pin_dir)?;
        Hurry::end_of_another(Path::new(hurry::SWITCH), &pins);
        let pinned = pins::check_maps(&pins)?;
        let mut loader = EbpfLoader::new();
        for name in pins::map_names() {
            loader.map_pin_path(name, pins.map(name));
        }
        for (name, size) in sizes.by_map() {
            // Of a map that is taken over, aya believes what it is told here.
            loader.map_max_entries(name, pinned.get(name).copied().unwrap_or(size));
        }
        let layout = btf::sk_buff()?;
        loader.override_global(SkBuff::SYMBOL, &layout, true);
        let object = btf::object(OBJECT, &layout)?;
        let mut ebpf = loader.load(&object).map_err(KernelError::Load)?;
        let mut control = mapped(&ebpf, map::CONTROL)?;
        let interfaces = mapped(&ebpf, map::INTERFACES)?;
        let shares = mapped(&ebpf, map::SHARES)?;
        let watchers = mapped(&ebpf, map::WATCHERS)?;
        let events = Some(events::take(&mut ebpf)?);
        let sizes = make_flow_tables(&mut control, sizes, |name| max_entries(&ebpf, name))?;
        let tables = TableMaps::new(&mut ebpf, &control_of(&control), sizes)?;
        let records = accounts::ring(&mut ebpf)?;
        let mut programs = Programs::new(ebpf, &pins, &layout)?;
        // The others are loaded when a device needs them: the verifier takes its time over each.
        for name in [program::EXPLAIN, program::CLOCK] {
            programs.classifier(name)?;
        }
        programs.tracepoint(program::COLLECT)?;
        let mut kernel = Self {
            programs,
            pins,
            tables,
            control,
            interfaces,
            shares,
            watchers,
            events,
            tc_mode,
            hz: 0,
            collector: CollectorWork::default(),
            records,
            deferred: None,
            retired: VecDeque::new(),
            writes: MapWrites::default(),
        };
        kernel.hz = ticks::rate(&mut ticks::OfKernel { kernel: &mut kernel, begin: Instant::now() })?;
        for taken in kernel.tables.flow_fds.clean_up()? {
            kernel.shares.taken(taken);
        }
        kernel.heal();
        kernel.forget_watchers();
        Ok(kernel)
    }

    /// After a crash, what is not in force may be half staged: makes it equal to what is in force.
    fn heal(&mut self) {
        // Packets may still read what an earlier daemon deleted or replaced last.
        if self.generation() > 0 {
            grace();
        }
        self.tables.reuse();
        let parity = self.parity();
        for (vpc, address, sets) in self.tables.members() {
            if let [even, odd] = sets
                && even != odd
            {
                self.store_member_set(vpc, address, parity ^ 1, if parity == 0 { even } else { odd });
            }
        }
        for (_, slot) in self.devices() {
            self.even_out(slot);
        }
        // 0 is no zone, no policy, no set and no VPC.
        let control = self.control();
        self.store_next_ids(NextIds {
            policy: control.next_policy.max(1),
            set: control.next_set.max(1),
            vpc: control.next_vpc.max(1),
            guard: control.next_guard.max(1),
        });
        self.control.store(0, offset_of!(Control, next_zone), control.next_zone.max(1));
    }

    fn control(&self) -> Control {
        control_of(&self.control)
    }

    /// How often the policy was swapped since the maps were made.
    pub fn generation(&self) -> u64 {
        self.control().generation
    }

    /// The half that is in force.
    fn parity(&self) -> usize {
        (self.generation() & 1) as usize
    }

    /// How many flows the connection tables hold: as asked for when they were made, which may have been by an earlier
    /// daemon.
    pub fn sizes(&self) -> TableSizes {
        self.tables.sizes
    }

    /// Where the maps and links are pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    pub fn capacity(&self) -> Capacity {
        Capacity { port_tables: self.tables.port_tables(), entries: self.tables.capacity }
    }

    /// What is in the maps when the daemon starts.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn inherit(&self) -> Result<Resident, KernelError> {
        let control = self.control();
        let next = NextIds {
            policy: control.next_policy,
            set: control.next_set,
            vpc: control.next_vpc,
            guard: control.next_guard,
        };
        let (entries, tables) = self.tables.entries()?;
        Ok(Resident::inherit(next, entries, &tables))
    }

    /// Every entry of the policy's maps, as they are.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn policy_entries(&self) -> Result<Vec<Entry>, KernelError> {
        self.tables.entries().map(|(entries, _)| entries)
    }

    /// A set of ports as a table, if there is one of that index.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn port_table(&self, index: u32) -> Result<Option<ranges::Table>, KernelError> {
        self.tables.port_table(index)
    }

    /// A member's sets, in both halves.
    pub fn member_sets(&self, vpc: u32, address: IpAddr) -> Option<[u32; 2]> {
        self.tables.sets_of(vpc, address)
    }

    /// Both halves of an interface.
    pub fn halves(&self, slot: Slot) -> [Option<InterfaceHalf>; 2] {
        let halves = self.interfaces.get(slot.0).map(|interface| interface.halves);
        halves.map_or([None; 2], |halves| halves.map(Some))
    }

    /// What was written to the policy's maps since the daemon was started.
    pub fn writes(&self) -> MapWrites {
        self.writes
    }

    /// Remembers the ids that are used, before anything is written under them.
    pub fn store_next_ids(&mut self, next: NextIds) {
        let now = self.control();
        for (offset, before, id) in [
            (offset_of!(Control, next_policy), now.next_policy, next.policy),
            (offset_of!(Control, next_set), now.next_set, next.set),
            (offset_of!(Control, next_vpc), now.next_vpc, next.vpc),
            (offset_of!(Control, next_guard), now.next_guard, next.guard),
        ] {
            if before != id {
                self.control.store(0, offset, id);
                self.writes.control_stores += 1;
            }
        }
    }

    /// Adds entries in their order. Nothing in force refers to them yet: members are in no group. `done` counts them, also where not all
    /// can be written.
    ///
    /// # Errors
    ///
    /// If a map is full or the kernel refuses.
    pub fn write(&mut self, entries: &[Entry], done: &mut usize) -> Result<(), KernelError> {
        let before = *done;
        let outcome = self.tables.write(entries, done);
        self.writes.updated(entries.iter().take(*done - before));
        outcome
    }

    /// Adds a member that packets see at once, with the set that it is in.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub fn show_member(&mut self, entry: &Entry, set: u32) -> Result<(), KernelError> {
        self.tables.insert(entry, MemberSets { sets: [set; 2] })?;
        self.writes.updated([entry]);
        Ok(())
    }

    /// Deletes entries. Nothing in force refers to them any more.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to delete one; the others are deleted. An entry that is not there is no error.
    pub fn delete(&mut self, entries: &[Entry]) -> Result<(), KernelError> {
        self.writes.deleted(entries);
        self.tables.delete(entries)
    }

    /// What was deleted so far may be overwritten: every packet that may have seen it has its verdict.
    pub fn reuse(&mut self) {
        self.tables.reuse();
    }

    /// Sets the half of a member's sets that is not in force.
    pub fn stage_member(&mut self, vpc: u32, address: IpAddr, set: u32) {
        let parity = self.parity() ^ 1;
        self.store_member_set(vpc, address, parity, set);
    }

    fn store_member_set(&mut self, vpc: u32, address: IpAddr, parity: usize, set: u32) {
        if self.tables.store_set(vpc, address, parity, set) {
            self.writes.set_stored(address);
        }
    }

    /// Sets the half of an interface that is not in force.
    pub fn stage_interface(&mut self, slot: Slot, half: InterfaceHalf) {
        let parity = self.parity() ^ 1;
        self.store_half(slot, parity, half);
    }

    /// Makes the half of an interface that is not in force equal to the one that is.
    pub fn even_out(&mut self, slot: Slot) {
        if let Some(half) = self.half(slot) {
            self.stage_interface(slot, half);
        }
    }

    fn store_half(&mut self, slot: Slot, parity: usize, half: InterfaceHalf) {
        let offset = offset_of!(Interface, halves) + parity * size_of::<InterfaceHalf>();
        self.interfaces.store(slot.0, offset, half);
        self.writes.interface_stores += 1;
    }

    /// Puts everything staged in force, on all interfaces at once, for packets that come from now on. If nothing is staged,
    /// both sides are the same and no packet sees a difference.
    pub fn flip(&mut self) -> u64 {
        let generation = self.generation() + 1;
        self.control.store(0, offset_of!(Control, generation), generation);
        self.writes.control_stores += 1;
        generation
    }

    /// Waits until every packet that is being judged now has its verdict.
    pub fn settle(&self) {
        grace();
    }

    /// An entry for a device: taken over if there is one, else a free one with a zone of its own. In either case both
    /// halves of a new entry are `half`, and a packet that is seen before the next swap is judged by it.
    ///
    /// # Errors
    ///
    /// If the tables are full.
    pub fn claim(&mut self, ifindex: u32, half: InterfaceHalf) -> Result<Slot, KernelError> {
        let mut free = None;
        for probe in 0..INTERFACE_PROBES {
            let index = interface_slot(ifindex, probe);
            let Some(interface) = self.interfaces.get(index) else { continue };
            if interface.ifindex == ifindex {
                return Ok(Slot(index));
            }
            if interface.ifindex == 0 && free.is_none() {
                free = Some(index);
            }
        }
        let limit = MAX_INTERFACES;
        let index = free.ok_or(KernelError::TooManyInterfaces { limit })?;
        let rows: BTreeSet<u32> = self.entries().map(|(_, interface)| interface.row).collect();
        let row =
            (1..=limit).find(|row| !rows.contains(row)).ok_or(KernelError::TooManyInterfaces { limit })?;
        let zone = self.control().next_zone;
        if zone >= MAX_ZONES {
            return Err(KernelError::ZonesUsedUp);
        }
        self.tables.clear_counters(row)?;
        let share = Share {
            live: 0,
            half_v4: 0,
            half_v6: 0,
            zone,
            account_limit: 0,
            datagrams_v4: 0,
            datagrams_v6: 0,
            accounts: 0,
            unrecorded: 0,
        };
        self.shares.set(row, share);
        self.control.store(0, offset_of!(Control, next_zone), zone + 1);
        let entry = Interface {
            ifindex: 0,
            zone,
            row,
            live_limit: 0,
            half_limit_v4: 0,
            half_base_v4: 0,
            half_limit_v6: 0,
            half_base_v6: 0,
            datagram_limit: 0,
            datagram_base: 0,
            watched: self.watched_of(ifindex),
            halves: [half; 2],
        };
        self.interfaces.set(index, entry);
        // Last, as programs look for it.
        self.interfaces.store(index, offset_of!(Interface, ifindex), ifindex);
        self.share_out();
        Ok(Slot(index))
    }

    /// Gives every interface an equal part of the tables of connections and of datagrams in pieces, so that none can take another's (SPEC D16). Parts
    /// are sized for the next power of two of interfaces, 16 at least, so they rarely change; flows beyond a part that
    /// shrinks stay until they are over.
    fn share_out(&mut self) {
        let rows: Vec<(Slot, u32)> = self.entries().map(|(slot, interface)| (slot, interface.row)).collect();
        let highest = rows.iter().map(|(_, row)| *row).max().unwrap_or(0);
        let parts = highest.next_power_of_two().max(16);
        let TableSizes { live, half_open_v4, half_open_v6 } = self.tables.sizes;
        let [live, half_v4, half_v6, datagrams, accounts] =
            [live, half_open_v4, half_open_v6, DATAGRAMS, self.tables.account_room].map(|room| room / parts);
        for (slot, row) in rows {
            for (offset, value) in [
                (offset_of!(Interface, live_limit), live),
                (offset_of!(Interface, half_limit_v4), half_v4),
                (offset_of!(Interface, half_base_v4), half_v4 * (row - 1)),
                (offset_of!(Interface, half_limit_v6), half_v6),
                (offset_of!(Interface, half_base_v6), half_v6 * (row - 1)),
                (offset_of!(Interface, datagram_limit), datagrams),
                (offset_of!(Interface, datagram_base), datagrams * (row - 1)),
            ] {
                self.interfaces.store(slot.0, offset, value);
            }
            self.shares.store(row, offset_of!(Share, account_limit), accounts);
        }
    }

    /// Frees the entries of devices that no program is attached to any more, and their flows. Their zones are never used again.
    pub fn release(&mut self, slots: &[Slot]) {
        if slots.is_empty() {
            return;
        }
        for slot in slots {
            self.interfaces.store(slot.0, offset_of!(Interface, ifindex), 0u32);
        }
        grace();
        for slot in slots {
            let (zone, row) =
                self.interfaces.get(slot.0).map_or((0, 0), |interface| (interface.zone, interface.row));
            self.retire(zone, row);
            if let Err(error) = self.purge(zone) {
                tracing::warn!(%error, "flows of a device that is gone stay until they are over");
            }
        }
    }

    /// How many live flows an interface has, and how many it may have.
    pub fn live_flows(&self, slot: Slot) -> (u64, u32) {
        let Some(interface) = self.interfaces.get(slot.0) else { return (0, 0) };
        (self.shares.get(interface.row).map_or(0, |share| share.live), interface.live_limit)
    }

    /// How many live flows there are on all interfaces together.
    pub fn live_flows_of_all(&self) -> u64 {
        self.entries().filter_map(|(_, interface)| Some(self.shares.get(interface.row)?.live)).sum()
    }

    /// Every device that has an entry: its index and its entry.
    pub fn devices(&self) -> Vec<(u32, Slot)> {
        self.entries().map(|(slot, interface)| (interface.ifindex, slot)).collect()
    }

    fn entries(&self) -> impl Iterator<Item = (Slot, Interface)> {
        (0..self.interfaces.len()).filter_map(|index| {
            let interface = self.interfaces.get(index)?;
            (interface.ifindex != 0).then_some((Slot(index), interface))
        })
    }

    /// The zone of an interface.
    pub fn zone(&self, slot: Slot) -> Option<u32> {
        self.interfaces.get(slot.0).map(|interface| interface.zone)
    }

    /// The interface's row in the counters.
    pub fn row(&self, slot: Slot) -> Option<u32> {
        self.interfaces.get(slot.0).map(|interface| interface.row)
    }

    /// How many zones were ever given away; none is used twice.
    pub fn zones_used(&self) -> u32 {
        self.control().next_zone.saturating_sub(1)
    }

    /// What is in force on an interface now.
    pub fn half(&self, slot: Slot) -> Option<InterfaceHalf> {
        let parity = self.parity();
        self.interfaces.get(slot.0).and_then(|interface| interface.halves.get(parity).copied())
    }

    /// Jiffies, from seconds.
    pub fn jiffies(&self, seconds: u32) -> u64 {
        u64::from(seconds) * u64::from(self.hz)
    }

    /// The kernel's ticks in a second.
    pub fn hz(&self) -> u32 {
        self.hz
    }

    /// What programs take for the time, in jiffies.
    pub fn now(&mut self) -> Result<u64, KernelError> {
        Ok(self.raw_jiffies()?.wrapping_add(self.control().clock_offset))
    }

    /// Turns the programs' clock forward. For tests.
    pub fn advance_clock(&mut self, seconds: u32) {
        let offset = self.control().clock_offset + self.jiffies(seconds);
        self.control.store(0, offset_of!(Control, clock_offset), offset);
    }

    /// The timeouts in jiffies, by `State`, and how much of a delay in writing them does not matter.
    pub fn timeouts(&self, timeouts: &Timeouts) -> ([u32; 12], u32) {
        let seconds = [
            timeouts.tcp_syn_sent,
            timeouts.tcp_syn_recv,
            timeouts.tcp_established,
            timeouts.tcp_fin_wait,
            timeouts.tcp_close_wait,
            timeouts.tcp_last_ack,
            timeouts.tcp_time_wait,
            timeouts.tcp_close,
            timeouts.udp,
            timeouts.udp_stream,
            timeouts.icmp,
            timeouts.other,
        ];
        (seconds.map(|seconds| self.jiffies(seconds).try_into().unwrap_or(u32::MAX)), self.hz / 16)
    }
}

fn control_of(control: &Mapped<Control>) -> Control {
    // The map has one element.
    control.get(0).unwrap_or(Control {
        generation: 0,
        clock_offset: 0,
        next_zone: 1,
        next_policy: 1,
        next_set: 1,
        next_vpc: 1,
        next_guard: 1,
        watch_unknown: 0,
        account: 0,
        watch_places: 0,
        buckets_v4: 0,
        buckets_v6: 0,
        live_flows: 0,
        reserved: 0,
        secret: [0; SECRETS],
    })
}

/// Says what the tables of flows are like, unless an earlier daemon has: before any program looks, and for as long as there are the maps.
fn make_flow_tables(
    control: &mut Mapped<Control>,
    asked: TableSizes,
    entries: impl Fn(&'static str) -> Result<u32, KernelError>,
) -> Result<TableSizes, KernelError> {
    let made = control_of(control).live_flows;
    let (sizes, [v4, v6]) = TableSizes::from_maps(if made == 0 { asked.live } else { made }, entries)?;
    if made == 0 {
        let secret =
            flow_memory::secret().map_err(|source| KernelError::Io { name: map::CONTROL, source })?;
        control.store(0, offset_of!(Control, secret), secret);
        control.store(0, offset_of!(Control, buckets_v4), v4);
        control.store(0, offset_of!(Control, buckets_v6), v6);
        // Last: all of it is said.
        control.store(0, offset_of!(Control, live_flows), sizes.live);
    }
    Ok(sizes)
}

/// All elements of an array map, as memory.
fn mapped<T: aya::Pod>(ebpf: &Ebpf, name: &'static str) -> Result<Mapped<T>, KernelError> {
    let len = max_entries(ebpf, name)?;
    Mapped::new(map_data(ebpf, name)?.fd().as_fd(), len).map_err(|source| KernelError::Io { name, source })
}

fn max_entries(ebpf: &Ebpf, name: &'static str) -> Result<u32, KernelError> {
    Ok(map_data(ebpf, name)?.info().map_err(KernelError::map(name))?.max_entries())
}

/// An array, hash map or trie of the object.
fn map_data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, KernelError> {
    match ebpf.map(name) {
        Some(Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) | Map::PerCpuArray(data)) => Ok(data),
        _ => Err(KernelError::Missing { name }),
    }
}
