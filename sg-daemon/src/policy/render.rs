//! Findings for people: the source line with a caret, in the manner of rustc.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};

use super::diagnostic::{Diagnostic, Excerpt, Related, Severity, printable};

/// One finding, ending in a line break.
pub fn render(diagnostic: &Diagnostic, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let path = printable(&diagnostic.file.to_string_lossy());
    let mut title = diagnostic.message.clone();
    if !diagnostic.field.is_empty() {
        title = format!("{}: {title}", diagnostic.field);
    }
    let mut group = Group::with_title(level.primary_title(title));
    group = match (&diagnostic.excerpt, diagnostic.line, diagnostic.column) {
        (Some(excerpt), Some(line), Some(column)) => shown(group, &path, line, column, excerpt),
        (_, line, column) => group.element(origin(&path, line, column)),
    };
    let mut help: Vec<Element<'_>> = Vec::new();
    if let Some(expected) = &diagnostic.expected {
        help.push(Level::NOTE.message(format!("expected {expected}")).into());
    }
    if let Some(suggestion) = &diagnostic.suggestion {
        help.push(Level::HELP.message(suggestion.as_str()).into());
    }
    let mut report = vec![group.elements(help)];
    let related: Vec<(String, &Related)> = diagnostic
        .related
        .iter()
        .map(|related| (printable(&related.file.to_string_lossy()), related))
        .collect();
    for (path, related) in &related {
        let group = Group::with_title(Level::NOTE.secondary_title(related.message.as_str()));
        report.push(shown(group, path, related.line, related.column, &related.excerpt));
    }
    let mut text = renderer.render(&report);
    text.push('\n');
    text
}

fn origin<'p>(path: &'p str, line: Option<u32>, column: Option<u32>) -> Origin<'p> {
    let mut origin = Origin::path(path);
    if let Some(line) = line {
        origin = origin.line(line as usize);
    }
    if let Some(column) = column {
        origin = origin.char_column(column as usize);
    }
    origin
}

/// The place and its line. The column of a line that is shown from its middle has to be given; else it is counted.
fn shown<'d>(group: Group<'d>, path: &'d str, line: u32, column: u32, excerpt: &'d Excerpt) -> Group<'d> {
    let snippet = Snippet::source(excerpt.text.as_str())
        .line_start(line as usize)
        .annotation(AnnotationKind::Primary.span(excerpt.mark.clone()));
    if excerpt.whole_start {
        group.element(snippet.path(path))
    } else {
        group.element(origin(path, Some(line), Some(column))).element(snippet)
    }
}

/// All findings as one JSON array, ending in a line break.
///
/// # Errors
/// None that can happen: the findings hold only strings and numbers.
pub fn to_json(diagnostics: &[Diagnostic]) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(diagnostics)?;
    text.push('\n');
    Ok(text)
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::diagnostic::{Fault, Findings};
    use crate::policy::model::FileId;
    use crate::policy::source::{SourceFile, Span};

    fn rendered(text: &str, mark: &str, fault: Fault) -> String {
        let sources = [std::sync::Arc::new(SourceFile::new("dir/p.json".into(), text.to_owned()))];
        let start = text.find(mark).unwrap();
        let mut findings = Findings::new(&sources);
        findings.report(Span { file: FileId(0), start, end: start + mark.len() }, &"a[0].b", fault);
        render(&findings.finish().0[0], false)
    }

    #[test]
    fn a_finding_shows_its_place_its_line_and_a_caret() {
        let text = "{\n  \"설명\": BAD\n}";
        let fault = Fault::error("this is bad").expected("good").suggest("write \"good\"");
        assert_eq!(
            rendered(text, "BAD", fault),
            concat!(
                "error: a[0].b: this is bad\n",
                " --> dir/p.json:2:9\n",
                "  |\n",
                "2 |   \"설명\": BAD\n",
                "  |           ^^^\n",
                "  |\n",
                "  = note: expected good\n",
                "  = help: write \"good\"\n",
            )
        );
    }

    #[test]
    fn a_line_of_megabytes_is_shown_in_part_with_its_true_column() {
        let text = format!("{}BAD{}", "x".repeat(3 << 20), "y".repeat(3 << 20));
        let shown = rendered(&text, "BAD", Fault::error("this is bad"));
        assert!(shown.len() < 1000, "{} bytes", shown.len());
        assert!(shown.contains(&format!("dir/p.json:1:{}\n", (3 << 20) + 1)), "{shown}");
        assert!(shown.contains("BADy"), "{shown}");
    }

    #[test]
    fn a_file_cannot_send_commands_to_the_terminal() {
        let shown = rendered("{ \"a\": \u{1b}[31m }", "\u{1b}", Fault::error("bad"));
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
