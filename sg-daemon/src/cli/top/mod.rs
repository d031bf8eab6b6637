//! `sgctl top`: what goes on, on a terminal.

mod draw;
mod poll;
mod state;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use crossterm::event::{self, Event, KeyEventKind};
use crossterm::terminal;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use self::poll::Poll;
use self::state::{State, Then};
use super::Outcome;
use super::output::{color, print};
use super::stats::parse_interval;

/// Watch interfaces, drops, connections and tables.
///
/// Keys: q or Ctrl-C quits; / shows only interfaces with a text in their names; up and down select an interface, whose drops and
/// remotes alone are then shown, Esc goes back; left and right choose the column to sort by, r turns the order round; t sorts remotes by
/// connections or by bytes. Bytes of remotes are counted while sgd writes a flow log (sgd --flow-log PATH).
///
/// It asks sgd every --interval, and goes on asking while sgd does not answer. The connection tables are read through by sgd at
/// most every three seconds, however many watch.
#[derive(Debug, Args)]
pub struct Top {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_interval)]
    interval: Duration,
    /// Print one frame as plain text, of the rates of one interval, and end
    #[arg(long)]
    once: bool,
}

/// How long a key or a signal may have to wait.
const PATIENCE: Duration = Duration::from_millis(100);

impl Top {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        if self.once {
            return self.frame(socket);
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(
                "sgctl top needs a terminal; without one, use `sgctl top --once` or `sgctl stats --json`"
                    .into(),
            );
        }
        let stop = Arc::new(AtomicBool::new(false));
        // SIGHUP ends it as it ends others: there is no terminal any more that could be restored, and reading from it, which
        // says at once that there is nothing, would never come to an end.
        for signal in [libc::SIGTERM, libc::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let poll = Poll::start(socket, self.interval)?;
        // Restored when a panic unwinds, too.
        let mut terminal = ratatui::try_init()
            .map_err(|error| format!("the terminal cannot be used: {error}; use `sgctl top --once`"))?;
        let outcome = watch(&mut terminal, &poll, &stop);
        let restored = ratatui::try_restore();
        outcome?;
        restored?;
        Ok(ExitCode::SUCCESS)
    }

    fn frame(&self, socket: &Path) -> Outcome {
        let mut state = State::new(false);
        state.answered(poll::ask(socket)?);
        std::thread::sleep(self.interval);
        state.answered(poll::ask(socket)?);
        // Of a pipe there is no size, and no end either.
        let width = if io::stdout().is_terminal() { terminal::size().map_or(80, |size| size.0) } else { 80 };
        let height = draw::whole_height(&state);
        let mut terminal = Terminal::new(TestBackend::new(width.max(draw::WIDTH), height))?;
        terminal.draw(|frame| draw::draw(frame, &mut state))?;
        let buffer = terminal.backend().buffer();
        let mut text = String::new();
        for line in buffer.content().chunks(usize::from(buffer.area.width)) {
            let cells: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
            text += cells.trim_end();
            text.push('\n');
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn watch(terminal: &mut ratatui::DefaultTerminal, poll: &Poll, stop: &AtomicBool) -> io::Result<()> {
    let mut state = State::new(color());
    loop {
        while let Some(answer) = poll.next() {
            match answer {
                Ok(stats) => state.answered(stats),
                Err(error) => state.failed(error),
            }
        }
        terminal.draw(|frame| draw::draw(frame, &mut state))?;
        let mut waited = Duration::ZERO;
        // Drawn anew when there is something to see, and every second for what gets older.
        while waited < Duration::from_secs(1) && !poll.has_news() {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !event::poll(PATIENCE)? {
                waited += PATIENCE;
                continue;
            }
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if state.key(key) == Then::Quit {
                        return Ok(());
                    }
                }
                Event::Resize(..) => {}
                _ => continue,
            }
            break;
        }
    }
}
