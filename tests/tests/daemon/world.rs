//! What the tests share: a site that serves what is asked of it, policies as JSON, and questions to the daemon.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sg_tests::{
    Connection, Daemon, Guest, Netns, Outcome, Probe, Servers, Topology, Transport, outside, patience,
    run_all,
};

/// How long a test waits for what must happen some time, on however busy a machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A site on which every probe finds a server.
pub struct World {
    pub site: Topology,
    served: RefCell<BTreeSet<(Transport, SocketAddr)>>,
    servers: RefCell<Vec<Servers>>,
}

/// A probe and what it must see.
pub type Row = (Probe, Outcome);

pub fn allowed(probe: Probe) -> Row {
    (probe, Outcome::Answered)
}

/// Silence: a refusal would mean that the packet got through.
pub fn denied(probe: Probe) -> Row {
    (probe, Outcome::TimedOut)
}

impl World {
    pub fn new(guests: u8) -> Self {
        Self {
            site: Topology::with_guests(guests).unwrap(),
            served: RefCell::default(),
            servers: RefCell::default(),
        }
    }

    pub fn guest(&self, index: usize) -> &Guest {
        self.site.guest(index).unwrap()
    }

    pub fn serve<'a>(&self, probes: impl IntoIterator<Item = &'a Probe>) {
        let new: Vec<&Probe> = probes
            .into_iter()
            .filter(|probe| self.served.borrow_mut().insert((probe.transport(), probe.destination())))
            .collect();
        self.servers.borrow_mut().extend(self.site.serve(new).unwrap());
    }

    /// Sends all probes side by side; every one must see what its row says.
    #[track_caller]
    pub fn expect(&self, rows: &[Row]) {
        self.serve(rows.iter().map(|(probe, _)| probe));
        expect(rows);
    }

    /// Opens a flow that stays.
    #[track_caller]
    pub fn hold(&self, probe: &Probe) -> Connection {
        self.serve([probe]);
        probe.hold(patience::allowed()).unwrap()
    }

    pub fn tcp(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> Probe {
        let from = from.into();
        Probe::tcp(self.site.owner(from), (to.into(), port)).source(from)
    }

    pub fn udp(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> Probe {
        let from = from.into();
        Probe::udp(self.site.owner(from), (to.into(), port)).source(from)
    }

    pub fn ping(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Probe {
        let from = from.into();
        Probe::ping(self.site.owner(from), to).source(from)
    }
}

/// Sends all probes side by side; every one must see what its row says.
#[track_caller]
pub fn expect(rows: &[Row]) {
    let probes: Vec<(Probe, Duration)> = rows
        .iter()
        .map(|(probe, outcome)| {
            (probe.clone(), if outcome.answered() { patience::allowed() } else { patience::DENIED })
        })
        .collect();
    let wrong: Vec<String> = rows
        .iter()
        .zip(run_all(&probes))
        .filter_map(|((probe, wanted), seen)| {
            let seen = seen.unwrap();
            (seen != *wanted).then(|| format!("{probe}: {seen}, expected {wanted}"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[track_caller]
pub fn alive(connection: &mut Connection) {
    assert_eq!(connection.exchange(patience::allowed()).unwrap(), Outcome::Answered);
}

#[track_caller]
pub fn cut(connection: &mut Connection) {
    assert_eq!(connection.exchange(patience::DENIED).unwrap(), Outcome::TimedOut);
}

/// The administrator's and anybody's addresses of the family of `like`.
pub fn admin(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { outside::ADMIN.into() } else { outside::ADMIN_V6.into() }
}

pub fn stranger(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { outside::STRANGER.into() } else { outside::STRANGER_V6.into() }
}

/// A policy of project shop, VPC main, with these further fields.
#[expect(clippy::needless_pass_by_value, reason = "called with json!(…)")]
pub fn policy(fields: Value) -> String {
    let mut policy = json!({ "version": 1, "project": "shop", "vpc": "main" });
    policy.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::to_string_pretty(&policy).unwrap()
}

/// The guest's interface with these groups.
pub fn interface(guest: &Guest, groups: &[&str]) -> Value {
    json!({
        "name": guest.device, "instance": guest.device, "mac": guest.mac,
        "addresses": [guest.v4, guest.v6], "security_groups": groups,
    })
}

/// The same with one more field.
pub fn with(mut object: Value, field: &str, value: impl Into<Value>) -> Value {
    object.as_object_mut().unwrap().insert(field.to_owned(), value.into());
    object
}

pub fn tcp_from(source: &str, port: u16) -> Value {
    json!({ "protocol": "TCP", "source": source, "port": port })
}

pub fn udp_from(source: &str, port: u16) -> Value {
    json!({ "protocol": "UDP", "source": source, "port": port })
}

pub fn ping_from(source: &str) -> Value {
    let kind = if source.contains(':') { 128 } else { 8 };
    json!({ "protocol": "ICMP", "source": source, "icmp_type": kind })
}

/// The daemon's word on one interface.
pub fn status_of(daemon: &Daemon, interface: &str) -> Value {
    let status = daemon.status().unwrap();
    let interfaces = status["interfaces"].as_array().unwrap();
    interfaces
        .iter()
        .find(|found| found["name"] == interface)
        .unwrap_or_else(|| panic!("no {interface} in {status:#}"))
        .clone()
}

/// Why the newest policy is not in force.
pub fn refused(daemon: &Daemon) -> Option<String> {
    daemon.status().unwrap()["refused"].as_str().map(str::to_owned)
}

/// Waits until something holds.
#[track_caller]
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience::of_daemon(DEADLINE);
    while !holds() {
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a policy that must be refused for a reason with these words, and checks that nothing else has changed.
#[track_caller]
pub fn must_refuse(daemon: &Daemon, policy: &str, words: &[&str]) {
    let before = daemon.generation().unwrap();
    daemon.write_policy(policy).unwrap();
    wait(&format!("a refusal with {words:?}"), || {
        refused(daemon).is_some_and(|why| words.iter().all(|word| why.contains(word)))
    });
    assert_eq!(daemon.generation().unwrap(), before, "the running policy stays");
    // The log quotes what it is told.
    let log = daemon.log().replace('\\', "");
    for word in words {
        assert!(log.contains(word), "{word:?} is in the log too");
    }
}

/// `sgctl … --json`, which must succeed with one of these exit codes.
#[track_caller]
pub fn ask(daemon: &Daemon, arguments: &[&str], codes: &[i32]) -> Value {
    let output = daemon.sgctl(arguments).unwrap();
    let code = output.status.code().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(codes.contains(&code), "sgctl {arguments:?}: exit code {code}: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Pulls a cable from a new port of the host's bridge to `eth0` in a namespace of its own.
pub fn plug(site: &Topology, device: &str, number: u8) -> Guest {
    plug_as(site, device, number, "late")
}

/// As [`plug`], when there has been a guest of that number before.
pub fn plug_as(site: &Topology, device: &str, number: u8, name: &str) -> Guest {
    let netns = site.lab.netns(&format!("{name}-{device}-{number}")).unwrap();
    let mac = format!("52:54:00:00:01:{number:02x}");
    connect(&site.host, device, &netns, &mac);
    let (v4, v6) = (format!("10.0.0.{number}"), format!("fd00::{number:x}"));
    netns
        .ip(&format!(
            "link set eth0 up\naddress add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\n\
             route add default via {}\nroute add default via {} dev eth0",
            outside::ROUTER,
            outside::ROUTER_V6
        ))
        .unwrap();
    // A port that has only just been told of its cable does not forward yet.
    wait("the port forwards", || {
        let mut ip = site.host.command("ip");
        let output = ip.args(["-details", "link", "show", "dev", device]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("state forwarding")
    });
    Guest { netns, device: device.to_owned(), mac, v4: v4.parse().unwrap(), v6: v6.parse().unwrap() }
}

fn connect(host: &Netns, device: &str, netns: &Netns, mac: &str) {
    host.ip(&format!(
        "link add {device} type veth peer name eth0 address {mac} netns {}\nlink set {device} master br0 up",
        netns.name()
    ))
    .unwrap();
}

/// From its next start on with the capabilities of `packaging/systemd/sgd.service`, and no others.
pub fn as_the_unit_has_it(daemon: &mut Daemon) {
    let unit = include_str!("../../../packaging/systemd/sgd.service");
    let bounding = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let set: String = bounding
        .split_whitespace()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    daemon.set_wrapper(&["setpriv", &format!("--bounding-set=-all{set}"), "--no-new-privs"]);
}
