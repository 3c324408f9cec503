//! How many datagrams leave at once for a peer whose socket may be small.
//!
//! A browser's socket holds fifty or so, whatever the browser is told to, and the library sends what many acknowledgements
//! allow in one go. What does not fit is lost, and a path of 20 ms pays for it for seconds. So there is a most that
//! leaves in a stretch of time; the rest waits for the next.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::policy::{BurstRule, FlushRule};

/// What the sockets of a connection know of the peer. A stranger, until it says that it is like us.
#[derive(Debug, Default)]
pub(super) struct Pace {
    is_kin: AtomicBool,
}

impl Pace {
    /// The peer takes packets and acknowledgements in large batches.
    pub(super) fn set_kin(&self) {
        self.is_kin.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_kin(&self) -> bool {
        self.is_kin.load(Ordering::Relaxed)
    }

    /// Data datagrams taken before what they call for is sent.
    pub(super) fn taken(&self, rule: &FlushRule) -> u32 {
        if self.is_kin() { rule.datagrams_batched } else { rule.datagrams }
    }
}

/// What has left in this stretch.
#[derive(Debug)]
pub(super) struct Burst {
    rule: BurstRule,
    began: Instant,
    sent: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Burst {
    pub(super) fn new(rule: BurstRule) -> Self {
        Self { rule, began: Instant::now(), sent: 0, timer: None }
    }

    /// Ready when `datagrams` more may leave, which are counted then. More than a burst leave alone.
    pub(super) fn poll_take(&mut self, context: &mut Context<'_>, datagrams: usize) -> Poll<()> {
        let ends = self.began + self.rule.within;
        let now = Instant::now();
        if now < ends && self.sent > 0 && self.sent + datagrams > self.rule.datagrams {
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends)));
            std::task::ready!(timer.as_mut().poll(context));
        }
        self.timer = None;
        if Instant::now() >= ends {
            (self.began, self.sent) = (Instant::now(), 0);
        }
        self.sent += datagrams;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn no_more_than_a_burst_leaves_in_a_stretch() {
        let rule = BurstRule { datagrams: 32, within: Duration::from_millis(1) };
        let mut burst = Burst::new(rule);
        let start = Instant::now();
        for _ in 0..20 {
            std::future::poll_fn(|context| burst.poll_take(context, 16)).await;
        }
        // Ten stretches, of which the last need not end.
        assert!(start.elapsed() >= Duration::from_millis(9), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn what_is_longer_than_a_burst_leaves_too() {
        let mut burst = Burst::new(BurstRule { datagrams: 4, within: Duration::from_millis(1) });
        for _ in 0..3 {
            std::future::poll_fn(|context| burst.poll_take(context, 9)).await;
        }
    }
}
