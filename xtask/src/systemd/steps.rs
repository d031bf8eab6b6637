//! From the first installation to the last trace.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sg_tests::{Connection, Lab};

use super::container::Container;
use super::debian::{self, Debian};
use super::machine::Machine;
use super::site::{CLOSED, OPEN, STARTER_DEVICE, Site};
use super::traffic::{self, Boot, Cost};
use super::{PACKAGES, VERSIONS};
use crate::demo::table::Table;
use crate::vm::fetch::Tree;

/// Of `systemd-analyze security`; packaging/systemd/sgd.service states what it is.
const WORST_SCORE: f64 = 2.5;

/// On a host that is a container.
pub fn in_container(lab: &Lab, root: &Path, packages: [&Path; 2], table: &mut Table) -> Result<()> {
    let site = Site::of_container(lab)?;
    let boot = || Container::boot(lab, root, &site.netns);
    open(&site)?;
    let container = boot()?;
    for (package, to) in packages.iter().zip(PACKAGES) {
        std::fs::copy(package, root.join(to.trim_start_matches('/')))?;
    }
    let mut host = Host { debian: container, site: &site, table };
    host.before_reboot()?;
    let starts = host.starts()?;
    let Host { debian: container, table, .. } = host;
    table.heading("reboot");
    container.power_off()?;
    // Nothing filters while the host is off.
    open(&site)?;
    let mut host = Host { debian: boot()?, site: &site, table };
    host.after_reboot(starts)?;
    host.at_the_end()?;
    host.debian.power_off()
}

/// On a host that is a virtual machine, which really boots.
pub fn in_machine(
    lab: &Lab,
    tree: &Tree,
    disk: &Path,
    packages: [&Path; 2],
    short: bool,
    table: &mut Table,
) -> Result<()> {
    let site = Site::of_machine(lab)?;
    let (machine, boot) = traffic::at_boot(&site, || Machine::boot(lab, tree, disk, &site, packages))?;
    // Else it would prove nothing that none comes through later.
    ensure!(boot.allowed > 0 && boot.denied > 0, "without sgd nothing comes through at boot");
    println!(
        "without sgd {} of {} packets that no rule will allow come through at boot",
        boot.denied, boot.sent
    );
    open(&site)?;
    machine.said(&["ip", "link", "add", STARTER_DEVICE, "type", "veth", "peer", "name", "sg-try1"])?;
    let first = machine.said(&["cat", "/proc/sys/kernel/random/boot_id"])?;
    let mut host = Host { debian: machine, site: &site, table };
    if short {
        host.install()?;
    } else {
        host.before_reboot()?;
    }
    let starts = host.starts()?;

    host.table.heading("systemctl reboot");
    let ((), boot) = traffic::at_boot(&site, || host.debian.reboot())?;
    host.booted("reboot", &boot);
    let second = host.debian.said(&["cat", "/proc/sys/kernel/random/boot_id"])?;
    host.is("", "the kernel has booted anew", first != second);
    host.after_reboot(starts)?;
    let before = ["--boot", "-1", "--output", "cat"];
    let ready = host.ready(&before)?;
    host.row(
        "",
        "times that the journal of the boot before has `ready`",
        &starts.to_string(),
        &ready.to_string(),
    );
    if short {
        return host.debian.power_off();
    }

    host.table.heading("the power fails");
    let ((), boot) = traffic::at_boot(&site, || host.debian.fail())?;
    host.booted("power", &boot);
    let green = host.debian.green()?;
    host.row("D25", "sgctl status", "exit code 0", &green);
    host.filtered("D25", "after the failure")?;
    host.at_the_end()?;
    host.debian.power_off()
}

/// Without the filter everything comes through; else what is denied later would prove nothing.
fn open(site: &Site) -> Result<()> {
    for port in [OPEN, CLOSED] {
        let open = site.tcp(port).run(site.patience[0])?;
        ensure!(open.answered(), "without the filter {} should be open: {open}", site.tcp(port));
    }
    Ok(())
}

struct Host<'a, D> {
    debian: D,
    site: &'a Site,
    table: &'a mut Table,
}

impl<D: Debian> Host<'_, D> {
    fn before_reboot(&mut self) -> Result<()> {
        let mut held = self.site.tcp(OPEN).hold(self.site.patience[0])?;
        self.install()?;
        self.reload()?;
        self.kill(&mut held)?;
        self.upgrade(&mut held)
    }

    fn at_the_end(&mut self) -> Result<()> {
        let mut held = self.site.tcp(OPEN).hold(self.site.patience[0])?;
        self.remove(&mut held)?;
        self.purge()
    }

    fn row(&mut self, spec: &str, what: &str, expected: &str, seen: &str) {
        self.table.row(spec, what, expected, seen, expected == seen);
    }

    /// Whether something is so.
    fn is(&mut self, spec: &str, what: &str, so: bool) {
        self.row(spec, what, "yes", if so { "yes" } else { "no" });
    }

    /// The rule that the starter policy has, and one that it has not.
    fn filtered(&mut self, spec: &str, when: &str) -> Result<()> {
        for (port, allowed, wait) in
            [(OPEN, true, self.site.patience[0]), (CLOSED, false, self.site.patience[1])]
        {
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

    fn booted(&mut self, what: &str, boot: &Boot) {
        let what = format!("{what}, {} packets from outside", boot.sent);
        self.row("D25", &format!("{what}: let through without a rule"), "0", &boot.denied.to_string());
        self.is("D25", &format!("{what}: some with a rule, in the end"), boot.allowed > 0);
    }

    fn install(&mut self) -> Result<()> {
        self.table.heading("dpkg -i in a fresh Debian, systemctl start, the starter policy");
        self.debian.said(&["dpkg", "--install", PACKAGES[0]])?;
        self.debian.said(&["systemctl", "start", "sgd"])?;
        let green = self.debian.green()?;
        self.row("", "sgctl status", "exit code 0", &green);
        let state = self.debian.state(STARTER_DEVICE)?;
        self.row("", &format!("{STARTER_DEVICE}, by sgctl status"), "enforced", &state);
        let Site { own, policy, device, .. } = self.site;
        if let Some(own) = own {
            self.debian.reload(policy, own)?;
            let state = self.debian.state(device)?;
            self.row("", &format!("{device}, by a policy of its own, by sgctl status"), "enforced", &state);
        }
        self.filtered("K4", if own.is_some() { "own policy" } else { "starter policy" })?;
        let enabled = self.debian.run(&["systemctl", "is-enabled", "sgd"])?.stdout;
        self.row("D25", "systemctl is-enabled", "enabled", enabled.trim());
        // Prints what differs from what was packed.
        let verified = self.debian.run(&["dpkg", "--verify", "sgd"])?;
        self.row("", "dpkg --verify", "", verified.stdout.trim());
        let group = self.debian.said(&["stat", "--format", "%G %a", "/run/sgd/sgd.sock"])?;
        self.row("", "whose socket", "sgd 660", &group);
        let rotated = self.debian.run(&["logrotate", "--debug", "/etc/logrotate.d/sgd"])?;
        self.is("", "logrotate understands its configuration", rotated.status.success());
        let version = self.debian.said(&["sgd", "--version"])?;
        let told = ["commit:", "rustc", "object"].iter().all(|word| version.contains(word));
        self.is("", "sgd --version has build facts", told);

        let analysis = self.debian.said(&["systemd-analyze", "security", "--no-pager", "sgd.service"])?;
        let score = analysis.lines().last().and_then(|line| line.split(": ").nth(1)?.split(' ').next());
        let score: f64 = score.and_then(|text| text.parse().ok()).with_context(|| analysis.clone())?;
        let limit = format!("≤ {WORST_SCORE}");
        self.table.row("", "systemd-analyze security", &limit, &score.to_string(), score <= WORST_SCORE);
        Ok(())
    }

    fn reload(&mut self) -> Result<()> {
        self.table.heading("systemctl reload");
        let (path, wait) = (self.site.policy, self.site.patience[0]);
        let before = self.debian.property("sgd", "MainPID")?;
        let policy = self.debian.read(path)?;
        let changed = policy.replace("\"443\"", &format!("\"{CLOSED}\""));
        ensure!(changed != policy, "{path} has no rule for 443");
        self.debian.reload(path, &changed)?;
        let probe = self.site.tcp(CLOSED);
        self.table.probe("K10", &format!("new rule: {probe}"), true, &probe.run(wait));

        self.debian.write(path, "{")?;
        self.debian.said(&["systemctl", "reload", "sgd"])?;
        self.debian.wait("a complaint", || Ok(self.debian.green()? == "exit code 1"))?;
        let green = self.debian.green()?;
        self.row("D22", "sgctl status after a broken policy", "exit code 1", &green);
        self.table.probe("D22", &format!("as before: {probe}"), true, &probe.run(wait));
        let errors = self.debian.journal(&["--priority", "err", "--output", "cat"])?;
        self.is("", "journalctl --priority err has the refusal", errors.contains("policy refused"));
        let all = self.debian.journal(&["--output", "cat"])?;
        let plain = all.lines().any(|line| line == "ready") && !all.contains('\u{1b}');
        self.is("", "the journal's lines are plain, without a second time", plain);

        self.debian.reload(path, &policy)?;
        let green = self.debian.green()?;
        self.row("", "sgctl status after it was mended", "exit code 0", &green);
        self.filtered("K10", "mended")?;
        let after = self.debian.property("sgd", "MainPID")?;
        self.is("", "all by one process", before == after);
        Ok(())
    }

    fn kill(&mut self, held: &mut Connection) -> Result<()> {
        self.table.heading("kill -9, and systemd starts it again");
        let before = self.debian.property("sgd", "MainPID")?;
        let (after, cost) = traffic::under(self.site, held, || {
            self.debian.said(&["kill", "-9", &before])?;
            self.debian.another(&before)
        })?;
        self.cost("kill -9", &cost);
        self.is("D20", "another process is ready", after != before);
        let restarts = self.debian.property("sgd", "NRestarts")?;
        self.row("", "restarts that systemd has counted", "1", &restarts);
        self.filtered("D20", "started again")
    }

    fn upgrade(&mut self, held: &mut Connection) -> Result<()> {
        self.table.heading("dpkg -i of a higher version");
        let before = self.debian.property("sgd", "MainPID")?;
        let (after, cost) = traffic::under(self.site, held, || {
            self.debian.said(&["dpkg", "--install", PACKAGES[1]])?;
            self.debian.another(&before)
        })?;
        self.cost("upgrade", &cost);
        self.is("D20", "another process is ready", after != before);
        let version = self.debian.said(&["dpkg-query", "--show", "--showformat", "${Version}", "sgd"])?;
        self.row("", "version by dpkg", VERSIONS[1], &version);
        let green = self.debian.green()?;
        self.row("", "sgctl status", "exit code 0", &green);
        self.filtered("D20", "upgraded")
    }

    /// How often the journal says that sgd was ready.
    fn ready(&self, which: &[&str]) -> Result<usize> {
        let words = [&["journalctl", "--unit", "sgd", "--no-pager"][..], which].concat();
        Ok(self.debian.said(&words)?.lines().filter(|line| *line == "ready").count())
    }

    /// The same before a reboot, which there must have been.
    fn starts(&self) -> Result<usize> {
        let starts = self.ready(&["--boot", "--output", "cat"])?;
        ensure!(starts > 0, "the journal has no `ready`");
        Ok(starts)
    }

    /// `starts`: how often sgd had been ready before.
    fn after_reboot(&mut self, starts: usize) -> Result<()> {
        let green = self.debian.green()?;
        self.row("D25", "sgctl status", "exit code 0", &green);
        self.filtered("D25", "after the reboot")?;
        let active = |unit: &str| -> Result<u64> {
            Ok(self.debian.property(unit, "ActiveEnterTimestampMonotonic")?.parse()?)
        };
        let (sgd, pre, network) = (active("sgd")?, active("network-pre.target")?, active("network.target")?);
        ensure!(sgd > 0 && pre > 0 && network > 0, "units are not active: {sgd}, {pre}, {network}");
        let what = format!("sgd is ready {} ms before network-pre.target", pre.saturating_sub(sgd) / 1000);
        self.is("D25", &what, sgd < pre && pre <= network);
        // Written between the two targets.
        let seen = self.debian.read("/var/lib/lab-network.json")?;
        let status =
            serde_json::from_str::<Value>(&seen).with_context(|| format!("at network.target: {seen}"))?;
        let seen = debian::state(&status, self.site.device).unwrap_or("not there");
        self.row("D25", "what who sets up the network finds the interface", "enforced", seen);
        let ready = self.ready(&["--output", "cat"])?;
        let expected = (starts + 1).to_string();
        self.row("", "times that the journal has `ready`, over both boots", &expected, &ready.to_string());
        Ok(())
    }

    fn remove(&mut self, held: &mut Connection) -> Result<()> {
        self.table.heading("dpkg --remove, dpkg --purge");
        let (said, cost) = traffic::under_open(self.site, held, || {
            self.debian.run(&["dpkg", "--remove", "sgd"])?.success("dpkg --remove")
        })?;
        let said = format!("{}{}", said.stdout, said.stderr);
        let expected = format!("sgd: detached, not filtered any more: {}", self.site.device);
        let seen = said.lines().find(|line| line.starts_with("sgd: ")).unwrap_or("nothing");
        self.row("", "it says", &expected, seen);
        self.row("", &format!("allowed packets of {} that are lost", cost.sent), "0", &cost.lost.to_string());
        let probe = self.site.tcp(CLOSED);
        self.table.probe(
            "",
            &format!("not filtered any more: {probe}"),
            true,
            &probe.run(self.site.patience[0]),
        );
        let kept = self.debian.exists("/var/lib/sgd/last-good")? && self.debian.exists(self.site.policy)?;
        self.is("", "state and policy stay", kept);
        let gone = !self.debian.exists("/usr/bin/sgd")? && !self.debian.exists("/sys/fs/bpf/sgd")?;
        self.is("", "programs and pins are gone", gone);
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        // A policy that the package has not brought.
        self.debian.write("/etc/sgd/policy.d/mine.json", "{}")?;
        self.debian.said(&["dpkg", "--purge", "sgd"])?;
        let mut left = Vec::new();
        for path in ["/etc/sgd", "/var/lib/sgd", "/var/log/sgd", "/run/sgd", "/etc/default/sgd"] {
            if self.debian.exists(path)? {
                left.push(path);
            }
        }
        self.row("", "what is left", "", &left.join(" "));
        let unit = self.debian.property("sgd", "LoadState")?;
        self.row("", "the unit", "not-found", &unit);
        let failed = self.debian.said(&["systemctl", "--failed", "--plain", "--no-legend"])?;
        if !failed.is_empty() {
            bail!("units have failed: {failed}");
        }
        Ok(())
    }
}
