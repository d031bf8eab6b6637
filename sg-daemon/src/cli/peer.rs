//! `sgctl peer`: members of groups on other hosts.

use std::path::Path;

use clap::{Args, Subcommand};

use super::edit::{How, Scope, Which, list, place};
use super::output::table;
use super::{Outcome, names};
use crate::policy::edit::Edit;
use crate::policy::model::Model;
use crate::policy::view::{self, PeerView};

/// Add, remove and list members of groups on other hosts.
#[derive(Debug, Args)]
pub struct Peer {
    #[command(subcommand)]
    verb: PeerVerb,
}

#[derive(Debug, Subcommand)]
enum PeerVerb {
    Add(Add),
    Remove(Remove),
    List(List),
}

/// Put an address into groups. One that is a peer already is in those, too.
///
/// Exit code: 0 done, 1 refused (no such group), 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Add {
    address: String,
    #[arg(required = true, value_name = "GROUP", add = names::groups())]
    groups: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// Take an address out of groups; without GROUP, out of all.
///
/// Exit code: 0 done, 1 refused (no such peer, not in that group), 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Remove {
    address: String,
    #[arg(value_name = "GROUP", add = names::groups())]
    groups: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    how: How,
}

/// List the peers.
///
/// Exit code: 0 done, 1 no policy is in force, or the files have faults, 2 trouble.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    which: Which,
}

impl Peer {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        match self.verb {
            PeerVerb::Add(Add { address, groups, scope: Scope { vpc, project }, how }) => {
                how.edit(socket, vec![Edit::PeerAdd { address, groups, project, vpc }])
            }
            PeerVerb::Remove(Remove { address, groups, scope: Scope { vpc, project }, how }) => {
                let out_of = |groups| Edit::PeerRemove {
                    address: address.clone(),
                    groups,
                    project: project.clone(),
                    vpc: vpc.clone(),
                };
                let edits = if groups.is_empty() {
                    vec![out_of(Vec::new())]
                } else {
                    groups.into_iter().map(|group| out_of(vec![group])).collect()
                };
                how.edit(socket, edits)
            }
            PeerVerb::List(List { scope, which }) => {
                let path = format!("/v1/peers{}", scope.query());
                let of_files = |model: &Model| Ok(view::in_scope(view::peers(model), scope.find()));
                match which.get(socket, &path, of_files)? {
                    Ok(peers) => which.tell(&peers, |peers| lines(peers)),
                    Err(code) => Ok(code),
                }
            }
        }
    }
}

fn lines(peers: &[PeerView]) -> String {
    let title = ["ADDRESS", "VPC", "GROUPS", "PLACE"].map(str::to_owned).to_vec();
    let row = |peer: &PeerView| {
        vec![
            peer.address.to_string(),
            format!("{}/{}", peer.project, peer.vpc),
            list(&peer.security_groups),
            place(Some(&peer.file), Some(peer.line)),
        ]
    };
    table(&[title].into_iter().chain(peers.iter().map(row)).collect::<Vec<_>>())
}
