//! What an administrator asks of a host, wherever it runs.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sg_tests::Finished;

/// For a unit, or a policy, to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A booted Debian.
pub trait Debian {
    /// Runs a command in it to its end.
    fn run(&self, words: &[&str]) -> Result<Finished>;

    /// How many times as long as on this machine's processors things take.
    fn slowness(&self) -> u32;

    /// What a command prints; fails if it does.
    fn said(&self, words: &[&str]) -> Result<String> {
        Ok(self.run(words)?.success(&words.join(" "))?.stdout.trim().to_owned())
    }

    /// A property of a unit.
    fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.said(&["systemctl", "show", "--value", "--property", name, unit])
    }

    fn read(&self, path: &str) -> Result<String> {
        self.said(&["cat", path])
    }

    /// As an editor does that writes in place.
    fn write(&self, path: &str, text: &str) -> Result<()> {
        self.said(&["sh", "-c", "printf %s \"$1\" > \"$2\"", "sh", text, path]).map(drop)
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.run(&["test", "-e", path])?.status.success())
    }

    /// Whether all units have started.
    fn is_up(&self) -> Result<bool> {
        Ok(self.run(&["systemctl", "is-active", "multi-user.target"])?.status.success())
    }

    /// `sgctl status --json`.
    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.said(&["sgctl", "status", "--json"])?)?)
    }

    /// Whether `sgctl status` has nothing to complain of.
    fn green(&self) -> Result<String> {
        let status = self.run(&["sgctl", "status"])?;
        Ok(status.status.code().map_or("a signal".to_owned(), |code| format!("exit code {code}")))
    }

    /// What it says of a device.
    fn state(&self, device: &str) -> Result<String> {
        Ok(state(&self.status()?, device).unwrap_or("not there").to_owned())
    }

    fn journal(&self, more: &[&str]) -> Result<String> {
        self.said(&[&["journalctl", "--unit", "sgd", "--boot", "--no-pager"][..], more].concat())
    }

    /// Waits until something is so, and fails with the journal of sgd if it does not come about.
    fn wait(&self, what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE * self.slowness();
        while !so()? {
            ensure!(Instant::now() < deadline, "{what} does not come about:\n{}", self.journal(&[])?);
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The process of the daemon once it is another one than `before` and ready.
    fn another(&self, before: &str) -> Result<String> {
        let now = || self.property("sgd", "MainPID");
        self.wait("another sgd", || {
            let now = now()?;
            Ok(now != before && now != "0" && self.property("sgd", "ActiveState")? == "active")
        })?;
        now()
    }

    /// The number of the policy in force.
    fn generation(&self) -> Result<u64> {
        self.status()?.get("generation").and_then(Value::as_u64).context("a generation")
    }

    /// Writes a policy, asks for it, and waits until it is in force.
    fn reload(&self, path: &str, policy: &str) -> Result<()> {
        let before = self.generation()?;
        self.write(path, policy)?;
        self.said(&["systemctl", "reload", "sgd"])?;
        self.wait("a new policy", || Ok(self.generation()? > before))
    }
}

/// What `sgctl status --json` says of a device.
pub fn state<'a>(status: &'a Value, device: &str) -> Option<&'a str> {
    let interfaces = status.get("interfaces")?.as_array()?;
    let device = interfaces.iter().find(|interface| interface.get("name") == Some(&device.into()))?;
    device.get("state")?.as_str()
}
