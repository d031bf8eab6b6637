//! What a good policy means.

use std::net::IpAddr;

use sg_daemon::policy::model::{
    Failsafe, HookChoice, Kind, Match, Metadata, OnRuleChange, PortRange, Protocol, Remote, Role, RuleList,
    Rules, Timeouts,
};

use crate::{good, here, policy as with};

/// The file of the specification, section 0, with names of the length that K17 asks for.
#[test]
fn a_full_policy_becomes_the_model_it_describes() {
    let loaded = good(&with(
        r#""ipv6": false,
  "settings": {
    "metadata": "cidr", "on_rule_change": "revoke", "strict_tcp": true,
    "quotas": { "groups_per_project": 99, "rules_per_group": 98, "groups_per_interface": 4 },
    "timeouts": { "tcp_established": 400000, "udp_stream": 170 },
    "managed": ["tap*", "vnet*"],
    "failsafe": { "inbound": [{ "protocol": "TCP", "source": "10.0.0.0/8", "port": 22 }], "outbound": [] }
  },
  "security_groups": [
    { "name": "web-server", "description": "web tier", "include_allowed_addresses": true,
      "inbound":  [ { "protocol": "TCP", "source": "0.0.0.0/0", "port": "80", "description": "HTTP from anywhere" },
                    { "protocol": "TCP", "source": "@bastion", "port": "22" },
                    { "protocol": "ICMP", "source": "10.0.0.0/8", "icmp_type": 8 } ],
      "outbound": [ { "protocol": "TCP", "destination": "10.0.9.0/24", "port": "3306-3309" },
                    { "protocol": "ALL", "destination": "@web-server", "port": "ALL" } ] },
    { "name": "bastion" }
  ],
  "interfaces": [
    { "name": "tap0", "instance": "web-1", "kind": "vm", "role": "guest", "hook": "xdp",
      "mac": "52:54:00:12:34:56", "addresses": ["10.0.0.5"], "allowed_addresses": ["10.0.0.6"],
      "security_groups": ["default", "web-server"], "timeouts": { "udp": 31 } }
  ],
  "peers": [ { "address": "10.0.1.7", "security_groups": ["web-server"] } ]"#,
    ));
    let model = &loaded.model;
    let settings = &model.settings;
    assert_eq!(
        (settings.metadata, settings.on_rule_change, settings.strict_tcp),
        (Metadata::Cidr, OnRuleChange::Revoke, true)
    );
    assert_eq!(
        (
            settings.quotas.groups_per_project,
            settings.quotas.rules_per_group,
            settings.quotas.groups_per_interface
        ),
        (99, 98, 4)
    );
    assert_eq!(
        settings.timeouts,
        Timeouts { tcp_established: 400_000, udp_stream: 170, ..Timeouts::default() }
    );
    assert_eq!(settings.managed, ["tap*", "vnet*"]);
    let Failsafe::Written { inbound, outbound } = &settings.failsafe else {
        panic!("{:?}", settings.failsafe)
    };
    assert_eq!((inbound.len(), outbound.len()), (1, 0));
    assert_eq!(inbound[0].matches, Match::Ports(PortRange { min: 22, max: 22 }));

    let names: Vec<_> = model.groups.iter().map(|group| (group.name.as_str(), group.is_default())).collect();
    assert_eq!(names, [("web-server", false), ("bastion", false), ("default", true)]);
    let web = &model.groups[0];
    assert!(web.include_allowed_addresses && !model.groups[1].include_allowed_addresses);
    assert_eq!(web.description, "web tier");
    let source = web.source.unwrap();
    assert_eq!((source.file.0, source.line, source.column), (0, 12, 5));
    let Rules::Written(inbound) = &web.inbound else { panic!() };
    assert_eq!(inbound[0].remote, Remote::Cidr("0.0.0.0/0".parse().unwrap()));
    assert_eq!(inbound[0].matches, Match::Ports(PortRange { min: 80, max: 80 }));
    let source = web.source_of(&inbound[0]);
    assert_eq!((source.file.0, source.line, source.column), (0, 13, 21));
    let Remote::Group(bastion) = inbound[1].remote else { panic!() };
    assert_eq!(model.groups[bastion.0].name, "bastion");
    assert_eq!(
        (inbound[2].protocol, &inbound[2].matches),
        (Protocol::Icmp, &Match::Icmp { kind: 8, code: None })
    );
    let Rules::Written(outbound) = &web.outbound else { panic!() };
    assert_eq!(outbound[0].matches, Match::Ports(PortRange { min: 3306, max: 3309 }));
    assert_eq!((outbound[1].protocol, &outbound[1].matches), (Protocol::All, &Match::Any));

    let tap = &model.interfaces[0];
    assert_eq!((tap.kind, tap.role, tap.hook), (Kind::Vm, Role::Guest, HookChoice::Xdp));
    assert_eq!(tap.mac, Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    assert_eq!(tap.addresses, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    assert_eq!(tap.allowed_addresses, ["10.0.0.6".parse::<IpAddr>().unwrap()]);
    let groups: Vec<_> = tap.groups.iter().map(|id| model.groups[id.0].name.as_str()).collect();
    assert_eq!(groups, ["default", "web-server"]);
    assert_eq!(tap.timeouts, Timeouts { udp: 31, ..settings.timeouts });
    assert_eq!(model.peers.get(0).unwrap().address, "10.0.1.7".parse::<IpAddr>().unwrap());
    assert_eq!(model.groups[model.peers.get(0).unwrap().groups[0].0].name, "web-server");
}

#[test]
fn spec_k25_k26_absent_lists_are_implied_and_empty_ones_are_written() {
    let model = good(&with(r#""security_groups": [{ "name": "absent" }, { "name": "empty-lists", "inbound": [], "outbound": [] }]"#)).model;
    assert_eq!((&model.groups[0].inbound, &model.groups[0].outbound), (&Rules::Implied, &Rules::Implied));
    assert_eq!(
        (&model.groups[1].inbound, &model.groups[1].outbound),
        (&Rules::Written(RuleList::default()), &Rules::Written(RuleList::default()))
    );
}

#[test]
fn spec_k23_default_can_be_edited() {
    let model = good(&with(r#""security_groups": [{ "name": "default", "outbound": [] }], "interfaces": [{ "name": "tap0", "security_groups": ["default"] }]"#)).model;
    assert_eq!(model.groups.len(), 1);
    assert!(model.groups[0].is_default() && model.groups[0].source.is_some());
    assert_eq!(
        (&model.groups[0].inbound, &model.groups[0].outbound),
        (&Rules::Implied, &Rules::Written(RuleList::default()))
    );
}

#[test]
fn spec_k20_default_is_made_when_nobody_writes_it() {
    let model = good(&with(r#""interfaces": [{ "name": "tap0", "security_groups": ["default"] }]"#)).model;
    let default = &model.groups[model.interfaces[0].groups[0].0];
    assert!(default.is_default() && default.source.is_none());
    assert_eq!((default.name.as_str(), default.project.as_str()), ("default", "shop"));
}

#[test]
fn spec_k7_k8_groups_are_shared_and_combined_in_the_order_written() {
    let model = good(&with(
        r#""security_groups": [{ "name": "aaaa" }, { "name": "bbbb" }],
        "interfaces": [{ "name": "tap0", "security_groups": ["bbbb", "aaaa"] }, { "name": "tap1", "security_groups": ["aaaa"] }]"#,
    )).model;
    assert_eq!(model.interfaces[0].groups.iter().map(|id| id.0).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(model.interfaces[1].groups[0], model.interfaces[0].groups[1]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let model = good(&with(r#""interfaces": [{ "name": "tap0", "security_groups": ["default"] }]"#)).model;
    let tap = &model.interfaces[0];
    assert_eq!((tap.kind, tap.role, tap.hook, tap.mac), (Kind::Vm, Role::Guest, HookChoice::Auto, None));
    assert_eq!(tap.timeouts, Timeouts::default());
    assert!(tap.addresses.is_empty() && tap.instance.is_empty());
    assert_eq!(model.settings.failsafe, Failsafe::Standard);
    assert_eq!(model.settings.metadata, Metadata::Explicit);
    assert!(!model.vpcs[0].ipv6);
}

#[test]
fn spec_k14_icmp_by_number_is_literal() {
    let rules = |protocol: &str| {
        let text = crate::inbound(&format!(
            r#"{{ "protocol": {protocol}, "source": "::/0", "icmp_type": 128, "icmp_code": 0 }}"#
        ));
        let Rules::Written(rules) = &good(&text).model.groups[0].inbound.clone() else { panic!() };
        (rules[0].protocol, rules[0].matches.clone())
    };
    let matches = Match::Icmp { kind: 128, code: Some(0) };
    assert_eq!(rules("\"icmp\""), (Protocol::Icmp, matches.clone()));
    assert_eq!(rules("58"), (Protocol::Number(58), matches.clone()));
    assert_eq!(rules("\"icmpv6\""), (Protocol::Number(58), matches.clone()));
    assert_eq!(rules("\"1\""), (Protocol::Number(1), matches));
}

#[test]
fn spec_k18_the_golden_web_server() {
    let model = sg_daemon::policy::load(&[here("../examples/web-server.json")]).unwrap().model;
    let rule = |list: &Rules| -> Vec<(Protocol, String, Match)> {
        let Rules::Written(rules) = list else { panic!("{list:?}") };
        let net = |remote| match remote {
            Remote::Cidr(net) => net.to_string(),
            Remote::Group(_) => "@".to_owned(),
        };
        rules.iter().map(|rule| (rule.protocol, net(rule.remote), rule.matches.clone())).collect()
    };
    let tcp =
        |net: &str, port| (Protocol::Tcp, net.to_owned(), Match::Ports(PortRange { min: port, max: port }));
    let web = &model.groups[0];
    assert_eq!(
        rule(&web.inbound),
        [tcp("0.0.0.0/0", 80), tcp("0.0.0.0/0", 443), tcp("203.0.113.0/24", 22), tcp("203.0.113.0/24", 3389)]
    );
    assert_eq!(rule(&web.outbound), [tcp("10.0.8.0/24", 1433), tcp("10.0.9.0/24", 3306)]);
}

#[test]
fn spec_d4_a_hundred_thousand_members_load_in_one_line_of_text() {
    let peers: Vec<String> = (0..100_000_u32)
        .map(|n| {
            format!(
                r#"{{"address":"10.{}.{}.{}","security_groups":["멤버-없음","group"]}}"#,
                n >> 16,
                n >> 8 & 255,
                n & 255
            )
        })
        .collect();
    let text = format!(
        r#"{{"version":1,"project":"쇼핑","vpc":"main","security_groups":[{{"name":"group"}}],"peers":[{}]}}"#,
        peers.join(",")
    );
    let text = text.replace("\"멤버-없음\",", "");
    let started = std::time::Instant::now();
    let model = good(&text).model;
    assert_eq!(model.peers.len(), 100_000);
    let last = model.peers.get(99_999).unwrap().source;
    assert_eq!(
        (last.line, last.column as usize),
        (1, text.chars().count() - peers[99_999].replace("\"멤버-없음\",", "").chars().count() - 1)
    );
    // A column counted from the start of the line for each peer would take hours.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}
