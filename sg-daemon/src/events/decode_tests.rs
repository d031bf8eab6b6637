use sg_common::abi::EVENT_FRAME;

use super::*;

fn event(frame: &[u8]) -> Event {
    let mut bytes = [0xee; EVENT_FRAME];
    let captured = frame.len().min(EVENT_FRAME);
    bytes[..captured].copy_from_slice(&frame[..captured]);
    Event {
        time: 0,
        generation: 0,
        watchers: 0,
        ifindex: 0,
        policy: 0,
        bytes: frame.len() as u32,
        captured: captured as u32,
        reason: 0,
        direction: 0,
        flags: 0,
        state: 0,
        reserved: 0,
        frame: bytes,
    }
}

fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind.to_be_bytes(), rest].concat()
}

fn udp(total: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 5, 10, 0, 0, 9];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    [ip, vec![0, 53, 0x9c, 0x40, 0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

#[test]
fn sides_and_ports_are_read_in_both_directions_alike() {
    for direction in [Direction::Inbound, Direction::Outbound] {
        let seen = read(&event(&ethernet(0x0800, &udp(32))), direction);
        assert_eq!(seen.source, Some("10.0.0.5".parse().unwrap()));
        assert_eq!(seen.destination, Some("10.0.0.9".parse().unwrap()));
        assert_eq!((seen.protocol, seen.ports), (Some(17), Some((53, 40_000))));
    }
}

#[test]
fn what_is_cut_short_or_wrong_is_absent() {
    // The header says more than there is: no address of it is believed, as the filter believes none.
    let seen = read(&event(&ethernet(0x0800, &udp(33))), Direction::Inbound);
    assert_eq!(seen, Seen { ether_type: Some(0x0800), ..Seen::default() });
    let short = read(&event(&ethernet(0x0800, &udp(24)[..24])), Direction::Inbound);
    assert_eq!((short.protocol, short.ports), (Some(17), None));
    assert_eq!(read(&event(&[1, 2, 3]), Direction::Inbound), Seen::default());
    let tagged = [&[0x00, 0x05][..], &[0x08, 0x00], &udp(32)].concat();
    let seen = read(&event(&ethernet(0x8100, &tagged)), Direction::Inbound);
    assert_eq!((seen.vlan, seen.ports), (Some(5), Some((53, 40_000))));
}

#[test]
fn times_of_the_monotonic_clock_are_told_on_the_wall() {
    let clocks = Clocks {
        monotonic: Duration::from_secs(100),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
    };
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(clocks.wall(99_000_000_000), at(999));
    assert_eq!(clocks.wall(101_000_000_000), at(1001));
}
