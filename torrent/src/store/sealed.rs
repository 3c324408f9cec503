//! Files that lie ready, in a directory of the user's or each at its place, and are only read: each is given out only
//! while it is the file that was hashed.
//!
//! Owns the comparison with the [`Stamp`] of the hashing: when a file is opened, and again after each read, so that
//! bytes that were written meanwhile are not passed on as verified. Writes nothing: no record, no lock, no file. What a
//! program changes and then sets the time back of is not noticed here.
//!
//! Who uses them: the hub's roots, over HTTP and, as [`SealedStore`], towards peers; so are whole blobs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wtfs_proto::geometry::{FileIndex, PieceIndex};
use wtfs_proto::metainfo::Metainfo;

use super::layout;
use super::open_files::Access;
use super::root::DataRoot;
use super::spans::{self, TransferError};
use super::{PieceStore, StoreError, TryRead};
use crate::stamp::Stamp;

/// Open files of one torrent. Those of a torrent that nobody reads are closed with it; a few are enough to spare the
/// walk from the root for each request, and a thousand torrents stay below the usual limit of descriptors only because
/// [`OPEN_EVERYWHERE`] bounds them together.
const OPEN_OF_ONE: usize = 64;

/// Open files of all torrents together.
const OPEN_EVERYWHERE: usize = 256;

static OPEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// One open file and what it must look like.
#[derive(Debug)]
pub struct SealedFile {
    file: File,
    stamp: Stamp,
    path: PathBuf,
}

impl SealedFile {
    fn new(file: File, stamp: Stamp, path: PathBuf) -> Self {
        Self { file, stamp, path }
    }

    /// The file, to be read at given positions. [`Self::check`] afterwards says whether the bytes are those hashed.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What it looked like when it was hashed.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Compares it with what was hashed. Does not wait for a disk: the file is open.
    ///
    /// # Errors
    /// [`StoreError::Changed`].
    pub fn check(&self) -> Result<(), StoreError> {
        let stat = rustix::fs::fstat(&self.file).map_err(StoreError::errno("stat", &self.path))?;
        if Stamp::of_stat(&stat) == self.stamp {
            return Ok(());
        }
        Err(StoreError::Changed { path: self.path.clone() })
    }
}

/// Where the files of one torrent are.
#[derive(Debug)]
enum Places {
    /// In a directory, in the torrent's layout.
    Below(DataRoot),
    /// Each at a path of its own, by index.
    Apart(Box<[Option<PathBuf>]>),
}

/// The files of one torrent.
#[derive(Debug)]
pub struct SealedFiles {
    places: Places,
    metainfo: Arc<Metainfo>,
    /// By index; `None` where the torrent has padding or a link.
    stamps: Box<[Option<Stamp>]>,
    open: Mutex<HashMap<u32, Arc<SealedFile>>>,
}

impl SealedFiles {
    /// The files of `metainfo` below `data_dir` (`<name>` or `<name>/<path>`), with their stamps in the order of the
    /// torrent's files, padding and links left out.
    ///
    /// # Errors
    /// [`StoreError::FileLength`] when a stamp is missing or of another length than in the torrent.
    pub fn new(
        data_dir: PathBuf,
        metainfo: Arc<Metainfo>,
        stamps: impl IntoIterator<Item = Stamp>,
    ) -> Result<Self, StoreError> {
        let mut stamps = stamps.into_iter();
        let mut all = Vec::with_capacity(metainfo.info.files.len());
        for entry in &metainfo.info.files {
            if entry.is_pad || entry.symlink.is_some() {
                all.push(None);
                continue;
            }
            let path = || data_dir.join(layout::path_of_entry(&metainfo.info, entry));
            all.push(Some(fitting(stamps.next(), entry.bytes, path)?));
        }
        let places = Places::Below(DataRoot::new(data_dir));
        Ok(Self { places, metainfo, stamps: all.into(), open: Mutex::default() })
    }

    /// The files of `metainfo` wherever they are, each with its stamp, in the order of the torrent's files, padding and
    /// links left out. Two may be one file. A file of no bytes need not be anywhere: its path is not looked at.
    ///
    /// # Errors
    /// [`StoreError::FileLength`] when one is missing or of another length than in the torrent.
    pub fn at(
        metainfo: Arc<Metainfo>,
        files: impl IntoIterator<Item = (PathBuf, Stamp)>,
    ) -> Result<Self, StoreError> {
        let mut files = files.into_iter();
        let (mut paths, mut stamps) = (Vec::new(), Vec::new());
        for entry in &metainfo.info.files {
            if entry.is_pad || entry.symlink.is_some() {
                paths.push(None);
                stamps.push(None);
                continue;
            }
            let (path, stamp) = files.next().unzip();
            let shown = || path.clone().unwrap_or_else(|| entry.path.to_relative_path());
            stamps.push(Some(fitting(stamp, entry.bytes, shown)?));
            paths.push(path);
        }
        let places = Places::Apart(paths.into());
        Ok(Self { places, metainfo, stamps: stamps.into(), open: Mutex::default() })
    }

    /// The torrent.
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        &self.metainfo
    }

    /// The file if it is open already and unchanged. Never waits for a disk.
    ///
    /// # Errors
    /// [`StoreError::Changed`].
    pub fn opened(&self, file: FileIndex) -> Result<Option<Arc<SealedFile>>, StoreError> {
        let found = self.lock().get(&file.get()).cloned();
        let Some(found) = found else { return Ok(None) };
        match found.check() {
            Ok(()) => Ok(Some(found)),
            Err(error) => {
                // Closed, so that what stands at its path now is looked at the next time.
                self.close(file.get());
                Err(error)
            }
        }
    }

    /// Opens a file, or takes the open one. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when it is not what was hashed, [`StoreError::Vanished`] when it is gone.
    pub fn open(&self, file: FileIndex) -> Result<Arc<SealedFile>, StoreError> {
        if let Ok(Some(found)) = self.opened(file) {
            return Ok(found);
        }
        let at = usize::try_from(file.get()).unwrap_or(usize::MAX);
        let (root, relative) = match &self.places {
            Places::Below(root) => (root.clone(), layout::path_of(&self.metainfo.info, file)),
            Places::Apart(paths) => {
                let path = paths.get(at).cloned().flatten().unwrap_or_default();
                let name = path.file_name().map(PathBuf::from).unwrap_or_default();
                (DataRoot::new(path.parent().map(Path::to_owned).unwrap_or_default()), name)
            }
        };
        let path = root.display_path(&relative);
        let stamp = self.stamps.get(at).copied().flatten();
        let stamp = stamp.ok_or_else(|| StoreError::Vanished { path: path.clone() })?;
        let found = root.open(&relative, Access::Read)?;
        let found = found.ok_or_else(|| StoreError::Vanished { path: path.clone() })?;
        let opened = Arc::new(SealedFile::new(File::from(found.fd), stamp, path));
        opened.check()?;
        self.keep(file.get(), &opened);
        Ok(opened)
    }

    /// Whether every file is there and as it was. Blocks on the disk: one `stat` a file.
    pub fn are_unchanged(&self) -> bool {
        let info = &self.metainfo.info;
        info.files.iter().zip(&self.stamps).enumerate().all(|(at, (entry, stamp))| {
            let Some(stamp) = stamp else { return true };
            let path = match &self.places {
                Places::Below(root) => root.display_path(&layout::path_of_entry(info, entry)),
                // Nothing of it is ever read.
                Places::Apart(_) if entry.bytes == 0 => return true,
                Places::Apart(paths) => paths.get(at).cloned().flatten().unwrap_or_default(),
            };
            path.symlink_metadata().is_ok_and(|found| found.is_file() && Stamp::of(&found) == *stamp)
        })
    }

    fn keep(&self, file: u32, opened: &Arc<SealedFile>) {
        use std::sync::atomic::Ordering::Relaxed;
        let mut pushed_out = Vec::new();
        {
            let mut open = self.lock();
            let before = open.len();
            while open.len() >= OPEN_OF_ONE {
                let Some(any) = open.keys().next().copied() else { break };
                pushed_out.extend(open.remove(&any));
            }
            if OPEN.load(Relaxed) < OPEN_EVERYWHERE {
                pushed_out.extend(open.insert(file, Arc::clone(opened)));
            }
            count(before, open.len());
        }
        drop(pushed_out);
    }

    fn close(&self, file: u32) {
        let mut open = self.lock();
        let before = open.len();
        let closed = open.remove(&file);
        count(before, open.len());
        drop(open);
        drop(closed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<SealedFile>>> {
        // Whole between any two statements.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_exact(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let open = self.open(file)?;
        let read = spans::read_exact(&open.file, buf, offset);
        self.finish(&open, read)
    }

    /// The outcome of a read, once the file was looked at again.
    fn finish<T>(&self, open: &SealedFile, read: Result<T, TransferError>) -> Result<T, StoreError> {
        open.check()?;
        read.map_err(|error| match error {
            TransferError::Errno(errno) => StoreError::errno("read", &open.path)(errno),
            TransferError::Short => StoreError::Changed { path: open.path.clone() },
        })
    }
}

/// The stamp, if it is that of a file of so many bytes.
fn fitting(stamp: Option<Stamp>, bytes: u64, path: impl FnOnce() -> PathBuf) -> Result<Stamp, StoreError> {
    match stamp {
        Some(stamp) if stamp.bytes == bytes => Ok(stamp),
        stamp => {
            let found = stamp.map_or(0, |stamp| stamp.bytes);
            Err(StoreError::FileLength { path: path(), expected: bytes, found })
        }
    }
}

/// Keeps the count of open files over all torrents.
fn count(before: usize, now: usize) {
    use std::sync::atomic::Ordering::Relaxed;
    if now >= before {
        OPEN.fetch_add(now - before, Relaxed);
    } else {
        OPEN.fetch_sub(before - now, Relaxed);
    }
}

impl Drop for SealedFiles {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        count(open.len(), 0);
    }
}

/// [`SealedFiles`] as the engine's store: complete from the start, and never written.
#[derive(Debug)]
pub struct SealedStore(Arc<SealedFiles>);

impl SealedStore {
    /// A store over these files.
    pub fn new(files: Arc<SealedFiles>) -> Self {
        Self(files)
    }

    fn check_range(&self, file: FileIndex, offset: u64, len: usize) -> Result<(), StoreError> {
        let end = self.0.metainfo.info.geometry.file_len(file);
        let len = len as u64;
        match offset.checked_add(len) {
            Some(last) if last <= end => Ok(()),
            _ => Err(StoreError::Range { offset, len, end }),
        }
    }

    fn refuse(&self) -> StoreError {
        let path = PathBuf::from(&self.0.metainfo.info.name);
        let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "what is shared is never written");
        StoreError::Io { op: "write", path, source }
    }
}

impl PieceStore for SealedStore {
    fn write_piece(&self, _piece: PieceIndex, _blocks: &[Bytes]) -> Result<(), StoreError> {
        Err(self.refuse())
    }

    fn read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        self.check_range(file, offset, buf.len())?;
        if buf.is_empty() { Ok(()) } else { self.0.read_exact(file, offset, buf) }
    }

    fn try_read_file(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> Result<TryRead, StoreError> {
        self.check_range(file, offset, buf.len())?;
        if buf.is_empty() {
            return Ok(TryRead::Done);
        }
        let Some(open) = self.0.opened(file)? else { return Ok(TryRead::WouldBlock) };
        let read = spans::try_read_exact(&open.file, buf, offset);
        self.0.finish(&open, read)
    }

    fn read_piece(&self, piece: PieceIndex, range: Range<u32>, buf: &mut [u8]) -> Result<(), StoreError> {
        let geometry = &self.0.metainfo.info.geometry;
        spans::read_piece(geometry, piece, range, buf, |file, offset, part| {
            self.0.read_exact(file, offset, part)
        })
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn forget_pieces(&self, _pieces: &[PieceIndex]) -> Result<(), StoreError> {
        Err(self.refuse())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::store::fixture::{Sample, entry};

    fn stamps(sample: &Sample, dir: &Path) -> Vec<Stamp> {
        let info = &sample.metainfo.info;
        let paths = info.files.iter().map(|entry| dir.join(layout::path_of_entry(info, entry)));
        paths.map(|path| Stamp::of(&path.symlink_metadata().unwrap())).collect()
    }

    fn laid_out() -> (tempfile::TempDir, Sample, Arc<SealedFiles>) {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::new(10_000, vec![entry("a", 25_000), entry("d/b", 0), entry("c", 12_345)]);
        sample.lay_out(dir.path());
        let stamps = stamps(&sample, dir.path());
        let files = SealedFiles::new(dir.path().to_owned(), sample.metainfo.clone(), stamps).unwrap();
        (dir, sample, Arc::new(files))
    }

    #[test]
    fn pieces_read_across_files_as_they_were_hashed() {
        let (_dir, sample, files) = laid_out();
        assert!(files.are_unchanged());
        let store = SealedStore::new(files);
        for piece in sample.pieces() {
            let len = sample.metainfo.info.geometry.piece_len(piece);
            let mut buf = vec![0; len as usize];
            store.read_piece(piece, 0..len, &mut buf).unwrap();
            assert_eq!(buf, sample.blocks(piece).concat(), "{piece}");
        }
    }

    #[test]
    fn a_file_that_was_written_replaced_or_removed_is_not_read() {
        type Harm = fn(&Path);
        let harms: [(&str, Harm); 3] = [
            ("written", |path| {
                let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all(b"x").unwrap();
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
                file.set_modified(later).unwrap();
            }),
            ("replaced", |path| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path.with_extension("new"), bytes).unwrap();
                std::fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("removed", |path| std::fs::remove_file(path).unwrap()),
        ];
        for (harm, act) in harms {
            let (dir, sample, files) = laid_out();
            let file = sample.metainfo.info.geometry.file(0).unwrap();
            act(&dir.path().join(&sample.metainfo.info.name).join("a"));
            assert!(!files.are_unchanged(), "{harm}");
            let error = SealedStore::new(files).read_file(file, 0, &mut [0; 10]).unwrap_err();
            let is_told = matches!(error, StoreError::Changed { .. } | StoreError::Vanished { .. });
            assert!(is_told, "{harm}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_written_while_open_is_closed() {
        let (dir, sample, files) = laid_out();
        let file = sample.metainfo.info.geometry.file(0).unwrap();
        let _open = files.open(file).unwrap();
        assert!(files.opened(file).unwrap().is_some());
        let path = dir.path().join(&sample.metainfo.info.name).join("a");
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
        assert!(matches!(files.opened(file), Err(StoreError::Changed { .. })));
        assert!(files.opened(file).unwrap().is_none());
        assert!(matches!(files.open(file), Err(StoreError::Changed { .. })));
    }

    #[test]
    fn a_link_in_a_files_place_is_not_followed() {
        let (dir, sample, files) = laid_out();
        let path = dir.path().join(&sample.metainfo.info.name).join("a");
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let error = files.open(sample.metainfo.info.geometry.file(0).unwrap()).unwrap_err();
        assert!(matches!(error, StoreError::WrongType { .. }), "{error}");
        assert!(!files.are_unchanged());
    }

    #[test]
    fn files_may_be_anywhere_under_any_name_and_one_may_stand_for_two() {
        let (dir, sample, _files) = laid_out();
        let info = &sample.metainfo.info;
        let place = |name: &str| dir.path().join(name);
        for (entry, name) in info.files.iter().zip(["x", "y", "z"]) {
            std::fs::rename(dir.path().join(layout::path_of_entry(info, entry)), place(name)).unwrap();
        }
        let files = |names: &[&str]| {
            let stamped = |name: &&str| (place(name), Stamp::of(&place(name).symlink_metadata().unwrap()));
            SealedFiles::at(sample.metainfo.clone(), names.iter().map(stamped))
        };
        let apart = Arc::new(files(&["x", "y", "z"]).unwrap());
        assert!(apart.are_unchanged());
        let store = SealedStore::new(apart.clone());
        for piece in sample.pieces() {
            let len = info.geometry.piece_len(piece);
            let mut buf = vec![0; len as usize];
            store.read_piece(piece, 0..len, &mut buf).unwrap();
            assert_eq!(buf, sample.blocks(piece).concat(), "{piece}");
        }
        assert!(matches!(files(&["x", "y"]), Err(StoreError::FileLength { .. })));
        assert!(matches!(files(&["z", "y", "x"]), Err(StoreError::FileLength { .. })));
        std::fs::remove_file(place("y")).unwrap();
        assert!(apart.are_unchanged(), "it has no bytes");
        std::fs::remove_file(place("z")).unwrap();
        assert!(!apart.are_unchanged());
    }

    #[test]
    fn stamps_that_do_not_fit_the_torrent_are_refused() {
        let (dir, sample, _files) = laid_out();
        let mut found = stamps(&sample, dir.path());
        found.pop();
        let refused = SealedFiles::new(dir.path().to_owned(), sample.metainfo.clone(), found);
        assert!(matches!(refused, Err(StoreError::FileLength { .. })));
    }
}
