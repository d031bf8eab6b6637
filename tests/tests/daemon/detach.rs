//! `sgd --detach`: the filter taken off without a daemon.

use std::process::{Command, Output};

use serde_json::json;
use sg_tests::{Daemon, binary, outside};

use crate::world::{World, alive, allowed, denied, expect, interface, policy, tcp_from};

fn detach(world: &World, daemon: &Daemon) -> Output {
    let mut command: Command = world.site.host.command(binary("sgd").unwrap());
    command.arg("--detach").arg("--pin-dir").arg(daemon.pin_dir()).output().unwrap()
}

#[test]
fn a_filter_that_an_sgd_has_left_is_taken_off_by_whatever_it_was_attached() {
    for (tc, hooks) in [("auto", ["auto", "xdp"]), ("clsact", ["tc", "xdp"])] {
        let world = World::new(2);
        let interfaces: Vec<_> = hooks
            .into_iter()
            .enumerate()
            .map(|(number, hook)| {
                let mut interface = interface(world.guest(number), &["webs"]);
                interface["hook"] = hook.into();
                interface
            })
            .collect();
        let text = policy(json!({
            "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
            "interfaces": interfaces,
        }));
        let mut daemon = Daemon::start_with(&world.site, &text, &["--tc", tc]).unwrap();
        let guests = [0, 1].map(|number| world.guest(number).v4);
        let refused = guests.map(|guest| denied(world.tcp(outside::STRANGER, guest, 80)));
        let mut held = guests.map(|guest| world.hold(&world.tcp(outside::ADMIN, guest, 80)));
        world.expect(&refused);

        let no = detach(&world, &daemon);
        let said = String::from_utf8_lossy(&no.stderr).into_owned();
        assert!(!no.status.success() && said.contains("another sgd"), "{tc}: {said}");
        expect(&refused);

        daemon.kill();
        expect(&refused);
        let yes = detach(&world, &daemon);
        let said = String::from_utf8_lossy(&yes.stdout).into_owned();
        assert_eq!(said, "sgd: detached, not filtered any more: tap0, tap1\n", "{tc}: {yes:?}");
        expect(&guests.map(|guest| allowed(world.tcp(outside::STRANGER, guest, 80))));
        held.iter_mut().for_each(alive);
        assert!(!daemon.pin_dir().exists(), "{tc}");

        let nothing = detach(&world, &daemon);
        assert!(nothing.status.success() && nothing.stdout.starts_with(b"sgd: nothing"), "{nothing:?}");
        // As if there never had been one.
        daemon.resume().unwrap();
        expect(&refused);
    }
}
