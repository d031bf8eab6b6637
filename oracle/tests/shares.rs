//! Whose half-open flow goes when there is no room, in each family (D16).

use std::net::SocketAddr;

use serde_json::json;
use sg_common::verdict::Reason::NewFlow;
use sg_oracle::expect::Limits;
use sg_oracle::frame::{Packet, SYN};
use sg_oracle::host::Host;

const SHARE: u16 = 4;

#[test]
fn spec_d16_the_oldest_half_open_flow_of_the_family_makes_room_for_a_new_one() {
    let policy = vec![json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "security_groups": [{ "name": "outward" }],
        "interfaces": [{ "name": "sg0", "addresses": ["10.0.0.5", "fd00::5"], "security_groups": ["outward"] }],
    })];
    let limits = Limits { live: 100, half_v4: u64::from(SHARE), half_v6: u64::from(SHARE), datagrams: 100 };
    for (here, there) in [("10.0.0.5", "198.51.100.7:443"), ("fd00::5", "[2001:db8::7]:443")] {
        let host = Host::new(&policy, limits);
        let there: SocketAddr = there.parse().unwrap();
        for number in 0..3 * SHARE {
            let here = SocketAddr::new(here.parse().unwrap(), 40_000 + number);
            let syn = Packet::tcp(here, there, SYN);
            assert_eq!(host.judge("sg0", true, &syn.frame()).verdict.reason(), Some(NewFlow));
            let mut ports: Vec<u16> = host.entries().iter().map(|entry| entry.ports.0).collect();
            ports.sort_unstable();
            let oldest = (number + 1).saturating_sub(SHARE);
            assert_eq!(ports, (oldest..=number).map(|number| 40_000 + number).collect::<Vec<_>>());
        }
    }
}
