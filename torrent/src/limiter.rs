//! Rate limits shared by all connections of a session.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wtfs_proto::rate::TokenBucket;

/// A limit in bytes a second; clones of its `Arc` share it.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Option<Mutex<TokenBucket>>,
    start: Instant,
}

impl Limiter {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let bucket = bytes_per_second.map(|rate| Mutex::new(TokenBucket::new(Duration::ZERO, Some(rate))));
        Self { bucket, start: Instant::now() }
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
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}
