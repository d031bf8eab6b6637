//! From the syntax tree of one file to its raw parts, reporting every fault on the way.
//!
//! A function that meets a fault reports it and returns `None`; its caller goes on with the rest, so one run tells a
//! person all there is to repair.

mod baseline;
mod document;
mod group;
mod interface;
mod rule;
mod settings;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ops::RangeInclusive;

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::{Range, Ranged};

pub(crate) use document::{Part, document, part, rules};

use super::diagnostic::{Fault, Findings, quote};
use super::model::FileId;
use super::names::{did_you_mean, one_of};
use super::source::{Span, Spanned};
use super::values::decimal;

/// Where in the document the walk is. Lives on the stack and becomes text only in a fault.
#[derive(Clone, Copy)]
pub(crate) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    fn field<'p>(&'p self, name: &'p str) -> Path<'p> {
        Path::Field(self, name)
    }

    fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => write!(f, "{}", shown(name)),
            Path::Field(parent, name) => write!(f, "{parent}.{}", shown(name)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A field name inside a path; only names that are not ours need quoting.
fn shown(name: &str) -> String {
    let plain =
        name.len() <= 60 && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain { name.to_owned() } else { quote(name) }
}

/// The walk over one file.
struct Walk<'f, 's> {
    file: FileId,
    /// Where in the file the text begins that was parsed.
    base: isize,
    findings: &'f mut Findings<'s>,
}

impl Walk<'_, '_> {
    fn span(&self, range: Range) -> Span {
        let at = |offset: usize| offset.saturating_add_signed(self.base);
        Span { file: self.file, start: at(range.start), end: at(range.end) }
    }

    fn spanned<T>(&self, value: T, at: &Value<'_>) -> Spanned<T> {
        Spanned { value, span: self.span(at.range()) }
    }

    fn report(&mut self, at: Range, path: &Path<'_>, fault: Fault) {
        let span = self.span(at);
        self.findings.report(span, path, fault);
    }

    /// Unwraps what [`super::values`] says about the value at `at`.
    fn check<T>(&mut self, at: &Value<'_>, path: &Path<'_>, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.report(at.range(), path, fault)).ok()
    }

    fn wrong_type(&mut self, value: &Value<'_>, path: &Path<'_>, expected: &str) {
        let fault = Fault::error(format!("found {}", kind(value))).expected(expected);
        self.report(value.range(), path, fault);
    }

    /// The object at `value`, after reporting fields that are not in `known` and fields written twice.
    fn object<'v, 't>(
        &mut self,
        value: &'v Value<'t>,
        path: &Path<'_>,
        known: &[&str],
    ) -> Option<&'v Object<'t>> {
        self.object_except(value, path, known, &[])
    }

    /// Like [`Self::object`], leaving the `handled` names to the caller.
    fn object_except<'v, 't>(
        &mut self,
        value: &'v Value<'t>,
        path: &Path<'_>,
        known: &[&str],
        handled: &[&str],
    ) -> Option<&'v Object<'t>> {
        let Value::Object(object) = value else {
            self.wrong_type(value, path, "an object");
            return None;
        };
        let mut first = FirstPlaces::of(object);
        for (index, property) in object.properties.iter().enumerate() {
            let name = property.name.as_str();
            let at = property.name.range();
            if let Some(before) = first.before(index, name, at) {
                let before = self.span(before);
                let fault = Fault::error(format!("field {} is written twice in one object", quote(name)))
                    .related(before, "first written here");
                self.report(at, &path.field(name), fault);
                continue;
            }
            if !known.contains(&name) && !handled.contains(&name) {
                let fault = unknown_field(name, known);
                self.report(at, &path.field(name), fault);
            }
        }
        Some(object)
    }

    /// The value of a field that has to be there.
    fn required<'v, 't>(
        &mut self,
        object: &'v Object<'t>,
        path: &Path<'_>,
        name: &str,
    ) -> Option<&'v Value<'t>> {
        let value = field(object, name);
        if value.is_none() {
            let start = object.range.start;
            let fault = Fault::error(format!("missing field \"{name}\""));
            self.report(Range { start, end: start + 1 }, &path.field(name), fault);
        }
        value
    }

    fn string<'v>(&mut self, value: &'v Value<'_>, path: &Path<'_>, expected: &str) -> Option<&'v str> {
        let Value::StringLit(string) = value else {
            self.wrong_type(value, path, expected);
            return None;
        };
        Some(&string.value)
    }

    /// A string of at most `most` characters; absent is empty.
    fn text(&mut self, object: &Object<'_>, path: &Path<'_>, name: &str, most: usize) -> String {
        let Some(value) = field(object, name) else { return String::new() };
        let path = path.field(name);
        let Some(text) = self.string(value, &path, "a string") else { return String::new() };
        let letters = text.chars().count();
        if letters > most {
            let fault = Fault::error(format!("{letters} characters are too many"))
                .expected(format!("at most {most} characters"));
            self.report(value.range(), &path, fault);
        }
        text.to_owned()
    }

    fn boolean(&mut self, object: &Object<'_>, path: &Path<'_>, name: &str) -> Option<Spanned<bool>> {
        let value = field(object, name)?;
        if let Value::BooleanLit(literal) = value {
            return Some(self.spanned(literal.value, value));
        }
        self.wrong_type(value, &path.field(name), "true or false");
        None
    }

    /// A JSON number without sign, fraction and exponent, inside `range`.
    fn whole_number(
        &mut self,
        value: &Value<'_>,
        path: &Path<'_>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Value::NumberLit(number) = value else {
            self.wrong_type(value, path, &expected);
            return None;
        };
        let found = decimal(number.value).filter(|number| range.contains(number));
        if found.is_none() {
            let shown: String = number.value.chars().take(40).collect();
            self.report(value.range(), path, Fault::error(format!("found {shown}")).expected(expected));
        }
        found
    }

    /// The elements of an optional list; absent and faulty are both `None`.
    fn list<'v, 't>(
        &mut self,
        object: &'v Object<'t>,
        path: &Path<'_>,
        name: &str,
        of: &str,
    ) -> Option<&'v [Value<'t>]> {
        let value = field(object, name)?;
        let Value::Array(array) = value else {
            self.wrong_type(value, &path.field(name), &format!("a list of {of}"));
            return None;
        };
        Some(&array.elements)
    }

    /// What the elements of a list say, after reporting those that say the same as one before.
    fn each_once<T: Eq + Hash + Clone>(
        &mut self,
        values: &[Value<'_>],
        path: &Path<'_>,
        one: impl Fn(&mut Self, &Value<'_>, &Path<'_>) -> Option<T>,
        name: impl Fn(&T) -> String,
    ) -> Vec<T> {
        let mut all = Vec::new();
        let mut seen = HashMap::new();
        for (index, value) in values.iter().enumerate() {
            let path = path.index(index);
            let Some(found) = one(self, value, &path) else { continue };
            if let Some(&first) = seen.get(&found) {
                let fault = Fault::error(format!("{} is listed twice", name(&found)))
                    .related(first, "first listed here");
                self.report(value.range(), &path, fault);
                continue;
            }
            seen.insert(found.clone(), self.span(value.range()));
            all.push(found);
        }
        all
    }

    /// One of a few words, exactly as written here.
    fn word<T: Copy>(
        &mut self,
        object: &Object<'_>,
        path: &Path<'_>,
        name: &str,
        words: &[(&str, T)],
    ) -> Option<Spanned<T>> {
        let value = field(object, name)?;
        let path = path.field(name);
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let expected = one_of(&names);
        let text = self.string(value, &path, &expected)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let fault = Fault::error(format!("unknown value {}", quote(text)))
                .expected(expected)
                .suggest_opt(did_you_mean(text, names));
            self.report(value.range(), &path, fault);
        }
        found.map(|&(_, found)| self.spanned(found, value))
    }
}

/// Where each name of an object stands first.
enum FirstPlaces<'v, 't> {
    /// There are many objects of few names, for which there is nothing to keep.
    Few(&'v [ObjectProp<'t>]),
    Many(HashMap<&'v str, Range>),
}

/// No object of the format has more fields.
const FEW_FIELDS: usize = 24;

impl<'v, 't> FirstPlaces<'v, 't> {
    fn of(object: &'v Object<'t>) -> Self {
        if object.properties.len() <= FEW_FIELDS {
            Self::Few(&object.properties)
        } else {
            Self::Many(HashMap::new())
        }
    }

    /// Where a name stands before, of the property of that index, which stands at `at`.
    fn before(&mut self, index: usize, name: &'v str, at: Range) -> Option<Range> {
        match self {
            Self::Few(properties) => {
                let mut before = properties.iter().take(index);
                before.find(|other| other.name.as_str() == name).map(|other| other.name.range())
            }
            Self::Many(first) => {
                let before = first.get(name).copied();
                first.entry(name).or_insert(at);
                before
            }
        }
    }
}

/// The value of a field; of the first one where it is (faultily) written twice.
fn field<'v, 't>(object: &'v Object<'t>, name: &str) -> Option<&'v Value<'t>> {
    object.properties.iter().find(|property| property.name.as_str() == name).map(|property| &property.value)
}

fn kind(value: &Value<'_>) -> String {
    match value {
        Value::StringLit(string) => format!("the string {}", quote(&string.value)),
        Value::NumberLit(_) => "a number".to_owned(),
        Value::BooleanLit(literal) => literal.value.to_string(),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::NullKeyword(_) => "null".to_owned(),
    }
}

/// K5: people who know other firewalls look for a way to deny; they are told that there is none.
fn unknown_field(name: &str, known: &[&str]) -> Fault {
    const VERDICTS: &[&str] = &["action", "allow", "block", "deny", "drop", "effect", "priority", "reject"];
    let fault = Fault::error(format!("unknown field {}", quote(name)));
    if VERDICTS.contains(&name.to_ascii_lowercase().as_str()) {
        return fault.expected(format!("one of the fields {}", one_of(known))).suggest(
            "there are no deny rules: every rule allows, and what no rule allows is denied; remove the field",
        );
    }
    fault
        .expected(format!("one of the fields {}", one_of(known)))
        .suggest_opt(did_you_mean(name, known.iter().copied()))
}
