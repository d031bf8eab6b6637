//! The host's bridges, as the kernel's messages describe them: whose decisions are known in advance, and what these are.

use std::collections::BTreeMap;

use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoPortData, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use sg_common::abi::{PORT_ISOLATED, StationKey};

/// Why the packets of a port go through its bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    NoPort,
    Vlans,
    Netfilter,
    BridgeChains,
    Ebtables,
    Ageing,
    Port(&'static str),
}

impl Obstacle {
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoPort => "the device is no port of a bridge",
            Self::Vlans => "the bridge filters VLANs (vlan_filtering 1)",
            Self::Netfilter => {
                "what passes the bridge is shown to netfilter (bridge-nf-call-iptables, -ip6tables or -arptables of the \
                 bridge or of net.bridge)"
            }
            Self::BridgeChains => {
                "netfilter has chains of the family bridge, which would not see the packets (`nft list chains bridge`)"
            }
            Self::Ebtables => {
                "ebtables' tables are loaded, which would not see the packets (module ebtable_filter, ebtable_nat or \
                 ebtable_broute)"
            }
            Self::Ageing => "the bridge forgets stations within ten seconds (ageing_time)",
            Self::Port(why) => why,
        }
    }
}

/// A bridge's attributes, as far as they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bridge {
    filters_vlans: bool,
    asks_netfilter: bool,
    /// Hundredths of a second, by which `USER_HZ` counts.
    ageing: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BridgePort {
    bridge: u32,
    mtu: u32,
    obstacle: Option<&'static str>,
    isolated: bool,
}

/// Bridges and their ports, by ifindex, and what the bridges have learned.
#[derive(Debug, Default)]
pub struct Bridges {
    bridges: BTreeMap<u32, Bridge>,
    ports: BTreeMap<u32, BridgePort>,
    /// Behind which port a station is, by bridge and hardware address.
    stations: BTreeMap<(u32, [u8; 6]), u32>,
}

/// What is to be written down of a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub ifindex: u32,
    pub mtu: u32,
    pub flags: u32,
}

/// Hundredths of a second: stations that are forgotten sooner are not worth remembering.
const LEAST_AGEING: u32 = 1000;

impl Bridges {
    /// Forgets the devices, of which a new list follows.
    pub fn forget_links(&mut self) {
        self.bridges.clear();
        self.ports.clear();
    }

    /// Forgets who is where, of which a new list follows.
    pub fn forget_stations(&mut self) {
        self.stations.clear();
    }

    /// A device of the list.
    pub fn link(&mut self, message: &LinkMessage) {
        let ifindex = message.header.index;
        let (mut mtu, mut bridge) = (0, None);
        let mut port_data: Option<&[InfoBridgePort]> = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(value) => mtu = *value,
                LinkAttribute::Controller(value) => bridge = Some(*value),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Data(InfoData::Bridge(data)) => {
                                self.bridges.insert(ifindex, bridge_of(data));
                            }
                            LinkInfo::PortData(InfoPortData::BridgePort(data)) => port_data = Some(data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let (Some(bridge), Some(data)) = (bridge, port_data) {
            let isolated = data.contains(&InfoBridgePort::Isolated(true));
            self.ports.insert(ifindex, BridgePort { bridge, mtu, obstacle: obstacle(data), isolated });
        }
    }

    /// A station that a bridge has heard of, or (`gone`) has forgotten.
    pub fn neighbour(&mut self, message: &NeighbourMessage, gone: bool) {
        let (mut bridge, mut mac, mut vlan) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Controller(value) => bridge = Some(*value),
                NeighbourAttribute::LinkLayerAddress(value) => mac = value.as_slice().try_into().ok(),
                NeighbourAttribute::Vlan(value) => vlan = Some(*value),
                _ => {}
            }
        }
        let (Some(bridge), Some(mac), None) = (bridge, mac, vlan) else { return };
        let key = (bridge, mac);
        let header = &message.header;
        // The bridge's own addresses are permanent: what is for them goes to the host. And what somebody else than the bridge
        // has learned may be behind a tunnel.
        let is_elsewhere = header.ifindex != bridge
            && header.state != NeighbourState::Permanent
            && !header.flags.intersects(NeighbourFlags::ExtLearned | NeighbourFlags::Offloaded);
        if !gone && is_elsewhere {
            self.stations.insert(key, header.ifindex);
        } else if !gone || self.stations.get(&key) == Some(&header.ifindex) {
            self.stations.remove(&key);
        }
    }

    /// The bridge whose port a device is, if it is known what that bridge does. `netfilter`: what it does to the packets of all bridges.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn bridge_of(&self, ifindex: u32, netfilter: Option<Obstacle>) -> Result<u32, Obstacle> {
        let port = self.ports.get(&ifindex).ok_or(Obstacle::NoPort)?;
        let bridge = self.bridges.get(&port.bridge).ok_or(Obstacle::NoPort)?;
        if bridge.filters_vlans {
            Err(Obstacle::Vlans)
        } else if bridge.asks_netfilter {
            Err(Obstacle::Netfilter)
        } else if let Some(obstacle) = netfilter {
            Err(obstacle)
        } else if bridge.ageing < LEAST_AGEING {
            Err(Obstacle::Ageing)
        } else if let Some(why) = port.obstacle {
            Err(Obstacle::Port(why))
        } else {
            Ok(port.bridge)
        }
    }

    /// Who is where on these bridges.
    pub fn stations(&self, wanted: impl Fn(u32) -> bool) -> BTreeMap<(u32, [u8; 6]), Place> {
        let known = self.stations.iter().filter(|((bridge, _), _)| wanted(*bridge));
        known
            .filter_map(|(key, ifindex)| {
                let port = self.ports.get(ifindex).filter(|port| port.bridge == key.0)?;
                let flags = if port.isolated { PORT_ISOLATED } else { 0 };
                port.obstacle.is_none().then_some((*key, Place { ifindex: *ifindex, mtu: port.mtu, flags }))
            })
            .collect()
    }
}

/// The key in the map.
pub const fn key_of((bridge, mac): (u32, [u8; 6])) -> StationKey {
    StationKey { bridge, mac, reserved: 0 }
}

fn bridge_of(data: &[InfoBridge]) -> Bridge {
    let mut bridge = Bridge::default();
    for attribute in data {
        match attribute {
            InfoBridge::VlanFiltering(on) => bridge.filters_vlans = *on,
            InfoBridge::NfCallIpTables(true)
            | InfoBridge::NfCallIp6Tables(true)
            | InfoBridge::NfCallArpTables(true) => bridge.asks_netfilter = true,
            InfoBridge::AgeingTime(time) => bridge.ageing = *time,
            _ => {}
        }
    }
    bridge
}

/// What a bridge does with a port's packets beside looking up where they go (net/bridge/br_input.c and br_forward.c).
fn obstacle(data: &[InfoBridgePort]) -> Option<&'static str> {
    let mut forwards = false;
    for attribute in data {
        match attribute {
            InfoBridgePort::State(state) => forwards = *state == BridgePortState::Forwarding,
            InfoBridgePort::Learning(false) => {
                return Some("the bridge does not learn from the port (learning off)");
            }
            InfoBridgePort::Locked(true) => return Some("the port is locked"),
            InfoBridgePort::VlanTunnel(true) => {
                return Some("the port maps VLANs to tunnels (vlan_tunnel on)");
            }
            InfoBridgePort::BackupPort(backup) if *backup != 0 => {
                return Some("the port has another to stand in for it (backup_port)");
            }
            _ => {}
        }
    }
    (!forwards).then_some("the port does not forward (it is down, or the spanning tree says so)")
}

#[cfg(test)]
#[path = "bridges_tests.rs"]
mod tests;
