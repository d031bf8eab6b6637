//! What Neutron's API answers (OpenStack Networking API v2.0), as far as it has a meaning for filtering.

use serde::{Deserialize, Serialize};

use crate::carry::family::Word;
use crate::carry::read::Rest;

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<SecurityGroup>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
    #[serde(skip_serializing)]
    pub address_groups: Option<Vec<AddressGroup>>,
    #[serde(flatten, skip_serializing)]
    pub rest: Rest,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct SecurityGroup {
    pub id: String,
    #[serde(default)]
    pub name: String,
    pub description: Option<String>,
    pub project_id: Option<String>,
    #[serde(skip_serializing)]
    pub tenant_id: Option<String>,
    pub stateful: Option<bool>,
    #[serde(default)]
    pub security_group_rules: Vec<SecurityGroupRule>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct SecurityGroupRule {
    pub direction: String,
    pub ethertype: Option<String>,
    #[serde(default, serialize_with = "as_text")]
    pub protocol: Option<Word>,
    pub port_range_min: Option<i64>,
    pub port_range_max: Option<i64>,
    pub remote_ip_prefix: Option<String>,
    pub remote_group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address_group_id: Option<String>,
    pub description: Option<String>,
    /// What the rule has beside that: ids and times mean nothing, anything else may.
    #[serde(flatten, skip_serializing)]
    pub rest: Rest,
}

fn as_text<S: serde::Serializer>(word: &Option<Word>, serializer: S) -> Result<S::Ok, S::Error> {
    match word {
        Some(word) => serializer.serialize_str(&word.text()),
        None => serializer.serialize_none(),
    }
}

/// Fields of a rule that say nothing about what it allows.
pub const MEANINGLESS: &[&str] = &[
    "id",
    "security_group_id",
    "project_id",
    "tenant_id",
    "created_at",
    "updated_at",
    "revision_number",
    "tags",
    "normalized_cidr",
    "belongs_to_default_sg",
    "standard_attr_id",
];

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Port {
    pub id: String,
    pub project_id: Option<String>,
    #[serde(skip_serializing)]
    pub tenant_id: Option<String>,
    pub mac_address: Option<String>,
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    #[serde(default)]
    pub security_groups: Vec<String>,
    pub port_security_enabled: Option<bool>,
    #[serde(rename = "binding:host_id")]
    pub host_id: Option<String>,
    #[serde(default)]
    pub device_owner: String,
    #[serde(default)]
    pub device_id: String,
    #[serde(default)]
    pub tags: Vec<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct FixedIp {
    pub ip_address: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct AddressPair {
    pub ip_address: String,
    pub mac_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct AddressGroup {
    pub id: String,
    #[serde(default)]
    pub addresses: Vec<String>,
}
