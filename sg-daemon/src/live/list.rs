//! Connections in an order, with no more of them in memory than the order takes.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::filter::asked_port;
use super::{Filter, Row, View, Wrong};
use crate::api::live::FlowQuestion;
use crate::kernel::{KernelError, Traffic};
use crate::policy::names::did_you_mean;

/// What connections are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Then by remote and ports.
    Interface,
    /// The oldest first.
    Age,
    /// The first to expire first.
    Expires,
    Remote,
    Local,
    /// The destination port of the first packet.
    Port,
    Protocol,
    State,
    /// Of both directions; the most first.
    Packets,
    Bytes,
}

const KEYS: [(&str, Key); 10] = [
    ("interface", Key::Interface),
    ("age", Key::Age),
    ("expires", Key::Expires),
    ("remote", Key::Remote),
    ("local", Key::Local),
    ("port", Key::Port),
    ("protocol", Key::Protocol),
    ("state", Key::State),
    ("packets", Key::Packets),
    ("bytes", Key::Bytes),
];

/// In which order, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// `None`: as the table has them.
    key: Option<Key>,
    reverse: bool,
    limit: Option<usize>,
    /// If there are more, they come as the table has them.
    only_few: bool,
}

/// So many are put in order without being asked to.
const FEW: usize = 65_536;

impl Order {
    /// What there is to sort by, and `none`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KEYS.into_iter().map(|(name, _)| name).chain(["none"])
    }

    /// # Errors
    ///
    /// If there is no such order; the error says which there are.
    pub fn new(question: &FlowQuestion) -> Result<Self, Wrong> {
        let reverse = question.reverse.unwrap_or(false);
        let limit = question.limit;
        if limit == Some(0) {
            return Err(Wrong::Field("the limit is at least 1; leave it out to have all of them".to_owned()));
        }
        let Some(name) = question.sort.as_deref() else {
            return Ok(Self { key: Some(Key::Interface), reverse, limit, only_few: limit.is_none() });
        };
        if name == "none" {
            return Ok(Self { key: None, reverse, limit, only_few: false });
        }
        let Some((_, key)) = KEYS.iter().find(|(known, _)| *known == name) else {
            let names = KEYS.map(|(known, _)| known);
            let near = did_you_mean(name, names).map_or_else(String::new, |near| format!("; {near}"));
            return Err(Wrong::Field(format!(
                "connections are sorted by {} or none, not {name:?}{near}",
                names.join(", ")
            )));
        };
        Ok(Self { key: Some(*key), reverse, limit, only_few: false })
    }

    /// # Errors
    ///
    /// If connections are to be sorted by what is not counted.
    pub fn check(self, view: &View) -> Result<(), Wrong> {
        match self.key {
            Some(Key::Packets | Key::Bytes) if !view.is_accounting() => Err(Wrong::Uncounted),
            _ => Ok(()),
        }
    }
}

/// Hands the connections that fit to `each`, in order, until it has enough.
///
/// # Errors
///
/// If the tables cannot be read.
pub fn list(
    view: &View,
    filter: &Filter,
    order: Order,
    mut each: impl FnMut(Row) -> ControlFlow<()>,
) -> Result<(), KernelError> {
    let limit = order.limit.unwrap_or(usize::MAX);
    let mut sorter = order.key.map(|key| Sorter { key, reverse: order.reverse, limit, rows: Vec::new() });
    let mut count = 0;
    view.read(filter, |row| {
        let Some(sorting) = &mut sorter else {
            count += 1;
            let go = each(row);
            return if count >= limit { ControlFlow::Break(()) } else { go };
        };
        sorting.add(Row { weight: sorting.key.weight(view, &row), ..row });
        if order.only_few && sorting.rows.len() > FEW {
            let rows = std::mem::take(&mut sorting.rows);
            sorter = None;
            return rows.into_iter().try_for_each(&mut each);
        }
        ControlFlow::Continue(())
    })?;
    if let Some(sorter) = sorter {
        // Whoever has enough has it for a reason of his own.
        let _ = sorter.sorted().into_iter().try_for_each(each);
    }
    Ok(())
}

impl Key {
    /// What has no account has carried nothing that anybody knows of.
    fn weight(self, view: &View, row: &Row) -> u64 {
        let of = |amount: fn(Traffic) -> [u64; 2]| {
            view.tables.traffic(&row.raw).map_or(0, |traffic| amount(traffic).iter().sum())
        };
        match self {
            Self::Packets => of(|traffic| traffic.packets),
            Self::Bytes => of(|traffic| traffic.bytes),
            _ => 0,
        }
    }
}

/// Keeps the first `limit` rows of an order.
struct Sorter {
    key: Key,
    reverse: bool,
    limit: usize,
    rows: Vec<Row>,
}

impl Sorter {
    fn add(&mut self, row: Row) {
        self.rows.push(row);
        // Twice as many as are wanted are halved, which costs each row a constant number of comparisons.
        if self.rows.len() >= self.limit.saturating_mul(2).max(1024) {
            self.keep();
        }
    }

    fn keep(&mut self) {
        if self.rows.len() > self.limit {
            let (key, reverse) = (self.key, self.reverse);
            self.rows.select_nth_unstable_by(self.limit, |a, b| compare(key, reverse, a, b));
            self.rows.truncate(self.limit);
        }
    }

    fn sorted(mut self) -> Vec<Row> {
        self.keep();
        let (key, reverse) = (self.key, self.reverse);
        self.rows.sort_unstable_by(|a, b| compare(key, reverse, a, b));
        self.rows
    }
}

fn compare(key: Key, reverse: bool, a: &Row, b: &Row) -> Ordering {
    let first = match key {
        Key::Interface => Ordering::Equal,
        Key::Age => a.raw.flow.created.cmp(&b.raw.flow.created),
        Key::Expires => a.raw.flow.expires.cmp(&b.raw.flow.expires),
        Key::Remote => a.raw.remote().cmp(&b.raw.remote()),
        Key::Local => a.raw.local().cmp(&b.raw.local()),
        Key::Port => asked_port(&a.raw).cmp(&asked_port(&b.raw)),
        Key::Protocol => a.raw.protocol().cmp(&b.raw.protocol()),
        Key::State => a.raw.flow.state.cmp(&b.raw.flow.state),
        Key::Packets | Key::Bytes => b.weight.cmp(&a.weight),
    };
    let order = first.then_with(|| by_interface(a, b));
    if reverse { order.reverse() } else { order }
}

/// Total: no two connections are equal.
fn by_interface(a: &Row, b: &Row) -> Ordering {
    let ports = |row: &Row| {
        let ports = row.raw.ports();
        (ports.remote, ports.local, row.raw.protocol())
    };
    a.interface
        .cmp(&b.interface)
        .then_with(|| a.raw.remote().cmp(&b.raw.remote()))
        .then_with(|| ports(a).cmp(&ports(b)))
        .then_with(|| a.raw.local().cmp(&b.raw.local()))
}
