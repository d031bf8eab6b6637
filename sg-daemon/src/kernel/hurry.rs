//! Many devices at once.
//!
//! Each time that a program is attached or detached by TCX, the kernel waits for a grace period of RCU with the lock on all
//! network devices in hand (net/core, `tcx_entry_sync`): some ticks, twice for each device, however many wait at once. Five
//! hundred devices take twenty seconds, and those that come first are closed for all that time. The kernel has a switch for
//! grace periods in a hurry, which interrupt the other CPUs instead of waiting for them: Linux uses it while it boots. It is on
//! for as long as devices are attached to, if there are many, and if whoever administers the host lets the daemon write to it.
//! Where `rcu_normal` is on, as hosts for real-time work have it, it does nothing.

use std::fs;
use std::path::{Path, PathBuf};

use super::Kernel;
use super::pins::Pins;

/// Documentation/admin-guide/kernel-parameters.txt, `rcupdate.rcu_expedited`.
pub(super) const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// So few are not worth it.
const FEW: usize = 4;

/// As long as there is this, the kernel is in a hurry.
#[derive(Debug)]
pub struct Hurry {
    switch: PathBuf,
    marker: PathBuf,
}

impl Kernel {
    /// For so many devices to attach to or to detach from.
    pub fn hurry(&self, devices: usize) -> Option<Hurry> {
        Hurry::begin(&self.pins, devices)
    }
}

impl Hurry {
    pub(super) fn begin(pins: &Pins, devices: usize) -> Option<Self> {
        Self::by(Path::new(SWITCH), pins, devices)
    }

    fn by(switch: &Path, pins: &Pins, devices: usize) -> Option<Self> {
        // One that is on was switched on by somebody else, who may want it so.
        if devices <= FEW || fs::read_to_string(switch).ok()?.trim() != "0" {
            return None;
        }
        let hurry = Self { switch: switch.to_owned(), marker: pins.hurry() };
        // In the BPF file system, which is gone when the switch is off by itself: when the host starts anew.
        fs::create_dir(&hurry.marker).ok()?;
        // If it cannot be switched on, the marker goes with what is dropped here.
        fs::write(switch, "1").ok()?;
        Some(hurry)
    }

    /// After a daemon that has died with the switch on.
    pub(super) fn end_of_another(switch: &Path, pins: &Pins) {
        let marker = pins.hurry();
        if marker.exists() {
            drop(Self { switch: switch.to_owned(), marker });
        }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.switch, "0") {
            tracing::debug!(%error, "{} stays as it is", self.switch.display());
        }
        let _ = fs::remove_dir(&self.marker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_while_many_devices_are_attached_to_and_then_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (switch, pins) = (dir.path().join("switch"), Pins::at(dir.path()));
        fs::create_dir_all(pins.maps()).unwrap();
        let says = || fs::read_to_string(&switch).unwrap().trim().to_owned();
        assert!(Hurry::by(&switch, &pins, 500).is_none(), "there is no switch");
        fs::write(&switch, "0\n").unwrap();
        assert!(Hurry::by(&switch, &pins, FEW).is_none());
        let hurry = Hurry::by(&switch, &pins, FEW + 1).unwrap();
        assert_eq!(says(), "1");
        assert!(Hurry::by(&switch, &pins, 500).is_none(), "it is on already");
        drop(hurry);
        assert_eq!((says().as_str(), pins.hurry().exists()), ("0", false));

        // The next daemon finds what one that died has left, and leaves alone what somebody else has switched on.
        std::mem::forget(Hurry::by(&switch, &pins, 500));
        assert_eq!(says(), "1");
        Hurry::end_of_another(&switch, &pins);
        assert_eq!((says().as_str(), pins.hurry().exists()), ("0", false));
        fs::write(&switch, "1").unwrap();
        Hurry::end_of_another(&switch, &pins);
        assert_eq!(says(), "1");
    }
}
