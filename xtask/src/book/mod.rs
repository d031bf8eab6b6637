//! `cargo xtask book`: docs/ as a book, with README and the other pages of the root in it.

mod links;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::{target, workspace};
use crate::setup;

/// What pages link to beside each other.
const BESIDE: [&str; 3] = ["docs", "examples", "packaging"];

pub fn make() -> Result<()> {
    setup::book()?;
    let book = target().join("book");
    if book.exists() {
        fs::remove_dir_all(&book)?;
    }
    lay_out(&workspace(), &book)?;
    let status = Command::new("mdbook").arg("build").arg(&book).status().context("cannot run mdbook")?;
    ensure!(status.success(), "mdbook failed ({status})");
    let made = book.join("book");
    let (links, broken) = links::check(&made)?;
    ensure!(broken.is_empty(), "{} of {links} links lead nowhere:\n  {}", broken.len(), broken.join("\n  "));
    println!("made       {}, whose {links} links are whole", made.join("index.html").display());
    Ok(())
}

/// The pages as they are in the repository, so that links stay as they are; but mdBook wants the summary above all of them.
fn lay_out(root: &Path, book: &Path) -> Result<()> {
    let source = book.join("src");
    fs::create_dir_all(&source)?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && (name.ends_with(".md") || name.starts_with("LICENSE")) {
            fs::copy(&path, source.join(name))?;
        }
    }
    for directory in BESIDE {
        copy(&root.join(directory), &source.join(directory))?;
    }
    fs::rename(source.join("docs/book.toml"), book.join("book.toml"))?;
    // Its place in a book is the list of chapters.
    let readme = source.join("README.md");
    fs::write(&readme, fs::read_to_string(&readme)?.replace("](docs/SUMMARY.md)", "](toc.html)"))?;
    let summary = source.join("docs/SUMMARY.md");
    fs::write(source.join("SUMMARY.md"), from_above(&fs::read_to_string(&summary)?))?;
    fs::remove_file(summary)?;
    Ok(())
}

/// The summary with its links as they are from the directory above.
fn from_above(summary: &str) -> String {
    summary.replace("](", "](docs/").replace("](docs/../", "](")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn every_page_of_the_summary_is_where_the_book_looks_for_it() {
        let book = tempfile::tempdir().unwrap();
        lay_out(&workspace(), book.path()).unwrap();
        let source = book.path().join("src");
        let summary = fs::read_to_string(source.join("SUMMARY.md")).unwrap();
        let mut pages = 0;
        for link in summary.split("](").skip(1) {
            let page = link.split(')').next().unwrap();
            assert!(source.join(page).is_file(), "{page}");
            pages += 1;
        }
        assert!(pages > 20 && book.path().join("book.toml").is_file());
        assert!(!source.join("docs/SUMMARY.md").exists());
    }

    /// `cargo xtask …` wherever a page says it, in a block or in the text.
    #[test]
    fn verbs_of_xtask_that_pages_name_are_verbs() {
        let mut seen = 0;
        let root = workspace();
        for directory in [root.clone(), root.join("docs")] {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "md") {
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                for rest in text.split("cargo xtask ").skip(1) {
                    let words = rest.split(['`', '\n', '#', ')']).next().unwrap_or_default();
                    let words: Vec<&str> = words.split_whitespace().collect();
                    // A word in capitals, and `…`, stand for a verb.
                    if words
                        .first()
                        .is_none_or(|word| word.starts_with(|letter: char| !letter.is_lowercase()))
                    {
                        continue;
                    }
                    let arguments = ["cargo xtask"].into_iter().chain(words.iter().copied());
                    let result = crate::Arguments::try_parse_from(arguments);
                    assert!(result.is_ok(), "{}: cargo xtask {}", path.display(), words.join(" "));
                    seen += 1;
                }
            }
        }
        assert!(seen > 20, "only {seen} were found");
    }
}
