//! Reads and look-ups that have to wait: each is a task of its own, and each ends.
//!
//! A task ends with the first of: the bytes, an error of the content, a signal for the caller ([`Watch`]), the mount
//! being taken down; a look-up also at a deadline ([`SEARCH_DEADLINE`]), a content has its own. In the last three the content's future is dropped, which withdraws its demand. Memory is bounded in
//! bytes: a read takes its share of the budget before it starts and gives it back when answered, or when it turns out to
//! be stalled, because a stalled read holds no bytes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::content::BoxFuture;
use crate::errno::{FsError, Loudness};
use crate::fs::read_waiting;
use crate::handles::{HandleId, OpenFile};
use crate::interrupt::Watch;
use crate::timeouts::Timeouts;
use crate::tree::Node;

/// How long a look-up may take that has to be asked of others. Longer than those who answer them try by themselves:
/// the last resort against one that never ends, since the kernel lets nobody go who waits for a name.
const SEARCH_DEADLINE: Duration = Duration::from_secs(60);

/// The budget is counted in these units, to fit the semaphore's 32-bit counts.
const UNIT_BYTES: u64 = 4096;

/// A read that the kernel waits for.
#[derive(Debug)]
pub(crate) struct WaitingRead {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) handle: HandleId,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// The thread that called `read`; 0 when unknown.
    pub(crate) caller: u32,
}

/// Starts and ends the tasks of reads that wait.
#[derive(Debug)]
pub(crate) struct Reads {
    runtime: Handle,
    tasks: TaskTracker,
    budget: Arc<Semaphore>,
    budget_units: u32,
    closing: CancellationToken,
    watch: Watch,
    timeouts: Arc<Timeouts>,
}

impl Reads {
    pub(crate) fn new(runtime: Handle, budget_bytes: u64, closing: CancellationToken, watch: Watch) -> Self {
        let budget_units = units(budget_bytes);
        let budget = Arc::new(Semaphore::new(budget_units as usize));
        let (tasks, timeouts) = (TaskTracker::new(), Arc::default());
        Self { runtime, tasks, budget, budget_units, closing, watch, timeouts }
    }

    /// Never waits. `reply` is called exactly once: from a task, or at once where a read of the same bytes timed out a
    /// moment ago ([`Timeouts`]).
    pub(crate) fn start(
        &self,
        read: WaitingRead,
        reply: impl FnOnce(Result<Bytes, FsError>) + Send + 'static,
    ) {
        let ino = read.file.node.ino;
        let range = read.offset..read.offset.saturating_add(u64::from(read.len));
        if let Some(cause) = self.timeouts.find(ino, &range, Instant::now()) {
            return reply(Err(FsError::TimedOut(cause)));
        }
        let timeouts = Arc::clone(&self.timeouts);
        let span = tracing::debug_span!(
            "read", %ino, fh = read.handle.0, offset = read.offset, len = read.len
        );
        // One read larger than the whole budget takes all of it rather than waiting for ever.
        let share = units(u64::from(read.len)).min(self.budget_units);
        let budget = Arc::clone(&self.budget);
        let closing = self.closing.clone();
        let (watched, interrupted) = self.watch.enter(read.caller);
        let task = async move {
            let bytes = async {
                if let Ok(memory) = budget.acquire_many_owned(share).await {
                    watched.lend(memory);
                }
                read_waiting(&read.file, read.offset, read.len).await
            };
            let outcome = tokio::select! {
                biased;
                () = closing.cancelled() => Err(FsError::Closing),
                Ok(()) = interrupted => Err(FsError::Interrupted),
                outcome = bytes => outcome,
            };
            report(&outcome);
            if let Err(FsError::TimedOut(cause)) = &outcome {
                timeouts.note(ino, range, Arc::clone(cause), Instant::now());
            }
            reply(outcome);
            drop(watched);
        };
        self.tasks.spawn_on(task.instrument(span), &self.runtime);
    }

    /// Never waits. `reply` is called exactly once, from a task, and the failure is logged there.
    pub(crate) fn start_search(
        &self,
        search: BoxFuture<'static, Result<Node, FsError>>,
        name: &OsStr,
        caller: u32,
        reply: impl FnOnce(Result<Node, FsError>) + Send + 'static,
    ) {
        let span = tracing::debug_span!("lookup", ?name);
        let closing = self.closing.clone();
        let (watched, interrupted) = self.watch.enter(caller);
        let task = async move {
            let outcome = tokio::select! {
                biased;
                () = closing.cancelled() => Err(FsError::Closing),
                Ok(()) = interrupted => Err(FsError::Interrupted),
                outcome = tokio::time::timeout(SEARCH_DEADLINE, search) => {
                    outcome.unwrap_or_else(|_| Err(FsError::TimedOut(Arc::new(SearchTooLong))))
                }
            };
            report(&outcome);
            reply(outcome);
            drop(watched);
        };
        self.tasks.spawn_on(task.instrument(span), &self.runtime);
    }

    /// Waits until every read has been answered; false when `patience` ran out first.
    pub(crate) async fn drained(&self, patience: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }
}

fn units(bytes: u64) -> u32 {
    let most = u64::from(u32::MAX).min(Semaphore::MAX_PERMITS as u64);
    u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, most)).unwrap_or(u32::MAX)
}

#[derive(Debug, thiserror::Error)]
#[error("a look-up was not answered within {} s", SEARCH_DEADLINE.as_secs())]
struct SearchTooLong;

fn report<T>(outcome: &Result<T, FsError>) {
    if let Err(error) = outcome {
        match error.loudness() {
            Loudness::Warn => tracing::warn!(errno = error.errno(), "{error}"),
            Loudness::Quiet => tracing::debug!(errno = error.errno(), "{error}"),
        }
    }
}
