//! From the raw parts of all files to one [`Model`]: names resolved, files merged, quotas counted.

mod groups;
mod interfaces;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use super::diagnostic::{Fault, Findings, quote};
use super::memo;
use super::model::{FileId, GroupId, Model, Settings, Source, Vpc, VpcId};
use super::names::nearest;
use super::raw::{Known, RawFile};
use super::source::{SourceFile, Span, Spanned};
use super::values::DEFAULT_GROUP;

/// The model, and where its objects stand in the lists of their files (for field paths in advice).
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub model: Model,
    /// Parallel to `model.groups`.
    pub group_index: Vec<Option<usize>>,
    /// Parallel to `model.interfaces`.
    pub interface_index: Vec<usize>,
    /// How many peers each file has: without a fault, each of them is one of `model.peers`.
    pub peers_of_files: Vec<usize>,
    /// Where `settings.managed` stands.
    pub managed: Option<Span>,
}

impl Resolved {
    /// Where in the list of its file a peer stands.
    pub fn peer_index(&self, place: usize) -> usize {
        let mut left = place;
        for &peers in &self.peers_of_files {
            let Some(rest) = left.checked_sub(peers) else { break };
            left = rest;
        }
        left
    }
}

/// Merges what the walk found. The result is meaningful only if `findings` hold no error afterwards.
///
/// `complete` says that every file could be read and walked; if not, a name may well be defined in the part that
/// is missing, and dangling references are not reported. `before` is another policy, which may be much like this one.
pub(crate) fn resolve(
    files: &[&RawFile],
    sources: &[Arc<SourceFile>],
    complete: bool,
    before: Option<&memo::Known>,
    findings: &mut Findings<'_>,
) -> Resolved {
    let mut resolver = Resolver {
        sources,
        findings,
        complete: complete && files.iter().all(|file| file.project.is_some() && file.vpc.is_some()),
        out: Resolved::default(),
        vpcs: HashMap::new(),
        custom: HashMap::new(),
        defaults: HashMap::new(),
        spans: Vec::new(),
        by_place: HashMap::new(),
    };
    resolver.out.model.files = sources.iter().map(|source| source.path.clone()).collect();
    resolver.out.model.settings = resolver.settings(files);
    let vpcs = resolver.vpcs(files);
    resolver.groups(files, &vpcs);
    resolver.rules(files, &vpcs, before);
    resolver.interfaces(files, &vpcs);
    resolver.peers(files, &vpcs, before);
    resolver.out
}

struct Resolver<'r, 's> {
    sources: &'r [Arc<SourceFile>],
    findings: &'r mut Findings<'s>,
    complete: bool,
    out: Resolved,
    /// By project and name.
    vpcs: HashMap<(String, String), VpcId>,
    custom: HashMap<VpcId, HashMap<String, GroupId>>,
    defaults: HashMap<String, GroupId>,
    /// Where each group's name stands, parallel to the groups; `None` for a `default` that no file writes.
    spans: Vec<Option<Span>>,
    /// The same the other way round: a group by the start of its name.
    by_place: HashMap<(FileId, usize), GroupId>,
}

impl Resolver<'_, '_> {
    fn at(&self, span: Span, known: &Known) -> Source {
        if let Some((line, column)) = known.get() {
            return Source { file: span.file, line, column };
        }
        let source = self.counted(span);
        known.set(source.line, source.column);
        source
    }

    fn counted(&self, span: Span) -> Source {
        match self.sources.get(span.file.0) {
            Some(source) => source.source(span),
            None => Source { file: span.file, line: 0, column: 0 },
        }
    }

    fn limits(&self) -> &Settings {
        &self.out.model.settings
    }

    /// The VPC of each file; `None` where the file does not say.
    fn vpcs(&mut self, files: &[&RawFile]) -> Vec<Option<VpcId>> {
        let mut first_ipv6: HashMap<VpcId, Spanned<bool>> = HashMap::new();
        let mut of_file = Vec::new();
        for file in files {
            let (Some(project), Some(name)) = (&file.project, &file.vpc) else {
                of_file.push(None);
                continue;
            };
            let vpcs = &mut self.out.model.vpcs;
            let id = *self.vpcs.entry((project.clone(), name.clone())).or_insert_with(|| {
                vpcs.push(Vpc { project: project.clone(), name: name.clone(), ipv6: false });
                VpcId(vpcs.len() - 1)
            });
            of_file.push(Some(id));
            let Some(ipv6) = &file.ipv6 else { continue };
            match first_ipv6.get(&id) {
                Some(first) if first.value != ipv6.value => {
                    let fault = Fault::error(format!(
                        "\"ipv6\" is {} here and {} in another file of VPC {}",
                        ipv6.value,
                        first.value,
                        quote(name)
                    ))
                    .expected("the same value in every file of a VPC that writes it")
                    .related(first.span, "written here first");
                    self.findings.report(ipv6.span, &"ipv6", fault);
                }
                Some(_) => {}
                None => {
                    first_ipv6.insert(id, ipv6.clone());
                    if let Some(vpc) = vpcs.get_mut(id.0) {
                        vpc.ipv6 = ipv6.value;
                    }
                }
            }
        }
        of_file
    }

    fn named(&self, vpc: VpcId, name: &str) -> Option<GroupId> {
        if name == DEFAULT_GROUP {
            return self.defaults.get(&self.out.model.vpcs.get(vpc.0)?.project).copied();
        }
        self.custom.get(&vpc)?.get(name).copied()
    }

    /// The group called `name` in a VPC, or a fault that says who needs it (D1, D3).
    fn group(
        &mut self,
        vpc: VpcId,
        (name, span): (&str, Span),
        user: &dyn Fn() -> String,
        field: &dyn Fn() -> String,
    ) -> Option<GroupId> {
        let found = self.named(vpc, name);
        if found.is_none() && self.complete && !self.findings.is_full() {
            let fault = self.dangling(vpc, name, &user());
            self.findings.report(span, &field(), fault);
        }
        found
    }

    fn dangling(&self, vpc: VpcId, name: &str, user: &str) -> Fault {
        let Some(Vpc { project, name: vpc_name, .. }) = self.out.model.vpcs.get(vpc.0) else {
            return Fault::error(format!("no group {}", quote(name)));
        };
        let fault =
            Fault::error(format!("{user} needs the group {}, which does not exist", quote(name))).expected(
                format!("a group of VPC {} of project {}, or \"default\"", quote(vpc_name), quote(project)),
            );
        let here = self.custom.get(&vpc).into_iter().flat_map(HashMap::keys).map(String::as_str);
        // Sorted, so that two equally near names give the same advice every time.
        let mut here: Vec<&str> = here.chain([DEFAULT_GROUP]).collect();
        here.sort_unstable();
        if let Some(near) = nearest(name, here) {
            return fault.suggest(format!("did you mean \"{near}\"?"));
        }
        let elsewhere = self.custom.iter().find(|(id, groups)| **id != vpc && groups.contains_key(name));
        match elsewhere.and_then(|(id, _)| self.out.model.vpcs.get(id.0)) {
            Some(other) => fault.suggest(format!(
                "VPC {} of project {} has a group of this name, but groups do not reach across VPCs",
                quote(&other.name),
                quote(&other.project)
            )),
            None => fault,
        }
    }
}
