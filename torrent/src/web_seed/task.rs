//! The task of one web seed: which blocks become which runs, and what follows from how they end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wtfs_proto::geometry::{FileIndex, Geometry};
use wtfs_proto::swarm::Urgency;
use wtfs_proto::swarm::picker::{BlockKey, Pick};
use wtfs_proto::wire::message::Message;

use super::address::Dialect;
use super::answer::Fault;
use super::backoff::Backoff;
use super::fetch::{End, fetch};
use super::queue::{Bounds, Haste, Queue};
use super::run::Run;
use super::{Seed, SeedEvent};
use crate::peer_task::{CloseReason, PeerCommand, PeerEvent};

/// Runs under way at once at one seed. With two the path idles when both end together; browsers use six.
const LANES: usize = 4;
/// Runs beyond those for blocks that a `read()` waits for.
const READ_LANES: usize = 2;

/// Blocks of the longest run, 8 MiB: cancelling what follows is cheap, but a connection that is cut has to be made anew.
const MAX_RUN: usize = 512;
/// A run that others could share is not cut shorter than this: 256 KiB outweigh what a request costs.
const LEAST_SHARE: usize = 16;

/// A run that is cancelled and has stood still for this long is the seed's fault.
const STILL: Duration = Duration::from_millis(1500);

/// Commands taken at once, so that what was asked together can become one run.
const BATCH: usize = 64;

/// Runs that went well before one more is tried at once at a seed that said it is busy.
const RUNS_PER_LANE: u32 = 16;

/// A run, and which of its blocks were withdrawn.
#[derive(Debug)]
struct Active {
    run: Arc<Run>,
    withdrawn: BTreeSet<BlockKey>,
}

/// See the module's documentation.
#[derive(Debug)]
struct SeedTask {
    seed: Arc<Seed>,
    queue: Queue,
    active: BTreeMap<u64, Active>,
    ends: JoinSet<(u64, End)>,
    next_run: u64,
    backoff: Backoff,
    paused_until: Option<Instant>,
    /// Runs at once, besides those of reads; fewer while the seed is busy.
    lanes: usize,
    good_runs: u32,
}

/// Serves until the torrent's task has enough of it; says why it ended.
pub(super) async fn run(seed: Arc<Seed>, mut inbox: mpsc::Receiver<PeerCommand>) -> CloseReason {
    let mut task = SeedTask {
        seed,
        queue: Queue::default(),
        active: BTreeMap::new(),
        ends: JoinSet::new(),
        next_run: 0,
        backoff: Backoff::default(),
        paused_until: None,
        lanes: LANES,
        good_runs: 0,
    };
    let mut commands = Vec::with_capacity(BATCH);
    loop {
        let result = tokio::select! {
            biased;
            received = inbox.recv_many(&mut commands, BATCH) => {
                if received == 0 {
                    return CloseReason::Shutdown;
                }
                task.handle_commands(commands.drain(..)).await
            }
            Some(ended) = task.ends.join_next() => match ended {
                Ok((number, end)) => task.handle_end(number, end).await,
                Err(error) => Err(CloseReason::WebSeed(format!("its run ended by itself: {error}"))),
            },
        };
        if let Err(reason) = result {
            return reason;
        }
        task.start_runs();
    }
}

impl SeedTask {
    async fn handle_commands(
        &mut self,
        commands: impl Iterator<Item = PeerCommand>,
    ) -> Result<(), CloseReason> {
        for command in commands {
            match command {
                PeerCommand::Fetch(picks) => self.handle_fetch(picks).await,
                PeerCommand::Messages(messages) => {
                    for message in messages {
                        if let Message::Cancel(request) = message {
                            let geometry = self.seed.content.geometry();
                            let block = geometry.check_block(request.piece, request.begin, request.length);
                            if let Some((piece, block)) = block {
                                self.handle_cancel(BlockKey { piece, block }).await?;
                            }
                        }
                    }
                }
                // Nothing of ours is of interest to a web server.
                PeerCommand::Choke
                | PeerCommand::Unchoke
                | PeerCommand::Serve(_)
                | PeerCommand::Unserve(_) => {}
            }
        }
        Ok(())
    }

    async fn handle_fetch(&mut self, picks: Vec<Pick>) {
        let pause = self.paused_until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
            // Asked before the torrent's task heard of the pause.
            let lost = picks.into_iter().map(|pick| pick.key).collect();
            return self.tell(SeedEvent::Paused { lost, pause, reason: None }).await;
        }
        self.paused_until = None;
        for pick in picks {
            let haste = if pick.urgency == Some(Urgency::Read) { Haste::Read } else { Haste::Rest };
            self.queue.push(pick.key, haste);
        }
    }

    /// A block is no longer wanted: others have brought it, or it took too long.
    async fn handle_cancel(&mut self, key: BlockKey) -> Result<(), CloseReason> {
        if self.queue.remove(key) {
            return Ok(());
        }
        let now_ms = self.seed.now_ms();
        let mut stood_still = None;
        for active in self.active.values_mut() {
            if active.run.left().binary_search(&key).is_err() || !active.withdrawn.insert(key) {
                continue;
            }
            let is_wanted = |key: &BlockKey| !active.withdrawn.contains(key);
            match active.run.left().iter().rposition(is_wanted) {
                Some(last) => active.run.set_wanted(active.run.delivered() + last + 1),
                None => {
                    active.run.cancel.cancel();
                    let still = Duration::from_millis(now_ms.saturating_sub(active.run.moved_ms()));
                    stood_still = Some(still).filter(|still| *still >= STILL);
                }
            }
        }
        match stood_still {
            Some(still) => {
                let reason = format!("sent nothing for {:.1} s", still.as_secs_f32());
                self.pause(Vec::new(), |backoff, random| backoff.handle_failure(random), reason).await;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn handle_end(&mut self, number: u64, end: End) -> Result<(), CloseReason> {
        let Some(active) = self.active.remove(&number) else { return Ok(()) };
        let fault = match end {
            End::Done => {
                self.backoff.reset();
                self.good_runs += 1;
                if self.good_runs >= RUNS_PER_LANE {
                    self.good_runs = 0;
                    self.lanes = (self.lanes + 1).min(LANES);
                }
                return Ok(());
            }
            End::Cancelled => return Ok(()),
            End::Failed(fault) => fault,
        };
        let is_wanted = |key: &&BlockKey| !active.withdrawn.contains(*key);
        let mut lost: Vec<BlockKey> = active.run.left().iter().filter(is_wanted).copied().collect();
        match fault {
            Fault::Gone { file: Some(file), reason } => {
                let pieces = self.pieces_of(file);
                lost.extend(self.queue.take_pieces(|piece| pieces.contains(piece)));
                tracing::info!(file = file.get(), reason, "the web seed lacks a file");
                self.tell(SeedEvent::FileGone { lost, file, reason }).await;
            }
            Fault::Gone { file: None, reason } => return Err(CloseReason::WebSeedEmpty(reason)),
            Fault::Useless { reason } => return Err(CloseReason::WebSeed(reason)),
            Fault::Busy { after, reason } => {
                self.lanes = (self.active.len() / 2).clamp(1, LANES);
                self.pause(lost, |backoff, random| backoff.handle_busy(after, random), reason).await;
            }
            Fault::Broken { reason } => {
                self.pause(lost, |backoff, random| backoff.handle_failure(random), reason).await;
            }
        }
        Ok(())
    }

    fn pieces_of(&self, file: FileIndex) -> wtfs_proto::geometry::PieceRange {
        let geometry = self.seed.content.geometry();
        geometry.pieces_of(file, 0..geometry.file_len(file))
    }

    /// Gives back what is not under way and leaves the seed alone for a while.
    async fn pause(
        &mut self,
        mut lost: Vec<BlockKey>,
        wait: impl FnOnce(&mut Backoff, u64) -> Duration,
        reason: String,
    ) {
        lost.extend(self.queue.take_pieces(|_| true));
        // Runs that fail together are one failure.
        let is_paused = self.paused_until.is_some_and(|until| until > Instant::now());
        let pause = match self.paused_until {
            Some(until) if is_paused => until.saturating_duration_since(Instant::now()),
            _ => wait(&mut self.backoff, fastrand::u64(..)),
        };
        self.paused_until = Some(Instant::now() + pause);
        tracing::info!(reason, pause_ms = pause.as_millis(), "the web seed is left alone for a while");
        self.tell(SeedEvent::Paused { lost, pause, reason: Some(reason) }).await;
    }

    async fn tell(&self, event: SeedEvent) {
        // Fails only when the torrent is gone.
        let _gone = self.seed.events.send((self.seed.source, PeerEvent::Seed(event))).await;
    }

    /// Starts runs as long as there is something to ask for and a lane for it.
    fn start_runs(&mut self) {
        let bounds = match self.seed.address.dialect() {
            Dialect::Files => Bounds::Torrent,
            Dialect::Pieces => Bounds::Piece,
        };
        loop {
            let (haste, lanes) = if self.queue.len(Haste::Read) > 0 {
                (Haste::Read, self.lanes + READ_LANES)
            } else {
                (Haste::Rest, self.lanes)
            };
            let waiting = self.queue.len(haste);
            let free = lanes.saturating_sub(self.active.len());
            if waiting == 0 || free == 0 {
                return;
            }
            let share = waiting.div_ceil(free).max(LEAST_SHARE);
            let geometry: &Geometry = self.seed.content.geometry();
            let blocks = self.queue.take_run(haste, share.min(MAX_RUN), bounds, geometry);
            let (dialect, cancel) = (self.seed.address.dialect(), CancellationToken::new());
            let run = Arc::new(Run::new(blocks, dialect, geometry, cancel, self.seed.now_ms()));
            let number = self.next_run;
            self.next_run += 1;
            tracing::trace!(number, blocks = run.blocks.len(), parts = run.parts.len(), "a run begins");
            self.active.insert(number, Active { run: run.clone(), withdrawn: BTreeSet::new() });
            let seed = self.seed.clone();
            self.ends.spawn(async move { (number, fetch(seed, run).await) });
        }
    }
}
