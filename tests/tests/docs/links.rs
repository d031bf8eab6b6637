//! Links, pages and paths that are named exist.

use std::collections::BTreeSet;
use std::fs;

use crate::pages::{Page, below, every, root};

/// `[text](target)` outside of code, with the line that it is in.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut code = false;
    for (index, line) in page.text.lines().enumerate() {
        if line.starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        // What stands in `code` is none.
        let prose: String = line
            .split('`')
            .enumerate()
            .map(|(part, text)| if part % 2 == 0 { text } else { "code" })
            .collect();
        for part in prose.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            links.push((index + 1, target.to_owned()));
        }
    }
    links
}

/// What a heading is reached by, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter if letter.is_alphanumeric() => Some(letter),
            _ => None,
        })
        .collect()
}

fn anchors(page: &Page) -> BTreeSet<String> {
    let mut code = false;
    let mut anchors = BTreeSet::new();
    for line in page.text.lines() {
        if line.starts_with("```") {
            code = !code;
        }
        let heading = line.trim_start_matches('#');
        if !code && heading.len() < line.len() && heading.starts_with(' ') {
            anchors.insert(anchor(heading.trim()));
        }
    }
    anchors
}

#[test]
fn every_link_leads_somewhere() {
    let pages = every();
    let mut faults = Vec::new();
    let mut seen = 0;
    for page in &pages {
        let directory = root().join(&page.name).parent().unwrap().to_owned();
        for (line, target) in links(page) {
            if target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (path, part) = target.split_once('#').unwrap_or((&target, ""));
            let found = if path.is_empty() { root().join(&page.name) } else { directory.join(path) };
            let Ok(found) = found.canonicalize() else {
                faults.push(format!("{}:{line}: {target}: there is no such file", page.name));
                continue;
            };
            let of = pages.iter().find(|page| root().join(&page.name) == found);
            if !part.is_empty() && !of.is_some_and(|page| anchors(page).contains(part)) {
                faults.push(format!("{}:{line}: {target}: there is no such heading", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 80, "only {seen} links were found");
}

#[test]
fn the_book_has_every_page_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let mut listed: Vec<String> = links(&summary).into_iter().map(|(_, target)| target).collect();
    let mut pages: Vec<String> = below("docs")
        .into_iter()
        .filter_map(|name| name.strip_prefix("docs/").map(str::to_owned))
        .filter(|name| name != "SUMMARY.md")
        .collect();
    pages.extend(
        ["README", "ARCHITECTURE", "SECURITY", "CONTRIBUTING", "CHANGELOG"]
            .map(|name| format!("../{name}.md")),
    );
    listed.sort();
    pages.sort();
    assert_eq!(listed, pages, "docs/SUMMARY.md, and the pages that there are");
}

/// Directories of the repository that pages name files in.
const TREES: [&str; 9] =
    ["docs/", "examples/", "fuzz/", "oracle/", "packaging/", "sg-common/", "sg-daemon/", "tests/", "xtask/"];
/// From where on pages name files, where the crate is plain from the text.
const SOURCES: [&str; 6] =
    ["sg-common/src", "sg-common/tests", "sg-daemon/src", "sg-ebpf/src", "oracle/src", "oracle/tests"];

/// Words in `code` that look like the path of a file or directory of the repository.
fn paths(page: &Page) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut block = false;
    for (index, line) in page.text.lines().enumerate() {
        if line.starts_with("```") {
            block = !block;
            continue;
        }
        if block {
            continue;
        }
        for code in line.split('`').skip(1).step_by(2) {
            let is_file = code.ends_with(".rs") || TREES.iter().any(|tree| code.starts_with(tree));
            if is_file && !code.contains([' ', '*', '<', '…']) {
                paths.push((index + 1, code.to_owned()));
            }
        }
    }
    paths
}

#[test]
fn files_that_pages_name_are_there() {
    let mut seen = 0;
    let mut faults = Vec::new();
    for page in every() {
        for (line, path) in paths(&page) {
            seen += 1;
            let there = root().join(&path).exists()
                || SOURCES.iter().any(|source| root().join(source).join(&path).exists());
            // A module is named by its file alone, too.
            let by_name = path.ends_with(".rs") && !path.contains('/');
            if !there && !by_name {
                faults.push(format!("{}:{line}: `{path}` is not there", page.name));
            }
            if by_name && !there && !SOURCES.iter().any(|source| holds(&root().join(source), &path)) {
                faults.push(format!("{}:{line}: no file is called `{path}`", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 20, "only {seen} paths were found");
}

fn holds(directory: &std::path::Path, name: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { holds(&path, name) } else { path.ends_with(name) }
    })
}

/// The modules that ARCHITECTURE lists are those that sg-daemon has.
#[test]
fn architecture_lists_the_modules_of_the_daemon() {
    let page = Page::read("ARCHITECTURE.md");
    let list = page.text.split_once("Inside `sg-daemon`").unwrap().1.split("```").nth(1).unwrap();
    let modules = fs::read_to_string(root().join("sg-daemon/src/lib.rs")).unwrap();
    let modules: Vec<&str> = modules
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|module| !["crash", "protocols"].contains(module)) // a list of places, and one of names
        .collect();
    assert!(modules.len() > 10);
    for module in modules {
        let named =
            list.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == module);
        assert!(named, "ARCHITECTURE.md does not say what sg-daemon/src/{module} is");
    }
}
