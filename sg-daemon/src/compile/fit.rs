//! Which rules allow a packet: the model's answer, in terms of what was written. The kernel decides by the image, which is
//! the sum of the rules and does not know them any more.

use std::net::IpAddr;

use sg_common::abi::Direction;
use sg_common::packet::protocol;

use super::image::Image;
use super::rules::{Effective, METADATA_PORT, METADATA_RANGE};
use crate::policy::model::{GroupId, Interface, Match, Model, Protocol, Remote};

/// What rules ask about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub direction: Direction,
    pub protocol: u8,
    /// The other side's address.
    pub remote: IpAddr,
    /// The destination port of TCP and UDP, else 0.
    pub port: u16,
    /// Type and code, if it is the family's ICMP.
    pub icmp: (u8, u8),
}

impl Tuple {
    /// Whether it goes to the metadata service (SPEC K27).
    fn is_metadata(&self) -> bool {
        let in_range = matches!(self.remote, IpAddr::V4(address) if METADATA_RANGE.contains(&address));
        in_range
            && self.direction == Direction::Outbound
            && self.protocol == protocol::TCP
            && self.port == METADATA_PORT
    }

    fn is_own_icmp(&self) -> bool {
        self.protocol == if self.remote.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP }
    }
}

/// Whether a rule in force on `interface` allows the packet.
pub fn allows(rule: &Effective, tuple: &Tuple, model: &Model, image: &Image, interface: &Interface) -> bool {
    let protocol = match rule.protocol {
        Protocol::All => true,
        Protocol::Tcp => tuple.protocol == protocol::TCP,
        Protocol::Udp => tuple.protocol == protocol::UDP,
        Protocol::Icmp => tuple.is_own_icmp(),
        Protocol::Number(number) => tuple.protocol == number,
    };
    let matches = match &rule.matches {
        Match::Any => true,
        Match::Ports(ports) => ports.range().contains(&tuple.port),
        Match::Icmp { kind, code } => {
            tuple.is_own_icmp() && tuple.icmp.0 == *kind && code.is_none_or(|code| tuple.icmp.1 == code)
        }
    };
    let remote = match rule.remote {
        Remote::Cidr(net) => net.contains(&tuple.remote),
        Remote::Group(group) => is_member(model, image, interface, group, tuple.remote),
    };
    protocol && matches && remote && (rule.reaches_metadata || !tuple.is_metadata())
}

fn is_member(model: &Model, image: &Image, interface: &Interface, group: GroupId, remote: IpAddr) -> bool {
    let (Some(group), Some(at)) = (model.groups.get(group.0), image.interface(&interface.name)) else {
        return false;
    };
    let set = image.members.get(&(at.vpc.clone(), remote));
    set.is_some_and(|set| set.groups.contains(group.name.as_str()))
}
