//! One member more of a large group.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use sg_tests::figures::Figures;
use sg_tests::{Daemon, Netns, Process, Topology, write_file};

use super::super::filters::{DEVICE, GUEST};
use super::super::report::bars::{IPSET, NFT};
use super::api::Api;
use super::{IN_A_ROW, OURS, REST, cost, cpu, memory, tell, theirs};

const MS: f64 = 1e3;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn measure(members: usize, rounds: usize, figures: &mut Figures) -> Result<()> {
    let site = Topology::with_guests(1)?;
    let peers: Vec<Value> = addresses(members)
        .map(|address| json!({ "address": address, "security_groups": ["members"] }))
        .collect();
    let policy = json!({
        "version": 1, "project": "bench", "vpc": "main",
        "security_groups": [
            { "name": "webs", "inbound": [{ "protocol": "TCP", "source": "@members", "port": 80 }] },
            { "name": "members" },
        ],
        "interfaces": [{ "name": DEVICE, "addresses": [GUEST], "security_groups": ["webs"] }],
        "peers": peers,
    });
    let daemon = Daemon::start(&site, &policy.to_string())?;
    memory::daemon(&daemon, ("members", members), figures)?;
    memory::flow(&daemon, figures)?;
    let api = Api::new(&daemon.socket());
    let (nft, nft_lab) = theirs()?;
    let (ipset, ipset_lab) = theirs()?;
    let mut elements = String::from("table inet filter { set members { type ipv4_addr; elements = {\n");
    let mut sets = String::from("create members hash:ip hashsize 131072 maxelem 1000000\n");
    for address in addresses(members) {
        writeln!(elements, "{address},")?;
        writeln!(sets, "add members {address}")?;
    }
    elements.push_str("}\n}\n}\n");
    let file = |lab: &sg_tests::Lab, text: &str| {
        Ok::<_, anyhow::Error>(write_file(lab.directory(), "members", text)?.to_string_lossy().into_owned())
    };
    run(&nft, "nft", &["-f", &file(&nft_lab, &elements)?])?;
    run(&ipset, "ipset", &["restore", "-file", &file(&ipset_lab, &sets)?])?;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let (mut writes, mut spent_all) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let address = format!("192.0.2.{}", round + 1);
        let path = format!("/v1/peers/{address}");
        let [own, by_nft, by_ipset] = &mut times;
        let before = cpu(&daemon)?;
        own.push(api.send("PUT", &path, &json!({ "security_groups": ["members"] }))?.as_secs_f64() * MS);
        let (written, spent) = cost(&daemon, before)?;
        writes.push(written);
        spent_all.push(spent);
        let element = format!("{{ {address} }}");
        by_nft.push(run(&nft, "nft", &["add", "element", "inet", "filter", "members", &element])?);
        by_ipset.push(run(&ipset, "ipset", &["add", "members", &address])?);
    }
    for (filter, times) in [OURS, NFT, IPSET].into_iter().zip(&times) {
        tell(figures, "one member", "ms", (filter, "members", members), times)?;
    }
    let mut in_a_row = Vec::new();
    sleep(REST);
    for round in 0..IN_A_ROW {
        let path = format!("/v1/peers/203.0.113.{}", round + 1);
        in_a_row.push(api.send("PUT", &path, &json!({ "security_groups": ["members"] }))?.as_secs_f64() * MS);
    }
    let ours = (OURS, "members", members);
    tell(figures, "one member, in a row", "ms", ours, &in_a_row)?;
    tell(figures, "map writes for one member", "", ours, &writes)?;
    tell(figures, "CPU of the daemon for one member", "ms", ours, &spent_all)?;
    Ok(())
}

fn addresses(count: usize) -> impl Iterator<Item = std::net::Ipv4Addr> {
    (0..count as u32).map(|number| std::net::Ipv4Addr::from(0xc612_0000 + number))
}

/// Milliseconds.
fn run(host: &Netns, program: &str, arguments: &[&str]) -> Result<f64> {
    let mut command = host.command(crate::setup::program(program)?);
    command.args(arguments);
    let began = Instant::now();
    let finished = Process::finish(command, PATIENCE)?;
    let took = began.elapsed();
    finished.success(program)?;
    Ok(took.as_secs_f64() * MS)
}
