//! The file: lines are whole, whatever happens to the disk, to the file's name, or to the file itself.
//!
//! Own code, as the crates for rotating files lose what they cannot write: file-rotate 0.8 goes on without a file when it
//! cannot open one, ends the program when the directory is gone, and leaves half of a line when the disk is full; neither it
//! nor logroller 0.1 sees that somebody has renamed the file, or can be kept from following a symbolic link.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A log that is rotated by size.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// The file is rotated when it is as large as this; 0: by others only.
    max_size: u64,
    /// How many rotated files are kept, `PATH.1` the newest.
    keep: u32,
    open: Option<File>,
}

/// Lines that were not written, and why.
#[derive(Debug)]
pub struct Unwritten {
    /// How many of the lines are in the file.
    pub written: usize,
    pub error: io::Error,
}

impl LogFile {
    /// Opens the file, or makes it: for its owner, and for its group to read.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or is no ordinary file: nothing is written through a symbolic link or a second name, which
    /// others may have put in a directory that they can write to.
    pub fn open(path: &Path, max_size: u64, keep: u32) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), max_size, keep, open: None };
        log.file()?;
        Ok(log)
    }

    /// From now on under its name again, whatever has become of the file that was written so far.
    pub fn reopen(&mut self) {
        self.open = None;
    }

    /// Appends whole lines, and rotates where the file becomes too large. What is not written leaves nothing in the file.
    ///
    /// # Errors
    ///
    /// If some lines could not be written. All of them up to that are in the file.
    pub fn append<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<(), Unwritten> {
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match self.append_some(rest) {
                Ok(count) => written += count,
                Err(Unwritten { written: some, error }) => {
                    return Err(Unwritten { written: written + some, error });
                }
            }
        }
        Ok(())
    }

    /// Appends as many lines as there is room for before the file has to be rotated, one at least.
    fn append_some<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<usize, Unwritten> {
        let nothing = |error| Unwritten { written: 0, error };
        let mut size = self.size().map_err(nothing)?;
        if self.max_size > 0 && size >= self.max_size {
            self.rotate().map_err(nothing)?;
            size = self.size().map_err(nothing)?;
        }
        let room = if self.max_size > 0 { self.max_size.saturating_sub(size) } else { u64::MAX };
        let mut text = Vec::new();
        let mut ends = Vec::new();
        for line in lines {
            if !text.is_empty() && text.len() as u64 >= room.min(WRITE_AT_ONCE) {
                break;
            }
            text.extend_from_slice(line.as_ref().as_bytes());
            text.push(b'\n');
            ends.push(text.len());
        }
        let file = self.file().map_err(nothing)?;
        let mut done = 0;
        while let Some(rest) = text.get(done..).filter(|rest| !rest.is_empty()) {
            let error = match file.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    done += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            // Half a line is no line. It is ours alone to take back, as it stands behind all that was there.
            let written = ends.iter().take_while(|end| **end <= done).count();
            let whole = written.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0);
            if whole < done
                && let Ok(now) = file.metadata()
                && now.len() >= (done - whole) as u64
            {
                let _ = file.set_len(now.len() - (done - whole) as u64);
            }
            return Err(Unwritten { written, error });
        }
        Ok(ends.len())
    }

    fn size(&mut self) -> io::Result<u64> {
        Ok(self.file()?.metadata()?.len())
    }

    /// The file that has the name now.
    fn file(&mut self) -> io::Result<&mut File> {
        // Whoever rotates by renaming, or has removed the file, wants the next line in another one.
        let is_there = self.open.as_ref().is_some_and(|file| is_named(file, &self.path));
        if !is_there {
            self.open = None;
        }
        match &mut self.open {
            Some(file) => Ok(file),
            none => Ok(none.insert(open(&self.path)?)),
        }
    }

    /// `PATH` becomes `PATH.1`, which becomes `PATH.2`, and so on. Names only ever change at once, so a crash leaves a gap in the
    /// numbers at worst.
    fn rotate(&mut self) -> io::Result<()> {
        if let Some(file) = self.open.take() {
            // What is in a rotated file is on the disk.
            file.sync_all()?;
        }
        for number in (1..self.keep).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        if self.keep > 0 {
            rename(&self.path, &self.numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// So much is handed to the kernel in one call.
const WRITE_AT_ONCE: u64 = 1 << 20;

fn is_named(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}

/// A name that is not there has nothing to be renamed.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        // Without waiting for whoever may be at the other end of a pipe.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => {
                io::Error::other("it is a symbolic link, which is not followed; name the file itself")
            }
            _ => error,
        })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not an ordinary file; name one, or a name that is not taken"));
    }
    if found.nlink() > 1 {
        return Err(io::Error::other("the file has other names (hard links); name a file of its own"));
    }
    // A daemon that was killed while it wrote may have left half a line: it is to spoil no other.
    if found.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
