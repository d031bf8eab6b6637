//! `sgctl flows revoke`: connections that are cut on request (K11).

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::{counted, print};
use super::{Outcome, flows, names};
use crate::api::candidate::{RevokeAnswer, RevokeQuestion};
use crate::api::client::call;

/// Cut the connections that no rule in force allows.
///
/// After a change of rules the connections that exist live on; this ends those that the rules would not admit any more, and
/// no others. With filters: those of them that fit every filter. A connection that is cut is judged anew by its next packet.
///
/// Exit code: 0 done (also if there was none), 2 trouble (wrong usage, sgd cannot be reached).
#[derive(Debug, Args)]
pub struct Revoke {
    /// Only those of this interface
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: Option<String>,
    /// Only those with this address or network on the other side
    #[arg(long, value_name = "CIDR", add = names::addresses())]
    remote: Option<String>,
    /// Only those of this protocol: tcp, udp, icmp, … or a number
    #[arg(long, value_name = "P", add = names::protocols())]
    protocol: Option<String>,
    /// Only those of TCP and UDP whose first packet went to this port
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Also those that rules allow; needs a filter
    #[arg(long)]
    all: bool,
    /// Only show which would be cut
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Revoke {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let question = RevokeQuestion {
            interface: self.interface,
            remote: self.remote,
            protocol: self.protocol,
            port: self.port,
            all: self.all,
            dry_run: self.dry_run,
        };
        let answer: RevokeAnswer = call(socket, Method::POST, "/v1/flows/revoke", Some(&question))?;
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let what = if answer.dry_run { "would be cut" } else { "cut" };
        let mut text = format!("{} {what}\n", counted(answer.flows.len(), "connection"));
        if !answer.flows.is_empty() {
            text += &flows::text(&answer.flows);
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
