//! A torrent of a session: the handle users hold, and what its task, its peers and its readers share.
//!
//! The task (`swarm_task`) owns everything that changes by decision; shared here is only what must be read without
//! asking it: the metainfo and the store once they are known, which pieces are present, counters, the last status.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use wtfs_proto::geometry::{FileIndex, Geometry, PieceIndex};
use wtfs_proto::id::{InfoHash, InfoHashes};
use wtfs_proto::metainfo::Metainfo;
use wtfs_proto::swarm::DemandId;
use wtfs_proto::wire::handshake::Handshake;

#[cfg(feature = "webrtc")]
use crate::acquaintances::Acquaintances;
use crate::budget::ledger::Ledger;
use crate::budget::pins::{Pinned, Pins};
use crate::error::{OpenError, PinError};
use crate::hf::blobs::{Blob, Keeper};
use crate::holds::{FileHold, Holds};
use crate::local;
use crate::prefetch::{self, Prefetch, UnderWay};
use crate::present::PresentMap;
use crate::reader::FileReader;
use crate::session::Engine;
use crate::status::{
    BansStatus, Counters, KeptStatus, Phase, PinStatus, PrefetchStatus, ServersStatus, TorrentStatus,
    WaitStatus,
};
use crate::store::{PieceStore, StoreError};
use crate::swarm_task::DemandReply;
use crate::tracker::announcer::AnnouncerHandle;
use crate::transport::Connection;

/// Commands a torrent's task can be behind with; readers wait when it is full.
pub(crate) const COMMAND_QUEUE: usize = 1024;

/// Pinned files named in the status: it is asked for often, and there may be 60,000.
const MAX_PINS_SHOWN: usize = 100;

/// How often space is made for a list of pins that does not fit on the disk.
const PIN_ATTEMPTS: usize = 4;

/// How much: the list of a torrent with many files, twice.
const PIN_RELIEF_BYTES: u64 = 1 << 20;

/// What a torrent has once its metainfo is known and its store is open.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) metainfo: Arc<Metainfo>,
    pub(crate) store: Arc<dyn PieceStore>,
    pub(crate) present: PresentMap,
    /// Bytes of all files that are shown; summed once, because a torrent may have 60,000 files.
    pub(crate) total_bytes: u64,
    pub(crate) ledger: Ledger,
    pub(crate) pins: Pins,
}

impl Content {
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.metainfo.info.geometry
    }
}

/// What a torrent's task is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// A read waits for these addresses of the torrent, which lie in these pieces.
    Demand { id: DemandId, pieces: Range<u32>, addresses: Range<u64>, reply: DemandReply },
    /// A demand or read-ahead is no longer wanted.
    Withdraw(DemandId),
    /// Replaces what an open file reads ahead.
    ReadAhead { id: DemandId, ranges: Vec<Range<u32>> },
    /// A person wants these pieces here; replaces nothing.
    Prefetch { id: DemandId, pieces: Range<u32> },
    /// The disk budget wants these pieces gone. Answered with the bytes freed; dropped when none can go.
    Evict { pieces: Vec<PieceIndex>, reply: oneshot::Sender<u64> },
    /// Addresses given by the user.
    AddPeers(Vec<std::net::SocketAddr>),
    /// Trackers given by the user.
    AddTrackers(Vec<String>),
    /// Fetch everything, rarest first.
    FillAll,
    /// A peer connected to us and shook hands.
    Incoming(Box<(Connection, Handshake)>),
    /// Stop: tell trackers, close peers, write the record. Answered when done.
    Stop(oneshot::Sender<()>),
}

/// What all holders of a torrent share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hashes: InfoHashes,
    /// What it is called before its files can be opened: by its metainfo, or by the magnet link.
    pub(crate) early_name: Option<String>,
    content: OnceLock<Arc<Content>>,
    /// Asked for the trackers' states; the torrent's task has it too, and stops it.
    announcer: OnceLock<Arc<AnnouncerHandle>>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) counters: Counters,
    pub(crate) commands: mpsc::Sender<Command>,
    status: Mutex<Option<Arc<TorrentStatus>>>,
    holds: Arc<Holds>,
    /// What else keeps the bytes of its first file.
    copied_to: OnceLock<Keeper>,
    pub(crate) prefetches: UnderWay,
    #[cfg(feature = "webrtc")]
    pub(crate) acquaintances: Acquaintances,
}

impl Shared {
    pub(crate) fn new(
        hashes: InfoHashes,
        early_name: Option<String>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            hashes,
            early_name,
            content: OnceLock::new(),
            announcer: OnceLock::new(),
            phase: watch::Sender::new(Phase::Metadata),
            counters: Counters::default(),
            commands,
            status: Mutex::new(None),
            holds: Arc::default(),
            copied_to: OnceLock::new(),
            prefetches: UnderWay::default(),
            #[cfg(feature = "webrtc")]
            acquaintances: Acquaintances::default(),
        }
    }

    /// Keeps a file's data on disk as it is until the result is dropped; see [`Holds`] for the order to keep.
    pub(crate) fn hold_file(&self, file: FileIndex) -> FileHold {
        self.holds.hold(file)
    }

    /// Bytes from its start that are kept somewhere else too, in order and apart.
    pub(crate) fn copied(&self) -> Vec<Range<u64>> {
        self.copied_to.get().map_or_else(Vec::new, Keeper::ranges)
    }

    /// All files whose data must stay on disk as it is.
    pub(crate) fn held_files(&self) -> Vec<FileIndex> {
        self.holds.files()
    }

    /// Whether a file's data must stay on disk as it is.
    pub(crate) fn is_held(&self, file: FileIndex) -> bool {
        self.holds.is_held(file)
    }

    pub(crate) fn content(&self) -> Option<&Arc<Content>> {
        self.content.get()
    }

    /// Publishes the content; only the first call counts.
    pub(crate) fn set_content(&self, content: Arc<Content>) {
        if self.content.set(content).is_err() {
            tracing::error!("a torrent's content was set twice");
        }
    }

    /// Publishes the announcer; only the first call counts.
    pub(crate) fn set_announcer(&self, announcer: Arc<AnnouncerHandle>) {
        if self.announcer.set(announcer).is_err() {
            tracing::error!("a torrent's announcer was set twice");
        }
    }

    pub(crate) fn info_hash(&self) -> InfoHash {
        self.hashes.primary()
    }

    pub(crate) fn name(&self) -> String {
        match (self.content(), &self.early_name) {
            (Some(content), _) => content.metainfo.info.name.clone(),
            (None, Some(name)) => name.clone(),
            (None, None) => self.info_hash().to_string(),
        }
    }

    pub(crate) fn publish(&self, status: TorrentStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(status));
    }

    /// The last published status with the counters of this moment.
    pub(crate) fn status(&self) -> TorrentStatus {
        let published = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut status = published.map_or_else(|| self.blank_status(), |s| TorrentStatus::clone(&s));
        status.name = self.name();
        status.phase = self.phase.borrow().clone();
        status.servers.trackers =
            self.announcer.get().map(|announcer| announcer.status()).unwrap_or_default();
        if let Some(content) = self.content() {
            status.total_bytes = content.total_bytes;
            status.piece_bytes = content.geometry().piece_bytes();
            status.pieces = content.geometry().piece_count();
            status.pieces_present = content.present.count();
            status.kept = self.kept(content);
        }
        status.downloaded_bytes = self.counters.downloaded.total();
        status.uploaded_bytes = self.counters.uploaded.total();
        status.wasted_bytes = self.counters.wasted.total();
        status.failed_pieces = self.counters.failed_pieces.total();
        status.waits.failed_reads = self.counters.failed_reads.total();
        status
    }

    /// What somebody asked to be kept or fetched.
    fn kept(&self, content: &Content) -> KeptStatus {
        let path = |file: FileIndex| match content.metainfo.info.files.get(file.get() as usize) {
            Some(entry) => entry.path.to_string(),
            None => String::new(),
        };
        let (geometry, pinned) = (content.geometry(), content.pins.files());
        let pin = |file: &FileIndex| PinStatus {
            path: path(*file),
            bytes: geometry.file_len(*file),
            local_bytes: local::bytes(geometry, &content.present, *file),
        };
        let prefetches = self.prefetches.all().into_iter();
        KeptStatus {
            pinned_files: pinned.len(),
            pinned_bytes: pinned.iter().map(|file| geometry.file_len(*file)).sum(),
            pins: pinned.iter().take(MAX_PINS_SHOWN).map(pin).collect(),
            prefetches: prefetches
                .map(|(file, progress)| PrefetchStatus { path: path(file), progress })
                .collect(),
        }
    }

    pub(crate) fn blank_status(&self) -> TorrentStatus {
        TorrentStatus {
            info_hash: self.info_hash().to_string(),
            name: self.name(),
            phase: Phase::Metadata,
            total_bytes: 0,
            piece_bytes: 0,
            pieces: 0,
            pieces_present: 0,
            downloaded_bytes: 0,
            uploaded_bytes: 0,
            wasted_bytes: 0,
            failed_pieces: 0,
            download_rate: 0,
            upload_rate: 0,
            waits: WaitStatus::default(),
            kept: KeptStatus::default(),
            in_flight_bytes: 0,
            sources: Vec::new(),
            peers: Vec::new(),
            bans: BansStatus::default(),
            servers: ServersStatus::default(),
        }
    }
}

/// A torrent of a session. Clones are the same torrent; dropping them all does not remove it.
#[derive(Debug, Clone)]
pub struct Torrent {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Arc<Engine>,
}

impl Torrent {
    /// What names its swarm: the v1 info hash, or the truncated v2 one.
    pub fn info_hash(&self) -> InfoHash {
        self.shared.info_hash()
    }

    /// All its info hashes.
    pub fn hashes(&self) -> InfoHashes {
        self.shared.hashes
    }

    /// Its name; while the metadata is missing the magnet's display name or the info hash.
    pub fn name(&self) -> String {
        self.shared.name()
    }

    /// The metainfo, once it is known and files can be opened. Never waits.
    pub fn metainfo(&self) -> Option<Arc<Metainfo>> {
        self.shared.content().map(|content| content.metainfo.clone())
    }

    /// Says that `blob` is filled from the torrent's first file: where the cache needs room, pieces of which the blob has
    /// the bytes go before all else. Said once.
    pub fn is_copied_to(&self, blob: &Blob) {
        let _first = self.shared.copied_to.set(blob.keeper());
    }

    /// Where it stands. Never waits.
    pub fn phase(&self) -> Phase {
        self.shared.phase.borrow().clone()
    }

    /// Tells each change of [`Self::phase`].
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Waits until files can be opened.
    ///
    /// # Errors
    /// When the torrent failed or was removed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_metainfo(&self) -> Result<Arc<Metainfo>, OpenError> {
        let mut phase = self.shared.phase.subscribe();
        loop {
            if let Some(metainfo) = self.metainfo() {
                return Ok(metainfo);
            }
            if let Phase::Failed { message } = &*phase.borrow_and_update() {
                return Err(OpenError::Failed(message.clone()));
            }
            tokio::select! {
                changed = phase.changed() => changed.map_err(|_| OpenError::Closed)?,
                () = self.engine.cancel.cancelled() => return Err(OpenError::Closed),
            }
        }
    }

    /// Waits until every piece is present.
    ///
    /// # Errors
    /// When the torrent failed or was removed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_complete(&self) -> Result<(), OpenError> {
        self.wait_metainfo().await?;
        let mut complete = self.shared.phase.subscribe();
        loop {
            if self.is_complete() {
                return Ok(());
            }
            if let Phase::Failed { message } = &*complete.borrow_and_update() {
                return Err(OpenError::Failed(message.clone()));
            }
            // The phase is announced again when the last piece is stored.
            tokio::select! {
                changed = complete.changed() => changed.map_err(|_| OpenError::Closed)?,
                () = self.engine.cancel.cancelled() => return Err(OpenError::Closed),
            }
        }
    }

    /// Whether every piece is present. Never waits.
    pub fn is_complete(&self) -> bool {
        self.shared.content().is_some_and(|content| content.present.is_full())
    }

    /// Pieces that are present, and pieces in all; none while the metadata is missing. Never waits.
    pub fn pieces(&self) -> (u32, u32) {
        let content = self.shared.content();
        content.map_or((0, 0), |content| (content.present.count(), content.geometry().piece_count()))
    }

    /// Opens a file for reading. Never waits.
    ///
    /// # Errors
    /// [`OpenError::NotReady`] while the metadata is missing, [`OpenError::NoSuchFile`].
    pub fn open(&self, file: FileIndex) -> Result<FileReader, OpenError> {
        let content = self.shared.content().ok_or(OpenError::NotReady)?;
        FileReader::new(self.engine.clone(), self.shared.clone(), content.clone(), file)
    }

    /// What it is doing. Never waits; rates and peers are at most a second old.
    pub fn status(&self) -> TorrentStatus {
        self.shared.status()
    }

    /// Bytes of a file whose pieces are present. Never waits.
    pub fn file_local_bytes(&self, file: FileIndex) -> u64 {
        let Some(content) = self.shared.content() else { return 0 };
        if content.present.is_full() {
            return content.geometry().file_len(file);
        }
        local::bytes(content.geometry(), &content.present, file)
    }

    /// The parts of a file that are present, in order and joined where they touch; the first `limit` of them. Never
    /// waits.
    pub fn file_local_ranges(&self, file: FileIndex, limit: usize) -> Vec<Range<u64>> {
        let Some(content) = self.shared.content() else { return Vec::new() };
        local::ranges(content.geometry(), &content.present, file, limit)
    }

    /// Whether somebody reads the file's data past this process, so that none of it may be evicted. Never waits.
    pub fn is_held(&self, file: FileIndex) -> bool {
        self.shared.is_held(file)
    }

    /// Keeps a file's data on the disk, whatever the cache's size says: what is there of it and what comes. Fetches
    /// nothing by itself. Durable when this returns, and kept over restarts.
    ///
    /// # Errors
    /// [`PinError::NotReady`] while the metadata is missing; when it cannot be saved it is not pinned.
    ///
    /// # Cancel safety
    /// Dropped, the file may or may not be pinned.
    pub async fn pin(&self, file: FileIndex) -> Result<(), PinError> {
        self.set_pinned(file, Pinned::Yes).await
    }

    /// Takes a pin back: from now on the file's data may be evicted.
    ///
    /// # Errors
    /// [`PinError::NotReady`] while the metadata is missing; when it cannot be saved it stays pinned.
    ///
    /// # Cancel safety
    /// Dropped, the file may or may not be pinned.
    pub async fn unpin(&self, file: FileIndex) -> Result<(), PinError> {
        self.set_pinned(file, Pinned::No).await
    }

    async fn set_pinned(&self, file: FileIndex, pinned: Pinned) -> Result<(), PinError> {
        let content = self.shared.content().ok_or(PinError::NotReady)?.clone();
        let entry = content.metainfo.info.files.get(file.get() as usize).ok_or(PinError::NoSuchFile)?;
        if entry.is_pad || entry.symlink.is_some() {
            return Err(PinError::NoSuchFile);
        }
        for _ in 0..PIN_ATTEMPTS {
            let pins = content.clone();
            let set = self.engine.disk.run(move || pins.pins.set(file, pinned)).await;
            match set.map_err(|_| PinError::Closed)? {
                Err(StoreError::NoSpace { .. }) => content.ledger.relieve(PIN_RELIEF_BYTES).await,
                set => return set.map_err(|error| PinError::Store(Arc::new(error))),
            };
        }
        let set = self.engine.disk.run(move || content.pins.set(file, pinned)).await;
        set.map_err(|_| PinError::Closed)?.map_err(|error| PinError::Store(Arc::new(error)))
    }

    /// The pinned files, in their order. Never waits.
    pub fn pins(&self) -> Vec<FileIndex> {
        self.shared.content().map(|content| content.pins.files()).unwrap_or_default()
    }

    /// Fetches a range of a file in the background, behind all reads; what is there already is passed over. The range
    /// is clamped to the file. It goes on until it is done or the result is dropped.
    ///
    /// # Errors
    /// [`OpenError::NotReady`] while the metadata is missing, [`OpenError::NoSuchFile`].
    pub fn prefetch(&self, file: FileIndex, range: Range<u64>) -> Result<Prefetch, OpenError> {
        prefetch::start(self, file, range)
    }

    /// Fetches everything from now on, rarest pieces first. In the cache it stops short of evicting anything.
    ///
    /// # Cancel safety
    /// Cancel safe: either the torrent was told or it was not.
    pub async fn fill(&self) {
        self.command(Command::FillAll).await;
    }

    /// Tells it of peers.
    ///
    /// # Cancel safety
    /// Cancel safe: either the torrent was told or it was not.
    pub async fn add_peers(&self, peers: Vec<std::net::SocketAddr>) {
        self.command(Command::AddPeers(peers)).await;
    }

    /// Tells it of trackers; those it has already are passed over.
    ///
    /// # Cancel safety
    /// Cancel safe: either the torrent was told or it was not.
    pub async fn add_trackers(&self, trackers: Vec<String>) {
        self.command(Command::AddTrackers(trackers)).await;
    }

    async fn command(&self, command: Command) {
        if self.shared.commands.send(command).await.is_err() {
            tracing::debug!(torrent = %self.info_hash(), "a command came after the torrent was closed");
        }
    }
}
