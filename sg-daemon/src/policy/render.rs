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
    group = group.element(origin(&path, diagnostic.line, diagnostic.column));
    if let (Some(excerpt), Some(line)) = (&diagnostic.excerpt, diagnostic.line) {
        group = group.element(snippet(excerpt, line));
    }
    let mut help: Vec<Element<'_>> = Vec::new();
    if let Some(expected) = &diagnostic.expected {
        help.push(Level::NOTE.message(format!("expected {expected}")).into());
    }
    if let Some(suggestion) = &diagnostic.suggestion {
        help.push(Level::HELP.message(suggestion.as_str()).into());
    }
    let mut report = vec![group.elements(help)];
    let related: Vec<(String, &Related)> =
        diagnostic.related.iter().map(|related| (printable(&related.file.to_string_lossy()), related)).collect();
    for (path, related) in &related {
        let group = Group::with_title(Level::NOTE.secondary_title(related.message.as_str()))
            .element(origin(path, Some(related.line), Some(related.column)))
            .element(snippet(&related.excerpt, related.line));
        report.push(group);
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

fn snippet(excerpt: &Excerpt, line: u32) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    Snippet::source(excerpt.text.as_str())
        .line_start(line as usize)
        .annotation(AnnotationKind::Primary.span(excerpt.mark.clone()))
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
