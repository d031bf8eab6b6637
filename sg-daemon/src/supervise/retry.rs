//! A policy that was refused for what a device is like is tried again when devices change.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::enforce::links;

/// A device rarely changes once: what makes it and sets it up sends several messages.
const FIRST: Duration = Duration::from_millis(250);
/// An attempt may itself change devices, and so be the cause of the next one: each waits twice as long as the one before.
const LONGEST: Duration = Duration::from_secs(60);

/// When to try again, if at all.
#[derive(Default)]
pub struct Retry(Option<Refused>);

struct Refused {
    devices: Option<BTreeMap<String, u32>>,
    delay: Duration,
    due: Option<Instant>,
}

impl Retry {
    /// After a policy was refused for what a device is like, or was not.
    pub fn new(by_device: bool) -> Self {
        Self(by_device.then(|| Refused { devices: links::present().ok(), delay: FIRST, due: None }))
    }

    /// After another attempt at the same policy.
    pub fn tried(&mut self, by_device: bool) {
        match &mut self.0 {
            Some(refused) if by_device => {
                refused.delay = (refused.delay * 2).min(LONGEST);
                refused.due = None;
            }
            _ => *self = Self::new(by_device),
        }
    }

    /// A device has appeared, gone or changed.
    pub fn devices_changed(&mut self) {
        if self.0.is_some() {
            self.devices_are(links::present().ok());
        }
    }

    fn devices_are(&mut self, devices: Option<BTreeMap<String, u32>>) {
        let Some(refused) = &mut self.0 else { return };
        // An attempt neither makes devices nor removes them.
        if refused.devices != devices {
            *refused = Refused { devices, delay: FIRST, due: None };
        }
        refused.due.get_or_insert_with(|| Instant::now() + refused.delay);
    }

    /// When it is time.
    pub fn due(&self) -> Option<Instant> {
        self.0.as_ref()?.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(names: &[&str]) -> Option<BTreeMap<String, u32>> {
        Some(names.iter().zip(1..).map(|(name, index)| ((*name).to_owned(), index)).collect())
    }

    fn wait(retry: &Retry) -> Option<Duration> {
        retry.due().map(|due| due.saturating_duration_since(Instant::now()))
    }

    #[test]
    fn an_attempt_waits_for_a_device_and_longer_each_time_unless_devices_come_or_go() {
        let mut retry = Retry::new(true);
        assert_eq!(wait(&retry), None, "nothing has changed yet");
        retry.devices_are(devices(&["tap0"]));
        assert!(wait(&retry).unwrap() <= FIRST);
        for _ in 0..20 {
            retry.tried(true);
            assert_eq!(wait(&retry), None);
            retry.devices_are(devices(&["tap0"]));
        }
        assert!(wait(&retry).unwrap() > LONGEST / 2 && wait(&retry).unwrap() <= LONGEST);
        retry.devices_are(devices(&["tap0", "tap1"]));
        assert!(wait(&retry).unwrap() <= FIRST);
        retry.tried(false);
        retry.devices_are(devices(&[]));
        assert_eq!(wait(&retry), None, "a policy in force, or one with a fault, is not tried again");
    }
}
