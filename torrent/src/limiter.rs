//! Rate limits shared by all connections of a session.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wtfs_proto::rate::TokenBucket;

/// A limit in bytes a second; clones of its `Arc` share it.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Option<Mutex<TokenBucket>>,
    held_back: AtomicUsize,
    start: Instant,
}

impl Limiter {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let bucket = bytes_per_second.map(|rate| Mutex::new(TokenBucket::new(Duration::ZERO, Some(rate))));
        Self { bucket, held_back: AtomicUsize::new(0), start: Instant::now() }
    }

    /// Whether anybody waits for the limit now.
    pub(crate) fn is_holding_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed) > 0
    }

    /// Waits until `bytes` may pass. At once where there is no limit.
    ///
    /// # Cancel safety
    /// Dropped while it waits, nothing has been taken.
    pub(crate) async fn take(&self, bytes: u64) {
        let Some(bucket) = &self.bucket else { return };
        loop {
            let taken =
                bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.start.elapsed(), bytes);
            match taken {
                Ok(()) => return,
                Err(wait) => {
                    let _held = Held::begin(&self.held_back);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// Counts one who waits, for as long as it lives.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn begin(held_back: &'a AtomicUsize) -> Self {
        held_back.fetch_add(1, Ordering::Relaxed);
        Self(held_back)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_limit_is_seen_until_it_goes() {
        let limiter = Limiter::new(Some(1));
        assert!(!limiter.is_holding_back());
        let waiting = async {
            loop {
                limiter.take(1 << 30).await;
            }
        };
        let mut waiting = Box::pin(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(limiter.is_holding_back());
        drop(waiting);
        assert!(!limiter.is_holding_back());
    }
}
