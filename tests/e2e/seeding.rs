//! What wtfs has it gives: from `wtfs seed`, and from a mount as far as it has been read; wtfs to wtfs, and to a
//! plain peer that checks every block it is sent.

use std::time::Duration;

use wtfs_testkit::{
    peer::{Content, Fault, ScriptedPeer, Start},
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    content::Tree,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const BLOCK_BYTES: u64 = 16 << 10;

#[test]
fn a_directory_goes_from_wtfs_seed_to_wtfs_get_whole() {
    let stage = Stage::new("seed-get");
    let tree = Tree::repository();
    let data = stage.subdir("seeded");
    tree.write(&data.join("repo"));
    let torrent = stage.join("repo.torrent");
    let made = stage.run(&["create", &text(&data.join("repo")), "-o", &text(&torrent)]);
    let _said = made.expect_success("wtfs create");
    let (_seed, addr) = stage.seed(&torrent, &data, &[]);
    let out = stage.subdir("out");
    let peer = addr.to_string();
    let args = ["get", &text(&torrent), "-o", &text(&out), "--peer", &peer, "--stall-timeout", "60s"];
    let _said = stage.run_within(PATIENCE, &args).expect_success("wtfs get");
    assert_eq!(tree.differences(&out.join("repo")), Vec::<String>::new());
}

#[test]
fn wtfs_seed_gives_every_block_right_to_a_plain_peer() {
    let stage = Stage::new("seed-plain");
    let (ramp, bytes) = (Ramp::new(21), 5_000_001);
    let torrent = TorrentFile::ramp("plain.bin", ramp, bytes, 128 << 10, &[]);
    let data = stage.subdir("seeded");
    ramp.write_file(&data.join("plain.bin"), bytes).expect("the scratch directory can be written");
    let (_seed, addr) = stage.seed(&stage.write_torrent(&torrent), &data, &[]);
    let leech = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::Leech);
    leech.dial(addr).expect("wtfs seed listens");
    let blocks = bytes.div_ceil(BLOCK_BYTES);
    eventually("all blocks", PATIENCE, || (leech.counts().good_blocks_received == blocks).then_some(()));
    assert_eq!(leech.counts().blocks_received, blocks);
}

#[test]
fn data_that_does_not_match_is_not_seeded() {
    let stage = Stage::new("seed-bad");
    let (ramp, bytes) = (Ramp::new(22), 1_000_000);
    let torrent = TorrentFile::ramp("bad.bin", ramp, bytes, 64 << 10, &[]);
    let path = stage.write_torrent(&torrent);
    let data = stage.subdir("seeded");
    // The right length, the wrong bytes.
    Ramp::new(23).write_file(&data.join("bad.bin"), bytes).expect("the scratch directory can be written");
    let listen = wtfs_testkit::net::fresh_addr();
    let args = ["seed", "--listen", &listen.to_string(), &text(&path), &text(&data)];
    let done = stage.run_within(PATIENCE, &args);
    assert_eq!(done.code(), Some(6), "{done:?}");
    assert!(!done.stderr.is_empty(), "it must say why");
}

#[test]
fn a_mount_gives_on_what_was_read_through_it() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("mount-gives");
    let (ramp, bytes) = (Ramp::new(24), 4 << 20);
    let torrent = TorrentFile::ramp("given.bin", ramp, bytes, 64 << 10, &[]);
    let path = text(&stage.write_torrent(&torrent));
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let mount = stage.mount(&[&path], &["--peer", &seeder.addr().to_string()]);
    ramp.check_file(&mount.join("given.bin"), bytes).expect("every byte is right");
    let leech = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::Leech);
    leech.dial(mount.listen()).expect("the mount listens");
    let blocks = bytes / BLOCK_BYTES;
    eventually("all blocks", PATIENCE, || (leech.counts().good_blocks_received == blocks).then_some(()));
    // The status is published a few times a second.
    eventually("what was given is counted", PATIENCE, || {
        (mount.torrent_status()["uploaded_bytes"] == bytes).then_some(())
    });
}

#[test]
fn a_mount_without_upload_gives_nothing() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("no-upload");
    let (ramp, bytes) = (Ramp::new(25), 1 << 20);
    let torrent = TorrentFile::ramp("kept.bin", ramp, bytes, 64 << 10, &[]);
    let path = text(&stage.write_torrent(&torrent));
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let mount = stage.mount(&[&path], &["--no-upload", "--peer", &seeder.addr().to_string()]);
    let leech = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::Leech);
    leech.dial(mount.listen()).expect("the mount listens");
    ramp.check_file(&mount.join("kept.bin"), bytes).expect("every byte is right");
    let is_leech = |peer: &&serde_json::Value| peer["is_interested"] == true;
    let peer = eventually("the leech is known to want something", PATIENCE, || {
        let status = mount.torrent_status();
        status["peers"].as_array()?.iter().find(is_leech).cloned()
    });
    assert_eq!(peer["is_unchoked"], false, "{peer}");
    assert_eq!(leech.counts().blocks_received, 0);
    assert_eq!(mount.torrent_status()["uploaded_bytes"], 0);
}

#[test]
fn wtfs_mount_reads_from_a_mount_that_reads_from_wtfs_seed() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("chain");
    let (ramp, bytes) = (Ramp::new(26), 8_000_003);
    let torrent = TorrentFile::ramp("chain.bin", ramp, bytes, 128 << 10, &[]);
    let path = stage.write_torrent(&torrent);
    let data = stage.subdir("seeded");
    ramp.write_file(&data.join("chain.bin"), bytes).expect("the scratch directory can be written");
    let (_seed, addr) = stage.seed(&path, &data, &[]);
    let first = stage.mount(&[&text(&path)], &["--peer", &addr.to_string()]);
    // Another cache: two processes do not share one torrent's.
    let cache = text(&stage.subdir("second-cache"));
    let peer = first.listen().to_string();
    let second = stage.mount(&[&text(&path)], &["--peer", &peer, "--cache-dir", &cache]);
    ramp.check_file(&first.join("chain.bin"), bytes).expect("every byte is right");
    ramp.check_file(&second.join("chain.bin"), bytes).expect("every byte is right there too");
}

#[test]
fn more_leechers_than_upload_slots_are_all_served() {
    let stage = Stage::new("seed-many");
    let (ramp, bytes) = (Ramp::new(27), 3_000_000);
    let torrent = TorrentFile::ramp("many.bin", ramp, bytes, 128 << 10, &[]);
    let data = stage.subdir("seeded");
    ramp.write_file(&data.join("many.bin"), bytes).expect("the scratch directory can be written");
    let (_seed, addr) = stage.seed(&stage.write_torrent(&torrent), &data, &[]);
    let leeches: Vec<_> =
        (0..20).map(|_| ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::Leech)).collect();
    for leech in &leeches {
        leech.dial(addr).expect("wtfs seed listens");
    }
    let blocks = bytes.div_ceil(BLOCK_BYTES);
    let done = || leeches.iter().filter(|leech| leech.counts().good_blocks_received == blocks).count();
    // Four have a place at a time, for ten seconds and more where each of them is slow.
    eventually("each leech has all blocks", Duration::from_secs(400), || {
        (done() == leeches.len()).then_some(())
    });
}
