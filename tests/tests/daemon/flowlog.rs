//! The flow log: real traffic of a known size, and what is written of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, outside};

use crate::flows::Pings;
use crate::metrics::{METRICS, scrape};
use crate::packets::RawIp;
use crate::world::{World, ask, interface, policy, udp_from, wait, with};

/// A line of the log, in whatever form it was written.
#[derive(Debug, Clone)]
struct Line {
    interface: String,
    source: String,
    destination: String,
    ports: (u16, u16),
    protocol: u8,
    packets: u64,
    bytes: u64,
    start: u64,
    end: u64,
    action: String,
    status: String,
    direction: String,
    rules: String,
    reason: String,
    skipped: u64,
}

/// Reads lines of the AWS format as others do: Python, which splits at blanks and knows the fields by their places.
const PARSER: &str = r#"
import json, sys
names = ("version account_id interface_id srcaddr dstaddr srcport dstport protocol packets bytes start end action log_status "
         "direction instance rules reason tcp_flags skipped").split()
for line in sys.stdin:
    fields = line.rstrip("\n").split(" ")
    assert len(fields) == len(names), line
    record = {name: field for name, field in zip(names, fields) if field != "-"}
    assert record["version"] == "2" and record["log_status"] in ("OK", "NODATA", "SKIPDATA"), line
    for name in "version srcport dstport protocol packets bytes start end tcp_flags skipped".split():
        if name in record:
            record[name] = int(record[name])
    print(json.dumps(record))
"#;

fn read(format: &str, text: &str) -> Vec<Line> {
    let json = match format {
        "json" => text.to_owned(),
        _ => {
            let mut python = Command::new("python3")
                .args(["-c", PARSER])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("cannot run python3; `cargo xtask setup` installs it");
            let mut stdin = python.stdin.take().unwrap();
            let text = text.to_owned();
            let feed = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, text.as_bytes()));
            let output = python.wait_with_output().unwrap();
            feed.join().unwrap().unwrap();
            assert!(output.status.success(), "the parser refuses the log");
            String::from_utf8(output.stdout).unwrap()
        }
    };
    json.lines()
        .map(|line| of_json(&serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))))
        .collect()
}

fn of_json(value: &Value) -> Line {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| value[name].as_u64().unwrap_or_default();
    let rules = match &value["rules"] {
        Value::Array(rules) => rules.iter().map(|rule| rule.as_str().unwrap()).collect::<Vec<_>>().join(","),
        _ => text("rules"),
    };
    let direction = match text("direction").as_str() {
        "ingress" => "inbound".to_owned(),
        "egress" => "outbound".to_owned(),
        other => other.to_owned(),
    };
    Line {
        interface: text("interface_id"),
        source: text("srcaddr"),
        destination: text("dstaddr"),
        ports: (number("srcport") as u16, number("dstport") as u16),
        protocol: number("protocol") as u8,
        packets: number("packets"),
        bytes: number("bytes"),
        start: number("start"),
        end: number("end"),
        action: text("action"),
        status: text("log_status"),
        direction,
        rules,
        reason: text("reason"),
        skipped: number("skipped"),
    }
}

/// All files of a log, the oldest first.
fn whole(path: &Path) -> String {
    let mut numbers: Vec<u32> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("flow.log.")?.parse().ok())
        .collect();
    numbers.sort_unstable_by(|one, other| other.cmp(one));
    let rotated = numbers.iter().map(|number| PathBuf::from(format!("{}.{number}", path.display())));
    rotated
        .chain([path.to_owned()])
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "the last line of {} is cut", path.display());
            text
        })
        .collect()
}

/// The guest, an outside that has sockets everywhere, and a policy that lets some of it through.
struct Site {
    world: World,
    log: PathBuf,
}

impl Site {
    fn new() -> Self {
        let world = World::new(1);
        let directory = world.site.lab.directory().join("log");
        fs::create_dir(&directory).unwrap();
        Self { log: directory.join("flow.log"), world }
    }

    fn own(&self) -> Ipv4Addr {
        let IpAddr::V4(own) = self.world.guest(0).v4.to_string().parse().unwrap() else { panic!("no IPv4") };
        own
    }

    fn policy(&self) -> String {
        policy(json!({
            "security_groups": [{
                "name": "webs",
                "inbound": [udp_from("203.0.113.0/24", 1000)],
                "outbound": [
                    { "protocol": "UDP", "destination": "8.8.8.8/32", "port": 54 },
                    { "protocol": "UDP", "destination": "8.8.8.8/32", "port": "60-64000" },
                ],
            }],
            "interfaces": [with(interface(self.world.guest(0), &["webs"]), "hook", "tc")],
        }))
    }

    fn arguments(&self, format: &str, more: &[&str]) -> Vec<String> {
        let log = self.log.display().to_string();
        let mut arguments = ["--flow-log", &log, "--flow-log-format", format].map(str::to_owned).to_vec();
        if !more.contains(&"--flow-log-interval") {
            arguments.extend(["--flow-log-interval", "5"].map(str::to_owned));
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments
    }

    fn start(&self, format: &str, more: &[&str]) -> Daemon {
        let arguments = self.arguments(format, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Daemon::start_with(&self.world.site, &self.policy(), &arguments).unwrap()
    }

    fn lines(&self, format: &str) -> Vec<Line> {
        read(format, &whole(&self.log))
    }
}

fn bind(netns: &Netns, address: (Ipv4Addr, u16)) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind(address).unwrap()).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    socket
}

/// Asks so many times with so many bytes, and is answered with twice as many.
fn talk(ours: &UdpSocket, theirs: &UdpSocket, times: usize, bytes: usize) {
    let mut buffer = [0; 2000];
    for _ in 0..times {
        ours.send_to(&vec![1; bytes], theirs.local_addr().unwrap()).unwrap();
        let (length, from) = theirs.recv_from(&mut buffer).unwrap();
        assert_eq!(length, bytes);
        theirs.send_to(&vec![2; 2 * bytes], from).unwrap();
        assert_eq!(ours.recv(&mut buffer).unwrap(), 2 * bytes);
    }
}

/// IP and UDP.
const HEADERS: u64 = 28;

/// Packets and bytes of UDP by (source, source port, destination, destination port, action, reason).
type Sums = BTreeMap<(String, u16, String, u16, String, String), (u64, u64)>;

fn sums(lines: &[Line]) -> Sums {
    let mut sums = Sums::new();
    for line in
        lines.iter().filter(|line| line.status == "OK" && line.protocol == 17 && line.source.contains('.'))
    {
        let key = (
            line.source.clone(),
            line.ports.0,
            line.destination.clone(),
            line.ports.1,
            line.action.clone(),
            line.reason.clone(),
        );
        let sum = sums.entry(key).or_default();
        *sum = (sum.0 + line.packets, sum.1 + line.bytes);
    }
    sums
}

#[test]
fn connections_tell_what_they_have_carried_while_that_is_counted() {
    let site = Site::new();
    let own = site.own();
    let mut daemon = Daemon::start_with(&site.world.site, &site.policy(), &[]).unwrap();
    let (guest, outside) = (&site.world.guest(0).netns, &site.world.site.outside);
    let (dns, other) = (bind(outside, (outside::DNS, 54)), bind(outside, (outside::DNS, 60)));
    let (ours, few, silent) = (bind(guest, (own, 2000)), bind(guest, (own, 2001)), bind(guest, (own, 2002)));
    talk(&ours, &dns, 3, 10);
    talk(&silent, &dns, 2, 10);
    let flows = |daemon: &Daemon, arguments: &[&str]| {
        let arguments: Vec<&str> = ["flows", "--json"].into_iter().chain(arguments.iter().copied()).collect();
        ask(daemon, &arguments, &[0])
    };
    let top = |daemon: &Daemon| {
        let output = daemon.sgctl(&["top", "--once", "--interval", "0.2"]).unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };

    // Not counted: it says so, and how they are.
    let listed = flows(&daemon, &["--port", "54"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed:#}");
    assert!(listed.as_array().unwrap().iter().all(|flow| flow.get("traffic").is_none()), "{listed:#}");
    let output = daemon.sgctl(&["flows", "--port", "54"]).unwrap();
    let (text, note) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(text.lines().count() == 3 && !text.contains("BYTES"), "{text}");
    assert!(note.contains("are not counted") && note.contains("--flow-log"), "{note}");
    for key in ["bytes", "packets"] {
        let output = daemon.sgctl(&["flows", "--sort", key]).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{complaint}");
        assert!(complaint.contains("not counted") && complaint.contains("--flow-log PATH"), "{complaint}");
    }
    assert!(top(&daemon).contains("bytes: not counted (sgd --flow-log)"), "{}", top(&daemon));

    // Counted, from now on: connections that were there, those that begin, and one that says nothing more.
    daemon.terminate().unwrap();
    let arguments = site.arguments("json", &[]);
    daemon.set_arguments(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    daemon.resume().unwrap();
    talk(&ours, &dns, 17, 100);
    talk(&few, &other, 5, 700);
    let of = |packets: u64, bytes: u64| {
        let way = |bytes: u64| json!({ "packets": packets, "bytes": packets * (bytes + HEADERS) });
        json!({ "inbound": way(2 * bytes), "outbound": way(bytes) })
    };
    let listed = flows(&daemon, &["--protocol", "udp", "--remote", "8.8.8.8", "--sort", "local"]);
    let found = |port: u16| {
        let found = listed.as_array().unwrap().iter().find(|flow| flow["local_port"] == port);
        found.unwrap_or_else(|| panic!("{port}: {listed:#}")).as_object().unwrap()["traffic"].clone()
    };
    assert_eq!((found(2000), found(2001)), (of(17, 100), of(5, 700)), "{listed:#}");
    assert_eq!(found(2002), Value::Null, "{listed:#}");
    let ports = |key: &str, more: &[&str]| -> Vec<u64> {
        let arguments: Vec<&str> =
            ["--protocol", "udp", "--remote", "8.8.8.8", "--sort", key].iter().chain(more).copied().collect();
        let listed = flows(&daemon, &arguments);
        listed.as_array().unwrap().iter().map(|flow| flow["local_port"].as_u64().unwrap()).collect()
    };
    assert_eq!(ports("packets", &[]), [2000, 2001, 2002]);
    assert_eq!(ports("bytes", &[]), [2001, 2000, 2002]);
    assert_eq!(ports("bytes", &["--reverse", "--limit", "2"]), [2002, 2000]);
    let output = daemon.sgctl(&["flows", "--remote", "8.8.8.8", "--sort", "packets"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().next().unwrap().contains("PACKETS IN/OUT"), "{text}");
    let first: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let bytes = format!("{}/{}", 17 * (200 + HEADERS), 17 * (100 + HEADERS));
    assert!(first.contains(&"17/17") && first.contains(&bytes.as_str()), "{text}");
    assert_eq!(output.stderr, b"");

    // A ping is a connection too.
    let mut ping = Pings::new(outside, outside::ADMIN.into(), own.into(), 0x3333);
    daemon
        .apply(&site.policy().replace(
            "\"inbound\": [",
            "\"inbound\": [{\"protocol\":\"ICMP\",\"source\":\"203.0.113.0/24\"},",
        ))
        .unwrap();
    (0..3).for_each(|_| assert!(ping.answered(sg_tests::patience::ALLOWED)));
    let listed = flows(&daemon, &["--protocol", "icmp"]);
    let way = json!({ "packets": 3, "bytes": 3 * HEADERS });
    assert_eq!(listed[0]["traffic"], json!({ "inbound": way, "outbound": way }), "{listed:#}");

    // Whoever has most of it stands first in top, whatever number of connections he has.
    let many: Vec<UdpSocket> = (0..4).map(|number| bind(guest, (own, 2100 + number))).collect();
    let busy = bind(outside, (outside::ADMIN, 61));
    daemon.apply(&site.policy().replace("8.8.8.8/32", "0.0.0.0/0")).unwrap();
    many.iter().for_each(|socket| talk(socket, &busy, 1, 1));
    wait("top tells bytes", || {
        let text = top(&daemon);
        let row = |remote: &str| {
            let line = text.lines().find(|line| line.contains(remote))?;
            let words: Vec<_> = line.split(remote).nth(1).unwrap().split_whitespace().collect();
            Some((text.find(remote)?, words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()))
        };
        let (Some((first, dns)), Some((second, admin))) = (row("8.8.8.8"), row("203.0.113.10")) else {
            return false;
        };
        let known = first < second
            && dns[..2] == ["tap0", "3"]
            && admin[0] == "tap0"
            && admin[1].starts_with(['4', '5']);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        known && dns[2].starts_with("16.8k") && text.contains("BYTES*") && text.contains("t remotes")
    });
}

fn tells_what_was_sent(format: &str) {
    let site = Site::new();
    let own = site.own();
    let mut daemon = site.start(format, &[]);
    let (guest, outside) = (&site.world.guest(0).netns, &site.world.site.outside);
    let dns = bind(outside, (outside::DNS, 54));
    let mut expected = Sums::new();
    let mut expect = |from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), why: &str, packets: u64, bytes: u64| {
        let action = if why.is_empty() { "ACCEPT" } else { "REJECT" };
        let key = (from.0.to_string(), from.1, to.0.to_string(), to.1, action.to_owned(), why.to_owned());
        expected.insert(key, (packets, bytes));
    };
    for (number, (times, bytes)) in [(1, 1), (17, 100), (40, 700)].into_iter().enumerate() {
        let ours = bind(guest, (own, 2000 + number as u16));
        talk(&ours, &dns, times, bytes);
        let (times, bytes) = (times as u64, bytes as u64);
        let (here, there) = ((own, 2000 + number as u16), (outside::DNS, 54));
        expect(here, there, "", times, times * (bytes + HEADERS));
        expect(there, here, "", times, times * (2 * bytes + HEADERS));
    }
    // What no rule allows, from outside and from inside; and what is not the guest's to say.
    let raw = RawIp::new(outside);
    for _ in 0..9 {
        raw.udp(SocketAddrV4::new(outside::ADMIN, 4000), SocketAddrV4::new(own, 1001), b"12345");
    }
    expect((outside::ADMIN, 4000), (own, 1001), "no_rule", 9, 9 * (5 + HEADERS));
    let ours = bind(guest, (own, 3000));
    for _ in 0..4 {
        ours.send_to(b"1", (outside::DNS, 55)).unwrap();
    }
    expect((own, 3000), (outside::DNS, 55), "no_rule", 4, 4 * (1 + HEADERS));
    let forged = Ipv4Addr::new(10, 0, 0, 77);
    let raw = RawIp::new(guest);
    for _ in 0..3 {
        raw.udp(SocketAddrV4::new(forged, 9), SocketAddrV4::new(outside::DNS, 54), b"12");
    }
    expect((forged, 9), (outside::DNS, 54), "source_address", 3, 3 * (2 + HEADERS));

    wait("all of it is in the log", || {
        sums(&site.lines(format)) == expected || {
            // Nothing is ever too much.
            for (key, (packets, bytes)) in sums(&site.lines(format)) {
                let most = expected.get(&key).unwrap_or_else(|| panic!("nobody has sent {key:?}"));
                assert!(packets <= most.0 && bytes <= most.1, "{key:?} {packets} {bytes}");
            }
            false
        }
    });
    let lines = site.lines(format);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for line in lines.iter().filter(|line| line.status == "OK") {
        assert_eq!(line.interface, "tap0");
        assert!(line.start <= line.end && line.end <= now && line.start + 3600 > now, "{line:?} {now}");
    }
    let rule = |port: u16, direction: &str, action: &str| {
        let mut of_port = lines.iter().filter(|line| line.ports.0 == port || line.ports.1 == port);
        let found = of_port.find(|line| line.direction == direction && line.action == action);
        found.unwrap_or_else(|| panic!("{port} {direction} {action}")).rules.clone()
    };
    // Of both directions it is the rule that has let the flow begin.
    assert_eq!(rule(54, "outbound", "ACCEPT"), "webs/outbound[0]");
    assert_eq!(rule(54, "inbound", "ACCEPT"), "webs/outbound[0]");
    assert_eq!(rule(1001, "inbound", "REJECT"), "");
    // Somebody else's address: refused before any rule was asked.
    assert_eq!(rule(54, "outbound", "REJECT"), "");
    let status = daemon.status().unwrap();
    assert_eq!(status["flow_log"]["lost_records"], 0, "{status:#}");
    assert!(status["flow_log"]["records"].as_u64().unwrap() >= lines.len() as u64, "{status:#}");
    let text = String::from_utf8(daemon.sgctl(&["status"]).unwrap().stdout).unwrap();
    assert!(text.contains("flow.log: ") && text.contains(" records written"), "{text}");

    // Whoever reads JSON is told what to expect.
    if format == "json" {
        let schema = daemon.sgctl(&["schema", "--flow-log"]).unwrap();
        let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
        for line in whole(&site.log).lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            for field in line.as_object().unwrap().keys() {
                assert!(schema["properties"][field].is_object(), "{field}");
            }
        }
    }

    // Silence has its line too, two intervals later.
    wait("an interval without data", || {
        site.lines(format).iter().any(|line| line.status == "NODATA" && line.interface == "tap0")
    });
    daemon.terminate().unwrap();
    assert_eq!(sums(&site.lines(format)), expected);
}

#[test]
fn the_flow_log_tells_what_was_sent_in_json() {
    tells_what_was_sent("json");
}

#[test]
fn the_flow_log_tells_what_was_sent_in_the_aws_format() {
    tells_what_was_sent("aws-v2");
}

#[test]
fn spec_d20_the_flow_log_counts_on_without_the_daemon_and_nothing_twice() {
    let site = Site::new();
    // Long intervals: whatever is written early is written because a daemon ends.
    let mut daemon = site.start("json", &["--flow-log-interval", "600"]);
    let (guest, outside) = (&site.world.guest(0).netns, &site.world.site.outside);
    let dns = bind(outside, (outside::DNS, 54));
    let ours = bind(guest, (site.own(), 2000));
    let total = |site: &Site| {
        let lines = site.lines("json");
        let of = |direction: &str| -> u64 {
            lines.iter().filter(|line| line.direction == direction).map(|line| line.packets).sum()
        };
        [of("outbound"), of("inbound")]
    };
    talk(&ours, &dns, 5, 10);
    assert_eq!(total(&site), [0, 0]);
    // Killed: what was counted stays where it is.
    daemon.kill();
    talk(&ours, &dns, 6, 10);
    daemon.resume().unwrap();
    talk(&ours, &dns, 7, 10);
    daemon.terminate().unwrap();
    assert_eq!(total(&site), [18, 18]);
    talk(&ours, &dns, 8, 10);
    daemon.resume().unwrap();
    daemon.restart().unwrap();
    assert_eq!(total(&site), [26, 26]);
    daemon.kill();
    // A daemon without a flow log counts no more, and forgets what was counted.
    talk(&ours, &dns, 9, 10);
    daemon.set_arguments(&[]);
    daemon.resume().unwrap();
    assert_eq!(daemon.status().unwrap()["flow_log"], Value::Null);
    talk(&ours, &dns, 10, 10);
    daemon.terminate().unwrap();
    let arguments = site.arguments("json", &[]);
    daemon.set_arguments(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    daemon.resume().unwrap();
    talk(&ours, &dns, 11, 10);
    daemon.terminate().unwrap();
    assert_eq!(total(&site), [37, 37]);
}

#[test]
fn rotation_under_load_loses_no_record_and_cuts_no_line() {
    let site = Site::new();
    let mut daemon = site.start("json", &["--flow-log-max-size", "4096", "--flow-log-keep", "999"]);
    let raw = RawIp::new(&site.world.guest(0).netns);
    let pid = daemon.pid().unwrap();
    // Every datagram is a flow of its own, and half of them are refused.
    for number in 0..3000u16 {
        let to = SocketAddrV4::new(outside::DNS, if number % 2 == 0 { 54 } else { 55 });
        raw.udp(SocketAddrV4::new(site.own(), 10_000 + number), to, b"!");
        if number % 500 == 0 {
            // In the middle of it, somebody asks for the file to be opened anew.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGHUP)
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
    }
    daemon.terminate().unwrap();
    let mut seen: BTreeMap<u16, u64> = BTreeMap::new();
    let mut skipped = 0;
    for line in site.lines("json") {
        skipped += line.skipped;
        if line.direction == "outbound" && line.protocol == 17 && line.ports.0 >= 10_000 {
            assert_eq!(line.action, if line.ports.0 % 2 == 0 { "ACCEPT" } else { "REJECT" });
            *seen.entry(line.ports.0).or_default() += line.packets;
        }
    }
    assert_eq!(skipped, 0);
    assert_eq!(seen, (10_000..13_000).map(|port| (port, 1)).collect());
    let files = fs::read_dir(site.log.parent().unwrap()).unwrap().count();
    assert!(files > 50, "{files}");
    for entry in fs::read_dir(site.log.parent().unwrap()).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert!(metadata.len() < 4096 + 1024, "{}", metadata.len());
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o640);
    }
}

#[test]
fn a_full_disk_costs_records_and_nothing_else_and_all_of_it_is_told() {
    let site = Site::new();
    let directory = site.log.parent().unwrap().display().to_string();
    // A small disk for the daemon alone, which is gone with it.
    let mut daemon = site.start("json", &METRICS);
    daemon.terminate().unwrap();
    fs::remove_file(&site.log).unwrap();
    let mount = format!("mount -t tmpfs -o size=16k tmpfs {directory} && exec \"$@\"");
    daemon.set_wrapper(&["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount, "sh"]);
    daemon.resume().unwrap();
    let seen = |daemon: &Daemon| {
        PathBuf::from(format!("/proc/{}/root{}", daemon.pid().unwrap(), site.log.display()))
    };
    let raw = RawIp::new(&site.world.guest(0).netns);
    let mut port = 10_000u16..;
    let mut send = |count| {
        for port in port.by_ref().take(count) {
            raw.udp(SocketAddrV4::new(site.own(), port), SocketAddrV4::new(outside::DNS, 55), b"!");
        }
    };
    // More than there is room for.
    send(300);
    wait("what is lost is told, and why", || {
        let log = &daemon.status().unwrap()["flow_log"];
        let lost = log["lost_records"].as_u64().unwrap() > 0;
        if lost && log["error"].is_null() {
            // A shorter line had room and was written: nothing is wrong until the next one.
            send(30);
        }
        let text = String::from_utf8(daemon.sgctl(&["status"]).unwrap().stdout).unwrap();
        lost && log["error"].as_str().is_some_and(|why| why.contains("No space left"))
            && text.contains("No space left")
    });
    let lost = |daemon: &Daemon| daemon.status().unwrap()["flow_log"]["lost_records"].as_u64().unwrap();
    wait("metrics tell as many", || {
        let (text, samples) = scrape(&site.world.site.host);
        let of = |outcome: &str| samples[&format!("sgd_flow_log_records_total{{outcome=\"{outcome}\"}}")];
        let lost = lost(&daemon) as f64;
        assert!(of("lost") <= lost, "{text}");
        of("lost") == lost
    });
    // Whoever asks is answered, and what passes passes.
    let (guest, outside) = (&site.world.guest(0).netns, &site.world.site.outside);
    let (ours, dns) = (bind(guest, (site.own(), 2000)), bind(outside, (outside::DNS, 54)));
    talk(&ours, &dns, 3, 10);
    // What is there is whole.
    let text = fs::read_to_string(seen(&daemon)).unwrap();
    assert!(text.ends_with('\n'));
    read("json", &text);
    // Somebody makes room.
    let pid = daemon.pid().unwrap().to_string();
    let grown = Command::new("nsenter")
        .args(["--mount", "--target", &pid, "mount", "-o", "remount,size=64m", &directory])
        .status()
        .unwrap();
    assert!(grown.success());
    wait("the loss is told in the log", || {
        let text = fs::read_to_string(seen(&daemon)).unwrap_or_default();
        let told = read("json", &text).iter().any(|line| line.status == "SKIPDATA" && line.skipped > 0);
        told && daemon.status().unwrap()["flow_log"]["error"].is_null()
    });
    // Once, until lines are written again.
    let log = daemon.log();
    let [lost, again] =
        ["the flow log loses records", "the flow log is written again"].map(|what| log.matches(what).count());
    assert!(lost > 0 && lost == again, "{lost} times lost, {again} times written again");
}

#[test]
fn a_log_that_cannot_be_written_is_refused_with_what_to_do() {
    let site = Site::new();
    let target = site.world.site.lab.directory().join("target");
    fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, &site.log).unwrap();
    let arguments = site.arguments("json", &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let why = Daemon::start_with(&site.world.site, &site.policy(), &arguments).unwrap_err().to_string();
    assert!(why.contains("symbolic link") && why.contains("--flow-log"), "{why}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
}
