//! Security groups of clouds: what their APIs say into policy files, and policies into what their APIs say.
//!
//! Pure. [`read`] makes documents of bytes, one module a cloud knows the shapes and the meaning ([`aws`], [`neutron`],
//! [`kakao`]), [`build`] is what all three make files of, and [`text`] writes them in the layout of `examples/`.
//!
//! What cannot be carried is a [`Loss`] with its place; what is carried and may surprise is a note. What is lost never
//! makes a policy allow more than the cloud does, unless the loss says so.

pub mod aws;
mod build;
pub mod export;
mod family;
pub mod kakao;
mod names;
pub mod neutron;
mod read;
pub mod text;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

pub use self::build::Builder;
pub use self::read::{Input, ReadError};
use crate::policy::model::{Match, Metadata, Protocol, Quotas};

/// A policy file in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub project: String,
    pub vpc: String,
    pub ipv6: bool,
    pub metadata: Metadata,
    /// Those that are over the default.
    pub quotas: Quotas,
    pub groups: Vec<Group>,
    pub interfaces: Vec<Interface>,
    pub peers: Vec<Peer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub description: String,
    pub include_allowed_addresses: bool,
    pub inbound: Vec<Rule>,
    pub outbound: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub protocol: Protocol,
    pub remote: Remote,
    pub matches: Match,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    Cidr(IpNet),
    Group(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The host's device.
    pub name: String,
    pub instance: String,
    pub bare_metal: bool,
    pub mac: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub allowed_addresses: Vec<IpAddr>,
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub groups: Vec<String>,
}

/// Something that one side says and the other cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub file: String,
    /// JSON path, such as `SecurityGroups[0].IpPermissions[1].PrefixListIds[0]`.
    pub path: String,
    pub why: String,
}

/// What was found on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
}

impl Report {
    pub fn loss(&mut self, file: &str, path: impl Into<String>, why: impl Into<String>) {
        self.losses.push(Loss { file: file.to_owned(), path: path.into(), why: why.into() });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// What the caller knows of this host.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Interfaces of the cloud by id, and the devices that they are here.
    pub devices: std::collections::BTreeMap<String, String>,
    /// Neutron: ports bound to this host are this host's.
    pub host: Option<String>,
    /// In place of the cloud's.
    pub project: Option<String>,
    pub vpc: Option<String>,
    /// AWS: prefix lists by id. Filled by the caller with [`aws::prefix_list`].
    pub prefix_lists: std::collections::BTreeMap<String, Vec<PrefixEntry>>,
}

/// An entry of a prefix list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixEntry {
    pub net: IpNet,
    pub description: String,
}

/// How far an import is: told once for each group.
pub type Progress<'p> = &'p dyn Fn(usize, usize);

/// The tag of an interface that says which device it is. Export writes it, import reads it.
pub const DEVICE_TAG: &str = "sgd:device";
