//! In path: packets forwarded from outside to a guest, without a filter, with this one and with others that have the same policy. Each
//! is held to that policy before it is timed: what must pass does, and what must not does not.

mod inject;
mod site;
mod sockets;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use sg_tests::figures::{Figures, Spread};

use super::filters::{Peer, Rules};
use super::report::bars::{
    EMPTY, EMPTY_BRIDGED, NONE, NONE_BRIDGED, OURS, OURS_BOTH, OURS_BRIDGED, OURS_CLSACT, OURS_FAST,
};
use inject::{FLOWS, Injector};
pub use inject::{checksum, thread_time};
pub use site::{CLIENT, GUEST_MAC, OUTSIDE_MAC, topology};
use site::{Filter, Ports, Site};
pub use sockets::cpu;

#[derive(Debug, Args)]
pub struct Path {
    /// Fewer sizes and rounds
    #[arg(long)]
    quick: bool,
    /// Only filters with NAME in their name, and none at all; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

impl Path {
    pub fn run(&self) -> Result<()> {
        if super::again_with_daemon(true)? {
            return Ok(());
        }
        let mut figures = Figures::open()?;
        let (few, counts): (_, &[usize]) =
            if self.quick { (3, &[10, 10_000]) } else { (7, &[10, 100, 1000, 10_000]) };
        let sites = sites(counts, &self.only, !self.quick)?;
        frames(&sites, few, &mut figures)?;
        traffic(&sites, few, Duration::from_millis(if self.quick { 150 } else { 500 }), &mut figures)
    }
}

/// One of those that are compared.
struct Contender {
    name: &'static str,
    /// None: without a filter there are none, and an empty program has none.
    rules: Option<usize>,
    site: Site,
}

impl Contender {
    fn labels(&self) -> Value {
        match self.rules {
            Some(rules) => json!({ "filter": self.name, "rules": rules }),
            None => json!({ "filter": self.name }),
        }
    }

    fn text(&self) -> String {
        self.rules.map_or_else(|| self.name.to_owned(), |rules| format!("{}, {rules} rules", self.name))
    }
}

/// All of them, side by side, each held to what it must do. `all`: also ours in ways that are there for older kernels, and
/// in each way under each number of rules.
fn sites(counts: &[usize], only: &[String], all: bool) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    let mut add = |name: &'static str, rules: Option<usize>, bridged, filter: Option<Filter>| -> Result<()> {
        if filter.is_some() && !only.is_empty() && !only.iter().any(|part| name.contains(part.as_str())) {
            return Ok(());
        }
        let denies = rules.is_some();
        let rules_of = Rules::new(rules.unwrap_or_default(), 0);
        let site = Site::new(bridged, filter.map(|filter| (filter, &rules_of)))?;
        let contender = Contender { name, rules, site };
        inject::check(&contender.site, denies).with_context(|| contender.text())?;
        contenders.push(contender);
        Ok(())
    };
    add(NONE, None, false, None)?;
    add(NONE_BRIDGED, None, true, None)?;
    add(EMPTY, None, false, Some(Filter::Empty))?;
    add(EMPTY_BRIDGED, None, true, Some(Filter::Empty))?;
    for &count in counts {
        // The tables for very many connections are large.
        let many = Some(&count) == counts.first();
        add(OURS, Some(count), false, Some(Filter::Ours { many, ports: Ports::One }))?;
        if many && all {
            add(OURS_CLSACT, Some(count), false, Some(Filter::Clsact))?;
        }
        // How many rules there are is seen without a bridge.
        if many || all {
            add(OURS_BRIDGED, Some(count), true, Some(Filter::Ours { many, ports: Ports::One }))?;
            add(OURS_FAST, Some(count), true, Some(Filter::Ours { many, ports: Ports::FastPath }))?;
        }
        if all {
            add(OURS_BOTH, Some(count), true, Some(Filter::Ours { many, ports: Ports::Both }))?;
        }
        for peer in Peer::ALL {
            add(peer.name(), Some(count), peer.is_bridged(), Some(Filter::Peer(peer)))?;
        }
    }
    println!("{} contenders; each lets pass what it must and nothing else\n", contenders.len());
    Ok(contenders)
}

/// CPU for each frame that is received outside and leaves towards the guest.
fn frames(contenders: &[Contender], rounds: usize, figures: &mut Figures) -> Result<()> {
    let few = contenders.iter().filter_map(|contender| contender.rules).min();
    println!("{:<44} {:<12} {:>6}  ns of CPU a packet, {rounds} rounds in turn", "", "packet", "flows");
    let mut injectors = Vec::new();
    for contender in contenders {
        let many = contender.rules.is_none() || contender.rules == few;
        let injector = Injector::new(&contender.site, if many { FLOWS } else { 1 });
        injectors.push((contender, injector.with_context(|| contender.text())?, many));
    }
    let mut results: Vec<[Vec<f64>; 3]> = injectors.iter().map(|_| Default::default()).collect();
    for _ in 0..rounds {
        for ((contender, injector, many), [one, all, new]) in injectors.iter_mut().zip(&mut results) {
            let mut measure = || -> Result<()> {
                one.push(injector.established(1)?);
                if *many {
                    all.push(injector.established(FLOWS)?);
                }
                new.push(injector.new_flows()?);
                Ok(())
            };
            measure().with_context(|| contender.text())?;
        }
    }
    for ((contender, ..), [one, all, new]) in injectors.iter().zip(&results) {
        for (what, flows, values) in [("established", 1, one), ("established", FLOWS, all), ("new", 0, new)] {
            if values.is_empty() {
                continue;
            }
            let flows_text = if what == "new" { "each".to_owned() } else { flows.to_string() };
            println!("{:<44} {what:<12} {flows_text:>6}  {}", contender.text(), Spread::of(values));
            let mut labels = contender.labels();
            if let Some(labels) = labels.as_object_mut() {
                labels.insert("packet".to_owned(), json!(what));
                labels.insert("flows".to_owned(), if what == "new" { json!("each") } else { json!(flows) });
            }
            figures.add("in path", "ns", &labels, values)?;
        }
    }
    Ok(())
}

/// Sockets of programs, through the namespaces.
fn traffic(contenders: &[Contender], rounds: usize, span: Duration, figures: &mut Figures) -> Result<()> {
    const FIGURES: [(&str, &str); 5] = [
        ("connections", "a second"),
        ("CPU per connection", "µs"),
        ("datagrams", "a second"),
        ("bulk TCP", "Gbit/s"),
        ("CPU per GB of bulk TCP", "ms"),
    ];
    let mut results: Vec<[Vec<f64>; 5]> = contenders.iter().map(|_| Default::default()).collect();
    let servers =
        contenders.iter().map(|contender| sockets::serve(&contender.site)).collect::<Result<Vec<_>>>()?;
    for _ in 0..rounds {
        let all = contenders.iter().zip(&servers).zip(&mut results);
        for ((contender, servers), [rate, cpu, datagrams, bulk, bulk_cpu]) in all {
            let mut measure = || -> Result<()> {
                let (per_second, each) = sockets::connections(&contender.site, span)?;
                rate.push(per_second);
                cpu.push(each);
                datagrams.push(sockets::datagrams(&contender.site, servers, span)?);
                let (gbit, per_gb) = sockets::bulk(&contender.site, span)?;
                bulk.push(gbit);
                bulk_cpu.push(per_gb);
                Ok(())
            };
            measure().with_context(|| contender.text())?;
        }
    }
    println!();
    for (index, (figure, unit)) in FIGURES.iter().enumerate() {
        for (contender, results) in contenders.iter().zip(&results) {
            let values = results.get(index).context("a figure")?;
            println!("{:<44} {figure:<24} {} {unit}", contender.text(), Spread::of(values));
            figures.add(figure, unit, &contender.labels(), values)?;
        }
    }
    Ok(())
}
