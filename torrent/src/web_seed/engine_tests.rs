//! Web seeds within whole sessions, against an origin with faults: with no peer at all, reads are right or end in an error
//! and the status says what is wrong with which seed.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use wtfs_proto::geometry::FileIndex;
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;
use wtfs_testkit::net;
use wtfs_testkit::origin::{Body, Fault, Origin};
use wtfs_testkit::ramp::Ramp;

use crate::config::{ListenConfig, PortPolicy, SessionConfig};
use crate::create::{CreateOptions, create};
use crate::error::ReadError;
use crate::http::PrivateHosts;
use crate::resolve::Source;
use crate::session::{AddOptions, ExistingData, Fill, Session, StorageKind};
use crate::status::{WebSeedState, WebSeedStatus};
use crate::torrent::Torrent;

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

const PIECE: u32 = 64 * 1024;

/// Content on disk, the torrent of it, and the same content as an origin serves it.
struct Content {
    dir: tempfile::TempDir,
    metainfo: Metainfo,
    files: Vec<(String, Ramp, u64)>,
}

/// One file of `len` bytes.
async fn single(len: u64) -> Content {
    directory_or_single("one.bin", &[("", len)]).await
}

async fn directory(files: &[(&str, u64)]) -> Content {
    directory_or_single("my repo", files).await
}

async fn directory_or_single(name: &str, files: &[(&str, u64)]) -> Content {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = Vec::new();
    for (number, (path, len)) in (1..).zip(files) {
        let ramp = Ramp::new(number);
        let path = if path.is_empty() { name.to_owned() } else { format!("{name}/{path}") };
        ramp.write_file(&dir.path().join(&path), *len).unwrap();
        kept.push((path, ramp, *len));
    }
    // The torrent's files are in the order of their names.
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    let options = CreateOptions { piece_bytes: Some(PIECE), ..CreateOptions::new(dir.path().join(name)) };
    let made = move || create(&options, &|_| {}, &AtomicBool::new(false)).unwrap();
    let metainfo = tokio::task::spawn_blocking(made).await.unwrap();
    Content { dir, metainfo, files: kept }
}

impl Content {
    /// An origin that serves all of it below `/d/`.
    fn origin(&self) -> Origin {
        self.origin_without("")
    }

    fn origin_without(&self, missing: &str) -> Origin {
        let there = self.files.iter().filter(|(path, ..)| missing.is_empty() || !path.ends_with(missing));
        Origin::start(there.map(|(path, ramp, len)| {
            (format!("/d/{}", path.replace(' ', "%20")), Body::Ramp(*ramp, 0, *len))
        }))
    }

    fn seeded_by(&self, urls: &[String]) -> Source {
        let mut metainfo = self.metainfo.clone();
        metainfo.url_list = urls.to_vec();
        Source::Metainfo(Box::new(metainfo))
    }

    /// Reads every file and compares every byte.
    async fn assert_reads(&self, torrent: &Torrent) {
        for number in 0..self.files.len() {
            self.read(torrent, number).await.unwrap();
        }
    }

    async fn read(&self, torrent: &Torrent, number: usize) -> Result<(), ReadError> {
        let (path, ramp, len) = &self.files[number];
        let reader = torrent.open(file(torrent, number)).unwrap();
        let mut at = 0;
        while at < *len {
            let bytes = within(reader.read_at(at, 128 * 1024)).await?;
            assert!(!bytes.is_empty(), "{path} ends at {at}");
            ramp.check(at, &bytes).unwrap_or_else(|wrong| panic!("{path}: {wrong:?}"));
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

async fn session(cache: &Path, tweak: impl FnOnce(&mut SessionConfig)) -> Session {
    let mut config = SessionConfig::new(cache.to_owned());
    let listen = IpAddr::V4(net::loopback());
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: vec![listen] };
    config.min_free_bytes = 0;
    tweak(&mut config);
    Session::open(config).await.unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

fn file(torrent: &Torrent, number: usize) -> FileIndex {
    torrent.metainfo().unwrap().info.geometry.file(number).unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A session with one torrent of which nobody but web seeds has anything.
struct Alone {
    _cache: tempfile::TempDir,
    session: Session,
    torrent: Torrent,
}

impl Alone {
    async fn new(source: Source) -> Self {
        Self::with(source, |_| {}).await
    }

    async fn with(source: Source, tweak: impl FnOnce(&mut SessionConfig)) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let session = session(cache.path(), tweak).await;
        let torrent = session.add(source, AddOptions::default()).await.unwrap();
        Self { _cache: cache, session, torrent }
    }

    fn seeds(&self) -> Vec<WebSeedStatus> {
        self.torrent.status().servers.web_seeds
    }

    async fn wait_for(&self, state: WebSeedState) -> WebSeedStatus {
        until(&format!("a web seed is {state:?}"), || self.seeds().iter().any(|seed| seed.state == state))
            .await;
        self.seeds().into_iter().find(|seed| seed.state == state).expect("it was a moment ago")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_from_its_url_or_from_below_a_directory_in_few_requests() {
    const LEN: u64 = 16 * 1024 * 1024 + 5;
    let content = single(LEN).await;
    let origin = content.origin();
    for (url, runs) in [(origin.url("/d/one.bin"), 0), (origin.url("/d/"), 1)] {
        let before = origin.requests().len();
        let alone = Alone::new(content.seeded_by(&[url])).await;
        content.assert_reads(&alone.torrent).await;
        let requests = origin.requests().len() - before;
        assert!(requests < 200, "{requests} requests for 1025 blocks in run {runs}");
        let status = alone.torrent.status();
        assert_eq!((status.wasted_bytes, status.failed_pieces), (0, 0));
        assert_eq!(status.downloaded_bytes, LEN);
        alone.session.shutdown().await;
    }
    let request = &origin.requests()[0];
    assert!(request.headers.to_ascii_lowercase().contains("accept-encoding: identity"), "{request:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_directory_are_read_over_their_borders() {
    let content = directory(&[
        ("a.bin", 100_000),
        ("b c/d.bin", 1),
        ("b c/empty", 0),
        ("e?&#.bin", 300_001),
        ("f.bin", 16_384),
    ])
    .await;
    let origin = Origin::start(content.files.iter().map(|(path, ramp, len)| {
        let path = path.replace(' ', "%20").replace('?', "%3F").replace('&', "%26").replace('#', "%23");
        (format!("/{path}"), Body::Ramp(*ramp, 0, *len))
    }));
    let alone = Alone::new(content.seeded_by(&[origin.url("/")])).await;
    content.assert_reads(&alone.torrent).await;
    assert!(!origin.requests().iter().any(|request| request.target.contains("empty")));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_reads_fetch_their_pieces_and_no_more() {
    const LEN: u64 = 64 * 1024 * 1024;
    let content = single(LEN).await;
    let origin = content.origin();
    let alone = Alone::new(content.seeded_by(&[origin.url("/d/")])).await;
    let reader = alone.torrent.open(file(&alone.torrent, 0)).unwrap();
    let mut choice = fastrand::Rng::with_seed(5);
    let mut pieces = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let at = choice.u64(..LEN - 4096) / 4096 * 4096;
        let bytes = within(reader.read_at(at, 4096)).await.unwrap();
        content.files[0].1.check(at, &bytes).unwrap();
        pieces.insert(at / u64::from(PIECE));
    }
    let fetched = alone.torrent.status().downloaded_bytes;
    assert_eq!(fetched, pieces.len() as u64 * u64::from(PIECE));
}

/// Reads a file of 2 MiB from an origin that was told to go wrong.
async fn assert_survives(what: &str, prepare: impl FnOnce(&Origin)) -> (Alone, Origin) {
    let content = single(2 << 20).await;
    let origin = content.origin();
    prepare(&origin);
    let alone = Alone::new(content.seeded_by(&[origin.url("/d/")])).await;
    if let Err(error) = content.read(&alone.torrent, 0).await {
        panic!("{what}: {error}: {:?}", alone.seeds());
    }
    assert_eq!(alone.torrent.status().failed_pieces, 0, "{what}");
    (alone, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_waited_out() {
    let faults = [
        Fault::Status(500, String::new()),
        Fault::Status(502, String::new()),
        Fault::Status(503, "Retry-After: 1\r\n".to_owned()),
        Fault::Status(429, String::new()),
        Fault::Close,
        Fault::WrongRange,
        Fault::WrongLength,
        Fault::Truncate(0),
        Fault::Truncate(100),
    ];
    let each = faults.into_iter().map(|fault| async move {
        let what = format!("{fault:?}");
        let (_alone, origin) = assert_survives(&what, |origin| origin.next(2, fault)).await;
        assert!(origin.requests().len() > 2, "{what}");
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_off_are_gone_on_with_where_they_stopped() {
    let (alone, origin) =
        assert_survives("truncated", |origin| origin.always(Some(Fault::Truncate(50_000)))).await;
    assert_eq!(origin.sent_bytes(), 2 << 20, "nothing was sent twice");
    assert_eq!(alone.torrent.status().wasted_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_chunks_and_slow_ones_are_read() {
    let chunked = assert_survives("chunked", |origin| origin.always(Some(Fault::Chunked)));
    let slow = assert_survives("slow", |origin| origin.always(Some(Fault::Slow(400_000))));
    futures_util::future::join(chunked, slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_given_up_and_asked_for_anew() {
    let (alone, _origin) = assert_survives("stalled", |origin| origin.next(1, Fault::Stall(20_000))).await;
    assert_ne!(alone.seeds()[0].state, WebSeedState::Left);
    let silent = assert_survives("silent", |origin| origin.next(1, Fault::Silence)).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_send_whole_files_are_used_for_small_ones_and_left_for_large_ones() {
    let small = directory(&[("a", 200_000), ("b", 300_000)]).await;
    let origin = small.origin();
    origin.always(Some(Fault::IgnoreRange));
    let alone = Alone::new(small.seeded_by(&[origin.url("/d/")])).await;
    small.assert_reads(&alone.torrent).await;

    let large = single(8 << 20).await;
    let origin = large.origin();
    origin.always(Some(Fault::IgnoreRange));
    let tweak = |config: &mut SessionConfig| config.read_timeout = Duration::from_secs(10);
    let alone = Alone::with(large.seeded_by(&[origin.url("/d/")]), tweak).await;
    let reader = alone.torrent.open(file(&alone.torrent, 0)).unwrap();
    let error = within(reader.read_at(6 << 20, 4096)).await.unwrap_err();
    assert!(matches!(error, ReadError::Timeout { .. }), "{error}");
    let seed = alone.wait_for(WebSeedState::Left).await;
    assert!(seed.reason.is_some_and(|reason| reason.contains("ignores Range")), "{:?}", alone.seeds());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_of_wrong_bytes_is_banned_and_an_honest_one_serves() {
    let content = single(4 << 20).await;
    let (liar, honest) = (content.origin(), content.origin());
    liar.always(Some(Fault::WrongBytes));
    // Else it might give all before the other has given anything.
    honest.always(Some(Fault::Status(503, String::new())));
    let alone = Alone::new(content.seeded_by(&[liar.url("/d/"), honest.url("/d/")])).await;
    let lied = async {
        until("a piece is wrong", || alone.torrent.status().failed_pieces > 0).await;
        honest.always(None);
    };
    futures_util::future::join(content.assert_reads(&alone.torrent), lied).await;
    let seed = alone.wait_for(WebSeedState::Banned).await;
    assert_eq!(seed.url, liar.url("/d/"));
    assert!(alone.torrent.status().failed_pieces > 0);
    assert!(
        alone.seeds().iter().all(|seed| seed.url == liar.url("/d/") || seed.state != WebSeedState::Banned)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_nowhere_private_unless_that_is_named_or_allowed() {
    let content = single(1 << 20).await;
    let inner = content.origin();
    let inner_base = inner.url("");
    let timeout = |config: &mut SessionConfig| config.read_timeout = Duration::from_secs(10);

    let outer = content.origin();
    outer.always(Some(Fault::Redirect(inner_base.clone())));
    let alone = Alone::with(content.seeded_by(&[outer.url("/d/")]), timeout).await;
    assert!(content.read(&alone.torrent, 0).await.is_err());
    let seed = alone.wait_for(WebSeedState::Left).await;
    assert!(seed.reason.is_some_and(|reason| reason.contains("this machine")), "{:?}", alone.seeds());
    assert_eq!(inner.requests(), [], "the private host was never asked");

    let allowed = |config: &mut SessionConfig| config.private_hosts = PrivateHosts::Any;
    let alone = Alone::with(content.seeded_by(&[outer.url("/d/")]), allowed).await;
    content.assert_reads(&alone.torrent).await;

    let named = Alone::new(content.seeded_by(&[outer.url("/d/"), inner.url("/no/such")])).await;
    content.assert_reads(&named.torrent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_for_good_is_remembered_and_a_loop_is_left() {
    let content = single(4 << 20).await;
    let (old, new) = (content.origin(), content.origin());
    old.always(Some(Fault::Moved(new.url(""))));
    let allowed = |config: &mut SessionConfig| config.private_hosts = PrivateHosts::Any;
    let alone = Alone::with(content.seeded_by(&[old.url("/d/")]), allowed).await;
    content.assert_reads(&alone.torrent).await;
    assert!(old.requests().len() < new.requests().len(), "{} {}", old.requests().len(), new.requests().len());

    let turning = content.origin();
    turning.always(Some(Fault::Redirect(turning.url(""))));
    let timeout = |config: &mut SessionConfig| config.read_timeout = Duration::from_secs(10);
    let alone = Alone::with(content.seeded_by(&[turning.url("/d/")]), timeout).await;
    assert!(content.read(&alone.torrent, 0).await.is_err());
    let seed = alone.wait_for(WebSeedState::Left).await;
    assert!(seed.reason.is_some_and(|reason| reason.contains("loop")), "{:?}", alone.seeds());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_lacks_one_file_serves_the_others() {
    let content = directory(&[("a", 196_608), ("b", 327_680), ("c", 400_000)]).await;
    let (partial, other) = (content.origin_without("b"), content.origin_without("c"));
    let alone = Alone::new(content.seeded_by(&[partial.url("/d/"), other.url("/d/")])).await;
    content.assert_reads(&alone.torrent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_without_anything_is_named_with_its_reason() {
    let content = single(100_000).await;
    let origin = Origin::start([]);
    let timeout = |config: &mut SessionConfig| config.read_timeout = Duration::from_secs(10);
    let alone = Alone::with(content.seeded_by(&[origin.url("/d/?token=secret")]), timeout).await;
    let error = content.read(&alone.torrent, 0).await.unwrap_err();
    assert!(matches!(error, ReadError::Timeout { .. }), "{error}");
    let seed = alone.wait_for(WebSeedState::Waiting).await;
    assert!(seed.reason.as_deref().is_some_and(|reason| reason.contains("404")), "{seed:?}");
    assert!(!seed.url.contains("secret"), "{seed:?}");
    assert!(origin.requests().len() < 20, "it is not asked again and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_are_asked_for_pieces_serve_too() {
    let content = single(1_000_003).await;
    let (_, ramp, len) = content.files[0];
    let origin = Origin::start_for_pieces([("/seed".to_owned(), Body::Ramp(ramp, 0, len))], u64::from(PIECE));
    origin.next(1, Fault::Status(503, String::new()));
    let mut metainfo = content.metainfo.clone();
    metainfo.http_seeds = vec![origin.url("/seed")];
    let alone = Alone::new(Source::Metainfo(Box::new(metainfo))).await;
    content.assert_reads(&alone.torrent).await;
    let hash = |request: &wtfs_testkit::origin::Request| request.target.contains("?info_hash=%");
    assert!(origin.requests().iter().all(|request| request.range.is_none()));
    assert!(origin.requests().iter().any(hash), "{:?}", origin.requests()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_magnet_needs_nobody_but_its_urls_and_comes_through_a_server_that_begins_late() {
    let content = single(500_000).await;
    let torrent = content.metainfo.to_bytes();
    let (path, ramp, len) = content.files[0].clone();
    let origin = Origin::start([
        ("/x.torrent".to_owned(), Body::Bytes(torrent.into())),
        (format!("/d/{path}"), Body::Ramp(ramp, 0, len)),
    ]);
    origin.next(1, Fault::Status(503, String::new()));
    let mut magnet = Magnet::new(content.metainfo.hashes);
    magnet.exact_sources = vec![origin.url("/x.torrent")];
    magnet.web_seeds = vec![origin.url("/d/")];
    let alone = Alone::new(Source::Magnet(Box::new(magnet))).await;
    within(alone.torrent.wait_metainfo()).await.unwrap();
    content.assert_reads(&alone.torrent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_and_web_seeds_serve_one_download_together() {
    const PART: u64 = 2 << 20;
    let content = directory(&[("a both", PART), ("b web", PART), ("c peer", PART)]).await;
    let origin = content.origin_without("c peer");
    // Each of the two lacks what only the other has.
    std::fs::remove_file(content.dir.path().join("my repo/b web")).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let seeder = session(cache.path(), |_| {}).await;
    let options = AddOptions {
        storage: StorageKind::Directory(content.dir.path().to_owned()),
        existing: ExistingData::Verify,
        ..AddOptions::default()
    };
    let seeded = seeder.add(Source::Metainfo(Box::new(content.metainfo.clone())), options).await.unwrap();
    let its_pieces = u32::try_from(2 * PART / u64::from(PIECE)).unwrap();
    until("what it has is verified", || seeded.pieces().0 == its_pieces).await;
    let cache = tempfile::tempdir().unwrap();
    let both = session(cache.path(), |_| {}).await;
    let peers: Vec<SocketAddr> = seeder.listening().to_vec();
    let options = AddOptions { peers, fill: Fill::Everything, ..AddOptions::default() };
    let torrent = both.add(content.seeded_by(&[origin.url("/d/")]), options).await.unwrap();
    within(torrent.wait_complete()).await.unwrap();
    content.assert_reads(&torrent).await;
    // What is told of it may be of a moment ago.
    let of_web = || torrent.status().servers.web_seeds[0].downloaded_bytes;
    until("what came by HTTP is told", || of_web() >= PART).await;
    assert!(of_web() <= 2 * PART, "{} of {} came by HTTP", of_web(), 3 * PART);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_put_away_when_all_is_there() {
    let content = single(300_000).await;
    let origin = content.origin();
    let alone = Alone::new(content.seeded_by(&[origin.url("/d/")])).await;
    content.assert_reads(&alone.torrent).await;
    until("all is told, and that it rests", || {
        let [seed] = &alone.seeds()[..] else { return false };
        (seed.state, seed.downloaded_bytes) == (WebSeedState::Idle, 300_000)
    })
    .await;
}
