//! Settings hold for the daemon as a whole: several files may write them, but they must not disagree.

use super::Resolver;
use crate::policy::diagnostic::Fault;
use crate::policy::fields;
use crate::policy::model::{
    EtherTypes, Failsafe, FileId, GuestBaseline, Remote, Rule, Settings, Source, Timeouts,
};
use crate::policy::raw::{RawFailsafe, RawFile, RawRemote, RawRule, RawSettings, RawTimeouts};
use crate::policy::source::{Span, Spanned};

impl Resolver<'_, '_> {
    pub(super) fn settings(&mut self, files: &[&RawFile]) -> Settings {
        let mut settings = Settings::default();
        if let Some(metadata) = self.agreed(files, "metadata", |raw| raw.metadata.as_ref(), |a, b| a == b) {
            settings.metadata = *metadata;
        }
        if let Some(change) =
            self.agreed(files, "on_rule_change", |raw| raw.on_rule_change.as_ref(), |a, b| a == b)
        {
            settings.on_rule_change = *change;
        }
        if let Some(strict) = self.agreed(files, "strict_tcp", |raw| raw.strict_tcp.as_ref(), |a, b| a == b) {
            settings.strict_tcp = *strict;
        }
        let quotas = &mut settings.quotas;
        let slots =
            [&mut quotas.groups_per_project, &mut quotas.rules_per_group, &mut quotas.groups_per_interface];
        for (index, (slot, name)) in slots.into_iter().zip(fields::QUOTAS).enumerate() {
            let field = format!("quotas.{name}");
            if let Some(quota) =
                self.agreed(files, &field, |raw| raw.quotas.get(index)?.as_ref(), |a, b| a == b)
            {
                *slot = *quota;
            }
        }
        let mut merged = RawTimeouts::default();
        for (index, (slot, name)) in merged.iter_mut().zip(fields::TIMEOUTS).enumerate() {
            let field = format!("timeouts.{name}");
            let first = |raw: &'_ RawSettings| raw.timeouts.get(index).and_then(Option::as_ref).cloned();
            self.agreed(files, &field, |raw| raw.timeouts.get(index)?.as_ref(), |a, b| a == b);
            *slot = files.iter().find_map(|file| first(&file.settings));
        }
        settings.timeouts = timeouts(&settings.timeouts, &merged);
        if let Some(managed) =
            self.agreed(files, "managed", |raw| raw.managed.as_ref(), |a, b| same_set(a, b))
        {
            settings.managed.clone_from(managed);
            self.out.managed =
                files.iter().find_map(|file| file.settings.managed.as_ref()).map(|first| first.span);
        }
        self.agreed(files, "failsafe", |raw| raw.failsafe.as_ref(), same_failsafe);
        if let Some(failsafe) = files.iter().find_map(|file| file.settings.failsafe.as_ref()) {
            let rules = |rules: &[RawRule]| self.failsafe_rules(rules, failsafe.span.file);
            settings.failsafe = Failsafe::Written {
                inbound: rules(&failsafe.value.inbound),
                outbound: rules(&failsafe.value.outbound),
            };
        }
        settings.guest_baseline = self.guest_baseline(files);
        settings
    }

    fn guest_baseline(&mut self, files: &[&RawFile]) -> GuestBaseline {
        let mut baseline = GuestBaseline::default();
        // The order of fields::GUEST_BASELINE.
        let guards = [
            &mut baseline.source_mac,
            &mut baseline.source_address,
            &mut baseline.arp,
            &mut baseline.neighbor_discovery,
            &mut baseline.dhcp_server,
            &mut baseline.router_advertisements,
            &mut baseline.redirects,
            &mut baseline.vlan,
            &mut baseline.source_routing,
        ];
        for (index, (slot, name)) in guards.into_iter().zip(fields::GUEST_BASELINE).enumerate() {
            let field = format!("guest_baseline.{name}");
            if let Some(guard) = self.agreed(
                files,
                &field,
                |raw| raw.guest_baseline.guards.get(index)?.as_ref(),
                |a, b| a == b,
            ) {
                *slot = *guard;
            }
        }
        let field = "guest_baseline.ether_types";
        if let Some(types) =
            self.agreed(files, field, |raw| raw.guest_baseline.ether_types.as_ref(), same_ether_types)
        {
            baseline.ether_types.clone_from(types);
        }
        let field = "guest_baseline.link_local";
        if let Some(link_local) =
            self.agreed(files, field, |raw| raw.guest_baseline.link_local.as_ref(), |a, b| a == b)
        {
            baseline.link_local = *link_local;
        }
        let field = "guest_baseline.routers";
        if let Some(routers) =
            self.agreed(files, field, |raw| raw.guest_baseline.routers.as_ref(), |a, b| same_set(a, b))
        {
            baseline.routers.clone_from(routers);
        }
        let field = "guest_baseline.dhcp_servers";
        if let Some(servers) =
            self.agreed(files, field, |raw| raw.guest_baseline.dhcp_servers.as_ref(), |a, b| same_set(a, b))
        {
            baseline.dhcp_servers.clone_from(servers);
        }
        baseline
    }

    /// The first value written, after reporting every file that contradicts it.
    fn agreed<'f, T: 'f>(
        &mut self,
        files: &[&'f RawFile],
        name: &str,
        get: impl Fn(&'f RawSettings) -> Option<&'f Spanned<T>>,
        same: impl Fn(&T, &T) -> bool,
    ) -> Option<&'f T> {
        let mut written = files.iter().filter_map(|file| get(&file.settings));
        let first = written.next()?;
        for other in written.filter(|other| !same(&first.value, &other.value)) {
            let field = format!("settings.{name}");
            let fault = Fault::error(format!("\"{field}\" differs from what another file says"))
                .expected("the same value in every file, or in one file only: it holds for the whole daemon")
                .related(first.span, "written differently here");
            self.findings.report(other.span, &field, fault);
        }
        Some(&first.value)
    }

    fn failsafe_rules(&self, rules: &[RawRule], file: FileId) -> Vec<Rule> {
        let start = (Span { file, start: 0, end: 0 }, Source { file, line: 1, column: 1 });
        rules
            .iter()
            .filter_map(|rule| match rule.remote {
                Some(RawRemote::Cidr(net)) => self.rule(rule, Some(Remote::Cidr(net)), start),
                _ => None,
            })
            .collect()
    }
}

/// Each element stands in its list once.
fn same_set<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    a.len() == b.len() && a.iter().all(|element| b.contains(element))
}

fn same_ether_types(a: &EtherTypes, b: &EtherTypes) -> bool {
    match (a, b) {
        (EtherTypes::Listed(a), EtherTypes::Listed(b)) => same_set(a, b),
        _ => a == b,
    }
}

fn same_failsafe(a: &RawFailsafe, b: &RawFailsafe) -> bool {
    fn same(a: &[RawRule], b: &[RawRule]) -> bool {
        let net = |rule: &RawRule| match rule.remote {
            Some(RawRemote::Cidr(net)) => Some(net),
            _ => None,
        };
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(a, b)| a.protocol == b.protocol && a.matches == b.matches && net(a) == net(b))
    }
    same(&a.inbound, &b.inbound) && same(&a.outbound, &b.outbound)
}

/// `base` with the values that `raw` writes.
pub(super) fn timeouts(base: &Timeouts, raw: &RawTimeouts) -> Timeouts {
    let mut merged = *base;
    // The order of fields::TIMEOUTS.
    let slots = [
        &mut merged.tcp_syn_sent,
        &mut merged.tcp_syn_recv,
        &mut merged.tcp_established,
        &mut merged.tcp_fin_wait,
        &mut merged.tcp_close_wait,
        &mut merged.tcp_last_ack,
        &mut merged.tcp_time_wait,
        &mut merged.tcp_close,
        &mut merged.udp,
        &mut merged.udp_stream,
        &mut merged.icmp,
        &mut merged.other,
    ];
    for (slot, raw) in slots.into_iter().zip(raw) {
        if let Some(raw) = raw {
            *slot = raw.value;
        }
    }
    merged
}
