//! How a task waits for its ring: sleep at once, or stay runnable for a few microseconds first.
//!
//! Waiting well is worth a hundred times more than anything else here: a round trip through a sleeping peer on another
//! core takes 40 us, through one that polls 0.4 us; polling while the peer needs the same core takes 88 us where
//! sleeping takes 4.5 us (DESIGN section 5). So the default polls where recent history says that it pays and
//! the peer runs on another CPU, and sleeps at once everywhere else. A polling task re-schedules itself, so other
//! tasks of the runtime run between two looks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a stream waits for its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Sleep at once. Least CPU, and a system call on each side for every turnaround. (Where small writes come in close order, the
    /// reader lets them gather for a microsecond, which saves sleeps.)
    Off,
    /// Poll for up to 50 us where that has paid recently, the peer runs on another CPU and the machine has more than one.
    #[default]
    Adaptive,
    /// Always poll for this long before sleeping. At most one second.
    Fixed(Duration),
}

/// How long the adaptive wait polls: about as long as sleeping and being woken takes on another core, so that it never costs
/// more than twice what the better choice would have (Karlin et al., "Competitive snoopy caching", 1988). With 20 us a round
/// trip of 64 KiB slept in the middle and took 50 us instead of 26.
const ADAPTIVE: Duration = Duration::from_micros(50);

/// What `fixed` alone means.
const FIXED_DEFAULT: Duration = Duration::from_micros(50);

const FIXED_MAX: Duration = Duration::from_secs(1);

/// Most waits that go without polling after one that polled in vain. 2, 6, 14, 30, 62: an idle connection that is woken a
/// thousand times a second polls sixteen times.
const SKIP_MAX: u32 = 62;

impl Wait {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "off" => Self::Off,
            "adaptive" => Self::Adaptive,
            "fixed" => Self::Fixed(FIXED_DEFAULT),
            other => {
                let micros: u32 = other.strip_prefix("fixed:")?.strip_suffix("us")?.parse().ok()?;
                let time = Duration::from_micros(micros.into());
                if time.is_zero() || time > FIXED_MAX {
                    return None;
                }
                Self::Fixed(time)
            }
        })
    }
}

/// A [`Wait`] that one side sets and the other reads: 0 off, 1 adaptive, else 2 + nanoseconds.
#[derive(Debug)]
pub(crate) struct WaitSetting(AtomicU64);

impl WaitSetting {
    pub(crate) const fn new(wait: Wait) -> Self {
        Self(AtomicU64::new(Self::encode(wait)))
    }

    pub(crate) fn set(&self, wait: Wait) {
        self.0.store(Self::encode(wait), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Wait {
        match self.0.load(Ordering::Relaxed) {
            0 => Wait::Off,
            1 => Wait::Adaptive,
            n => Wait::Fixed(Duration::from_nanos(n - 2)),
        }
    }

    const fn encode(wait: Wait) -> u64 {
        match wait {
            Wait::Off => 0,
            Wait::Adaptive => 1,
            Wait::Fixed(time) if time.as_nanos() > FIXED_MAX.as_nanos() => FIXED_MAX.as_nanos() as u64 + 2,
            Wait::Fixed(time) => time.as_nanos() as u64 + 2,
        }
    }
}

/// One direction's recent history of waiting.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// When the present wait began to poll.
    since: Option<Instant>,
    /// Waits still to go without polling.
    skip: u32,
    /// What `skip` was set to after the last vain poll.
    penalty: u32,
}

impl Waiting {
    /// Whether to look again soon (true) or to sleep now. `same_cpu` is only asked when it matters.
    pub(crate) fn poll_again(&mut self, wait: Wait, same_cpu: impl FnOnce() -> bool) -> bool {
        match wait {
            Wait::Off => false,
            Wait::Fixed(time) => self.within(time),
            Wait::Adaptive => {
                if one_cpu() || same_cpu() {
                    self.since = None;
                    return false;
                }
                if self.since.is_none() && self.skip > 0 {
                    self.skip -= 1;
                    return false;
                }
                if self.within(ADAPTIVE) {
                    return true;
                }
                self.penalty = (self.penalty * 2 + 2).min(SKIP_MAX);
                self.skip = self.penalty;
                false
            }
        }
    }

    fn within(&mut self, time: Duration) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let again = since.elapsed() < time;
        if !again {
            self.since = None;
        }
        again
    }

    /// The wait is over: there was something to do. If it polled, polling paid.
    #[inline]
    pub(crate) fn over(&mut self) {
        if self.since.take().is_some() {
            self.penalty = 0;
            self.skip = 0;
        }
    }
}

/// Whether the machine has one CPU: then the peer cannot run while we poll. (Not whether this process may use only one: its
/// peer may use another, and where both share one, the CPUs they publish say so.)
fn one_cpu() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN) == Ok(Some(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_nanos(1);

    #[test]
    fn off_when_asked_never_polls_and_fixed_polls_until_its_time_is_up() {
        let mut waiting = Waiting::default();
        assert!(!waiting.poll_again(Wait::Off, || false));
        assert!(waiting.poll_again(Wait::Fixed(FIXED_MAX), || true), "whatever the CPU");
        waiting.over();
        while waiting.poll_again(Wait::Fixed(SHORT), || false) {}
    }

    #[test]
    fn adaptive_when_polls_are_vain_skips_more_and_more_and_none_after_a_success() {
        if one_cpu() {
            return;
        }
        let mut waiting = Waiting::default();
        for expected in [2, 6, 14, 30, 62, 62] {
            while waiting.poll_again(Wait::Adaptive, || false) {}
            let mut skipped = 0;
            while !waiting.poll_again(Wait::Adaptive, || false) {
                skipped += 1;
            }
            assert_eq!(skipped, expected);
        }
        waiting.over();
        assert!(waiting.poll_again(Wait::Adaptive, || false));
    }

    #[test]
    fn adaptive_when_the_peer_is_on_the_same_cpu_sleeps_at_once() {
        assert!(!Waiting::default().poll_again(Wait::Adaptive, || true));
    }

    #[test]
    fn setting_when_stored_is_read_back() {
        for wait in [Wait::Off, Wait::Adaptive, Wait::Fixed(Duration::ZERO), Wait::Fixed(FIXED_MAX)] {
            assert_eq!(WaitSetting::new(wait).get(), wait);
        }
        assert_eq!(WaitSetting::new(Wait::Fixed(Duration::MAX)).get(), Wait::Fixed(FIXED_MAX));
    }
}
