//! What is known, and what the person at the keyboard wants to see of it.

use std::collections::BTreeMap;
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::api::live::{Stats, Talker};
use crate::api::types::InterfaceStatus;
use crate::cli::rates::{Amount, Between, Rate, drops, reason_totals};

/// What interfaces are sorted by: the most first, or by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Name,
    State,
    InPackets,
    InBits,
    OutPackets,
    OutBits,
    Drops,
    Connections,
}

pub const COLUMNS: [Column; 8] = [
    Column::Name,
    Column::State,
    Column::InPackets,
    Column::InBits,
    Column::OutPackets,
    Column::OutBits,
    Column::Drops,
    Column::Connections,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    GoOn,
    Quit,
}

/// An interface as it is shown.
#[derive(Debug, Clone)]
pub struct Line {
    pub interface: InterfaceStatus,
    pub inbound: Rate,
    pub outbound: Rate,
}

impl Line {
    pub fn drops(&self) -> f64 {
        self.inbound.dropped.packets + self.outbound.dropped.packets
    }

    pub fn connections(&self) -> u64 {
        self.interface.live_flows.map_or(0, |share| share.used)
    }

    fn key(&self, column: Column) -> f64 {
        match column {
            Column::Name | Column::State => 0.0,
            Column::InPackets => self.inbound.passed.packets,
            Column::InBits => self.inbound.passed.bytes,
            Column::OutPackets => self.outbound.passed.packets,
            Column::OutBits => self.outbound.passed.bytes,
            Column::Drops => self.drops(),
            Column::Connections => self.connections() as f64,
        }
    }
}

pub struct State {
    pub color: bool,
    pub host: String,
    before: Option<(Stats, Instant)>,
    pub now: Option<(Stats, Instant)>,
    /// Why there is no newer answer.
    pub error: Option<String>,
    pub sort: Column,
    reverse: bool,
    pub selected: Option<String>,
    pub filter: String,
    /// Remotes by connections, also where bytes are counted.
    pub by_connections: bool,
    /// Keys go to the filter.
    pub editing: bool,
    /// The first interface on the screen.
    pub top: usize,
}

impl State {
    pub fn new(color: bool) -> Self {
        Self {
            color,
            host: nix::sys::utsname::uname()
                .map(|uname| uname.nodename().display().to_string())
                .unwrap_or_default(),
            before: None,
            now: None,
            error: None,
            sort: Column::Drops,
            reverse: false,
            selected: None,
            filter: String::new(),
            by_connections: false,
            editing: false,
            top: 0,
        }
    }

    pub fn answered(&mut self, stats: Stats) {
        self.before = self.now.replace((stats, Instant::now()));
        self.error = None;
    }

    pub fn failed(&mut self, error: String) {
        self.error = Some(error);
    }

    pub fn stats(&self) -> Option<&Stats> {
        self.now.as_ref().map(|(stats, _)| stats)
    }

    fn between(&self) -> Option<Between<'_>> {
        let ((before, then), (now, at)) = (self.before.as_ref()?, self.now.as_ref()?);
        Some(Between { before, now, elapsed: (*at - *then).as_secs_f64() })
    }

    /// The interfaces that the filter leaves, in order.
    pub fn lines(&self) -> Vec<Line> {
        let Some(stats) = self.stats() else { return Vec::new() };
        let between = self.between();
        let wanted = self.filter.to_lowercase();
        let mut lines: Vec<Line> = stats
            .status
            .interfaces
            .iter()
            .filter(|interface| interface.name.to_lowercase().contains(&wanted))
            .map(|interface| {
                let [inbound, outbound] =
                    between.map_or([Rate::default(); 2], |between| between.of(interface));
                Line { interface: interface.clone(), inbound, outbound }
            })
            .collect();
        lines.sort_by(|a, b| {
            let name = a.interface.name.cmp(&b.interface.name);
            let order = match self.sort {
                Column::Name => name,
                Column::State => a.interface.state.text().cmp(b.interface.state.text()).then(name),
                column => b.key(column).total_cmp(&a.key(column)).then(name),
            };
            if self.reverse { order.reverse() } else { order }
        });
        lines
    }

    /// Reasons to drop with their rates and totals, on the interfaces that are looked at; the most frequent now first.
    pub fn drops(&self, lines: &[Line]) -> Vec<(String, f64, u64)> {
        let between = self.between();
        let mut sums: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        for line in lines.iter().filter(|line| self.is_looked_at(&line.interface.name)) {
            let interface = &line.interface;
            for (inbound, counters) in [(true, &interface.inbound), (false, &interface.outbound)] {
                let rates = between.map(|between| between.reasons(interface, inbound)).unwrap_or_default();
                for (name, Amount { packets, .. }) in reason_totals(counters) {
                    if drops(&name) {
                        let sum = sums.entry(name.clone()).or_default();
                        sum.0 += rates.get(&name).map_or(0.0, |rate| rate.packets);
                        sum.1 += packets;
                    }
                }
            }
        }
        let mut drops: Vec<_> = sums.into_iter().map(|(name, (rate, total))| (name, rate, total)).collect();
        drops.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)));
        drops
    }

    /// Whether it is known what connections have carried.
    pub fn is_counted(&self) -> bool {
        self.stats().and_then(|stats| stats.talkers.as_ref()).is_some_and(|talkers| talkers.traffic.is_some())
    }

    /// The remotes with most bytes, or connections, to the interfaces that are looked at.
    pub fn talkers(&self, lines: &[Line]) -> Vec<Talker> {
        let Some(talkers) = self.stats().and_then(|stats| stats.talkers.as_ref()) else { return Vec::new() };
        let shown = |name: &str| lines.iter().any(|line| line.interface.name == name);
        let looked_at = |talker: &&Talker| self.is_looked_at(&talker.interface) && shown(&talker.interface);
        let mut talkers: Vec<Talker> = talkers.remotes.iter().filter(looked_at).cloned().collect();
        if !self.by_connections {
            // Stable: where they are not counted, those with most connections stay first.
            talkers
                .sort_by_key(|talker| std::cmp::Reverse(talker.traffic.map_or(0, |traffic| traffic.bytes)));
        }
        talkers
    }

    fn is_looked_at(&self, name: &str) -> bool {
        self.selected.as_deref().is_none_or(|selected| selected == name)
    }

    pub fn key(&mut self, key: KeyEvent) -> Then {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Then::Quit,
            KeyCode::Char(letter) if self.editing && !control => self.filter.push(letter),
            KeyCode::Backspace if self.editing => drop(self.filter.pop()),
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc if self.editing => {
                self.editing = false;
                self.filter.clear();
            }
            KeyCode::Esc if self.selected.is_some() => self.selected = None,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char('t') => self.by_connections = !self.by_connections,
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Left | KeyCode::Char('h') => self.sort_by(COLUMNS.len() - 1),
            KeyCode::Right | KeyCode::Char('l') => self.sort_by(1),
            _ => {}
        }
        Then::GoOn
    }

    fn select(&mut self, step: isize) {
        let lines = self.lines();
        let at = self
            .selected
            .as_ref()
            .and_then(|name| lines.iter().position(|line| line.interface.name == *name));
        let last = lines.len().saturating_sub(1);
        let next = match (at, step) {
            (None, ..0) => last,
            (None, _) => 0,
            (Some(at), step) => at.saturating_add_signed(step).min(last),
        };
        self.selected = lines.get(next).map(|line| line.interface.name.clone());
    }

    fn sort_by(&mut self, step: usize) {
        let at = COLUMNS.iter().position(|column| *column == self.sort).unwrap_or(0);
        self.sort = COLUMNS.get((at + step) % COLUMNS.len()).copied().unwrap_or(Column::Name);
        self.reverse = false;
    }
}
