//! A torrent of one file of known content, and how it is added where its data lies ready.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::create::{CreateOptions, create};
use wtfs_torrent::{AddOptions, ExistingData, StorageKind};

/// The file's bytes: each follows from its offset, so that a wrong one is seen.
pub(crate) fn ramp(range: Range<u64>) -> Vec<u8> {
    range.map(|offset| (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Writes `len` bytes into `data.bin` of `dir`, and makes the torrent of it.
pub(crate) async fn lay_out(dir: &Path, len: u64, piece_bytes: u32) -> Metainfo {
    let path = dir.join("data.bin");
    std::fs::write(&path, ramp(0..len)).expect("the data is written");
    let options = CreateOptions { piece_bytes: Some(piece_bytes), ..CreateOptions::new(path) };
    tokio::task::spawn_blocking(move || {
        create(&options, &|_| {}, &AtomicBool::new(false)).expect("a torrent is made")
    })
    .await
    .expect("no panic")
}

/// How to add a torrent whose data lies in `dir`.
pub(crate) fn lying_in(dir: &Path) -> AddOptions {
    AddOptions {
        storage: StorageKind::Directory(dir.to_owned()),
        existing: ExistingData::Verify,
        ..AddOptions::default()
    }
}
