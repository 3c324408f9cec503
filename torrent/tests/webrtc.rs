//! Sessions that find each other at a WebSocket tracker and speak over data channels: what one has, another reads. No
//! session is told of another's address, so that nothing here goes over TCP.
#![cfg(feature = "webrtc")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
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

/// Reads when it is asked, and not before.
async fn reader(
    relay: &Arc<Relay>,
    metainfo: &Metainfo,
    peers: Vec<SocketAddr>,
) -> (tempfile::TempDir, Session, Torrent) {
    let cache = tempfile::tempdir().expect("dir");
    let session = session(cache.path(), relay, |_| {}).await;
    let source = Source::Metainfo(Box::new(metainfo.clone()));
    let torrent = session.add(source, AddOptions { peers, ..AddOptions::default() }).await.expect("added");
    (cache, session, torrent)
}

async fn read(torrent: &Torrent, range: std::ops::Range<u64>) {
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let reading =
        torrent.open(file).expect("opens").read_at(range.start, (range.end - range.start) as u32).await;
    assert!(reading.expect("read") == ramp(range));
}

/// What its peers are connected by.
fn transports(status: &TorrentStatus) -> Vec<SourceKind> {
    status.peers.iter().map(|peer| peer.source).collect()
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
    read(&torrent, 0..BYTES).await;
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
    let (_cache, session, torrent) = reader(&relay, &seeded.metainfo, Vec::new()).await;
    wait_status(&torrent, |status| status.peers.iter().any(|peer| peer.source == SourceKind::WebRtc)).await;
    relay.go_down();
    wait_status(&torrent, |status| tracker(status).state == TrackerStateName::Error).await;
    // Nothing has been read so far.
    read(&torrent, 0..BYTES).await;
    session.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_reached_over_tcp_too_is_kept_there() {
    let relay = Relay::new();
    let seeded = seed(&relay, 1_000_000).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let (_cache, session, torrent) = reader(&relay, &seeded.metainfo, Vec::new()).await;
    wait_status(&torrent, |status| transports(status) == [SourceKind::WebRtc]).await;
    torrent.add_peers(vec![seeded.session.listening()[0]]).await;
    wait_status(&torrent, |status| transports(status) == [SourceKind::Tcp]).await;
    wait_status(&seeded.torrent, |status| transports(status) == [SourceKind::Tcp]).await;
    read(&torrent, 999_000..1_000_000).await;
    session.shutdown().await;
    seeded.session.shutdown().await;
}

/// Once each has the other as its one peer, by the same way.
async fn wait_one_is_left(ends: [&Torrent; 2]) -> SourceKind {
    let waiting = async {
        loop {
            let [one, other] = ends.map(|torrent| transports(&torrent.status()));
            if one == other
                && let [transport] = one[..]
            {
                return transport;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("{:#?}", ends.map(Torrent::status)))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_that_dial_each_other_and_meet_at_a_tracker_at_once_keep_one_connection() {
    const BYTES: u64 = 5_000_000;
    let relay = Relay::new();
    let seeded = seed(&relay, BYTES).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    let theirs = seeded.session.listening()[0];
    let (_cache, session, torrent) = reader(&relay, &seeded.metainfo, vec![theirs]).await;
    seeded.torrent.add_peers(vec![session.listening()[0]]).await;
    wait_one_is_left([&torrent, &seeded.torrent]).await;
    read(&torrent, 0..BYTES).await;
    wait_one_is_left([&torrent, &seeded.torrent]).await;
    session.shutdown().await;
    seeded.session.shutdown().await;
}

/// Carries what is said to it to `to` at once, and the answers once `is_let_back`.
async fn hold_answers(to: SocketAddr, is_let_back: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let is_let_back = is_let_back.clone();
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(to).await else { return };
                let ((mut from, mut back), (mut answers, mut into)) = (near.into_split(), far.into_split());
                let there = async {
                    // Either way it is over.
                    let _end = tokio::io::copy(&mut from, &mut into).await;
                };
                let back = async {
                    is_let_back.cancelled().await;
                    let _end = tokio::io::copy(&mut answers, &mut back).await;
                };
                tokio::select! {
                    () = there => {}
                    () = back => {}
                }
            });
        }
    });
    addr
}

/// One end hears of the TCP connection first, the other of the data channel.
#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_that_hear_of_their_connections_in_different_orders_keep_the_same() {
    const BYTES: u64 = 1_000_000;
    let relay = Relay::new();
    let seeded = seed(&relay, BYTES).await;
    wait(&relay, |relay| relay.seeds() == 1).await;
    relay.set_answers(Answers::Held);
    let (_cache, session, torrent) = reader(&relay, &seeded.metainfo, Vec::new()).await;
    wait(&relay, |relay| relay.held() >= 1).await;
    let is_let_back = CancellationToken::new();
    torrent.add_peers(vec![hold_answers(seeded.session.listening()[0], is_let_back.clone()).await]).await;
    wait_status(&seeded.torrent, |status| transports(status) == [SourceKind::Tcp]).await;
    relay.set_answers(Answers::PassedOn);
    wait_status(&torrent, |status| transports(status) == [SourceKind::WebRtc]).await;
    is_let_back.cancel();
    // Where it was dialled is not where the peer listens: the data channel stays.
    let left = wait_one_is_left([&torrent, &seeded.torrent]).await;
    assert_eq!(left, SourceKind::WebRtc);
    read(&torrent, 0..BYTES).await;
    wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= BYTES).await;
    session.shutdown().await;
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
    let (_cache, session, torrent) = reader(&relay, &seeded.metainfo, Vec::new()).await;
    wait_status(&torrent, |status| transports(status) == [SourceKind::WebRtc]).await;
    let claims = async {
        let mut stranger = TcpStream::connect(session.listening()[0]).await.expect("it listens");
        let handshake = Handshake { reserved: Reserved::default(), info_hash, peer_id };
        stranger.write_all(&handshake.encode()).await.expect("sent");
        stranger.read_exact(&mut [0; 68]).await.expect("the handshake is answered");
        // It is held, told nothing, and then hung up on.
        assert_eq!(stranger.read(&mut [0; 1]).await.expect("hung up on in an orderly way"), 0);
    };
    tokio::time::timeout(PATIENCE, claims).await.expect("in time");
    assert_eq!(transports(&torrent.status()), [SourceKind::WebRtc]);
    read(&torrent, 0..1_000_000).await;
    wait_status(&torrent, |status| moved(status, SourceKind::WebRtc) >= 1_000_000).await;
    session.shutdown().await;
    seeded.session.shutdown().await;
}
