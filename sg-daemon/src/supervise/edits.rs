//! Edits since the last good copy was made: a line each, in a file beside the copy's texts.
//!
//! An edit changes one place of one file, and is answered when it is sure to be the policy after a crash, too. A copy of every
//! text and a file of the operator's on the disk would take longer than all else that is done for it, so what is waited for
//! is one line. It is written after the step that packets see, and is what decides: without it a daemon that starts takes
//! the policy before, with it the one after. Then the operator's file is replaced by a rename, before anybody is answered; when
//! that is on the disk, a second line says so.
//!
//! The file of lines is in the directory of the copy, and so goes with it, in one step, when another copy takes its place.
//! A daemon that starts makes a new copy of a copy with edits, and looks whether the last edits are in the operator's file: what
//! it says may be older, or torn, if the power went before the rename was on the disk. Anything else is the operator's.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::install::{Place, Spare, absent};
use super::journal::Journal;
use super::state;
use crate::crash::{self, Point};
use crate::policy::{Splice, Text, is_policy_name};

const NAME: &str = "edits";
/// So many bytes are on the disk before the first line is, so that a line takes no room and changes no size.
const ROOM: usize = 128 << 10;
const BOM: &str = "\u{feff}";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Edit(Edit),
    /// The operator's file with so many edits in it is on the disk.
    Placed(usize),
}

/// Text that takes the place of `start..end` of a file, counted without its byte order mark.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Edit {
    place: Place,
    bom: bool,
    start: usize,
    end: usize,
    insert: String,
}

impl Line {
    fn encode(&self) -> io::Result<String> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:016x} {json}\n", checksum(json.as_bytes())))
    }

    /// `None` for what was not written to its end.
    fn decode(line: &[u8]) -> Option<Self> {
        let (sum, json) = line.split_at_checked(16)?;
        let json = json.strip_prefix(b" ")?;
        let sum = u64::from_str_radix(str::from_utf8(sum).ok()?, 16).ok()?;
        if sum != checksum(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

/// FNV-1a: the same in every build of the daemon.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// What the last good copy says, as far as this daemon knows. Clones are of the same one.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// With the edits in them.
    texts: Option<Vec<Text>>,
    lines: Option<Lines>,
    /// What was put in place, and may not be on the disk yet.
    unplaced: Option<Unplaced>,
    /// Files that others were put in the place of: to take a large one apart takes a while.
    gone: Vec<File>,
    /// For the next edit of the file that was edited last.
    spare: Option<Spare>,
}

#[derive(Debug)]
struct Lines {
    file: Arc<File>,
    end: usize,
    edits: usize,
}

#[derive(Debug, Clone)]
struct Unplaced {
    place: Place,
    file: Arc<File>,
    /// Where it is noted, as which edit.
    lines: Arc<File>,
    edits: usize,
}

/// An edit that may be noted.
#[derive(Debug)]
pub struct Noting {
    line: String,
    texts: Vec<Text>,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of these texts was made.
    pub fn is_now(&self, texts: Vec<Text>) {
        *self.lock() = State { texts: Some(texts), ..State::default() };
    }

    /// Another copy is about to be made.
    pub fn forget(&self) {
        *self.lock() = State::default();
    }

    /// Whether the copy says this.
    pub fn says(&self, texts: &[Text]) -> bool {
        self.lock().texts.as_ref().is_some_and(|kept| kept.as_slice() == texts)
    }

    /// Gets ready to note that one of the files `before` was edited. `None` if it cannot be noted in a line.
    ///
    /// # Errors
    ///
    /// If there is no room for lines, or what was edited before is not on the disk and cannot be brought there.
    pub fn prepare(
        &self,
        state_dir: &Path,
        place: &Place,
        (before, texts): (&[Text], &[Text]),
    ) -> io::Result<Option<Noting>> {
        let mut replaced = place.replaced().map(|(index, _)| index);
        let (Some(index), None) = (replaced.next(), replaced.next()) else { return Ok(None) };
        let (Some(old), Some(new)) = (before.get(index), texts.get(index)) else { return Ok(None) };
        if !self.says(before) {
            return Ok(None);
        }
        let Splice { start, end, insert } = new.splice(old);
        let edit = Edit { place: place.clone(), bom: new.has_bom(), start, end, insert };
        let line = Line::Edit(edit).encode()?;
        let other = |unplaced: &Unplaced| unplaced.place != *place;
        if self.lock().unplaced.as_ref().is_some_and(other) {
            // At the start one file is looked after.
            self.settle()?;
        }
        let mut state = self.lock();
        let lines = match &mut state.lines {
            Some(lines) => lines,
            lines => lines.insert(Lines::begin(state_dir)?),
        };
        // With room for the line that says where it is.
        let fits = lines.end + line.len() + 64 <= ROOM;
        Ok(fits.then(|| Noting { line, texts: texts.to_vec() }))
    }

    /// Notes an edit: from here on the policy with it is the one to start with. While the disk writes, it does what else is to be done,
    /// which is returned beside.
    ///
    /// # Errors
    ///
    /// If it cannot be noted; the policy without it still is then.
    pub fn note<T>(
        &self,
        Noting { line, texts }: Noting,
        meanwhile: impl FnOnce() -> T,
    ) -> (io::Result<()>, Option<T>) {
        let mut state = self.lock();
        let State { texts: kept, lines: Some(lines), .. } = &mut *state else {
            return (Err(io::Error::other("the last good copy has changed")), None);
        };
        let written = lines.file.write_all_at(line.as_bytes(), lines.end as u64);
        let done = written.is_ok().then(|| {
            begin_to_write(&lines.file, lines.end, line.len());
            meanwhile()
        });
        if let Err(error) = written.and_then(|()| lines.file.sync_data()) {
            let nothing = vec![0; line.len()];
            let _ = lines.file.write_all_at(&nothing, lines.end as u64).and_then(|()| lines.file.sync_data());
            *state = State::default();
            return (Err(error), done);
        }
        lines.end += line.len();
        lines.edits += 1;
        *kept = Some(texts);
        crash::at(Point::EditDecided);
        (Ok(()), done)
    }

    /// A file that says what these do, if there is one: see [`Spare`].
    pub fn spare(&self, texts: &[Text]) -> Option<Spare> {
        let spare = self.lock().spare.take();
        spare.filter(|spare| texts.iter().any(|text| spare.says(text)))
    }

    /// What was noted last is in the operator's place, in this file, and `old` is what was there: [`Self::settle`] sees to the rest.
    pub fn is_placed(&self, place: Place, file: Arc<File>, old: Option<File>) {
        let mut state = self.lock();
        let State { lines: Some(lines), unplaced, gone, .. } = &mut *state else { return };
        gone.extend(old);
        *unplaced = Some(Unplaced { place, file, lines: Arc::clone(&lines.file), edits: lines.edits });
    }

    /// Waits until what was put in place is on the disk, and says so in a line.
    ///
    /// # Errors
    ///
    /// If it cannot be brought there.
    pub fn settle(&self) -> io::Result<()> {
        // Let go of without the lock.
        let gone = std::mem::take(&mut self.lock().gone);
        drop(gone);
        let Some(Unplaced { place, file, lines: noted, edits }) = self.lock().unplaced.clone() else {
            return Ok(());
        };
        file.sync_all()?;
        place.sync()?;
        crash::at(Point::EditSettled);
        let mut state = self.lock();
        let State { lines: Some(lines), unplaced, .. } = &mut *state else { return Ok(()) };
        if !Arc::ptr_eq(&lines.file, &noted) {
            // Another copy was made meanwhile.
            return Ok(());
        }
        if unplaced.as_ref().is_some_and(|unplaced| unplaced.edits == edits) {
            *unplaced = None;
        }
        let line = Line::Placed(edits).encode()?;
        if lines.end + line.len() <= ROOM {
            // Not waited for: if it is lost nothing is, unless the operator has put back just what was there before.
            lines.file.write_all_at(line.as_bytes(), lines.end as u64)?;
            lines.end += line.len();
        }
        drop(state);
        self.prepare_spare(&place);
        Ok(())
    }

    /// Gets ready for another edit of the file that was edited last.
    fn prepare_spare(&self, place: &Place) {
        let text = |state: &State| {
            let (index, _) = place.replaced().next()?;
            state.texts.as_ref()?.get(index).cloned()
        };
        let Some(now) = text(&self.lock()) else { return };
        let Some(spare) = place.spare(&now) else { return };
        let mut state = self.lock();
        if text(&state).is_some_and(|text| spare.says(&text)) {
            state.spare = Some(spare);
        }
    }
}

/// Has the kernel begin to write a part of a file to the disk, and waits for nothing. What fails is told when that is waited for.
fn begin_to_write(file: &File, start: usize, bytes: usize) {
    let (Ok(start), Ok(bytes)) = (libc::off64_t::try_from(start), libc::off64_t::try_from(bytes)) else {
        return;
    };
    // SAFETY: the call takes a descriptor, which is open, and numbers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), start, bytes, libc::SYNC_FILE_RANGE_WRITE);
    }
}

impl Lines {
    /// None yet, with all the room that they take.
    fn begin(state_dir: &Path) -> io::Result<Self> {
        let directory = state::last_good(state_dir);
        let path = directory.join(NAME);
        let make = || {
            let file = File::options().write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&vec![0; ROOM], 0)?;
            state::sync(&[file.try_clone()?, File::open(&directory)?])?;
            Ok(Self { file: Arc::new(file), end: 0, edits: 0 })
        };
        make().inspect_err(|_: &io::Error| drop(fs::remove_file(&path)))
    }
}

/// The copy's files with the edits in them, by the names that they have there.
#[derive(Debug)]
struct Edited {
    files: Vec<(String, String)>,
    unplaced: Option<LastEdits>,
}

/// Edits of one file that the operator's may not have.
#[derive(Debug)]
struct LastEdits {
    /// The last of them.
    edit: Edit,
    /// What the file said before each.
    before: Vec<String>,
}

impl LastEdits {
    /// Whether the operator's file is without them, and is so by nobody's will.
    fn is_missing(&self, files: &[(String, String)]) -> bool {
        let Ok(found) = self.edit.place.first_text() else { return false };
        let index = self.edit.place.replaced().map(|(index, _)| index).next();
        let Some((_, last)) = index.and_then(|index| files.get(index)) else { return false };
        let is_older = |before: &String| bare(before).as_bytes() == bare_bytes(&found);
        let after = self.before.iter().skip(1).chain([last]);
        let mut steps = self.before.iter().map(String::as_bytes).zip(after.map(String::as_bytes));
        found != last.as_bytes()
            && (steps.any(|step| is_torn(&found, step)) || self.before.iter().any(is_older))
    }
}

fn bare(text: &str) -> &str {
    text.strip_prefix(BOM).unwrap_or(text)
}

fn bare_bytes(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM.as_bytes()).unwrap_or(text)
}

/// `None` if there are no edits.
fn read(directory: &Path) -> io::Result<Option<Edited>> {
    let bytes = match fs::read(directory.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let lines: Vec<Line> = bytes.split(|byte| *byte == b'\n').map_while(Line::decode).collect();
    let placed = lines.iter().rev().find_map(|line| match line {
        Line::Placed(edits) => Some(*edits),
        Line::Edit(_) => None,
    });
    let edits: Vec<Edit> = lines
        .into_iter()
        .filter_map(|line| match line {
            Line::Edit(edit) => Some(edit),
            Line::Placed(_) => None,
        })
        .collect();
    if edits.is_empty() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_policy_name(&entry.file_name()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(entry.path())?));
        }
    }
    files.sort();
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "an edit does not fit its text");
    let mut unplaced: Option<LastEdits> = None;
    for (number, edit) in edits.into_iter().enumerate() {
        let (index, _) = edit.place.replaced().next().ok_or_else(broken)?;
        let (_, text) = files.get_mut(index).ok_or_else(broken)?;
        let bare = bare(text);
        let [front, back] =
            [bare.get(..edit.start), bare.get(edit.end..)].map(|part| part.ok_or_else(broken));
        let bom = if edit.bom { BOM } else { "" };
        let next = [bom, front?, &edit.insert, back?].concat();
        let before = std::mem::replace(text, next);
        if number >= placed.unwrap_or(0) {
            let mut earlier = unplaced.take().map_or_else(Vec::new, |unplaced| unplaced.before);
            earlier.push(before);
            unplaced = Some(LastEdits { edit, before: earlier });
        }
    }
    Ok(Some(Edited { files, unplaced }))
}

/// Whether the power may have made this of a text that was about to be written, maybe into a file that said what was `before`: it is cut short,
/// and parts of it are missing, or are not written over.
fn is_torn(found: &[u8], (before, text): (&[u8], &[u8])) -> bool {
    /// What a disk writes whole.
    const SECTOR: usize = 512;
    let is_of = |(number, part): (usize, &[u8])| {
        [before, text].into_iter().any(|text| {
            let text = text.get(number * SECTOR..).unwrap_or_default();
            part.iter().enumerate().all(|(at, byte)| *byte == 0 || text.get(at) == Some(byte))
        })
    };
    found != text
        && found.len() <= text.len().max(before.len())
        && found.chunks(SECTOR).enumerate().all(is_of)
}

/// Files by their names, with what they say.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// The files of a copy with edits, with these in them; `None` if there are none.
///
/// # Errors
///
/// If what is there cannot be read.
pub fn edited(directory: &Path) -> io::Result<Option<Files>> {
    let edited = read(directory)?;
    Ok(edited.map(|edited| {
        let files = edited.files.into_iter();
        files.map(|(name, text)| (directory.join(name), text.into_bytes())).collect()
    }))
}

/// What a daemon that starts has made of the edits beside the copy.
#[derive(Debug)]
pub enum Recovered {
    /// None, or the operator's file has them, or says something else since.
    Nothing,
    /// The operator's file has the last ones now.
    Finished,
    /// It cannot be replaced.
    Unfinished(Journal, io::Error),
}

/// Finishes what edits have begun: the operator's file, if it may not have the last ones, and the copy.
///
/// # Errors
///
/// If what is there cannot be read, or not be written anew; it is tried again at the next start.
pub fn recover(state_dir: &Path) -> io::Result<Recovered> {
    let directory = state::last_good(state_dir);
    let Some(Edited { files, unplaced }) = read(&directory)? else {
        absent(fs::remove_file(directory.join(NAME)))?;
        return Ok(Recovered::Nothing);
    };
    if let Some(unplaced) = unplaced {
        unplaced.edit.place.unstage();
        if unplaced.is_missing(&files) {
            let texts: Vec<&[u8]> = files.iter().map(|(_, text)| text.as_bytes()).collect();
            let journal = Journal::begin(state_dir, unplaced.edit.place, &texts, None)?;
            let mut prepared = journal.stage(&texts).inspect_err(|_| drop(journal.undo()))?;
            journal.decide(&mut prepared)?;
            return Ok(match journal.finish(Some(prepared)) {
                Ok(()) => Recovered::Finished,
                Err(error) => Recovered::Unfinished(journal, error),
            });
        }
    }
    let files: Vec<_> = files.iter().map(|(name, text)| (name.clone(), text.as_bytes())).collect();
    state::renew(state_dir, &files)?;
    Ok(Recovered::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    struct Site {
        _dir: tempfile::TempDir,
        state: PathBuf,
        file: PathBuf,
        kept: Kept,
        texts: Vec<Text>,
    }

    fn document(groups: &[&str]) -> String {
        let groups: Vec<String> = groups.iter().map(|name| format!(r#"{{"name":"{name}"}}"#)).collect();
        let groups = groups.join(",");
        format!(r#"{{"version":1,"project":"가게","vpc":"main","security_groups":[{groups}]}}"#)
    }

    fn loaded(file: &Path, text: &str) -> Vec<Text> {
        let other = r#"{"version":1,"project":"other","vpc":"main"}"#;
        let files = [(file.to_owned(), text), (PathBuf::from("z.json"), other)];
        policy::load_bytes(files.map(|(path, text)| (path, text.as_bytes().to_vec()))).unwrap().texts
    }

    impl Site {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (state, file) = (dir.path().join("state"), dir.path().join("p.json"));
            fs::create_dir(&state).unwrap();
            fs::write(&file, text).unwrap();
            fs::write(dir.path().join("z.json"), "").unwrap();
            let texts = loaded(&file, text);
            let files = [&file, Path::new("z.json")];
            let copy = files.into_iter().zip(texts.iter().map(|text| text.as_bytes()));
            state::prepare(&state, copy, None).unwrap().commit().unwrap();
            let kept = Kept::default();
            kept.is_now(texts.clone());
            Self { _dir: dir, state, file, kept, texts }
        }

        fn place(&self) -> Place {
            Place::of_edit(&[self.file.clone(), self.file.with_file_name("z.json")], &[0]).unwrap()
        }

        /// Edits the file, as far as it is wanted.
        fn edit(&mut self, text: &str, replace: bool) {
            let (place, texts) = (self.place(), loaded(&self.file, text));
            let noting = self.kept.prepare(&self.state, &place, (&self.texts, &texts)).unwrap().unwrap();
            let unnamed = place.stage_unnamed(&texts, self.kept.spare(&self.texts)).unwrap().unwrap();
            let (noted, named) = self.kept.note(noting, || replace.then(|| unnamed.name().unwrap()));
            noted.unwrap();
            if let Some(named) = named.unwrap() {
                let placed = named.replace().unwrap();
                self.kept.is_placed(place, named.file, placed.old);
            }
            self.texts = texts;
        }

        fn says(&self) -> String {
            fs::read_to_string(&self.file).unwrap()
        }

        /// The first text of the copy, which has no edits beside it any more.
        fn copy(&self) -> String {
            let directory = state::last_good(&self.state);
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "the texts and nothing else");
            fs::read_to_string(directory.join("000000-p.json")).unwrap()
        }

        /// What a start makes of it.
        fn recover(&self) -> bool {
            let recovered = recover(&self.state).unwrap();
            assert!(matches!(recover(&self.state).unwrap(), Recovered::Nothing), "once is enough");
            assert_eq!(fs::read_dir(self.file.parent().unwrap()).unwrap().count(), 3, "nothing is left");
            matches!(recovered, Recovered::Finished)
        }
    }

    #[test]
    fn spec_d20_what_is_noted_is_in_the_file_and_in_the_copy_after_a_start() {
        for bom in ["", BOM] {
            let [old, one, two] =
                [&[][..], &["webs"], &["webs", "apps"]].map(|names| [bom, &document(names)].concat());
            // Noted, and not in the place of the file: neither of two, or the second one.
            for replaced in [[false, false], [true, false]] {
                let mut site = Site::new(&old);
                site.edit(&one, replaced[0]);
                site.edit(&two, replaced[1]);
                assert!(site.recover());
                assert_eq!((site.says(), site.copy()), (two.clone(), two.clone()));
            }
            // In place.
            let mut site = Site::new(&old);
            site.edit(&one, true);
            site.kept.settle().unwrap();
            site.edit(&two, true);
            assert!(!site.recover());
            assert_eq!((site.says(), site.copy()), (two.clone(), two.clone()));
        }
    }

    #[test]
    fn what_the_operator_has_written_since_is_the_operators() {
        let [old, one, hand] = [&[][..], &["webs"], &["hand"]].map(document);
        // Whether or not the edit is known to be on the disk.
        for settle in [false, true] {
            let mut site = Site::new(&old);
            site.edit(&one, true);
            if settle {
                site.kept.settle().unwrap();
            }
            fs::write(&site.file, &hand).unwrap();
            assert!(!site.recover());
            assert_eq!((site.says(), site.copy()), (hand.clone(), one.clone()));
        }
        // What was there before, put back.
        let mut site = Site::new(&old);
        site.edit(&one, true);
        site.kept.settle().unwrap();
        fs::write(&site.file, &old).unwrap();
        assert!(!site.recover());
        assert_eq!((site.says(), site.copy()), (old, one));
    }

    #[test]
    fn spec_d20_a_file_that_the_power_has_torn_is_written_again() {
        let [old, one] = [&[][..], &["webs"]].map(document);
        let torn = [
            Vec::new(),
            one.as_bytes()[..20].to_vec(),
            vec![0; one.len()],
            [&one.as_bytes()[..20], vec![0; one.len() - 20].as_slice()].concat(),
        ];
        for torn in torn {
            let mut site = Site::new(&old);
            site.edit(&one, true);
            fs::write(&site.file, torn).unwrap();
            assert!(site.recover());
            assert_eq!((site.says(), site.copy()), (one.clone(), one.clone()));
        }
    }

    #[test]
    fn spec_d20_a_file_that_the_power_has_left_between_two_texts_is_written_again() {
        let names: Vec<String> = (0..90).map(|number| format!("group-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let [old, one, two] = [&[][..], &["webs"], &["webs", "apps"]]
            .map(|more| document(&[&names[..40], more, &names[40..]].concat()));
        let mixed = |before: &str, after: &str, sectors: usize| {
            let sectors = sectors * 512;
            let mixed = [&after.as_bytes()[..sectors], &before.as_bytes()[sectors..]].concat();
            assert!(mixed != before.as_bytes() && mixed != after.as_bytes());
            mixed
        };
        let torn = [
            mixed(&one, &two, 3),
            mixed(&two, &one, 3),
            [mixed(&one, &two, 3), vec![0; two.len() - one.len()]].concat(),
            // The rename of the second one is not on the disk either.
            mixed(&old, &one, 3),
        ];
        for torn in torn {
            let mut site = Site::new(&old);
            site.edit(&one, true);
            site.edit(&two, true);
            fs::write(&site.file, torn).unwrap();
            assert!(site.recover());
            assert_eq!((site.says(), site.copy()), (two.clone(), two.clone()));
        }
        // That is in both, and is a text of neither: somebody has written it.
        let mut site = Site::new(&old);
        site.edit(&one, true);
        let hand = one.replacen("group-5\"", "group-x\"", 1);
        fs::write(&site.file, &hand).unwrap();
        assert!(!site.recover());
        assert_eq!(site.says(), hand);
    }

    #[test]
    fn a_large_file_is_replaced_by_a_spare_one_that_says_what_it_said() {
        let names: Vec<String> = (0..5000).map(|number| format!("group-{number:07}")).collect();
        let with = |more: &[&str], at: usize| {
            let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
            names.splice(at..at, more.iter().copied());
            document(&names).replace(
                "\"version\"",
                "\"settings\":{\"quotas\":{\"groups_per_project\":10000}},\"version\"",
            )
        };
        for bom in ["", BOM] {
            let text = |more: &[&str], at| [bom, &with(more, at)].concat();
            let mut site = Site::new(&text(&[], 0));
            // Longer at the end, longer and shorter in between, of the same length, shorter at the start.
            let texts = [
                text(&["webs"], 5000),
                text(&["webs", "apps"], 2000),
                text(&["apps"], 2000),
                text(&["maps"], 2000),
                text(&[], 0),
                text(&["webs"], 0),
            ];
            for (number, text) in texts.iter().enumerate() {
                assert_eq!(site.kept.lock().spare.is_some(), number > 0);
                site.edit(text, true);
                assert!(site.kept.lock().spare.is_none(), "it is the operator's file by now");
                assert_eq!(site.says(), *text);
                let names = fs::read_dir(site.file.parent().unwrap()).unwrap().count();
                assert_eq!(names, 3, "a spare file has no name");
                site.kept.settle().unwrap();
            }
            // One that says something else is not used.
            let other = loaded(&site.file, &texts[0]);
            assert!(site.kept.spare(&other[..1]).is_none());
            site.edit(&texts[4], true);
            assert_eq!(site.says(), texts[4]);
            assert!(!site.recover());
            assert_eq!((site.says(), site.copy()), (texts[4].clone(), texts[4].clone()));
        }
    }

    #[test]
    fn a_line_that_is_not_written_to_its_end_is_none() {
        let [old, one, two] = [&[][..], &["webs"], &["webs", "apps"]].map(document);
        let mut site = Site::new(&old);
        site.edit(&one, true);
        let lines = state::last_good(&site.state).join(NAME);
        let end = |bytes: &[u8]| bytes.iter().position(|byte| *byte == 0).unwrap();
        let first = end(&fs::read(&lines).unwrap());
        site.edit(&two, false);
        let whole = fs::read(&lines).unwrap();
        for missing in [1, 2, 10, 40] {
            let mut bytes = whole.clone();
            let from = end(&whole) - missing;
            assert!(from > first);
            bytes[from..].fill(0);
            fs::write(&lines, &bytes).unwrap();
            let Some(Edited { files, .. }) = read(&state::last_good(&site.state)).unwrap() else { panic!() };
            assert_eq!(files[0].1, one, "{missing}");
        }
        assert_eq!(edited(&state::last_good(&site.state)).unwrap().unwrap()[0].1, one.as_bytes());
    }

    #[test]
    fn what_cannot_be_a_line_goes_another_way() {
        let [old, one] = [&[][..], &["webs"]].map(document);
        let site = Site::new(&old);
        let texts = loaded(&site.file, &one);
        // The copy says something else, or nobody knows what it says.
        assert!(site.kept.prepare(&site.state, &site.place(), (&texts, &texts)).unwrap().is_none());
        let none = Kept::default();
        assert!(none.prepare(&site.state, &site.place(), (&site.texts, &texts)).unwrap().is_none());
        // Too much of it, or too many of them.
        let names: Vec<String> = (0..20_000).map(|number| format!("group-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let large = document(&names)
            .replace("\"version\"", "\"settings\":{\"quotas\":{\"groups_per_project\":100000}},\"version\"");
        let large = loaded(&site.file, &large);
        assert!(site.kept.prepare(&site.state, &site.place(), (&site.texts, &large)).unwrap().is_none());
        let mut site = site;
        let mut count = 0;
        while site
            .kept
            .prepare(&site.state, &site.place(), (&site.texts, &loaded(&site.file, [&one, &old][count % 2])))
            .unwrap()
            .is_some()
        {
            let text = [&one, &old][count % 2].clone();
            site.edit(&text, true);
            site.kept.settle().unwrap();
            count += 1;
        }
        assert!(count > 100, "{count}");
        assert!(!site.recover());
    }
}
