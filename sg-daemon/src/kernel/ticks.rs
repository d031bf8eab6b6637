//! The kernel's tick rate, which is a build option (`CONFIG_HZ`) that no file is sure to tell: it is measured.

use std::time::{Duration, Instant};

use super::{Kernel, KernelError};

/// What `CONFIG_HZ` may be; kernel/Kconfig.hz.
const RATES: [u32; 4] = [100, 250, 300, 1000];
/// Long enough to tell 250 from 300, if nothing comes in between.
const PAUSE: Duration = Duration::from_millis(60);
const LONGEST: Duration = Duration::from_secs(2);
const TRIES: u32 = 10;

/// A clock, and the ticks that it is to be compared with.
pub(super) trait Clocks {
    /// Since some moment.
    fn now(&mut self) -> Duration;

    fn ticks(&mut self) -> Result<u64, KernelError>;

    fn wait(&mut self, pause: Duration);
}

/// The one rate that agrees with what was read. This thread, or the whole machine if it is a virtual one, may stand still between any
/// two readings: each of the ticks is between two of the clock, and where more rates than one agree, or none, it is read again.
pub(super) fn rate(clocks: &mut impl Clocks) -> Result<u32, KernelError> {
    let (mut pause, mut measured) = (PAUSE, 0);
    for _ in 0..TRIES {
        let (before, begin, after) = (clocks.now(), clocks.ticks()?, clocks.now());
        clocks.wait(pause);
        let (then, end, last) = (clocks.now(), clocks.ticks()?, clocks.now());
        let ticks = u128::from(end.wrapping_sub(begin));
        let [least, most] = [then.saturating_sub(after), last.saturating_sub(before)];
        // Either reading may be just before a tick or just behind one.
        let agrees = |rate: u32| {
            let in_time = |time: Duration| u128::from(rate) * time.as_micros() / 1_000_000;
            in_time(least) <= ticks + 1 && ticks <= in_time(most) + 1
        };
        let mut agreeing = RATES.into_iter().filter(|&rate| agrees(rate));
        if let (Some(rate), None) = (agreeing.next(), agreeing.next()) {
            return Ok(rate);
        }
        let rate = ticks * 1_000_000 / most.as_micros().max(1);
        measured = u64::try_from(rate).unwrap_or(u64::MAX);
        pause = (pause * 2).min(LONGEST);
    }
    Err(KernelError::Clock(measured))
}

pub(super) struct OfKernel<'a> {
    pub kernel: &'a mut Kernel,
    pub begin: Instant,
}

impl Clocks for OfKernel<'_> {
    fn now(&mut self) -> Duration {
        self.begin.elapsed()
    }

    fn ticks(&mut self) -> Result<u64, KernelError> {
        self.kernel.raw_jiffies()
    }

    fn wait(&mut self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose time is told by the test. It stands still before the readings, of either kind, that are listed.
    struct Machine {
        micros: u64,
        rate: u64,
        readings: usize,
        stalls: Vec<(usize, Duration)>,
    }

    impl Machine {
        fn new(rate: u32, stalls: &[(usize, Duration)]) -> Self {
            Self { micros: 123_456, rate: rate.into(), readings: 0, stalls: stalls.to_vec() }
        }

        fn reading(&mut self) {
            self.readings += 1;
            let stalls = self.stalls.iter().filter(|(reading, _)| *reading == self.readings);
            self.micros += stalls.map(|(_, stall)| stall.as_micros() as u64).sum::<u64>();
        }
    }

    impl Clocks for Machine {
        fn now(&mut self) -> Duration {
            self.reading();
            Duration::from_micros(self.micros)
        }

        fn ticks(&mut self) -> Result<u64, KernelError> {
            self.reading();
            self.micros += 50;
            Ok(self.micros * self.rate / 1_000_000)
        }

        fn wait(&mut self, pause: Duration) {
            self.micros += pause.as_micros() as u64 + 100;
        }
    }

    #[test]
    fn each_rate_is_told_at_the_first_try() {
        for expected in RATES {
            for begin in 0..200 {
                let mut machine = Machine::new(expected, &[]);
                machine.micros += begin * 97;
                assert_eq!(rate(&mut machine).unwrap(), expected);
                assert_eq!(machine.readings, 6, "{expected} from {}", 123_456 + begin * 97);
            }
        }
    }

    /// Standing still for 180 ms between the clock and the ticks makes 250 a second look like 1000.
    #[test]
    fn a_machine_that_stands_still_is_not_taken_for_one_that_ticks_faster_or_slower() {
        for expected in RATES {
            for reading in 1..=6 {
                for stall in (0..2_000).step_by(7).map(Duration::from_millis) {
                    let mut machine = Machine::new(expected, &[(reading, stall)]);
                    assert_eq!(rate(&mut machine).unwrap(), expected, "{stall:?} before reading {reading}");
                }
            }
        }
    }

    #[test]
    fn it_is_tried_again_until_the_machine_goes_on() {
        let stalls: Vec<_> = (1..=54).map(|reading| (reading, Duration::from_millis(180))).collect();
        let mut machine = Machine::new(250, &stalls);
        assert_eq!(rate(&mut machine).unwrap(), 250);
        assert!(machine.readings > 6);
    }

    #[test]
    fn a_rate_that_no_kernel_has_is_told_as_it_was_measured() {
        let error = rate(&mut Machine::new(550, &[])).unwrap_err();
        assert!(matches!(error, KernelError::Clock(540..=560)), "{error}");
    }
}
