//! Waiting for packets that are being judged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Waits for several who want the same: whoever comes while another one waits, waits for the rest of it.
#[derive(Debug, Default)]
pub struct Graces(Mutex<u64>);

impl Graces {
    /// Waits until every packet has its verdict that may have been judged before `generation` was put in force.
    pub fn wait(&self, generation: u64) {
        let mut over = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *over < generation {
            grace();
            *over = generation;
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
