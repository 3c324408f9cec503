//! A daemon killed in the middle costs nothing but what was on its way: the next mount reads every byte right, and
//! fetches no piece that was complete.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use wtfs_testkit::{process, ramp::Ramp, wait::eventually};

use crate::support::{
    libtorrent::{self, Libtorrent, MadeTorrent},
    mount::Mount,
    need::{Need, missing},
    reading::{cat, cat_start},
    stage::{PATIENCE, Stage, text, walk},
};

const BYTES: u64 = 64 << 20;
const NEEDS: &[Need] = &[Need::Fuse, Need::Libtorrent];

fn prepare(stage: &Stage) -> (Ramp, MadeTorrent, Libtorrent) {
    let ramp = Ramp::new(4);
    let data = stage.subdir("seeded");
    ramp.write_file(&data.join("file.bin"), BYTES).expect("the scratch directory can be written");
    let torrent = libtorrent::create(stage, &data.join("file.bin"), 256 << 10, &[]);
    let seeder = Libtorrent::seeder(stage, &torrent.path, &data);
    (ramp, torrent, seeder)
}

fn present(mount: &Mount<'_>) -> u64 {
    mount.torrent_status()["pieces_present"].as_u64().expect("a count")
}

/// Mounts, reads so many tenths of the file, and kills the daemon when they are there and more is on its way. Gives the
/// pieces that were complete.
fn read_and_crash(stage: &Stage, torrent: &MadeTorrent, seeder: &Libtorrent, tenths: u64) -> u64 {
    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    let reader = cat_start(&mount.join("file.bin"), BYTES * tenths / 10, &stage.log("head"));
    let complete = eventually("some pieces are complete", PATIENCE, || {
        Some(present(&mount)).filter(|&complete| complete >= torrent.pieces * tenths / 10)
    });
    mount.crash();
    drop(reader);
    complete
}

#[test]
fn after_kill_9_every_byte_is_right_and_complete_pieces_are_not_fetched_again() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("crash");
    let (ramp, torrent, mut seeder) = prepare(&stage);
    // Slow enough that each crash finds blocks on their way. However late it comes, no more is read ahead than half of
    // the file, so that some is left to fetch.
    seeder.limit_upload(12 << 20);
    let mut complete = 0;
    for tenths in 1..=3 {
        complete = read_and_crash(&stage, &torrent, &seeder, tenths);
    }
    assert!(complete < torrent.pieces, "there is nothing left to fetch");

    seeder.limit_upload(0);
    let sent_before = seeder.stats().uploaded;
    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    let kept = present(&mount);
    assert!(kept >= complete, "{complete} pieces were complete, {kept} are left");
    ramp.check_file(&mount.join("file.bin"), BYTES).expect("every byte is right");
    let sent = seeder.stats().uploaded - sent_before;
    // A block asked of one peer twice, because its answer was late, is no piece fetched again; 500 are asked for at once.
    let limit = (torrent.pieces - kept) * torrent.piece_bytes + 500 * (16 << 10);
    assert!(sent <= limit, "{sent} bytes were sent for what {limit} bytes are enough");
}

#[test]
fn what_was_complete_is_read_after_a_crash_with_no_peer_in_sight() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("crash-alone");
    let (ramp, torrent, seeder) = prepare(&stage);
    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    ramp.check_file(&mount.join("file.bin"), BYTES).expect("every byte is right");
    // A read may be answered before its piece is written.
    eventually("all is stored", PATIENCE, || (present(&mount) == torrent.pieces).then_some(()));
    // What was written in the last seconds is hashed after a crash; by then nothing was.
    eventually("all is on the disk and on record", PATIENCE, || {
        let all = records(&stage.join("cache"));
        let mut journals = all.into_iter().filter(|path| path.ends_with("journal"));
        // A journal keeps its room on the disk; one without an entry is all zeros.
        let is_settled = |path: PathBuf| fs::read(path).unwrap_or_default().iter().all(|byte| *byte == 0);
        journals.all(is_settled).then_some(())
    });
    mount.crash();
    drop(seeder);

    let mut mount = stage.mount(&[&text(&torrent.path)], &["--read-timeout", "60s"]);
    // What was complete is believed, not hashed again.
    let read = mount.process().bytes_read().expect("the daemon runs");
    assert!(read < BYTES / 8, "{read} bytes were read before anybody asked for any");
    ramp.check_file(&mount.join("file.bin"), BYTES).expect("every byte is there and right");
    assert_eq!(mount.torrent_status()["downloaded_bytes"], 0);
}

#[test]
fn a_cache_damaged_behind_our_back_is_never_read_as_if_it_were_right() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("crash-torn");
    let (ramp, torrent, seeder) = prepare(&stage);
    let _complete = read_and_crash(&stage, &torrent, &seeder, 3);
    // Torn writes: every record of what is present loses its tail, as in a power cut.
    let mut cut = 0;
    for file in records(&stage.join("cache")) {
        let len = fs::metadata(&file).expect("it is there").len();
        if len > 0 {
            let tail = (len / 3).max(1);
            let open = fs::OpenOptions::new().write(true).open(&file).expect("our own file");
            open.set_len(len - tail).expect("it can be cut");
            cut += 1;
        }
    }
    assert!(cut > 0, "no record of what is present was found");

    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    let read = ramp.check_file(&mount.join("file.bin"), BYTES);
    read.expect("every byte is right, fetched again if need be");
}

#[test]
fn cached_data_that_was_removed_cut_or_punched_is_fetched_again() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("cache-hurt");
    let (ramp, torrent, seeder) = prepare(&stage);
    let flags = ["--peer", &seeder.addr().to_string()];
    let source = text(&torrent.path);
    let read_all = || {
        let mount = stage.mount(&[&source], &flags);
        ramp.check_file(&mount.join("file.bin"), BYTES).expect("every byte is right");
        mount.unmount();
    };
    read_all();
    let cached =
        find(&stage.join("cache"), |name| name == "file.bin").pop().expect("the data is in the cache");
    let open = || fs::OpenOptions::new().write(true).open(&cached).expect("our own file");

    fs::remove_file(&cached).expect("it can be removed");
    read_all();
    open().set_len(BYTES / 2).expect("it can be cut");
    read_all();
    let mut punch = Command::new("fallocate");
    punch.args(["--punch-hole", "--offset", "20000000", "--length", "4000000"]).arg(&cached);
    if process::run(punch, PATIENCE).success() {
        read_all();
    }
    open().set_len(0).and_then(|()| open().set_len(BYTES)).expect("it can be made a hole");
    read_all();
}

/// The journals and records below a cache directory: all small files that are no data of the torrent.
fn records(dir: &Path) -> Vec<PathBuf> {
    find(dir, |name| name == "record" || name == "journal")
}

/// The files below a directory whose names are wanted.
fn find(dir: &Path, is_wanted: fn(&str) -> bool) -> Vec<PathBuf> {
    let all = walk(dir).into_iter().map(|path| dir.join(path));
    let has_name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_wanted);
    all.filter(|path| has_name(path) && path.is_file()).collect()
}

#[test]
fn a_clean_end_in_the_middle_keeps_what_was_complete_too() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("clean-end");
    let (ramp, torrent, mut seeder) = prepare(&stage);
    seeder.limit_upload(12 << 20);
    let mut mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    let reader = cat(&mount.join("file.bin"), &stage.log("cat"));
    let complete = eventually("some pieces are complete", PATIENCE, || {
        Some(present(&mount)).filter(|&complete| complete >= torrent.pieces / 4)
    });
    mount.process().signal(rustix::process::Signal::TERM);
    let status = mount.process().wait(PATIENCE);
    assert!(status.success(), "{status}");
    drop((mount, reader));

    seeder.limit_upload(0);
    let mount = stage.mount(&[&text(&torrent.path)], &["--peer", &seeder.addr().to_string()]);
    assert!(present(&mount) >= complete);
    ramp.check_file(&mount.join("file.bin"), BYTES).expect("every byte is right");
}
