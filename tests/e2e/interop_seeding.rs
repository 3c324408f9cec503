//! Other people's clients download from `wtfs seed`, and from a mount that has read a part: that part at once, the
//! rest as it is read.

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use wtfs_testkit::{
    http_tracker::{Answer, HttpTracker},
    process::Process,
    ramp::Ramp,
    wait::eventually,
};

use crate::support::{
    clients,
    libtorrent::{self, Libtorrent, MadeTorrent},
    mount::Mount,
    need::{Need, missing},
    stage::{Stage, text},
};

const BYTES: u64 = 24 * 1024 * 1024 + 777;
/// Clients take their time: they rest between announces and choke in rounds of ten seconds.
const LONG: Duration = Duration::from_secs(180);

/// A torrent with one tracker, which first names nobody, and its data.
struct Swarm {
    stage: Stage,
    ramp: Ramp,
    data: PathBuf,
    torrent: MadeTorrent,
    tracker: HttpTracker,
}

impl Swarm {
    fn new(name: &str) -> Self {
        let stage = Stage::new(name);
        let ramp = Ramp::new(31);
        let data = stage.subdir("seeded");
        ramp.write_file(&data.join("shared.bin"), BYTES).expect("the scratch directory can be written");
        let tracker = HttpTracker::start(Answer::Peers(Vec::new()));
        let torrent =
            libtorrent::create(&stage, &data.join("shared.bin"), 128 << 10, &[tracker.announce_url()]);
        Self { stage, ramp, data, torrent, tracker }
    }

    /// A mount that has read about half of the file, and the open file to read on.
    fn half_read_mount(&self, peers: &[SocketAddr]) -> (Mount<'_>, File) {
        let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let flags: Vec<&str> = peers.iter().flat_map(|peer| ["--peer", peer]).collect();
        let mount = self.stage.mount(&[&text(&self.torrent.path)], &flags);
        let mut file = File::open(mount.join("shared.bin")).expect("it can be opened");
        let mut half = vec![0; usize::try_from(BYTES / 2).expect("it fits")];
        file.read_exact(&mut half).expect("it can be read");
        self.ramp.check(0, &half).expect("the first half is right");
        (mount, file)
    }

    fn seeder(&self) -> Libtorrent {
        Libtorrent::seeder(&self.stage, &self.torrent.path, &self.data)
    }

    /// Waits until the whole file is on the disk: libtorrent counts a piece before it is written.
    #[track_caller]
    fn wait_for_bytes(&self, saved: &Path) {
        let file = saved.join("shared.bin");
        eventually("every byte is there and right", LONG, || self.ramp.check_file(&file, BYTES).ok());
    }

    /// Waits until a client that says nothing useful has the whole file.
    #[track_caller]
    fn wait_for_file(&self, client: &mut Process, saved: &Path) {
        let file = saved.join("shared.bin");
        eventually("the client has the whole file", LONG, || {
            let ended = client.try_status();
            let whole = self.ramp.check_file(&file, BYTES).ok();
            assert!(whole.is_some() || ended.is_none(), "the client ended without the file: {ended:?}");
            whole
        });
    }
}

#[test]
fn libtorrent_downloads_from_wtfs_seed() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let swarm = Swarm::new("seed-lt");
    let (_seed, addr) = swarm.stage.seed(&swarm.torrent.path, &swarm.data, &[]);
    let saved = swarm.stage.subdir("saved");
    let mut leecher = Libtorrent::leecher(&swarm.stage, &swarm.torrent.path, &saved, &[addr]);
    let stats = leecher.wait_complete(LONG);
    assert_eq!(stats.failed_bytes, 0, "{stats:?}");
    assert!(stats.downloaded >= BYTES, "{stats:?}");
    swarm.wait_for_bytes(&saved);
}

#[test]
fn libtorrent_downloads_from_wtfs_seed_by_a_magnet() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let swarm = Swarm::new("seed-lt-magnet");
    let (_seed, addr) = swarm.stage.seed(&swarm.torrent.path, &swarm.data, &[]);
    let saved = swarm.stage.subdir("saved");
    let magnet = swarm.torrent.magnet(&[], &[]);
    let mut leecher = Libtorrent::magnet_leecher(&swarm.stage, &magnet, &saved, &[addr]);
    let _stats = leecher.wait_complete(LONG);
    swarm.wait_for_bytes(&saved);
}

#[test]
fn transmission_downloads_from_wtfs_seed() {
    if missing(&[Need::Libtorrent, Need::Program("transmission-cli")]) {
        return;
    }
    let swarm = Swarm::new("seed-tr");
    let saved = swarm.stage.subdir("saved");
    let (mut client, addr) = clients::transmission(&swarm.stage, &swarm.torrent.path, &saved);
    let peer = addr.to_string();
    let (_seed, _addr) = swarm.stage.seed(&swarm.torrent.path, &swarm.data, &["--peer", &peer]);
    swarm.wait_for_file(&mut client, &saved);
}

#[test]
fn aria2_downloads_from_wtfs_seed() {
    if missing(&[Need::Libtorrent, Need::Program("aria2c")]) {
        return;
    }
    let swarm = Swarm::new("seed-aria2");
    let (_seed, addr) = swarm.stage.seed(&swarm.torrent.path, &swarm.data, &[]);
    swarm.tracker.set_answer(Answer::Peers(vec![addr]));
    let saved = swarm.stage.subdir("saved");
    let mut client = clients::aria2(&swarm.stage, &swarm.torrent.path, &saved);
    let status = client.wait(LONG);
    assert!(status.success(), "{status}");
    swarm.wait_for_bytes(&saved);
}

#[test]
fn libtorrent_downloads_from_a_half_read_mount_and_gets_the_rest_as_it_is_read() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    let swarm = Swarm::new("mount-lt");
    let seeder = swarm.seeder();
    let (mount, mut file) = swarm.half_read_mount(&[seeder.addr()]);
    let saved = swarm.stage.subdir("saved");
    let mut leecher = Libtorrent::leecher(&swarm.stage, &swarm.torrent.path, &saved, &[mount.listen()]);
    let whole_pieces = BYTES / 2 / swarm.torrent.piece_bytes * swarm.torrent.piece_bytes;
    eventually("the leecher has what was read", LONG, || {
        Some(leecher.stats()).filter(|stats| stats.downloaded >= whole_pieces)
    });

    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("it can be read");
    let stats = leecher.wait_complete(LONG);
    assert_eq!(stats.failed_bytes, 0, "{stats:?}");
    swarm.wait_for_bytes(&saved);
}

#[test]
fn transmission_downloads_from_a_mount_as_it_is_read() {
    if missing(&[Need::Fuse, Need::Libtorrent, Need::Program("transmission-cli")]) {
        return;
    }
    let swarm = Swarm::new("mount-tr");
    let seeder = swarm.seeder();
    let saved = swarm.stage.subdir("saved");
    let (mut client, addr) = clients::transmission(&swarm.stage, &swarm.torrent.path, &saved);
    let (mount, mut file) = swarm.half_read_mount(&[seeder.addr(), addr]);
    wait_for_upload(&mount);
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("it can be read");
    swarm.wait_for_file(&mut client, &saved);
}

#[test]
fn aria2_downloads_from_a_mount_as_it_is_read() {
    if missing(&[Need::Fuse, Need::Libtorrent, Need::Program("aria2c")]) {
        return;
    }
    let swarm = Swarm::new("mount-aria2");
    let seeder = swarm.seeder();
    let (mount, mut file) = swarm.half_read_mount(&[seeder.addr()]);
    swarm.tracker.set_answer(Answer::Peers(vec![mount.listen()]));
    let saved = swarm.stage.subdir("saved");
    let mut client = clients::aria2(&swarm.stage, &swarm.torrent.path, &saved);
    wait_for_upload(&mount);
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("it can be read");
    let status = client.wait(LONG);
    assert!(status.success(), "{status}");
    swarm.wait_for_bytes(&saved);
}

/// Waits until the mount has given something away.
#[track_caller]
fn wait_for_upload(mount: &Mount<'_>) {
    eventually("the mount uploads", LONG, || {
        mount.torrent_status()["uploaded_bytes"].as_u64().filter(|&sent| sent > 0)
    });
}
