//! Groups and their rules: unique names, one `default` for each project, quotas.

use std::collections::HashMap;
use std::sync::Arc;

use super::Resolver;
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::memo::Known;
use crate::policy::model::{Enforcement, Group, GroupId, Offset, Remote, Rule, Rules, Source, VpcId};
use crate::policy::raw::{RawFile, RawGroup, RawRemote, RawRule, RawRules};
use crate::policy::same::same_names;
use crate::policy::source::Span;
use crate::policy::values::DEFAULT_GROUP;

impl Resolver<'_, '_> {
    /// Registers every group by name, rules still empty, so that rules may refer to groups of later files.
    pub(super) fn groups(&mut self, files: &[&RawFile], vpcs: &[Option<VpcId>]) {
        // By project: how many custom groups, and the first one over the quota.
        let mut count: HashMap<&str, (usize, Option<OverQuota>)> = HashMap::new();
        let quota = self.limits().quotas.groups_per_project;
        for (file, vpc) in files.iter().zip(vpcs) {
            let (Some(vpc), Some(project)) = (*vpc, file.project.as_deref()) else { continue };
            for raw in &file.groups {
                let Some(name) = &raw.name else { continue };
                let default = name.value == DEFAULT_GROUP;
                if !default {
                    let (custom, first_over) = count.entry(project).or_default();
                    *custom += 1;
                    if *custom > quota as usize && first_over.is_none() {
                        *first_over = Some(OverQuota {
                            at: name.span,
                            field: format!("security_groups[{}]", raw.index),
                        });
                    }
                }
                self.register(raw, vpc, project, default);
            }
        }
        let mut over: Vec<_> = count.into_iter().collect();
        over.sort_unstable_by_key(|(project, _)| *project);
        for (project, (custom, first_over)) in over {
            if let Some(OverQuota { at, field }) = first_over {
                let fault = Fault::error(format!(
                    "project {} has {custom} custom groups, over the quota of {quota}",
                    quote(project)
                ))
                .expected(format!("at most {quota} (settings.quotas.groups_per_project)"));
                self.findings.report(at, &field, fault);
            }
        }
        for vpc in 0..self.out.model.vpcs.len() {
            let Some(project) = self.out.model.vpcs.get(vpc).map(|vpc| vpc.project.clone()) else { continue };
            if !self.defaults.contains_key(&project) {
                self.defaults.insert(project.clone(), GroupId(self.out.model.groups.len()));
                self.out.model.groups.push(implied_default(project));
                self.out.group_index.push(None);
                self.spans.push(None);
            }
        }
    }

    fn register(&mut self, raw: &RawGroup, vpc: VpcId, project: &str, default: bool) {
        let Some(name) = &raw.name else { return };
        let before = if default {
            self.defaults.get(project)
        } else {
            self.custom.get(&vpc).and_then(|groups| groups.get(&name.value))
        };
        if let Some(&GroupId(before)) = before {
            let message = if default {
                format!("\"default\" of project {} is written twice: a project has one", quote(project))
            } else {
                format!("group {} is written twice in one VPC", quote(&name.value))
            };
            let mut fault = Fault::error(message).expected("each group once, in one file");
            if let Some(first) = self.spans.get(before).copied().flatten() {
                fault = fault.related(first, "first written here");
            }
            self.findings.report(name.span, &format!("security_groups[{}].name", raw.index), fault);
            return;
        }
        let id = GroupId(self.out.model.groups.len());
        if default {
            self.defaults.insert(project.to_owned(), id);
        } else {
            self.custom.entry(vpc).or_default().insert(name.value.clone(), id);
        }
        self.out.model.groups.push(Group {
            name: name.value.clone(),
            project: project.to_owned(),
            vpc: (!default).then_some(vpc),
            description: raw.description.clone(),
            inbound: Rules::Implied,
            outbound: Rules::Implied,
            include_allowed_addresses: raw.include_allowed_addresses,
            enforcement: raw.enforcement,
            source: Some(self.at(raw.span, &raw.at)),
        });
        self.out.group_index.push(Some(raw.index));
        self.spans.push(Some(name.span));
        self.by_place.insert((name.span.file, name.span.start), id);
    }

    /// Fills in the rules of every group; the groups all have their ids by now. Lists that were resolved `before` are taken over if
    /// ids meant the same: there was nothing to complain of in them, and there is not now.
    pub(super) fn rules(&mut self, files: &[&RawFile], vpcs: &[Option<VpcId>], before: Option<&Known>) {
        let before = before.filter(|before| same_names(&before.model, &self.out.model));
        let before: Vec<(&RawGroup, &Group)> = before.into_iter().flat_map(Known::groups).collect();
        for (file, vpc) in files.iter().zip(vpcs) {
            let Some(vpc) = *vpc else { continue };
            for raw in &file.groups {
                self.rule_quota(raw);
                let id = self.written(raw);
                let known = id.and_then(|id| before.get(id.0));
                let inbound = self.direction(raw, true, known, vpc);
                let outbound = self.direction(raw, false, known, vpc);
                if let Some(group) = id.and_then(|id| self.out.model.groups.get_mut(id.0)) {
                    group.inbound = inbound;
                    group.outbound = outbound;
                }
            }
        }
    }

    /// The group that `raw` became, unless it was a second one of its name.
    fn written(&self, raw: &RawGroup) -> Option<GroupId> {
        let name = raw.name.as_ref()?.span;
        self.by_place.get(&(name.file, name.start)).copied()
    }

    fn rule_quota(&mut self, raw: &RawGroup) {
        let quota = self.limits().quotas.rules_per_group;
        let count = |rules: &Option<RawRules>| rules.as_ref().map_or(0, |rules| rules.len());
        let (inbound, outbound) = (count(&raw.inbound), count(&raw.outbound));
        if inbound + outbound > quota as usize {
            let name = raw.name.as_ref().map_or("without a name".to_owned(), |name| quote(&name.value));
            let span = raw.name.as_ref().map_or(raw.span, |name| name.span);
            let fault = Fault::error(format!(
                "group {name} has {} rules ({inbound} inbound, {outbound} outbound), over the quota of {quota}",
                inbound + outbound
            ))
            .expected(format!("at most {quota} (settings.quotas.rules_per_group)"));
            self.findings.report(span, &format!("security_groups[{}]", raw.index), fault);
        }
    }

    fn direction(
        &mut self,
        raw: &RawGroup,
        inbound: bool,
        before: Option<&(&RawGroup, &Group)>,
        vpc: VpcId,
    ) -> Rules {
        let Some(rules) = raw.rules(inbound) else { return Rules::Implied };
        if let Some((before, group)) = before
            && before.rules(inbound).is_some_and(|before| Arc::ptr_eq(before, rules))
        {
            return if inbound { group.inbound.clone() } else { group.outbound.clone() };
        }
        let group = (raw.span, self.at(raw.span, &raw.at));
        let (name, remote) = if inbound { ("inbound", "source") } else { ("outbound", "destination") };
        let mut written = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let resolved = match &rule.remote {
                Some(RawRemote::Cidr(net)) => Some(Remote::Cidr(*net)),
                Some(RawRemote::Group { name: target, at }) => {
                    let user = || {
                        raw.name.as_ref().map_or("a rule".to_owned(), |name| {
                            format!("a rule of group {}", quote(&name.value))
                        })
                    };
                    let field = || format!("security_groups[{}].{name}[{index}].{remote}", raw.index);
                    self.group(vpc, (target, at.of(raw.span)), &user, &field).map(Remote::Group)
                }
                None => None,
            };
            written.extend(self.rule(rule, resolved, group));
        }
        Rules::Written(written.into())
    }

    /// A rule of which every part was good; its places are told from the start of `object`.
    pub(super) fn rule(
        &self,
        raw: &RawRule,
        remote: Option<Remote>,
        (object, start): (Span, Source),
    ) -> Option<Rule> {
        Some(Rule {
            protocol: raw.protocol?,
            remote: remote?,
            matches: raw.matches.clone()?,
            description: raw.description.clone(),
            at: match raw.at.get() {
                Some((lines, columns)) => Offset { lines, columns },
                None => {
                    let at = Offset::within(start, self.counted(raw.span.of(object)));
                    raw.at.set(at.lines, at.columns);
                    at
                }
            },
        })
    }
}

struct OverQuota {
    at: Span,
    field: String,
}

/// K20: made when no file writes it.
fn implied_default(project: String) -> Group {
    Group {
        name: DEFAULT_GROUP.to_owned(),
        project,
        vpc: None,
        description: String::new(),
        inbound: Rules::Implied,
        outbound: Rules::Implied,
        include_allowed_addresses: false,
        enforcement: Enforcement::Enforce,
        source: None,
    }
}
