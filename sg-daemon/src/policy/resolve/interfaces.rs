//! Interfaces and peers: unique over all files, addresses unique inside a VPC.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Resolver;
use super::settings::timeouts;
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::model::{GroupId, Interface, Peer, VpcId};
use crate::policy::raw::{RawFile, RawInterface, RawPeer};
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

    pub(super) fn peers(&mut self, files: &[&RawFile], vpcs: &[Option<VpcId>]) {
        let mut seen: HashMap<(VpcId, IpAddr), Span> = HashMap::new();
        for (file, vpc) in files.iter().zip(vpcs) {
            let Some(vpc) = *vpc else { continue };
            for raw in &file.peers {
                self.peer(raw, vpc, &mut seen);
            }
        }
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
        let peer = Peer { address: address.value, groups, vpc, source: self.at(raw.span, &raw.at) };
        self.out.model.peers.push(peer);
        self.out.peer_index.push(raw.index);
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
            groups.extend(self.group(vpc, name, user, &|| format!("{}.security_groups[{index}]", field())));
        }
        groups
    }
}
