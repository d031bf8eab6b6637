//! `docs/policy-reference.md` is made from the JSON Schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use sg_daemon::policy::schema::schema;

use crate::pages::hold;

const PAGE: &str = "docs/policy-reference.md";

/// In the order of the page. A test holds the list to the schema.
const OBJECTS: [&str; 10] = [
    "SecurityGroup",
    "InboundRule",
    "OutboundRule",
    "Interface",
    "Peer",
    "Settings",
    "Quotas",
    "Timeouts",
    "Failsafe",
    "GuestBaseline",
];

fn page(schema: &Value) -> String {
    let mut page = String::from(
        "<!-- Made by `cargo xtask docs` from sg-daemon/src/policy/schema.rs. Change the comments there, not this page. -->\n\
         # Policy reference\n\
         \n\
         A policy is JSON, in one file or in a directory of `*.json`. Several files may describe one VPC; each object is in one of them.\n\
         An unknown field is an error. This page is made from the schema that `sgctl schema` prints, for editors; `sgctl check` also knows\n\
         what a schema cannot say: names that must exist, quotas, host bits of a network.\n\
         \n\
         ```json\n\
         { \"version\": 1, \"project\": \"shop\", \"vpc\": \"main\", \"security_groups\": [], \"interfaces\": [] }\n\
         ```\n",
    );
    object(&mut page, "Policy", "Policy", schema);
    for name in OBJECTS {
        object(&mut page, name, &words(name), &schema["$defs"][name]);
    }
    page += "\n## Values\n";
    for (name, definition) in definitions(schema) {
        if OBJECTS.contains(&name.as_str()) {
            continue;
        }
        let _ = write!(page, "\n### {}\n\n{}\n", words(name), text(definition));
        let _ = writeln!(page, "\nIt is {}.", kind(definition));
    }
    page
}

fn definitions(schema: &Value) -> &Map<String, Value> {
    schema["$defs"].as_object().unwrap()
}

fn object(page: &mut String, name: &str, heading: &str, definition: &Value) {
    let _ = write!(
        page,
        "\n## {heading}\n\n{}\n\n| field | type | default | |\n|---|---|---|---|\n",
        text(definition)
    );
    let required = definition["required"].as_array().cloned().unwrap_or_default();
    for (field, value) in definition["properties"].as_object().unwrap_or_else(|| panic!("{name}: no fields"))
    {
        let (description, default) = split_default(&text(value));
        let must = required.iter().any(|name| name == field.as_str());
        let default = if must { "**required**".to_owned() } else { default.unwrap_or_default() };
        let _ = writeln!(page, "| `{field}` | {} | {default} | {description} |", kind(value));
    }
    match name {
        "InboundRule" | "OutboundRule" => {
            *page += "\n`port` is required for TCP and UDP, and `ALL` or left out for other protocols.\n";
        }
        "Interface" => {
            *page +=
                "\n`security_groups` is required and not empty, except with `\"kind\": \"bare_metal\"`.\n";
        }
        _ => assert!(definition.get("if").is_none(), "{name} has a condition that the page does not tell"),
    }
}

/// A description in one line; paragraphs of a table cell cannot be told apart.
fn text(value: &Value) -> String {
    value["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

/// "Words. Default: this, and that." in two.
fn split_default(text: &str) -> (String, Option<String>) {
    let Some((before, default)) = text.split_once("Default: ") else { return (text.to_owned(), None) };
    // What is behind the sentence belongs to the description.
    let (default, after) = default.split_once(". ").unwrap_or((default.trim_end_matches('.'), ""));
    (format!("{before}{after}").trim_end().to_owned(), Some(default.to_owned()))
}

/// What a value may be, in words.
fn kind(value: &Value) -> String {
    if let Some(reference) = value["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return format!("[{}](#{})", words(name), words(name).to_lowercase().replace(' ', "-"));
    }
    if let Some(only) = value.get("const") {
        return format!("`{only}`");
    }
    if let Some(of) = value["enum"].as_array() {
        return of.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(of) = value["anyOf"].as_array() {
        return of.iter().map(kind).collect::<Vec<_>>().join(", or ");
    }
    let kind = value["type"].as_str().unwrap_or_else(|| panic!("what is {value}?"));
    match kind {
        "array" => {
            let most = value["maxItems"].as_u64().map(|most| format!(", at most {most}")).unwrap_or_default();
            let least =
                value["minItems"].as_u64().map(|least| format!(", at least {least}")).unwrap_or_default();
            format!("a list of {}{least}{most}", self::kind(&value["items"]))
        }
        "integer" => format!("a number from {} to {}", value["minimum"], value["maximum"]),
        "string" => {
            let length = match (value["minLength"].as_u64(), value["maxLength"].as_u64()) {
                (Some(least), Some(most)) => format!(" of {least} to {most} characters"),
                (None, Some(most)) => format!(" of at most {most} characters"),
                (Some(least), None) => format!(" of {least} or more characters"),
                (None, None) => String::new(),
            };
            match value["pattern"].as_str() {
                Some(pattern) => format!("a text like `{}`", pattern.replace('|', "\\|")),
                None => format!("a text{length}"),
            }
        }
        "boolean" => "`true` or `false`".to_owned(),
        other => panic!("what is a {other}?"),
    }
}

/// `SecurityGroup` as "Security group".
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
            words.extend(letter.to_lowercase());
        } else {
            words.push(letter);
        }
    }
    words
}

#[test]
fn made_pages_the_policy_reference_is_what_the_schema_says() {
    hold(PAGE, &page(schema().as_value()));
}

#[test]
fn the_policy_reference_has_every_object_with_every_field() {
    let schema = schema();
    let schema = schema.as_value();
    let page = page(schema);
    let mut fields = 0;
    for (name, definition) in definitions(schema).iter().chain([(&"Policy".to_owned(), schema)]) {
        let Some(properties) = definition["properties"].as_object() else {
            assert!(page.contains(&format!("\n### {}\n", words(name))), "{name}");
            continue;
        };
        let heading = format!("\n## {}\n", words(name));
        let section = page.split_once(&heading).unwrap_or_else(|| panic!("{name} has no section")).1;
        let section = section.split("\n## ").next().unwrap();
        for field in properties.keys() {
            assert!(section.contains(&format!("| `{field}` |")), "{name}.{field}");
            fields += 1;
        }
    }
    assert_eq!(page.matches("\n| `").count(), fields, "no row but one for each field");
}
