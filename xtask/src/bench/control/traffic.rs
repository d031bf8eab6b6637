//! New flows while the policy is swapped again and again: each has to be judged as both policies say.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use sg_tests::figures::Figures;
use sg_tests::{Daemon, Netns, Topology, outside, write_file};

use super::super::filters::{CLIENTS, DENIED_PORT, UDP_PORT};
use super::{OURS, Rules};

/// What both policies allow, from the administrator's address.
const CLIENT: &str = "203.0.113.0/24";
/// An answer that takes longer is none, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between eight queries and the next: so that flows are over before their table is full of them.
const PACE: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Seen {
    allowed: u64,
    lost: u64,
    denied: u64,
    passed: u64,
}

pub fn measure(swaps: usize, figures: &mut Figures) -> Result<()> {
    let policies = [0, 1].map(|variant| {
        let mut rules = Rules::new(10_000, variant);
        if let Some(last) = rules.0.last_mut() {
            CLIENT.clone_into(&mut last.0);
        }
        let mut policy = rules.sgd(None);
        if let Some(timeouts) = policy.pointer_mut("/settings/timeouts") {
            *timeouts = json!({ "udp": 1 });
        }
        policy.to_string().replace(CLIENTS, CLIENT)
    });
    let [first, _] = &policies;
    let site = Topology::with_guests(1)?;
    let daemon = Daemon::start_with(&site, first, &["--live-flows", "800000"])?;
    let guest = site.guest(0)?;
    let _servers = guest.netns.serve_udp(&[(guest.v4, UDP_PORT).into(), (guest.v4, DENIED_PORT).into()])?;
    let mut paths = Vec::new();
    for (number, text) in policies.iter().enumerate() {
        let path = write_file(&daemon.state_dir(), &format!("{number}.json"), text)?;
        paths.push(path.to_string_lossy().into_owned());
    }
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let seen = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&site, guest.v4, &stop));
        let swapped = paths.iter().cycle().skip(1).take(swaps).try_for_each(|path| {
            let output = daemon.sgctl(&["apply", path])?;
            ensure!(output.status.success(), "sgctl apply: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let seen = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        swapped.map(|()| seen)
    })?;
    ensure!(seen.allowed > 100 && seen.denied > 100, "too little traffic to say anything: {seen:?}");
    println!(
        "{swaps} swaps of 10000 rules in {:.1} s: of {} new flows {} lost, of {} that no policy allows {} passed",
        began.elapsed().as_secs_f64(),
        seen.allowed,
        seen.lost,
        seen.denied,
        seen.passed
    );
    let labels = json!({ "filter": OURS, "rules": 10_000, "swaps": swaps, "new flows": seen.allowed, "denied": seen.denied });
    figures.add("lost while swapping", "packets", &labels, &[(seen.lost + seen.passed) as f64])
}

/// Every query is of a flow of its own. One in eight is one that no policy allows.
fn ask(site: &Topology, to: IpAddr, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut refused = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..7 {
            let socket = socket(&site.outside, to, UDP_PORT)?;
            socket.send(b"?")?;
            seen.allowed += 1;
            let answered = socket.recv(&mut [0; 8]).is_ok();
            seen.lost += u64::from(!answered);
        }
        std::thread::sleep(PACE);
        let socket = socket(&site.outside, to, DENIED_PORT)?;
        socket.send(b"?")?;
        seen.denied += 1;
        refused.push(socket);
        if refused.len() > 64 {
            seen.passed += answers(&mut refused)?;
        }
    }
    std::thread::sleep(PATIENCE);
    seen.passed += answers(&mut refused)?;
    Ok(seen)
}

/// How many of them got an answer, until now.
fn answers(sockets: &mut Vec<UdpSocket>) -> Result<u64> {
    let mut passed = 0;
    for socket in sockets.drain(..) {
        socket.set_nonblocking(true)?;
        match socket.recv(&mut [0; 8]) {
            Ok(_) => passed += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(passed)
}

fn socket(from: &Netns, to: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = from.run(|| UdpSocket::bind((outside::ADMIN, 0)))??;
    socket.connect((to, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
