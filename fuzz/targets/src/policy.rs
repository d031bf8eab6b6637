//! Any bytes as the files of a policy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use proptest::collection::vec;
use serde_json::Value;
use sg_daemon::compile::compile;
use sg_daemon::policy::render::{render, to_json};
use sg_daemon::policy::{self, Diagnostic, Loaded, reaches_metadata};
use sg_oracle::rules::{self, Direction, Question, Transport};
use sg_oracle::world::{Seed, any_seed};

use crate::compiler::{agrees, thrown};

/// Stands between files: a byte that no UTF-8 has.
const BETWEEN_FILES: u8 = 0xff;
const MOST_FILES: usize = 4;
/// Of a thousand findings the last ones are like the first.
const FINDINGS: usize = 40;

/// Loads the bytes and looks at everything that is said about them. If they are a policy, its text is read a second time,
/// by the oracle, and both readings must allow the same.
pub fn policy(bytes: &[u8]) {
    let texts: Vec<&[u8]> = bytes.splitn(MOST_FILES, |byte| *byte == BETWEEN_FILES).collect();
    let files = texts.iter().enumerate().map(|(index, text)| (path(index), text.to_vec()));
    let findings = match policy::load_bytes(files) {
        Ok(loaded) => {
            read_twice(&loaded);
            loaded.lints
        }
        Err(error) => {
            assert!(!error.diagnostics.is_empty(), "refused without a reason");
            assert!(!error.unreadable);
            error.diagnostics
        }
    };
    for finding in findings.iter().take(FINDINGS) {
        in_its_file(finding, &texts);
        let line = finding.to_string();
        assert!(!line.chars().any(char::is_control), "not fit for a log: {line:?}");
        let shown = render(finding, false);
        assert!(!shown.contains('\u{1b}'), "not fit for a terminal: {shown:?}");
    }
    to_json(&findings).unwrap();
}

fn path(index: usize) -> PathBuf {
    format!("{index}.json").into()
}

/// The place that is named exists.
fn in_its_file(finding: &Diagnostic, texts: &[&[u8]]) {
    let Some(line) = finding.line else { return };
    let index = (0..texts.len()).find(|index| path(*index) == finding.file).expect("one of the files");
    let text = String::from_utf8_lossy(texts[index]);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let written =
        text.split('\n').nth(line as usize - 1).unwrap_or_else(|| panic!("no line {line}: {finding}"));
    let column = finding.column.unwrap() as usize;
    assert!((1..=written.chars().count() + 1).contains(&column), "column {column} of {written:?}: {finding}");
}

fn read_twice(loaded: &Loaded) {
    let files: Vec<Value> =
        loaded.texts.iter().map(|text| serde_json::from_str(text).expect("what loads is JSON")).collect();
    let image = compile(&loaded.model);
    assert_eq!(image, compile(&loaded.model), "one policy, two images");
    for interface in &loaded.model.interfaces {
        let question = Question {
            interface: interface.name.clone(),
            direction: Direction::Outbound,
            remote: IpAddr::from([169, 254, 169, 254]),
            transport: Transport::Tcp { port: 80 },
        };
        assert_eq!(
            reaches_metadata(&loaded.model, interface),
            rules::allows(&files, &question),
            "{question:?}"
        );
    }
    if !loaded.model.interfaces.is_empty() {
        for seed in seeds() {
            agrees(&image, &files, &seed.question(&files));
        }
    }
    // K20, K24, and what the kernel's tables are keyed by.
    let devices: BTreeSet<&str> =
        loaded.model.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(devices.len(), loaded.model.interfaces.len(), "a device twice");
    let groups: BTreeSet<_> =
        loaded.model.groups.iter().map(|group| (&group.project, group.vpc, &group.name)).collect();
    assert_eq!(groups.len(), loaded.model.groups.len(), "a group twice");
}

/// The same questions for every input: what an input does depends on nothing else.
fn seeds() -> &'static [Seed] {
    static SEEDS: OnceLock<Vec<Seed>> = OnceLock::new();
    SEEDS.get_or_init(|| thrown(&vec(any_seed(), 24), b"questions"))
}
