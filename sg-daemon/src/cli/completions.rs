//! `sgctl completions`: completion of words in a shell.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::Outcome;
use super::output::print;

/// The variable that makes `sgctl` complete instead of run.
pub const VARIABLE: &str = "COMPLETE";

/// Print what makes a shell complete the words of sgctl: verbs, options, and the names that sgd knows at the moment.
///
/// bash: source <(sgctl completions bash)   in ~/.bashrc
/// zsh:  source <(sgctl completions zsh)    in ~/.zshrc, behind compinit
/// fish: sgctl completions fish | source    in ~/.config/fish/config.fish
///
/// Names are asked of sgd as they are needed; where it cannot be reached none are offered.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// bash cuts words at these letters, and would take `@web` and `fd00::5` for several.
const BASH_WORDS: &str = "COMP_WORDBREAKS=${COMP_WORDBREAKS//[@:]/}\n";

impl Completions {
    pub(super) fn run(self) -> Outcome {
        let shell: &dyn EnvCompleter = match self.shell {
            Shell::Bash => &Bash,
            Shell::Zsh => &Zsh,
            Shell::Fish => &Fish,
        };
        let mut script = Vec::new();
        if matches!(self.shell, Shell::Bash) {
            script.extend(BASH_WORDS.as_bytes());
        }
        shell.write_registration(VARIABLE, "sgctl", "sgctl", "sgctl", &mut script)?;
        print(&String::from_utf8(script)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
