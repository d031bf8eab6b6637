//! Another `sgd` takes over under traffic.

use std::path::PathBuf;

use sg_tests::{Daemon, binary};

use super::Toll;
use super::traffic::{the_policy, under_traffic};
use crate::world::World;

/// The `sgd` before this one, which the long form has built from an earlier commit; without it, the same.
fn before() -> PathBuf {
    match std::env::var_os("SGD_BEFORE_BIN_DIR") {
        Some(directory) => PathBuf::from(directory).join("sgd"),
        None => binary("sgd").unwrap(),
    }
}

#[test]
fn spec_d20_an_upgrade_costs_neither_a_connection_nor_a_verdict() {
    const UPGRADES: u64 = 2;
    let world = World::new(2);
    let text = the_policy(&world, Vec::new());
    let mut daemon = Daemon::start_program(&world.site, &text, before(), &[]).unwrap();
    let cost = under_traffic(&world, &mut daemon, 3 * UPGRADES, |daemon| {
        for upgrade in 0..UPGRADES {
            // There, and back and there again: a way back is an upgrade too.
            for program in [binary("sgd").unwrap(), before()] {
                daemon.terminate().unwrap();
                daemon.set_program(program);
                daemon.resume().unwrap();
            }
            assert_eq!(daemon.log().matches(" ready").count() as u64, 1 + 2 * (upgrade + 1));
        }
        daemon.terminate().unwrap();
        daemon.set_program(binary("sgd").unwrap());
        daemon.resume().unwrap();
    });
    Toll {
        fault: "an upgrade from the commit before, and back",
        times: UPGRADES,
        lost: cost.lost,
        wrong: cost.wrong,
        note: cost.note,
    }
    .settle();
}
