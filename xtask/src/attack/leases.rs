//! Addresses by DHCP and by router advertisement, for guest c, which has no rules at all.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use sg_tests::{Guest, Netns, Process, Topology, write_file};

use crate::setup::program;

use super::site::{DEVICE, Ends, POLICY, Site, reason, set, wait_until};
use super::table::{Seen, Table, Through};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the guest's hardware address makes of the advertised prefix; the policy lists it.
const SLAAC: &str = "2001:db8:c:0:5054:ff:fe00:7";
const ADVERTISEMENTS: &str = "dst host ff02::1 and ip6[6] = 58 and ip6[40] = 134";

const LEASE: &str = "dnsmasq, udhcpc: a lease";
const RENEWAL: &str = "dnsmasq, udhcpc: a renewal with a configured server";
const ROGUE_DHCP: &str = "dnsmasq, udhcpc: a server that is not configured";
const ROUTER: &str = "radvd: the configured router, an address by SLAAC";
const ROGUE: &str = "radvd: a router that is not configured";

pub fn run(table: &mut Table, bare: &Site, filtered: &Site) -> Result<()> {
    if ![LEASE, RENEWAL, ROGUE_DHCP, ROUTER, ROGUE].iter().any(|name| table.wants(name)) {
        return Ok(());
    }
    table.heading("everyday: guest c, which has no rules, gets its addresses");
    table.row(LEASE, Through::All, || lease(filtered));
    table.row(RENEWAL, Through::All, || with_server(filtered, renewal));
    table.row(ROGUE_DHCP, Through::Nothing, || {
        let open = rogue_dhcp(bare)?;
        let mut seen = with_server(filtered, rogue_dhcp)?;
        seen.check(open.sent > 0 && open.through == open.sent, || {
            format!("without the filter {} of {} came through", open.through, open.sent)
        });
        Ok(seen)
    });
    table.row(ROUTER, Through::All, || slaac(filtered));
    table.row(ROGUE, Through::Nothing, || {
        let open = rogue(bare)?;
        let mut seen = rogue(filtered)?;
        seen.check(open.sent > 0 && open.through == open.sent, || {
            format!("without the filter {} of {} came through", open.through, open.sent)
        });
        Ok(seen)
    });
    Ok(())
}

/// While the policy names the DHCP server.
fn with_server(site: &Site, work: fn(&Site) -> Result<Seen>) -> Result<Seen> {
    let setting = POLICY.replace("\"link_local\"", "\"dhcp_servers\": [\"10.0.0.1\"], \"link_local\"");
    let file = write_file(site.topology.lab.directory(), "dhcp.json", &setting)?;
    let daemon = site.daemon()?;
    let check = daemon.sgctl(&["check", &file.to_string_lossy()])?;
    ensure!(check.status.success(), "sgctl check: {}", first_line(&check.stdout, &check.stderr));
    daemon.apply(&setting)?;
    let seen = work(site);
    daemon.apply(POLICY)?;
    seen
}

fn first_line(stdout: &[u8], stderr: &[u8]) -> String {
    let said = [stdout, stderr].concat();
    String::from_utf8_lossy(&said).lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

/// Leases one address.
pub fn serve_dhcp(topology: &Topology, netns: &Netns, address: &str) -> Result<Process> {
    let directory = topology.lab.directory();
    let mut command = netns.command(program("dnsmasq")?);
    command
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--log-facility=-",
            "--user=root",
            "--port=0",
        ])
        .args(["--bind-interfaces", "--interface=eth0", "--dhcp-authoritative", "--no-ping"])
        .arg(format!("--dhcp-range={address},{address},255.255.255.0,10m"))
        .arg("--dhcp-option=3,10.0.0.1")
        .arg(format!("--dhcp-leasefile={}", directory.join(format!("{}-leases", netns.name())).display()))
        .arg(format!("--pid-file={}", directory.join(format!("{}-dnsmasq.pid", netns.name())).display()));
    let log = directory.join(format!("{}-dnsmasq.log", netns.name()));
    let process = Process::serve(command, &log)?;
    wait_until("dnsmasq serves", PATIENCE, || {
        ensure!(process.ended()?.is_none(), "dnsmasq: {}", std::fs::read_to_string(&log).unwrap_or_default());
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(text.contains("sockets bound exclusively") || text.contains("started"))
    })?;
    Ok(process)
}

/// What udhcpc calls when it has a lease.
fn script(topology: &Topology) -> Result<PathBuf> {
    let text = "#!/bin/sh\n\
        case \"$1\" in bound|renew)\n\
        ip address replace \"$ip/${mask:-24}\" dev \"$interface\"\n\
        ip route replace default via \"$router\";;\n\
        esac\n";
    let path = write_file(topology.lab.directory(), "lease.sh", text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn without_address(site: &Site) -> Result<&Guest> {
    let guest = site.guest(2)?;
    let mut command = guest.netns.command("ip");
    command.args(["-4", "address", "flush", "dev", DEVICE]);
    Process::finish(command, PATIENCE)?.success("ip address flush")?;
    Ok(guest)
}

fn has_address(netns: &Netns, address: &str) -> Result<bool> {
    let mut command = netns.command("ip");
    command.args(["-o", "address", "show", "dev", DEVICE]);
    let said = Process::finish(command, PATIENCE)?.success("ip address")?.stdout;
    Ok(said.lines().any(|line| {
        line.contains(&format!(" {address}/")) && !line.contains("tentative") && !line.contains("dadfailed")
    }))
}

fn lease(site: &Site) -> Result<Seen> {
    let guest = without_address(site)?;
    let _server = serve_dhcp(&site.topology, site.outside(), "10.0.0.7")?;
    let ends = Ends::new(&guest.netns, site.outside(), "udp dst port 67")?;
    let mut command = guest.netns.command(program("udhcpc")?);
    command.args(["-f", "-n", "-q", "-i", DEVICE, "-t", "5", "-T", "2", "-s"]).arg(script(&site.topology)?);
    let run = Process::finish(command, PATIENCE)?.success("udhcpc");
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if let Err(error) = run {
        seen.fault(format!("{error:#}"));
    }
    seen.check(has_address(&guest.netns, "10.0.0.7")?, || "the guest has no address".to_owned());
    Ok(seen)
}

/// A renewal goes to the server alone.
fn renewal(site: &Site) -> Result<Seen> {
    let guest = without_address(site)?;
    let _server = serve_dhcp(&site.topology, site.outside(), "10.0.0.7")?;
    let mut command = guest.netns.command(program("udhcpc")?);
    command.args(["-f", "-i", DEVICE, "-t", "5", "-T", "2", "-s"]).arg(script(&site.topology)?);
    let client = Process::serve(command, &site.topology.lab.directory().join("udhcpc.log"))?;
    wait_until("a lease", PATIENCE, || has_address(&guest.netns, "10.0.0.7"))?;
    let ends = Ends::new(&guest.netns, site.outside(), "udp dst port 67 and dst host 10.0.0.1")?;
    let answers = Ends::new(site.outside(), &guest.netns, "udp src port 67 and dst host 10.0.0.7")?;
    client.signal(Signal::SIGUSR1)?;
    let answered = wait_until("an answer", PATIENCE, || Ok(answers.now()?.1 > 0));
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if let Err(error) = answered {
        seen.fault(format!("{error:#}"));
    }
    Ok(seen)
}

/// Somebody on the bridge whom no policy names.
fn stranger_on_the_link(site: &Site) -> Result<Netns> {
    let [v4, v6] = ["10.0.0.66", "fd00::66"];
    let netns =
        site.topology.plug("rogue", "up1", "52:54:00:00:00:66", v4.parse::<Ipv4Addr>()?, v6.parse()?)?;
    // Its link-local address has to be settled.
    wait_until("the rogue's address", PATIENCE, || has_address(&netns, "fe80::5054:ff:fe00:66"))?;
    Ok(netns)
}

/// Nobody else serves.
fn rogue_dhcp(site: &Site) -> Result<Seen> {
    let guest = without_address(site)?;
    let rogue = stranger_on_the_link(site)?;
    let _server = serve_dhcp(&site.topology, &rogue, "10.0.0.99")?;
    let ends = Ends::new(&rogue, &guest.netns, "udp src port 67")?;
    let mut command = guest.netns.command(program("udhcpc")?);
    command.args(["-f", "-n", "-q", "-i", DEVICE, "-t", "2", "-T", "1", "-s"]).arg(script(&site.topology)?);
    let leased = Process::finish(command, PATIENCE)?.status.success();
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    seen.check(leased != site.daemon.is_some(), || format!("udhcpc has a lease: {leased}"));
    Ok(seen)
}

/// Advertises a prefix.
fn advertise(topology: &Topology, netns: &Netns, prefix: &str) -> Result<Process> {
    set(netns, "ipv6/conf/all/forwarding", "1")?;
    let text = format!(
        "interface {DEVICE} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; \
         prefix {prefix} {{ AdvOnLink on; AdvAutonomous on; }}; }};\n"
    );
    let directory = topology.lab.directory();
    let file = write_file(directory, &format!("{}-radvd.conf", netns.name()), &text)?;
    let mut command = netns.command(program("radvd")?);
    command
        .args(["-n", "-m", "stderr", "-C"])
        .arg(file)
        .arg("-p")
        .arg(directory.join(format!("{}-radvd.pid", netns.name())));
    Process::serve(command, &directory.join("radvd.log"))
}

fn slaac(site: &Site) -> Result<Seen> {
    let guest = site.guest(2)?;
    set(&guest.netns, "ipv6/conf/eth0/accept_ra", "1")?;
    let before = site.status(&guest.device)?;
    let ends = Ends::new(site.outside(), &guest.netns, ADVERTISEMENTS)?;
    let router = advertise(&site.topology, site.outside(), "2001:db8:c::/64")?;
    let configured = wait_until("an address", PATIENCE, || has_address(&guest.netns, SLAAC));
    drop(router);
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if let Err(error) = configured {
        seen.fault(format!("{error:#}"));
    }
    let mut command = guest.netns.command("ip");
    command.args(["-6", "route", "show", "default"]);
    let routes = Process::finish(command, PATIENCE)?.success("ip route")?.stdout;
    seen.check(routes.contains("proto ra"), || format!("no route from the router: {}", routes.trim()));

    // That the neighbour is found shows that the guest may answer for its address.
    let address: Ipv6Addr = SLAAC.parse()?;
    site.outside().ip("address add 2001:db8:c::1/64 dev eth0 nodad")?;
    site.outside().run(|| UdpSocket::bind("[::]:0")?.send_to(b"?", (address, 9)))??;
    let found = wait_until("the guest as a neighbour", PATIENCE, || {
        let mut command = site.outside().command("ip");
        command.args(["-6", "neighbor", "show", SLAAC]);
        Ok(Process::finish(command, PATIENCE)?.stdout.contains(&guest.mac))
    });
    if let Err(error) = found {
        seen.fault(format!("{error:#}"));
    }
    site.outside().ip("address del 2001:db8:c::1/64 dev eth0")?;
    let after = site.status(&guest.device)?;
    for name in ["source_address", "neighbor_spoof"] {
        let dropped = reason(&after, name) - reason(&before, name);
        seen.check(dropped == 0, || format!("{dropped} packets of the guest were dropped as {name}"));
    }
    Ok(seen)
}

fn rogue(site: &Site) -> Result<Seen> {
    let guest = site.guest(2)?;
    set(&guest.netns, "ipv6/conf/eth0/accept_ra", "1")?;
    let rogue = stranger_on_the_link(site)?;
    let ends = Ends::new(&rogue, &guest.netns, ADVERTISEMENTS)?;
    let before = site.status(&guest.device)?;
    let _router = advertise(&site.topology, &rogue, "2001:db8:666::/64")?;
    wait_until("an advertisement", PATIENCE, || Ok(ends.now()?.0 > 0))?;
    let (sent, through) = ends.settled()?;
    let mut seen = Seen { sent, through, faults: Vec::new() };
    if site.daemon.is_some() {
        let name = "router_advertisement";
        let counted = reason(&site.status(&guest.device)?, name) - reason(&before, name);
        seen.check(counted >= sent, || format!("the filter has counted {counted} as {name}"));
        let taken = has_address(&guest.netns, "2001:db8:666:0:5054:ff:fe00:7")?;
        seen.check(!taken, || "the guest has an address of the rogue's".to_owned());
    }
    Ok(seen)
}
