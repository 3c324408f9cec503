//! A cold sequential read of a gibibyte through the mount is not slower than half of libtorrent's own download to
//! disk, from the same seeder in the same run.
//!
//! Not among the ordinary tests, because it says something about optimised builds on a quiet machine only:
//! `cargo test --release --test e2e speed -- --ignored --nocapture`.

use std::{
    fs::File,
    io::Read as _,
    time::{Duration, Instant},
};

use wtfs_testkit::ramp::Ramp;

use crate::support::{
    content::{LARGE, kept_ramp_file},
    libtorrent::{self, Libtorrent},
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const GIBIBYTE: u64 = 1 << 30;
/// The best of so many turns of each, taken in turns.
const TURNS: usize = 3;

fn megabytes_a_second(took: Duration) -> f64 {
    GIBIBYTE as f64 / 1e6 / took.as_secs_f64()
}

#[test]
#[ignore = "a measurement of an optimised build on a quiet machine"]
fn a_cold_sequential_read_is_at_least_half_as_fast_as_libtorrent() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("speed");
    let original = kept_ramp_file(GIBIBYTE);
    let home = original.parent().expect("it is in a directory");
    let torrent = libtorrent::create(&stage, &original, 1 << 20, &[]);
    let seeder = Libtorrent::seeder(&stage, &torrent.path, home);
    let (mut ours, mut theirs) = (0.0_f64, 0.0_f64);
    for turn in 0..TURNS {
        let rate = megabytes_a_second(read_cold(&stage, &text(&torrent.path), &seeder, turn));
        println!("wtfs, cold sequential read through the mount: {rate:.0} MB/s");
        ours = ours.max(rate);
        let rate = megabytes_a_second(download(&stage, &torrent.path, &seeder, turn));
        println!("libtorrent, download to disk: {rate:.0} MB/s");
        theirs = theirs.max(rate);
    }
    println!("best: wtfs {ours:.0} MB/s, libtorrent {theirs:.0} MB/s, ratio {:.2}", ours / theirs);
    assert!(ours >= theirs / 2.0, "{ours:.0} MB/s is less than half of {theirs:.0} MB/s");
}

fn read_cold(stage: &Stage, source: &str, seeder: &Libtorrent, turn: usize) -> Duration {
    let cache = text(&stage.subdir(format!("cold-{turn}")));
    let peer = seeder.addr().to_string();
    let mount = stage.mount(&[source], &["--peer", &peer, "--cache-dir", &cache]);
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0_u64;
    let start = Instant::now();
    let mut file = File::open(mount.join("large.bin")).expect("it can be opened");
    loop {
        let n = file.read(&mut buffer).expect("it can be read");
        if n == 0 {
            break;
        }
        total += n as u64;
    }
    let took = start.elapsed();
    assert_eq!(total, GIBIBYTE);
    Ramp::new(LARGE).check(GIBIBYTE - 4096, &tail(&mount.join("large.bin"))).expect("the right file");
    took
}

fn tail(path: &std::path::Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; 4096];
    let file = File::open(path).expect("it can be opened");
    file.read_exact_at(&mut bytes, GIBIBYTE - 4096).expect("it can be read");
    bytes
}

fn download(stage: &Stage, torrent: &std::path::Path, seeder: &Libtorrent, turn: usize) -> Duration {
    let saved = stage.subdir(format!("saved-{turn}"));
    // Measured from the moment it may begin: a Python that starts is not libtorrent's slowness.
    let mut leecher = Libtorrent::start(stage);
    let start = Instant::now();
    leecher.leech(torrent, &saved, &[seeder.addr()]);
    let _stats = leecher.wait_complete(PATIENCE * 3);
    start.elapsed()
}
