//! The swarms of what the proxy keeps: a torrent for each revision and file that is asked for, the same one at every hub.
//!
//! Owns which torrents there are ([`State`]), makes them ([`preparing`]) out of the hashes that blobs get while they are
//! verified, keeps them on disk ([`shelf`]), and has the engine give them to peers as long as all of their blobs are here
//! ([`seeding`]). [`routes`] is HTTP over it.
//!
//! Only what everybody may read is made a torrent, unless a person named the repository: an info hash is a key that cannot
//! be taken back. Torrents of such a repository are closed ([`Reach::Closed`]): private (BEP 27), in no list, and told to
//! callers alone whom upstream lets read it. All that is asked anew for each request, by the rules of the proxy; and now
//! and then of what nobody asks for ([`closing`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wtfs_proto::hf::{FilePath, Repo};
use wtfs_proto::hub::{HfFill, HfStats, ModelState, ModelStatus};
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::Session;
use wtfs_torrent::hf::blobs::BlobsStatus;

use super::limits::{Limits, network_of};
use super::refusal::{Asker, Refusal};
use super::{Caller, HfCounters, HfProxy};
use crate::closed_swarms::ClosedSwarms;
use crate::own_peer::Others;
use crate::tracker::Tracker;
use asked::Asked;
use closing::Rounds;
use made::{Key, Part, Reach, part, parts, total_bytes};
use preparing::{Grant, Order};
use seeding::Seed;
use shelf::Shelf;

mod asked;
mod closing;
mod made;
mod preparing;
mod routes;
mod seeding;
mod shelf;
mod sightings;

pub(crate) use made::piece_bytes;
pub(crate) use routes::{router, stats_router};
pub(super) use sightings::Sightings;

/// Torrents that are known at once; what was asked for longest ago is forgotten for a new one.
const TORRENTS_MAX: usize = 4096;

/// Torrents that are prepared, or wait to be.
const PREPARING_MAX: usize = 64;

/// How long a torrent that could not be made is not tried again.
const FAILED_FOR: Duration = Duration::from_secs(30);

/// Torrents that are told of in a list.
const LISTED_MAX: usize = 200;

/// How often it is looked whether blobs came or went.
const LOOK: Duration = Duration::from_secs(5);

/// How long the list of all torrents is good for: it costs looks at files.
const MODELS_TTL: Duration = Duration::from_secs(1);

/// Counts of what is here that are made at once: each is a look at many files.
const COUNTS_AT_ONCE: usize = 4;

/// The swarms. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Swarms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    proxy: HfProxy,
    session: Session,
    tracker: Tracker,
    shelf: Arc<Shelf>,
    state: Mutex<State>,
    /// Held by who adds a torrent to the engine or takes it out.
    seeding: tokio::sync::Mutex<()>,
    /// Preparations that fetch and hash at once; the others wait.
    slots: Arc<Semaphore>,
    /// Of those, how many are one client's.
    of_one: Limits,
    counts: Semaphore,
    looked: tokio::sync::Mutex<Option<(Instant, Vec<ModelStatus>)>>,
    closed: ClosedSwarms,
    /// Told when a torrent was made, or will not be.
    settled: Notify,
    /// Grows when a torrent is given to peers from now on, or no more; and up to where the tracker knows.
    changed: watch::Sender<u64>,
    announced: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Which torrents there are. Whole between any two statements.
#[derive(Debug, Default)]
struct State {
    torrents: HashMap<Key, Entry>,
    seeds: HashMap<InfoHash, Seed>,
    /// Bytes that peers were given of torrents that the engine has no more.
    uploaded_before: u64,
    uses: u64,
}

/// One torrent.
#[derive(Debug, Clone)]
struct Entry {
    parts: Arc<[Part]>,
    total_bytes: u64,
    stage: Stage,
    used: u64,
    /// Whose wish it was, if a client's.
    client: Option<IpAddr>,
}

#[derive(Debug, Clone)]
enum Stage {
    Preparing,
    Made(Arc<Metainfo>),
    Failed { reason: String, at: Instant },
}

/// Whether a torrent is to be made if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Make,
    Look,
}

/// What there is of what was asked for.
#[derive(Debug)]
enum Found {
    Torrent {
        key: Key,
        metainfo: Arc<Metainfo>,
    },
    /// There is none (yet).
    Status(ModelStatus),
}

impl Swarms {
    /// Finds what was kept, and begins to look after it. Must run on a tokio runtime.
    pub(crate) fn start(
        proxy: HfProxy,
        session: Session,
        tracker: Tracker,
        cache_dir: &Path,
        stop: CancellationToken,
    ) -> Self {
        let swarms = Self(Arc::new(Inner {
            proxy,
            session,
            tracker,
            shelf: Arc::new(Shelf::new(cache_dir.join("hf").join("torrents"))),
            state: Mutex::default(),
            seeding: tokio::sync::Mutex::default(),
            slots: Arc::new(Semaphore::new(preparing::AT_ONCE)),
            of_one: Limits::new(preparing::AT_ONCE_OF_ONE),
            counts: Semaphore::new(COUNTS_AT_ONCE),
            looked: tokio::sync::Mutex::default(),
            closed: ClosedSwarms::default(),
            settled: Notify::new(),
            changed: watch::channel(0).0,
            announced: watch::channel(0).0,
            tasks: TaskTracker::new(),
            stop,
        }));
        swarms.0.tasks.spawn(swarms.clone().look_after());
        swarms
    }

    /// What tells the hub's tracker of torrents that come and go.
    pub(crate) fn others(&self) -> Others {
        Others {
            changes: self.0.changed.subscribe(),
            announced: self.0.announced.clone(),
            closed: self.0.closed.clone(),
        }
    }

    /// Whether nobody is told of a torrent but who has a right to it. By its info hash in hex.
    pub(crate) fn is_closed(&self, info_hash: &str) -> bool {
        info_hash.parse().is_ok_and(|info_hash| self.0.closed.hold(info_hash))
    }

    async fn look_after(self) {
        let shelf = self.0.shelf.clone();
        let kept = tokio::task::spawn_blocking(move || shelf.all(TORRENTS_MAX)).await.unwrap_or_default();
        let (mut forbidden, mut open) = (Vec::new(), Vec::new());
        {
            let mut state = self.0.state();
            for found in kept {
                if found.key.reach == Reach::Closed && !self.may_be_closed(&found.key.repo) {
                    // It was named in an earlier run.
                    forbidden.push(found.key);
                    continue;
                }
                if found.key.reach == Reach::Open {
                    open.push(found.key.repo.clone());
                }
                let total_bytes = total_bytes(&found.parts);
                let stage = Stage::Made(Arc::new(found.metainfo));
                let entry = Entry { parts: found.parts, total_bytes, stage, used: 0, client: None };
                state.torrents.entry(found.key).or_insert(entry);
            }
        }
        for key in forbidden {
            self.forget(&key).await;
        }
        let (mut start, mut rounds) = (0, Rounds::of_kept(open));
        loop {
            self.look_at_rights(&mut rounds).await;
            self.look_at_blobs(&mut start).await;
            self.look_at_sightings().await;
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Finds the torrent of a revision or file, for a caller who may know of it.
    ///
    /// # Errors
    /// [`Refusal`]: there is no such thing, the caller may not know of it, or that cannot be found out.
    async fn find(&self, asked: Asked, caller: &Caller, wish: Wish) -> Result<Found, Refusal> {
        let proxy = &self.0.proxy;
        let pinned = proxy.pin(&asked.repo, &asked.revision, caller).await?;
        let snapshot = proxy.snapshot(pinned, caller).await?;
        let (repo, tree) = (snapshot.pinned.repo.clone(), &snapshot.tree);
        let file = match &asked.path {
            None => None,
            Some(path) => {
                // Of a file that is itself a torrent the whole name is meant.
                let whole =
                    tree.find(&format!("{path}.torrent")).filter(|_| tree.find(path.as_str()).is_none());
                let missing = || Refusal::Entry { commit: tree.commit, path: path.to_string() };
                Some(whole.or_else(|| tree.find(path.as_str())).ok_or_else(missing)?)
            }
        };
        let reach = if snapshot.is_public { Reach::Open } else { Reach::Closed };
        let key = Key { repo, commit: tree.commit, path: file.map(|file| file.path.clone()), reach };
        let parts = || match file {
            Some(file) => Arc::from([part(file)]),
            None => parts(tree),
        };
        // What there is from before it was opened or closed.
        let other = if snapshot.is_public { Reach::Closed } else { Reach::Open };
        self.withdraw(&key.repo, other).await;
        let (mut token, mut asker) = (None, Asker::Anonymous);
        if reach == Reach::Closed && self.may_be_closed(&key.repo) {
            (token, asker) = (proxy.may_read(&snapshot.pinned, caller).await?, caller.asker());
        } else if reach == Reach::Closed {
            self.withdraw(&key.repo, Reach::Closed).await;
            let reason = "not everybody may read this repository, so there is no torrent of it".to_owned();
            let parts = parts();
            let total_bytes = total_bytes(&parts);
            let files = parts.len() as u64;
            let status = ModelStatus { files, total_bytes, ..bare(&key, ModelState::Restricted) };
            return Ok(Found::Status(ModelStatus { reason: Some(reason), ..status }));
        }
        if let Some(metainfo) = self.0.state().made(&key) {
            return Ok(Found::Torrent { key, metainfo });
        }
        if wish == Wish::Make {
            let grant = Some(Grant { snapshot: snapshot.clone(), token, asker });
            self.prepare(&key, Order { client: Some(network_of(caller.client)), grant }, parts)?;
            self.until_settled(&key).await;
        }
        let entry = self.0.state().torrents.get(&key).cloned();
        if let Some(Entry { stage: Stage::Made(metainfo), .. }) = entry {
            return Ok(Found::Torrent { key, metainfo });
        }
        let (state, parts, reason) = match entry {
            None => (ModelState::Absent, parts(), None),
            Some(Entry { stage: Stage::Failed { reason, .. }, parts, .. }) => {
                (ModelState::Failed, parts, Some(reason))
            }
            Some(Entry { parts, .. }) => (ModelState::Preparing, parts, None),
        };
        let status = self.count_present(bare(&key, state), parts).await;
        Ok(Found::Status(ModelStatus { reason, ..status }))
    }

    /// How much of these files is here.
    async fn count_present(&self, status: ModelStatus, parts: Arc<[Part]>) -> ModelStatus {
        let _turn = self.0.counts.acquire().await;
        let blobs = self.0.session.blobs().clone();
        let counted = tokio::task::spawn_blocking(move || {
            let (mut files, mut bytes) = (0, 0_u64);
            for part in parts.iter() {
                let blob = blobs.get(part.id, part.bytes);
                let is_whole = part.bytes == 0 || blob.is_whole();
                files += u64::from(is_whole);
                bytes += if is_whole { part.bytes } else { blob.present_bytes().min(part.bytes) };
            }
            let total_bytes = total_bytes(&parts);
            (parts.len() as u64, total_bytes, files, bytes)
        });
        let (files, total_bytes, files_present, present_bytes) = counted.await.unwrap_or_default();
        ModelStatus { files, total_bytes, files_present, present_bytes, ..status }
    }

    /// What there is, with numbers.
    async fn status(&self, key: &Key, entry: Entry) -> ModelStatus {
        let (state, reason) = match &entry.stage {
            Stage::Preparing => (ModelState::Preparing, None),
            Stage::Made(_) => (ModelState::Ready, None),
            Stage::Failed { reason, .. } => (ModelState::Failed, Some(reason.clone())),
        };
        let status = ModelStatus { reason, ..bare(key, state) };
        let Stage::Made(metainfo) = &entry.stage else {
            return self.count_present(status, entry.parts).await;
        };
        let info_hash = metainfo.hashes.primary();
        let is_seeded = self.0.state().is_seeded(info_hash, key);
        let torrent = self.0.session.torrent(info_hash).filter(|_| is_seeded);
        let uploaded_bytes = torrent.map_or(0, |torrent| torrent.status().uploaded_bytes);
        let status =
            ModelStatus { info_hash: Some(info_hash.to_string()), is_seeded, uploaded_bytes, ..status };
        if !is_seeded {
            return self.count_present(status, entry.parts).await;
        }
        let files = entry.parts.len() as u64;
        let total_bytes = entry.total_bytes;
        ModelStatus { files, files_present: files, total_bytes, present_bytes: total_bytes, ..status }
    }

    pub(crate) fn numbers(&self) -> HfNumbers {
        let peer_bytes = self.peer_bytes();
        let (mut seeded, mut kept, mut preparing, mut failed) = (0, 0, 0, 0);
        let state = self.0.state();
        for (key, entry) in &state.torrents {
            match &entry.stage {
                Stage::Made(metainfo) if state.is_seeded(metainfo.hashes.primary(), key) => seeded += 1,
                Stage::Made(_) => kept += 1,
                Stage::Preparing => preparing += 1,
                Stage::Failed { .. } => failed += 1,
            }
        }
        drop(state);
        let (counters, blobs) = (self.0.proxy.counters(), self.0.session.blobs().status());
        let exchanged_bytes = self.0.tracker.claimed_bytes();
        HfNumbers { counters, blobs, peer_bytes, exchanged_bytes, seeded, kept, preparing, failed }
    }

    /// Everything that may be told of torrents and of what came from upstream. `served_bytes` are those of HTTP.
    pub(crate) async fn stats(&self, served_bytes: u64) -> HfStats {
        let models = self.models().await;
        let HfNumbers { counters, blobs, peer_bytes, exchanged_bytes, .. } = self.numbers();
        // Of what not everybody may read, not even the hash is told.
        let is_open = |id| !self.0.proxy.0.provenance.is_closed(id);
        let fills = self.0.session.blobs().fills().into_iter();
        let fills = fills.filter(|fill| is_open(fill.id)).take(LISTED_MAX);
        HfStats {
            upstream: self.0.proxy.upstream().endpoint().to_owned(),
            upstream_bytes: counters.upstream.file_bytes,
            upstream_requests: counters.upstream.requests,
            upstream_rate_limited: counters.upstream.rate_limited,
            upstream_failed: counters.upstream.failed,
            served_bytes,
            peer_bytes,
            exchanged_bytes,
            blobs: blobs.whole,
            blobs_bytes: blobs.whole_bytes,
            fills: fills
                .map(|fill| HfFill {
                    id: fill.id.to_string(),
                    bytes: fill.bytes,
                    present_bytes: fill.present_bytes,
                    waiting: fill.waiting as u64,
                })
                .collect(),
            models,
        }
    }

    /// Those that are open and were used last. Looked at once a second at most, whoever asks.
    async fn models(&self) -> Vec<ModelStatus> {
        // Held while it is made: who comes meanwhile is given the same.
        let mut looked = self.0.looked.lock().await;
        if let Some((_, models)) = looked.as_ref().filter(|(at, _)| at.elapsed() < MODELS_TTL) {
            return models.clone();
        }
        let mut entries: Vec<(Key, Entry)> = {
            let state = self.0.state();
            let open = state.torrents.iter().filter(|(key, _)| key.reach == Reach::Open);
            open.map(|(key, entry)| (key.clone(), entry.clone())).collect()
        };
        entries
            .sort_by(|(key, entry), (other, than)| than.used.cmp(&entry.used).then_with(|| key.cmp(other)));
        entries.truncate(LISTED_MAX);
        let mut models = Vec::new();
        for (key, entry) in entries {
            models.push(self.status(&key, entry).await);
        }
        *looked = Some((Instant::now(), models.clone()));
        models
    }
}

/// Numbers that cost no look at any file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HfNumbers {
    pub(crate) counters: HfCounters,
    pub(crate) blobs: BlobsStatus,
    /// Bytes that peers were given.
    pub(crate) peer_bytes: u64,
    /// Bytes that peers say they gave each other.
    pub(crate) exchanged_bytes: u64,
    /// Torrents that peers are given now.
    pub(crate) seeded: usize,
    /// Torrents of which something had to go.
    pub(crate) kept: usize,
    pub(crate) preparing: usize,
    pub(crate) failed: usize,
}

impl Swarms {
    /// Whether there may be torrents of a repository although not everybody may read it.
    fn may_be_closed(&self, repo: &Repo) -> bool {
        self.0.proxy.0.config.private_swarms.include(repo)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The torrent, which is used by this.
    fn made(&mut self, key: &Key) -> Option<Arc<Metainfo>> {
        self.uses += 1;
        let entry = self.torrents.get_mut(key)?;
        entry.used = self.uses;
        match &entry.stage {
            Stage::Made(metainfo) => Some(metainfo.clone()),
            Stage::Preparing | Stage::Failed { .. } => None,
        }
    }

    /// The torrents of a repository.
    fn of_repo(&self, repo: &Repo, reach: Reach) -> Vec<Key> {
        self.torrents.keys().filter(|key| key.repo == *repo && key.reach == reach).cloned().collect()
    }
}

/// A status that says nothing yet.
fn bare(key: &Key, state: ModelState) -> ModelStatus {
    ModelStatus {
        repo: key.repo.to_string(),
        commit: key.commit.to_string(),
        path: key.path.as_ref().map(FilePath::to_string),
        state,
        files: 0,
        files_present: 0,
        total_bytes: 0,
        present_bytes: 0,
        info_hash: None,
        is_seeded: false,
        uploaded_bytes: 0,
        magnet: None,
        torrent: None,
        reason: None,
    }
}
