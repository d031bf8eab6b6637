//! `explain`: what the loaded program says of a packet, and which rule made it say so (SPEC section 8).
//!
//! The verdict is the kernel's. The rules that it rests on are found in the model; should the two ever disagree, that is
//! said and not smoothed over.

mod addition;
mod advice;
mod dissect;
mod frame;
mod question;
mod text;

use std::net::IpAddr;

use sg_common::abi::{Direction, Hook};
use sg_common::verdict::{Action, Reason};

use self::dissect::{Dissected, dissect};
pub(crate) use self::text::{rule as rule_text, words};
use crate::api::explain::{ExplainAnswer, ExplainQuestion, RuleText, Verdict};
use crate::api::types::InterfaceState;
use crate::compile::fit::{Fits, Policy, Tuple};
use crate::compile::image::Image;
use crate::enforce::{Enforcer, links};
use crate::kernel::{Answer, Kernel, KernelError};
use crate::policy::model::{Interface, Model, Role};
use crate::policy::{nearest, suggestion};
use crate::supervise::status::readiness;

/// Why a question has no answer, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("no policy is in force; `sgctl apply` puts one in force")]
    NoPolicy,
    #[error(
        "no policy names an interface {name:?}, and there is no device of this name{}; `sgctl status` lists the interfaces",
        suggestion(.nearest.as_deref())
    )]
    UnknownInterface { name: String, nearest: Option<String> },
    #[error(
        "the remote address {remote} and the local address {local} are of different families; give both of one (--local, --remote)"
    )]
    Families { local: IpAddr, remote: IpAddr },
    #[error("{0}")]
    Question(String),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Answers a question about a packet, from the kernel where that filters the device; and if the packet goes from one interface
/// of this host to another, for both (SPEC D2).
///
/// # Errors
///
/// If the question makes no sense or the kernel cannot be asked.
pub fn explain(enforcer: &mut Enforcer, question: &ExplainQuestion) -> Result<ExplainAnswer, ExplainError> {
    let model = enforcer.active().ok_or(ExplainError::NoPolicy)?.model.clone();
    let here = find(&model, &question.interface);
    let to = match &question.to {
        Some(name) => Some(destination(&model, question, name)?),
        None => None,
    };
    let mut question = question.clone();
    if let (Some(to), None, None) = (to, question.remote, &question.frame) {
        question.remote =
            to.addresses.iter().find(|address| fits_family(&question, here, **address)).copied();
    }
    let sender = question.remote.and_then(|remote| owner(&model, here, remote)).and_then(|owner| owner.mac);
    let frames = question::frames(&question, here, sender)?;
    let direction: Direction = question.direction.into();
    let mut answer = one(enforcer, &question.interface, direction, &frames)?;
    let remote =
        frames.first().and_then(|frame| dissect(frame).tuple).map(|tuple| tuple.asked(direction).remote);
    let other = to.or_else(|| remote.and_then(|remote| owner(&model, here, remote)));
    if let Some(other) = other.filter(|other| other.name != question.interface) {
        let theirs = match direction {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        };
        answer.other_end = Some(Box::new(one(enforcer, &other.name, theirs, &frames)?));
    }
    Ok(answer)
}

/// The frames that stand for a question, the likeliest first.
///
/// # Errors
///
/// If the question makes no sense.
pub fn frames(model: &Model, question: &ExplainQuestion) -> Result<Vec<Vec<u8>>, ExplainError> {
    question::frames(question, find(model, &question.interface), None)
}

/// What the rules of a policy say of a packet, whatever is loaded. Nothing is known of guards and connections here.
///
/// # Errors
///
/// If the question makes no sense, or the policy does not name its interface.
pub fn by_rules(
    model: &Model,
    image: &Image,
    question: &ExplainQuestion,
) -> Result<ExplainAnswer, ExplainError> {
    let Some(interface) = find(model, &question.interface) else {
        return Err(unknown(model, &question.interface));
    };
    let frames = question::frames(question, Some(interface), None)?;
    // The one that begins a connection is the last.
    let dissected = dissect(frames.last().map_or(&[], Vec::as_slice));
    Ok(judged_by_rules(Policy { model, image }, interface, question.direction.into(), &dissected))
}

fn find<'m>(model: &'m Model, name: &str) -> Option<&'m Interface> {
    model.interfaces.iter().find(|interface| interface.name == name)
}

fn unknown(model: &Model, name: &str) -> ExplainError {
    let names = model.interfaces.iter().map(|interface| interface.name.as_str());
    ExplainError::UnknownInterface { name: name.to_owned(), nearest: nearest(name, names).map(str::to_owned) }
}

fn destination<'m>(
    model: &'m Model,
    question: &ExplainQuestion,
    name: &str,
) -> Result<&'m Interface, ExplainError> {
    if Direction::from(question.direction) == Direction::Inbound {
        return Err(question::wrong(
            "a packet to another interface is outbound here: ask with --direction outbound",
        ));
    }
    if name == question.interface {
        return Err(question::wrong(format!(
            "{name} is the interface asked about; say which other one the packet goes to"
        )));
    }
    find(model, name).ok_or_else(|| unknown(model, name))
}

/// Whether an address is of the family that the question is about.
fn fits_family(question: &ExplainQuestion, here: Option<&Interface>, address: IpAddr) -> bool {
    match question.local {
        Some(local) => local.is_ipv4() == address.is_ipv4(),
        None => here.is_none_or(|here| here.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())),
    }
}

/// The interface in the same VPC that has an address.
fn owner<'m>(model: &'m Model, here: Option<&Interface>, address: IpAddr) -> Option<&'m Interface> {
    let here = here?;
    model.interfaces.iter().find(|other| {
        other.vpc == here.vpc
            && other.name != here.name
            && other.addresses.iter().chain(&other.allowed_addresses).any(|own| *own == address)
    })
}

/// The verdict at one interface.
fn one(
    enforcer: &mut Enforcer,
    name: &str,
    direction: Direction,
    frames: &[Vec<u8>],
) -> Result<ExplainAnswer, ExplainError> {
    let readiness = readiness(enforcer, name, None);
    let why = readiness.why.map_or_else(String::new, |why| format!(", as {why}"));
    let (kernel, active, devices) = enforcer.parts();
    let active = active.ok_or(ExplainError::NoPolicy)?;
    let policy = Policy { model: &active.model, image: &active.image };
    let interface = find(policy.model, name);
    let last = frames.last().map_or(&[][..], Vec::as_slice);
    let passes = |text: String| not_enforced(name, direction, &dissect(last), text);
    let ifindex = match (readiness.state, interface) {
        (InterfaceState::BareMetal, _) => {
            return Ok(passes(
                "not enforced (bare metal): rules do not apply to this interface, every packet passes"
                    .to_owned(),
            ));
        }
        (InterfaceState::Unfilterable, _) => {
            return Ok(passes(
                "not enforced: the device carries no Ethernet frames and cannot be filtered, every packet passes"
                    .to_owned(),
            ));
        }
        (InterfaceState::NotFiltered, Some(_)) => {
            return Ok(passes(format!("not enforced: the device is not filtered{why}; every packet passes")));
        }
        (InterfaceState::NotFiltered, None) => {
            return Ok(passes(
                "not enforced: no policy names the device and no managed pattern matches it, every packet passes; name it in \
                 a policy, or in settings.managed"
                    .to_owned(),
            ));
        }
        (InterfaceState::Absent, Some(interface)) => {
            return Ok(judged_by_rules(policy, interface, direction, &dissect(last)));
        }
        (InterfaceState::Absent, None) => return Err(unknown(policy.model, name)),
        (InterfaceState::Enforced | InterfaceState::Audit | InterfaceState::Closed, _) => {
            readiness.ifindex.ok_or_else(|| unknown(policy.model, name))?
        }
    };
    let role = interface.map_or(Role::Guest, |interface| interface.role);
    let hook = hook(direction, role);
    let attached = devices.get(name).and_then(|device| device.attached);
    let by_xdp = hook == Hook::Ingress && attached.is_some_and(|attached| attached.ingress == "xdp");
    let looks_through = interface.is_some_and(|interface| interface.trunk)
        || role == Role::Host
        || !policy.model.settings.guest_baseline.vlan;
    let (answer, frame) = ask(kernel, ifindex, hook, frames, looks_through && !by_xdp)?;
    let dissected = dissect(frame);
    let explanation = match interface {
        Some(interface) if readiness.state != InterfaceState::Closed => {
            let mut explanation = described(policy, interface, direction, &dissected, answer);
            if let Some(device) = devices.get(name) {
                let (used, limit) = kernel.live_flows(device.slot);
                if used >= limit.into() {
                    explanation.notes.push(format!(
                        "the interface has {used} of {limit} live connections: what would make one more live is dropped as \
                         table_full, which this answer does not know of"
                    ));
                }
            }
            explanation
        }
        _ => {
            let mut explanation = blank(name, direction, &dissected, answer);
            explanation.notes.push(closed(policy.model, name, interface, &why));
            if answer.reason == Reason::NoRule {
                explanation.remedy = Some(
                    "Name the device under \"interfaces\" of a policy, with its security groups.".to_owned(),
                );
            }
            explanation
        }
    };
    Ok(explanation)
}

fn closed(model: &Model, name: &str, interface: Option<&Interface>, why: &str) -> String {
    if interface.is_some() {
        return format!(
            "the device is closed, and not filtered by its policy{why}: nothing but connections that live passes"
        );
    }
    let pattern = model.settings.managed.iter().find(|pattern| links::matches(pattern, name));
    let by =
        pattern.map_or_else(String::new, |pattern| format!(" ({pattern:?} in settings.managed matches it)"));
    format!(
        "the device is closed: it is managed{by}, and no policy names it; nothing but connections that live passes"
    )
}

const fn hook(direction: Direction, role: Role) -> Hook {
    match (direction, role) {
        (Direction::Inbound, Role::Guest) | (Direction::Outbound, Role::Host) => Hook::Egress,
        (Direction::Outbound, Role::Guest) | (Direction::Inbound, Role::Host) => Hook::Ingress,
    }
}

/// Asks about one frame after the other until one is of a connection that lives.
///
/// The kernel takes the outer tag out of a frame before TC sees it, which a test run does not. Where tags are looked through, it
/// is left out of the question.
fn ask<'f>(
    kernel: &mut Kernel,
    ifindex: u32,
    hook: Hook,
    frames: &'f [Vec<u8>],
    without_tag: bool,
) -> Result<(Answer, &'f [u8]), ExplainError> {
    let mut found = None;
    for frame in frames {
        let answer = match untagged(frame).filter(|_| without_tag) {
            Some(untagged) => kernel.explain(ifindex, hook, &untagged)?,
            None => kernel.explain(ifindex, hook, frame)?,
        };
        let lives = answer.reason == Reason::Established;
        found = Some((answer, frame.as_slice()));
        if lives {
            break;
        }
    }
    found.ok_or_else(|| {
        question::wrong("there is no packet to ask about; give a protocol and a remote address, or a frame")
    })
}

/// The frame without its outer tag, if it has one.
fn untagged(frame: &[u8]) -> Option<Vec<u8>> {
    const ADDRESSES: usize = 12;
    let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
    match rest {
        [0x81, 0x00, _, _, inner @ ..] | [0x88, 0xa8, _, _, inner @ ..] if inner.len() >= 2 => {
            Some([addresses, inner].concat())
        }
        _ => None,
    }
}

/// The answer without what the policy says.
fn blank(name: &str, direction: Direction, dissected: &Dissected, answer: Answer) -> ExplainAnswer {
    let verdict = match answer.action() {
        Action::Allow if answer.audit => Verdict::WouldDrop,
        Action::Allow => Verdict::Allow,
        Action::Drop => Verdict::Drop,
    };
    ExplainAnswer {
        interface: name.to_owned(),
        direction: direction.into(),
        verdict,
        reason: answer.reason.name().to_owned(),
        text: answer.reason.text().to_owned(),
        packet: dissected.words.clone(),
        unread: dissected.unread.clone(),
        asked_kernel: true,
        rules: Vec::new(),
        nearest: None,
        add: None,
        remedy: answer.reason.remedy().map(str::to_owned),
        notes: Vec::new(),
        other_end: None,
    }
}

fn not_enforced(name: &str, direction: Direction, dissected: &Dissected, text: String) -> ExplainAnswer {
    let nothing = Answer { reason: Reason::RuleOnly, admitted_by: 0, state: None, policy: 0, audit: false };
    ExplainAnswer {
        verdict: Verdict::NotEnforced,
        reason: "not_enforced".to_owned(),
        text,
        asked_kernel: false,
        ..blank(name, direction, dissected, nothing)
    }
}

/// For an interface whose device is not there: what would be.
fn judged_by_rules(
    policy: Policy<'_>,
    interface: &Interface,
    direction: Direction,
    dissected: &Dissected,
) -> ExplainAnswer {
    let packet = dissected.tuple.map(|tuple| tuple.asked(direction));
    let allowed =
        packet.is_some_and(|packet| Fits::new(policy, interface, &packet).allowing().next().is_some());
    let reason = if allowed { Reason::NewFlow } else { Reason::NoRule };
    let audit = !allowed && policy.model.audit(interface).is_some();
    let answer = Answer { reason, admitted_by: 0, state: None, policy: 0, audit };
    let mut explanation = described(policy, interface, direction, dissected, answer);
    explanation.asked_kernel = false;
    explanation.notes.push(
        "the host has no device of this name yet: this is what its rules say, and the kernel was not asked; guards and \
         connections were not looked at, and packets that are no IP pass or not by guards alone"
            .to_owned(),
    );
    explanation
}

/// The answer with the rules behind it, and what to do.
fn described(
    policy: Policy<'_>,
    interface: &Interface,
    direction: Direction,
    dissected: &Dissected,
    answer: Answer,
) -> ExplainAnswer {
    let model = policy.model;
    let mut explanation = blank(&interface.name, direction, dissected, answer);
    if let Some(by) = model.audit(interface) {
        explanation.notes.push(format!(
            "the interface is in audit ({}): nothing is dropped on it, what would be is counted",
            model.audit_text(by)
        ));
    }
    explanation.notes.extend(advice::notes(model, interface, direction, answer.reason, dissected));
    let Some(packet) = dissected.tuple.map(|tuple| tuple.asked(direction)) else { return explanation };
    let fits = Fits::new(policy, interface, &packet);
    let allowing: Vec<RuleText> = fits.allowing().map(|rule| text::rule(model, rule, direction)).collect();
    let by_rule = matches!(answer.reason, Reason::NewFlow | Reason::RuleOnly);
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
        explanation.nearest = fits.nearest().map(|(rule, fit)| RuleText {
            because: Some(text::misfit(fit, rule, &packet)),
            ..text::rule(model, rule, direction)
        });
        // Of a later piece it is not known what it is to.
        let later_piece = dissected.tuple.is_some_and(|tuple| tuple.later_piece);
        if !later_piece {
            explanation.add = addition::addition(model, interface, &packet);
        }
        if explanation.add.is_none() && !later_piece {
            explanation.notes.push(format!(
                "no group of the interface has room for one more rule: settings.quotas.rules_per_group is {}",
                model.settings.quotas.rules_per_group
            ));
        }
    }
    // A first fragment passes by a rule too, and is told as a whole packet; a later one is told by what is known of the first.
    let disagrees =
        (by_rule && allowing.is_empty()) || (answer.reason == Reason::NoRule && !allowing.is_empty());
    if disagrees {
        explanation.notes.push(
            "the loaded program and the policy file disagree; this is a fault of sgd, please report it"
                .to_owned(),
        );
    }
    if by_rule || disagrees {
        explanation.rules = allowing;
    }
    explanation
}

/// A rule as `web/inbound[0]`.
pub(crate) fn rule_id(
    model: &Model,
    rule: &crate::compile::rules::Effective,
    direction: Direction,
) -> String {
    text::id(model, rule, direction)
}

/// The rules in force on an interface that allow a flow's first packet, as `web/inbound[0]`, each once.
pub(crate) fn rule_ids(policy: Policy<'_>, interface: &Interface, first: &Tuple) -> Vec<String> {
    let fits = Fits::new(policy, interface, first);
    let mut ids: Vec<String> =
        fits.allowing().map(|rule| text::id(policy.model, rule, first.direction)).collect();
    ids.dedup();
    ids
}
