//! Printing that a closed pipe does not turn into a panic.

use std::io::{self, Write};
use std::sync::LazyLock;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
///
/// # Errors
/// Any other failure to write, such as a full disk.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// One line of complaint on standard error; if that fails there is nobody left to tell.
pub fn complain(text: &str) {
    let plain = AutoStream::choice(&io::stderr()) == ColorChoice::Never;
    let style = if plain { Style::new() } else { AnsiColor::Red.on_default().bold() };
    let _ = writeln!(io::stderr().lock(), "{style}error:{style:#} {text}");
}

/// One line on standard error of what is no fault, beside what was asked for.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "note: {text}");
}

/// Whether to color standard output: it is a terminal that can, or CLICOLOR_FORCE says so, and NO_COLOR does not forbid it
/// (<https://no-color.org>, <https://bixense.com/clicolors>).
pub fn color() -> bool {
    static COLOR: LazyLock<bool> = LazyLock::new(|| AutoStream::choice(&io::stdout()) != ColorChoice::Never);
    *COLOR
}

/// What a word tells before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It passes, it is in force.
    Good,
    /// It is dropped, it is not filtered.
    Bad,
    /// It is not as it looks: audit, unconfirmed.
    Warning,
    Heading,
    /// There to be looked up, not to be read.
    Faint,
}

/// Text for standard output, colored if that is.
pub fn paint(tone: Tone, text: &str) -> String {
    if !color() || text.is_empty() {
        return text.to_owned();
    }
    let style = match tone {
        Tone::Good => AnsiColor::Green.on_default().bold(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Warning => AnsiColor::Yellow.on_default().bold(),
        Tone::Heading => Style::new().bold(),
        Tone::Faint => Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// `1 file`, `2 files`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Columns, each as wide as its widest cell. The last one is not padded. The first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| seen(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| {
            let padding = " ".repeat(width.saturating_sub(seen(cell)));
            format!("{cell}{padding}")
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        text += &if number == 0 { paint(Tone::Heading, line) } else { line.to_owned() };
        text.push('\n');
    }
    text
}

/// How wide a cell is to whoever looks at it.
fn seen(cell: &str) -> usize {
    anstream::adapter::strip_str(cell).to_string().chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_colors_a_cell_takes_no_room() {
        let green = AnsiColor::Green.on_default();
        let painted = format!("{green}yes{green:#}");
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec![painted.clone(), "b".to_owned()]];
        assert_eq!(table(&rows).lines().nth(1), Some(format!("{painted}  b").as_str()));
        assert!(
            table(&rows)
                .lines()
                .next()
                .is_some_and(|head| anstream::adapter::strip_str(head).to_string() == "A    B")
        );
    }
}
