//! What programs notice: connections, datagrams, bulk. Clients and servers are threads of this process, so what a connection costs all
//! of the machine is this process's CPU time: soft interrupts run on its account too.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeValLike as _;
use sg_tests::Netns;

use super::super::filters::{GUEST, TCP_PORT, UDP_PORT};
use super::site::{CLIENT, Site};

const PATIENCE: Duration = Duration::from_secs(5);
const ASK: u8 = b'?';
const BULK: u8 = b'!';

/// The guest's servers, until this is dropped.
pub struct Servers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Read once a round: what is beyond its room is dropped there.
    datagrams: UdpSocket,
}

/// A connection's first byte says what it is for: to be answered, or to be read to its end.
pub fn serve(site: &Site) -> Result<Servers> {
    let guest: Ipv4Addr = GUEST.parse()?;
    let bind = || {
        Ok::<_, std::io::Error>((TcpListener::bind((guest, TCP_PORT))?, UdpSocket::bind((guest, UDP_PORT))?))
    };
    let (listener, datagrams) = site.guest.run(bind)??;
    listener.set_nonblocking(false)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let limit = nix::sys::time::TimeVal::milliseconds(100);
    setsockopt(&listener, sockopt::ReceiveTimeout, &limit)?;
    let thread = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 18];
        while !stopped.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else { continue };
            let mut first = [0];
            if stream.set_read_timeout(Some(PATIENCE)).is_err() || stream.read_exact(&mut first).is_err() {
                continue;
            }
            if first == [BULK] {
                while matches!(stream.read(&mut buffer), Ok(length) if length > 0) {}
            } else {
                let _ = stream.write_all(&first);
                // Until the client resets the connection: nothing waits for old segments afterwards.
                let _ = stream.read(&mut first);
            }
        }
    });
    Ok(Servers { stop, thread: Some(thread), datagrams })
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connections a second, one after the other, each with a question and an answer, and what one costs in microseconds of CPU.
pub fn connections(site: &Site, span: Duration) -> Result<(f64, f64)> {
    site.outside.run(|| {
        let (began, cpu) = (Instant::now(), cpu()?);
        let mut connections = 0u32;
        while began.elapsed() < span {
            let mut stream = open()?;
            stream.write_all(&[ASK])?;
            let mut answer = [0];
            stream.read_exact(&mut answer).context("a connection without an answer")?;
            connections += 1;
        }
        let count = f64::from(connections);
        Ok((count / began.elapsed().as_secs_f64(), (self::cpu()? - cpu) * 1e6 / count))
    })?
}

/// Small datagrams a second that arrive, of one flow that has been answered: only then is it a connection for everybody.
pub fn datagrams(site: &Site, servers: &Servers, span: Duration) -> Result<f64> {
    let socket = site.outside.run(|| UdpSocket::bind((CLIENT, 0)))??;
    socket.connect((GUEST, UDP_PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    servers.datagrams.set_read_timeout(Some(PATIENCE))?;
    // What is left of the round before would take the question's place.
    servers.datagrams.set_nonblocking(true)?;
    while servers.datagrams.recv(&mut [0; 64]).is_ok() {}
    servers.datagrams.set_nonblocking(false)?;
    socket.send(&[ASK])?;
    let (_, client) = servers.datagrams.recv_from(&mut [0; 64]).context("a datagram that is allowed")?;
    servers.datagrams.send_to(&[ASK], client)?;
    socket.recv(&mut [0; 64]).context("the answer to a datagram")?;
    let before = received(&site.guest)?;
    let began = Instant::now();
    while began.elapsed() < span {
        for _ in 0..64 {
            socket.send(&[0; 18])?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let came = received(&site.guest)? - before;
    ensure!(came > 0, "no datagram came through");
    Ok(came as f64 / seconds)
}

/// Gbit/s of one connection, and milliseconds of CPU for each 10⁹ bytes. The devices segment what is sent in large pieces (GSO).
pub fn bulk(site: &Site, span: Duration) -> Result<(f64, f64)> {
    site.outside.run(|| {
        let mut stream = open()?;
        stream.write_all(&[BULK])?;
        let block = vec![0; 1 << 17];
        let (began, cpu) = (Instant::now(), cpu()?);
        let mut bytes = 0u64;
        while began.elapsed() < span {
            stream.write_all(&block)?;
            bytes += block.len() as u64;
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), self::cpu()? - cpu);
        let gigabytes = bytes as f64 / 1e9;
        Ok((gigabytes * 8.0 / seconds, cpu * 1e3 / gigabytes))
    })?
}

/// A connection from the client's address that is reset when it is closed.
fn open() -> Result<TcpStream> {
    let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::seconds(5))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::seconds(5))?;
    // The port is chosen when it is known to whom it leads.
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    bind_without_port(&fd)?;
    bind(raw, &SockaddrIn::from(SocketAddrV4::new(CLIENT, 0)))?;
    connect(raw, &SockaddrIn::from(SocketAddrV4::new(GUEST.parse()?, TCP_PORT)))
        .context("a connection that is allowed")?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `IP_BIND_ADDRESS_NO_PORT`
fn bind_without_port(fd: &OwnedFd) -> Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the option is an integer that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(fd),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    ensure!(result == 0, "IP_BIND_ADDRESS_NO_PORT: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Seconds of CPU that this process has used.
pub fn cpu() -> Result<f64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Packets that have come in at `eth0`.
fn received(netns: &Netns) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("there is no eth0")?;
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).context("/proc/net/dev")
}
