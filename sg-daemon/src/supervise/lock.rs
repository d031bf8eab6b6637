//! One daemon to a pin directory: two would pull the links out of each other's hands.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::kernel::Pins;

/// How often the directory may be another one when it is looked at again.
const MOST_ROUNDS: usize = 8;

/// Holds the pin directory as long as it lives, and no longer than this process.
pub type PinLock = Flock<File>;

/// Makes the pin directory and takes it. The lock is on the directory itself: a BPF file system has no ordinary files, and
/// a lock elsewhere would not hold for another name of the directory.
///
/// # Errors
///
/// If another daemon has it, or it cannot be made.
pub fn lock(pin_dir: &Path) -> anyhow::Result<PinLock> {
    for _ in 0..MOST_ROUNDS {
        let directory = match File::open(pin_dir) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Pins::make_root(pin_dir)?;
                continue;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot open the pin directory {}; it has to be on a BPF file system (--pin-dir)",
                        pin_dir.display()
                    )
                });
            }
        };
        let lock = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!(
                    "another sgd holds the pin directory {}; stop that one, or pass another --pin-dir",
                    pin_dir.display()
                )
            }
            Err((_, error)) => {
                return Err(error).with_context(|| {
                    format!("cannot lock the pin directory {}; pass another --pin-dir", pin_dir.display())
                });
            }
        };
        // May mount the file system over the directory that is locked.
        Pins::make_root(pin_dir)?;
        // The daemon before may have removed it on its way out.
        let same = |now: fs::Metadata, then: fs::Metadata| (now.dev(), now.ino()) == (then.dev(), then.ino());
        if let (Ok(now), Ok(then)) = (fs::metadata(pin_dir), lock.metadata())
            && same(now, then)
        {
            return Ok(lock);
        }
    }
    bail!(
        "the pin directory {} is replaced again and again; stop whatever does so, or pass another --pin-dir",
        pin_dir.display()
    )
}
