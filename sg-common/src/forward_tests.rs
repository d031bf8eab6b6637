extern crate std;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use super::*;
use crate::headers::Header;

const ANNE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BILL: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NOW: u64 = 1_000_000;
/// Of the port that packets come from.
const ROW: u32 = 3;
const HERE: u32 = 7;
const THERE: u32 = 8;

struct Frame {
    bytes: Vec<u8>,
    /// Longer than what is at hand.
    len: u32,
    tagged: bool,
}

impl Packet for Frame {
    fn len(&self) -> u32 {
        self.len
    }

    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let bytes = self.bytes.get(offset as usize..)?.get(..size_of::<H>())?;
        // SAFETY: there are enough bytes, and any are a header.
        Some(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    fn has_offloaded_vlan(&self) -> bool {
        self.tagged
    }

    fn pending_checksum(&self) -> Option<u32> {
        None
    }
}

struct Site {
    port: Cell<Port>,
    stations: RefCell<HashMap<StationKey, Station>>,
}

impl Bridges for Site {
    fn port(&self, row: u32) -> Option<Port> {
        (row == ROW).then_some(self.port.get())
    }

    fn station(&self, key: &StationKey) -> Option<Station> {
        self.stations.borrow().get(key).copied()
    }

    fn see_port(&self, row: u32, now: u64) {
        assert_eq!(row, ROW);
        self.port.set(Port { seen: now, ..self.port.get() });
    }

    fn see(&self, key: &StationKey, now: u64) {
        if let Some(station) = self.stations.borrow_mut().get_mut(key) {
            station.seen = now;
        }
    }
}

const fn key(bridge: u32, mac: [u8; 6]) -> StationKey {
    StationKey { bridge, mac, reserved: 0 }
}

const fn station(ifindex: u32) -> Station {
    Station { seen: NOW - 10, ifindex, mtu: 1500, flags: 0, reserved: 0 }
}

/// Anne at the port here, Bill at the one there.
fn site() -> Site {
    let stations = [(key(5, ANNE), station(HERE)), (key(5, BILL), station(THERE))];
    Site {
        port: Cell::new(Port { until: NOW + 1, station: 0, seen: 0, bridge: 5, patience: 100 }),
        stations: RefCell::new(HashMap::from(stations)),
    }
}

fn frame(to: [u8; 6], from: [u8; 6]) -> Frame {
    let bytes = [&to[..], &from[..], &[8, 0], &[0; 40]].concat();
    Frame { len: bytes.len() as u32, bytes, tagged: false }
}

fn goes_to(site: &Site, frame: &Frame) -> Option<u32> {
    forward(frame, site, (ROW, HERE), false, || Some(NOW))
}

#[test]
fn what_the_bridge_would_hand_to_another_port_is_handed_there() {
    assert_eq!(goes_to(&site(), &frame(BILL, ANNE)), Some(THERE));
    let mut ipv6 = frame(BILL, ANNE);
    ipv6.bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(goes_to(&site(), &ipv6), Some(THERE));
}

#[test]
fn the_bridge_decides_what_is_not_known_for_certain() {
    let carol = [2, 0, 0, 0, 0, 3];
    let goes = |to, from| goes_to(&site(), &frame(to, from));
    // Nobody has heard of the receiver, or of the sender; or the sender was heard of elsewhere.
    assert_eq!(goes(carol, ANNE), None);
    assert_eq!(goes(BILL, carol), None);
    assert_eq!(goes(ANNE, BILL), None);
    // Back to where it came from.
    assert_eq!(goes(ANNE, ANNE), None);
    // Groups.
    assert_eq!(goes([0xff; 6], ANNE), None);
    assert_eq!(goes([3, 0, 0, 0, 0, 2], ANNE), None);
    assert_eq!(goes(BILL, [3, 0, 0, 0, 0, 1]), None);
}

#[test]
fn the_bridge_decides_what_is_no_untagged_ip_packet_of_a_flow() {
    let with_type = |kind: [u8; 2]| {
        let mut frame = frame(BILL, ANNE);
        frame.bytes[12..14].copy_from_slice(&kind);
        goes_to(&site(), &frame)
    };
    assert_eq!([[0x81, 0], [0x88, 0xa8], [8, 6]].map(with_type), [None; 3]);
    assert_eq!(goes_to(&site(), &Frame { tagged: true, ..frame(BILL, ANNE) }), None);
    let short = Frame { bytes: std::vec![2; 13], len: 13, tagged: false };
    assert_eq!(goes_to(&site(), &short), None);
}

#[test]
fn what_is_too_long_for_the_other_port_is_the_bridges() {
    let mut longest = frame(BILL, ANNE);
    longest.len = 1514;
    assert_eq!(goes_to(&site(), &longest), Some(THERE));
    longest.len = 1515;
    assert_eq!(goes_to(&site(), &longest), None);
    let cut_later = forward(&longest, &site(), (ROW, HERE), true, || Some(NOW));
    assert_eq!(cut_later, Some(THERE));
}

#[test]
fn what_was_written_down_holds_for_its_time_only() {
    for (until, goes) in [(0, None), (NOW - 1, None), (NOW, None), (NOW + 1, Some(THERE))] {
        let site = site();
        site.port.set(Port { until, ..site.port.get() });
        assert_eq!(goes_to(&site, &frame(BILL, ANNE)), goes, "{until}");
    }
    assert_eq!(forward(&frame(BILL, ANNE), &site(), (ROW + 1, HERE), false, || { Some(NOW) }), None);
    // Another bridge's stations are others.
    let elsewhere = site();
    elsewhere.port.set(Port { bridge: 6, ..elsewhere.port.get() });
    assert_eq!(goes_to(&elsewhere, &frame(BILL, ANNE)), None);
}

#[test]
fn the_bridge_sees_a_sender_once_in_a_while() {
    let site = site();
    site.stations.borrow_mut().get_mut(&key(5, ANNE)).unwrap().seen = NOW - 100;
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), None);
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), Some(THERE));
    let later = forward(&frame(BILL, ANNE), &site, (ROW, HERE), false, || Some(NOW + 100));
    assert_eq!(later, None);
}

#[test]
fn isolated_ports_hear_from_others_only() {
    for (sender, receiver, goes) in
        [(0, PORT_ISOLATED, true), (PORT_ISOLATED, 0, true), (PORT_ISOLATED, PORT_ISOLATED, false)]
    {
        let site = site();
        site.stations.borrow_mut().get_mut(&key(5, ANNE)).unwrap().flags = sender;
        site.stations.borrow_mut().get_mut(&key(5, BILL)).unwrap().flags = receiver;
        assert_eq!(goes_to(&site, &frame(BILL, ANNE)).is_some(), goes);
    }
}

/// Of a port with one station behind it, that is all there is to look up.
#[test]
fn the_only_station_of_a_port_is_known_with_the_port() {
    let site = site();
    site.stations.borrow_mut().remove(&key(5, ANNE));
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), None);
    let only = |station: u64, seen: u64| site.port.set(Port { station, seen, ..site.port.get() });
    only(port_station(ANNE), NOW - 10);
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), Some(THERE));
    // Its bridge has not seen it for long.
    only(port_station(ANNE), NOW - 100);
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), None);
    assert_eq!(site.port.get().seen, NOW);
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), Some(THERE));
    // Somebody else is not, whatever flags the port has.
    only(port_station(BILL), NOW);
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), None);
    only(port_station(ANNE) | u64::from(PORT_ISOLATED) << 48, NOW);
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), Some(THERE));
    site.stations.borrow_mut().get_mut(&key(5, BILL)).unwrap().flags = PORT_ISOLATED;
    assert_eq!(goes_to(&site, &frame(BILL, ANNE)), None);
}
