//! The alert rules and the dashboard of `packaging/` against the list of metrics, by Prometheus' own tool.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sg_common::metrics::{EVERY, LABELS, PROCESS};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

/// Runs promtool in a directory; what it says, if it is content.
fn promtool(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .current_dir(directory)
        .args(arguments)
        .output()
        .expect("promtool cannot be run: `cargo xtask setup` installs it");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// An expression with every variable of Grafana's replaced.
fn plain(expression: &str) -> String {
    expression.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$interface", ".*")
}

/// Every expression of the dashboard.
fn expressions() -> Vec<String> {
    let text = std::fs::read_to_string(packaging("grafana/sgd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        expressions.extend(targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        expressions.push(annotation["expr"].as_str().unwrap().to_owned());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inner = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (selector, label) = inner.rsplit_once(", ").unwrap();
            expressions.push(format!("count by ({label}) ({selector})"));
        }
    }
    assert!(expressions.len() > 20, "{expressions:?}");
    expressions
}

/// The expressions of the alert rules.
fn alerts() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(packaging("prometheus/sgd.rules.yml")).unwrap();
    let after = |prefix: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(prefix));
        lines.map(|value| value.trim().to_owned()).collect::<Vec<_>>()
    };
    let (names, expressions) = (after("- alert:"), after("expr:"));
    assert_eq!(names.len(), expressions.len());
    names.into_iter().zip(expressions).collect()
}

/// The words outside of quotes, each with whether it stands in braces, and what follows it.
fn words(expression: &str) -> Vec<(String, bool, String)> {
    let mut words = Vec::new();
    let (mut braces, mut at) = (0, 0);
    let bytes = expression.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at += 1 + expression[at + 1..].find('"').unwrap(),
            b'{' => braces += 1,
            b'}' => braces -= 1,
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                let word: String =
                    expression[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let rest = expression[at + word.len()..].trim_start().to_owned();
                at += word.len() - 1;
                words.push((word, braces > 0, rest));
            }
            _ => {}
        }
        at += 1;
    }
    words
}

/// What an expression uses has to exist: metrics, and labels of them or of every target.
fn check(expression: &str) {
    let of_targets = ["instance", "job"];
    let labels =
        |name: &str| EVERY.iter().chain(PROCESS).find(|metric| metric.name == name).map(|found| found.labels);
    let mut metrics = 0;
    let mut current: Option<&'static [&'static str]> = None;
    let mut grouping: BTreeSet<String> = BTreeSet::new();
    let mut all: BTreeSet<&str> = of_targets.into();
    let mut in_by = false;
    for (word, in_braces, rest) in words(&plain(expression)) {
        if in_braces {
            let known = current.unwrap_or_else(|| panic!("{word} belongs to no metric: {expression}"));
            assert!(
                known.contains(&word.as_str()) || of_targets.contains(&word.as_str()),
                "the metric has no label {word}: {expression}"
            );
        } else if word == "by" {
            in_by = true;
        } else if in_by {
            in_by = !rest.starts_with(')');
            grouping.insert(word);
        } else if let Some(known) = labels(&word) {
            metrics += 1;
            current = Some(known);
            all.extend(known);
        } else if word == "up" {
            metrics += 1;
            current = Some(&[]);
        } else {
            let is_function =
                rest.starts_with('(') || rest.starts_with("by") || word.len() == 1 || word == "m";
            assert!(is_function, "sgd exports no {word}: {expression}");
        }
    }
    assert!(metrics > 0, "no metric in {expression}");
    for label in grouping {
        assert!(all.contains(label.as_str()), "no metric has the label {label}: {expression}");
    }
}

#[test]
fn the_dashboard_and_the_alerts_use_only_what_sgd_exports() {
    for expression in expressions() {
        check(&expression);
    }
    for (_, expression) in alerts() {
        check(&expression);
    }
}

#[test]
fn what_does_not_exist_is_noticed() {
    for wrong in [
        "rate(sgd_packet_total[5m])",
        "sum by (intrface) (sgd_interfaces)",
        "sgd_interfaces{stat=\"audit\"}",
        "sgd_policy_refused{interface=\"tap0\"}",
        "1 + 1",
    ] {
        assert!(std::panic::catch_unwind(|| check(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn prometheus_understands_every_expression_of_the_dashboard() {
    let directory = tempfile::tempdir().unwrap();
    let rules: Vec<String> = expressions()
        .iter()
        .enumerate()
        .map(|(index, expression)| {
            format!("  - {{record: 'dashboard:{index}', expr: {}}}", Value::from(plain(expression)))
        })
        .collect();
    let text = format!("groups:\n- name: dashboard\n  rules:\n{}\n", rules.join("\n"));
    std::fs::write(directory.path().join("rules.yml"), text).unwrap();
    let said = promtool(directory.path(), &["check", "rules", "rules.yml"]);
    assert!(said.contains(&format!("{} rules found", rules.len())), "{said}");
}

#[test]
fn prometheus_takes_the_alert_rules_and_each_is_raised_by_what_it_is_for() {
    let directory = packaging("prometheus");
    let said = promtool(&directory, &["check", "rules", "sgd.rules.yml"]);
    assert!(said.contains(&format!("{} rules found", alerts().len())), "{said}");
    promtool(&directory, &["test", "rules", "sgd.rules.test.yml"]);
    let tests = std::fs::read_to_string(directory.join("sgd.rules.test.yml")).unwrap();
    let (quiet, loud) = tests.split_once("everything is wrong").unwrap();
    for (name, _) in alerts() {
        assert!(quiet.contains(&format!("alertname: {name}}}")), "{name} is not tested to be quiet");
        assert!(
            loud.contains(&format!("alertname: {name}\n        exp_alerts:")),
            "{name} is not tested to be raised"
        );
    }
}

#[test]
fn the_page_of_labels_has_no_label_that_no_metric_has() {
    for (label, _) in LABELS {
        assert!(EVERY.iter().any(|metric| metric.labels.contains(label)), "{label}");
    }
}
