//! What an edit is, and carrying it out on files in memory.

use std::path::PathBuf;
use std::sync::Arc;

use jsonc_parser::ast::Object;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::copy::{self, CopyError, CopyRequest};
use super::list::{Change, Style};
use super::sparse::Sparse;
use super::{group, member, replace, rule};
use crate::policy::diagnostic::quote;
use crate::policy::find::{Missing, Scope};
use crate::policy::memo::Known;
use crate::policy::model::{GroupId, Model, Source, VpcId};
use crate::policy::raw::RawFile;
use crate::policy::read::{self, Files};
use crate::policy::rewalk::Walked;
use crate::policy::values::DEFAULT_GROUP;
use crate::policy::{LoadError, Memo, Text, check, decoded};

/// Seen from the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum RuleDirection {
    Inbound,
    Outbound,
}

impl RuleDirection {
    /// The list's name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// What a rule calls its remote.
    pub const fn remote(self) -> &'static str {
        match self {
            Self::Inbound => "source",
            Self::Outbound => "destination",
        }
    }
}

/// One edit of the policy. `project` and `vpc` are needed where several have what is named.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// A new group, in the first file of its VPC.
    GroupCreate {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// Rules as in the policy file. Absent: nothing may enter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inbound: Option<Vec<serde_json::Value>>,
        /// Absent: everything may leave; an empty list: nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outbound: Option<Vec<serde_json::Value>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
    /// Refused for `default`, and for a group that is attached or named by rules of others.
    GroupDelete {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
    /// The same rules under further names.
    GroupCopy {
        source: String,
        names: Vec<String>,
        /// Whether rules of a copy that refer to the source refer to the copy instead.
        #[serde(default)]
        rewrite_self: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
    /// Adds a rule at the end of a list. Rules that hold because the list is not written are written out.
    RuleAdd {
        group: String,
        direction: RuleDirection,
        /// As in the policy file.
        rule: serde_json::Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
    /// Removes the rule at `index`, or the one that says the same as `rule`.
    RuleRemove {
        group: String,
        direction: RuleDirection,
        /// From 0, as listed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<usize>,
        /// The rule's tag, as listed: refused if another rule is at `index` by now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<serde_json::Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
    InterfaceAttach {
        interface: String,
        group: String,
    },
    /// Refused for the last group, except on bare metal.
    InterfaceDetach {
        interface: String,
        group: String,
    },
    /// A new member on another host, or further groups for one that is there.
    PeerAdd {
        address: String,
        groups: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
    /// Takes a peer out of groups; out of all, if none is named.
    PeerRemove {
        address: String,
        #[serde(default)]
        groups: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vpc: Option<String>,
    },
}

/// What an edit did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// In words.
    pub text: String,
    /// False if the policy said so already.
    pub changed: bool,
    /// Where it stands, or stood.
    pub file: String,
    pub line: u32,
}

/// Why nothing was edited.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(
        "the policy files have faults already; mend them first (`sgctl check`); nothing was changed\n{0}"
    )]
    Before(#[source] LoadError),
    #[error(
        "the policy would be refused with this edit in it, for what is told below; edit it otherwise; nothing was changed\n{0}"
    )]
    After(#[source] LoadError),
    #[error("{0}; nothing was changed")]
    NotFound(String),
    /// Several have the name.
    #[error("{0}; nothing was changed")]
    Ambiguous(String),
    /// What is there forbids it.
    #[error("{0}; nothing was changed")]
    Conflict(String),
    /// Another rule is at the index by now.
    #[error("{0}; nothing was changed")]
    Stale(String),
    /// What was sent says nothing that can be done.
    #[error("{0}; nothing was changed")]
    Invalid(String),
    #[error("cannot write {}: {source}; make room for it, or let this user write there, and edit again", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

impl EditError {
    /// Whether the disk is to blame rather than the request.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Before(error) => error.unreadable,
            Self::Write { .. } => true,
            _ => false,
        }
    }
}

/// A file that an edit has changed.
#[derive(Debug, Clone)]
pub struct EditedFile {
    /// Place among the files.
    pub index: usize,
    pub path: PathBuf,
    pub before: Text,
    pub after: Text,
}

/// The policy with the edits in it.
#[derive(Debug)]
pub struct EditedPolicy {
    pub done: Vec<Done>,
    pub changed: Vec<EditedFile>,
    pub before: Arc<Model>,
    pub after: Arc<Model>,
    /// All files, those that were not edited too.
    pub files: Vec<(PathBuf, Text)>,
}

/// Carries edits out, one after the other, on files in memory. Nothing is written.
///
/// # Errors
///
/// If one edit cannot be made; then none is.
pub fn apply(
    files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>,
    edits: &[Edit],
) -> Result<EditedPolicy, EditError> {
    edited(decoded(files), edits)
}

/// As [`apply`], of the files at these paths; writes them unless `dry_run`.
///
/// # Errors
///
/// As [`apply`], and if a file cannot be written. With edits of several files some may be written then.
pub fn apply_to(paths: &[PathBuf], edits: &[Edit], dry_run: bool) -> Result<EditedPolicy, EditError> {
    let edited = apply_next(paths, edits, &Memo::default())?;
    if !dry_run {
        for EditedFile { path, before, after, .. } in &edited.changed {
            replace::replace(path, before.as_ref(), after.as_ref())
                .map_err(|source| EditError::Write { path: path.clone(), source })?;
        }
    }
    Ok(edited)
}

/// As [`apply`], of the files at these paths, sparing what was read before.
///
/// # Errors
///
/// As [`apply`].
pub fn apply_next(paths: &[PathBuf], edits: &[Edit], memo: &Memo) -> Result<EditedPolicy, EditError> {
    edited(read::read(paths, memo), edits)
}

fn edited(mut files: Files, edits: &[Edit]) -> Result<EditedPolicy, EditError> {
    let before = check(&files).map_err(EditError::Before)?;
    let mut now = Arc::clone(&before);
    let mut done = Vec::with_capacity(edits.len());
    for edit in edits {
        let made = one(&mut files, &now, edit)?;
        if let Some(known) = made.known {
            now = known;
        }
        done.push(made.done);
    }
    let pairs = files.sources.iter().zip(&before.sources).enumerate();
    let changed =
        pairs.filter(|(_, (after, before))| !after.same_text(before)).map(|(index, (after, before))| {
            EditedFile {
                index,
                path: after.path.clone(),
                before: Text(Arc::clone(before)),
                after: Text(Arc::clone(after)),
            }
        });
    let changed = changed.collect();
    let files = files.sources.iter().map(|source| (source.path.clone(), Text(Arc::clone(source)))).collect();
    let (before, after) = (Arc::clone(&before.model), Arc::clone(&now.model));
    Ok(EditedPolicy { done, changed, before, after, files })
}

struct Made {
    done: Done,
    /// The policy with the edit in it; `None` if it said so already.
    known: Option<Arc<Known>>,
}

/// Where an edit goes and what it does.
pub(super) enum Planned {
    Change {
        file: usize,
        change: Change,
        what: String,
    },
    Copy {
        file: usize,
        splice: super::splice::Splice,
        what: String,
    },
    /// The policy says so already, there.
    Already {
        at: Source,
        what: String,
    },
}

fn one(files: &mut Files, known: &Known, edit: &Edit) -> Result<Made, EditError> {
    let model = known.model.as_ref();
    let sparse = sparse(known, edit);
    let policy = Policy::of(files, known, &sparse);
    let planned = match edit {
        Edit::GroupCreate { name, description, inbound, outbound, project, vpc } => {
            let lists = [inbound.as_deref(), outbound.as_deref()];
            group::create(&policy, scope(project, vpc), name, description.as_deref(), lists)
        }
        Edit::GroupDelete { name, project, vpc } => group::delete(&policy, scope(project, vpc), name),
        Edit::GroupCopy { source, names, rewrite_self, project, vpc } => {
            let request = CopyRequest {
                source: source.clone(),
                names: names.clone(),
                rewrite_self: *rewrite_self,
                project: project.clone(),
                vpc: vpc.clone(),
            };
            copied(files, &request)
        }
        Edit::RuleAdd { group, direction, rule, project, vpc } => {
            rule::add(&policy, scope(project, vpc), group, *direction, rule)
        }
        Edit::RuleRemove { group, direction, index, tag, rule, project, vpc } => {
            let which = rule::Which { index: *index, tag: tag.as_deref(), rule: rule.as_ref() };
            rule::remove(&policy, scope(project, vpc), group, *direction, which)
        }
        Edit::InterfaceAttach { interface, group } => member::attach(&policy, interface, group),
        Edit::InterfaceDetach { interface, group } => member::detach(&policy, interface, group),
        Edit::PeerAdd { address, groups, project, vpc } => {
            member::add_peer(&policy, scope(project, vpc), address, groups)
        }
        Edit::PeerRemove { address, groups, project, vpc } => {
            member::remove_peer(&policy, scope(project, vpc), address, groups)
        }
    }?;
    let (file, what, splice, at) = match planned {
        Planned::Already { at, what } => {
            let file = model.files.get(at.file.0).map_or_else(String::new, |file| file.display().to_string());
            return Ok(Made { done: Done { text: what, changed: false, file, line: at.line }, known: None });
        }
        Planned::Change { file, change, what } => {
            let (splice, at) = change.splice();
            (file, what, splice, at)
        }
        Planned::Copy { file, splice, what } => {
            (file, what, splice.splice(), splice.starts().next().unwrap_or(0))
        }
    };
    *files = files.with(file, splice);
    let Some(source) = files.sources.get(file) else {
        return Err(EditError::NotFound("the file is gone; edit again".to_owned()));
    };
    let done = Done {
        text: what,
        changed: true,
        file: source.path.display().to_string(),
        line: source.position(at).0,
    };
    let known = check(files).map_err(EditError::After)?;
    Ok(Made { done, known: Some(known) })
}

/// The files, with what an edit looks at.
fn sparse(known: &Known, edit: &Edit) -> Vec<Option<Sparse>> {
    let model = &known.model;
    let groups = |name: &String| {
        model.groups.iter().filter(|group| group.name == *name).filter_map(|group| group.source).collect()
    };
    let interfaces = |name: &String| {
        model
            .interfaces
            .iter()
            .filter(|interface| interface.name == *name)
            .map(|interface| interface.source)
            .collect()
    };
    let peers = |address: &String| {
        let address = address.parse().ok();
        let peers = address.into_iter().flat_map(|address| model.peers.of_address(address));
        peers.map(|(_, peer)| peer.source).collect()
    };
    let places: Vec<Source> = match edit {
        // A copy looks at the whole file.
        Edit::GroupCreate { .. } | Edit::GroupCopy { .. } => Vec::new(),
        Edit::GroupDelete { name, .. } => groups(name),
        Edit::RuleAdd { group, .. } | Edit::RuleRemove { group, .. } => groups(group),
        Edit::InterfaceAttach { interface, .. } | Edit::InterfaceDetach { interface, .. } => {
            interfaces(interface)
        }
        Edit::PeerAdd { address, .. } | Edit::PeerRemove { address, .. } => peers(address),
    };
    // Which one goes is told by its place.
    let all_rules = matches!(edit, Edit::RuleRemove { .. });
    let files = known.sources.iter().zip(&known.walked).enumerate();
    files
        .map(|(file, (source, walked))| {
            let here = places.iter().filter(|place| place.file.0 == file);
            let keep: Vec<usize> = here.map(|place| source.offset_of(place.line, place.column)).collect();
            Sparse::of(source, &walked.raw, &keep, all_rules)
        })
        .collect()
}

fn scope<'s>(project: &'s Option<String>, vpc: &'s Option<String>) -> Scope<'s> {
    Scope { project: project.as_deref(), vpc: vpc.as_deref() }
}

fn copied(files: &Files, request: &CopyRequest) -> Result<Planned, EditError> {
    let planned = copy::names_are_fresh(request).and_then(|()| copy::plan(&files.sources, request));
    let (file, splice) = planned.map_err(|error| match error {
        CopyError::NotFound { name, hint } => EditError::NotFound(format!("there is no group {name}{hint}")),
        CopyError::Ambiguous { name, places } => EditError::Ambiguous(format!(
            "several VPCs have a group {name}: {places}; say which with the project and the VPC"
        )),
        CopyError::Name(why) => EditError::Conflict(why),
        other => EditError::Invalid(other.to_string()),
    })?;
    if request.names.is_empty() {
        return Err(EditError::Invalid("a copy needs a name; give one, or several".to_owned()));
    }
    let names: Vec<String> = request.names.iter().map(|name| quote(name)).collect();
    let what = format!("group {} is copied as {}", quote(&request.source), names.join(", "));
    Ok(Planned::Copy { file, splice, what })
}

impl From<Missing> for EditError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::None(why) => Self::NotFound(why),
            Missing::Several(why) => Self::Ambiguous(why),
        }
    }
}

/// The files and what they say.
pub(super) struct Policy<'p> {
    files: &'p Files,
    pub model: &'p Model,
    walked: &'p [Arc<Walked>],
    /// Of each file what the edit looks at.
    trees: Vec<Option<Object<'p>>>,
}

impl<'p> Policy<'p> {
    fn of(files: &'p Files, known: &'p Known, sparse: &'p [Option<Sparse>]) -> Self {
        let trees = sparse.iter().map(|sparse| sparse.as_ref().and_then(Sparse::root)).collect();
        Self { files, model: &known.model, walked: &known.walked, trees }
    }

    /// A file's tree and layout. What has been loaded has both.
    pub fn file(&self, file: usize) -> Result<(&Object<'p>, Style<'p>), EditError> {
        let found = self.trees.get(file).and_then(Option::as_ref).zip(self.files.sources.get(file));
        let (tree, source) =
            found.ok_or_else(|| EditError::NotFound("the file is gone; edit again".to_owned()))?;
        Ok((tree, Style::of(source, tree)))
    }

    pub fn offset(&self, at: Source) -> usize {
        self.files.sources.get(at.file.0).map_or(0, |source| source.offset_of(at.line, at.column))
    }

    /// The policy with another text in a file, for looking at what it would say.
    pub fn with(&self, file: usize, change: &Change) -> Result<Arc<Model>, EditError> {
        let known = check(&self.files.with(file, change.splice().0)).map_err(EditError::After)?;
        Ok(Arc::clone(&known.model))
    }

    /// The last file of a VPC that has peers.
    pub fn last_of_peers(&self, id: VpcId) -> Option<usize> {
        let has_peers = |walked: &Arc<Walked>| !walked.raw.peers.items.is_empty();
        self.files_of(id).filter(|file| self.walked.get(*file).is_some_and(has_peers)).last()
    }

    /// The files that describe a VPC, in order.
    pub fn files_of(&self, id: VpcId) -> impl Iterator<Item = usize> + '_ {
        let vpc = self.model.vpcs.get(id.0);
        self.walked.iter().enumerate().filter_map(move |(file, walked)| {
            let (vpc, RawFile { project, vpc: name, .. }) = (vpc?, &walked.raw);
            (project.as_ref()? == &vpc.project && name.as_ref()? == &vpc.name).then_some(file)
        })
    }

    /// Where a group stands; for a `default` that is written nowhere, the file that it would be written to.
    pub fn home(&self, id: GroupId) -> Result<Home, EditError> {
        let group =
            self.model.groups.get(id.0).ok_or_else(|| {
                EditError::NotFound("no such group; `sgctl group list` shows all".to_owned())
            })?;
        if let Some(source) = group.source {
            return Ok(Home::At(source));
        }
        let vpcs = self.model.vpcs.iter().enumerate().filter(|(_, vpc)| vpc.project == group.project);
        let mut files: Vec<usize> = vpcs.flat_map(|(id, _)| self.files_of(VpcId(id))).collect();
        files.sort_unstable();
        // A file that has groups already is the better home.
        let has_groups =
            |file: &&usize| self.walked.get(**file).is_some_and(|walked| walked.raw.groups.span.is_some());
        let file = files.iter().find(has_groups).or_else(|| files.first());
        file.map(|file| Home::NotYet(*file)).ok_or_else(|| {
            EditError::NotFound(format!(
                "no file describes project {}; write a file with its \"project\" and \"vpc\" first",
                quote(&group.project)
            ))
        })
    }

    /// A new group at the end of a file's list.
    pub fn new_group(&self, file: usize, group: &serde_json::Value) -> Result<Change, EditError> {
        let (root, style) = self.file(file)?;
        Ok(match root.get_array("security_groups") {
            Some(list) => style.append(root, list, |style, layout| style.group(layout, group)),
            None => style.add_group_list(root, group),
        })
    }
}

/// Where a group is written.
pub(super) enum Home {
    At(Source),
    /// Nowhere; this file is the place for it.
    NotYet(usize),
}

/// Whether a name is that of the group that every project has.
pub(super) fn is_default(name: &str) -> bool {
    name == DEFAULT_GROUP
}
