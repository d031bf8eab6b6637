//! Policy files in the layout of `examples/`: a rule, an interface or a peer is one line where it fits.

use serde_json::{Map, Value, json};

use super::{File, Group, Interface, Remote, Rule};
use crate::policy::model::{Match, Metadata, Protocol, Quotas};

/// Interfaces that are longer stand on several lines.
const WIDTH: usize = 120;

/// The file, ending in a line break.
pub fn text(file: &File) -> String {
    let mut fields = vec![format!(
        "  \"version\": 1,\n  \"project\": {},\n  \"vpc\": {}",
        quoted(&file.project),
        quoted(&file.vpc)
    )];
    if file.ipv6 {
        fields.push("  \"ipv6\": true".to_owned());
    }
    fields.extend(settings(file));
    let mut list = |name: &str, parts: Vec<String>| {
        if !parts.is_empty() {
            fields.push(format!("  \"{name}\": [\n{}\n  ]", parts.join(",\n")));
        }
    };
    list("security_groups", file.groups.iter().map(group).collect());
    list("interfaces", file.interfaces.iter().map(interface).collect());
    let peer = |peer: &super::Peer| {
        let value = json!({ "address": peer.address, "security_groups": peer.groups });
        format!("    {}", line(&value))
    };
    list("peers", file.peers.iter().map(peer).collect());
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}

fn settings(file: &File) -> Option<String> {
    let mut settings = Map::new();
    match file.metadata {
        Metadata::Explicit => {}
        Metadata::Cidr => drop(settings.insert("metadata".to_owned(), json!("cidr"))),
        Metadata::Exempt => drop(settings.insert("metadata".to_owned(), json!("exempt"))),
    }
    let default = Quotas::default();
    let mut quotas = Map::new();
    for (name, value, usual) in [
        ("groups_per_project", file.quotas.groups_per_project, default.groups_per_project),
        ("rules_per_group", file.quotas.rules_per_group, default.rules_per_group),
        ("groups_per_interface", file.quotas.groups_per_interface, default.groups_per_interface),
    ] {
        if value != usual {
            quotas.insert(name.to_owned(), json!(value));
        }
    }
    if !quotas.is_empty() {
        settings.insert("quotas".to_owned(), Value::Object(quotas));
    }
    (!settings.is_empty()).then(|| format!("  \"settings\": {}", line(&Value::Object(settings))))
}

fn group(group: &Group) -> String {
    let mut fields = vec![format!("      \"name\": {}", quoted(&group.name))];
    if !group.description.is_empty() {
        fields.push(format!("      \"description\": {}", quoted(&group.description)));
    }
    if group.include_allowed_addresses {
        fields.push("      \"include_allowed_addresses\": true".to_owned());
    }
    for (list, remote, rules) in
        [("inbound", "source", &group.inbound), ("outbound", "destination", &group.outbound)]
    {
        let rules: Vec<String> =
            rules.iter().map(|rule| format!("        {}", line(&value(rule, remote)))).collect();
        fields.push(if rules.is_empty() {
            format!("      \"{list}\": []")
        } else {
            format!("      \"{list}\": [\n{}\n      ]", rules.join(",\n"))
        });
    }
    format!("    {{\n{}\n    }}", fields.join(",\n"))
}

fn value(rule: &Rule, remote: &str) -> Value {
    let mut value = Map::new();
    let mut set = |name: &str, field: Value| drop(value.insert(name.to_owned(), field));
    set(
        "protocol",
        match rule.protocol {
            Protocol::All => json!("ALL"),
            Protocol::Tcp => json!("TCP"),
            Protocol::Udp => json!("UDP"),
            Protocol::Icmp => json!("ICMP"),
            Protocol::Number(number) => json!(number),
        },
    );
    set(
        remote,
        match &rule.remote {
            Remote::Cidr(net) => json!(net.to_string()),
            Remote::Group(name) => json!(format!("@{name}")),
        },
    );
    match (&rule.matches, rule.protocol) {
        (Match::Ports(ports), _) if ports.min == ports.max => set("port", json!(ports.min.to_string())),
        (Match::Ports(ports), _) => set("port", json!(format!("{}-{}", ports.min, ports.max))),
        (Match::Any, Protocol::Tcp | Protocol::Udp) => set("port", json!("ALL")),
        (Match::Any, _) => {}
        (Match::Icmp { kind, code }, _) => {
            set("icmp_type", json!(kind));
            if let Some(code) = code {
                set("icmp_code", json!(code));
            }
        }
    }
    if !rule.description.is_empty() {
        set("description", json!(rule.description));
    }
    Value::Object(value)
}

fn interface(interface: &Interface) -> String {
    let mut fields = Map::new();
    let mut set = |name: &str, field: Value| drop(fields.insert(name.to_owned(), field));
    set("name", json!(interface.name));
    if !interface.instance.is_empty() {
        set("instance", json!(interface.instance));
    }
    if interface.bare_metal {
        set("kind", json!("bare_metal"));
    }
    if let Some(mac) = &interface.mac {
        set("mac", json!(mac));
    }
    for (name, addresses) in
        [("addresses", &interface.addresses), ("allowed_addresses", &interface.allowed_addresses)]
    {
        if !addresses.is_empty() {
            set(name, json!(addresses));
        }
    }
    if !interface.groups.is_empty() || !interface.bare_metal {
        set("security_groups", json!(interface.groups));
    }
    let fields = Value::Object(fields);
    let one = format!("    {}", line(&fields));
    if one.chars().count() <= WIDTH {
        return one;
    }
    let Value::Object(fields) = fields else { return one };
    let lines: Vec<String> =
        fields.iter().map(|(name, field)| format!("      {}: {}", quoted(name), line(field))).collect();
    format!("    {{\n{}\n    }}", lines.join(",\n"))
}

/// JSON on one line, with spaces.
fn line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, field)| format!("{}: {}", quoted(name), line(field))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(line).collect();
            format!("[{}]", elements.join(", "))
        }
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
