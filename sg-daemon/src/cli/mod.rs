//! `sgctl`, one module a verb. A verb is a clap `Args` struct with `run`; [`Sgctl::run`] only dispatches.
//!
//! Exit codes: 0 done, 1 the answer is no (faults in a policy, an edit refused), 2 could not ask (usage, files,
//! daemon).

mod apply;
mod candidate;
mod check;
mod completions;
mod diff;
mod doctor;
mod edit;
mod explain;
mod export;
mod flow_list;
mod flows;
mod frames;
mod group;
mod import;
mod interface;
mod man;
mod monitor;
pub mod names;
mod openapi;
pub mod output;
mod peer;
mod plan;
mod progress;
mod rates;
mod revoke;
mod rule;
mod rules;
mod schema;
mod stats;
mod status;
mod times;
mod top;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::CompleteEnv;

use crate::api::DEFAULT_SOCKET;
use crate::api::client::ClientError;

/// The answer is no.
pub const NO: u8 = 1;
/// The question could not be asked; clap uses the same for wrong usage.
pub const TROUBLE: u8 = 2;

/// What a verb returns: its exit code, or why it could not do its work (exit code 2).
pub type Outcome = Result<ExitCode, Box<dyn std::error::Error + Send + Sync>>;

/// Works with security group policies and talks to sgd.
#[derive(Debug, Parser)]
#[command(name = "sgctl", version, propagate_version = true)]
pub struct Sgctl {
    /// Where the daemon listens
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(check::Check),
    Completions(completions::Completions),
    Man(man::Manual),
    Schema(schema::Schema),
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    Group(group::Group),
    Rule(rule::Rule),
    Peer(peer::Peer),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Stats(stats::Stats),
    Top(top::Top),
    Rules(rules::Rules),
    Flows(Box<flows::Flows>),
    Explain(explain::Explain),
    Monitor(monitor::Monitor),
    Interface(interface::Interface),
    Diff(diff::Diff),
    Plan(plan::Plan),
    Apply(apply::Apply),
    Confirm(apply::Confirm),
    Rollback(apply::Rollback),
    Import(import::Import),
    Export(export::Export),
}

impl Sgctl {
    /// Answers a shell that completes words, and ends; returns if no shell asks. Nothing may have been printed before.
    pub fn complete() {
        CompleteEnv::with_factory(Self::command).var(completions::VARIABLE).complete();
    }

    pub fn run(self) -> ExitCode {
        let outcome = match self.verb {
            Verb::Check(verb) => verb.run(),
            Verb::Completions(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
            Verb::Schema(verb) => verb.run(),
            Verb::OpenApi(verb) => verb.run(),
            Verb::Group(verb) => verb.run(&self.socket),
            Verb::Rule(verb) => verb.run(&self.socket),
            Verb::Peer(verb) => verb.run(&self.socket),
            Verb::Status(verb) => verb.run(&self.socket),
            Verb::Doctor(verb) => verb.run(&self.socket),
            Verb::Stats(verb) => verb.run(&self.socket),
            Verb::Top(verb) => verb.run(&self.socket),
            Verb::Rules(verb) => verb.run(&self.socket),
            Verb::Flows(verb) => verb.run(&self.socket),
            Verb::Explain(verb) => verb.run(&self.socket),
            Verb::Monitor(verb) => verb.run(&self.socket),
            Verb::Interface(verb) => verb.run(&self.socket),
            Verb::Diff(verb) => verb.run(&self.socket),
            Verb::Plan(verb) => verb.run(&self.socket),
            Verb::Apply(verb) => verb.run(&self.socket),
            Verb::Confirm(verb) => verb.run(&self.socket),
            Verb::Rollback(verb) => verb.run(&self.socket),
            Verb::Import(verb) => verb.run(),
            Verb::Export(verb) => verb.run(),
        };
        outcome.unwrap_or_else(|error| {
            output::complain(&with_causes(&*error));
            ExitCode::from(TROUBLE)
        })
    }
}

/// An error, and each of its causes that it does not tell itself.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text += &format!(" ({told})");
        }
        cause = error.source();
    }
    text
}

/// The daemon's answer; or, after telling why it said no, the exit code for that.
///
/// # Errors
///
/// If it could not be asked.
fn refused<T>(answer: Result<T, ClientError>) -> Result<Result<T, ExitCode>, ClientError> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(ClientError::Refused(why)) => {
            output::complain(&why);
            Ok(Err(ExitCode::from(NO)))
        }
        Err(error) => Err(error),
    }
}
