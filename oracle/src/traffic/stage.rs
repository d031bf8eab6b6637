//! Sending: who talks to whom, and what can befall a packet on its way.

use std::net::{IpAddr, SocketAddr};

use super::Step;
use super::dice::Dice;
use super::ground::{Ground, Spot, link_local};
use crate::frame::{
    AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, Packet, ROUTING, UDP, from_mac, tagged,
};

/// The two ends of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Whether the instance begins.
    pub outbound: bool,
    pub protocol: u8,
    /// The ICMP type that a rule names, and a code.
    pub message: (Option<u8>, u8),
}

impl Ends {
    /// 1 stands for the family's ICMP, nothing for any protocol.
    pub fn new(ground: &Ground, spot: &Spot, protocol: Option<u8>, dice: &mut Dice) -> Self {
        let fits = |wanted: u8, rule: u8| wanted == rule || (wanted == 1 && rule == 58);
        let other = |rule: u8| ![6, 17].contains(&rule);
        let aims: Vec<_> = spot
            .aims
            .iter()
            .filter(|aim| match (protocol, aim.protocol) {
                (_, None) => true,
                (Some(wanted), Some(rule)) => fits(wanted, rule),
                (None, Some(rule)) => other(rule),
            })
            .collect();
        let aimed = !aims.is_empty() && !dice.once_in(8);
        let (outbound, remote, (low, high), message, rule) = if aimed {
            let aim = dice.pick(&aims);
            (aim.outbound, dice.pick(&aim.remotes), aim.ports, aim.message, aim.protocol)
        } else {
            (dice.below(2) == 1, dice.pick(&ground.pool), (1, 65535), (None, 0), None)
        };
        let icmp = if remote.is_ipv4() { 1 } else { 58 };
        let protocol = match protocol {
            Some(1) => icmp,
            Some(protocol) => protocol,
            None => rule
                .filter(|_| !dice.once_in(4))
                .unwrap_or_else(|| dice.pick(&[47, 50, 132, 4, 59, 1, 58, 2])),
        };
        let local = if dice.once_in(16) { dice.pick(&ground.pool) } else { spot.local(remote, dice) };
        let local = if local.is_ipv4() == remote.is_ipv4() { local } else { spot.local(remote, dice) };
        let served = dice.pick(&[low, high, low.midpoint(high), 80]);
        let asking = dice.pick(&[1024, 40000, 65535, served]);
        let (local_port, remote_port) = if outbound { (asking, served) } else { (served, asking) };
        Self {
            local: SocketAddr::new(local, local_port),
            remote: SocketAddr::new(remote, remote_port),
            outbound,
            protocol,
            message,
        }
    }

    /// Source and destination.
    pub fn way(&self, outbound: bool) -> (SocketAddr, SocketAddr) {
        if outbound { (self.local, self.remote) } else { (self.remote, self.local) }
    }
}

/// Where frames are put.
pub struct Stage<'s> {
    pub ground: &'s Ground,
    pub spot: &'s Spot,
    steps: &'s mut Vec<Step>,
}

impl<'s> Stage<'s> {
    pub fn new(ground: &'s Ground, spot: &'s Spot, steps: &'s mut Vec<Step>) -> Self {
        Self { ground, spot, steps }
    }

    /// Exactly this frame.
    pub fn put(&mut self, outbound: bool, frame: Vec<u8>) {
        let device = self.spot.device.clone();
        self.steps.push(Step::Frame { device, ingress: outbound != self.spot.host, frame });
    }

    /// On a device that is in no policy.
    pub fn put_elsewhere(&mut self, frame: Vec<u8>) {
        self.steps.push(Step::Frame { device: "sg-none".to_owned(), ingress: true, frame });
    }

    /// Time that ends just before, at or just after something, or at no particular moment.
    pub fn wait(&mut self, dice: &mut Dice) {
        let time = dice.pick(&self.spot.times);
        let seconds = match dice.below(6) {
            0 => time,
            1 => time - 1,
            2 => time + 1,
            3 => time / 2,
            4 => 1,
            _ => 5,
        };
        self.steps.push(Step::Advance(seconds));
    }

    /// What mostly is the packet as it is.
    pub fn send(&mut self, outbound: bool, packet: &Packet, dice: &mut Dice) {
        match dice.below(24) {
            0..=15 => self.put(outbound, packet.frame()),
            16 => self.pieces(outbound, packet, dice),
            17 => {
                let dressed = dress(packet, dice);
                if dice.once_in(3) {
                    self.pieces(outbound, &dressed, dice);
                } else {
                    self.put(outbound, dressed.frame());
                }
            }
            18 => self.put(outbound, bend(packet, dice)),
            19..=20 => {
                self.put(outbound, packet.frame());
                self.error(!outbound, packet, dice);
            }
            21 => {
                self.put(outbound, packet.frame());
                self.put(outbound, packet.frame());
            }
            22 => {
                self.wait(dice);
                self.put(outbound, packet.frame());
            }
            _ => {
                let frame = packet.frame();
                let frame = match dice.below(6) {
                    0 => tagged(&frame, 0x8100, 5),
                    1 => tagged(&frame, 0x88a8, 5),
                    2 => tagged(&tagged(&frame, 0x8100, 5), 0x8100, 6),
                    3 => from_mac(frame, [0x52, 0x54, 0, 0, 0, 6]),
                    4 => packet.bare(),
                    _ => {
                        let mut longer = frame;
                        longer.extend([0; 7]);
                        longer
                    }
                };
                self.put(outbound, frame);
            }
        }
    }

    /// The packet in pieces: all of them and in order at best.
    pub fn pieces(&mut self, outbound: bool, packet: &Packet, dice: &mut Dice) {
        let mut whole = packet.clone();
        let most = dice.pick(&[64, 40, 96, 200, 24]);
        if whole.payload.len() < most {
            let more = vec![0xab; most - whole.payload.len()];
            whole = whole.data(&more);
        }
        let length = whole.payload.len();
        let size = dice.pick(&[32, 24, 40, 16, 8]);
        let identification = dice.pick(&[7, 8, 0xffff]);
        let mut pieces: Vec<Packet> = (0..length)
            .step_by(size)
            .map(|from| whole.piece(from, (from + size).min(length), identification))
            .collect();
        match dice.below(12) {
            0..=1 => {}
            2 => pieces.reverse(),
            3 => {
                let at = dice.below(pieces.len() as u64) as usize;
                pieces.rotate_left(at);
            }
            4 => {
                let at = dice.below(pieces.len() as u64) as usize;
                pieces.remove(at);
            }
            5 => {
                let again = dice.pick(&(0..pieces.len()).collect::<Vec<_>>());
                pieces.push(pieces[again].clone());
            }
            // One that reaches into the next, or is empty, or ends where none may.
            6 => {
                let at = dice.below(pieces.len() as u64) as usize;
                pieces[at].payload.extend([0xcd; 8]);
            }
            7 => {
                let at = dice.below(pieces.len() as u64) as usize;
                let keep = dice.pick(&[0, 3, 12]).min(pieces[at].payload.len());
                pieces[at].payload.truncate(keep);
            }
            // Too many that do not touch.
            8 => {
                pieces = (0..10 + dice.below(3) as usize)
                    .map(|n| {
                        let mut piece = whole.clone().fragment(16 + 32 * n as u16, true, identification);
                        piece.payload = vec![0; 8];
                        piece
                    })
                    .collect();
                if dice.below(2) == 0 {
                    let first = whole.piece(0, size.min(length), identification);
                    pieces.insert(dice.below(10) as usize, first);
                }
            }
            9 => {
                let mut last = whole.clone().fragment(65528, false, identification);
                last.payload.truncate(dice.pick(&[7, 8, 9, 1]));
                pieces.push(last);
            }
            10 => pieces.truncate(1),
            // The first one again, and what follows it.
            _ => pieces.extend(pieces.clone()),
        }
        // Other datagrams begin in the middle of it, perhaps more of them than are remembered.
        if dice.once_in(4) && !pieces.is_empty() {
            let at = 1 + dice.below(pieces.len() as u64) as usize;
            let others = 1 + dice.below(4) as u16;
            let begins = |other| whole.piece(0, size.min(length), 100 + other).fragment(0, true, 100 + other);
            pieces.splice(at..at, (0..others).map(begins));
        }
        let pause = dice.once_in(6).then(|| dice.below(pieces.len().max(1) as u64) as usize);
        for (index, piece) in pieces.iter().enumerate() {
            if pause == Some(index) {
                let seconds = dice.pick(&[30, 29, 31, 10, 59, 60]);
                self.steps.push(Step::Advance(seconds));
            }
            self.put(outbound, piece.frame());
        }
        if let Some(about) = pieces.last().filter(|_| dice.once_in(4)) {
            self.error(!outbound, about, dice);
        }
    }

    /// An ICMP error about the packet, the other way.
    pub fn error(&mut self, outbound: bool, about: &Packet, dice: &mut Dice) {
        let v4 = about.source.is_ipv4();
        let kind = if v4 { dice.pick(&[3, 11, 12, 5, 4]) } else { dice.pick(&[1, 2, 3, 4, 137, 5]) };
        let code = dice.pick(&[0, 4, 1]);
        let mut about = about.clone();
        match dice.below(17) {
            0..=8 => {}
            16 => about = dress(&about, dice),
            9 => (about.source, about.destination) = (about.destination, about.source),
            10 => about.payload.iter_mut().take(2).for_each(|byte| *byte ^= 1),
            11 => about.payload.iter_mut().skip(2).take(2).for_each(|byte| *byte ^= 1),
            12 if !v4 => about = about.extension(dice.pick(&[60, 0, 43, 51]), &[0, 0, 1, 0, 0, 0]),
            12 => about = about.options(&[1, 1, 1, 0]),
            13 => about.protocol = dice.pick(&[6, 17, 47, 1, 58]),
            14 => about.fragment = Some((dice.pick(&[0, 32, 24]), dice.below(2) == 0, 7)),
            _ => about.destination = self.other(about.destination, dice),
        }
        let router = if dice.once_in(3) { self.other(about.destination, dice) } else { about.destination };
        let mut error = about.error(router, kind, code);
        match dice.below(12) {
            0..=4 => {}
            // A header that is none, or says other lengths.
            10 => error.payload[8] ^= dice.pick(&[0x10, 0x20, 0x01, 0x04, 0x0f]),
            11 => {
                let at = (8 + dice.below(48) as usize).min(error.payload.len() - 1);
                error.payload[at] ^= dice.pick(&[1, 0x80, 0xff]);
            }
            5 => error.payload.truncate(8 + if v4 { 28 } else { 48 }),
            6 => error.payload.truncate(8 + if v4 { 27 } else { 47 }),
            7 => error.payload.truncate(8 + if v4 { 20 } else { 40 }),
            8 => error.payload.truncate(dice.pick(&[8, 12, 27, 47])),
            _ => error.destination = self.other(error.destination, dice),
        }
        self.put(outbound, error.frame());
    }

    /// Another address of the same family.
    fn other(&self, address: IpAddr, dice: &mut Dice) -> IpAddr {
        let pool = self.ground.pool.iter().copied().chain([link_local()]);
        dice.pick(&pool.filter(|other| other.is_ipv4() == address.is_ipv4()).collect::<Vec<_>>())
    }
}

/// With options or extension headers.
fn dress(packet: &Packet, dice: &mut Dice) -> Packet {
    let mut packet = packet.clone();
    if packet.source.is_ipv4() {
        const OPTIONS: [&[u8]; 9] = [
            &[1, 1, 1, 0],
            &[131, 7, 4, 10, 0, 0, 1, 0],
            &[1, 137, 7, 4, 10, 0, 0, 1],
            &[148, 4, 0, 0],
            &[148, 4, 0, 0, 131, 3, 4, 0],
            &[0, 131, 3, 4],
            &[148, 1, 131, 3],
            &[148, 9, 131, 3],
            &[1, 1, 1, 131],
        ];
        return packet.options(dice.pick(&OPTIONS));
    }
    let numbers = [DESTINATION_OPTIONS, HOP_BY_HOP, ROUTING, AUTHENTICATION, FRAGMENT];
    let odd = [135, 139, 140, 253, 254];
    let count = dice.pick(&[1, 2, 3, 5, 6, 7]);
    for _ in 0..count {
        let number = if dice.once_in(24) { dice.pick(&odd) } else { dice.pick(&numbers) };
        let mut body = vec![0; if number != FRAGMENT && dice.once_in(4) { 14 } else { 6 }];
        if number == ROUTING && dice.once_in(2) {
            body[0] = 2;
        }
        packet = packet.extension(number, &body);
    }
    packet
}

/// The frame with something about it wrong.
fn bend(packet: &Packet, dice: &mut Dice) -> Vec<u8> {
    let mut frame = packet.bare();
    let length = frame.len() as u64;
    let field = if packet.source.is_ipv4() { 16 } else { 18 };
    match dice.below(8) {
        // A byte of the headers.
        0..=1 => {
            let at = 12 + dice.below(48.min(length - 12)) as usize;
            frame[at] ^= dice.pick(&[0x01, 0x10, 0xff, 0x40, 0x80]);
        }
        2 => {
            let at = dice.below(length) as usize;
            frame[at] = dice.below(256) as u8;
        }
        3 => frame.truncate(dice.below(length) as usize),
        // Shorter or longer than it says.
        4 => {
            let said = u16::from_be_bytes([frame[field], frame[field + 1]]);
            let bent = said.wrapping_add(dice.pick(&[1, 8, u16::MAX, u16::MAX - 7, said.wrapping_neg()]));
            frame[field..field + 2].copy_from_slice(&bent.to_be_bytes());
        }
        // The transport header's own length.
        5 => {
            let at = frame.len() - packet.payload.len() + if packet.protocol == UDP { 5 } else { 12 };
            if let Some(byte) = frame.get_mut(at) {
                *byte = dice.pick(&[0x40, 0x60, 0xf0, 0x00, 7, 8, 9]);
            }
        }
        6 => frame[14] = dice.pick(&[0x44, 0x46, 0x60, 0x50, 0x4f]),
        // Less, with lengths that agree.
        _ => {
            let mut short = packet.clone();
            short.payload.truncate(dice.below(24) as usize);
            frame = short.frame();
        }
    }
    frame
}
