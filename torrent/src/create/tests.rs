//! What torrents come out of trees of files, and which trees are refused.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;

use sha1::{Digest, Sha1};
use wtfs_proto::metainfo::Layout;

use super::*;
use crate::store::check_data;

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| noise.u8(..)).collect()
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn make(options: &CreateOptions) -> Result<Metainfo, CreateError> {
    create(options, &|_| {}, &AtomicBool::new(false))
}

fn paths(torrent: &Metainfo) -> Vec<String> {
    torrent.info.files.iter().map(|file| file.path.to_string()).collect()
}

#[test]
fn a_directory_comes_out_in_path_order_and_verifies_against_itself() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("répo");
    for (seed, path) in ["b", "a/z", "a.txt", "a/b/ü", "a-", ".git/x"].into_iter().enumerate() {
        write(&root, path, &noise(30_000 + seed * 7_001, seed as u64));
    }
    write(&root, "empty", b"");
    std::fs::create_dir(root.join("nothing in here")).unwrap();
    std::fs::set_permissions(root.join("b"), PermissionsExt::from_mode(0o755)).unwrap();
    let torrent = make(&CreateOptions { piece_bytes: Some(32 << 10), ..CreateOptions::new(&root) }).unwrap();
    assert_eq!(paths(&torrent), [".git/x", "a-", "a.txt", "a/b/ü", "a/z", "b", "empty"]);
    assert_eq!((torrent.info.name.as_str(), torrent.info.layout), ("répo", Layout::Directory));
    assert!(torrent.info.files[5].is_executable && !torrent.info.files[4].is_executable);
    let report = check_data(&torrent, dir.path(), &|_, _| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.present.is_full());
    let again = make(&CreateOptions { piece_bytes: Some(32 << 10), ..CreateOptions::new(&root) }).unwrap();
    assert_eq!(torrent.to_bytes(), again.to_bytes());
}

#[test]
fn hashes_are_right_for_pieces_smaller_and_larger_than_a_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let content = noise(9_000_001, 1);
    write(dir.path(), "t/one", &content[..5_000_000]);
    write(dir.path(), "t/two", &content[5_000_000..]);
    for piece_bytes in [16 << 10, 512 << 10, 1 << 20, 4 << 20, 16 << 20, MAX_PIECE_BYTES] {
        let options =
            CreateOptions { piece_bytes: Some(piece_bytes), ..CreateOptions::new(dir.path().join("t")) };
        let torrent = make(&options).unwrap();
        let expected: Vec<u8> = content.chunks(piece_bytes as usize).flat_map(Sha1::digest).collect();
        assert!(torrent.info.pieces == expected, "pieces of {piece_bytes} bytes");
    }
}

#[test]
fn a_single_file_takes_its_name_or_the_given_one() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model.gguf", &noise(100_000, 2));
    let torrent = make(&CreateOptions::new(dir.path().join("model.gguf"))).unwrap();
    assert_eq!((torrent.info.name.as_str(), torrent.info.layout), ("model.gguf", Layout::SingleFile));
    let options =
        CreateOptions { name: Some("other".into()), ..CreateOptions::new(dir.path().join("model.gguf")) };
    let torrent = make(&options).unwrap();
    assert_eq!((torrent.info.name.as_str(), paths(&torrent)), ("other", vec!["other".to_owned()]));
}

#[test]
fn options_show_in_the_result() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "f", b"content");
    let options = CreateOptions {
        trackers: vec![vec!["http://a/announce".into()], vec!["udp://b:1/announce".into()]],
        web_seeds: vec!["http://c/".into()],
        privacy: Privacy::Private,
        comment: Some("hello".into()),
        source: Some("SRC".into()),
        created_by: Some("test".into()),
        creation_date: Some(1_000_000_000),
        ..CreateOptions::new(dir.path().join("f"))
    };
    let torrent = Metainfo::parse(&make(&options).unwrap().to_bytes()).unwrap();
    assert_eq!(torrent.announce, options.trackers);
    assert_eq!(torrent.url_list, options.web_seeds);
    assert!(torrent.info.is_private);
    assert_eq!((torrent.comment, torrent.info.source), (options.comment, options.source));
    assert_eq!((torrent.created_by, torrent.creation_date), (options.created_by, options.creation_date));
    assert_eq!(torrent.info.piece_bytes, choose_piece_bytes(7));
}

#[test]
fn links_inside_are_kept_and_links_outside_refused_unless_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("t");
    write(&root, "blobs/x", b"content");
    std::fs::create_dir_all(root.join("snapshots/1")).unwrap();
    symlink("../../blobs/x", root.join("snapshots/1/model")).unwrap();
    let torrent = make(&CreateOptions::new(&root)).unwrap();
    let link = &torrent.info.files[1];
    assert_eq!(link.path.to_string(), "snapshots/1/model");
    assert_eq!(link.symlink.as_ref().unwrap().to_string(), "blobs/x");
    for outside in ["/etc/passwd", "../../../t/blobs/x", "../.."] {
        let path = root.join("snapshots/1/out");
        symlink(outside, &path).unwrap();
        let error = make(&CreateOptions::new(&root)).unwrap_err();
        assert!(matches!(error, CreateError::LinkLeaves { .. }), "{outside}: {error}");
        let skipping = CreateOptions { symbolic_links: SymbolicLinks::Skip, ..CreateOptions::new(&root) };
        assert_eq!(paths(&make(&skipping).unwrap()), ["blobs/x"]);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn hidden_names_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "t/.git/config", b"x");
    write(dir.path(), "t/.env", b"x");
    write(dir.path(), "t/a/.b/c", b"x");
    write(dir.path(), "t/a/d", b"x");
    let options =
        CreateOptions { hidden_files: HiddenFiles::Skip, ..CreateOptions::new(dir.path().join("t")) };
    assert_eq!(paths(&make(&options).unwrap()), ["a/d"]);
}

#[test]
fn names_that_would_not_come_back_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("t");
    write(&root, "fine", b"content");
    let latin1 = root.join(OsStr::from_bytes(b"caf\xe9"));
    std::fs::write(&latin1, b"x").unwrap();
    let error = make(&CreateOptions::new(&root)).unwrap_err();
    assert!(matches!(&error, CreateError::NotUtf8 { path } if *path == latin1), "{error}");
    std::fs::remove_file(latin1).unwrap();
    // Old clients write padding under this name, so it would be read as zeros.
    write(&root, "_____padding_file_0_", b"x");
    let error = make(&CreateOptions::new(&root)).unwrap_err();
    assert!(matches!(error, CreateError::Unrepresentable { .. }), "{error}");
}

#[test]
fn a_pipe_or_an_empty_tree_or_an_odd_piece_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("t");
    write(&root, "empty", b"");
    assert!(matches!(make(&CreateOptions::new(&root)), Err(CreateError::Empty { .. })));
    let pipe = root.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(matches!(make(&CreateOptions::new(&root)), Err(CreateError::NotAFile { path }) if path == pipe));
    for piece_bytes in [0, 1, 8 << 10, (16 << 10) + 1, 3 << 20, 1 << 30] {
        let options = CreateOptions { piece_bytes: Some(piece_bytes), ..CreateOptions::new(&root) };
        assert!(matches!(make(&options), Err(CreateError::PieceBytes { found }) if found == piece_bytes));
    }
}

#[test]
fn the_output_may_not_lie_inside() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("t");
    write(&root, "sub/f", b"content");
    let with = |output: PathBuf| CreateOptions { output: Some(output), ..CreateOptions::new(&root) };
    for inside in [root.join("x.torrent"), root.join("sub/x.torrent"), root.join("sub/../x.torrent")] {
        assert!(matches!(make(&with(inside)), Err(CreateError::OutputInside { .. })));
    }
    make(&with(dir.path().join("t.torrent"))).unwrap();
    let onto_itself =
        CreateOptions { output: Some(root.join("sub/f")), ..CreateOptions::new(root.join("sub/f")) };
    assert!(matches!(make(&onto_itself), Err(CreateError::OutputInside { .. })));
}

/// Changes a file from within the progress call, when reading has begun.
fn make_while(change: impl Fn(&Path) + Sync) -> Result<Metainfo, CreateError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, noise(8 << 20, 3)).unwrap();
    let done = Mutex::new(false);
    let on_progress = |_| {
        let mut done = done.lock().unwrap();
        if !std::mem::replace(&mut *done, true) {
            change(&path);
        }
    };
    create(&CreateOptions::new(&path), &on_progress, &AtomicBool::new(false))
}

#[test]
fn a_file_that_shrinks_grows_or_is_written_while_it_is_read_is_an_error() {
    let open = |path: &Path| std::fs::File::options().write(true).open(path).unwrap();
    let changes: [&(dyn Fn(&Path) + Sync); 3] = [
        &|path| open(path).set_len(3 << 20).unwrap(),
        &|path| open(path).set_len(9 << 20).unwrap(),
        &|path| io::Write::write_all(&mut open(path), b"changed").unwrap(),
    ];
    for change in changes {
        let made = make_while(change);
        assert!(matches!(made, Err(CreateError::Changed { .. })), "{made:?}");
    }
    make_while(|_| {}).unwrap();
}

#[test]
fn progress_reaches_the_total_and_cancelling_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, noise(3 << 20, 4)).unwrap();
    let seen = Mutex::new(Vec::new());
    let cancel = AtomicBool::new(false);
    create(&CreateOptions::new(&path), &|progress| seen.lock().unwrap().push(progress), &cancel).unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.hashed_bytes));
    assert_eq!(seen.last().unwrap(), &CreateProgress { hashed_bytes: 3 << 20, total_bytes: 3 << 20 });
    let cancel_at_once = |_| cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let made = create(&CreateOptions::new(&path), &cancel_at_once, &cancel);
    assert!(matches!(made, Err(CreateError::Cancelled)), "{made:?}");
}
