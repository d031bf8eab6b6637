//! Traffic over the starter policy, of which every packet is accounted for.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use sg_tests::{Connection, Netns, Outcome, patience};

use super::site::{GUEST, HOST, OPEN, Site};

const PAUSE: Duration = Duration::from_millis(5);
/// UDP: to the host everything may go, to the guest nothing.
const OUT: u16 = 7001;
const IN: u16 = 7002;

/// What some work has cost.
pub struct Cost {
    /// Exchanges on the connection, new connections and datagrams that were allowed and did not come through.
    pub lost: u64,
    /// Datagrams that no rule allows and that came through.
    pub through: u64,
    pub sent: u64,
}

impl Cost {
    pub fn nothing(&self) -> bool {
        self.lost == 0 && self.through == 0
    }
}

/// Does `work` under traffic, with a connection that was open before.
pub fn under<T>(site: &Site, held: &mut Connection, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let out = (socket(&site.guest, (GUEST, 0).into())?, socket(&site.host, (HOST, OUT).into())?);
    let closed = (socket(&site.host, (HOST, 0).into())?, socket(&site.guest, (GUEST, IN).into())?);
    let running = AtomicBool::new(true);
    let [exchanged, failed, connected, refused, sent_out, sent_in] = [const { AtomicU64::new(0) }; 6];
    let count = |good: bool, yes: &AtomicU64, no: &AtomicU64| {
        if good { yes } else { no }.fetch_add(1, Ordering::Relaxed);
    };
    let answered = |outcome: Result<Outcome>| outcome.is_ok_and(Outcome::answered);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                count(answered(held.exchange(patience::ALLOWED)), &exchanged, &failed);
                sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                count(answered(site.tcp(OPEN).run(patience::ALLOWED)), &connected, &refused);
                sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                // What a socket does not take was not sent.
                if out.0.send_to(b"out", (HOST, OUT)).is_ok() {
                    sent_out.fetch_add(1, Ordering::Relaxed);
                }
                if closed.0.send_to(b"in", (GUEST, IN)).is_ok() {
                    sent_in.fetch_add(1, Ordering::Relaxed);
                }
                sleep(PAUSE);
            }
        });
        let done = work();
        running.store(false, Ordering::Relaxed);
        done
    })?;
    let [exchanged, failed, connected, refused, sent_out, sent_in] =
        [exchanged, failed, connected, refused, sent_out, sent_in].map(AtomicU64::into_inner);
    ensure!(exchanged > 0 && connected > 0 && sent_out > 0 && sent_in > 0, "there was no traffic");
    let arrived = received(&out.1)?;
    let cost = Cost {
        lost: failed + refused + sent_out.abs_diff(arrived),
        through: received(&closed.1)?,
        sent: exchanged + connected + sent_out + sent_in,
    };
    Ok((done, cost))
}

/// The same while the filter goes: what no rule allows may come through.
pub fn under_open<T>(
    site: &Site,
    held: &mut Connection,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Cost)> {
    let (done, cost) = under(site, held, work)?;
    Ok((done, Cost { through: 0, ..cost }))
}

/// With room for all that is sent before it is read.
fn socket(netns: &Netns, address: std::net::SocketAddr) -> Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind(address))?.with_context(|| format!("cannot use {address}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    Ok(socket)
}

/// How many datagrams wait.
fn received(socket: &UdpSocket) -> Result<u64> {
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut count = 0;
    while socket.recv(&mut [0; 8]).is_ok() {
        count += 1;
    }
    Ok(count)
}
