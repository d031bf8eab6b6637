//! Colours.

use std::io::IsTerminal;

/// With an ANSI attribute, where someone watches who has not asked for plain text (no-color.org).
pub fn paint(text: &str, attribute: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stdout().is_terminal() {
        text.to_owned()
    } else {
        format!("\x1b[{attribute}m{text}\x1b[0m")
    }
}
