//! `sgctl flows`: the connections that live. What is done with them is in files of its own.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;

use super::output::{print, table};
use super::{Outcome, names};
use crate::api::client::call;
use crate::api::types::{Direction, FlowStatus};

/// List the connections that live, or move them between hosts.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flows {
    #[command(subcommand)]
    verb: Option<FlowsVerb>,
    /// Only those of this interface
    #[arg(long, value_name = "NAME", add = names::interfaces())]
    interface: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum FlowsVerb {
    Export(super::transfer::Export),
    Import(super::transfer::Import),
    Revoke(super::revoke::Revoke),
}

impl Flows {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        match self.verb {
            Some(FlowsVerb::Export(verb)) => return verb.run(socket),
            Some(FlowsVerb::Import(verb)) => return verb.run(socket),
            Some(FlowsVerb::Revoke(verb)) => return verb.run(socket),
            None => {}
        }
        let mut flows: Vec<FlowStatus> = call::<(), _>(socket, Method::GET, "/v1/flows", None)?;
        if let Some(name) = &self.interface {
            flows.retain(|flow| flow.interface == *name);
        }
        flows.sort_by(|a, b| {
            let key =
                |flow: &FlowStatus| (flow.interface.clone(), flow.remote, flow.remote_port, flow.local_port);
            key(a).cmp(&key(b))
        });
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&flows)?))?;
        } else {
            print(&text(&flows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A table of connections.
pub(super) fn text(flows: &[FlowStatus]) -> String {
    let mut rows = vec![
        ["INTERFACE", "PROTOCOL", "LOCAL", "", "REMOTE", "STATE", "AGE", "EXPIRES IN", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for flow in flows {
        rows.push(vec![
            flow.interface.clone(),
            flow.protocol.clone(),
            endpoint(flow.local, flow.local_port),
            if flow.direction == Direction::Outbound { "→" } else { "←" }.to_owned(),
            endpoint(flow.remote, flow.remote_port),
            format!("{}{}", flow.state, if flow.replied { "" } else { " (no reply)" }),
            format!("{} s", flow.age),
            format!("{} s", flow.expires_in),
            if flow.admitted_now { "" } else { "not admitted by the rules in force" }.to_owned(),
        ]);
    }
    table(&rows)
}

fn endpoint(address: IpAddr, port: Option<u16>) -> String {
    match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    }
}
