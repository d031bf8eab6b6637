//! Section 8 of docs/packets.md: one TCP connection.

use super::headers::{be16, be32};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rst,
    Syn,
    SynAck,
    Fin,
    Ack,
    /// Flags that make no sense together.
    Nonsense,
}

#[derive(Debug, Clone)]
pub struct Segment {
    pub kind: Kind,
    sequence: u32,
    acknowledgment: Option<u32>,
    window: u16,
    /// Bytes of data that are there.
    data: u32,
    /// What its window scale option says.
    scale: Option<u8>,
    /// Whether this is the first piece only.
    cut: bool,
}

impl Segment {
    /// `header`: how long the header is.
    pub fn read(bytes: &[u8], header: usize, cut: bool) -> Self {
        let flags = bytes[13];
        Self {
            kind: match flags & 0b1_0111 {
                0b0_0100 | 0b1_0100 => Kind::Rst,
                0b0_0010 => Kind::Syn,
                0b1_0010 => Kind::SynAck,
                0b1_0001 => Kind::Fin,
                0b1_0000 => Kind::Ack,
                _ => Kind::Nonsense,
            },
            sequence: be32(bytes, 4),
            acknowledgment: (flags & 0b1_0000 != 0).then(|| be32(bytes, 8)),
            window: be16(bytes, 14),
            data: (bytes.len() - header) as u32,
            scale: scale(&bytes[20..header]),
            cut,
        }
    }

    fn is_syn(&self) -> bool {
        matches!(self.kind, Kind::Syn | Kind::SynAck)
    }

    /// The sequence number behind it.
    fn end(&self) -> u32 {
        let numbers = self.data + u32::from(self.is_syn()) + u32::from(self.kind == Kind::Fin);
        self.sequence.wrapping_add(numbers)
    }
}

/// RFC 7323, section 2.2; a larger shift counts as 14 (section 2.3). Twelve options are looked at.
fn scale(options: &[u8]) -> Option<u8> {
    let mut at = 0;
    for _ in 0..12 {
        match *options.get(at)? {
            0 => return None,
            1 => at += 1,
            3 if options.get(at + 1) == Some(&3) && at + 2 < options.len() => {
                return Some(options[at + 2].min(14));
            }
            _ => match options.get(at + 1) {
                Some(&length) if length >= 2 => at += usize::from(length),
                _ => return None,
            },
        }
    }
    None
}

/// What is known of one side.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    end: Option<u32>,
    ack: Option<u32>,
    window: u32,
    /// None: no option, as far as is known.
    scale: Option<u8>,
    fin: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Connection {
    origin: Side,
    reply: Side,
    /// Whether a segment has come in pieces.
    cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Drop(&'static str),
    /// As if there were no flow.
    Restart,
    /// The packet passes; connection, state and time stay.
    Nothing,
    /// The packet passes; this is the state now.
    State(&'static str),
    /// A reset closed it.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Unknown,
    Exact,
    Inside,
    Old,
    Outside,
}

/// How far `a` is after `b` (RFC 9293, section 3.4).
fn after(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b) as i32)
}

/// Whether `number` is `end`, or at most 65,535 below it.
fn just_below(number: Option<u32>, end: Option<u32>) -> bool {
    matches!((number, end), (Some(number), Some(end)) if (0..=65_535).contains(&after(end, number)))
}

impl Connection {
    /// Section 9: a connection that this segment begins, and its state; none for a segment that begins nothing.
    pub fn begin(segment: &Segment) -> Option<(Self, &'static str)> {
        let mut connection = Self::default();
        let state = match segment.kind {
            Kind::Syn => "syn_sent",
            Kind::SynAck => "syn_recv",
            Kind::Fin => "fin_wait",
            Kind::Ack => "established",
            Kind::Rst | Kind::Nonsense => return None,
        };
        if segment.kind != Kind::Syn {
            (connection.origin.scale, connection.reply.scale) = (Some(14), Some(14));
        }
        connection.note(true, segment);
        Some((connection, state))
    }

    fn sides(&mut self, from_origin: bool) -> (&mut Side, &mut Side) {
        if from_origin { (&mut self.origin, &mut self.reply) } else { (&mut self.reply, &mut self.origin) }
    }

    fn note(&mut self, from_origin: bool, segment: &Segment) {
        self.cut |= segment.cut;
        let (sender, receiver) = self.sides(from_origin);
        if segment.is_syn() {
            sender.scale = segment.scale;
        }
        let is_fin = segment.kind == Kind::Fin;
        let end = segment.end();
        if sender.end.is_none_or(|known| after(end, known) > 0) {
            sender.end = Some(end);
        }
        if let Some(acknowledgment) = segment.acknowledgment
            && sender.ack.is_none_or(|known| after(acknowledgment, known) >= 0)
        {
            sender.ack = Some(acknowledgment);
            let shift = match (sender.scale, receiver.scale) {
                (Some(shift), Some(_)) if !segment.is_syn() => shift,
                _ => 0,
            };
            sender.window = u32::from(segment.window) << shift;
        }
        sender.fin |= is_fin;
    }

    fn fit(sender: &Side, receiver: &Side, sequence: u32) -> Fit {
        let Some(ack) = receiver.ack else { return Fit::Unknown };
        if sequence == ack || Some(sequence) == sender.end {
            return Fit::Exact;
        }
        let distance = after(sequence, ack);
        let window = i64::from(receiver.window);
        if (1..window.max(1)).contains(&distance) {
            Fit::Inside
        } else if (-window.max(65_535)..0).contains(&distance) {
            Fit::Old
        } else {
            Fit::Outside
        }
    }

    /// The first table. The connection is to be thrown away if nothing changes.
    pub fn judge(&mut self, state: &'static str, from_origin: bool, segment: &Segment) -> Outcome {
        if segment.kind == Kind::Nonsense {
            return Outcome::Drop("tcp_flags");
        }
        let cut = self.cut;
        let (sender, receiver) = self.sides(from_origin);
        let fit = Self::fit(sender, receiver, segment.sequence);
        let moves =
            matches!(segment.kind, Kind::Fin | Kind::Ack) && state != "syn_sent" && fit != Fit::Outside;
        if let (true, Some(acknowledgment), Some(end)) = (cut && moves, segment.acknowledgment, receiver.end)
            && (1..=65_535).contains(&after(acknowledgment, end))
        {
            receiver.end = Some(acknowledgment);
        }
        let (sender, receiver) = (*sender, *receiver);
        match (segment.kind, state, from_origin) {
            (Kind::Nonsense, ..) => Outcome::Drop("tcp_flags"),
            (Kind::Rst, "syn_sent", false) => {
                if segment.acknowledgment.is_some() && segment.acknowledgment == receiver.end {
                    Outcome::Closed
                } else {
                    Outcome::Drop("tcp_window")
                }
            }
            (Kind::Rst, ..) => match fit {
                Fit::Exact => Outcome::Closed,
                Fit::Unknown if Some(segment.sequence) == sender.end => Outcome::Closed,
                Fit::Unknown | Fit::Inside => Outcome::Nothing,
                Fit::Old | Fit::Outside => Outcome::Drop("tcp_window"),
            },
            (Kind::Syn, "close", _) | (Kind::Syn, "syn_sent", false) => Outcome::Restart,
            (Kind::Syn, "time_wait", _) if sender.end.is_none_or(|end| after(segment.sequence, end) > 0) => {
                Outcome::Restart
            }
            (Kind::Syn, "syn_sent", true) => {
                let kept = sender.end.filter(|end| (0..=65_535).contains(&after(*end, segment.end())));
                *self = Self::default();
                self.origin.end = kept;
                self.change(true, segment, "syn_sent")
            }
            (Kind::Syn, "syn_recv", false) if sender.ack.is_none() => Outcome::Restart,
            (Kind::SynAck, "syn_sent", false) => {
                if just_below(segment.acknowledgment, receiver.end) {
                    self.change(false, segment, "syn_recv")
                } else {
                    Outcome::Drop("tcp_state")
                }
            }
            (Kind::SynAck, "syn_recv", _) => {
                if receiver.end.is_none() || just_below(segment.acknowledgment, receiver.end) {
                    self.change(from_origin, segment, "syn_recv")
                } else {
                    Outcome::Drop("tcp_state")
                }
            }
            (Kind::Syn, _, true) | (Kind::SynAck, _, false) | (Kind::Ack, "syn_sent", false) => {
                Outcome::Nothing
            }
            (Kind::Syn, _, false) | (Kind::SynAck, _, true) | (Kind::Fin | Kind::Ack, "syn_sent", _) => {
                Outcome::Drop("tcp_state")
            }
            (Kind::Fin | Kind::Ack, ..) => {
                let of_nothing_sent = matches!((segment.acknowledgment, receiver.end),
                    (Some(acknowledgment), Some(end)) if after(acknowledgment, end) > 0);
                let guessed =
                    state == "syn_recv" && from_origin && !just_below(segment.acknowledgment, receiver.end);
                if fit == Fit::Outside || of_nothing_sent || guessed {
                    return Outcome::Nothing;
                }
                let next = next(state, from_origin, segment, &receiver);
                self.change(from_origin, segment, next)
            }
        }
    }

    fn change(&mut self, from_origin: bool, segment: &Segment, state: &'static str) -> Outcome {
        self.note(from_origin, segment);
        Outcome::State(state)
    }
}

/// The second table.
fn next(state: &'static str, from_origin: bool, segment: &Segment, receiver: &Side) -> &'static str {
    let all_acknowledged = segment.acknowledgment.is_some() && segment.acknowledgment == receiver.end;
    match (segment.kind, state) {
        (Kind::Fin, "syn_recv" | "established") => "fin_wait",
        (Kind::Ack, "syn_recv") if from_origin || (all_acknowledged && receiver.ack.is_some()) => {
            "established"
        }
        (Kind::Fin, "fin_wait" | "close_wait") if receiver.fin => "last_ack",
        (Kind::Ack, "fin_wait") if all_acknowledged && receiver.fin => "close_wait",
        (Kind::Ack, "last_ack") if all_acknowledged => "time_wait",
        _ => state,
    }
}
