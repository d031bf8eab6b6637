//! What a verdict tells beside its reason, and what a flow's entry tells `sgctl flows`: the oracle knows nothing of either.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the way tests do")]

use serde_json::{Value, json};
use sg_common::abi::{
    CREATED_UNIT, Direction, FLOW_LIVE, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED, Flow, REASON_SLOTS, counter_index,
};
use sg_common::conntrack::State;
use sg_common::judge::Judgement;
use sg_common::verdict::AdmittedBy;
use sg_common::verdict::Reason::{self, Established, NewFlow, NoRule, UnknownInterface};
use sg_oracle::expect::Limits;
use sg_oracle::frame::{ACK, FIRST, Packet, SYN};
use sg_oracle::host::Host;

const LIMITS: Limits = Limits { live: 100, half_v4: 4, half_v6: 4, datagrams: 4 };

/// Two guests, of which the second may be asked by the members of its own group only, and a device of the host.
fn files() -> Vec<Value> {
    vec![json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "security_groups": [
            { "name": "outward" },
            { "name": "inward", "inbound": [{ "protocol": "UDP", "source": "@inward", "port": 53 }], "outbound": [] } ],
        "interfaces": [
            { "name": "sg0", "addresses": ["10.0.0.5", "fd00::5"], "security_groups": ["outward"] },
            { "name": "sg1", "addresses": ["10.0.0.6", "fd00::6"], "security_groups": ["inward"] },
            { "name": "eth0", "role": "host", "addresses": ["10.0.0.9"], "security_groups": ["outward"] } ],
        "peers": [{ "address": "10.0.9.9", "security_groups": ["inward"] },
                  { "address": "fd00::99", "security_groups": ["inward"] }],
    })]
}

fn host() -> Host {
    Host::new(&files(), LIMITS)
}

fn udp(from: &str, to: &str) -> Packet {
    Packet::udp(from.parse().unwrap(), to.parse().unwrap(), b"?")
}

fn only(host: &Host) -> Flow {
    let entries = host.entries();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].flow
}

/// Reason, kind of rule, state and policy.
fn told(judgement: Judgement) -> (Option<Reason>, u32, Option<State>, u32) {
    let verdict = judgement.verdict;
    (verdict.reason(), verdict.admitted_by(), State::from_number(verdict.state()), verdict.policy())
}

#[test]
fn spec_8_a_verdict_tells_the_kind_of_rule_the_state_and_the_policy() {
    let host = host();
    let (nothing, cidr, group) =
        (AdmittedBy::Nothing as u32, AdmittedBy::Cidr as u32, AdmittedBy::Group as u32);
    for (here, there) in [("10.0.0.5:4000", "8.8.8.8:53"), ("[fd00::5]:4000", "[2001:db8::8]:53")] {
        let question = udp(here, there);
        let answer = question.reply();
        let first = host.judge("sg0", true, &question.frame());
        assert_eq!(told(first), (Some(NewFlow), cidr, Some(State::Udp), 1));
        let reply = host.judge("sg0", false, &answer.frame());
        assert_eq!(told(reply), (Some(Established), nothing, Some(State::Udp), 1));
        let next = host.judge("sg0", true, &question.frame());
        assert_eq!(told(next), (Some(Established), nothing, Some(State::UdpStream), 1));
    }
    for (there, here) in [("10.0.9.9:4000", "10.0.0.6:53"), ("[fd00::99]:4000", "[fd00::6]:53")] {
        let asked = host.judge("sg1", false, &udp(there, here).frame());
        assert_eq!(told(asked), (Some(NewFlow), group, Some(State::Udp), 2));
        let refused = host.judge("sg1", false, &udp(here, there).frame());
        assert_eq!(told(refused), (Some(NoRule), nothing, None, 2));
    }
    let syn = Packet::tcp("10.0.0.5:4000".parse().unwrap(), "8.8.8.8:80".parse().unwrap(), SYN);
    assert_eq!(told(host.judge("sg0", true, &syn.frame())).2, Some(State::TcpSynSent));
    let answer = host.judge("sg0", false, &syn.answer(SYN | ACK).frame());
    assert_eq!(told(answer).2, Some(State::TcpSynReceived));
    let last = host.judge("sg0", true, &syn.then(ACK).frame());
    assert_eq!(told(last), (Some(Established), nothing, Some(State::TcpEstablished), 1));
}

#[test]
fn spec_d24_a_packet_is_counted_for_its_device_and_its_direction() {
    let host = host();
    let here = [("sg0", "10.0.0.5:1", 1), ("sg1", "10.0.0.6:1", 2), ("eth0", "10.0.0.9:1", 3)];
    for (device, address, row) in here {
        for ingress in [true, false] {
            let outbound = ingress != (device == "eth0");
            let packet = udp(address, "8.8.8.8:9");
            let packet = if outbound { packet } else { packet.reply() };
            let judgement = host.judge(device, ingress, &packet.frame());
            let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
            assert_eq!((judgement.row(), judgement.direction()), (row, direction), "{device} {ingress}");
        }
    }
    for (ingress, direction) in [(true, Direction::Outbound), (false, Direction::Inbound)] {
        let judgement = host.judge("sg9", ingress, &udp("10.0.0.5:1", "8.8.8.8:9").frame());
        assert_eq!(judgement.verdict.reason(), Some(UnknownInterface));
        assert_eq!((judgement.row(), judgement.direction()), (0, direction));
        assert!(judgement.counter() < 2 * REASON_SLOTS);
        let index = counter_index(0, direction, UnknownInterface as u32);
        assert_eq!((judgement.counter(), judgement.is_audited()), (index, false));
    }
}

#[test]
fn spec_d10_an_entry_tells_when_by_what_and_by_whom_it_began() {
    for (here, there) in [("10.0.0.5:4000", "8.8.8.8:53"), ("[fd00::5]:4000", "[2001:db8::8]:53")] {
        let host = host();
        host.advance(1000);
        let begun = (host.now() / CREATED_UNIT) as u32;
        let question = udp(here, there);
        assert_eq!(host.judge("sg0", true, &question.frame()).verdict.reason(), Some(NewFlow));
        let flow = only(&host);
        assert_eq!((flow.created, flow.policy), (begun, 1));
        assert_eq!((flow.flags, flow.is_half_open()), (FLOW_ORIGIN_OUTBOUND, true));
        assert_eq!((flow.tcp, flow.sequence), (0, [0; 6]));
        host.advance(20);
        for _ in 0..2 {
            assert_eq!(
                host.judge("sg0", false, &question.reply().frame()).verdict.reason(),
                Some(Established)
            );
            let flow = only(&host);
            assert_eq!(
                (flow.created, flow.policy, flow.place),
                (begun, 1, FLOW_LIVE | 1),
                "live: the row of its interface"
            );
            assert_eq!(flow.flags, FLOW_ORIGIN_OUTBOUND | FLOW_REPLIED);
        }
    }
}

#[test]
fn spec_d16_half_open_flows_take_the_places_of_their_own_interface_in_turn() {
    let host = host();
    let mut places = Vec::new();
    for port in 1000..1006 {
        let packet = udp(&format!("10.0.0.9:{port}"), "8.8.8.8:53");
        assert_eq!(host.judge("eth0", false, &packet.frame()).verdict.reason(), Some(NewFlow));
        let newest = host.entries().into_iter().find(|entry| entry.ports.0 == port).unwrap();
        places.push(newest.flow.place);
    }
    // The third device's: eight places are those of the others.
    assert_eq!(places, [8, 9, 10, 11, 8, 9]);
    let left: Vec<u16> = host.entries().iter().map(|entry| entry.ports.0).collect();
    assert_eq!(left, [1002, 1003, 1004, 1005]);
}

#[test]
fn spec_d12_an_acknowledgment_tells_how_long_segments_in_pieces_were() {
    // Of a segment in pieces only the first is read: how long it was is what the other side acknowledges.
    let syn = Packet::tcp("10.0.0.5:4000".parse().unwrap(), "8.8.8.8:80".parse().unwrap(), SYN);
    for outbound in [true, false] {
        let host = host();
        for (ingress, segment) in [(true, syn.clone()), (false, syn.answer(SYN | ACK)), (true, syn.then(ACK))]
        {
            assert!(host.judge("sg0", ingress, &segment.frame()).verdict.reason().is_some());
        }
        let (data, answer) =
            if outbound { (syn.then(ACK), syn.answer(ACK)) } else { (syn.answer(ACK), syn.then(ACK)) };
        let first = data.data(&[7; 180]).piece(0, 40, 1);
        assert_eq!(host.judge("sg0", outbound, &first.frame()).verdict.reason(), Some(Established));
        let ends = |host: &Host| {
            let Flow { sequence, .. } = only(host);
            if outbound { (sequence[0], sequence[3]) } else { (sequence[3], sequence[0]) }
        };
        assert_eq!(ends(&host), (FIRST + 1 + 20, FIRST + 1));
        let answer = answer.sequence(FIRST + 1, FIRST + 1 + 180);
        assert_eq!(host.judge("sg0", !outbound, &answer.frame()).verdict.reason(), Some(Established));
        assert_eq!(ends(&host), (FIRST + 1 + 180, FIRST + 1));
    }
}
