//! `cargo xtask docs --picture`: the demo as it looks on a terminal, for README.

use std::fs;
use std::time::Duration;

use anstyle_svg::Term;
use anyhow::{Context, Result, ensure};

use crate::cargo::workspace;

const PICTURE: &str = "docs/demo.svg";
/// Building may be part of it.
const PATIENCE: Duration = Duration::from_secs(1200);
/// How the demo's last line ends.
const GOOD: &str = "as expected";

/// Runs the demo under `script`, and keeps what the terminal was told.
pub fn record() -> Result<()> {
    let demo = std::env::current_exe().context("cannot tell which program this is")?;
    let said = sg_tests::on_terminal(&format!("{} demo", demo.display()), &[], "", PATIENCE)?;
    let shown = shown(&said).with_context(|| format!("the demo does not show its rows:\n{said}"))?;
    ensure!(shown.contains(GOOD), "the demo has not gone well:\n{shown}");
    let path = workspace().join(PICTURE);
    fs::write(&path, Term::new().render_svg(&shown))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written    {PICTURE}");
    Ok(())
}

/// Without what was found and built before, which is this machine's; under the command that makes it.
fn shown(said: &str) -> Option<String> {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let first = lines.iter().position(|line| line.starts_with("Without the filter"))?;
    Some(format!("\x1b[1m# cargo xtask demo\x1b[0m\n\n{}\n", lines.get(first..)?.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_the_rows_and_not_the_machine() {
        let said = "found       nft\r\nWithout the filter …\r\n\x1b[1mexamples/demo.json: …\x1b[0m\r\n  K18 row \x1b[32m✓\x1b[0m\r\nall as expected\r\n";
        let shown = shown(said).unwrap();
        assert!(!shown.contains("nft") && !shown.contains('\r') && shown.contains("✓"));
        let picture = Term::new().render_svg(&shown);
        assert!(picture.starts_with("<svg") && picture.contains("K18 row"));
    }

    #[test]
    fn the_picture_in_readme_is_of_a_demo_that_went_well() {
        let picture = fs::read_to_string(workspace().join(PICTURE)).unwrap();
        assert!(
            picture.contains(GOOD) && !picture.contains('✗'),
            "record it again: `cargo xtask docs --picture`"
        );
        let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
        assert!(readme.contains(&format!("]({PICTURE})")));
    }
}
