//! How often one process may come in. Pure: time is an argument.
//!
//! Finding out who a client is takes the service some tens of microseconds, which a process that connects again and again without a
//! word could have it spend all day. So the server asks here first, with what the kernel says at once: the numbers of the
//! process and its user. What a client may have open is the quota's matter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::socket::UnixCredentials;

/// Visits of one process at once. It needs one session, and another when the service or a command of its has restarted.
const BURST: u32 = 1_024;

/// Visits of one process a second, beyond that. At 50 us each this is little more than a hundredth of one core.
const PER_SECOND: u32 = 256;

/// Processes that are remembered: those that came in within the last seconds. When there are more, new ones come in uncounted.
const MAX_PROCESSES: usize = 4_096;

/// Who has come, and when.
#[derive(Debug, Default)]
pub(crate) struct Door {
    visitors: HashMap<(i32, u32), Visits>,
    cleared: Option<Instant>,
}

/// A bucket that fills with time.
#[derive(Clone, Copy, Debug)]
struct Visits {
    left: f64,
    counted_at: Instant,
}

impl Visits {
    fn refilled(self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        (self.left + passed * f64::from(PER_SECOND)).min(f64::from(BURST))
    }
}

impl Door {
    /// Whether a process may come in now.
    pub(crate) fn admits(&mut self, who: &UnixCredentials, now: Instant) -> bool {
        let who = (who.pid(), who.uid());
        if !self.visitors.contains_key(&who) && !self.has_room(now) {
            return true;
        }
        let visits = self.visitors.entry(who).or_insert_with(|| Visits { left: f64::from(BURST), counted_at: now });
        *visits = Visits { left: visits.refilled(now), counted_at: now };
        let admitted = visits.left >= 1.0;
        if admitted {
            visits.left -= 1.0;
        }
        admitted
    }

    /// Forgets who has not come for long, at most once a second.
    fn has_room(&mut self, now: Instant) -> bool {
        let due = self.cleared.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1));
        if self.visitors.len() >= MAX_PROCESSES && due {
            self.cleared = Some(now);
            self.visitors.retain(|_, visits| visits.refilled(now) < f64::from(BURST));
        }
        self.visitors.len() < MAX_PROCESSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32) -> UnixCredentials {
        libc::ucred { pid, uid: 1, gid: 1 }.into()
    }

    #[test]
    fn process_when_it_comes_too_often_waits_and_others_do_not() {
        let (mut door, now) = (Door::default(), Instant::now());
        let admitted = (0..2 * BURST).filter(|_| door.admits(&process(1), now)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(door.admits(&process(2), now));
        let later = now + Duration::from_millis(500);
        let admitted = (0..BURST).filter(|_| door.admits(&process(1), later)).count();
        assert_eq!(admitted, PER_SECOND as usize / 2);
    }

    #[test]
    fn processes_when_there_are_many_take_room_for_seconds_only_and_all_come_in() {
        let (mut door, now) = (Door::default(), Instant::now());
        for pid in 0..2 * MAX_PROCESSES as i32 {
            assert!(door.admits(&process(pid), now), "uncounted");
        }
        assert_eq!(door.visitors.len(), MAX_PROCESSES);
        assert!(door.admits(&process(-1), now + Duration::from_secs(8)));
        assert_eq!(door.visitors.len(), 1, "those that came once are forgotten");
    }
}
