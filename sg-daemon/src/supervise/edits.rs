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

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::install::{Old, Place, Placed, Staged, absent};
use super::journal::Journal;
use super::spare::{Seen, Spare};
use super::state;
use crate::crash::{self, Point};
use crate::policy::{Splice, Text, is_policy_name};

const NAME: &str = "edits";
/// So long after an edit another one is expected.
pub const IDLE: Duration = Duration::from_secs(5);
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
pub struct Kept {
    state: Arc<Mutex<State>>,
    /// Held by whoever brings to the disk what was edited.
    settling: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// With the edits in them.
    texts: Option<Vec<Text>>,
    lines: Option<Lines>,
    /// What was put in place, and may not be on the disk yet.
    unplaced: Option<Unplaced>,
    /// Files that others were put in the place of: to take a large one apart takes a while.
    gone: Vec<Arc<File>>,
    /// The file that was edited last.
    current: Option<Current>,
    /// What was there before it, if it has a name: the next edit may put it back.
    other: Option<Arc<File>>,
    /// For the next edit.
    spare: Option<Spare>,
    /// When there was an edit last, and where.
    last: Option<(Instant, Place)>,
}

/// A file that is in the operator's place.
#[derive(Debug)]
struct Current {
    file: Arc<File>,
    room: usize,
    /// What the system said of it, if whatever was written to it since shows in that.
    seen: Option<Seen>,
}

impl State {
    /// What was noted last is in the operator's place; what was there said `before`.
    fn is_placed(&mut self, place: &Place, Placed { file, room, old, now }: Placed, before: &Text) {
        let State { lines: Some(lines), unplaced, gone, current, other, spare, last, .. } = self else {
            return;
        };
        *last = Some((Instant::now(), place.clone()));
        *unplaced = Some(Unplaced {
            place: place.clone(),
            file: Arc::clone(&file),
            lines: Arc::clone(&lines.file),
            edits: lines.edits,
        });
        let seen = now.as_ref().map(Seen::of);
        let former = current.replace(Current { file, room, seen });
        gone.extend(other.take());
        match old {
            Old::Beside(beside) => {
                let Some(target) = place.first() else { return };
                let former = former.filter(|former| beside.is_of(&former.file));
                let opened =
                    || beside.open().map(|file| Current { file: Arc::new(file), room: 0, seen: None });
                let Some(Current { file, room, seen: known }) = former.or_else(opened) else { return };
                *other = Some(Arc::clone(&file));
                let text = before.clone();
                *spare = Some(Spare { file, text, target, room, beside: Some(beside), known });
            }
            Old::Gone(old) => gone.extend(old.map(Arc::new)),
        }
    }
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held as long as something is made of the state without its lock, and put back.
    fn settling(&self) -> MutexGuard<'_, ()> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, state: State) {
        let _settling = self.settling();
        *self.lock() = state;
    }

    /// A copy of these texts was made.
    pub fn is_now(&self, texts: Vec<Text>) {
        self.replace(State { texts: Some(texts), ..State::default() });
    }

    /// Another copy is about to be made. Nothing is left beside the operator's file then.
    pub fn forget(&self) {
        self.replace(State::default());
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
        let (Some(old), Some(new)) = (place.first_of(before), place.first_of(texts)) else { return Ok(None) };
        if place.replaced().count() > 1 || !self.says(before) {
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

    /// Notes an edit: from here on the policy with it is the one to start with.
    ///
    /// # Errors
    ///
    /// If it cannot be noted; the policy without it still is then.
    pub fn note(&self, Noting { line, texts }: Noting) -> io::Result<()> {
        let mut state = self.lock();
        let State { texts: kept, lines: Some(lines), .. } = &mut *state else {
            return Err(io::Error::other("the last good copy has changed"));
        };
        let put = |bytes: &[u8]| {
            lines.file.write_all_at(bytes, lines.end as u64).and_then(|()| lines.file.sync_data())
        };
        if let Err(error) = put(line.as_bytes()) {
            let _ = put(&vec![0; line.len()]);
            drop(state);
            self.forget();
            return Err(error);
        }
        lines.end += line.len();
        lines.edits += 1;
        *kept = Some(texts);
        crash::at(Point::EditDecided);
        Ok(())
    }

    /// A file for the next edit, if there is one: see [`Spare`].
    pub fn spare(&self) -> Option<Spare> {
        self.lock().spare.take()
    }

    /// Puts what was noted last in the operator's place, of files that said these; [`Self::settle`] sees to the rest. Returned is what the system
    /// says of it, if whatever happens to it from now on shows in that.
    ///
    /// # Errors
    ///
    /// If that cannot be done. The operator's file says what it said.
    pub fn put_in_place(
        &self,
        place: &Place,
        staged: Staged,
        before: &[Text],
    ) -> io::Result<Option<Metadata>> {
        // With the lock: names that are not needed any more go with it, too.
        let mut state = self.lock();
        let placed = staged.name()?.replace()?;
        let now = placed.now.clone();
        if let Some(before) = place.first_of(before) {
            state.is_placed(place, placed, before);
        }
        Ok(now)
    }

    /// Waits until what was put in place is on the disk, and says so in a line.
    ///
    /// # Errors
    ///
    /// If it cannot be brought there.
    pub fn settle(&self) -> io::Result<()> {
        let _settling = self.settling();
        let mut state = self.lock();
        let gone = std::mem::take(&mut state.gone);
        let (unplaced, other) = (state.unplaced.clone(), state.other.clone());
        drop(state);
        drop(gone);
        let Some(Unplaced { place, file, lines: noted, edits }) = unplaced else { return Ok(()) };
        file.sync_all()?;
        // After a crash that may be in its place, if another edit puts it there: it says nothing older than what it was replaced with.
        other.map_or(Ok(()), |other| other.sync_all())?;
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
        let mut state = self.lock();
        // After an edit that is not on the disk yet, or has the spare file in hand, it is seen to again.
        if state.unplaced.is_some() || state.spare.is_none() && state.other.is_some() {
            return;
        }
        // What takes no time is done with it in its place.
        let is_ready =
            |spare: &mut Spare| spare.beside.is_none() || spare.known.is_some() && spare.look_over();
        if state.spare.as_mut().is_some_and(is_ready) {
            return;
        }
        let mut spare = state.spare.take();
        let text = state.texts.as_ref().and_then(|texts| place.first_of(texts)).cloned();
        drop(state);
        spare.take_if(|spare| !spare.look_over()).into_iter().for_each(|spare| self.let_go(spare));
        let Some(spare) = spare.or_else(|| place.spare(&text?)) else { return };
        let mut state = self.lock();
        if state.spare.is_none() {
            state.spare = Some(spare);
            return;
        }
        drop(state);
        self.let_go(spare);
    }

    /// A name goes while nobody gives it to another file, and memory when nobody waits.
    fn let_go(&self, Spare { file, beside, .. }: Spare) {
        let state = self.lock();
        drop(beside);
        drop(state);
        drop(file);
    }

    /// When nothing was edited for a while, nothing is left beside the operator's file.
    pub fn rest(&self) {
        let _settling = self.settling();
        let is_over = |(last, _): &mut (Instant, Place)| last.elapsed() >= IDLE;
        let Some((_, place)) = self.lock().last.take_if(is_over) else { return };
        self.clear();
        self.prepare_spare(&place);
    }

    /// The operator's files are about to be replaced by other means: those have the names beside them.
    pub fn stand_back(&self) {
        let _settling = self.settling();
        self.clear();
    }

    fn clear(&self) {
        let mut state = self.lock();
        let spare = state.spare.take_if(|spare| spare.beside.is_some());
        let others = (state.current.take(), state.other.take());
        drop(state);
        spare.into_iter().for_each(|spare| self.let_go(spare));
        drop(others);
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
    /// What the file said before each, and before the one that it had last.
    before: Vec<String>,
}

impl LastEdits {
    /// Whether the operator's file is without them, and is so by nobody's will.
    fn is_missing(&self, files: &[(String, String)]) -> bool {
        let Ok(found) = self.edit.place.first_text() else { return false };
        let Some((_, last)) = self.edit.place.first_of(files) else { return false };
        let is_older = |before: &String| bare(before).as_bytes() == bare_bytes(&found);
        let texts: Vec<&[u8]> = self.before.iter().chain([last]).map(String::as_bytes).collect();
        found != last.as_bytes() && (is_torn(&found, &texts) || self.before.iter().any(is_older))
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
    let placed = placed.unwrap_or(0);
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
    let count = edits.len();
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
        // Two files take turns: what the one before was replaced with may be in place of it in part.
        if number + 1 >= placed {
            let same = unplaced.take().filter(|unplaced| unplaced.edit.place == edit.place);
            let mut earlier = same.map_or_else(Vec::new, |unplaced| unplaced.before);
            earlier.push(before);
            unplaced = Some(LastEdits { edit, before: earlier });
        }
    }
    Ok(Some(Edited { files, unplaced: unplaced.filter(|_| placed < count) }))
}

/// Whether the power may have made this of files that were about to be written over with one of these texts after the other: it is cut short, and
/// parts of it are missing, or are of different ones.
fn is_torn(found: &[u8], texts: &[&[u8]]) -> bool {
    /// A disk writes more of it whole. But while it fetches that from memory the next text may be written there, a line of a cache after the other.
    const LINE: usize = 64;
    let is_of = |(number, part): (usize, &[u8])| {
        texts.iter().any(|text| {
            let text = text.get(number * LINE..).unwrap_or_default();
            part.iter().enumerate().all(|(at, byte)| *byte == 0 || text.get(at) == Some(byte))
        })
    };
    !texts.contains(&found)
        && texts.iter().any(|text| found.len() <= text.len())
        && found.chunks(LINE).enumerate().all(is_of)
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
        // Nothing will tell a torn one any more.
        if let Some(file) = unplaced.edit.place.first().and_then(|path| File::open(path).ok()) {
            file.sync_all()?;
            unplaced.edit.place.sync()?;
        }
    }
    let files: Vec<_> = files.iter().map(|(name, text)| (name.clone(), text.as_bytes())).collect();
    state::renew(state_dir, &files)?;
    Ok(Recovered::Nothing)
}

#[cfg(test)]
#[path = "edits_tests.rs"]
mod tests;
