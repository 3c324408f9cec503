//! From what a torrent was added with to its content: the metadata of a magnet, the check of old data, the store.
//!
//! Owns what is known before the content is there. Invariant: the content is set at most once, and only from a
//! metainfo whose hash is the torrent's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::id::{InfoHash, InfoHashes};
use wtfs_proto::magnet::{Magnet, PeerAddr};
use wtfs_proto::metainfo::Metainfo;
use wtfs_proto::swarm::picker::SourceId;
use wtfs_proto::time::Moment;
use wtfs_proto::wire::metadata::{MetadataAssembler, MetadataError, Progress};

use super::web_seeds::WebSeeds;
use super::{Channels, Event};
use crate::budget::Budget;
use crate::budget::ledger::Ledger;
use crate::budget::pins::Pins;
use crate::error::AddError;
use crate::http::HttpClient;
use crate::present::PresentMap;
use crate::resolve::{ResolveError, Source, fetch_metadata_http};
use crate::session::{AddOptions, Engine, ExistingData, StorageKind, data_dir};
use crate::status::Phase;
use crate::store::{
    DataOwner, FileStore, FileStoreConfig, MemoryStore, PieceStore, SealedStore, StateDir, StoreError,
};
use crate::torrent::{Content, Shared};
use crate::verify::check_data;

/// Requests for metadata on their way to one peer: 64 KiB, so that a large torrent's does not take a round trip a piece.
const METADATA_PIPELINE: usize = 4;

/// A peer that sends nothing of the metadata for this long gives up its place.
const METADATA_TIMEOUT: Moment = Moment::from_secs(8);

/// The first wait before URLs that gave no metadata are asked again, and the longest.
const METADATA_RETRY: Duration = Duration::from_secs(1);
const MOST_METADATA_RETRY: Duration = Duration::from_secs(60);

/// Peers named by the magnet that are looked up.
const MAX_LOOKUPS: usize = 32;

/// Where a torrent is kept.
#[derive(Debug, Clone)]
pub(super) struct Place {
    storage: StorageKind,
    existing: ExistingData,
    cache_dir: PathBuf,
    info_hash: InfoHash,
    budget: Arc<Budget>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Opening {
    place: Place,
    magnet: Option<Box<Magnet>>,
    /// The metainfo whose data is still to be opened in the background.
    pending: Option<Arc<Metainfo>>,
    trackers: Vec<Vec<String>>,
    assembler: Option<MetadataAssembler<SourceId>>,
    asked: HashMap<SourceId, Asked>,
}

#[derive(Debug)]
struct Asked {
    pieces: usize,
    at: Moment,
}

impl Opening {
    /// Opens what can be opened at once: everything, unless the metadata is missing or old data is to be hashed first.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        engine: &Arc<Engine>,
        source: Source,
        options: AddOptions,
    ) -> Result<Self, AddError> {
        let place = Place {
            storage: options.storage,
            existing: options.existing,
            cache_dir: engine.config.cache_dir.clone(),
            info_hash: shared.info_hash(),
            budget: engine.budget.clone(),
        };
        let (magnet, metainfo) = match source {
            Source::Metainfo(metainfo) => (None, Some(*metainfo)),
            Source::Magnet(magnet) => {
                // An earlier run may have fetched the metadata.
                let (dir, hashes) = (place.state_dir(), magnet.hashes);
                let saved =
                    engine.disk.run(move || dir.load_metainfo()).await.map_err(|_| AddError::Closed)?;
                let saved = saved.unwrap_or_else(|error| {
                    tracing::warn!(%error, "saved metadata is fetched anew");
                    None
                });
                (Some(magnet), saved.filter(|saved| hashes.matches(&saved.info_bytes)))
            }
        };
        let trackers = match (&magnet, &metainfo) {
            (Some(magnet), _) => magnet.trackers.iter().map(|url| vec![url.clone()]).collect(),
            (None, Some(metainfo)) => metainfo.announce.clone(),
            (None, None) => Vec::new(),
        };
        let assembler = metainfo.is_none().then(|| MetadataAssembler::new(shared.hashes));
        let mut opening = Self { place, magnet, pending: None, trackers, assembler, asked: HashMap::new() };
        if let Some(metainfo) = metainfo {
            let metainfo = Arc::new(metainfo);
            if opening.place.existing == ExistingData::Verify {
                opening.pending = Some(metainfo);
            } else {
                let (place, progress) = (opening.place.clone(), shared.clone());
                let opened = engine.disk.run(move || open(&place, &metainfo, &progress)).await;
                shared.set_content(opened.map_err(|_| AddError::Closed)??);
            }
        }
        Ok(opening)
    }

    /// Starts what goes on in the background: the check of old data, or the search for metadata by HTTP.
    pub(super) fn spawn_jobs(&mut self, shared: &Arc<Shared>, engine: &Arc<Engine>, channels: &Channels) {
        let events = &channels.events;
        if let Some(metainfo) = self.pending.take() {
            self.spawn_open(metainfo, shared, engine, events);
            return;
        }
        let Some(magnet) = &self.magnet else { return };
        if engine.is_offline() {
            let message =
                "the torrent's metadata is not on this machine, and the session is offline".to_owned();
            shared.phase.send_replace(Phase::Failed { message });
            return;
        }
        let urls: Vec<String> =
            magnet.exact_sources.iter().chain(&magnet.acceptable_sources).cloned().collect();
        if urls.is_empty() {
            return;
        }
        let (http, hashes, shared) = (engine.http.clone(), magnet.hashes, shared.clone());
        let (events, cancel) = (events.clone(), channels.cancel.clone());
        engine.tasks.spawn(async move {
            let fetched = tokio::select! {
                () = cancel.cancelled() => return,
                fetched = fetch_metadata(&http, &urls, &hashes, &shared) => fetched,
            };
            if let Some(metainfo) = fetched {
                // Fails only when the torrent is gone.
                let _gone = events.send(Event::Metainfo(Box::new(metainfo))).await;
            }
        });
    }

    /// The web seeds of a torrent: those of its metainfo, and of the magnet it came from.
    pub(super) fn web_seeds(&self, metainfo: &Metainfo) -> WebSeeds {
        let Some(magnet) = &self.magnet else { return WebSeeds::new(metainfo, &[], &[]) };
        let named: Vec<String> =
            magnet.exact_sources.iter().chain(&magnet.acceptable_sources).cloned().collect();
        WebSeeds::new(metainfo, &magnet.web_seeds, &named)
    }

    /// Looks up the names among the magnet's peers.
    pub(super) fn look_up_peers(&self, engine: &Arc<Engine>, events: &mpsc::Sender<Event>) {
        if engine.is_offline() {
            return;
        }
        let named = self.magnet_peers().filter(|peer| peer.socket_addr().is_none()).take(MAX_LOOKUPS);
        for PeerAddr { host, port } in named.cloned() {
            let (events, cancel) = (events.clone(), engine.cancel.clone());
            engine.tasks.spawn(async move {
                let found = tokio::select! {
                    () = cancel.cancelled() => return,
                    found = tokio::net::lookup_host((host.as_str(), port)) => found,
                };
                match found {
                    Ok(addrs) => {
                        // Fails only when the torrent is gone.
                        let _gone = events.send(Event::Addresses(addrs.collect())).await;
                    }
                    Err(error) => tracing::warn!(host, %error, "a peer's name cannot be looked up"),
                }
            });
        }
    }

    fn magnet_peers(&self) -> impl Iterator<Item = &PeerAddr> {
        self.magnet.iter().flat_map(|magnet| &magnet.peers)
    }

    /// Peers of the magnet that are named by address.
    pub(super) fn peers(&self) -> Vec<SocketAddr> {
        self.magnet_peers().filter_map(PeerAddr::socket_addr).collect()
    }

    /// The torrent's own trackers, tier by tier.
    pub(super) fn trackers(&self) -> Vec<Vec<String>> {
        self.trackers.clone()
    }

    /// A peer says that it has the metadata.
    pub(super) fn add_metadata_source(&mut self, id: SourceId, size: u64) {
        if let Some(assembler) = &mut self.assembler
            && let Err(error) = assembler.add_source(id, size)
        {
            tracing::debug!(%error, "a peer's metadata is not wanted");
        }
    }

    pub(super) fn remove_metadata_source(&mut self, id: SourceId) {
        self.asked.remove(&id);
        if let Some(assembler) = &mut self.assembler {
            assembler.remove_source(id);
        }
    }

    /// Pieces of the metadata to ask a peer for now.
    pub(super) fn metadata_requests(&mut self, id: SourceId, now: Moment) -> Vec<u32> {
        let Some(assembler) = &mut self.assembler else { return Vec::new() };
        let asked = self.asked.entry(id).or_insert(Asked { pieces: 0, at: now });
        let mut pieces = Vec::new();
        while asked.pieces < METADATA_PIPELINE
            && let Some(piece) = assembler.next_request(id)
        {
            asked.pieces += 1;
            asked.at = now;
            pieces.push(piece);
        }
        pieces
    }

    /// A piece of the metadata came.
    pub(super) fn handle_metadata(
        &mut self,
        id: SourceId,
        piece: u32,
        total_size: u64,
        data: Bytes,
    ) -> Result<Progress, MetadataError> {
        let Some(assembler) = &mut self.assembler else { return Ok(Progress::Unasked) };
        let progress = assembler.handle_data(id, piece, total_size, data)?;
        if progress == Progress::Kept
            && let Some(asked) = self.asked.get_mut(&id)
        {
            asked.pieces = asked.pieces.saturating_sub(1);
        }
        Ok(progress)
    }

    /// A peer will not give the metadata now.
    pub(super) fn rest_metadata(&mut self, id: SourceId) {
        self.asked.remove(&id);
        if let Some(assembler) = &mut self.assembler {
            assembler.rest(id);
        }
    }

    /// Lets peers rest that were asked and do not answer, and asks those again that have rested.
    pub(super) fn handle_metadata_tick(&mut self, now: Moment) -> IsAskingDue {
        let Some(assembler) = &mut self.assembler else { return IsAskingDue::No };
        assembler.retry_rested();
        let late: Vec<SourceId> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.pieces > 0 && now.saturating_sub(asked.at) > METADATA_TIMEOUT)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.asked.remove(&id);
            assembler.rest(id);
        }
        IsAskingDue::Yes
    }

    /// The `info` dictionary came from a peer; its hash is right.
    pub(super) fn handle_info(
        &mut self,
        info: Bytes,
        shared: &Arc<Shared>,
        engine: &Arc<Engine>,
        events: &mpsc::Sender<Event>,
    ) {
        let web_seeds = self.magnet.as_ref().map(|magnet| magnet.web_seeds.clone()).unwrap_or_default();
        match Metainfo::from_info(info, self.trackers.clone(), web_seeds) {
            Ok(metainfo) => self.handle_metainfo(metainfo, shared, engine, events),
            Err(error) => {
                tracing::error!(%error, "the metadata cannot be used");
                self.assembler = None;
                let message = format!("the torrent cannot be used: {error}");
                shared.phase.send_replace(Phase::Failed { message });
            }
        }
    }

    /// The metainfo is known. Later ones are ignored.
    pub(super) fn handle_metainfo(
        &mut self,
        metainfo: Metainfo,
        shared: &Arc<Shared>,
        engine: &Arc<Engine>,
        events: &mpsc::Sender<Event>,
    ) {
        if self.assembler.take().is_some() {
            self.spawn_open(Arc::new(metainfo), shared, engine, events);
        }
    }

    fn spawn_open(
        &self,
        metainfo: Arc<Metainfo>,
        shared: &Arc<Shared>,
        engine: &Arc<Engine>,
        events: &mpsc::Sender<Event>,
    ) {
        let (place, shared, disk, events) =
            (self.place.clone(), shared.clone(), engine.disk.clone(), events.clone());
        engine.tasks.spawn(async move {
            if let Ok(opened) = disk.run(move || open(&place, &metainfo, &shared)).await {
                // Fails only when the torrent is gone.
                let _gone = events.send(Event::Opened(opened)).await;
            }
        });
    }
}

/// Asks the URLs until one gives the metadata, or until it has come from elsewhere: a hub that is being restarted must
/// not leave a magnet without peers waiting for ever. `None` if it is of no use to go on.
async fn fetch_metadata(
    http: &HttpClient,
    urls: &[String],
    hashes: &InfoHashes,
    shared: &Shared,
) -> Option<Metainfo> {
    let mut pause = METADATA_RETRY;
    while shared.content().is_none() {
        match fetch_metadata_http(http, urls, hashes).await {
            Ok(metainfo) => return Some(metainfo),
            Err(ResolveError::NoMetadataUrl) => return None,
            Err(error) => tracing::info!(%error, "no metadata over HTTP for now; peers are asked too"),
        }
        let jitter = Duration::from_millis(fastrand::u64(..1000));
        tokio::time::sleep(pause + jitter).await;
        pause = (pause * 2).min(MOST_METADATA_RETRY);
    }
    None
}

/// Whether peers are to be asked for metadata again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsAskingDue {
    Yes,
    No,
}

impl Place {
    /// Data in a directory of the user's has a state directory of its own: the same torrent may be in the cache too.
    fn state_dir(&self) -> StateDir {
        match &self.storage {
            StorageKind::Cache | StorageKind::Memory | StorageKind::Sealed(_) => {
                StateDir::in_cache(&self.cache_dir, self.info_hash)
            }
            StorageKind::Directory(dir) => {
                let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
                let digest: [u8; 32] = Sha256::digest(dir.as_os_str().as_encoded_bytes()).into();
                let tag: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                StateDir::new(self.cache_dir.join("elsewhere").join(format!("{}-{tag}", self.info_hash)))
            }
        }
    }

    fn owner(&self) -> DataOwner {
        match &self.storage {
            StorageKind::Directory(_) => DataOwner::User,
            StorageKind::Cache | StorageKind::Memory | StorageKind::Sealed(_) => DataOwner::Store,
        }
    }

    fn data_dir(&self) -> PathBuf {
        match &self.storage {
            StorageKind::Directory(dir) => dir.clone(),
            StorageKind::Cache | StorageKind::Memory | StorageKind::Sealed(_) => {
                data_dir(&self.cache_dir, self.info_hash)
            }
        }
    }
}

/// Opens the store, hashing what is there already if that was asked for. Blocking; runs on the disk pool.
fn open(place: &Place, metainfo: &Arc<Metainfo>, shared: &Shared) -> Result<Arc<Content>, StoreError> {
    let (store, present): (Arc<dyn PieceStore>, _) = match &place.storage {
        StorageKind::Memory => {
            let nothing = Bitfield::new(metainfo.info.geometry.piece_count());
            (Arc::new(MemoryStore::new(metainfo.clone())), nothing)
        }
        StorageKind::Sealed(files) => {
            let all = Bitfield::full(metainfo.info.geometry.piece_count());
            (Arc::new(SealedStore::new(files.clone())), all)
        }
        StorageKind::Cache | StorageKind::Directory(_) => {
            let state = place.state_dir();
            let config = FileStoreConfig {
                data_dir: place.data_dir(),
                state_dir: state.path().to_path_buf(),
                owner: place.owner(),
            };
            if matches!(place.storage, StorageKind::Cache) {
                place.budget.dormant.wake(place.info_hash);
            }
            let (store, mut present) = FileStore::open(config, metainfo.clone())?;
            if let Err(error) = state.save_metainfo(metainfo) {
                // Only a magnet link would have to fetch it again; a full disk must not keep the torrent from opening.
                tracing::warn!(%error, "the torrent's metadata is not kept");
            }
            if place.existing == ExistingData::Verify {
                let progress = |done_bytes, total_bytes| {
                    shared.phase.send_replace(Phase::Checking { done_bytes, total_bytes });
                };
                // Ends with the process: nothing is half done that a later run would not do again.
                let never = AtomicBool::new(false);
                present = check_data(metainfo, &place.data_dir(), &progress, &never)?.present;
                store.adopt(&present);
            }
            (Arc::new(store), present)
        }
    };
    let present = PresentMap::new(&present);
    let (budget, state) = match &place.storage {
        StorageKind::Cache => (Some(place.budget.clone()), Some(place.state_dir())),
        StorageKind::Directory(_) => (None, Some(place.state_dir())),
        StorageKind::Memory | StorageKind::Sealed(_) => (None, None),
    };
    let geometry = &metainfo.info.geometry;
    let (ledger, pins) = (Ledger::new(budget, geometry, &present), Pins::load(state, geometry));
    let total_bytes = metainfo.info.display_total();
    let content = Content { metainfo: metainfo.clone(), store, present, total_bytes, ledger, pins };
    content.restore_recency();
    Ok(Arc::new(content))
}
