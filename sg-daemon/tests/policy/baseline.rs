//! The guest baseline in the settings, and trunks.

use sg_daemon::policy::model::{EtherTypes, GuestBaseline, LinkLocal};

use crate::{fault, faults, good, load_files, policy as with};

const GUARDS: [&str; 9] = [
    "source_mac",
    "source_address",
    "arp",
    "neighbor_discovery",
    "dhcp_server",
    "router_advertisements",
    "redirects",
    "vlan",
    "source_routing",
];

fn guards(baseline: &GuestBaseline) -> [bool; 9] {
    [
        baseline.source_mac,
        baseline.source_address,
        baseline.arp,
        baseline.neighbor_discovery,
        baseline.dhcp_server,
        baseline.router_advertisements,
        baseline.redirects,
        baseline.vlan,
        baseline.source_routing,
    ]
}

fn text(baseline: &str) -> String {
    with(&format!("\"settings\": {{ \"guest_baseline\": {{\n{baseline}\n}} }}"))
}

fn baseline(fields: &str) -> GuestBaseline {
    good(&text(fields)).model.settings.guest_baseline.clone()
}

fn ether_types(list: &str) -> EtherTypes {
    baseline(&format!("\"ether_types\": {list}")).ether_types
}

#[test]
fn spec_section_6_every_guard_is_on_unless_it_is_switched_off() {
    for nothing in [with("\"settings\": {}"), text("")] {
        assert_eq!(good(&nothing).model.settings.guest_baseline, GuestBaseline::default());
    }
    assert_eq!(guards(&GuestBaseline::default()), [true; 9]);
    for (index, guard) in GUARDS.iter().enumerate() {
        let mut want = [true; 9];
        want[index] = false;
        assert_eq!(guards(&baseline(&format!("\"{guard}\": false"))), want, "{guard}");
        assert_eq!(guards(&baseline(&format!("\"{guard}\": true"))), [true; 9], "{guard}");
    }
}

#[test]
fn spec_section_6_ether_types_are_a_list_or_any() {
    assert_eq!(ether_types("\"any\""), EtherTypes::Any);
    assert_eq!(ether_types("[]"), EtherTypes::Listed(vec![]));
    assert_eq!(
        ether_types(r#"["0x88cc", "0x888E", 35063, 1536, "0xffff"]"#),
        EtherTypes::Listed(vec![0x88cc, 0x888e, 0x88f7, 0x0600, 0xffff])
    );
    let eight: Vec<String> = (0x9000..0x9008).map(|number| number.to_string()).collect();
    let EtherTypes::Listed(listed) = ether_types(&format!("[{}]", eight.join(","))) else { panic!() };
    assert_eq!(listed, (0x9000..0x9008).collect::<Vec<u16>>());
}

#[test]
fn spec_section_6_link_local_addresses_and_routers() {
    assert_eq!(baseline("\"link_local\": \"any\"").link_local, LinkLocal::Any);
    assert_eq!(baseline("\"link_local\": \"derived\"").link_local, LinkLocal::Derived);
    let routers = baseline(r#""routers": ["fe80::1", "FE80::2", "2001:db8::1"]"#).routers;
    assert_eq!(
        routers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["fe80::1", "fe80::2", "2001:db8::1"]
    );
    let servers = baseline(r#""dhcp_servers": ["10.0.0.2", "FD00::2"]"#).dhcp_servers;
    assert_eq!(servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.2", "fd00::2"]);
}

#[test]
fn spec_section_6_the_baseline_is_checked_field_by_field() {
    assert_eq!(
        faults(&text(
            r#""source_mac": "yes", "arp": 1, "vlan": null, "source_adress": true,
"ether_types": ["0x88cc", 35020, "0x0800", 2054, "0x86dd", "0x8100", "0x88A8", "0x05ff", 1535, 65536, "lldp", true],
"link_local": "Derived",
"routers": ["10.0.0.1", "fe80::1", "FE80:0::1", "fe80::1/64", "ff02::2", 1],
"dhcp_servers": ["10.0.0.2", "10.0.0.2/32", "10.0.0.2", "255.255.255.255", false]"#
        )),
        [
            "4:15 settings.guest_baseline.source_mac: found the string \"yes\"",
            "4:29 settings.guest_baseline.arp: found a number",
            "4:40 settings.guest_baseline.vlan: found null",
            "4:46 settings.guest_baseline.source_adress: unknown field \"source_adress\"",
            "5:27 settings.guest_baseline.ether_types[1]: EtherType 0x88cc is listed twice",
            "5:34 settings.guest_baseline.ether_types[2]: EtherType 0x0800 (IPv4) is handled by the filter itself",
            "5:44 settings.guest_baseline.ether_types[3]: EtherType 0x0806 (ARP) is handled by the filter itself",
            "5:50 settings.guest_baseline.ether_types[4]: EtherType 0x86dd (IPv6) is handled by the filter itself",
            "5:60 settings.guest_baseline.ether_types[5]: EtherType 0x8100 (VLAN tags) is handled by the filter itself",
            "5:70 settings.guest_baseline.ether_types[6]: EtherType 0x88a8 (service VLAN tags) is handled by the filter itself",
            "5:80 settings.guest_baseline.ether_types[7]: \"0x05ff\" is the length of a frame, not an EtherType",
            "5:90 settings.guest_baseline.ether_types: 12 EtherTypes are too many",
            "5:90 settings.guest_baseline.ether_types[8]: found 1535",
            "5:96 settings.guest_baseline.ether_types[9]: found 65536",
            "5:103 settings.guest_baseline.ether_types[10]: \"lldp\" is not an EtherType",
            "5:111 settings.guest_baseline.ether_types[11]: found true",
            "6:15 settings.guest_baseline.link_local: unknown value \"Derived\"",
            "7:13 settings.guest_baseline.routers[0]: \"10.0.0.1\" is an IPv4 address",
            "7:36 settings.guest_baseline.routers[2]: router fe80::1 is listed twice",
            "7:49 settings.guest_baseline.routers[3]: \"fe80::1/64\" is a network, not an address",
            "7:63 settings.guest_baseline.routers[4]: \"ff02::2\" is not an address an interface can have",
            "7:74 settings.guest_baseline.routers[5]: found a number",
            "8:30 settings.guest_baseline.dhcp_servers[1]: \"10.0.0.2/32\" is a network, not an address",
            "8:45 settings.guest_baseline.dhcp_servers[2]: DHCP server 10.0.0.2 is listed twice",
            "8:57 settings.guest_baseline.dhcp_servers[3]: \"255.255.255.255\" is not an address an interface can have",
            "8:76 settings.guest_baseline.dhcp_servers[4]: found false",
        ]
    );
    let whole = fault(&with("\"settings\": { \"guest_baseline\": false }"));
    assert_eq!((whole.field.as_str(), whole.message.as_str()), ("settings.guest_baseline", "found false"));
}

#[test]
fn spec_section_6_at_most_eight_ether_types() {
    let nine: Vec<String> = (0x9000..0x9009).map(|number| number.to_string()).collect();
    let fault = fault(&text(&format!("\"ether_types\": [{}]", nine.join(","))));
    assert_eq!(fault.message, "9 EtherTypes are too many");
    assert_eq!(fault.expected.unwrap(), "at most 8, or \"any\"");
    assert_eq!((fault.line, fault.column), (Some(4), Some(65)));
}

#[test]
fn spec_section_6_a_slip_is_told_what_to_write() {
    for (field, suggestion) in [
        (r#""source_adress": false"#, "did you mean \"source_address\"?"),
        (r#""ether_types": "Any""#, "did you mean \"any\"?"),
        (r#""ether_types": "0x88cc""#, "write [\"0x88cc\"]"),
        (r#""ether_types": ["88cc"]"#, "write \"0x88cc\""),
        (r#""ether_types": ["LLDP"]"#, "write \"0x88cc\""),
        (
            r#""ether_types": [33024]"#,
            "remove it, and write \"trunk\": true on the interfaces whose frames may carry tags",
        ),
        (r#""link_local": "derive""#, "did you mean \"derived\"?"),
        (r#""routers": ["fe80::1/64"]"#, "write \"fe80::1\""),
    ] {
        assert_eq!(fault(&text(field)).suggestion.as_deref(), Some(suggestion), "{field}");
    }
}

#[test]
fn spec_section_6_files_may_share_a_baseline_but_not_contradict() {
    let one = text(
        r#""arp": false, "ether_types": ["0x88cc", "0x888e"], "routers": ["fe80::1", "fe80::2"], "dhcp_servers": ["10.0.0.2"]"#,
    );
    let same = text(
        r#""arp": false, "vlan": false, "ether_types": [34958, 35020], "link_local": "derived", "routers": ["fe80::2", "fe80::1"]"#,
    );
    let merged =
        load_files(&[("a.json", &one), ("b.json", &same)]).unwrap().model.settings.guest_baseline.clone();
    assert_eq!(
        merged,
        GuestBaseline {
            arp: false,
            vlan: false,
            ether_types: EtherTypes::Listed(vec![0x88cc, 0x888e]),
            link_local: LinkLocal::Derived,
            routers: vec!["fe80::1".parse().unwrap(), "fe80::2".parse().unwrap()],
            dhcp_servers: vec!["10.0.0.2".parse().unwrap()],
            ..GuestBaseline::default()
        }
    );
    let other = text(
        r#""arp": true, "vlan": true, "ether_types": "any", "link_local": "any", "routers": ["fe80::1"], "dhcp_servers": ["10.0.0.3"]"#,
    );
    let error = load_files(&[("a.json", &one), ("b.json", &same), ("c.json", &other)]).unwrap_err();
    let fields: Vec<_> = error.diagnostics.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(
        fields,
        ["arp", "vlan", "ether_types", "link_local", "routers", "dhcp_servers"]
            .map(|name| format!("settings.guest_baseline.{name}"))
    );
    let from = ["a.json", "b.json", "a.json", "b.json", "a.json", "a.json"];
    for (diagnostic, first) in error.diagnostics.iter().zip(from) {
        assert!(diagnostic.file.ends_with("c.json") && diagnostic.related[0].file.ends_with(first));
    }
}

#[test]
fn spec_section_6_an_interface_is_a_trunk_only_if_it_says_so() {
    let model = |trunk: &str| {
        good(&with(&format!(
            r#""interfaces": [{{ "name": "tap0", "security_groups": ["default"]{trunk} }}]"#
        )))
        .model
    };
    assert!(!model("").interfaces[0].trunk);
    assert!(!model(", \"trunk\": false").interfaces[0].trunk);
    assert!(model(", \"trunk\": true").interfaces[0].trunk);
    assert!(model(", \"role\": \"host\", \"trunk\": true").interfaces[0].trunk);
    let fault =
        fault(&with(r#""interfaces": [{ "name": "tap0", "trunk": [100], "security_groups": ["default"] }]"#));
    assert_eq!((fault.field.as_str(), fault.message.as_str()), ("interfaces[0].trunk", "found a list"));
}
