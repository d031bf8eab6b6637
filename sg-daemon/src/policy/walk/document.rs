//! The top of a file.

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;

use super::{Path, Walk};
use crate::policy::diagnostic::{Fault, Findings, quote};
use crate::policy::fields;
use crate::policy::model::FileId;
use crate::policy::raw::{RawFile, RawSettings};
use crate::policy::values::NAME_CHARS;

pub(crate) fn document(file: FileId, value: &Value<'_>, findings: &mut Findings<'_>) -> Option<RawFile> {
    let mut walk = Walk { file, findings };
    let root = walk.object(value, &Path::Root, fields::POLICY)?;
    walk.version(root);
    Some(RawFile {
        project: walk.identity(root, "project"),
        vpc: walk.identity(root, "vpc"),
        ipv6: walk.boolean(root, &Path::Root, "ipv6"),
        settings: match super::field(root, "settings") {
            Some(value) => walk.settings(value, &Path::Root.field("settings")),
            None => RawSettings::default(),
        },
        groups: walk.each(root, "security_groups", "security groups", Walk::group),
        interfaces: walk.each(root, "interfaces", "interfaces", Walk::interface),
        peers: walk.each(root, "peers", "peers", Walk::peer),
    })
}

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
    ) -> Vec<T> {
        let values = self.list(root, &Path::Root, name, of).unwrap_or_default();
        let path = Path::Root.field(name);
        values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| one(self, value, &path.index(index), index))
            .collect()
    }
}
