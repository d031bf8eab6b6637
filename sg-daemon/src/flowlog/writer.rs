//! A thread of its own writes: a disk that is slow or full holds up nobody but it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::file::{LogFile, Unwritten};

/// How many bytes of lines may wait to be written; what comes beyond that is not written.
const QUEUE_BYTES: usize = 16 << 20;

/// A line, and the interface that it is of.
#[derive(Debug, Clone)]
pub struct Line {
    pub interface: Arc<str>,
    pub text: String,
}

impl AsRef<str> for Line {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// What has become of the lines so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    pub lines: u64,
    pub lost: u64,
    /// Why the last ones were lost; none since the last line that was written.
    pub error: Option<String>,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Vec<Line>>,
    bytes: usize,
    reopen: bool,
    stop: bool,
    written: Written,
    /// Lines that are not in the log and of which nobody was told yet, by interface.
    lost: BTreeMap<Arc<str>, u64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to the thread.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn start(path: &Path, max_size: u64, keep: u32) -> io::Result<Self> {
        let file = LogFile::open(path, max_size, keep)?;
        let shared = Arc::new(Shared::default());
        let (theirs, path) = (Arc::clone(&shared), path.to_owned());
        let run = move || write_all(file, &path, &theirs);
        let thread = std::thread::Builder::new().name("flow-log".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands lines over. If too many wait already, these are lost, and counted.
    pub fn write(&self, lines: Vec<Line>) {
        if lines.is_empty() {
            return;
        }
        let bytes = bytes_of(&lines);
        let mut state = self.shared.state();
        if state.bytes + bytes > QUEUE_BYTES {
            state.lose(&lines, "the disk is too slow: too many lines wait".to_owned());
            return;
        }
        state.bytes += bytes;
        state.batches.push_back(lines);
        self.shared.changed.notify_all();
    }

    /// The next line goes to whatever file has the name then.
    pub fn reopen(&self) {
        self.shared.state().reopen = true;
        self.shared.changed.notify_all();
    }

    pub fn written(&self) -> Written {
        self.shared.state().written.clone()
    }

    /// Takes the numbers of lines that were lost, by interface.
    pub fn take_lost(&self) -> BTreeMap<Arc<str>, u64> {
        std::mem::take(&mut self.shared.state().lost)
    }

    /// Writes what waits and ends.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn lose(&mut self, lines: &[Line], why: String) {
        for line in lines {
            *self.lost.entry(Arc::clone(&line.interface)).or_default() += 1;
        }
        self.written.lost += lines.len() as u64;
        if self.written.error.is_none() {
            // Once, until lines are written again.
            tracing::warn!(
                "the flow log loses records: {why}; it goes on as soon as it can, and counts what is lost"
            );
        }
        self.written.error = Some(why);
    }
}

fn bytes_of(lines: &[Line]) -> usize {
    lines.iter().map(|line| line.text.len() + 1).sum()
}

fn write_all(mut file: LogFile, path: &Path, shared: &Shared) {
    loop {
        let mut state = shared.state();
        while state.batches.is_empty() && !state.stop && !state.reopen {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if std::mem::take(&mut state.reopen) {
            file.reopen();
        }
        let Some(lines) = state.batches.pop_front() else {
            if state.stop {
                return;
            }
            continue;
        };
        drop(state);
        let outcome = file.append(&lines);
        let mut state = shared.state();
        state.bytes = state.bytes.saturating_sub(bytes_of(&lines));
        match outcome {
            Ok(()) => {
                state.written.lines += lines.len() as u64;
                if state.written.error.take().is_some() {
                    tracing::info!(lost = state.written.lost, "the flow log is written again");
                }
            }
            Err(Unwritten { written, error }) => {
                state.written.lines += written as u64;
                let lost = lines.get(written..).unwrap_or_default();
                state.lose(lost, format!("cannot write {}: {error}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> Line {
        Line { interface: format!("tap{}", number % 2).into(), text: format!("line {number}") }
    }

    #[test]
    fn what_was_handed_over_is_written_before_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flow.log");
        let writer = Writer::start(&path, 0, 1).unwrap();
        for number in 0..1000 {
            writer.write(vec![line(number)]);
            if number % 100 == 0 {
                writer.reopen();
            }
        }
        writer.stop();
        let expected: Vec<String> = (0..1000).map(|number| line(number).text).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn lines_that_are_lost_are_counted_by_interface() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flow.log");
        let writer = Writer::start(&path, 0, 1).unwrap();
        // A directory has the name now.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        writer.write((0..3).map(line).collect());
        while writer.written().lost < 3 {
            std::thread::yield_now();
        }
        let error = writer.written().error.unwrap();
        assert!(error.contains("flow.log"), "{error}");
        assert_eq!(writer.take_lost(), BTreeMap::from([("tap0".into(), 2), ("tap1".into(), 1)]));
        assert_eq!(writer.take_lost(), BTreeMap::new());
        std::fs::remove_dir(&path).unwrap();
        writer.write(vec![line(3)]);
        while writer.written().lines < 1 {
            std::thread::yield_now();
        }
        assert_eq!(writer.written(), Written { lines: 1, lost: 3, error: None });
        // More than may wait, at once.
        let large = Line { interface: "tap0".into(), text: "x".repeat(QUEUE_BYTES) };
        writer.write(vec![large]);
        assert_eq!(writer.take_lost(), BTreeMap::from([("tap0".into(), 1)]));
    }
}
