//! Where blobs lie on the disk, and the only code that makes, moves and removes their files.
//!
//! ```text
//! whole/ab/<hash>              verified and durable: moved here by rename(2) after a sync, never written again
//! part/<hash>.<length>         sparse, in its full length; a digit more when another process works on the first
//! part/<hash>.<length>.log     what of it is durable (`record.rs`)
//! pieces/ab/<hash>.<length>    hashes of its pieces of that length (`hashes.rs`)
//! ```
//!
//! Names are hashes and numbers, never anything that a repository or a server chose. Whoever writes into a partial file
//! holds a lock on it. A record goes before the bytes that it speaks of, and nothing brings it back: so a crash leaves
//! bytes without a record, which count as nothing, and never the other way round. Whole files are removed by unlink(2)
//! alone: whoever reads one goes on reading what it was. All functions block on the disk.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FlockOperation, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use wtfs_proto::hf::ContentId;

use super::hashes::PieceHashes;
use super::ranges::RangeSet;
use super::record::{self, Record};
use crate::store::StoreError;

/// Names tried for a partial file: one for each process that may work on the same blob.
const MAX_PARTS: u32 = 8;

/// A lock that is held is tried again so often, so long apart: its holder may just be closing.
const LOCK_ATTEMPTS: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Hashes of pieces are kept of blobs of at least so many bytes: shorter ones are hashed anew in a few milliseconds. No budget
/// counts them: with 52 bytes for each piece and 108 for all they take 0.02 % of a long blob for pieces of 256 KiB, half
/// of that for twice as long ones, and for no length more than a block of the disk for each MiB, 0.4 %. They go with their
/// blob.
const KEPT_PIECES_OF_BYTES: u64 = 1 << 20;

/// Largest file of piece hashes that is read back: of 4 million pieces.
const MAX_PIECES_BYTES: u64 = 256 << 20;

/// Directories of blobs from here on are synced when one becomes whole: below, losing the name in a crash costs less.
const SYNC_DIR_BYTES: u64 = 8 << 20;

/// The store's directory.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
}

/// A file of a blob, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: ContentId,
    /// Length of the blob.
    pub(super) bytes: u64,
    pub(super) kind: FoundKind,
    /// What it takes up.
    pub(super) disk_bytes: u64,
    pub(super) used_at: SystemTime,
}

/// Which of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundKind {
    Whole,
    Partial,
}

/// A partial file that this process works on.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// `None` once the file was moved or removed: nothing is recorded then.
    record: Mutex<Option<Record>>,
}

impl Drop for Part {
    fn drop(&mut self) {
        // A process that is being started by another thread has the lock too until it becomes another program.
        let _unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl Place {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a whole blob lies.
    pub(super) fn whole_path(&self, id: ContentId) -> PathBuf {
        let name = id.to_string();
        self.dir.join("whole").join(&name[..2]).join(name)
    }

    fn pieces_path(&self, id: ContentId, piece_bytes: u32) -> PathBuf {
        let name = id.to_string();
        self.dir.join("pieces").join(&name[..2]).join(format!("{name}.{piece_bytes}"))
    }

    fn part_path(&self, id: ContentId, bytes: u64, number: u32) -> PathBuf {
        let number = if number == 0 { String::new() } else { format!(".{number}") };
        self.dir.join("part").join(format!("{id}.{bytes}{number}"))
    }

    /// All blobs there are. What a crash left of nothing is removed.
    pub(super) fn scan(&self) -> Vec<Found> {
        let mut all = Vec::new();
        for dir in subdirectories(&self.dir.join("whole")) {
            for (name, path) in entries(&dir) {
                let Ok(found) = path.symlink_metadata() else { continue };
                let Ok(id) = name.parse() else { continue };
                let (kind, bytes) = (FoundKind::Whole, found.len());
                if found.is_file() {
                    all.push(Found { id, bytes, kind, disk_bytes: bytes, used_at: used_at(&found) });
                }
            }
        }
        for (name, path) in entries(&self.dir.join("part")) {
            let Ok(found) = path.symlink_metadata() else { continue };
            let mut fields = name.split('.');
            let id = fields.next().and_then(|id| id.parse().ok());
            let bytes = fields.next().and_then(|bytes| bytes.parse().ok());
            let (Some(id), Some(bytes)) = (id, bytes) else { continue };
            match fields.next() {
                None => {
                    let disk_bytes = (found.blocks() * 512).min(bytes);
                    let kind = FoundKind::Partial;
                    all.push(Found { id, bytes, kind, disk_bytes, used_at: used_at(&found) });
                }
                // Of a process that is no more, or its record; nobody would look at it again.
                Some(_) => remove_abandoned(&path),
            }
        }
        self.remove_orphans(&all);
        all
    }

    /// Removes the hashes of pieces whose blob is not whole here: a crash, or somebody who removed the blob, left them,
    /// and nothing counts them. They can be made again.
    fn remove_orphans(&self, found: &[Found]) {
        let whole = found.iter().filter(|found| found.kind == FoundKind::Whole);
        let whole: HashSet<ContentId> = whole.map(|found| found.id).collect();
        for dir in subdirectories(&self.dir.join("pieces")) {
            for (name, path) in entries(&dir) {
                let mut fields = name.split('.');
                let Some(Ok(id)) = fields.next().map(str::parse::<ContentId>) else { continue };
                let is_finished = fields.nth(1).is_none();
                if is_finished && whole.contains(&id) {
                    continue;
                }
                if let Err(error) = remove_file(&path) {
                    tracing::debug!(%error, "hashes of pieces that nobody needs stay");
                }
            }
        }
    }

    /// The whole blob, if it is there in this length.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn open_whole(&self, id: ContentId, bytes: u64) -> Result<Option<File>, StoreError> {
        let path = self.whole_path(id);
        match File::open(&path) {
            Ok(file) => {
                let found = file.metadata().map_err(StoreError::at("stat", &path))?;
                Ok((found.is_file() && found.len() == bytes).then_some(file))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::from_io("open", &path, error)),
        }
    }

    /// Whether there may be a partial file.
    pub(super) fn has_part(&self, id: ContentId, bytes: u64) -> bool {
        self.part_path(id, bytes, 0).exists()
    }

    /// Opens a partial file, or makes it, and says what of it is there.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn open_part(&self, id: ContentId, bytes: u64) -> Result<(Part, RangeSet), StoreError> {
        let dir = self.dir.join("part");
        std::fs::create_dir_all(&dir).map_err(StoreError::at("create", &dir))?;
        for number in 0..MAX_PARTS {
            let path = self.part_path(id, bytes, number);
            for attempt in 0..LOCK_ATTEMPTS {
                if attempt > 0 {
                    std::thread::sleep(LOCK_PAUSE);
                }
                match lock_part(&path)? {
                    Locked::Yes(file) => return Self::take_part(file, path, id, bytes),
                    Locked::Elsewhere => {}
                    // Somebody removed it in between.
                    Locked::Stale => {}
                }
            }
        }
        Err(StoreError::Locked { path: self.part_path(id, bytes, 0), pid: None })
    }

    fn take_part(
        file: File,
        path: PathBuf,
        id: ContentId,
        bytes: u64,
    ) -> Result<(Part, RangeSet), StoreError> {
        let log = log_of(&path);
        let found = file.metadata().map_err(StoreError::at("stat", &path))?;
        if found.len() != bytes {
            record::remove(&log)?;
            file.set_len(0).and_then(|()| file.set_len(bytes)).map_err(StoreError::at("extend", &path))?;
        }
        let (record, present) = Record::load(log, id, bytes);
        Ok((Part { file, path, record: Mutex::new(Some(record)) }, present))
    }

    /// Removes a whole blob and what was kept beside it.
    ///
    /// # Errors
    /// When the system refuses; what is missing already is no error.
    pub(super) fn remove_whole(&self, id: ContentId) -> Result<(), StoreError> {
        self.remove_pieces(id);
        remove_file(&self.whole_path(id))
    }

    /// Removes a partial blob that this process does not work on; leaves it to another one that does.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn remove_part(&self, id: ContentId, bytes: u64) -> Result<Removed, StoreError> {
        let path = self.part_path(id, bytes, 0);
        if !path.exists() {
            record::remove(&log_of(&path))?;
            return Ok(Removed::Yes);
        }
        match lock_part(&path)? {
            Locked::Yes(_lock) => {
                record::remove(&log_of(&path))?;
                remove_file(&path)?;
                Ok(Removed::Yes)
            }
            Locked::Elsewhere | Locked::Stale => Ok(Removed::No),
        }
    }

    /// Moves a partial file whose content was verified to where whole blobs lie; durable, and nothing but its name can
    /// still be lost, when this returns.
    ///
    /// # Errors
    /// When the system refuses; it is then still where it was.
    pub(super) fn promote(&self, part: &Part, id: ContentId, bytes: u64) -> Result<(), StoreError> {
        let whole = self.whole_path(id);
        let dir = whole.parent().unwrap_or(&self.dir);
        let mut record = part.record();
        // Else it was moved the last time, and something failed afterwards.
        if record.is_some() {
            part.sync()?;
            std::fs::create_dir_all(dir).map_err(StoreError::at("create", dir))?;
            std::fs::rename(&part.path, &whole).map_err(StoreError::at("move", &part.path))?;
            *record = None;
        }
        if bytes >= SYNC_DIR_BYTES {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::at("sync", dir))?;
        }
        if let Err(error) = record::remove(&log_of(&part.path)) {
            // Without its file it says nothing.
            tracing::debug!(%error, "a record stays behind");
        }
        Ok(())
    }

    /// Makes the file of an empty blob, which nothing is ever fetched for.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn make_empty(&self, id: ContentId) -> Result<File, StoreError> {
        let path = self.whole_path(id);
        let dir = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(dir).map_err(StoreError::at("create", dir))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(&path).map_err(StoreError::at("create", &path))
    }

    /// Notes when a blob was used last, for the next run. Leaves alone when it was written: that tells others that it
    /// is as it was.
    pub(super) fn save_use(&self, id: ContentId, bytes: u64, kind: FoundKind, at: SystemTime) {
        let path = match kind {
            FoundKind::Whole => self.whole_path(id),
            FoundKind::Partial => self.part_path(id, bytes, 0),
        };
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let times = Timestamps {
            last_access: Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(0), tv_nsec: 0 },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        };
        if let Err(error) = rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()) {
            tracing::debug!(path = %path.display(), %error, "when a blob was used last is not saved");
        }
    }

    /// The hashes of a blob's pieces, if they were kept.
    pub(super) fn load_pieces(&self, id: ContentId, bytes: u64, piece_bytes: u32) -> Option<PieceHashes> {
        let path = self.pieces_path(id, piece_bytes);
        if path.metadata().ok()?.len() > MAX_PIECES_BYTES {
            return None;
        }
        let encoded = std::fs::read(&path).ok()?;
        let pieces = PieceHashes::decode(&encoded, id, bytes, piece_bytes);
        if pieces.is_none() {
            tracing::warn!(path = %path.display(), "hashes of pieces are damaged and are made again");
        }
        pieces
    }

    /// Keeps them. Not durable: they can be made again.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn save_pieces(
        &self,
        id: ContentId,
        bytes: u64,
        pieces: &PieceHashes,
    ) -> Result<(), StoreError> {
        if bytes < KEPT_PIECES_OF_BYTES {
            return Ok(());
        }
        let path = self.pieces_path(id, pieces.piece_bytes);
        let dir = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(dir).map_err(StoreError::at("create", dir))?;
        let temporary = path.with_extension(format!("{}.new", pieces.piece_bytes));
        std::fs::write(&temporary, pieces.encode(id, bytes)).map_err(StoreError::at("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(StoreError::at("replace", &path))
    }

    fn remove_pieces(&self, id: ContentId) {
        // One for each length of a piece; the lengths are powers of two.
        for power in 14..32 {
            let path = self.pieces_path(id, 1 << power);
            if let Err(error) = remove_file(&path) {
                tracing::debug!(%error, "hashes of pieces stay behind");
            }
        }
    }
}

/// Whether a file is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    Yes,
    No,
}

impl Part {
    /// Makes what was written durable.
    ///
    /// # Errors
    /// When the disk does not take it. The page cache may then have forgotten any of it, and the next sync succeeds all
    /// the same.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(StoreError::at("sync", &self.path))
    }

    /// Records what was made durable. Does nothing when the file was moved or removed meanwhile.
    ///
    /// # Errors
    /// When the disk does not take it; what is recorded is then what was before.
    pub(super) fn record_durable(&self, ranges: &RangeSet) -> Result<(), StoreError> {
        match &mut *self.record() {
            Some(record) => record.add_durable(ranges),
            None => Ok(()),
        }
    }

    /// Frees the space of ranges, which nobody reads.
    ///
    /// # Errors
    /// When that cannot be recorded, or the file system cannot do it.
    pub(super) fn give_up(&self, ranges: &RangeSet) -> Result<(), StoreError> {
        let mut record = self.record();
        let Some(record) = &mut *record else { return Ok(()) };
        record.give_up(ranges)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for range in ranges.iter() {
            rustix::fs::fallocate(&self.file, flags, range.start, range.end - range.start)
                .map_err(StoreError::errno("punch a hole into", &self.path))?;
        }
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the system refuses. If the record went, what is left counts as nothing.
    pub(super) fn remove(&self) -> Result<(), StoreError> {
        let mut record = self.record();
        if record.is_none() {
            return Ok(());
        }
        record::remove(&log_of(&self.path))?;
        *record = None;
        remove_file(&self.path)
    }

    fn record(&self) -> MutexGuard<'_, Option<Record>> {
        // Whole between any two statements.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Locked {
    Yes(File),
    Elsewhere,
    Stale,
}

fn lock_part(path: &Path) -> Result<Locked, StoreError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(StoreError::at("create", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Locked::Elsewhere),
        Err(errno) => return Err(StoreError::errno("lock", path)(errno)),
    }
    let ours = file.metadata().map_err(StoreError::at("stat", path))?;
    let is_there = path.metadata().is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
    Ok(if is_there { Locked::Yes(file) } else { Locked::Stale })
}

fn log_of(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".log");
    name.into()
}

/// Removes what stands beside the first partial file of a blob, if no process works on it.
fn remove_abandoned(path: &Path) {
    let name = path.to_string_lossy();
    let part = name.strip_suffix(".log").or_else(|| name.strip_suffix(".new")).unwrap_or(&name);
    let part = Path::new(part);
    if part != path && part.exists() {
        return;
    }
    let removed = match part == path {
        true => match lock_part(path) {
            Ok(Locked::Yes(_lock)) => record::remove(&log_of(path)).and_then(|()| remove_file(path)),
            Ok(Locked::Elsewhere | Locked::Stale) => return,
            Err(error) => Err(error),
        },
        false => remove_file(path),
    };
    if let Err(error) = removed {
        tracing::debug!(%error, "a part that nobody needs stays");
    }
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::from_io("remove", path, error)),
        _ => Ok(()),
    }
}

fn used_at(found: &std::fs::Metadata) -> SystemTime {
    let times = [found.accessed(), found.modified()];
    times.into_iter().flatten().max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn entries(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    all.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    entries(dir).map(|(_, path)| path).filter(|path| path.is_dir()).collect()
}
