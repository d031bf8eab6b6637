//! A list of connections that is printed as it comes, in memory for some thousand of them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use serde::Deserialize;

use crate::api::types::{Direction, FlowAmount, FlowStatus, FlowTraffic, present};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Array,
    Lines,
}

const HEAD: [&str; 11] = [
    "INTERFACE",
    "PROTOCOL",
    "LOCAL",
    "",
    "REMOTE",
    "STATE",
    "AGE",
    "EXPIRES IN",
    "PACKETS IN/OUT",
    "BYTES IN/OUT",
    "",
];

/// The columns that are shown, those of traffic only where it is counted.
const fn columns(counted: bool) -> &'static [usize] {
    if counted { &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10] } else { &[0, 1, 2, 3, 4, 5, 6, 7, 10] }
}

/// [`FlowStatus`] as it stands in a line: nothing is copied, and addresses stay text.
#[derive(Debug, Deserialize)]
pub struct Brief<'l> {
    #[serde(borrow)]
    interface: Cow<'l, str>,
    #[serde(borrow)]
    protocol: Cow<'l, str>,
    #[serde(borrow)]
    local: Cow<'l, str>,
    local_port: Option<u16>,
    #[serde(borrow)]
    remote: Cow<'l, str>,
    remote_port: Option<u16>,
    direction: Direction,
    #[serde(borrow)]
    state: Cow<'l, str>,
    replied: bool,
    age: u64,
    expires_in: u64,
    admitted_now: bool,
    #[serde(default, deserialize_with = "present")]
    traffic: Option<Option<FlowTraffic>>,
}

impl<'l> From<&'l FlowStatus> for Brief<'l> {
    fn from(flow: &'l FlowStatus) -> Self {
        Self {
            interface: Cow::Borrowed(&flow.interface),
            protocol: Cow::Borrowed(&flow.protocol),
            local: flow.local.to_string().into(),
            local_port: flow.local_port,
            remote: flow.remote.to_string().into(),
            remote_port: flow.remote_port,
            direction: flow.direction,
            state: Cow::Borrowed(&flow.state),
            replied: flow.replied,
            age: flow.age,
            expires_in: flow.expires_in,
            admitted_now: flow.admitted_now,
            traffic: flow.traffic,
        }
    }
}

impl Brief<'_> {
    /// Appends the cell of a column.
    fn cell(&self, column: usize, to: &mut String) {
        let written = match column {
            0 => to.write_str(&self.interface),
            1 => to.write_str(&self.protocol),
            2 => endpoint(&self.local, self.local_port, to),
            3 => to.write_str(if self.direction == Direction::Outbound { "→" } else { "←" }),
            4 => endpoint(&self.remote, self.remote_port, to),
            5 => write!(to, "{}{}", self.state, if self.replied { "" } else { " (no reply)" }),
            6 => write!(to, "{} s", self.age),
            7 => write!(to, "{} s", self.expires_in),
            8 => self.traffic(|amount| amount.packets, to),
            9 => self.traffic(|amount| amount.bytes, to),
            _ => to.write_str(if self.admitted_now { "" } else { "not admitted by the rules in force" }),
        };
        // A string takes whatever is written.
        debug_assert!(written.is_ok());
    }

    fn traffic(&self, of: fn(FlowAmount) -> u64, to: &mut String) -> std::fmt::Result {
        match self.traffic.flatten() {
            Some(FlowTraffic { inbound, outbound }) => write!(to, "{}/{}", of(inbound), of(outbound)),
            None => to.write_str("-"),
        }
    }

    fn cells(&self, counted: bool) -> Vec<String> {
        let cell = |&column: &usize| {
            let mut cell = String::new();
            self.cell(column, &mut cell);
            cell
        };
        columns(counted).iter().map(cell).collect()
    }
}

fn endpoint(address: &str, port: Option<u16>, to: &mut String) -> std::fmt::Result {
    match port {
        None => to.write_str(address),
        Some(port) if address.contains(':') => write!(to, "[{address}]:{port}"),
        Some(port) => write!(to, "{address}:{port}"),
    }
}

/// The rows of a table of connections, its head first.
pub fn rows(flows: &[FlowStatus]) -> Vec<Vec<String>> {
    let counted = flows.iter().any(|flow| flow.traffic.is_some());
    let head = columns(counted).iter().filter_map(|&column| HEAD.get(column)).map(|&name| name.to_owned());
    let flows = flows.iter().map(|flow| Brief::from(flow).cells(counted));
    std::iter::once(head.collect()).chain(flows).collect()
}

/// So many connections are looked at to see how wide columns are, and printed at once.
const BLOCK: usize = 1000;

pub struct List<W> {
    form: Form,
    /// What has come of a line.
    line: Vec<u8>,
    out: W,
    /// The cells of some connections, one behind the other, and where each ends and how wide it is.
    cells: String,
    ends: Vec<(usize, usize)>,
    widths: [usize; HEAD.len()],
    /// Whether packets and bytes are counted; `None` before the first connection has said so.
    counted: Option<bool>,
    any: bool,
}

impl<W: io::Write> List<W> {
    pub fn new(form: Form, out: W) -> Self {
        Self {
            form,
            line: Vec::new(),
            out,
            cells: String::new(),
            ends: Vec::new(),
            widths: [0; HEAD.len()],
            counted: None,
            any: false,
        }
    }

    /// Whether packets and bytes of connections are counted; `None` if there was no connection to tell.
    pub const fn is_counted(&self) -> Option<bool> {
        self.counted
    }

    fn columns(&self) -> &'static [usize] {
        columns(self.counted.unwrap_or(false))
    }

    fn head(&mut self) {
        for (place, name) in
            self.columns().iter().enumerate().filter_map(|(n, &column)| Some((n, HEAD.get(column)?)))
        {
            self.cells.push_str(name);
            self.end_cell(place);
        }
    }

    /// Takes a part of the daemon's answer, wherever it begins and ends.
    pub fn part(&mut self, part: &[u8]) -> io::Result<()> {
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
        let flow: Brief<'_> = serde_json::from_slice(line)?;
        if first {
            self.counted = Some(flow.traffic.is_some());
            self.head();
        }
        for (place, &column) in self.columns().iter().enumerate() {
            flow.cell(column, &mut self.cells);
            self.end_cell(place);
        }
        if self.ends.len() >= BLOCK * self.columns().len() { self.block() } else { Ok(()) }
    }

    fn end_cell(&mut self, place: usize) {
        let begin = self.ends.last().map_or(0, |(end, _)| *end);
        let width = self.cells.get(begin..).map_or(0, |cell| cell.chars().count());
        self.ends.push((self.cells.len(), width));
        if let Some(widest) = self.widths.get_mut(place) {
            *widest = (*widest).max(width);
        }
    }

    /// Prints what has gathered, in columns that are as wide as any before.
    fn block(&mut self) -> io::Result<()> {
        let mut text = String::with_capacity(self.cells.len() * 2);
        let mut begin = 0;
        for row in self.ends.chunks(self.columns().len()) {
            // Blanks are owed until something stands behind them.
            let mut owed = 0;
            for (&(end, width), widest) in row.iter().zip(self.widths) {
                let cell = self.cells.get(begin..end).unwrap_or_default();
                if !cell.is_empty() {
                    text.extend(std::iter::repeat_n(' ', owed));
                    text.push_str(cell);
                    owed = 0;
                }
                owed += widest - width + 2;
                begin = end;
            }
            text.push('\n');
        }
        self.cells.clear();
        self.ends.clear();
        self.out.write_all(text.as_bytes())
    }

    /// What is left.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn end(&mut self) -> io::Result<()> {
        match self.form {
            Form::Text => {
                if !self.any {
                    self.head();
                }
                self.block()?;
            }
            Form::Array if self.any => self.out.write_all(b"\n]\n")?,
            Form::Array => self.out.write_all(b"[]\n")?,
            Form::Lines => {}
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows() -> Vec<FlowStatus> {
        let flow = |interface: &str, remote: &str, port: Option<u16>, admitted_now: bool| FlowStatus {
            interface: interface.to_owned(),
            protocol: "tcp".to_owned(),
            local: "10.0.0.5".parse().unwrap(),
            local_port: Some(80),
            remote: remote.parse().unwrap(),
            remote_port: port,
            direction: Direction::Inbound,
            state: "established".to_owned(),
            replied: !admitted_now,
            age: 3,
            expires_in: 432_000,
            admitted_now,
            traffic: None,
        };
        vec![
            flow("tap0", "203.0.113.7", Some(4711), true),
            flow("a\"quote\\", "fd00::1", Some(1), false),
            flow("tap1", "fd00::1", None, true),
        ]
    }

    #[test]
    fn a_list_in_parts_is_the_table_and_the_array_of_the_whole() {
        let traffic = FlowTraffic {
            inbound: FlowAmount { packets: 6, bytes: 1284 },
            outbound: FlowAmount { packets: 8, bytes: 10_412 },
        };
        in_parts(&flows());
        let mut counted = flows();
        for (flow, traffic) in counted.iter_mut().zip([None, Some(traffic), Some(FlowTraffic::default())]) {
            flow.traffic = Some(traffic);
        }
        let table = in_parts(&counted);
        let cells: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert!(cells.contains(&"6/8") && cells.contains(&"1284/10412"), "{table}");
        assert!(table.lines().nth(1).unwrap().ends_with("-               -"), "{table}");
    }

    fn in_parts(flows: &[FlowStatus]) -> String {
        let lines: String =
            flows.iter().map(|flow| format!("{}\n", serde_json::to_string(flow).unwrap())).collect();
        let table = crate::cli::output::table(&rows(flows));
        assert!(table.contains("203.0.113.7:4711") && table.contains("[fd00::1]:1"), "{table}");
        for size in [1, 7, 64, lines.len()] {
            let printed = |form| {
                let mut out = Vec::new();
                let mut list = List::new(form, &mut out);
                lines.as_bytes().chunks(size).for_each(|part| list.part(part).unwrap());
                list.end().unwrap();
                String::from_utf8(out).unwrap()
            };
            assert_eq!(printed(Form::Text), table);
            let array: Vec<FlowStatus> = serde_json::from_str(&printed(Form::Array)).unwrap();
            assert_eq!(array, flows);
            assert_eq!(printed(Form::Lines), lines);
        }
        table
    }
}
