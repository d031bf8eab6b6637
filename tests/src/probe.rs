//! Probes: real packets from one namespace to an address, and what came back.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::netns::Netns;
use crate::socket::{Transport, connected, limit};

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// TCP: the handshake, and what was sent came back. UDP and ICMP: the reply came.
    Answered,
    /// TCP: a reset. UDP: "port unreachable". The packet went through; nobody listens.
    Refused,
    /// Nothing in time: what a dropped packet looks like.
    TimedOut,
    /// No route, or no neighbour answers: the topology is at fault, not the filter.
    Unreachable,
}

impl Outcome {
    pub fn answered(self) -> bool {
        self == Self::Answered
    }

    fn of(error: &io::Error) -> Option<Self> {
        if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) {
            return Some(Self::TimedOut); // what `connect` says when SO_SNDTIMEO ends it
        }
        Some(match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Self::Refused
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => return None,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::TimedOut => "no answer",
            Self::Unreachable => "unreachable",
        })
    }
}

/// One question to the network. Running it again asks anew: another source port, another ICMP identifier.
#[derive(Debug, Clone)]
pub struct Probe {
    from: Netns,
    source: Option<IpAddr>,
    transport: Transport,
    to: SocketAddr,
}

impl Probe {
    /// Connects, sends a line and waits for its echo.
    pub fn tcp(from: &Netns, to: impl Into<SocketAddr>) -> Self {
        Self { from: from.clone(), source: None, transport: Transport::Tcp, to: to.into() }
    }

    /// Sends one datagram and waits for its echo.
    pub fn udp(from: &Netns, to: impl Into<SocketAddr>) -> Self {
        Self { from: from.clone(), source: None, transport: Transport::Udp, to: to.into() }
    }

    /// Sends one ICMP or ICMPv6 echo request and waits for its reply.
    pub fn ping(from: &Netns, to: impl Into<IpAddr>) -> Self {
        Self { from: from.clone(), source: None, transport: Transport::Icmp, to: (to.into(), 0).into() }
    }

    /// Sends from this address of the namespace instead of the one that the kernel would choose.
    #[must_use]
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What [`Self::source`] chose.
    pub fn source_address(&self) -> Option<IpAddr> {
        self.source
    }

    pub fn destination(&self) -> SocketAddr {
        self.to
    }

    /// Sends it and waits at most `wait` for each answer.
    pub fn run(&self, wait: Duration) -> Result<Outcome> {
        let ask = || -> io::Result<()> {
            let socket = connected(self.transport, self.source, self.to, wait)?;
            match self.transport {
                Transport::Tcp => echo_tcp(&mut TcpStream::from(socket), wait),
                Transport::Udp => echo_udp(&UdpSocket::from(socket)),
                // std has no raw socket; the calls behind send and recv are the same for every connected one.
                Transport::Icmp => echo_icmp(&UdpSocket::from(socket), self.to.is_ipv6(), wait),
            }
        };
        match self.from.run(ask)? {
            Ok(()) => Ok(Outcome::Answered),
            Err(error) => Outcome::of(&error).ok_or(error).with_context(|| format!("{self} cannot be sent")),
        }
    }

    /// Opens a TCP connection or UDP exchange and keeps it, to be used again after a change of policy.
    pub fn hold(&self, wait: Duration) -> Result<Connection> {
        let socket = match (
            self.transport,
            self.from.run(|| connected(self.transport, self.source, self.to, wait))?,
        ) {
            (Transport::Icmp, _) => bail!("{self}: only TCP and UDP can be held"),
            (_, Err(error)) => bail!("{self}: {}", io::Error::from(error)),
            (Transport::Tcp, Ok(fd)) => Socket::Tcp(fd.into()),
            (Transport::Udp, Ok(fd)) => Socket::Udp(fd.into()),
        };
        let mut connection = Connection(socket);
        match connection.exchange(wait)? {
            Outcome::Answered => Ok(connection),
            outcome => bail!("{self}: {outcome}"),
        }
    }
}

/// For example `TCP 203.0.113.10 → 10.0.0.5:22`.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Icmp => "ping",
        };
        write!(f, "{name} ")?;
        if let Some(source) = self.source {
            write!(f, "{source} ")?;
        }
        match self.transport {
            Transport::Icmp => write!(f, "→ {}", self.to.ip()),
            Transport::Tcp | Transport::Udp => write!(f, "→ {}", self.to),
        }
    }
}

/// Runs probes side by side, each with its own patience, and returns the outcomes in the same order.
pub fn run_all(probes: &[(Probe, Duration)]) -> Vec<Result<Outcome>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = probes.iter().map(|(probe, wait)| scope.spawn(|| probe.run(*wait))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// A flow that stays open.
#[derive(Debug)]
pub struct Connection(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Connection {
    /// Sends once more on the same flow and waits for the echo.
    pub fn exchange(&mut self, wait: Duration) -> Result<Outcome> {
        let result = match &mut self.0 {
            Socket::Tcp(stream) => echo_tcp(stream, wait),
            Socket::Udp(socket) => {
                limit(socket, wait).map_err(io::Error::from).and_then(|()| echo_udp(socket))
            }
        };
        match result {
            Ok(()) => Ok(Outcome::Answered),
            Err(error) => Outcome::of(&error).ok_or(error).context("the held connection failed"),
        }
    }
}

fn echo_tcp(stream: &mut TcpStream, wait: Duration) -> io::Result<()> {
    limit(stream, wait)?;
    let sent = nonce();
    stream.write_all(&sent)?;
    let deadline = Instant::now() + wait;
    // Echoes of earlier exchanges that timed out may arrive first.
    let mut window = [0; 8];
    loop {
        let mut byte = [0; 1];
        if stream.read(&mut byte)? == 0 {
            return Err(ErrorKind::ConnectionReset.into());
        }
        window.rotate_left(1);
        let [.., last] = &mut window;
        [*last] = byte;
        if window == sent {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

fn echo_udp(socket: &UdpSocket) -> io::Result<()> {
    let sent = nonce();
    socket.send(&sent)?;
    let mut received = [0; 64];
    loop {
        let length = socket.recv(&mut received)?;
        if received.get(..length) == Some(&sent) {
            return Ok(());
        }
    }
}

/// RFC 792 and RFC 4443: type, code, checksum, identifier, sequence number, data.
fn echo_icmp(socket: &UdpSocket, v6: bool, wait: Duration) -> io::Result<()> {
    let (request, reply) = if v6 { (128, 129) } else { (8, 0) };
    let body = nonce(); // identifier, sequence number and four bytes of data
    let mut packet = vec![request, 0, 0, 0];
    packet.extend_from_slice(&body);
    if !v6 {
        // The kernel fills in the ICMPv6 checksum, which covers addresses that only it knows.
        let checksum = checksum(&packet).to_be_bytes();
        packet.splice(2..4, checksum);
    }
    socket.send(&packet)?;

    let deadline = Instant::now() + wait;
    let mut buffer = [0; 256];
    while Instant::now() < deadline {
        let length = socket.recv(&mut buffer)?;
        let received = buffer.get(..length).unwrap_or_default();
        // A raw IPv4 socket hands over the IP header too; its length is the low nibble, in words.
        let header = if v6 { 0 } else { received.first().map_or(0, |first| usize::from(first & 0xf) * 4) };
        let message = received.get(header..).unwrap_or_default();
        if message.first() == Some(&reply) && message.get(4..) == Some(&body) {
            return Ok(());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// RFC 1071, over an even number of bytes.
fn checksum(data: &[u8]) -> u16 {
    let sum: u32 =
        data.chunks_exact(2).map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Different for every packet of this process and of the others on this machine. The first two bytes, which serve as ICMP
/// identifier, are different for the last 65,536 probes of this process.
fn nonce() -> [u8; 8] {
    static COUNTER: AtomicU16 = AtomicU16::new(0);
    let [c0, c1] = COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [p0, p1, p2, p3] = std::process::id().to_be_bytes();
    let elapsed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_micros());
    let [.., t0, t1] = elapsed.to_be_bytes();
    [c0, c1, p2, p3, p0, p1, t0, t1]
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn checksum_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
