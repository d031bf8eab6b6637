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
        let lines_file = Arc::clone(&lines.file);
        *unplaced = Some(Unplaced {
            place: place.clone(),
            file: Arc::clone(&file),
            lines: lines_file,
            edits: lines.edits,
        });
        let seen = now.as_ref().map(Seen::of);
        let former = current.replace(Current { file, room, seen });
        gone.extend(other.take());
        match (old, place.first()) {
            (Old::Beside(beside), Some(target)) => {
                let former = former.filter(|former| beside.is_of(&former.file));
                let opened =
                    || beside.open().map(|file| Current { file: Arc::new(file), room: 0, seen: None });
                let Some(Current { file, room, seen: known }) = former.or_else(opened) else { return };
                *other = Some(Arc::clone(&file));
                let text = before.clone();
                *spare = Some(Spare { file, text, target, room, beside: Some(beside), known });
            }
            (Old::Gone(old), _) => gone.extend(old.map(Arc::new)),
            _ => {}
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
        if let Some(before) = place.text_of(before) {
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
        let text = state.texts.as_ref().and_then(|texts| place.text_of(texts)).cloned();
        drop(state);
        let mut left = spare.take_if(|spare| !spare.look_over()).map(|spare| self.let_go(spare));
        let Some(spare) = spare.or_else(|| place.spare(&text?)) else { return };
        let mut state = self.lock();
        if state.spare.is_none() {
            state.spare = Some(spare);
            drop(state);
        } else {
            drop(state);
            left = Some(self.let_go(spare));
        }
        drop(left);
    }

    /// A name goes while nobody gives it to another file, and memory, which is returned, when nobody waits.
    fn let_go(&self, Spare { file, beside, .. }: Spare) -> Arc<File> {
        let state = self.lock();
        drop(beside);
        drop(state);
        file
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
        let file = spare.map(|spare| self.let_go(spare));
        drop((file, others));
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
        let index = self.edit.place.replaced().map(|(index, _)| index).next();
        let Some((_, last)) = index.and_then(|index| files.get(index)) else { return false };
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
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

    use nix::libc;

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
            let staged = place.stage_alone(&texts, self.kept.spare()).unwrap().unwrap();
            self.kept.note(noting).unwrap();
            if replace {
                self.kept.put_in_place(&place, staged, &self.texts).unwrap();
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
        // A file that said the first one when it was replaced, and is about to say the last one: whether or not the one between is sure
        // to be on the disk.
        let torn = [mixed(&old, &two, 3), [mixed(&old, &one, 3), vec![0; two.len() - one.len()]].concat()];
        let line = [&old.as_bytes()[..1024 + 64], &two.as_bytes()[1024 + 64..]].concat();
        let thrice = [&two.as_bytes()[..512], &one.as_bytes()[512..1024], &old.as_bytes()[1024..]].concat();
        for settle in [false, true] {
            for torn in torn.iter().chain([&line, &thrice, &old.clone().into_bytes()]) {
                let mut site = Site::new(&old);
                site.edit(&one, true);
                if settle {
                    site.kept.settle().unwrap();
                }
                site.edit(&two, true);
                fs::write(&site.file, torn).unwrap();
                assert!(site.recover());
                assert_eq!((site.says(), site.copy()), (two.clone(), two.clone()));
                // All of it was on the disk: nobody but the operator has made this of it.
                let mut site = Site::new(&old);
                site.edit(&one, true);
                site.edit(&two, true);
                site.kept.settle().unwrap();
                fs::write(&site.file, torn).unwrap();
                assert!(!site.recover());
                assert_eq!(fs::read(&site.file).unwrap(), *torn);
            }
        }
        // That is in both, and is a text of neither: somebody has written it.
        let mut site = Site::new(&old);
        site.edit(&one, true);
        let hand = one.replacen("group-5\"", "group-x\"", 1);
        fs::write(&site.file, &hand).unwrap();
        assert!(!site.recover());
        assert_eq!(site.says(), hand);
    }

    /// Some 100 KiB, with groups of these names too.
    fn large(more: &[&str], at: usize) -> String {
        let names: Vec<String> = (0..5000).map(|number| format!("group-{number:07}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.splice(at..at, more.iter().copied());
        document(&names)
            .replace("\"version\"", "\"settings\":{\"quotas\":{\"groups_per_project\":10000}},\"version\"")
    }

    /// Longer at the end, longer and shorter in between, of the same length, shorter at the start.
    fn large_texts(bom: &str) -> [String; 6] {
        let text = |more: &[&str], at| [bom, &large(more, at)].concat();
        [
            text(&["webs"], 5000),
            text(&["webs", "apps"], 2000),
            text(&["apps"], 2000),
            text(&["maps"], 2000),
            text(&[], 0),
            text(&["webs"], 0),
        ]
    }

    impl Site {
        /// What is in the directory of the operator's file beside that, the other one and the state.
        fn beside(&self) -> Vec<PathBuf> {
            let names = fs::read_dir(self.file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
            names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
        }

        fn inode(&self) -> u64 {
            fs::metadata(&self.file).unwrap().ino()
        }

        /// As if there was no edit for a while.
        fn rest(&self) {
            let ago = Instant::now().checked_sub(IDLE).unwrap();
            self.kept.lock().last.as_mut().unwrap().0 = ago;
            self.kept.rest();
            assert_eq!(self.beside(), [] as [PathBuf; 0]);
        }

        fn settled_edit(&mut self, text: &str) {
            self.edit(text, true);
            assert_eq!(self.says(), *text);
            self.kept.settle().unwrap();
        }
    }

    #[test]
    fn while_a_large_file_is_edited_two_take_turns_and_then_nothing_is_left() {
        for bom in ["", BOM] {
            // Whether what was edited is on the disk before the next edit.
            for settle in [1, 2, 9] {
                let mut site = Site::new(&[bom, &large(&[], 0)].concat());
                let mut inodes = vec![site.inode()];
                let texts = large_texts(bom);
                let there = &texts[1..];
                for (number, text) in there.iter().chain(there.iter().rev().skip(1)).enumerate() {
                    site.edit(text, true);
                    assert_eq!(site.says(), *text);
                    assert_eq!(site.beside().len(), 1);
                    inodes.push(site.inode());
                    if (number + 1) % settle == 0 {
                        site.kept.settle().unwrap();
                    }
                }
                if settle == 1 {
                    assert!(
                        inodes.windows(3).all(|turn| turn[0] == turn[2] && turn[0] != turn[1]),
                        "{inodes:?}"
                    );
                }
                site.kept.settle().unwrap();
                site.rest();
                // The one without a name says what it should, too.
                for text in &texts[2..4] {
                    assert!(site.kept.lock().spare.as_ref().is_some_and(|spare| spare.beside.is_none()));
                    site.settled_edit(text);
                    site.rest();
                }
                site.settled_edit(&texts[4]);
                site.kept.forget();
                assert_eq!(site.beside(), [] as [PathBuf; 0]);
                assert!(!site.recover());
                assert_eq!((site.says(), site.copy()), (texts[4].clone(), texts[4].clone()));
            }
        }
    }

    #[test]
    fn what_others_can_see_or_have_changed_takes_no_turn() {
        let texts = large_texts("");
        type Prevents = dyn Fn(&Site) -> Option<File>;
        let open = |site: &Site| File::open(&site.file).ok();
        let link = |site: &Site| {
            fs::hard_link(&site.file, site.state.join("link")).unwrap();
            None
        };
        // Of the same length, so that no size tells it.
        let write = |site: &Site| {
            let file = File::options().write(true).open(&site.file).unwrap();
            file.write_all_at(b"{ ", 0).unwrap();
            None
        };
        let list = |site: &Site| {
            // Version, and entries of tag, permissions and who: owner, a user, group, mask, others (include/uapi/linux/posix_acl_xattr.h).
            let entries: [(u16, u16, u32); 5] =
                [(1, 6, u32::MAX), (2, 4, 1), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)];
            let mut list = 2u32.to_le_bytes().to_vec();
            for (tag, permissions, who) in entries {
                list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
                list.extend(who.to_le_bytes());
            }
            let file = File::open(&site.file).unwrap();
            // SAFETY: the call takes an open descriptor, a name that ends with a zero, and bytes with their length.
            let set = unsafe {
                let name = c"system.posix_acl_access".as_ptr();
                libc::fsetxattr(file.as_raw_fd(), name, list.as_ptr().cast(), list.len(), 0)
            };
            assert_eq!(set, 0, "{}: needs a file system with access lists", io::Error::last_os_error());
            None
        };
        let all: [(&str, &Prevents); 4] =
            [("open", &open), ("link", &link), ("write", &write), ("list", &list)];
        for (name, prevents) in all {
            for settle in [true, false] {
                let mut site = Site::new(&large(&[], 0));
                site.settled_edit(&texts[0]);
                site.settled_edit(&texts[1]);
                let before = site.inode();
                let held = prevents(&site);
                let held_says = held.as_ref().map(|_| site.says());
                // It is replaced by this edit, and would be put back by the next one.
                for (number, text) in texts[2..5].iter().enumerate() {
                    site.edit(text, true);
                    assert_eq!(site.says(), *text, "{name}");
                    assert!(number == 0 || site.inode() != before, "{name}");
                    if settle {
                        site.kept.settle().unwrap();
                    }
                }
                if let (Some(held), Some(said)) = (held, held_says) {
                    assert_eq!(io::read_to_string(held).unwrap(), said, "{name}");
                }
                site.kept.settle().unwrap();
                site.kept.forget();
                assert_eq!(site.beside(), [] as [PathBuf; 0], "{name}");
            }
        }
    }

    #[test]
    fn a_spare_file_is_of_one_place() {
        let mut site = Site::new(&large(&[], 0));
        site.settled_edit(&large_texts("")[0]);
        let spare = site.kept.spare().unwrap();
        let [here, there] = ["p.json", "z.json"].map(|name| site.file.with_file_name(name));
        assert!(spare.lend(&there, &site.texts[0]).is_none());
        assert!(spare.lend(&here, &site.texts[0]).is_some());
        let more: Vec<String> = (0..1000).map(|number| format!("more-{number}")).collect();
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let longer = loaded(&site.file, &large(&more, 0));
        assert!(spare.lend(&here, &longer[0]).is_none(), "there is no room for it");
    }

    #[test]
    fn what_may_be_in_place_after_a_crash_is_not_written_to_before_that_is_decided_upon() {
        let texts = large_texts("");
        let mut site = Site::new(&large(&[], 0));
        site.settled_edit(&texts[0]);
        site.settled_edit(&texts[1]);
        site.settled_edit(&texts[2]);
        let spare = site.kept.spare().unwrap();
        let beside = site.beside().remove(0);
        let next = loaded(&site.file, &texts[3]);
        let staged = site.place().stage_alone(&next, Some(spare)).unwrap().unwrap();
        // Whoever opens it now may have to wait.
        let says = |text: &str| fs::metadata(&beside).unwrap().len() == text.len() as u64;
        assert!(says(&texts[1]) && !says(&texts[3]));
        let placed = staged.name().unwrap().replace().unwrap();
        assert!(matches!(placed.old, Old::Beside(_)));
        assert_eq!(site.says(), texts[3]);
    }

    #[test]
    fn what_comes_of_no_edit_is_left_to_others() {
        let texts = large_texts("");
        let mut site = Site::new(&large(&[], 0));
        site.settled_edit(&texts[0]);
        site.settled_edit(&texts[1]);
        let other = site.kept.lock().other.clone().unwrap();
        // SAFETY: the call takes a descriptor, which is open.
        let lease = || unsafe { libc::fcntl(other.as_raw_fd(), libc::F_GETLEASE) };
        let next = loaded(&site.file, &texts[2]);
        let staged = site.place().stage_alone(&next, site.kept.spare()).unwrap().unwrap();
        assert_eq!(lease(), libc::F_WRLCK);
        drop(staged);
        assert_eq!((lease(), site.beside()), (libc::F_UNLCK, Vec::new()));
        for text in &texts[2..4] {
            site.settled_edit(text);
        }
    }

    #[test]
    fn whoever_may_not_read_the_operators_file_reads_no_other() {
        let texts = large_texts("");
        let mut site = Site::new(&large(&[], 0));
        site.settled_edit(&texts[0]);
        site.settled_edit(&texts[1]);
        let open_to_all = fs::metadata(&site.beside()[0]).unwrap();
        assert_eq!(open_to_all.mode() & 0o777, 0o644);
        fs::set_permissions(&site.file, PermissionsExt::from_mode(0o600)).unwrap();
        for text in &texts[2..5] {
            site.settled_edit(text);
            for file in site.beside().iter().chain([&site.file]) {
                let file = fs::metadata(file).unwrap();
                assert_eq!(file.mode() & 0o777, 0o600);
                assert_ne!(file.ino(), open_to_all.ino());
            }
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
