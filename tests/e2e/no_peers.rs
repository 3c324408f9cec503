//! Where nobody has the data, reads end with an error at their deadline, the log says why, and nothing else waits:
//! not `ls`, not other torrents, not Ctrl-C, not the unmounting.
//!
//! What must not wait for a read is done while reads wait for much longer than a loaded machine takes for it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use wtfs_testkit::{
    peer::{Content, ScriptedPeer, Start},
    process::{self, Process},
    ramp::Ramp,
    scratch,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    mount::Mount,
    need::{Need, missing},
    reading::cat,
    stage::{PATIENCE, Stage, text, torrents},
};

const NEEDS: &[Need] = &[Need::Fuse];
/// When reads end that are in the way.
const FAR_DEADLINE: [&str; 2] = ["--read-timeout", "600s"];
/// Whatever waits for one of those reads takes longer.
const AT_ONCE: Duration = Duration::from_secs(60);

fn lonely() -> TorrentFile {
    TorrentFile::ramp("lonely.bin", Ramp::new(9), 8 << 20, 64 << 10, &[])
}

/// Starts `count` readers of a file and waits until the daemon knows of at least one waiting read.
fn stuck_readers(stage: &Stage, mount: &Mount<'_>, count: usize) -> Vec<Process> {
    let readers = (0..count).map(|_| cat(&mount.join("lonely.bin"), &stage.log("cat"))).collect();
    eventually("a read waits", PATIENCE, || {
        let status = stage.try_status()?;
        let waiting = |t: &serde_json::Value| t["waiting_reads"].as_u64().is_some_and(|n| n > 0);
        torrents(&status).any(waiting).then_some(())
    });
    readers
}

/// Lists all with attributes, in a process of its own so that it cannot hang the test.
#[track_caller]
fn assert_ls_does_not_wait(dir: &Path) {
    let mut command = Command::new("ls");
    command.arg("-lR").arg(dir);
    let _listing = process::run(command, AT_ONCE).expect_success("ls -lR");
}

#[test]
fn cat_ends_with_an_io_error_at_the_deadline_and_the_log_says_why() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("eio");
    let path = stage.write_torrent(&lonely());
    let mut mount = stage.mount(&[&text(&path)], &["--read-timeout", "3s"]);
    let mut command = Command::new("cat");
    command.arg(mount.join("lonely.bin"));
    let done = process::run(command, PATIENCE);
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("Input/output error"), "{done:?}");
    assert!(done.stdout.is_empty());
    assert!(done.took >= Duration::from_millis(2900), "before the deadline: {:?}", done.took);
    eventually("the status tells how long reads waited, and why", PATIENCE, || {
        let status = mount.process_status();
        let stalls = status["torrents"][0]["stalls"].as_array()?.iter();
        let in_vain = stalls.filter(|stall| stall["cause"] == "no_peers");
        let waited: u64 = in_vain.filter_map(|stall| stall["total_ms"].as_u64()).sum();
        let failed = status["reads"]["failed"]["timed_out"].as_u64()?;
        (waited > 1000 && failed > 0).then_some(())
    });
    let says_why = |line: &str| {
        let line = line.to_lowercase();
        (line.contains("piece") && line.contains("source")).then_some(())
    };
    mount.process().wait_for_line("a line that names the piece and the sources", PATIENCE, 0, says_why);
}

/// As it does while its virtual machine is paused.
#[test]
fn a_read_waits_on_after_its_daemon_stood_still_for_longer_than_its_deadline() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("standstill");
    let seeder = ScriptedPeer::seeder(&lonely(), Content::Ramp(Ramp::new(9)), Start::Held);
    let path = stage.write_torrent(&lonely());
    let flags = ["--peer", &seeder.addr().to_string(), "--read-timeout", "40s"];
    let mut mount = stage.mount(&[&text(&path)], &flags);
    let mut reader = stuck_readers(&stage, &mount, 1).remove(0);
    mount.process().signal(Signal::STOP);
    let stopped = Instant::now();
    eventually("its deadline passes", PATIENCE, || {
        (stopped.elapsed() > Duration::from_secs(45)).then_some(())
    });
    mount.process().signal(Signal::CONT);
    // It looks at its clock before it gets the data.
    let _status = mount.process_status();
    seeder.release();
    assert!(reader.wait(PATIENCE).success(), "{:?}", reader.lines());
    Ramp::new(9).check_file(&mount.join("lonely.bin"), 8 << 20).expect("every byte is right");
    assert_eq!(mount.process_status()["reads"]["failed"]["timed_out"], 0);
}

#[test]
fn all_who_wait_for_one_page_end_at_the_same_deadline() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("eio-many");
    let path = stage.write_torrent(&lonely());
    let deadline = Duration::from_secs(15);
    let mount = stage.mount(&[&text(&path)], &["--read-timeout", "15s"]);
    let start = Instant::now();
    let readers: Vec<_> = (0..6).map(|_| cat(&mount.join("lonely.bin"), &stage.log("cat"))).collect();
    for mut reader in readers {
        assert!(!reader.wait(PATIENCE).success(), "nobody has the data");
        let took = start.elapsed();
        // The kernel asks again for each of them: one after the other they would take six deadlines.
        assert!(took >= deadline - Duration::from_millis(100), "before the deadline: {took:?}");
        assert!(took < 4 * deadline, "one after the other: {took:?}");
    }
}

#[test]
fn ls_waits_for_none_of_many_reads_that_wait() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("ls");
    let local = TorrentFile::ramp("local.bin", Ramp::new(10), 1 << 20, 64 << 10, &[]);
    let seeder = ScriptedPeer::seeder(&local, Content::Ramp(Ramp::new(10)), Start::Open);
    let sources = [&lonely(), &local].map(|torrent| text(&stage.write_torrent(torrent)));
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let peer = seeder.addr().to_string();
    let flags = [&FAR_DEADLINE[..], &["--peer", &peer]].concat();
    let mount = stage.mount(&sources, &flags);
    let _readers = stuck_readers(&stage, &mount, 100);

    for _ in 0..10 {
        assert_ls_does_not_wait(mount.dir());
    }
    // Data that can be had is had, and again from what is local.
    for _ in 0..2 {
        Ramp::new(10).check_file(&mount.join("local.bin"), 1 << 20).expect("the other torrent is read");
    }
}

#[test]
fn ctrl_c_ends_a_stuck_cat_at_once() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("sigint");
    let path = stage.write_torrent(&lonely());
    let mut mount = stage.mount(&[&text(&path)], &FAR_DEADLINE);
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut reader = stuck_readers(&stage, &mount, 1).remove(0);
        let start = Instant::now();
        reader.signal(signal);
        let _status = reader.wait(PATIENCE);
        let took = start.elapsed();
        assert!(took < AT_ONCE, "{signal:?}: cat ended after {took:?}");
        // Its demand is withdrawn with it.
        eventually("no read waits", PATIENCE, || {
            (mount.torrent_status()["waiting_reads"] == 0).then_some(())
        });
    }
    assert!(mount.process().try_status().is_none(), "the daemon lives on");
}

#[test]
fn a_mount_with_stuck_reads_ends_at_once_on_sigterm() {
    stuck_mount_ends_at_once_on("sigterm", Signal::TERM);
}

#[test]
fn a_mount_with_stuck_reads_ends_at_once_on_sigint() {
    stuck_mount_ends_at_once_on("sigint-mount", Signal::INT);
}

fn stuck_mount_ends_at_once_on(name: &str, signal: Signal) {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new(name);
    let path = stage.write_torrent(&lonely());
    let mut mount = stage.mount(&[&text(&path)], &FAR_DEADLINE);
    let readers = stuck_readers(&stage, &mount, 10);
    let start = Instant::now();
    mount.process().signal(signal);
    let status = mount.process().wait(PATIENCE);
    let took = start.elapsed();
    assert!(status.success(), "{status}");
    assert!(took < AT_ONCE, "the daemon ended after {took:?}");
    assert!(!scratch::is_mount_point(mount.dir()), "the mount is still there");
    for mut reader in readers {
        assert!(!reader.wait(PATIENCE).success(), "a stuck read must end with an error");
    }
}

#[test]
fn unmount_ends_a_mount_with_stuck_reads_at_once() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("unmount-stuck");
    let path = stage.write_torrent(&lonely());
    let mut mount = stage.mount(&[&text(&path)], &FAR_DEADLINE);
    let readers = stuck_readers(&stage, &mount, 10);
    let start = Instant::now();
    let dir = text(mount.dir());
    let _said = stage.run(&["unmount", &dir]).expect_success("wtfs unmount");
    let _status = mount.process().wait(PATIENCE);
    let took = start.elapsed();
    assert!(took < AT_ONCE, "it took {took:?}");
    assert!(!scratch::is_mount_point(mount.dir()), "the mount is still there");
    for mut reader in readers {
        assert!(!reader.wait(PATIENCE).success(), "a stuck read must end with an error");
    }
}

#[test]
fn a_magnet_without_metadata_shows_an_entry_that_says_so_and_ls_does_not_hang() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("no-metadata");
    let mount =
        stage.mount(&["magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567&dn=someday"], &[]);
    for _ in 0..5 {
        assert_ls_does_not_wait(mount.dir());
    }
    let names = crate::support::reading::names(mount.dir());
    let shown = names.iter().map(|name| name.to_string_lossy()).find(|name| name.contains("someday"));
    assert!(shown.is_some(), "no entry says that the metadata is missing: {names:?}");
    assert_eq!(mount.torrent_status()["phase"], "metadata");
}
