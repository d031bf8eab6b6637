//! Progress and colours: for whoever watches a terminal, and for nobody else.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use sg_tests::{Daemon, binary, on_terminal};

use crate::world::{DEADLINE, World, interface, policy, tcp_from};

/// A daemon that thinks for a while before it says that nothing differs. It answers as often as it is asked.
fn slow_daemon(directory: &std::path::Path) -> std::path::PathBuf {
    let path = directory.join("slow.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 65_536]);
            sleep(Duration::from_secs(4));
            let body = json!({ "old_files": [], "new_files": [], "changes": [] }).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    path
}

#[test]
fn long_work_shows_its_progress_on_a_terminal_and_nothing_in_a_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let socket = slow_daemon(directory.path());
    let sgctl = binary("sgctl").unwrap();
    let command = format!("{} --socket {} diff", sgctl.display(), socket.display());
    let screen = on_terminal(&command, &[], "", DEADLINE).unwrap();
    assert!(screen.contains("sgd compares"), "{screen:?}");
    assert!(screen.contains('\u{1b}') && screen.contains("no difference"), "{screen:?}");
    for environment in [&[][..], &[("CLICOLOR_FORCE", "1")]] {
        let output = Command::new(&sgctl)
            .args(["--socket", &socket.display().to_string(), "diff"])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "no difference\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no progress where nobody watches");
    }
}

#[test]
fn colours_are_for_terminals_and_for_whoever_has_not_refused_them() {
    let world = World::new(1);
    let text = policy(json!({
        "security_groups": [{ "name": "webs", "inbound": [tcp_from("203.0.113.0/24", 80)] }],
        "interfaces": [interface(world.guest(0), &["webs"])],
    }));
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let other = daemon.policy_path().with_file_name("other.txt");
    std::fs::write(&other, text.replace("203.0.113.0/24", "198.51.100.0/24")).unwrap();
    let sgctl = binary("sgctl").unwrap();
    let question = "explain --interface tap0 --direction inbound --protocol tcp --port 80 --remote";
    let green = "\u{1b}[1m\u{1b}[32m";
    let red = "\u{1b}[1m\u{1b}[31m";
    for (verb, seen) in [
        (format!("{question} 203.0.113.10"), format!("{green}allowed")),
        (format!("{question} 192.0.2.1"), format!("{red}denied")),
        ("status".to_owned(), format!("{green}enforced")),
        (format!("diff {}", other.display()), format!("{green}+")),
        (format!("check {}", daemon.policy_path().display()), format!("{green}ok")),
    ] {
        let command = format!("{} --socket {} {verb}", sgctl.display(), daemon.socket().display());
        let on = |environment: &[(&str, &str)]| on_terminal(&command, environment, "", DEADLINE).unwrap();
        let screen = on(&[]);
        assert!(screen.contains(&seen), "{verb}: {screen:?}");
        for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let screen = on(&[plain]);
            assert!(!screen.contains("\u{1b}["), "{verb} with {plain:?}: {screen:?}");
        }
        let piped = |environment: &[(&str, &str)]| {
            let mut command = Command::new(&sgctl);
            command.arg("--socket").arg(daemon.socket()).args(verb.split(' ')).env_remove("NO_COLOR");
            let output = command.envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(!piped(&[]).contains('\u{1b}'), "{verb}");
        assert!(piped(&[("CLICOLOR_FORCE", "1")]).contains(&seen), "{verb}");
        assert!(!piped(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'), "{verb}");
    }
}
