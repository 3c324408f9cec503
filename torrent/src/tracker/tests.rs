//! What holds over both protocols: answers of two families are one, and announces work against another project's
//! tracker.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use wtfs_proto::id::PeerId;
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_testkit::net;

use super::*;
use crate::http::{HttpConfig, ProxyPolicy};

pub(super) const INFO_HASH: InfoHash = InfoHash::new([0xaa; 20]);

/// Far beyond what anything here takes; only a hang reaches it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: INFO_HASH,
        peer_id: PeerId::generate([b'x'; 12]),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left: 1000,
        event: AnnounceEvent::Started,
        num_want: Some(50),
        key: 7,
        ip: None,
        tracker_id: None,
    }
}

pub(super) fn http_client() -> HttpClient {
    let config = HttpConfig { proxies: ProxyPolicy::Direct, ..HttpConfig::default() };
    HttpClient::new(config).expect("the client can be built")
}

/// With time for a tracker, or for us, to be held up.
fn client() -> TrackerClient {
    let limits =
        TrackerLimits { http_total: PATIENCE, udp_tries: 6, udp_total: PATIENCE, ..TrackerLimits::default() };
    TrackerClient::new(http_client(), limits)
}

fn response(peers: &[&str], seeders: Option<u32>) -> AnnounceResponse {
    AnnounceResponse {
        interval_s: 900,
        seeders,
        peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        ..AnnounceResponse::default()
    }
}

#[test]
fn answers_of_two_families_become_one_without_impossible_peers() {
    let first =
        response(&["10.0.0.1:1", "0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "10.0.0.2:0"], Some(3));
    let second = response(&["10.0.0.1:1", "[::1]:1", "[ff02::1]:1", "[::]:1"], Some(5));
    let merged = merge(first, Some(second));
    assert_eq!(merged.peers, ["10.0.0.1:1".parse::<SocketAddr>().unwrap(), "[::1]:1".parse().unwrap()]);
    assert_eq!(merged.seeders, Some(5));
}

#[test]
fn peers_of_an_answer_are_bounded() {
    let many: Vec<_> = (1..=u16::MAX).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
    let merged = merge(AnnounceResponse { peers: many, ..AnnounceResponse::default() }, None);
    assert_eq!(merged.peers.len(), MAX_PEERS);
}

const GRACE: Duration = Duration::from_millis(20);

#[tokio::test]
async fn family_that_hangs_delays_the_other_by_the_grace_at_most() {
    let hang = std::future::pending::<Result<u32, ()>>;
    assert_eq!(over_both(async { Ok(4) }, hang(), GRACE).await, Ok((4, None)));
    assert_eq!(over_both(hang(), async { Ok(6) }, GRACE).await, Ok((6, None)));
}

#[tokio::test]
async fn one_family_that_works_is_enough_and_two_errors_are_the_first() {
    assert_eq!(over_both(async { Err("v4") }, async { Ok(6) }, GRACE).await, Ok((6, None)));
    assert_eq!(over_both(async { Ok(4) }, async { Ok::<_, &str>(6) }, GRACE).await, Ok((4, Some(6))));
    assert_eq!(over_both::<u32, _>(async { Err("v4") }, async { Err("v6") }, GRACE).await, Err("v4"));
}

#[tokio::test]
async fn errors_are_sentences() {
    let host = || "tracker.example".to_owned();
    let reason = || "reason".to_owned();
    for error in [
        AnnounceError::Refused { reason: reason() },
        AnnounceError::Garbage(reason()),
        AnnounceError::InvalidUrl(reason()),
        AnnounceError::Dns { host: host(), reason: reason() },
        AnnounceError::Timeout { host: host() },
        AnnounceError::Unreachable { host: host(), reason: reason() },
        unsupported(TrackerKind::WebSocket),
        unsupported(TrackerKind::Unknown),
    ] {
        let text = error.to_string();
        assert!(text.split(' ').count() >= 4 && !text.contains("{") && !text.contains('"'), "{text}");
    }
}

/// Another project's tracker; ended and its files removed when dropped.
struct OpenTracker {
    child: Child,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for OpenTracker {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OpenTracker {
    /// `None`, with a word on why, when it is not installed.
    async fn start() -> Option<Self> {
        let program = ["/usr/bin/opentracker", "/usr/local/bin/opentracker"].map(PathBuf::from);
        let Some(program) = program.into_iter().find(|path| path.exists()) else {
            assert!(
                std::env::var_os("WTFS_REQUIRE_INTEROP").is_none(),
                "opentracker is not installed: apt-get install opentracker"
            );
            eprintln!("skipped: opentracker is not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        // It gives its privileges up, and must still be able to enter.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        std::fs::write(dir.path().join("known"), format!("{INFO_HASH}\n")).unwrap();
        let spawn = |addr: SocketAddr| {
            let mut command = Command::new(&program);
            let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
            command.args(["-i", &ip, "-p", &port, "-P", &port, "-u", "nobody", "-w", "known", "-d"]);
            command.arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let addr = net::fresh_addr();
        let child = spawn(addr);
        let mut tracker = Self { child, addr, _dir: dir };
        let listening = async {
            while tokio::net::TcpStream::connect(tracker.addr).await.is_err() {
                if let Some(ended) = tracker.child.try_wait().unwrap() {
                    panic!("opentracker ended with {ended} instead of listening at {addr}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.expect("opentracker listens");
        Some(tracker)
    }
}

async fn two_peers_meet(url: &str) {
    let client = client();
    let from = |port, id| AnnounceRequest { port, peer_id: PeerId::generate([id; 12]), ..request() };
    let (first, second) = (from(5001, b'a'), from(5002, b'b'));
    // It listens before it has read its list of allowed torrents.
    let allowed = async {
        while let Err(AnnounceError::Refused { .. }) = client.announce(url, &first).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, allowed).await.expect("opentracker reads its list");
    client.announce(url, &first).await.unwrap();
    let seen = client.announce(url, &second).await.unwrap();
    assert!(seen.peers.contains(&"127.0.0.1:5001".parse().unwrap()), "{seen:?}");
    let seen =
        client.announce(url, &AnnounceRequest { event: AnnounceEvent::None, ..first.clone() }).await.unwrap();
    assert!(seen.peers.contains(&"127.0.0.1:5002".parse().unwrap()), "{seen:?}");
    assert!(seen.interval_s >= 60, "{seen:?}");
    let counts = client.scrape(url, &[INFO_HASH]).await.unwrap();
    assert_eq!(counts[0].unwrap().incomplete, 2);
    let stop = AnnounceRequest { event: AnnounceEvent::Stopped, num_want: Some(0), ..second };
    client.announce(url, &stop).await.unwrap();
    let seen = client.announce(url, &AnnounceRequest { event: AnnounceEvent::None, ..first }).await.unwrap();
    assert!(!seen.peers.contains(&"127.0.0.1:5002".parse().unwrap()), "it said stopped: {seen:?}");
}

#[tokio::test]
async fn two_peers_meet_through_opentracker_over_http() {
    let Some(tracker) = OpenTracker::start().await else { return };
    two_peers_meet(&format!("http://{}/announce", tracker.addr)).await;
}

#[tokio::test]
async fn two_peers_meet_through_opentracker_over_udp() {
    let Some(tracker) = OpenTracker::start().await else { return };
    two_peers_meet(&format!("udp://{}/announce", tracker.addr)).await;
}

#[tokio::test]
async fn torrent_unknown_to_opentracker_is_refused_with_its_reason() {
    let Some(tracker) = OpenTracker::start().await else { return };
    let url = format!("http://{}/announce", tracker.addr);
    let unknown = AnnounceRequest { info_hash: InfoHash::new([1; 20]), ..request() };
    let error = client().announce(&url, &unknown).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Refused { .. }), "{error}");
}
