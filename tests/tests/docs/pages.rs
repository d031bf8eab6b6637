//! The pages, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A page by its name in the repository, such as `docs/live.md`.
#[derive(Debug)]
pub struct Page {
    pub name: String,
    pub text: String,
}

/// A command that a page shows, and what it shows of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub line: usize,
    pub text: String,
    pub output: Vec<String>,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), text }
    }

    /// The blocks of one kind, each with the number of its first line.
    pub fn blocks(&self, kind: &str) -> Vec<(usize, Vec<&str>)> {
        let mut blocks = Vec::new();
        let mut open: Option<(bool, usize, Vec<&str>)> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(this)) => open = Some((this == kind, index + 2, Vec::new())),
                (Some(_), Some(_)) => {
                    if let Some((true, line, lines)) = open.take() {
                        blocks.push((line, lines));
                    }
                }
                (Some((_, _, lines)), None) => lines.push(line),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block of code has no end", self.name);
        blocks
    }

    /// The commands of the `console` blocks. They begin with `# ` or `$ `, and go on in the next line behind a `\`; what is between
    /// two is output.
    pub fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for (first, lines) in self.blocks("console") {
            let begin = commands.len();
            for (index, line) in lines.into_iter().enumerate() {
                let goes_on = |command: &Command| command.text.ends_with('\\') && command.output.is_empty();
                match line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")) {
                    Some(text) => {
                        let text = text.to_owned();
                        commands.push(Command { line: first + index, text, output: Vec::new() });
                    }
                    None => match commands[begin..].last_mut() {
                        Some(command) if goes_on(command) => {
                            command.text.pop();
                            command.text += line.trim_start();
                        }
                        Some(command) => command.output.push(line.to_owned()),
                        None => panic!("{}:{}: output before any command", self.name, first + index),
                    },
                }
            }
        }
        commands
    }
}

/// All pages: those in the root, and docs/.
pub fn every() -> Vec<Page> {
    let mut names = Vec::new();
    for directory in ["", "docs"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                names.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

/// Holds a page that is made to what it should be, or writes it where `cargo xtask docs` asks for that.
pub fn hold(name: &str, page: &str) {
    let path = root().join(name);
    let written = fs::read_to_string(&path).unwrap_or_default();
    if written == page {
        return;
    }
    if std::env::var_os("SGD_WRITE_DOCS").is_some() {
        fs::write(&path, page).unwrap();
        println!("written    {name}");
        return;
    }
    let line = written.lines().zip(page.lines()).take_while(|(one, other)| one == other).count();
    panic!(
        "{name} is not what the code says, from line {} on: run `cargo xtask docs`\n  it should be: {}",
        line + 1,
        page.lines().nth(line).unwrap_or_default()
    );
}

#[test]
fn commands_are_told_from_their_output() {
    let text = "```console\n# one \\\n    two\nout\n\n$ three\n```\n```text\n# no\n```\n".to_owned();
    let page = Page { name: "a page".into(), text };
    let command = |line, text: &str, output: &[&str]| Command {
        line,
        text: text.into(),
        output: output.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(page.commands(), [command(2, "one two", &["out", ""]), command(6, "three", &[])]);
}
