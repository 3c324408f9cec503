//! Sessions that find each other at a WebSocket tracker and speak over data channels: what one has, another reads. No
//! session is told of another's address, so that nothing here goes over TCP.
#![cfg(feature = "webrtc")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::create::{CreateOptions, create};
use wtfs_torrent::tracker::announcer::TrackerStateName;
use wtfs_torrent::{
    AddOptions, ExistingData, Fill, ListenConfig, PortPolicy, Session, SessionConfig, Source, SourceKind,
    StorageKind, Torrent, TorrentStatus, WebRtcPolicy,
};

use relay::Relay;

#[path = "webrtc/relay.rs"]
mod relay;

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

const URL: &str = "ws://relay.test/announce";

fn ramp(len: u64) -> Vec<u8> {
    (0..len).map(|offset: u64| (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

async fn session(cache: &Path, relay: &Arc<Relay>, tweak: impl FnOnce(&mut SessionConfig)) -> Session {
    let mut config = SessionConfig::new(cache.to_owned());
    let addrs = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs };
    config.own_tracker = Some(relay.as_own_tracker(URL));
    tweak(&mut config);
    Session::open(config).await.expect("a session opens")
}

struct Seeded {
    _dir: tempfile::TempDir,
    _cache: tempfile::TempDir,
    session: Session,
    torrent: Torrent,
    metainfo: Metainfo,
}

async fn seed(relay: &Arc<Relay>, len: u64) -> Seeded {
    let (dir, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let path = dir.path().join("data.bin");
    std::fs::write(&path, ramp(len)).expect("the data is written");
    let options = CreateOptions { piece_bytes: Some(65_536), ..CreateOptions::new(path) };
    let metainfo = tokio::task::spawn_blocking(move || {
        create(&options, &|_| {}, &AtomicBool::new(false)).expect("a torrent is made")
    })
    .await
    .expect("no panic");
    let session = session(cache.path(), relay, |_| {}).await;
    let options = AddOptions {
        storage: StorageKind::Directory(dir.path().to_owned()),
        existing: ExistingData::Verify,
        ..AddOptions::default()
    };
    let source = Source::Metainfo(Box::new(metainfo.clone()));
    let torrent = session.add(source, options).await.expect("added");
    tokio::time::timeout(PATIENCE, torrent.wait_complete()).await.expect("in time").expect("complete");
    Seeded { _dir: dir, _cache: cache, session, torrent, metainfo }
}

async fn fetch(relay: &Arc<Relay>, metainfo: &Metainfo) -> (tempfile::TempDir, Session, Torrent) {
    let cache = tempfile::tempdir().expect("dir");
    let session = session(cache.path(), relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(metainfo.clone()));
    let options = AddOptions { fill: Fill::Everything, ..AddOptions::default() };
    let torrent = session.add(source, options).await.expect("added");
    (cache, session, torrent)
}

async fn wait_complete(torrent: &Torrent) {
    let waited = tokio::time::timeout(PATIENCE, torrent.wait_complete()).await;
    waited.unwrap_or_else(|_| panic!("{:#?}", torrent.status())).expect("complete");
}

async fn wait_status(torrent: &Torrent, is_so: impl Fn(&TorrentStatus) -> bool) -> TorrentStatus {
    let wait = async {
        loop {
            let status = torrent.status();
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("it stays {:#?}", torrent.status()))
}

fn moved(status: &TorrentStatus, kind: SourceKind) -> u64 {
    status.sources.iter().find(|source| source.kind == kind).map_or(0, |source| source.downloaded_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_meet_at_a_tracker_and_one_gets_what_the_other_has() {
    const BYTES: u64 = 5_000_000;
    let relay = Relay::new();
    let seeded = seed(&relay, BYTES).await;
    relay.wait_members(1, PATIENCE).await;
    let (_cache, session, torrent) = fetch(&relay, &seeded.metainfo).await;
    wait_complete(&torrent).await;
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let all = torrent.open(file).expect("opens").read_at(0, BYTES as u32).await.expect("read");
    assert!(all == ramp(BYTES));
    // What moved is published a moment later.
    let status = wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= BYTES).await;
    assert_eq!(moved(&status, SourceKind::Tcp), 0, "{:?}", status.sources);
    let tracker = status.servers.trackers.iter().find(|tracker| tracker.url == URL).expect("it is listed");
    assert_eq!(tracker.state, TrackerStateName::Working, "{tracker:?}");
    assert!(tracker.seeders.is_some_and(|seeders| seeders >= 1), "{tracker:?}");
    session.shutdown().await;
    seeded.session.shutdown().await;
    assert_eq!(relay.members(), 0, "both said that they left");
    let _ = (Ordering::Relaxed, WebRtcPolicy::On, &seeded.torrent);
}
