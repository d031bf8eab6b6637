//! TCP: connections that live as they should, and what can come in between.

use super::dice::Dice;
use super::stage::{Ends, Stage};
use crate::frame::{ACK, FIN, PSH, Packet, RST, SYN, TCP, URG};

#[derive(Debug, Clone, Copy)]
struct Side {
    first: u32,
    /// What it sends next.
    next: u32,
    /// What it acknowledged last.
    acked: u32,
    window: u16,
    scale: Option<u8>,
}

#[derive(Debug)]
pub struct Stream {
    ends: Ends,
    /// Who begins, and the other.
    sides: [Side; 2],
    /// Where in its life the connection is, as far as all goes well.
    phase: u8,
    both_open: bool,
    closer: usize,
    port: u16,
}

impl Stream {
    pub fn new(ends: Ends, dice: &mut Dice) -> Self {
        let phase = dice.pick(&[0, 0, 0, 0, 0, 0, 3, 1, 4, 5]);
        let both_open = dice.once_in(6);
        let closer = dice.below(2) as usize;
        let mut side = || {
            let first = dice.pick(&[1000, 0xffff_fff0, 0x7fff_fff0, 0]);
            Side {
                first,
                next: first,
                acked: 0,
                window: dice.pick(&[0xffff, 1000, 0, 1]),
                scale: dice.pick(&[Some(7), None, Some(0), Some(14), Some(15)]),
            }
        };
        let mut sides = [side(), side()];
        if phase > 0 {
            sides[0].next = sides[0].next.wrapping_add(1);
        }
        if phase > 1 {
            sides[1].next = sides[1].next.wrapping_add(1);
        }
        Self { ends, sides, phase, both_open, closer, port: 0 }
    }

    /// From one side: numbers as they are given.
    fn packet(
        &self,
        side: usize,
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        data: usize,
    ) -> (bool, Packet) {
        let outbound = (side == 0) == self.ends.outbound;
        let (source, destination) = self.ends.way(outbound);
        let sender = &self.sides[side];
        let mut bytes = Vec::with_capacity(32 + data);
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(acknowledgment.to_be_bytes());
        bytes.extend([0x50, flags]);
        bytes.extend(sender.window.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        if flags & SYN != 0 {
            bytes.extend([2, 4, 5, 180]);
            if let Some(scale) = sender.scale {
                bytes.extend([1, 3, 3, scale]);
            }
        } else if sender.window == 1000 {
            // Time stamps, without time.
            bytes.extend([1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes[12] = ((bytes.len() / 4) as u8) << 4;
        bytes.resize(bytes.len() + data, 0x55);
        (outbound, Packet::new(source.ip(), destination.ip(), TCP, bytes))
    }

    /// The next segment of a side, with right numbers.
    fn right(&mut self, side: usize, flags: u8, data: usize) -> (bool, Packet) {
        let acknowledgment = if flags & ACK == 0 { 0 } else { self.sides[1 - side].next };
        let sequence = if flags & SYN == 0 { self.sides[side].next } else { self.sides[side].first };
        let packet = self.packet(side, flags, sequence, acknowledgment, data);
        let used = data as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.sides[side].next = sequence.wrapping_add(used);
        if flags & ACK != 0 {
            self.sides[side].acked = acknowledgment;
        }
        packet
    }

    /// What follows when nothing goes wrong.
    fn proceed(&mut self, dice: &mut Dice) -> (bool, Packet) {
        let (closer, other) = (self.closer, 1 - self.closer);
        self.phase += 1;
        match self.phase - 1 {
            0 => self.right(0, SYN, 0),
            1 if self.both_open => {
                self.phase = 20;
                self.right(1, SYN, 0)
            }
            1 => self.right(1, SYN | ACK, 0),
            2 => self.right(0, ACK, 0),
            3 => self.right(0, ACK | PSH, 10),
            4 => self.right(1, ACK, dice.pick(&[0, 1000, 1])),
            5 => self.right(closer, FIN | ACK, dice.pick(&[0, 5])),
            // The answer to a FIN: first an acknowledgment, then the other FIN, or both at once.
            6 if dice.once_in(4) => {
                self.phase = 8;
                self.right(other, FIN | ACK, 0)
            }
            6 => self.right(other, ACK, dice.pick(&[0, 100])),
            7 => self.right(other, FIN | ACK, 0),
            8 => self.right(closer, ACK, 0),
            20 => self.right(0, SYN | ACK, 0),
            21 => {
                self.phase = 3;
                if dice.once_in(2) { self.right(1, ACK, 0) } else { self.right(1, SYN | ACK, 0) }
            }
            // The same ports once more.
            _ => {
                self.phase = 1;
                if dice.once_in(4) {
                    self.sides.swap(0, 1);
                    self.ends.outbound = !self.ends.outbound;
                    self.closer = 1 - self.closer;
                }
                let next = self.sides[0].next;
                self.sides[0].first = next.wrapping_add(dice.pick(&[1, 64000, 0, u32::MAX, 2]));
                self.right(0, SYN, 0)
            }
        }
    }

    pub fn act(&mut self, dice: &mut Dice, stage: &mut Stage<'_>) {
        if dice.below(16) < 11 {
            for _ in 0..=dice.pick(&[0, 1, 2, 4]) {
                let (outbound, packet) = self.proceed(dice);
                stage.send(outbound, &packet, dice);
            }
            return;
        }
        let side = dice.below(2) as usize;
        let (sender, receiver) = (self.sides[side], self.sides[1 - side]);
        let near = [0, 1, u32::MAX, 65_535, 65_536, 65_535_u32.wrapping_neg(), 65_536_u32.wrapping_neg()];
        let (outbound, packet) = match dice.below(16) {
            0..=4 => {
                let window = u32::from(receiver.window) << receiver.scale.unwrap_or(0).min(14);
                let sequence = match dice.below(9) {
                    0 => receiver.acked,
                    1 => sender.next,
                    2 => receiver.acked.wrapping_add(1),
                    3 => receiver.acked.wrapping_sub(dice.pick(&[
                        1,
                        65_535,
                        65_536,
                        window,
                        window.wrapping_add(1),
                    ])),
                    4 => receiver.acked.wrapping_add(window.wrapping_sub(dice.pick(&[1, 0]))),
                    5 => receiver.acked.wrapping_add(window / 2),
                    6 => sender.first,
                    7 => 0,
                    _ => receiver.acked.wrapping_add(0x4000_0000),
                };
                let acknowledgment = receiver.next.wrapping_add(dice.pick(&near));
                self.packet(side, dice.pick(&[RST, RST | ACK]), sequence, acknowledgment, 0)
            }
            5..=6 => {
                let sequence = match dice.below(4) {
                    0 => sender.first,
                    1 => sender.next,
                    2 => sender.next.wrapping_add(1),
                    _ => sender.next.wrapping_sub(1),
                };
                self.packet(side, SYN, sequence, 0, dice.pick(&[0, 20]))
            }
            7 => {
                let acknowledgment = receiver.next.wrapping_add(dice.pick(&near));
                self.packet(side, SYN | ACK, sender.first, acknowledgment, 0)
            }
            8..=9 => {
                let acknowledgment = receiver.next.wrapping_add(dice.pick(&near));
                let sequence = sender.next.wrapping_add(dice.pick(&near));
                let flags = dice.pick(&[ACK, FIN | ACK, ACK | PSH | URG]);
                self.packet(side, flags, sequence, acknowledgment, dice.pick(&[0, 10]))
            }
            10 => self.right(side, FIN | ACK, 0),
            11 => {
                let data = dice.pick(&[100, 40, 200]);
                let (outbound, packet) = self.right(side, ACK, data);
                stage.pieces(outbound, &packet, dice);
                return;
            }
            12 => {
                let flags = dice.below(64) as u8;
                self.packet(side, flags, sender.next, receiver.next, 0)
            }
            13 => {
                self.phase = dice.below(10) as u8;
                self.port = self.port.wrapping_add(1);
                self.right(side, ACK, 1)
            }
            14 => {
                stage.wait(dice);
                self.right(side, ACK, 0)
            }
            _ => {
                self.sides[side].window = dice.pick(&[0, 1, 0xffff, 1000]);
                self.right(side, ACK, 0)
            }
        };
        stage.send(outbound, &packet, dice);
    }
}
