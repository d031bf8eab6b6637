//! The state directory: a copy of the last good policy, for a start at which the operator's files are bad (SPEC D22).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// The directory that holds the copy.
pub fn last_good(state_dir: &Path) -> PathBuf {
    state_dir.join("last-good")
}

/// Replaces the copy by the files of the policy that is in force now, in one step: a crash leaves the old copy or the
/// new one.
///
/// # Errors
///
/// If a file cannot be copied; the old copy is still there then.
pub fn save(state_dir: &Path, files: &[PathBuf]) -> io::Result<()> {
    let new = state_dir.join("last-good.new");
    let current = last_good(state_dir);
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(&new)?;
    for (number, file) in files.iter().enumerate() {
        // Numbered, as two directories may have files of one name, and so that they are read in the same order.
        let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let copy = new.join(format!("{number:06}-{name}.json"));
        fs::copy(file, &copy)?;
        File::open(&copy)?.sync_all()?;
    }
    File::open(&new)?.sync_all()?;
    if current.exists() {
        renameat2(AT_FDCWD, &new, AT_FDCWD, &current, RenameFlags::RENAME_EXCHANGE)?;
        fs::remove_dir_all(&new)?;
    } else {
        fs::rename(&new, &current)?;
    }
    File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_d22_the_copy_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.json"), dir.path().join("b.json"));
        fs::write(&a, "1").unwrap();
        fs::write(&b, "2").unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        save(&state, &[a.clone(), b.clone()]).unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(last_good(&state))
                .unwrap()
                .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["1", "2"]);
        save(&state, &[b]).unwrap();
        assert_eq!(names(), ["2"]);
        assert!(save(&state, &[dir.path().join("gone.json")]).is_err());
        assert_eq!(names(), ["2"], "a copy that fails leaves the old one");
    }
}
