//! What `explain` advises, against the oracle and the decisions in memory, no kernel involved (SPEC section 8).

use std::cell::RefCell;

use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use serde_json::{Value, json};
use sg_common::abi::Direction::Outbound;
use sg_common::verdict::{Action, Reason};
use sg_daemon::api::explain::{Addition, ExplainAnswer, ExplainQuestion, Verdict};
use sg_daemon::api::types::Direction;
use sg_daemon::compile::compile;
use sg_daemon::explain::{by_rules, frames};
use sg_oracle::host::Host;
use sg_oracle::trial::ROOM;

use crate::rules::{self, Question, Transport};
use crate::world::{any_seed, any_world};
use crate::{config, load, policies, told};

/// IPv6 extension headers: no protocols that could be asked about.
const EXTENSIONS: [u8; 10] = [0, 43, 44, 51, 60, 135, 139, 140, 253, 254];

/// The oracle's question as an operator puts it.
fn put(question: &Question) -> ExplainQuestion {
    let direction = match question.direction {
        rules::Direction::Inbound => Direction::Inbound,
        rules::Direction::Outbound => Direction::Outbound,
    };
    let (port, icmp) = match question.transport {
        Transport::Tcp { port } | Transport::Udp { port } => (Some(port), None),
        Transport::Icmp { kind, code } => (None, Some((kind, code))),
        Transport::Other(_) => (None, None),
    };
    ExplainQuestion {
        interface: question.interface.clone(),
        direction,
        protocol: Some(question.protocol().to_string()),
        remote: Some(question.remote),
        port,
        icmp_type: icmp.map(|(kind, _)| kind),
        icmp_code: icmp.map(|(_, code)| code),
        ..ExplainQuestion::default()
    }
}

/// The policy with the rule in it, as a person would add it.
fn with(files: &[Value], addition: &Addition, interface: &str) -> Vec<Value> {
    let mut files = files.to_vec();
    let written = |file: &Value| {
        file["project"] == addition.project.as_str()
            && addition.vpc.as_ref().is_none_or(|vpc| file["vpc"] == vpc.as_str())
            && rules::list(file, "security_groups")
                .iter()
                .any(|group| group["name"] == addition.group.as_str())
    };
    if !files.iter().any(written) {
        // `default`, which nobody has written yet.
        assert_eq!(addition.group, "default");
        let home = files
            .iter_mut()
            .find(|file| rules::list(file, "interfaces").iter().any(|other| other["name"] == interface))
            .unwrap();
        let groups = home.as_object_mut().unwrap().entry("security_groups").or_insert_with(|| json!([]));
        groups.as_array_mut().unwrap().push(json!({ "name": "default" }));
    }
    let home = files.iter_mut().find(|file| written(file)).unwrap();
    let groups = home["security_groups"].as_array_mut().unwrap();
    let group = groups.iter_mut().find(|group| group["name"] == addition.group.as_str()).unwrap();
    let group = group.as_object_mut().unwrap();
    let absent = !group.contains_key(&addition.list);
    assert!(absent || addition.keep.is_empty(), "what is written stands for itself");
    let rules = group.entry(addition.list.clone()).or_insert_with(|| json!([])).as_array_mut().unwrap();
    rules.extend(addition.keep.iter().cloned());
    rules.push(addition.rule.clone());
    files
}

#[derive(Debug, Default)]
struct Seen {
    allowed: u32,
    denied: u32,
    added: std::collections::BTreeMap<&'static str, u32>,
    judged: u32,
}

#[test]
fn spec_8_the_rule_that_explain_adds_lets_the_packet_pass_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let seen = RefCell::new(Seen::default());
    let config = config(file!(), policies(150));
    // A case takes its time, and says enough as it is.
    let mut runner = TestRunner::new(Config { max_shrink_iters: 64, ..config });
    let result = runner.run(&(any_world(), vec(any_seed(), 24)), |(world, seeds)| {
        let files = world.files();
        let model = load(directory.path(), &files);
        let image = compile(&model);
        let questions: Vec<Question> = seeds.iter().map(|seed| seed.question(&files)).collect();
        // Loading a policy again for each question is what takes the time.
        for question in questions.iter().take(8) {
            let shown = || format!("{question:?} in\n{}", serde_json::to_string_pretty(&files).unwrap());
            let number = question.protocol();
            if question.remote.is_ipv6() && EXTENSIONS.contains(&number) {
                prop_assert!(by_rules(&model, &image, &put(question)).is_err(), "{}", shown());
                continue;
            }
            let asked = put(question);
            let answer: ExplainAnswer = by_rules(&model, &image, &asked).unwrap();
            let allowed = rules::allows(&files, question);
            if is_bare(&files, &question.interface) {
                continue;
            }
            prop_assert_eq!(
                answer.verdict,
                if allowed { Verdict::Allow } else { Verdict::Drop },
                "{}",
                shown()
            );
            prop_assert_eq!(answer.rules.is_empty(), !allowed);
            if allowed {
                seen.borrow_mut().allowed += 1;
                continue;
            }
            seen.borrow_mut().denied += 1;
            let nearest_says =
                answer.nearest.as_ref().is_none_or(|rule| !rule.because.as_deref().unwrap().is_empty());
            prop_assert!(nearest_says, "{answer:?} to {}", shown());
            let Some(addition) = answer.add.clone() else {
                prop_assert!(false, "nothing to add: {answer:?} to {}", shown());
                return Ok(());
            };
            // The policy engine takes it, and then the oracle and the compiler allow the packet.
            let after = with(&files, &addition, &question.interface);
            let model = load(directory.path(), &after);
            let told = || format!("{addition:?} for {}", shown());
            prop_assert!(rules::allows(&after, question), "{}", told());
            let again = by_rules(&model, &compile(&model), &asked).unwrap();
            prop_assert_eq!(again.verdict, Verdict::Allow, "{}", told());
            let rule = addition.rule.clone();
            prop_assert!(
                again.rules.iter().any(|found| found.group.as_ref() == Some(&addition.group)),
                "{}",
                rule
            );
            *seen.borrow_mut().added.entry(kind(question)).or_default() += 1;
            // Nothing that passed is lost, and nothing else passes: where an absent `default` of several VPCs is written, what it
            // stood for is what the widest of them had.
            let widened = addition.group == "default" && !addition.keep.is_empty();
            for other in questions.iter().filter(|other| !is_bare(&files, &other.interface)) {
                let (before, now) = (rules::allows(&files, other), rules::allows(&after, other));
                prop_assert!(now || !before, "{other:?} is lost by {}", told());
                let alike = other.remote == question.remote
                    && (other.transport == question.transport
                        || addition.rule.get("icmp_code").is_none()
                            && is_of_type(other.transport, question.transport));
                let metadata = rules::in_cidr(question.remote, "169.254.169.0/24");
                prop_assert!(
                    before || !now || alike || metadata || widened,
                    "{other:?} passes too by {}",
                    told()
                );
            }
            // As packets are judged, with a frame and all guards.
            let frame = frames(&model, &asked).unwrap().remove(0);
            let host = model.interfaces.iter().any(|interface| {
                interface.name == question.interface && interface.role == sg_daemon::policy::model::Role::Host
            });
            let ingress = (Direction::Outbound == asked.direction) != host;
            let judge = |files: &[Value]| Host::new(files, ROOM).judge(&question.interface, ingress, &frame);
            let before = judge(&files);
            let outbound = before.direction() == Outbound;
            prop_assert_eq!(outbound, asked.direction == Direction::Outbound);
            if before.verdict.reason() == Some(Reason::NoRule) {
                seen.borrow_mut().judged += 1;
                let now = judge(&after);
                prop_assert!(matches!(now.action(), Action::Allow), "{now:?} after {}", told());
            }
        }
        Ok(())
    });
    told(result);
    let seen = seen.into_inner();
    println!("{seen:?}");
    assert!(seen.allowed > 100 && seen.denied > 100 && seen.judged > 100, "{seen:?}");
    for kind in ["tcp", "udp", "icmp", "other", "tcp6", "udp6", "icmp6", "other6"] {
        assert!(seen.added.get(kind).is_some_and(|&count| count >= 5), "{kind}: {seen:?}");
    }
}

fn is_bare(files: &[Value], name: &str) -> bool {
    let mut interfaces = files.iter().flat_map(|file| rules::list(file, "interfaces"));
    interfaces.any(|interface| interface["name"] == name && interface["kind"] == "bare_metal")
}

fn kind(question: &Question) -> &'static str {
    match (question.transport, question.remote.is_ipv6()) {
        (Transport::Tcp { .. }, false) => "tcp",
        (Transport::Udp { .. }, false) => "udp",
        (Transport::Icmp { .. }, false) => "icmp",
        (Transport::Other(_), false) => "other",
        (Transport::Tcp { .. }, true) => "tcp6",
        (Transport::Udp { .. }, true) => "udp6",
        (Transport::Icmp { .. }, true) => "icmp6",
        (Transport::Other(_), true) => "other6",
    }
}

/// Both are ICMP of one type: a rule for a query names no code.
fn is_of_type(one: Transport, other: Transport) -> bool {
    match (one, other) {
        (Transport::Icmp { kind, .. }, Transport::Icmp { kind: of_other, .. }) => kind == of_other,
        _ => false,
    }
}
