//! A small read of a v2 torrent takes its blocks and their hashes from libtorrent, and not the piece.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;
use wtfs_testkit::ramp::Ramp;

use crate::support::{
    libtorrent::{self, Libtorrent, MadeTorrent},
    mount::Mount,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const RAMP: u64 = 57;
const PIECE: u32 = 4 << 20;
const BYTES: u64 = 5 * PIECE as u64 + 70_000;
/// At this rate a piece takes more than a minute.
const SLOW: u64 = 64 << 10;

fn made(stage: &Stage, version: &str) -> (PathBuf, MadeTorrent) {
    let data = stage.subdir("seeded");
    Ramp::new(RAMP).write_file(&data.join("x.bin"), BYTES).expect("the scratch directory can be written");
    let torrent = libtorrent::create_with(stage, &data.join("x.bin"), PIECE, &json!({ "version": version }));
    (data, torrent)
}

/// A seeder that has hashed its data, and so knows the hash of each block.
fn checked_seeder(stage: &Stage, torrent: &Path, data: &Path) -> Libtorrent {
    let mut seeder = Libtorrent::leecher(stage, torrent, data, &[]);
    seeder.wait_complete(PATIENCE);
    seeder
}

fn mount<'s>(stage: &'s Stage, torrent: &MadeTorrent, seeder: &Libtorrent) -> Mount<'s> {
    stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()])
}

#[track_caller]
fn read(file: &File, offset: u64, len: usize) {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).expect("it can be read");
    Ramp::new(RAMP).check(offset, &bytes).expect("the bytes are right");
}

#[track_caller]
fn assert_small_reads_take_blocks(version: &str) {
    let stage = Stage::new(&format!("blocks-{version}"));
    let (data, torrent) = made(&stage, version);
    let mut seeder = checked_seeder(&stage, &torrent.path, &data);
    seeder.limit_upload(SLOW);
    let mount = mount(&stage, &torrent, &seeder);
    let file = File::open(mount.join("x.bin")).expect("it can be opened");
    read(&file, 2 * u64::from(PIECE) + 1_234_567, 4096);
    let uploaded = seeder.stats().uploaded;
    assert!(uploaded < u64::from(PIECE) / 2, "{uploaded} bytes for 4 KiB");
}

#[test]
fn a_small_read_of_a_v2_torrent_takes_less_than_a_piece() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    assert_small_reads_take_blocks("v2");
}

#[test]
fn a_small_read_of_a_hybrid_torrent_takes_less_than_a_piece() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    assert_small_reads_take_blocks("hybrid");
}

#[test]
fn every_byte_of_v2_and_hybrid_torrents_is_right_also_from_a_seeder_that_has_hashed_nothing() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    for version in ["v2", "hybrid"] {
        let stage = Stage::new(&format!("blocks-all-{version}"));
        let (data, torrent) = made(&stage, version);
        // In seed mode libtorrent refuses the hashes of blocks until it has read the piece for us.
        let mut seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
        let mount = mount(&stage, &torrent, &seeder);
        let file = File::open(mount.join("x.bin")).expect("it can be opened");
        for at in [BYTES - 4096, u64::from(PIECE) - 2000, 5, 3 * u64::from(PIECE) + 99_999] {
            read(&file, at, 4096);
        }
        read(&file, 0, usize::try_from(BYTES).expect("it fits"));
        let uploaded = seeder.stats().uploaded;
        assert!(uploaded <= BYTES + BYTES / 8, "{uploaded} bytes for {BYTES}");
    }
}
