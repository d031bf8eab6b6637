//! The oracle against the programs in the kernel, one policy after another on one enforcer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, Map, MapData};
use proptest::collection::vec;
use proptest::test_runner::{TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use serde_json::{Value, json};
use sg_common::abi::{ClassKeyV4, ClassKeyV6, MembersV4, MembersV6, Pairs, Row, map};
use sg_common::verdict::{Action, Reason};

use crate::bench::{Bench, Ingress, Way};
use crate::frame::{Packet, SYN};
use crate::rules::{self, Direction, Question, Transport};
use crate::world::{DEVICES, Edit, World, any_edit, any_seed, any_world};
use crate::{config, policies, told};

/// The packet that a question is about. Its source port is told: a new one makes it the first of a new flow.
fn packet(files: &[Value], question: &Question, source_port: u16) -> Packet {
    let interface = interface(files, &question.interface);
    // Whoever has no address in that family asks from one that nobody has.
    let nobody: IpAddr = match question.remote {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1).into(),
    };
    let local = own(interface).find(|own| own.is_ipv4() == nobody.is_ipv4()).unwrap_or(nobody);
    let (source, destination) = match question.direction {
        Direction::Inbound => (question.remote, local),
        Direction::Outbound => (local, question.remote),
    };
    match question.transport {
        Transport::Tcp { port } => Packet::tcp((source, source_port).into(), (destination, port).into(), SYN),
        Transport::Udp { port } => {
            Packet::udp((source, source_port).into(), (destination, port).into(), b"?")
        }
        Transport::Icmp { kind, code } => Packet::icmp(source, destination, kind, code, 1),
        Transport::Other(number) => Packet::new(source, destination, number, vec![0; 16]),
    }
}

fn interface<'f>(files: &'f [Value], name: &str) -> &'f Value {
    let mut interfaces = files.iter().filter_map(|file| file["interfaces"].as_array()).flatten();
    interfaces.find(|interface| interface["name"] == name).unwrap()
}

fn way(files: &[Value], question: &Question) -> Way {
    let host = interface(files, &question.interface)["role"] == "host";
    if (question.direction == Direction::Outbound) == host { Way::Egress } else { Way::Ingress }
}

/// What IPv6 reads as something else than a transport protocol (IANA, "IPv6 Extension Header Types").
fn is_extension(question: &Question) -> bool {
    let extension =
        matches!(question.transport, Transport::Other(0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254));
    question.remote.is_ipv6() && extension
}

/// What a guest may neither send nor see whatever the rules say (SPEC section 6): redirects, and neighbour discovery that
/// a router has forwarded, as the hop limit of these packets says; and addresses that are not its own, as [`packet`] gives
/// those that have none of a family.
fn forbidden(files: &[Value], question: &Question) -> Option<Reason> {
    let interface = interface(files, &question.interface);
    if interface["role"] == "host" {
        return None;
    }
    match (question.remote, question.transport) {
        (IpAddr::V4(_), Transport::Icmp { kind: 5, .. })
        | (IpAddr::V6(_), Transport::Icmp { kind: 137, .. }) => return Some(Reason::Redirect),
        (IpAddr::V6(_), Transport::Icmp { kind: 133..=136, .. }) => return Some(Reason::NeighborSpoof),
        _ => {}
    }
    let own: Vec<IpAddr> = own(interface).collect();
    let has_none = own.iter().all(|own| own.is_ipv4() != question.remote.is_ipv4());
    let foreign = question.direction == Direction::Outbound && has_none && !own.is_empty();
    foreign.then_some(Reason::SourceAddress)
}

fn own(interface: &Value) -> impl Iterator<Item = IpAddr> {
    let both = ["addresses", "allowed_addresses"].into_iter();
    let written = both.flat_map(|field| interface[field].as_array().into_iter().flatten());
    written.map(|own| own.as_str().unwrap().parse().unwrap())
}

/// Asks the loaded program, and for what has ports lets a packet of a new flow run through the programs that filter.
fn check(
    bench: &mut Bench,
    files: &[Value],
    question: &Question,
    source_port: u16,
) -> Result<(), TestCaseError> {
    if interface(files, &question.interface)["kind"] == "bare_metal" {
        prop_assert!(!bench.enforcer().devices().contains_key(&question.interface));
        return Ok(());
    }
    if is_extension(question) {
        return Ok(());
    }
    let expected = rules::allows(files, question);
    let packet = packet(files, question, source_port);
    let (way, frame) = (way(files, question), packet.frame());
    let answer = bench.ask(&question.interface, way, &frame);
    if let Some(reason) = forbidden(files, question) {
        prop_assert_eq!(answer.reason, reason, "{:?}", question);
        return Ok(());
    }
    let right = match answer.reason {
        Reason::NewFlow | Reason::RuleOnly => expected,
        Reason::NoRule => !expected,
        _ => false,
    };
    prop_assert!(
        right,
        "the program says {:?}, the oracle {}, to {:?} in\n{}",
        answer,
        expected,
        question,
        serde_json::to_string_pretty(files).unwrap()
    );
    if matches!(question.transport, Transport::Tcp { .. } | Transport::Udp { .. }) {
        let index = bench.index(&question.interface);
        let ran = bench.raw(index, way, &frame);
        prop_assert_eq!(ran == Action::Allow, expected, "{:?} run, against {:?} asked", question, answer);
    }
    Ok(())
}

/// Every name under which something of a policy lies in the kernel's maps when the last change is finished.
fn left_behind(bench: &mut Bench) -> BTreeSet<&'static str> {
    bench.enforcer().settle();
    let maps = bench.enforcer().kernel().pins().maps();
    let open = |name: &str| MapData::from_pin(maps.join(name)).unwrap();
    let mut left = BTreeSet::new();
    fn any<B: Pod>(data: MapData, begins: impl Fn(B) -> [u32; 4]) -> bool {
        let map: Array<MapData, B> = Map::Array(data).try_into().unwrap();
        map.iter().flat_map(|bucket| begins(bucket.unwrap())).any(|begin| begin != 0)
    }
    fn any_class<K: Pod>(data: MapData) -> bool {
        let map: LpmTrie<MapData, K, Row> = Map::LpmTrie(data).try_into().unwrap();
        map.keys().next().is_some()
    }
    for (name, is_left) in [
        (map::CLASSES_V4, any_class::<ClassKeyV4>(open(map::CLASSES_V4))),
        (map::CLASSES_V6, any_class::<ClassKeyV6>(open(map::CLASSES_V6))),
        (
            map::MEMBERS_V4,
            any(open(map::MEMBERS_V4), |bucket: MembersV4| bucket.entries.map(|entry| entry.key.vpc)),
        ),
        (
            map::MEMBERS_V6,
            any(open(map::MEMBERS_V6), |bucket: MembersV6| bucket.entries.map(|entry| entry.key.vpc)),
        ),
        (
            map::PAIRS,
            any(open(map::PAIRS), |bucket: Pairs| bucket.entries.map(|entry| entry.key.policy_direction)),
        ),
        (map::INTERFACES, !bench.enforcer().kernel().devices().is_empty()),
    ] {
        if is_left {
            left.insert(name);
        }
    }
    left
}

fn empty() -> [Value; 1] {
    [json!({ "version": 1, "project": "shop", "vpc": "main" })]
}

/// Gives each device one hook for good: a change of hooks takes long and says nothing about rules.
fn with_hooks(mut files: Vec<Value>, hook: impl Fn(&str) -> &str) -> Vec<Value> {
    for interface in files.iter_mut().filter_map(|file| file.get_mut("interfaces")?.as_array_mut()).flatten()
    {
        interface["hook"] = hook(interface["name"].as_str().unwrap()).into();
    }
    files
}

/// Every other device is filtered by XDP.
fn ingress(device: &str) -> Ingress {
    let number = DEVICES.iter().position(|name| device == *name).unwrap();
    if number % 2 == 0 { Ingress::Xdp } else { Ingress::Tc }
}

#[test]
fn spec_1_to_4_the_loaded_programs_agree_with_the_oracle_through_every_change() {
    Bench::run(Ingress::Tc, &DEVICES, |bench| {
        let bench = RefCell::new(bench);
        let (count, questions, port) = (Cell::new(0u32), Cell::new(0u32), Cell::new(1024u16));
        let mut runner = TestRunner::new(config(file!(), policies(40)));
        let worlds = (any_world(), vec(any_edit(), 1..=9), vec(any_seed(), 30));
        let result = runner.run(&worlds, |(mut world, edits, seeds)| {
            let mut bench = bench.borrow_mut();
            for step in 0..=edits.len() {
                if let Some(edit) = step.checked_sub(1).and_then(|step| edits.get(step)) {
                    world.edit(edit);
                }
                let files = with_hooks(world.files(), |device| ingress(device).name());
                bench.apply(&files);
                count.set(count.get() + 1);
                for seed in &seeds {
                    let question = seed.question(&files);
                    bench.set_ingress(ingress(&question.interface));
                    port.set(port.get().checked_add(1).unwrap_or(1024));
                    questions.set(questions.get() + 1);
                    check(&mut bench, &files, &question, port.get())?;
                }
                // So that a port that comes round again is new.
                bench.forget();
            }
            Ok(())
        });
        told(result);
        let bench = bench.into_inner();
        println!("{} policies, {} questions", count.get(), questions.get());
        bench.apply(&empty());
        assert_eq!(left_behind(bench), BTreeSet::new());
    });
}

/// What the kernel says to many questions: reason, and which kind of rule it was.
fn answers(bench: &mut Bench, files: &[Value], questions: &[Question]) -> Vec<(Reason, u32)> {
    questions
        .iter()
        .filter(|question| interface(files, &question.interface)["kind"] != "bare_metal")
        .map(|question| {
            let frame = packet(files, question, 40_000).frame();
            let answer = bench.ask(&question.interface, way(files, question), &frame);
            (answer.reason, answer.admitted_by)
        })
        .collect()
}

/// A second filter on the same devices, with programs and maps of its own. XDP takes only one, TC takes many.
fn beside(bench: &Bench) -> Bench {
    let directory = &bench.directory;
    let name = directory.file_name().unwrap().to_str().unwrap();
    Bench::open(Ingress::Tc, &format!("{name}-beside"), directory, &DEVICES)
}

#[test]
fn spec_d21_what_was_in_force_before_does_not_matter() {
    // One filter lives through all policies; on the other each is the first after nothing.
    Bench::run(Ingress::Tc, &DEVICES, |lived| {
        let both = RefCell::new((beside(lived), lived));
        let mut runner = TestRunner::new(config(file!(), policies(20)));
        let worlds = (any_world(), vec(any_edit(), 1..=3), vec(any_seed(), 40));
        let result = runner.run(&worlds, |(mut world, edits, seeds): (World, Vec<Edit>, _)| {
            let (fresh, lived) = &mut *both.borrow_mut();
            lived.apply(&with_hooks(world.files(), |_| "tc"));
            for edit in &edits {
                world.edit(edit);
                lived.apply(&with_hooks(world.files(), |_| "tc"));
            }
            let files = with_hooks(world.files(), |_| "tc");
            fresh.apply(&empty());
            prop_assert_eq!(left_behind(fresh), BTreeSet::new());
            fresh.apply(&files);
            let questions: Vec<Question> = seeds.iter().map(|seed| seed.question(&files)).collect();
            prop_assert_eq!(answers(lived, &files, &questions), answers(fresh, &files, &questions));
            Ok(())
        });
        told(result);
    });
}

#[test]
fn spec_d21_policies_that_alternate_leave_nothing_behind() {
    // Each network may be reached at two ports that are not neighbours: each needs a port table of its own.
    const NETWORKS: usize = 80;
    let file = |shift: usize, members: &[&str]| {
        let rules = |network: usize| {
            [1, 10_000].map(|base| {
                let port = base + network + shift;
                json!({ "protocol": "TCP", "source": format!("10.{network}.0.0/16"), "port": port })
            })
        };
        let mut inbound: Vec<Value> = (0..NETWORKS).flat_map(rules).collect();
        inbound.push(json!({ "protocol": "TCP", "source": "@club", "port": 443 + shift }));
        let peers: Value =
            members.iter().map(|peer| json!({ "address": peer, "security_groups": ["club"] })).collect();
        [json!({
            "version": 1, "project": "shop", "vpc": "main", "peers": peers,
            "settings": { "quotas": { "rules_per_group": 1000 } },
            "security_groups": [{ "name": "test", "inbound": inbound }, { "name": "club" }],
            "interfaces": [
                { "name": "sg0", "hook": "tc", "addresses": ["10.200.0.1"], "security_groups": ["test"] }],
        })]
    };
    Bench::run(Ingress::Tc, &DEVICES[..1], |bench| {
        let files =
            [file(0, &["192.0.2.1", "192.0.2.2"]), file(1000, &["192.0.2.2", "192.0.2.3", "2001:db8::1"])];
        // Ten times as many as there are tables.
        let rounds = 10 * 1024 / NETWORKS;
        for round in 0..rounds {
            bench.apply(&files[round % 2]);
        }
        let last = &files[(rounds - 1) % 2];
        let mut questions = Vec::new();
        for remote in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "10.0.0.1", "10.79.255.255"] {
            for port in [1, 80, 443, 1001, 1080, 1443, 10_000, 10_079, 11_000, 11_079] {
                questions.push(Question {
                    interface: "sg0".to_owned(),
                    direction: Direction::Inbound,
                    remote: remote.parse().unwrap(),
                    transport: Transport::Tcp { port },
                });
            }
        }
        for (question, source_port) in questions.iter().zip(1024..) {
            check(bench, last, question, source_port).unwrap();
        }
        bench.apply(&empty());
        assert_eq!(left_behind(bench), BTreeSet::new());
    });
}
