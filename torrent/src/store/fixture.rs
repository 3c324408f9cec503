//! Small torrents with known bytes, for the tests of the stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha1::{Digest, Sha1};
use wtfs_proto::geometry::{FileIndex, PieceIndex};
use wtfs_proto::metainfo::{FileEntry, InfoBuilder, Metainfo, MetainfoBuilder};
use wtfs_proto::path::TorrentPath;

use super::{DataOwner, FileStore, FileStoreConfig};

/// Bytes of one block as the tests hand them to a store: odd, so that blocks and files never meet by chance.
const TEST_BLOCK_BYTES: usize = 1000;

pub(crate) struct Sample {
    pub(crate) metainfo: Arc<Metainfo>,
    /// All bytes of the torrent, pads included.
    content: Vec<u8>,
}

pub(crate) fn entry(path: &str, bytes: u64) -> FileEntry {
    FileEntry::new(TorrentPath::from_components(path.split('/')).unwrap(), bytes)
}

pub(crate) fn pad(path: &str, bytes: u64) -> FileEntry {
    FileEntry { is_pad: true, ..entry(path, bytes) }
}

impl Sample {
    /// A directory torrent called `t` of these files, filled with noise.
    pub(crate) fn new(piece_bytes: u32, files: Vec<FileEntry>) -> Self {
        let mut noise = fastrand::Rng::with_seed(0x5eed);
        let mut content = Vec::new();
        let mut info = InfoBuilder::directory("t", piece_bytes);
        for file in files {
            let fill = |_| if file.is_pad { 0 } else { noise.u8(1..) };
            content.extend((0..file.bytes).map(fill));
            info.push(file);
        }
        let hashes: Vec<u8> = content.chunks(piece_bytes as usize).flat_map(Sha1::digest).collect();
        let info = info.finish(&hashes).unwrap();
        Self { metainfo: Arc::new(MetainfoBuilder::new(info).unwrap().finish()), content }
    }

    pub(crate) fn piece(&self, piece: u32) -> PieceIndex {
        self.metainfo.info.geometry.piece(piece).unwrap()
    }

    pub(crate) fn file(&self, file: usize) -> FileIndex {
        self.metainfo.info.geometry.file(file).unwrap()
    }

    pub(crate) fn pieces(&self) -> Vec<PieceIndex> {
        self.metainfo.info.geometry.pieces().collect()
    }

    pub(crate) fn piece_content(&self, piece: PieceIndex) -> &[u8] {
        let geometry = &self.metainfo.info.geometry;
        let start = geometry.piece_offset(piece) as usize;
        &self.content[start..start + geometry.piece_len(piece) as usize]
    }

    pub(crate) fn blocks(&self, piece: PieceIndex) -> Vec<Bytes> {
        self.piece_content(piece).chunks(TEST_BLOCK_BYTES).map(Bytes::copy_from_slice).collect()
    }

    /// Writes the files below a directory, as somebody who has them all.
    pub(crate) fn lay_out(&self, dir: &Path) {
        for (at, entry) in self.metainfo.info.files.iter().enumerate() {
            let path = dir.join(&self.metainfo.info.name).join(entry.path.to_relative_path());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, self.file_content(at)).unwrap();
        }
    }

    pub(crate) fn file_content(&self, file: usize) -> &[u8] {
        let files = &self.metainfo.info.files;
        let start: u64 = files[..file].iter().map(|file| file.bytes).sum();
        &self.content[start as usize..(start + files[file].bytes) as usize]
    }
}

/// Directories of one store, removed with the value.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn config(&self) -> FileStoreConfig {
        FileStoreConfig { data_dir: self.data_dir(), state_dir: self.state(""), owner: DataOwner::User }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join("state").join(name)
    }

    pub(crate) fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// Opens the store; the second value are the present pieces.
    pub(crate) fn open(&self, sample: &Sample) -> (FileStore, Vec<u32>) {
        let (store, present) = FileStore::open(self.config(), Arc::clone(&sample.metainfo)).unwrap();
        (store, present.iter_ones().collect())
    }
}
