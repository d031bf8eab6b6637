//! What a shell completes: the names that the daemon knows at this moment, and those that never change.
//!
//! A verb says which with `#[arg(add = names::interfaces())]`. A daemon that does not answer at once is none: a key press must
//! not wait, and must not print.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::StyledStr;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use hyper::Method;
use sg_common::conntrack::State;
use sg_common::verdict::Reason;

use crate::api::DEFAULT_SOCKET;
use crate::api::client::call_within;
use crate::api::names::Names;
use crate::live::{Group, Order};
use crate::protocols;

/// How long a key press may take.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Devices that the policy in force names, or that are filtered.
pub fn interfaces() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        live()
            .interfaces
            .into_iter()
            .map(|interface| {
                let groups = interface.security_groups.join(", ");
                let help = if interface.instance.is_empty() {
                    "in no policy".to_owned()
                } else {
                    interface.instance
                };
                candidate(interface.name, if groups.is_empty() { help } else { format!("{help}: {groups}") })
            })
            .collect()
    })
}

/// Security groups, `default` too.
pub fn groups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named_groups(""))
}

/// What a rule can have as its source or destination: `@group`, and the addresses that say everybody.
pub fn remotes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let any = [("0.0.0.0/0", "every IPv4 address"), ("::/0", "every IPv6 address")];
        let any = any.map(|(net, help)| candidate(net, help.to_owned()));
        named_groups("@").into_iter().chain(any).collect()
    })
}

/// Addresses that the policy in force knows of: of interfaces and of peers.
pub fn addresses() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let names = live();
        let own = names.interfaces.iter().flat_map(|interface| {
            interface.addresses.iter().map(|address| candidate(address.to_string(), interface.name.clone()))
        });
        let peers = names.peers.iter().map(|peer| candidate(peer.to_string(), "peer".to_owned()));
        once_each(own.chain(peers).collect())
    })
}

pub fn vpcs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        once_each(
            live()
                .vpcs
                .into_iter()
                .map(|vpc| candidate(vpc.name, format!("of project {}", vpc.project)))
                .collect(),
        )
    })
}

pub fn projects() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let names = live();
        let vpcs = names.vpcs.into_iter().map(|vpc| vpc.project);
        let groups = names.groups.into_iter().map(|group| group.project);
        once_each(vpcs.chain(groups).map(CompletionCandidate::new).collect())
    })
}

/// The files of the policy in force.
pub fn policy_files() -> ArgValueCandidates {
    ArgValueCandidates::new(|| live().files.into_iter().map(CompletionCandidate::new).collect())
}

/// Why packets pass or are dropped.
pub fn reasons() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        Reason::EVERY.iter().map(|reason| candidate(reason.name(), reason.text().to_owned())).collect()
    })
}

/// IP protocols by name.
pub fn protocols() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let help = |number: Option<u8>| match number {
            Some(number) => format!("protocol {number}"),
            None => "ICMP, or ICMPv6 for IPv6".to_owned(),
        };
        protocols::names().map(|(name, number)| candidate(name, help(number))).collect()
    })
}

/// What connections can be sorted by.
pub fn flow_orders() -> ArgValueCandidates {
    ArgValueCandidates::new(|| Order::names().map(CompletionCandidate::new).collect())
}

/// What connections can be counted by.
pub fn flow_groups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| Group::NAMES.into_iter().map(CompletionCandidate::new).collect())
}

/// States of connections.
pub fn flow_states() -> ArgValueCandidates {
    ArgValueCandidates::new(|| State::EVERY.map(|state| CompletionCandidate::new(state.name())).into())
}

/// Types of ICMP messages by name.
pub fn icmp_types() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let of = |ipv6: bool, family: &'static str| {
            protocols::icmp_names(ipv6).map(move |(name, kind, code)| {
                let code = code.map_or_else(String::new, |code| format!(" code {code}"));
                candidate(name, format!("{family} type {kind}{code}"))
            })
        };
        once_each(of(false, "ICMP").chain(of(true, "ICMPv6")).collect())
    })
}

fn named_groups(prefix: &str) -> Vec<CompletionCandidate> {
    let all = live().groups.into_iter().map(|group| {
        let place =
            group.vpc.map_or_else(|| format!("project {}", group.project), |vpc| format!("VPC {vpc}"));
        let help =
            if group.description.is_empty() { place } else { format!("{place}: {}", group.description) };
        candidate(format!("{prefix}{}", group.name), help)
    });
    once_each(all.collect())
}

fn candidate(name: impl Into<OsString>, help: String) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(StyledStr::from(help)))
}

/// Groups of several VPCs may have one name.
fn once_each(mut candidates: Vec<CompletionCandidate>) -> Vec<CompletionCandidate> {
    let mut seen = std::collections::BTreeSet::new();
    candidates.retain(|candidate| seen.insert(candidate.get_value().to_owned()));
    candidates
}

/// Nothing without a daemon.
fn live() -> Names {
    call_within::<(), Names>(AT_ONCE, &socket(std::env::args_os()), Method::GET, "/v1/names", None)
        .unwrap_or_default()
}

/// The socket of the command that is being typed, which stands behind `--` in the arguments.
fn socket(words: impl Iterator<Item = OsString>) -> PathBuf {
    let mut words = words.skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        if word == "--socket" {
            return words.next().map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--socket=")) {
            return Path::new(path).to_owned();
        }
    }
    DEFAULT_SOCKET.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_that_of_the_command_being_typed() {
        for (line, expected) in [
            ("sgctl -- sgctl explain --socket /a/b --interface", "/a/b"),
            ("sgctl -- sgctl --socket=/a/b explain", "/a/b"),
            ("sgctl --socket /c -- sgctl explain", DEFAULT_SOCKET),
            ("sgctl -- sgctl explain --socket", DEFAULT_SOCKET),
        ] {
            assert_eq!(socket(line.split(' ').map(OsString::from)), Path::new(expected), "{line}");
        }
    }
}
