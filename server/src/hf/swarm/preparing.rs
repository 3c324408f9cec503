//! Making a torrent: fetching what is missing, gathering the hashes, keeping the result. One task each, a few at once, and
//! behind everything that anybody reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use wtfs_proto::hf::ContentId;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::hf::blobs::{BlobError, BlobOrigin, PieceHashes};

use super::super::nobody::Nobody;
use super::super::{HfMode, Refusal};
use super::made::{self, Key, Part, piece_bytes_of};
use super::{Entry, FAILED_FOR, PREPARING_MAX, Stage, State, Swarms, TORRENTS_MAX};

/// Torrents that are prepared at once.
pub(super) const AT_ONCE: usize = 2;

/// Blobs of one torrent that are fetched at once: small files cost a request each, and one connection rarely fills a link.
const BLOBS_AT_ONCE: usize = 4;

/// Why a torrent could not be made.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("it has {total_bytes} bytes, and the cache holds {limit_bytes}")]
    TooLarge { total_bytes: u64, limit_bytes: u64 },
    #[error("it has no content")]
    Empty,
    #[error("some of its content is known from repositories alone that not everybody may read")]
    Restricted,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Metainfo(#[from] wtfs_proto::metainfo::MetainfoError),
    #[error("the hub is shutting down")]
    Closed,
}

impl Swarms {
    /// Begins to prepare a torrent, unless that is being done, or came to nothing a moment ago.
    ///
    /// # Errors
    /// [`Refusal::Busy`].
    pub(super) fn prepare(&self, key: &Key, parts: impl FnOnce() -> Arc<[Part]>) -> Result<(), Refusal> {
        let mut forgotten = None;
        {
            let mut state = self.0.state();
            let now = Instant::now();
            match state.torrents.get(key).map(|entry| &entry.stage) {
                Some(Stage::Preparing | Stage::Made(_)) => return Ok(()),
                Some(Stage::Failed { at, .. }) if now.saturating_duration_since(*at) < FAILED_FOR => {
                    return Ok(());
                }
                Some(Stage::Failed { .. }) | None => {}
            }
            let preparing = state.torrents.values().filter(|entry| matches!(entry.stage, Stage::Preparing));
            if preparing.count() >= PREPARING_MAX {
                return Err(Refusal::Busy);
            }
            if state.torrents.len() >= TORRENTS_MAX && !state.torrents.contains_key(key) {
                let oldest = state.oldest().ok_or(Refusal::Busy)?;
                state.torrents.remove(&oldest);
                forgotten = Some(oldest);
            }
            let parts = parts();
            let total_bytes = parts.iter().map(|part| part.bytes).sum();
            state.uses += 1;
            let used = state.uses;
            state.torrents.insert(key.clone(), Entry { parts, total_bytes, stage: Stage::Preparing, used });
        }
        let (swarms, key) = (self.clone(), key.clone());
        self.0.tasks.spawn(async move {
            if let Some(forgotten) = forgotten {
                swarms.forget(&forgotten).await;
            }
            let stop = swarms.0.stop.clone();
            let made = tokio::select! {
                biased;
                () = stop.cancelled() => Err(PrepareError::Closed),
                made = swarms.make(&key) => made,
            };
            let stage = match made {
                Ok(metainfo) => {
                    // Before anybody is given it: who announces itself finds us then.
                    swarms.seed(&key, &metainfo).await;
                    swarms.until_announced().await;
                    tracing::info!(repo = %key.repo, commit = %key.commit, info_hash = %metainfo.hashes.primary(), "a torrent is ready");
                    Stage::Made(metainfo)
                }
                Err(error) => {
                    tracing::info!(repo = %key.repo, commit = %key.commit, %error, "no torrent can be made");
                    Stage::Failed { reason: error.to_string(), at: Instant::now() }
                }
            };
            if let Some(entry) = swarms.0.state().torrents.get_mut(&key) {
                entry.stage = stage;
            }
        });
        Ok(())
    }

    async fn make(&self, key: &Key) -> Result<Arc<Metainfo>, PrepareError> {
        let entry = self.0.state().torrents.get(key).cloned();
        let Entry { parts, total_bytes, .. } = entry.ok_or(PrepareError::Closed)?;
        if total_bytes == 0 {
            return Err(PrepareError::Empty);
        }
        if let Some(limit_bytes) =
            self.0.session.status().cache.limit_bytes.filter(|limit| *limit < total_bytes)
        {
            return Err(PrepareError::TooLarge { total_bytes, limit_bytes });
        }
        let _slot = self.0.slots.clone().acquire_owned().await.map_err(|_| PrepareError::Closed)?;
        let piece_bytes = piece_bytes_of(&parts);
        let mut distinct: HashMap<ContentId, Part> = HashMap::new();
        for part in parts.iter().filter(|part| part.bytes > 0) {
            distinct.entry(part.id).or_insert_with(|| part.clone());
        }
        let hashed = distinct.into_values().map(|part| {
            let (swarms, key) = (self.clone(), key.clone());
            async move { swarms.hashes(&key, &part, piece_bytes).await }
        });
        let mut hashed = stream::iter(hashed).buffer_unordered(BLOBS_AT_ONCE);
        let mut hashes: HashMap<ContentId, Arc<PieceHashes>> = HashMap::new();
        while let Some(one) = hashed.next().await {
            let (id, of_pieces) = one?;
            hashes.insert(id, of_pieces);
        }
        // Looked at last: what came by a closed repository was noted before it came.
        if hashes.keys().any(|id| self.0.proxy.0.provenance.is_closed(*id)) {
            return Err(PrepareError::Restricted);
        }
        let (shelf, key, parts) = (self.0.shelf.clone(), key.clone(), parts.clone());
        let made = tokio::task::spawn_blocking(move || {
            let metainfo = made::metainfo(&key, &parts, &hashes)?;
            if let Err(error) = shelf.keep(&key, &parts, &metainfo) {
                tracing::warn!(%error, "a torrent cannot be kept: after a restart it is made again");
            }
            Ok(Arc::new(metainfo))
        });
        made.await.unwrap_or(Err(PrepareError::Closed))
    }

    async fn hashes(
        &self,
        key: &Key,
        part: &Part,
        piece_bytes: u32,
    ) -> Result<(ContentId, Arc<PieceHashes>), PrepareError> {
        let proxy = &self.0.proxy;
        let blob = self.0.session.blobs().get(part.id, part.bytes);
        if !blob.is_whole() {
            let (repo, path) = (key.repo.clone(), part.path.clone());
            let origin: Arc<dyn BlobOrigin> = match proxy.0.config.mode {
                // As nobody in particular: only what everybody may read gets here.
                HfMode::Online => Arc::new(proxy.upstream().file(repo, key.commit, path, part.bytes, None)),
                HfMode::Offline => Arc::new(Nobody),
            };
            blob.want_hashes(piece_bytes);
            blob.fetch_all(&origin);
            blob.whole().await?;
        }
        Ok((part.id, blob.piece_hashes(piece_bytes).await?))
    }

    /// Prepares the torrents of revisions that came to be here file by file.
    pub(super) async fn look_at_sightings(&self) {
        for (repo, tree) in self.0.proxy.0.sightings.all() {
            let key = Key { repo, commit: tree.commit, path: None };
            if self.0.state().torrents.contains_key(&key) || tree.total_bytes() == 0 {
                continue;
            }
            let parts = made::parts(&tree);
            if self.are_here(parts.clone()).await && self.prepare(&key, || parts).is_err() {
                return;
            }
        }
    }
}

impl State {
    /// The torrent that was asked for longest ago and is not being prepared.
    fn oldest(&self) -> Option<Key> {
        let settled = self.torrents.iter().filter(|(_, entry)| !matches!(entry.stage, Stage::Preparing));
        settled.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
    }
}
