//! Reads that ended a moment ago because no source gave their bytes in time.
//!
//! When a request fails, the kernel asks again for the page that somebody waits for, and each thread that waits for the
//! page does so in its turn. Without this, `read` would end after twice the read time-out, and the last of n threads at one
//! page after n + 1 times. So what timed out is answered alike for a moment, where its bytes are still not local.
//!
//! Invariant: never makes an answer wrong, only early; and never delays one. Memory is bounded by the number of entries.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::errno::Cause;
use crate::inode::InodeNo;

/// For so long. The kernel asks again within microseconds, a loaded machine's threads within tenths of a second; a
/// person or program that tries again later is to have a new chance.
const MOMENT: Duration = Duration::from_secs(1);

/// Reads that are remembered. With more that end within the moment, the oldest wait for the time-out once more.
const MOST: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Timeouts {
    /// In the order of time. A leaf: held for a look or an entry alone.
    recent: Mutex<VecDeque<Timeout>>,
}

#[derive(Debug)]
struct Timeout {
    ino: InodeNo,
    bytes: Range<u64>,
    at: Instant,
    cause: Cause,
}

impl Timeouts {
    /// A read of these bytes timed out now.
    pub(crate) fn note(&self, ino: InodeNo, bytes: Range<u64>, cause: Cause, now: Instant) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut recent, now);
        if recent.len() == MOST {
            recent.pop_front();
        }
        recent.push_back(Timeout { ino, bytes, at: now, cause });
    }

    /// Why a read that held all these bytes timed out a moment ago, if one did.
    pub(crate) fn find(&self, ino: InodeNo, bytes: &Range<u64>, now: Instant) -> Option<Cause> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut recent, now);
        let holds = |t: &&Timeout| t.ino == ino && t.bytes.start <= bytes.start && bytes.end <= t.bytes.end;
        recent.iter().find(holds).map(|timeout| timeout.cause.clone())
    }
}

fn forget_old(recent: &mut VecDeque<Timeout>, now: Instant) {
    while recent.front().is_some_and(|oldest| now.saturating_duration_since(oldest.at) >= MOMENT) {
        recent.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn cause() -> Cause {
        Arc::new(std::io::Error::other("no source"))
    }

    fn ino(number: u32) -> InodeNo {
        InodeNo::own(number)
    }

    #[test]
    fn what_timed_out_is_known_for_a_moment_with_all_its_parts_and_nothing_else_is() {
        let (timeouts, start) = (Timeouts::default(), Instant::now());
        timeouts.note(ino(9), 4096..12288, cause(), start);
        for bytes in [4096..12288, 4096..8192, 8192..12288] {
            assert!(timeouts.find(ino(9), &bytes, start).is_some(), "{bytes:?}");
        }
        for bytes in [0..4096, 0..8192, 8192..12289, 12288..16384] {
            assert!(timeouts.find(ino(9), &bytes, start).is_none(), "{bytes:?}");
        }
        assert!(timeouts.find(ino(8), &(4096..8192), start).is_none());
        let shortly = start + MOMENT - Duration::from_millis(1);
        assert!(timeouts.find(ino(9), &(4096..8192), shortly).is_some());
        assert!(timeouts.find(ino(9), &(4096..8192), start + MOMENT).is_none());
    }

    #[test]
    fn memory_is_bounded_however_many_time_out_at_once() {
        let (timeouts, start) = (Timeouts::default(), Instant::now());
        let page = |n: usize| n as u64 * 4096..(n as u64 + 1) * 4096;
        for n in 0..MOST + 10 {
            timeouts.note(ino(9), page(n), cause(), start);
        }
        assert_eq!(timeouts.recent.lock().unwrap().len(), MOST);
        assert!(timeouts.find(ino(9), &page(9), start).is_none());
        assert!(timeouts.find(ino(9), &page(10), start).is_some());
        assert!(timeouts.find(ino(9), &page(MOST), start + MOMENT).is_none());
        assert_eq!(timeouts.recent.lock().unwrap().len(), 0);
    }
}
