//! Shared directories: each file or directory directly below a root is a torrent for as long as it stays as it is.
//!
//! One task owns all entries and decides with [`entry`]; it lists and looks ([`look`]) on threads for blocking work,
//! hashes one entry at a time (on all cores, the smallest first), keeps a record of what it hashed ([`record`]), and hands
//! what is ready to the engine, which serves it to peers. It hears of changes from the kernel ([`watch`]) and looks at
//! everything again from time to time.
//!
//! Invariant: an entry that changed is taken down before anything else is done about it, and every read of what is
//! served compares the file with its stamp; so no byte is served under hashes that were made of others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wtfs_proto::hub::{Origin, TorrentEntry, TorrentState};
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::create::{CreateError, Survey};
use wtfs_torrent::store::SealedFiles;
use wtfs_torrent::{AddOptions, RemovedData, Session, Source, Stamp, StorageKind};

use crate::library::Item;

mod entry;
mod look;
mod record;
mod watch;

use entry::{Entry, Hashing, Mark, Moment, Next, State};
use look::Seen;
use record::{Place, Records};
use watch::{Touched, Watch};

/// Looks under way at once: disks answer a few at a time best.
const LOOKS_MAX: usize = 4;

/// Entries that one job looks at, one after the other: a root may have ten thousand.
const LOOKED_AT_ONCE: usize = 64;

/// How the roots are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootsConfig {
    pub(crate) roots: Vec<PathBuf>,
    /// Where records are kept.
    pub(crate) records_dir: PathBuf,
    /// How long a file must have been left alone before it is hashed.
    pub(crate) quiet: Duration,
    /// How often everything is looked at, whatever the kernel told.
    pub(crate) rescan: Duration,
}

/// Number of the root, and name. Ordered by name, so that the first of two roots wins a name.
type Key = (String, usize);

/// What requests see of the roots.
#[derive(Debug, Default)]
struct View {
    rows: BTreeMap<Key, Row>,
    by_hash: HashMap<InfoHash, Arc<Item>>,
}

#[derive(Debug, Clone)]
struct Row {
    shown: TorrentEntry,
    item: Option<Arc<Item>>,
    hashing: Option<Arc<AtomicU64>>,
}

/// The roots of a hub; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    view: Arc<Mutex<View>>,
    changes: channel::Receiver<u64>,
    listed: channel::Receiver<bool>,
    hashed: Arc<AtomicU64>,
}

impl Roots {
    /// Starts to watch and to hash. Must run on a tokio runtime; ends with `stop`.
    ///
    /// # Errors
    /// When the records cannot be kept.
    pub(crate) async fn start(
        config: RootsConfig,
        session: Session,
        stop: CancellationToken,
    ) -> std::io::Result<Self> {
        let dir = config.records_dir.clone();
        let records = blocking(move || Records::open(dir)).await??;
        let view = Arc::<Mutex<View>>::default();
        let (changed, changes) = channel::channel(0);
        let (is_listed, listed) = channel::channel(config.roots.is_empty());
        let hashed = Arc::<AtomicU64>::default();
        let task = Task {
            config,
            session,
            records: Arc::new(Mutex::new(records)),
            view: view.clone(),
            changed,
            is_listed,
            hashed: hashed.clone(),
            start: Instant::now(),
            entries: BTreeMap::new(),
            jobs: JoinSet::new(),
            looks: 0,
            is_hashing: false,
            listings: 0,
        };
        tokio::spawn(task.run(stop));
        Ok(Self { view, changes, listed, hashed })
    }

    /// All entries in the order of their names.
    pub(crate) fn list(&self) -> Vec<TorrentEntry> {
        let view = lock(&self.view);
        let shown = view.rows.values().map(|row| {
            let hashed_bytes = row.hashing.as_ref().map(|done| done.load(Ordering::Relaxed));
            TorrentEntry { hashed_bytes, ..row.shown.clone() }
        });
        shown.collect()
    }

    /// What is served under this hash.
    pub(crate) fn by_hash(&self, info_hash: InfoHash) -> Option<Arc<Item>> {
        lock(&self.view).by_hash.get(&info_hash).cloned()
    }

    /// What is served under this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Item>> {
        let view = lock(&self.view);
        let rows = view.rows.range((name.to_owned(), 0)..=(name.to_owned(), usize::MAX));
        rows.filter_map(|(_, row)| row.item.clone()).next()
    }

    /// Tells when something comes or goes.
    pub(crate) fn changes(&self) -> channel::Receiver<u64> {
        self.changes.clone()
    }

    /// Whether every root was listed once since the start.
    pub(crate) fn is_listed(&self) -> bool {
        *self.listed.borrow()
    }

    /// How many entries were hashed since the start.
    pub(crate) fn hashed_count(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    // Each change leaves rows and hashes fitting each other before it can panic.
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(job).await.map_err(std::io::Error::other)
}

/// What a blocking job found.
#[derive(Debug)]
enum Done {
    Watching(Watch),
    Listed(usize, std::io::Result<HashSet<String>>),
    Looked(Vec<Looked>),
    Hashed(Key, Box<Survey>, Box<Result<Metainfo, CreateError>>),
}

/// What was seen of an entry, with the torrent where a record has it.
#[derive(Debug)]
struct Looked {
    key: Key,
    seen: Seen,
    known: Option<Box<Metainfo>>,
}

#[derive(Debug)]
struct Task {
    config: RootsConfig,
    session: Session,
    /// Locked on threads for blocking work alone.
    records: Arc<Mutex<Records>>,
    view: Arc<Mutex<View>>,
    changed: channel::Sender<u64>,
    is_listed: channel::Sender<bool>,
    hashed: Arc<AtomicU64>,
    start: Instant,
    entries: BTreeMap<Key, Entry>,
    jobs: JoinSet<Done>,
    looks: usize,
    is_hashing: bool,
    /// Listings under way.
    listings: usize,
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        // Watched before listed: what comes in between is then seen by one or the other.
        let mut watch = None;
        let roots = self.config.roots.clone();
        if !roots.is_empty() {
            self.jobs.spawn_blocking(move || Done::Watching(Watch::start(roots)));
        }
        let mut rescan = tokio::time::interval(self.config.rescan);
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.next_look();
            let touched = async {
                match &watch {
                    Some(watch) => Watch::touched(watch).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.jobs.join_next() => match done {
                    Ok(Done::Watching(started)) => {
                        watch = Some(started);
                        self.list_all();
                    }
                    Ok(done) => self.handle_done(done).await,
                    Err(error) => tracing::error!(%error, "a job on shared files was lost"),
                },
                touched = touched => self.handle_touched(touched),
                _ = rescan.tick() => if watch.is_some() { self.list_all() },
                () = sleep(due) => {}
            }
            self.start_looks();
            self.start_hashing();
        }
        for entry in self.entries.values() {
            if let State::Hashing(job) = &entry.state {
                job.cancel.store(true, Ordering::Relaxed);
            }
        }
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// How long until a look is due.
    fn next_look(&self) -> Option<Duration> {
        if self.looks >= LOOKS_MAX {
            return None;
        }
        let waiting = self.entries.values().filter(|entry| !entry.is_looked_at);
        let waiting = waiting.filter(|entry| !matches!(entry.state, State::Hashing(_)));
        let due = waiting.filter_map(|entry| entry.look_at).min()?;
        Some(due.saturating_sub(self.now()))
    }

    fn list_all(&mut self) {
        if self.listings > 0 {
            return;
        }
        for (number, root) in self.config.roots.iter().cloned().enumerate() {
            self.listings += 1;
            self.jobs.spawn_blocking(move || Done::Listed(number, look::list(&root)));
        }
    }

    fn handle_touched(&mut self, touched: Touched) {
        let now = self.now();
        for (root, name) in touched.names {
            if look::shareable(name.as_ref()).is_none() {
                continue;
            }
            let entry = self.entries.entry((name, root)).or_insert_with(|| Entry::found(now));
            entry.touch(now, self.config.quiet);
        }
        if touched.is_overflown {
            self.list_all();
        }
    }

    fn start_looks(&mut self) {
        let now = self.now();
        while self.looks < LOOKS_MAX {
            let due = self.entries.iter_mut().filter(|(_, entry)| entry.is_due(now));
            let mut batch = Vec::new();
            for (key, entry) in due.take(LOOKED_AT_ONCE) {
                let Some(root) = self.config.roots.get(key.1) else { continue };
                entry.look_at = None;
                entry.is_looked_at = true;
                let wants_record = !matches!(entry.state, State::Ready { .. });
                batch.push((key.clone(), root.clone(), wants_record));
            }
            if batch.is_empty() {
                break;
            }
            self.looks += 1;
            let records = self.records.clone();
            self.jobs.spawn_blocking(move || {
                let look = |(key, root, wants_record): (Key, PathBuf, bool)| {
                    let seen = look::look(&root, &key.0);
                    let mut known = None;
                    if let (Seen::Files(survey, _), true) = (&seen, wants_record) {
                        let stamps: Vec<Stamp> = survey.files().map(|(_, stamp)| stamp).collect();
                        let place = Place { root, name: key.0.clone() };
                        let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                        known = records.find(&place, &stamps).filter(|found| look::is_of(found, survey));
                        if known.is_none() {
                            let moved = records.find_moved(&place, &stamps);
                            known = moved.and_then(|old| look::renamed(&old, survey, &key.0));
                            if let Some(metainfo) = &known {
                                keep(&mut records, &place, metainfo, &stamps);
                            }
                        }
                    }
                    Looked { key, seen, known: known.map(Box::new) }
                };
                Done::Looked(batch.into_iter().map(look).collect())
            });
        }
    }

    fn start_hashing(&mut self) {
        if self.is_hashing {
            return;
        }
        let queued = self.entries.iter().filter_map(|(key, entry)| match &entry.state {
            State::Queued(survey) => Some((survey.total_bytes(), key)),
            _ => None,
        });
        let Some(key) = queued.min().map(|(_, key)| key.clone()) else { return };
        let Some(root) = self.config.roots.get(key.1).cloned() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let State::Queued(survey) = std::mem::replace(&mut entry.state, State::Waiting) else { return };
        let job =
            Hashing { done_bytes: Arc::default(), total_bytes: survey.total_bytes(), cancel: Arc::default() };
        entry.state = State::Hashing(job.clone());
        self.is_hashing = true;
        self.show(&key);
        let records = self.records.clone();
        self.jobs.spawn_blocking(move || {
            let outcome = look::hash(&root, &key.0, &survey, &job);
            if let Ok(metainfo) = &outcome {
                let stamps: Vec<Stamp> = survey.files().map(|(_, stamp)| stamp).collect();
                let place = Place { root, name: key.0.clone() };
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                keep(&mut records, &place, metainfo, &stamps);
            }
            Done::Hashed(key, survey, Box::new(outcome))
        });
    }

    async fn handle_done(&mut self, done: Done) {
        match done {
            Done::Watching(_) => {}
            Done::Listed(root, names) => self.handle_listed(root, names),
            Done::Looked(looked) => {
                self.looks -= 1;
                for Looked { key, seen, known } in looked {
                    self.handle_looked(key, seen, known).await;
                }
            }
            Done::Hashed(key, survey, outcome) => {
                self.is_hashing = false;
                self.handle_hashed(key, &survey, *outcome).await;
            }
        }
    }

    fn handle_listed(&mut self, root: usize, names: std::io::Result<HashSet<String>>) {
        self.listings -= 1;
        let now = self.now();
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                let path = self.config.roots.get(root).cloned().unwrap_or_default();
                tracing::warn!(root = %path.display(), %error, "a root cannot be listed; nothing of it is served");
                HashSet::new()
            }
        };
        let gone: Vec<Key> =
            self.entries.keys().filter(|key| key.1 == root && !names.contains(&key.0)).cloned().collect();
        for name in &names {
            let entry = self.entries.entry((name.clone(), root)).or_insert_with(|| Entry::found(now));
            entry.look_at = Some(entry.look_at.unwrap_or(now));
        }
        self.forget_missing(root, names);
        for key in gone {
            // Looked at rather than dropped: the listing may be older than the entry.
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.look_at = Some(now);
            }
        }
        if self.listings == 0 {
            self.is_listed.send_replace(true);
        }
    }

    async fn handle_looked(&mut self, key: Key, seen: Seen, known: Option<Box<Metainfo>>) {
        let now = self.now();
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.is_looked_at = false;
        match seen {
            Seen::Gone => {
                self.take_down(&key).await;
                self.entries.remove(&key);
                lock(&self.view).rows.remove(&key);
            }
            Seen::Unusable(reason) => {
                self.take_down(&key).await;
                self.set(&key, State::Refused { reason });
            }
            Seen::Files(survey, mark) => {
                let next = entry.weigh(mark, look::age(&survey), now, self.config.quiet);
                if next == Next::Nothing {
                    return;
                }
                self.take_down(&key).await;
                match (next, known) {
                    // Nothing was written since it was hashed, so it need not come to rest.
                    (_, Some(metainfo)) => self.put_up(&key, *metainfo, &survey, mark).await,
                    (Next::Hash, None) => self.set(&key, State::Queued(survey)),
                    (_, None) => {
                        if let Some(entry) = self.entries.get_mut(&key) {
                            entry.look_at = Some(now + self.config.quiet);
                        }
                        self.set(&key, State::Waiting);
                        self.show_size(&key, survey.total_bytes());
                    }
                }
            }
        }
    }

    async fn handle_hashed(&mut self, key: Key, survey: &Survey, outcome: Result<Metainfo, CreateError>) {
        let now = self.now();
        match outcome {
            Ok(metainfo) => {
                self.hashed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(name = key.0, bytes = survey.total_bytes(), "hashed");
                let mark = look::mark(survey);
                self.put_up(&key, metainfo, survey, mark).await;
            }
            Err(CreateError::Changed { .. } | CreateError::Cancelled | CreateError::Io { .. }) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.look_at = Some(now + self.config.quiet);
                }
                self.set(&key, State::Waiting);
            }
            Err(error) => self.set(&key, State::Refused { reason: error.to_string() }),
        }
    }

    /// Serves an entry from now on.
    async fn put_up(&mut self, key: &Key, metainfo: Metainfo, survey: &Survey, mark: Mark) {
        let Some(root) = self.config.roots.get(key.1).cloned() else { return };
        let info_hash = metainfo.hashes.primary();
        if lock(&self.view).by_hash.contains_key(&info_hash) {
            let reason = "the same torrent is served from another root".to_owned();
            self.set(key, State::Refused { reason });
            return;
        }
        let stamps: Vec<Stamp> = survey.files().map(|(_, stamp)| stamp).collect();
        let modified_s = stamps.iter().map(|stamp| stamp.modified_s).max().unwrap_or(0);
        let metainfo = Arc::new(metainfo);
        let files = match SealedFiles::new(root, metainfo.clone(), stamps) {
            Ok(files) => Arc::new(files),
            Err(error) => {
                self.set(key, State::Refused { reason: error.to_string() });
                return;
            }
        };
        let options = AddOptions { storage: StorageKind::Sealed(files.clone()), ..AddOptions::default() };
        let source = Source::Metainfo(Box::new(Metainfo::clone(&metainfo)));
        // As long as the engine has it: what it has and the view does not would be served as somebody else's, whose files
        // nobody changes.
        let item = Arc::new(Item::sealed(files, modified_s));
        lock(&self.view).by_hash.insert(info_hash, item.clone());
        if let Err(error) = self.session.add(source, options).await {
            // Over HTTP it is served all the same.
            tracing::warn!(name = key.0, %error, "peers are not served");
        }
        tracing::info!(name = key.0, %info_hash, "served");
        self.set(key, State::Ready { item, mark });
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Serves an entry no more.
    async fn take_down(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let State::Ready { item, .. } = std::mem::replace(&mut entry.state, State::Waiting) else { return };
        let info_hash = item.info_hash();
        self.show(key);
        tracing::info!(name = key.0, %info_hash, "not served any more: it changed or is gone");
        self.changed.send_modify(|generation| *generation += 1);
        // Meanwhile it is found still, and each file of it looked at before it is given.
        self.session.remove(info_hash, RemovedData::Keep).await;
        lock(&self.view).by_hash.remove(&info_hash);
    }

    /// Forgets what stands in a root no more. Not at once when something goes: it may only have been moved for a
    /// moment, as programs do that replace files.
    fn forget_missing(&self, root: usize, names: HashSet<String>) {
        // A root that is not mounted now has lost nothing.
        let Some(root) = self.config.roots.get(root).cloned().filter(|_| !names.is_empty()) else { return };
        let records = self.records.clone();
        tokio::task::spawn_blocking(move || {
            records.lock().unwrap_or_else(PoisonError::into_inner).retain(&root, &names);
        });
    }

    fn set(&mut self, key: &Key, state: State) {
        if let Some(entry) = self.entries.get_mut(key) {
            if let State::Refused { reason } = &state {
                tracing::info!(name = key.0, reason, "cannot be served");
            }
            entry.state = state;
            self.show(key);
        }
    }

    /// Lets requests see where an entry stands.
    fn show(&self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        let mut shown = TorrentEntry {
            name: key.0.clone(),
            info_hash: None,
            state: TorrentState::Waiting,
            origin: Origin::Root,
            total_bytes: 0,
            hashed_bytes: None,
            pieces: 0,
            pieces_present: 0,
            reason: None,
        };
        let (mut served, mut hashing) = (None, None);
        match &entry.state {
            State::Waiting => {}
            State::Queued(survey) => shown.total_bytes = survey.total_bytes(),
            State::Hashing(job) => {
                shown.state = TorrentState::Hashing;
                shown.total_bytes = job.total_bytes;
                hashing = Some(job.done_bytes.clone());
            }
            State::Ready { item, .. } => {
                let info = &item.metainfo().info;
                shown.state = TorrentState::Ready;
                shown.info_hash = Some(item.info_hash().to_string());
                shown.total_bytes = info.display_total();
                shown.pieces = info.geometry.piece_count();
                shown.pieces_present = shown.pieces;
                served = Some(item.clone());
            }
            State::Refused { reason } => {
                shown.state = TorrentState::Refused;
                shown.reason = Some(reason.clone());
            }
        }
        lock(&self.view).rows.insert(key.clone(), Row { shown, item: served, hashing });
    }

    fn show_size(&self, key: &Key, bytes: u64) {
        if let Some(row) = lock(&self.view).rows.get_mut(key) {
            row.shown.total_bytes = bytes;
        }
    }
}

/// Blocks on the disk.
fn keep(records: &mut Records, place: &Place, metainfo: &Metainfo, stamps: &[Stamp]) {
    if let Err(error) = records.keep(place, metainfo, stamps) {
        tracing::warn!(name = place.name, %error, "it will be hashed again after a restart");
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
