//! The JSON Schema of the format, for editors and other programs.
//!
//! These structs only describe; the loader does not read through them, because it reports every fault with its
//! place and deserialization stops at the first. A test holds the two to the same fields. What a schema cannot say
//! (names that must exist, quotas, host bits) only `sgctl check` can tell.

use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

/// The schema (JSON Schema 2020-12).
pub fn schema() -> Schema {
    let mut schema = schemars::schema_for!(Policy);
    RecursiveTransform(no_null).transform(&mut schema);
    schema
}

/// A policy of the sgd packet filter: the security groups of one VPC and the interfaces they are attached to.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Policy {
    /// Version of this format.
    #[schemars(extend("const" = 1))]
    pub version: u8,
    /// Project that owns the VPC. Several files, also of different projects, may make up one policy.
    #[schemars(length(min = 1, max = 250))]
    pub project: String,
    /// VPC that the groups, interfaces and peers of this file belong to.
    #[schemars(length(min = 1, max = 250))]
    pub vpc: String,
    /// Whether implied outbound rules also cover ::/0. Default: false.
    pub ipv6: Option<bool>,
    /// Settings of the whole daemon; files that write the same setting must agree.
    pub settings: Option<Settings>,
    /// Groups of this VPC. "default" exists in every project; write it here to edit it.
    pub security_groups: Option<Vec<SecurityGroup>>,
    /// Interfaces of this host.
    pub interfaces: Option<Vec<Interface>>,
    /// Members of groups that live on other hosts.
    pub peers: Option<Vec<Peer>>,
}

/// Settings of the daemon.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Settings {
    /// What it takes to reach the metadata service at 169.254.169.254:80. Default: explicit.
    pub metadata: Option<Metadata>,
    /// What becomes of connections whose rule is gone. Default: keep.
    pub on_rule_change: Option<OnRuleChange>,
    /// Whether a TCP flow has to begin with a SYN. Default: false.
    pub strict_tcp: Option<bool>,
    pub quotas: Option<Quotas>,
    pub timeouts: Option<Timeouts>,
    /// Patterns ('*' and '?') of device names that are closed when no policy names them.
    #[schemars(inner(length(min = 1)))]
    pub managed: Option<Vec<String>>,
    pub failsafe: Option<Failsafe>,
    pub guest_baseline: Option<GuestBaseline>,
}

/// explicit: only a rule of "default", or one whose own network lies in 169.254.0.0/16, reaches the service.
/// cidr: plain network arithmetic. exempt: never filtered.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Metadata {
    Explicit,
    Cidr,
    Exempt,
}

/// keep: existing connections go on until they time out. revoke: they are cut.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum OnRuleChange {
    Keep,
    Revoke,
}

/// Limits, checked before anything changes.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Quotas {
    /// Custom groups of a project; "default" does not count. Default: 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub groups_per_project: Option<u32>,
    /// Rules of a group, inbound and outbound together. Default: 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub rules_per_group: Option<u32>,
    /// Groups of an interface. Default: 5.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub groups_per_interface: Option<u32>,
}

/// Seconds without a packet after which a connection is forgotten.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Timeouts {
    /// Default: 30.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_syn_sent: Option<u32>,
    /// Default: 60.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_syn_recv: Option<u32>,
    /// Default: 432000, five days.
    #[schemars(range(min = 60, max = 432_000))]
    pub tcp_established: Option<u32>,
    /// Default: 120.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_fin_wait: Option<u32>,
    /// Default: 60.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_close_wait: Option<u32>,
    /// Default: 30.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_last_ack: Option<u32>,
    /// Default: 120.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_time_wait: Option<u32>,
    /// Default: 10.
    #[schemars(range(min = 1, max = 432_000))]
    pub tcp_close: Option<u32>,
    /// UDP that has not been answered. Default: 30.
    #[schemars(range(min = 1, max = 432_000))]
    pub udp: Option<u32>,
    /// UDP that has been answered. Default: 180.
    #[schemars(range(min = 1, max = 432_000))]
    pub udp_stream: Option<u32>,
    /// Default: 30.
    #[schemars(range(min = 1, max = 432_000))]
    pub icmp: Option<u32>,
    /// Any other protocol. Default: 600.
    #[schemars(range(min = 1, max = 432_000))]
    pub other: Option<u32>,
}

/// What always passes on interfaces with role "host". Default: inbound TCP 22, outbound TCP and UDP 53. Two empty
/// lists switch it off.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Failsafe {
    pub inbound: Vec<InboundRule>,
    pub outbound: Vec<OutboundRule>,
}

/// What a guest may not do whatever its rules say. Each guard is on unless it is switched off here.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GuestBaseline {
    /// Frames only from the interface's mac, where it is written. Default: true.
    pub source_mac: Option<bool>,
    /// Packets only from the interface's addresses and allowed_addresses, if it has any, in both families.
    /// Default: true.
    pub source_address: Option<bool>,
    /// ARP only about its own addresses. Default: true.
    pub arp: Option<bool>,
    /// IPv6 neighbour discovery only about its own addresses, from the link itself, in one piece. Default: true.
    pub neighbor_discovery: Option<bool>,
    /// No DHCP or DHCPv6 server. Default: true.
    pub dhcp_server: Option<bool>,
    /// No IPv6 router advertisements from the guest. Default: true.
    pub router_advertisements: Option<bool>,
    /// No ICMP redirects, either way. Default: true.
    pub redirects: Option<bool>,
    /// No VLAN tags, except on interfaces with trunk. Default: true.
    pub vlan: Option<bool>,
    /// No source routes. Default: true.
    pub source_routing: Option<bool>,
    /// What passes beside IPv4, IPv6 and ARP. Default: an empty list.
    pub ether_types: Option<EtherTypes>,
    /// Which IPv6 link-local addresses are a guest's own. Default: any.
    pub link_local: Option<LinkLocal>,
    /// IPv6 addresses, usually link-local, of the routers whose advertisements reach guests without a rule, and those of
    /// no other router at all. Default: an empty list: rules decide about router advertisements.
    #[schemars(inner(regex(pattern = r"^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$")))]
    pub routers: Option<Vec<String>>,
    /// Addresses of the DHCP and DHCPv6 servers (or relays) that guests may write to without a rule. Others may then not
    /// answer them without one. Default: an empty list: guests may ask everybody on their link, and anybody may answer.
    #[schemars(inner(regex(pattern = r"^[0-9A-Fa-f:.]+$")))]
    pub dhcp_servers: Option<Vec<String>>,
}

/// any: every other EtherType. A list: these.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum EtherTypes {
    Word(#[schemars(extend("const" = "any"))] String),
    Listed(#[schemars(length(max = 8))] Vec<EtherType>),
}

/// What a frame carries, as a string of four hexadecimal digits ("0x88cc") or as a number. IPv4, IPv6, ARP and VLAN tags
/// are handled by the filter itself.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, transform = not_handled_already)]
pub enum EtherType {
    Number(#[schemars(range(min = 1536))] u16),
    Text(#[schemars(regex(pattern = r"^0x(0[6-9A-Fa-f]|[1-9A-Fa-f][0-9A-Fa-f])[0-9A-Fa-f]{2}$"))] String),
}

/// derived: the one that follows from the interface's mac, and those among its addresses. any: every one; guests make
/// private ones that nobody else knows.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum LinkLocal {
    Derived,
    Any,
}

/// enforce: what no rule allows is dropped. audit: everything passes, and what would have been dropped is counted.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Enforcement {
    Enforce,
    Audit,
}

/// A named list of what is allowed. There are no deny rules: what no rule allows is denied.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SecurityGroup {
    /// Unique within the VPC; "default" is the project's own group.
    #[schemars(regex(pattern = r"^(default|[A-Za-z0-9][A-Za-z0-9_-]{2,248}[A-Za-z0-9])$"))]
    pub name: String,
    #[schemars(length(max = 100))]
    pub description: Option<String>,
    /// Whether "@group" also means the allowed_addresses of its interfaces. Default: false.
    pub include_allowed_addresses: Option<bool>,
    /// audit: nothing is dropped on the interfaces that the group is attached to. Default: enforce.
    pub enforcement: Option<Enforcement>,
    /// What may enter. Left out: nothing; in "default": TCP from @default.
    pub inbound: Option<Vec<InboundRule>>,
    /// What may leave. Left out: everything; an empty list: nothing.
    pub outbound: Option<Vec<OutboundRule>>,
}

/// Lets traffic from a source in.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = port_where_it_belongs)]
pub struct InboundRule {
    pub protocol: Protocol,
    /// A network ("10.0.0.0/8") or a group ("@web-server").
    #[schemars(regex(pattern = r"^(@.+|[0-9A-Fa-f:.]+/[0-9]{1,3})$"))]
    pub source: String,
    pub port: Option<Port>,
    /// With ICMP only.
    pub icmp_type: Option<u8>,
    /// With icmp_type only.
    pub icmp_code: Option<u8>,
    #[schemars(length(max = 50))]
    pub description: Option<String>,
}

/// Lets traffic to a destination out.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = port_where_it_belongs)]
pub struct OutboundRule {
    pub protocol: Protocol,
    /// A network ("10.0.0.0/8") or a group ("@web-server").
    #[schemars(regex(pattern = r"^(@.+|[0-9A-Fa-f:.]+/[0-9]{1,3})$"))]
    pub destination: String,
    pub port: Option<Port>,
    /// With ICMP only.
    pub icmp_type: Option<u8>,
    /// With icmp_type only.
    pub icmp_code: Option<u8>,
    #[schemars(length(max = 50))]
    pub description: Option<String>,
}

/// TCP, UDP, ICMP or ALL in any case, another protocol's name (icmpv6, gre, esp, ah, sctp, ipip, …) or its number.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Protocol {
    Name(String),
    Number(u8),
}

/// Destination port: a number, a range or ALL. TCP and UDP rules need it, others have none.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Port {
    Number(#[schemars(range(min = 1))] u16),
    Text(#[schemars(regex(pattern = r"^([1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?|[Aa][Ll][Ll])$"))] String),
}

/// A network device of this host and the groups that decide about it.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = a_group_unless_bare_metal)]
pub struct Interface {
    /// The device, as `ip link` shows it.
    #[schemars(regex(pattern = r"^[^/:\s]{1,15}$"))]
    pub name: String,
    /// The instance it belongs to, for people.
    #[schemars(length(max = 250))]
    pub instance: Option<String>,
    /// Default: vm.
    pub kind: Option<Kind>,
    /// Default: guest.
    pub role: Option<Role>,
    /// Default: auto.
    pub hook: Option<Hook>,
    /// The instance's own MAC address.
    #[schemars(regex(pattern = r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"))]
    pub mac: Option<String>,
    /// Whether its frames may carry VLAN tags; what is inside is judged all the same. Default: false.
    pub trunk: Option<bool>,
    /// Whether what it may send to another port of its bridge is handed on to that port directly, which costs less than the
    /// bridge: see docs/fast-path.md. Default: false.
    pub fast_path: Option<bool>,
    /// The instance's own addresses: they make it a member of its groups.
    pub addresses: Option<Vec<String>>,
    /// Further addresses it may use, such as one that moves between instances.
    pub allowed_addresses: Option<Vec<String>>,
    /// At least one, except on bare metal.
    pub security_groups: Option<Vec<String>>,
    /// Overrides of settings.timeouts.
    pub timeouts: Option<Timeouts>,
    /// audit: nothing is dropped on this interface; a group in audit has the same effect. Default: enforce.
    pub enforcement: Option<Enforcement>,
}

/// Rules are not enforced on bare_metal.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Kind {
    Vm,
    Container,
    BareMetal,
}

/// guest: the host's side of an instance's device. host: a network card of the host itself.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Role {
    Guest,
    Host,
}

/// Where in the kernel packets of an instance are judged. auto is tc, by measurement (docs/hooks.md).
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Hook {
    Auto,
    Xdp,
    Tc,
}

/// A member of groups that lives on another host.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Peer {
    pub address: String,
    #[schemars(length(min = 1))]
    pub security_groups: Vec<String>,
}

/// Fields that may be left out may not be null: absent and null would be two ways to say one thing.
fn no_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(mut options)) = object.remove("anyOf") else { return };
    options.retain(|option| option.get("type").is_none_or(|name| name != "null"));
    match options.as_slice() {
        [Value::Object(only)] => object.extend(only.clone()),
        _ => {
            object.insert("anyOf".to_owned(), Value::Array(options));
        }
    }
}

/// K16.
fn port_where_it_belongs(schema: &mut Schema) {
    let ported = json!({ "anyOf": [{ "pattern": "^([Tt][Cc][Pp]|[Uu][Dd][Pp]|6|17)$", "type": "string" }, { "enum": [6, 17] }] });
    schema.insert("if".to_owned(), json!({ "properties": { "protocol": ported } }));
    schema.insert("then".to_owned(), json!({ "required": ["port"] }));
    schema.insert(
        "else".to_owned(),
        json!({ "properties": { "port": { "pattern": "^[Aa][Ll][Ll]$", "type": "string" } } }),
    );
}

/// Section 6.
fn not_handled_already(schema: &mut Schema) {
    let text = json!({ "pattern": "^0x(0800|0806|8100|86[Dd]{2}|88[Aa]8)$", "type": "string" });
    let number = json!({ "enum": [0x0800, 0x0806, 0x8100, 0x86dd, 0x88a8] });
    schema.insert("not".to_owned(), json!({ "anyOf": [text, number] }));
}

/// K2, K3.
fn a_group_unless_bare_metal(schema: &mut Schema) {
    let bare_metal = json!({ "properties": { "kind": { "const": "bare_metal" } }, "required": ["kind"] });
    let some =
        json!({ "properties": { "security_groups": { "minItems": 1 } }, "required": ["security_groups"] });
    schema.insert("if".to_owned(), bare_metal);
    schema.insert("else".to_owned(), some);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fields;

    fn properties(schema: &Value) -> Vec<String> {
        let mut names: Vec<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    /// Without this the loader and the schema would drift apart field by field.
    #[test]
    fn the_schema_has_exactly_the_fields_that_the_loader_knows() {
        let schema = serde_json::to_value(schema()).unwrap();
        let definitions = &schema["$defs"];
        for (object, known) in [
            (&schema, fields::POLICY),
            (&definitions["Settings"], fields::SETTINGS),
            (&definitions["Quotas"], fields::QUOTAS),
            (&definitions["Timeouts"], fields::TIMEOUTS),
            (&definitions["Failsafe"], fields::FAILSAFE),
            (&definitions["GuestBaseline"], fields::GUEST_BASELINE),
            (&definitions["SecurityGroup"], fields::GROUP),
            (&definitions["InboundRule"], fields::INBOUND_RULE),
            (&definitions["OutboundRule"], fields::OUTBOUND_RULE),
            (&definitions["Interface"], fields::INTERFACE),
            (&definitions["Peer"], fields::PEER),
        ] {
            let mut known: Vec<String> = known.iter().map(|&name| name.to_owned()).collect();
            known.sort();
            assert_eq!(properties(object), known);
            assert_eq!(object["additionalProperties"], false);
        }
    }

    #[test]
    fn null_is_no_value_of_any_field() {
        assert!(!schema().to_value().to_string().contains("null"));
    }
}
