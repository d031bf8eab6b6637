//! Objects of a policy by name, with a hint where there are none or several.

use super::diagnostic::quote;
use super::model::{GroupId, Interface, Model, VpcId};
use super::names::did_you_mean;

/// Why there is not exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    None(String),
    Several(String),
}

/// Where to look, as far as it was said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'s> {
    pub project: Option<&'s str>,
    pub vpc: Option<&'s str>,
}

impl Scope<'_> {
    fn has(&self, model: &Model, id: VpcId) -> bool {
        model.vpcs.get(id.0).is_some_and(|vpc| {
            self.project.is_none_or(|project| project == vpc.project)
                && self.vpc.is_none_or(|name| name == vpc.name)
        })
    }

    fn has_group(&self, model: &Model, id: GroupId) -> bool {
        let Some(group) = model.groups.get(id.0) else { return false };
        match group.vpc {
            Some(vpc) => self.has(model, vpc),
            // `default` is in every VPC of its project.
            None => vpcs(model).any(|id| {
                self.has(model, id) && model.vpcs.get(id.0).is_some_and(|vpc| vpc.project == group.project)
            }),
        }
    }
}

fn vpcs(model: &Model) -> impl Iterator<Item = VpcId> + use<> {
    (0..model.vpcs.len()).map(VpcId)
}

/// The VPC that is meant, or the only one.
///
/// # Errors
///
/// If there is none, or several.
pub fn vpc(model: &Model, scope: Scope<'_>) -> Result<VpcId, Missing> {
    let fitting: Vec<VpcId> = vpcs(model).filter(|id| scope.has(model, *id)).collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => {
            let name = scope.vpc.or(scope.project).unwrap_or_default();
            let names = model.vpcs.iter().flat_map(|vpc| [vpc.name.as_str(), vpc.project.as_str()]);
            let all = places(model, vpcs(model));
            Err(Missing::None(format!("no file describes such a VPC, only {all}{}", hint(name, names))))
        }
        several => Err(Missing::Several(format!(
            "there are several VPCs: {}; say which with the project and the VPC",
            places(model, several.iter().copied())
        ))),
    }
}

/// The group of a name.
///
/// # Errors
///
/// If there is none, or several.
pub fn group(model: &Model, name: &str, scope: Scope<'_>) -> Result<GroupId, Missing> {
    let ids = || (0..model.groups.len()).map(GroupId);
    let name_of = |id: GroupId| model.groups.get(id.0).map_or("", |group| group.name.as_str());
    let named: Vec<GroupId> = ids().filter(|id| name_of(*id) == name).collect();
    let fitting: Vec<GroupId> = named.iter().copied().filter(|id| scope.has_group(model, *id)).collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] if !named.is_empty() => Err(Missing::None(format!(
            "there is no group {} there, only in {}; name that project and VPC, or leave them out",
            quote(name),
            group_places(model, &named)
        ))),
        [] => {
            let names = ids().filter(|id| scope.has_group(model, *id)).map(name_of);
            Err(Missing::None(format!("there is no group {}{}", quote(name), hint(name, names))))
        }
        several => Err(Missing::Several(format!(
            "several have a group {}: {}; say which with the project and the VPC",
            quote(name),
            group_places(model, several)
        ))),
    }
}

/// The group of a name that is visible in a VPC.
///
/// # Errors
///
/// If there is none.
pub fn group_in(model: &Model, vpc: VpcId, name: &str) -> Result<GroupId, Missing> {
    let project = model.vpcs.get(vpc.0).map(|vpc| vpc.project.as_str());
    let visible = model.groups.iter().enumerate().filter(|(_, group)| match group.vpc {
        Some(id) => id == vpc,
        None => Some(group.project.as_str()) == project,
    });
    let mut names = Vec::new();
    for (index, group) in visible {
        if group.name == name {
            return Ok(GroupId(index));
        }
        names.push(group.name.as_str());
    }
    let place = place(model, vpc);
    Err(Missing::None(format!("{place} has no group {}{}", quote(name), hint(name, names))))
}

/// The interface of a name.
///
/// # Errors
///
/// If there is none.
pub fn interface<'m>(model: &'m Model, name: &str) -> Result<&'m Interface, Missing> {
    model.interfaces.iter().find(|interface| interface.name == name).ok_or_else(|| {
        let names = model.interfaces.iter().map(|interface| interface.name.as_str());
        Missing::None(format!("the policy has no interface {}{}", quote(name), hint(name, names)))
    })
}

/// So many names are worth a line.
const A_FEW: usize = 8;

/// `; did you mean …?`, or else which names there are.
pub fn hint<'c>(wanted: &str, names: impl IntoIterator<Item = &'c str>) -> String {
    let mut names: Vec<&str> = names.into_iter().collect();
    if let Some(hint) = did_you_mean(wanted, names.iter().copied()) {
        return format!("; {hint}");
    }
    names.sort_unstable();
    names.dedup();
    let few: Vec<String> = names.iter().take(A_FEW).map(|name| quote(name)).collect();
    match (few.is_empty(), names.len().saturating_sub(A_FEW)) {
        (true, _) => "; there is none yet".to_owned(),
        (false, 0) => format!("; there is {}", few.join(", ")),
        (false, more) => format!("; there is {} and {more} more", few.join(", ")),
    }
}

/// `VPC "main" of project "shop"`.
pub fn place(model: &Model, id: VpcId) -> String {
    model.vpcs.get(id.0).map_or_else(String::new, |vpc| {
        format!("VPC {} of project {}", quote(&vpc.name), quote(&vpc.project))
    })
}

fn places(model: &Model, ids: impl Iterator<Item = VpcId>) -> String {
    ids.map(|id| place(model, id)).collect::<Vec<_>>().join(", ")
}

fn group_places(model: &Model, ids: &[GroupId]) -> String {
    let place = |id: &GroupId| {
        let group = model.groups.get(id.0)?;
        let project = || format!("project {}", quote(&group.project));
        Some(group.vpc.map_or_else(project, |vpc| place(model, vpc)))
    };
    ids.iter().filter_map(place).collect::<Vec<_>>().join(", ")
}
