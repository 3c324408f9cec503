//! Making a torrent: fetching what is missing, gathering the hashes, keeping the result. One task each, a few at once, and
//! behind everything that anybody reads.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use wtfs_proto::hf::ContentId;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::hf::Token;
use wtfs_torrent::hf::blobs::{BlobError, BlobOrigin, PieceHashes};

use super::super::nobody::Nobody;
use super::super::refusal::Asker;
use super::super::{HfMode, Refusal, Snapshot};
use super::made::{self, Key, Part, Reach, piece_bytes_of};
use super::{Entry, FAILED_FOR, PREPARING_MAX, Stage, State, Swarms, TORRENTS_MAX};

/// Torrents that are prepared at once, and those of them that one client wished for: another finds a place.
pub(super) const AT_ONCE: usize = 3;
pub(super) const AT_ONCE_OF_ONE: usize = 2;

/// The part of the proxy's patience for which who asks for a torrent of what is here is kept waiting for it: a second of
/// eight, by default.
const SETTLED_WITHIN: u32 = 8;

/// Torrents of one client's that are prepared or wait to be.
const OF_ONE_MAX: usize = 16;

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
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Metainfo(#[from] wtfs_proto::metainfo::MetainfoError),
    #[error("the hub is shutting down")]
    Closed,
}

/// In whose name a torrent is prepared.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The network of the client that asks; `None` is the hub itself.
    pub(super) client: Option<IpAddr>,
    /// By what right; `None` for what everybody could read when it came.
    pub(super) grant: Option<Grant>,
}

/// A right to a revision's content, as upstream gave it.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) snapshot: Snapshot,
    pub(super) token: Option<Token>,
    pub(super) asker: Asker,
}

impl Swarms {
    /// Begins to prepare a torrent, unless that is being done, or came to nothing a moment ago.
    ///
    /// # Errors
    /// [`Refusal::Preparing`] when too many are under way, of this client's or at all.
    pub(super) fn prepare(
        &self,
        key: &Key,
        order: Order,
        parts: impl FnOnce() -> Arc<[Part]>,
    ) -> Result<(), Refusal> {
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
            let (mut all, mut of_client) = (0, 0);
            for entry in preparing {
                all += 1;
                of_client += usize::from(order.client.is_some() && entry.client == order.client);
            }
            if of_client >= OF_ONE_MAX || all >= PREPARING_MAX {
                return Err(Refusal::Preparing { of_client });
            }
            if state.torrents.len() >= TORRENTS_MAX && !state.torrents.contains_key(key) {
                let oldest = state.oldest().ok_or(Refusal::Preparing { of_client })?;
                state.torrents.remove(&oldest);
                forgotten = Some(oldest);
            }
            let parts = parts();
            let total_bytes = made::total_bytes(&parts);
            state.uses += 1;
            let used = state.uses;
            let client = order.client;
            let entry = Entry { parts, total_bytes, stage: Stage::Preparing, used, client };
            state.torrents.insert(key.clone(), entry);
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
                made = swarms.make(&key, &order) => made,
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
            let is_wanted =
                swarms.0.state().torrents.get_mut(&key).map(|entry| entry.stage = stage).is_some();
            swarms.0.settled.notify_waiters();
            if !is_wanted {
                // Withdrawn meanwhile, and kept on the disk after that.
                swarms.forget(&key).await;
            }
        });
        Ok(())
    }

    /// Waits for the torrent of what is here already, for a moment, which is all that it takes: who is told that there is
    /// none yet comes again much later, and is sent by HTTP meanwhile what peers would give him.
    pub(super) async fn until_settled(&self, key: &Key) {
        let preparing = || {
            let state = self.0.state();
            let entry = state.torrents.get(key).filter(|entry| matches!(entry.stage, Stage::Preparing));
            entry.map(|entry| entry.parts.clone())
        };
        let Some(parts) = preparing() else { return };
        if !self.are_here(parts).await {
            return;
        }
        let settled = async {
            loop {
                let mut told = pin!(self.0.settled.notified());
                told.as_mut().enable();
                if preparing().is_none() {
                    return;
                }
                told.await;
            }
        };
        let patience = self.0.proxy.0.config.patience;
        let _late = tokio::time::timeout(patience / SETTLED_WITHIN, settled).await;
    }

    async fn make(&self, key: &Key, order: &Order) -> Result<Arc<Metainfo>, PrepareError> {
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
        let _turn = match order.client {
            Some(client) => {
                let turn = self.0.of_one.take(client, Duration::MAX).await;
                Some(turn.ok_or(PrepareError::Closed)?)
            }
            None => None,
        };
        let _slot = self.0.slots.clone().acquire_owned().await.map_err(|_| PrepareError::Closed)?;
        let piece_bytes = piece_bytes_of(&parts);
        let mut distinct: HashMap<ContentId, Part> = HashMap::new();
        for part in parts.iter().filter(|part| part.bytes > 0) {
            distinct.entry(part.id).or_insert_with(|| part.clone());
        }
        let hashed = distinct
            .into_values()
            .map(|part| async move { self.hashes(key, &part, piece_bytes, order.grant.as_ref()).await });
        let mut hashed = stream::iter(hashed).buffer_unordered(BLOBS_AT_ONCE);
        let mut hashes: HashMap<ContentId, Arc<PieceHashes>> = HashMap::new();
        while let Some(one) = hashed.next().await {
            let (id, of_pieces) = one?;
            hashes.insert(id, of_pieces);
        }
        // Looked at last: what came by a closed repository was noted before it came.
        let is_closed = |id: &ContentId| self.0.proxy.0.provenance.is_closed(*id);
        if key.reach == Reach::Open && hashes.keys().any(is_closed) {
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
        grant: Option<&Grant>,
    ) -> Result<(ContentId, Arc<PieceHashes>), PrepareError> {
        let proxy = &self.0.proxy;
        let blob = self.0.session.blobs().get(part.id, part.bytes);
        // Also what is here already: it may be somebody else's, whose hash this repository only names.
        self.vouch(part, grant).await?;
        if !blob.is_whole() {
            let (repo, path) = (key.repo.clone(), part.path.clone());
            let origin: Arc<dyn BlobOrigin> = match proxy.0.config.mode {
                // As nobody in particular, unless somebody was let in.
                HfMode::Online => {
                    let token = grant.and_then(|grant| grant.token.clone());
                    Arc::new(proxy.upstream().file(repo, key.commit, path, part.bytes, token))
                }
                HfMode::Offline => Arc::new(Nobody),
            };
            blob.want_hashes(piece_bytes);
            blob.fetch_all(&origin);
            blob.whole().await?;
            self.vouch(part, grant).await?;
        }
        Ok((part.id, blob.piece_hashes(piece_bytes).await?))
    }

    /// Makes sure that upstream gives a file to who asks: to everybody what everybody may read.
    async fn vouch(&self, part: &Part, grant: Option<&Grant>) -> Result<(), PrepareError> {
        let Some(Grant { snapshot, token, asker }) = grant else { return Ok(()) };
        let file = snapshot.tree.find(part.path.as_str()).ok_or(PrepareError::Restricted)?;
        let vouched = self.0.proxy.vouch(snapshot, file, token.as_ref(), *asker).await;
        vouched.map_err(|refusal| PrepareError::Refused(refusal.message()))
    }

    /// Prepares the torrents of revisions that came to be here file by file.
    pub(super) async fn look_at_sightings(&self) {
        for (repo, tree) in self.0.proxy.0.sightings.all() {
            let key = Key { repo, commit: tree.commit, path: None, reach: Reach::Open };
            if self.0.state().torrents.contains_key(&key) || tree.total_bytes() == 0 {
                continue;
            }
            let parts = made::parts(&tree);
            if self.are_here(parts.clone()).await && self.prepare(&key, Order::default(), || parts).is_err() {
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
