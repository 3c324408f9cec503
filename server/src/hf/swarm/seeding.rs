//! Giving torrents to peers: over the files of the blobs themselves, as long as all are here.
//!
//! A blob that had to go takes the seeds with it; the torrents stay known, and are seeded again when it is back. One torrent
//! may be asked for in two ways (a file that two revisions share): the engine has it once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wtfs_proto::hf::Repo;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::hf::blobs::Blobs;
use wtfs_torrent::store::SealedFiles;
use wtfs_torrent::{AddError, AddOptions, RemovedData, Source, Stamp, StorageKind};

use super::made::{Key, Part, Reach};
use super::{Stage, State, Swarms};

/// Files that are looked at in one turn; what is beyond has its turn later.
const LOOKED_AT_MAX: usize = 8192;

/// How long the tracker is waited for; it is told within a tenth of a second.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(2);

/// A torrent that peers are given.
#[derive(Debug)]
pub(super) struct Seed {
    /// What it was asked for as.
    keys: Vec<Key>,
    owner: Owner,
}

/// A torrent that there is, seeded or not.
#[derive(Debug, Clone)]
struct Made {
    key: Key,
    parts: Arc<[Part]>,
    metainfo: Arc<Metainfo>,
    is_seeded: bool,
}

/// Who put it into the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    We,
    /// It was there, and stays when we are done with it.
    Others,
}

impl Swarms {
    /// Whether all blobs are here and verified.
    pub(super) async fn are_here(&self, parts: Arc<[Part]>) -> bool {
        let blobs = self.0.session.blobs().clone();
        let looked = tokio::task::spawn_blocking(move || {
            parts.iter().all(|part| part.bytes == 0 || blobs.get(part.id, part.bytes).is_whole())
        });
        looked.await.unwrap_or(false)
    }

    /// Seeds what can be, and ends what cannot. `start` is where the last turn ended.
    pub(super) async fn look_at_blobs(&self, start: &mut usize) {
        let mut made: Vec<Made> = {
            let state = self.0.state();
            let made = state.torrents.iter().filter_map(|(key, entry)| match &entry.stage {
                Stage::Made(metainfo) => {
                    let is_seeded = state.is_seeded(metainfo.hashes.primary(), key);
                    let (key, parts, metainfo) = (key.clone(), entry.parts.clone(), metainfo.clone());
                    Some(Made { key, parts, metainfo, is_seeded })
                }
                Stage::Preparing | Stage::Failed { .. } => None,
            });
            made.collect()
        };
        made.sort_by(|a, b| a.key.cmp(&b.key));
        let (mut left, count) = (LOOKED_AT_MAX, made.len());
        let from = if count == 0 { 0 } else { *start % count };
        for Made { key, parts, metainfo, is_seeded } in made.into_iter().cycle().skip(from).take(count) {
            *start += 1;
            let looked_at = parts.len();
            match (self.are_here(parts).await, is_seeded) {
                (true, false) => self.seed(&key, &metainfo).await,
                (false, true) => self.unseed(&key).await,
                _ => {}
            }
            if self.0.stop.is_cancelled() {
                return;
            }
            left = left.saturating_sub(looked_at);
            if left == 0 {
                return;
            }
        }
        *start = 0;
    }

    /// Waits until the hub's tracker names us for what is seeded, or that takes too long.
    pub(super) async fn until_announced(&self) {
        let generation = *self.0.changed.borrow();
        let mut announced = self.0.announced.subscribe();
        let told = announced.wait_for(|told| *told >= generation);
        let _ = tokio::time::timeout(ANNOUNCED_WITHIN, told).await;
    }

    /// Gives a torrent to peers.
    pub(super) async fn seed(&self, key: &Key, metainfo: &Arc<Metainfo>) {
        let _one = self.0.seeding.lock().await;
        let info_hash = metainfo.hashes.primary();
        let parts = {
            let mut state = self.0.state();
            // Withdrawn meanwhile, it is gone.
            let Some(entry) = state.torrents.get(key) else { return };
            let parts = entry.parts.clone();
            if let Some(seed) = state.seeds.get_mut(&info_hash) {
                if !seed.keys.contains(key) {
                    seed.keys.push(key.clone());
                }
                return;
            }
            parts
        };
        let blobs = self.0.session.blobs().clone();
        let of_files = metainfo.clone();
        let files = tokio::task::spawn_blocking(move || sealed(&blobs, &of_files, &parts)).await;
        // A blob went just now.
        let Ok(Some(files)) = files else { return };
        let options = AddOptions { storage: StorageKind::Sealed(Arc::new(files)), ..AddOptions::default() };
        let source = Source::Metainfo(Box::new(Metainfo::clone(metainfo)));
        if key.reach == Reach::Closed {
            self.0.closed.insert(info_hash);
        }
        let added = self.0.session.add(source, options).await;
        if added.is_err() {
            self.0.closed.remove(info_hash);
        }
        let owner = match added {
            Ok(_) => Owner::We,
            // Somebody shares it here by its metainfo, and so with everybody.
            Err(AddError::Duplicate(_)) => Owner::Others,
            Err(error) => {
                tracing::warn!(%info_hash, %error, "peers are not given a repository's files");
                return;
            }
        };
        self.0.tracker.follow(info_hash);
        self.0.state().seeds.insert(info_hash, Seed { keys: vec![key.clone()], owner });
        self.0.changed.send_modify(|generation| *generation += 1);
    }

    /// Gives a torrent to peers no more, unless it is asked for in another way too.
    pub(super) async fn unseed(&self, key: &Key) {
        let _one = self.0.seeding.lock().await;
        let info_hash = {
            let mut state = self.0.state();
            let found = state.seeds.iter_mut().find(|(_, seed)| seed.keys.contains(key));
            let Some((&info_hash, seed)) = found else { return };
            seed.keys.retain(|other| other != key);
            if !seed.keys.is_empty() {
                return;
            }
            let removed = state.seeds.remove(&info_hash);
            self.0.tracker.unfollow(info_hash);
            let Some(Seed { owner: Owner::We, .. }) = removed else { return };
            if let Some(torrent) = self.0.session.torrent(info_hash) {
                state.uploaded_before += torrent.status().uploaded_bytes;
            }
            info_hash
        };
        self.0.session.remove(info_hash, RemovedData::Keep).await;
        self.0.closed.remove(info_hash);
        tracing::info!(%info_hash, "a repository's files are not given to peers any more");
        self.0.changed.send_modify(|generation| *generation += 1);
    }

    /// Drops a torrent that was taken out of the state already.
    pub(super) async fn forget(&self, key: &Key) {
        self.unseed(key).await;
        let (shelf, key) = (self.0.shelf.clone(), key.clone());
        // Left there, it is found again at the next start.
        let _ = tokio::task::spawn_blocking(move || shelf.forget(&key)).await;
    }

    /// Drops all torrents of a repository that are open, or closed.
    pub(super) async fn withdraw(&self, repo: &Repo, reach: Reach) {
        let keys = self.0.state().of_repo(repo, reach);
        for key in keys {
            self.0.state().torrents.remove(&key);
            self.forget(&key).await;
        }
    }

    /// Bytes that peers were given.
    pub(super) fn peer_bytes(&self) -> u64 {
        let (before, own): (u64, Vec<InfoHash>) = {
            let state = self.0.state();
            let own = state.seeds.iter().filter(|(_, seed)| seed.owner == Owner::We);
            (state.uploaded_before, own.map(|(&info_hash, _)| info_hash).collect())
        };
        let torrents = own.into_iter().filter_map(|info_hash| self.0.session.torrent(info_hash));
        torrents.fold(before, |sum, torrent| sum + torrent.status().uploaded_bytes)
    }
}

impl State {
    pub(super) fn is_seeded(&self, info_hash: InfoHash, key: &Key) -> bool {
        self.seeds.get(&info_hash).is_some_and(|seed| seed.keys.contains(key))
    }
}

/// The files of the blobs in the order of the torrent; `None` when one is missing. Blocks on the disk.
fn sealed(blobs: &Blobs, metainfo: &Arc<Metainfo>, parts: &[Part]) -> Option<SealedFiles> {
    let entries = metainfo.info.files.iter().filter(|entry| !entry.is_pad);
    let files = entries.map(|entry| {
        let part = match parts {
            [only] => only,
            // Both are sorted, but not alike.
            parts => {
                let path = entry.path.to_string();
                parts.get(parts.binary_search_by(|part| part.path.as_str().cmp(&path)).ok()?)?
            }
        };
        if part.bytes == 0 {
            return Some((PathBuf::new(), Stamp { inode: 0, bytes: 0, modified_s: 0, modified_ns: 0 }));
        }
        let path = blobs.get(part.id, part.bytes).path()?;
        let stamp = Stamp::of(&path.symlink_metadata().ok()?);
        Some((path, stamp))
    });
    let files: Vec<(PathBuf, Stamp)> = files.collect::<Option<_>>()?;
    SealedFiles::at(metainfo.clone(), files).ok()
}
