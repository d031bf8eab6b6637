//! Waiting for packets that are being judged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Waits for several at once: whoever comes while another one waits, waits for the rest of that, and then once for all who
/// have come meanwhile.
#[derive(Debug, Default)]
pub struct Graces {
    /// The latest generation that was waited for, or is to be.
    latest: AtomicU64,
    over: Mutex<u64>,
}

impl Graces {
    /// Waits until every packet has its verdict that may have been judged before `generation` was put in force, which it has
    /// been by now.
    pub fn wait(&self, generation: u64) {
        self.wait_by(generation, grace);
    }

    fn wait_by(&self, generation: u64, grace: impl FnOnce()) {
        self.latest.fetch_max(generation, Ordering::SeqCst);
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if *over < generation {
            let latest = self.latest.load(Ordering::SeqCst);
            grace();
            *over = latest;
        }
    }
}

/// Waits until every program that runs now has ended: they run with preemption disabled, which `synchronize_rcu` waits
/// for, and that is what this membarrier command does (kernel/sched/membarrier.c).
pub(super) fn grace() {
    // SAFETY: the call takes three integers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with `nohz_full` refuse. No packet is under way in a program for as long as this.
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn who_comes_while_another_one_waits_waits_once_for_all_who_have_come() {
        let (graces, waits) = (Graces::default(), AtomicU32::new(0));
        let wait = |generation| {
            graces.wait_by(generation, || {
                waits.fetch_add(1, Ordering::SeqCst);
            });
        };
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                graces.wait_by(1, || {
                    begun.wait();
                    // Until all others are there.
                    while graces.latest.load(Ordering::SeqCst) < 9 {
                        std::thread::yield_now();
                    }
                });
            });
            begun.wait();
            for generation in 2..10 {
                scope.spawn(move || wait(generation));
            }
        });
        assert_eq!(waits.load(Ordering::SeqCst), 1);
        wait(9);
        assert_eq!(waits.load(Ordering::SeqCst), 1, "it has been waited for");
        wait(10);
        assert_eq!(waits.load(Ordering::SeqCst), 2);
    }
}
