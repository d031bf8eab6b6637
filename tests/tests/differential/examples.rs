//! For each difference the shortest exchange that shows it, so that none of them outlives what it describes.

use crate::classes::Difference;
use crate::frame::{ACK, FIN, RST, SYN, URG};
use crate::policy::{Policy, Rule, What};
use crate::run::Case;
use crate::steps::{Bend, Conn, Cut, Fault, Query, Quote, Quoted, Sender, Step};

/// What the other side of connection 0 allows.
#[derive(Debug, Clone, Copy)]
enum Allowed {
    /// Everything in, nothing out.
    In,
    /// Everything both ways.
    Both,
    /// Port 80 of TCP and UDP in, nothing out.
    Web,
    /// TCP to port 80 in, and UDP to another port.
    OtherPort,
}

/// What happens, of which the last step shows the difference.
struct Example {
    allowed: Allowed,
    steps: &'static [Step],
    difference: Difference,
    families: &'static [Family],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

const BOTH: &[Family] = &[Family::V4, Family::V6];
const V4: &[Family] = &[Family::V4];

const OPENER: Sender = Sender { conn: 0, opener: true };
const ANSWERER: Sender = Sender { conn: 0, opener: false };
const HANDSHAKE: Step = Step::Handshake(0);
const CLOSE: Step = Step::Close(0);

const fn segment(sender: Sender, flags: u8) -> Step {
    Step::Segment(sender, flags, 0, Bend::Straight)
}

const fn bent(sender: Sender, flags: u8, bend: Bend) -> Step {
    Step::Segment(sender, flags, 0, bend)
}

const EXAMPLES: &[Example] = &[
    Example {
        allowed: Allowed::In,
        steps: &[segment(OPENER, SYN | ACK)],
        difference: Difference::MidStream,
        families: BOTH,
    },
    Example {
        allowed: Allowed::In,
        steps: &[segment(OPENER, FIN | ACK)],
        difference: Difference::MidStream,
        families: BOTH,
    },
    Example {
        allowed: Allowed::In,
        steps: &[segment(OPENER, RST)],
        difference: Difference::MidStream,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[HANDSHAKE, bent(OPENER, ACK, Bend::FarAhead)],
        difference: Difference::OutOfWindow,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[HANDSHAKE, bent(OPENER, ACK, Bend::AckAhead)],
        difference: Difference::OutOfWindow,
        families: BOTH,
    },
    Example {
        allowed: Allowed::In,
        steps: &[Step::Icmp(OPENER, Query::EchoReply)],
        difference: Difference::LoneIcmp,
        families: BOTH,
    },
    Example {
        allowed: Allowed::In,
        steps: &[Step::Error(ANSWERER, Fault::Unreachable, Quoted::Tcp, Quote::Right)],
        difference: Difference::LoneIcmp,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[Step::Datagram(OPENER), Step::Error(ANSWERER, Fault::Quench, Quoted::Udp, Quote::Right)],
        difference: Difference::ObsoleteError,
        families: V4,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[Step::Datagram(OPENER), Step::Error(ANSWERER, Fault::Redirect, Quoted::Udp, Quote::Right)],
        difference: Difference::ObsoleteError,
        families: V4,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[HANDSHAKE, segment(OPENER, RST | URG)],
        difference: Difference::Urgent,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[Step::Pieces(OPENER, Cut::NoLast)],
        difference: Difference::Incomplete,
        families: BOTH,
    },
    Example {
        allowed: Allowed::OtherPort,
        steps: &[Step::Pieces(OPENER, Cut::Reversed)],
        difference: Difference::EarlyPieces,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[Step::Pieces(OPENER, Cut::Overlap)],
        difference: Difference::Overlap,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[Step::Pieces(OPENER, Cut::Tiny)],
        difference: Difference::TinyFirst,
        families: V4,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[HANDSHAKE, CLOSE, segment(ANSWERER, SYN)],
        difference: Difference::Forgotten,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[segment(OPENER, SYN), segment(ANSWERER, RST | ACK)],
        difference: Difference::Refused,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[segment(OPENER, SYN), segment(ANSWERER, SYN)],
        difference: Difference::SimultaneousOpen,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Both,
        steps: &[bent(ANSWERER, SYN, Bend::FarBehind), segment(OPENER, SYN), segment(ANSWERER, SYN | ACK)],
        difference: Difference::SimultaneousOpen,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[segment(OPENER, SYN), bent(OPENER, RST, Bend::Ahead)],
        difference: Difference::EarlyReset,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Both,
        steps: &[HANDSHAKE, segment(ANSWERER, RST), segment(ANSWERER, SYN)],
        difference: Difference::Reopened,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[HANDSHAKE, CLOSE, bent(ANSWERER, RST, Bend::FarAhead)],
        difference: Difference::LooseReset,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[HANDSHAKE, segment(OPENER, SYN), segment(ANSWERER, SYN | ACK)],
        difference: Difference::Resync,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Web,
        steps: &[bent(OPENER, SYN, Bend::FarAhead), segment(OPENER, SYN), segment(ANSWERER, SYN | ACK)],
        difference: Difference::SecondSyn,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Both,
        steps: &[bent(ANSWERER, ACK, Bend::Ahead), CLOSE, segment(OPENER, SYN)],
        difference: Difference::Ahead,
        families: BOTH,
    },
    Example {
        allowed: Allowed::Both,
        steps: &[Step::Spoof(0)],
        difference: Difference::Guard,
        families: BOTH,
    },
];

impl Allowed {
    fn policy(self) -> Policy {
        let everything = || ["0.0.0.0/0", "::/0"].map(|cidr| Rule::new(cidr, What::All)).to_vec();
        let both = |what: [What; 2]| {
            ["0.0.0.0/0", "::/0"]
                .into_iter()
                .flat_map(|cidr| what.map(|what| Rule::new(cidr, what)))
                .collect()
        };
        let (inbound, outbound) = match self {
            Self::In => (everything(), Vec::new()),
            Self::Both => (everything(), everything()),
            Self::Web => (both([What::Tcp(80, 80), What::Udp(80, 80)]), Vec::new()),
            Self::OtherPort => (both([What::Tcp(80, 80), What::Udp(81, 81)]), Vec::new()),
        };
        Policy { inbound, outbound, friends: Vec::new() }
    }
}

/// The examples, each in both families, with what they are to show.
pub fn cases() -> impl Iterator<Item = (Case, Difference)> {
    EXAMPLES.iter().flat_map(|example| {
        example.families.iter().map(|family| {
            let conn = Conn { v6: *family == Family::V6, remote: 0, guest_opens: false, service: 80 };
            let case =
                Case { policy: example.allowed.policy(), conns: vec![conn], steps: example.steps.to_vec() };
            (case, example.difference)
        })
    })
}
