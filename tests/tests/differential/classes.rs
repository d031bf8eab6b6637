//! The lasting differences, each recognised by what was sent and by what both filters said. `docs/nftables.md` has the
//! reasons.

use sg_common::verdict::Reason;

use crate::frame::{ACK, FIN, RST, SYN, URG};
use crate::steps::{Bend, Cut, Fault, Query, Step};
use crate::traffic::Sent;

/// How much of what was sent came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Nothing,
    /// Some pieces of a datagram.
    Part,
    All,
}

/// One packet, or the pieces of one, on both wires.
#[derive(Debug)]
pub struct Seen {
    pub sent: Sent,
    pub sgd: Came,
    /// What sgd counted, piece by piece.
    pub reasons: Vec<Reason>,
    pub nft: Came,
    /// Whether conntrack called it invalid.
    pub invalid: bool,
    /// The state of a segment's connection for conntrack, if it has one, before and after it.
    pub states: [Option<String>; 2],
}

impl Seen {
    /// Whether conntrack has dropped the connection with the segment.
    fn is_forgotten(&self) -> bool {
        matches!(self.states, [Some(_), None])
    }

    /// Whether conntrack takes a connection for new that was further.
    fn is_taken_back(&self) -> bool {
        let [before, after] = self.states.each_ref().map(Option::as_deref);
        after == Some("SYN_RECV") && before.is_some_and(|before| !before.starts_with("SYN_"))
    }

    /// Whether conntrack still waits for the answer that has just passed.
    fn is_left_behind(&self) -> bool {
        let [before, after] = self.states.each_ref().map(Option::as_deref);
        let answer = matches!(self.sent.step, Step::Segment(_, flags, ..) if control(flags) == SYN_ACK);
        answer && self.sgd == Came::All && (before, after) == (Some("SYN_SENT"), Some("SYN_SENT"))
    }

    /// Whether the filters differ, in their verdict or in whether there is a connection from now on.
    pub fn is_difference(&self) -> bool {
        self.sgd != self.nft || self.is_forgotten() || self.is_taken_back() || self.is_left_behind()
    }
}

macro_rules! differences {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Difference { $($(#[doc = $doc])+ $variant,)* }

        impl Difference {
            pub const EVERY: &[Self] = &[$(Self::$variant,)*];

            /// As in `docs/nftables.md`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

differences! {
    /// A segment other than SYN or ACK of no connection passes sgd where a rule allows it.
    MidStream = "mid-stream";
    /// A segment that its receiver would not take passes sgd and moves nothing.
    OutOfWindow = "out-of-window";
    /// ICMP that neither asks nor belongs to anything passes sgd where a rule allows it.
    LoneIcmp = "lone-icmp";
    /// A source quench or redirect about a connection passes conntrack.
    ObsoleteError = "obsolete-error";
    /// conntrack takes URG for a fault in a reset.
    Urgent = "urgent";
    /// Pieces of a datagram that never becomes whole pass sgd.
    Incomplete = "incomplete";
    /// Pieces before a first one that no rule allows pass sgd where some rule might have allowed it.
    EarlyPieces = "early-pieces";
    /// conntrack drops all of a datagram with an overlap, sgd the piece.
    Overlap = "overlap";
    /// A first piece without its whole TCP header is put together by conntrack.
    TinyFirst = "tiny-first";
    /// A SYN that no rule allows ends a connection in TIME_WAIT for conntrack.
    Forgotten = "forgotten";
    /// conntrack forgets at once a connection of which one side has not been heard when a reset comes.
    Refused = "refused";
    /// A SYN that crosses another passes sgd only by a rule of its own direction, and is then the one that counts; conntrack
    /// lets it pass as an answer, and after it no SYN-ACK that does not repeat it.
    SimultaneousOpen = "simultaneous-open";
    /// A reset passes sgd as long as its receiver has not said what it expects.
    EarlyReset = "early-reset";
    /// A SYN of the side that answered opens a connection anew in sgd, once the old one is over and a rule allows it.
    Reopened = "reopened";
    /// A reset outside of the window passes conntrack, and ends the connection, unless that is established and both
    /// sides have been heard well enough.
    LooseReset = "loose-reset";
    /// A SYN and its answer, sent again, take conntrack back to a handshake.
    Resync = "resync";
    /// conntrack takes the answer to a SYN for one to an earlier attempt, if that had a higher number.
    SecondSyn = "second-syn";
    /// A segment ahead of its turn, whose bytes never follow, keeps sgd from seeing that all is acknowledged: the connection
    /// stays in LAST_ACK, and a SYN of the side that answers in it is none that begins a new one.
    Ahead = "ahead";
    /// What a guest may not do whatever the rules say.
    Guard = "guard";
}

const RST_ACK: u8 = RST | ACK;
const SYN_ACK: u8 = SYN | ACK;

/// The flags that say what a segment is.
const fn control(flags: u8) -> u8 {
    flags & (SYN | ACK | FIN | RST)
}

impl Difference {
    /// The difference that this is, if it is one and we know it.
    pub fn of(seen: &Seen) -> Option<Self> {
        let Seen { sent, sgd, reasons, nft, invalid, states } = seen;
        let state = states[0].as_deref();
        let all = |wanted: &[Reason]| reasons.iter().all(|reason| wanted.contains(reason));
        let passes_sgd_alone = (*sgd, *nft) == (Came::All, Came::Nothing);
        let passes_nft_alone = (*sgd, *nft) == (Came::Nothing, Came::All);
        match sent.step {
            Step::Spoof(_) if passes_nft_alone && all(&[Reason::SourceAddress]) => Some(Self::Guard),
            Step::Segment(_, flags, _, _) if seen.is_forgotten() && sgd == nft => {
                match (control(flags), sgd) {
                    (SYN, Came::Nothing) if all(&[Reason::NoRule, Reason::TcpState]) => Some(Self::Forgotten),
                    (RST | RST_ACK, Came::All) if all(&[Reason::Established]) => Some(Self::Refused),
                    _ => None,
                }
            }
            Step::Segment(_, flags, ..) if seen.is_taken_back() && sgd == nft => {
                (control(flags) == SYN | ACK && all(&[Reason::Established])).then_some(Self::Resync)
            }
            Step::Segment(..) if seen.is_left_behind() && sgd == nft => {
                all(&[Reason::Established]).then_some(Self::SecondSyn)
            }
            Step::Segment(_, flags, ..) if passes_nft_alone => match (control(flags), state) {
                (SYN, Some("TIME_WAIT")) if all(&[Reason::TcpState]) => Some(Self::Ahead),
                (SYN, Some("SYN_SENT" | "SYN_SENT2")) if all(&[Reason::NoRule, Reason::TcpState]) => {
                    Some(Self::SimultaneousOpen)
                }
                (RST | RST_ACK, Some(_)) if all(&[Reason::TcpWindow]) => Some(Self::LooseReset),
                _ => None,
            },
            Step::Segment(_, flags, _, bend) if passes_sgd_alone && *invalid => {
                let plain = control(flags);
                if flags & URG != 0 && plain & RST != 0 {
                    return Some(Self::Urgent);
                }
                let begins_in_the_middle = plain != SYN && plain != ACK && state.is_none();
                if all(&[Reason::NewFlow, Reason::RuleOnly]) && begins_in_the_middle {
                    return Some(Self::MidStream);
                }
                let cannot_be_judged = bend != Bend::Straight || state == Some("SYN_SENT");
                if all(&[Reason::Established]) && plain & RST != 0 && cannot_be_judged {
                    return Some(Self::EarlyReset);
                }
                if all(&[Reason::NewFlow]) && plain == SYN && matches!(state, Some("CLOSE" | "TIME_WAIT")) {
                    return Some(Self::Reopened);
                }
                if all(&[Reason::Established]) && plain == SYN_ACK && state == Some("SYN_SENT2") {
                    return Some(Self::SimultaneousOpen);
                }
                (all(&[Reason::Established]) && plain & RST == 0 && bend.is_beyond())
                    .then_some(Self::OutOfWindow)
            }
            Step::Icmp(_, query) if passes_sgd_alone && *invalid && all(&[Reason::RuleOnly]) => {
                (!matches!(query, Query::EchoRequest | Query::Rare)).then_some(Self::LoneIcmp)
            }
            Step::Error(..) if passes_sgd_alone && *invalid && all(&[Reason::RuleOnly]) => {
                Some(Self::LoneIcmp)
            }
            Step::Error(_, Fault::Quench | Fault::Redirect, ..) if passes_nft_alone => {
                all(&[Reason::NoRule, Reason::Redirect]).then_some(Self::ObsoleteError)
            }
            Step::Pieces(_, cut) => pieces(seen, cut),
            _ => None,
        }
    }
}

fn pieces(seen: &Seen, cut: Cut) -> Option<Difference> {
    let said = |reason| seen.reasons.contains(&reason);
    match (cut, seen.sgd, seen.nft) {
        (Cut::NoLast | Cut::NoFirst, Came::Part, Came::Nothing) => Some(Difference::Incomplete),
        (Cut::Overlap, Came::Part, Came::Nothing) if said(Reason::FragmentOverlap) => {
            Some(Difference::Overlap)
        }
        (Cut::Reversed | Cut::MiddleFirst, Came::Part, Came::Nothing)
            if said(Reason::EarlyFragment) && said(Reason::NoRule) =>
        {
            Some(Difference::EarlyPieces)
        }
        (Cut::Tiny, Came::Nothing, Came::All) if said(Reason::TinyFragment) => Some(Difference::TinyFirst),
        _ => None,
    }
}
