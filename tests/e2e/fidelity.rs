//! What is read through a mount is what the seeder has: every byte, in any order, by any kind of reader, from a
//! .torrent and from a magnet link.

use std::{fs, sync::Arc, time::Duration};

use serde_json::json;
use wtfs_testkit::{
    http_tracker::{Answer, HttpTracker},
    peer::{Content, ScriptedPeer, Start},
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    content::{LARGE, Tree, kept_ramp_file},
    libtorrent::{self, Libtorrent},
    mount::Mount,
    need::{Need, missing},
    reading::{
        self, assert_ramp, assert_ramp_at_once, assert_same, assert_same_mapped, backward_plan, random_plan,
    },
    stage::{PATIENCE, Stage, text, walk},
};

const GIBIBYTE: u64 = 1 << 30;
const NEEDS: &[Need] = &[Need::Fuse, Need::Libtorrent];
/// Moving a gibibyte on a loaded machine may take its time: these tests prove no speed.
const LONG: Duration = Duration::from_secs(400);
/// Far below the gibibyte that goes through: what is read must not pile up.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

#[test]
fn a_gibibyte_from_a_torrent_file_is_read_exactly_by_every_kind_of_reader() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("gib-file");
    let original = kept_ramp_file(GIBIBYTE);
    let home = original.parent().expect("it is in a directory");
    let torrent = libtorrent::create(&stage, &original, 1 << 20, &[]);
    assert_eq!(torrent.total_bytes, GIBIBYTE);
    let seeder = Libtorrent::seeder(&stage, &torrent.path, home);
    let mut mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    let found = mount.join("large.bin");
    let ramp = Ramp::new(LARGE);

    // Cold first: each of these meets bytes that nobody has read before.
    assert_ramp(&found, ramp, &random_plan(99, GIBIBYTE, 100));
    assert_ramp_at_once(&found, ramp, GIBIBYTE, 8, 60);
    assert_same_mapped(&found, &original, 60, LONG);
    assert_same(&found, &original);
    // All of it is local now.
    assert_ramp_at_once(&found, ramp, GIBIBYTE, 8, 200);
    let status = eventually("all of it is on record as local", PATIENCE, || {
        Some(mount.torrent_status()).filter(|status| status["pieces_present"] == status["pieces"])
    });
    assert_eq!(status["failed_pieces"], 0, "{status}");
    assert_memory(&mut mount);
}

#[test]
fn a_gibibyte_from_a_magnet_is_read_exactly_from_its_end_to_its_start() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("gib-magnet");
    let original = kept_ramp_file(GIBIBYTE);
    let home = original.parent().expect("it is in a directory");
    let torrent = libtorrent::create(&stage, &original, 1 << 20, &[]);
    let seeder = Libtorrent::seeder(&stage, &torrent.path, home);
    let mut mount = stage.mount(&[&torrent.magnet(&[seeder.addr()], &[])], &[]);
    let found = mount.wait_for_entry("large.bin");

    assert_ramp(&found, Ramp::new(LARGE), &backward_plan(GIBIBYTE, 3_333_333));
    assert_same_mapped(&found, &original, usize::MAX >> 1, LONG);
    assert_memory(&mut mount);
}

#[track_caller]
fn assert_memory(mount: &mut Mount<'_>) {
    let peak = mount.process().peak_memory_bytes().expect("the daemon runs");
    println!("{} MiB were resident at most", peak >> 20);
    assert!(peak < MAX_MEMORY_BYTES, "{} MiB were resident", peak >> 20);
}

#[test]
fn a_repository_from_a_torrent_file_has_every_name_and_every_byte() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("repo-file");
    let tree = Tree::repository();
    let data = stage.subdir("seeded");
    tree.write(&data.join("repo"));
    let torrent = libtorrent::create(&stage, &data.join("repo"), 256 << 10, &[]);
    let seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);

    // Names and sizes need no data.
    assert_eq!(walk(&mount.join("repo")), walk(&data.join("repo")));
    for file in &tree.files {
        let shown = fs::metadata(mount.join("repo").join(&file.path)).expect("each file can be looked at");
        assert_eq!(shown.len(), file.bytes, "{}", file.path.display());
    }
    let large = &tree.files[1];
    let found = mount.join("repo").join(&large.path);
    assert_ramp_at_once(&found, large.ramp, large.bytes, 8, 40);
    assert_eq!(tree.differences(&mount.join("repo")), Vec::<String>::new());
    for file in tree.files.iter().filter(|file| file.bytes > 0).take(12) {
        let found = mount.join("repo").join(&file.path);
        assert_ramp(&found, file.ramp, &backward_plan(file.bytes, 99_991));
        assert_same_mapped(&found, &data.join("repo").join(&file.path), 100, LONG);
    }
}

#[test]
fn a_repository_from_a_magnet_with_a_tracker_has_every_name_and_every_byte() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("repo-magnet");
    let tree = Tree::repository();
    let data = stage.subdir("seeded");
    tree.write(&data.join("repo"));
    let torrent = libtorrent::create(&stage, &data.join("repo"), 64 << 10, &[]);
    let seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
    let tracker = HttpTracker::start(Answer::Peers(vec![seeder.addr()]));
    let mount = stage.mount(&[&torrent.magnet(&[], &[tracker.announce_url()])], &[]);
    let root = mount.wait_for_entry("repo");

    assert_eq!(walk(&root), walk(&data.join("repo")));
    assert_eq!(tree.differences(&root), Vec::<String>::new());
    assert!(!tracker.requests().is_empty());
    assert_eq!(torrent.pieces, tree.total_bytes().div_ceil(torrent.piece_bytes));
}

#[test]
fn two_torrents_in_one_mount_keep_their_bytes_apart() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("two");
    let data = stage.subdir("seeded");
    let files = [("one.bin", Ramp::new(1), 3_000_000), ("two.bin", Ramp::new(2), 5_000_001)];
    let mut seeders = Vec::new();
    let mut flags = Vec::new();
    let mut sources = Vec::new();
    for (name, ramp, bytes) in files {
        ramp.write_file(&data.join(name), bytes).expect("the scratch directory can be written");
        let torrent = libtorrent::create(&stage, &data.join(name), 32 << 10, &[]);
        let seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
        flags.extend(["--peer".to_owned(), seeder.addr().to_string()]);
        sources.push(text(&torrent.path));
        seeders.push(seeder);
    }
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mount = stage.mount(&sources, &flags);
    for (name, ramp, bytes) in files {
        ramp.check_file(&mount.join(name), bytes).expect("each file holds its own bytes");
    }
    let shown = reading::names(mount.dir());
    assert!(
        ["one.bin", "two.bin"].iter().all(|name| shown.iter().any(|n| n.as_os_str() == *name)),
        "{shown:?}"
    );
}

#[test]
fn a_hybrid_torrent_of_libtorrent_shows_its_files_and_no_padding() {
    repository_is_exact("hybrid", "hybrid");
}

#[test]
fn a_v2_torrent_of_libtorrent_has_every_name_and_every_byte() {
    repository_is_exact("v2-only", "v2");
}

fn repository_is_exact(name: &str, version: &str) {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new(name);
    let tree = Tree::repository();
    let data = stage.subdir("seeded");
    tree.write(&data.join("repo"));
    let torrent =
        libtorrent::create_with(&stage, &data.join("repo"), 64 << 10, &json!({ "version": version }));
    let seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    assert_eq!(walk(&mount.join("repo")), walk(&data.join("repo")));
    assert_eq!(tree.differences(&mount.join("repo")), Vec::<String>::new());
}

#[test]
fn a_directory_of_thirty_thousand_files_from_a_magnet_is_listed_whole() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("wide");
    let names: Vec<String> = (0..30_000).map(|i| format!("file-{i:05}")).collect();
    let files: Vec<_> =
        names.iter().map(|name| (vec![&b"dir"[..], name.as_bytes()], b"x".to_vec())).collect();
    let torrent = TorrentFile::directory(b"wide", &files, 16 << 10);
    assert!(torrent.info.len() > 20 * 16 * 1024, "the metadata comes in many parts");
    let content = Content::Bytes(Arc::new(vec![b'x'; files.len()]));
    let seeder = ScriptedPeer::seeder(&torrent, content, Start::Open);
    let link = libtorrent::magnet(&torrent.hash_hex(), &[seeder.addr()], &[]);
    let mount = stage.mount(&[&link], &[]);
    let root = mount.wait_for_entry("wide");
    let shown: Vec<String> = reading::names(&root.join("dir")).iter().map(|name| text(name)).collect();
    assert!(shown == names, "{} names are shown", shown.len());
    assert_eq!(fs::read(root.join("dir/file-29999")).expect("it can be read"), b"x");
}
