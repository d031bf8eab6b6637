//! What may happen, step by step, and random sequences of it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::frame::{ACK, FIN, PSH, RST, SYN, URG};
use crate::policy::{OTHERS, SERVICES};

/// Addresses and ports that packets share. Who opens it is who asks; the other answers.
#[derive(Debug, Clone, Copy)]
pub struct Conn {
    pub v6: bool,
    pub remote: usize,
    pub guest_opens: bool,
    pub service: u16,
}

/// Which of the connections, and whether its opener sends.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub conn: usize,
    pub opener: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Step {
    Handshake(usize),
    /// Both sides finish, the opener first.
    Close(usize),
    Segment(Sender, u8, usize, Bend),
    Datagram(Sender),
    /// A guest says that it is somebody else.
    Spoof(usize),
    Icmp(Sender, Query),
    Other(Sender, u8),
    /// An error that goes to the sender of what it quotes.
    Error(Sender, Fault, Quoted, Quote),
    Pieces(Sender, Cut),
}

/// What is not as it should be in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bend {
    Straight,
    /// Inside of the window, but not what comes next.
    Ahead,
    FarAhead,
    /// A retransmission.
    Behind,
    FarBehind,
    /// It acknowledges what was never sent.
    AckAhead,
    FarAckBehind,
}

impl Bend {
    /// Whether the segment is beyond what its receiver takes, or acknowledges more than was sent.
    pub fn is_beyond(self) -> bool {
        matches!(self, Self::FarAhead | Self::AckAhead)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    EchoRequest,
    EchoReply,
    /// An IPv4 timestamp, an IPv6 node information query.
    Rare,
    RareReply,
    /// A type that nobody knows.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Unreachable,
    TooBig,
    TimeExceeded,
    /// IPv4 source quench; in IPv6 a parameter problem.
    Quench,
    Redirect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quoted {
    Tcp,
    Udp,
    Echo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quote {
    Right,
    OtherPort,
    /// What the other side has sent.
    Reversed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    InOrder,
    Reversed,
    MiddleFirst,
    NoLast,
    NoFirst,
    Overlap,
    Duplicate,
    /// A TCP segment of whose header the first piece has eight bytes.
    Tiny,
}

pub fn any_conns() -> impl Strategy<Value = Vec<Conn>> {
    let conn = (any::<bool>(), 0..3usize, any::<bool>(), select(SERVICES.to_vec()))
        .prop_map(|(v6, remote, guest_opens, service)| Conn { v6, remote, guest_opens, service });
    vec(conn, CONNS)
}

/// Connections of one case.
const CONNS: usize = 3;

pub fn any_step() -> impl Strategy<Value = Step> {
    let sender = || (0..CONNS, any::<bool>()).prop_map(|(conn, opener)| Sender { conn, opener });
    let flags = vec![
        SYN,
        SYN,
        SYN | ACK,
        SYN | ACK,
        ACK,
        ACK,
        ACK | PSH,
        ACK | PSH,
        FIN | ACK,
        FIN | ACK,
        RST,
        RST,
        RST | ACK,
        ACK | URG,
        RST | URG,
        FIN,
        SYN | FIN,
        SYN | RST,
        0,
        FIN | PSH | URG,
    ];
    let bend = prop_oneof![
        6 => Just(Bend::Straight),
        4 => select(vec![
            Bend::Ahead, Bend::FarAhead, Bend::Behind, Bend::FarBehind, Bend::AckAhead, Bend::FarAckBehind,
        ]),
    ];
    let query = vec![
        Query::EchoRequest,
        Query::EchoRequest,
        Query::EchoReply,
        Query::Rare,
        Query::RareReply,
        Query::Unknown,
    ];
    let faults = vec![Fault::Unreachable, Fault::TooBig, Fault::TimeExceeded, Fault::Quench, Fault::Redirect];
    let quotes = vec![Quote::Right, Quote::Right, Quote::Right, Quote::OtherPort, Quote::Reversed];
    let cuts = vec![
        Cut::InOrder,
        Cut::Reversed,
        Cut::MiddleFirst,
        Cut::NoLast,
        Cut::NoFirst,
        Cut::Overlap,
        Cut::Duplicate,
        Cut::Tiny,
    ];
    prop_oneof![
        4 => (0..CONNS).prop_map(Step::Handshake),
        2 => (0..CONNS).prop_map(Step::Close),
        10 => (sender(), select(flags), select(vec![0, 0, 10, 100]), bend)
            .prop_map(|(sender, flags, data, bend)| Step::Segment(sender, flags, data, bend)),
        3 => sender().prop_map(Step::Datagram),
        1 => (0..CONNS).prop_map(Step::Spoof),
        3 => (sender(), select(query)).prop_map(|(sender, query)| Step::Icmp(sender, query)),
        1 => (sender(), select(OTHERS.to_vec())).prop_map(|(sender, protocol)| Step::Other(sender, protocol)),
        4 => (sender(), select(faults), select(vec![Quoted::Tcp, Quoted::Udp, Quoted::Echo]), select(quotes))
            .prop_map(|(sender, fault, quoted, quote)| Step::Error(sender, fault, quoted, quote)),
        3 => (sender(), select(cuts)).prop_map(|(sender, cut)| Step::Pieces(sender, cut)),
    ]
}
