//! Everything that can happen in a small world within a few steps, before the oracle and the decisions of `sg-common`.
//!
//! `SGD_ORACLE_STEPS` sets how many steps instead of the default.

use sg_oracle::trial::{ROOM, Trial};
use sg_oracle::{progress, small};

#[test]
fn spec_d10_to_d16_all_that_can_happen_in_a_small_world() {
    let length = std::env::var("SGD_ORACLE_STEPS").map_or(4, |text| text.parse().expect("a number of steps"));
    for world in small::all() {
        progress::of(world.count(length));
        let mut trial = Trial::new(&world.files, ROOM);
        for number in 0..world.count(length) {
            if let Err(error) = trial.steps(&world.sequence(length, number)) {
                panic!("{} {number}: {error}", world.name);
            }
            trial = trial.forget();
            progress::done(1);
        }
        println!("{}: {} sequences of {length} steps", world.name, world.count(length));
    }
}
