//! A mount comes and goes cleanly: in the foreground and as a daemon, by command, by signal, after a crash, and with
//! messages that say what to do.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal};
use wtfs_testkit::{
    peer::{Content, ScriptedPeer, Start},
    ramp::Ramp,
    scratch::{detach, is_mount_point},
    torrent_file::TorrentFile,
    wait::{eventually, within},
};

use crate::support::{
    need::{Need, missing},
    reading::names,
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 1_000_001;
/// The exit code where a mount could not be made or taken away.
const BAD_MOUNT: i32 = 4;

fn torrent() -> TorrentFile {
    TorrentFile::ramp("file.bin", Ramp::new(61), BYTES, 64 << 10, &[])
}

fn seeder() -> ScriptedPeer {
    ScriptedPeer::seeder(&torrent(), Content::Ramp(Ramp::new(61)), Start::Open)
}

/// A daemon that is not our child: killed by its id when the test ends, however it ends.
struct Daemon<'a> {
    pid: Pid,
    dir: &'a Path,
}

impl Daemon<'_> {
    fn is_gone(&self) -> bool {
        !Path::new(&format!("/proc/{}", self.pid.as_raw_nonzero())).exists()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if !self.is_gone() {
            let _ended_meanwhile = rustix::process::kill_process(self.pid, Signal::KILL);
            let _gone = within(Duration::from_secs(60), || self.is_gone().then_some(()));
        }
        if is_mount_point(self.dir) {
            detach(self.dir);
        }
    }
}

#[test]
fn a_daemon_is_usable_when_its_command_returns() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("daemon");
    let seeder = seeder();
    let source = text(&stage.write_torrent(&torrent()));
    let dir = stage.subdir("mnt/daemon");
    let (dir_text, peer) = (text(&dir), seeder.addr().to_string());
    let listen = wtfs_testkit::net::fresh_addr().to_string();
    let args = ["mount", "--daemon", "--listen", &listen, "--peer", &peer, &source, &dir_text];
    let started = stage.run(&args);

    // Before anything can fail: who is to be ended?
    let status = stage.status();
    let pid = status.pointer("/0/pid").and_then(serde_json::Value::as_i64);
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let daemon = pid.map(|pid| Daemon { pid, dir: &dir });
    let said = started.expect_success("wtfs mount --daemon");
    let daemon = daemon.expect("the status lists the daemon");
    assert!(said.contains(&dir_text), "{said}");
    assert!(names(&dir).contains(&"file.bin".into()), "{:?}", names(&dir));
    Ramp::new(61).check_file(&dir.join("file.bin"), BYTES).expect("every byte is right");

    let _said = stage.run(&["unmount", &dir_text]).expect_success("wtfs unmount");
    assert!(!is_mount_point(&dir));
    eventually("the daemon is gone", PATIENCE, || daemon.is_gone().then_some(()));
}

#[test]
fn a_daemon_that_cannot_mount_says_so_before_its_command_returns() {
    let stage = Stage::new("daemon-fails");
    let source = text(&stage.write_torrent(&torrent()));
    let missing_dir = text(&stage.join("mnt/missing"));
    let done = stage.run(&["mount", "--daemon", "--listen", "127.0.0.1:0", &source, &missing_dir]);
    assert_eq!(done.code(), Some(BAD_MOUNT), "{done:?}");
    assert!(done.stderr.contains("does not exist"), "{done:?}");
    assert_eq!(stage.status(), serde_json::json!([]));
}

#[test]
fn a_stale_mount_is_recognised_and_the_message_says_how_to_clear_it() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("stale");
    let source = text(&stage.write_torrent(&torrent()));
    let mut mount = stage.mount(&[&source], &[]);
    let dir = mount.dir().to_owned();
    mount.process().kill();
    assert!(is_mount_point(&dir), "the kernel keeps the mount of a killed daemon");

    let done = stage.run(&["mount", "--listen", "127.0.0.1:0", &source, &text(&dir)]);
    assert_eq!(done.code(), Some(BAD_MOUNT), "{done:?}");
    let command = format!("wtfs unmount {}", dir.display());
    assert!(done.stderr.contains("stale") && done.stderr.contains(&command), "{done:?}");

    let _said = stage.run(&["unmount", &text(&dir)]).expect_success("wtfs unmount");
    assert!(!is_mount_point(&dir));
    drop(mount);
    let again = stage.mount(&[&source], &[]);
    again.unmount();
}

#[test]
fn a_mount_whose_process_is_stopped_is_taken_away_all_the_same() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("stopped");
    let source = text(&stage.write_torrent(&torrent()));
    let mut mount = stage.mount(&[&source], &[]);
    let dir = mount.dir().to_owned();
    mount.process().signal(Signal::STOP);
    let done = stage.run(&["add", &text(&dir), &source]);
    assert_eq!(done.code(), Some(BAD_MOUNT), "{done:?}");
    assert!(done.stderr.contains("is it stopped?"), "{done:?}");
    let _said = stage.run(&["unmount", &text(&dir)]).expect_success("wtfs unmount");
    assert!(!is_mount_point(&dir));
    mount.process().signal(Signal::CONT);
    assert!(mount.process().wait(PATIENCE).success(), "it ends by itself once its mount is gone");
}

#[test]
fn a_directory_in_use_is_refused_with_a_message() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("twice");
    let source = text(&stage.write_torrent(&torrent()));
    let mount = stage.mount(&[&source], &[]);
    let cache = text(&stage.subdir("other-cache"));
    let dir = text(mount.dir());
    let done = stage.run(&["mount", "--cache-dir", &cache, "--listen", "127.0.0.1:0", &source, &dir]);
    assert_eq!(done.code(), Some(BAD_MOUNT), "{done:?}");
    assert!(done.stderr.contains("mounted already"), "{done:?}");
    let file = fs::metadata(mount.join("file.bin")).expect("the first mount lives on");
    assert_eq!(file.len(), BYTES);
}

#[test]
fn one_torrent_in_one_cache_is_held_by_one_process() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("lock");
    let source = text(&stage.write_torrent(&torrent()));
    let _first = stage.mount(&[&source], &[]);
    let dir = text(&stage.subdir("mnt/second"));
    let done = stage.run(&["mount", "--listen", "127.0.0.1:0", &source, &dir]);
    assert!(!done.success(), "{done:?}");
    assert!(done.code().is_some(), "it ended by itself: {done:?}");
    assert!(!done.stderr.trim().is_empty());
    assert!(!is_mount_point(Path::new(&dir)));
}

#[test]
fn signals_unmount_cleanly_and_exit_with_success() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("signals");
    let source = text(&stage.write_torrent(&torrent()));
    for signal in [Signal::INT, Signal::TERM] {
        let mut mount = stage.mount(&[&source], &[]);
        mount.process().signal(signal);
        let status = mount.process().wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
        assert!(!is_mount_point(mount.dir()), "{signal:?}");
        assert_eq!(stage.status(), serde_json::json!([]));
    }
}

#[test]
fn an_unmount_by_another_program_ends_the_daemon() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("umount");
    let source = text(&stage.write_torrent(&torrent()));
    let mut mount = stage.mount(&[&source], &[]);
    detach(mount.dir());
    let status = mount.process().wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn what_was_read_once_is_there_after_a_restart_without_peers() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("restart");
    let seeder = seeder();
    let source = text(&stage.write_torrent(&torrent()));
    let mount = stage.mount(&[&source], &["--peer", &seeder.addr().to_string()]);
    Ramp::new(61).check_file(&mount.join("file.bin"), BYTES).expect("every byte is right");
    let before = fs::metadata(mount.join("file.bin")).expect("it can be looked at");
    mount.unmount();
    drop(seeder);
    let mount = stage.mount(&[&source], &["--read-timeout", "60s"]);
    Ramp::new(61).check_file(&mount.join("file.bin"), BYTES).expect("every byte is there");
    let after = fs::metadata(mount.join("file.bin")).expect("it can be looked at");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((before.ino(), before.mtime()), (after.ino(), after.mtime()), "the same after a restart");
}
