//! Whether the links of the book lead somewhere, as a browser sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// Pages that repeat what is on others, from another place.
const REPEATED: [&str; 2] = ["print.html", "404.html"];

/// How many links the pages under `root` have to each other and to files, and those that lead nowhere: page, link, and what is wrong.
pub fn check(root: &Path) -> Result<(usize, Vec<String>)> {
    let mut pages = BTreeMap::new();
    read(root, root, &mut pages)?;
    let names: BTreeMap<&PathBuf, BTreeSet<String>> =
        pages.iter().map(|(page, text)| (page, attributes(text, "id").collect())).collect();
    let (mut links, mut broken) = (0, Vec::new());
    for (page, text) in &pages {
        if page.to_str().is_some_and(|page| REPEATED.contains(&page)) {
            continue;
        }
        for link in attributes(text, "href").chain(attributes(text, "src")) {
            // Elsewhere, or written by the page's script.
            if link.contains("://") || ["mailto:", "data:"].iter().any(|scheme| link.starts_with(scheme)) {
                continue;
            }
            links += 1;
            let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let to = if path.is_empty() { page.clone() } else { join(page, &decoded(path)) };
            let wrong = if !root.join(&to).is_file() {
                "no such file"
            } else if !fragment.is_empty()
                && names.get(&to).is_some_and(|names| !names.contains(&decoded(fragment)))
            {
                "no such heading"
            } else {
                continue;
            };
            broken.push(format!("{}: {link}: {wrong}", page.display()));
        }
    }
    Ok((links, broken))
}

/// Every page under `directory`, by its path from `root`.
fn read(root: &Path, directory: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(root, &path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            pages.insert(path.strip_prefix(root)?.to_owned(), text);
        }
    }
    Ok(())
}

/// The values of an attribute in the text of a page, which mdBook always puts between double quotes.
fn attributes(text: &str, name: &str) -> impl Iterator<Item = String> {
    text.split(&format!(" {name}=\""))
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|value| value.replace("&amp;", "&"))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Where a link of `page` leads: a path from the root.
fn join(page: &Path, link: &str) -> PathBuf {
    let mut to = page.parent().unwrap_or(page).to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => {
                to.pop();
            }
            Component::Normal(name) => to.push(name),
            _ => {}
        }
    }
    to
}

/// `%EB%B9%A0` is a letter.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_told_with_their_page() {
        let book = tempfile::tempdir().unwrap();
        fs::create_dir(book.path().join("docs")).unwrap();
        let page = |name: &str, text: &str| fs::write(book.path().join(name), text).unwrap();
        page(
            "index.html",
            r##"<a href="docs/a.html#one">, <a href="docs/">, <a href="https://example.org/none">"##,
        );
        page(
            "docs/a.html",
            r##"<h2 id="one">, <h2 id="둘">, <a href="#two">, <a href="#%EB%91%98">, <a href="../index.html">, <img src="b.svg">"##,
        );
        page("print.html", r#"<a href="nowhere.html">"#);
        let (links, broken) = check(book.path()).unwrap();
        assert_eq!(links, 6);
        assert_eq!(
            broken,
            [
                "docs/a.html: #two: no such heading",
                "docs/a.html: b.svg: no such file",
                "index.html: docs/: no such file"
            ]
        );
    }
}
