//! Any bytes as a `.torrent` and as `info` from peers: no panic, no path that leaves its directory, hashes that fit the
//! pieces, and a torrent that was accepted can be written and is accepted again as the same torrent.
#![no_main]

use std::path::Component;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wtfs_proto::metainfo::{Metainfo, Version};

fuzz_target!(|data: &[u8]| {
    let info = Bytes::copy_from_slice(data);
    for metainfo in [Metainfo::parse(data), Metainfo::from_info(info, vec![], vec![])].into_iter().flatten() {
        check(&metainfo);
        let again = Metainfo::parse(&metainfo.to_bytes()).expect("what was accepted is accepted again");
        assert_eq!(again.info, metainfo.info);
        assert_eq!(again.hashes, metainfo.hashes);
    }
});

fn check(metainfo: &Metainfo) {
    let info = &metainfo.info;
    let normal = |path: std::path::PathBuf| path.components().all(|c| matches!(c, Component::Normal(_)));
    assert!(normal(info.name.clone().into()));
    for file in &info.files {
        assert!(normal(file.path.to_relative_path()));
        assert!(file.symlink.iter().all(|target| normal(target.to_relative_path())));
    }
    assert_eq!(info.geometry.file_count(), info.files.len());
    if info.version != Version::V2 {
        assert_eq!(info.pieces.len() as u64, u64::from(info.geometry.piece_count()) * 20);
    }
    assert!(metainfo.hashes.matches(&metainfo.info_bytes));
}
