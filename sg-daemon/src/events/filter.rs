//! What one wants to hear of.

use ipnet::IpNet;
use sg_common::abi::{ANY, Be32, Direction, KIND_WORDS, REASON_SLOTS, WOULD_DROP, Watcher, packet_kind};
use sg_common::verdict::{Action, Reason};

use crate::api::explain::Verdict;
use crate::enforce::View;
use crate::kernel::words_of;
use crate::policy::model::Model;
use crate::policy::{nearest, suggestion};

/// Events of one who watches, on each CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second in the long run, from 1 to [`Rate::MAX`].
    pub per_second: u32,
}

impl Rate {
    /// What a terminal can show and a disk can keep.
    pub const USUAL: u32 = 2000;
    pub const MAX: u32 = 100_000;

    /// Nanoseconds between two events, and how many nanoseconds' worth may come at once: those of half a second.
    fn nanoseconds(self) -> (u64, u64) {
        (1_000_000_000 / u64::from(self.per_second.clamp(1, Self::MAX)), 500_000_000)
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: Self::USUAL }
    }
}

/// A rule, or all of a group's: `web`, `web inbound`, `web inbound[2]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFilter {
    pub group: String,
    pub direction: Option<Direction>,
    /// As in [`crate::api::explain::RuleText::rule`].
    pub rule: Option<String>,
}

/// What one wants to hear of; all parts must fit. Empty lists mean any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub interface: Option<String>,
    pub direction: Option<Direction>,
    pub verdicts: Vec<Verdict>,
    pub reasons: Vec<Reason>,
    pub protocol: Option<u8>,
    /// Of either side.
    pub port: Option<u16>,
    /// Where the other side's address lies.
    pub remote: Option<IpNet>,
    /// Where the instance's lies.
    pub local: Option<IpNet>,
    pub rule: Option<RuleFilter>,
    pub rate: Rate,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    #[error("there is no interface {name:?} in the policy, and no filtered device of that name{}; `sgctl status` lists those that are", suggestion(.nearest.as_deref()))]
    UnknownInterface { name: String, nearest: Option<String> },
    #[error("there is no group {name:?} in the policy{}; `sgctl group list` shows all", suggestion(.nearest.as_deref()))]
    UnknownGroup { name: String, nearest: Option<String> },
    #[error("no packet fits: {0}; leave one of them out")]
    Nothing(&'static str),
}

/// Of no device: that of an absent interface.
const NO_DEVICE: u32 = u32::MAX;

/// What the daemon itself listens to: packets that rules admit.
pub fn new_flows() -> Watcher {
    let filter = Filter { reasons: vec![Reason::NewFlow, Reason::RuleOnly], ..Filter::default() };
    let (interval, burst) = Rate { per_second: 20_000 }.nanoseconds();
    Watcher { kinds: filter.kinds(), interval, burst, ..EVERYTHING }
}

const EVERYTHING: Watcher = Watcher {
    active: 1,
    ifindex: 0,
    kinds: [0; KIND_WORDS],
    family: 0,
    protocol: ANY,
    port: ANY,
    padding: 0,
    remote: [Be32(0); 4],
    remote_mask: [Be32(0); 4],
    local: [Be32(0); 4],
    local_mask: [Be32(0); 4],
    interval: 0,
    burst: 0,
};

impl Filter {
    /// The filter as the kernel has it: what the kernel lets through is what is asked for, but for rules, which it does not
    /// know.
    ///
    /// # Errors
    ///
    /// If nothing can fit it.
    pub(super) fn watcher(&self, view: Option<&View>) -> Result<Watcher, FilterError> {
        let family = |net: &IpNet| if net.addr().is_ipv4() { 4 } else { 6 };
        let families = [self.remote.as_ref().map(family), self.local.as_ref().map(family)];
        let [remote, local] = families;
        if let (Some(remote), Some(local)) = (remote, local)
            && remote != local
        {
            return Err(FilterError::Nothing("the two addresses are of different families"));
        }
        if let Some(rule) = &self.rule
            && let Some(view) = view
            && !view.model.groups.iter().any(|group| group.name == rule.group)
        {
            let names = view.model.groups.iter().map(|group| group.name.as_str());
            return Err(FilterError::UnknownGroup {
                nearest: nearest(&rule.group, names).map(str::to_owned),
                name: rule.group.clone(),
            });
        }
        let kinds = self.kinds();
        if kinds == [0; KIND_WORDS] {
            return Err(FilterError::Nothing("no packet has that verdict for that reason"));
        }
        let ((remote, remote_mask), (local, local_mask)) = (masked(self.remote), masked(self.local));
        let (interval, burst) = self.rate.nanoseconds();
        Ok(Watcher {
            ifindex: self.ifindex(view)?,
            kinds,
            family: families.into_iter().flatten().next().unwrap_or(0),
            protocol: self.protocol.map_or(ANY, u32::from),
            port: self.port.map_or(ANY, u32::from),
            remote,
            remote_mask,
            local,
            local_mask,
            interval,
            burst,
            ..EVERYTHING
        })
    }

    /// The index of the device that the filter names, 0 if it names none.
    fn ifindex(&self, view: Option<&View>) -> Result<u32, FilterError> {
        let Some(name) = &self.interface else { return Ok(0) };
        let devices = view.map(|view| &view.devices);
        let device = devices.and_then(|devices| devices.iter().find(|(_, device)| *device == name));
        if let Some((ifindex, _)) = device {
            return Ok(*ifindex);
        }
        let nothing = Model::default();
        let model = view.map_or(&nothing, |view| &view.model);
        if model.interfaces.iter().any(|interface| interface.name == *name) {
            return Ok(NO_DEVICE);
        }
        let names = model.interfaces.iter().map(|interface| interface.name.as_str());
        let names = names.chain(devices.into_iter().flat_map(|devices| devices.values().map(String::as_str)));
        Err(FilterError::UnknownInterface {
            name: name.clone(),
            nearest: nearest(name, names).map(str::to_owned),
        })
    }

    /// The same later: an interface may have another device by now, or none.
    pub(super) fn ifindex_now(&self, view: &View) -> u32 {
        self.ifindex(Some(view)).unwrap_or(NO_DEVICE)
    }

    fn kinds(&self) -> [u32; KIND_WORDS] {
        let mut kinds = [0; KIND_WORDS];
        for direction in [Direction::Inbound, Direction::Outbound] {
            for &reason in Reason::EVERY {
                for (verdict, slot) in verdicts_of(reason) {
                    let of_rule = self.rule.as_ref().is_none_or(|rule| {
                        matches!(reason, Reason::NewFlow | Reason::RuleOnly)
                            && rule.direction.is_none_or(|wanted| wanted == direction)
                    });
                    let wanted = self.direction.is_none_or(|wanted| wanted == direction)
                        && (self.verdicts.is_empty() || self.verdicts.contains(&verdict))
                        && (self.reasons.is_empty() || self.reasons.contains(&reason));
                    let kind = packet_kind(direction, slot);
                    if let Some(word) = kinds.get_mut((kind / 32) as usize)
                        && wanted
                        && of_rule
                    {
                        *word |= 1 << (kind % 32);
                    }
                }
            }
        }
        kinds
    }
}

/// The verdicts that packets of a reason may have, and what they are counted as.
fn verdicts_of(reason: Reason) -> Vec<(Verdict, u32)> {
    let number = reason as u32;
    debug_assert!(number + WOULD_DROP < REASON_SLOTS);
    match reason.action() {
        Action::Allow => vec![(Verdict::Allow, number)],
        // Nothing passes a device that nobody knows, nor could it be in audit.
        Action::Drop if reason == Reason::UnknownInterface => vec![(Verdict::Drop, number)],
        Action::Drop => vec![(Verdict::Drop, number), (Verdict::WouldDrop, number + WOULD_DROP)],
    }
}

/// A network as the kernel compares it.
fn masked(net: Option<IpNet>) -> ([Be32; 4], [Be32; 4]) {
    let v4 = |address: std::net::Ipv4Addr| [Be32::from_host(address.to_bits()), Be32(0), Be32(0), Be32(0)];
    match net {
        None => ([Be32(0); 4], [Be32(0); 4]),
        Some(IpNet::V4(net)) => (v4(net.network()), v4(net.netmask())),
        Some(IpNet::V6(net)) => (words_of(net.network()), words_of(net.netmask())),
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
