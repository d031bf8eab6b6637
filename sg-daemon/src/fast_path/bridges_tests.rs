use netlink_packet_route::link::{InfoKind, InfoPortKind};
use netlink_packet_route::neighbour::NeighbourHeader;

use super::*;

const BRIDGE: u32 = 5;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

fn bridge(more: Vec<InfoBridge>) -> LinkMessage {
    let data = [vec![InfoBridge::VlanFiltering(false), InfoBridge::AgeingTime(30_000)], more].concat();
    let mut message = LinkMessage::default();
    message.header.index = BRIDGE;
    let infos = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))];
    message.attributes = vec![LinkAttribute::LinkInfo(infos)];
    message
}

fn port(ifindex: u32, more: Vec<InfoBridgePort>) -> LinkMessage {
    let usual = vec![InfoBridgePort::State(BridgePortState::Forwarding), InfoBridgePort::Learning(true)];
    let data = [usual, more].concat();
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let infos =
        vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(data))];
    message.attributes =
        vec![LinkAttribute::Mtu(1400), LinkAttribute::Controller(BRIDGE), LinkAttribute::LinkInfo(infos)];
    message
}

fn station(ifindex: u32, state: NeighbourState, more: Vec<NeighbourAttribute>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader { ifindex, state, ..message.header };
    message.attributes =
        vec![NeighbourAttribute::Controller(BRIDGE), NeighbourAttribute::LinkLayerAddress(MAC.to_vec())];
    message.attributes.extend(more);
    message
}

/// A bridge with two ports.
fn bridges() -> Bridges {
    let mut bridges = Bridges::default();
    for link in [bridge(Vec::new()), port(7, Vec::new()), port(8, vec![InfoBridgePort::Isolated(true)])] {
        bridges.link(&link);
    }
    bridges
}

fn places(bridges: &Bridges) -> Vec<u32> {
    bridges.stations(|bridge| bridge == BRIDGE).into_values().map(|place| place.ifindex).collect()
}

#[test]
fn stations_are_where_the_bridge_heard_of_them_last() {
    let mut bridges = bridges();
    bridges.neighbour(&station(7, NeighbourState::Reachable, Vec::new()), false);
    assert_eq!(
        bridges.stations(|_| true),
        BTreeMap::from([((BRIDGE, MAC), Place { ifindex: 7, mtu: 1400, flags: 0 })])
    );
    assert_eq!(bridges.stations(|_| false), BTreeMap::new());
    // It has moved.
    bridges.neighbour(&station(8, NeighbourState::Stale, Vec::new()), false);
    assert_eq!(
        bridges.stations(|_| true),
        BTreeMap::from([((BRIDGE, MAC), Place { ifindex: 8, mtu: 1400, flags: PORT_ISOLATED })])
    );
    // Late word of where it was.
    bridges.neighbour(&station(7, NeighbourState::Reachable, Vec::new()), true);
    assert_eq!(places(&bridges), [8]);
    bridges.neighbour(&station(8, NeighbourState::Reachable, Vec::new()), true);
    assert!(places(&bridges).is_empty());
}

#[test]
fn what_is_not_behind_a_port_for_certain_is_no_station() {
    let mut others = vec![
        // The bridge's own addresses, and what is known of one VLAN only.
        station(7, NeighbourState::Permanent, Vec::new()),
        station(BRIDGE, NeighbourState::Reachable, Vec::new()),
        station(7, NeighbourState::Reachable, vec![NeighbourAttribute::Vlan(1)]),
        // No port of this bridge.
        station(9, NeighbourState::Reachable, Vec::new()),
    ];
    let mut learned_elsewhere = station(7, NeighbourState::Reachable, Vec::new());
    learned_elsewhere.header.flags = NeighbourFlags::ExtLearned;
    others.push(learned_elsewhere);
    // A device's own list has no bridge.
    let mut own = station(7, NeighbourState::Reachable, Vec::new());
    own.attributes.remove(0);
    others.push(own);
    for message in others {
        let mut bridges = bridges();
        bridges.neighbour(&message, false);
        assert!(places(&bridges).is_empty(), "{message:?}");
    }
    // One that becomes the bridge's own.
    let mut bridges = bridges();
    bridges.neighbour(&station(7, NeighbourState::Reachable, Vec::new()), false);
    bridges.neighbour(&station(7, NeighbourState::Permanent, Vec::new()), false);
    assert!(places(&bridges).is_empty());
}

#[test]
fn a_bridge_that_decides_otherwise_is_left_to_decide() {
    assert_eq!(bridges().bridge_of(7, None), Ok(BRIDGE));
    for obstacle in [Obstacle::Netfilter, Obstacle::BridgeChains, Obstacle::Ebtables] {
        assert_eq!(bridges().bridge_of(7, Some(obstacle)), Err(obstacle));
    }
    assert_eq!(bridges().bridge_of(9, None), Err(Obstacle::NoPort));
    for (attribute, obstacle) in [
        (InfoBridge::VlanFiltering(true), Obstacle::Vlans),
        (InfoBridge::NfCallIpTables(true), Obstacle::Netfilter),
        (InfoBridge::NfCallIp6Tables(true), Obstacle::Netfilter),
        (InfoBridge::NfCallArpTables(true), Obstacle::Netfilter),
        (InfoBridge::AgeingTime(999), Obstacle::Ageing),
        (InfoBridge::AgeingTime(0), Obstacle::Ageing),
    ] {
        let mut bridges = bridges();
        bridges.link(&bridge(vec![attribute]));
        assert_eq!(bridges.bridge_of(7, None), Err(obstacle));
    }
}

#[test]
fn a_port_that_does_more_than_forward_is_left_to_the_bridge() {
    for attribute in [
        InfoBridgePort::State(BridgePortState::Blocking),
        InfoBridgePort::State(BridgePortState::Disabled),
        InfoBridgePort::State(BridgePortState::Learning),
        InfoBridgePort::Learning(false),
        InfoBridgePort::Locked(true),
        InfoBridgePort::VlanTunnel(true),
        InfoBridgePort::BackupPort(8),
    ] {
        let mut bridges = bridges();
        bridges.neighbour(&station(7, NeighbourState::Reachable, Vec::new()), false);
        bridges.link(&port(7, vec![attribute.clone()]));
        assert!(matches!(bridges.bridge_of(7, None), Err(Obstacle::Port(_))), "{attribute:?}");
        assert!(places(&bridges).is_empty(), "{attribute:?}");
    }
    let mut bridges = bridges();
    bridges.link(&port(7, vec![InfoBridgePort::BackupPort(0), InfoBridgePort::Locked(false)]));
    assert_eq!(bridges.bridge_of(7, None), Ok(BRIDGE));
}
