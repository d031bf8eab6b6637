//! Interfaces and peers: unique over all files, addresses unique inside a VPC.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Resolver;
use super::settings::timeouts;
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::memo::Known;
use crate::policy::model::{GroupId, Interface, Peer, VpcId};
use crate::policy::peers::Peers;
use crate::policy::raw::{RawFile, RawInterface, RawPeer};
use crate::policy::same::same_names;
use crate::policy::source::{Span, Spanned};

impl Resolver<'_, '_> {
    pub(super) fn interfaces(&mut self, files: &[&RawFile], vpcs: &[Option<VpcId>]) {
        let mut names: HashMap<&str, Span> = HashMap::new();
        let mut addresses: HashMap<(VpcId, IpAddr), (Span, &str)> = HashMap::new();
        for (file, vpc) in files.iter().zip(vpcs) {
            for raw in &file.interfaces {
                let Some(name) = &raw.name else { continue };
                if let Some(&first) = names.get(name.value.as_str()) {
                    let fault = Fault::error(format!("interface {} is written twice", quote(&name.value)))
                        .expected("each device once: two entries are two policies for one device")
                        .related(first, "first written here");
                    self.findings.report(name.span, &format!("interfaces[{}].name", raw.index), fault);
                } else {
                    names.insert(&name.value, name.span);
                }
            }
            let Some(vpc) = *vpc else { continue };
            for raw in &file.interfaces {
                let name = raw.name.as_ref().map_or("", |name| name.value.as_str());
                for (index, address) in raw.addresses.iter().enumerate() {
                    let key = (vpc, address.value);
                    if let Some(&(first, owner)) = addresses.get(&key) {
                        let fault = Fault::error(format!(
                            "address {} belongs to interface {} already",
                            address.value,
                            quote(owner)
                        ))
                        .expected("each address on one interface of a VPC")
                        .related(first, "first written here");
                        let field = format!("interfaces[{}].addresses[{index}]", raw.index);
                        self.findings.report(address.span, &field, fault);
                    } else {
                        addresses.insert(key, (address.span, name));
                    }
                }
                self.interface(raw, vpc);
            }
        }
    }

    fn interface(&mut self, raw: &RawInterface, vpc: VpcId) {
        let name = raw.name.as_ref().map_or("", |name| name.value.as_str());
        let quota = self.limits().quotas.groups_per_interface;
        if let Some(over) = raw.groups.get(quota as usize) {
            let fault = Fault::error(format!(
                "interface {} has {} security groups, over the quota of {quota}",
                quote(name),
                raw.groups.len()
            ))
            .expected(format!("at most {quota} (settings.quotas.groups_per_interface)"));
            self.findings.report(over.span, &format!("interfaces[{}].security_groups", raw.index), fault);
        }
        let user = || format!("interface {}", quote(name));
        let groups = self.members(vpc, &raw.groups, &user, &|| format!("interfaces[{}]", raw.index));
        let timeouts = timeouts(&self.limits().timeouts, &raw.timeouts);
        let interface = Interface {
            name: name.to_owned(),
            instance: raw.instance.clone(),
            kind: raw.kind,
            role: raw.role,
            hook: raw.hook,
            mac: raw.mac,
            trunk: raw.trunk,
            fast_path: raw.fast_path,
            addresses: raw.addresses.iter().map(|address| address.value).collect(),
            allowed_addresses: raw.allowed_addresses.iter().map(|address| address.value).collect(),
            groups,
            vpc,
            timeouts,
            enforcement: raw.enforcement,
            source: self.at(raw.span, &raw.at),
        };
        self.out.model.interfaces.push(interface);
        self.out.interface_index.push(raw.index);
    }

    pub(super) fn peers(&mut self, files: &[&RawFile], vpcs: &[Option<VpcId>], before: Option<&Known>) {
        self.out.peers_of_files = files.iter().map(|file| file.peers.items.len()).collect();
        let after = before.and_then(|before| self.peers_after(files, vpcs, before));
        if let Some(peers) = after {
            self.out.model.peers = peers;
            return;
        }
        let mut seen: HashMap<(VpcId, IpAddr), Span> = HashMap::new();
        for (file, vpc) in files.iter().zip(vpcs) {
            let Some(vpc) = *vpc else { continue };
            for raw in &file.peers {
                self.peer(raw, vpc, &mut seen);
            }
        }
    }

    /// The peers of a policy whose names all mean what they meant in another one that had no fault: those that both have are
    /// as they were. `None` if that is not so, or if there is something to complain of.
    fn peers_after(&self, files: &[&RawFile], vpcs: &[Option<VpcId>], before: &Known) -> Option<Peers> {
        const FEW: usize = 16;
        if files.len() != before.walked.len() || !same_names(&before.model, &self.out.model) {
            return None;
        }
        let mut peers = before.model.peers.clone();
        let mut fresh = 0..0;
        // Where the file's first one is.
        let mut base = 0;
        for ((file, vpc), walked) in files.iter().zip(vpcs).zip(&before.walked) {
            let (vpc, old) = ((*vpc)?, &walked.raw);
            if (&file.project, &file.vpc) != (&old.project, &old.vpc) {
                return None;
            }
            let (old, new) = (&old.peers.items, &file.peers.items);
            let is_old = |old: &Arc<RawPeer>, new: &Arc<RawPeer>| Arc::ptr_eq(old, new);
            let front = old.same_front(new, is_old);
            let back = old.same_back(new, front, |old, new| is_old(old, new) || same_peer(old, new));
            let mut others: Vec<Peer> = Vec::new();
            for raw in new.range(front..new.len() - back) {
                let groups: Option<Arc<[GroupId]>> =
                    raw.groups.iter().map(|name| self.named(vpc, &name.value)).collect();
                let before = others.last().or_else(|| peers.get((base + front).checked_sub(1)?));
                let groups = match (before.map(|before| &before.groups), groups) {
                    (Some(before), Some(groups)) if *before == groups => Some(Arc::clone(before)),
                    (_, groups) => groups,
                };
                let (address, source) = (raw.address.as_ref()?.value, self.at(raw.span, &raw.at));
                others.push(Peer { address, groups: groups?, vpc, source });
            }
            let (start, end) = (base + front, base + front + others.len());
            if end - start > FEW || (!fresh.is_empty() && start < end) {
                return None;
            }
            if start < end {
                fresh = start..end;
            }
            if front + back < old.len() || !others.is_empty() {
                peers = peers.spliced(start..base + old.len() - back, others);
            }
            // Those behind may stand on another line.
            if old.last().zip(new.last()).is_some_and(|(old, new)| !is_old(old, new)) {
                let mut raw = new.range(new.len() - back..new.len());
                peers.change_sources(end..base + new.len(), |source| {
                    raw.next().into_iter().for_each(|raw| *source = self.at(raw.span, &raw.at));
                });
            }
            base += new.len();
        }
        let taken = |at: usize| {
            let this = peers.get(at);
            this.is_none_or(|this| {
                peers.count_of(this.address) > 1
                    && peers.of_address(this.address).any(|(other, peer)| other != at && peer.vpc == this.vpc)
            })
        };
        (!fresh.into_iter().any(taken)).then_some(peers)
    }

    fn peer(&mut self, raw: &RawPeer, vpc: VpcId, seen: &mut HashMap<(VpcId, IpAddr), Span>) {
        let who =
            || raw.address.as_ref().map_or("a peer".to_owned(), |address| format!("peer {}", address.value));
        let groups = self.members(vpc, &raw.groups, &who, &|| format!("peers[{}]", raw.index));
        let Some(address) = &raw.address else { return };
        if let Some(&first) = seen.get(&(vpc, address.value)) {
            let fault = Fault::error(format!("{} is written twice", who()))
                .expected("each address once, with all of its groups")
                .related(first, "first written here");
            self.findings.report(address.span, &format!("peers[{}].address", raw.index), fault);
            return;
        }
        seen.insert((vpc, address.value), address.span);
        // Peers mostly come in the groups of the one before them: one list for all of these is one place in memory.
        let before = self.out.model.peers.last().filter(|before| *before.groups == *groups);
        let groups = before.map_or_else(|| groups.into(), |before| Arc::clone(&before.groups));
        let peer = Peer { address: address.value, groups, vpc, source: self.at(raw.span, &raw.at) };
        self.out.model.peers.push(peer);
    }

    fn members(
        &mut self,
        vpc: VpcId,
        names: &[Spanned<String>],
        user: &dyn Fn() -> String,
        field: &dyn Fn() -> String,
    ) -> Vec<GroupId> {
        let mut groups = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let field = || format!("{}.security_groups[{index}]", field());
            groups.extend(self.group(vpc, (&name.value, name.span), user, &field));
        }
        groups
    }
}

fn same_peer(one: &RawPeer, other: &RawPeer) -> bool {
    let address = |peer: &RawPeer| peer.address.as_ref().map(|address| address.value);
    let mut groups = one.groups.iter().zip(&other.groups);
    address(one) == address(other)
        && one.groups.len() == other.groups.len()
        && groups.all(|(group, other)| group.value == other.value)
}
