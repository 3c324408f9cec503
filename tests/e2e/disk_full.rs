//! A full disk is made room on by giving up what was used longest ago; where everything must stay, reads fail with "no
//! space", never with wrong bytes, what is local stays readable, and all goes on when there is room again.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
};

use wtfs_testkit::{
    peer::{Content, ScriptedPeer, Start},
    process,
    ramp::Ramp,
    torrent_file::TorrentFile,
};

use crate::support::{
    mount::Mount,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 24 << 20;
const STEP: u64 = 256 << 10;
const RAMP_SEED: u64 = 91;

fn mount<'a>(stage: &'a Stage, disk: &Path) -> (Mount<'a>, ScriptedPeer) {
    let ramp = Ramp::new(RAMP_SEED);
    let torrent = TorrentFile::ramp("full.bin", ramp, BYTES, 256 << 10, &[]);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let peer = seeder.addr().to_string();
    // A read may be answered before its piece is written: so little memory holds no more than fits on the disk.
    let memory = ["--memory", "4M"];
    let flags = ["--peer", &peer, "--cache-dir", &text(disk), "--read-timeout", "120s"];
    let flags = [&flags[..], &memory].concat();
    (stage.mount(&[&source], &flags), seeder)
}

fn read(file: &File, offset: u64) -> io::Result<()> {
    let mut buffer = vec![0; STEP as usize];
    file.read_exact_at(&mut buffer, offset)?;
    Ramp::new(RAMP_SEED).check(offset, &buffer).map_err(io::Error::other)
}

#[test]
fn a_full_disk_gives_way_to_what_is_read_and_every_byte_is_right() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("enospc-evict");
    let Some(disk) = stage.small_disk(12) else { return };
    let (mut mount, _seeder) = mount(&stage, &disk);
    let file = File::open(mount.join("full.bin")).expect("it can be opened");
    for offset in (0..BYTES).step_by(STEP as usize) {
        read(&file, offset).expect("what was used longest ago gives way");
    }
    // Else the kernel would answer the second time.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("the pages are dropped");
    for offset in (0..BYTES / STEP).rev().map(|step| step * STEP) {
        read(&file, offset).expect("what was given up is fetched again");
    }
    assert!(mount.process().try_status().is_none(), "the daemon lives on");
    drop(file);
    mount.unmount();
}

#[test]
fn a_disk_full_of_what_must_stay_is_told_as_such_and_nothing_is_lost() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("enospc");
    let Some(disk) = stage.small_disk(12) else { return };
    let (mut mount, _seeder) = mount(&stage, &disk);
    let _said = stage.run(&["pin", &text(&mount.join("full.bin"))]).expect_success("wtfs pin");
    let file = File::open(mount.join("full.bin")).expect("it can be opened");

    let mut at = 0;
    let error = loop {
        match read(&file, at) {
            Ok(()) => at += STEP,
            Err(error) => break error,
        }
        assert!(at < BYTES, "24 MiB do not fit into 12");
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "at {at}: {error}");
    assert!(at >= 4 << 20, "only {at} bytes found room");
    let says_what_to_do = |line: &str| {
        let is_it = line.contains("no space left") && line.contains("make room");
        is_it.then_some(())
    };
    mount.process().wait_for_line("the log says what to do", PATIENCE, 0, says_what_to_do);
    for offset in (0..at).step_by(STEP as usize) {
        read(&file, offset).expect("what was read once is read again");
    }
    assert!(mount.process().try_status().is_none(), "the daemon lives on");

    let mut more = Command::new("mount");
    more.args(["-o", "remount,size=64M"]).arg(&disk);
    let _said = process::run(more, PATIENCE).expect_success("the disk grows");
    Ramp::new(RAMP_SEED)
        .check_file(&mount.join("full.bin"), BYTES)
        .expect("with room again every byte is read");
    drop(file);
    mount.unmount();
    assert!(fs::read_dir(&disk).expect("it is there").count() > 0);
}
