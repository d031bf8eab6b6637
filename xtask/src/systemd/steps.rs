//! From the first installation to the last trace.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sg_tests::{Connection, Lab, patience};

use super::container::Container;
use super::site::{CLOSED, DEVICE, OPEN, Site};
use super::traffic::{self, Cost};
use crate::demo::table::Table;

const POLICY: &str = "/etc/sgd/policy.d/starter.json";
/// Of `systemd-analyze security`; packaging/systemd/sgd.service states what it is.
const WORST_SCORE: f64 = 2.5;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn all(lab: &Lab, root: &Path, package: &Path, newer: &Path, table: &mut Table) -> Result<()> {
    let site = Site::new(lab)?;
    for port in [OPEN, CLOSED] {
        let open = site.tcp(port).run(patience::ALLOWED)?;
        ensure!(open.answered(), "without the filter {} should be open: {open}", site.tcp(port));
    }
    let container = Container::boot(lab, root, &site.host)?;
    let mut host = Host { container, site: &site, table };
    let mut held = site.tcp(OPEN).hold(patience::ALLOWED)?;
    host.install(package)?;
    host.reload()?;
    host.kill(&mut held)?;
    host.upgrade(newer, &mut held)?;
    host = host.reboot(lab, root)?;
    let mut held = site.tcp(OPEN).hold(patience::ALLOWED)?;
    host.remove(&mut held)?;
    host.purge()?;
    host.container.power_off()
}

struct Host<'a> {
    container: Container,
    site: &'a Site,
    table: &'a mut Table,
}

impl<'a> Host<'a> {
    fn row(&mut self, spec: &str, what: &str, expected: &str, seen: &str) {
        self.table.row(spec, what, expected, seen, expected == seen);
    }

    /// Whether something is so.
    fn is(&mut self, spec: &str, what: &str, so: bool) {
        self.row(spec, what, "yes", if so { "yes" } else { "no" });
    }

    /// The rule that the starter policy has, and one that it has not.
    fn filtered(&mut self, spec: &str, when: &str) -> Result<()> {
        for (port, allowed, wait) in [(OPEN, true, patience::ALLOWED), (CLOSED, false, patience::DENIED)] {
            let probe = self.site.tcp(port);
            self.table.probe(spec, &format!("{when}: {probe}"), allowed, &probe.run(wait));
        }
        Ok(())
    }

    fn cost(&mut self, what: &str, cost: &Cost) {
        let seen = format!("{} and {}", cost.lost, cost.through);
        let what = format!("{what}, {} packets: lost, let through", cost.sent);
        self.table.row("D20", &what, "0 and 0", &seen, cost.nothing());
    }

    /// `sgctl status --json`.
    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.container.said(&["sgctl", "status", "--json"])?)?)
    }

    /// Whether `sgctl status` has nothing to complain of.
    fn green(&self) -> Result<String> {
        let status = self.container.run(&["sgctl", "status"])?;
        Ok(status.status.code().map_or("a signal".to_owned(), |code| format!("exit code {code}")))
    }

    /// The process of the daemon once it is another one than `before` and ready.
    fn another(&self, before: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.container.property("sgd", "MainPID")?;
            if now != before && now != "0" && self.container.property("sgd", "ActiveState")? == "active" {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "sgd is not started again:\n{}", self.journal(&[])?);
            sleep(Duration::from_millis(100));
        }
    }

    fn journal(&self, more: &[&str]) -> Result<String> {
        let words = [&["journalctl", "--unit", "sgd", "--boot", "--no-pager"][..], more].concat();
        self.container.said(&words)
    }

    fn install(&mut self, package: &Path) -> Result<()> {
        self.table.heading("dpkg -i in a fresh Debian, systemctl start, the starter policy");
        dpkg_install(&self.container, package)?;
        self.container.said(&["systemctl", "start", "sgd"])?;
        self.row("", "sgctl status", "exit code 0", &self.green()?);
        let state = self.state()?;
        self.row("", &format!("{DEVICE}, by sgctl status"), "enforced", &state);
        self.filtered("K4", "starter policy")?;
        let enabled = self.container.run(&["systemctl", "is-enabled", "sgd"])?.stdout;
        self.row("D25", "systemctl is-enabled", "enabled", enabled.trim());
        // Prints what differs from what was packed.
        let verified = self.container.run(&["dpkg", "--verify", "sgd"])?;
        self.row("", "dpkg --verify", "", verified.stdout.trim());
        let group = self.container.said(&["stat", "--format", "%G %a", "/run/sgd/sgd.sock"])?;
        self.row("", "whose socket", "sgd 660", &group);
        let rotated = self.container.run(&["logrotate", "--debug", "/etc/logrotate.d/sgd"])?;
        self.is("", "logrotate understands its configuration", rotated.status.success());
        let version = self.container.said(&["sgd", "--version"])?;
        let told = ["commit:", "rustc", "object"].iter().all(|word| version.contains(word));
        self.is("", "sgd --version has build facts", told);

        let analysis = self.container.said(&["systemd-analyze", "security", "--no-pager", "sgd.service"])?;
        let score = analysis.lines().last().and_then(|line| line.split(": ").nth(1)?.split(' ').next());
        let score: f64 = score.and_then(|text| text.parse().ok()).with_context(|| analysis.clone())?;
        let limit = format!("≤ {WORST_SCORE}");
        self.table.row("", "systemd-analyze security", &limit, &score.to_string(), score <= WORST_SCORE);
        Ok(())
    }

    fn state(&self) -> Result<String> {
        let status = self.status()?;
        let interfaces = status.get("interfaces").and_then(Value::as_array).context("interfaces")?;
        let device = interfaces.iter().find(|interface| interface.get("name") == Some(&DEVICE.into()));
        let state = device.and_then(|device| device.get("state")).and_then(Value::as_str);
        Ok(state.unwrap_or("not there").to_owned())
    }

    fn reload(&mut self) -> Result<()> {
        self.table.heading("systemctl reload");
        let before = self.container.property("sgd", "MainPID")?;
        let path = self.container.path(POLICY);
        let policy = fs::read_to_string(&path)?;
        let changed = policy.replace("\"443\"", &format!("\"{CLOSED}\""));
        ensure!(changed != policy, "{POLICY} has no rule for 443");
        fs::write(&path, changed)?;
        self.reloaded(2)?;
        let probe = self.site.tcp(CLOSED);
        self.table.probe("K10", &format!("new rule: {probe}"), true, &probe.run(patience::ALLOWED));

        fs::write(&path, "{")?;
        self.container.said(&["systemctl", "reload", "sgd"])?;
        let deadline = Instant::now() + PATIENCE;
        while self.green()? != "exit code 1" && Instant::now() < deadline {
            sleep(Duration::from_millis(100));
        }
        self.row("D22", "sgctl status after a broken policy", "exit code 1", &self.green()?);
        self.table.probe("D22", &format!("as before: {probe}"), true, &probe.run(patience::ALLOWED));
        let errors = self.journal(&["--priority", "err", "--output", "cat"])?;
        self.is("", "journalctl --priority err has the refusal", errors.contains("policy refused"));
        let all = self.journal(&["--output", "cat"])?;
        let plain = all.lines().any(|line| line == "ready") && !all.contains('\u{1b}');
        self.is("", "the journal's lines are plain, without a second time", plain);

        fs::write(&path, policy)?;
        self.reloaded(3)?;
        self.row("", "sgctl status after it was mended", "exit code 0", &self.green()?);
        self.filtered("K10", "mended")?;
        let after = self.container.property("sgd", "MainPID")?;
        self.is("", "all by one process", before == after);
        Ok(())
    }

    /// Asks for it, and waits for the policy of that number.
    fn reloaded(&self, generation: u64) -> Result<()> {
        self.container.said(&["systemctl", "reload", "sgd"])?;
        let deadline = Instant::now() + PATIENCE;
        while self.status()?.get("generation").and_then(Value::as_u64) < Some(generation) {
            ensure!(Instant::now() < deadline, "no generation {generation}:\n{}", self.journal(&[])?);
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn kill(&mut self, held: &mut Connection) -> Result<()> {
        self.table.heading("kill -9, and systemd starts it again");
        let before = self.container.property("sgd", "MainPID")?;
        let (after, cost) = traffic::under(self.site, held, || {
            self.container.said(&["kill", "-9", &before])?;
            self.another(&before)
        })?;
        self.cost("kill -9", &cost);
        self.is("D20", "another process is ready", after != before);
        let restarts = self.container.property("sgd", "NRestarts")?;
        self.row("", "restarts that systemd has counted", "1", &restarts);
        self.filtered("D20", "started again")
    }

    fn upgrade(&mut self, newer: &Path, held: &mut Connection) -> Result<()> {
        self.table.heading("dpkg -i of a higher version");
        let before = self.container.property("sgd", "MainPID")?;
        let (after, cost) = traffic::under(self.site, held, || {
            dpkg_install(&self.container, newer)?;
            self.another(&before)
        })?;
        self.cost("upgrade", &cost);
        self.is("D20", "another process is ready", after != before);
        let version = self.container.said(&["dpkg-query", "--show", "--showformat", "${Version}", "sgd"])?;
        self.row("", "version by dpkg", super::VERSIONS[1], &version);
        self.row("", "sgctl status", "exit code 0", &self.green()?);
        self.filtered("D20", "upgraded")
    }

    fn reboot(self, lab: &Lab, root: &Path) -> Result<Self> {
        let Self { container, site, table } = self;
        table.heading("reboot");
        container.power_off()?;
        let open = site.tcp(CLOSED).run(patience::ALLOWED)?;
        ensure!(open.answered(), "nothing filters while the host is off, but {}: {open}", site.tcp(CLOSED));
        let container = Container::boot(lab, root, &site.host)?;
        let mut host = Self { container, site, table };
        host.row("D25", "sgctl status", "exit code 0", &host.green()?);
        host.filtered("D25", "after the reboot")?;
        let active = |unit: &str| -> Result<u64> {
            Ok(host.container.property(unit, "ActiveEnterTimestampMonotonic")?.parse()?)
        };
        let (sgd, pre, network) = (active("sgd")?, active("network-pre.target")?, active("network.target")?);
        ensure!(sgd > 0 && pre > 0 && network > 0, "units are not active: {sgd}, {pre}, {network}");
        let what = format!("sgd is ready {} ms before network-pre.target", pre.saturating_sub(sgd) / 1000);
        host.is("D25", &what, sgd < pre && pre <= network);
        // Written between the two targets.
        let seen = fs::read_to_string(host.container.path("/var/lib/lab-network.json"))?;
        let enforced = serde_json::from_str::<Value>(&seen).ok().is_some_and(|status| {
            let interfaces = status.get("interfaces").and_then(Value::as_array);
            interfaces.is_some_and(|all| {
                all.iter().any(|one| {
                    one.get("name") == Some(&DEVICE.into()) && one.get("state") == Some(&"enforced".into())
                })
            })
        });
        host.is("D25", "who sets up the network finds the interface enforced", enforced);
        let boots = host.container.said(&["journalctl", "--unit", "sgd", "--output", "cat", "--no-pager"])?;
        let ready = boots.lines().filter(|line| *line == "ready").count();
        host.row("", "times that the journal has `ready`, over both boots", "4", &ready.to_string());
        Ok(host)
    }

    fn remove(&mut self, held: &mut Connection) -> Result<()> {
        self.table.heading("dpkg --remove, dpkg --purge");
        let (said, cost) = traffic::under_open(self.site, held, || {
            Ok(self.container.run(&["dpkg", "--remove", "sgd"])?.success("dpkg --remove")?)
        })?;
        let said = format!("{}{}", said.stdout, said.stderr);
        let expected = format!("sgd: detached, not filtered any more: {DEVICE}");
        let seen = said.lines().find(|line| line.starts_with("sgd: ")).unwrap_or("nothing");
        self.row("", "it says", &expected, seen);
        self.row("", &format!("allowed packets of {} that are lost", cost.sent), "0", &cost.lost.to_string());
        let probe = self.site.tcp(CLOSED);
        self.table.probe("", &format!("not filtered any more: {probe}"), true, &probe.run(patience::ALLOWED));
        let kept = ["/var/lib/sgd/last-good", POLICY].map(|path| self.container.path(path).exists());
        self.is("", "state and policy stay", kept == [true, true]);
        let gone = !self.container.path("/usr/bin/sgd").exists();
        let pins = self.container.run(&["test", "-e", "/sys/fs/bpf/sgd"])?.status.code();
        self.is("", "programs and pins are gone", gone && pins == Some(1));
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        // A policy that the package has not brought.
        fs::write(self.container.path("/etc/sgd/policy.d/mine.json"), "{}")?;
        self.container.said(&["dpkg", "--purge", "sgd"])?;
        let left: Vec<&str> = ["/etc/sgd", "/var/lib/sgd", "/var/log/sgd", "/run/sgd", "/etc/default/sgd"]
            .into_iter()
            .filter(|path| self.container.path(path).exists())
            .collect();
        self.row("", "what is left", "", &left.join(" "));
        let unit = self.container.property("sgd", "LoadState")?;
        self.row("", "the unit", "not-found", &unit);
        let failed = self.container.said(&["systemctl", "--failed", "--plain", "--no-legend"])?;
        if !failed.is_empty() {
            bail!("units have failed: {failed}");
        }
        Ok(())
    }
}

fn dpkg_install(container: &Container, package: &Path) -> Result<()> {
    fs::copy(package, container.path("/root/sgd.deb"))?;
    container.said(&["dpkg", "--install", "/root/sgd.deb"]).map(drop)
}
