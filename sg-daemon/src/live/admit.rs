//! Whether the rules in force would admit connections, asked of very many of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use sg_common::abi::Direction;

use crate::compile::image::{Cells, DirectionImage, Image, InterfaceImage, SetName};
use crate::kernel::FlowEntry;

/// The policy in force, and for each interface what is asked of it.
pub struct Admission {
    image: Option<Arc<Image>>,
    /// By the view's index of interfaces.
    interfaces: Vec<Interface>,
}

#[derive(Default)]
struct Interface {
    /// Index in `Image::interfaces`; `None`: in no policy, so closed.
    index: Option<usize>,
    inbound: Lengths,
    outbound: Lengths,
}

/// The prefix lengths that the classes of a direction have, the longest first. Others need not be tried.
#[derive(Default)]
struct Lengths {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Admission {
    pub fn new(image: Option<Arc<Image>>, names: &[String]) -> Self {
        let interfaces = match &image {
            None => Vec::new(),
            Some(image) => names.iter().map(|name| Interface::new(image, name)).collect(),
        };
        Self { image, interfaces }
    }

    pub fn admits(&self, interface: u32, flow: &FlowEntry) -> bool {
        let Some(image) = &self.image else { return false };
        let Some(known) = self.interfaces.get(interface as usize) else { return false };
        let Some(interface) = known.index.and_then(|index| image.interfaces.get(index)) else { return false };
        let Some(policy) = interface.policy.and_then(|index| image.policies.get(index)) else { return true };
        let rules = policy.direction(flow.origin);
        let lengths = match flow.origin {
            Direction::Inbound => &known.inbound,
            Direction::Outbound => &known.outbound,
        };
        let class = lengths.class(rules, flow.remote);
        let what = (flow.remote.is_ipv6(), flow.protocol, flow.number());
        policy.admits_class(flow.origin, class, || member(image, interface, flow.remote), what)
    }
}

fn member<'i>(image: &'i Image, interface: &InterfaceImage, remote: IpAddr) -> Option<&'i SetName> {
    image.members.get(&interface.vpc, remote).map(Arc::as_ref)
}

impl Interface {
    fn new(image: &Image, name: &str) -> Self {
        let index = image.interfaces.iter().position(|interface| interface.name == name);
        let policy = index
            .and_then(|index| image.interfaces.get(index)?.policy)
            .and_then(|policy| image.policies.get(policy));
        let Some(policy) = policy else { return Self { index, ..Self::default() } };
        Self { index, inbound: Lengths::of(&policy.inbound), outbound: Lengths::of(&policy.outbound) }
    }
}

impl Lengths {
    fn of(rules: &DirectionImage) -> Self {
        let sorted = |lengths: BTreeSet<u8>| lengths.into_iter().rev().collect();
        Self {
            v4: sorted(rules.v4.keys().map(Ipv4Net::prefix_len).collect()),
            v6: sorted(rules.v6.keys().map(Ipv6Net::prefix_len).collect()),
        }
    }

    /// As [`DirectionImage::class`].
    fn class<'r>(&self, rules: &'r DirectionImage, remote: IpAddr) -> Option<&'r Cells> {
        match remote {
            IpAddr::V4(address) => {
                self.v4.iter().find_map(|&length| rules.v4.get(&Ipv4Net::new(address, length).ok()?.trunc()))
            }
            IpAddr::V6(address) => {
                self.v6.iter().find_map(|&length| rules.v6.get(&Ipv6Net::new(address, length).ok()?.trunc()))
            }
        }
    }
}
