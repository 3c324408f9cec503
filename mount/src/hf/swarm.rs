//! Files that a hub has torrents of: peers are asked before the hub, and are given what was read.
//!
//! While somebody has such a file open, a task asks the hub for its torrent until there is one, and joins it in the
//! running session. From then on the torrent is one more place that the blob's bytes come from, before the hub: each piece
//! is verified by the torrent, and the whole by the blob's own hash. When the blob is whole its file itself is what peers
//! are given, and the pieces that the torrent kept go; where the cache needs room they go sooner, before all else.
//!
//! Never joined: what is not public, and what is too small to be worth a swarm. A blob that is not whole is never given
//! to peers; pieces that the torrent verified are.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::hf::{Commit, ContentId, FilePath, Repo, TreeFile, encode_path};
use wtfs_proto::hub::{ModelState, ModelStatus};
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::hf::blobs::{Blob, BlobBody, OriginError, OriginFault};
use wtfs_torrent::hf::{ApiRequest, Upstream};
use wtfs_torrent::store::SealedFiles;
use wtfs_torrent::{
    AddError, AddOptions, FileReader, RemovedData, Session, Source, SourceKind, Stamp, StorageKind, Torrent,
};

use crate::content::BoxFuture;
use crate::hf::source::RepoRevision;

/// Smaller files come from the hub in one request.
const SWARM_MIN_BYTES: u64 = 1 << 20;

/// A hub that has not all of a file fetches all of it when it is asked for the file's torrent. That is asked at once of files
/// up to this length; of longer ones once the hub has all of it, or so much of it, an [`EAGER_PART`] at least, was read
/// here: who looks at the header of a hundred gigabytes must not have all of them fetched.
const EAGER_MAX_BYTES: u64 = 64 << 20;

/// The part of a long file whose reader is taken to read all of it.
const EAGER_PART: u64 = 8;

/// Torrents joined at once, and files given to peers at once. Beyond, those that nobody has open make room for others.
const JOINED_MAX: usize = 512;

/// Between two questions whether there is a torrent now: at first, and at last.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long a file stays of interest after it was closed: loaders open one shard after the other, some several times.
const INTEREST: Duration = Duration::from_secs(60);

/// How long after a file was opened its first bytes wait for the hub to say whether there is a torrent: a request that has
/// begun goes to its end, and that of a reader in order is a long one.
const ANSWER_PATIENCE: Duration = Duration::from_millis(300);

/// A torrent that brings nothing at all for so long, or not what is waited for in that many such spans, is given up for the
/// hub: a slow swarm is no slower than a hub that is asked for the same besides.
const FIRST_BYTES: Duration = Duration::from_secs(5);
const FIRST_SPANS: u32 = 3;

/// After a torrent gave nothing the hub is asked for so long.
const DISTRUST: Duration = Duration::from_secs(30);

/// Read from a torrent in one step.
const STEP_BYTES: u64 = 1 << 20;

/// How torrents are joined.
#[derive(Debug, Clone)]
pub struct SwarmConfig {
    /// The hub that makes them.
    pub hub: Upstream,
    /// Known beforehand.
    pub peers: Vec<SocketAddr>,
    /// Asked besides the torrents' own.
    pub trackers: Vec<String>,
}

/// All files' swarms.
#[derive(Debug)]
pub(super) struct Swarms {
    session: Session,
    config: SwarmConfig,
    runtime: Handle,
    /// Kept by who has the file open, and while its torrent fetches by the task that joined it.
    slots: Mutex<HashMap<ContentId, Weak<Slot>>>,
    /// Whole files that peers are given, oldest first.
    given: Mutex<VecDeque<InfoHash>>,
    /// What torrents brought that were left since.
    brought: Mutex<Brought>,
}

/// Bytes that torrents brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// From peers.
    pub(super) peers: u64,
    /// From the hub as a web seed.
    pub(super) hub: u64,
}

impl Brought {
    fn by(torrent: &Torrent) -> Self {
        let mut brought = Self::default();
        for source in torrent.status().sources {
            match source.kind {
                SourceKind::WebSeed => brought.hub += source.downloaded_bytes,
                _ => brought.peers += source.downloaded_bytes,
            }
        }
        brought
    }

    fn add(&mut self, other: Self) {
        self.peers += other.peers;
        self.hub += other.hub;
    }
}

/// One file's swarm: nothing at first, a torrent's reader once it is joined.
#[derive(Debug)]
pub(super) struct Slot {
    reader: OnceLock<FileReader>,
    /// While it fetches.
    torrent: Mutex<Option<Torrent>>,
    /// Others need its place.
    is_to_leave: Notify,
    since: Instant,
    /// Whether the hub has said a first time if there is a torrent, and it was joined if so.
    is_answered: watch::Sender<bool>,
    /// Not asked before this.
    distrusted_until: Mutex<Option<Instant>>,
    /// How often the blob had been thrown away when it was joined: what happens after may be the torrent's doing.
    generation: OnceLock<u32>,
    blob: Blob,
}

/// What the hub says of a file's torrent.
enum Answer {
    Torrent(Box<Metainfo>),
    NotYet(Option<Duration>),
    Never,
}

/// Lets reads of a file go on that wait for the first answer; at the latest when it is dropped.
struct Answered(Weak<Slot>);

impl Answered {
    fn tell(&self) {
        if let Some(slot) = self.0.upgrade() {
            slot.is_answered.send_replace(true);
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Which file of which revision.
#[derive(Debug, Clone)]
struct Wanted {
    repo: Repo,
    commit: Commit,
    path: FilePath,
    bytes: u64,
}

impl Swarms {
    pub(super) fn new(session: Session, config: SwarmConfig, runtime: Handle) -> Self {
        let (slots, given, brought) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { session, config, runtime, slots, given, brought }
    }

    /// What torrents brought so far. Never waits.
    pub(super) fn brought(&self) -> Brought {
        let mut sum = *self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let slots: Vec<Arc<Slot>> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.values().filter_map(Weak::upgrade).collect()
        };
        for torrent in slots.iter().filter_map(|slot| slot.torrent().clone()) {
            sum.add(Brought::by(&torrent));
        }
        sum
    }

    /// The swarm of a file that is opened, if it may have one. Never waits.
    pub(super) fn of(
        self: &Arc<Self>,
        revision: &RepoRevision,
        file: &TreeFile,
        blob: &Blob,
    ) -> Option<Arc<Slot>> {
        if !revision.is_public || file.bytes < SWARM_MIN_BYTES {
            return None;
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = slots.get(&file.id).and_then(Weak::upgrade) {
            return Some(known);
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        if slots.len() >= JOINED_MAX {
            // Of those that nobody but its task holds the oldest.
            let idle = slots.values().filter(|slot| slot.strong_count() == 1).filter_map(Weak::upgrade);
            let idle = idle.filter(|slot| slot.reader.get().is_some()).min_by_key(|slot| slot.since);
            if let Some(idle) = idle {
                idle.is_to_leave.notify_one();
            }
            return None;
        }
        let slot = Arc::new(Slot {
            reader: OnceLock::new(),
            torrent: Mutex::default(),
            is_to_leave: Notify::new(),
            since: Instant::now(),
            is_answered: watch::Sender::new(false),
            distrusted_until: Mutex::new(None),
            generation: OnceLock::new(),
            blob: blob.clone(),
        });
        slots.insert(file.id, Arc::downgrade(&slot));
        let (repo, commit) = (revision.repo.clone(), revision.commit);
        let wanted = Wanted { repo, commit, path: file.path.clone(), bytes: file.bytes };
        let task = Arc::clone(self).join(wanted, Arc::downgrade(&slot));
        self.runtime.spawn(task);
        Some(slot)
    }

    /// Ends when the torrent is joined and the blob whole, when there never will be a torrent, or nobody wants the file.
    async fn join(self: Arc<Self>, wanted: Wanted, slot: Weak<Slot>) {
        let answered = Answered(slot.clone());
        let Some(metainfo) = self.await_torrent(&wanted, &slot, &answered).await else { return };
        let Some(slot) = slot.upgrade() else { return };
        let metainfo = Arc::new(metainfo);
        let hash = metainfo.hashes.primary();
        if !slot.blob.is_whole() {
            // What was given to peers before and had to go since is read from them again.
            if self.is_given(hash) {
                self.take_back(hash).await;
            }
            match self.add(&metainfo, StorageKind::Cache).await {
                Ok(Some(torrent)) => slot.joined(torrent),
                // Somebody else has it in this session, and keeps it as he likes.
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(file = %wanted.path, %error, "its torrent is not joined");
                    return;
                }
            }
        }
        drop(answered);
        tracing::info!(repo = %wanted.repo, file = %wanted.path, torrent = %hash, "joined the swarm of a file");
        let is_whole = slot.is_whole_in_time(&wanted).await;
        let torrent = slot.torrent().take();
        if let Some(torrent) = torrent {
            self.brought.lock().unwrap_or_else(PoisonError::into_inner).add(Brought::by(&torrent));
            let data = if is_whole { RemovedData::Drop } else { RemovedData::Keep };
            self.session.remove(hash, data).await;
        }
        if !is_whole {
            return;
        }
        let (blob, of_file) = (slot.blob.clone(), Arc::clone(&metainfo));
        let sealed = tokio::task::spawn_blocking(move || sealed(&blob, of_file)).await;
        let Ok(Some(files)) = sealed else { return };
        match self.add(&metainfo, StorageKind::Sealed(Arc::new(files))).await {
            Ok(Some(_)) => self.gave(hash).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(file = %wanted.path, %error, "not given to peers"),
        }
    }

    fn is_given(&self, hash: InfoHash) -> bool {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    /// A whole file is given to peers from now on, perhaps in place of another one.
    async fn gave(&self, hash: InfoHash) {
        let oldest = {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.push_back(hash);
            given.front().copied().filter(|_| given.len() > JOINED_MAX)
        };
        tracing::debug!(torrent = %hash, "given to peers");
        if let Some(oldest) = oldest {
            self.take_back(oldest).await;
        }
    }

    async fn take_back(&self, hash: InfoHash) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).retain(|given| *given != hash);
        self.session.remove(hash, RemovedData::Keep).await;
    }

    async fn await_torrent(
        &self,
        wanted: &Wanted,
        slot: &Weak<Slot>,
        answered: &Answered,
    ) -> Option<Metainfo> {
        let mut pause = PAUSE;
        let mut last_wanted = Instant::now();
        loop {
            let local = slot.upgrade().map_or(0, |slot| slot.blob.present_bytes());
            match self.ask(wanted, local).await {
                Answer::Torrent(metainfo) => return Some(*metainfo),
                Answer::Never => return None,
                Answer::NotYet(asked) => {
                    answered.tell();
                    tokio::time::sleep(asked.unwrap_or_default().clamp(pause, PAUSE_MAX)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            if slot.strong_count() > 0 {
                last_wanted = Instant::now();
            } else if last_wanted.elapsed() > INTEREST {
                return None;
            }
        }
    }

    /// `local` is how many bytes of the file are here.
    async fn ask(&self, wanted: &Wanted, local: u64) -> Answer {
        let Wanted { repo, commit, path, bytes } = wanted;
        if !is_eager(*bytes, local) {
            let place = format!("/model/{repo}@{commit}/{}", encode_path(path));
            match self.config.hub.pass(ApiRequest::get(place), None).await {
                Ok(answer) if answer.status == 200 => match serde_json::from_slice(&answer.body) {
                    Ok(status) if can_have_it(&status) => {}
                    Ok(_) => return Answer::NotYet(None),
                    Err(_) => return Answer::Never,
                },
                Ok(answer) if matches!(answer.status, 202 | 408 | 429 | 500..=599) => {
                    return Answer::NotYet(answer.retry_after);
                }
                Ok(_) => return Answer::Never,
                Err(error) if error.is_transient() => return Answer::NotYet(error.retry_after()),
                Err(_) => return Answer::Never,
            }
        }
        let place = format!("/torrent/{repo}@{commit}/{}", encode_path(path));
        // In nobody's name: what has a torrent is for everybody.
        let answer = match self.config.hub.pass(ApiRequest::get(place), None).await {
            Ok(answer) => answer,
            Err(error) if error.is_transient() => return Answer::NotYet(error.retry_after()),
            Err(error) => {
                tracing::debug!(file = %path, %error, "its hub has no torrent of it");
                return Answer::Never;
            }
        };
        match answer.status {
            200 => match Metainfo::parse(&answer.body) {
                Ok(metainfo) if only_file(&metainfo).is_some_and(|(_, length)| length == *bytes) => {
                    Answer::Torrent(Box::new(metainfo))
                }
                Ok(_) | Err(_) => {
                    tracing::warn!(file = %path, hub = self.config.hub.host(), "what should be its torrent is none");
                    Answer::Never
                }
            },
            202 | 408 | 429 | 500..=599 => Answer::NotYet(answer.retry_after),
            _ => Answer::Never,
        }
    }

    /// `None` when the session has it already.
    async fn add(&self, metainfo: &Arc<Metainfo>, storage: StorageKind) -> Result<Option<Torrent>, AddError> {
        let (peers, trackers) = (self.config.peers.clone(), self.config.trackers.clone());
        let options = AddOptions { storage, peers, trackers, ..AddOptions::default() };
        let source = Source::Metainfo(Box::new(Metainfo::clone(metainfo)));
        match self.session.add(source, options).await {
            Ok(torrent) => Ok(Some(torrent)),
            Err(AddError::Duplicate(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a hub may be made to fetch all of a file of which so many bytes were read here.
fn is_eager(bytes: u64, local: u64) -> bool {
    bytes <= EAGER_MAX_BYTES || local >= EAGER_MAX_BYTES.max(bytes / EAGER_PART).min(bytes / 2)
}

/// Whether a hub makes a torrent without fetching anything for it.
fn can_have_it(status: &ModelStatus) -> bool {
    match status.state {
        ModelState::Ready => true,
        ModelState::Absent => status.present_bytes >= status.total_bytes,
        _ => false,
    }
}

/// The file of a torrent that has one, and its length.
fn only_file(metainfo: &Metainfo) -> Option<(FileIndex, u64)> {
    let mut files = metainfo.info.files.iter().enumerate().filter(|(_, file)| !file.is_pad);
    let (at, only) = files.next()?;
    let is_plain = files.next().is_none() && only.symlink.is_none();
    Some((metainfo.info.geometry.file(at)?, only.bytes)).filter(|_| is_plain)
}

/// The blob's own file as a torrent's. Blocks on the disk.
fn sealed(blob: &Blob, metainfo: Arc<Metainfo>) -> Option<SealedFiles> {
    let path = blob.path()?;
    let stamp = Stamp::of(&path.symlink_metadata().ok()?);
    SealedFiles::at(metainfo, [(path, stamp)]).ok()
}

impl Slot {
    fn joined(&self, torrent: Torrent) {
        let file = torrent.metainfo().and_then(|metainfo| only_file(&metainfo));
        if let Some(reader) = file.and_then(|(file, _)| torrent.open(file).ok()) {
            let _first = self.generation.set(self.blob.generation());
            let _first = self.reader.set(reader);
            torrent.is_copied_to(&self.blob);
        }
        *self.torrent() = Some(torrent);
    }

    fn torrent(&self) -> MutexGuard<'_, Option<Torrent>> {
        self.torrent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the file is whole; false when others need its place before it is.
    async fn is_whole_in_time(&self, wanted: &Wanted) -> bool {
        loop {
            let whole = async {
                let whole = self.blob.whole().await;
                if let Err(error) = &whole {
                    // Somebody's fetch came to nothing; another one may do better.
                    tracing::debug!(file = %wanted.path, %error, "a file is not whole yet");
                    tokio::time::sleep(PAUSE_MAX).await;
                }
                whole.is_ok()
            };
            tokio::select! {
                is_whole = whole => if is_whole { return true },
                () = self.is_to_leave.notified() => return false,
            }
        }
    }

    /// Whether there is a torrent to ask now.
    pub(super) fn is_joined(&self) -> bool {
        self.reader.get().is_some() && !self.is_distrusted()
    }

    /// Whether it gave nothing a moment ago.
    pub(super) fn is_distrusted(&self) -> bool {
        let until = self.distrusted_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// As [`Self::open`], also where the torrent gave nothing a moment ago: for who has nobody else to ask.
    pub(super) async fn open_at_last(self: &Arc<Self>, range: Range<u64>) -> Option<Box<dyn BlobBody>> {
        *self.distrusted_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.open(range).await
    }

    /// The torrent's bytes from the start of `range` on, if it is joined, was good so far, and gives the first of them
    /// soon.
    pub(super) async fn open(self: &Arc<Self>, range: Range<u64>) -> Option<Box<dyn BlobBody>> {
        let mut is_answered = self.is_answered.subscribe();
        let answered = async { is_answered.wait_for(|is_answered| *is_answered).await.is_ok() };
        // Late or not: what is there now counts.
        let _late = tokio::time::timeout_at((self.since + ANSWER_PATIENCE).into(), answered).await;
        let reader = self.reader.get()?;
        // What came through it once and was not the blob is not asked for again.
        if self.is_distrusted() || self.generation.get() != Some(&self.blob.generation()) {
            return None;
        }
        let step = step(&range);
        let first = tokio::select! {
            first = reader.read_at(range.start, step) => first,
            () = self.stands_still() => {
                self.distrust();
                return None;
            }
        };
        match first {
            Ok(bytes) if !bytes.is_empty() => {
                let slot = Arc::clone(self);
                let range = range.start + bytes.len() as u64..range.end;
                Some(Box::new(SwarmBody { slot, first: Some(bytes), range }))
            }
            Ok(_) => {
                self.distrust();
                None
            }
            Err(error) => {
                tracing::debug!(%error, "a swarm gave nothing; the hub is asked");
                self.distrust();
                None
            }
        }
    }

    /// Ends when the torrent brings nothing, or others things only.
    async fn stands_still(&self) {
        let brought = || self.torrent().as_ref().map(|torrent| torrent.status().downloaded_bytes);
        let mut before = brought();
        for _ in 0..FIRST_SPANS {
            tokio::time::sleep(FIRST_BYTES).await;
            let now = brought();
            if now <= before {
                return;
            }
            before = now;
        }
    }

    fn distrust(&self) {
        let until = Instant::now() + DISTRUST;
        *self.distrusted_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

fn step(range: &Range<u64>) -> u32 {
    // A step of a whole number of steps from the file's start ends where the blob's blocks do.
    let end = (range.start / STEP_BYTES + 1) * STEP_BYTES;
    u32::try_from(end.min(range.end) - range.start).unwrap_or(u32::MAX)
}

/// A range of a torrent's file, step by step.
struct SwarmBody {
    slot: Arc<Slot>,
    first: Option<Bytes>,
    range: Range<u64>,
}

impl BlobBody for SwarmBody {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, OriginError>>> {
        Box::pin(async move {
            if let Some(first) = self.first.take() {
                return Some(Ok(first));
            }
            if self.range.is_empty() {
                return None;
            }
            let read = match self.slot.reader.get() {
                Some(reader) => reader.read_at(self.range.start, step(&self.range)).await,
                None => return None,
            };
            Some(match read {
                Ok(bytes) => {
                    self.range.start += bytes.len() as u64;
                    if bytes.is_empty() {
                        self.range.start = self.range.end;
                    }
                    Ok(bytes)
                }
                Err(error) => {
                    self.slot.distrust();
                    Err(OriginError::with_source(OriginFault::Transient, Arc::new(error)))
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_lacks_bytes_is_not_made_to_fetch_them() {
        let status = |state: &str, present: u64| -> ModelStatus {
            let text = format!(
                r#"{{"repo":"a/b","commit":"","state":"{state}","files":1,"files_present":0,"total_bytes":9,"present_bytes":{present}}}"#
            );
            serde_json::from_str(&text).expect("a status")
        };
        for (state, present, is_had) in [
            ("ready", 0, true),
            ("absent", 9, true),
            ("absent", 8, false),
            ("preparing", 9, false),
            ("restricted", 9, false),
            ("failed", 9, false),
        ] {
            assert_eq!(can_have_it(&status(state, present)), is_had, "{state} {present}");
        }
    }

    #[test]
    fn a_reader_of_a_part_of_a_long_file_makes_its_hub_fetch_all_of_it_and_one_of_its_header_does_not() {
        let gib = 1 << 30;
        for (bytes, local, is_it) in [
            (EAGER_MAX_BYTES, 0, true),
            (EAGER_MAX_BYTES + 1, EAGER_MAX_BYTES / 2 - 1, false),
            (EAGER_MAX_BYTES + 2, EAGER_MAX_BYTES / 2 + 1, true),
            (gib, 100 << 20, false),
            (gib, 128 << 20, true),
            (100 * gib, gib, false),
            (100 * gib, 13 * gib, true),
        ] {
            assert_eq!(is_eager(bytes, local), is_it, "{local} of {bytes}");
        }
    }

    #[test]
    fn steps_end_at_whole_steps_and_at_the_end() {
        let mib = STEP_BYTES;
        for (range, bytes) in [(0..10, 10), (0..5 * mib, mib), (mib - 1..5 * mib, 1), (mib + 1..mib + 3, 2)] {
            assert_eq!(u64::from(step(&range)), bytes, "{range:?}");
        }
    }
}
