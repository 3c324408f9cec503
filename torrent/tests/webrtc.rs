//! Sessions that find each other at a WebSocket tracker and speak over data channels: what one has, another reads. No
//! session is told of another's address, so that nothing here goes over TCP.
#![cfg(feature = "webrtc")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_proto::metainfo::{Metainfo, Privacy};
use wtfs_proto::wire::handshake::{Handshake, Reserved};
use wtfs_torrent::create::{CreateOptions, create};
use wtfs_torrent::tracker::announcer::{TrackerStateName, TrackerStatus};
use wtfs_torrent::{
    AddOptions, BridgePolicy, ExistingData, Fill, ListenConfig, PortPolicy, Session, SessionConfig, Source,
    SourceKind, StorageKind, Torrent, TorrentStatus, WebRtcPolicy,
};

use content::{lay_out, lying_in, ramp};
use relay::{Answers, Relay};

#[path = "swarm/content.rs"]
mod content;
#[path = "webrtc/relay.rs"]
mod relay;

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

const URL: &str = "ws://relay.test/announce";

async fn session(cache: &Path, relay: &Arc<Relay>, tweak: impl FnOnce(&mut SessionConfig)) -> Session {
    let mut config = SessionConfig::new(cache.to_owned());
    let addrs = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs };
    config.own_tracker = Some(relay.as_own_tracker(URL));
    tweak(&mut config);
    Session::open(config).await.expect("a session opens")
}

struct Seeded {
    dir: tempfile::TempDir,
    _cache: tempfile::TempDir,
    /// For another session.
    again: tempfile::TempDir,
    session: Session,
    torrent: Torrent,
    metainfo: Metainfo,
}

async fn seed(relay: &Arc<Relay>, len: u64) -> Seeded {
    let (dir, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let metainfo = lay_out(dir.path(), len, 65_536).await;
    let session = session(cache.path(), relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(metainfo.clone()));
    let torrent = session.add(source, lying_in(dir.path())).await.expect("added");
    tokio::time::timeout(PATIENCE, torrent.wait_complete()).await.expect("in time").expect("complete");
    let again = tempfile::tempdir().expect("dir");
    Seeded { dir, _cache: cache, again, session, torrent, metainfo }
}

/// The same data from another session; the first has ended.
async fn seed_again(relay: &Arc<Relay>, first: &Seeded) -> Session {
    let session = session(first.again.path(), relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(first.metainfo.clone()));
    session.add(source, lying_in(first.dir.path())).await.expect("added");
    session
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

fn tracker(status: &TorrentStatus) -> &TrackerStatus {
    status.servers.trackers.iter().find(|tracker| tracker.url == URL).expect("it is listed")
}

async fn wait(relay: &Relay, is_so: impl Fn(&Relay) -> bool) {
    let waiting = async {
        while !is_so(relay) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

fn moved(status: &TorrentStatus, kind: SourceKind) -> u64 {
    status.sources.iter().find(|source| source.kind == kind).map_or(0, |source| source.downloaded_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_meet_at_a_tracker_and_one_gets_what_the_other_has() {
    const BYTES: u64 = 5_000_000;
    let relay = Relay::new();
    let seeded = seed(&relay, BYTES).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let (_cache, session, torrent) = fetch(&relay, &seeded.metainfo).await;
    wait_complete(&torrent).await;
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let all = torrent.open(file).expect("opens").read_at(0, BYTES as u32).await.expect("read");
    assert!(all == ramp(0..BYTES));
    // What moved is published a moment later.
    let status = wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= BYTES).await;
    assert_eq!(moved(&status, SourceKind::Tcp), 0, "{:?}", status.sources);
    let tracker = tracker(&status);
    assert_eq!(tracker.state, TrackerStateName::Working, "{tracker:?}");
    assert!(tracker.seeders.is_some_and(|seeders| seeders >= 1), "{tracker:?}");
    session.shutdown().await;
    seeded.session.shutdown().await;
    // Both say that they leave.
    wait(&relay, |relay| relay.farewells() == 2).await;
    assert_eq!(relay.members(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_comes_second_offers_to_who_waits() {
    let relay = Relay::new();
    let first = seed(&relay, 300_000).await;
    let metainfo = first.metainfo.clone();
    first.session.shutdown().await;
    wait(&relay, |relay| relay.members() == 0).await;
    let (_cache, session, torrent) = fetch(&relay, &metainfo).await;
    wait(&relay, |relay| relay.members() == 1).await;
    let seeded = seed_again(&relay, &first).await;
    wait_complete(&torrent).await;
    wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= 300_000).await;
    session.shutdown().await;
    seeded.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_without_answers_and_answers_without_sense_are_survived() {
    let relay = Relay::new();
    let seeded = seed(&relay, 300_000).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    relay.set_answers(Answers::Dropped);
    let (_cache, session, torrent) = fetch(&relay, &seeded.metainfo).await;
    wait(&relay, |relay| relay.offers() >= 1).await;
    relay.set_answers(Answers::Garbled);
    // The seed's own offer, and what the other one answers, are no better off.
    relay.say_to_all("{\"action\":\"announce\",\"offer\":{\"type\":\"offer\",\"sdp\":7}}");
    relay.say_to_all("\u{0}");
    relay.go_down();
    let status = wait_status(&torrent, |status| tracker(status).state == TrackerStateName::Error).await;
    let message = tracker(&status).message.clone().unwrap_or_default();
    assert!(message.contains("relay.test") && message.contains("broke"), "{message}");
    relay.set_answers(Answers::PassedOn);
    relay.come_back();
    // They announce anew by themselves, and the offers made then are answered.
    wait_complete(&torrent).await;
    wait_status(&torrent, |status| tracker(status).state == TrackerStateName::Working).await;
    session.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_connected_do_not_need_the_tracker() {
    const BYTES: u64 = 20_000_000;
    let relay = Relay::new();
    let seeded = seed(&relay, BYTES).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let cache = tempfile::tempdir().expect("dir");
    let session = session(cache.path(), &relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = session.add(source, AddOptions::default()).await.expect("added");
    wait_status(&torrent, |status| status.peers.iter().any(|peer| peer.source == SourceKind::WebRtc)).await;
    relay.go_down();
    wait_status(&torrent, |status| tracker(status).state == TrackerStateName::Error).await;
    // Nothing has been read so far.
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let all = torrent.open(file).expect("opens").read_at(0, BYTES as u32).await.expect("read");
    assert!(all == ramp(0..BYTES));
    session.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_reached_over_tcp_too_is_kept_there() {
    let relay = Relay::new();
    let seeded = seed(&relay, 1_000_000).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let cache = tempfile::tempdir().expect("dir");
    let reader = session(cache.path(), &relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = reader.add(source, AddOptions::default()).await.expect("added");
    let transports = |status: &TorrentStatus| status.peers.iter().map(|peer| peer.source).collect::<Vec<_>>();
    wait_status(&torrent, |status| transports(status) == [SourceKind::WebRtc]).await;
    torrent.add_peers(vec![seeded.session.listening()[0]]).await;
    wait_status(&torrent, |status| transports(status) == [SourceKind::Tcp]).await;
    wait_status(&seeded.torrent, |status| transports(status) == [SourceKind::Tcp]).await;
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let read = torrent.open(file).expect("opens").read_at(999_000, 1_000).await.expect("read");
    assert!(read == ramp(0..1_000_000)[999_000..]);
    reader.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_webrtc_the_tracker_is_listed_and_left_alone() {
    let relay = Relay::new();
    let seeded = seed(&relay, 100_000).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let cache = tempfile::tempdir().expect("dir");
    let without = session(cache.path(), &relay, |config| config.webrtc = WebRtcPolicy::Off).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = without.add(source, AddOptions::default()).await.expect("added");
    let status = wait_status(&torrent, |status| !status.servers.trackers.is_empty()).await;
    assert_eq!(tracker(&status).state, TrackerStateName::NeedsWebRtc);
    assert_eq!(relay.members(), 1);
    without.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_torrent_is_not_told_to_a_tracker_that_is_not_its_own() {
    let relay = Relay::new();
    let (dir, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    std::fs::write(dir.path().join("data.bin"), ramp(0..50_000)).expect("written");
    let options =
        CreateOptions { privacy: Privacy::Private, ..CreateOptions::new(dir.path().join("data.bin")) };
    let metainfo = tokio::task::spawn_blocking(move || create(&options, &|_| {}, &AtomicBool::new(false)))
        .await
        .expect("no panic")
        .expect("made");
    let session = session(cache.path(), &relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(metainfo));
    let torrent = session.add(source, AddOptions::default()).await.expect("added");
    wait_status(&torrent, |status| status.phase == wtfs_torrent::Phase::Ready).await;
    assert!(torrent.status().servers.trackers.is_empty());
    session.shutdown().await;
    assert_eq!(relay.members(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_gives_on_what_peers_have_who_cannot_reach_each_other() {
    const BYTES: u64 = 1_000_000;
    let relay = Relay::new();
    let (dir, caches) =
        (tempfile::tempdir().expect("dir"), [(); 3].map(|()| tempfile::tempdir().expect("dir")));
    std::fs::write(dir.path().join("data.bin"), ramp(0..BYTES)).expect("written");
    // In a private torrent nobody is told of others by peers.
    let options = CreateOptions {
        privacy: Privacy::Private,
        trackers: vec![vec![URL.to_owned()]],
        ..CreateOptions::new(dir.path().join("data.bin"))
    };
    let metainfo = tokio::task::spawn_blocking(move || create(&options, &|_| {}, &AtomicBool::new(false)))
        .await
        .expect("no panic")
        .expect("made");
    let source = || Source::Metainfo(Box::new(metainfo.clone()));
    let hub = session(caches[0].path(), &relay, |config| config.bridge = BridgePolicy::On).await;
    let bridge = hub.add(source(), AddOptions::default()).await.expect("added");
    wait(&relay, |relay| relay.members() == 1).await;
    let seed = session(caches[1].path(), &relay, |config| config.webrtc = WebRtcPolicy::Off).await;
    let options = AddOptions {
        storage: StorageKind::Directory(dir.path().to_owned()),
        existing: ExistingData::Verify,
        peers: vec![hub.listening()[0]],
        ..AddOptions::default()
    };
    seed.add(source(), options).await.expect("added");
    wait_status(&bridge, |status| status.peers.iter().any(|peer| peer.source == SourceKind::Tcp)).await;
    assert_eq!(bridge.status().downloaded_bytes, 0, "nobody needs it so far");
    // As a browser: nobody can connect to it.
    let getter = session(caches[2].path(), &relay, |config| config.listen.addrs.clear()).await;
    let options = AddOptions { fill: Fill::Everything, ..AddOptions::default() };
    let torrent = getter.add(source(), options).await.expect("added");
    wait_complete(&torrent).await;
    let status = wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= BYTES).await;
    assert_eq!(moved(&status, SourceKind::Tcp), 0, "{:?}", status.sources);
    for session in [getter, seed, hub] {
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_over_tcp_does_not_take_the_place_of_the_peer_whose_id_it_claims() {
    let relay = Relay::new();
    let seeded = seed(&relay, 1_000_000).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let [(info_hash, peer_id)] = relay.keys()[..] else { panic!("{:?}", relay.keys()) };
    let cache = tempfile::tempdir().expect("dir");
    let reader = session(cache.path(), &relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = reader.add(source, AddOptions::default()).await.expect("added");
    let transports = |status: &TorrentStatus| status.peers.iter().map(|peer| peer.source).collect::<Vec<_>>();
    wait_status(&torrent, |status| transports(status) == [SourceKind::WebRtc]).await;
    let claims = async {
        let mut stranger = tokio::net::TcpStream::connect(reader.listening()[0]).await.expect("it listens");
        let handshake = Handshake { reserved: Reserved::default(), info_hash, peer_id };
        stranger.write_all(&handshake.encode()).await.expect("sent");
        stranger.read_exact(&mut [0; 68]).await.expect("the handshake is answered");
        // It is held, told nothing, and then hung up on.
        assert_eq!(stranger.read(&mut [0; 1]).await.expect("hung up on in an orderly way"), 0);
    };
    tokio::time::timeout(PATIENCE, claims).await.expect("in time");
    assert_eq!(transports(&torrent.status()), [SourceKind::WebRtc]);
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let read = torrent.open(file).expect("opens").read_at(0, 1_000_000).await.expect("read");
    assert!(read == ramp(0..1_000_000));
    wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= 1_000_000).await;
    reader.shutdown().await;
    seeded.session.shutdown().await;
}
