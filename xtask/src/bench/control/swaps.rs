//! Changing all rules, and adding one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sg_tests::figures::Figures;
use sg_tests::{Daemon, write_file};

use super::api::Api;
use super::{IN_A_ROW, OURS, Peer, REST, Rules, cost, cpu, memory, ours, tell, theirs};

const MS: f64 = 1e3;

/// Each size by itself, so that few rules do not pay for many; all filters of a size in turn.
pub fn measure(counts: &[usize], rounds: usize, figures: &mut Figures) -> Result<()> {
    for &count in counts {
        let variants = [Rules::new(count, 0), Rules::new(count, 1)];
        let [first, _] = &variants;
        let (_site, daemon) = ours(first)?;
        memory::daemon(&daemon, ("rules", count), figures)?;
        let files =
            [0, 1].map(|index| (format!("{index}.json"), variants.get(index).map(|rules| rules.sgd(None))));
        let mut paths = Vec::new();
        for (name, policy) in files {
            let policy = policy.context("a variant")?.to_string();
            paths.push(write_file(&daemon.state_dir(), &name, &policy)?.to_string_lossy().into_owned());
        }
        let peers = Peer::ALL.map(|peer| theirs().map(|(host, lab)| (peer, host, lab)));
        let mut peers = peers.into_iter().collect::<Result<Vec<_>>>()?;
        for (peer, host, lab) in &peers {
            peer.apply(host, first, lab.directory())?;
        }
        let mut own = Vec::new();
        let mut others = vec![Vec::new(); peers.len()];
        for round in 0..rounds {
            let next = (round + 1) % 2;
            own.push(swap(&daemon, paths.get(next).context("a variant")?)?.as_secs_f64() * MS);
            for ((peer, host, lab), times) in peers.iter().zip(&mut others) {
                let rules = variants.get(next).context("a variant")?;
                times.push(peer.apply(host, rules, lab.directory())?.as_secs_f64() * MS);
            }
        }
        tell(figures, "full swap", "ms", (OURS, "rules", count), &own)?;
        for ((peer, ..), times) in peers.iter().zip(&others) {
            tell(figures, "full swap", "ms", (peer.name(), "rules", count), times)?;
        }
        if Some(&count) == counts.last() {
            one_rule(&daemon, &mut peers, &variants, rounds, figures)?;
        }
    }
    Ok(())
}

/// From the start of `sgctl apply` until it says that the policy is in force: what an operator waits.
fn swap(daemon: &Daemon, path: &str) -> Result<Duration> {
    let began = Instant::now();
    let output = daemon.sgctl(&["apply", path])?;
    let took = began.elapsed();
    anyhow::ensure!(output.status.success(), "sgctl apply: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

fn one_rule(
    daemon: &Daemon,
    peers: &mut [(Peer, sg_tests::Netns, sg_tests::Lab)],
    variants: &[Rules; 2],
    rounds: usize,
    figures: &mut Figures,
) -> Result<()> {
    let api = Api::new(&daemon.socket());
    let (mut request, mut program) = (Vec::new(), Vec::new());
    let (mut writes, mut spent_all) = (Vec::new(), Vec::new());
    let mut others = vec![Vec::new(); peers.len()];
    let [rules, _] = variants;
    let mut all: Vec<Rules> = peers.iter().map(|_| rules.clone()).collect();
    for round in 0..rounds {
        let rule = serde_json::json!({ "protocol": "TCP", "source": "172.31.0.0/24", "port": 100 + round });
        let before = cpu(daemon)?;
        request.push(api.send("POST", "/v1/groups/group0/rules/inbound", &rule)?.as_secs_f64() * MS);
        let (written, spent) = cost(daemon, before)?;
        writes.push(written);
        spent_all.push(spent);
        let port = (1000 + round).to_string();
        let began = Instant::now();
        let words = [
            "rule",
            "add",
            "group0",
            "inbound",
            "--protocol",
            "tcp",
            "--source",
            "172.31.0.0/24",
            "--port",
            &port,
        ];
        let output = daemon.sgctl(&words)?;
        program.push(began.elapsed().as_secs_f64() * MS);
        anyhow::ensure!(
            output.status.success(),
            "sgctl rule add: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        for (((peer, host, lab), times), rules) in peers.iter().zip(&mut others).zip(&mut all) {
            times.push(peer.add(host, rules, round, lab.directory())?.as_secs_f64() * MS);
        }
    }
    let mut in_a_row = Vec::new();
    sleep(REST);
    for round in 0..IN_A_ROW {
        let rule = serde_json::json!({ "protocol": "TCP", "source": "172.31.1.0/24", "port": 100 + round });
        in_a_row.push(api.send("POST", "/v1/groups/group1/rules/inbound", &rule)?.as_secs_f64() * MS);
    }
    let count = rules.0.len();
    tell(figures, "one rule, in a row", "ms", (OURS, "rules", count), &in_a_row)?;
    tell(figures, "one rule", "ms", (OURS, "rules", count), &request)?;
    tell(figures, "map writes for one rule", "", (OURS, "rules", count), &writes)?;
    tell(figures, "CPU of the daemon for one rule", "ms", (OURS, "rules", count), &spent_all)?;
    tell(figures, "one rule", "ms", ("sgctl, with its start", "rules", count), &program)?;
    for ((peer, ..), times) in peers.iter().zip(&others) {
        tell(figures, "one rule", "ms", (peer.name(), "rules", count), times)?;
    }
    Ok(())
}
