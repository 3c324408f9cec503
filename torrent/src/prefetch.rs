//! Fetching a range of a file because a person asked for it, piece by piece in the background.
//!
//! A task walks the range in windows, so that a huge file neither fills the torrent's tables nor holds up anything:
//! reads and read-ahead go before it. It asks for nothing that is present, so that one that was broken off goes on
//! where it stopped. It keeps nothing: what it fetched may be evicted like anything else, the file pinned before or not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wtfs_proto::geometry::FileIndex;

use crate::config::NetworkPolicy;
use crate::error::{OpenError, ReadError};
use crate::reader::next_demand;
use crate::session::Engine;
use crate::torrent::{Command, Content, Shared, Torrent};

/// Bytes asked for at once.
const WINDOW_BYTES: u64 = 32 << 20;

/// Pieces asked for at once, at least: of large ones too there must be something to do for several peers.
const WINDOW_PIECES: u32 = 8;

/// After this long without a new piece the window is asked for anew: a piece of it may have been evicted.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// How far a [`Prefetch`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PrefetchProgress {
    /// Pieces of the range that were there or came.
    pub done_pieces: u32,
    /// Pieces of the range.
    pub total_pieces: u32,
    /// Their bytes; the first and the last piece may reach over the range.
    pub done_bytes: u64,
    /// Bytes of all of them.
    pub total_bytes: u64,
}

/// A range that is being fetched. Dropping it ends that; what came stays.
#[derive(Debug)]
pub struct Prefetch {
    progress: watch::Receiver<PrefetchProgress>,
    outcome: watch::Receiver<Option<Result<(), ReadError>>>,
    cancel: CancellationToken,
}

impl Prefetch {
    /// How far it is. Never waits.
    pub fn progress(&self) -> PrefetchProgress {
        *self.progress.borrow()
    }

    /// Waits until there is more than at the last call.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn changed(&mut self) -> PrefetchProgress {
        // Closed when it is done: what there is now is the last.
        let _done = self.progress.changed().await;
        *self.progress.borrow_and_update()
    }

    /// Waits until all is there.
    ///
    /// # Errors
    /// [`ReadError::Offline`] when something is missing and the session has no network, [`ReadError::NoSpace`] when the
    /// range is larger than the cache may be, [`ReadError::Closed`] when the torrent was removed. Without sources it
    /// waits, for as long as it takes.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&self) -> Result<(), ReadError> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(ReadError::Closed)),
            Err(_) => Err(ReadError::Closed),
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Starts fetching a range; see [`Torrent::prefetch`].
pub(crate) fn start(torrent: &Torrent, file: FileIndex, range: Range<u64>) -> Result<Prefetch, OpenError> {
    let content = torrent.shared.content().ok_or(OpenError::NotReady)?.clone();
    let entry = content.metainfo.info.files.get(file.get() as usize).ok_or(OpenError::NoSuchFile)?;
    if entry.is_pad || entry.symlink.is_some() {
        return Err(OpenError::NoSuchFile);
    }
    let pieces = content.geometry().pieces_of(file, range);
    let pieces = match (pieces.first(), pieces.last_piece()) {
        (Some(first), Some(last)) => first.get()..last.get() + 1,
        _ => 0..0,
    };
    let (progress, progress_seen) = watch::channel(PrefetchProgress::default());
    let (outcome, outcome_seen) = watch::channel(None);
    let cancel = torrent.engine.cancel.child_token();
    let walk = Walk {
        total_bytes: content.bytes_of(pieces.clone()),
        engine: torrent.engine.clone(),
        shared: torrent.shared.clone(),
        content,
        pieces,
        progress,
    };
    walk.report(walk.pieces.start);
    let (ended, running) = (cancel.clone(), Running::enter(&torrent.shared, file, &progress_seen));
    torrent.engine.tasks.spawn(async move {
        let _running = running;
        let result = tokio::select! {
            biased;
            () = ended.cancelled() => Err(ReadError::Closed),
            () = walk.shared.commands.closed() => Err(ReadError::Closed),
            result = walk.run() => result,
        };
        outcome.send_replace(Some(result));
    });
    Ok(Prefetch { progress: progress_seen, outcome: outcome_seen, cancel })
}

/// The prefetches of a torrent that are under way, to be shown.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    all: Mutex<BTreeMap<u64, (FileIndex, watch::Receiver<PrefetchProgress>)>>,
}

impl UnderWay {
    /// Each with its file, the oldest first.
    pub(crate) fn all(&self) -> Vec<(FileIndex, PrefetchProgress)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|(file, progress)| (*file, *progress.borrow())).collect()
    }
}

/// Keeps a prefetch among those under way while it lives.
struct Running {
    shared: Arc<Shared>,
    id: u64,
}

impl Running {
    fn enter(shared: &Arc<Shared>, file: FileIndex, progress: &watch::Receiver<PrefetchProgress>) -> Self {
        let id = next_demand().0;
        let mut all = shared.prefetches.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, (file, progress.clone()));
        Self { shared: shared.clone(), id }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.prefetches.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Content {
    fn bytes_of(&self, pieces: Range<u32>) -> u64 {
        let geometry = self.geometry();
        pieces
            .filter_map(|piece| geometry.piece(piece))
            .map(|piece| u64::from(geometry.piece_len(piece)))
            .sum()
    }
}

struct Walk {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    content: Arc<Content>,
    pieces: Range<u32>,
    total_bytes: u64,
    progress: watch::Sender<PrefetchProgress>,
}

/// Withdraws the window's demand when dropped.
struct Window<'a> {
    shared: &'a Shared,
    id: wtfs_proto::swarm::DemandId,
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // A task too busy to hear of it fetches a window more than it need.
        if self.shared.commands.try_send(Command::Withdraw(self.id)).is_err() {
            tracing::debug!(id = self.id.0, "a prefetch could not be withdrawn");
        }
    }
}

impl Walk {
    async fn run(&self) -> Result<(), ReadError> {
        let most = self.engine.budget.status().limit_bytes;
        if self.content.ledger.is_budgeted() && most.is_some_and(|most| self.total_bytes > most) {
            return Err(ReadError::NoSpace);
        }
        let mut at = self.pieces.start;
        let mut last: Option<Window<'_>> = None;
        loop {
            at = self.skip_present(at);
            self.report(at);
            if at == self.pieces.end {
                drop(last);
                return Ok(());
            }
            if self.engine.config.network == NetworkPolicy::Offline {
                return Err(ReadError::Offline { piece: at });
            }
            let pieces = at..self.window_end(at);
            let id = next_demand();
            let command = Command::Prefetch { id, pieces: pieces.clone() };
            self.shared.commands.send(command).await.map_err(|_| ReadError::Closed)?;
            // The window before is withdrawn only now: what both want stays wanted.
            last = Some(Window { shared: &self.shared, id });
            // A time-out asks for the same again.
            let _timed_out = tokio::time::timeout(REPEAT_AFTER, self.half_of(pieces)).await;
        }
    }

    /// Waits until half of a window is there: the next one begins before this one runs dry.
    async fn half_of(&self, window: Range<u32>) {
        let half = window.start + (window.end - window.start).div_ceil(2);
        loop {
            let arrival = self.content.ledger.arrivals.notified();
            let at = self.skip_present(window.start);
            self.report(at);
            if at >= half {
                return;
            }
            arrival.await;
        }
    }

    fn skip_present(&self, at: u32) -> u32 {
        (at..self.pieces.end).find(|piece| !self.content.present.get(*piece)).unwrap_or(self.pieces.end)
    }

    fn window_end(&self, at: u32) -> u32 {
        let nominal = u64::from(self.content.geometry().piece_bytes().max(1));
        let pieces = u32::try_from(WINDOW_BYTES / nominal).unwrap_or(u32::MAX).max(WINDOW_PIECES);
        at.saturating_add(pieces).min(self.pieces.end)
    }

    fn report(&self, at: u32) {
        let ahead = at..self.window_end(at);
        let geometry = self.content.geometry();
        let there =
            ahead.filter(|piece| self.content.present.get(*piece)).filter_map(|piece| geometry.piece(piece));
        let (mut pieces, mut bytes) = (at - self.pieces.start, 0);
        for piece in there {
            pieces += 1;
            bytes += u64::from(geometry.piece_len(piece));
        }
        let new = PrefetchProgress {
            done_pieces: pieces,
            total_pieces: self.pieces.end - self.pieces.start,
            done_bytes: (bytes + self.bytes_before(at)).min(self.total_bytes),
            total_bytes: self.total_bytes,
        };
        self.progress.send_if_modified(|old| std::mem::replace(old, new) != new);
    }

    /// Bytes of the pieces from the start of the range up to one.
    fn bytes_before(&self, at: u32) -> u64 {
        let geometry = self.content.geometry();
        let offset = |piece: u32| match geometry.piece(piece) {
            Some(piece) => geometry.piece_offset(piece),
            None => geometry.total_bytes(),
        };
        offset(at).saturating_sub(offset(self.pieces.start))
    }
}

#[cfg(test)]
mod tests;
