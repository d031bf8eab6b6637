//! What a bench has measured: one line of JSON for each figure, with every round's value, in a file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The environment variable that names the file for a bench which is a program of its own.
pub const FILE: &str = "SGD_BENCH_FIGURES";

/// Writes figures.
#[derive(Debug, Default)]
pub struct Figures {
    file: Option<File>,
    taken: Vec<Figure>,
}

impl Figures {
    /// Into the file that the environment names. If it names none, figures are nowhere but where they are printed.
    pub fn open() -> Result<Self> {
        match std::env::var_os(FILE) {
            Some(path) => Self::append(path.as_ref()),
            None => Ok(Self::default()),
        }
    }

    /// At the end of a file.
    pub fn append(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = Some(file.with_context(|| format!("cannot write {}", path.display()))?);
        Ok(Self { file, taken: Vec::new() })
    }

    /// Those of this program.
    pub fn taken(&self) -> &[Figure] {
        &self.taken
    }

    /// `labels` say which of the figures of that name it is: an object of numbers and words.
    pub fn add(&mut self, figure: &str, unit: &str, labels: &Value, values: &[f64]) -> Result<()> {
        let (labels, values) = (labels.clone(), values.to_vec());
        self.taken.push(Figure { figure: figure.to_owned(), unit: unit.to_owned(), labels, values });
        let (Some(file), Some(Figure { labels, values, .. })) = (&mut self.file, self.taken.last()) else {
            return Ok(());
        };
        let line = json!({ "figure": figure, "unit": unit, "labels": labels, "values": values });
        // In one write: whoever ends this program leaves whole lines.
        file.write_all(format!("{line}\n").as_bytes()).context("the file of figures")
    }
}

/// One that was written.
#[derive(Debug, Clone)]
pub struct Figure {
    pub figure: String,
    pub unit: String,
    pub labels: Value,
    pub values: Vec<f64>,
}

impl Figure {
    /// All that are in a file.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        text.lines().map(Self::parse).collect()
    }

    fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).context("a line of the file of figures is not JSON")?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let values = value.get("values").and_then(Value::as_array).context("a figure without values")?;
        Ok(Self {
            figure: text("figure").context("a figure without a name")?,
            unit: text("unit").context("a figure without a unit")?,
            labels: value.get("labels").cloned().unwrap_or_default(),
            values: values.iter().filter_map(Value::as_f64).collect(),
        })
    }

    pub fn spread(&self) -> Spread {
        Spread::of(&self.values)
    }

    /// Whether it is the figure of that name and has all of these labels.
    pub fn is(&self, figure: &str, labels: &Value) -> bool {
        let has = |(name, value): (&String, &Value)| self.labels.get(name) == Some(value);
        self.figure == figure && labels.as_object().is_none_or(|labels| labels.iter().all(has))
    }
}

/// The middle one, the least and the most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of no values, it is nothing but `NaN`.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(sorted.len() / 2), least: at(0), most: at(sorted.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = if self.median.abs() < 10.0 { 2 } else { 0 };
        let Self { median, least, most } = self;
        f.pad(&format!("{median:.places$} ({least:.places$} … {most:.places$})"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Figure, Figures, Spread};

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures");
        let mut figures = Figures::append(&path).unwrap();
        figures.add("packet", "ns", &json!({ "rules": 10, "hook": "XDP" }), &[3.0, 1.0, 2.5]).unwrap();
        let [figure] = &Figure::read(&path).unwrap()[..] else { panic!("one figure") };
        assert!(figure.is("packet", &json!({ "rules": 10 })));
        assert!(!figure.is("packet", &json!({ "rules": 100 })) && !figure.is("swap", &json!({})));
        assert_eq!(figure.spread(), Spread { median: 2.5, least: 1.0, most: 3.0 });
        assert_eq!(figure.spread().to_string(), "2.50 (1.00 … 3.00)");
    }
}
