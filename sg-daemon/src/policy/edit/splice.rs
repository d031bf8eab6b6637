//! The text of copies and where it goes.

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;

use super::CopyRequest;
use crate::policy::source;
use crate::policy::values::DEFAULT_GROUP;

/// Text to insert at one place of a file.
#[derive(Debug)]
pub(super) struct Splice {
    /// What the text at `start..end` is replaced by; `start == end` except where an empty list is opened up.
    start: usize,
    end: usize,
    insert: String,
    /// Where in `insert` each copy begins.
    copies: Vec<usize>,
}

impl Splice {
    pub fn splice(&self) -> source::Splice {
        source::Splice { start: self.start, end: self.end, insert: self.insert.clone() }
    }

    /// Byte offsets of the copies in the new text.
    pub fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        self.copies.iter().map(|copy| self.start + copy)
    }

    fn at(start: usize, end: usize) -> Self {
        Self { start, end, insert: String::new(), copies: Vec::new() }
    }

    fn add(&mut self, separator: &str, copy: &str) {
        self.insert.push_str(separator);
        self.copies.push(self.insert.len());
        self.insert.push_str(copy);
    }
}

/// Copies of the group at `index` of `security_groups`, right after it.
pub(super) fn beside(text: &str, root: &Object<'_>, index: usize, request: &CopyRequest) -> Option<Splice> {
    let groups = &root.get_array("security_groups")?.elements;
    let Value::Object(group) = groups.get(index)? else { return None };
    // The first element often follows its bracket on the same line; the second shows how elements are set apart.
    let model = groups.get(index.max(1)).or_else(|| groups.get(index))?;
    let mut space = space_before(text, model.start());
    // An only element close to its bracket shows nothing; the fields of the file do.
    if groups.len() == 1
        && space.is_empty()
        && !space_before(text, root.properties.get(1)?.range.start).is_empty()
    {
        space = " ";
    }
    let separator = format!(",{space}");
    let mut splice = Splice::at(group.range.end, group.range.end);
    for name in &request.names {
        splice.add(&separator, &copy_of(text, group, name, request)?);
    }
    Some(splice)
}

/// The source text of a group under another name.
fn copy_of(text: &str, group: &Object<'_>, name: &str, request: &CopyRequest) -> Option<String> {
    let mut changes = vec![(group.get("name")?.value.range(), json_string(name))];
    if request.rewrite_self {
        for (list, remote) in [("inbound", "source"), ("outbound", "destination")] {
            let rules = group.get_array(list).map_or(&[][..], |array| &array.elements);
            for rule in rules.iter().filter_map(Value::as_object) {
                let Some(value) = rule.get_string(remote) else { continue };
                if value.value.strip_prefix('@') == Some(&request.source) {
                    changes.push((value.range, json_string(&format!("@{name}"))));
                }
            }
        }
    }
    if request.source == DEFAULT_GROUP && group.get("inbound").is_none() {
        // Left out, it means TCP from @default here (K21), but nothing in a custom group (K25).
        let last = group.properties.last()?.range.end;
        let lead = space_before(text, group.properties.first()?.range.start);
        let inbound = format!(",{lead}\"inbound\": [{}]", implied_inbound(name, request));
        changes.push((jsonc_parser::common::Range { start: last, end: last }, inbound));
    }
    changes.sort_by_key(|(range, _)| range.start);
    let mut copy = String::new();
    let mut from = group.range.start;
    for (range, replacement) in changes {
        copy.push_str(text.get(from..range.start)?);
        copy.push_str(&replacement);
        from = range.end;
    }
    copy.push_str(text.get(from..group.range.end)?);
    Some(copy)
}

/// Copies of a `default` that is written nowhere: its implied rules (K21, K22) in words.
pub(super) fn written_out(
    text: &str,
    root: &Object<'_>,
    ipv6: bool,
    request: &CopyRequest,
) -> Option<Splice> {
    let first = root.properties.first()?;
    let field = Layout::of(space_before(text, first.range.start));
    let Some(list) = root.get_array("security_groups") else {
        let vpc = root.get("vpc")?.range.end;
        let mut splice = Splice::at(vpc, vpc);
        splice.insert = format!(",{}\"security_groups\": [", field.separator);
        fill(&mut splice, &field, ipv6, request);
        return Some(splice_close(splice, &field));
    };
    if let Some(last) = list.elements.last() {
        let layout = Layout::of(space_before(text, last.start()));
        let mut splice = Splice::at(last.end(), last.end());
        for name in &request.names {
            splice.add(
                &format!(",{}", layout.separator),
                &group_text(name, &layout, field.unit(), ipv6, request),
            );
        }
        return Some(splice);
    }
    let mut splice = Splice::at(list.range.start, list.range.end);
    splice.insert.push('[');
    fill(&mut splice, &field, ipv6, request);
    Some(splice_close(splice, &field))
}

/// The elements of a list that was empty.
fn fill(splice: &mut Splice, field: &Layout, ipv6: bool, request: &CopyRequest) {
    let element = field.deeper(field.unit());
    for (index, name) in request.names.iter().enumerate() {
        let separator =
            if index == 0 { element.separator.clone() } else { format!(",{}", element.separator) };
        splice.add(&separator, &group_text(name, &element, field.unit(), ipv6, request));
    }
}

fn splice_close(mut splice: Splice, field: &Layout) -> Splice {
    splice.insert.push_str(&field.separator);
    splice.insert.push(']');
    splice
}

fn group_text(name: &str, layout: &Layout, unit: &str, ipv6: bool, request: &CopyRequest) -> String {
    let inner = layout.deeper(unit);
    let mut outbound = vec![r#"{ "protocol": "ALL", "destination": "0.0.0.0/0", "port": "ALL" }"#];
    if ipv6 {
        outbound.push(r#"{ "protocol": "ALL", "destination": "::/0", "port": "ALL" }"#);
    }
    let fields = [
        format!("\"name\": {}", json_string(name)),
        format!("\"inbound\": [{}]", implied_inbound(name, request)),
        format!("\"outbound\": [{}]", outbound.join(", ")),
    ];
    let separator = format!(",{}", inner.separator);
    format!("{{{}{}{}}}", inner.separator, fields.join(&separator), layout.separator)
}

fn implied_inbound(name: &str, request: &CopyRequest) -> String {
    let source = if request.rewrite_self { name } else { DEFAULT_GROUP };
    let source = json_string(&format!("@{source}"));
    format!("{{ \"protocol\": \"TCP\", \"source\": {source}, \"port\": \"ALL\" }}")
}

/// How things on one level are set apart: a line break and an indentation, or a space.
pub(super) struct Layout {
    pub separator: String,
}

impl Layout {
    pub fn of(space: &str) -> Self {
        let separator = match space.rfind('\n') {
            Some(at) => {
                let at =
                    if space.get(..at).is_some_and(|before| before.ends_with('\r')) { at - 1 } else { at };
                space.get(at..).unwrap_or("\n")
            }
            None => " ",
        };
        Self { separator: separator.to_owned() }
    }

    /// The indentation of one level, if this is the first level.
    pub fn unit(&self) -> &str {
        let unit = self.separator.trim_start_matches(['\r', '\n']);
        if self.separator == " " || unit.is_empty() { "  " } else { unit }
    }

    pub fn deeper(&self, unit: &str) -> Self {
        let one_line = self.separator == " ";
        Self { separator: if one_line { " ".to_owned() } else { format!("{}{unit}", self.separator) } }
    }
}

/// The white space that ends at `at`.
pub(super) fn space_before(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let space = before.len() - before.trim_end_matches([' ', '\t', '\r', '\n']).len();
    before.get(before.len() - space..).unwrap_or_default()
}

/// Group names need no escapes; anything else would be escaped.
pub(super) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
