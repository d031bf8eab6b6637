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

/// Two files take turns: the first of these texts, which an edit has replaced with the second, is for the next edit.
fn two_in_turn() -> (Site, [String; 6]) {
    let texts = large_texts("");
    let mut site = Site::new(&large(&[], 0));
    site.settled_edit(&texts[0]);
    site.settled_edit(&texts[1]);
    (site, texts)
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
                assert!(inodes.windows(3).all(|turn| turn[0] == turn[2] && turn[0] != turn[1]), "{inodes:?}");
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
    let all: [(&str, &Prevents); 4] = [("open", &open), ("link", &link), ("write", &write), ("list", &list)];
    for (name, prevents) in all {
        for settle in [true, false] {
            let (mut site, texts) = two_in_turn();
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
    let (mut site, texts) = two_in_turn();
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
    let (mut site, texts) = two_in_turn();
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
    let (mut site, texts) = two_in_turn();
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
