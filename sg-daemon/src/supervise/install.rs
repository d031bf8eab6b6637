//! The operator's policy files, replaced by a candidate's.
//!
//! New texts are written beside the old ones first, so that a full disk or a read-only file system is known of before
//! anything changes. Every step can be taken again after a crash.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate};
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::linkat;
use serde::{Deserialize, Serialize};

use super::spare::{self, Beside, LARGE, Loan, Seen, Spare};
use crate::crash::{self, Point};
use crate::policy::{Text, is_policy_name};

/// Why a candidate cannot take the place of the daemon's own files.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "sgd reads its policy from {count} paths, so it is not clear which files the candidate takes the place of; \
         change those files, and run `sgctl apply` without a path"
    )]
    SeveralPaths { count: usize },
    #[error("sgd reads its policy from one file, {}, and the candidate has {found}; put all into one file", .path.display())]
    OneFile { path: PathBuf, found: usize },
    #[error(
        "{name:?} cannot be a file of the policy directory: names end in \".json\" and begin with no dot; rename it"
    )]
    Name { name: String },
    #[error(
        "two files of the candidate are called {name:?}; in the policy directory there can be only one; rename it"
    )]
    NameTwice { name: String },
    #[error("{} is a symbolic link, and sgd replaces no links in its policy directory; put the file itself there", .path.display())]
    Link { path: PathBuf },
    #[error(
        "the edits are of files in several directories, and cannot be made at once ({} is in another one than the first); \
         make them one after the other", .path.display()
    )]
    SeveralDirectories { path: PathBuf },
    #[error("cannot look at {}: {error}; it has to exist before a candidate can take its place", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Where a candidate's files go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Free of links.
    directory: PathBuf,
    /// One for each text.
    pub names: Vec<String>,
    /// Whether the other policies of the directory go.
    alone: bool,
    /// Those of `names`, by place, that stay as they are.
    #[serde(default)]
    kept: BTreeSet<usize>,
}

/// Takes the room that a new file needs. Without that ext4 looks for it when the file gets the name of another one, and writes the text
/// at once (`auto_da_alloc`, Documentation/admin-guide/ext4.rst), for which whoever renames it would wait.
fn with_room(file: &File, bytes: usize) -> io::Result<()> {
    take_room(file, FallocateFlags::empty(), bytes).map(drop)
}

/// Whether there is room now.
pub(super) fn take_room(file: &File, flags: FallocateFlags, bytes: usize) -> io::Result<bool> {
    let Ok(length @ 1..) = libc::off_t::try_from(bytes) else { return Ok(false) };
    match fallocate(file, flags, 0, length) {
        Ok(()) => Ok(true),
        // The file system cannot do it, and nothing is lost.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes what a daemon that died has left beside the policy files.
pub fn remove_staged(paths: &[PathBuf]) {
    let whole = |path: &PathBuf| path.canonicalize().ok();
    for path in paths.iter().filter_map(whole) {
        let Ok(entries) = path.read_dir() else {
            remove_beside(&path);
            continue;
        };
        for entry in entries.flatten() {
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if is_link && is_policy_name(&entry.file_name()) {
                whole(&entry.path()).iter().for_each(|target| remove_beside(target));
            }
            let name = entry.file_name();
            let staged = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(STAGED));
            if staged.is_some_and(|name| is_policy_name(OsStr::new(name))) {
                remove(&entry.path());
            }
        }
    }
}

fn remove_beside(path: &Path) {
    if let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) {
        remove(&beside(directory, name));
    }
}

fn remove(path: &Path) {
    if let Err(error) = absent(fs::remove_file(path)) {
        tracing::warn!(%error, "{} stays", path.display());
    }
}

const STAGED: &str = ".sgd-new";

/// Hidden, and no policy by its name: who reads the directory meanwhile passes over it.
fn beside(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}{STAGED}"))
}

impl Place {
    /// Where files of these names go, if `--policy` is given as `paths`.
    ///
    /// # Errors
    ///
    /// If that is not clear, or not possible.
    pub fn of(paths: &[PathBuf], candidate: &[PathBuf]) -> Result<Self, PlaceError> {
        let [path] = paths else { return Err(PlaceError::SeveralPaths { count: paths.len() }) };
        let failed = |error| PlaceError::Io { path: path.clone(), error };
        let path = path.canonicalize().map_err(failed)?;
        if !path.is_dir() {
            if candidate.len() != 1 {
                return Err(PlaceError::OneFile { path, found: candidate.len() });
            }
            let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
            else {
                return Err(failed(io::Error::other("not a name in UTF-8")));
            };
            return Ok(Self {
                directory: directory.to_owned(),
                names: vec![name.to_owned()],
                alone: false,
                kept: BTreeSet::new(),
            });
        }
        let mut names = Vec::with_capacity(candidate.len());
        let mut seen = BTreeSet::new();
        for file in candidate {
            let shown = || file.display().to_string();
            let name = file.file_name().filter(|name| is_policy_name(name));
            let name = name.and_then(OsStr::to_str).ok_or_else(|| PlaceError::Name { name: shown() })?;
            if !seen.insert(name) {
                return Err(PlaceError::NameTwice { name: name.to_owned() });
            }
            names.push(name.to_owned());
        }
        let place = Self { directory: path.clone(), names, alone: true, kept: BTreeSet::new() };
        for there in place.there().map_err(failed)? {
            if there.is_symlink() {
                return Err(PlaceError::Link { path: there });
            }
        }
        Ok(place)
    }

    /// Where edited files go: in their own place, behind links, while the others stay. `edited` are places in `files`.
    ///
    /// # Errors
    ///
    /// If they are in several directories, of which no one rename makes one.
    pub fn of_edit(files: &[PathBuf], edited: &[usize]) -> Result<Self, PlaceError> {
        let mut directory: Option<PathBuf> = None;
        let mut names = Vec::with_capacity(files.len());
        let mut kept = BTreeSet::new();
        for (index, path) in files.iter().enumerate() {
            let failed = |error| PlaceError::Io { path: path.clone(), error };
            let whole = path.canonicalize().map_err(failed)?;
            let (Some(parent), Some(name)) = (whole.parent(), whole.file_name().and_then(OsStr::to_str))
            else {
                return Err(failed(io::Error::other("not a name in UTF-8")));
            };
            names.push(name.to_owned());
            if !edited.contains(&index) {
                kept.insert(index);
            } else if *directory.get_or_insert_with(|| parent.to_owned()) != parent {
                return Err(PlaceError::SeveralDirectories { path: path.clone() });
            }
        }
        let nothing = || PlaceError::OneFile { path: PathBuf::new(), found: 0 };
        Ok(Self { directory: directory.ok_or_else(nothing)?, names, alone: false, kept })
    }

    /// The names of the files that are replaced, by their place.
    pub fn replaced(&self) -> impl Iterator<Item = (usize, &String)> {
        self.names.iter().enumerate().filter(|(index, _)| !self.kept.contains(index))
    }

    /// The policies that the directory has now.
    fn there(&self) -> io::Result<Vec<PathBuf>> {
        let mut there = Vec::new();
        for entry in self.directory.read_dir()? {
            let entry = entry?;
            if is_policy_name(&entry.file_name()) && !entry.path().is_dir() {
                there.push(entry.path());
            }
        }
        Ok(there)
    }

    fn beside(&self, name: &str) -> PathBuf {
        beside(&self.directory, name)
    }

    /// Writes the new texts beside the old ones, with mode and owner of those. Returned is what has to be on the disk before
    /// [`Self::replace`], and may not be yet.
    ///
    /// # Errors
    ///
    /// If one cannot be written; the policy is as it was.
    pub fn stage(&self, texts: &[impl AsRef<[u8]>]) -> io::Result<Vec<File>> {
        let mut pending = Vec::with_capacity(1);
        for (index, name) in self.replaced() {
            let text = texts.get(index).ok_or_else(|| io::Error::other("a text is missing"))?;
            let beside = self.beside(name);
            absent(fs::remove_file(&beside))?;
            let mut file = File::options().write(true).create_new(true).mode(0o644).open(&beside)?;
            file.write_all(text.as_ref())?;
            owned_as(&self.directory.join(name), &file)?;
            pending.push(file);
        }
        Ok(pending)
    }

    /// The text of the only file that is replaced, in a file that has no name yet, so nothing is left of it after a crash. With a spare
    /// file that has room for it, it is written there when it is to have its name. `None` if several are replaced, or the file system knows no files
    /// without names.
    ///
    /// # Errors
    ///
    /// If it cannot be written; the policy is as it was.
    pub fn stage_alone(&self, texts: &[Text], spare: Option<Spare>) -> io::Result<Option<Staged>> {
        let mut replaced = self.replaced();
        let (Some((index, name)), None) = (replaced.next(), replaced.next()) else { return Ok(None) };
        let text = texts.get(index).ok_or_else(|| io::Error::other("a text is missing"))?;
        let (beside, target) = (self.beside(name), self.directory.join(name));
        let lent = spare.and_then(|spare| Some((spare.lend(&target, text)?, spare)));
        let staged = match lent {
            Some((loan, Spare { beside: named, file, text: before, room, .. })) => {
                let unwritten = Some((before, text.clone()));
                Staged { named, loan, file, room, unwritten, beside, target }
            }
            None => {
                let Some(file) = self.unnamed()? else { return Ok(None) };
                let large = Some(&file).filter(|_| text.file_len() >= LARGE);
                let room = match large.and_then(|file| spare::make_room(file, text)) {
                    Some(room) => room,
                    None => {
                        with_room(&file, text.file_len())?;
                        text.file_len()
                    }
                };
                text.write_from(&file, 0)?;
                owned_as(&target, &file)?;
                let file = Arc::new(file);
                Staged { named: None, loan: None, file, room, unwritten: None, beside, target }
            }
        };
        crash::at(Point::EditStaged);
        Ok(Some(staged))
    }

    /// `None` if the file system knows no files without names.
    fn unnamed(&self) -> io::Result<Option<File>> {
        let mut unnamed = File::options();
        unnamed.read(true).write(true).mode(0o644).custom_flags(OFlag::O_TMPFILE.bits());
        match unnamed.open(&self.directory) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) =>
            {
                Ok(None)
            }
            file => file.map(Some),
        }
    }

    /// A spare file for an edit that follows `text`. `None` if that is written as fast without one, or cannot be had.
    pub fn spare(&self, text: &Text) -> Option<Spare> {
        let target = self.first().filter(|_| text.file_len() >= LARGE)?;
        Spare::unnamed(self.unnamed().ok()??, target, text)
    }

    /// The first of the files that are replaced.
    pub fn first(&self) -> Option<PathBuf> {
        self.replaced().next().map(|(_, name)| self.directory.join(name))
    }

    /// What is of it, of what is of all files.
    pub fn first_of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        self.replaced().next().and_then(|(index, _)| all.get(index))
    }

    /// What the first of the files that are replaced says.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn first_text(&self) -> io::Result<Vec<u8>> {
        fs::read(self.first().ok_or_else(|| io::Error::other("no file is replaced"))?)
    }

    /// Waits until what was renamed is on the disk.
    ///
    /// # Errors
    ///
    /// If it cannot be brought there.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Takes back [`Self::stage`], as far as it came.
    pub fn unstage(&self) {
        self.replaced().for_each(|(_, name)| remove(&self.beside(name)));
    }

    /// Puts the staged texts in the place of the old ones, and removes those that the candidate does not have.
    ///
    /// # Errors
    ///
    /// If a file cannot be replaced or removed; some may be by then. [`Self::stage`] and this can be done again.
    pub fn replace(&self) -> io::Result<()> {
        for (number, (_, name)) in self.replaced().enumerate() {
            fs::rename(self.beside(name), self.directory.join(name))?;
            if number == 0 {
                crash::at(Point::FirstFileReplaced);
            }
        }
        crash::at(Point::FilesReplaced);
        if self.alone {
            let ours = |path: &Path| {
                path.file_name().is_some_and(|name| self.names.iter().any(|ours| name == ours.as_str()))
            };
            for there in self.there()?.iter().filter(|path| !ours(path)) {
                absent(fs::remove_file(there))?;
            }
        }
        self.sync()?;
        crash::at(Point::FilesRemoved);
        Ok(())
    }
}

/// Gives a new file mode and owner of the one that it is to replace.
pub(super) fn owned_as(target: &Path, file: &File) -> io::Result<()> {
    let Ok(old) = fs::metadata(target) else { return Ok(()) };
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    if made.mode() == old.mode() { Ok(()) } else { file.set_permissions(old.permissions()) }
}

/// A file that was put in its place.
#[derive(Debug)]
pub struct Placed {
    pub file: Arc<File>,
    /// So many bytes have their place on the disk.
    pub room: usize,
    pub old: Old,
    /// What the system says of the new one, if whatever happens to it from now on shows in that.
    pub now: Option<Metadata>,
}

/// What was there before.
#[derive(Debug)]
pub enum Old {
    /// It has no name any more, and its memory goes with this, if it could be opened.
    Gone(Option<File>),
    /// It has the other one's name.
    Beside(Beside),
}

/// A text that is to take the place of a file.
#[derive(Debug)]
pub struct Staged {
    /// The name that the file has already.
    named: Option<Beside>,
    loan: Option<Loan>,
    file: Arc<File>,
    room: usize,
    /// What the file says, and what it is to say.
    unwritten: Option<(Text, Text)>,
    beside: PathBuf,
    target: PathBuf,
}

/// The same in its place but for the last step.
#[derive(Debug)]
pub struct Named {
    file: Arc<File>,
    room: usize,
    /// Before it had a name.
    staged: Metadata,
    beside: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Writes what is not written yet, and puts it beside the file. What the operator's place has after a crash may be written to here: not
    /// before it is decided upon that it says this.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or have a name there.
    pub fn name(self) -> io::Result<Named> {
        let Self { named, loan, file, room, unwritten, beside, target } = self;
        if let Some((before, text)) = &unwritten {
            spare::write_edit(&file, before, text)?;
            owned_as(&target, &file)?;
        }
        drop(loan);
        let staged = file.metadata()?;
        match named {
            Some(named) => named.keep()?,
            None => {
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                let name =
                    || linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, &beside, AtFlags::AT_SYMLINK_FOLLOW);
                match name() {
                    // Of one that was replaced, or halfway.
                    Err(Errno::EEXIST) => {
                        absent(fs::remove_file(&beside))?;
                        name()?;
                    }
                    named => named?,
                }
            }
        }
        crash::at(Point::EditNamed);
        Ok(Named { file, room, staged, beside, target })
    }
}

impl Named {
    /// Puts it there; it may not be on the disk then.
    ///
    /// # Errors
    ///
    /// If the file cannot be replaced; it is as it was.
    pub fn replace(self) -> io::Result<Placed> {
        let Self { file, room, staged, beside, target } = self;
        // From here on it has another time when it is changed: see `coarse`.
        let _ = file.metadata();
        let is_large = staged.len() >= LARGE as u64;
        let exchanged = is_large.then(|| Beside::exchange(&beside, &target)).flatten();
        let old = match exchanged {
            Some(beside) => Old::Beside(beside),
            None => {
                let old = File::open(&target).ok();
                fs::rename(&beside, &target).inspect_err(|_| drop(fs::remove_file(&beside)))?;
                Old::Gone(old)
            }
        };
        crash::at(Point::EditPlaced);
        let now = seen_now(&file, &staged);
        Ok(Placed { file, room, old, now })
    }
}

/// What the system says of a file, if whatever happens to it from now on shows in that. `staged` is what it said when the text was written.
fn seen_now(file: &File, staged: &Metadata) -> Option<Metadata> {
    // When a tick has just begun a time is no finer than that, for once.
    const ATTEMPTS: usize = 3;
    for attempt in 1..=ATTEMPTS {
        let now = file.metadata().ok().filter(|now| Seen::of(now) == Seen::of(staged))?;
        if coarse().is_some_and(|tick| (now.ctime(), now.ctime_nsec()) > tick) {
            return Some(now);
        }
        if attempt < ATTEMPTS {
            // Nothing changes but the time of the change.
            fchown(file, None, None).ok()?;
        }
    }
    None
}

/// The kernel's clock in steps of its ticks, which file systems go by. But since Linux 6.13 some give a file that somebody has looked at since
/// it was changed last a finer time when it is changed again: that is later than this clock's, and another one each time.
fn coarse() -> Option<(i64, i64)> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok()?;
    Some((now.tv_sec(), now.tv_nsec()))
}

/// That there was nothing to remove is fine.
pub fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_directory_has_the_candidates_files_and_no_other_policy() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.json", "b.json", "notes.txt", ".hidden.json"] {
            fs::write(dir.path().join(name), "old").unwrap();
        }
        let own = [dir.path().to_owned()];
        let place = Place::of(&own, &paths(&["/tmp/x/b.json", "c.json"])).unwrap();
        place.stage(&["B".to_owned(), "C".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b.json")).unwrap(), "old");
        place.unstage();
        assert_eq!(names(dir.path()), [".hidden.json", "a.json", "b.json", "notes.txt"]);
        // Twice, as after a crash.
        for _ in 0..2 {
            place.stage(&["B".to_owned(), "C".to_owned()]).unwrap();
            place.replace().unwrap();
            assert_eq!(names(dir.path()), [".hidden.json", "b.json", "c.json", "notes.txt"]);
            assert_eq!(fs::read_to_string(dir.path().join("b.json")).unwrap(), "B");
        }
    }

    #[test]
    fn an_edit_replaces_its_file_alone_behind_its_link_and_wherever_the_others_are() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        for directory in [&here, &there] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("p.json"), "old").unwrap();
        }
        let link = here.join("link.json");
        symlink("../there/p.json", &link).unwrap();
        let files = [here.join("p.json"), link.clone()];
        let place = Place::of_edit(&files, &[1]).unwrap();
        assert_eq!(place.names, ["p.json", "p.json"]);
        // Twice, as after a crash.
        for _ in 0..2 {
            place.stage(&["not this".to_owned(), "new".to_owned()]).unwrap();
            place.replace().unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read_to_string(there.join("p.json")).unwrap(), "new");
            assert_eq!(fs::read_to_string(here.join("p.json")).unwrap(), "old");
            assert_eq!(
                (names(&here), names(&there)),
                (vec!["link.json".to_owned(), "p.json".to_owned()], vec!["p.json".to_owned()])
            );
        }
        place.stage(&["not this".to_owned(), "newer".to_owned()]).unwrap();
        place.unstage();
        assert_eq!(names(&there), ["p.json"]);
        let both = Place::of_edit(&files, &[0, 1]).unwrap_err().to_string();
        assert!(both.contains("in several directories") && both.contains("link.json"), "{both}");
    }

    #[test]
    fn a_file_is_replaced_behind_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("real.json"), "old").unwrap();
        let link = dir.path().join("policy.json");
        symlink("target/real.json", &link).unwrap();
        let place = Place::of(std::slice::from_ref(&link), &paths(&["new.json"])).unwrap();
        place.stage(&["new".to_owned()]).unwrap();
        place.replace().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(target.join("real.json")).unwrap(), "new");
        assert_eq!(names(&target), ["real.json"]);
    }

    #[test]
    fn what_a_daemon_that_died_has_left_beside_the_files_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (policies, elsewhere) = (dir.path().join("policies"), dir.path().join("elsewhere"));
        for directory in [&policies, &elsewhere] {
            fs::create_dir(directory).unwrap();
            for name in ["p.json", ".p.json.sgd-new", ".q.json.sgd-new", ".notes.sgd-new", "r.json.sgd-new"] {
                fs::write(directory.join(name), "").unwrap();
            }
        }
        symlink("../elsewhere/p.json", policies.join("link.json")).unwrap();
        remove_staged(&[policies.clone(), dir.path().join("none")]);
        assert_eq!(names(&policies), [".notes.sgd-new", "link.json", "p.json", "r.json.sgd-new"]);
        assert_eq!(names(&elsewhere), [".notes.sgd-new", ".q.json.sgd-new", "p.json", "r.json.sgd-new"]);
        fs::write(elsewhere.join(".p.json.sgd-new"), "").unwrap();
        remove_staged(&[policies.join("link.json")]);
        assert_eq!(names(&elsewhere), [".notes.sgd-new", ".q.json.sgd-new", "p.json", "r.json.sgd-new"]);
    }

    #[test]
    fn what_is_not_clear_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.json");
        fs::write(&file, "").unwrap();
        let own = [dir.path().to_owned()];
        let refused =
            |own: &[PathBuf], candidate: &[&str]| Place::of(own, &paths(candidate)).unwrap_err().to_string();
        assert!(refused(&[file.clone(), dir.path().to_owned()], &["a.json"]).contains("from 2 paths"));
        assert!(refused(&[file], &["a.json", "b.json"]).contains("the candidate has 2"));
        assert!(
            refused(&own, &["x/a.json", "y/a.json"])
                .contains("two files of the candidate are called \"a.json\"")
        );
        assert!(refused(&own, &["a.txt"]).contains("\"a.txt\" cannot be"));
        assert!(refused(&own, &[".a.json"]).contains("cannot be"));
        assert!(refused(&[dir.path().join("none")], &["a.json"]).contains("has to exist"));
        symlink("p.json", dir.path().join("link.json")).unwrap();
        assert!(refused(&own, &["a.json"]).contains("link.json is a symbolic link"));
    }
}
