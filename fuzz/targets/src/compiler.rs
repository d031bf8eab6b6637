//! A policy that is always valid, made from the bytes, and questions about it.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use sg_common::abi;
use sg_daemon::compile::compile;
use sg_daemon::compile::image::Image;
use sg_daemon::policy;
use sg_oracle::rules::{self, Direction, Question, Transport};
use sg_oracle::world::{Edit, Seed, World, any_edit, any_seed, any_world};

/// So many bytes are the dice for one piece of the world.
const DICE: usize = 3;
const MOST_EDITS: usize = 12;

/// A world is thrown with the first bytes, and each of the next few changes one thing about it: so what a fuzzer adds, drops and
/// exchanges are changes. (proptest's own `PassThrough` halves the bytes at each choice, and a world has hundreds.)
pub fn compiler(bytes: &[u8]) {
    // Making a strategy takes longer than using it.
    thread_local! {
        static WORLDS: BoxedStrategy<World> = any_world().boxed();
        static EDITS: BoxedStrategy<Edit> = any_edit().boxed();
        static SEEDS: BoxedStrategy<Vec<Seed>> = vec(any_seed(), 24).boxed();
    }
    let mut dice = bytes.chunks(DICE);
    let first = dice.next().unwrap_or_default();
    let mut world = WORLDS.with(|worlds| thrown(worlds, first));
    for dice in dice.take(MOST_EDITS) {
        world.edit(&EDITS.with(|edits| thrown(edits, dice)));
    }
    let files = world.files();
    let texts = files
        .iter()
        .enumerate()
        .map(|(index, file)| (format!("{index}.json").into(), file.to_string().into()));
    let image = match policy::load_bytes(texts) {
        Ok(loaded) => compile(&loaded.model),
        Err(error) => panic!("worlds are valid policies: {error}"),
    };
    for seed in SEEDS.with(|seeds| thrown(seeds, first)) {
        agrees(&image, &files, &seed.question(&files));
    }
}

/// What a strategy makes of a few bytes; of the same bytes the same.
pub(crate) fn thrown<S: Strategy>(strategy: &S, dice: &[u8]) -> S::Value {
    let mut seed = [0; 32];
    seed[..dice.len()].copy_from_slice(dice);
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    strategy.new_tree(&mut runner).unwrap().current()
}

/// The image's answer is the oracle's.
pub(crate) fn agrees(image: &Image, files: &[Value], question: &Question) {
    let (said, expected) = (admits(image, question), rules::allows(files, question));
    if said != expected {
        let policy = serde_json::to_string_pretty(files).unwrap();
        panic!("the image says {said}, the oracle {expected}, to {question:?} in\n{policy}");
    }
}

/// What the image says.
pub fn admits(image: &Image, question: &Question) -> bool {
    let interface = image.interfaces.iter().find(|interface| interface.name == question.interface).unwrap();
    // K3: no policy, no filter.
    let Some(policy) = interface.policy.and_then(|policy| image.policies.get(policy)) else { return true };
    let direction = match question.direction {
        Direction::Inbound => abi::Direction::Inbound,
        Direction::Outbound => abi::Direction::Outbound,
    };
    let number = match question.transport {
        Transport::Tcp { port } | Transport::Udp { port } => port,
        Transport::Icmp { kind, code } => u16::from_be_bytes([kind, code]),
        Transport::Other(number) => number.into(),
    };
    let set = image.members.get(&interface.vpc, question.remote).map(Arc::as_ref);
    policy.admits(direction, question.remote, set, question.protocol(), number)
}
