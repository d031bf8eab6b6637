//! `sgctl flows`: the connections that live, as the daemon finds them. What is done with them is in files of its own.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgAction, Args, Subcommand};
use hyper::Method;

use super::flow_list::{Form, List, rows};
use super::output::{note, print, table};
use super::{Outcome, names};
use crate::api::client::{ClientError, call, receive};
use crate::api::live::{FlowCount, FlowCounts, FlowQuestion};
use crate::api::transfer::NDJSON;
use crate::api::types::{Direction, FlowStatus};
use crate::live::NOT_COUNTED;

/// List or count the connections that live, or move them between hosts.
///
/// Only those that fit every filter are shown. Up to 65,536 are sorted by interface and remote, more only if --sort or --limit
/// asks for it. Of a connection that becomes live while the table is read, the state before is shown.
///
/// Packets and bytes are those since the connection began, or since they are counted: sgd counts them while it writes a flow log
/// (sgd --flow-log PATH). Where they are not counted, a note on standard error says so.
///
/// Exit code: 0 done, also if there are none; 2 the question makes no sense, or sgd cannot be reached.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flows {
    #[command(subcommand)]
    verb: Option<FlowsVerb>,
    /// Only those of these interfaces
    #[arg(long, value_name = "NAME", value_delimiter = ',', add = names::interfaces())]
    interface: Vec<String>,
    /// Only those that this side began, seen from the instance
    #[arg(long)]
    direction: Option<Direction>,
    /// Only these: tcp, udp, icmp (of either family), gre, … or a number
    #[arg(long, value_name = "NAME", value_delimiter = ',', add = names::protocols())]
    protocol: Vec<String>,
    /// Only those of this address or network of instances
    #[arg(long, value_name = "ADDRESS", add = names::addresses())]
    local: Option<String>,
    /// Only those with this address or network
    #[arg(long, value_name = "ADDRESS", add = names::addresses())]
    remote: Option<String>,
    /// Only those to this destination port, or range such as 1000-2000
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Only those with this port, or range, at the instance
    #[arg(long, value_name = "PORT")]
    local_port: Option<String>,
    /// Only those with this port, or range, at the other side
    #[arg(long, value_name = "PORT")]
    remote_port: Option<String>,
    /// Only those in these states: established, syn_sent, udp_stream, …
    #[arg(long, value_name = "STATE", value_delimiter = ',', add = names::flow_states())]
    state: Vec<String>,
    /// Only those that were answered; --replied=false: that were not
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set)]
    replied: Option<bool>,
    /// Only those that the rules in force admit; --admitted=false: that no rule admits any more
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set)]
    admitted: Option<bool>,
    /// Only those that are at least so many seconds old
    #[arg(long, value_name = "SECONDS")]
    min_age: Option<u64>,
    /// Only those that are at most so many seconds old
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
    /// interface, age (the oldest first), expires (the next first), remote, local, port, protocol, state, packets or bytes (the
    /// most first, where they are counted); or none, the quickest
    #[arg(long, value_name = "KEY", conflicts_with_all = ["count", "count_by"], add = names::flow_orders())]
    sort: Option<String>,
    /// The other way round
    #[arg(long, conflicts_with_all = ["count", "count_by"])]
    reverse: bool,
    /// At most so many connections, or counts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only say how many there are
    #[arg(long)]
    count: bool,
    /// Say how many there are of each, the most first: interface, state, protocol, direction, local, remote, port, group,
    /// rule, or several. A connection counts for each rule in force, or group, that would let it begin
    #[arg(long, value_name = "WHAT", value_delimiter = ',', add = names::flow_groups())]
    count_by: Vec<String>,
    /// Print JSON instead of text: an array, or an object of counts
    #[arg(long)]
    json: bool,
    /// Print a JSON object for each connection, one a line
    #[arg(long, conflicts_with_all = ["json", "count", "count_by"])]
    json_lines: bool,
}

#[derive(Debug, Subcommand)]
enum FlowsVerb {
    Export(super::transfer::Export),
    Import(super::transfer::Import),
    Revoke(super::revoke::Revoke),
}

impl Flows {
    pub(super) fn run(mut self, socket: &Path) -> Outcome {
        match self.verb.take() {
            Some(FlowsVerb::Export(verb)) => return verb.run(socket),
            Some(FlowsVerb::Import(verb)) => return verb.run(socket),
            Some(FlowsVerb::Revoke(verb)) => return verb.run(socket),
            None => {}
        }
        let query = serde_urlencoded::to_string(self.question())?;
        if self.count || !self.count_by.is_empty() {
            let path = format!("/v1/flows/count?{query}");
            let counts: FlowCounts = call::<(), _>(socket, Method::GET, &path, None)?;
            print(&if self.json {
                format!("{}\n", serde_json::to_string_pretty(&counts)?)
            } else {
                counts_text(&counts)
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let form = match (self.json, self.json_lines) {
            (true, _) => Form::Array,
            (_, true) => Form::Lines,
            _ => Form::Text,
        };
        let mut list = List::new(form, io::BufWriter::with_capacity(64 << 10, io::stdout()));
        let path = format!("/v1/flows?{query}");
        let streamed = receive(socket, &path, NDJSON, |part| list.part(part));
        match streamed.and_then(|()| list.end().map_err(ClientError::Output)) {
            // A reader that has gone away (`| head`) has what it wanted.
            Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            outcome => outcome?,
        }
        if form == Form::Text && list.is_counted() == Some(false) {
            note(&format!("{NOT_COUNTED} (sgd --flow-log PATH)"));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self) -> FlowQuestion {
        let joined = |words: &[String]| (!words.is_empty()).then(|| words.join(","));
        FlowQuestion {
            interface: joined(&self.interface),
            direction: self.direction,
            protocol: joined(&self.protocol),
            local: self.local.clone(),
            remote: self.remote.clone(),
            port: self.port.clone(),
            local_port: self.local_port.clone(),
            remote_port: self.remote_port.clone(),
            state: joined(&self.state),
            replied: self.replied,
            admitted: self.admitted,
            min_age: self.min_age,
            max_age: self.max_age,
            sort: self.sort.clone(),
            reverse: self.reverse.then_some(true),
            limit: self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            by: joined(&self.count_by),
        }
    }
}

/// A table of connections.
pub(super) fn text(flows: &[FlowStatus]) -> String {
    table(&rows(flows))
}

fn counts_text(counts: &FlowCounts) -> String {
    type Column = (&'static str, fn(&FlowCount) -> Option<String>);
    const COLUMNS: [Column; 9] = [
        ("INTERFACE", |count| count.interface.clone()),
        ("PROTOCOL", |count| count.protocol.clone()),
        ("STATE", |count| count.state.clone()),
        ("DIRECTION", |count| count.direction.map(|direction| direction.name().to_owned())),
        ("LOCAL", |count| count.local.map(|address| address.to_string())),
        ("REMOTE", |count| count.remote.map(|address| address.to_string())),
        ("PORT", |count| count.port.map(|port| port.to_string())),
        ("GROUP", |count| count.group.clone()),
        ("RULE", |count| count.rule.clone()),
    ];
    let columns: Vec<Column> = COLUMNS
        .into_iter()
        .filter(|(_, cell)| counts.counts.iter().any(|count| cell(count).is_some()))
        .collect();
    let mut text = String::new();
    if !counts.counts.is_empty() {
        let head = ["CONNECTIONS"].into_iter().chain(columns.iter().map(|(name, _)| *name));
        let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
        rows.extend(counts.counts.iter().map(|count| {
            let cells = columns.iter().map(|(_, cell)| cell(count).unwrap_or_else(|| "-".to_owned()));
            [format!("{:>11}", count.count)].into_iter().chain(cells).collect()
        }));
        text += &table(&rows);
        if counts.left_out > 0 {
            text += &format!("… and {} more\n", counts.left_out);
        }
        text.push('\n');
    }
    let connections =
        super::output::counted(usize::try_from(counts.total).unwrap_or(usize::MAX), "connection");
    text += &match counts.half_open {
        0 => format!("{connections}\n"),
        half_open => format!("{connections}, {half_open} of them half-open\n"),
    };
    text
}
