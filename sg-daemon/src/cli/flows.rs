//! `sgctl flows`: the connections that live, as the daemon finds them. What is done with them is in files of its own.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgAction, Args, Subcommand};
use hyper::Method;

use super::Outcome;
use super::output::{print, table};
use crate::api::client::{ClientError, call, stream};
use crate::api::live::{FlowCount, FlowCounts, FlowQuestion};
use crate::api::transfer::NDJSON;
use crate::api::types::{Direction, FlowStatus};

/// List or count the connections that live, or move them between hosts.
///
/// Only those that fit every filter are shown. Up to 65,536 are sorted by interface and remote, more only if --sort or --limit
/// asks for it. Of a connection that becomes live while the table is read, the state before is shown.
///
/// Exit code: 0 done, also if there are none; 2 the question makes no sense, or sgd cannot be reached.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flows {
    #[command(subcommand)]
    verb: Option<FlowsVerb>,
    /// Only those of these interfaces
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    interface: Vec<String>,
    /// Only those that this side began, seen from the instance
    #[arg(long)]
    direction: Option<Direction>,
    /// Only these: tcp, udp, icmp (of either family), gre, … or a number
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    protocol: Vec<String>,
    /// Only those of this address or network of instances
    #[arg(long, value_name = "ADDRESS")]
    local: Option<String>,
    /// Only those with this address or network
    #[arg(long, value_name = "ADDRESS")]
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
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
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
    /// interface, age (the oldest first), expires (the next first), remote, local, port, protocol, state; or none, the quickest
    #[arg(long, value_name = "KEY", conflicts_with_all = ["count", "count_by"])]
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
    /// Say how many there are of each, the most first: interface, state, protocol, direction, local, remote, port, or several
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
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
        let mut list = List::new(match (self.json, self.json_lines) {
            (true, _) => Form::Array,
            (_, true) => Form::Lines,
            _ => Form::Text,
        });
        let path = format!("/v1/flows?{query}");
        let streamed = stream(socket, &path, NDJSON, |part| list.part(part));
        match streamed.and_then(|()| list.end().map_err(ClientError::Output)) {
            // A reader that has gone away (`| head`) has what it wanted.
            Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            outcome => outcome?,
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

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Array,
    Lines,
}

/// So many connections are looked at to see how wide columns are, and printed at once.
const BLOCK: usize = 1000;

/// A list that is printed as it comes.
struct List {
    form: Form,
    /// What has come of a line.
    line: Vec<u8>,
    out: io::BufWriter<io::Stdout>,
    flows: Vec<FlowStatus>,
    widths: Vec<usize>,
    any: bool,
}

impl List {
    fn new(form: Form) -> Self {
        let out = io::BufWriter::with_capacity(64 << 10, io::stdout());
        Self { form, line: Vec::new(), out, flows: Vec::new(), widths: Vec::new(), any: false }
    }

    fn part(&mut self, part: &[u8]) -> io::Result<()> {
        if self.form == Form::Lines {
            return self.out.write_all(part);
        }
        let mut rest = part;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            if self.line.is_empty() {
                self.element(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend(line);
                self.element(&whole)?;
                whole.clear();
                self.line = whole;
            }
            rest = behind.get(1..).unwrap_or_default();
        }
        self.line.extend(rest);
        Ok(())
    }

    fn element(&mut self, line: &[u8]) -> io::Result<()> {
        let first = !std::mem::replace(&mut self.any, true);
        if self.form == Form::Array {
            self.out.write_all(if first { b"[\n" } else { b",\n" })?;
            return self.out.write_all(line);
        }
        self.flows.push(serde_json::from_slice(line)?);
        if self.flows.len() >= BLOCK { self.block() } else { Ok(()) }
    }

    /// Prints what has gathered, in columns that are as wide as any before.
    fn block(&mut self) -> io::Result<()> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        if self.widths.is_empty() {
            rows.push(HEAD.map(str::to_owned).to_vec());
            self.widths = vec![0; HEAD.len()];
        }
        rows.extend(self.flows.drain(..).map(|flow| row(&flow)));
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let cells = row.iter().zip(&self.widths).map(|(cell, &width)| format!("{cell:width$}"));
            writeln!(self.out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        match self.form {
            Form::Text => self.block()?,
            Form::Array if self.any => self.out.write_all(b"\n]\n")?,
            Form::Array => self.out.write_all(b"[]\n")?,
            Form::Lines => {}
        }
        self.out.flush()
    }
}

const HEAD: [&str; 9] = ["INTERFACE", "PROTOCOL", "LOCAL", "", "REMOTE", "STATE", "AGE", "EXPIRES IN", ""];

fn row(flow: &FlowStatus) -> Vec<String> {
    vec![
        flow.interface.clone(),
        flow.protocol.clone(),
        endpoint(flow.local, flow.local_port),
        if flow.direction == Direction::Outbound { "→" } else { "←" }.to_owned(),
        endpoint(flow.remote, flow.remote_port),
        format!("{}{}", flow.state, if flow.replied { "" } else { " (no reply)" }),
        format!("{} s", flow.age),
        format!("{} s", flow.expires_in),
        if flow.admitted_now { "" } else { "not admitted by the rules in force" }.to_owned(),
    ]
}

/// A table of connections.
pub(super) fn text(flows: &[FlowStatus]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(flows.iter().map(row));
    table(&rows)
}

fn endpoint(address: IpAddr, port: Option<u16>) -> String {
    match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    }
}

fn counts_text(counts: &FlowCounts) -> String {
    type Column = (&'static str, fn(&FlowCount) -> Option<String>);
    const COLUMNS: [Column; 7] = [
        ("INTERFACE", |count| count.interface.clone()),
        ("PROTOCOL", |count| count.protocol.clone()),
        ("STATE", |count| count.state.clone()),
        ("DIRECTION", |count| count.direction.map(|direction| direction.name().to_owned())),
        ("LOCAL", |count| count.local.map(|address| address.to_string())),
        ("REMOTE", |count| count.remote.map(|address| address.to_string())),
        ("PORT", |count| count.port.map(|port| port.to_string())),
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
