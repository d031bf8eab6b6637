//! What two CPUs may do to each other, which no test in the kernel can bring about at will.

use serde_json::{Value, json};
use sg_common::verdict::Reason::{self, Established, NewFlow, NoRule, Related, TableFull};
use sg_oracle::expect::Limits;
use sg_oracle::frame::{ACK, FIN, Packet, RST, SYN};
use sg_oracle::host::Meanwhile::{
    BecomesLive, BecomesLiveAtLast, FillsTheTable, IsPushedOut, TakesTheLastPlace,
};
use sg_oracle::host::{Host, Meanwhile};

const LIMITS: Limits = Limits { live: 100, half_v4: 100, half_v6: 100, datagrams: 100 };

/// The guest may begin anything, the others nothing.
fn outward() -> Vec<Value> {
    vec![json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "security_groups": [{ "name": "outward" }],
        "interfaces": [{ "name": "sg0", "addresses": ["10.0.0.5", "fd00::5"], "security_groups": ["outward"] }],
    })]
}

fn sends(host: &Host, packet: &Packet) -> Option<Reason> {
    host.judge("sg0", true, &packet.frame()).verdict.reason()
}

fn receives(host: &Host, packet: &Packet) -> Option<Reason> {
    host.judge("sg0", false, &packet.frame()).verdict.reason()
}

#[test]
fn spec_k6_a_reply_passes_also_while_its_flow_becomes_live_on_another_cpu() {
    let here = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:443", "[2001:db8::7]:443"].map(|address| address.parse().unwrap());
    for (here, there) in here.into_iter().zip(there) {
        let host = Host::new(&outward(), LIMITS);
        let meanwhile =
            |packet: &Packet| host.judge_while(BecomesLive, "sg0", false, &packet.frame()).verdict.reason();
        let question = Packet::udp(here, there, b"?");
        assert_eq!(sends(&host, &question), Some(NewFlow));
        assert_eq!(meanwhile(&question.reply()), Some(Established));
        assert!(host.entries()[0].live, "{:?}", host.entries());

        let syn = Packet::tcp(here, there, SYN);
        assert_eq!(sends(&host, &syn), Some(NewFlow));
        assert_eq!(receives(&host, &syn.answer(SYN | ACK)), Some(Established));
        assert_eq!(meanwhile(&syn.answer(ACK)), Some(Established));
        // What is no flow's does not become one's.
        for flags in [ACK, FIN | ACK, SYN, RST] {
            let stranger = Packet::tcp(there, here, SYN).then(flags);
            let stranger = Packet { source: "198.51.100.9".parse().unwrap(), ..stranger };
            if here.is_ipv4() {
                assert_eq!(meanwhile(&stranger), Some(NoRule), "{flags}");
            }
        }
    }
}

#[test]
fn spec_k6_neither_strict_tcp_nor_a_rule_of_its_own_direction_makes_such_a_reply_another_connection() {
    let (here, there) = ("10.0.0.5:40000".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    let mut strict = outward();
    strict[0]["settings"] = json!({ "strict_tcp": true });
    let mut both = outward();
    both[0]["security_groups"][0]["inbound"] = json!([{ "protocol": "ALL", "source": "0.0.0.0/0" }]);
    for files in [strict, both] {
        let host = Host::new(&files, LIMITS);
        let syn = Packet::tcp(here, there, SYN);
        assert_eq!(sends(&host, &syn), Some(NewFlow));
        assert_eq!(receives(&host, &syn.answer(SYN | ACK)), Some(Established));
        let reply = syn.answer(ACK).frame();
        let reason = host.judge_while(BecomesLive, "sg0", false, &reply).verdict.reason();
        assert_eq!(reason, Some(Established));
        assert_eq!(host.entries().len(), 1, "one flow, one entry");
    }
}

#[test]
fn spec_k4_a_forged_syn_does_not_open_the_way_for_one_that_no_rule_allows() {
    let (here, there) = ("10.0.0.5:80".parse().unwrap(), "198.51.100.7:80".parse().unwrap());
    let mut files = outward();
    files[0]["security_groups"][0]["inbound"] =
        json!([{ "protocol": "TCP", "source": "0.0.0.0/0", "port": 80 }]);
    files[0]["security_groups"][0]["outbound"] = json!([]);
    let syn = Packet::tcp(here, there, SYN);
    for forged in [syn.answer(SYN), syn.answer(SYN | ACK).sequence(77, 5000)] {
        let host = Host::new(&files, LIMITS);
        assert_eq!(receives(&host, &forged), Some(NewFlow));
        assert_eq!(sends(&host, &syn), Some(NoRule));
    }
}

#[test]
fn a_flow_that_is_over_is_not_taken_for_one_that_has_become_live() {
    let (here, there) = ("10.0.0.5:40000".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    let host = Host::new(&outward(), LIMITS);
    let question = Packet::udp(here, there, b"?");
    assert_eq!(sends(&host, &question), Some(NewFlow));
    assert_eq!(receives(&host, &question.reply()), Some(Established));
    host.advance(181);
    assert_eq!(receives(&host, &question.reply()), Some(NoRule));
    assert_eq!(
        host.judge_while(BecomesLive, "sg0", false, &question.reply().frame()).verdict.reason(),
        Some(NoRule)
    );
}

#[test]
fn spec_d16_live_flows_are_counted_exactly_whatever_happens_meanwhile() {
    let here = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:443", "[2001:db8::7]:443"].map(|address| address.parse().unwrap());
    // What the reply is counted as, how many flows are live then, and how many entries of the one there are.
    let cases: [(Meanwhile, Reason, u64, usize); 4] = [
        (BecomesLive, Established, 1, 1),
        (BecomesLiveAtLast, Established, 1, 1),
        // The packet belonged to a flow when it was looked up; the next one does not.
        (IsPushedOut, Established, 0, 0),
        (TakesTheLastPlace, TableFull, 1, 1),
    ];
    for (here, there) in here.into_iter().zip(there) {
        for (meanwhile, reason, live, entries) in cases {
            let host = Host::new(&outward(), Limits { live: 1, ..LIMITS });
            let question = Packet::udp(here, there, b"?");
            assert_eq!(sends(&host, &question), Some(NewFlow));
            let reply = question.reply().frame();
            let judgement = host.judge_while(meanwhile, "sg0", false, &reply);
            assert_eq!(judgement.verdict.reason(), Some(reason), "{meanwhile:?}");
            assert_eq!(host.live_count("sg0"), live, "{meanwhile:?}");
            assert_eq!(host.entries().len(), entries, "{meanwhile:?}");
            assert!(
                host.entries().iter().all(|entry| entry.live == (reason == Established)),
                "{meanwhile:?}"
            );
        }
        // Where there is no room for it, a new flow does not pass.
        let host = Host::new(&outward(), LIMITS);
        let question = Packet::udp(here, there, b"?");
        let judgement = host.judge_while(FillsTheTable, "sg0", true, &question.frame());
        assert_eq!(judgement.verdict.reason(), Some(TableFull));
        assert_eq!((host.entries().len(), host.live_count("sg0")), (0, 0));
    }
}

#[test]
fn spec_d11_what_is_over_gives_no_verdict_also_uncollected() {
    let here = ["10.0.0.5:40000", "[fd00::5]:40000"].map(|address| address.parse().unwrap());
    let there = ["198.51.100.7:443", "[2001:db8::7]:443"].map(|address| address.parse().unwrap());
    for (here, there) in here.into_iter().zip(there) {
        let question = Packet::udp(here, there, b"?");
        let reply = question.reply();
        let seconds = 30;
        for answered in [false, true] {
            let begun = |seconds| {
                let host = Host::new(&outward(), LIMITS);
                assert_eq!(sends(&host, &question), Some(NewFlow));
                assert_eq!(answered.then(|| receives(&host, &reply)), answered.then_some(Some(Established)));
                host.advance_only(seconds);
                assert_eq!(host.entries().len(), 1);
                host
            };
            assert_eq!(receives(&begun(seconds - 1), &reply), Some(Established));
            let host = begun(seconds);
            assert_eq!(receives(&host, &reply), Some(NoRule));
            let meanwhile = host.judge_while(BecomesLive, "sg0", false, &reply.frame());
            assert_eq!(meanwhile.verdict.reason(), Some(NoRule));
            // An error about it is about nothing.
            let kind = if here.is_ipv4() { 3 } else { 1 };
            let error = question.error(there.ip(), kind, 1);
            assert_eq!(receives(&begun(seconds - 1), &error), Some(Related));
            assert_eq!(receives(&begun(seconds), &error), Some(NoRule));
            // The next flow takes its place.
            let host = begun(seconds);
            assert_eq!(sends(&host, &question), Some(NewFlow));
            assert_eq!(host.live_count("sg0"), 0);
            assert_eq!(receives(&host, &reply), Some(Established));
            assert_eq!((host.entries().len(), host.live_count("sg0")), (1, 1));
        }
    }
}

#[test]
fn spec_d12_a_connection_that_becomes_live_meanwhile_is_no_excuse_for_a_syn_or_a_reset() {
    let (here, there) = ("10.0.0.5:40000".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    let syn = Packet::tcp(here, there, SYN);
    for flags in [ACK, FIN | ACK, SYN, RST] {
        let [there_before, meanwhile] = [false, true].map(|meanwhile| {
            let host = Host::new(&outward(), LIMITS);
            assert_eq!(sends(&host, &syn), Some(NewFlow));
            assert_eq!(receives(&host, &syn.answer(SYN | ACK)), Some(Established));
            let frame = syn.answer(flags).frame();
            let judgement = if meanwhile {
                host.judge_while(BecomesLive, "sg0", false, &frame)
            } else {
                host.judge("sg0", false, &frame)
            };
            judgement.verdict.reason()
        });
        assert_eq!(meanwhile, there_before, "{flags}");
    }
}
