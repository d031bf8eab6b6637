//! Elements of lists and fields of objects, put into a text and taken out of it.

use std::borrow::Cow;

use jsonc_parser::ast::{Array, Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use serde_json::Value as Json;

use super::splice::{Layout, json_string};
use crate::policy::source::{self, SourceFile};

/// One replacement in a text.
#[derive(Debug)]
pub(super) struct Change {
    start: usize,
    end: usize,
    insert: String,
    /// Where in `insert` begins what is new.
    new: usize,
}

impl Change {
    /// What it does, and where in the new text the edited part begins.
    pub fn splice(&self) -> (source::Splice, usize) {
        let &Self { start, end, ref insert, new } = self;
        (source::Splice { start, end, insert: insert.clone() }, start + new)
    }
}

/// How a file is laid out.
pub(super) struct Style<'t> {
    source: &'t SourceFile,
    /// The indentation of one level.
    unit: String,
    /// `{"a":1}` rather than `{ "a": 1 }`.
    compact: bool,
}

impl<'t> Style<'t> {
    pub fn of(source: &'t SourceFile, root: &Object<'_>) -> Self {
        let first = root.properties.first();
        let space = first.map_or_else(Cow::default, |first| source.space_before(first.range.start));
        let colon = first.and_then(|first| source.slice(first.name.range().end..first.value.range().start));
        Self {
            source,
            unit: Layout::of(&space).unit().to_owned(),
            compact: colon.is_some_and(|colon| !colon.contains(' ')) && !space.contains('\n'),
        }
    }

    /// How things are set apart that begin at `at`, as the last of their kind.
    fn layout(&self, at: usize) -> Layout {
        let layout = Layout::of(&self.source.space_before(at));
        if layout.separator == " " && self.compact { Layout { separator: String::new() } } else { layout }
    }

    /// On one line.
    pub fn value(&self, value: &Json) -> String {
        let (open, close, comma, colon) =
            if self.compact { ("{", "}", ",", ":") } else { ("{ ", " }", ", ", ": ") };
        match value {
            Json::Object(fields) if fields.is_empty() => "{}".to_owned(),
            Json::Object(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{}{colon}{}", json_string(name), self.value(value)))
                    .collect();
                format!("{open}{}{close}", fields.join(comma))
            }
            Json::Array(values) => {
                let values: Vec<String> = values.iter().map(|value| self.value(value)).collect();
                format!("[{}]", values.join(comma))
            }
            other => other.to_string(),
        }
    }

    /// A list as the value of a field that is set apart like this.
    fn list(&self, field: &Layout, values: &[Json]) -> String {
        let one_line = !field.separator.contains('\n') || values.iter().all(Json::is_string);
        if values.is_empty() || one_line {
            return self.value(&Json::Array(values.to_vec()));
        }
        let element = field.deeper(&self.unit);
        let values: Vec<String> = values.iter().map(|value| self.value(value)).collect();
        let comma = format!(",{}", element.separator);
        format!("[{}{}{}]", element.separator, values.join(&comma), field.separator)
    }

    /// A group: a field a line, where its neighbours stand on lines of their own.
    pub fn group(&self, layout: &Layout, group: &Json) -> String {
        let Some(fields) = group.as_object().filter(|_| layout.separator.contains('\n')) else {
            return self.value(group);
        };
        if fields.len() == 1 {
            return self.value(group);
        }
        let inner = layout.deeper(&self.unit);
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}: {}", json_string(name), self.field(&inner, value)))
            .collect();
        let comma = format!(",{}", inner.separator);
        format!("{{{}{}{}}}", inner.separator, fields.join(&comma), layout.separator)
    }

    fn field(&self, layout: &Layout, value: &Json) -> String {
        match value {
            Json::Array(values) => self.list(layout, values),
            other => self.value(other),
        }
    }

    /// A further element at the end of the list that `owner` has.
    pub fn append(
        &self,
        owner: &Object<'_>,
        array: &Array<'_>,
        element: impl Fn(&Self, &Layout) -> String,
    ) -> Change {
        if let Some(last) = array.elements.last() {
            let layout = self.layout(last.start());
            let insert = format!(",{}{}", layout.separator, element(self, &layout));
            let new = 1 + layout.separator.len();
            return Change { start: last.end(), end: last.end(), insert, new };
        }
        let field = self.field_layout(owner);
        if !field.separator.contains('\n') {
            let insert = format!("[{}]", element(self, &field));
            return Change { start: array.range.start, end: array.range.end, insert, new: 1 };
        }
        let layout = field.deeper(&self.unit);
        let new = 1 + layout.separator.len();
        let insert = format!("[{}{}{}]", layout.separator, element(self, &layout), field.separator);
        Change { start: array.range.start, end: array.range.end, insert, new }
    }

    /// How the fields of an object are set apart: the last one shows it, as the first often follows its brace.
    fn field_layout(&self, object: &Object<'_>) -> Layout {
        self.layout(object.properties.last().map_or(object.range.start, |last| last.range.start))
    }

    /// A further field, after the one of the name `after` or at the end.
    pub fn add_field(&self, object: &Object<'_>, after: Option<&str>, name: &str, value: &Json) -> Change {
        self.add_field_with(object, after, name, |style, layout| style.field(layout, value))
    }

    /// A further field with a list of one group.
    pub fn add_group_list(&self, root: &Object<'_>, group: &Json) -> Change {
        self.add_field_with(root, Some("vpc"), "security_groups", |style, field| {
            if !field.separator.contains('\n') {
                return format!("[{}]", style.value(group));
            }
            let layout = field.deeper(&style.unit);
            format!("[{}{}{}]", layout.separator, style.group(&layout, group), field.separator)
        })
    }

    fn add_field_with(
        &self,
        object: &Object<'_>,
        after: Option<&str>,
        name: &str,
        value: impl Fn(&Self, &Layout) -> String,
    ) -> Change {
        let named = |property: &&ObjectProp<'_>| Some(property.name.as_str()) == after;
        let before = object.properties.iter().find(named).or_else(|| object.properties.last());
        // Where several fields share a line, the first field of the object shows where lines begin.
        let first = object.properties.first().map_or(object.range.start, |first| first.range.start);
        let mut layout = self.layout(first);
        if !layout.separator.contains('\n') {
            layout = self.field_layout(object);
        }
        let at = before.map_or(object.range.start + 1, |before| before.range.end);
        let comma = if before.is_some() { "," } else { "" };
        let colon = if self.compact { ":" } else { ": " };
        let insert =
            format!("{comma}{}{}{colon}{}", layout.separator, json_string(name), value(self, &layout));
        Change { start: at, end: at, insert, new: comma.len() + layout.separator.len() }
    }
}

/// Without the element at `index`.
pub(super) fn remove(array: &Array<'_>, index: usize) -> Option<Change> {
    let element = array.elements.get(index)?;
    let (start, end) = match (
        index.checked_sub(1).and_then(|before| array.elements.get(before)),
        array.elements.get(index + 1),
    ) {
        (Some(before), _) => (before.end(), element.end()),
        (None, Some(next)) => (element.start(), next.start()),
        (None, None) => (array.range.start + 1, array.range.end - 1),
    };
    Some(Change { start, end, insert: String::new(), new: 0 })
}

/// The object of a list that begins at `offset`.
pub(super) fn object_at<'v, 't>(root: &'v Object<'t>, list: &str, offset: usize) -> Option<&'v Object<'t>> {
    let objects = root.get_array(list)?.elements.iter().filter_map(Value::as_object);
    objects.into_iter().find(|object| object.range.start == offset)
}

/// The place of the object that begins at `offset`.
pub(super) fn position_at(root: &Object<'_>, list: &str, offset: usize) -> Option<usize> {
    root.get_array(list)?.elements.iter().position(|value| value.start() == offset)
}

/// The place of a string in a list.
pub(super) fn position_of(array: &Array<'_>, text: &str) -> Option<usize> {
    let is = |value: &Value<'_>| value.as_string_lit().is_some_and(|string| string.value == text);
    array.elements.iter().position(is)
}
