//! The oracle itself, against sentences of the specification, of docs/packets.md and of RFCs.

mod guards;
mod kinds;
mod pieces;
mod tcp;

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{FlowView, Limits, Oracle, Said};
use crate::frame::{ACK, Packet, SYN};

const PLENTY: Limits = Limits { live: 100, half_v4: 100, half_v6: 100, datagrams: 100 };

/// One guest, to which TCP 80, UDP 53 and pings may come, and which may send anything but to 9.9.9.0/24.
fn files(settings: &Value) -> Vec<Value> {
    vec![json!({
        "version": 1, "project": "shop", "vpc": "main", "settings": settings,
        "security_groups": [{ "name": "web",
            "inbound": [
                { "protocol": "TCP", "source": "0.0.0.0/0", "port": 80 },
                { "protocol": "TCP", "source": "::/0", "port": 80 },
                { "protocol": "UDP", "source": "8.0.0.0/8", "port": 53 },
                { "protocol": "UDP", "source": "2001:db8::/32", "port": 53 },
                { "protocol": "ICMP", "source": "8.0.0.0/8", "icmp_type": 8 } ],
            "outbound": [
                { "protocol": "ALL", "destination": "8.0.0.0/8" },
                { "protocol": "ALL", "destination": "2001:db8::/32" } ] }],
        "interfaces": [
            { "name": "tap0", "mac": "52:54:00:00:00:05", "addresses": ["10.0.0.5", "2001:db8::5"],
              "security_groups": ["web"] },
            { "name": "eth0", "role": "host", "addresses": ["10.0.0.9"], "security_groups": ["web"] } ],
    })]
}

fn oracle() -> Oracle {
    Oracle::new(&files(&json!({})), PLENTY)
}

fn guarded(baseline: &Value) -> Oracle {
    Oracle::new(&files(&json!({ "guest_baseline": baseline })), PLENTY)
}

impl Oracle {
    /// What the guest sends.
    fn sent(&mut self, packet: &Packet) -> &'static str {
        self.sends(&packet.frame()).reason
    }

    fn sends(&mut self, frame: &[u8]) -> Said {
        self.judge("tap0", true, frame)
    }

    /// What is sent to the guest.
    fn received(&mut self, packet: &Packet) -> &'static str {
        self.receives(&packet.frame()).reason
    }

    fn receives(&mut self, frame: &[u8]) -> Said {
        self.judge("tap0", false, frame)
    }

    fn only_flow(&self) -> FlowView {
        let flows = self.flows();
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows[0].clone()
    }

    fn state(&self) -> &'static str {
        self.only_flow().state
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The guest's to a server: allowed.
fn query() -> Packet {
    Packet::udp(at("10.0.0.5:5000"), at("8.8.8.8:53"), b"who?")
}

fn syn() -> Packet {
    Packet::tcp(at("10.0.0.5:40000"), at("8.8.8.8:443"), SYN)
}

/// Past the handshake.
fn established(oracle: &mut Oracle) -> Packet {
    let syn = syn();
    assert_eq!(oracle.sent(&syn), "new_flow");
    assert_eq!(oracle.received(&syn.answer(SYN | ACK)), "established");
    assert_eq!(oracle.sent(&syn.then(ACK)), "established");
    assert_eq!(oracle.state(), "established");
    syn
}
