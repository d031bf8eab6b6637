//! UDP, ICMP, and protocols without ports.

use super::dice::Dice;
use super::stage::{Ends, Stage};
use crate::frame::{Packet, UDP};

#[derive(Debug)]
pub struct Plain {
    ends: Ends,
}

impl Plain {
    pub fn new(ends: Ends) -> Self {
        Self { ends }
    }

    pub fn act(&mut self, dice: &mut Dice, stage: &mut Stage<'_>) {
        let answers = dice.below(5) >= 3;
        if dice.once_in(8) {
            stage.wait(dice);
        }
        let outbound = self.ends.outbound != answers;
        let packet = self.packet(outbound, answers, dice);
        stage.send(outbound, &packet, dice);
    }

    fn packet(&self, outbound: bool, answers: bool, dice: &mut Dice) -> Packet {
        let (source, destination) = self.ends.way(outbound);
        let v4 = source.is_ipv4();
        let data = [0x77; 80];
        let data = &data[..dice.pick(&[10, 0, 40, 80])];
        match self.ends.protocol {
            UDP => Packet::udp(source, destination, data),
            1 if v4 => self.message(outbound, answers, &[8, 13, 15, 17, 3, 11, 42, 5], dice),
            58 if !v4 => self.message(outbound, answers, &[128, 139, 1, 2, 130, 143, 160, 137], dice),
            protocol => Packet::new(source.ip(), destination.ip(), protocol, data.to_vec()),
        }
    }

    fn message(&self, outbound: bool, answers: bool, kinds: &[u8], dice: &mut Dice) -> Packet {
        let (source, destination) = self.ends.way(outbound);
        let (named, code) = self.ends.message;
        let kind = match dice.below(8) {
            0..=4 => named.unwrap_or(kinds[0]),
            5..=6 => kinds[0],
            _ => dice.pick(kinds),
        };
        let identifier = dice.pick(&[7, 7, 7, 8]);
        // Asked the other way, with the same identifier, or answered.
        let asks_too = answers && dice.once_in(3);
        if answers && !asks_too {
            return Packet::icmp(destination.ip(), source.ip(), kind.min(254), code, identifier).reply();
        }
        Packet::icmp(source.ip(), destination.ip(), kind, code, identifier)
    }
}
