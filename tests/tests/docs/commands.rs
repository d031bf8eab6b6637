//! `docs/sgctl.md` and `docs/sgd.md` are made from what clap knows.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use sg_daemon::cli::Sgctl;

use crate::pages::hold;

/// `sgctl` with all that clap adds to it.
pub fn sgctl() -> Command {
    let mut command = Sgctl::command();
    command.build();
    command
}

/// What `sgd --help` says.
pub fn sgd_help() -> String {
    let program = sg_tests::binary("sgd").unwrap();
    let output = std::process::Command::new(program).arg("--help").env("COLUMNS", "120").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn page(command: &Command) -> String {
    let mut page = String::from(
        "<!-- Made by `cargo xtask docs` from sg-daemon/src/cli. Change the comments there, not this page. -->\n\
         # sgctl, verb by verb\n\
         \n\
         `sgctl VERB --help` says the same. Every verb takes `--socket PATH` (where the daemon listens) and `--help`. Exit codes, unless a verb\n\
         says otherwise: 0 done, 1 the answer is no, 2 the question could not be asked.\n\
         \n",
    );
    for verb in verbs(command) {
        let name = verb.get_name();
        let _ = writeln!(page, "- [`sgctl {name}`](#sgctl-{name}): {}", about(verb).trim_end_matches('.'));
    }
    for verb in verbs(command) {
        section(&mut page, "sgctl", verb, 2);
    }
    page
}

/// The verbs of a command, without clap's own.
pub fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default().replace('\n', " ")
}

fn section(page: &mut String, above: &str, command: &Command, level: usize) {
    let name = format!("{above} {}", command.get_name());
    let _ = write!(page, "\n{} {name}\n\n", "#".repeat(level));
    let long = command.get_long_about().or(command.get_about());
    let long = long.map(ToString::to_string).unwrap_or_default();
    assert!(!long.is_empty(), "`{name}` says nothing of itself");
    let _ = writeln!(page, "{}\n", escaped(&long));
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(page, "```text\n{}\n```", usage.trim_start_matches("Usage: "));
    let arguments: Vec<&Arg> = command.get_arguments().filter(|argument| shown(argument)).collect();
    if !arguments.is_empty() {
        *page += "\n| | |\n|---|---|\n";
        for argument in arguments {
            let _ = writeln!(page, "| {} | {} |", form(argument), help(argument));
        }
    }
    for verb in verbs(command) {
        section(page, &name, verb, level + 1);
    }
}

/// Those that every verb has are told of once.
fn shown(argument: &Arg) -> bool {
    !argument.is_hide_set() && !["help", "version", "socket"].contains(&argument.get_id().as_str())
}

/// `--port PORT`, `NAME…`.
fn form(argument: &Arg) -> String {
    let many = if matches!(argument.get_action(), ArgAction::Append) { "…" } else { "" };
    let takes = argument.get_action().takes_values();
    let names = argument.get_value_names().unwrap_or_default();
    let value = names.iter().map(clap::builder::Str::as_str).collect::<Vec<_>>().join(" ");
    let switches: Vec<String> = [
        argument.get_short().map(|short| format!("-{short}")),
        argument.get_long().map(|long| format!("--{long}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    match (switches.is_empty(), takes) {
        (true, _) => format!("`{value}{many}`"),
        (false, true) => format!("`{} {value}{many}`", switches.join("`, `")),
        (false, false) => format!("`{}`", switches.join("`, `")),
    }
}

fn help(argument: &Arg) -> String {
    let text = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = escaped(&text).replace("\n\n", " ").replace('\n', " ").replace('|', "\\|");
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, " Default: {}.", defaults.join(", "));
    }
    text.trim().to_owned()
}

/// `<` begins a tag in Markdown.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<")
}

fn sgd_page(help: &str) -> String {
    format!(
        "<!-- Made by `cargo xtask docs` from `sgd --help`. Change the comments in sg-daemon, not this page. -->\n\
         # sgd, option by option\n\
         \n\
         What `sgd --help` says. [Operations](operations.md) says which of these you want.\n\
         \n\
         ```text\n{}\n```\n",
        help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end()
    )
}

#[test]
fn made_pages_the_reference_of_sgctl_is_what_clap_knows() {
    hold("docs/sgctl.md", &page(&sgctl()));
}

#[test]
fn made_pages_the_reference_of_sgd_is_what_its_help_says() {
    hold("docs/sgd.md", &sgd_page(&sgd_help()));
}

#[test]
fn every_verb_and_option_is_in_the_reference() {
    fn all(command: &Command, name: &str, page: &str) {
        for verb in verbs(command) {
            let name = format!("{name} {}", verb.get_name());
            let heading = format!("# {name}\n");
            let section = page.split_once(&heading).unwrap_or_else(|| panic!("{name} is missing")).1;
            let section = section.split("\n#").next().unwrap();
            for argument in verb.get_arguments().filter(|argument| shown(argument)) {
                if let Some(long) = argument.get_long() {
                    assert!(section.contains(&format!("--{long}")), "{name} --{long}");
                }
            }
            all(verb, &name, page);
        }
    }
    let command = sgctl();
    all(&command, "sgctl", &page(&command));
    assert!(verbs(&command).count() > 15);
}
