//! Image and what is in the kernel → what to write, to stage and to delete. Pure: the kernel is not asked.
//!
//! Nothing that a packet can see is ever changed: a policy that is not in the kernel yet is written under a new id, a
//! membership set under a new id, and the entries of the old ones are deleted after the swap. The only words that change
//! in place are the halves of interfaces and member sets that are not in force (see `sg_common::abi::Control`).

mod expected;
mod patch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sg_common::abi::{self, Direction, PairKey, PolicyDirection, PortSet, Row};

use self::patch::{Leftover, pair_key};
pub use self::patch::{Patch, Step, patch};
use crate::compile::image::{Cells, GuardImage, Image, PolicyImage, SetName, VpcName};
use crate::compile::ranges::Ranges;

/// One entry of a map whose entries are never changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    PortTable {
        index: u32,
        ranges: Ranges,
    },
    Class {
        policy: PolicyDirection,
        net: IpNet,
        row: Row,
    },
    Pair {
        key: PairKey,
        row: Row,
    },
    Member {
        vpc: u32,
        address: IpAddr,
    },
    /// An address that a guest may use, or by what is set in `guard` (`GUARD_ROUTER`, `GUARD_DHCP` of the ABI) a router or
    /// a DHCP server of it.
    Own {
        guard: u32,
        address: IpAddr,
    },
}

/// A table of entries, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    PortSets,
    ClassesV4,
    ClassesV6,
    Pairs,
    MembersV4,
    MembersV6,
    OwnV4,
    OwnV6,
}

impl Table {
    pub const COUNT: usize = 8;
    /// Those whose entries are counted one by one; port sets are tables of their own.
    pub const OF_ENTRIES: [Self; 7] = [
        Self::ClassesV4,
        Self::ClassesV6,
        Self::Pairs,
        Self::MembersV4,
        Self::MembersV6,
        Self::OwnV4,
        Self::OwnV6,
    ];

    /// For programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortSets => "port_sets",
            Self::ClassesV4 => "classes_v4",
            Self::ClassesV6 => "classes_v6",
            Self::Pairs => "pairs",
            Self::MembersV4 => "members_v4",
            Self::MembersV6 => "members_v6",
            Self::OwnV4 => "own_v4",
            Self::OwnV6 => "own_v6",
        }
    }

    /// What its entries are, for people.
    pub const fn what(self) -> &'static str {
        match self {
            Self::PortSets => "sets of ports that are not one range",
            Self::ClassesV4 => "IPv4 prefixes of rules",
            Self::ClassesV6 => "IPv6 prefixes of rules",
            Self::Pairs => "rules between groups",
            Self::MembersV4 => "IPv4 member addresses",
            Self::MembersV6 => "IPv6 member addresses",
            Self::OwnV4 => "IPv4 addresses of guests, routers and DHCP servers",
            Self::OwnV6 => "IPv6 addresses of guests, routers and DHCP servers",
        }
    }
}

impl Entry {
    pub fn table(&self) -> Table {
        match self {
            Self::PortTable { .. } => Table::PortSets,
            Self::Class { net: IpNet::V4(_), .. } => Table::ClassesV4,
            Self::Class { net: IpNet::V6(_), .. } => Table::ClassesV6,
            Self::Pair { .. } => Table::Pairs,
            Self::Member { address: IpAddr::V4(_), .. } => Table::MembersV4,
            Self::Member { address: IpAddr::V6(_), .. } => Table::MembersV6,
            Self::Own { address: IpAddr::V4(_), .. } => Table::OwnV4,
            Self::Own { address: IpAddr::V6(_), .. } => Table::OwnV6,
        }
    }
}

/// How many entries a plan writes and deletes, by what they are.
pub fn counts(plan: &Plan) -> BTreeMap<&'static str, (usize, usize)> {
    let mut counts: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    for entry in &plan.write {
        counts.entry(entry.table().what()).or_default().0 += 1;
    }
    for entry in &plan.delete {
        counts.entry(entry.table().what()).or_default().1 += 1;
    }
    counts
}

/// Ids never used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextIds {
    pub policy: u32,
    pub set: u32,
    pub vpc: u32,
    pub guard: u32,
}

/// How much fits.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub port_tables: u32,
    /// Of each [`Table`].
    pub entries: [u32; Table::COUNT],
}

/// A pool of numbers below a limit.
#[derive(Debug, Clone, Default)]
struct Pool {
    next: u32,
    free: BTreeSet<u32>,
}

impl Pool {
    fn take(&mut self, limit: u32) -> Option<u32> {
        if let Some(number) = self.free.pop_first() {
            return Some(number);
        }
        (self.next < limit).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// The number that [`Self::take`] would give after `before` others.
    fn nth(&self, before: usize, limit: u32) -> Option<u32> {
        self.free.iter().copied().chain(self.next..limit).nth(before)
    }

    /// Takes a number that [`Self::nth`] has told.
    fn take_this(&mut self, number: u32) {
        if !self.free.remove(&number) {
            self.free.extend(self.next..number);
            self.next = self.next.max(number + 1);
        }
    }

    fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }
}

/// A membership set in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemberSet {
    id: u32,
    /// How many addresses are in it.
    members: usize,
}

/// What the daemon knows to be in the kernel, by content.
#[derive(Debug, Clone)]
pub struct Resident {
    next: NextIds,
    policies: HashMap<Arc<PolicyImage>, u32>,
    sets: HashMap<Arc<SetName>, MemberSet>,
    vpcs: HashMap<VpcName, u32>,
    /// The set that each address of a VPC is in.
    members: BTreeMap<(u32, IpAddr), u32>,
    pairs: HashMap<PairKey, Row>,
    guards: HashMap<Arc<GuardImage>, u32>,
    port_tables: HashMap<Ranges, u32>,
    table_indexes: Pool,
    /// Entries that an earlier daemon left: in force until the first swap, then deleted.
    inherited: Vec<Entry>,
    /// Of patches: in the kernel, in force no more.
    leftover: Leftover,
    /// How many entries each [`Table`] has. Port tables have a pool instead.
    entries: [u32; Table::COUNT],
}

impl Resident {
    /// The kernel as an earlier daemon left it: `inherited` are the entries that were found, whose ids and
    /// tables are not used again while they are in force.
    pub fn inherit(next: NextIds, inherited: Vec<Entry>, tables_in_use: &BTreeSet<u32>) -> Self {
        Self {
            next,
            policies: HashMap::new(),
            sets: HashMap::new(),
            vpcs: HashMap::new(),
            members: BTreeMap::new(),
            pairs: HashMap::new(),
            guards: HashMap::new(),
            port_tables: HashMap::new(),
            table_indexes: pool_around(tables_in_use),
            entries: counted([0; Table::COUNT], &inherited),
            inherited,
            leftover: Leftover::default(),
        }
    }

    pub fn next_ids(&self) -> NextIds {
        self.next
    }

    /// How many entries each kind of table has, for people.
    pub fn policies(&self) -> usize {
        self.policies.len()
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    pub fn port_tables(&self) -> usize {
        self.port_tables.len()
    }

    /// Entries of each kind of table, in the order of [`Table`]; of port tables those that policies in force use.
    pub fn entries(&self) -> [u32; Table::COUNT] {
        let mut entries = self.entries;
        if let Some(tables) = entries.get_mut(Table::PortSets as usize) {
            *tables = self.port_tables.len() as u32;
        }
        entries
    }
}

fn counted(mut entries: [u32; Table::COUNT], more: &[Entry]) -> [u32; Table::COUNT] {
    for entry in more {
        if let Some(count) = entries.get_mut(entry.table() as usize) {
            *count += 1;
        }
    }
    entries
}

/// A pool in which the numbers of `used` are taken.
fn pool_around(used: &BTreeSet<u32>) -> Pool {
    let next = used.last().map_or(0, |last| last + 1);
    Pool { next, free: (0..next).filter(|number| !used.contains(number)).collect() }
}

/// The set that an address is to be in; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    pub vpc: u32,
    pub address: IpAddr,
    pub set: u32,
}

/// The steps from one policy to the next.
#[derive(Debug)]
pub struct Plan {
    /// To add before the swap, in this order. Invisible until then.
    pub write: Vec<Entry>,
    /// For the halves that are not in force; after the swap for the others too.
    pub stage_members: Vec<Staged>,
    /// The kernel's id of each of [`Image::policies`].
    pub policy_ids: Vec<u32>,
    pub vpc_ids: HashMap<VpcName, u32>,
    pub guard_ids: HashMap<Arc<GuardImage>, u32>,
    /// To delete after the swap, when no packet sees the old policy any more.
    pub delete: Vec<Entry>,
    /// What is in the kernel when all of this is done.
    pub resident: Resident,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error(
        "the policy needs more than {limit} different sets of ports that are not one range; give rules ranges, or the same ports"
    )]
    TooManyPortTables { limit: u32 },
    #[error("there is room for {limit} {}; the policy in force and the new one need {needed} together; change it in two steps, or by fewer rules", .table.what())]
    TableFull { table: Table, needed: u32, limit: u32 },
    #[error("the ids of {what} are used up; detach the filter and start it anew")]
    IdsUsedUp { what: &'static str },
}

/// Plans the way from what is in the kernel to `image`.
///
/// # Errors
///
/// If a table is too small; nothing has changed then.
pub fn plan(image: &Image, now: &Resident, capacity: Capacity) -> Result<Plan, PlanError> {
    let mut next = now.clone();
    next.inherited.clear();
    let leftover = std::mem::take(&mut next.leftover);
    let mut work = Work { next, capacity, tables: Vec::new(), write: Vec::new() };

    let vpc_ids = work.vpcs(image)?;
    let (policy_ids, gone_policies) = work.policies(image, now)?;
    let sets = work.sets(image)?;
    let gone_pairs = work.pairs(image, now, &policy_ids, &sets)?;
    let (guard_ids, gone_guards) = work.guards(image, now)?;
    let (stage_members, gone_members) = work.members(image, now, &vpc_ids, &sets);

    let Work { mut next, mut write, tables, .. } = work;
    // Tables first: nothing may refer to a table that is not written.
    write.splice(0..0, tables);

    let mut delete = now.inherited.clone();
    delete.extend(leftover.entries);
    for (policy, id) in gone_policies {
        delete.extend(class_entries(&policy, id, |_| Some(PortSet::EMPTY)));
    }
    delete.extend(gone_pairs);
    delete.extend(gone_guards);
    delete.extend(gone_members);
    // Old and new are there at once for a while.
    let needed = counted(now.entries, &write);
    for table in Table::OF_ENTRIES {
        let of = |counts: &[u32; Table::COUNT]| counts.get(table as usize).copied().unwrap_or(0);
        let (needed, limit) = (of(&needed), of(&capacity.entries));
        if needed > limit {
            return Err(PlanError::TableFull { table, needed, limit });
        }
    }
    let gone = counted([0; Table::COUNT], &delete);
    next.entries = needed;
    for (left, gone) in next.entries.iter_mut().zip(gone) {
        *left = left.saturating_sub(gone);
    }
    release_inherited(&now.inherited, &mut next);
    next.release_tables();
    Ok(Plan { write, stage_members, policy_ids, vpc_ids, guard_ids, delete, resident: next })
}

fn release_inherited(inherited: &[Entry], next: &mut Resident) {
    for entry in inherited {
        match entry {
            Entry::Class { row, .. } | Entry::Pair { row, .. } => {
                table_indexes(row).for_each(|index| next.table_indexes.give_back(index));
            }
            Entry::PortTable { .. } | Entry::Member { .. } | Entry::Own { .. } => {}
        }
    }
}

/// The `PORT_SETS` elements that a row refers to.
pub fn table_indexes(row: &Row) -> impl Iterator<Item = u32> {
    [row.tcp, row.udp, row.icmp, row.other].into_iter().filter_map(|set| match set.kind() {
        abi::PortSetKind::Table(index) => Some(index),
        _ => None,
    })
}

impl Resident {
    /// Forgets the tables that no policy and no pair refers to any more.
    fn release_tables(&mut self) {
        let mut used: HashSet<&Ranges> = HashSet::new();
        for policy in self.policies.keys() {
            for direction in [&policy.inbound, &policy.outbound] {
                let classes = direction.v4.values().chain(direction.v6.values());
                used.extend(classes.flat_map(Cells::columns).filter(|ranges| needs_table(ranges)));
            }
        }
        let indexes: HashSet<u32> = self.pairs.values().flat_map(table_indexes).collect();
        let gone: Vec<Ranges> = self
            .port_tables
            .iter()
            .filter(|(ranges, index)| !used.contains(*ranges) && !indexes.contains(*index))
            .map(|(ranges, _)| ranges.clone())
            .collect();
        for ranges in gone {
            if let Some(index) = self.port_tables.remove(&ranges) {
                self.table_indexes.give_back(index);
            }
        }
    }
}

fn needs_table(ranges: &Ranges) -> bool {
    ranges.as_slice().len() > 1
}

/// A plan in the making.
struct Work {
    next: Resident,
    capacity: Capacity,
    tables: Vec<Entry>,
    write: Vec<Entry>,
}

impl Work {
    fn vpcs(&mut self, image: &Image) -> Result<HashMap<VpcName, u32>, PlanError> {
        let mut ids = HashMap::new();
        let names = image.interfaces.iter().map(|interface| &interface.vpc);
        for name in names.chain(image.members.iter().map(|(vpc, ..)| vpc)) {
            if ids.contains_key(name) {
                continue;
            }
            let id = match self.next.vpcs.get(name) {
                Some(&id) => id,
                None => fresh(&mut self.next.next.vpc, u32::MAX, "VPCs")?,
            };
            ids.insert(name.clone(), id);
        }
        self.next.vpcs.clone_from(&ids);
        Ok(ids)
    }

    /// Ids for the image's policies, and the policies that are not needed any more.
    #[expect(clippy::type_complexity, reason = "two plain lists")]
    fn policies(
        &mut self,
        image: &Image,
        now: &Resident,
    ) -> Result<(Vec<u32>, Vec<(Arc<PolicyImage>, u32)>), PlanError> {
        let mut kept = HashMap::new();
        let mut ids = Vec::with_capacity(image.policies.len());
        for policy in &image.policies {
            let id = match now.policies.get(policy) {
                Some(&id) => id,
                None => {
                    let limit = abi::MAX_POLICY_ID;
                    let id = fresh(&mut self.next.next.policy, limit, "policies")?;
                    let mut failed = None;
                    let entries = class_entries(policy, id, |ranges| match self.port_set(ranges) {
                        Ok(set) => Some(set),
                        Err(error) => {
                            failed = Some(error);
                            None
                        }
                    });
                    if let Some(error) = failed {
                        return Err(error);
                    }
                    self.write.extend(entries);
                    id
                }
            };
            kept.insert(Arc::clone(policy), id);
            ids.push(id);
        }
        let gone = now.policies.iter().filter(|(policy, _)| !kept.contains_key(*policy));
        let gone = gone.map(|(policy, &id)| (Arc::clone(policy), id)).collect();
        self.next.policies = kept;
        Ok((ids, gone))
    }

    fn sets(&mut self, image: &Image) -> Result<HashMap<Arc<SetName>, u32>, PlanError> {
        let mut sets: HashMap<Arc<SetName>, MemberSet> = HashMap::new();
        for (_, _, set) in image.members.iter() {
            if let Some(known) = sets.get_mut(set) {
                known.members += 1;
                continue;
            }
            let id = match self.next.sets.get(set) {
                Some(known) => known.id,
                None => fresh(&mut self.next.next.set, u32::MAX >> 1, "membership sets")?,
            };
            sets.insert(Arc::clone(set), MemberSet { id, members: 1 });
        }
        let ids = sets.iter().map(|(set, known)| (Arc::clone(set), known.id)).collect();
        self.next.sets = sets;
        Ok(ids)
    }

    /// What each policy's `@group` rules say of each set; returns the entries that are over.
    fn pairs(
        &mut self,
        image: &Image,
        now: &Resident,
        policy_ids: &[u32],
        sets: &HashMap<Arc<SetName>, u32>,
    ) -> Result<Vec<Entry>, PlanError> {
        let mut wanted = HashMap::new();
        // Sorted, so that equal inputs give equal plans.
        let mut sets: Vec<(&Arc<SetName>, u32)> = sets.iter().map(|(set, &id)| (set, id)).collect();
        sets.sort_unstable();
        for (policy, &id) in image.policies.iter().zip(policy_ids) {
            for (set, set_id) in &sets {
                for (direction, ipv6, cells) in policy.says_of(set) {
                    wanted.insert(pair_key(id, direction, *set_id, ipv6), self.row(&cells)?);
                }
            }
        }
        for (key, row) in &wanted {
            if !now.pairs.contains_key(key) {
                self.write.push(Entry::Pair { key: *key, row: *row });
            }
        }
        let gone = now.pairs.iter().filter(|(key, _)| !wanted.contains_key(*key));
        let gone = gone.map(|(key, row)| Entry::Pair { key: *key, row: *row }).collect();
        self.next.pairs = wanted;
        Ok(gone)
    }

    /// Ids for the addresses that guests may use; returns the entries that are over.
    #[expect(clippy::type_complexity, reason = "a map and a list")]
    fn guards(
        &mut self,
        image: &Image,
        now: &Resident,
    ) -> Result<(HashMap<Arc<GuardImage>, u32>, Vec<Entry>), PlanError> {
        let mut ids = HashMap::new();
        for interface in &image.interfaces {
            if ids.contains_key(&interface.guard) {
                continue;
            }
            let id = match now.guards.get(&interface.guard) {
                Some(&id) => id,
                None => {
                    let id = fresh(&mut self.next.next.guard, abi::MAX_GUARDS, "guards")?;
                    self.write.extend(own_entries(&interface.guard, id));
                    id
                }
            };
            ids.insert(Arc::clone(&interface.guard), id);
        }
        let gone = now.guards.iter().filter(|(guard, _)| !ids.contains_key(*guard));
        let gone = gone.flat_map(|(guard, &id)| own_entries(guard, id)).collect();
        self.next.guards.clone_from(&ids);
        Ok((ids, gone))
    }

    /// Stages the sets of addresses; returns what to stage and the entries that are over.
    fn members(
        &mut self,
        image: &Image,
        now: &Resident,
        vpcs: &HashMap<VpcName, u32>,
        sets: &HashMap<Arc<SetName>, u32>,
    ) -> (Vec<Staged>, Vec<Entry>) {
        let mut stage = Vec::new();
        let mut wanted = BTreeMap::new();
        for (vpc, address, set) in image.members.iter() {
            let (Some(&vpc), Some(&set)) = (vpcs.get(vpc), sets.get(set)) else { continue };
            let before = now.members.get(&(vpc, address));
            if before.is_none() {
                self.write.push(Entry::Member { vpc, address });
            }
            if before != Some(&set) {
                stage.push(Staged { vpc, address, set });
            }
            wanted.insert((vpc, address), set);
        }
        let mut gone = Vec::new();
        for &(vpc, address) in now.members.keys() {
            if !wanted.contains_key(&(vpc, address)) {
                stage.push(Staged { vpc, address, set: 0 });
                gone.push(Entry::Member { vpc, address });
            }
        }
        self.next.members = wanted;
        (stage, gone)
    }

    fn row(&mut self, cells: &Cells) -> Result<Row, PlanError> {
        Ok(Row {
            tcp: self.port_set(&cells.tcp)?,
            udp: self.port_set(&cells.udp)?,
            icmp: self.port_set(&cells.icmp)?,
            other: self.port_set(&cells.other)?,
        })
    }

    fn port_set(&mut self, ranges: &Ranges) -> Result<PortSet, PlanError> {
        match ranges.as_slice() {
            [] => return Ok(PortSet::EMPTY),
            &[(low, high)] => return Ok(PortSet::range(low, high)),
            _ => {}
        }
        let limit = self.capacity.port_tables.min(PortSet::MAX_TABLES);
        let index = match self.next.port_tables.get(ranges) {
            Some(&index) => index,
            None => {
                let index =
                    self.next.table_indexes.take(limit).ok_or(PlanError::TooManyPortTables { limit })?;
                self.next.port_tables.insert(ranges.clone(), index);
                self.tables.push(Entry::PortTable { index, ranges: ranges.clone() });
                index
            }
        };
        PortSet::table(index).ok_or(PlanError::TooManyPortTables { limit })
    }
}

/// The class entries of a policy; `port_set` may give up with `None`, which ends the list early.
fn class_entries(
    policy: &PolicyImage,
    id: u32,
    mut port_set: impl FnMut(&Ranges) -> Option<PortSet>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        let rules = policy.direction(direction);
        let classes = rules.v4.iter().map(|(net, cells)| (IpNet::V4(*net), cells));
        for (net, cells) in classes.chain(rules.v6.iter().map(|(net, cells)| (IpNet::V6(*net), cells))) {
            let (Some(tcp), Some(udp), Some(icmp), Some(other)) =
                (port_set(&cells.tcp), port_set(&cells.udp), port_set(&cells.icmp), port_set(&cells.other))
            else {
                return entries;
            };
            let row = Row { tcp, udp, icmp, other };
            entries.push(Entry::Class { policy: PolicyDirection::new(id, direction), net, row });
        }
    }
    entries
}

fn own_entries(guard: &GuardImage, id: u32) -> impl Iterator<Item = Entry> {
    let own = guard.own.iter().map(move |&address| Entry::Own { guard: id, address });
    let routers = guard.routers.iter();
    let routers =
        routers.map(move |&router| Entry::Own { guard: id | abi::GUARD_ROUTER, address: router.into() });
    let servers = guard.dhcp_servers.iter();
    own.chain(routers).chain(servers.map(move |&address| Entry::Own { guard: id | abi::GUARD_DHCP, address }))
}

fn fresh(next: &mut u32, limit: u32, what: &'static str) -> Result<u32, PlanError> {
    if *next >= limit {
        return Err(PlanError::IdsUsedUp { what });
    }
    let id = *next;
    *next += 1;
    Ok(id)
}
