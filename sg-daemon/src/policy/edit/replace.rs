//! Replacing a file so that a reader sees the old text or the new one, never half of either, also across a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Puts `new` in place of `old`, keeping mode and owner. A symbolic link stays one; its target is replaced.
///
/// # Errors
/// Besides those of the system: the file no longer holds `old`. The file is as it was in every case but one: if the
/// last step fails (making the rename durable), it already holds `new`.
pub(super) fn replace(path: &Path, old: &[u8], new: &[u8]) -> io::Result<()> {
    let path = path.canonicalize()?;
    let directory = path.parent().ok_or_else(|| io::Error::other("the file has no directory"))?;
    let metadata = fs::metadata(&path)?;
    // Hidden and without ".json": a daemon that reads the directory meanwhile passes over it.
    let mut file = tempfile::Builder::new().prefix(".sgctl-").suffix(".tmp").tempfile_in(directory)?;
    file.write_all(new)?;
    let made = file.as_file().metadata()?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.as_file().set_permissions(metadata.permissions())?;
    file.as_file().sync_all()?;
    if fs::read(&path)? != old {
        return Err(io::Error::other("somebody else changed it meanwhile"));
    }
    file.persist(&path)?;
    File::open(directory)?.sync_all()
}
