//! `sgctl interface wait`: lets a hypervisor's hook wait until a guest's device is filtered.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;

use super::output::{complain, print};
use super::times::duration;
use super::{NO, Outcome, names};
use crate::api::client::{ClientError, call};
use crate::api::types::{InterfaceState, Readiness};

const POLL: Duration = Duration::from_millis(50);

/// Wait for interfaces.
#[derive(Debug, Args)]
pub struct Interface {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Wait(Wait),
}

impl Interface {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        match self.verb {
            Verb::Wait(verb) => verb.run(socket),
        }
    }
}

/// Wait until an interface is filtered.
///
/// For the hook of a hypervisor: a device that is made, waited for and only then set up never has an unfiltered packet.
/// A daemon that is just being started is waited for too. Exit code: 0 it is, 1 not in time, with what is missing on standard
/// error, 2 sgd cannot be reached.
#[derive(Debug, Args)]
struct Wait {
    /// The interface's name on this host
    #[arg(value_name = "NAME", add = names::interfaces())]
    name: String,
    /// How long to wait: 30s, 500ms, 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// What to wait for
    #[arg(long, value_enum, default_value_t = Wanted::Enforced)]
    state: Wanted,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// The policy in force names it, and judges its packets
    Enforced,
    /// It is filtered: by its policy, or closed as it is managed and in no policy
    Closed,
}

impl Wait {
    fn run(self, socket: &Path) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let path = format!("/v1/interfaces/{}", escaped(&self.name));
        loop {
            let answer = call::<(), Readiness>(socket, Method::GET, &path, None);
            let late = Instant::now() + POLL > deadline;
            match answer {
                Ok(answer) if self.is_met(&answer) => {
                    print(&format!("{}: {}\n", self.name, answer.state.text()))?;
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(answer) if late => {
                    let timeout = self.timeout;
                    complain(&format!("{} after {timeout:?}", self.missing(&answer)));
                    return Ok(ExitCode::from(NO));
                }
                Err(error) if late || !matches!(error, ClientError::Connect { .. }) => {
                    return Err(error.into());
                }
                _ => sleep(POLL),
            }
        }
    }

    fn is_met(&self, answer: &Readiness) -> bool {
        match (self.state, answer.state) {
            (_, InterfaceState::Enforced) => true,
            (Wanted::Closed, state) => state == InterfaceState::Closed,
            (Wanted::Enforced, _) => false,
        }
    }

    /// What the interface lacks.
    fn missing(&self, answer: &Readiness) -> String {
        let name = &self.name;
        let why = answer.why.as_ref().map_or_else(String::new, |why| format!(", as {why}"));
        let mut text = match answer.state {
            InterfaceState::Absent if answer.named => {
                format!("there is no device {name}; a policy for it is in force")
            }
            InterfaceState::Absent => format!("there is no device {name}, and no policy in force names it"),
            InterfaceState::Closed if answer.named => format!("{name} is closed{why}"),
            InterfaceState::Closed => {
                format!("{name} is closed: it is managed, and no policy in force names it")
            }
            InterfaceState::NotFiltered if answer.named => format!("{name} is not filtered{why}"),
            InterfaceState::NotFiltered => {
                format!(
                    "{name} is not filtered: no policy in force names it, and no managed pattern matches it"
                )
            }
            state => format!("{name}: {}", state.text()),
        };
        if let Some(refused) = &answer.refused {
            text += &format!("; the newest policy was refused: {refused}");
        }
        text
    }
}

/// For a path of a URL: interfaces may be called anything without `/` and white space.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
