//! From a question to the frames that stand for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpFragOffset, VlanId};
use sg_common::abi::Direction;
use sg_common::packet::protocol;
use sg_common::tcp::{ACK, SYN};

use super::ExplainError;
use super::frame::{Fraction, Probe, Transport};
use crate::api::explain::{ExplainQuestion, Piece, Quoted};
use crate::policy::model::Interface;
use crate::policy::values;
use crate::protocols;

/// A locally administered address, where any will do.
const SOME_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Where a later piece begins behind a first one that fills a frame of 1,500 bytes.
const SECOND_PIECE: u16 = 1480;
/// What a later piece consists of.
const SOME_DATA: [u8; 16] = [0; 16];
/// What one test run takes with the kernel's own room in a page (net/bpf/test_run.c, `bpf_test_init`).
const LONGEST: usize = 3520;

/// IPv6 extension headers (docs/packets.md, section 2).
const EXTENSIONS: [u8; 10] = [0, 43, 44, 51, 60, 135, 139, 140, 253, 254];

/// The frames of a question, the likeliest first: the next is asked about if no connection is found for the one before.
pub fn frames(
    question: &ExplainQuestion,
    interface: Option<&Interface>,
    sender: Option<[u8; 6]>,
) -> Result<Vec<Vec<u8>>, ExplainError> {
    if let Some(digits) = &question.frame {
        return Ok(vec![given(question, digits)?]);
    }
    let asked = Asked::new(question, interface, sender)?;
    let flags = match &question.tcp_flags {
        Some(words) => vec![protocols::tcp_flags(words).map_err(|word| {
            wrong(format!("{word:?} is no TCP flag; they are {}, or none", protocols::TCP_FLAGS.join(", ")))
        })?],
        // With the source port the question may be about a connection that lives: its packets in mid-stream pass, while a
        // second SYN may not.
        None if asked.transport.protocol == protocol::TCP && question.source_port.is_some() => vec![ACK, SYN],
        None => vec![SYN],
    };
    if question.tcp_flags.is_some() && asked.transport.protocol != protocol::TCP {
        return Err(wrong("only TCP has flags; ask about \"tcp\", or leave them out"));
    }
    flags.into_iter().map(|flags| asked.frame(flags)).collect()
}

/// A question that makes no sense, and what would.
pub fn wrong(why: impl Into<String>) -> ExplainError {
    ExplainError::Question(why.into())
}

fn given(question: &ExplainQuestion, digits: &str) -> Result<Vec<u8>, ExplainError> {
    let alone = ExplainQuestion {
        interface: question.interface.clone(),
        direction: question.direction,
        frame: question.frame.clone(),
        to: question.to.clone(),
        ..ExplainQuestion::default()
    };
    if *question != alone {
        return Err(wrong(
            "a frame is judged as it is: leave out the protocol, the addresses and all else beside it",
        ));
    }
    let frame = hex::decode(digits)
        .map_err(|error| wrong(format!("the frame is not an even number of hexadecimal digits: {error}")))?;
    if frame.len() < 14 {
        let why = "an Ethernet frame begins with 14 bytes of addresses and EtherType";
        return Err(wrong(format!("the frame has {} bytes; {why}", frame.len())));
    }
    if frame.len() > LONGEST {
        let why = "send what a device of the usual MTU would carry";
        return Err(wrong(format!(
            "the frame has {} bytes, and {LONGEST} can be asked about; {why}",
            frame.len()
        )));
    }
    Ok(frame)
}

/// The question, made complete.
struct Asked<'q> {
    question: &'q ExplainQuestion,
    direction: Direction,
    mac: [u8; 6],
    vlan: Option<VlanId>,
    local: IpAddr,
    remote: IpAddr,
    transport: Transport,
}

impl<'q> Asked<'q> {
    fn new(
        question: &'q ExplainQuestion,
        interface: Option<&Interface>,
        sender: Option<[u8; 6]>,
    ) -> Result<Self, ExplainError> {
        let direction: Direction = question.direction.into();
        let remote = question.remote.ok_or_else(|| {
            wrong("whom is the packet from, or for? Give the remote address, or a whole frame")
        })?;
        let own = interface
            .and_then(|interface| interface.addresses.iter().find(|own| own.is_ipv4() == remote.is_ipv4()));
        let unknown = match remote {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = question.local.or(own.copied()).unwrap_or(unknown);
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(ExplainError::Families { local, remote });
        }
        let ipv6 = remote.is_ipv6();
        let name = match (&question.protocol, &question.quoted) {
            (Some(name), _) => name,
            (None, Some(_)) => "icmp",
            (None, None) => return Err(wrong("which protocol? Give one, such as tcp, or a whole frame")),
        };
        let number = protocol_of(name, ipv6)?;
        if ipv6 && EXTENSIONS.contains(&number) {
            return Err(wrong(format!(
                "{name} is an extension header in IPv6, which the filter looks through or drops; ask about the protocol behind \
                 it, or about a whole frame"
            )));
        }
        let later = question.fragment.is_some_and(|fragment| fragment.piece != Piece::First);
        ports_fit(name, number, question.port, later)?;
        let is_icmp = number == if ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
        if !is_icmp
            && (question.icmp_type.is_some() || question.icmp_code.is_some() || question.quoted.is_some())
        {
            return Err(wrong(format!("{name} has no ICMP type, code or quoted packet; ask about \"icmp\"")));
        }
        let usual = match (&question.quoted, ipv6) {
            (None, false) => (8, 0),
            (None, true) => (128, 0),
            (Some(_), false) => (3, 3),
            (Some(_), true) => (1, 4),
        };
        let kind = question.icmp_type.unwrap_or(usual.0);
        if question.quoted.is_some() && !super::dissect::is_error(kind, ipv6) {
            return Err(wrong(format!(
                "ICMP type {kind} quotes no packet; ask about an error such as destination-unreachable"
            )));
        }
        let code = question.icmp_code.unwrap_or(if kind == usual.0 { usual.1 } else { 0 });
        let own_mac = interface.and_then(|interface| interface.mac);
        let mac = match &question.mac {
            Some(text) => values::mac(text).map_err(|_| {
                wrong(format!("{text:?} is no unicast MAC address such as 52:54:00:12:34:56"))
            })?,
            None if direction == Direction::Outbound => own_mac.unwrap_or(SOME_MAC),
            None => sender.unwrap_or(SOME_MAC),
        };
        let vlan = question
            .vlan
            .map(|id| {
                VlanId::try_new(id)
                    .ok()
                    .filter(|_| (1..=4094).contains(&id))
                    .ok_or_else(|| wrong(format!("{id} is no VLAN; they are numbered from 1 to 4094")))
            })
            .transpose()?;
        Ok(Self {
            question,
            direction,
            mac,
            vlan,
            local,
            remote,
            transport: Transport {
                protocol: number,
                source_port: question.source_port.unwrap_or(40_000),
                destination_port: question.port.unwrap_or(0),
                icmp: (kind, code),
                tcp_flags: SYN,
            },
        })
    }

    fn frame(&self, tcp_flags: u8) -> Result<Vec<u8>, ExplainError> {
        let (source, destination) = match self.direction {
            Direction::Inbound => (self.remote, self.local),
            Direction::Outbound => (self.local, self.remote),
        };
        let mut payload = Transport { tcp_flags, ..self.transport }.bytes();
        if let Some(quoted) = &self.question.quoted {
            // The identifier of a query means nothing in an error.
            payload.truncate(4);
            payload.extend([0; 4]);
            payload.extend(self.quote(quoted)?);
        }
        let piece = self.piece()?;
        match &piece {
            Some(piece) if piece.offset.value() > 0 => payload = SOME_DATA.to_vec(),
            // A piece that is followed by more is a multiple of 8 bytes.
            Some(_) => payload.resize(payload.len().next_multiple_of(8), 0),
            None => {}
        }
        let probe = Probe {
            source_mac: self.mac,
            vlan: self.vlan,
            source,
            destination,
            protocol: self.transport.protocol,
            piece,
            payload,
        };
        probe.frame().ok_or(ExplainError::Families { local: self.local, remote: self.remote })
    }

    fn piece(&self) -> Result<Option<Fraction>, ExplainError> {
        let Some(fragment) = self.question.fragment else { return Ok(None) };
        let bytes = match (fragment.piece, fragment.offset) {
            (Piece::First, None | Some(0)) => 0,
            (Piece::First, Some(_)) => {
                return Err(wrong("a first fragment has offset 0; ask about a middle or last one"));
            }
            (_, Some(0)) => return Err(wrong("offset 0 is the first fragment's; ask about that")),
            (_, offset) => offset.unwrap_or(SECOND_PIECE),
        };
        let offset =
            IpFragOffset::try_new(bytes / 8).ok().filter(|_| bytes.is_multiple_of(8)).ok_or_else(|| {
                wrong(format!("offsets of fragments are multiples of 8 bytes, which {bytes} is not"))
            })?;
        let id = fragment.id.unwrap_or(1);
        if self.remote.is_ipv4() && id > u16::MAX.into() {
            return Err(wrong(format!("identifications of IPv4 end at {}, and {id} is greater", u16::MAX)));
        }
        Ok(Some(Fraction { offset, more: fragment.piece != Piece::Last, id }))
    }

    /// The packet that an error is about, as whoever the error is for has sent it.
    fn quote(&self, quoted: &Quoted) -> Result<Vec<u8>, ExplainError> {
        let remote = quoted.remote.unwrap_or(self.remote);
        if remote.is_ipv4() != self.local.is_ipv4() {
            return Err(ExplainError::Families { local: self.local, remote });
        }
        let (source, destination) = match self.direction {
            Direction::Inbound => (self.local, remote),
            Direction::Outbound => (remote, self.local),
        };
        let ipv6 = remote.is_ipv6();
        let number = protocol_of(&quoted.protocol, ipv6)?;
        ports_fit(&quoted.protocol, number, quoted.port, false)?;
        let transport = Transport {
            protocol: number,
            source_port: quoted.source_port.unwrap_or(40_000),
            destination_port: quoted.port.unwrap_or(0),
            icmp: (if ipv6 { 128 } else { 8 }, 0),
            tcp_flags: ACK,
        };
        let probe = Probe {
            source_mac: SOME_MAC,
            vlan: None,
            source,
            destination,
            protocol: number,
            piece: None,
            payload: transport.bytes(),
        };
        probe.packet().ok_or(ExplainError::Families { local: self.local, remote })
    }
}

fn protocol_of(name: &str, ipv6: bool) -> Result<u8, ExplainError> {
    protocols::number(name, ipv6).ok_or_else(|| {
        let known = protocols::names().map(|(name, _)| name);
        let meant = crate::policy::nearest(name, known).map_or_else(String::new, |name| format!("; did you mean {name}?"));
        wrong(format!(
            "the protocol is tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip, another name or a number from 0 to 255, not {name:?}{meant}"
        ))
    })
}

fn ports_fit(name: &str, number: u8, port: Option<u16>, later: bool) -> Result<(), ExplainError> {
    let has_ports = matches!(number, protocol::TCP | protocol::UDP);
    if has_ports && port.is_none() && !later {
        return Err(wrong("TCP and UDP need a port: the destination's"));
    }
    if !has_ports && port.is_some() {
        return Err(wrong(format!("only TCP and UDP have ports; leave it out for {name}")));
    }
    Ok(())
}
