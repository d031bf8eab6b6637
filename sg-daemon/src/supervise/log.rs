//! The log: on standard error, as whoever reads it there wants it.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;

use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// From now on what is logged is written. To be called once.
pub fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text if is_journal() => log.with_ansi(false).event_format(ForJournal::new()).init(),
        LogFormat::Text => {
            let color = std::env::var_os("NO_COLOR").is_none() && io::stderr().is_terminal();
            log.with_ansi(color).with_target(false).init();
        }
    }
}

/// Whether standard error goes to the journal: `JOURNAL_STREAM` (systemd.exec(5)) names the device and inode that it then is.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/dev/stderr").is_ok_and(|now| stream == format!("{}:{}", now.dev(), now.ino()))
}

/// The journal knows the time, and the level from a number before each line (sd-daemon(3)), so that `journalctl --priority` finds it.
#[derive(Debug)]
struct ForJournal(Format<Full, ()>);

impl ForJournal {
    fn new() -> Self {
        Self(format().without_time().with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// As syslog(3) counts.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
