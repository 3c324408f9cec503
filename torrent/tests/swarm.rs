//! Sessions of the engine among themselves, over TCP on loopback: what one has, another reads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::{
    AddOptions, Fill, ListenConfig, PortPolicy, ReadError, Session, SessionConfig, Source, Torrent,
};

use content::{lay_out, lying_in, ramp};

#[path = "swarm/cold_start.rs"]
mod cold_start;
#[path = "swarm/content.rs"]
mod content;
#[path = "swarm/misfits.rs"]
mod misfits;
#[path = "swarm/rivals.rs"]
mod rivals;

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// As the engine has it: what is asked of a peer is asked again after so long at the earliest.
const LEAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

fn next_ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    Ipv4Addr::new(127, 77, 0, NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn session(cache: &Path, tweak: impl FnOnce(&mut SessionConfig)) -> Session {
    let mut config = SessionConfig::new(cache.to_owned());
    config.listen =
        ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: vec![IpAddr::V4(next_ip())] };
    tweak(&mut config);
    Session::open(config).await.expect("a session opens")
}

struct Seeded {
    _dir: tempfile::TempDir,
    _cache: tempfile::TempDir,
    session: Session,
    torrent: Torrent,
    metainfo: Metainfo,
    addr: SocketAddr,
}

async fn seed(len: u64, piece_bytes: u32) -> Seeded {
    let (dir, cache) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let metainfo = lay_out(dir.path(), len, piece_bytes).await;
    let session = session(cache.path(), |_| {}).await;
    let source = Source::Metainfo(Box::new(metainfo.clone()));
    let torrent = session.add(source, lying_in(dir.path())).await.expect("added");
    tokio::time::timeout(PATIENCE, torrent.wait_complete()).await.expect("in time").expect("complete");
    let addr = session.listening()[0];
    Seeded { _dir: dir, _cache: cache, session, torrent, metainfo, addr }
}

fn with_peer(addr: SocketAddr) -> AddOptions {
    AddOptions { peers: vec![addr], ..AddOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_any_range_from_a_seed_and_no_more_than_it_needs() {
    let seeded = seed(10_000_000, 65_536).await;
    let cache = tempfile::tempdir().expect("dir");
    let reader = session(cache.path(), |_| {}).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = reader.add(source, with_peer(seeded.addr)).await.expect("added");
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let handle = torrent.open(file).expect("opens");
    let began = Instant::now();
    for (offset, len) in [(5_000_000, 100), (0, 1), (9_999_990, 100), (65_530, 20), (10_000_000, 5), (77, 0)]
    {
        let read = tokio::time::timeout(PATIENCE, handle.read_at(offset, len)).await.expect("in time");
        let end = (offset + u64::from(len)).min(10_000_000);
        assert_eq!(read.expect("read"), ramp(offset..end.max(offset)), "{offset}+{len}");
    }
    let status = torrent.status();
    let needed = status.downloaded_bytes - status.wasted_bytes;
    assert!(needed <= 8 * 65_536, "{needed} bytes for a few reads");
    // No request is given up and sent again before that, which a machine that stood still for a while makes happen.
    if began.elapsed() < LEAST_REQUEST_TIMEOUT {
        assert_eq!(status.wasted_bytes, 0);
    }
    let all = tokio::time::timeout(PATIENCE, handle.read_at(0, 10_000_000)).await.expect("in time");
    assert!(all.expect("read") == ramp(0..10_000_000));
    assert!(handle.try_read_at(1_000, 1_000).is_none_or(|bytes| bytes == ramp(1_000..2_000)));
    reader.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_magnet_gets_its_metadata_from_a_peer_and_then_everything() {
    let seeded = seed(3_000_000, 32_768).await;
    let cache = tempfile::tempdir().expect("dir");
    let getter = session(cache.path(), |_| {}).await;
    let magnet = Magnet::from_metainfo(&seeded.metainfo);
    let options = AddOptions { fill: Fill::Everything, ..with_peer(seeded.addr) };
    let torrent = getter.add(Source::Magnet(Box::new(magnet.clone())), options).await.expect("added");
    tokio::time::timeout(PATIENCE, torrent.wait_complete()).await.expect("in time").expect("complete");
    assert_eq!(torrent.metainfo().expect("known").info_bytes, seeded.metainfo.info_bytes);
    getter.shutdown().await;
    // Handles keep the store and its lock.
    drop((torrent, getter));

    // Another session on the same cache needs nobody.
    seeded.session.shutdown().await;
    let again = session(cache.path(), |_| {}).await;
    let torrent = again.add(Source::Magnet(Box::new(magnet)), AddOptions::default()).await.expect("added");
    assert!(torrent.is_complete());
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let read = torrent.open(file).expect("opens").read_at(1_234_567, 4_096).await.expect("read");
    assert_eq!(read, ramp(1_234_567..1_238_663));
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_reader_serves_what_it_has_to_a_third() {
    let seeded = seed(4_000_000, 65_536).await;
    let (cache_b, cache_c) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let b = session(cache_b.path(), |_| {}).await;
    let source = || Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent_b = b.add(source(), with_peer(seeded.addr)).await.expect("added");
    let file = torrent_b.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let read = torrent_b.open(file).expect("opens").read_at(1_000_000, 500_000).await.expect("read");
    assert_eq!(read, ramp(1_000_000..1_500_000));
    seeded.session.shutdown().await;
    let c = session(cache_c.path(), |_| {}).await;
    let torrent_c = c.add(source(), with_peer(b.listening()[0])).await.expect("added");
    let handle = torrent_c.open(file).expect("opens");
    let read = tokio::time::timeout(PATIENCE, handle.read_at(1_200_000, 200_000)).await.expect("in time");
    assert_eq!(read.expect("read"), ramp(1_200_000..1_400_000));
    // Whoever sends learns of it after whoever reads.
    let counted = async {
        while torrent_b.status().uploaded_bytes < 200_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("what it served is counted");
    b.shutdown().await;
    c.shutdown().await;
    drop(seeded.torrent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_without_sources_ends_at_its_deadline_and_names_the_piece() {
    let seeded = seed(1_000_000, 65_536).await;
    seeded.session.shutdown().await;
    let cache = tempfile::tempdir().expect("dir");
    let lonely = session(cache.path(), |config| config.read_timeout = Duration::from_millis(300)).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = lonely.add(source, with_peer(seeded.addr)).await.expect("added");
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let handle = torrent.open(file).expect("opens");
    let read = tokio::time::timeout(PATIENCE, handle.read_at(200_000, 10)).await.expect("ends");
    match read {
        Err(ReadError::Timeout { piece, sources, .. }) => assert_eq!((piece, sources), (3, 0)),
        other => panic!("expected a time-out, got {other:?}"),
    }
    // A stuck read does not hold up the end.
    let stuck = tokio::spawn(async move { handle.read_at(0, 10).await });
    lonely.shutdown().await;
    let read = tokio::time::timeout(PATIENCE, stuck).await.expect("ends").expect("no panic");
    assert!(matches!(read, Err(ReadError::Closed | ReadError::Timeout { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_handle_get_the_same_bytes() {
    let seeded = seed(8_000_000, 131_072).await;
    let cache = tempfile::tempdir().expect("dir");
    let reader = session(cache.path(), |config| config.memory_bytes = 1 << 20).await;
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = reader.add(source, with_peer(seeded.addr)).await.expect("added");
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let handle = torrent.open(file).expect("opens");
    let reads = (0..64_u64).map(|n| {
        let handle = handle.clone();
        tokio::spawn(async move {
            let offset = n * 7_919 * 131 % 7_900_000;
            (offset, handle.read_at(offset, 50_000).await)
        })
    });
    for read in reads.collect::<Vec<_>>() {
        let (offset, bytes) = tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("no panic");
        assert_eq!(bytes.expect("read"), ramp(offset..offset + 50_000));
    }
    reader.shutdown().await;
    seeded.session.shutdown().await;
}
