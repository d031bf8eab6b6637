//! What two hosts say to each other on a few connections, mostly as they should.

use std::net::{IpAddr, SocketAddr};

use crate::frame::{ACK, FIN, Packet, RST, SYN};
use crate::policy::{GUEST, REMOTES};
use crate::steps::{Bend, Conn, Cut, Fault, Query, Quote, Quoted, Sender, Step};
use crate::wire::From;

/// What is sent at once: one packet, or the pieces of one.
#[derive(Debug, Clone)]
pub struct Sent {
    pub from: From,
    pub step: Step,
    pub packets: Vec<Packet>,
    /// Bytes behind the IP header, all pieces together.
    pub bytes: usize,
    /// The opener's port, of a TCP segment.
    pub segment_port: Option<u16>,
}

/// What a step says of the sender's sequence space.
#[derive(Debug, Clone, Copy)]
struct Talk {
    /// What the opener and the answerer send next.
    next: [u32; 2],
    /// With what they began.
    first: [Option<u32>; 2],
    finished: [bool; 2],
    /// A SYN begins a new one.
    over: bool,
    /// How often the connection has been replaced by one with another port.
    renewed: u16,
}

impl Talk {
    fn new(renewed: u16) -> Self {
        let next = [1_000_000, 500_000_000];
        Self { next, first: [None; 2], finished: [false; 2], over: false, renewed }
    }

    /// The number of the next segment of a side.
    fn sequence(&self, side: usize, flags: u8) -> u32 {
        match self.first[side] {
            _ if flags & SYN == 0 => self.next[side],
            // A new connection, clear of what is left of the old one.
            _ if self.over => self.next[side].wrapping_add(1_000_000),
            Some(first) => first,
            None => self.next[side],
        }
    }
}

pub struct Traffic {
    conns: Vec<Conn>,
    talks: Vec<Talk>,
    datagrams: u16,
}

impl Traffic {
    /// `datagrams`: the last identification that was used.
    pub fn new(conns: &[Conn], datagrams: u16) -> Self {
        let talk = Talk::new(0);
        Self { conns: conns.to_vec(), talks: vec![talk; conns.len()], datagrams }
    }

    pub fn datagrams(&self) -> u16 {
        self.datagrams
    }

    /// The same steps, of one packet or datagram each.
    pub fn singly(step: Step) -> Vec<Step> {
        let segment = |conn, opener, flags| Step::Segment(Sender { conn, opener }, flags, 0, Bend::Straight);
        match step {
            Step::Handshake(conn) => {
                vec![segment(conn, true, SYN), segment(conn, false, SYN | ACK), segment(conn, true, ACK)]
            }
            Step::Close(conn) => vec![
                segment(conn, true, FIN | ACK),
                segment(conn, false, ACK),
                segment(conn, false, FIN | ACK),
                segment(conn, true, ACK),
            ],
            step => vec![step],
        }
    }

    /// The receiver has got it.
    pub fn delivered(&mut self, step: Step) {
        let Step::Segment(Sender { conn, opener }, flags, data, Bend::Straight) = step else { return };
        let talk = &mut self.talks[conn];
        let side = usize::from(!opener);
        if flags & RST != 0 {
            talk.over = true;
            return;
        }
        let sequence = talk.sequence(side, flags);
        let end = sequence.wrapping_add(data as u32 + u32::from(flags & (SYN | FIN) != 0));
        if flags & SYN != 0 {
            if talk.first[side] == Some(sequence) {
                return;
            }
            if talk.over {
                (talk.over, talk.finished, talk.first) = (false, [false; 2], [None; 2]);
            }
            talk.first[side] = Some(sequence);
        }
        talk.next[side] = end;
        talk.finished[side] |= flags & FIN != 0;
        talk.over |= talk.finished == [true; 2];
    }

    /// Begins the step's connection anew, with another port: the two filters do not know the same of it any more.
    pub fn renew(&mut self, step: Step) {
        let conn = match step {
            Step::Handshake(conn) | Step::Close(conn) | Step::Spoof(conn) => conn,
            Step::Segment(sender, ..)
            | Step::Datagram(sender)
            | Step::Icmp(sender, _)
            | Step::Other(sender, _)
            | Step::Error(sender, ..)
            | Step::Pieces(sender, _) => sender.conn,
        };
        self.talks[conn] = Talk::new(self.talks[conn].renewed + 1);
    }

    pub fn sent(&mut self, step: Step) -> Sent {
        let packets = match step {
            Step::Handshake(_) | Step::Close(_) => panic!("these are several packets"),
            Step::Segment(sender, flags, data, bend) => vec![self.segment(sender, flags, data, bend)],
            Step::Datagram(sender) => vec![self.datagram(sender, 4)],
            Step::Spoof(conn) => {
                let mut packet = self.datagram(self.guest(conn), 4);
                let stranger = if packet.source.is_ipv4() { "10.0.0.77" } else { "fd00::77" };
                packet.source = stranger.parse().unwrap();
                vec![packet]
            }
            Step::Icmp(sender, query) => vec![self.icmp(sender, query)],
            Step::Other(sender, protocol) => {
                let (source, destination) = self.ends(sender);
                vec![Packet::new(source.ip(), destination.ip(), protocol, vec![0; 16])]
            }
            Step::Error(sender, fault, quoted, quote) => vec![self.error(sender, fault, quoted, quote)],
            Step::Pieces(sender, cut) => self.pieces(sender, cut),
        };
        let from_guest =
            GUEST.contains(&packets[0].source.to_string().as_str()) || matches!(step, Step::Spoof(_));
        let bytes = packets
            .iter()
            .map(|packet| usize::from(packet.fragment.unwrap_or_default().0) + packet.payload.len());
        let whole = match step {
            Step::Pieces(_, Cut::Tiny) => 60,
            Step::Pieces(..) => DATAGRAM,
            _ => bytes.max().unwrap(),
        };
        let segment_port = match step {
            Step::Segment(sender, ..) => Some(self.client_port(sender.conn)),
            _ => None,
        };
        Sent {
            from: if from_guest { From::Guest } else { From::World },
            step,
            packets,
            bytes: whole,
            segment_port,
        }
    }

    fn guest(&self, conn: usize) -> Sender {
        Sender { conn, opener: self.conns[conn].guest_opens }
    }

    fn client_port(&self, conn: usize) -> u16 {
        40_000 + conn as u16 + 8 * self.talks[conn].renewed
    }

    /// From where to where it goes.
    fn ends(&self, sender: Sender) -> (SocketAddr, SocketAddr) {
        let conn = self.conns[sender.conn];
        let guest: IpAddr = GUEST[usize::from(conn.v6)].parse().unwrap();
        let remote: IpAddr = REMOTES[usize::from(conn.v6)][conn.remote].parse().unwrap();
        let (opener, answerer) = if conn.guest_opens { (guest, remote) } else { (remote, guest) };
        let ends =
            (SocketAddr::new(opener, self.client_port(sender.conn)), SocketAddr::new(answerer, conn.service));
        if sender.opener { ends } else { (ends.1, ends.0) }
    }

    fn segment(&self, sender: Sender, flags: u8, data: usize, bend: Bend) -> Packet {
        let (source, destination) = self.ends(sender);
        let talk = &self.talks[sender.conn];
        let side = usize::from(!sender.opener);
        let (own, peer) = (talk.sequence(side, flags), talk.next[1 - side]);
        let own = match bend {
            Bend::Ahead => own.wrapping_add(1000),
            Bend::FarAhead => own.wrapping_add(0x2000_0000),
            Bend::Behind => own.wrapping_sub(1),
            Bend::FarBehind => own.wrapping_sub(0x2000_0000),
            _ => own,
        };
        let peer = match bend {
            Bend::AckAhead => peer.wrapping_add(0x2000_0000),
            Bend::FarAckBehind => peer.wrapping_sub(0x2000_0000),
            _ => peer,
        };
        Packet::tcp(source, destination, flags)
            .sequence(own, if flags & ACK == 0 { 0 } else { peer })
            .data(&vec![b'.'; data])
    }

    fn datagram(&self, sender: Sender, bytes: usize) -> Packet {
        let (source, destination) = self.ends(sender);
        Packet::udp(source, destination, &vec![b'.'; bytes])
    }

    fn icmp(&self, sender: Sender, query: Query) -> Packet {
        let (source, destination) = self.ends(sender);
        let kinds = if source.is_ipv4() { [8, 0, 13, 14, 42] } else { [128, 129, 139, 140, 200] };
        let id = self.client_port(sender.conn);
        Packet::icmp(source.ip(), destination.ip(), kinds[query as usize], 0, id)
    }

    fn error(&self, sender: Sender, fault: Fault, quoted: Quoted, quote: Quote) -> Packet {
        let quoted_sender = match quote {
            Quote::Reversed => Sender { opener: !sender.opener, ..sender },
            _ => sender,
        };
        let mut packet = match quoted {
            Quoted::Tcp => self.segment(quoted_sender, ACK, 0, Bend::Straight),
            Quoted::Udp => self.datagram(quoted_sender, 4),
            Quoted::Echo if quoted_sender.opener => self.icmp(quoted_sender, Query::EchoRequest),
            Quoted::Echo => self.icmp(quoted_sender, Query::EchoReply),
        };
        if quote == Quote::OtherPort {
            // The last byte of the source port, or of the identifier.
            packet.payload[if quoted == Quoted::Echo { 5 } else { 1 }] ^= 0x40;
        }
        let (receiver, other) = self.ends(sender);
        // Errors for the guest come from any router; what goes out is the guest's own.
        let router = match receiver.ip().to_string() {
            address if address == GUEST[0] => "192.0.2.9".parse().unwrap(),
            address if address == GUEST[1] => "2001:db8:aaaa::9".parse().unwrap(),
            _ => other.ip(),
        };
        let (kind, code) = match (fault, receiver.is_ipv4()) {
            (Fault::Unreachable, true) => (3, 1),
            (Fault::TooBig, true) => (3, 4),
            (Fault::TimeExceeded, true) => (11, 0),
            // In IPv6 a parameter problem.
            (Fault::Quench, _) => (4, 0),
            (Fault::Redirect, true) => (5, 1),
            (Fault::Unreachable, false) => (1, 0),
            (Fault::TooBig, false) => (2, 0),
            (Fault::TimeExceeded, false) => (3, 0),
            (Fault::Redirect, false) => (137, 0),
        };
        let mut error = packet.error(router, kind, code);
        error.destination = receiver.ip();
        error
    }

    fn pieces(&mut self, sender: Sender, cut: Cut) -> Vec<Packet> {
        self.datagrams = self.datagrams.wrapping_add(1).max(1);
        let mut whole = match cut {
            Cut::Tiny => self.segment(sender, SYN, 40, Bend::Straight),
            _ => self.datagram(sender, DATAGRAM - 8),
        };
        // The checksum is that of the whole.
        let header = if whole.source.is_ipv4() { 34 } else { 54 };
        whole.payload = whole.bare()[header..].to_vec();
        let cuts: &[(usize, usize)] = match cut {
            Cut::InOrder => &[(0, 32), (32, 64), (64, 96)],
            Cut::Reversed => &[(64, 96), (32, 64), (0, 32)],
            Cut::MiddleFirst => &[(32, 64), (0, 32), (64, 96)],
            Cut::NoLast => &[(0, 32), (32, 64)],
            Cut::NoFirst => &[(32, 64), (64, 96)],
            Cut::Overlap => &[(0, 40), (32, 64), (64, 96)],
            Cut::Duplicate => &[(0, 32), (0, 32), (32, 64), (64, 96)],
            Cut::Tiny => &[(0, 8), (8, 60)],
        };
        cuts.iter().map(|&(from, to)| whole.piece(from, to, self.datagrams)).collect()
    }
}

/// Bytes of a datagram that is sent in pieces, with its UDP header.
const DATAGRAM: usize = 96;
