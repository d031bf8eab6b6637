//! `sgctl stats`: counters and rates, and how full the tables are.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;

use super::output::{print, table};
use super::rates::{AUDIT, Between, drops, reason_totals, short, span};
use super::{Outcome, names};
use crate::api::client::call;
use crate::api::live::{Stats as Answer, TableFill};
use crate::policy::names::did_you_mean;

/// Show how many packets passed and were dropped, by interface, direction and reason, and how full the tables are.
///
/// With --interval, rates too: of that time, which is waited for. Tables at 80 % or more are marked.
///
/// Exit code: 0 done, 2 there is no such interface, or sgd cannot be reached.
#[derive(Debug, Args)]
pub struct Stats {
    /// Only those of these interfaces
    #[arg(add = names::interfaces())]
    interfaces: Vec<String>,
    /// Show rates, over so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_interval)]
    interval: Option<Duration>,
    /// Go on until Ctrl-C, every --interval (2 seconds if it is not given)
    #[arg(long)]
    watch: bool,
    /// Print JSON instead of text: an object, or with --watch one a line
    #[arg(long)]
    json: bool,
}

/// Between a tenth of a second and a day.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.trim_end_matches('s').trim().parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.1..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds is expected, from 0.1 to 86400".to_owned())
}

/// A table this full is worth a word.
pub(super) const NEARLY_FULL: f64 = 80.0;

pub(super) fn percent(table: &TableFill) -> f64 {
    if table.size == 0 { 0.0 } else { table.used as f64 * 100.0 / table.size as f64 }
}

impl Stats {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let ask = || -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
            let mut answer: Answer = call::<(), _>(socket, Method::GET, "/v1/stats", None)?;
            self.narrow(&mut answer)?;
            Ok(answer)
        };
        let interval = self.interval.or(self.watch.then_some(Duration::from_secs(2)));
        let (mut before, mut at) = (ask()?, Instant::now());
        let Some(interval) = interval else {
            self.show(&before, None)?;
            return Ok(ExitCode::SUCCESS);
        };
        loop {
            std::thread::sleep(interval);
            let now = ask()?;
            let elapsed = at.elapsed().as_secs_f64();
            at = Instant::now();
            self.show(&now, Some(Between { before: &before, now: &now, elapsed }))?;
            if !self.watch {
                return Ok(ExitCode::SUCCESS);
            }
            before = now;
        }
    }

    fn narrow(&self, answer: &mut Answer) -> Result<(), String> {
        let known = &mut answer.status.interfaces;
        for wanted in &self.interfaces {
            if !known.iter().any(|interface| interface.name == *wanted) {
                let near = did_you_mean(wanted, known.iter().map(|interface| interface.name.as_str()));
                let hint = near.unwrap_or_else(|| "`sgctl status` lists those that there are".to_owned());
                return Err(format!("sgd knows no interface {wanted:?}; {hint}"));
            }
        }
        if !self.interfaces.is_empty() {
            known.retain(|interface| self.interfaces.contains(&interface.name));
        }
        Ok(())
    }

    fn show(&self, stats: &Answer, between: Option<Between<'_>>) -> Result<(), std::io::Error> {
        if !self.json {
            let blank = if self.watch { "\n" } else { "" };
            return print(&format!("{}{blank}", text(stats, between)));
        }
        let mut answer = serde_json::to_value(stats)?;
        if let (Some(between), Some(fields)) = (between, answer.as_object_mut()) {
            fields.insert("rates".to_owned(), rates(stats, between));
        }
        let text = if self.watch { answer.to_string() } else { serde_json::to_string_pretty(&answer)? };
        print(&format!("{text}\n"))
    }
}

/// Of each interface, in a second.
fn rates(stats: &Answer, between: Between<'_>) -> serde_json::Value {
    let interfaces = stats.status.interfaces.iter().map(|interface| {
        let [inbound, outbound] = between.of(interface);
        let way = |rate: super::rates::Rate, inbound: bool| {
            let reasons: serde_json::Map<_, _> = between
                .reasons(interface, inbound)
                .into_iter()
                .map(|(name, amount)| (name, amount.packets.into()))
                .collect();
            serde_json::json!({
                "passed_packets": rate.passed.packets, "passed_bytes": rate.passed.bytes,
                "dropped_packets": rate.dropped.packets, "dropped_bytes": rate.dropped.bytes,
                "packets_by_reason": reasons,
            })
        };
        serde_json::json!({ "name": interface.name, "inbound": way(inbound, true), "outbound": way(outbound, false) })
    });
    serde_json::json!({ "seconds": between.seconds(), "interfaces": interfaces.collect::<Vec<_>>() })
}

fn text(stats: &Answer, between: Option<Between<'_>>) -> String {
    let status = &stats.status;
    let mut text = format!(
        "sgd {}, up {}, generation {}, {} since it was started\n\n",
        status.version,
        span(stats.at_ms / 1000),
        status.generation,
        super::output::counted(usize::try_from(stats.swaps).unwrap_or(usize::MAX), "swap"),
    );
    text += &counters(stats, between);
    text += &fills(&stats.tables);
    let collector = &stats.collector;
    text += &format!(
        "\ncollector: {} connections that were over, in {} runs; the last took {:.1} ms, the longest {:.1} ms",
        collector.collected,
        collector.runs,
        collector.last_us as f64 / 1000.0,
        collector.longest_us as f64 / 1000.0,
    );
    match collector.failures {
        0 => text.push('\n'),
        failures => text += &format!("; {failures} runs FAILED, sgd's log says why\n"),
    }
    text
}

fn counters(stats: &Answer, between: Option<Between<'_>>) -> String {
    let mut head = vec!["INTERFACE", "DIRECTION", "VERDICT", "REASON", "PACKETS", "BYTES"];
    if between.is_some() {
        head.extend(["PACKETS/S", "BIT/S"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for interface in &stats.status.interfaces {
        for (direction, counters) in [("inbound", &interface.inbound), ("outbound", &interface.outbound)] {
            let rates = between.map(|between| between.reasons(interface, direction == "inbound"));
            for (name, amount) in reason_totals(counters) {
                let verdict = match name.strip_suffix(AUDIT) {
                    Some(_) => "would drop",
                    None if drops(&name) => "drop",
                    None => "pass",
                };
                let mut row = vec![
                    interface.name.clone(),
                    direction.to_owned(),
                    verdict.to_owned(),
                    name.trim_end_matches(AUDIT).to_owned(),
                    amount.packets.to_string(),
                    amount.bytes.to_string(),
                ];
                if let Some(rates) = &rates {
                    let rate = rates.get(&name).copied().unwrap_or_default();
                    row.extend([short(rate.packets), short(rate.bytes * 8.0)]);
                }
                rows.push(row);
            }
        }
    }
    let quiet: Vec<&str> = stats
        .status
        .interfaces
        .iter()
        .filter(|interface| interface.inbound.reasons.is_empty() && interface.outbound.reasons.is_empty())
        .map(|interface| interface.name.as_str())
        .collect();
    let mut text = if rows.len() > 1 { table(&rows) } else { String::new() };
    if !quiet.is_empty() {
        text += &format!("no packets yet: {}\n", quiet.join(", "));
    }
    text
}

fn fills(tables: &[TableFill]) -> String {
    let mut rows = vec![["TABLE", "USED", "SIZE", "FULL", ""].map(str::to_owned).to_vec()];
    rows.extend(tables.iter().map(|fill| {
        let percent = percent(fill);
        let word = if percent >= NEARLY_FULL { "NEARLY FULL" } else { "" };
        vec![
            fill.what.clone(),
            fill.used.to_string(),
            fill.size.to_string(),
            format!("{percent:.0} %"),
            word.to_owned(),
        ]
    }));
    format!("\n{}", table(&rows))
}
