//! What is asked in each scene, and what the policy answers by SPEC.

use std::net::IpAddr;

use anyhow::Result;
use sg_tests::{Guest, Probe, Topology, Transport, outside};

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub spec: &'static str,
    pub text: String,
    pub probe: Probe,
    pub allowed: bool,
}

/// The site with its inhabitants named.
pub struct World<'a> {
    site: &'a Topology,
    web: &'a Guest,
    app: &'a Guest,
}

const ALLOWED: bool = true;
const DENIED: bool = false;

impl<'a> World<'a> {
    pub fn new(site: &'a Topology) -> Result<Self> {
        Ok(Self { site, web: site.guest(0)?, app: site.guest(1)? })
    }

    /// Who is who.
    pub fn introduce(&self) {
        use outside::{ADMIN, ADMIN_V6, MYSQL, SQL_SERVER, STRANGER, STRANGER_V6};
        println!();
        for (guest, name, hook) in [(self.web, "web-1", "XDP"), (self.app, "app-1", "TC")] {
            println!("{name:<9} {}, {}: a guest behind {} ({hook})", guest.v4, guest.v6, guest.device);
        }
        println!("admin     {ADMIN}, {ADMIN_V6}: outside, in the range that the rules trust");
        println!("stranger  {STRANGER}, {STRANGER_V6}: outside");
        println!("mssql     {SQL_SERVER}; mysql {MYSQL}: databases outside");
    }

    /// `examples/demo.json` as it stands.
    pub fn as_written(&self) -> Vec<Row> {
        use outside::*;
        let (web, app) = (self.web.v4, self.app.v4);
        let (web6, app6) = (self.web.v6, self.app.v6);
        let (admin, admin6) = (IpAddr::from(ADMIN), IpAddr::from(ADMIN_V6));
        let (stranger, stranger6) = (IpAddr::from(STRANGER), IpAddr::from(STRANGER_V6));
        vec![
            self.row("K18", self.tcp(stranger, web, 80), ALLOWED, "its replies leave"),
            self.row("K18", self.tcp(stranger, web, 443), ALLOWED, ""),
            self.row("K18", self.tcp(admin, web, 22), ALLOWED, ""),
            self.row("K18", self.tcp(admin, web, 3389), ALLOWED, ""),
            self.row("K18", self.tcp(stranger, web, 22), DENIED, ""),
            self.row("K18", self.tcp(stranger, web, 3389), DENIED, ""),
            self.row("K18", self.tcp(web, SQL_SERVER, 1433), ALLOWED, "its replies enter"),
            self.row("K18", self.tcp(web, MYSQL, 3306), ALLOWED, ""),
            self.row("K18", self.tcp(web, MYSQL, 1433), DENIED, "another port"),
            self.row("K18", self.tcp(web, stranger, 3306), DENIED, "another network"),
            self.row("K18", self.udp(web, DNS, 53), DENIED, "no DNS"),
            self.row("K18", self.ping(web, DNS), DENIED, ""),
            self.row("K18", self.tcp(web, METADATA, 80), DENIED, "no metadata"),
            self.row("K4", self.tcp(stranger, web, 8080), DENIED, "no rule"),
            self.row("K4", self.udp(stranger, web, 80), DENIED, "the rule is for TCP"),
            self.row("K4", self.ping(stranger, web), DENIED, ""),
            self.row("K6", self.udp(app, DNS, 53), ALLOWED, "the reply enters"),
            self.row("K6", self.udp(IpAddr::from(DNS), app, 53), DENIED, "but not unasked"),
            self.row("K6", self.tcp(web, stranger, 80), DENIED, "replies leave, requests do not"),
            self.row("K16", self.ping(admin, app), ALLOWED, "echo request"),
            self.row("K16", self.ping(stranger, app), DENIED, "echo request"),
            self.row("K14", self.udp(admin, app, 5000), ALLOWED, ""),
            self.row("K14", self.udp(stranger, app, 5000), DENIED, ""),
            self.row("D2", self.tcp(app, web, 80), ALLOWED, "guest to guest"),
            self.row("D2", self.tcp(web, app, 8080), DENIED, "receiver allows, sender does not"),
            self.row("K21", self.tcp(app, web, 9000), DENIED, "no common group yet"),
            self.row("K27", self.tcp(app, METADATA, 80), DENIED, "M1: custom groups only"),
            self.row("K27", self.tcp(app, DNS, 80), ALLOWED, "M4: any other address"),
            self.row("K27", self.tcp(app, METADATA, 8080), ALLOWED, "M6: any other port"),
            self.row("K15", self.tcp(stranger6, app6, 8080), ALLOWED, ""),
            self.row("K15", self.tcp(stranger6, app6, 9090), DENIED, "no rule"),
            self.row("K15", self.tcp(stranger6, web6, 80), DENIED, "0.0.0.0/0 is not IPv6"),
            self.row("K14", self.ping(admin6, app6), ALLOWED, "echo request"),
            self.row("K14", self.ping(stranger6, app6), DENIED, "echo request"),
            self.row("K26", self.udp(app6, DNS_V6, 53), ALLOWED, ""),
            self.row("K18", self.udp(web6, DNS_V6, 53), DENIED, ""),
        ]
    }

    /// Flows that are open while their rules go away: one through XDP and one through TC.
    pub fn held(&self) -> Vec<Probe> {
        vec![self.tcp(outside::ADMIN, self.web.v4, 22), self.udp(outside::ADMIN, self.app.v4, 5000)]
    }

    pub fn after_rule_change(&self) -> Vec<Row> {
        let mut rows: Vec<_> =
            self.held().into_iter().map(|probe| self.row("K11", probe, DENIED, "new")).collect();
        rows.extend([
            self.row(
                "K11",
                self.tcp(outside::ADMIN, self.web.v4, 3389),
                ALLOWED,
                "new, its rule is still there",
            ),
            self.row("K27", self.tcp(self.app.v4, outside::METADATA, 80), ALLOWED, "M2: explicit rule"),
            self.row("K27", self.tcp(self.web.v4, outside::METADATA, 80), DENIED, ""),
        ]);
        rows
    }

    /// Both interfaces also in `default`: TCP between members, and out to everywhere.
    pub fn after_second_group(&self) -> Vec<Row> {
        let (web, app) = (self.web, self.app);
        vec![
            self.row("K21", self.tcp(app.v4, web.v4, 9000), ALLOWED, "members, TCP"),
            self.row("K21", self.tcp(web.v4, app.v4, 9000), ALLOWED, ""),
            self.row("K21", self.tcp(app.v6, web.v6, 9000), ALLOWED, ""),
            self.row("K21", self.udp(app.v4, web.v4, 9000), DENIED, "members, but not TCP"),
            self.row("K21", self.udp(web.v4, app.v4, 9000), DENIED, ""),
            self.row("K21", self.ping(app.v4, web.v4), DENIED, ""),
            self.row("K21", self.ping(web.v6, app.v6), DENIED, ""),
            self.row("K21", self.tcp(outside::STRANGER, web.v4, 9000), DENIED, "not a member"),
            self.row("K8", self.tcp(outside::STRANGER, web.v4, 80), ALLOWED, "the first group still counts"),
            self.row("K22", self.udp(web.v4, outside::DNS, 53), ALLOWED, "default may go out"),
            self.row("K27", self.tcp(web.v4, outside::METADATA, 80), ALLOWED, "M3: unedited default"),
        ]
    }

    /// For example `TCP   admin 203.0.113.10 → web-1 port 22   (new)`.
    pub fn describe(&self, probe: &Probe, note: &str) -> String {
        let from = probe.source_address().map_or_else(String::new, |address| self.name(address));
        let to = probe.destination();
        let (what, port) = match probe.transport() {
            Transport::Tcp => ("TCP", format!(" port {}", to.port())),
            Transport::Udp => ("UDP", format!(" port {}", to.port())),
            Transport::Icmp => ("ping", String::new()),
        };
        let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
        format!("{what:<4} {from} → {}{port}{note}", self.name(to.ip()))
    }

    fn row(&self, spec: &'static str, probe: Probe, allowed: bool, note: &str) -> Row {
        Row { spec, text: self.describe(&probe, note), probe, allowed }
    }

    fn tcp(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> Probe {
        let from = from.into();
        Probe::tcp(self.site.owner(from), (to.into(), port)).source(from)
    }

    fn udp(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> Probe {
        let from = from.into();
        Probe::udp(self.site.owner(from), (to.into(), port)).source(from)
    }

    fn ping(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Probe {
        let from = from.into();
        Probe::ping(self.site.owner(from), to).source(from)
    }

    fn name(&self, address: IpAddr) -> String {
        use outside::*;
        let known: [(IpAddr, &str); 13] = [
            (self.web.v4, "web-1"),
            (self.web.v6, "web-1 v6"),
            (self.app.v4, "app-1"),
            (self.app.v6, "app-1 v6"),
            (ADMIN.into(), "admin"),
            (ADMIN_V6.into(), "admin v6"),
            (STRANGER.into(), "stranger"),
            (STRANGER_V6.into(), "stranger v6"),
            (SQL_SERVER.into(), "mssql"),
            (MYSQL.into(), "mysql"),
            (METADATA.into(), "169.254.169.254"),
            (DNS.into(), "8.8.8.8"),
            (DNS_V6.into(), "name server v6"),
        ];
        known
            .iter()
            .find(|(known, _)| *known == address)
            .map_or_else(|| address.to_string(), |(_, name)| (*name).to_owned())
    }
}
