//! A daemon's table with very many connections of two guests.

use std::ops::ControlFlow;

use serde_json::json;
use sg_common::abi::{Be32, FLOW_LIVE, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED, Flow, FlowKeyV4, FlowPorts};
use sg_common::conntrack::State;
use sg_daemon::kernel::FlowKey;
use sg_tests::{Daemon, Topology};

use crate::fill;
use crate::traffic::PORT;

/// Rules that admit half of the connections.
pub fn policy(site: &Topology) -> String {
    let interfaces: Vec<_> = site
        .guests
        .iter()
        .map(|guest| {
            json!({ "name": guest.device, "addresses": [guest.v4, guest.v6], "security_groups": ["webs", "names"] })
        })
        .collect();
    json!({
        "version": 1, "project": "bench", "vpc": "main",
        "security_groups": [
            { "name": "webs", "inbound": [
                { "protocol": "TCP", "source": "198.51.0.0/16", "port": 443 },
                { "protocol": "UDP", "source": "203.0.113.0/24", "port": PORT } ], "outbound": [] },
            { "name": "names", "outbound": [{ "protocol": "UDP", "destination": "8.8.8.8/32", "port": 53 }] } ],
        "interfaces": interfaces,
    })
    .to_string()
}

/// Puts connections beside the one that lives already: half of them of each guest, of TCP and UDP, with 4,096 remotes.
pub fn fill(daemon: &Daemon, flows: u32) {
    let memory = fill::memory(daemon.pin_dir());
    // The traffic's own flow says what the time is, and which zone is the first guest's; the other's is the next.
    let mut known = None;
    let _ = memory.each(|key, flow| {
        known = Some((key, flow));
        ControlFlow::Break(())
    });
    let (key, like) = known.unwrap();
    for number in 0..flows {
        fill::put(&memory, &FlowKey::V4(self::key(key.zone(), number)), &flow(&like, number));
    }
}

fn is_tcp(number: u32) -> bool {
    number % 4 < 2
}

fn key(zone: u32, number: u32) -> FlowKeyV4 {
    let guest = number % 2;
    let protocol = if is_tcp(number) { 6 } else { 17 };
    let port = 10_000 + (number >> 13) as u16;
    FlowKeyV4 {
        zone_protocol: (zone + guest) << 8 | protocol,
        local: Be32::from_host(0x0a00_0005 + guest),
        remote: Be32::from_host(0xc633_0000 | (number >> 1 & 0xfff)),
        ports: if is_tcp(number) {
            FlowPorts { local: 443, remote: port }
        } else {
            FlowPorts { local: port, remote: 123 }
        },
    }
}

fn flow(like: &Flow, number: u32) -> Flow {
    let (state, flags) = if is_tcp(number) {
        (State::TcpEstablished, FLOW_REPLIED)
    } else {
        (State::UdpStream, FLOW_REPLIED | FLOW_ORIGIN_OUTBOUND)
    };
    Flow {
        // More than an hour, whatever a jiffy is.
        expires: like.expires + 4_000_000 + u64::from(number % 1000),
        created: like.created.saturating_sub(number % 5000),
        place: FLOW_LIVE | (1 + number % 2),
        state: state as u8,
        flags,
        ..*like
    }
}
