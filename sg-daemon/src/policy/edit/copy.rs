//! Copying a group inside its file (K9).
//!
//! The edit is a splice: text is inserted at one place and every other byte stays. Nothing is written until the
//! whole policy has been loaded with the edit in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::{CollectOptions, parse_to_ast};

use super::{replace, splice};
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::names::did_you_mean;
use crate::policy::read::{self, Files, STRICT};
use crate::policy::source::SourceFile;
use crate::policy::values::{self, DEFAULT_GROUP};
use crate::policy::{LoadError, Memo, check, decoded};

/// What to copy, and how.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    pub source: String,
    pub names: Vec<String>,
    /// Whether `@source` inside a copy becomes `@copy`.
    pub rewrite_self: bool,
    /// Narrow the search where several groups have the name.
    pub project: Option<String>,
    pub vpc: Option<String>,
}

/// A copy that now stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub name: String,
    pub file: PathBuf,
    pub line: u32,
}

/// Why nothing was copied; the files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The policy does not load as it is.
    #[error("the policy has faults already; mend them first (`sgctl check`); nothing was written")]
    Before(#[source] LoadError),
    /// It would not load with the copies, most likely because of a quota.
    #[error(
        "the policy would be refused with the copies in it; make room below the quota, or copy fewer; nothing was written"
    )]
    After(#[source] LoadError),
    /// No group has the name in the project and VPC asked for.
    #[error("there is no group {name}{hint}; nothing was written")]
    NotFound { name: String, hint: String },
    /// Several VPCs have such a group.
    #[error(
        "several VPCs have a group {name}: {places}; say which with --project and --vpc; nothing was written"
    )]
    Ambiguous { name: String, places: String },
    /// A new name is taken, given twice or not a group's name.
    #[error("{0}; nothing was written")]
    Name(String),
    /// Reading or writing failed, or somebody else changed the file meanwhile.
    #[error("cannot write {}: {source}; make room for it, or let this user write there, and copy again", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

impl CopyError {
    /// Whether the disk is to blame rather than the request.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Before(error) | Self::After(error) => error.unreadable,
            Self::Write { .. } => true,
            _ => false,
        }
    }
}

/// A file with the copies in it.
#[derive(Debug)]
pub struct Edited {
    pub path: PathBuf,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
    pub copied: Vec<Copied>,
}

/// Copies a group of the policy at `path` (a file or a directory) under each of the new names.
///
/// # Errors
/// See [`CopyError`]; in each case nothing was written.
pub fn copy_group(path: &Path, request: &CopyRequest) -> Result<Vec<Copied>, CopyError> {
    let Edited { path, before, after, copied } =
        edited(read::read(&[path.to_owned()], &Memo::default()), request)?;
    replace::replace(&path, &before, &after).map_err(|source| CopyError::Write { path, source })?;
    Ok(copied)
}

/// As [`copy_group`], of files that are in memory already, and writes nothing.
///
/// # Errors
/// As [`copy_group`], but for [`CopyError::Write`].
pub fn copy_group_in(
    files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>,
    request: &CopyRequest,
) -> Result<Edited, CopyError> {
    edited(decoded(files), request)
}

fn edited(mut files: Files, request: &CopyRequest) -> Result<Edited, CopyError> {
    check(&files).map_err(CopyError::Before)?;
    names_are_fresh(request)?;
    let (file, edit) = plan(&files.sources, request)?;
    let gone = || CopyError::NotFound { name: quote(&request.source), hint: String::new() };
    let source = files.sources.get(file).ok_or_else(gone)?;
    let before = source.whole().to_vec();
    files = files.with(file, edit.splice());
    let source = files.sources.get(file).ok_or_else(gone)?;
    let after = source.whole().to_vec();
    let path = source.path.clone();
    let copied = edit
        .starts()
        .zip(&request.names)
        .map(|(start, name)| Copied {
            name: name.clone(),
            file: path.clone(),
            line: source.position(start).0,
        })
        .collect();
    check(&files).map_err(CopyError::After)?;
    Ok(Edited { path, before, after, copied })
}

pub(super) fn names_are_fresh(request: &CopyRequest) -> Result<(), CopyError> {
    for (index, name) in request.names.iter().enumerate() {
        if let Err(fault) = values::group_name(name) {
            return Err(CopyError::Name(Fault::to_line(&fault)));
        }
        if name == DEFAULT_GROUP {
            return Err(CopyError::Name(
                "no copy can be called \"default\": every project has that group; give another name".into(),
            ));
        }
        if request.names.iter().take(index).any(|earlier| earlier == name) {
            return Err(CopyError::Name(format!(
                "the name {} is given twice; give each copy a name of its own",
                quote(name)
            )));
        }
    }
    Ok(())
}

/// A place where the group is, or, for a `default` that no file writes, where it could be.
struct Candidate<'a> {
    file: usize,
    scope: Scope<'a>,
    /// Index in `security_groups`.
    written: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) struct Scope<'a> {
    pub project: &'a str,
    pub vpc: &'a str,
}

impl Scope<'_> {
    fn matches(self, request: &CopyRequest) -> bool {
        request.project.as_deref().is_none_or(|project| project == self.project)
            && request.vpc.as_deref().is_none_or(|vpc| vpc == self.vpc)
    }
}

pub(super) fn plan(
    sources: &[Arc<SourceFile>],
    request: &CopyRequest,
) -> Result<(usize, splice::Splice), CopyError> {
    let trees: Vec<_> = sources.iter().map(|source| root(source)).collect();
    let scopes: Vec<Option<Scope<'_>>> = trees.iter().map(|tree| tree.as_ref().and_then(scope)).collect();
    let candidates = candidates(&trees, &scopes, &request.source);
    let fitting: Vec<&Candidate<'_>> = candidates.iter().filter(|c| c.scope.matches(request)).collect();
    let chosen = match fitting.as_slice() {
        [one] => *one,
        [] => return Err(not_found(&trees, &scopes, &candidates, request)),
        several => {
            return Err(CopyError::Ambiguous {
                name: quote(&request.source),
                places: places(several.iter().copied()),
            });
        }
    };
    let here = |(tree, scope): (&Option<Object<'_>>, &Option<Scope<'_>>)| match (tree, scope) {
        (Some(tree), Some(scope)) if *scope == chosen.scope => group_names(tree),
        _ => Vec::new(),
    };
    let taken: Vec<String> = trees.iter().zip(&scopes).flat_map(here).collect();
    if let Some(name) = request.names.iter().find(|name| taken.contains(name)) {
        return Err(CopyError::Name(format!(
            "VPC {} has a group {} already; give the copy another name",
            quote(chosen.scope.vpc),
            quote(name)
        )));
    }
    let (Some(source), Some(Some(tree))) = (sources.get(chosen.file), trees.get(chosen.file)) else {
        return Err(CopyError::NotFound { name: quote(&request.source), hint: String::new() });
    };
    let ipv6 = trees.iter().zip(&scopes).any(|(tree, scope)| {
        *scope == Some(chosen.scope)
            && tree.as_ref().and_then(|tree| tree.get_boolean("ipv6")).is_some_and(|ipv6| ipv6.value)
    });
    let edit = match chosen.written {
        Some(index) => splice::beside(source.text(), tree, index, request),
        None => splice::written_out(source.text(), tree, ipv6, request),
    };
    match edit {
        Some(edit) => Ok((chosen.file, edit)),
        None => Err(CopyError::NotFound { name: quote(&request.source), hint: String::new() }),
    }
}

fn candidates<'a>(
    trees: &[Option<Object<'_>>],
    scopes: &[Option<Scope<'a>>],
    wanted: &str,
) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = Vec::new();
    let files =
        || trees.iter().zip(scopes).enumerate().filter_map(|(file, (t, s))| Some((file, t.as_ref()?, (*s)?)));
    for (file, tree, scope) in files() {
        let at = group_names(tree).iter().position(|name| name == wanted);
        found.extend(at.map(|index| Candidate { file, scope, written: Some(index) }));
    }
    if wanted == DEFAULT_GROUP {
        let written: Vec<&str> = found.iter().map(|candidate| candidate.scope.project).collect();
        // A file that has groups already is the better home.
        for has_groups in [true, false] {
            for (file, tree, scope) in files() {
                let known = found.iter().any(|candidate| candidate.scope == scope);
                if !known && !written.contains(&scope.project) && group_names(tree).is_empty() != has_groups {
                    found.push(Candidate { file, scope, written: None });
                }
            }
        }
    }
    found
}

fn not_found(
    trees: &[Option<Object<'_>>],
    scopes: &[Option<Scope<'_>>],
    candidates: &[Candidate<'_>],
    request: &CopyRequest,
) -> CopyError {
    let hint = if candidates.is_empty() {
        let names: Vec<String> = trees
            .iter()
            .zip(scopes)
            .filter(|(_, scope)| scope.is_some_and(|scope| scope.matches(request)))
            .filter_map(|(tree, _)| tree.as_ref())
            .flat_map(group_names)
            .collect();
        did_you_mean(&request.source, names.iter().map(String::as_str)).map(|hint| format!("; {hint}"))
    } else {
        Some(format!(" there, only in {}", places(candidates.iter())))
    };
    CopyError::NotFound { name: quote(&request.source), hint: hint.unwrap_or_default() }
}

fn places<'c>(candidates: impl Iterator<Item = &'c Candidate<'c>>) -> String {
    let place =
        |c: &Candidate<'_>| format!("VPC {} of project {}", quote(c.scope.vpc), quote(c.scope.project));
    candidates.map(place).collect::<Vec<_>>().join(", ")
}

/// The tree of a file that has been loaded before.
pub(super) fn root(source: &SourceFile) -> Option<Object<'_>> {
    match parse_to_ast(source.text(), &CollectOptions::default(), &STRICT).ok()?.value? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

pub(super) fn scope<'a>(tree: &'a Object<'_>) -> Option<Scope<'a>> {
    Some(Scope { project: &tree.get_string("project")?.value, vpc: &tree.get_string("vpc")?.value })
}

fn group_names(tree: &Object<'_>) -> Vec<String> {
    let groups = tree.get_array("security_groups").map_or(&[][..], |array| &array.elements);
    let name = |group: &Value<'_>| {
        group.as_object().and_then(|group| Some(group.get_string("name")?.value.to_string()))
    };
    groups.iter().map(|group| name(group).unwrap_or_default()).collect()
}
