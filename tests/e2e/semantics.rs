//! The mount behaves as a read-only file system should, towards the ordinary tools.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use wtfs_testkit::{
    bencode::Value,
    peer::{Content, ScriptedPeer, Start},
    process::{self, Finished},
    torrent_file::{TorrentFile, sha1},
};

use crate::support::{
    mount::Mount,
    need::{Need, missing},
    stage::{Stage, text, walk},
};

const PIECE: u32 = 16 << 10;
const SCRIPT: &[u8] = b"#!/bin/sh\necho it runs\n";

/// A directory with a program, a link, a hidden and a padding file (BEP 47), and something larger.
fn torrent() -> (TorrentFile, Vec<u8>) {
    let large: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let pad = vec![0; PIECE as usize - SCRIPT.len()];
    let content = [SCRIPT, &pad, &large].concat();
    let path = |parts: &[&str]| Value::List(parts.iter().map(Value::bytes).collect());
    let length = |bytes: &[u8]| Value::Int(i64::try_from(bytes.len()).expect("short"));
    let files = vec![
        Value::dict([
            ("attr", Value::bytes("x")),
            ("length", length(SCRIPT)),
            ("path", path(&["bin", "run.sh"])),
        ]),
        Value::dict([("attr", Value::bytes("p")), ("length", length(&pad)), ("path", path(&[".pad", "1"]))]),
        Value::dict([("length", length(&large)), ("path", path(&["data", "large.bin"]))]),
        Value::dict([
            ("attr", Value::bytes("l")),
            ("length", Value::Int(0)),
            ("path", path(&["latest"])),
            ("symlink path", path(&["data", "large.bin"])),
        ]),
        Value::dict([("length", Value::Int(0)), ("path", path(&["empty"]))]),
    ];
    let hashes: Vec<u8> = content.chunks(PIECE as usize).flat_map(sha1).collect();
    let info = Value::dict([
        ("files", Value::List(files)),
        ("name", Value::bytes("set")),
        ("piece length", Value::Int(i64::from(PIECE))),
        ("pieces", Value::bytes(hashes)),
    ]);
    (TorrentFile::from_info(&info, content.len() as u64, &[]), content)
}

/// Runs the test on a mount whose data can be had.
fn with_mount(name: &str, test: impl FnOnce(&Mount<'_>, &Path, &TorrentFile)) {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new(name);
    let (torrent, content) = torrent();
    let seeder = ScriptedPeer::seeder(&torrent, Content::Bytes(Arc::new(content)), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--peer", &seeder.addr().to_string()]);
    let root = mount.join("set");
    test(&mount, &root, &torrent);
}

#[track_caller]
fn tool(program: &str, args: &[&str], path: &Path) -> Finished {
    let mut command = Command::new(program);
    command.args(args).arg(path).env("LC_ALL", "C");
    process::run(command, Duration::from_secs(60))
}

#[test]
fn names_kinds_and_modes_are_as_the_torrent_says() {
    with_mount("kinds", |_, root, _| {
        let shown: Vec<String> = walk(root).iter().map(|path| text(path)).collect();
        assert_eq!(shown, ["bin", "bin/run.sh", "data", "data/large.bin", "empty", "latest"]);
        let mode =
            |path: &str| fs::symlink_metadata(root.join(path)).expect("it is there").permissions().mode();
        assert_eq!(mode("bin/run.sh") & 0o777, 0o555);
        assert_eq!(mode("data/large.bin") & 0o777, 0o444);
        assert_eq!(mode("data") & 0o777, 0o555);
        assert!(fs::symlink_metadata(root.join("latest")).expect("it is there").file_type().is_symlink());
        assert_eq!(fs::read_link(root.join("latest")).expect("a link"), Path::new("data/large.bin"));
        assert_eq!(fs::metadata(root.join("latest")).expect("it leads somewhere").len(), 400_000);
    });
}

#[test]
fn a_program_with_the_exec_bit_runs() {
    with_mount("exec", |_, root, _| {
        let done = process::run(Command::new(root.join("bin/run.sh")), Duration::from_secs(60));
        assert_eq!(done.expect_success("the script"), "it runs\n");
    });
}

#[test]
fn ls_stat_du_and_df_work_before_and_after_reading() {
    with_mount("tools", |mount, root, torrent| {
        let listing = tool("ls", &["-lR"], root).expect_success("ls -lR");
        assert!(listing.contains("latest -> data/large.bin") && listing.contains("large.bin"), "{listing}");
        let large = root.join("data/large.bin");
        let before = fs::metadata(&large).expect("it is there");
        assert_eq!((before.len(), before.nlink()), (400_000, 1));
        // Not none: `tar -S` takes a file without blocks for all zeros and does not read it.
        assert_eq!(before.blocks(), 1, "nothing is local yet");

        assert_eq!(fs::read(&large).expect("it can be read").len(), 400_000);
        // What is local shows in the blocks; the kernel may believe the old number for a moment.
        wtfs_testkit::wait::eventually("the blocks are those of the file", Duration::from_secs(60), || {
            (fs::metadata(&large).ok()?.blocks() * 512 >= 400_000).then_some(())
        });
        let stat = tool("stat", &["-c", "%F %s"], &large).expect_success("stat");
        assert_eq!(stat.trim(), "regular file 400000");
        let df = tool("df", &["-B1", "--output=fstype,size"], mount.dir()).expect_success("df");
        assert!(df.contains("fuse"), "{df}");
        let size: u64 = df.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a size");
        assert!(size >= torrent.total_bytes - u64::from(PIECE), "{df}");
        let find = tool("find", &[], root).expect_success("find");
        assert_eq!(find.lines().count(), 7, "{find}");
    });
}

#[test]
fn attributes_tell_of_the_torrent() {
    if missing(&[Need::Program("getfattr")]) {
        return;
    }
    with_mount("xattr", |_, root, torrent| {
        let large = root.join("data/large.bin");
        let all = tool("getfattr", &["--absolute-names", "-d", "-m", "user.wtfs"], &large)
            .expect_success("getfattr");
        assert!(all.contains("user.wtfs.infohash"), "{all}");
        assert!(all.contains(&torrent.hash_hex()), "{all}");
        let none = tool("getfattr", &["-n", "user.wtfs.no-such"], &large);
        assert!(!none.success() && none.stderr.contains("No such attribute"), "{none:?}");
    });
}

#[test]
fn nothing_can_be_written() {
    with_mount("erofs", |mount, root, _| {
        let large = root.join("data/large.bin");
        let read_only = |what: &str, result: io::Result<()>| {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{what}: {error}");
        };
        read_only("open to write", OpenOptions::new().write(true).open(&large).map(drop));
        read_only("truncate", OpenOptions::new().write(true).truncate(true).open(&large).map(drop));
        read_only("create", fs::write(root.join("new"), "x"));
        read_only("create at the top", fs::write(mount.join("new"), "x"));
        read_only("mkdir", fs::create_dir(root.join("new")));
        read_only("unlink", fs::remove_file(&large));
        read_only("rmdir", fs::remove_dir(root.join("data")));
        read_only("rename", fs::rename(&large, root.join("moved")));
        read_only("symlink", std::os::unix::fs::symlink("x", root.join("new")));
        read_only("link", fs::hard_link(&large, root.join("new")));
        read_only("chmod", fs::set_permissions(&large, fs::Permissions::from_mode(0o777)));
        let touched = tool("touch", &[], &large);
        assert!(touched.stderr.contains("Read-only file system"), "{touched:?}");
    });
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    with_mount("enoent", |mount, root, _| {
        for path in [root.join("no-such"), mount.join("no-such"), root.join("data/large.bin.bak")] {
            let error = fs::metadata(&path).expect_err("it is not there");
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", path.display());
        }
        let error = fs::metadata(root.join("empty/x")).expect_err("a file is no directory");
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let error = fs::metadata(root.join("x".repeat(300))).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
        let error = fs::read_dir(root.join("data/large.bin")).expect_err("a file cannot be listed");
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    });
}

#[test]
fn reads_at_and_beyond_the_end_are_short_or_empty() {
    use std::os::unix::fs::FileExt as _;
    with_mount("eof", |_, root, _| {
        let file = fs::File::open(root.join("data/large.bin")).expect("it can be opened");
        let mut buffer = [0; 100];
        assert_eq!(file.read_at(&mut buffer, 400_000 - 10).expect("at the end"), 10);
        assert_eq!(file.read_at(&mut buffer, 400_000).expect("at the end"), 0);
        assert_eq!(file.read_at(&mut buffer, u64::from(u32::MAX) * 1000).expect("beyond"), 0);
        assert_eq!(fs::read(root.join("empty")).expect("it can be read"), b"");
    });
}

#[test]
fn cp_tar_and_cmp_take_the_whole_tree() {
    with_mount("copy", |mount, root, _| {
        let copy = mount.dir().parent().expect("it has one").join("copy");
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(root).arg(&copy);
        let _said = process::run(cp, Duration::from_secs(60)).expect_success("cp -a");
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference"]).arg(root).arg(&copy);
        let _said = process::run(diff, Duration::from_secs(60)).expect_success("diff -r");
        let tar = tool("tar", &["-cf", "/dev/null"], root);
        assert!(tar.success(), "{tar:?}");
    });
}
