//! The settings of a policy in words. Taken apart field by field, so that the compiler asks for a new one.

use std::net::IpAddr;

use super::words::{addresses, json, list, rule_words, seconds};
use crate::policy::model::{EtherTypes, Failsafe, GuestBaseline, Model, Quotas, Rule, Settings};

/// Every setting by its name. Always the same names in the same order.
pub fn words(model: &Model) -> Vec<(String, String)> {
    let Settings {
        metadata,
        on_rule_change,
        strict_tcp,
        quotas: Quotas { groups_per_project, rules_per_group, groups_per_interface },
        timeouts,
        managed,
        failsafe,
        guest_baseline,
    } = &model.settings;
    let mut all = vec![
        ("metadata", json(metadata)),
        ("on_rule_change", json(on_rule_change)),
        ("strict_tcp", strict_tcp.to_string()),
        ("quotas.groups_per_project", groups_per_project.to_string()),
        ("quotas.rules_per_group", rules_per_group.to_string()),
        ("quotas.groups_per_interface", groups_per_interface.to_string()),
        ("managed", list(managed)),
        ("failsafe", failsafe_words(model, failsafe)),
    ];
    all.extend(seconds(timeouts));
    all.extend(baseline(guest_baseline));
    all.into_iter().map(|(name, words)| (name.to_owned(), words)).collect()
}

fn failsafe_words(model: &Model, failsafe: &Failsafe) -> String {
    match failsafe {
        Failsafe::Standard => "the standard rules".to_owned(),
        Failsafe::Written { inbound, outbound } => {
            let rules = |rules: &[Rule], field: &str| {
                let mut words: Vec<String> =
                    rules.iter().map(|rule| rule_words(model, rule, field)).collect();
                words.sort();
                list(&words)
            };
            format!("inbound {}; outbound {}", rules(inbound, "inbound"), rules(outbound, "outbound"))
        }
    }
}

fn baseline(baseline: &GuestBaseline) -> Vec<(&'static str, String)> {
    let GuestBaseline {
        source_mac,
        source_address,
        arp,
        neighbor_discovery,
        dhcp_server,
        router_advertisements,
        redirects,
        vlan,
        source_routing,
        ether_types,
        link_local,
        routers,
        dhcp_servers,
    } = baseline;
    let ether_types = match ether_types {
        EtherTypes::Any => "any".to_owned(),
        EtherTypes::Listed(types) => {
            list(&types.iter().map(|number| format!("0x{number:04x}")).collect::<Vec<_>>())
        }
    };
    let routers: Vec<IpAddr> = routers.iter().map(|&router| router.into()).collect();
    vec![
        ("guest_baseline.source_mac", source_mac.to_string()),
        ("guest_baseline.source_address", source_address.to_string()),
        ("guest_baseline.arp", arp.to_string()),
        ("guest_baseline.neighbor_discovery", neighbor_discovery.to_string()),
        ("guest_baseline.dhcp_server", dhcp_server.to_string()),
        ("guest_baseline.router_advertisements", router_advertisements.to_string()),
        ("guest_baseline.redirects", redirects.to_string()),
        ("guest_baseline.vlan", vlan.to_string()),
        ("guest_baseline.source_routing", source_routing.to_string()),
        ("guest_baseline.ether_types", ether_types),
        ("guest_baseline.link_local", json(link_local)),
        ("guest_baseline.routers", addresses(&routers)),
        ("guest_baseline.dhcp_servers", addresses(dhcp_servers)),
    ]
}
