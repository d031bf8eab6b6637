//! A candidate on its way to the daemon: read and checked here, where the person is.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{color, complain, print};
use super::progress::during;
use crate::api::candidate::{Candidate, CandidateFile};
use crate::policy;
use crate::policy::render::render;

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
        Err(error) => {
            for finding in &error.diagnostics {
                let _ = print(&format!("{}\n", render(finding, color())));
            }
            complain("the candidate is faulty and nothing was sent to sgd; correct what is told above");
            Err(ExitCode::from(if error.unreadable { super::TROUBLE } else { faulty }))
        }
    }
}
