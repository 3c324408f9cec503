//! Finding out that a stuck reader has been sent a signal.
//!
//! The kernel would tell by FUSE_INTERRUPT, but the FUSE library answers that with ENOSYS, after which the kernel never
//! sends it again and a killed reader hangs in D state until its read is answered. So one thread looks at each read
//! that has waited for [`SLOW`]: does the calling thread have a signal pending that would end its wait? Then the read
//! is told, drops its demand and answers `EINTR`.
//!
//! Quick reads pay one map insert and remove; the thread sleeps while nothing is in flight.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

mod signals;

use signals::Caller;

/// A read that has waited this long is looked after. Most reads from a live swarm end sooner, and a user who pressed
/// Ctrl-C does not notice half a second.
pub(crate) const SLOW: Duration = Duration::from_millis(500);

/// How often slow reads are looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// The looking takes at most one part in this many of a core, however many readers are stuck.
const LOAD_DIVISOR: u32 = 20;

/// The reads in flight. Cheap to clone; the thread ends when it is told to by [`Watch::close`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    reads: HashMap<u64, InFlight>,
    next: u64,
    /// The thread sleeps until there are reads; otherwise it wakes by itself and need not be woken per read.
    is_parked: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct InFlight {
    caller: u32,
    since: Instant,
    interrupt: Option<oneshot::Sender<()>>,
    memory: Option<OwnedSemaphorePermit>,
}

/// One read in flight; leaving the scope ends the watching.
#[derive(Debug)]
pub(crate) struct Watched {
    watch: Watch,
    id: u64,
}

impl Watch {
    /// Starts the thread.
    pub(crate) fn spawn(&self) -> std::io::Result<JoinHandle<()>> {
        let watch = self.clone();
        std::thread::Builder::new().name("wtfs-watch".into()).spawn(move || watch.run())
    }

    /// Begins to watch a read by the thread `caller`. The receiver fires when that thread is to be interrupted.
    pub(crate) fn enter(&self, caller: u32) -> (Watched, oneshot::Receiver<()>) {
        let (interrupt, interrupted) = oneshot::channel();
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let read = InFlight { caller, since: Instant::now(), interrupt: Some(interrupt), memory: None };
        state.reads.insert(id, read);
        let is_parked = std::mem::take(&mut state.is_parked);
        drop(state);
        if is_parked {
            self.shared.wake.notify_all();
        }
        (Watched { watch: self.clone(), id }, interrupted)
    }

    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.shared.wake.notify_all();
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.lock().reads.len()
    }

    fn run(&self) {
        let mut pause = INTERVAL;
        while self.pause_while_busy(pause) {
            let started = Instant::now();
            self.look();
            pause = INTERVAL.max(started.elapsed() * LOAD_DIVISOR);
        }
    }

    /// Sleeps until there are reads, then for `pause`. False once closed.
    fn pause_while_busy(&self, pause: Duration) -> bool {
        let closed = |state: &mut State| !state.is_closed;
        let idle = |state: &mut State| {
            state.is_parked = !state.is_closed && state.reads.is_empty();
            state.is_parked
        };
        let wake = &self.shared.wake;
        let state = wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let (state, _) =
            wake.wait_timeout_while(state, pause, closed).unwrap_or_else(PoisonError::into_inner);
        !state.is_closed
    }

    /// One round: the callers of slow reads are looked up in /proc without the lock.
    fn look(&self) {
        let mut callers = HashSet::new();
        let mut returned = Vec::new();
        let now = Instant::now();
        for read in self.lock().reads.values_mut() {
            let waited = now.saturating_duration_since(read.since);
            if waited >= INTERVAL {
                // Whoever waits this long waits for the network and holds no bytes yet.
                returned.extend(read.memory.take());
            }
            if waited >= SLOW {
                callers.insert(read.caller);
            }
        }
        drop(returned);
        callers.retain(|caller| signals::look_up(*caller) != Caller::Waits);
        if callers.is_empty() {
            return;
        }
        for read in self.lock().reads.values_mut() {
            let is_slow = now.saturating_duration_since(read.since) >= SLOW;
            if is_slow && callers.contains(&read.caller) {
                read.interrupt.take().map(|interrupt| interrupt.send(()));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Hands over the read's share of the memory budget. It goes back when the read ends, or as soon as the read turns
    /// out to wait for the network: stalled reads must not keep others from local bytes.
    pub(crate) fn lend(&self, memory: OwnedSemaphorePermit) {
        if let Some(read) = self.watch.lock().reads.get_mut(&self.id) {
            read.memory = Some(memory);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let gone = self.watch.lock().reads.remove(&self.id);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what never ends reaches it.
    const PATIENCE: Duration = Duration::from_secs(120);

    #[test]
    fn a_read_that_ends_is_watched_no_longer() {
        let watch = Watch::default();
        let (first, _) = watch.enter(1);
        let (second, _) = watch.enter(1);
        assert_eq!(watch.in_flight(), 2);
        drop(first);
        drop(second);
        assert_eq!(watch.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_slow_read_of_a_thread_that_is_gone_is_interrupted_and_a_live_one_is_not() {
        let watch = Watch::default();
        let thread = watch.spawn().unwrap();
        // Above the largest pid_max there is: such a thread cannot exist.
        let (gone, interrupted) = watch.enter(1 << 23);
        let (_alive, mut waits) = watch.enter(std::process::id());
        let fired = tokio::time::timeout(PATIENCE, interrupted).await;
        assert_eq!(fired, Ok(Ok(())));
        assert!(waits.try_recv().is_err());
        drop(gone);
        watch.close();
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn memory_of_a_stalled_read_goes_back_to_the_others() {
        let watch = Watch::default();
        let thread = watch.spawn().unwrap();
        let budget = Arc::new(tokio::sync::Semaphore::new(4));
        let (stalled, _interrupt) = watch.enter(std::process::id());
        stalled.lend(Arc::clone(&budget).acquire_many_owned(4).await.unwrap());
        let again = tokio::time::timeout(PATIENCE, budget.acquire_many(4)).await;
        assert!(again.is_ok());
        watch.close();
        thread.join().unwrap();
    }
}
