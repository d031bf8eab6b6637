//! Echo servers inside a namespace.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::probe::Probe;
use crate::socket::{Transport, limit};
use crate::topology::Topology;

/// How often a server looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);

/// Running echo servers; they stop when this is dropped.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<AtomicBool>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Netns {
    /// TCP servers that send back what they receive. They listen when this returns.
    pub fn serve_tcp(&self, addresses: &[SocketAddr]) -> Result<Servers> {
        self.serve(addresses, |address| Ok(TcpListener::bind(address)?), accept_until)
    }

    /// UDP servers that send back each datagram from the address it was sent to.
    pub fn serve_udp(&self, addresses: &[SocketAddr]) -> Result<Servers> {
        self.serve(addresses, |address| Ok(UdpSocket::bind(address)?), echo_datagrams_until)
    }

    fn serve<S: Send + 'static>(
        &self,
        addresses: &[SocketAddr],
        bind: fn(&SocketAddr) -> Result<S>,
        work: fn(S, Arc<AtomicBool>),
    ) -> Result<Servers> {
        let servers = Servers { stop: Arc::default() };
        let bind_all = || {
            addresses
                .iter()
                .map(|address| {
                    bind(address).with_context(|| format!("cannot serve {address} in {}", self.name()))
                })
                .collect::<Result<Vec<S>>>()
        };
        for socket in self.run(bind_all)?? {
            let stop = Arc::clone(&servers.stop);
            std::thread::spawn(move || work(socket, stop));
        }
        Ok(servers)
    }
}

impl Topology {
    /// Echo servers for everything that the probes ask, each address once, wherever on the site it is.
    pub fn serve<'a>(&self, probes: impl IntoIterator<Item = &'a Probe>) -> Result<Vec<Servers>> {
        let wanted: BTreeSet<_> =
            probes.into_iter().map(|probe| (probe.transport(), probe.destination())).collect();
        let start = |(transport, address): (Transport, SocketAddr)| match transport {
            Transport::Tcp => Some(self.owner(address.ip()).serve_tcp(&[address])),
            Transport::Udp => Some(self.owner(address.ip()).serve_udp(&[address])),
            Transport::Icmp => None, // the kernel answers
        };
        wanted.into_iter().filter_map(start).collect()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a thread owns what it works on")]
fn accept_until(listener: TcpListener, stop: Arc<AtomicBool>) {
    if limit(&listener, TICK).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || echo_stream_until(stream, &stop));
        }
    }
}

/// Until the peer closes. A peer whose packets are dropped never does, hence `stop`.
fn echo_stream_until(mut stream: TcpStream, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    if limit(&stream, TICK).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a thread owns what it works on")]
fn echo_datagrams_until(socket: UdpSocket, stop: Arc<AtomicBool>) {
    let mut buffer = [0; 65536];
    if limit(&socket, TICK).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        // An error is a time-out, or the ICMP error that an earlier answer caused.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
        }
    }
}
