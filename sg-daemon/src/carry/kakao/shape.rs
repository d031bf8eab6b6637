//! What KakaoCloud's VPC API answers about security groups and network interfaces, as far as it has a meaning for
//! filtering. Ports come as numbers, as numbers in strings, as "ALL" or as null.

use serde::{Deserialize, Serialize};

use crate::carry::family::Word;
use crate::carry::read::Rest;

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<SecurityGroup>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_interfaces: Option<Vec<NetworkInterface>>,
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
    pub vpc_id: Option<String>,
    #[serde(default, alias = "security_group_rules")]
    pub rules: Vec<SecurityGroupRule>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct SecurityGroupRule {
    pub direction: String,
    pub protocol: Option<String>,
    pub port_range_min: Option<Port>,
    pub port_range_max: Option<Port>,
    pub remote_ip_prefix: Option<String>,
    pub remote_group_id: Option<String>,
    pub description: Option<String>,
    #[serde(flatten, skip_serializing)]
    pub rest: Rest,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Port(pub Word);

impl Serialize for Port {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Word::Number(number) => serializer.serialize_i64(*number),
            Word::Text(text) => serializer.serialize_str(text),
        }
    }
}

/// Fields of a rule that say nothing about what it allows.
pub const MEANINGLESS: &[&str] = &[
    "id",
    "version",
    "ethertype",
    "security_group_id",
    "remote_group_name",
    "project_id",
    "project_name",
    "created_at",
    "updated_at",
    "creator_id",
    "operating_status",
    "provisioning_status",
];

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct NetworkInterface {
    pub id: String,
    pub name: Option<String>,
    #[serde(default)]
    pub security_groups: Vec<Attached>,
    pub mac_address: Option<String>,
    pub private_ip: Option<String>,
    #[serde(default)]
    pub secondary_ips: Vec<String>,
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    #[serde(alias = "device_id")]
    pub instance_id: Option<String>,
    /// Of a bare metal server rules are not enforced.
    pub is_bare_metal: Option<bool>,
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A group by its id, alone or in an object.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Attached {
    Id(String),
    Group { id: String },
}

impl Attached {
    pub fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Group { id } => id,
        }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct AddressPair {
    pub ip_address: String,
    pub mac_address: Option<String>,
}
