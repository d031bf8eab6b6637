//! Path-MTU discovery through a hop that is narrower than the guests' link. No rule speaks of ICMP.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sg_tests::{Netns, Process};

use super::site::{DEVICE, Ends, Site, set};
use super::table::{Seen, Table, Through};

const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 2);
const MTU: &str = "1300";
const BYTES: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

const OUT: &str = "path MTU: guest a sends by an outbound rule";
const OUT_V6: &str = "path MTU: guest a sends by an outbound rule, v6";
const REPLY: &str = "path MTU: guest b answers a request";
const REPLY_V6: &str = "path MTU: guest b answers a request, v6";

pub fn run(table: &mut Table, site: &Site) -> Result<()> {
    if ![OUT, OUT_V6, REPLY, REPLY_V6].iter().any(|name| table.wants(name)) {
        return Ok(());
    }
    table.heading("everyday: a hop with an MTU of 1300 (packets: the router's complaints)");
    let far = behind_a_narrow_hop(site)?;
    let (a, b) = (site.guest(0)?, site.guest(1)?);
    for (name, far_address) in [(OUT, IpAddr::from(FAR)), (OUT_V6, FAR_V6.into())] {
        let server = SocketAddr::new(far_address, 5001);
        let transfer = || transfer(&a.netns, &far, server, true);
        table.row(name, Through::All, || discover(site, &a.netns, far_address, transfer));
    }
    for (name, far_address, own) in [(REPLY, IpAddr::from(FAR), b.v4), (REPLY_V6, FAR_V6.into(), b.v6)] {
        let transfer = || transfer(&far, &b.netns, SocketAddr::new(own, 80), false);
        table.row(name, Through::All, || discover(site, &b.netns, far_address, transfer));
    }
    set(site.outside(), "ipv4/conf/all/forwarding", "0")?;
    set(site.outside(), "ipv6/conf/all/forwarding", "0")
}

/// A namespace that `outside` forwards to.
fn behind_a_narrow_hop(site: &Site) -> Result<Netns> {
    let outside = site.outside();
    let far = site.topology.lab.netns("far")?;
    set(outside, "ipv4/conf/all/forwarding", "1")?;
    set(outside, "ipv6/conf/all/forwarding", "1")?;
    outside.ip(&format!(
        "link add far0 type veth peer name {DEVICE} netns {}\n\
         link set far0 mtu {MTU} up\n\
         address add 198.18.0.1/24 dev far0\n\
         address add 2001:db8:f::1/64 dev far0 nodad",
        far.name()
    ))?;
    far.ip(&format!(
        "link set {DEVICE} up\n\
         address add {FAR}/24 dev {DEVICE}\n\
         address add {FAR_V6}/64 dev {DEVICE} nodad\n\
         route add default via 198.18.0.1\n\
         route add default via 2001:db8:f::1 dev {DEVICE}"
    ))?;
    Ok(far)
}

/// Counts the complaints to a guest during a transfer, and asks it for what it has learnt.
fn discover(site: &Site, guest: &Netns, far: IpAddr, transfer: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let complaint = if far.is_ipv4() { "icmp[0] = 3 and icmp[1] = 4" } else { "ip6[6] = 58 and ip6[40] = 2" };
    let ends = Ends::new(site.outside(), guest, complaint)?;
    let known = path_mtu(guest, far)?;
    ensure!(!known.contains("mtu"), "before the transfer: {known}");
    let result = transfer();
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if let Err(error) = result {
        seen.fault(format!("the transfer: {error:#}"));
    }
    let known = path_mtu(guest, far)?;
    seen.check(known.contains(&format!("mtu {MTU}")), || format!("the guest has learnt {known}"));
    Ok(seen)
}

fn path_mtu(guest: &Netns, far: IpAddr) -> Result<String> {
    let mut command = guest.command("ip");
    command.args(["route", "get", &far.to_string()]);
    let said = Process::finish(command, PATIENCE)?.success("ip route get")?.stdout;
    Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Moves bytes over a connection of `client` to `server`; which of the two sends is `client_sends`.
fn transfer(client: &Netns, server: &Netns, address: SocketAddr, client_sends: bool) -> Result<()> {
    let listener = server.run(|| TcpListener::bind(address))??;
    let accept = move || -> Result<()> {
        let (stream, _) = listener.accept()?;
        if client_sends { receive(stream) } else { send(stream) }
    };
    let stream = client.run(|| TcpStream::connect_timeout(&address, PATIENCE))?.context("connect")?;
    let other = std::thread::spawn(accept);
    if client_sends { send(stream) } else { receive(stream) }?;
    other.join().unwrap_or_else(|_| Err(anyhow!("a thread has panicked")))
}

fn send(mut stream: TcpStream) -> Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&vec![7; BYTES]).context("sending")?;
    Ok(())
}

fn receive(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context("receiving")?;
    ensure!(bytes.len() == BYTES, "{} of {BYTES} bytes have arrived", bytes.len());
    Ok(())
}
