//! `sgctl flows export` and `sgctl flows import`: connections go on at another host.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::{complain, counted, print};
use super::progress::during;
use super::{NO, Outcome, names};
use crate::api::client::{ClientError, PATIENCE, call_raw, escaped};
use crate::api::transfer::{LIMIT, NDJSON};
use crate::transfer::Imported;

/// Write the connections of an interface to a file, for `sgctl flows import` on another host.
///
/// The file tells whoever reads it how to end these connections: keep it from others. The connections stay here too.
/// Exit code: 0 done, 1 sgd refuses, 2 a file or sgd cannot be reached.
#[derive(Debug, Args)]
pub struct Export {
    /// The host's device
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: String,
    /// Where to; "-" is standard output. The file appears whole or not at all, readable by its owner only
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

/// Have the connections in a file go on here, whether or not the rules in force would allow them anew.
///
/// All of them are taken, or none. Connections that are here already stay as they are.
/// Exit code: 0 done, 1 sgd refuses and nothing has changed, 2 a file or sgd cannot be reached.
#[derive(Debug, Args)]
pub struct Import {
    /// The host's device [default: of the same name as where the file comes from]
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: Option<String>,
    /// Where from; "-" is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Export {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let path = format!("/v1/flows/export?interface={}", escaped(&self.interface));
        let text = match during("sgd reads the connections", || {
            call_raw(PATIENCE, socket, Method::GET, &path, NDJSON, Vec::new())
        }) {
            Ok(text) => text,
            Err(error) => return answer(error),
        };
        if self.output == Path::new("-") {
            print(std::str::from_utf8(&text)?)?;
        } else {
            write(&self.output, &text).map_err(|error| {
                format!(
                    "{}: {error}; name a file that can be written, or - for standard output",
                    self.output.display()
                )
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let text = read(&self.file).map_err(|error| {
            format!("{}: {error}; name the file that `sgctl flows export` wrote, or -", self.file.display())
        })?;
        let query = self.interface.map_or_else(String::new, |name| format!("?interface={}", escaped(&name)));
        let path = format!("/v1/flows/import{query}");
        let imported = match during("sgd takes the connections", || {
            call_raw(PATIENCE, socket, Method::POST, &path, NDJSON, text)
        }) {
            Ok(imported) => imported,
            Err(error) => return answer(error),
        };
        let imported: Imported = serde_json::from_slice(&imported)?;
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&imported)?))?;
        } else {
            print(&sentence(&imported))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The answer is no, or there is none.
fn answer(error: ClientError) -> Outcome {
    if let ClientError::Refused(why) = &error {
        complain(why);
        return Ok(ExitCode::from(NO));
    }
    Err(error.into())
}

fn sentence(imported: &Imported) -> String {
    let Imported { interface, live, half_open, kept, over, revoked } = imported;
    let mut text = format!("{interface}: {} in", counted(live + half_open, "connection"));
    if *half_open > 0 {
        text += &format!(" ({half_open} half-open)");
    }
    for (count, what) in [
        (kept, "here already"),
        (over, "over by now"),
        (revoked, "that no rule allows, left out as on_rule_change is revoke"),
    ] {
        if *count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text.push('\n');
    text
}

/// A temporary file is the owner's alone (tempfile), and takes the other's name when it is complete.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    // A device or a pipe cannot be replaced, and must not be.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, text);
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file: Box<dyn io::Read> =
        if path == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(fs::File::open(path)?) };
    let mut text = Vec::new();
    // One byte more than sgd takes, so that it is sgd that says so.
    file.take(LIMIT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
