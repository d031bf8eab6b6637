//! Shells complete what sgd knows at the moment.

use std::process::{Command, Stdio};

use serde_json::json;
use sg_tests::{Daemon, binary, on_terminal};

use crate::world::{DEADLINE, World, interface, policy};

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

fn started(world: &World) -> Daemon {
    let text = policy(json!({
        "security_groups": [{ "name": "web-tier" }, { "name": "web-admin" }],
        "interfaces": [interface(world.guest(0), &["web-tier"]), interface(world.guest(1), &["web-admin"])],
        "peers": [{ "address": "10.7.0.1", "security_groups": ["web-tier"] }],
    }));
    Daemon::start(&world.site, &text).unwrap()
}

/// What sgctl offers for the last word of a line, as it tells a shell.
fn offered(shell: &str, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(binary("sgctl").unwrap())
        .arg("--")
        .args(&words)
        .env("COMPLETE", shell)
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_IFS", "\n")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // zsh and fish are told more beside the word.
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(['\t', ':']).next().unwrap().to_owned()).collect()
}

#[test]
fn names_that_sgd_knows_are_offered_and_none_without_it() {
    let world = World::new(2);
    let mut daemon = started(&world);
    let socket = daemon.socket().display().to_string();
    for shell in SHELLS {
        for (line, expected) in [
            ("explain --interface ", &["tap0", "tap1"][..]),
            ("flows --interface tap", &["tap0", "tap1"]),
            ("interface wait ", &["tap0", "tap1"]),
            ("group copy web", &["web-admin", "web-tier"]),
            ("group copy --vpc ", &["main"]),
            ("rule add web-t", &["web-tier"]),
            ("rule add web-tier inbound --source @web-", &["@web-admin", "@web-tier"]),
            ("monitor --reason no_", &["no_rule"]),
            ("flows revoke --remote 10.", &["10.0.0.5", "10.0.0.6", "10.7.0.1"]),
            ("flows revoke --protocol s", &["sctp"]),
            ("explain --icmp-type echo-re", &["echo-reply", "echo-request"]),
            ("explain --fragment ", &["first", "middle", "last"]),
            ("completions ", &["bash", "zsh", "fish"]),
        ] {
            let mut words = offered(shell, &format!("sgctl --socket {socket} {line}"));
            words.retain(|word| !word.starts_with("--"));
            let mut expected: Vec<String> = expected.iter().map(|&word| word.to_owned()).collect();
            words.sort();
            expected.sort();
            assert_eq!(words, expected, "{shell}: {line}");
        }
    }
    daemon.kill();
    assert_eq!(offered("bash", &format!("sgctl --socket {socket} interface wait ta")), Vec::<String>::new());
}

/// In a real shell on a terminal: the script is read, a word begun, and the tabulator pressed.
#[test]
fn shells_complete_with_the_script_that_sgctl_prints() {
    let world = World::new(2);
    let daemon = started(&world);
    let socket = daemon.socket().display().to_string();
    let sgctl = binary("sgctl").unwrap();
    let path = format!("{}:{}", sgctl.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let environment = [("PATH", path.as_str()), ("HOME", "/nowhere"), ("PS1", "$ "), ("ZDOTDIR", "/nowhere")];
    for (shell, start, prepare) in [
        (
            "bash",
            "bash --noprofile --norc -i",
            "bind 'set show-all-if-ambiguous on'; source <(sgctl completions bash)",
        ),
        ("zsh", "zsh -f -i", "autoload -Uz compinit; compinit -D; source <(sgctl completions zsh)"),
    ] {
        // One name is completed, and the command run: it says which.
        let typed = format!("{prepare}\nsgctl --socket {socket} interface wait --timeout 10s tap1\t\nexit\n");
        let screen = on_terminal(start, &environment, &typed, DEADLINE * 3).unwrap();
        assert!(screen.contains("tap1: enforced"), "{shell} (`cargo xtask setup` installs it): {screen:?}");
        // Several are listed.
        let typed = format!("{prepare}\nsgctl --socket {socket} group copy we\t\t\nexit\n");
        let screen = on_terminal(start, &environment, &typed, DEADLINE * 3).unwrap();
        assert!(screen.contains("web-tier") && screen.contains("web-admin"), "{shell}: {screen:?}");
    }
    let fish =
        format!("sgctl completions fish | source; complete -C 'sgctl --socket {socket} interface wait ta'");
    let output = Command::new("fish").args(["--no-config", "-c", &fish]).envs(environment).output();
    let output = output.expect("fish runs (`cargo xtask setup` installs it)");
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(names, ["tap0", "tap1"], "{output:?}");
}

/// An option's name and its value are completed, and sgd run: its complaint has the one, and none of the other.
#[test]
fn shells_complete_the_options_of_sgd() {
    let sgctl = binary("sgctl").unwrap();
    let path = format!("{}:{}", sgctl.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let environment = [("PATH", path.as_str()), ("HOME", "/nowhere"), ("PS1", "$ "), ("ZDOTDIR", "/nowhere")];
    for (shell, start, prepare) in [
        ("bash", "bash --noprofile --norc -i", "source <(sgctl completions bash sgd)"),
        ("zsh", "zsh -f -i", "autoload -Uz compinit; compinit -D; source <(sgctl completions zsh sgd)"),
    ] {
        let typed = format!("{prepare}\nsgd --log-format js\t--live-f\t1\nexit\n");
        let screen = on_terminal(start, &environment, &typed, DEADLINE * 3).unwrap();
        assert!(screen.contains("1 is not in 1024..=16777216"), "{shell}: {screen:?}");
    }
    let fish = "sgctl completions fish sgd | source; complete -C 'sgd --log-format '";
    let output = Command::new("fish").args(["--no-config", "-c", fish]).envs(environment).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let values: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
    assert!(values.contains(&"json") && values.contains(&"text"), "{output:?}");
}
