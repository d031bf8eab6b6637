//! Other people's programs inside a namespace. They end with their guard, and on Ctrl-C.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::registry::{Held, Resource, lock};

const POLL: Duration = Duration::from_millis(10);

/// A running program and everything that it has started, unless that left its process group. Dropping it kills them.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    name: String,
    _held: Held,
}

/// What a program has said, and how it ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Fails with what the program has said if it did not succeed.
    pub fn success(self, name: &str) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let said = format!("{}\n{}", self.stdout.trim(), self.stderr.trim());
        let last: Vec<_> = said.trim().lines().rev().take(6).collect();
        bail!("{name}: {}: {}", self.status, last.into_iter().rev().collect::<Vec<_>>().join(" | "))
    }
}

impl Process {
    /// Starts it in a process group of its own.
    pub fn spawn(mut command: Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
        let name = command.get_args().nth(1).unwrap_or(command.get_program()).to_string_lossy().into_owned();
        let make = || {
            let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
            let child = Arc::new(Mutex::new(child));
            Ok((Arc::clone(&child), Resource::Group(child)))
        };
        let (child, held) = Held::make(make)?;
        Ok(Self { child, name, _held: held })
    }

    /// A server that says what it does in a file.
    pub fn serve(mut command: Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Self::spawn(command)
    }

    /// Runs to the end, at most `patience` long.
    pub fn finish(mut command: Command, patience: Duration) -> Result<Finished> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = Self::spawn(command)?;
        let (stdout, stderr) = {
            let mut child = lock(&process.child);
            (drain(child.stdout.take()), drain(child.stderr.take()))
        };
        let status = process.wait(patience)?;
        let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
        Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Waits for its end.
    pub fn wait(&self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended in {patience:?}", self.name);
            }
            sleep(POLL);
        }
    }

    /// Sends it a signal, and not its group. nsenter becomes the program that it runs, so this is the program itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(lock(&self.child).id())?), signal)?;
        Ok(())
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        Ok(lock(&self.child).try_wait()?)
    }

    /// Its pipes, once.
    pub fn pipes(&self) -> Result<(ChildStdin, ChildStdout)> {
        let mut child = lock(&self.child);
        let stdin = child.stdin.take().context("stdin is piped")?;
        Ok((stdin, child.stdout.take().context("stdout is piped")?))
    }
}

/// A file for a program, beside its log.
pub fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    let mut file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

/// Reads a pipe to its end, so that the program does not wait for a reader.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
