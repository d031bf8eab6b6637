//! What an operator wants to know beside the verdict: who switched what on, and what the packet has that it should not have.

use std::net::IpAddr;

use sg_common::abi::Direction;
use sg_common::tcp::SYN;
use sg_common::verdict::{Action, Reason};

use super::dissect::{self, Dissected, is_error, mac};
use super::text::place;
use crate::compile::fit::Tuple;
use crate::policy::model::{EtherTypes, Interface, Metadata, Model, Role};

/// Notes on a verdict of an interface that the policy names.
pub fn notes(
    model: &Model,
    interface: &Interface,
    direction: Direction,
    reason: Reason,
    dissected: &Dissected,
) -> Vec<String> {
    let mut notes = Vec::new();
    if reason.action() == Action::Drop
        && let Some(fact) = guard(model, interface, reason, dissected)
    {
        notes.push(fact);
    }
    let Some(tuple) = dissected.tuple else { return notes };
    let packet = tuple.asked(direction);
    match reason {
        Reason::NoRule => no_rule(model, interface, &tuple, &packet, &mut notes),
        Reason::FragmentLimit | Reason::EarlyFragment if tuple.later_piece => notes.push(
            "its datagram is not known: a later fragment is judged with the first, to ask about which is to ask about all"
                .to_owned(),
        ),
        Reason::RuleOnly if packet.is_own_icmp() => notes.push(
            "an ICMP message that is no query starts no connection: it passes by a rule each time".to_owned(),
        ),
        _ => {}
    }
    notes
}

/// Whose the thing is that the guard is about, and what the packet has instead.
fn guard(model: &Model, interface: &Interface, reason: Reason, dissected: &Dissected) -> Option<String> {
    let at =
        place(model, interface.source).map_or_else(String::new, |(file, line)| format!(" ({file}:{line})"));
    let baseline = &model.settings.guest_baseline;
    let listed = |addresses: &[IpAddr]| match addresses {
        [] => "none".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let own: Vec<IpAddr> = interface.addresses.iter().chain(&interface.allowed_addresses).copied().collect();
    Some(match reason {
        Reason::SourceMac | Reason::ArpSpoof | Reason::NeighborSpoof | Reason::SourceAddress => {
            let source = dissected.tuple.map_or_else(String::new, |tuple| format!(" from {}", tuple.source));
            let hardware = interface.mac.map_or_else(|| "any hardware address".to_owned(), mac);
            format!(
                "the packet is{source} at {}; the interface's own are {hardware} and {}{at}",
                mac(dissected.source_mac),
                listed(&own)
            )
        }
        Reason::RouterAdvertisement => {
            let routers: Vec<IpAddr> = baseline.routers.iter().copied().map(IpAddr::from).collect();
            format!("settings.guest_baseline.routers: {}", listed(&routers))
        }
        Reason::DhcpServer => {
            format!("settings.guest_baseline.dhcp_servers: {}", listed(&baseline.dhcp_servers))
        }
        Reason::EtherType => match &baseline.ether_types {
            EtherTypes::Listed(types) if !types.is_empty() => format!(
                "settings.guest_baseline.ether_types: {}",
                types.iter().map(|number| format!("0x{number:04x}")).collect::<Vec<_>>().join(", ")
            ),
            _ => "settings.guest_baseline.ether_types lists none".to_owned(),
        },
        Reason::StrictTcp => "settings.strict_tcp is on: only a SYN begins a connection".to_owned(),
        _ => return None,
    })
}

fn no_rule(
    model: &Model,
    interface: &Interface,
    tuple: &dissect::Tuple,
    packet: &Tuple,
    notes: &mut Vec<String>,
) {
    let ipv6 = packet.remote.is_ipv6();
    if packet.is_metadata() && model.settings.metadata == Metadata::Explicit {
        notes.push(
            "the metadata service (169.254.169.0/24, TCP 80) is reserved: of the rules that cover it, only those of the \
             group \"default\" and those whose own destination lies inside 169.254.0.0/16 reach it"
                .to_owned(),
        );
    }
    if tuple.tcp_flags.is_some_and(|flags| flags & SYN == 0) {
        notes.push(
            "the segment is in mid-stream of no known connection; if it is an answer, ask about what it answers: the \
             connection is over, or its packets take another way"
                .to_owned(),
        );
    }
    if tuple.icmp.is_some_and(|(kind, _)| is_error(kind, ipv6)) {
        notes.push(
            "an ICMP error passes by itself if the packet that it quotes went the other way and is of a connection that lives: \
             this one's is not"
                .to_owned(),
        );
    }
    if tuple.icmp.is_some_and(|(kind, _)| kind == if ipv6 { 129 } else { 0 }) {
        notes.push(
            "an echo reply passes by itself if its request went the other way, and is not over".to_owned(),
        );
    }
    if tuple.icmp.is_some_and(|(kind, _)| kind == 134) && ipv6 && packet.direction == Direction::Inbound {
        notes.push(
            "router advertisements pass by themselves from routers listed in settings.guest_baseline.routers"
                .to_owned(),
        );
    }
    if interface.role == Role::Host {
        notes.push("settings.failsafe says what always passes on an interface of the host; its rules are among those that were \
                    looked at".to_owned());
    }
}
