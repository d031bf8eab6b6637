//! What was measured, as JSON, as a page and as plots.

pub mod bars;
pub mod machine;
mod plot;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sg_tests::figures::{Figure, Spread};

use bars::{EMPTY, EMPTY_BRIDGED, Row, Run, number};
use machine::Machine;

/// How the figures were made.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    pub quick: bool,
    pub took: Duration,
    /// The parts whose figures are not all there.
    pub failed: &'a [&'a str],
}

/// Writes `results.json`, `README.md` and the plots, and prints the table.
pub fn write(figures: Vec<Figure>, machine: &Machine, made: Made<'_>, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let facts = machine.facts();
    let run = Run(figures);
    let rows = bars::rows(&run);
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("results.json", &format!("{:#}\n", results(&run, &rows, &facts, made)))?;
    let plots = plot::write(&run, directory)?;
    put("README.md", &page(&run, &rows, &facts, &plots, made))?;
    println!("\n{}", table(&rows));
    println!("{}, {} plots", directory.join("README.md").display(), plots.len());
    Ok(())
}

fn results(run: &Run, rows: &[Row], facts: &[(&'static str, String)], made: Made<'_>) -> Value {
    let figures: Vec<Value> = run
        .0
        .iter()
        .map(|figure| {
            let Spread { median, least, most } = figure.spread();
            json!({
                "figure": figure.figure, "unit": figure.unit, "labels": figure.labels,
                "median": median, "least": least, "most": most, "rounds": figure.values,
            })
        })
        .collect();
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "figure": row.figure, "unit": row.unit, "ours": row.ours, "least": row.least,
                "best_peer": row.peer.as_ref().map(|(name, value)| json!({ "name": name, "value": value })),
                "ratio": row.ratio(), "bar": row.must.text(), "goal": row.goal.text(), "met": row.met(),
            })
        })
        .collect();
    json!({
        "quick": made.quick, "seconds": made.took.as_secs(), "failed": made.failed, "machine": Machine::json(facts),
        "table": rows, "figures": figures,
    })
}

/// The table as text, which is Markdown too.
fn table(rows: &[Row]) -> String {
    let head = ["figure", "ours", "best peer", "ratio", "bar", "goal", "met?"].map(str::to_owned);
    let mut cells = vec![head.clone(), head.map(|_| "---".to_owned())];
    for row in rows {
        let with_unit = |value: f64| format!("{} {}", number(value), row.unit).trim_end().to_owned();
        cells.push([
            row.figure.clone(),
            row.ours.map_or_else(|| "–".to_owned(), with_unit),
            row.peer
                .as_ref()
                .map_or_else(|| "–".to_owned(), |(name, value)| format!("{}, {name}", with_unit(*value))),
            row.ratio().map_or_else(|| "–".to_owned(), number),
            row.must.text(),
            row.goal.text(),
            row.met().to_owned(),
        ]);
    }
    markdown(&cells)
}

/// Columns as wide as what is in them.
fn markdown<const N: usize>(cells: &[[String; N]]) -> String {
    let width = |column: usize| {
        cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in cells {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    }
    text
}

fn page(
    run: &Run,
    rows: &[Row],
    facts: &[(&'static str, String)],
    plots: &[(&str, &str)],
    made: Made<'_>,
) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    let how = if made.quick {
        "`cargo xtask bench --quick`, with fewer sizes and rounds than without `--quick`, which takes up to half an hour on two busy CPUs"
    } else {
        "`cargo xtask bench`"
    };
    let _ = writeln!(
        text,
        "Written by {how}. This took {} minutes. Every figure is the median of rounds; what is compared was measured in turn, round by round. All values of all \
         rounds, and every figure that is not on this page, are in [results.json](results.json).\n",
        made.took.as_secs().div_ceil(60)
    );
    if !made.failed.is_empty() {
        let _ = writeln!(
            text,
            "**Failed: {}.** What is missing there was not measured.\n",
            made.failed.join(", ")
        );
    }
    text.push_str(&table(rows));
    text.push_str(
        "\n\"goal\": the goal too. \"The least: yes\": not the median, but the least of all rounds, where neighbours disturb least. \"Not of this run\": the value is another filter's on a machine of this kind, where that filter is not\n\
         installed here. CPU *added* is what a packet costs more than without a filter in the same round.\n\n",
    );
    let floor = |filter: &str| run.added("in path", filter, &json!({ "packet": "established", "flows": 1 }));
    if let (Some(routed), Some(bridged)) = (floor(EMPTY), floor(EMPTY_BRIDGED)) {
        let _ = writeln!(
            text,
            "Of what is added in path, the hook's own share, with an empty program where sgd has its own, was {} ns for a routed packet and \
             {} ns for a bridged one.\n",
            number(routed),
            number(bridged)
        );
    }
    let empty = |hook: &str| run.one("empty program", &json!({ "hook": hook }));
    if let (Some(xdp), Some(tc)) = (empty("XDP"), empty("TC")) {
        let _ = writeln!(
            text,
            "An empty program takes {} ns here by XDP and {} ns by TC, and took 25 ns and 28 ns where values and bars \"not of this run\" were \
             taken: times of two machines compare only as far as these do.\n",
            number(xdp),
            number(tc)
        );
    }
    let minimal = [("established", "same"), ("new", "each"), ("denied", "same")].map(|(packet, flows)| {
        let labels = json!({ "packet": packet, "rules": 10, "members": 0, "flows": flows });
        let ns = run.one("minimal filter beside", &labels)?;
        Some((packet, ns, run.one("packet over the minimal filter", &labels)?))
    });
    if let [Some(established), Some(new), Some(denied)] = minimal {
        let told = [established, new, denied].map(|(packet, ns, times)| {
            format!("{packet} {} ns, of which sgd by TC takes {} ×", number(ns), number(times))
        });
        let _ = writeln!(
            text,
            "The least filter of the kernel's own maps (IPv4 and one protocol; an LRU hash of connections, an LPM trie, a hash; no states, no ranges, \
             no guard), right before each of sgd's in the same rounds: {}. Where the bars were set it took 84, 423 and 102 ns. On processors that give \
             up the prediction of returns its calls take most of the time, of which sgd has few.\n",
            told.join("; ")
        );
    }
    text.push_str("What each step on the way here was worth, before and after, is in docs/levers.md.\n\n## The machine\n\n");
    let mut cells = vec![["", ""].map(str::to_owned), ["---", "---"].map(str::to_owned)];
    cells.extend(facts.iter().map(|(name, fact)| [(*name).to_owned(), fact.clone()]));
    text.push_str(&markdown(&cells));
    text.push_str(
        "\nNeighbours: where others share the CPU or its caches, times of one run differ by tens of per cent, and random access to memory\n\
         by more. The least value of a figure is then nearer to what the code costs, the median to what one gets; ratios within a round\n\
         hardly move, as a neighbour's load falls on both sides. A figure with `least … most` far apart was measured in noise. \"Idle\n\
         meanwhile\" and \"stolen\" say how much of it there was.\n",
    );
    for (file, title) in plots {
        let _ = write!(text, "\n## {title}\n\n![{title}]({file})\n");
    }
    text.push_str("\n## Every figure\n");
    let mut last = "";
    let mut cells: Vec<[String; 2]> = Vec::new();
    let flush = |text: &mut String, cells: &mut Vec<[String; 2]>| {
        if !cells.is_empty() {
            text.push_str(&markdown(cells));
            cells.clear();
        }
    };
    for figure in &run.0 {
        if figure.figure != last {
            flush(&mut text, &mut cells);
            last = &figure.figure;
            let _ = writeln!(text, "\n### {last}, {}\n", figure.unit);
            cells.push(["which", "median (least … most)"].map(str::to_owned));
            cells.push(["---", "---"].map(str::to_owned));
        }
        cells.push([labels(&figure.labels), figure.spread().to_string()]);
    }
    flush(&mut text, &mut cells);
    text
}

/// For example `XDP, IPv4, new, rules 10`.
fn labels(labels: &Value) -> String {
    let words = labels.as_object().into_iter().flatten().map(|(name, value)| match value {
        Value::String(word) if word.parse::<f64>().is_err() => word.clone(),
        Value::String(word) => format!("{name} {word}"),
        other => format!("{name} {other}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use sg_tests::figures::Figure;

    use super::bars::{EMPTY, EMPTY_BRIDGED, NONE, NONE_BRIDGED};
    use super::machine::Machine;
    use super::{Made, write};

    #[test]
    fn a_run_becomes_a_page_a_file_and_plots() {
        let directory = tempfile::tempdir().unwrap();
        let figures = [10, 10_000].map(|rules| Figure {
            figure: "packet".to_owned(),
            unit: "ns".to_owned(),
            labels: json!({ "hook": "XDP", "family": "IPv4", "packet": "new", "rules": rules, "members": 0, "flows": "each" }),
            values: vec![300.0, 340.0, 310.0],
        });
        let in_path = [(NONE, 700.0), (EMPTY, 712.0), (NONE_BRIDGED, 800.0), (EMPTY_BRIDGED, 823.0)];
        let in_path = in_path.map(|(filter, value)| Figure {
            figure: "in path".to_owned(),
            unit: "ns".to_owned(),
            labels: json!({ "filter": filter, "packet": "established", "flows": 1 }),
            values: vec![value; 3],
        });
        let made = Made { quick: true, took: Duration::from_secs(61), failed: &["hooks"] };
        let figures = [&figures[..], &in_path].concat();
        write(figures, &Machine::look(), made, directory.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let page = read("README.md");
        for expected in [
            "--quick",
            "310 ns",
            "| goal ",
            "not measured",
            "rules.svg",
            "XDP, IPv4, new, rules 10000",
            "This took 2 minutes.",
            "Failed: hooks.",
            "was 12 ns for a routed packet and 23 ns for a bridged one",
        ] {
            assert!(page.contains(expected), "no {expected} in\n{page}");
        }
        let results: serde_json::Value = serde_json::from_str(&read("results.json")).unwrap();
        assert_eq!(results["figures"][0]["median"], 310.0);
        assert_eq!((&results["seconds"], &results["failed"]), (&json!(61), &json!(["hooks"])));
        assert_eq!(
            results["machine"]["CPUs"],
            json!(std::thread::available_parallelism().unwrap().to_string())
        );
        assert!(read("rules.svg").contains("XDP, new"));
    }
}
