//! What a link carries beside conversations: ARP, neighbour discovery, multicast listeners, DHCP, other EtherTypes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::dice::Dice;
use super::ground::link_local;
use super::stage::{Ends, Stage};
use crate::frame::{MAC, Packet, arp, ethernet, from_mac, tagged};

const FOREIGN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 6];

pub fn act(ends: &Ends, dice: &mut Dice, stage: &mut Stage<'_>) {
    let outbound = dice.below(3) < 2;
    match dice.below(12) {
        0..=1 => {
            let frame = address_resolution(ends, dice, stage);
            stage.put(outbound, frame);
        }
        2..=5 => discovery(outbound, dice, stage),
        6 => {
            let packet = listener(ends, outbound, dice, stage);
            stage.send(outbound, &packet, dice);
        }
        7..=9 => {
            let packet = dhcp(ends, outbound, dice, stage);
            stage.send(outbound, &packet, dice);
        }
        10 => {
            let ether_type = dice.pick(&[0x88cc, 0x8035, 0x1234, 0, 0x0600, 0x88a8, 0x8100, 0x9000]);
            let frame = ethernet(ether_type, &[0; 46]);
            let frame = if dice.once_in(3) { tagged(&frame, 0x8100, 3) } else { frame };
            let frame = if dice.once_in(6) { from_mac(frame, FOREIGN) } else { frame };
            stage.put(outbound, frame);
        }
        _ => {
            let (source, destination) = ends.way(outbound);
            let frame = Packet::udp(source, destination, b"sgd").frame();
            match dice.below(3) {
                0 => stage.put_elsewhere(frame),
                1 => stage.put(outbound, frame[..dice.pick(&[0, 13, 14, 17, 18])].to_vec()),
                _ => stage.put(outbound, tagged(&frame, 0x8100, 3)[..dice.pick(&[14, 16, 17, 18])].to_vec()),
            }
        }
    }
}

/// An address that is the instance's, or one that is not.
fn some_v4(dice: &mut Dice, stage: &Stage<'_>) -> Ipv4Addr {
    let own = stage.spot.own.iter().filter_map(|own| match own {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let mut choices: Vec<Ipv4Addr> = own.collect();
    choices.extend([Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 99)]);
    dice.pick(&choices)
}

fn some_v6(dice: &mut Dice, stage: &Stage<'_>) -> IpAddr {
    let mut choices: Vec<IpAddr> = stage.spot.own.iter().copied().filter(IpAddr::is_ipv6).collect();
    choices.push(link_local());
    choices.extend(["::", "fe80::77", "2001:db8::99"].map(|text| text.parse::<IpAddr>().unwrap()));
    choices.extend(&stage.spot.routers);
    dice.pick(&choices)
}

fn address_resolution(ends: &Ends, dice: &mut Dice, stage: &Stage<'_>) -> Vec<u8> {
    let IpAddr::V4(target) = ends.remote.ip() else { return arp(some_v4(dice, stage), Ipv4Addr::LOCALHOST) };
    let mut frame = arp(some_v4(dice, stage), target);
    match dice.below(10) {
        0..=4 => {}
        // An answer.
        5 => frame[21] = 2,
        6 => frame[22..28].copy_from_slice(&FOREIGN),
        7 => frame.truncate(dice.pick(&[42, 41, 14])),
        8 => frame[14 + dice.below(6) as usize] ^= 1,
        _ => frame = from_mac(frame, FOREIGN),
    }
    frame
}

fn discovery(outbound: bool, dice: &mut Dice, stage: &mut Stage<'_>) {
    let kind = dice.pick(&[135, 136, 133, 134, 137]);
    let source = some_v6(dice, stage);
    let all_nodes = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    match kind {
        135 | 136 => {
            let IpAddr::V6(target) = some_v6(dice, stage) else { panic!("an address of IPv6") };
            message.extend(target.octets());
        }
        134 => message.extend([0; 8]),
        137 => message.extend([0; 32]),
        _ => {}
    }
    let options = dice.pick(&[1, 0, 2, 8, 9]);
    let bent = dice.once_in(3).then(|| dice.below(options.max(1)));
    for option in 0..options {
        let mac = if bent == Some(option) && dice.below(2) == 0 { FOREIGN } else { MAC };
        message.extend([dice.pick(&[1, 2, 14, 5]), 1]);
        message.extend(mac);
    }
    if bent.is_some() && dice.once_in(2) {
        match dice.below(5) {
            0 => message.extend([14, 0, 0, 0, 0, 0, 0, 0]),
            1 => message.extend([14, 2, 0, 0, 0, 0, 0, 0]),
            2 => message.push(1),
            3 => message.extend([1, 2, 0x52, 0x54, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]),
            _ => message.truncate(dice.pick(&[23, 8, 24, 20])),
        }
    }
    let hops = dice.pick(&[255, 255, 255, 255, 254, 1]);
    let packet = Packet::new(source, all_nodes, 58, message).hop_limit(hops);
    stage.send(outbound, &packet, dice);
}

/// RFC 3810, RFC 2710.
fn listener(ends: &Ends, outbound: bool, dice: &mut Dice, stage: &Stage<'_>) -> Packet {
    let kind = dice.pick(&[143, 130, 131, 132]);
    let source = some_v6(dice, stage);
    let routers = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16));
    let hops = dice.pick(&[1, 1, 1, 255]);
    let remote = ends.way(outbound).1.ip();
    let destination = if remote.is_ipv6() && dice.once_in(3) { remote } else { routers };
    Packet::icmp(source, destination, kind, 0, 0).extension(0, &[5, 2, 0, 0, 1, 0]).hop_limit(hops)
}

fn dhcp(ends: &Ends, outbound: bool, dice: &mut Dice, stage: &Stage<'_>) -> Packet {
    let v4 = dice.below(3) < 2;
    let (client, server) = if v4 { (68, 67) } else { (546, 547) };
    let mine = if v4 { some_v4(dice, stage).into() } else { some_v6(dice, stage) };
    let everybody: IpAddr =
        if v4 { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2).into() };
    let mut servers: Vec<IpAddr> = stage.spot.servers.clone();
    servers.extend([ends.remote.ip(), "10.0.0.98".parse().unwrap(), "fe80::98".parse().unwrap()]);
    servers.retain(|server| server.is_ipv4() == v4);
    let theirs = dice.pick(&servers);
    let (mut from, mut to) = if outbound {
        (SocketAddr::new(mine, client), SocketAddr::new(dice.pick(&[everybody, theirs]), server))
    } else {
        (SocketAddr::new(theirs, server), SocketAddr::new(dice.pick(&[everybody, mine]), client))
    };
    match dice.below(8) {
        0..=4 => {}
        // The instance as the server, or as the client of one of the other side.
        5 => {
            (from, to) = (SocketAddr::new(from.ip(), to.port()), SocketAddr::new(to.ip(), from.port()));
        }
        6 => to.set_port(client),
        _ => from.set_port(server),
    }
    Packet::udp(from, to, b"dhcp")
}
