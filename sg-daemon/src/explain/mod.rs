//! `explain`: what the loaded program says of a packet, and which rule made it say so (SPEC section 8).
//!
//! The verdict is the kernel's. The rules that it rests on are found in the model; should the two ever disagree, that is
//! said and not smoothed over.

mod frame;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sg_common::abi::{Direction, Hook};
use sg_common::packet::protocol;
use sg_common::verdict::{Action, Reason};

pub use self::frame::Probe;
pub(crate) use self::text::{rule as rule_text, words};
use crate::api::types::{ExplainAnswer, ExplainQuestion, RuleText, Verdict};
use crate::compile::rules::{self, Effective, METADATA_PORT, METADATA_RANGE, Origin};
use crate::enforce::{Active, Enforcer};
use crate::kernel::{Answer, KernelError};
use crate::policy::model::{GroupId, Interface, Kind, Match, Metadata, Model, Protocol, Remote, Role};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("no policy is in force")]
    NoPolicy,
    #[error("no interface {name:?} in the policy{}", suggestion(.nearest.as_deref()))]
    UnknownInterface { name: String, nearest: Option<String> },
    #[error("the remote address {remote} and the local address {local} are of different families")]
    Families { local: IpAddr, remote: IpAddr },
    #[error("{0}")]
    Question(&'static str),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

/// Answers a question about a packet, from the kernel.
///
/// # Errors
///
/// If the question makes no sense or the kernel cannot be asked.
pub fn explain(enforcer: &mut Enforcer, question: &ExplainQuestion) -> Result<ExplainAnswer, ExplainError> {
    let unfilterable = enforcer.unfilterable().contains(&question.interface);
    let (kernel, active, devices) = enforcer.parts();
    let active = active.ok_or(ExplainError::NoPolicy)?;
    let model = &active.model;
    let interface = model.interfaces.iter().find(|interface| interface.name == question.interface);
    let Some(interface) = interface else {
        return Err(ExplainError::UnknownInterface {
            name: question.interface.clone(),
            nearest: nearest(&question.interface, model),
        });
    };
    if interface.kind == Kind::BareMetal {
        return Ok(ExplainAnswer::not_enforced(
            "not enforced (bare metal): rules do not apply to this interface, every packet passes",
        ));
    }
    if unfilterable {
        return Ok(ExplainAnswer::not_enforced(
            "not enforced: the device carries no Ethernet frames and cannot be filtered, every packet passes",
        ));
    }
    let Some(device) = devices.get(&interface.name) else {
        return Ok(ExplainAnswer::not_enforced(
            "not enforced: the host has no device of this name yet; it is filtered as soon as it appears",
        ));
    };
    let asked = Asked::new(question, interface)?;
    let hook = match (asked.direction, interface.role) {
        (Direction::Inbound, Role::Guest) | (Direction::Outbound, Role::Host) => Hook::Egress,
        (Direction::Outbound, Role::Guest) | (Direction::Inbound, Role::Host) => Hook::Ingress,
    };
    let mut ask = |established: bool| -> Result<Answer, ExplainError> {
        let frame = asked
            .probe(established)
            .frame()
            .ok_or(ExplainError::Families { local: asked.local, remote: asked.remote })?;
        Ok(kernel.explain(device.ifindex, hook, &frame)?)
    };
    // With the source port the question may be about a connection that lives: its packets in mid-stream pass, while a
    // second SYN may not.
    let mut answer = ask(question.source_port.is_some())?;
    if answer.reason != Reason::Established && question.source_port.is_some() {
        answer = ask(false)?;
    }
    Ok(describe(active, interface, &asked, answer))
}

/// A locally administered address, where any will do.
const SOME_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The question, made complete.
struct Asked {
    direction: Direction,
    protocol: u8,
    /// The instance's hardware address, which it has to use.
    mac: [u8; 6],
    local: IpAddr,
    remote: IpAddr,
    source_port: u16,
    /// The destination port.
    port: u16,
    icmp: (u8, u8),
}

impl Asked {
    fn new(question: &ExplainQuestion, interface: &Interface) -> Result<Self, ExplainError> {
        let remote = question.remote;
        let own = interface.addresses.iter().find(|own| own.is_ipv4() == remote.is_ipv4());
        let unknown = match remote {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = question.local.or(own.copied()).unwrap_or(unknown);
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(ExplainError::Families { local, remote });
        }
        let protocol = question.protocol_number(remote.is_ipv6()).ok_or(ExplainError::Question(
            "the protocol is tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip or a number",
        ))?;
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
        if has_ports && question.port.is_none() {
            return Err(ExplainError::Question("TCP and UDP need a port: the destination's"));
        }
        if !has_ports && question.port.is_some() {
            return Err(ExplainError::Question("only TCP and UDP have ports"));
        }
        let echo = if remote.is_ipv6() { 128 } else { 8 };
        Ok(Self {
            direction: question.direction.into(),
            protocol,
            mac: interface.mac.unwrap_or(SOME_MAC),
            local,
            remote,
            source_port: question.source_port.unwrap_or(40_000),
            port: question.port.unwrap_or(0),
            icmp: (question.icmp_type.unwrap_or(echo), question.icmp_code.unwrap_or(0)),
        })
    }

    fn probe(&self, established: bool) -> Probe {
        let (source, destination) = match self.direction {
            Direction::Inbound => (self.remote, self.local),
            Direction::Outbound => (self.local, self.remote),
        };
        // The port asked about is the destination's in both directions (K16).
        Probe {
            source_mac: if self.direction == Direction::Outbound { self.mac } else { SOME_MAC },
            source,
            destination,
            protocol: self.protocol,
            source_port: self.source_port,
            destination_port: self.port,
            icmp: self.icmp,
            established,
        }
    }

    fn is_metadata(&self) -> bool {
        let in_range = matches!(self.remote, IpAddr::V4(address) if METADATA_RANGE.contains(&address));
        in_range
            && self.direction == Direction::Outbound
            && self.protocol == protocol::TCP
            && self.port == METADATA_PORT
    }
}

fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP }
}

/// What rules are asked for when a flow begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstPacket {
    pub direction: Direction,
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// The destination's.
    pub port: u16,
    /// ICMP: the type, if it is known. The code is taken for 0, which queries have.
    pub icmp_type: Option<u8>,
}

/// The rules in force on an interface that allow a flow's first packet, as `web/inbound[0]`, each once.
pub(crate) fn rule_ids(active: &Active, interface: &Interface, packet: &FirstPacket) -> Vec<String> {
    let FirstPacket { direction, protocol, local, remote, port, icmp_type } = *packet;
    let asked = Asked {
        direction,
        protocol,
        mac: SOME_MAC,
        local,
        remote,
        source_port: 0,
        port,
        // Types and codes end before this; a rule that names one does not allow what has none.
        icmp: (icmp_type.unwrap_or(u8::MAX), 0),
    };
    let model = &active.model;
    let mut ids: Vec<String> = rules::of_interface(model, interface, direction)
        .iter()
        .filter(|rule| Fit::of(rule, &asked, active, interface).allows())
        .map(|rule| text::id(model, rule, direction))
        .collect();
    ids.dedup();
    ids
}

/// Which parts of a rule fit the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fit {
    protocol: bool,
    remote: bool,
    matches: bool,
    /// False if only the metadata reservation keeps the rule from allowing the packet.
    reaches: bool,
}

impl Fit {
    fn of(rule: &Effective, asked: &Asked, active: &Active, interface: &Interface) -> Self {
        let protocol = match rule.protocol {
            Protocol::All => true,
            Protocol::Tcp => asked.protocol == protocol::TCP,
            Protocol::Udp => asked.protocol == protocol::UDP,
            Protocol::Icmp => asked.protocol == icmp_of(asked.remote),
            Protocol::Number(number) => asked.protocol == number,
        };
        let remote = match rule.remote {
            Remote::Cidr(net) => net.contains(&asked.remote),
            Remote::Group(group) => is_member(active, interface, group, asked.remote),
        };
        let matches = match &rule.matches {
            Match::Any => true,
            Match::Ports(ports) => ports.range().contains(&asked.port),
            Match::Icmp { kind, code } => {
                asked.protocol == icmp_of(asked.remote)
                    && asked.icmp.0 == *kind
                    && code.is_none_or(|code| asked.icmp.1 == code)
            }
        };
        Self { protocol, remote, matches, reaches: rule.reaches_metadata || !asked.is_metadata() }
    }

    fn allows(self) -> bool {
        self.protocol && self.remote && self.matches && self.reaches
    }

    /// How near the rule is to allowing the packet. The remote weighs most: who may connect is what operators think in.
    fn nearness(self) -> u32 {
        u32::from(self.remote) * 4 + u32::from(self.protocol) * 2 + u32::from(self.matches)
    }
}

fn is_member(active: &Active, interface: &Interface, group: GroupId, remote: IpAddr) -> bool {
    let (Some(group), Some(image)) = (active.model.groups.get(group.0), active.interface(&interface.name))
    else {
        return false;
    };
    let set = active.image.members.get(&(image.vpc.clone(), remote));
    set.is_some_and(|set| set.groups.contains(group.name.as_str()))
}

fn describe(active: &Active, interface: &Interface, asked: &Asked, answer: Answer) -> ExplainAnswer {
    let model = &active.model;
    let rules = rules::of_interface(model, interface, asked.direction);
    let fits: Vec<(&Effective, Fit)> =
        rules.iter().map(|rule| (rule, Fit::of(rule, asked, active, interface))).collect();
    let allowing: Vec<RuleText> = fits
        .iter()
        .filter(|(_, fit)| fit.allows())
        .map(|(rule, _)| text::rule(model, rule, asked.direction))
        .collect();
    let verdict = match answer.action() {
        Action::Allow if answer.audit => Verdict::WouldDrop,
        Action::Allow => Verdict::Allow,
        Action::Drop => Verdict::Drop,
    };
    let by_rule = matches!(answer.reason, Reason::NewFlow | Reason::RuleOnly);
    let mut explanation = ExplainAnswer {
        verdict,
        reason: answer.reason.name().to_owned(),
        text: answer.reason.text().to_owned(),
        rules: if by_rule { allowing.clone() } else { Vec::new() },
        nearest: None,
        add: None,
        notes: Vec::new(),
    };
    if let Some(by) = model.audit(interface) {
        explanation.notes.push(format!(
            "the interface is in audit ({}): nothing is dropped on it, what would be is counted",
            model.audit_text(by)
        ));
    }
    if answer.reason == Reason::Established {
        let state = answer.state.map_or("?", sg_common::conntrack::State::name);
        explanation.notes.push(format!("the connection is in state {state}"));
        if allowing.is_empty() {
            explanation.notes.push(
                "no rule in force would allow it as a new connection; it lives until it times out".to_owned(),
            );
        }
    }
    if answer.reason == Reason::NoRule {
        let nearest = fits.iter().filter(|(_, fit)| fit.nearness() > 0).max_by_key(|(_, fit)| fit.nearness());
        if let Some((rule, fit)) = nearest {
            let mut nearest = text::rule(model, rule, asked.direction);
            nearest.because = Some(text::misfit(*fit, rule, asked));
            explanation.nearest = Some(nearest);
        }
        explanation.add = text::rule_to_add(model, interface, asked);
        if asked.is_metadata() && model.settings.metadata == Metadata::Explicit {
            explanation.notes.push(
                "the metadata service (169.254.169.0/24, TCP 80) is reserved: of the rules that cover it, only those \
                 of the group \"default\" and those whose own destination lies inside 169.254.0.0/16 reach it"
                    .to_owned(),
            );
        }
    }
    let disagrees =
        (by_rule && allowing.is_empty()) || (answer.reason == Reason::NoRule && !allowing.is_empty());
    if disagrees {
        explanation.notes.push(
            "the loaded program and the policy file disagree; this is a fault of sgd, please report it"
                .to_owned(),
        );
        explanation.rules = allowing;
    }
    explanation
}

fn nearest(name: &str, model: &Model) -> Option<String> {
    let names = model.interfaces.iter().map(|interface| interface.name.as_str());
    names
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known.to_owned())
}

/// The network that a single address is.
fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Custom groups of an interface, in which a rule could be added, and `default` if there is none.
fn groups_for_addition<'a>(model: &'a Model, interface: &Interface) -> Option<&'a str> {
    let groups = || interface.groups.iter().filter_map(|id| model.groups.get(id.0));
    groups().find(|group| !group.is_default()).or_else(|| groups().next()).map(|group| group.name.as_str())
}

/// Whether a rule's origin has a place in a file.
fn place(model: &Model, origin: &Origin) -> Option<(String, u32)> {
    let Origin::Written { source, .. } = origin else { return None };
    let file = model.files.get(source.file.0)?;
    Some((file.display().to_string(), source.line))
}
