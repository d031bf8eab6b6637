//! How many cases there are and how many are done, for whoever waits for them: lines in the file that `SGD_PROGRESS` names, `of N`
//! and `done N`, all of which add up. Without it nothing is written.

use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

/// So many cases more are to be done.
pub fn of(cases: u64) {
    write("of", cases);
}

/// So many more are done.
pub fn done(cases: u64) {
    write("done", cases);
}

fn write(what: &str, cases: u64) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || File::options().append(true).open(std::env::var_os("SGD_PROGRESS")?).ok();
    if let Some(mut file) = FILE.get_or_init(open).as_ref() {
        // A line in one call, as others write too; nobody is told less by one that is lost.
        let _ = file.write_all(format!("{what} {cases}\n").as_bytes());
    }
}
