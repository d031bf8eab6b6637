//! A real `sgd` on a site, and `sgctl` to talk to it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::BPFFS;
use crate::netns::Netns;
use crate::patience;
use crate::registry::{Held, Resource, lock};
use crate::topology::Topology;

/// To load, verify and attach its programs on a busy machine.
const START: Duration = Duration::from_secs(30);
/// To notice a changed file and put it into force.
const APPLY: Duration = Duration::from_secs(15);
/// To stop when asked to.
const STOP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// `sgd` running in the host namespace of a [`Topology`]. Dropping it kills the process and then removes the pins, which takes
/// the filter off; [`Daemon::kill`] and [`Daemon::terminate`] leave the pins, as an operator would find them.
#[derive(Debug)]
pub struct Daemon {
    host: Netns,
    /// Dropped, and so ended, before the pins.
    running: Option<Running>,
    _pins: Held,
    _files: Held,
    directory: PathBuf,
    pin_dir: PathBuf,
    extra: Vec<String>,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    wrapper: Vec<String>,
    policy: Option<PathBuf>,
}

#[derive(Debug)]
struct Running {
    child: Arc<Mutex<std::process::Child>>,
    _held: Held,
}

impl Daemon {
    /// Writes the policy to a file of its own, starts the daemon on it and waits until all is attached.
    pub fn start(site: &Topology, policy: &str) -> Result<Self> {
        Self::start_with(site, policy, &[])
    }

    /// The same with more arguments for `sgd`.
    pub fn start_with(site: &Topology, policy: &str, extra: &[&str]) -> Result<Self> {
        Self::start_program(site, policy, binary("sgd")?, extra)
    }

    /// The same with an `sgd` from somewhere else.
    pub fn start_program(site: &Topology, policy: &str, program: PathBuf, extra: &[&str]) -> Result<Self> {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        mount_bpffs()?;
        let name =
            format!("{}-sgd{}", site.lab.name(), COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let pin_dir = Path::new(BPFFS).join(&name);
        let directory = site.lab.directory().join(&name);
        let mut daemon = Self {
            host: site.host.clone(),
            running: None,
            _pins: Held::directory(&pin_dir)?,
            _files: Held::directory(&directory)?,
            directory,
            pin_dir,
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
            program,
            environment: Vec::new(),
            wrapper: Vec::new(),
            policy: None,
        };
        fs::create_dir(daemon.state_dir())?;
        daemon.write_policy(policy)?;
        daemon.resume()?;
        Ok(daemon)
    }

    /// Starts the process again after [`Self::kill`] or [`Self::terminate`], with the same pins and state.
    pub fn resume(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the daemon is running");
        // What an earlier run has written says nothing about this one.
        let seen = self.log().len();
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = self.host.command(wrapper);
                command.args(arguments).arg(&self.program);
                command
            }
            None => self.host.command(&self.program),
        };
        command
            .arg("--policy")
            .arg(self.policy.clone().unwrap_or_else(|| self.policy_path()))
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--socket")
            .arg(self.socket())
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .args(&self.extra)
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let make = || {
            // nsenter becomes the program that it runs, so this is the daemon's own process id.
            let child = Arc::new(Mutex::new(command.spawn().context("cannot run nsenter (util-linux)")?));
            Ok((Arc::clone(&child), Resource::Process(child)))
        };
        let (child, held) = Held::make(make)?;
        self.running = Some(Running { child, _held: held });
        self.wait_log_since(seen, " ready", patience::of_daemon(START))?; // not "already"
        self.status().map(drop)
    }

    /// The arguments of the next start, beside those that say where things are.
    pub fn set_arguments(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// The `sgd` of the next start.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// A program that becomes `sgd`, for the next start and those after it; without words none does.
    pub fn set_wrapper(&mut self, words: &[&str]) {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// A variable in the environment of the next start and those after it.
    pub fn set_environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// The next start and those after it are of `sgd` itself, without further variables.
    pub fn set_usual_program(&mut self) -> Result<()> {
        self.environment.clear();
        self.program = binary("sgd")?;
        Ok(())
    }

    /// Where the next start looks for its policy, instead of [`Self::policy_path`].
    pub fn set_policy(&mut self, path: &Path) {
        self.policy = Some(path.to_owned());
    }

    /// Replaces the policy file in one step, as a careful editor does, and does not wait.
    pub fn write_policy(&self, policy: &str) -> Result<()> {
        let temporary = self.directory.join(".policy.json.new");
        fs::write(&temporary, policy)?;
        fs::rename(&temporary, self.policy_path())?;
        Ok(())
    }

    /// Replaces the policy and waits until it is in force; returns the new generation.
    pub fn apply(&self, policy: &str) -> Result<u64> {
        let before = self.generation()?;
        self.write_policy(policy)?;
        self.wait_generation(before)
    }

    /// Waits until a policy later than `before` is in force.
    pub fn wait_generation(&self, before: u64) -> Result<u64> {
        let deadline = Instant::now() + patience::of_daemon(APPLY);
        loop {
            let now = self.generation()?;
            if now > before {
                return Ok(now);
            }
            if Instant::now() > deadline {
                bail!("no new policy in force after {APPLY:?}; the daemon's log:\n{}", self.log_tail());
            }
            sleep(POLL);
        }
    }

    /// Counts the policies put into force.
    pub fn generation(&self) -> Result<u64> {
        let status = self.status()?;
        status
            .get("generation")
            .and_then(Value::as_u64)
            .with_context(|| format!("no `generation` in {status}"))
    }

    /// `sgctl status --json`.
    pub fn status(&self) -> Result<Value> {
        let output = self.sgctl(&["status", "--json"])?;
        ensure!(
            output.status.success(),
            "sgctl status: {}\nthe daemon's log:\n{}",
            String::from_utf8_lossy(&output.stderr).trim(),
            self.log_tail()
        );
        serde_json::from_slice(&output.stdout).context("sgctl status --json is not JSON")
    }

    /// Runs `sgctl` against this daemon to its end.
    pub fn sgctl(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(binary("sgctl")?)
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .context("cannot run sgctl")
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| lock(&running.child).id())
    }

    /// `kill -9`. The kernel side stays.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<()> {
        let running = self.running.as_ref().context("the daemon is not running")?;
        let mut child = lock(&running.child);
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("still running {STOP:?} after SIGTERM; its log:\n{}", self.log_tail());
            }
            sleep(POLL);
        };
        drop(child);
        self.running = None;
        ensure!(status.success(), "ended with {status} after SIGTERM; its log:\n{}", self.log_tail());
        Ok(())
    }

    /// Waits until the process ends by itself; says how.
    pub fn wait_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let running = self.running.as_ref().context("the daemon is not running")?;
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = lock(&running.child).try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("sgd has not ended in {patience:?}; its log:\n{}", self.log_tail());
            }
            sleep(POLL);
        };
        self.running = None;
        Ok(status)
    }

    /// SIGTERM and a new start.
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.resume()
    }

    /// Waits until a line with `text` is in the log; fails at once if the daemon ends instead.
    pub fn wait_log(&self, text: &str, patience: Duration) -> Result<()> {
        self.wait_log_since(0, text, patience)
    }

    fn wait_log_since(&self, seen: usize, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if self.log().get(seen..).is_some_and(|new| new.contains(text)) {
                return Ok(());
            }
            if let Some(running) = &self.running
                && let Some(status) = lock(&running.child).try_wait()?
            {
                bail!("sgd ended ({status}) before it logged `{text}`:\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("sgd has not logged `{text}` in {patience:?}:\n{}", self.log_tail());
            }
            sleep(POLL);
        }
    }

    /// All that the daemon has printed, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of it.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }

    pub fn policy_path(&self) -> PathBuf {
        self.directory.join("policy.json")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("sgd.sock")
    }

    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("sgd.log")
    }
}

/// A program of this workspace: in `SGD_BIN_DIR` if that is set, else beside the running executable or above it, where cargo
/// puts the binaries of the same profile.
pub fn binary(name: &str) -> Result<PathBuf> {
    let found = match std::env::var_os("SGD_BIN_DIR") {
        Some(directory) => Some(PathBuf::from(directory).join(name)).filter(|path| path.is_file()),
        None => {
            let executable = std::env::current_exe()?;
            executable.ancestors().skip(1).take(3).map(|above| above.join(name)).find(|path| path.is_file())
        }
    };
    found.with_context(|| format!("{name} is not built: run `cargo build --workspace` (or set SGD_BIN_DIR)"))
}

/// Where systemd runs, bpffs is mounted already. It stays mounted: others may have begun to use it.
fn mount_bpffs() -> Result<()> {
    if statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount bpffs on {BPFFS}"))
}
