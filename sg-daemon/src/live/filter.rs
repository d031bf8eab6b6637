//! Which connections a question is about.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use sg_common::abi::{Direction, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED};
use sg_common::conntrack::State;

use super::{Row, View};
use crate::api::live::FlowQuestion;
use crate::kernel::RawFlow;
use crate::policy::names::{did_you_mean, nearest};
use crate::protocols::number;

/// What a connection must be like.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// By the view's index; `None`: of any.
    interfaces: Option<Vec<u32>>,
    direction: Option<Direction>,
    protocols: Option<Vec<u8>>,
    local: Option<IpNet>,
    remote: Option<IpNet>,
    port: Option<RangeInclusive<u16>>,
    local_port: Option<RangeInclusive<u16>>,
    remote_port: Option<RangeInclusive<u16>>,
    states: Option<Vec<u8>>,
    replied: Option<bool>,
    admitted: Option<bool>,
    min_age: Option<u64>,
    max_age: Option<u64>,
}

/// Why a question makes no sense, and what to ask instead.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("no interface {name:?} is filtered{}", hint(.nearest.as_deref(), "sgctl status lists those that are"))]
    Interface { name: String, nearest: Option<String> },
    #[error("{NOT_COUNTED}; leave out the order, or start sgd with --flow-log PATH (docs/flow-log.md)")]
    Uncounted,
    #[error("{0}")]
    Field(String),
}

/// Why there are no packets and bytes of connections.
pub const NOT_COUNTED: &str =
    "packets and bytes of connections are not counted: sgd counts them while it writes a flow log";

fn hint(nearest: Option<&str>, otherwise: &str) -> String {
    nearest.map_or_else(|| format!("; {otherwise}"), |name| format!("; did you mean {name:?}?"))
}

impl Filter {
    /// # Errors
    ///
    /// If a field has no meaning; the error says which and what was expected.
    pub fn new(question: &FlowQuestion, view: &View) -> Result<Self, Wrong> {
        if let (Some(min), Some(max)) = (question.min_age, question.max_age)
            && min > max
        {
            return Err(Wrong::Field(format!("no connection is at least {min} s and at most {max} s old")));
        }
        Ok(Self {
            interfaces: list(&question.interface, |name| interface(name, view))?,
            direction: question.direction.map(Into::into),
            protocols: list(&question.protocol, protocols)?.map(|both| both.concat()),
            local: question.local.as_deref().map(|text| network("local", text)).transpose()?,
            remote: question.remote.as_deref().map(|text| network("remote", text)).transpose()?,
            port: question.port.as_deref().map(|text| ports("port", text)).transpose()?,
            local_port: question.local_port.as_deref().map(|text| ports("local port", text)).transpose()?,
            remote_port: question
                .remote_port
                .as_deref()
                .map(|text| ports("remote port", text))
                .transpose()?,
            states: list(&question.state, state)?,
            replied: question.replied,
            admitted: question.admitted,
            min_age: question.min_age,
            max_age: question.max_age,
        })
    }

    /// Cheap questions first: the last one asks the rules.
    pub(super) fn fits(&self, view: &View, row: &Row) -> bool {
        let raw = &row.raw;
        let ports = raw.ports();
        let with_ports = has_ports(raw);
        let in_range = |range: &Option<RangeInclusive<u16>>, port: u16| {
            range.as_ref().is_none_or(|range| with_ports && range.contains(&port))
        };
        self.interfaces.as_ref().is_none_or(|these| these.contains(&row.interface))
            && self.direction.is_none_or(|direction| direction == origin(raw))
            && self.protocols.as_ref().is_none_or(|these| these.contains(&raw.protocol()))
            && self.states.as_ref().is_none_or(|these| these.contains(&raw.flow.state))
            && self.replied.is_none_or(|replied| replied == (raw.flow.flags & FLOW_REPLIED != 0))
            && in_range(&self.port, asked_port(raw))
            && in_range(&self.local_port, ports.local)
            && in_range(&self.remote_port, ports.remote)
            && self.local.is_none_or(|net| net.contains(&raw.local()))
            && self.remote.is_none_or(|net| net.contains(&raw.remote()))
            && (self.min_age.is_none() && self.max_age.is_none() || self.fits_age(view.age(row)))
            && self.admitted.is_none_or(|admitted| admitted == view.is_admitted(row))
    }

    fn fits_age(&self, age: u64) -> bool {
        self.min_age.is_none_or(|min| age >= min) && self.max_age.is_none_or(|max| age <= max)
    }
}

pub(super) fn has_ports(raw: &RawFlow) -> bool {
    matches!(raw.protocol(), 6 | 17)
}

pub(super) fn origin(raw: &RawFlow) -> Direction {
    if raw.flow.flags & FLOW_ORIGIN_OUTBOUND == 0 { Direction::Inbound } else { Direction::Outbound }
}

/// The destination port of the first packet, of what has ports.
pub(super) fn asked_port(raw: &RawFlow) -> u16 {
    match origin(raw) {
        Direction::Inbound => raw.ports().local,
        Direction::Outbound => raw.ports().remote,
    }
}

/// The elements of a list with commas.
fn list<T>(
    text: &Option<String>,
    each: impl FnMut(&str) -> Result<T, Wrong>,
) -> Result<Option<Vec<T>>, Wrong> {
    text.as_ref().map(|text| text.split(',').map(str::trim).map(each).collect()).transpose()
}

fn interface(name: &str, view: &View) -> Result<u32, Wrong> {
    let names = view.interfaces();
    match names.binary_search_by(|known| known.as_str().cmp(name)) {
        Ok(index) => Ok(index as u32),
        Err(_) => Err(Wrong::Interface {
            name: name.to_owned(),
            nearest: nearest(name, names.iter().map(String::as_str)).map(str::to_owned),
        }),
    }
}

fn protocols(name: &str) -> Result<Vec<u8>, Wrong> {
    match (number(name, false), number(name, true)) {
        (Some(v4), Some(v6)) => Ok(vec![v4, v6]),
        _ => Err(Wrong::Field(format!(
            "the protocol is tcp, udp, icmp, icmpv6, gre, esp, ah, sctp, ipip or a number, not {name:?}"
        ))),
    }
}

fn state(name: &str) -> Result<u8, Wrong> {
    let names = State::EVERY.map(State::name);
    State::EVERY.into_iter().find(|state| state.name() == name).map(|state| state as u8).ok_or_else(|| {
        let near = did_you_mean(name, names).map_or_else(String::new, |near| format!("; {near}"));
        Wrong::Field(format!("the state is {}, not {name:?}{near}", names.join(", ")))
    })
}

fn network(what: &str, text: &str) -> Result<IpNet, Wrong> {
    let host = || text.parse().ok().map(|address: IpAddr| IpNet::from(address));
    text.parse().ok().or_else(host).ok_or_else(|| {
        Wrong::Field(format!("the {what} is an address or a network such as 10.0.0.0/8, not {text:?}"))
    })
}

fn ports(what: &str, text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let range = match text.split_once('-') {
        None => number(text).map(|port| port..=port),
        Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| first..=last),
    };
    range.filter(|range| !range.is_empty()).ok_or_else(|| {
        Wrong::Field(format!(
            "the {what} is a number up to 65535, or a range such as 1000-2000, not {text:?}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_or_refused_in_words() {
        assert_eq!(ports("port", "80").unwrap(), 80..=80);
        assert_eq!(ports("port", "1000-2000").unwrap(), 1000..=2000);
        for wrong in ["", "-", "80-", "2000-1000", "65536", "http", "1-2-3"] {
            let error = ports("local port", wrong).unwrap_err().to_string();
            assert!(error.contains("local port") && error.contains(&format!("{wrong:?}")), "{error}");
        }
        assert_eq!(network("remote", "10.0.0.7").unwrap().prefix_len(), 32);
        assert_eq!(network("remote", "fd00::/8").unwrap().prefix_len(), 8);
        assert!(network("remote", "10.0.0.0/33").unwrap_err().to_string().contains("10.0.0.0/8"));
        assert_eq!(protocols("icmp").unwrap(), [1, 58]);
        assert!(protocols("tpc").is_err());
        assert_eq!(state("udp_stream").unwrap(), State::UdpStream as u8);
        let error = state("estabished").unwrap_err().to_string();
        assert!(error.contains("did you mean \"established\"?"), "{error}");
    }
}
