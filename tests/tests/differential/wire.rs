//! Two wires alike. On each, a bridge joins a device towards the guest and one towards the world, in a namespace that
//! filters; the other ends of both cables are in a namespace that sends and receives frames.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::time::Duration;

use sg_tests::{End, Lab, Netns};

use crate::frame;
use crate::policy::GUEST;

/// The filtered device, and the one that leads to everybody else.
pub const INSIDE: &str = "sg0";
pub const OUTSIDE: &str = "up0";

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Guest,
    World,
}

pub struct Wire {
    pub filter: Netns,
    _ends: Netns,
    guest: End,
    world: End,
    serial: u32,
}

/// A lost marker ends the test with words; nothing is decided by this time.
const LOST: Duration = Duration::from_secs(20);

impl Wire {
    /// `netfilter`: whether the kernel's IP filter sees what the bridge forwards (br_netfilter).
    pub fn new(lab: &Lab, name: &str, netfilter: bool) -> Self {
        let filter = lab.netns(&format!("{name}-filter")).unwrap();
        let ends = lab.netns(&format!("{name}-ends")).unwrap();
        for netns in [&filter, &ends] {
            netns.silence().unwrap();
        }
        let calls = u8::from(netfilter);
        let mut lines = format!(
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 \
             nf_call_iptables {calls} nf_call_ip6tables {calls} nf_call_arptables 0\nlink set br0 up\n"
        );
        for device in [INSIDE, OUTSIDE] {
            lines += &format!(
                "link add {device} type veth peer name {device} netns {}\nlink set {device} master br0 up\n",
                ends.name()
            );
        }
        filter.ip(&lines).unwrap();
        ends.ip(&format!("link set {INSIDE} up\nlink set {OUTSIDE} up")).unwrap();
        // Frames of both ends have the same hardware addresses, and so all are flooded: to the one other port.
        filter
            .ip(&format!("link set {INSIDE} type bridge_slave learning off\nlink set {OUTSIDE} type bridge_slave learning off"))
            .unwrap();
        let [guest, world] = [INSIDE, OUTSIDE].map(|device| ends.end(device, LOST).unwrap());
        Self { filter, _ends: ends, guest, world, serial: 0 }
    }

    /// Sends a frame, and then one that always passes; returns what came out at the other end before that one.
    pub fn send(&mut self, from: From, frame: &[u8]) -> Vec<Vec<u8>> {
        self.serial += 1;
        let marker = frame::arp(GUEST[0].parse().unwrap(), Ipv4Addr::from_bits(self.serial));
        let (sender, receiver) = match from {
            From::Guest => (&self.guest, &self.world),
            From::World => (&self.world, &self.guest),
        };
        for frame in [frame, &marker] {
            sender.send(frame).unwrap();
        }
        let mut came = Vec::new();
        loop {
            let frame = receiver.receive().expect("the marker comes");
            if frame == marker {
                return came;
            }
            came.push(frame);
        }
    }

    /// Puts a ruleset in force.
    pub fn nft(&self, ruleset: &str) {
        let mut command = self.filter.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("nsenter runs (`cargo xtask setup` installs it)");
        child.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nft (`cargo xtask setup` installs it): {errors}\n{ruleset}");
    }
}

/// What conntrack of a namespace says of itself.
pub struct Conntrack {
    statistics: File,
    table: File,
}

impl Conntrack {
    pub fn of(netns: &Netns) -> Self {
        let open = |file: &str| File::open(format!("/proc/thread-self/net/{file}")).unwrap();
        netns.run(|| Self { statistics: open("stat/nf_conntrack"), table: open("nf_conntrack") }).unwrap()
    }

    /// How many packets it has called invalid. Of those, ICMP errors are in a column of their own.
    pub fn invalid(&self) -> u64 {
        let text = read(&self.statistics);
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let names = lines.next().unwrap();
        let columns =
            ["invalid", "icmp_error"].map(|wanted| names.iter().position(|name| *name == wanted).unwrap());
        let count = |line: Vec<&str>| columns.map(|column| u64::from_str_radix(line[column], 16).unwrap());
        lines.flat_map(count).sum()
    }

    /// The state of the TCP connection with that port, at either end.
    pub fn tcp_state(&self, zone: u16, port: u16) -> Option<String> {
        let port = format!("sport={port} ");
        let table = self.table(zone);
        let line = table.lines().find(|line| line.contains(" tcp ") && line.contains(&port))?;
        // Family, protocol and timeout come first.
        line.split_whitespace().nth(5).map(str::to_owned)
    }

    /// The connections that it knows in a zone, for a person to read.
    pub fn table(&self, zone: u16) -> String {
        let zone = format!("zone={zone} ");
        read(&self.table).lines().filter(|line| line.contains(&zone)).collect::<Vec<_>>().join("\n")
    }
}

fn read(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = file.read_at(&mut buffer, bytes.len() as u64).unwrap();
        if length == 0 {
            return String::from_utf8(bytes).unwrap();
        }
        bytes.extend(&buffer[..length]);
    }
}
