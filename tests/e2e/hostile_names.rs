//! A torrent with hostile names writes nothing outside its directory: it is refused with a message, or shown under
//! safe names.

use std::path::{Path, PathBuf};

use wtfs_testkit::{
    bencode::Value,
    peer::{Content, ScriptedPeer, Start},
    torrent_file::TorrentFile,
};

use crate::support::{
    need::{Need, missing},
    stage::{Stage, text, walk},
};

const PIECE: u32 = 16 << 10;
/// The exit code for a torrent that cannot be used.
const BAD_SOURCE: i32 = 3;

fn data(byte: u8) -> Vec<u8> {
    vec![byte; 5000]
}

/// A torrent named `name` with one harmless file and these others.
fn with_paths(name: &[u8], paths: &[&[&[u8]]]) -> TorrentFile {
    let mut files = vec![(vec![&b"harmless"[..]], data(1))];
    files.extend(paths.iter().zip(2..).map(|(path, byte)| (path.to_vec(), data(byte))));
    TorrentFile::directory(name, &files, PIECE)
}

/// Torrents that must be refused, each with a word for the message of a failing test.
fn refused() -> Vec<(&'static str, TorrentFile)> {
    let long_component = vec![b'x'; 4096];
    let many: Vec<&[u8]> = std::iter::repeat_n(&[b'y'; 200][..], 30).collect();
    vec![
        ("dot-dot in a path", with_paths(b"t", &[&[b"..", b"..", b"evil"]])),
        ("dot-dot in the middle", with_paths(b"t", &[&[b"a", b"..", b"..", b"evil"]])),
        ("dot-dot as the name", with_paths(b"..", &[&[b"evil"]])),
        ("a dot as the name", with_paths(b".", &[&[b"evil"]])),
        ("a slash in a component", with_paths(b"t", &[&[b"../evil"]])),
        ("an absolute component", with_paths(b"t", &[&[b"/tmp/evil"]])),
        ("an absolute name", with_paths(b"/tmp/evil", &[&[b"f"]])),
        ("a slash in the name", with_paths(b"../evil", &[&[b"f"]])),
        ("a NUL", with_paths(b"t", &[&[b"ev\0il"]])),
        ("a NUL in the name", with_paths(b"ev\0il", &[&[b"f"]])),
        ("a component of 4 KiB", with_paths(b"t", &[&[&long_component]])),
        ("a path of 6 KB", with_paths(b"t", &[&many])),
        ("two files of one name", with_paths(b"t", &[&[b"same"], &[b"same"]])),
        ("a file as the parent of another", with_paths(b"t", &[&[b"p"], &[b"p", b"child"]])),
        ("a child before its parent", with_paths(b"t", &[&[b"p", b"child"], &[b"p"]])),
        ("an empty path", with_paths(b"t", &[&[]])),
        ("a single file named dot-dot", TorrentFile::single("..", 5000, PIECE, &[0; 20], &[])),
        ("a single file of an absolute name", TorrentFile::single("/evil", 5000, PIECE, &[0; 20], &[])),
        ("a link out of the torrent", with_link(&[b"..", b"..", b"etc", b"passwd"], None)),
        ("an absolute link", with_link(&[b"/etc/passwd"], None)),
        ("a file behind a link", with_link(&[b"dir"], Some(&[b"link", b"evil"]))),
    ]
}

/// A torrent with a symbolic link (BEP 47) named `link` to this path, and one more file.
fn with_link(target: &[&[u8]], more: Option<&[&[u8]]>) -> TorrentFile {
    let list = |path: &[&[u8]]| Value::List(path.iter().map(Value::bytes).collect());
    let content = data(1);
    let plain = Value::dict([("length", Value::Int(5000)), ("path", list(&[b"harmless"]))]);
    let link = Value::dict([
        ("attr", Value::bytes("l")),
        ("length", Value::Int(0)),
        ("path", list(&[b"link"])),
        ("symlink path", list(target)),
    ]);
    let empty = |path| Value::dict([("length", Value::Int(0)), ("path", list(path))]);
    let files = [plain, link].into_iter().chain(more.map(empty)).collect();
    let info = Value::dict([
        ("files", Value::List(files)),
        ("name", Value::bytes("t")),
        ("piece length", Value::Int(i64::from(PIECE))),
        ("pieces", Value::bytes(wtfs_testkit::torrent_file::sha1(&content))),
    ]);
    TorrentFile::from_info(&info, 5000, &[])
}

/// All that stands in a stage outside of the directories where the program may write, with its own litter left out.
fn outside(stage: &Stage) -> Vec<PathBuf> {
    let ours = ["logs", "torrents", "cache", "state", "run", "mnt", "out"];
    let is_ours = |path: &PathBuf| ours.iter().any(|dir| path.starts_with(dir));
    walk(stage.path()).into_iter().filter(|path| !is_ours(path)).collect()
}

#[test]
fn hostile_torrents_are_refused_with_a_message_and_nothing_is_written() {
    let stage = Stage::new("names");
    // Deep enough that `../..` from here stays in sight.
    let out = stage.subdir("out/deep/er");
    let before = outside(&stage);
    let mut wrong = Vec::new();
    for (what, torrent) in refused() {
        let source = text(&stage.write_torrent(&torrent));
        let seeder = ScriptedPeer::seeder(&torrent, Content::Zeros, Start::Open);
        let peer = seeder.addr().to_string();
        let out_text = text(&out);
        let get = ["get", &source, "-o", &out_text, "--peer", &peer, "--stall-timeout", "5s"];
        for args in [&["info", &source][..], &get, &["verify", &source, &out_text]] {
            let done = stage.run(args);
            if done.code() != Some(BAD_SOURCE) || done.stderr.trim().is_empty() {
                wrong.push(format!("{what}: {}: {:?}: {}", args[0], done.code(), done.stderr));
            }
        }
        assert_eq!(walk(&stage.join("out")), [Path::new("deep"), Path::new("deep/er")], "{what}");
        assert_eq!(outside(&stage), before, "{what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!Path::new("/tmp/evil").exists() && !Path::new("/evil").exists());
}

#[test]
fn a_mount_refuses_a_hostile_torrent_and_leaves_no_mount_behind() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("names-mount");
    let (_, torrent) = refused().swap_remove(0);
    let source = text(&stage.write_torrent(&torrent));
    let dir = stage.subdir("mnt/refused");
    let done = stage.run(&["mount", &source, &text(&dir)]);
    assert_eq!(done.code(), Some(BAD_SOURCE), "{done:?}");
    assert!(done.stderr.contains(".."), "the message names the entry: {done:?}");
    assert!(!wtfs_testkit::scratch::is_mount_point(&dir));
}

#[test]
fn hostile_metadata_from_a_peer_is_refused_too() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("names-magnet");
    let (_, torrent) = refused().swap_remove(0);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Zeros, Start::Open);
    let link = crate::support::libtorrent::magnet(&torrent.hash_hex(), &[seeder.addr()], &[]);
    let mount = stage.mount(&[&link], &[]);
    let before = outside(&stage);
    let patience = crate::support::stage::PATIENCE;
    let status = wtfs_testkit::wait::eventually("the metadata is refused", patience, || {
        Some(mount.torrent_status()).filter(|status| status["phase"] == "failed")
    });
    assert!(status["message"].as_str().is_some_and(|message| message.contains("..")), "{status}");
    assert_eq!(outside(&stage), before);
    assert!(walk(&stage.join("cache")).iter().all(|path| !path.ends_with("evil")));
}

#[test]
fn odd_but_harmless_names_are_shown_and_read() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("names-odd");
    let names: [&[u8]; 9] = [
        b"...",
        b" leading and trailing ",
        b"-rf",
        b"new\nline",
        b"*?\"<>|:\\",
        "e\u{301} and \u{202e}right to left".as_bytes(),
        b"CON",
        b".hidden",
        &[b'n'; 255],
    ];
    let paths: Vec<&[&[u8]]> = names.iter().map(std::slice::from_ref).collect();
    let torrent = with_paths(b"odd", &paths);
    let content = (1..=10).flat_map(data).collect();
    let seeder = ScriptedPeer::seeder(&torrent, Content::Bytes(std::sync::Arc::new(content)), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--peer", &seeder.addr().to_string()]);
    for (name, byte) in names.iter().zip(2..) {
        let name = std::str::from_utf8(name).expect("these are UTF-8");
        let found = std::fs::read(mount.join("odd").join(name)).expect("it can be read");
        assert_eq!(found, data(byte), "{name:?}");
    }
}
