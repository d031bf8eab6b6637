//! `GET /v1/names`: what there is that has a name, for shells that complete words and for people who mistype them.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::Failure;
use super::routes::{Doc, Routes};
use super::server::{Shared, blocking};

/// `GET /v1/names`. Empty lists if no policy is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Names {
    pub interfaces: Vec<InterfaceName>,
    pub groups: Vec<GroupName>,
    pub vpcs: Vec<VpcName>,
    /// Of members on other hosts.
    pub peers: Vec<IpAddr>,
    /// The files of the policy in force.
    pub files: Vec<String>,
}

/// A device of the policy, or one that is filtered and in none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceName {
    pub name: String,
    /// Empty for devices that only match a managed pattern.
    pub instance: String,
    pub addresses: Vec<IpAddr>,
    pub security_groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupName {
    pub name: String,
    pub project: String,
    /// Absent for `default`, which every VPC of the project sees.
    pub vpc: Option<String>,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VpcName {
    pub name: String,
    pub project: String,
}

pub(super) fn routes() -> Routes {
    Routes::new().get(
        "/v1/names",
        get_names,
        Doc::new("listNames", "What there is that has a name: interfaces, groups, VPCs, peers and files"),
    )
}

async fn get_names(State(shared): State<Shared>) -> Result<Json<Names>, Failure> {
    blocking(move || Ok(names(&shared))).await.map(Json)
}

fn names(shared: &Shared) -> Names {
    let enforcer = shared.enforcer();
    let Some(active) = enforcer.active() else { return Names::default() };
    let model = active.model.clone();
    let unnamed: Vec<String> = enforcer
        .devices()
        .keys()
        .filter(|name| !model.interfaces.iter().any(|interface| interface.name == **name))
        .cloned()
        .collect();
    drop(enforcer);
    let group = |id: &crate::policy::model::GroupId| model.groups.get(id.0).map(|group| group.name.clone());
    let vpc = |id: crate::policy::model::VpcId| model.vpcs.get(id.0).map(|vpc| vpc.name.clone());
    let named = model.interfaces.iter().map(|interface| InterfaceName {
        name: interface.name.clone(),
        instance: interface.instance.clone(),
        addresses: interface.addresses.clone(),
        security_groups: interface.groups.iter().filter_map(group).collect(),
    });
    let unnamed = unnamed.into_iter().map(|name| InterfaceName {
        name,
        instance: String::new(),
        addresses: Vec::new(),
        security_groups: Vec::new(),
    });
    Names {
        interfaces: named.chain(unnamed).collect(),
        groups: model
            .groups
            .iter()
            .map(|group| GroupName {
                name: group.name.clone(),
                project: group.project.clone(),
                vpc: group.vpc.and_then(vpc),
                description: group.description.clone(),
            })
            .collect(),
        vpcs: model
            .vpcs
            .iter()
            .map(|vpc| VpcName { name: vpc.name.clone(), project: vpc.project.clone() })
            .collect(),
        peers: model.peers.iter().map(|peer| peer.address).collect(),
        files: model.files.iter().map(|file| file.display().to_string()).collect(),
    }
}
