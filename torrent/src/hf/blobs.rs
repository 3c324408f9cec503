//! The files of Hugging Face repositories, kept by the hash of their content: fetched in ranges, once however many ask,
//! and verified when whole.
//!
//! [`Blobs`] is the session's store, [`Blob`] one reader's view of one blob. Reading needs a [`BlobOrigin`] to fetch what is
//! not here. Until a blob is whole its bytes are as good as who gave them; no peer is given any of them. Once its hash was
//! compared it is an ordinary file that others may read by themselves ([`Blob::file`]).
//!
//! What holds throughout:
//!
//! - No byte is fetched twice at once, and none that is here. What a read waits for is fetched first, in front of it, and
//!   given to it as it arrives.
//! - A blob counts as whole only when its hash was compared and its file synced. What proves wrong is thrown away, all of
//!   it, and fetched once more. A reader that has had bytes of it gets an error, never a mixture.
//! - What an origin does wrong (breaks off, stalls, asks to come later) no reader notices, as long as bytes come within the
//!   read time-out.
//! - A crash at any moment may cost fetching again, never a wrong byte, and no blob is hashed at the start because of it.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use wtfs_proto::hf::ContentId;

use crate::holds::FileHold;
use crate::reader::HeldFile;
use crate::session::Engine;
use crate::store::spans::{read_exact, try_read_exact};
use crate::store::{StoreError, TryRead};

mod ahead;
mod board;
mod crew;
mod discards;
mod error;
mod flight;
mod hashes;
mod index;
mod lanes;
mod origin;
mod pins;
mod place;
mod ranges;
mod record;
mod segments;
pub(crate) mod shared;
pub(crate) mod state;
mod status;
mod verify;

pub use discards::Discard;
pub use error::BlobError;
pub use hashes::PieceHashes;
pub use origin::{BlobBody, BlobOrigin, OriginError, OriginFault};
pub use pins::Pinned;
pub use status::{BlobsStatus, FillStatus};

use ahead::ReadAhead;
use board::Ahead;
use shared::Shared;
use state::{Answer, Data, Hold, Need, Origin, Phase, State, UNSEEN};

/// What is fetched for a read that continues nothing, at most, in bytes; and where a fetch that nobody waits for any more
/// ends.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// More than this is copied on the pool, not on a thread that others wait for.
const MAX_TRY_BYTES: usize = 1 << 20;

/// All blobs of a session. Clones are the same.
#[derive(Debug, Clone)]
pub struct Blobs {
    shared: Arc<Shared>,
}

impl Blobs {
    /// The blobs below `dir`, found by one look at it.
    pub(crate) async fn open(engine: Arc<Engine>, dir: PathBuf) -> Self {
        let shared = Arc::new(Shared::new(engine.clone(), dir));
        let scanning = shared.clone();
        // Lost only when the runtime ends.
        let _lost = engine.disk.run(move || scanning.scan()).await;
        engine.budget.set_blobs(&shared);
        engine.tasks.spawn(shared.clone().tend());
        Self { shared }
    }

    /// A new reader of a blob. Cheap; nothing is made on the disk until bytes come.
    pub fn get(&self, id: ContentId, bytes: u64) -> Blob {
        let state = self.shared.state((id, bytes));
        let ahead = Mutex::new(Advice {
            policy: ReadAhead::new(bytes, self.shared.max_readahead()),
            origin: None,
            is_given: false,
        });
        Blob {
            reader: Arc::new(Reader { state, id: state::next_reader(), seen: AtomicU32::new(UNSEEN), ahead }),
        }
    }

    /// Pins blobs, or takes that back: what is pinned stays once it is here, whatever the cache's size says. Saved when
    /// this returns. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be saved; then all is as it was.
    pub fn set_pinned(&self, ids: &[ContentId], pinned: Pinned) -> Result<(), StoreError> {
        self.shared.pins.set(ids, pinned)
    }

    /// Whether a blob is pinned. Never waits.
    pub fn is_pinned(&self, id: &ContentId) -> bool {
        self.shared.pins.contains(id)
    }

    /// Counters and sums. Never waits.
    pub fn status(&self) -> BlobsStatus {
        self.shared.status()
    }

    /// What is being fetched now. Never waits.
    pub fn fills(&self) -> Vec<FillStatus> {
        let live = self.shared.index().all_live();
        live.iter().filter_map(|state| state.fill_status()).collect()
    }
}

/// One reader of a blob. Its reads may run in parallel; they share a read-ahead, as do clones. Another reader takes
/// another one from [`Blobs::get`]. One that is read holds a descriptor.
#[derive(Debug, Clone)]
pub struct Blob {
    reader: Arc<Reader>,
}

/// See [`Blob::keeper`].
#[derive(Debug)]
pub(crate) struct Keeper(Weak<State>);

impl Keeper {
    /// The ranges that are in the blob, in order and apart. Never waits.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        self.0.upgrade().map_or_else(Vec::new, |state| state.lock().board.present.iter().collect())
    }
}

#[derive(Debug)]
struct Reader {
    state: Arc<State>,
    id: u64,
    /// Of which generation it has had bytes.
    seen: AtomicU32,
    ahead: Mutex<Advice>,
}

#[derive(Debug)]
struct Advice {
    policy: ReadAhead,
    /// Whom the last read was ready to ask.
    origin: Option<Origin>,
    /// Whether the blob was told of anything.
    is_given: bool,
}

impl Blob {
    /// Its hash.
    pub fn id(&self) -> ContentId {
        self.reader.state.id
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.reader.state.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all of it is here, verified and durable. Never waits.
    pub fn is_whole(&self) -> bool {
        self.reader.state.lock().phase == Phase::Whole
    }

    /// How many bytes of it are here. Never waits; of a blob that was not read since the start it is about so many.
    pub fn present_bytes(&self) -> u64 {
        let inner = self.reader.state.lock();
        match inner.phase {
            Phase::Unloaded => {
                drop(inner);
                let state = &self.reader.state;
                state.shared.index().entry(&state.key()).map_or(0, |entry| entry.stored)
            }
            _ => inner.board.present.bytes(),
        }
    }

    /// Whether a range is here. Never waits; of a partial blob that was not read since the start: no.
    pub fn has(&self, range: Range<u64>) -> bool {
        self.reader.state.lock().board.present.covers(&range)
    }

    /// The ranges that are here, in order. As [`Self::has`].
    pub fn present_ranges(&self) -> Vec<Range<u64>> {
        self.reader.state.lock().board.present.iter().collect()
    }

    /// What else is kept of its bytes asks by this which of them it has, as long as anybody reads it.
    pub(crate) fn keeper(&self) -> Keeper {
        Keeper(Arc::downgrade(&self.reader.state))
    }

    /// How often what was fetched of it was thrown away because it was not what the hash says: when this changes, what
    /// others keep of it (the kernel's page cache) is to be forgotten.
    pub fn generation(&self) -> u32 {
        self.reader.state.lock().generation
    }

    /// When its content was thrown away last, in this session or an earlier one: who had bytes of it before must not go on
    /// with those of now. Never waits.
    pub fn discarded(&self) -> Option<Discard> {
        self.reader.state.shared.discards.find(&self.id())
    }

    /// The bytes, if they are here and the page cache can give them. Never waits. As [`Self::read_at`] otherwise.
    pub fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        let range = self.clamp(offset, len);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let state = &self.reader.state;
        let Answer::Read { data, generation, epoch, .. } =
            state.try_answer(&range, self.reader.seen.load(Ordering::Acquire))?
        else {
            return None;
        };
        let bytes = self.try_copy(&data, &range)?;
        if !state.is_still(epoch) || self.reader.see(generation).is_err() {
            return None;
        }
        if matches!(data, Data::Part(_)) {
            self.reader.advise(&range, None);
        }
        self.count(&range, Hit::Yes);
        Some(bytes)
    }

    /// Bytes from `offset` on: `len` of them, fewer only at the end of the blob, none past it. What is missing is fetched.
    ///
    /// # Errors
    /// [`BlobError`]; [`BlobError::Timeout`] when nothing arrived for the session's read time-out.
    ///
    /// # Cancel safety
    /// Cancel safe: the demand is withdrawn; what was fetched stays.
    pub async fn read_at(
        &self,
        offset: u64,
        len: u32,
        origin: &Arc<dyn BlobOrigin>,
    ) -> Result<Bytes, BlobError> {
        self.read(offset, len, Need::All, origin).await
    }

    /// As [`Self::read_at`], as soon as there is at least one byte: for who passes on what arrives. Empty only at or past
    /// the end.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    ///
    /// # Cancel safety
    /// As [`Self::read_at`].
    pub async fn read_some_at(
        &self,
        offset: u64,
        most: u32,
        origin: &Arc<dyn BlobOrigin>,
    ) -> Result<Bytes, BlobError> {
        self.read(offset, most, Need::Some, origin).await
    }

    /// Tells that this reader is going to read a range from its start to its end: it is fetched ahead in large requests
    /// from the first read on, no further ahead than the read-ahead's longest window.
    pub fn expect(&self, range: Range<u64>) {
        self.reader.advice().policy.expect(range.start..range.end.min(self.len()));
    }

    /// Fetches all of it in the background, behind what anybody reads, and verifies it. Goes on when this is dropped; tells
    /// through [`Self::whole`].
    pub fn fetch_all(&self, origin: &Arc<dyn BlobOrigin>) {
        let (state, origin) = (self.reader.state.clone(), origin.clone());
        // Told before anything is fetched: who asks for the outcome next is not told of an earlier one.
        state.lock().fill_error = None;
        let shared = state.shared.clone();
        shared.spawn(async move {
            if let Err(error) = state.fill(origin).await {
                state.lock().fill_error = Some(error);
                state.moved.notify_waiters();
            }
        });
    }

    /// Ends when all of it is here, verified and durable. Fetches nothing: see [`Self::fetch_all`].
    ///
    /// # Errors
    /// Why a fill that [`Self::fetch_all`] began came to nothing. [`BlobError::Corrupt`] when what came twice was not
    /// the blob.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn whole(&self) -> Result<(), BlobError> {
        self.reader.state.until(Goal::Whole).await
    }

    /// Ends when all of it is here and verified, a moment before it is durable: for who passes it on. As [`Self::whole`]
    /// otherwise.
    ///
    /// # Errors
    /// As [`Self::whole`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn verified(&self) -> Result<(), BlobError> {
        self.reader.state.until(Goal::Verified).await
    }

    /// The file on disk when it is whole, kept from being evicted while it is held: for passthrough and sendfile(2). It is
    /// never written again. Blocks on the disk.
    pub fn file(&self) -> Option<HeldFile> {
        self.held(self.reader.state.hold_whole()?)
    }

    /// As [`Self::file`], if the file is open already. Never waits.
    pub fn try_file(&self) -> Option<HeldFile> {
        self.held(self.reader.state.try_hold_whole()?)
    }

    fn held(&self, (file, hold): (Arc<File>, Hold)) -> Option<HeldFile> {
        let state = &self.reader.state;
        let file = file.try_clone().ok()?;
        state.shared.index().touch(&state.key(), state.shared.budget().now());
        Some(HeldFile { file, hold: FileHold::of_blob(hold) })
    }

    /// Where the file is when it is whole. It may be given up at any time, unless [`Self::file`] is held.
    pub fn path(&self) -> Option<PathBuf> {
        self.reader.state.path()
    }

    /// Asks for the hashes of pieces of so many bytes to be made in the pass that verifies the blob.
    pub fn want_hashes(&self, piece_bytes: u32) {
        if hashes::is_piece_length(piece_bytes) {
            self.reader.state.want_pieces(piece_bytes);
        }
    }

    /// The hashes of its pieces, once it is whole: kept from an earlier time, made in the pass that verified it, or made
    /// now. `piece_bytes` is a power of two of at least 16 KiB.
    ///
    /// # Errors
    /// As [`Self::whole`], and when the disk does not work.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn piece_hashes(&self, piece_bytes: u32) -> Result<Arc<PieceHashes>, BlobError> {
        self.reader.state.pieces(piece_bytes).await
    }

    fn clamp(&self, offset: u64, len: u32) -> Range<u64> {
        let start = offset.min(self.len());
        start..start.saturating_add(u64::from(len)).min(self.len())
    }

    async fn read(&self, offset: u64, len: u32, need: Need, origin: &Origin) -> Result<Bytes, BlobError> {
        let range = self.clamp(offset, len);
        let (reader, state) = (&self.reader, &self.reader.state);
        if range.is_empty() {
            let is_refused = state.lock().phase == Phase::Refused;
            return if is_refused { Err(BlobError::Corrupt) } else { Ok(Bytes::new()) };
        }
        let demand = Demanded { state, id: state.add_demand(range.clone(), reader.id, origin.clone()) };
        // Afterwards: one request may then be for both, and none for later goes first.
        reader.advise(&range, Some(origin));
        let timeout = state.shared.read_timeout();
        let mut deadline = tokio::time::Instant::now() + timeout;
        let mut progress = None;
        let mut hit = Hit::Yes;
        loop {
            let mut moved = pin!(state.moved.notified());
            moved.as_mut().enable();
            let seen = reader.seen.load(Ordering::Acquire);
            match state.answer(demand.id, &range, need, seen)? {
                Answer::Read { data, range, generation, epoch } => {
                    let bytes = self.copy(data, &range).await?;
                    if !state.is_still(epoch) {
                        continue;
                    }
                    reader.see(generation)?;
                    self.count(&range, hit);
                    return Ok(bytes);
                }
                Answer::Load => {
                    state.load().await?;
                    continue;
                }
                Answer::Wait(now) => {
                    hit = Hit::No;
                    if progress != Some(now) {
                        progress = Some(now);
                        deadline = tokio::time::Instant::now() + timeout;
                    }
                }
            }
            tokio::select! {
                () = &mut moved => {}
                () = tokio::time::sleep_until(deadline) => return Err(BlobError::Timeout { waited: timeout }),
                () = state.shared.cancel().cancelled() => return Err(BlobError::Closed),
            }
        }
    }

    fn try_copy(&self, data: &Data, range: &Range<u64>) -> Option<Bytes> {
        let size = usize::try_from(range.end - range.start).ok().filter(|size| *size <= MAX_TRY_BYTES)?;
        let mut buffer = self.reader.state.shared.buffers().take(size);
        match try_read_exact(data.file(), buffer.as_mut(), range.start) {
            Ok(TryRead::Done) => Some(buffer.freeze()),
            Ok(TryRead::WouldBlock) | Err(_) => None,
        }
    }

    async fn copy(&self, data: Data, range: &Range<u64>) -> Result<Bytes, BlobError> {
        if let Some(bytes) = self.try_copy(&data, range) {
            return Ok(bytes);
        }
        let (state, start) = (self.reader.state.clone(), range.start);
        let size = usize::try_from(range.end - range.start).map_err(|_| BlobError::NoSpace)?;
        let job = move || {
            let mut buffer = state.shared.buffers().take(size);
            let read = read_exact(data.file(), buffer.as_mut(), start);
            read.map(|()| buffer.freeze()).map_err(|error| state.explain(error))
        };
        Ok(self.reader.state.shared.disk().run(job).await.map_err(|_| BlobError::Closed)??)
    }

    fn count(&self, range: &Range<u64>, hit: Hit) {
        let state = &self.reader.state;
        let bytes = range.end - range.start;
        state.shared.counters.read_bytes.add(bytes);
        if hit == Hit::Yes {
            state.shared.counters.hit_bytes.add(bytes);
        }
        state.touch(range);
    }
}

/// Whether all of a read was here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hit {
    Yes,
    No,
}

/// A read that waits; withdrawn when dropped.
struct Demanded<'a> {
    state: &'a Arc<State>,
    id: u64,
}

impl Drop for Demanded<'_> {
    fn drop(&mut self) {
        self.state.end_demand(self.id);
    }
}

impl Reader {
    /// Notes that it has had bytes of a generation.
    fn see(&self, generation: u32) -> Result<(), BlobError> {
        match self.seen.compare_exchange(UNSEEN, generation, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(seen) if seen == generation => Ok(()),
            Err(_) => Err(BlobError::Replaced),
        }
    }

    fn advise(&self, range: &Range<u64>, origin: Option<&Origin>) {
        let mut advice = self.advice();
        if let Some(origin) = origin {
            advice.origin = Some(origin.clone());
        }
        let Some(window) = advice.policy.handle_read(range) else { return };
        let Some(origin) = advice.origin.clone() else { return };
        let ahead =
            (!window.ranges.is_empty()).then(|| Ahead { window: window.ranges, reach: window.reach, origin });
        let was_given = std::mem::replace(&mut advice.is_given, ahead.is_some());
        if was_given || ahead.is_some() {
            self.state.set_ahead(self.id, ahead);
        }
    }

    fn advice(&self) -> MutexGuard<'_, Advice> {
        // Taken before the state's lock; whole between any two statements.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.state.set_ahead(self.id, None);
        self.state.shared.keep(&self.state);
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Verified,
    Whole,
}

impl State {
    /// Ends when the blob is so far.
    async fn until(&self, goal: Goal) -> Result<(), BlobError> {
        loop {
            let mut moved = pin!(self.moved.notified());
            moved.as_mut().enable();
            if let Some(outcome) = self.outcome(goal) {
                return outcome;
            }
            tokio::select! {
                () = &mut moved => {}
                () = self.shared.cancel().cancelled() => return Err(BlobError::Closed),
            }
        }
    }

    fn outcome(&self, goal: Goal) -> Option<Result<(), BlobError>> {
        let inner = self.lock();
        match (inner.phase, &inner.fill_error) {
            (Phase::Whole, _) => Some(Ok(())),
            (Phase::Verified, _) if goal == Goal::Verified => Some(Ok(())),
            (Phase::Refused, _) => Some(Err(BlobError::Corrupt)),
            (_, Some(error)) => Some(Err(error.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod scripted;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod copies_tests;

#[cfg(test)]
mod copies_sim_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fault_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod room_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod model_tests;
