//! `sgctl completions`: completion of words in a shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::aot::generate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::Outcome;
use super::output::print;
use crate::arguments::Sgd;

/// The variable that makes `sgctl` complete instead of run.
pub const VARIABLE: &str = "COMPLETE";

/// Print what makes a shell complete the words of sgctl: verbs, options, and the names that sgd knows at the moment.
///
/// bash: source <(sgctl completions bash)   in ~/.bashrc
/// zsh:  source <(sgctl completions zsh)    in ~/.zshrc, behind compinit
/// fish: sgctl completions fish | source    in ~/.config/fish/config.fish
///
/// Names are asked of sgd as they are needed; where it cannot be reached none are offered. For the options of sgd itself, the
/// same with `sgd` behind the shell: source <(sgctl completions bash sgd)
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Completions {
    #[arg(value_enum)]
    shell: Shell,
    /// Whose words are completed
    #[arg(value_enum, default_value_t = Program::Sgctl)]
    program: Program,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Program {
    Sgctl,
    Sgd,
}

/// bash cuts words at these letters, and would take `@web` and `fd00::5` for several.
const BASH_WORDS: &str = "COMP_WORDBREAKS=${COMP_WORDBREAKS//[@:]/}\n";

impl Completions {
    pub(super) fn run(self) -> Outcome {
        let script = match self.program {
            Program::Sgctl => sgctl(self.shell)?,
            Program::Sgd => sgd(self.shell),
        };
        print(&String::from_utf8(script)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The script asks `sgctl` at every word.
fn sgctl(shell: Shell) -> std::io::Result<Vec<u8>> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    if matches!(shell, Shell::Bash) {
        script.extend(BASH_WORDS.as_bytes());
    }
    completer.write_registration(VARIABLE, "sgctl", "sgctl", "sgctl", &mut script)?;
    Ok(script)
}

/// All is in the script: no variable of its environment makes the daemon do anything else than it does.
fn sgd(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Sgd::command(), "sgd", &mut script);
    script
}
