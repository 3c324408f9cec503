//! The bounded pool on which blocking disk work and hashing run.
//!
//! tokio's own blocking pool grows to hundreds of threads; under many stalled reads that is memory and contention
//! for nothing. The permits here bound what runs at once; the rest waits in line without a thread.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Jobs at once for each core: one may wait for the disk while the other hashes.
const JOBS_PER_CORE: usize = 2;

/// A bounded pool; clones share the bound.
#[derive(Debug, Clone)]
pub(crate) struct DiskPool {
    permits: Arc<Semaphore>,
}

/// The runtime is shutting down, or the job panicked (which is logged).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job was lost")]
pub(crate) struct JobLost;

impl DiskPool {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { permits: Arc::new(Semaphore::new(cores * JOBS_PER_CORE)) }
    }

    /// Starts a blocking job that tells its outcome by itself. Where a place is free it starts at once, without a task
    /// in between: two wake-ups less for whoever waits for the outcome.
    pub(crate) fn start(&self, tasks: &TaskTracker, job: impl FnOnce() + Send + 'static) {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => {
                tasks.spawn_blocking(move || {
                    let _permit = permit;
                    job();
                });
            }
            Err(_) => {
                let pool = self.clone();
                tasks.spawn(async move {
                    // A lost job was logged where it was lost.
                    let _lost = pool.run(job).await;
                });
            }
        }
    }

    /// Runs a blocking job.
    ///
    /// # Cancel safety
    /// Dropped before the job starts, it never runs; after that it runs to its end and its result is lost.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobLost> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| JobLost)?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            job()
        });
        done.await.map_err(|error| {
            if error.is_panic() {
                tracing::error!(%error, "a disk job panicked");
            }
            JobLost
        })
    }
}
