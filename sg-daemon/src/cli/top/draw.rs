//! The screen. Plain letters only: whatever shows text can show it. Colours say nothing that words do not.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::Paragraph;

use super::state::{COLUMNS, Column, Line, State};
use crate::api::live::{Stats, TableFill};
use crate::api::types::InterfaceState;
use crate::cli::rates::{short, span};
use crate::cli::stats::{NEARLY_FULL, percent};

/// What it takes to show everything without cutting.
pub const WIDTH: u16 = 80;
/// Beside the interfaces: two lines above, titles, reasons and remotes, tables, and keys.
const OTHERS: u16 = 2 + 2 + 7 + 6 + 1;
/// An answer that is older is not what goes on now.
const STALE: Duration = Duration::from_secs(15);

/// Lines that show every interface.
pub fn whole_height(state: &State) -> u16 {
    let interfaces = state.stats().map_or(0, |stats| stats.status.interfaces.len());
    (u16::try_from(interfaces).unwrap_or(u16::MAX).saturating_add(OTHERS)).clamp(24, 1000)
}

pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let area = frame.area();
    let lines = state.lines();
    let tall = area.height > 40;
    let (middle, low) = if tall { (13, 10) } else { (7, 6) };
    let [head, interfaces, middle, low, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(middle),
        Constraint::Length(low),
        Constraint::Length(1),
    ])
    .areas(area);
    let [reasons, talkers] =
        Layout::horizontal([Constraint::Length(38), Constraint::Min(40)]).spacing(2).areas(middle);
    show(frame, head, header(state));
    show(frame, interfaces, interface_lines(state, &lines, interfaces));
    show(frame, reasons, drop_lines(state, &lines, reasons));
    show(frame, talkers, talker_lines(state, &lines, talkers));
    show(frame, low, table_lines(state, low));
    show(frame, keys, vec![footer(state)]);
}

fn show(frame: &mut Frame<'_>, area: Rect, lines: Vec<Text<'static>>) {
    frame.render_widget(Paragraph::new(lines), area);
}

impl State {
    fn paint(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn alarm(&self) -> Style {
        self.paint(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn title(&self, text: &str, width: u16) -> Text<'static> {
        let width = usize::from(width);
        let style = self.paint(Color::Cyan).add_modifier(Modifier::BOLD);
        Text::styled(format!("{text:<width$}"), style)
    }
}

/// Who and in which state; and what is wrong, or how much there is.
fn header(state: &State) -> Vec<Text<'static>> {
    let Some(stats) = state.stats() else {
        let why = state.error.as_ref().map_or("asking sgd".to_owned(), |error| format!("NO ANSWER: {error}"));
        let style = if state.error.is_some() { state.alarm() } else { Style::new() };
        return vec![Text::raw(format!("sgctl top on {}", state.host)).bold(), Text::styled(why, style)];
    };
    let status = &stats.status;
    let (word, style) = policy(state, stats);
    let first = Text::from(vec![
        Span::raw(format!("sgd {} on {}", status.version, state.host)).bold(),
        Span::raw(format!("  up {}  generation {}  policy ", span(stats.at_ms / 1000), status.generation)),
        Span::styled(word, style),
    ]);
    vec![first, second(state, stats)]
}

fn policy(state: &State, stats: &Stats) -> (String, Style) {
    let status = &stats.status;
    let audited =
        status.interfaces.iter().filter(|interface| interface.state == InterfaceState::Audit).count();
    let warn = state.paint(Color::Yellow).add_modifier(Modifier::BOLD);
    if status.refused.is_some() {
        ("REFUSED".to_owned(), state.alarm())
    } else if let Some(unconfirmed) = &status.unconfirmed {
        (format!("UNCONFIRMED, {} s", unconfirmed.rolls_back_in), warn)
    } else if audited > 0 {
        (format!("AUDIT on {audited}"), warn)
    } else {
        ("in force".to_owned(), state.paint(Color::Green))
    }
}

fn second(state: &State, stats: &Stats) -> Text<'static> {
    let age = state.now.as_ref().map(|(_, at)| at.elapsed()).unwrap_or_default();
    if let Some(error) = &state.error {
        let text = format!("NO ANSWER since {}: {error}", span(age.as_secs()));
        return Text::styled(text, state.alarm().add_modifier(Modifier::REVERSED));
    }
    if age > STALE {
        return Text::styled(format!("the last answer is {} old", span(age.as_secs())), state.alarm());
    }
    if let Some(refused) = &stats.status.refused {
        // The first line that says what it is about; `sgctl status` has all of it.
        let line = refused.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        return Text::styled(format!("refused: {line}"), state.alarm());
    }
    if stats.status.unconfirmed.is_some() {
        return Text::raw("`sgctl confirm` keeps the policy, `sgctl rollback` takes it back");
    }
    if let Some(notice) = &stats.status.notice {
        return Text::raw(notice.clone());
    }
    let lines = state.lines();
    let sum = |of: &dyn Fn(&Line) -> f64| lines.iter().map(of).sum::<f64>();
    let drops = sum(&Line::drops);
    Text::from(vec![
        Span::raw(format!(
            "in {} pkt/s {} bit/s   out {} pkt/s {} bit/s   ",
            short(sum(&|line| line.inbound.passed.packets)),
            short(sum(&|line| line.inbound.passed.bytes * 8.0)),
            short(sum(&|line| line.outbound.passed.packets)),
            short(sum(&|line| line.outbound.passed.bytes * 8.0)),
        )),
        Span::styled(
            format!("dropped {}/s", short(drops)),
            if drops > 0.0 { state.alarm() } else { Style::new() },
        ),
    ])
}

fn interface_lines(state: &mut State, lines: &[Line], area: Rect) -> Vec<Text<'static>> {
    let room = usize::from(area.height.saturating_sub(2)).max(1);
    let selected =
        lines.iter().position(|line| Some(&line.interface.name) == state.selected.as_ref()).unwrap_or(0);
    state.top = state.top.clamp((selected + 1).saturating_sub(room), selected);
    if state.selected.is_none() {
        state.top = 0;
    }
    let hidden = lines.len().saturating_sub(room);
    let more = if hidden > 0 { format!(", {hidden} not shown") } else { String::new() };
    let filter = match (&state.filter, state.editing) {
        (_, true) => format!("  /{}_", state.filter),
        (filter, _) if filter.is_empty() => String::new(),
        (filter, _) => format!("  /{filter}"),
    };
    let mut text = vec![
        state.title(&format!("INTERFACES ({}{more}){filter}", lines.len()), area.width),
        columns(state, area),
    ];
    text.extend(lines.iter().skip(state.top).take(room).map(|line| {
        let chosen = Some(&line.interface.name) == state.selected.as_ref();
        let row = Text::from(vec![
            Span::raw(format!("{:<name$.name$} ", line.interface.name, name = name_width(area))),
            Span::styled(
                format!("{:<9.9}", state_word(line.interface.state)),
                state_style(state, line.interface.state),
            ),
            Span::raw(format!(
                " {:>7} {:>7} {:>7} {:>7} ",
                short(line.inbound.passed.packets),
                short(line.inbound.passed.bytes * 8.0),
                short(line.outbound.passed.packets),
                short(line.outbound.passed.bytes * 8.0),
            )),
            Span::styled(
                format!("{:>7}", short(line.drops())),
                if line.drops() > 0.0 { state.alarm() } else { Style::new() },
            ),
            share(state, line),
        ]);
        if chosen { row.style(Style::new().add_modifier(Modifier::REVERSED)) } else { row }
    }));
    if lines.is_empty() && state.stats().is_some() {
        text.push(Text::raw(if state.filter.is_empty() {
            "no interface yet"
        } else {
            "no interface has this in its name"
        }));
    }
    text
}

/// Connections, and how much of the interface's share they take.
fn share(state: &State, line: &Line) -> Span<'static> {
    let Some(share) = line.interface.live_flows else { return Span::raw(format!("{:>8} {:>4}", "-", "-")) };
    let percent = if share.limit == 0 { 0.0 } else { share.used as f64 * 100.0 / f64::from(share.limit) };
    let style = if percent >= NEARLY_FULL { state.alarm() } else { Style::new() };
    Span::styled(format!("{:>8} {:>3.0}%", short(share.used as f64), percent.min(999.0)), style)
}

/// What is left of the width when the other columns have theirs.
fn name_width(area: Rect) -> usize {
    usize::from(area.width).saturating_sub(64).clamp(8, 32)
}

fn columns(state: &State, area: Rect) -> Text<'static> {
    let plain = Style::new().add_modifier(Modifier::UNDERLINED);
    let width = name_width(area);
    let spans = COLUMNS.into_iter().flat_map(|column| {
        let text = match column {
            Column::Name => format!("{:<width$}", "NAME"),
            Column::State => format!("{:<9}", "STATE"),
            Column::InPackets => format!("{:>7}", "IN p/s"),
            Column::OutPackets => format!("{:>7}", "OUT p/s"),
            Column::InBits | Column::OutBits => format!("{:>7}", "bit/s"),
            Column::Drops => format!("{:>7}", "DROP/s"),
            Column::Connections => format!("{:>7}  of", "CONNS"),
        };
        let style = if column == state.sort { plain.add_modifier(Modifier::REVERSED) } else { plain };
        [Span::styled(text, style), Span::styled(" ", plain)]
    });
    Text::from(spans.collect::<Vec<_>>())
}

/// In nine letters.
const fn state_word(state: InterfaceState) -> &'static str {
    match state {
        InterfaceState::Enforced => "enforced",
        InterfaceState::Audit => "AUDIT",
        InterfaceState::BareMetal => "bare met.",
        InterfaceState::Absent => "absent",
        InterfaceState::Closed => "closed",
        InterfaceState::Unfilterable | InterfaceState::NotFiltered => "NOT FILT.",
    }
}

fn state_style(state: &State, of: InterfaceState) -> Style {
    match of {
        InterfaceState::Enforced => state.paint(Color::Green),
        InterfaceState::BareMetal | InterfaceState::Absent => Style::new(),
        InterfaceState::Audit | InterfaceState::Closed => {
            state.paint(Color::Yellow).add_modifier(Modifier::BOLD)
        }
        InterfaceState::Unfilterable | InterfaceState::NotFiltered => state.alarm(),
    }
}

/// ` of tap0`, where one is looked at.
fn of_selected(state: &State) -> String {
    state.selected.as_ref().map_or_else(String::new, |name| format!(" OF {name}"))
}

fn drop_lines(state: &State, lines: &[Line], area: Rect) -> Vec<Text<'static>> {
    let width = usize::from(area.width).saturating_sub(16);
    let drops = state.drops(lines);
    let title =
        format!("{:<width$.width$} {:>7} {:>7}", format!("DROPS{}", of_selected(state)), "/s", "total");
    let mut text = vec![state.title(&title, area.width)];
    if drops.is_empty() {
        text.push(Text::raw("nothing was dropped"));
    }
    let room = usize::from(area.height.saturating_sub(1));
    text.extend(drops.into_iter().take(room).map(|(name, rate, total)| {
        let line = format!("{name:<width$.width$} {:>7} {:>7}", short(rate), short(total as f64));
        Text::styled(line, if rate > 0.0 { state.paint(Color::Red) } else { Style::new() })
    }));
    text
}

fn talker_lines(state: &State, lines: &[Line], area: Rect) -> Vec<Text<'static>> {
    if state.is_counted() {
        return heavy_lines(state, lines, area);
    }
    let width = usize::from(area.width).saturating_sub(24);
    let talkers = state.talkers(lines);
    let name = format!("TOP REMOTES{}", of_selected(state));
    let title = format!("{name:<width$.width$} {:<15} {:>7}", "INTERFACE", "CONNS");
    let mut text = vec![state.title(&title, area.width)];
    if talkers.is_empty() {
        text.push(Text::raw("no connection lives"));
    }
    // The last line says why there is nothing else.
    let room = usize::from(area.height.saturating_sub(2));
    text.extend(talkers.into_iter().take(room).map(|talker| {
        let remote = talker.remote.to_string();
        Text::raw(format!(
            "{remote:<width$.width$} {:<15.15} {:>7}",
            talker.interface,
            short(talker.connections as f64)
        ))
    }));
    if state.stats().is_some() {
        text.push(Text::raw("bytes: not counted (sgd --flow-log)"));
    }
    text
}

/// Remotes where packets and bytes are counted. The star is what they are sorted by.
fn heavy_lines(state: &State, lines: &[Line], area: Rect) -> Vec<Text<'static>> {
    let with_packets = area.width >= 48;
    let width = usize::from(area.width).saturating_sub(if with_packets { 32 } else { 24 });
    let talkers = state.talkers(lines);
    let star = |is| if is { "*" } else { " " };
    let name = format!("TOP REMOTES{}", of_selected(state));
    let packets = if with_packets { format!("{:>7} ", "PKTS") } else { String::new() };
    let (connections, bytes) = (star(state.by_connections), star(!state.by_connections));
    let title = format!("{name:<width$.width$} {:<8.8} CONNS{connections}{packets} BYTES{bytes}", "DEVICE");
    let mut text = vec![state.title(&title, area.width)];
    if talkers.is_empty() {
        text.push(Text::raw("no connection lives"));
    }
    let room = usize::from(area.height.saturating_sub(1));
    text.extend(talkers.into_iter().take(room).map(|talker| {
        let traffic = talker.traffic.unwrap_or_default();
        let packets =
            if with_packets { format!("{:>7} ", short(traffic.packets as f64)) } else { String::new() };
        Text::raw(format!(
            "{remote:<width$.width$} {:<8.8} {:>5} {packets}{:>6}",
            talker.interface,
            short(talker.connections as f64),
            short(traffic.bytes as f64),
            remote = talker.remote.to_string(),
        ))
    }));
    text
}

/// The fullest first, in as many columns as fit.
fn table_lines(state: &State, area: Rect) -> Vec<Text<'static>> {
    let mut text = vec![state.title("TABLES", area.width)];
    let Some(stats) = state.stats() else { return text };
    let mut tables: Vec<&TableFill> = stats.tables.iter().collect();
    tables.sort_by(|a, b| percent(b).total_cmp(&percent(a)).then_with(|| b.used.cmp(&a.used)));
    let columns = usize::from(area.width / 39).max(1);
    let rows = usize::from(area.height.saturating_sub(1));
    for row in 0..rows {
        let cells = (0..columns).filter_map(|column| tables.get(column * rows + row)).flat_map(|fill| {
            let style = if percent(fill) >= NEARLY_FULL { state.alarm() } else { Style::new() };
            [Span::styled(bar(fill), style), Span::raw("  ")]
        });
        text.push(Text::from(cells.collect::<Vec<_>>()));
    }
    text
}

/// 38 letters: `live v4      [####     ] 42% 110k/262k`.
fn bar(fill: &TableFill) -> String {
    const LONG: usize = 9;
    let percent = percent(fill);
    let full = ((percent / 100.0 * LONG as f64).ceil() as usize).min(LONG);
    let name = fill.table.trim_start_matches("flows_").replace("half_open", "half-open").replace('_', " ");
    let sizes = format!("{}/{}", short(fill.used as f64), short(fill.size as f64));
    format!("{name:<12.12} [{:<LONG$}]{percent:>3.0}%{sizes:>10.10}", "#".repeat(full))
}

fn footer(state: &State) -> Text<'static> {
    let text = if state.editing {
        "type a part of the name; Enter keeps the filter, Esc takes it away"
    } else {
        "q quit  / filter  up/down select  Esc back  left/right sort  r turn  t remotes"
    };
    Text::raw(text)
}
