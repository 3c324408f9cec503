//! A web seed as a peer: a task that takes requests for blocks as a connection's writer does, and hands on blocks as a
//! connection's reader does, but gets them by ranged GETs (BEP 19, BEP 17).
//!
//! The torrent's task decides what is asked, as of any peer; here it is only decided how blocks become requests. Those
//! that follow each other become one *run*, over the borders of pieces and files. A few runs are under way at once, each
//! on a connection of its own, so that the path does not idle between two of them; what a `read()` waits for has
//! connections beyond those, and never stands behind a long range. How much is asked in all is the pipeline's business
//! (rate times latency), and so runs are as long as the path needs: what is asked while the others run becomes the next.
//!
//! ```text
//! queue --(a lane is free)--> run --(all handed on | cancelled)--> gone
//!                              '--(fault)--> the rest of it and the queue go back; nothing is asked until the wait is over
//! ```
//!
//! Faults end here: what the torrent's task hears is that blocks are lost and until when to leave the seed alone, that it
//! lacks a file, or that it is closed for good. Wrong bytes are found by the pieces' hashes, as those of any peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use url::Url;
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::id::InfoHash;
use wtfs_proto::swarm::picker::{BlockKey, SourceId};

pub(crate) use self::address::{Dialect, SeedAddress};
use crate::http::NamedHosts;
use crate::peer_task::{CloseReason, PeerEvent, PeerLink};
use crate::session::Engine;
use crate::torrent::Content;

mod address;
mod answer;
mod backoff;
#[cfg(test)]
mod engine_tests;
mod fetch;
mod queue;
mod run;
mod task;

/// Requests of all web seeds of a session together. Each is a connection and, while it moves, some 400 KiB at most that
/// the HTTP library has read.
pub(crate) const MAX_REQUESTS: usize = 64;

/// Commands that wait; see `peer_task`.
const COMMAND_QUEUE: usize = 1024;

/// URLs remembered to have moved for good.
const MAX_MOVES: usize = 1024;

/// What a web seed did that no peer does.
#[derive(Debug)]
pub(crate) enum SeedEvent {
    /// These blocks will not come, and none should be asked for a while. Without a reason the last one still stands.
    Paused { lost: Vec<BlockKey>, pause: Duration, reason: Option<String> },
    /// It lacks a file; these blocks will not come.
    FileGone { lost: Vec<BlockKey>, file: FileIndex, reason: String },
}

/// What a seed's task and its runs share.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) source: SourceId,
    pub(crate) address: SeedAddress,
    /// Hosts that may be private.
    pub(crate) named: NamedHosts,
    pub(crate) info_hash: InfoHash,
    pub(crate) content: Arc<Content>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) events: mpsc::Sender<(SourceId, PeerEvent)>,
    shown: String,
    start: Instant,
    moves: Mutex<HashMap<Url, Url>>,
}

impl Seed {
    pub(crate) fn new(
        source: SourceId,
        address: SeedAddress,
        named: NamedHosts,
        info_hash: InfoHash,
        content: Arc<Content>,
        engine: Arc<Engine>,
        events: mpsc::Sender<(SourceId, PeerEvent)>,
    ) -> Self {
        let shown = address.shown();
        let (start, moves) = (Instant::now(), Mutex::default());
        Self { source, address, named, info_hash, content, engine, events, shown, start, moves }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn moves(&self) -> MutexGuard<'_, HashMap<Url, Url>> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the seed's task. Exactly one [`PeerEvent::Closed`] follows in the end.
pub(crate) fn spawn(seed: Seed) -> PeerLink {
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let cancel = seed.engine.cancel.child_token();
    let link = PeerLink::new(commands, cancel.clone());
    let seed = Arc::new(seed);
    let span = tracing::info_span!("web_seed", url = seed.shown);
    let tasks = seed.engine.tasks.clone();
    let task = async move {
        let (source, events) = (seed.source, seed.events.clone());
        let reason = tokio::select! {
            () = cancel.cancelled() => CloseReason::Shutdown,
            reason = task::run(seed, inbox) => reason,
        };
        // The torrent's task may be gone already; then nobody needs to know.
        let _gone = events.send((source, PeerEvent::Closed(reason))).await;
    };
    tasks.spawn(tracing::Instrument::instrument(task, span));
    link
}
