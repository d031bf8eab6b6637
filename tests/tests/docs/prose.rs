//! Commands and options that stand in the text exist.

use clap::Command;

use crate::commands::{sgctl, sgd_help};
use crate::pages::every;

/// What stands in `code` in a page, code that goes over the end of a line included.
fn codes(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            block = !block;
        } else if !block {
            prose += line;
            prose.push('\n');
        }
    }
    // A paragraph at a time: a mark that is left open does not turn the rest of the page round.
    prose
        .split("\n\n")
        .flat_map(|paragraph| {
            paragraph.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether the verbs of the words are verbs, and the options are options of theirs. What else there is (values, names) may be
/// anything.
pub fn check(command: &Command, words: &[&str]) -> Result<(), String> {
    let mut command = command;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let word = word.trim_matches(['[', ']', '…', '(', ')', ',']);
        if let Some(option) = word.strip_prefix("--") {
            let name = option.split(['=', ']']).next().unwrap_or(option);
            if name.is_empty() || ["help", "version"].contains(&name) {
                continue;
            }
            let known = command.get_arguments().find(|argument| argument.get_long() == Some(name));
            let Some(known) = known else {
                return Err(format!("`{}` has no option --{name}", command.get_name()));
            };
            if known.get_action().takes_values() && !option.contains('=') {
                words.next();
            }
        } else if command.has_subcommands() {
            // `flows revoke|export` names both; a word that only stands for a verb is in capitals.
            if word.chars().all(char::is_uppercase) {
                return Ok(());
            }
            let found = word.split('|').map(|word| command.find_subcommand(word));
            let found: Option<Vec<&Command>> = found.collect();
            match found.as_deref() {
                Some([first, ..]) => command = first,
                // `sgctl flows` has verbs and options of its own.
                _ if !command.is_subcommand_required_set() && command.get_positionals().next().is_some() => {}
                _ => return Err(format!("`{}` has no verb {word}", command.get_name())),
            }
        }
    }
    Ok(())
}

#[test]
fn verbs_and_options_in_the_text_exist() {
    let sgctl = sgctl();
    let help = sgd_help();
    let mut seen = 0;
    let mut faults = Vec::new();
    for page in every() {
        for code in codes(&page.text) {
            let words: Vec<&str> =
                code.split_whitespace().take_while(|word| !["|", "#"].contains(word)).collect();
            let result = match words.as_slice() {
                ["sgctl", rest @ ..] => check(&sgctl, rest),
                ["sgd", rest @ ..] => rest
                    .iter()
                    .filter_map(|word| word.strip_prefix("--"))
                    .find(|option| !help.contains(&format!("--{option}")))
                    .map_or(Ok(()), |option| Err(format!("sgd has no option --{option}"))),
                _ => continue,
            };
            seen += 1;
            if let Err(fault) = result {
                faults.push(format!("{}: `{code}`: {fault}", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 100, "only {seen} commands were found");
}

#[test]
fn what_is_no_verb_and_no_option_is_noticed() {
    let sgctl = sgctl();
    let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
    assert!(check(&sgctl, &words("flows revoke --dry-run")).is_ok());
    assert!(check(&sgctl, &words("flow revoke")).is_err());
    assert!(check(&sgctl, &words("flows revoke --dryrun")).is_err());
    assert!(check(&sgctl, &words("group destroy web")).is_err());
    assert!(check(&sgctl, &words("interface attach NAME GROUP…")).is_ok());
}
