//! The interface that is filtered, and who is on the other side of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use sg_tests::{Lab, Netns, Probe, Servers, patience};

/// What the starter policy names.
pub const STARTER: &str = "/etc/sgd/policy.d/starter.json";
pub const STARTER_DEVICE: &str = "sg-try0";
const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];

/// Of a virtual machine and of who is outside of it.
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
pub const MAC: &str = "52:54:00:00:00:19";
pub const TAP: &str = "machine0";

/// TCP: the policy has a rule, and has none.
pub const OPEN: u16 = 80;
pub const CLOSED: u16 = 8080;
/// UDP: everything may go, or a rule says so; and nothing may.
pub const OUT: u16 = 7001;
pub const IN: u16 = 7002;

/// Datagrams of one kind: where they are sent from, and where they are counted if they come through.
pub struct Datagrams {
    pub from: UdpSocket,
    pub to: SocketAddr,
    pub counted: UdpSocket,
}

pub struct Site {
    /// Of the host, or of the other end of its cable if that is virtual.
    pub netns: Netns,
    /// What is filtered, and the policy that says so.
    pub device: &'static str,
    pub policy: &'static str,
    /// What is to be written there, unless the package brings it.
    pub own: Option<String>,
    /// How long an answer is waited for, and silence.
    pub patience: [Duration; 2],
    /// Between datagrams.
    pub pause: Duration,
    /// Who answers, and in which namespace unless it is a virtual machine.
    to: IpAddr,
    guest: Option<(Netns, Servers)>,
}

impl Site {
    /// A guest beside a host that is a network namespace; judged is what the host asks of it.
    pub fn of_container(lab: &Lab) -> Result<Self> {
        let (host, guest) = (lab.netns("host")?, lab.netns("guest")?);
        let [of_host, of_guest] = ADDRESSES;
        host.ip(&format!(
            "link add {STARTER_DEVICE} type veth peer name eth0 netns {}\nlink set {STARTER_DEVICE} up\n\
             address add {of_host}/24 dev {STARTER_DEVICE}",
            guest.name()
        ))?;
        guest.ip(&format!("link set eth0 up\naddress add {of_guest}/24 dev eth0"))?;
        let servers = guest.serve_tcp(&[OPEN, CLOSED].map(|port| (of_guest, port).into()))?;
        Ok(Self {
            netns: host,
            device: STARTER_DEVICE,
            policy: STARTER,
            own: None,
            patience: [patience::ALLOWED, patience::DENIED],
            pause: Duration::from_millis(5),
            to: of_guest,
            guest: Some((guest, servers)),
        })
    }

    /// The other end of the cable of a virtual machine; judged is what is asked of the machine.
    pub fn of_machine(lab: &Lab) -> Result<Self> {
        let outside = lab.netns("outside")?;
        // The machine is found before it has come to answer who it is, and what it is too slow to take waits.
        outside.ip(&format!(
            "tuntap add dev {TAP} mode tap vnet_hdr\nlink set {TAP} txqueuelen 10000 up\n\
             address add {OUTSIDE}/24 dev {TAP}\nneighbour add {HOST} lladdr {MAC} dev {TAP} nud permanent"
        ))?;
        let own = serde_json::json!({
            "version": 1, "project": "local", "vpc": "main",
            "security_groups": [{ "name": "host", "inbound": [
                { "protocol": "TCP", "source": "0.0.0.0/0", "port": OPEN.to_string() },
                { "protocol": "TCP", "source": "0.0.0.0/0", "port": "443" },
                { "protocol": "UDP", "source": "0.0.0.0/0", "port": OUT.to_string() },
            ] }],
            "interfaces": [
                { "name": "eth0", "role": "host", "addresses": [HOST], "security_groups": ["host"] },
            ],
        });
        Ok(Self {
            netns: outside,
            device: "eth0",
            policy: "/etc/sgd/policy.d/uplink.json",
            own: Some(serde_json::to_string_pretty(&own)?),
            patience: [Duration::from_secs(20), Duration::from_secs(2)],
            pause: Duration::from_millis(20),
            to: HOST,
            guest: None,
        })
    }

    /// What a rule may allow.
    pub fn tcp(&self, port: u16) -> Probe {
        Probe::tcp(&self.netns, (self.to, port))
    }

    /// Those that are allowed, and those that are not.
    pub fn datagrams(&self) -> Result<[Datagrams; 2]> {
        let [of_host, of_guest] = ADDRESSES;
        match &self.guest {
            Some((guest, _)) => Ok([
                Datagrams {
                    from: socket(guest, (of_guest, 0).into())?,
                    to: (of_host, OUT).into(),
                    counted: socket(&self.netns, (of_host, OUT).into())?,
                },
                Datagrams {
                    from: socket(&self.netns, (of_host, 0).into())?,
                    to: (of_guest, IN).into(),
                    counted: socket(guest, (of_guest, IN).into())?,
                },
            ]),
            // What comes through comes back: replies pass by themselves.
            None => {
                let echoed = |port| -> Result<Datagrams> {
                    let from = socket(&self.netns, (OUTSIDE, 0).into())?;
                    Ok(Datagrams { counted: from.try_clone()?, from, to: (self.to, port).into() })
                };
                Ok([echoed(OUT)?, echoed(IN)?])
            }
        }
    }
}

impl Datagrams {
    /// Whether one could be sent: what a socket does not take was not sent.
    pub fn send(&self) -> bool {
        self.from.send_to(b"datagram", self.to).is_ok()
    }

    /// How many have come through and wait to be counted. The last ones are given some time.
    pub fn arrived(&self, wait: Duration) -> Result<u64> {
        self.counted.set_read_timeout(Some(wait))?;
        let mut count = 0;
        while self.counted.recv(&mut [0; 16]).is_ok() {
            count += 1;
        }
        Ok(count)
    }
}

/// With room for all that is sent before it is read.
fn socket(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind(address))?.with_context(|| format!("cannot use {address}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    Ok(socket)
}
