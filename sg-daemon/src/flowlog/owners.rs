//! Whose packets they were: what the policy says of the zones and rules that records are of.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::abi::Direction;
use sg_common::packet::protocol;
use sg_common::verdict;

use super::record::{Action, LogStatus, Record};
use crate::compile::fit::{Policy, Tuple};
use crate::enforce::{Active, Enforcer};
use crate::explain::rule_ids;
use crate::kernel::Collected;
use crate::policy::model::{Interface, Model};

/// An interface that records are of.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The device's name.
    pub interface: Arc<str>,
    /// The project; `None` for a device that no policy names.
    pub account: Option<Arc<str>>,
    instance: Option<Arc<str>>,
    /// It is filtered now.
    pub present: bool,
    /// For how many looks it has not been.
    gone: u32,
}

/// Every interface that records may come of, by zone.
#[derive(Debug, Default)]
pub struct Owners(HashMap<u32, Owner>);

/// Records of a device that has gone come at the next look, or at the one after that if there are very many.
const REMEMBERED: u32 = 8;

impl Owners {
    /// Looks which devices there are.
    pub fn look(&mut self, enforcer: &mut Enforcer) {
        for owner in self.0.values_mut() {
            owner.present = false;
            owner.gone += 1;
        }
        let (seen, now) = (enforcer.take_zones_seen(), enforcer.zones());
        let (_, active, _) = enforcer.parts();
        let model = active.map(|active| Arc::clone(&active.model));
        // Those that came and went since the last look have no other trace.
        for (present, zones) in [(false, seen), (true, now)] {
            for (zone, name) in zones {
                let owner = owner(model.as_deref(), &name, present);
                self.0.insert(zone, owner);
            }
        }
        self.0.retain(|_, owner| owner.gone < REMEMBERED);
    }

    pub fn all(&self) -> impl Iterator<Item = &Owner> {
        self.0.values()
    }

    /// The records of one account: of what went in, and of what went out.
    pub fn records(&self, collected: &Collected, active: Option<&Active>) -> (Arc<str>, Vec<Record>) {
        let nobody = Owner { interface: "-".into(), account: None, instance: None, present: false, gone: 0 };
        let owner = self.0.get(&collected.zone).unwrap_or(&nobody);
        let dropped = collected.reason.filter(|reason| reason.action() == verdict::Action::Drop);
        let interface = active.and_then(|active| Some((active, named(&active.model, &owner.interface)?)));
        let rules = match interface {
            Some((active, interface)) if dropped.is_none() => {
                let policy = Policy { model: &active.model, image: &active.image };
                rule_ids(policy, interface, &first(collected))
            }
            _ => Vec::new(),
        };
        let mut records = Vec::with_capacity(2);
        for direction in [Direction::Inbound, Direction::Outbound] {
            let index = direction as usize;
            let (Some(&packets), Some(&bytes), Some(&flags)) =
                (collected.packets.get(index), collected.bytes.get(index), collected.tcp_flags.get(index))
            else {
                continue;
            };
            if packets == 0 && bytes == 0 {
                continue;
            }
            let local = (collected.local, collected.local_port);
            let remote = (collected.remote, collected.remote_port);
            let ((srcaddr, srcport), (dstaddr, dstport)) = match direction {
                Direction::Inbound => (remote, local),
                Direction::Outbound => (local, remote),
            };
            let has_ports = matches!(collected.protocol, protocol::TCP | protocol::UDP);
            records.push(Record {
                srcaddr: Some(srcaddr),
                dstaddr: Some(dstaddr),
                srcport: Some(if has_ports { srcport } else { 0 }),
                dstport: Some(if has_ports { dstport } else { 0 }),
                protocol: Some(collected.protocol),
                packets: Some(packets),
                bytes: Some(bytes),
                action: Some(if dropped.is_some() && !collected.audit {
                    Action::Reject
                } else {
                    Action::Accept
                }),
                direction: Some(direction.into()),
                instance: owner.instance.as_deref().map(str::to_owned),
                rules: rules.clone(),
                reason: dropped.map(|reason| reason.name().to_owned()),
                tcp_flags: (collected.protocol == protocol::TCP).then_some(flags),
                ..Record::of_interval(
                    &owner.interface,
                    owner.account.as_deref(),
                    (collected.start, collected.end),
                    LogStatus::Ok,
                )
            });
        }
        (Arc::clone(&owner.interface), records)
    }
}

/// What began the flow. Of a query the code is taken for 0, as all have it.
fn first(collected: &Collected) -> Tuple {
    let Collected { origin, protocol, local, remote, local_port, remote_port, .. } = *collected;
    let is_icmp = protocol == if local.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
    let port = if origin == Direction::Inbound { local_port } else { remote_port };
    Tuple {
        direction: origin,
        protocol,
        remote,
        port: has_ports.then_some(port),
        // As in the key of a query's flow.
        icmp: (is_icmp && remote_port != 0).then_some(((remote_port >> 8) as u8, 0)),
    }
}

fn named<'m>(model: &'m Model, name: &str) -> Option<&'m Interface> {
    model.interfaces.iter().find(|interface| interface.name == name)
}

fn owner(model: Option<&Model>, name: &str, present: bool) -> Owner {
    let interface = model.and_then(|model| named(model, name));
    let vpc = model.zip(interface).and_then(|(model, interface)| model.vpcs.get(interface.vpc.0));
    Owner {
        interface: name.into(),
        account: vpc.map(|vpc| vpc.project.as_str().into()),
        instance: interface.map(|interface| interface.instance.as_str().into()),
        present,
        gone: 0,
    }
}

#[cfg(test)]
impl Owner {
    pub fn of(interface: &str) -> Self {
        owner(None, interface, true)
    }

    pub fn absent(interface: &str) -> Self {
        owner(None, interface, false)
    }
}
