//! The state directory: a copy of the last good policy, for a start at which the operator's files are bad (SPEC D22).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::install::absent;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::crash::{self, Point};

const NEW: &str = "last-good.new";

/// The directory that holds the copy.
pub fn last_good(state_dir: &Path) -> PathBuf {
    state_dir.join("last-good")
}

/// A copy that is written, and not yet the last good one. Dropped, it is removed.
#[derive(Debug)]
pub struct Prepared {
    state_dir: PathBuf,
    committed: bool,
    /// What has to be on the disk before anything takes the place of anything, and may not be yet.
    pub pending: Vec<File>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.committed {
            // What stays is removed before the next copy is made.
            let _ = fs::remove_dir_all(self.state_dir.join(NEW));
        }
    }
}

/// Writes a copy of a policy that is about to be put in force. `files` are the policy's files and what they said when it
/// was loaded, which may not be what they say by now. `written` is a
/// directory of the state directory that has them already, by the same names.
///
/// # Errors
///
/// If a file cannot be written; the old copy is still there then.
pub fn prepare<'p>(
    state_dir: &Path,
    files: impl Iterator<Item = (&'p Path, &'p [u8])>,
    written: Option<&Path>,
) -> io::Result<Prepared> {
    let files: Vec<_> =
        files.enumerate().map(|(number, (path, text))| (copy_name(number, path), text)).collect();
    prepare_named(state_dir, &files, written)
}

/// Makes the copy anew, of files by the names that they have in it.
///
/// # Errors
///
/// If a file cannot be written; the old copy is still there then.
pub fn renew(state_dir: &Path, files: &[(String, &[u8])]) -> io::Result<()> {
    prepare_named(state_dir, files, None)?.commit()
}

fn prepare_named(
    state_dir: &Path,
    files: &[(String, &[u8])],
    written: Option<&Path>,
) -> io::Result<Prepared> {
    let new = state_dir.join(NEW);
    if is_copy(&last_good(state_dir), files) {
        // Nothing to replace, but for what a daemon that died may have left.
        absent(fs::remove_dir_all(&new))?;
        crash::at(Point::CopyPrepared);
        return Ok(Prepared { state_dir: state_dir.to_owned(), committed: true, pending: Vec::new() });
    }
    let pending = write(&new, files, written, &last_good(state_dir)).inspect_err(|_| {
        // What is half written takes room and is of no use.
        let _ = fs::remove_dir_all(&new);
    })?;
    crash::at(Point::CopyPrepared);
    Ok(Prepared { state_dir: state_dir.to_owned(), committed: false, pending })
}

fn write(
    new: &Path,
    files: &[(String, &[u8])],
    written: Option<&Path>,
    before: &Path,
) -> io::Result<Vec<File>> {
    absent(fs::remove_dir_all(new))?;
    fs::create_dir_all(new)?;
    let mut pending = Vec::with_capacity(2);
    for (name, text) in files {
        let linked = written.is_some_and(|written| fs::hard_link(written.join(name), new.join(name)).is_ok());
        if !linked {
            pending.extend(put(new, name, text, before)?);
        }
    }
    pending.push(File::open(new)?);
    Ok(pending)
}

/// Whether a directory has these files and no other.
fn is_copy(directory: &Path, files: &[(String, &[u8])]) -> bool {
    let there = fs::read_dir(directory).map(Iterator::count);
    there.is_ok_and(|there| there == files.len())
        && files.iter().all(|(name, text)| holds(&directory.join(name), text))
}

fn holds(path: &Path, text: &[u8]) -> bool {
    let same_size = fs::metadata(path).is_ok_and(|found| found.len() == text.len() as u64);
    same_size && fs::read(path).is_ok_and(|found| found == text)
}

/// Puts a file into a new directory of the state directory; returned is what is not on the disk yet. If the one of the same
/// name in the copy holds the same it is another name of that one: files there are written once and never changed.
///
/// # Errors
///
/// If it can neither be linked nor written.
pub fn put(new: &Path, name: &str, text: &[u8], before: &Path) -> io::Result<Option<File>> {
    let there = before.join(name);
    if holds(&there, text) && fs::hard_link(there, new.join(name)).is_ok() {
        return Ok(None);
    }
    let mut copy = File::create_new(new.join(name))?;
    copy.write_all(text)?;
    Ok(Some(copy))
}

/// Waits until all of these are on the disk, at once: file systems write what waits together.
///
/// # Errors
///
/// If one of them cannot be written.
pub fn sync(files: &[File]) -> io::Result<()> {
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        let others: Vec<_> = others.iter().map(|file| scope.spawn(|| file.sync_all())).collect();
        let first = first.sync_all();
        let failed = || io::Error::other("a thread that waits for the disk has failed");
        others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|_| Err(failed())))
            .fold(first, Result::and)
    })
}

impl Prepared {
    /// Replaces the last good copy, in one step: a crash leaves the old one or this one.
    ///
    /// # Errors
    ///
    /// If it cannot be renamed.
    pub fn commit(mut self) -> io::Result<()> {
        sync(&self.pending)?;
        if self.committed {
            return Ok(());
        }
        let new = self.state_dir.join(NEW);
        let current = last_good(&self.state_dir);
        if current.exists() {
            renameat2(AT_FDCWD, &new, AT_FDCWD, &current, RenameFlags::RENAME_EXCHANGE)?;
            crash::at(Point::CopyExchanged);
            fs::remove_dir_all(&new)?;
        } else {
            fs::rename(&new, &current)?;
        }
        self.committed = true;
        File::open(&self.state_dir)?.sync_all()
    }
}

/// Numbered, as two directories may have files of one name, and so that they are read in the same order. Always a name
/// that is read, and never too long for one.
pub fn copy_name(number: usize, path: &Path) -> String {
    let stem =
        path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().chars().take(40).collect());
    format!("{number:06}-{stem}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_d22_the_copy_is_replaced_whole_by_what_was_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let save = |files: &[(&str, &str)]| {
            let files = files.iter().map(|&(path, text)| (Path::new(path), text.as_bytes()));
            prepare(&state, files, None)?.commit()
        };
        let saved = || {
            let mut saved: Vec<(String, String)> = fs::read_dir(last_good(&state))
                .unwrap()
                .map(|file| file.unwrap())
                .map(|file| {
                    let name = file.file_name().into_string().unwrap();
                    (name, fs::read_to_string(file.path()).unwrap())
                })
                .collect();
            saved.sort();
            saved
        };
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        // None of these files exists.
        save(&[("/etc/b/policy.json", "1"), ("/etc/a/policy.json", "2"), ("/etc/policy.txt", "3")]).unwrap();
        let three = [
            pair("000000-policy.json", "1"),
            pair("000001-policy.json", "2"),
            pair("000002-policy.json", "3"),
        ];
        assert_eq!(saved(), three);
        let refused = std::iter::once((Path::new("x.json"), "refused".as_bytes()));
        drop(prepare(&state, refused, None).unwrap());
        assert!(!state.join(NEW).exists());
        assert_eq!(saved(), three, "only a policy in force is the last good one");
        // A file in the way of the new copy.
        fs::write(state.join(NEW), "").unwrap();
        assert!(save(&[("x.json", "4")]).is_err());
        assert_eq!(saved(), three, "a copy that fails leaves the old one");
        fs::remove_file(state.join(NEW)).unwrap();
        save(&[("x.json", "4")]).unwrap();
        assert_eq!(saved(), [pair("000000-x.json", "4")]);
        let long = format!("{}.json", "규칙".repeat(40));
        save(&[(&long, "5")]).unwrap();
        assert_eq!(saved().len(), 1);
    }
}
