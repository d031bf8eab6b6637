//! What the service manager is told (sd_notify(3)). Nobody listens unless `NOTIFY_SOCKET` says who.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::api::server::Shared;

/// The policy is in force, and questions are answered.
pub fn ready(shared: &Shared) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(shared))]);
}

/// The files are read again; [`ready`] follows, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the policy")]),
        Err(error) => complain(&error),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// One line for `systemctl status`.
fn status(shared: &Shared) -> String {
    let refused = shared.refused().is_some();
    let mut enforcer = shared.enforcer();
    let (devices, generation) = (enforcer.devices().len(), enforcer.kernel().generation());
    let refused = if refused { "; the newest policy was refused, see `sgctl status`" } else { "" };
    format!("generation {generation} in force, {devices} interfaces filtered{refused}")
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        complain(&error);
    }
}

fn complain(error: &io::Error) {
    tracing::warn!(%error, "the service manager cannot be told");
}

/// Tells the service manager that the daemon is alive, if it wants to know (`WatchdogSec=` of systemd.service(5)). Told by
/// the main loop, and only when nothing is being put in force and the enforcer can be had: a daemon that hangs in any of
/// them is silent and is started anew.
pub struct Watchdog {
    beat: Option<Interval>,
    /// Somebody waits for the steward or the enforcer since the last beat.
    waiting: Arc<AtomicBool>,
}

impl Watchdog {
    pub fn new() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)));
        let beat = every.map(|every| {
            let mut beat = interval(every);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        });
        Self { beat, waiting: Arc::default() }
    }

    /// Returns when it is time to beat. Cancel-safe.
    pub async fn due(&mut self) {
        match &mut self.beat {
            Some(beat) => drop(beat.tick().await),
            None => super::never().await,
        }
    }

    /// Tells, as soon as the steward and the enforcer can be had. Does not wait for that.
    pub fn beat(&self, shared: &Shared) {
        if self.waiting.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a change of the policy, or the enforcer, takes longer than half of the watchdog's time"
            );
            return;
        }
        let (shared, waiting) = (shared.clone(), Arc::clone(&self.waiting));
        tokio::spawn(async move {
            shared.orders.at_rest().await;
            spawn_blocking(move || {
                drop(shared.enforcer());
                waiting.store(false, Ordering::Relaxed);
                tell(&[NotifyState::Watchdog]);
            })
            .await
        });
    }
}
