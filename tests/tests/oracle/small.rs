//! Everything that can happen in a small world within a few steps, through the programs in the kernel too.

use sg_oracle::trial::ROOM;
use sg_oracle::{progress, small};

use crate::bench::{Bench, Ingress};
use crate::chosen;
use crate::filter::Filter;
use crate::sequences::{Policy, on_xdp};

#[test]
fn spec_d10_to_d16_all_that_can_happen_in_a_small_world_happens_so_in_the_kernel() {
    let length = chosen("SGD_ORACLE_STEPS", 3);
    Bench::run(Ingress::Xdp, &["sg0"], |bench| {
        let mut filter = Filter::new(bench);
        for world in small::all() {
            filter.apply(&on_xdp(world.files.clone()), ROOM);
            progress::of(world.count(length));
            let mut policy = Policy::new(&world.files, ROOM);
            for number in 0..world.count(length) {
                if let Err(error) = policy.run(&mut filter, &world.sequence(length, number)) {
                    panic!("{} {number}: {error}", world.name);
                }
                progress::done(1);
            }
            assert_eq!(filter.moved(), "", "{}", world.name);
            println!("{}: {} sequences of {length} steps", world.name, world.count(length));
        }
    });
}
