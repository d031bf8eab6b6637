//! A change so small that one element of one map makes it: no swap is needed, and nothing is written anew.
//!
//! A swap exists because a packet must be judged by the old policy or by the new one, whole (D21), and a policy is many
//! elements. Where the two differ in one element that packets can see, that element's insertion, replacement or deletion
//! is itself the step between the two: a packet that looks for it finds it as it was or as it is. There are two such
//! changes, and they are the frequent ones: a member more or less, and rules on one network.
//!
//! A member that is in other groups than before is none of them, as its set stands in two words, one for each parity: that is a
//! swap's work.
//!
//! Steps follow each other without a pause where no packet can see two of them: a packet has one remote, and asks one policy
//! about it. Where one could, it might see the first element as it was and the second as it has become, which no policy said:
//! a rule is to take the place of a member, and the packet finds neither. Then the second step waits until every packet that
//! was being judged has its verdict.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sg_common::abi::{Direction, PairKey, PolicyDirection, PortSet, Row};
use sg_common::family::{Family, V4, V6};

use super::{Capacity, Entry, MemberSet, NextIds, Resident, Table, counted};
use crate::compile::image::{Cells, DirectionImage, Image, PolicyImage, SetName};
use crate::compile::members::Difference;
use crate::compile::ranges::Ranges;
use crate::policy::model::OnRuleChange;

/// The one element that packets see.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A member more, in a set.
    Show { member: Entry, set: u32 },
    /// A member less.
    Hide { member: Entry },
    /// What rules say of a network, of which they said nothing else than of the one around it.
    Add { class: Entry },
    /// What they say of it from now on.
    Replace { class: Entry },
    /// They say nothing of it any more.
    Remove { class: Entry },
}

/// The way from one policy to the next in one step that packets see.
#[derive(Debug)]
pub struct Patch {
    /// To add before the step, in this order. Invisible until then.
    pub write: Vec<Entry>,
    pub step: Step,
    next_ids: NextIds,
    /// Sets of ports that are in the kernel then, with their indexes.
    tables: Vec<(Ranges, u32)>,
    what: What,
}

#[derive(Debug)]
enum What {
    Member { vpc: u32, address: IpAddr, set: Arc<SetName>, set_id: u32, pairs: Vec<(PairKey, Row)> },
    NoMember { vpc: u32, address: IpAddr, set: Arc<SetName> },
    Policy { before: Arc<PolicyImage>, after: Arc<PolicyImage>, id: u32, policy: PolicyDirection, net: IpNet },
}

/// Which packets see a step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reach {
    /// Those with a remote in this network,
    net: IpNet,
    /// and that are judged by this policy, if any.
    policy: Option<PolicyDirection>,
}

impl Reach {
    /// Whether no packet sees the one step as it was before, and the other one as it is.
    fn is_apart_from(self, other: Self) -> bool {
        let disjoint = !self.net.contains(&other.net) && !other.net.contains(&self.net);
        let unlike = |(mine, others): (PolicyDirection, PolicyDirection)| {
            // Of the same element a packet sees one state.
            mine.policy() != others.policy() || (mine == others && self.net == other.net)
        };
        disjoint || self.policy.zip(other.policy).is_some_and(unlike)
    }
}

/// Behind so many steps packets are waited for, whatever they see: events tell generations apart by their lowest bits.
const STEPS: usize = 64;

/// What was in force a step ago, and may still be seen by a packet that is under way: to be deleted, and to be used again,
/// when every packet that was being judged has its verdict.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftover {
    pub entries: Vec<Entry>,
    /// Whether sets of ports may have fallen out of use.
    pub tables: bool,
    /// The steps since packets were waited for last, with the generations that they began.
    steps: Vec<(u64, Reach)>,
}

impl Leftover {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.tables && self.steps.is_empty()
    }
}

impl Patch {
    pub fn next_ids(&self) -> NextIds {
        self.next_ids
    }

    /// How many entries it adds or replaces, and how many it deletes.
    pub fn counts(&self) -> (usize, usize) {
        let (more, less) = match self.step {
            Step::Show { .. } | Step::Add { .. } | Step::Replace { .. } => (1, 0),
            Step::Hide { .. } | Step::Remove { .. } => (0, 1),
        };
        (self.write.len() + more, less)
    }

    fn reach(&self) -> Reach {
        match self.what {
            What::Member { address, .. } | What::NoMember { address, .. } => {
                Reach { net: address.into(), policy: None }
            }
            What::Policy { policy, net, .. } => Reach { net, policy: Some(policy) },
        }
    }
}

/// The one step from `before` to `image`, if there is one; `now` is what is in the kernel: `before`, and what is left of steps.
pub fn patch(image: &Image, before: &Image, now: &Resident, capacity: Capacity) -> Option<Patch> {
    // Who has connections cut waits until no packet sees the old policy: that is a swap's work.
    let keep = image.on_rule_change == OnRuleChange::Keep && before.on_rule_change == OnRuleChange::Keep;
    let same_frame = image.policies.len() == before.policies.len() && image.interfaces == before.interfaces;
    if !keep || !same_frame || !now.inherited.is_empty() {
        return None;
    }
    let mut differences = before.members.differences(&image.members);
    let mut policies =
        before.policies.iter().zip(&image.policies).filter(|(old, new)| !Arc::ptr_eq(old, new) && old != new);
    let work = Work { now, capacity, image, tables: Vec::new(), write: Vec::new() };
    match (differences.next(), policies.next()) {
        (Some(member), None) if differences.next().is_none() => match (member.before, member.after) {
            (None, Some(set)) => work.member(member, set),
            (Some(set), None) => work.no_member(member, set),
            _ => None,
        },
        (None, Some((old, new))) if policies.next().is_none() => work.policy(old, new),
        _ => None,
    }
}

struct Work<'w> {
    now: &'w Resident,
    capacity: Capacity,
    image: &'w Image,
    tables: Vec<(Ranges, u32)>,
    write: Vec<Entry>,
}

impl Work<'_> {
    fn member(
        mut self,
        Difference { vpc, address, .. }: Difference<'_>,
        set: &Arc<SetName>,
    ) -> Option<Patch> {
        let vpc = *self.now.vpcs.get(vpc)?;
        let mut next_ids = self.now.next;
        let mut pairs = Vec::new();
        let set_id = match self.now.sets.get(set) {
            Some(known) => known.id,
            None => {
                let id = next_ids.set;
                next_ids.set = id.checked_add(1).filter(|next| *next <= u32::MAX >> 1)?;
                pairs = self.pairs_of(set, id)?;
                self.write.extend(pairs.iter().map(|&(key, row)| Entry::Pair { key, row }));
                id
            }
        };
        let member = Entry::Member { vpc, address };
        let what = What::Member { vpc, address, set: Arc::clone(set), set_id, pairs };
        self.done(Step::Show { member, set: set_id }, next_ids, what)
    }

    /// What every policy says of a set.
    fn pairs_of(&mut self, set: &SetName, id: u32) -> Option<Vec<(PairKey, Row)>> {
        let mut pairs = Vec::new();
        for policy in &self.image.policies {
            let policy_id = *self.now.policies.get(policy)?;
            for (direction, ipv6, cells) in policy.says_of(set) {
                let row = self.row(&cells)?;
                pairs.push((pair_key(policy_id, direction, id, ipv6), row));
            }
        }
        Some(pairs)
    }

    fn no_member(self, Difference { vpc, address, .. }: Difference<'_>, set: &Arc<SetName>) -> Option<Patch> {
        let vpc = *self.now.vpcs.get(vpc)?;
        let next_ids = self.now.next;
        let step = Step::Hide { member: Entry::Member { vpc, address } };
        self.done(step, next_ids, What::NoMember { vpc, address, set: Arc::clone(set) })
    }

    fn policy(mut self, old: &Arc<PolicyImage>, new: &Arc<PolicyImage>) -> Option<Patch> {
        let id = *self.now.policies.get(old)?;
        if old.vpc != new.vpc || self.now.policies.contains_key(new) {
            return None;
        }
        let [inbound, outbound] = [Direction::Inbound, Direction::Outbound]
            .map(|direction| one_class(old.direction(direction), new.direction(direction)));
        let (direction, (net, cells)) = match (inbound, outbound) {
            (Some(None), Some(Some(class))) => (Direction::Outbound, class),
            (Some(Some(class)), Some(None)) => (Direction::Inbound, class),
            _ => return None,
        };
        let policy = PolicyDirection::new(id, direction);
        let next_ids = self.now.next;
        let row = cells.map_or(Some(EMPTY_ROW), |cells| self.row(cells))?;
        let class = Entry::Class { policy, net, row };
        let step = match cells {
            None => Step::Remove { class },
            Some(_) if old.direction(direction).has(net) => Step::Replace { class },
            Some(_) => Step::Add { class },
        };
        let what = What::Policy { before: Arc::clone(old), after: Arc::clone(new), id, policy, net };
        self.done(step, next_ids, what)
    }

    fn done(self, step: Step, next_ids: NextIds, what: What) -> Option<Patch> {
        let Self { now, capacity, tables, write, .. } = self;
        // Tables first: nothing may refer to a table that is not written.
        let ports =
            tables.iter().map(|(ranges, index)| Entry::PortTable { index: *index, ranges: ranges.clone() });
        let write: Vec<Entry> = ports.chain(write).collect();
        let mut needed = counted(now.entries, &write);
        if let Step::Show { member: entry, .. } | Step::Add { class: entry } = &step {
            needed = counted(needed, std::slice::from_ref(entry));
        }
        let room = |table: Table| needed.get(table as usize) <= capacity.entries.get(table as usize);
        // What does not fit is the plan's to complain of.
        Table::OF_ENTRIES.into_iter().all(room).then_some(Patch { write, step, next_ids, tables, what })
    }

    fn row(&mut self, cells: &Cells) -> Option<Row> {
        Some(Row {
            tcp: self.port_set(&cells.tcp)?,
            udp: self.port_set(&cells.udp)?,
            icmp: self.port_set(&cells.icmp)?,
            other: self.port_set(&cells.other)?,
        })
    }

    fn port_set(&mut self, ranges: &Ranges) -> Option<PortSet> {
        match ranges.as_slice() {
            [] => return Some(PortSet::EMPTY),
            &[(low, high)] => return Some(PortSet::range(low, high)),
            _ => {}
        }
        let mine = self.tables.iter().find(|(known, _)| known == ranges).map(|(_, index)| *index);
        if let Some(index) = mine.or_else(|| self.now.port_tables.get(ranges).copied()) {
            return PortSet::table(index);
        }
        let limit = self.capacity.port_tables.min(PortSet::MAX_TABLES);
        let index = self.now.table_indexes.nth(self.tables.len(), limit)?;
        self.tables.push((ranges.clone(), index));
        PortSet::table(index)
    }
}

const EMPTY_ROW: Row =
    Row { tcp: PortSet::EMPTY, udp: PortSet::EMPTY, icmp: PortSet::EMPTY, other: PortSet::EMPTY };

/// The network of which two sides say something else, and what the new one says. `Some(None)` if there is none; `None` if
/// there are several, or if `@group` rules differ.
#[expect(clippy::option_option, reason = "none, one and several are three answers")]
fn one_class<'n>(
    old: &'n DirectionImage,
    new: &'n DirectionImage,
) -> Option<Option<(IpNet, Option<&'n Cells>)>> {
    if old.groups != new.groups {
        return None;
    }
    let v4 = old.v4.differences(&new.v4).map(|(net, cells)| (IpNet::V4(net), cells));
    let v6 = old.v6.differences(&new.v6).map(|(net, cells)| (IpNet::V6(net), cells));
    let mut all = v4.chain(v6);
    let first = all.next();
    all.next().is_none().then_some(first)
}

pub(super) fn pair_key(policy: u32, direction: Direction, set: u32, ipv6: bool) -> PairKey {
    let bit = if ipv6 { V6::BIT } else { V4::BIT };
    PairKey { policy_direction: PolicyDirection::new(policy, direction).0, set_family: (set << 1) | bit }
}

impl PolicyImage {
    /// What `@group` rules say of a set that is of the policy's VPC, by direction and family; nothing is left out.
    pub(super) fn says_of(&self, set: &SetName) -> Vec<(Direction, bool, Cells)> {
        if set.vpc != self.vpc {
            return Vec::new();
        }
        let directions = [Direction::Inbound, Direction::Outbound];
        let rules = directions.map(|direction| (direction, self.direction(direction)));
        let said =
            rules.into_iter().filter(|(_, rules)| !rules.groups.is_empty()).flat_map(|(direction, rules)| {
                [false, true]
                    .into_iter()
                    .filter_map(move |ipv6| Some((direction, ipv6, set.cells(rules, ipv6)?)))
            });
        said.collect()
    }
}

impl Resident {
    /// Whether a patch may be carried out before every packet that was being judged has its verdict.
    pub fn may_follow(&self, patch: &Patch) -> bool {
        let (steps, reach) = (&self.leftover.steps, patch.reach());
        steps.len() < STEPS && steps.iter().all(|(_, step)| step.is_apart_from(reach))
    }

    /// Every packet has its verdict that may have been judged before a generation was put in force.
    pub fn waited_for(&mut self, generation: u64) {
        self.leftover.steps.retain(|(step, _)| *step > generation);
    }

    /// How many steps packets may be in the middle of.
    pub fn steps(&self) -> usize {
        self.leftover.steps.len()
    }

    /// What is in the kernel when a patch has been carried out, which has begun a generation.
    pub fn patched(&mut self, patch: Patch, generation: u64) {
        self.leftover.steps.push((generation, patch.reach()));
        let Patch { write, step, next_ids, tables, what } = patch;
        self.next = next_ids;
        self.entries = counted(self.entries, &write);
        for (ranges, index) in tables {
            self.table_indexes.take_this(index);
            self.port_tables.insert(ranges, index);
        }
        match what {
            What::Member { vpc, address, set, set_id, pairs } => {
                self.pairs.extend(pairs);
                self.sets.entry(set).or_insert(MemberSet { id: set_id, members: 0 }).members += 1;
                self.members.insert((vpc, address), set_id);
            }
            What::NoMember { vpc, address, set } => {
                self.members.remove(&(vpc, address));
                self.one_less_in(&set);
            }
            What::Policy { before, after, id, .. } => {
                self.policies.remove(&before);
                self.policies.insert(after, id);
                self.leftover.tables = true;
            }
        }
        match step {
            Step::Show { member: entry, .. } | Step::Add { class: entry } => {
                self.entries = counted(self.entries, &[entry]);
            }
            Step::Hide { member: entry } | Step::Remove { class: entry } => self.one_entry_less(&entry),
            Step::Replace { .. } => {}
        }
    }

    fn one_less_in(&mut self, set: &Arc<SetName>) {
        let Some(known) = self.sets.get_mut(set) else { return };
        known.members -= 1;
        if known.members > 0 {
            return;
        }
        let id = known.id;
        self.sets.remove(set);
        for (&policy, direction, ipv6) in self.policies.values().flat_map(|policy| {
            let both = [Direction::Inbound, Direction::Outbound];
            both.into_iter()
                .flat_map(move |direction| [(policy, direction, false), (policy, direction, true)])
        }) {
            let key = pair_key(policy, direction, id, ipv6);
            if let Some(row) = self.pairs.remove(&key) {
                self.leftover.entries.push(Entry::Pair { key, row });
                self.leftover.tables = true;
            }
        }
    }

    fn one_entry_less(&mut self, entry: &Entry) {
        if let Some(count) = self.entries.get_mut(entry.table() as usize) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether something is left of what was in force before: see [`Self::settle`].
    pub fn is_settled(&self) -> bool {
        self.leftover.is_empty()
    }

    /// What is left of what was in force before, to be deleted when every packet that was being judged has its verdict; it
    /// counts as deleted.
    pub fn settle(&mut self) -> Vec<Entry> {
        let Leftover { entries, tables, .. } = std::mem::take(&mut self.leftover);
        entries.iter().for_each(|entry| self.one_entry_less(entry));
        if tables {
            self.release_tables();
        }
        entries
    }
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
