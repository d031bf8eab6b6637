//! Every command that a page shows is run, in the order of the page, on one site a page.
//!
//! `SGD_DOCS_SHOW=1 cargo test -p sg-tests --test docs pages_ -- --nocapture` prints what each command says, to be put into the page.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sg_tests::{Connection, Probe, outside, patience};

use crate::compare::{among, same};
use crate::pages::{Command, Page, every};
use crate::shell::Shell;

/// Commands that are not run, by how they begin, and why.
const NOT_RUN: [(&str, &str); 7] = [
    ("apt-get ", "changes the machine; `cargo xtask setup` runs it"),
    ("cargo xtask ", "a test of xtask holds them to its verbs and options"),
    ("cargo build ", "what it builds is what runs here"),
    ("cargo install ", "minutes, from the registry"),
    ("install -m755 target/release/", "what it installs is in PATH here"),
    ("aws ec2 ", "asks a cloud; the files that it writes are there"),
    ("SGD_ORACLE_SEED=1 SGD_ORACLE_CASES=4000 cargo mutants ", "hours"),
];

/// Commands whose answer is no: exit code 1.
const SAY_NO: [&str; 5] = [
    "sgctl explain --interface tap0 --direction inbound --protocol tcp --remote 198.51.100.7 --port 22",
    "sgctl explain --interface tap0 --direction outbound --protocol tcp --remote 169.254.169.254 --port 80",
    "sgctl group delete bastion",
    "sgctl diff new.json",
    "sgctl import aws groups.json interfaces.json --interface-map eni-0a1b2c=tap0 --out policy.d",
];

/// Those that ask about a packet that happens to come by: yes and no are answers.
const SAY_EITHER: [&str; 2] =
    ["tcpdump -c 1 -xx -i tap0 ", "sgctl explain --interface tap0 --direction outbound --hex "];

/// Those that go on until somebody ends them, with Ctrl-C here.
const ENDLESS: [&str; 1] = ["sgctl monitor "];

/// Those whose output has what others do at the time, in any order.
const AMONG: [&str; 2] = ["sgctl monitor ", "sgctl flows"];

/// The policy of the quick start is what the daemon of other pages enforces, too.
fn quick_start() -> String {
    policy_of("docs/quick-start.md")
}

fn policy_of(page: &str) -> String {
    Page::read(page).blocks("json").first().expect("the policy").1.join("\n")
}

fn is(command: &Command, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| command.text.starts_with(beginning))
}

fn talks(command: &Command) -> bool {
    let of_files = ["sgctl check", "sgctl import", "sgctl schema", "sgctl openapi", "sgctl completions"];
    command.text.contains("sgctl ") && !is(command, &of_files) || command.text.starts_with("curl ")
}

fn is_run(command: &Command) -> bool {
    !NOT_RUN.iter().any(|(beginning, _)| command.text.starts_with(beginning))
}

/// `sgctl top`, seen for a while and then left with `q`.
const ON_A_TERMINAL: &str = "(sleep 3; printf q) | TERM=xterm script --quiet --return \
    --command 'stty cols 100 rows 30; sgctl top' top.txt >/dev/null && grep -q INTERFACES top.txt";

/// All commands of a page.
fn run(name: &str) {
    let page = Page::read(name);
    let commands: Vec<Command> = page.commands().into_iter().filter(is_run).collect();
    if commands.is_empty() {
        return;
    }
    let mut shell = Shell::new();
    prepare(&mut shell, name);
    // Who reads the page has a daemon by then, unless the page starts one.
    let first = commands.iter().find(|command| command.text.starts_with("sgd ") || talks(command));
    let begun = first.is_some_and(|command| !command.text.starts_with("sgd "));
    if begun {
        shell.start("sgd --policy /etc/sgd/policy.d");
    }
    let guest = shell.site.guest(0).unwrap().clone();
    let _servers = guest.netns.serve_tcp(&[(guest.v4, 80).into(), (guest.v4, 22).into()]).unwrap();
    let outside = shell.site.outside.clone();
    let (over, filtered) = (AtomicBool::new(false), AtomicBool::new(begun));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = None;
            while !over.load(Ordering::Relaxed) {
                if !filtered.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                // One that lives, one that is not allowed, and a question of the guest for a neighbour.
                let web = Probe::tcp(&outside, (guest.v4, 80)).source(outside::ADMIN);
                held = held.or_else(|| web.hold(patience::ALLOWED).ok());
                let lives = |connection: &mut Connection| connection.exchange(patience::ALLOWED).is_ok();
                held = held.and_then(|mut connection| lives(&mut connection).then_some(connection));
                let _ = web.run(patience::ALLOWED);
                let short = Duration::from_millis(100);
                let _ = Probe::tcp(&outside, (guest.v4, 22)).source(outside::STRANGER).run(short);
                let _ = Probe::udp(&guest.netns, ([10, 0, 0, 99], 7)).run(short);
            }
        });
        let end = End(&over);
        let mut faults = Vec::new();
        for command in &commands {
            if let Err(fault) = one(&mut shell, name, command) {
                faults.push(format!("{name}:{}: `{}`: {fault}", command.line, command.text));
            }
            if command.text.starts_with("sgd ") {
                filtered.store(true, Ordering::Relaxed);
            }
        }
        drop(end);
        assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    });
}

/// Ends the traffic also when a command panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one(shell: &mut Shell, page: &str, command: &Command) -> Result<(), String> {
    if command.text.starts_with("sgd ") {
        shell.start(&command.text);
        return Ok(());
    }
    if page == "docs/flows.md" && command.text.starts_with("sgctl flows import") {
        another_host(shell);
    }
    if command.text.contains("@dump.pcap") {
        // Whatever comes by.
        shell.succeed("timeout 30 tcpdump -Z root -c 5 -w dump.pcap -i tap0");
    }
    let text = if is(command, &ENDLESS) {
        format!("timeout --preserve-status --signal=INT 4 {}", command.text)
    } else if command.text.starts_with("sgctl top") {
        ON_A_TERMINAL.to_owned()
    } else {
        command.text.clone()
    };
    let said = shell.run(&text);
    if std::env::var_os("SGD_DOCS_SHOW").is_some() {
        println!("{page}:{}: # {} -> {}\n{}", command.line, command.text, said.code, said.lines.join("\n"));
    }
    let fits = match said.code {
        0 | 1 if is(command, &SAY_EITHER) => true,
        1 => is(command, &SAY_NO),
        code => code == 0 && !is(command, &SAY_NO),
    };
    if !fits {
        return Err(format!("exit code {}:\n{}", said.code, said.lines.join("\n")));
    }
    if command.output.iter().all(|line| line.trim().is_empty()) {
        return Ok(());
    }
    if is(command, &AMONG) { among(&command.output, &said.lines) } else { same(&command.output, &said.lines) }
}

/// The same guest somewhere else: nothing is known there of its connections.
fn another_host(shell: &mut Shell) {
    shell.stop();
    shell.succeed("rm -r /sys/fs/bpf/sgd /var/lib/sgd");
    shell.start("sgd --policy /etc/sgd/policy.d");
}

/// The files that a reader has by the time.
fn prepare(shell: &mut Shell, name: &str) {
    let own = name.starts_with("docs/quick-start");
    shell.put("/etc/sgd/policy.d/shop.json", &if own { policy_of(name) } else { quick_start() });
    match name {
        "README.md" => {
            let policy = policy_of(name);
            shell.put("policy.json", &policy);
            shell.put("new.json", &policy.replace("\"80\"", "\"8080\""));
            clouds(shell);
        }
        "docs/import.md" => clouds(shell),
        "docs/flow-log.md" => shell.put("policy.json", &quick_start()),
        _ => {}
    }
}

/// What the AWS command line writes.
fn clouds(shell: &mut Shell) {
    shell.put("groups.json", include_str!("aws-groups.json"));
    shell.put("interfaces.json", include_str!("aws-interfaces.json"));
}

macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        $(#[test]
        fn $test() {
            run($page);
        })*

        /// The pages that have commands to run.
        const RUN: &[&str] = &[$($page),*];
    };
}

// A test a page: they run side by side, and each says which page is wrong.
pages! {
    pages_readme: "README.md",
    pages_quick_start: "docs/quick-start.md",
    pages_quick_start_in_korean: "docs/quick-start.ko.md",
    pages_operations: "docs/operations.md",
    pages_api: "docs/api.md",
    pages_doctor: "docs/doctor.md",
    pages_edit: "docs/edit.md",
    pages_explain: "docs/explain.md",
    pages_flow_log: "docs/flow-log.md",
    pages_flows: "docs/flows.md",
    pages_import: "docs/import.md",
    pages_live: "docs/live.md",
    pages_monitor: "docs/monitor.md",
    pages_terminal: "docs/terminal.md",
}

#[test]
fn every_page_with_commands_is_run() {
    let mut commands = 0;
    for page in every() {
        let here = page.commands().iter().filter(|command| is_run(command)).count();
        assert_eq!(here > 0, RUN.contains(&page.name.as_str()), "{}: {here} commands to run", page.name);
        commands += here;
    }
    assert!(commands > 40, "only {commands} commands are run");
}

/// An exception that nothing needs any more would hide a fault some day.
#[test]
fn every_exception_is_of_a_command_that_pages_have() {
    let commands: Vec<Command> = every().iter().flat_map(Page::commands).collect();
    let beginnings = NOT_RUN.iter().map(|(beginning, _)| beginning);
    for beginning in beginnings.chain(&SAY_NO).chain(&SAY_EITHER).chain(&ENDLESS).chain(&AMONG) {
        let there = commands.iter().any(|command| command.text.starts_with(beginning));
        assert!(there, "no page has a command that begins with `{beginning}`");
    }
}
