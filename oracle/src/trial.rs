//! The same traffic before both judges: the oracle, and the decisions over tables in memory.

use std::collections::BTreeMap;

use serde_json::Value;
use sg_common::abi::{Direction, FLOW_ORIGIN_OUTBOUND};
use sg_common::conntrack::State;
use sg_common::verdict::{Action, Reason};

use crate::expect::{FlowView, Limits, Oracle};
use crate::host::{Entry, HZ, Host};
use crate::traffic::Step;

/// How many flows an interface may have where a trial is not about that.
pub const ROOM: Limits = Limits { live: 1000, half_v4: 1000, half_v6: 1000, datagrams: 1000 };

/// As what a packet is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub reason: Reason,
    pub direction: Direction,
    /// It has passed although the reason is one to drop it.
    pub audit: bool,
}

/// Both judges, of one policy.
pub struct Trial {
    oracle: Oracle,
    host: Host,
    /// How many packets were counted under which reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// How many of them have passed although the reason is one to drop them.
    pub audited: u64,
}

impl Trial {
    pub fn new(files: &[Value], limits: Limits) -> Self {
        let (oracle, host) = (Oracle::new(files, limits), Host::new(files, limits));
        Self { oracle, host, reasons: BTreeMap::new(), audited: 0 }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn set_policy(&mut self, files: &[Value]) {
        self.oracle.set_policy(files);
        self.host.set_policy(files);
    }

    /// As if no packet had come yet.
    pub fn forget(mut self) -> Self {
        self.oracle = self.oracle.forgotten();
        self.host.forget();
        self
    }

    /// Takes a step; says as what, and in which direction, a packet is counted.
    ///
    /// # Errors
    ///
    /// What the two judges do not agree about.
    pub fn step(&mut self, step: &Step) -> Result<Option<Counted>, String> {
        let counted = match step {
            Step::Advance(seconds) => {
                self.oracle.advance((*seconds).into());
                self.host.advance(*seconds);
                None
            }
            Step::Frame { device, ingress, frame } => {
                let said = self.oracle.judge(device, *ingress, frame);
                let before = self.host.entries();
                let explanation = self.host.explain(device, *ingress, frame);
                let explained = explanation.verdict;
                if self.host.entries() != before {
                    return Err(format!("{explained:?} is asked about, and flows change"));
                }
                let judgement = self.host.judge(device, *ingress, frame);
                let verdict = judgement.verdict;
                // Only who takes a place knows that there is none.
                if explained != verdict && verdict.reason() != Some(Reason::TableFull) {
                    return Err(format!("{explained:?} is the explanation, {verdict:?} the verdict"));
                }
                let Some(reason) = verdict.reason() else { return Err(format!("{verdict:?} has no reason")) };
                if reason.name() != said.reason {
                    return Err(format!("the oracle says {}, the filter {}", said.reason, reason.name()));
                }
                if said.passes != matches!(judgement.action(), Action::Allow) {
                    return Err(format!("{}: the oracle says it passes: {}", said.reason, said.passes));
                }
                let audit = said.passes && reason.action() == Action::Drop;
                if (judgement.is_audited(), explanation.is_audited()) != (audit, audit)
                    && explained == verdict
                {
                    return Err(format!("{}: audit is not told as it is: {audit}", said.reason));
                }
                self.audited += u64::from(audit);
                *self.reasons.entry(reason).or_default() += 1;
                Some(Counted { reason, direction: judgement.direction(), audit })
            }
        };
        self.count()?;
        let (expected, seen) = (self.oracle.flows(), self.flows());
        if expected != seen {
            return Err(format!("flows: the oracle has {expected:#?}, the filter {seen:#?}"));
        }
        Ok(counted)
    }

    /// Takes all steps.
    ///
    /// # Errors
    ///
    /// What the two judges do not agree about, and all that was before.
    pub fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        each(steps, |step| self.step(step).map(|_| ()))
    }

    /// D16: limits are exact, so live flows must be counted exactly.
    fn count(&self) -> Result<(), String> {
        let entries = self.host.entries();
        for device in self.host.devices() {
            let here = entries.iter().filter(|entry| entry.live && self.host.device(entry.zone) == device);
            let (live, counted) = (here.count() as u64, self.host.live_count(device));
            if live != counted {
                return Err(format!("{device} has {live} live flows and counts {counted}"));
            }
        }
        Ok(())
    }

    /// The filter's flows whose time is not over, in the words of the oracle.
    fn flows(&self) -> Vec<FlowView> {
        let now = self.host.now();
        let entries = self.host.entries();
        let mut flows: Vec<_> =
            entries.iter().filter(|entry| entry.flow.expires > now).map(|entry| self.view(entry)).collect();
        flows.sort();
        flows
    }

    fn view(&self, entry: &Entry) -> FlowView {
        FlowView {
            device: self.host.device(entry.zone).to_owned(),
            protocol: entry.protocol,
            local: entry.local,
            remote: entry.remote,
            ports: entry.ports,
            state: State::from_number(entry.flow.state).map_or("none", State::name),
            live: entry.live,
            begun_by_instance: entry.flow.flags & FLOW_ORIGIN_OUTBOUND != 0,
            seconds_left: (entry.flow.expires - self.host.now()) / HZ,
        }
    }
}

/// Takes all steps one after another.
///
/// # Errors
///
/// What the first to fail says, and all that was before.
pub fn each(steps: &[Step], mut take: impl FnMut(&Step) -> Result<(), String>) -> Result<(), String> {
    for (index, step) in steps.iter().enumerate() {
        take(step).map_err(|error| format!("{error}\nafter the last of\n{:#?}", &steps[..=index]))?;
    }
    Ok(())
}
