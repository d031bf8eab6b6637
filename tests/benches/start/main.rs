//! How long `sgd` takes from its start until it says that it is ready, with few and with many interfaces: *cold*, when nothing
//! is pinned, and *warm*, when the sgd before was killed and left everything in force.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sg_tests::figures::Figures;
use sg_tests::{Lab, Netns, Process, binary};

/// How often each kind of start is tried; the median is printed.
const ROUNDS: usize = 7;
/// No start takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "quick");
    let rounds = if quick { 3 } else { ROUNDS };
    let counts = std::env::args().skip(1).filter(|argument| argument != "--bench" && argument != "quick");
    let counts: Vec<u16> = counts
        .map(|argument| argument.parse().with_context(|| format!("{argument} is no number of interfaces")))
        .collect::<Result<_>>()?;
    ensure!(!counts.is_empty(), "say with how many interfaces");
    println!("{}: from exec to READY=1, median of {rounds} (fastest – slowest)", binary("sgd")?.display());
    let mut figures = Figures::open()?;
    println!("{:>10}  {:>8}  {:<28}  warm, after kill -9", "interfaces", "hook", "cold");
    for count in counts {
        for hook in ["tc", "xdp"] {
            let site = Site::new(count, hook)?;
            let cold = (0..rounds).map(|_| site.cold()).collect::<Result<Vec<_>>>()?;
            drop(site.start()?);
            let warm = (0..rounds).map(|_| Ok(site.start()?.0)).collect::<Result<Vec<_>>>()?;
            for (how, times) in [("cold", &cold), ("warm", &warm)] {
                let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
                let labels = json!({ "start": how, "interfaces": count, "hook": hook });
                figures.add("start", "s", &labels, &seconds)?;
            }
            println!("{count:>10}  {hook:>8}  {:<28}  {}", figure(cold), figure(warm));
        }
    }
    Ok(())
}

/// A host with veth devices, all of which the policy names.
struct Site {
    host: Netns,
    pins: sg_tests::PinDirectory,
    notify: UnixDatagram,
    lab: Lab,
}

impl Site {
    fn new(count: u16, hook: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.netns("host")?;
        let lines: Vec<String> = (0..count)
            .map(|n| {
                format!(
                    "link add tap{n} type veth peer name peer{n}\nlink set tap{n} up\nlink set peer{n} up"
                )
            })
            .collect();
        host.ip(&lines.join("\n"))?;
        let interfaces: Vec<_> = (0..count)
            .map(|n| {
                json!({ "name": format!("tap{n}"), "instance": format!("vm{n}"), "hook": hook,
                        "addresses": [format!("10.0.{}.{}", n / 200, n % 200 + 1)], "security_groups": ["web-server"] })
            })
            .collect();
        let policy = json!({
            "version": 1, "project": "shop", "vpc": "main",
            "security_groups": [{ "name": "web-server", "inbound": [
                { "protocol": "TCP", "source": "0.0.0.0/0", "port": "80" },
                { "protocol": "TCP", "source": "@web-server", "port": "8000-9000" },
            ] }],
            "interfaces": interfaces,
        });
        std::fs::write(lab.directory().join("policy.json"), policy.to_string())?;
        let pins = lab.pins()?;
        let notify = UnixDatagram::bind(lab.directory().join("notify"))?;
        notify.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { host, pins, notify, lab })
    }

    /// With nothing in the kernel.
    fn cold(&self) -> Result<Duration> {
        let (taken, process) = self.start()?;
        drop(process);
        std::fs::remove_dir_all(self.pins.path())?;
        Ok(taken)
    }

    /// Until it is ready. It is killed when the process is dropped.
    fn start(&self) -> Result<(Duration, Process)> {
        let at = |name: &str| self.lab.directory().join(name);
        let mut command = self.host.command(binary("sgd")?);
        command
            .args(["--policy".as_ref(), at("policy.json").as_os_str()])
            .args(["--state-dir".as_ref(), at("state").as_os_str()])
            .args(["--socket".as_ref(), at("sgd.sock").as_os_str()])
            .args(["--pin-dir".as_ref(), self.pins.path().as_os_str()])
            .env("NOTIFY_SOCKET", at("notify"));
        // Nothing of the start before must be taken for this one's.
        self.notify.set_nonblocking(true)?;
        while self.notify.recv(&mut [0; 512]).is_ok() {}
        self.notify.set_nonblocking(false)?;
        let started = Instant::now();
        let process = Process::serve(command, &at("sgd.log"))?;
        let mut message = [0; 512];
        loop {
            let length = self.notify.recv(&mut message).with_context(|| said(&at("sgd.log")))?;
            let message = message.get(..length).unwrap_or_default();
            if message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok((started.elapsed(), process));
            }
        }
    }
}

fn said(log: &Path) -> String {
    format!("sgd is not ready in {PATIENCE:?}:\n{}", std::fs::read_to_string(log).unwrap_or_default())
}

fn figure(mut times: Vec<Duration>) -> String {
    times.sort();
    let (first, last) = (times.first(), times.last());
    let [median, first, last] = [times.get(times.len() / 2), first, last]
        .map(|time| time.map_or_else(String::new, |time| format!("{:.3}", time.as_secs_f64())));
    format!("{median} s ({first} – {last})")
}
