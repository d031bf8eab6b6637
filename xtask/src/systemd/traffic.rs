//! Traffic over the policy, of which every packet is accounted for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;

use anyhow::{Result, ensure};
use sg_tests::{Connection, Outcome};

use super::site::{CLOSED, OPEN, Site};

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
    let [out, closed] = site.datagrams()?;
    let [allowed, denied] = site.patience;
    let running = AtomicBool::new(true);
    let [exchanged, failed, connected, refused, sent_out, sent_in] = [const { AtomicU64::new(0) }; 6];
    let count = |good: bool, yes: &AtomicU64, no: &AtomicU64| {
        if good { yes } else { no }.fetch_add(1, Ordering::Relaxed);
    };
    let answered = |outcome: Result<Outcome>| outcome.is_ok_and(Outcome::answered);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                count(answered(held.exchange(allowed)), &exchanged, &failed);
                sleep(site.pause);
            }
        });
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                count(answered(site.tcp(OPEN).run(allowed)), &connected, &refused);
                sleep(site.pause);
            }
        });
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                for (datagrams, sent) in [(&out, &sent_out), (&closed, &sent_in)] {
                    if datagrams.send() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                sleep(site.pause);
            }
        });
        let done = work();
        running.store(false, Ordering::Relaxed);
        done
    })?;
    let [exchanged, failed, connected, refused, sent_out, sent_in] =
        [exchanged, failed, connected, refused, sent_out, sent_in].map(AtomicU64::into_inner);
    ensure!(exchanged > 0 && connected > 0 && sent_out > 0 && sent_in > 0, "there was no traffic");
    let arrived = out.arrived(denied)?;
    let cost = Cost {
        lost: failed + refused + sent_out.abs_diff(arrived),
        through: closed.arrived(denied)?,
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

/// What came through while a machine booted.
pub struct Boot {
    /// Datagrams and connections that a rule allows, or would.
    pub allowed: u64,
    /// Those that none does.
    pub denied: u64,
    pub sent: u64,
}

/// Does `work`, which boots the machine, while somebody outside does not cease to try. Whoever asks before there is an address is not
/// answered, rule or none.
pub fn at_boot<T>(site: &Site, work: impl FnOnce() -> Result<T>) -> Result<(T, Boot)> {
    let [out, closed] = site.datagrams()?;
    let [_, wait] = site.patience;
    let running = AtomicBool::new(true);
    let [sent, opened, leaked] = [const { AtomicU64::new(0) }; 3];
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                for datagrams in [&out, &closed] {
                    sent.fetch_add(u64::from(datagrams.send()), Ordering::Relaxed);
                }
                sleep(site.pause);
            }
        });
        for (port, count) in [(OPEN, &opened), (CLOSED, &leaked)] {
            let (running, sent) = (&running, &sent);
            scope.spawn(move || {
                while running.load(Ordering::Relaxed) {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let answered = site.tcp(port).run(wait).is_ok_and(Outcome::answered);
                    count.fetch_add(u64::from(answered), Ordering::Relaxed);
                    sleep(site.pause);
                }
            });
        }
        let done = work();
        running.store(false, Ordering::Relaxed);
        done
    })?;
    let boot = Boot {
        allowed: opened.into_inner() + out.arrived(wait)?,
        denied: leaked.into_inner() + closed.arrived(wait)?,
        sent: sent.into_inner(),
    };
    Ok((done, boot))
}
