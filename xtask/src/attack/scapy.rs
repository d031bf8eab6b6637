//! A scapy in a namespace that sends what it is told.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{IpAddr, Ipv6Addr};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sg_tests::{Guest, Netns, Process, Way, outside, write_file};

use crate::setup::PYTHON;

use super::site::{DEVICE, OUTSIDE_MAC, Site, wait_until};

/// For a frame to cross the site on a busy machine.
const CROSSING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Scapy {
    pub netns: Netns,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    _process: Process,
}

/// Which packets a request was for: IP of both families, also behind one or two VLAN tags (of which the receiving device takes
/// one out), and other frames that begin with the number.
pub fn marked(id: u16) -> String {
    format!(
        "(ip and ip[4:2] = {id}) or (ip6 and ip6[0:4] & 0xfffff = {id}) or \
         (ether[12:2] = 0x8100 and ether[22:2] = {id}) or \
         ((ether[12:2] = 0x8100 or ether[12:2] = 0x88a8) and ether[26:2] = {id}) or \
         (not ip and not ip6 and not arp and ether[14:2] = {id})"
    )
}

impl Scapy {
    /// As this guest, towards `outside`.
    pub fn guest(site: &Site, me: &Guest, neighbor: &Guest) -> Result<Self> {
        let who = json!({
            "ME": me.mac, "ME4": me.v4, "ME6": me.v6, "ME_LL": link_local(&me.mac)?, "FENCE4": me.v4,
            "PEER": OUTSIDE_MAC, "TO4": outside::DNS, "TO6": outside::DNS_V6,
            "NEIGHBOR": neighbor.mac, "NEIGHBOR4": neighbor.v4, "NEIGHBOR6": neighbor.v6,
        });
        Self::start(site, &me.netns, who)
    }

    /// As the name server outside, towards this guest.
    pub fn outside(site: &Site, to: &Guest) -> Result<Self> {
        let who = json!({
            "ME": OUTSIDE_MAC, "ME4": outside::DNS, "ME6": outside::DNS_V6, "ME_LL": link_local(OUTSIDE_MAC)?,
            "FENCE4": outside::ROUTER, "PEER": to.mac, "TO4": to.v4, "TO6": to.v6,
            "NEIGHBOR": to.mac, "NEIGHBOR4": to.v4, "NEIGHBOR6": to.v6,
        });
        Self::start(site, site.outside(), who)
    }

    fn start(site: &Site, netns: &Netns, mut who: Value) -> Result<Self> {
        if let Some(who) = who.as_object_mut() {
            who.insert("ROUTER4".into(), json!(outside::ROUTER));
            who.insert("ROUTER6".into(), json!(outside::ROUTER_V6));
            who.insert("ROUTER_LL".into(), json!(link_local(OUTSIDE_MAC)?));
            who.insert("STRANGER4".into(), json!(IpAddr::from(outside::STRANGER)));
        }
        let mut script = site.topology.lab.directory().join("sender.py");
        // Another sender may be reading it already.
        if !script.exists() {
            script = write_file(site.topology.lab.directory(), "sender.py", include_str!("sender.py"))?;
        }
        let mut command = netns.command(PYTHON);
        command.arg(script).arg(who.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = Process::spawn(command)?;
        let (stdin, stdout) = process.pipes()?;
        Ok(Self { netns: netns.clone(), stdin, stdout: BufReader::new(stdout).lines(), _process: process })
    }

    /// Waits until it can send.
    pub fn ready(&mut self) -> Result<()> {
        self.expect("ready")
    }

    /// Sends the frames that a Python expression makes and waits until they have arrived at `to`, or have been dropped.
    pub fn send(&mut self, id: u16, frames: &str, to: &Netns) -> Result<()> {
        self.send_to(id, frames, to, &json!({}))
    }

    /// The same, with another peer than usual: see [`peer`].
    pub fn send_to(&mut self, id: u16, frames: &str, to: &Netns, peer: &Value) -> Result<()> {
        let fence = u32::from_be_bytes([192, 0, (id >> 8) as u8, id as u8]);
        let fence = to.count(DEVICE, Way::Received, &format!("arp and arp[24:4] = {fence:#x}"))?;
        writeln!(self.stdin, "{}", json!([id, frames, peer])).context("scapy does not read")?;
        self.expect("done")?;
        wait_until("what follows the attack and always passes", CROSSING, || Ok(fence.read()? > 0))
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let line = self.stdout.next().context("scapy has ended")??;
        ensure!(line == word, "scapy: {line}");
        Ok(())
    }
}

/// A guest as the one whom frames are for.
pub fn peer(guest: &Guest) -> Value {
    json!({ "PEER": guest.mac, "TO4": guest.v4, "TO6": guest.v6 })
}

/// RFC 4291, appendix A.
pub fn link_local(mac: &str) -> Result<IpAddr> {
    let bytes: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let &[a, b, c, d, e, f] = bytes.as_slice() else { bail!("{mac} is no hardware address") };
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ok(Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f)).into())
}
