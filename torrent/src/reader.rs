//! The one read path: bytes of a file by range, from the store if they are there, else demanded from the swarm.
//!
//! A [`FileReader`] belongs to one open file handle. Reads of one handle run in parallel and share nothing but the
//! read-ahead policy, which is locked only to note a read and to plan. A read that is dropped withdraws its demand.
//! Only verified pieces are ever read, because only those are marked present.

pub(crate) mod buffers;

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::readahead::{Readahead, ReadaheadConfig};
use wtfs_proto::swarm::DemandId;
use wtfs_proto::weights::{Header, read_header};

use crate::clock::Clock;
use crate::error::{OpenError, ReadError};
use crate::hints::Hints;
use crate::holds::FileHold;
use crate::latency::Answered;
use crate::session::Engine;
use crate::store::{StoreError, TryRead};
use crate::swarm_task::Part;
use crate::torrent::{Command, Content, Shared};

/// What is first read of a header: most are no longer, and it is less than a piece.
const FIRST_HEADER_BYTES: u64 = 16 * 1024;

/// More than this is copied on the pool, not on a thread that others wait for: 0.2 ms.
const MAX_TRY_BYTES: usize = 1 << 20;

/// Demand ids are unique in the process, so that a late withdrawal never hits somebody else's demand.
static NEXT_DEMAND: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_demand() -> DemandId {
    DemandId(NEXT_DEMAND.fetch_add(1, Ordering::Relaxed))
}

/// An open file. Clones share the handle's read-ahead; dropping the last one ends it.
#[derive(Debug, Clone)]
pub struct FileReader {
    inner: Arc<Inner>,
    /// Ends what goes on for the handle in the background when its last clone is dropped.
    _open: Arc<DropGuard>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    content: Arc<Content>,
    file: FileIndex,
    len: u64,
    clock: Clock,
    ahead_id: DemandId,
    ahead: Mutex<Ahead>,
    hints: Hints,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Ahead {
    policy: Readahead,
    /// What the policy last planned.
    planned: Vec<Range<u64>>,
    /// The rest of the tensor whose beginning was read last.
    hinted: Option<Range<u64>>,
    /// The pieces the torrent's task was last told of.
    sent: Vec<Range<u32>>,
}

/// A complete data file on disk, opened read-only, for a reader that does without this process.
#[derive(Debug)]
pub struct HeldFile {
    /// The file: all its bytes were verified, and it is as long as in the torrent.
    pub file: File,
    /// Keeps the file from being evicted. To be dropped only when nothing reads from `file` any more.
    pub hold: FileHold,
}

impl FileReader {
    pub(crate) fn new(
        engine: Arc<Engine>,
        shared: Arc<Shared>,
        content: Arc<Content>,
        file: FileIndex,
    ) -> Result<Self, OpenError> {
        let entry = content.metainfo.info.files.get(file.get() as usize).ok_or(OpenError::NoSuchFile)?;
        if entry.is_pad || entry.symlink.is_some() {
            return Err(OpenError::NoSuchFile);
        }
        let len = entry.bytes;
        let config = ReadaheadConfig {
            max_window: engine.config.max_readahead_bytes,
            granule_bytes: u64::from(content.geometry().piece_bytes()),
            ..ReadaheadConfig::default()
        };
        let policy = Readahead::new(len, config);
        let hints = Hints::of_file(entry.path.file_name());
        let ahead = Ahead { policy, planned: Vec::new(), hinted: None, sent: Vec::new() };
        let inner = Inner {
            engine,
            shared,
            content,
            file,
            len,
            clock: Clock::start(),
            ahead_id: next_demand(),
            ahead: Mutex::new(ahead),
            hints,
            closed: CancellationToken::new(),
        };
        let open = Arc::new(inner.closed.clone().drop_guard());
        Ok(Self { inner: Arc::new(inner), _open: open })
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.inner.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every piece of the file is present. Never waits.
    pub fn is_whole(&self) -> bool {
        self.inner.content.present.has_all(self.inner.pieces(&(0..self.inner.len)))
    }

    /// The file on disk, when all of it is there and it is kept as one ordinary file. Blocks on the disk.
    pub fn data_file(&self) -> Option<HeldFile> {
        let inner = &self.inner;
        // Held before looking: an eviction that begins now sees the hold, one that began before took pieces away.
        let hold = inner.shared.hold_file(inner.file);
        if !self.is_whole() {
            return None;
        }
        let file = inner.content.store.open_file(inner.file)?;
        Some(HeldFile { file, hold })
    }

    /// The bytes, if every piece is present and the page cache can give them without waiting for the disk. Never waits.
    /// Counts as a read for read-ahead only if it succeeds.
    pub fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        let inner = &self.inner;
        let range = inner.clamp(offset, len);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let since = Instant::now();
        let pieces = inner.pieces(&range);
        let _in_use = inner.content.use_pieces(pieces.clone());
        if !inner.content.present.has_all(pieces) {
            return None;
        }
        let bytes = inner.try_read(&range)?;
        inner.advise(&range);
        inner.engine.reads.add_at_once(since);
        Some(bytes)
    }

    /// Bytes from `offset` on: `len` of them, fewer only at the end of the file, none past it.
    ///
    /// Waits until the pieces are present; any number of calls may run at once.
    ///
    /// # Errors
    /// [`ReadError::Timeout`] when nothing moved for the session's read time-out; see [`ReadError`].
    ///
    /// # Cancel safety
    /// Cancel safe: the demand is withdrawn.
    pub async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes, ReadError> {
        let inner = &self.inner;
        let range = inner.clamp(offset, len);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let timer = inner.engine.reads.begin();
        let is_there = inner.content.present.has_all(inner.pieces(&range));
        let answered = if is_there { Answered::Disk } else { Answered::Sources };
        inner.advise(&range);
        inner.learn_tensors();
        let result = inner.read(range).await;
        timer.end(answered, &result);
        result
    }
}

impl Inner {
    fn clamp(&self, offset: u64, len: u32) -> Range<u64> {
        let start = offset.min(self.len);
        start..start.saturating_add(u64::from(len)).min(self.len)
    }

    fn pieces(&self, range: &Range<u64>) -> Range<u32> {
        let pieces = self.content.geometry().pieces_of(self.file, range.clone());
        match (pieces.first(), pieces.last_piece()) {
            (Some(first), Some(last)) => first.get()..last.get() + 1,
            _ => 0..0,
        }
    }

    /// Bytes of a range whose pieces are present and in use by the caller, if the page cache has them.
    fn try_read(&self, range: &Range<u64>) -> Option<Bytes> {
        let size = usize::try_from(range.end - range.start).ok().filter(|size| *size <= MAX_TRY_BYTES)?;
        let mut buffer = self.engine.buffers.take(size);
        match self.content.store.try_read_file(self.file, range.start, buffer.as_mut()) {
            Ok(TryRead::Done) => Some(buffer.freeze()),
            Ok(TryRead::WouldBlock) | Err(_) => None,
        }
    }

    /// Bytes of a range of the file, fetched if need be. Says nothing to read-ahead.
    async fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let pieces = self.pieces(&range);
        // From before looking until the bytes are copied, also if this future is dropped meanwhile.
        let in_use = self.content.use_pieces(pieces.clone());
        let mut parts = Vec::new();
        if !self.content.present.has_all(pieces.clone()) {
            parts = self.demand(pieces, self.addresses(&range)).await?;
        }
        if !parts.is_empty() {
            return self.join(range, parts, in_use).await;
        }
        // What was demanded was written a moment ago: the page cache has it, and no other thread need be woken.
        if let Some(bytes) = self.try_read(&range) {
            return Ok(bytes);
        }
        let (content, file, buffers) = (self.content.clone(), self.file, self.engine.buffers.clone());
        let size = usize::try_from(range.end - range.start).map_err(|_| ReadError::Closed)?;
        let read = self.engine.disk.run(move || {
            let _in_use = in_use;
            let mut buffer = buffers.take(size);
            content.store.read_file(file, range.start, buffer.as_mut()).map(|()| buffer.freeze())
        });
        Ok(read.await.map_err(|_| ReadError::Closed)??)
    }

    /// Reads the header of a file of weights in the background, once for a handle.
    fn learn_tensors(self: &Arc<Self>) {
        let Some(format) = self.hints.take_format() else { return };
        let inner = Arc::clone(self);
        let learning = async move {
            let mut need = FIRST_HEADER_BYTES.min(inner.len);
            loop {
                let beginning = inner.read(0..need).await?;
                let len = inner.len;
                let header = inner.engine.disk.run(move || read_header(format, &beginning, len)).await;
                match header {
                    Ok(Header::Tensors(tensors)) => inner.hints.set(tensors),
                    Ok(Header::Need(more)) => {
                        need = more;
                        continue;
                    }
                    Ok(Header::Unusable) | Err(_) => {}
                }
                return Ok::<(), ReadError>(());
            }
        };
        let closed = self.closed.clone();
        self.engine.tasks.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                learnt = learning => if let Err(error) = learnt {
                    tracing::debug!(%error, "a header of weights could not be read");
                }
            }
        });
    }

    /// Notes a read and, if the pieces worth reading ahead changed, tells the torrent's task.
    fn advise(&self, range: &Range<u64>) {
        if self.content.present.is_full() {
            return;
        }
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let plan = ahead.policy.handle_read(self.clock.now(), range.start, len);
        let hint = self.hints.after(range.start);
        if plan.is_none() && hint.is_none() {
            return;
        }
        if let Some(plan) = plan {
            ahead.planned = plan.ranges;
        }
        ahead.hinted = hint.or(ahead.hinted.take());
        let wanted = ahead.planned.iter().chain(&ahead.hinted);
        let mut ranges: Vec<Range<u32>> =
            wanted.map(|range| self.pieces(range)).filter(|range| !range.is_empty()).collect();
        ranges.dedup();
        ranges.retain(|range| !self.content.present.has_all(range.clone()));
        if ranges != ahead.sent {
            let command = Command::ReadAhead { id: self.ahead_id, ranges: ranges.clone() };
            // A task too busy to take a hint gets the next one.
            if self.shared.commands.try_send(command).is_ok() {
                ahead.sent = ranges;
            }
        }
    }

    /// A range of the file in the torrent's address space.
    fn addresses(&self, range: &Range<u64>) -> Range<u64> {
        let geometry = self.content.geometry();
        let start = geometry
            .locate(self.file, range.start)
            .map_or(0, |(piece, begin)| geometry.piece_offset(piece) + u64::from(begin));
        start..start + (range.end - range.start)
    }

    /// Puts together what a demand gave of a range, and the rest of it out of the store.
    async fn join<T: Send + 'static>(
        &self,
        range: Range<u64>,
        mut parts: Vec<Part>,
        in_use: T,
    ) -> Result<Bytes, ReadError> {
        let addresses = self.addresses(&range);
        let size = usize::try_from(range.end - range.start).map_err(|_| ReadError::Closed)?;
        if let [part] = parts.as_slice()
            && part.address == addresses.start
            && part.bytes.len() == size
        {
            return Ok(part.bytes.clone());
        }
        parts.sort_unstable_by_key(|part| part.address);
        let (content, file, buffers) = (self.content.clone(), self.file, self.engine.buffers.clone());
        let read = self.engine.disk.run(move || {
            let _in_use = in_use;
            let mut whole = buffers.take(size);
            let buffer = whole.as_mut();
            let mut at = 0;
            for part in parts {
                // A part lies inside what was demanded.
                let from = usize::try_from(part.address - addresses.start).unwrap_or(size).min(size);
                if at < from {
                    content.store.read_file(file, range.start + at as u64, &mut buffer[at..from])?;
                }
                let end = (from + part.bytes.len()).min(size);
                buffer[from..end].copy_from_slice(&part.bytes[..end - from]);
                at = end;
            }
            if at < size {
                content.store.read_file(file, range.start + at as u64, &mut buffer[at..])?;
            }
            Ok::<_, StoreError>(whole.freeze())
        });
        Ok(read.await.map_err(|_| ReadError::Closed)??)
    }

    async fn demand(&self, pieces: Range<u32>, addresses: Range<u64>) -> Result<Vec<Part>, ReadError> {
        let id = next_demand();
        let (reply, answer) = oneshot::channel();
        let command = Command::Demand { id, pieces, addresses, reply };
        self.shared.commands.send(command).await.map_err(|_| ReadError::Closed)?;
        let withdraw = Withdraw { shared: &self.shared, id };
        let answer = answer.await.map_err(|_| ReadError::Closed)?;
        std::mem::forget(withdraw);
        answer
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let ahead = self.ahead.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !ahead.sent.is_empty() {
            drop(Withdraw { shared: &self.shared, id: self.ahead_id });
        }
    }
}

/// Withdraws a demand when dropped. If the task is too busy to take the message, it finds out by itself that nobody
/// waits for the answer any more.
struct Withdraw<'a> {
    shared: &'a Shared,
    id: DemandId,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if self.shared.commands.try_send(Command::Withdraw(self.id)).is_err() {
            tracing::debug!(id = self.id.0, "a withdrawal was left to the next tick");
        }
    }
}
