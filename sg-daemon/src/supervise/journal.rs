//! A candidate on its way to be the policy, in the state directory: what a daemon that starts finishes or undoes.
//!
//! The journal is a directory, `apply`, with the candidate's texts and where they go. As long as it has no file `decided`
//! the policy is the old one, whatever the kernel enforces; with it, the new one. Making that file is the one step between
//! the two. What comes before can be undone by forgetting it, and what comes after can be done again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::install::{Place, absent};
use super::state::{self, Prepared};
use crate::crash::{self, Point};

const NAME: &str = "apply";
const NEW: &str = "apply.new";
const NOTE: &str = "journal.json";
const TEXTS: &str = "files";
const DECIDED: &str = "decided";

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    place: Place,
    /// Within how many seconds the candidate has to be confirmed, if it has to.
    confirm: Option<u64>,
}

/// A journal that is in the state directory.
#[derive(Debug)]
pub struct Journal {
    state_dir: PathBuf,
    note: Note,
}

/// What a daemon that starts has found, and made of it.
#[derive(Debug)]
pub enum Recovered {
    Nothing,
    /// The old policy it is. Whether the new one had waited to be confirmed.
    Undone {
        unconfirmed: bool,
    },
    /// The new policy it is, and it is in the operator's files.
    Finished,
    /// The new policy it is, but the operator's files cannot be replaced.
    Unfinished(Journal, io::Error),
}

impl Journal {
    /// Notes what is about to be done.
    ///
    /// # Errors
    ///
    /// If it cannot be written; nothing is noted then.
    pub fn begin(
        state_dir: &Path,
        place: Place,
        texts: &[impl AsRef<[u8]>],
        confirm: Option<u64>,
    ) -> io::Result<Self> {
        let journal = Self { state_dir: state_dir.to_owned(), note: Note { place, confirm } };
        journal.write(texts).inspect_err(|_| {
            let _ = fs::remove_dir_all(state_dir.join(NEW));
        })?;
        Ok(journal)
    }

    fn write(&self, texts: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let new = self.state_dir.join(NEW);
        absent(fs::remove_dir_all(&new))?;
        let files = new.join(TEXTS);
        fs::create_dir_all(&files)?;
        let mut pending = Vec::with_capacity(4);
        for (number, (name, text)) in self.note.place.names.iter().zip(texts).enumerate() {
            let name = state::copy_name(number, Path::new(name));
            pending.extend(state::put(&files, &name, text.as_ref(), &state::last_good(&self.state_dir))?);
        }
        let mut note = File::create_new(new.join(NOTE))?;
        note.write_all(&serde_json::to_vec(&self.note)?)?;
        pending.extend([note, File::open(&files)?, File::open(&new)?]);
        state::sync(&pending)?;
        crash::at(Point::JournalPrepared);
        fs::rename(&new, self.directory())?;
        crash::at(Point::JournalBegun);
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.state_dir.join(NAME)
    }

    /// The candidate's texts, as policy files by name.
    pub fn files(&self) -> PathBuf {
        self.directory().join(TEXTS)
    }

    fn texts(&self) -> io::Result<Vec<String>> {
        let files = self.files();
        let names = self.note.place.names.iter().enumerate();
        names
            .map(|(number, name)| fs::read_to_string(files.join(state::copy_name(number, Path::new(name)))))
            .collect()
    }

    /// Everything that takes room on a disk, before anything has changed.
    ///
    /// # Errors
    ///
    /// If a disk is full, or may not be written to.
    pub fn stage(&self, texts: &[impl AsRef<[u8]>]) -> io::Result<Prepared> {
        let pending = self.note.place.stage(texts)?;
        crash::at(Point::FilesStaged);
        let names = self.note.place.names.iter().map(Path::new);
        let texts = texts.iter().map(AsRef::as_ref);
        let mut prepared = state::prepare(&self.state_dir, names.zip(texts), Some(&self.files()))?;
        prepared.pending.extend(pending);
        Ok(prepared)
    }

    /// From here on the new policy is the one to start with, and what is `prepared` for it is on the disk.
    ///
    /// # Errors
    ///
    /// If that cannot be noted; the old one still is then.
    pub fn decide(&self, prepared: &mut Prepared) -> io::Result<()> {
        let decided = self.directory().join(DECIDED);
        let noted = File::create_new(&decided).and_then(|file| {
            // Without the journal's name in the state directory the decision is none.
            let mut pending = std::mem::take(&mut prepared.pending);
            pending.extend([file, File::open(self.directory())?, File::open(&self.state_dir)?]);
            state::sync(&pending)
        });
        if noted.is_err() {
            let _ = fs::remove_file(&decided);
        } else {
            crash::at(Point::Decided);
        }
        noted
    }

    /// What follows the decision: the copy and the operator's files. Without `prepared`, as [`Self::stage`] makes it, both
    /// are made anew.
    ///
    /// # Errors
    ///
    /// If a file cannot be written. This can be done again, without `prepared`.
    pub fn finish(&self, prepared: Option<Prepared>) -> io::Result<()> {
        match prepared {
            Some(prepared) => prepared.commit()?,
            None => self.stage(&self.texts()?)?.commit()?,
        }
        crash::at(Point::CopyKept);
        self.note.place.replace()?;
        self.end()
    }

    /// Forgets a candidate that is not decided upon.
    ///
    /// # Errors
    ///
    /// If the journal stays; it is undone at the next start then.
    pub fn undo(&self) -> io::Result<()> {
        self.note.place.unstage();
        self.end()
    }

    fn end(&self) -> io::Result<()> {
        // A journal is there whole or not at all.
        let gone = self.state_dir.join(NEW);
        absent(fs::remove_dir_all(&gone))?;
        fs::rename(self.directory(), &gone)?;
        crash::at(Point::JournalEnded);
        fs::remove_dir_all(&gone)?;
        File::open(&self.state_dir)?.sync_all()?;
        crash::at(Point::JournalRemoved);
        Ok(())
    }
}

/// Finishes or undoes what the daemon before was at.
///
/// # Errors
///
/// If a journal that is there cannot be read or removed.
pub fn recover(state_dir: &Path) -> io::Result<Recovered> {
    absent(fs::remove_dir_all(state_dir.join(NEW)))?;
    let note = match fs::read(state_dir.join(NAME).join(NOTE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recovered::Nothing),
        note => serde_json::from_slice(&note?)?,
    };
    let journal = Journal { state_dir: state_dir.to_owned(), note };
    if !journal.directory().join(DECIDED).exists() {
        let unconfirmed = journal.note.confirm.is_some();
        journal.undo()?;
        return Ok(Recovered::Undone { unconfirmed });
    }
    Ok(match journal.finish(None) {
        Ok(()) => Recovered::Finished,
        Err(error) => Recovered::Unfinished(journal, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state directory and a policy file.
    fn site() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (state, file) = (dir.path().join("state"), dir.path().join("p.json"));
        fs::create_dir(&state).unwrap();
        fs::write(&file, "old").unwrap();
        (dir, state, file)
    }

    fn begun(state: &Path, file: &Path, confirm: Option<u64>) -> (Journal, Vec<String>) {
        let place = Place::of(&[file.to_owned()], &[PathBuf::from("new.json")]).unwrap();
        let texts = vec!["new".to_owned()];
        (Journal::begin(state, place, &texts, confirm).unwrap(), texts)
    }

    fn names(of: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(of).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn spec_d21_what_is_not_decided_is_undone_and_what_is_decided_is_finished() {
        for confirm in [None, Some(60)] {
            let (dir, state, file) = site();
            let (journal, texts) = begun(&state, &file, confirm);
            journal.stage(&texts).unwrap();
            drop(journal);
            let unconfirmed = confirm.is_some();
            assert!(
                matches!(recover(&state).unwrap(), Recovered::Undone { unconfirmed: found } if found == unconfirmed)
            );
            assert_eq!(fs::read_to_string(&file).unwrap(), "old");
            assert_eq!(names(dir.path()), ["p.json", "state"], "nothing is left");
            assert!(matches!(recover(&state).unwrap(), Recovered::Nothing));
        }
        let (dir, state, file) = site();
        let (journal, texts) = begun(&state, &file, None);
        journal.decide(&mut journal.stage(&texts).unwrap()).unwrap();
        drop(journal);
        assert!(matches!(recover(&state).unwrap(), Recovered::Finished));
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(names(dir.path()), ["p.json", "state"]);
        assert_eq!(names(&state), ["last-good"]);
        assert_eq!(names(&state::last_good(&state)), ["000000-p.json"]);
    }

    #[test]
    fn spec_d21_an_edit_that_is_decided_is_finished_with_the_whole_policy_in_the_copy() {
        let (dir, state, file) = site();
        let other = dir.path().join("q.json");
        fs::write(&other, "other").unwrap();
        let place = Place::of_edit(&[file.clone(), other.clone()], &[0]).unwrap();
        let texts = ["\u{feff}new".to_owned(), "other".to_owned()];
        for decided in [false, true] {
            let journal = Journal::begin(&state, place.clone(), &texts, None).unwrap();
            let mut prepared = journal.stage(&texts).unwrap();
            if decided {
                journal.decide(&mut prepared).unwrap();
            }
            drop((journal, prepared));
            // Somebody changes the other file meanwhile: that is theirs.
            fs::write(&other, "theirs").unwrap();
            let recovered = recover(&state).unwrap();
            assert_eq!(matches!(recovered, Recovered::Finished), decided, "{recovered:?}");
            let wanted = if decided { "\u{feff}new" } else { "old" };
            assert_eq!(fs::read_to_string(&file).unwrap(), wanted);
            assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
            assert_eq!(names(dir.path()), ["p.json", "q.json", "state"]);
        }
        assert_eq!(names(&state::last_good(&state)), ["000000-p.json", "000001-q.json"]);
    }

    #[test]
    fn what_cannot_be_finished_is_kept_and_tried_again() {
        let (dir, state, file) = site();
        let (journal, texts) = begun(&state, &file, None);
        journal.decide(&mut journal.stage(&texts).unwrap()).unwrap();
        fs::remove_file(&file).unwrap();
        // Something that a file cannot take the place of.
        fs::create_dir_all(file.join("in the way")).unwrap();
        let Recovered::Unfinished(journal, _) = recover(&state).unwrap() else { panic!() };
        assert_eq!(fs::read_to_string(journal.files().join("000000-p.json")).unwrap(), "new");
        fs::remove_dir_all(&file).unwrap();
        journal.finish(None).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(names(dir.path()), ["p.json", "state"]);
    }
}
