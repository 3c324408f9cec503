//! A read fetches the pieces it touches, and a few beside them at most: never the file.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use serde_json::Value;
use wtfs_testkit::{ramp, torrent_file::TorrentFile, wait::eventually};

use crate::support::{
    libtorrent::Libtorrent,
    mount::Mount,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const TOTAL: u64 = 10 << 30;
const PIECE: u32 = 1 << 20;
/// Longer than a status is old and a block is on its way on loopback.
const QUIET: Duration = Duration::from_millis(1500);

/// The status once at least so much was fetched, and then nothing for a while, so that what was fetched in vain shows too.
/// The status is published a few times a second, hence the while.
fn quiet_status(mount: &Mount<'_>, least: u64) -> Value {
    let mut last = (Value::Null, Instant::now());
    eventually("nothing is fetched any more", PATIENCE, || {
        let status = mount.torrent_status();
        if last.0 != status["downloaded_bytes"] || status["in_flight_bytes"] != 0 {
            last = (status["downloaded_bytes"].clone(), Instant::now());
        }
        let is_told = status["downloaded_bytes"].as_u64() >= Some(least);
        (is_told && last.1.elapsed() > QUIET).then_some(status)
    })
}

#[test]
fn four_kibibytes_of_ten_gibibytes_cost_a_few_pieces() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("sparse");
    let data = stage.subdir("seeded");
    ramp::write_sparse_zeros(&data.join("huge.bin"), TOTAL).expect("a sparse file takes no space");
    let torrent = TorrentFile::zeros("huge.bin", TOTAL, PIECE, &[]);
    let path = stage.write_torrent(&torrent);
    let mut seeder = Libtorrent::seeder(&stage, &path, &data);
    let mount = stage.mount(&[&text(&path)], &["--peer", &seeder.addr().to_string()]);
    let file = File::open(mount.join("huge.bin")).expect("it can be opened");
    assert_eq!(file.metadata().expect("it has attributes").len(), TOTAL);

    let mut buffer = [0xff; 4096];
    file.read_exact_at(&mut buffer, 7 << 30).expect("it can be read");
    assert_eq!(buffer, [0; 4096]);
    let few = 4 * u64::from(PIECE);
    let status = quiet_status(&mount, 4096);
    let fetched = status["downloaded_bytes"].as_u64().expect("a count");
    assert!((4096..=few).contains(&fetched), "{status}");
    let sent = seeder.stats().uploaded;
    assert!((4096..=few).contains(&sent), "the seeder has sent {sent} bytes");

    // Scattered reads stay scattered: no read-ahead joins in.
    for i in 0..20_u64 {
        let mut buffer = [0xff; 4096];
        let offset = (i * 7_919 % 10_000) << 20;
        file.read_exact_at(&mut buffer, offset + 12_345).expect("it can be read");
        assert_eq!(buffer, [0; 4096]);
    }
    let limit = few + 20 * 2 * u64::from(PIECE);
    let status = quiet_status(&mount, 21 * 4096);
    assert!(status["downloaded_bytes"].as_u64().is_some_and(|n| n <= limit), "{status}");
    let sent = seeder.stats().uploaded;
    assert!(sent <= limit, "the seeder has sent {sent} bytes, {limit} are enough");
}
