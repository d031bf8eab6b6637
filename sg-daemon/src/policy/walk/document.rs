//! The top of a file.

use std::sync::Arc;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;

use super::rule::Direction;
use super::{Path, Walk};
use crate::policy::diagnostic::{Fault, Findings, quote};
use crate::policy::fields;
use crate::policy::model::FileId;
use crate::policy::raw::{List, RawFile, RawGroup, RawInterface, RawPeer, RawRule, RawSettings};
use crate::policy::values::NAME_CHARS;

pub(crate) fn document(file: FileId, value: &Value<'_>, findings: &mut Findings<'_>) -> Option<RawFile> {
    let mut walk = Walk { file, base: 0, findings };
    let root = walk.object(value, &Path::Root, fields::POLICY)?;
    walk.version(root);
    Some(RawFile {
        project: walk.identity(root, "project"),
        vpc: walk.identity(root, "vpc"),
        ipv6: walk.boolean(root, &Path::Root, "ipv6"),
        settings: Arc::new(match super::field(root, "settings") {
            Some(value) => walk.settings(value, &Path::Root.field("settings")),
            None => RawSettings::default(),
        }),
        settings_at: super::field(root, "settings").map(|value| walk.span(value.range())),
        groups: walk.each(root, "security_groups", "security groups", Walk::group),
        interfaces: walk.each(root, "interfaces", "interfaces", Walk::interface),
        peers: walk.each(root, "peers", "peers", Walk::peer),
    })
}

/// Elements of a list of a file, which were parsed by themselves: `base` is where in the file their text begins, and
/// `first` the place of the first of them.
pub(crate) fn part<T: Part>(
    file: FileId,
    (values, base, first): (&[Value<'_>], isize, usize),
    findings: &mut Findings<'_>,
) -> Vec<Arc<T>> {
    Walk { file, base, findings }.some(values, first, T::LIST, T::walk)
}

/// Rules of one list of a group, likewise; `group` is where that begins.
pub(crate) fn rules(
    file: FileId,
    (values, base, group): (&[Value<'_>], isize, usize),
    inbound: bool,
    findings: &mut Findings<'_>,
) -> Vec<RawRule> {
    let mut walk = Walk { file, base, findings };
    let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
    values.iter().map(|value| walk.rule(value, &Path::Root, direction, group)).collect()
}

/// What the lists at the top of a file have for elements.
pub(crate) trait Part: Sized {
    const LIST: &'static str;
    #[expect(private_interfaces, reason = "nobody else walks")]
    fn walk(walk: &mut Walk<'_, '_>, value: &Value<'_>, path: &Path<'_>, index: usize) -> Option<Self>;
}

macro_rules! part {
    ($raw:ty, $list:literal, $walk:path) => {
        impl Part for $raw {
            const LIST: &'static str = $list;
            #[expect(private_interfaces, reason = "nobody else walks")]
            fn walk(
                walk: &mut Walk<'_, '_>,
                value: &Value<'_>,
                path: &Path<'_>,
                index: usize,
            ) -> Option<Self> {
                $walk(walk, value, path, index)
            }
        }
    };
}

part!(RawGroup, "security_groups", Walk::group);
part!(RawInterface, "interfaces", Walk::interface);
part!(RawPeer, "peers", Walk::peer);

impl Walk<'_, '_> {
    fn version(&mut self, root: &Object<'_>) {
        let Some(value) = self.required(root, &Path::Root, "version") else { return };
        let one = matches!(value, Value::NumberLit(number) if number.value == "1");
        if !one {
            let found = match value {
                Value::NumberLit(number) => number.value.chars().take(40).collect(),
                other => super::kind(other),
            };
            let fault = Fault::error(format!("found {found}"))
                .expected("the number 1, the only version of this format");
            self.report(value.range(), &Path::Root.field("version"), fault);
        }
    }

    /// `project` or `vpc`.
    fn identity(&mut self, root: &Object<'_>, name: &str) -> Option<String> {
        let value = self.required(root, &Path::Root, name)?;
        let path = Path::Root.field(name);
        let expected = format!("a name of 1 to {NAME_CHARS} characters");
        let text = self.string(value, &path, &expected)?;
        let letters = text.chars().count();
        if !(1..=NAME_CHARS).contains(&letters) || text.chars().any(char::is_control) {
            let fault = Fault::error(format!("{} is not a {name} name", quote(text))).expected(expected);
            self.report(value.range(), &path, fault);
            return None;
        }
        Some(text.to_owned())
    }

    fn each<T>(
        &mut self,
        root: &Object<'_>,
        name: &str,
        of: &str,
        one: impl Fn(&mut Self, &Value<'_>, &Path<'_>, usize) -> Option<T>,
    ) -> List<T> {
        let span = super::field(root, name).map(|value| self.span(value.range()));
        let values = self.list(root, &Path::Root, name, of).unwrap_or_default();
        List { span, items: self.some(values, 0, name, one).into_iter().collect() }
    }

    /// Elements of one of the lists, from the one at `first` on.
    fn some<T>(
        &mut self,
        values: &[Value<'_>],
        first: usize,
        name: &str,
        one: impl Fn(&mut Self, &Value<'_>, &Path<'_>, usize) -> Option<T>,
    ) -> Vec<Arc<T>> {
        let path = Path::Root.field(name);
        let values = values.iter().zip(first..);
        let walked = values.filter_map(|(value, index)| one(self, value, &path.index(index), index));
        walked.map(Arc::new).collect()
    }
}
