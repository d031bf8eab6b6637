//! A terminal that tests can type on and read: a window of tmux.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::process::Process;

const POLL: Duration = Duration::from_millis(50);

/// A shell in a terminal of its own. Both end when this is dropped.
#[derive(Debug)]
pub struct Screen {
    socket: PathBuf,
    /// The server, which does not leave its process group. What runs in its window gets SIGHUP when it ends.
    _server: Process,
}

impl Screen {
    /// So many columns and lines.
    pub fn new(lab: &Lab, columns: u16, lines: u16) -> Result<Self> {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let socket = lab.directory().join(format!("tmux{number}"));
        let mut command = Command::new("tmux");
        // Without anybody's settings.
        command.arg("-S").arg(&socket).args(["-f", "/dev/null", "-u", "-D"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Process::spawn(command).context("tmux is needed: `cargo xtask setup` installs it")?;
        let screen = Self { socket, _server: server };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !screen.socket.exists() {
            ensure!(Instant::now() < deadline, "tmux does not listen");
            sleep(POLL);
        }
        let (columns, lines) = (columns.to_string(), lines.to_string());
        screen.tmux(&["new-session", "-d", "-x", &columns, "-y", &lines, "env -u NO_COLOR PS1='$ ' sh"])?;
        screen.tmux(&["set-option", "-g", "status", "off"])?;
        screen.resize(columns.parse()?, lines.parse()?)?;
        Ok(screen)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(arguments).output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {arguments:?}: {}", complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]).map(drop)
    }

    /// Types a text as it is.
    pub fn type_text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Presses a key by its name in tmux: `Enter`, `Down`, `C-c`.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// What stands on the screen, without blanks at the ends of lines.
    pub fn text(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with the escape sequences of colours and the like.
    pub fn painted(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until the screen is as it should be; returns it.
    pub fn wait(&self, what: &str, patience: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let text = self.text()?;
            if is(&text) {
                return Ok(text);
            }
            if Instant::now() > deadline {
                bail!("not in {patience:?}: {what}; the screen:\n{text}");
            }
            sleep(POLL);
        }
    }

    /// The programs that the shell has started and that still run.
    pub fn children(&self) -> Result<Vec<i32>> {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"])?;
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        Ok(children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}
