//! The policy of the demo, with real guests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sg_tests::{Outcome, Probe, Transport, outside};

use super::machine::Machine;
use super::{ALLOWED, DENIED, Site};
use crate::attack::leases;
use crate::demo::edit;
use crate::demo::table::Table;

pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub const WEB_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
pub const APP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
pub const APP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);

/// What the guests answer at; 443 and 5201 are iperf3's.
pub const WEB_PORTS: [u16; 4] = [22, 80, 3389, 8080];
pub const APP_PORTS: [u16; 2] = [8080, 9090];

/// Lets a guest send back what it gets.
pub fn serve(ports: &[u16]) -> String {
    ports.iter().map(|port| format!("(busybox nc -ll -p {port} -e cat > /dev/null 2>&1 &); ")).collect()
}

/// What answers outside.
pub fn servers() -> Vec<SocketAddr> {
    let v4 = |address: Ipv4Addr, port: u16| SocketAddr::from((address, port));
    vec![
        v4(outside::SQL_SERVER, 1433),
        v4(outside::MYSQL, 3306),
        v4(outside::MYSQL, 1433),
        v4(outside::STRANGER, 80),
        v4(outside::METADATA, 80),
        SocketAddr::from((outside::DNS_V6, 53)),
    ]
}

/// With a rule for iperf3 at app-1, whose device is on the fast path.
pub fn with_bulk(policy: &str) -> Result<String> {
    let mut policy: Value = serde_json::from_str(policy)?;
    let groups = policy.get_mut("security_groups").and_then(Value::as_array_mut).context("groups")?;
    let backend = groups.iter_mut().find(|group| group.get("name") == Some(&json!("backend")));
    let inbound = backend.and_then(|group| group.get_mut("inbound")).and_then(Value::as_array_mut);
    let rule = |source: &str| json!({ "protocol": "TCP", "source": source, "port": "5201" });
    inbound.context("the group has inbound rules")?.extend([rule("203.0.113.0/24"), rule("2001:db8:a::/64")]);
    let interfaces = policy.get_mut("interfaces").and_then(Value::as_array_mut);
    let app =
        interfaces.into_iter().flatten().find(|interface| interface.get("name") == Some(&json!("tap1")));
    let app = app.and_then(Value::as_object_mut).context("the interface of app-1")?;
    app.insert("fast_path".to_owned(), json!(true));
    Ok(serde_json::to_string_pretty(&policy)?)
}

/// Who asks.
#[derive(Clone, Copy)]
enum From {
    Outside(IpAddr),
    Web,
    App,
}

struct Question {
    spec: &'static str,
    text: &'static str,
    from: From,
    transport: Transport,
    to: SocketAddr,
    allowed: bool,
}

fn tcp(
    spec: &'static str,
    text: &'static str,
    from: From,
    to: impl Into<IpAddr>,
    port: u16,
    allowed: bool,
) -> Question {
    Question { spec, text, from, transport: Transport::Tcp, to: (to.into(), port).into(), allowed }
}

fn ping(
    spec: &'static str,
    text: &'static str,
    from: From,
    to: impl Into<IpAddr>,
    allowed: bool,
) -> Question {
    Question { spec, text, from, transport: Transport::Icmp, to: (to.into(), 0).into(), allowed }
}

fn questions() -> Vec<Question> {
    use outside::{ADMIN, ADMIN_V6, DNS, DNS_V6, METADATA, MYSQL, SQL_SERVER, STRANGER, STRANGER_V6};
    let stranger = From::Outside(STRANGER.into());
    let stranger_v6 = From::Outside(STRANGER_V6.into());
    let (admin, admin_v6) = (From::Outside(ADMIN.into()), From::Outside(ADMIN_V6.into()));
    vec![
        tcp("K18", "stranger → web-1 port 80", stranger, WEB, 80, true),
        tcp("K18", "admin → web-1 port 22", admin, WEB, 22, true),
        tcp("K18", "admin → web-1 port 3389", admin, WEB, 3389, true),
        tcp("K18", "stranger → web-1 port 22", stranger, WEB, 22, false),
        tcp("K18", "stranger → web-1 port 3389", stranger, WEB, 3389, false),
        tcp("K4", "stranger → web-1 port 8080", stranger, WEB, 8080, false),
        ping("K4", "stranger → web-1, ping", stranger, WEB, false),
        tcp("K18", "web-1 → mssql port 1433", From::Web, SQL_SERVER, 1433, true),
        tcp("K18", "web-1 → mysql port 3306", From::Web, MYSQL, 3306, true),
        tcp("K18", "web-1 → mysql port 1433", From::Web, MYSQL, 1433, false),
        ping("K18", "web-1 → 8.8.8.8, ping", From::Web, DNS, false),
        tcp("K18", "web-1 → metadata", From::Web, METADATA, 80, false),
        tcp("K6", "web-1 → stranger port 80", From::Web, STRANGER, 80, false),
        tcp("K26", "app-1 → stranger port 80", From::App, STRANGER, 80, true),
        ping("K26", "app-1 → 8.8.8.8, ping", From::App, DNS, true),
        tcp("K27", "app-1 → metadata (M1)", From::App, METADATA, 80, false),
        ping("K16", "admin → app-1, ping", admin, APP, true),
        ping("K16", "stranger → app-1, ping", stranger, APP, false),
        tcp("D2", "app-1 → web-1 port 80, guest to guest", From::App, WEB, 80, true),
        tcp("D2", "web-1 → app-1 port 8080, guest to guest", From::Web, APP, 8080, false),
        tcp("K15", "stranger → app-1 port 8080, IPv6", stranger_v6, APP_V6, 8080, true),
        tcp("K15", "stranger → app-1 port 9090, IPv6", stranger_v6, APP_V6, 9090, false),
        tcp("K15", "stranger → web-1 port 80, IPv6", stranger_v6, WEB_V6, 80, false),
        ping("K14", "admin → app-1, ping, IPv6", admin_v6, APP_V6, true),
        ping("K14", "stranger → app-1, ping, IPv6", stranger_v6, APP_V6, false),
        tcp("K26", "app-1 → a name server, IPv6", From::App, DNS_V6, 53, true),
        tcp("K18", "web-1 → a name server, IPv6", From::Web, DNS_V6, 53, false),
    ]
}

/// Every path is open without the filter.
pub fn open(site: &mut Site) -> Result<()> {
    for question in questions() {
        let outcome = ask(site, &question, true)?;
        ensure!(outcome, "without the filter this path should be open: {}", question.text);
    }
    Ok(())
}

/// Whether there is an answer.
fn ask(site: &mut Site, question: &Question, patient: bool) -> Result<bool> {
    let to = question.to;
    let wait = if patient { ALLOWED } else { DENIED };
    match question.from {
        From::Outside(source) => {
            let probe = match question.transport {
                Transport::Icmp => Probe::ping(&site.topology.outside, to.ip()),
                _ => Probe::tcp(&site.topology.outside, to),
            };
            // A refusal would mean that the question got through.
            Ok(probe.source(source).run(wait)? != Outcome::TimedOut)
        }
        From::Web => from_guest(&mut site.web, question.transport, to, wait.as_secs()),
        From::App => from_guest(&mut site.app, question.transport, to, wait.as_secs()),
    }
}

fn from_guest(guest: &mut Machine, transport: Transport, to: SocketAddr, seconds: u64) -> Result<bool> {
    let address = to.ip();
    match transport {
        Transport::Icmp => {
            let ping = if address.is_ipv6() { "ping6" } else { "ping" };
            Ok(guest.run(&format!("busybox {ping} -c 1 -W {seconds} {address}"))?.0 == 0)
        }
        _ => {
            let port = to.port();
            let (_, said) = guest.run(&format!(
                "(echo hello; busybox sleep 1) | busybox timeout {} busybox nc -w {seconds} {address} {port}",
                seconds + 2
            ))?;
            Ok(said.contains("hello") || said.contains("refused"))
        }
    }
}

pub fn run(site: &mut Site, table: &mut Table, policy: &str) -> Result<()> {
    table.heading("examples/demo.json: web-1 behind tap0 (XDP), app-1 behind tap1 (TC)");
    for question in questions() {
        show(site, table, &question)?;
    }
    table.heading("a metadata rule for app-1; DHCP");
    site.daemon()?.apply(&edit::remove_rules_and_open_metadata(policy)?)?;
    show(site, table, &tcp("K27", "app-1 → metadata (M2)", From::App, outside::METADATA, 80, true))?;
    show(site, table, &tcp("K27", "web-1 → metadata", From::Web, outside::METADATA, 80, false))?;
    let lease = lease(site);
    let seen = match &lease {
        Ok(()) => "a lease".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    table.row("", "app-1: udhcpc gets 10.0.0.6 from dnsmasq", "a lease", &seen, lease.is_ok());
    site.daemon()?.apply(policy)?;
    Ok(())
}

fn show(site: &mut Site, table: &mut Table, question: &Question) -> Result<()> {
    let answered = ask(site, question, question.allowed)?;
    let words = |yes: bool| if yes { "allowed" } else { "denied" };
    let seen = if answered { "answered" } else { "no answer" };
    table.row(question.spec, question.text, words(question.allowed), seen, answered == question.allowed);
    Ok(())
}

fn lease(site: &mut Site) -> Result<()> {
    let _server = leases::serve_dhcp(&site.topology, &site.topology.outside, "10.0.0.6")?;
    site.app.must(
        "printf '#!/bin/busybox sh\\n[ \"$1\" = bound ] && ip address replace $ip/24 dev eth0; exit 0\\n' > /lease && \
         busybox chmod 755 /lease && ip -4 address flush dev eth0",
    )?;
    let outcome = site.app.must("busybox udhcpc -f -n -q -i eth0 -t 10 -T 3 -s /lease");
    let has = site.app.must("ip -4 -o address show dev eth0")?;
    // As it was, whatever came of it.
    let (router, v4) = (outside::ROUTER, APP);
    site.app.must(&format!("ip address replace {v4}/24 dev eth0; ip route replace default via {router}"))?;
    outcome?;
    ensure!(has.contains("10.0.0.6/24"), "it has {}", has.trim());
    Ok(())
}
