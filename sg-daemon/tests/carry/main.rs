//! Security groups of clouds in and out, without a daemon.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod aws;
mod cli;
mod cloud;
mod kakao;
mod neutron;
mod same;

use serde_json::Value;
use sg_daemon::carry::{self, File, Input, Options, ReadError, Report};
use sg_daemon::policy::{self, model::Model};

type Import = fn(&[Input], &Options, carry::Progress<'_>) -> Result<(Vec<File>, Report), ReadError>;

fn input(document: &Value) -> Input {
    Input { name: "cloud.json".to_owned(), text: document.to_string().into_bytes() }
}

fn imported(import: Import, document: &Value, options: &Options) -> (Vec<String>, Report) {
    let (files, report) = import(&[input(document)], options, &|_, _| {}).unwrap();
    (files.iter().map(carry::text::text).collect(), report)
}

fn loaded(texts: &[String]) -> Model {
    let files =
        texts.iter().enumerate().map(|(at, text)| (format!("{at}.json").into(), text.clone().into_bytes()));
    match policy::load_bytes(files) {
        Ok(loaded) => std::sync::Arc::unwrap_or_clone(loaded.model),
        Err(error) => panic!("{error}\n{}", texts.join("\n")),
    }
}

fn parsed(texts: &[String]) -> Vec<Value> {
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// The losses as `path: why`.
fn losses(report: &Report) -> Vec<String> {
    report.losses.iter().map(|loss| format!("{}: {}", loss.path, loss.why)).collect()
}
