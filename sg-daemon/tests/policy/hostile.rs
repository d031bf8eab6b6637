//! Whatever the bytes, the loader answers: it never panics, and each place it names exists.

use proptest::prelude::*;
use sg_daemon::policy::render::{render, to_json};
use sg_daemon::policy::{self, Diagnostic};

use crate::here;

/// Loads bytes and looks at everything that is said about them.
fn survives(bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.json");
    std::fs::write(&path, bytes).unwrap();
    let findings = match policy::load(&[path]) {
        Ok(loaded) => loaded.lints,
        Err(error) => {
            assert!(!error.diagnostics.is_empty());
            assert!(!error.unreadable);
            error.diagnostics
        }
    };
    let text = String::from_utf8_lossy(bytes);
    for finding in &findings {
        in_the_file(finding, &text);
        assert!(!render(finding, false).contains('\u{1b}'));
    }
    to_json(&findings).unwrap();
}

fn in_the_file(finding: &Diagnostic, text: &str) {
    let Some(line) = finding.line else { return };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let written = text.split('\n').nth(line as usize - 1);
    let written = written.unwrap_or_else(|| panic!("no line {line}: {finding}"));
    let column = finding.column.unwrap() as usize;
    assert!((1..=written.chars().count() + 1).contains(&column), "column {column} of {written:?}");
}

fn seeds() -> impl Strategy<Value = Vec<u8>> {
    let files = [
        "tests/policy/data/broken.json",
        "../examples/three-tier.json",
        "../examples/dual-stack.json",
        "../examples/peers/local.json",
    ];
    let texts = files.map(|file| std::fs::read(here(file)).unwrap());
    proptest::sample::select(texts.to_vec())
}

/// Pieces that a parser may stumble over.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ",",
        ":",
        "null",
        "true",
        "-1",
        "1e99",
        "0x1",
        "'",
        "//",
        "/*",
        "\\",
        "\\u0000",
        "\"\\ud83d\"",
        "\u{1b}[31m",
        "\u{202e}",
        "가",
        "\u{feff}",
        "\r\n",
        "\"@default\"",
        "\"@\"",
        "\"\"",
        "\"::/0\"",
        "\"65536\"",
        "\"port\":",
        "\"name\":",
        "{\"a\":{\"a\":",
        "[[[[",
    ];
    prop_oneof![
        proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes);
    }

    #[test]
    fn any_pieces(pieces in proptest::collection::vec(piece(), 0..60)) {
        survives(&pieces.concat());
    }

    #[test]
    fn policies_with_parts_replaced(
        seed in seeds(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..6_usize, piece()), 1..5),
    ) {
        let mut bytes = seed;
        for (at, cut, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        survives(&bytes);
    }

    #[test]
    fn policies_with_values_exchanged(
        seed in seeds(),
        swaps in proptest::collection::vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>()), 1..6),
    ) {
        let text = String::from_utf8(seed).unwrap();
        let mut parts: Vec<&str> = text.split('"').collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(parts.len()), b.index(parts.len()));
            parts.swap(a, b);
        }
        survives(parts.join("\"").as_bytes());
    }
}
