//! A file for the next edit of a large policy file, which says what that says.
//!
//! An edit has to put into it what it changes and what is behind that, and nothing else: the text of a hundred thousand peers
//! takes longer to write than all else that is done for one. While there are edits, two files take turns: the one that an edit has
//! replaced is beside the operator's, with a hidden name, until the next edit puts it back. When there were none for a while that
//! name goes, and the next spare file has none.
//!
//! Nobody who reads the operator's file may see it change: what was replaced is used again only if nobody has it open, has linked
//! to it, or has written to it. After a crash the operator's place may have either of the two, with parts of what they were to
//! say: see `edits`.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, renameat2};
use nix::libc;

use super::install::{owned_as, take_room};
use crate::policy::Text;

/// From so many bytes on a spare file is worth while.
pub const LARGE: usize = 64 << 10;
/// By so much a few edits make a file longer.
const LONGER: usize = 16 << 10;

/// See above.
#[derive(Debug)]
pub struct Spare {
    /// The name that it has, if it has one. It goes while the file is open: until then nobody else's has its inode.
    pub beside: Option<Beside>,
    pub file: Arc<File>,
    /// What it says.
    pub text: Text,
    /// The operator's file that it is for.
    pub target: PathBuf,
    /// So many bytes have their place on the disk already.
    pub room: usize,
    /// If it has a name, what the system said of it when it said nothing but that, if whatever was written to it since shows.
    pub known: Option<Seen>,
}

impl Spare {
    /// Without a name. `None` if it cannot be had.
    pub fn unnamed(file: File, target: PathBuf, text: &Text) -> Option<Self> {
        let room = make_room(&file, text)?;
        text.write_from(&file, 0).and_then(|()| owned_as(&target, &file)).ok()?;
        let (file, text) = (Arc::new(file), text.clone());
        Some(Self { file, text, target, room, beside: None, known: None })
    }

    /// Whether this text can be put into it for that place, without anybody seeing it who should not. With a name, it is on loan as long
    /// as what is returned is there.
    pub fn lend(&self, target: &Path, text: &Text) -> Option<Option<Loan>> {
        let fits =
            self.target == *target && self.text.has_bom() == text.has_bom() && text.file_len() <= self.room;
        let Some(beside) = &self.beside else { return fits.then_some(None) };
        let file = beside.look().filter(|file| file.nlink() == 1 && self.known == Some(Seen::of(file)))?;
        let whose = |file: &Metadata| (file.mode(), file.uid(), file.gid());
        let is_as_there = fs::metadata(target).is_ok_and(|there| whose(&there) == whose(&file));
        (fits && is_as_there && !has_list(&self.file)).then(|| Loan::of(&self.file)).flatten().map(Some)
    }

    /// Makes sure that one with a name says what it should, and can be used. Returns whether it can.
    pub fn look_over(&mut self) -> bool {
        let Some(_loan) = Loan::of(&self.file).filter(|_| !has_list(&self.file)) else { return false };
        if self.known.is_none() {
            self.room = make_room(&self.file, &self.text).unwrap_or(0);
            let seen = self.file.metadata().map(|file| Seen::of(&file));
            // Somebody may have written to it just before it was replaced.
            self.known = seen.ok().filter(|_| self.text.is_in(&self.file).unwrap_or(false));
        }
        self.known.is_some()
    }
}

/// Takes room on the disk for a text and some more; returns how many bytes there is room for. `None` if it cannot be taken.
pub fn make_room(file: &File, text: &Text) -> Option<usize> {
    let room = text.file_len() + LONGER;
    take_room(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, room).ok()?.then_some(room)
}

/// Makes a file that says what `before` says say what `text` says.
pub fn write_edit(file: &File, before: &Text, text: &Text) -> io::Result<()> {
    let change = text.change(before);
    if text.file_len() == before.file_len() {
        text.write_range(file, change)?;
    } else {
        text.write_from(file, change.start)?;
    }
    if text.file_len() < before.file_len() {
        file.set_len(text.file_len() as u64)?;
    }
    Ok(())
}

/// A name beside an operator's file. Dropped, it goes, if it still is this file's.
#[derive(Debug)]
pub struct Beside {
    /// None when others look after it.
    path: Option<PathBuf>,
    inode: (u64, u64),
}

impl Beside {
    /// Gives what is at `target` the name of another file, and that the place of it. `None` if it cannot be done.
    pub fn exchange(beside: &Path, target: &Path) -> Option<Self> {
        let inode = fs::symlink_metadata(target).ok().filter(Metadata::is_file).map(|file| inode(&file))?;
        renameat2(AT_FDCWD, beside, AT_FDCWD, target, RenameFlags::RENAME_EXCHANGE).ok()?;
        Some(Self { path: Some(beside.to_owned()), inode })
    }

    /// Whether this is the file's.
    pub fn is_of(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|file| inode(&file) == self.inode)
    }

    /// The file of this name, to be read and written. It is not waited for.
    pub fn open(&self) -> Option<File> {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(self.path.as_ref()?).ok()?;
        self.is_of(&file).then_some(file)
    }

    fn look(&self) -> Option<Metadata> {
        let file = fs::symlink_metadata(self.path.as_ref()?).ok()?;
        (inode(&file) == self.inode).then_some(file)
    }

    /// From here on others look after the name.
    ///
    /// # Errors
    ///
    /// If the file does not have it any more.
    pub fn keep(mut self) -> io::Result<()> {
        if self.look().is_none() {
            return Err(io::Error::other("somebody else has removed what was written beside it"));
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(path) = self.path.as_ref().filter(|_| self.look().is_some()) {
            // What cannot be removed is when the daemon starts.
            let _ = fs::remove_file(path);
        }
    }
}

/// What the system says of a file, but for its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    inode: (u64, u64),
    modified: (i64, i64),
    length: u64,
}

impl Seen {
    pub fn of(file: &Metadata) -> Self {
        let modified = (file.mtime(), file.mtime_nsec());
        Self { inode: inode(file), modified, length: file.len() }
    }
}

fn inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whether more than its mode says who may read it: what is given to one file is not given to the other.
fn has_list(file: &File) -> bool {
    let name = c"system.posix_acl_access";
    // SAFETY: the call takes a descriptor, which is open, a name that ends with a zero, and no buffer.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) };
    length >= 0 || !matches!(Errno::last(), Errno::ENODATA | Errno::EOPNOTSUPP)
}

/// A file that nobody else has open, and that whoever opens waits for: a write lease (man 2 fcntl).
#[derive(Debug)]
pub struct Loan(Arc<File>);

impl Loan {
    /// `None` if somebody has it open, or files of its owner or file system have no leases.
    fn of(file: &Arc<File>) -> Option<Self> {
        /// include/uapi/asm-generic/fcntl.h; the crate does not know it.
        const F_SETSIG: libc::c_int = 10;
        // Who is waited for is told so by a signal. By default this one is ignored; the usual one would end the process.
        control(file, F_SETSIG, libc::SIGURG).ok()?;
        control(file, libc::F_SETLEASE, libc::F_WRLCK).ok()?;
        Some(Self(Arc::clone(file)))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // If it cannot be given back it is gone.
        let _ = control(&self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take a descriptor, which is open, and a number.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) })?;
    Ok(())
}
