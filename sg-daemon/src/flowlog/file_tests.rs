use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn lines(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("line {number:06}")).collect()
}

/// All lines, those of the oldest file first.
fn all(path: &Path, keep: u32) -> Vec<String> {
    let mut all = Vec::new();
    for number in (0..=keep).rev() {
        let name =
            if number == 0 { path.to_owned() } else { PathBuf::from(format!("{}.{number}", path.display())) };
        if let Ok(text) = fs::read_to_string(&name) {
            assert!(text.is_empty() || text.ends_with('\n'), "{}", name.display());
            all.extend(text.lines().map(str::to_owned));
        }
    }
    all
}

#[test]
fn rotation_loses_no_line_and_cuts_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flow.log");
    let mut log = LogFile::open(&path, 1000, 100).unwrap();
    for batch in 0..50 {
        log.append(&lines(batch * 13, batch * 13 + 13)).unwrap();
    }
    assert_eq!(all(&path, 100), lines(0, 650));
    // Lines have 12 bytes: each file but the last has the first size that is not below the limit.
    let sizes: Vec<u64> =
        (1..=7).map(|number| fs::metadata(format!("{}.{number}", path.display())).unwrap().len()).collect();
    assert_eq!(sizes, [1008; 7]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn as_many_files_are_kept_as_asked_for() {
    for keep in [0, 1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flow.log");
        let mut log = LogFile::open(&path, 120, keep).unwrap();
        for number in 0..100 {
            log.append(&lines(number, number + 1)).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), keep as usize + 1);
        assert_eq!(all(&path, keep), lines(90 - 10 * keep as usize, 100));
    }
}

#[test]
fn a_file_that_was_renamed_or_removed_is_written_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flow.log");
    let moved = directory.path().join("flow.log.old");
    let mut log = LogFile::open(&path, 0, 3).unwrap();
    log.append(&lines(0, 2)).unwrap();
    fs::rename(&path, &moved).unwrap();
    log.append(&lines(2, 4)).unwrap();
    assert_eq!(all(&moved, 0), lines(0, 2));
    assert_eq!(all(&path, 0), lines(2, 4));
    fs::remove_file(&path).unwrap();
    log.append(&lines(4, 5)).unwrap();
    assert_eq!(all(&path, 0), lines(4, 5));
    // As `copytruncate` of logrotate does it.
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    log.append(&lines(5, 7)).unwrap();
    assert_eq!(all(&path, 0), lines(5, 7));
}

#[test]
fn nothing_is_written_through_links() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    fs::write(&target, "mine\n").unwrap();
    let path = directory.path().join("flow.log");
    symlink(&target, &path).unwrap();
    let refused = LogFile::open(&path, 0, 3).unwrap_err();
    assert!(refused.to_string().contains("symbolic link"), "{refused}");
    fs::remove_file(&path).unwrap();
    fs::hard_link(&target, &path).unwrap();
    let refused = LogFile::open(&path, 0, 3).unwrap_err();
    assert!(refused.to_string().contains("hard links"), "{refused}");
    fs::remove_file(&path).unwrap();
    // Put there while the log is open, and where a rotated file is to go.
    let mut log = LogFile::open(&path, 24, 3).unwrap();
    symlink(&target, directory.path().join("flow.log.1")).unwrap();
    log.append(&lines(0, 5)).unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&target, &path).unwrap();
    let Unwritten { written, .. } = log.append(&lines(5, 6)).unwrap_err();
    assert_eq!(written, 0);
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine\n");
    nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(LogFile::open(&directory.path().join("pipe"), 0, 3).is_err());
}

#[test]
fn half_a_line_of_a_daemon_that_was_killed_spoils_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flow.log");
    fs::write(&path, "whole\nhal").unwrap();
    LogFile::open(&path, 0, 3).unwrap().append(&lines(0, 1)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nhal\nline 000000\n");
}

#[test]
fn a_full_disk_leaves_whole_lines_and_is_told_exactly() {
    use nix::mount::{MsFlags, mount};
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().to_owned();
    // Mounted for one thread only, and gone with it.
    let test = std::thread::spawn(move || {
        let none: Option<&str> = None;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=16k")).unwrap();
        let path = disk.join("flow.log");
        let mut log = LogFile::open(&path, 0, 3).unwrap();
        log.append(&lines(0, 5)).unwrap();
        // 16,384 bytes are 1,365 lines of 12, and four bytes more, which must not stay.
        let Unwritten { written, error } = log.append(&lines(5, 2000)).unwrap_err();
        assert_eq!((written, error.kind()), (1360, io::ErrorKind::StorageFull));
        assert_eq!(all(&path, 0), lines(0, 1365));
        assert_eq!(log.append(&lines(1365, 1366)).unwrap_err().written, 0);
        fs::rename(&path, disk.join("old")).unwrap();
        assert_eq!(log.append(&lines(1366, 1367)).unwrap_err().written, 0);
        fs::remove_file(disk.join("old")).unwrap();
        log.append(&lines(1367, 1400)).unwrap();
        assert_eq!(all(&path, 0), lines(1367, 1400));
    });
    test.join().unwrap();
}
