//! Security groups (SPEC section 3).

use std::sync::Arc;

use jsonc_parser::ast::{Object, Value};

use super::rule::Direction;
use super::{Path, Walk};
use crate::policy::fields;
use crate::policy::raw::{Known, RawGroup, RawRule};
use crate::policy::values::{DEFAULT_GROUP, GROUP_DESCRIPTION_CHARS, group_name};

impl Walk<'_, '_> {
    pub(super) fn group(&mut self, value: &Value<'_>, path: &Path<'_>, index: usize) -> Option<RawGroup> {
        let object = self.object(value, path, fields::GROUP)?;
        let name = self.required(object, path, "name").and_then(|value| {
            let path = path.field("name");
            let name = self.string(value, &path, "a group name")?;
            if name != DEFAULT_GROUP {
                self.check(value, &path, group_name(name));
            }
            Some(self.spanned(name.to_owned(), value))
        });
        let span = self.span(object.range);
        let rules =
            |walk: &mut Self, direction| walk.rules(object, path, direction, span.start).map(Arc::new);
        Some(RawGroup {
            index,
            span,
            at: Known::default(),
            name,
            description: self.text(object, path, "description", GROUP_DESCRIPTION_CHARS),
            include_allowed_addresses: self
                .boolean(object, path, "include_allowed_addresses")
                .is_some_and(|include| include.value),
            enforcement: self.enforcement(object, path),
            inbound: rules(self, Direction::Inbound),
            outbound: rules(self, Direction::Outbound),
        })
    }

    /// The list of one direction; `None` where the field is absent. Places are told from `start`.
    pub(super) fn rules(
        &mut self,
        object: &Object<'_>,
        path: &Path<'_>,
        direction: Direction,
        start: usize,
    ) -> Option<Vec<RawRule>> {
        super::field(object, direction.name())?;
        let values = self.list(object, path, direction.name(), "rules").unwrap_or_default();
        let path = path.field(direction.name());
        let values = values.iter().enumerate();
        let rules = values.map(|(index, value)| self.rule(value, &path.index(index), direction, start));
        Some(rules.collect())
    }
}
