use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use serde_json::{Value, json};
use sg_common::abi::Direction;

use super::super::{NextIds, plan};
use super::*;
use crate::compile::compile;
use crate::policy;

const CAPACITY: Capacity = Capacity { port_tables: 1000, entries: [1000; Table::COUNT] };

/// Networks inside of each other and beside each other, and where peers may be.
const NETS: [&str; 6] =
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.0.2.0/24", "198.51.100.0/24"];
const PEERS: [&str; 4] = ["10.1.2.3", "10.1.2.4", "192.0.2.7", "203.0.113.1"];
const PORTS: [&str; 3] = ["22", "80", "5000-5010"];

/// The rules of two groups, by direction, and what groups each of the peers is in, if it is one.
#[derive(Debug, Clone, Default)]
struct Site {
    rules: [[Vec<(usize, usize)>; 2]; 2],
    peers: [Option<bool>; PEERS.len()],
}

impl Site {
    fn image(&self) -> Image {
        // Groups that say the same would be one policy.
        let groups = [("webs", 8080), ("apps", 8081)].into_iter().zip(&self.rules).map(|((name, port), lists)| {
            let list = |rules: &[(usize, usize)], remote: &str| -> Value {
                let of_group = json!({ "protocol": "TCP", remote: "@webs", "port": port });
                let of_nets = rules
                    .iter()
                    .map(|&(net, port)| json!({ "protocol": "TCP", remote: NETS[net], "port": PORTS[port] }));
                of_nets.chain([of_group]).collect()
            };
            let [inbound, outbound] = lists;
            json!({ "name": name, "inbound": list(inbound, "source"), "outbound": list(outbound, "destination") })
        });
        let peers = PEERS.iter().zip(self.peers).filter_map(|(address, both)| {
            let groups = if both? { &["webs", "apps"][..] } else { &["webs"] };
            Some(json!({ "address": address, "security_groups": groups }))
        });
        let document = json!({
            "version": 1, "project": "shop", "vpc": "main",
            "security_groups": groups.collect::<Vec<_>>(), "peers": peers.collect::<Vec<_>>(),
            "interfaces": [
                { "name": "tap0", "addresses": ["172.16.0.1"], "security_groups": ["webs"] },
                { "name": "tap1", "addresses": ["172.16.0.2"], "security_groups": ["apps"] },
            ],
        });
        let file = (PathBuf::from("p.json"), document.to_string().into_bytes());
        compile(&policy::load_bytes([file]).unwrap().model)
    }

    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Rule(group, list, net, port) => {
                let rules = &mut self.rules[group][list];
                match rules.iter().position(|&rule| rule == (net, port)) {
                    Some(index) => drop(rules.remove(index)),
                    None => rules.push((net, port)),
                }
            }
            Edit::Peer(peer, groups) => self.peers[peer] = groups,
            Edit::Wait(_) => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    /// A rule that is added, or removed where it is there.
    Rule(usize, usize, usize, usize),
    /// A peer that comes, goes or changes its groups.
    Peer(usize, Option<bool>),
    /// None. Packets are waited for that began before one of the last policies was in force.
    Wait(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        8 => (0..2usize, 0..2usize, 0..NETS.len(), 0..PORTS.len())
            .prop_map(|(group, list, net, port)| Edit::Rule(group, list, net, port)),
        8 => (0..PEERS.len(), prop::option::of(prop::bool::weighted(0.2)))
            .prop_map(|(peer, groups)| Edit::Peer(peer, groups)),
        1 => (0..3usize).prop_map(Edit::Wait),
    ]
}

/// A kernel, and the policies that packets may be in the middle of: the one in force, and those before it that were not waited
/// for.
struct Kernel {
    resident: Resident,
    generation: u64,
    seen: Vec<Arc<Image>>,
    /// Sets of ports, by index, that some of them may refer to.
    tables: BTreeMap<u32, Ranges>,
}

/// How a policy came in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    AtOnce,
    AfterAWait,
    Swap,
}

impl Kernel {
    fn new(image: Image) -> Self {
        let nothing =
            Resident::inherit(NextIds { policy: 1, set: 1, vpc: 1, guard: 1 }, Vec::new(), &BTreeSet::new());
        let resident = plan(&image, &nothing, CAPACITY).unwrap().resident;
        let mut kernel =
            Self { resident, generation: 1, seen: vec![Arc::new(image)], tables: BTreeMap::new() };
        kernel.tables_are_settled();
        kernel
    }

    fn tables_are_settled(&mut self) {
        let tables = self.resident.port_tables.iter();
        self.tables = tables.map(|(ranges, index)| (*index, ranges.clone())).collect();
    }

    /// A step that packets may see beside those before it.
    fn step(&mut self, patch: Patch, image: Arc<Image>) {
        for entry in &patch.write {
            if let Entry::PortTable { index, ranges } = entry {
                let before = self.tables.insert(*index, ranges.clone());
                assert_eq!(before, None, "a set of ports that a packet may look at is written over");
            }
        }
        self.generation += 1;
        self.resident.patched(patch, self.generation);
        self.seen.push(image);
    }

    fn wait(&mut self, steps_ago: usize) {
        let seen = self.seen.len().min(steps_ago + 1);
        self.seen.drain(..self.seen.len() - seen);
        self.resident.waited_for(self.generation - (seen as u64 - 1));
        assert_eq!(self.resident.steps(), seen - 1);
    }

    /// As the enforcer does it.
    fn put_in_force(&mut self, image: Image) -> Way {
        let image = Arc::new(image);
        let before = Arc::clone(self.seen.last().unwrap());
        let at_once = patch(&image, &before, &self.resident, CAPACITY);
        if let Some(patch) = at_once.filter(|patch| self.resident.may_follow(patch)) {
            self.step(patch, image);
            return Way::AtOnce;
        }
        self.resident.settle();
        self.tables_are_settled();
        self.seen = vec![Arc::clone(&before)];
        if let Some(patch) = patch(&image, &before, &self.resident, CAPACITY) {
            self.step(patch, image);
            return Way::AfterAWait;
        }
        self.resident = plan(&image, &self.resident, CAPACITY).unwrap().resident;
        self.generation += 1;
        self.tables_are_settled();
        self.seen = vec![image];
        Way::Swap
    }
}

/// What is in an element that a packet looks at.
#[derive(Debug, Clone, PartialEq)]
enum Element {
    Class(Option<Cells>),
    Set(Option<Arc<SetName>>),
}

/// All elements that a packet of one direction asks, for its remote: those of the classes that may hold it, from the widest on,
/// and its set.
fn elements(image: &Image, policy: &PolicyImage, direction: Direction, remote: IpAddr) -> Vec<Element> {
    let nets = NETS.iter().map(|net| net.parse::<Ipv4Net>().unwrap());
    let nets = nets.filter(|net| IpNet::V4(*net).contains(&remote));
    let rules = policy.direction(direction);
    let classes = nets.map(|net| Element::Class(rules.v4.get(&net).cloned()));
    classes.chain([Element::Set(image.members.get(&policy.vpc, remote).cloned())]).collect()
}

/// What it makes of them: the narrowest class, and the set.
fn outcome(elements: &[&Element]) -> (Option<Cells>, Option<Arc<SetName>>) {
    let (mut class, mut its_set) = (None, None);
    for element in elements {
        match element {
            Element::Class(Some(cells)) => class = Some(cells.clone()),
            Element::Class(None) => {}
            Element::Set(set) => its_set = set.clone(),
        }
    }
    (class, its_set)
}

/// A piece of a datagram asks both directions, and passes if there is a rule of any for its remote. It looks for its set once,
/// as `sg_common::classify::touches` does.
fn passes(policy: &PolicyImage, elements: &[&Element]) -> bool {
    let (set, classes): (Vec<&Element>, Vec<&Element>) =
        elements.iter().partition(|element| matches!(element, Element::Set(_)));
    let (inbound, outbound) = classes.split_at(classes.len() / 2);
    [(&policy.inbound, inbound), (&policy.outbound, outbound)].into_iter().any(|(rules, classes)| {
        let (class, set) = outcome(&[classes, set.as_slice()].concat());
        class.is_some_and(|class| !class.is_empty())
            || set.and_then(|set| set.cells(rules, false)).is_some_and(|cells| !cells.is_empty())
    })
}

/// Every way to look at the elements one after the other, while one state follows the other.
fn looks<'e>(
    states: &'e [Vec<Element>],
    from: usize,
    looked: &mut Vec<&'e Element>,
    judge: &mut impl FnMut(&[&Element]),
) {
    let next = looked.len();
    if next == states[0].len() {
        return judge(looked);
    }
    // At an element that is always the same it does not matter when.
    let same = states.iter().all(|state| state[next] == states[0][next]);
    for time in from..if same { from + 1 } else { states.len() } {
        looked.push(&states[time][next]);
        looks(states, time, looked, judge);
        looked.pop();
    }
}

/// The set last, and first.
fn each_order(states: &[Vec<Element>], judge: &mut impl FnMut(&[Vec<Element>])) {
    let mut states = states.to_vec();
    judge(&states);
    states.iter_mut().for_each(|state| state.rotate_right(1));
    judge(&states);
}

fn refs(elements: &[Element]) -> Vec<&Element> {
    elements.iter().collect()
}

static AT_ONCE: AtomicU32 = AtomicU32::new(0);

#[test]
fn spec_d21_whoever_looks_while_steps_follow_each_other_sees_one_policy() {
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(edits in prop::collection::vec(edit(), 1..25))| {
        let mut site = Site::default();
        let mut kernel = Kernel::new(site.image());
        for edit in edits {
            site.edit(edit);
            if let Edit::Wait(steps_ago) = edit {
                kernel.wait(steps_ago);
                continue;
            }
            let way = kernel.put_in_force(site.image());
            if way == Way::AtOnce && kernel.seen.len() > 2 {
                AT_ONCE.fetch_add(1, Ordering::Relaxed);
            }
            let now = kernel.seen.last().unwrap();
            for (policy, remote) in (0..2).flat_map(|policy| PEERS.map(|remote| (policy, remote.parse().unwrap()))) {
                // Groups are the same all the time.
                let rules = &now.policies[policy];
                let states = |direction| -> Vec<Vec<Element>> {
                    let state = |image: &Arc<Image>| elements(image, &image.policies[policy], direction, remote);
                    kernel.seen.iter().map(state).collect()
                };
                let [inbound, outbound] = [Direction::Inbound, Direction::Outbound].map(states);
                for states in [&inbound, &outbound] {
                    each_order(states, &mut |states| {
                        let possible: Vec<_> = states.iter().map(|state| outcome(&refs(state))).collect();
                        looks(states, 0, &mut Vec::new(), &mut |looked| {
                            let seen = outcome(looked);
                            assert!(possible.contains(&seen), "{remote} sees {seen:?} after {edit:?}");
                        });
                    });
                }
                let classes = |state: Vec<Element>| state.into_iter().filter(|element| matches!(element, Element::Class(_)));
                let both = inbound.into_iter().zip(outbound);
                let both: Vec<Vec<Element>> = both.map(|(inbound, outbound)| classes(inbound).chain(outbound).collect()).collect();
                each_order(&both, &mut |states| {
                    let possible: Vec<bool> = states.iter().map(|state| passes(rules, &refs(state))).collect();
                    looks(states, 0, &mut Vec::new(), &mut |looked| {
                        assert!(possible.contains(&passes(rules, looked)), "a piece of {remote} after {edit:?}");
                    });
                });
            }
        }
    });
    let at_once = AT_ONCE.load(Ordering::Relaxed);
    assert!(at_once > 100, "only {at_once} steps followed another one at once");
}

#[test]
fn spec_d21_a_step_waits_for_packets_that_may_have_seen_what_was_before_the_one_before_it() {
    use Way::{AfterAWait, AtOnce};
    const EVERYWHERE: usize = 0;
    const TEN: usize = 1;
    const WIDE: usize = 2;
    const HOST: usize = 3;
    const ELSEWHERE: usize = 4;
    let inbound = |net, port| Edit::Rule(0, 0, net, port);
    for (first, second, way) in [
        // Members beside each other, and the same one.
        (Edit::Peer(0, Some(false)), Edit::Peer(1, Some(false)), AtOnce),
        (Edit::Peer(0, Some(false)), Edit::Peer(0, None), AfterAWait),
        // Rules on one network, on one in the other, on one beside it; in another direction; of another group.
        (inbound(TEN, 0), inbound(TEN, 1), AtOnce),
        (inbound(TEN, 0), inbound(WIDE, 1), AfterAWait),
        (inbound(TEN, 0), inbound(ELSEWHERE, 0), AtOnce),
        (inbound(TEN, 0), Edit::Rule(0, 1, TEN, 0), AfterAWait),
        (inbound(TEN, 0), Edit::Rule(1, 0, EVERYWHERE, 1), AtOnce),
        // A rule takes the place of a member, and the other way round.
        (Edit::Peer(0, Some(false)), inbound(HOST, 0), AfterAWait),
        (inbound(TEN, 0), Edit::Peer(1, Some(false)), AfterAWait),
        (inbound(TEN, 0), Edit::Peer(2, Some(false)), AtOnce),
    ] {
        let mut site = Site::default();
        let mut kernel = Kernel::new(site.image());
        site.edit(first);
        assert_eq!(kernel.put_in_force(site.image()), AtOnce, "{first:?}");
        site.edit(second);
        assert_eq!(kernel.put_in_force(site.image()), way, "{first:?}, then {second:?}");
    }
}

#[test]
fn spec_d21_what_is_left_of_steps_is_bounded() {
    let mut site = Site::default();
    let mut kernel = Kernel::new(site.image());
    let mut waits = 0;
    for round in 0..200 {
        site.edit(Edit::Rule(0, 0, 1, round % 3));
        waits += u32::from(kernel.put_in_force(site.image()) == Way::AfterAWait);
        assert!(kernel.resident.steps() <= STEPS);
    }
    assert_eq!(waits, 200 / STEPS as u32);
}
