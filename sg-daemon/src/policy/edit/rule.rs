//! Rules, added and removed.

use jsonc_parser::ast::Object;
use serde_json::{Map, Value, json};

use super::apply::{EditError, Home, Planned, Policy, RuleDirection};
use super::list::{self, Change};
use crate::policy::diagnostic::quote;
use crate::policy::find::{self, Scope};
use crate::policy::model::{Group, GroupId, Rule, RuleList};
use crate::policy::view::{self, RuleView};

/// Which rule to remove.
#[derive(Clone, Copy)]
pub(super) struct Which<'w> {
    pub index: Option<usize>,
    pub tag: Option<&'w str>,
    pub rule: Option<&'w Value>,
}

pub(super) fn add(
    policy: &Policy<'_>,
    scope: Scope<'_>,
    group: &str,
    direction: RuleDirection,
    rule: &Value,
) -> Result<Planned, EditError> {
    let id = find::group(policy.model, group, scope)?;
    let List { file, change, owner, rules, text } = with(policy, id, direction, rule)?;
    let count = rules.len() - 1;
    if let Some((index, earlier)) =
        rules.iter().take(count).enumerate().find(|(_, rule)| same(rule, &rules, count))
    {
        let what =
            format!("group {} has this rule already: {}[{index}], {text}", quote(group), direction.name());
        // A rule that is not written stands where its group does.
        return Ok(Planned::Already { at: owner.source_of(earlier), what });
    }
    let what = format!("{}[{count}] of group {}: {text}", direction.name(), quote(group));
    Ok(Planned::Change { file, change, what })
}

fn same(rule: &Rule, rules: &[Rule], index: usize) -> bool {
    rules.get(index).is_some_and(|other| {
        (rule.protocol, rule.remote, &rule.matches) == (other.protocol, other.remote, &other.matches)
    })
}

pub(super) fn remove(
    policy: &Policy<'_>,
    scope: Scope<'_>,
    group: &str,
    direction: RuleDirection,
    which: Which<'_>,
) -> Result<Planned, EditError> {
    let id = find::group(policy.model, group, scope)?;
    let rules = listed(policy, id, direction)?;
    let field = direction.name();
    let list = format!("{field} of group {} (`sgctl rule list {group}`)", quote(group));
    let index = match which {
        Which { index: Some(index), tag, rule } => {
            let Some(found) = rules.get(index) else {
                let how_many = rules.len();
                return Err(EditError::NotFound(format!(
                    "there is no rule {index} in {list}: it has {how_many}, counted from 0"
                )));
            };
            if tag.is_some_and(|tag| tag != found.tag) {
                let now = rules.iter().position(|rule| Some(rule.tag.as_str()) == tag);
                let now = now.map_or_else(
                    || "the rule that was meant is gone".to_owned(),
                    |now| format!("the rule that was meant is {field}[{now}] now"),
                );
                return Err(EditError::Stale(format!(
                    "{field}[{index}] is another rule by now: {}; {now}: list them again (`sgctl rule list {group}`)",
                    found.text
                )));
            }
            if let Some(rule) = rule
                && of_content(policy, id, direction, rule)? != Some(index)
            {
                return Err(EditError::Stale(format!(
                    "{field}[{index}] is another rule: {}; list them again (`sgctl rule list {group}`)",
                    found.text
                )));
            }
            index
        }
        Which { index: None, rule: Some(rule), .. } => of_content(policy, id, direction, rule)?
            .ok_or_else(|| EditError::NotFound(format!("there is no such rule in {list}")))?,
        Which { index: None, rule: None, tag: Some(tag) } => rules
            .iter()
            .position(|rule| rule.tag == tag)
            .ok_or_else(|| EditError::NotFound(format!("no rule has the tag {} in {list}", quote(tag))))?,
        Which { index: None, rule: None, tag: None } => {
            return Err(EditError::Invalid(
                "say which rule: by its index, its tag, or what it says".to_owned(),
            ));
        }
    };
    let text = rules.get(index).map_or("", |rule| rule.text.as_str());
    let what = format!("{field}[{index}] of group {} is removed: {text}", quote(group));
    let left = |rules: Vec<RuleView>| {
        let rules = rules.into_iter().enumerate().filter(|(at, _)| *at != index);
        rules.map(|(_, rule)| rule.rule).collect::<Vec<_>>()
    };
    let gone =
        || EditError::NotFound(format!("{field} of group {} is not where it was; edit again", quote(group)));
    let (file, change) = match policy.home(id)? {
        Home::At(source) => {
            let (root, style) = policy.file(source.file.0)?;
            let object = list::object_at(root, "security_groups", policy.offset(source)).ok_or_else(gone)?;
            let change = match object.get_array(field) {
                Some(written) => list::remove(written, index).ok_or_else(gone)?,
                None => style.add_field(object, None, field, &json!(left(rules))),
            };
            (source.file.0, change)
        }
        Home::NotYet(file) => (file, written_anew(policy, file, group, direction, &left(rules))?),
    };
    Ok(Planned::Change { file, change, what })
}

/// A list with a further rule at its end.
struct List {
    file: usize,
    change: Change,
    /// The group with it, in the policy that would be.
    owner: Group,
    /// All of them there, the further one last.
    rules: RuleList,
    /// The further one in words.
    text: String,
}

/// The list with `rule` at its end, valid as a whole.
fn with(policy: &Policy<'_>, id: GroupId, direction: RuleDirection, rule: &Value) -> Result<List, EditError> {
    if !rule.is_object() {
        return Err(EditError::Invalid(format!("a rule is an object, such as {EXAMPLE}")));
    }
    let gone = || EditError::NotFound("the group is not where it was; edit again".to_owned());
    let field = direction.name();
    let group = policy.model.groups.get(id.0).ok_or_else(gone)?;
    let all = |rules: Vec<RuleView>| -> Vec<Value> {
        rules.into_iter().map(|rule| rule.rule).chain([rule.clone()]).collect()
    };
    let (file, change) = match policy.home(id)? {
        Home::At(source) => {
            let (root, style) = policy.file(source.file.0)?;
            let object: &Object<'_> =
                list::object_at(root, "security_groups", policy.offset(source)).ok_or_else(gone)?;
            let change = match object.get_array(field) {
                Some(written) => style.append(object, written, |style, _| style.value(rule)),
                None => style.add_field(object, None, field, &json!(all(listed(policy, id, direction)?))),
            };
            (source.file.0, change)
        }
        Home::NotYet(file) => {
            let rules = all(listed(policy, id, direction)?);
            (file, written_anew(policy, file, &group.name, direction, &rules)?)
        }
    };
    let model = policy.with(file, &change)?;
    let vpc = group.vpc.and_then(|vpc| policy.model.vpcs.get(vpc.0));
    let mut groups = model.groups.iter().enumerate();
    let found = groups.find(|(_, other)| {
        other.name == group.name
            && other.project == group.project
            && other.vpc.and_then(|vpc| model.vpcs.get(vpc.0)) == vpc
    });
    let (id, owner) = found.map(|(id, group)| (GroupId(id), group.clone())).ok_or_else(gone)?;
    let rules = view::effective(&model, id, direction).map_err(EditError::Conflict)?;
    let text = rules.last().map(|rule| view::words(&model, rule, direction)).ok_or_else(gone)?;
    Ok(List { file, change, owner, rules, text })
}

const EXAMPLE: &str = r#"{"protocol":"TCP","source":"10.0.0.0/8","port":"80"}"#;

/// Which rule says the same; found by adding it and looking for its like.
fn of_content(
    policy: &Policy<'_>,
    id: GroupId,
    direction: RuleDirection,
    rule: &Value,
) -> Result<Option<usize>, EditError> {
    let List { rules, .. } = with(policy, id, direction, rule)?;
    let count = rules.len() - 1;
    Ok(rules.iter().take(count).position(|rule| same(rule, &rules, count)))
}

fn listed(policy: &Policy<'_>, id: GroupId, direction: RuleDirection) -> Result<Vec<RuleView>, EditError> {
    view::rules(policy.model, id, direction).map_err(EditError::Conflict)
}

/// A `default` that was written nowhere, with one of its lists.
fn written_anew(
    policy: &Policy<'_>,
    file: usize,
    group: &str,
    direction: RuleDirection,
    rules: &[Value],
) -> Result<Change, EditError> {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), json!(group));
    fields.insert(direction.name().to_owned(), json!(rules));
    policy.new_group(file, &fields.into())
}
