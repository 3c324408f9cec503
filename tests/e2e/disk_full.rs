//! A full disk makes reads fail with "no space", never with wrong bytes; what is local stays readable, and all goes
//! on when there is room again.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    process::Command,
    time::Duration,
};

use wtfs_testkit::{
    peer::{Content, ScriptedPeer, Start},
    process,
    ramp::Ramp,
    torrent_file::TorrentFile,
};

use crate::support::{
    need::{Need, missing},
    stage::{Stage, text},
};

const BYTES: u64 = 24 << 20;

#[test]
fn a_full_cache_disk_is_told_as_such_and_nothing_is_lost() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("enospc");
    let disk = stage.subdir("disk");
    let mut small = Command::new("mount");
    small.args(["-t", "tmpfs", "-o", "size=12M", "tmpfs"]).arg(&disk);
    if !process::run(small, Duration::from_secs(20)).success() {
        // The stage detaches it again. Only root may mount it.
        eprintln!("skipped: no file system of its own can be mounted here");
        return;
    }
    let ramp = Ramp::new(91);
    let torrent = TorrentFile::ramp("full.bin", ramp, BYTES, 256 << 10, &[]);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let peer = seeder.addr().to_string();
    let flags = ["--peer", &peer, "--cache-dir", &text(&disk), "--read-timeout", "20s"];
    let mut mount = stage.mount(&[&source], &flags);
    let file = File::open(mount.join("full.bin")).expect("it can be opened");

    let mut buffer = vec![0; 256 << 10];
    let mut read = |offset: u64| -> io::Result<()> {
        file.read_exact_at(&mut buffer, offset)?;
        ramp.check(offset, &buffer).map_err(io::Error::other)
    };
    let mut at = 0;
    let error = loop {
        match read(at) {
            Ok(()) => at += 256 << 10,
            Err(error) => break error,
        }
        assert!(at < BYTES, "24 MiB do not fit into 12");
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "at {at}: {error}");
    assert!(at >= 4 << 20, "only {at} bytes found room");
    for offset in (0..at).step_by(256 << 10) {
        read(offset).expect("what was read once is read again");
    }
    assert!(mount.process().try_status().is_none(), "the daemon lives on");

    let mut more = Command::new("mount");
    more.args(["-o", "remount,size=64M"]).arg(&disk);
    let _said = process::run(more, Duration::from_secs(20)).expect_success("the disk grows");
    ramp.check_file(&mount.join("full.bin"), BYTES).expect("with room again every byte is read");
    mount.unmount();
    assert!(fs::read_dir(&disk).expect("it is there").count() > 0);
}
