//! The fast path: a guest's packet that may pass, and whose next hop is another port of the same bridge, is handed to that
//! port directly, without going through the bridge. The other port's egress program judges it as it would behind the bridge.
//!
//! Only where the bridge would do the same. The daemon writes down which stations the bridge has learned behind which port, for
//! bridges whose decision depends on nothing else, and says for how long that holds; whatever is not written down, or not any
//! more, goes through the bridge.

use crate::abi::{PORT_ISOLATED, Port, Station, StationKey, port_station};
use crate::packet::{ETHERNET_BYTES, Ethernet, Packet, ether_type};

/// What is known of bridges.
pub trait Bridges {
    /// By [`crate::abi::Interface::row`].
    fn port(&self, row: u32) -> Option<Port>;
    fn station(&self, key: &StationKey) -> Option<Station>;
    /// Sets [`Station::seen`], if the station is still there.
    fn see(&self, key: &StationKey, now: u64);
    /// Sets [`Port::seen`].
    fn see_port(&self, row: u32, now: u64);
}

/// The device to hand a packet of a flow to that came from the port `ifindex`; `None`: the bridge decides. `segments`: it is a
/// super-packet, which is cut to the size of the other port behind the filter.
///
/// The first packets of a flow are not for this: the bridge learns from them. Nor is what belongs to no flow, as a bridge may
/// answer ARP and neighbour discovery itself.
#[inline(always)]
pub fn forward<P: Packet, B: Bridges>(
    packet: &P,
    bridges: &B,
    (row, ifindex): (u32, u32),
    segments: bool,
    now: impl FnOnce() -> Option<u64>,
) -> Option<u32> {
    let port = bridges.port(row)?;
    if port.until == 0 {
        return None;
    }
    let now = now()?;
    if port.until <= now || packet.has_offloaded_vlan() {
        return None;
    }
    let ethernet = packet.read::<Ethernet>(0)?;
    let (to, from) = (ethernet.destination, ethernet.source);
    let kind = u16::from_be(ethernet.ether_type);
    if (to[0] | from[0]) & GROUP != 0 || !matches!(kind, ether_type::IPV4 | ether_type::IPV6) {
        return None;
    }
    // The bridge forgets whom it has not seen for long.
    let forgets = |seen: u64| now.wrapping_sub(seen) >= u64::from(port.patience);
    let flags = if port.station & ADDRESS == port_station(from) {
        if forgets(port.seen) {
            bridges.see_port(row, now);
            return None;
        }
        (port.station >> 48) as u32
    } else {
        let from = StationKey { bridge: port.bridge, mac: from, reserved: 0 };
        let sender = bridges.station(&from)?;
        if sender.ifindex != ifindex {
            return None;
        }
        if forgets(sender.seen) {
            bridges.see(&from, now);
            return None;
        }
        sender.flags
    };
    let receiver = bridges.station(&StationKey { bridge: port.bridge, mac: to, reserved: 0 })?;
    let fits = segments || packet.len() <= receiver.mtu + ETHERNET_BYTES;
    let apart = flags & receiver.flags & PORT_ISOLATED != 0;
    (receiver.ifindex != ifindex && fits && !apart).then_some(receiver.ifindex)
}

/// The part of [`Port::station`] that is the address.
const ADDRESS: u64 = (1 << 48) - 1;

/// The bit of an address's first byte that makes it a group's (IEEE 802, section 8.2).
const GROUP: u8 = 1;

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
