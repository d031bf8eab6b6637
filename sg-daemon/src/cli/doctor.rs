//! `sgctl doctor`: can this host run sgd, and how?

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde::Serialize;

use super::output::{Tone, paint, print, table};
use super::{NO, Outcome, TROUBLE};
use crate::api::client::call;
use crate::api::types::Status;
use crate::doctor::{self, Outcome as Found, Report};

/// Say whether this host can run sgd, what it lacks, and by which hook each of its devices would be filtered.
///
/// Works without sgd, and changes nothing. Most of it takes root: what cannot be told without is said to be not known.
///
/// Exit code: 0 this host can run sgd, 1 it cannot, 2 that cannot be told (run it as root).
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    report: Report,
    /// The hooks of the interfaces that a running sgd filters, ingress and egress; absent if none can be asked.
    in_force: Option<BTreeMap<String, [String; 2]>>,
}

impl Doctor {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let report = doctor::examine()?;
        let status: Option<Status> = call::<(), _>(socket, Method::GET, "/v1/status", None).ok();
        let in_force = status.map(|status| {
            let hooks = |interface: crate::api::types::InterfaceStatus| {
                Some((interface.name, [interface.ingress?, interface.egress?]))
            };
            status.interfaces.into_iter().filter_map(hooks).collect()
        });
        let answer = Answer { report, in_force };
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            print(&text(&answer))?;
        }
        Ok(match answer.report.able {
            Some(true) => ExitCode::SUCCESS,
            Some(false) => ExitCode::from(NO),
            None => ExitCode::from(TROUBLE),
        })
    }
}

fn text(answer: &Answer) -> String {
    let report = &answer.report;
    let mut rows = vec![["CHECK", "OUTCOME", "FOUND"].map(str::to_owned).to_vec()];
    for check in &report.checks {
        let (tone, word) = match check.outcome {
            Found::Good => (Tone::Good, "good"),
            Found::Warning => (Tone::Warning, "warning"),
            Found::Bad => (Tone::Bad, "missing"),
            Found::Unknown => (Tone::Warning, "not known"),
        };
        rows.push(vec![check.name.to_owned(), paint(tone, word), check.found.clone()]);
    }
    let mut text = table(&rows);
    for check in &report.checks {
        if let Some(advice) = &check.advice {
            text += &format!("{}: {advice}\n", check.name);
        }
    }
    let mut rows =
        vec![["INTERFACE", "KIND", "DRIVER", "GSO", "XDP", "AUTO", "IN FORCE"].map(str::to_owned).to_vec()];
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    for device in &report.interfaces {
        let gso = device.gso.map(|gso| if gso { "on" } else { "off" });
        let in_force = answer.in_force.as_ref().and_then(|hooks| hooks.get(&device.name));
        rows.push(vec![
            device.name.clone(),
            device.kind.clone(),
            or_dash(device.driver.as_deref()),
            or_dash(gso),
            device.xdp.text().to_owned(),
            device.hook.unwrap_or("not known").to_owned(),
            in_force.map_or_else(|| "-".to_owned(), |[ingress, egress]| format!("{ingress}/{egress}")),
        ]);
    }
    text += &format!("\n{}", table(&rows));
    for device in &report.interfaces {
        text += &format!("{}: {}\n", device.name, device.why);
    }
    if answer.in_force.is_none() {
        text +=
            &format!("\n{}\n", paint(Tone::Faint, "No sgd answers, so nothing is said of what is in force."));
    }
    let verdict = match report.able {
        Some(true) => paint(Tone::Good, "This host can run sgd."),
        Some(false) => paint(Tone::Bad, "This host cannot run sgd: see what is missing above."),
        None => paint(Tone::Warning, "Whether this host can run sgd cannot be told: run this as root."),
    };
    text + &format!("\n{verdict}\n")
}
