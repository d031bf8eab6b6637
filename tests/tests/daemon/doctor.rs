//! `sgctl doctor`, with and without a daemon.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use sg_tests::{Daemon, binary};

use crate::world::{World, interface, policy, with};

/// What a host's doctor says, in the namespace of its devices.
fn doctor(world: &World, socket: &Path, arguments: &[&str]) -> Output {
    let mut command = world.site.host.command(binary("sgctl").unwrap());
    command.arg("--socket").arg(socket).arg("doctor").args(arguments).output().unwrap()
}

/// Without a daemon.
fn alone(world: &World, arguments: &[&str]) -> Output {
    doctor(world, Path::new("/nonexistent"), arguments)
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn device<'a>(report: &'a Value, name: &str) -> &'a Value {
    let devices = report["interfaces"].as_array().unwrap();
    devices.iter().find(|device| device["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// This host runs the tests, so nothing can be missing.
#[test]
fn doctor_says_that_this_host_can_run_sgd_and_by_which_hooks() {
    let world = World::new(1);
    let host = &world.site.host;
    host.ip("tuntap add dev tun0 mode tun\ntuntap add dev real0 mode tap").unwrap();
    let output = alone(&world, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = report(&output);
    assert_eq!(report["able"], true);
    assert_eq!(report["in_force"], Value::Null);
    for check in report["checks"].as_array().unwrap() {
        assert!(check["outcome"] == "good" || check["outcome"] == "warning", "{check:#}");
    }
    // In the lab guests are behind veths.
    let tap = device(&report, "tap0");
    let tells_xdp = sg_daemon::kernel::probe::version(&sg_daemon::kernel::probe::release()) >= Some((6, 3));
    let driver = if tells_xdp { "driver" } else { "unknown" };
    assert_eq!((&tap["kind"], &tap["driver"], &tap["xdp"]), (&json!("veth"), &json!("veth"), &json!(driver)));
    assert_eq!(tap["gso"], true, "{tap:#}");
    let hook = tap["hook"].as_str().unwrap();
    assert!(hook == "tcx" || hook == "clsact", "{tap:#}");
    assert_eq!(
        (&device(&report, "real0")["kind"], &device(&report, "real0")["hook"]),
        (&json!("tap"), &json!(hook))
    );
    assert_eq!(
        (&device(&report, "tun0")["kind"], &device(&report, "tun0")["hook"]),
        (&json!("tun"), &json!("none"))
    );
    assert_eq!(
        (&device(&report, "lo")["kind"], &device(&report, "lo")["hook"]),
        (&json!("loopback"), &json!("none"))
    );

    let output = alone(&world, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("This host can run sgd.") && text.contains("No sgd answers"), "{text}");
}

#[test]
fn doctor_says_what_is_in_force_and_auto_comes_to_what_it_said() {
    let world = World::new(2);
    let (a, b) = (world.guest(0), world.guest(1));
    world.site.host.ip("tuntap add dev real0 mode tap").unwrap();
    let policy = policy(json!({
        "security_groups": [{ "name": "webs" }],
        "interfaces": [
            interface(a, &["webs"]),
            with(interface(b, &["webs"]), "hook", "xdp"),
            { "name": "real0", "addresses": ["10.0.0.7"], "security_groups": ["webs"] },
            { "name": "br0", "role": "host", "addresses": ["10.0.0.2"], "security_groups": ["webs"] },
        ],
    }));
    let daemon = Daemon::start(&world.site, &policy).unwrap();
    let output = doctor(&world, &daemon.socket(), &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = report(&output);
    let said = &device(&report, "tap0")["hook"];
    for (name, kind) in [("tap0", "veth"), ("real0", "tap"), ("br0", "bridge")] {
        let device = device(&report, name);
        assert_eq!((&device["kind"], &device["hook"]), (&json!(kind), said), "{device:#}");
        assert_eq!(report["in_force"][name], json!([said, said]), "{report:#}");
        let why = device["why"].as_str().unwrap();
        assert!(why.starts_with("\"auto\" is TC: "), "{why}");
    }
    assert_eq!(report["in_force"]["tap1"], json!(["xdp", said]), "{report:#}");
}

/// Nothing is guessed: without rights the answer is that it is not known.
#[test]
fn doctor_without_rights_says_that_it_does_not_know() {
    let world = World::new(1);
    let mut command = world.site.host.command("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]);
    // Where others may read it.
    let program = world.site.lab.directory().join("sgctl");
    std::fs::copy(binary("sgctl").unwrap(), &program).unwrap();
    let open = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(world.site.lab.directory());
    open(&program);
    let output =
        command.arg(&program).args(["--socket", "/nonexistent", "doctor", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let report = report(&output);
    assert_eq!(report["able"], Value::Null, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let atomics = checks.iter().find(|check| check["name"] == "atomics").unwrap();
    assert_eq!(
        (&atomics["outcome"], &atomics["advice"]),
        (&json!("unknown"), &json!("run this as root")),
        "{atomics:#}"
    );
}
