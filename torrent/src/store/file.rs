//! The store on disk: one sparse file per file of the torrent, in the natural layout, beside a crash-safe record.
//!
//! Owns the order of things on which the promises of [`PieceStore`] rest:
//!
//! - **write**: an entry into the journal, then bytes into the files, then the piece into the state in memory (with its
//!   files as dirty). Whatever is in the state was written; whatever was written since the last checkpoint is in the
//!   journal.
//! - **checkpoint**: take the state and the dirty files at one moment, sync those files, replace the record, punch the
//!   holes of what was given up, then cut the journal down to what came since. Dying between any two steps leaves an
//!   older record or a longer journal, and journal entries are hashed before they count.
//! - **forget**: out of the state, into the journal, then a checkpoint. A hole is punched, with writers held off, only
//!   where neither the state nor the record on disk has a piece.
//!
//! Before the first piece is written the record and the journal get the room that they will need, so that giving pieces
//! up takes no space: a disk that is full to its last block is no dead end.
//!
//! Locks, in the order they may be taken: `checkpointing`, `writing`, the journal's own, `state`. Reads take none of
//! them. Dropping a store makes nothing durable: that is what `checkpoint` is for.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::{FileIndex, Geometry, PieceIndex};
use wtfs_proto::metainfo::Metainfo;

use super::journal::Journal;
use super::layout;
use super::open_files::{Access, OpenFile, OpenFiles, StoreId};
use super::record::{Record, RecordFile, RootIdentity};
use super::recovery::recover;
use super::root::{DataRoot, Executable};
use super::spans::{self, TransferError};
use super::state::{Lock, StateDir};
use super::{PieceStore, StoreError, TryRead};

mod forget;
mod sync;

/// Where a torrent is kept.
#[derive(Debug, Clone)]
pub struct FileStoreConfig {
    /// Holds `<name>` or `<name>/<path>` of the torrent and nothing of the store's own. Made at the first write.
    pub data_dir: PathBuf,
    /// Holds the record, the journal, the lock and the saved metainfo. One torrent's own; made when opening.
    pub state_dir: PathBuf,
    /// Whose the data directory is.
    pub owner: DataOwner,
}

/// Whose a data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataOwner {
    /// The store's: nobody else has a say in it, so a file that was cut short is set to its length again.
    Store,
    /// The user's: a file of another length than in the torrent may be precious and is left alone.
    User,
}

/// A torrent's pieces on disk.
#[derive(Debug)]
pub struct FileStore {
    metainfo: Arc<Metainfo>,
    root: DataRoot,
    id: StoreId,
    owner: DataOwner,
    open_files: Arc<OpenFiles>,
    state_dir: StateDir,
    record: RecordFile,
    journal: Journal,
    state: Mutex<State>,
    checkpointing: Mutex<()>,
    /// Held shared while a piece's bytes are written, alone while holes are punched.
    writing: RwLock<()>,
    _lock: Lock,
}

#[derive(Debug)]
struct State {
    present: Bitfield,
    /// Files with bytes of `unsynced` pieces.
    dirty: HashSet<FileIndex>,
    /// Present pieces that the record does not have yet.
    unsynced: Vec<PieceIndex>,
    /// Pieces of which bytes are being written now.
    in_writing: Vec<PieceIndex>,
    /// Absent pieces that may take up space, which is freed once the record does not name them.
    unpunched: Vec<PieceIndex>,
    /// Whether the saved metainfo was made durable.
    is_metainfo_synced: bool,
    /// Whether the record on disk says something else than `present`, or the journal holds what it need not.
    is_stale: bool,
    /// The data directory, opened before the first byte of `unsynced` pieces was written, so that a flush of the file
    /// system through it reports every write that failed since (Linux 5.8). `None` when not all were written by us.
    watch: Option<OwnedFd>,
    /// Whether the torrent's empty files, which no piece brings along, were made.
    has_empty_files: bool,
}

impl State {
    /// What the journal is still to name.
    fn unsettled(&self) -> Vec<PieceIndex> {
        [&self.unsynced, &self.in_writing, &self.unpunched].into_iter().flatten().copied().collect()
    }

    fn needs_checkpoint(&self) -> bool {
        self.is_stale || (self.present.is_full() && !self.has_empty_files)
    }

    /// An idle torrent holds no descriptor.
    fn stop_watching_if_clean(&mut self) {
        if self.dirty.is_empty() {
            self.watch = None;
        }
    }
}

impl FileStore {
    /// Opens the store and says which pieces are present. Blocks on the disk, for longer when pieces that were written
    /// shortly before a crash have to be hashed.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when the torrent is open elsewhere. A damaged record or journal is no error: they count
    /// as empty and are logged.
    pub fn open(config: FileStoreConfig, metainfo: Arc<Metainfo>) -> Result<(Self, Bitfield), StoreError> {
        Self::open_with(config, metainfo, OpenFiles::shared())
    }

    fn open_with(
        config: FileStoreConfig,
        metainfo: Arc<Metainfo>,
        open_files: Arc<OpenFiles>,
    ) -> Result<(Self, Bitfield), StoreError> {
        let state_dir = StateDir::new(config.state_dir);
        state_dir.make()?;
        let lock = state_dir.lock()?;
        let info_hash = metainfo.hashes.primary();
        let root = DataRoot::new(config.data_dir);
        let record = RecordFile::new(state_dir.record(), info_hash, metainfo.info.geometry.piece_count());
        let journal = Journal::new(state_dir.journal(), info_hash);
        let recovered = recover(&metainfo, &root, &record, &journal)?;
        let geometry = &metainfo.info.geometry;
        let dirty = recovered.unsynced.iter().flat_map(|&piece| files_of(geometry, piece)).collect();
        let state = State {
            is_stale: recovered.is_stale,
            // A complete torrent got them when it was completed; a user may have removed them since.
            has_empty_files: recovered.present.is_full()
                && !recovered.present.is_empty()
                && recovered.unsynced.is_empty(),
            present: recovered.present,
            dirty,
            unsynced: recovered.unsynced,
            in_writing: Vec::new(),
            // In a directory of the user's these may be bytes of the user's.
            unpunched: if config.owner == DataOwner::Store { recovered.remains } else { Vec::new() },
            is_metainfo_synced: false,
            watch: None,
        };
        let store = Self {
            metainfo,
            root,
            id: StoreId::next(),
            owner: config.owner,
            open_files,
            state_dir,
            record,
            journal,
            state: Mutex::new(state),
            checkpointing: Mutex::new(()),
            writing: RwLock::new(()),
            _lock: lock,
        };
        if recovered.has_losses
            && let Err(error) = store.checkpoint()
            && !matches!(error, StoreError::NotDurable { .. })
        {
            return Err(error);
        }
        if config.owner == DataOwner::Store {
            // Only now: a record that still vouched for the lost pieces would vouch for zeros.
            recovered.cut.iter().try_for_each(|&file| store.restore_length(file))?;
        }
        let present = store.state().present.clone();
        Ok((store, present))
    }

    /// Gives a file that was cut short its length again; what it lost is a hole and no longer present.
    fn restore_length(&self, file: FileIndex) -> Result<(), StoreError> {
        let path = layout::path_of(&self.metainfo.info, file);
        let Some(found) = self.root.open(&path, Access::ReadWrite)? else { return Ok(()) };
        let expected = self.geometry().file_len(file);
        if found.bytes < expected {
            rustix::fs::ftruncate(&found.fd, expected)
                .map_err(StoreError::errno("extend", &self.root.display_path(&path)))?;
        }
        Ok(())
    }

    /// Takes over what a check of the data found, in place of what the record said. Durable after the next checkpoint.
    pub fn adopt(&self, verified: &Bitfield) {
        let geometry = self.geometry();
        let mut state = self.state();
        let mut present = Bitfield::new(geometry.piece_count());
        for piece in verified.iter_ones().filter_map(|piece| geometry.piece(piece)) {
            present.set(piece.get());
            if !state.present.get(piece.get()) {
                state.unsynced.push(piece);
                state.dirty.extend(files_of(geometry, piece));
            }
        }
        state.unsynced.retain(|piece| present.get(piece.get()));
        state.present = present;
        state.is_stale = true;
        // Nobody saw these bytes being written.
        state.watch = None;
    }

    /// Makes the torrent's symbolic links (BEP 47). Not done by itself: a cache that is only read through a mount has no
    /// use for them.
    ///
    /// # Errors
    /// [`StoreError::WrongType`] when something else is in a link's place.
    pub fn materialise_links(&self) -> Result<(), StoreError> {
        let info = &self.metainfo.info;
        for entry in &info.files {
            if let Some(target) = &entry.symlink {
                self.root.make_link(&layout::path_of_entry(info, entry), &target.target_from(&entry.path))?;
            }
        }
        Ok(())
    }

    /// Removes the torrent's files, and the directories that are empty then. No piece is present afterwards; files that
    /// are not the torrent's stay.
    ///
    /// # Errors
    /// When the record cannot be replaced or a file cannot be removed; the rest is then still there.
    pub fn delete_data(&self) -> Result<(), StoreError> {
        self.adopt(&Bitfield::new(self.geometry().piece_count()));
        self.checkpoint()?;
        self.open_files.close_store(self.id);
        let info = &self.metainfo.info;
        let mut dirs: HashSet<PathBuf> = HashSet::new();
        for entry in info.files.iter().filter(|entry| !entry.is_pad) {
            let path = layout::path_of_entry(info, entry);
            self.root.remove_file(&path)?;
            dirs.extend(path.ancestors().skip(1).map(PathBuf::from));
        }
        let mut dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| !dir.as_os_str().is_empty()).collect();
        dirs.sort_unstable_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        dirs.iter().try_for_each(|dir| self.root.remove_empty_dir(dir))
    }

    fn geometry(&self) -> &Geometry {
        &self.metainfo.info.geometry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No statement under this lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn display_path(&self, file: FileIndex) -> PathBuf {
        self.root.display_path(&layout::path_of(&self.metainfo.info, file))
    }

    fn transfer_error(&self, op: &'static str, file: FileIndex) -> impl FnOnce(TransferError) -> StoreError {
        let path = self.display_path(file);
        let expected = self.geometry().file_len(file);
        move |error| match error {
            TransferError::Errno(errno) => StoreError::errno(op, &path)(errno),
            TransferError::Short => {
                let found = path.symlink_metadata().map_or(0, |found| found.len());
                StoreError::FileLength { path, expected, found }
            }
        }
    }

    fn to_read(&self, file: FileIndex) -> Result<Arc<OpenFile>, StoreError> {
        if let Some(open) = self.open_files.find(self.id, file.get(), Access::Read) {
            return Ok(open);
        }
        let path = layout::path_of(&self.metainfo.info, file);
        let found = self.root.open(&path, Access::Read)?;
        let found = found.ok_or_else(|| StoreError::Vanished { path: self.root.display_path(&path) })?;
        let expected = self.geometry().file_len(file);
        if found.bytes < expected {
            let path = self.root.display_path(&path);
            return Err(StoreError::FileLength { path, expected, found: found.bytes });
        }
        let open = Arc::new(OpenFile { fd: found.fd, access: Access::Read });
        self.open_files.keep(self.id, file.get(), &open);
        Ok(open)
    }

    /// Opens a file to write; makes it, sparse and of its full length, when no piece of it is present yet. A file that
    /// should hold pieces and does not is never made anew: its holes would be read as data.
    fn to_write(&self, file: FileIndex) -> Result<Arc<OpenFile>, StoreError> {
        if let Some(open) = self.open_files.find(self.id, file.get(), Access::ReadWrite) {
            return Ok(open);
        }
        let info = &self.metainfo.info;
        let expected = self.geometry().file_len(file);
        let path = layout::path_of(info, file);
        let display_path = || self.root.display_path(&path);
        // Asked before the file is looked for: another thread may make it and complete its first piece in between.
        let has_pieces = {
            let state = self.state();
            self.geometry().pieces_of(file, 0..expected).any(|piece| state.present.get(piece.get()))
        };
        let is_executable = layout::entry_of(info, file).is_some_and(|entry| entry.is_executable);
        let found = match self.root.open(&path, Access::ReadWrite)? {
            Some(found) => found,
            None if has_pieces => return Err(StoreError::Vanished { path: display_path() }),
            None => {
                let executable = if is_executable { Executable::Yes } else { Executable::No };
                self.root.open_or_create(&path, executable)?
            }
        };
        if found.bytes > expected || (found.bytes < expected && has_pieces) {
            return Err(StoreError::FileLength { path: display_path(), expected, found: found.bytes });
        }
        if found.bytes < expected {
            rustix::fs::ftruncate(&found.fd, expected)
                .map_err(StoreError::errno("extend", &display_path()))?;
        }
        if is_executable {
            self.root.make_executable(&found, &path)?;
        }
        let open = Arc::new(OpenFile { fd: found.fd, access: Access::ReadWrite });
        self.open_files.keep(self.id, file.get(), &open);
        Ok(open)
    }

    /// Whether a file has bytes of its own on disk for this range. Pads have none and read as zeros.
    fn check_range(&self, file: FileIndex, offset: u64, len: usize) -> Result<Stored, StoreError> {
        let end = self.geometry().file_len(file);
        let len = len as u64;
        if offset.checked_add(len).is_none_or(|last| last > end) {
            return Err(StoreError::Range { offset, len, end });
        }
        if len == 0 {
            return Ok(Stored::Nothing);
        }
        match layout::entry_of(&self.metainfo.info, file) {
            Some(entry) if entry.is_pad => Ok(Stored::Nothing),
            _ => Ok(Stored::Bytes),
        }
    }

    /// Makes the empty files; a torrent that is complete then looks as it was shared. Failing here must not fail a
    /// checkpoint: no byte of the torrent is concerned.
    fn make_empty_files(&self) {
        let info = &self.metainfo.info;
        let empty = |file: &FileIndex| self.geometry().file_len(*file) == 0;
        for file in self.geometry().files().filter(empty) {
            let Some(entry) = layout::entry_of(info, file) else { continue };
            if entry.is_pad || entry.symlink.is_some() {
                continue;
            }
            let executable = if entry.is_executable { Executable::Yes } else { Executable::No };
            if let Err(error) = self.root.open_or_create(&layout::path_of_entry(info, entry), executable) {
                tracing::warn!(%error, "an empty file of the torrent cannot be made");
            }
        }
    }

    fn write_spans(&self, piece: PieceIndex, blocks: &[Bytes]) -> Result<(), StoreError> {
        for span in self.geometry().spans(piece, 0..u32::MAX).filter(|span| !span.is_pad) {
            let open = self.to_write(span.file)?;
            self.watch_writes()?;
            let begin = u64::from(span.piece_begin);
            let slices = spans::slices_of(blocks, begin..begin + u64::from(span.bytes));
            spans::write_all(&open.fd, slices, span.file_offset)
                .map_err(self.transfer_error("write", span.file))?;
        }
        Ok(())
    }

    fn write_record(&self, present: Bitfield) -> Result<(), StoreError> {
        if !self.state().is_metainfo_synced {
            self.state_dir.sync_metainfo()?;
            self.state().is_metainfo_synced = true;
        }
        // With no directory there is no piece either, so any identity will do.
        let (inode, path) = self.root.identity().unwrap_or_default();
        self.record.replace(&Record { root: RootIdentity::new(inode, &path), present })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Bytes,
    Nothing,
}

fn files_of(geometry: &Geometry, piece: PieceIndex) -> impl Iterator<Item = FileIndex> + '_ {
    geometry.spans(piece, 0..u32::MAX).filter(|span| !span.is_pad).map(|span| span.file)
}

impl PieceStore for FileStore {
    fn write_piece(&self, piece: PieceIndex, blocks: &[Bytes]) -> Result<(), StoreError> {
        let geometry = self.geometry();
        let expected = u64::from(geometry.piece_len(piece));
        let found = blocks.iter().map(|block| block.len() as u64).sum();
        if found != expected {
            return Err(StoreError::PieceLength { piece, expected, found });
        }
        self.record.reserve()?;
        self.journal.reserve()?;
        let writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        self.state().in_writing.push(piece);
        if let Err(error) = self.journal.append(&[piece]) {
            // Only dying before the next checkpoint would cost to fetch the piece again, and some space.
            tracing::debug!(%error, %piece, "a piece is not in the journal");
        }
        let written = self.write_spans(piece, blocks);
        {
            let mut state = self.state();
            if let Some(at) = state.in_writing.iter().position(|other| *other == piece) {
                state.in_writing.swap_remove(at);
            }
            if written.is_ok() {
                state.dirty.extend(files_of(geometry, piece));
                state.unsynced.push(piece);
                state.present.set(piece.get());
                state.is_stale = true;
            } else if !state.present.get(piece.get()) && self.owner == DataOwner::Store {
                state.unpunched.push(piece);
                state.is_stale = true;
            }
        }
        drop(writing);
        written
    }

    fn read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        if self.check_range(file, offset, buf.len())? == Stored::Nothing {
            buf.fill(0);
            return Ok(());
        }
        let open = self.to_read(file)?;
        spans::read_exact(&open.fd, buf, offset).map_err(self.transfer_error("read", file))
    }

    fn try_read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<TryRead, StoreError> {
        if self.check_range(file, offset, buf.len())? == Stored::Nothing {
            buf.fill(0);
            return Ok(TryRead::Done);
        }
        // Opening may have to wait for the disk.
        let Some(open) = self.open_files.find(self.id, file.get(), Access::Read) else {
            return Ok(TryRead::WouldBlock);
        };
        spans::try_read_exact(&open.fd, buf, offset).map_err(self.transfer_error("read", file))
    }

    fn read_piece(&self, piece: PieceIndex, range: Range<u32>, buf: &mut [u8]) -> Result<(), StoreError> {
        spans::read_piece(self.geometry(), piece, range, buf, |file, offset, part| {
            let open = self.to_read(file)?;
            spans::read_exact(&open.fd, part, offset).map_err(self.transfer_error("read", file))
        })
    }

    fn open_file(&self, file: FileIndex) -> Option<File> {
        let path = layout::path_of(&self.metainfo.info, file);
        let found = match self.root.open(&path, Access::Read) {
            Ok(found) => found?,
            Err(error) => {
                tracing::debug!(%error, "a data file is not opened");
                return None;
            }
        };
        if found.bytes != self.geometry().file_len(file) {
            return None;
        }
        match rustix::fs::flock(&found.fd, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => None,
            // A file system without locks evicts under the engine's own holds only.
            Ok(()) | Err(_) => Some(File::from(found.fd)),
        }
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        let _checkpointing = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.state().needs_checkpoint() {
            return Ok(());
        }
        // Watches what is written from here on. Without a directory nothing is.
        let next_watch = self.root.open_dir().unwrap_or_default();
        let (mut settling, unpunched, dirty, watch, makes_empty_files) = {
            let mut state = self.state();
            let makes_empty_files = state.present.is_full() && !state.has_empty_files;
            state.is_stale = false;
            state.has_empty_files |= makes_empty_files;
            let watch = std::mem::replace(&mut state.watch, next_watch);
            let settling = std::mem::take(&mut state.unsynced);
            let unpunched = std::mem::take(&mut state.unpunched);
            (settling, unpunched, std::mem::take(&mut state.dirty), watch, makes_empty_files)
        };
        if makes_empty_files {
            self.make_empty_files();
        }
        let failed = self.sync(&dirty, watch);
        let lost = self.drop_lost(&mut settling, failed);
        let recorded = {
            let state = self.state();
            let mut present = state.present.clone();
            // Written while the files were synced: present, but not yet durable.
            for piece in &state.unsynced {
                present.clear(piece.get());
            }
            present
        };
        if let Err(error) = self.write_record(recorded.clone()) {
            let mut state = self.state();
            settling.retain(|piece| state.present.get(piece.get()));
            state.unsynced.append(&mut settling);
            state.unpunched.extend(unpunched);
            state.is_stale = true;
            // The loss is the graver news; the next checkpoint reports the other if it lasts.
            return Err(lost.unwrap_or(error));
        }
        self.state().stop_watching_if_clean();
        self.punch_absent(&unpunched, &recorded);
        if let Err(error) = self.journal.rewrite(|| self.state().unsettled()) {
            tracing::debug!(%error, "the journal keeps entries that it need not");
        }
        lost.map_or(Ok(()), Err)
    }

    fn forget_pieces(&self, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        self.forget(pieces)
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.open_files.close_store(self.id);
    }
}

#[cfg(test)]
mod tests;
