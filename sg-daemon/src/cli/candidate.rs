//! A candidate on its way to the daemon: read and checked here, where the person is.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{color, complain, print};
use super::progress::during;
use crate::api::candidate::{Candidate, CandidateFile};
use crate::policy::render::render;
use crate::policy::{self, LoadError, Texts};

/// Reads the files and directories, as the daemon would; none: the daemon reads its own. After telling what is wrong with
/// them, the exit code: `faulty` if they can be read.
pub fn read(paths: &[PathBuf], faulty: u8) -> Result<Candidate, ExitCode> {
    if paths.is_empty() {
        return Ok(Candidate::default());
    }
    match during("the policy is read and checked", || policy::load(paths)) {
        Ok(loaded) => {
            let names = loaded.model.files.iter().map(|path| path.display().to_string());
            let files =
                names.zip(loaded.texts).map(|(name, text)| CandidateFile { name, text: text.to_string() });
            Ok(Candidate { files: Some(files.collect()), confirm_seconds: None })
        }
        Err(error) => Err(tell(&error, faulty, "nothing was sent to sgd")),
    }
}

/// The same without a check, for who sends it to be checked there; if that fails, [`faults`] says what is to be said here.
pub fn read_only(paths: &[PathBuf], faulty: u8) -> Result<Candidate, ExitCode> {
    let Texts { files, faults } = policy::texts(paths);
    if paths.is_empty() || !faults.is_empty() {
        return read(paths, faulty);
    }
    let files =
        files.into_iter().map(|(path, text, _)| CandidateFile { name: path.display().to_string(), text });
    Ok(Candidate { files: Some(files.collect()), confirm_seconds: None })
}

/// Tells what is wrong with a candidate, if anything is; the exit code then.
pub fn faults(candidate: &Candidate, faulty: u8) -> Option<ExitCode> {
    let files = candidate.files.as_ref()?;
    let files = files.iter().map(|file| (PathBuf::from(&file.name), file.text.clone().into_bytes()));
    policy::load_bytes(files).err().map(|error| tell(&error, faulty, "nothing has changed"))
}

fn tell(error: &LoadError, faulty: u8, so: &str) -> ExitCode {
    for finding in &error.diagnostics {
        let _ = print(&format!("{}\n", render(finding, color())));
    }
    complain(&format!("the candidate is faulty and {so}; correct what is told above"));
    ExitCode::from(if error.unreadable { super::TROUBLE } else { faulty })
}
