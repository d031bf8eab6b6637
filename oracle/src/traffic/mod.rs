//! Random traffic: scripts of a few conversations on one interface or two, most of it right, some of it hostile.
//!
//! A [`Script`] is numbers only; together with the files of a policy it becomes frames that aim at its rules.

mod dice;
mod ground;
mod link;
mod plain;
mod stage;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use self::dice::Dice;
pub use self::ground::Ground;
use self::ground::Spot;
use self::plain::Plain;
use self::stage::{Ends, Stage};
use self::stream::Stream;

#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// `ingress`: on which of the device's hooks.
    Frame { device: String, ingress: bool, frame: Vec<u8> },
    /// So many seconds pass.
    Advance(u32),
}

/// Bytes in hexadecimal, to paste into a decoder.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Advance(seconds) => write!(f, "+{seconds}s"),
            Self::Frame { device, ingress, frame } => {
                write!(f, "{device} {} ", if *ingress { "ingress" } else { "egress" })?;
                frame.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct Script {
    spots: u64,
    /// Whose turn it is.
    order: u64,
    talks: Vec<Talk>,
}

/// One conversation.
#[derive(Debug, Clone)]
struct Talk {
    kind: u8,
    who: u64,
    moves: Vec<u64>,
}

pub fn any_script() -> impl Strategy<Value = Script> {
    let talk = (any::<u8>(), any::<u64>(), vec(any::<u64>(), 1..=7));
    let talk = talk.prop_map(|(kind, who, moves)| Talk { kind, who, moves });
    (any::<u64>(), any::<u64>(), vec(talk, 1..=3)).prop_map(|(spots, order, talks)| Script {
        spots,
        order,
        talks,
    })
}

enum Actor {
    Stream(Stream),
    Plain(Plain),
    Link(Ends),
}

impl Actor {
    fn new(talk: &Talk, ground: &Ground, spot: &Spot) -> Self {
        let mut dice = Dice(talk.who);
        match talk.kind % 16 {
            0..=6 => Self::Stream(Stream::new(Ends::new(ground, spot, Some(6), &mut dice), &mut dice)),
            7..=8 => Self::Plain(Plain::new(Ends::new(ground, spot, Some(17), &mut dice))),
            9..=10 => Self::Plain(Plain::new(Ends::new(ground, spot, Some(1), &mut dice))),
            11..=12 => Self::Plain(Plain::new(Ends::new(ground, spot, None, &mut dice))),
            _ => Self::Link(Ends::new(ground, spot, None, &mut dice)),
        }
    }

    fn act(&mut self, dice: &mut Dice, stage: &mut Stage<'_>) {
        match self {
            Self::Stream(stream) => stream.act(dice, stage),
            Self::Plain(plain) => plain.act(dice, stage),
            Self::Link(ends) => link::act(ends, dice, stage),
        }
    }
}

impl Script {
    pub fn steps(&self, files: &[Value]) -> Vec<Step> {
        self.on(&Ground::new(files))
    }

    /// The same for files that have been read before. Where no interface is filtered there is no traffic.
    pub fn on(&self, ground: &Ground) -> Vec<Step> {
        if ground.spots.is_empty() {
            return Vec::new();
        }
        let mut spots = Dice(self.spots);
        let first = spots.below(ground.spots.len() as u64);
        let mut actors: Vec<(Actor, &Spot, &[u64])> = Vec::new();
        for talk in &self.talks {
            let elsewhere = spots.once_in(4);
            let spot = if elsewhere { spots.below(ground.spots.len() as u64) } else { first };
            let spot = &ground.spots[spot as usize];
            actors.push((Actor::new(talk, ground, spot), spot, &talk.moves));
        }
        let mut steps = Vec::new();
        let mut order = Dice(self.order);
        while !actors.is_empty() {
            let turn = order.below(actors.len() as u64) as usize;
            let (actor, spot, moves) = &mut actors[turn];
            if let Some((next, rest)) = moves.split_first() {
                *moves = rest;
                actor.act(&mut Dice(*next), &mut Stage::new(ground, spot, &mut steps));
            } else {
                actors.swap_remove(turn);
            }
        }
        steps
    }
}
