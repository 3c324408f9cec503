//! The budget within whole sessions over TCP on loopback: bounded under load, peers told, pins, prefetch, offline, and
//! dying in the middle of it all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use wtfs_proto::geometry::FileIndex;
use wtfs_proto::metainfo::Metainfo;

use super::evictor::choose;
use crate::config::{ListenConfig, NetworkPolicy, PortPolicy, SessionConfig};
use crate::create::{CreateOptions, create};
use crate::error::{PinError, ReadError};
use crate::hf::blobs::scripted;
use crate::resolve::Source;
use crate::session::{AddOptions, ExistingData, Fill, RemovedData, Session, StorageKind, data_dir};
use crate::store::list_states;
use crate::torrent::Torrent;

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

const PIECE: u64 = 32 * 1024;

fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn ramp(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

async fn session(cache: &Path, tweak: impl FnOnce(&mut SessionConfig)) -> Session {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let ip = Ipv4Addr::new(127, 78, 0, NEXT.fetch_add(1, Ordering::Relaxed));
    let mut config = SessionConfig::new(cache.to_owned());
    config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: vec![IpAddr::V4(ip)] };
    config.min_free_bytes = 0;
    tweak(&mut config);
    Session::open(config).await.unwrap()
}

async fn make(path: std::path::PathBuf) -> Metainfo {
    let options = CreateOptions { piece_bytes: Some(PIECE as u32), ..CreateOptions::new(path) };
    let made = move || create(&options, &|_| {}, &AtomicBool::new(false)).unwrap();
    tokio::task::spawn_blocking(made).await.unwrap()
}

struct Seeded {
    _dir: tempfile::TempDir,
    session: Session,
    metainfo: Metainfo,
    addr: SocketAddr,
}

/// Seeds one directory of `files`, each of `len` bytes; file number n begins at offset n * `len` of the ramp.
async fn seed(files: u64, len: u64) -> Seeded {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for file in 0..files {
        std::fs::write(data.join(format!("{file}.bin")), ramp(file * len..(file + 1) * len)).unwrap();
    }
    let metainfo = make(data).await;
    let session = session(&dir.path().join("cache"), |_| {}).await;
    let options = AddOptions {
        storage: StorageKind::Directory(dir.path().to_owned()),
        existing: ExistingData::Verify,
        ..AddOptions::default()
    };
    let torrent = session.add(Source::Metainfo(Box::new(metainfo.clone())), options).await.unwrap();
    within(torrent.wait_complete()).await.unwrap();
    let addr = session.listening()[0];
    Seeded { _dir: dir, session, metainfo, addr }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn add(session: &Session, metainfo: &Metainfo, peers: Vec<SocketAddr>) -> Torrent {
    let options = AddOptions { peers, ..AddOptions::default() };
    session.add(Source::Metainfo(Box::new(metainfo.clone())), options).await.unwrap()
}

fn file(torrent: &Torrent, number: usize) -> FileIndex {
    torrent.metainfo().unwrap().info.geometry.file(number).unwrap()
}

async fn assert_read(torrent: &Torrent, number: usize, file_len: u64, offset: u64, len: u32) {
    let reader = torrent.open(file(torrent, number)).unwrap();
    let bytes = within(reader.read_at(offset, len)).await.unwrap();
    let start = number as u64 * file_len + offset;
    assert!(bytes == ramp(start..start + bytes.len() as u64), "wrong bytes in {number} at {offset}");
    assert_eq!(bytes.len() as u64, u64::from(len).min(file_len - offset));
}

/// Waits for something that another task does soon.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const LEN: u64 = 1 << 20;
const FILES: u64 = 8;
const QUARTER: u64 = FILES * LEN / 4;

/// Random reads all over a torrent, `count` by each of `readers`.
async fn read_at_random(torrent: &Torrent, readers: u64, count: usize) {
    let readers = (0..readers).map(|seed| {
        let torrent = torrent.clone();
        tokio::spawn(async move {
            let mut choice = fastrand::Rng::with_seed(seed);
            for _ in 0..count {
                let number = choice.usize(..FILES as usize);
                let offset = choice.u64(..LEN);
                assert_read(&torrent, number, LEN, offset, choice.u32(1..40_000)).await;
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        within(reader).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_readers_of_four_times_the_budget_get_their_bytes_within_it() {
    const READERS: u64 = 8;
    let seeded = seed(FILES, LEN).await;
    let cache = tempfile::tempdir().unwrap();
    let small = session(cache.path(), |config| config.cache_bytes = Some(QUARTER)).await;
    let torrent = add(&small, &seeded.metainfo, vec![seeded.addr]).await;
    within(torrent.pin(file(&torrent, 0))).await.unwrap();
    assert_read(&torrent, 0, LEN, 0, LEN as u32).await;
    read_at_random(&torrent, READERS, 40).await;
    let status = small.status().cache;
    assert_eq!(status.limit_bytes, Some(QUARTER));
    assert!(status.evicted_bytes > QUARTER, "{status:?}");
    assert_eq!(torrent.file_local_bytes(file(&torrent, 0)), LEN, "a pinned file lost pieces");
    // Waiting reads may pass the budget by their own pieces and the gap between the marks.
    let own = READERS * 3 * PIECE + QUARTER / 16;
    assert!(status.peak_bytes <= QUARTER + own, "{status:?}");
    until("the budget is held again", || small.status().cache.used_bytes <= QUARTER).await;
    let dir = data_dir(cache.path(), torrent.info_hash()).join("data");
    let blocks = || -> u64 {
        let entries = std::fs::read_dir(&dir).unwrap();
        entries
            .map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.unwrap().metadata().unwrap()) * 512)
            .sum()
    };
    // Not at once: what is evicted is no more counted when it is freed.
    until("what was evicted is off the disk", || blocks() <= small.status().cache.used_bytes + 4 * PIECE)
        .await;
    small.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_told_what_is_gone_and_do_not_ask_for_it() {
    let seeded = seed(FILES, LEN).await;
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let small = session(caches[0].path(), |config| config.cache_bytes = Some(QUARTER)).await;
    let torrent = add(&small, &seeded.metainfo, vec![seeded.addr]).await;
    assert_read(&torrent, 0, LEN, 0, 1 << 20).await;
    let other = session(caches[1].path(), |config| config.read_timeout = Duration::from_secs(10)).await;
    let theirs = add(&other, &seeded.metainfo, vec![small.listening()[0]]).await;
    assert_read(&theirs, 0, LEN, 3 * PIECE, 10).await;
    // Everything else pushes the first file out.
    for number in 1..FILES as usize {
        assert_read(&torrent, number, LEN, 0, LEN as u32).await;
    }
    let evicted = 5;
    until("the first file's pieces go", || !torrent.shared.content().unwrap().present.get(evicted)).await;
    let (status, ours) = (|| theirs.status().peers, small.listening()[0]);
    let knows = || status().iter().find(|peer| peer.addr == ours).map(|peer| peer.pieces);
    until("the other knows what is left", || {
        knows() == Some(torrent.status().pieces_present) && small.engine.budget.excess() == 0
    })
    .await;
    // They told each other of the seed (BEP 11): now only the one that no longer has the piece is left.
    seeded.session.shutdown().await;
    until("the seed is gone", || status().len() == 1).await;
    let reader = theirs.open(file(&theirs, 0)).unwrap();
    match within(reader.read_at(u64::from(evicted) * PIECE + 1, 10)).await {
        Err(ReadError::Timeout { piece, sources, connected, .. }) => {
            assert_eq!((piece, sources, connected), (evicted, 0, 1));
        }
        other => panic!("expected a time-out, got {other:?}"),
    }
    assert_eq!(torrent.shared.counters.absent_requests.total(), 0);
    // What is left is still given.
    let present = torrent.shared.content().unwrap().present.to_bitfield();
    let there =
        (present.len() - LEN as u32 / PIECE as u32..present.len()).find(|piece| present.get(*piece)).unwrap();
    let offset = u64::from(there) * PIECE - (FILES - 1) * LEN;
    assert_read(&theirs, FILES as usize - 1, LEN, offset, 100).await;
    small.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_whose_bytes_a_blob_has_too_go_before_older_ones() {
    const LONG: u64 = 4 * LEN;
    let (older, newer) = (seed(2, LEN).await, seed(1, LONG).await);
    let cache = tempfile::tempdir().unwrap();
    let roomy = session(cache.path(), |_| {}).await;
    let first = add(&roomy, &older.metainfo, vec![older.addr]).await;
    assert_read(&first, 0, LEN, 0, LEN as u32).await;
    let second = add(&roomy, &newer.metainfo, vec![newer.addr]).await;
    assert_read(&second, 0, LONG, 0, LONG as u32).await;
    let content = bytes::Bytes::from(ramp(0..LONG));
    let blob = roomy.blobs().get(scripted::sha256(&content), LONG);
    let origin = scripted::Scripted::new(content);
    // Nothing comes that was not asked for.
    origin.stop_at(LEN);
    within(blob.read_at(LEN, LEN as u32, &scripted::via(&origin))).await.unwrap();
    let torrents = [first, second];
    let chosen = |need| choose(&torrents, &[], need).into_iter().collect::<Vec<_>>();
    // Which of its pieces goes first hangs on when each was stored; and one is in use for a moment after it was read.
    let is_of_older = || matches!(&chosen(PIECE)[..], [(0, pieces)] if pieces.len() == 1);
    until("the older one goes first", is_of_older).await;
    torrents[1].is_copied_to(&blob);
    assert_eq!((blob.present_bytes(), blob.has(LEN..2 * LEN)), (LEN, true));
    let twice: Vec<u32> = ((LEN / PIECE) as u32..(2 * LEN / PIECE) as u32).collect();
    until("what is there twice goes first", || chosen(LEN) == [(1, twice.clone())]).await;
    let more = chosen(LEN + PIECE);
    assert!(more.len() == 2 && more[0].0 == 0 && more[0].1.len() == 1 && more[1] == (1, twice), "{more:?}");
    for session in [roomy, older.session, newer.session] {
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_of_more_than_the_cache_stops_before_it_evicts() {
    let seeded = seed(FILES, LEN).await;
    let cache = tempfile::tempdir().unwrap();
    let small = session(cache.path(), |config| config.cache_bytes = Some(QUARTER)).await;
    let options = AddOptions { peers: vec![seeded.addr], fill: Fill::Everything, ..AddOptions::default() };
    let source = Source::Metainfo(Box::new(seeded.metainfo.clone()));
    let torrent = small.add(source, options).await.unwrap();
    let low = QUARTER - QUARTER / 8;
    until("it fills", || small.status().cache.used_bytes >= low - 16 * PIECE).await;
    // Reads evict for themselves; the fill does not thrash against them.
    read_at_random(&torrent, 2, 20).await;
    let status = small.status().cache;
    assert!(status.peak_bytes <= QUARTER + 4 * PIECE, "{status:?}");
    let downloaded = torrent.status().downloaded_bytes;
    assert!(downloaded <= QUARTER + 2 * 20 * 6 * PIECE, "{downloaded} bytes for a cache of {QUARTER}");
    small.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_fetched_ahead_goes_on_where_it_was_and_fits_the_cache() {
    let seeded = seed(FILES, LEN).await;
    let cache = tempfile::tempdir().unwrap();
    let small = session(cache.path(), |config| config.cache_bytes = Some(QUARTER)).await;
    let torrent = add(&small, &seeded.metainfo, vec![seeded.addr]).await;
    let (first, range) = (file(&torrent, 0), 100_000..1_000_000);
    let prefetch = torrent.prefetch(first, range.clone()).unwrap();
    within(prefetch.wait()).await.unwrap();
    let progress = prefetch.progress();
    assert_eq!((progress.done_pieces, progress.done_bytes), (progress.total_pieces, progress.total_bytes));
    assert_eq!(u64::from(progress.total_pieces), 1_000_000_u64.div_ceil(PIECE) - 100_000 / PIECE);
    let downloaded = torrent.status().downloaded_bytes;
    assert!(downloaded <= progress.total_bytes + PIECE, "{downloaded}");
    // Again: nothing is left to fetch.
    let again = torrent.prefetch(first, range).unwrap();
    within(again.wait()).await.unwrap();
    assert_eq!(torrent.status().downloaded_bytes, downloaded);
    seeded.session.shutdown().await;
    // Without sources it goes on waiting, until it is dropped or the torrent goes.
    let stuck = torrent.prefetch(first, 0..u64::MAX).unwrap();
    drop(torrent.prefetch(first, 0..u64::MAX).unwrap());
    let shutdown = async { small.shutdown().await };
    let (ended, ()) = tokio::join!(within(stuck.wait()), shutdown);
    assert!(matches!(ended, Err(ReadError::Closed)), "{ended:?}");

    let tiny = session(&cache.path().join("tiny"), |config| config.cache_bytes = Some(LEN / 2)).await;
    let torrent = add(&tiny, &seeded.metainfo, Vec::new()).await;
    let too_large = torrent.prefetch(file(&torrent, 1), 0..LEN).unwrap();
    assert!(matches!(within(too_large.wait()).await, Err(ReadError::NoSpace)));
    tiny.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_what_is_there_is_read_and_what_is_not_fails_at_once() {
    let seeded = seed(FILES, LEN).await;
    let cache = tempfile::tempdir().unwrap();
    let online = session(cache.path(), |_| {}).await;
    let torrent = add(&online, &seeded.metainfo, vec![seeded.addr]).await;
    assert_read(&torrent, 0, LEN, 0, 100_000).await;
    // A read may be answered before its piece is stored.
    until("all that was read is stored", || torrent.file_local_bytes(file(&torrent, 0)) >= 100_000).await;
    within(torrent.pin(file(&torrent, 2))).await.unwrap();
    within(torrent.pin(file(&torrent, 1))).await.unwrap();
    within(torrent.unpin(file(&torrent, 2))).await.unwrap();
    online.shutdown().await;
    drop(torrent);
    // Without a limit of time: what is missing is told at once, or never.
    let offline = session(cache.path(), |config| {
        (config.network, config.read_timeout) = (NetworkPolicy::Offline, 10 * PATIENCE);
    })
    .await;
    assert!(offline.listening().is_empty());
    let torrent = add(&offline, &seeded.metainfo, vec![seeded.addr]).await;
    assert_eq!(torrent.pins(), [file(&torrent, 1)], "pins survive a restart");
    assert_read(&torrent, 0, LEN, 0, 100_000).await;
    let missing = torrent.open(file(&torrent, 3)).unwrap();
    let read = within(missing.read_at(LEN / 2, 10)).await;
    let expected = ((3 * LEN + LEN / 2) / PIECE) as u32;
    assert!(matches!(read, Err(ReadError::Offline { piece }) if piece == expected), "{read:?}");
    let prefetch = torrent.prefetch(file(&torrent, 3), 0..LEN).unwrap();
    assert!(matches!(within(prefetch.wait()).await, Err(ReadError::Offline { .. })));
    let magnet = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789".parse().unwrap();
    let unknown = offline.add(Source::Magnet(Box::new(magnet)), AddOptions::default()).await.unwrap();
    assert!(within(unknown.wait_metainfo()).await.is_err());
    assert!(matches!(within(unknown.pin(file(&torrent, 0))).await, Err(PinError::NotReady)));
    assert!(torrent.status().peers.is_empty() && torrent.status().downloaded_bytes == 0);
    offline.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_use_outlives_the_session() {
    let seeded = seed(2, LEN).await;
    let cache = tempfile::tempdir().unwrap();
    let first = session(cache.path(), |_| {}).await;
    let torrent = add(&first, &seeded.metainfo, vec![seeded.addr]).await;
    assert_read(&torrent, 0, LEN, 0, LEN as u32).await;
    until("all that was read is stored", || torrent.file_local_bytes(file(&torrent, 0)) == LEN).await;
    first.shutdown().await;
    drop(torrent);
    // Kept as they are by what does not use them, and given to the next.
    let second = session(cache.path(), |_| {}).await;
    let torrent = add(&second, &seeded.metainfo, vec![seeded.addr]).await;
    let content = torrent.shared.content().unwrap().clone();
    let before = content.ledger.touched(3);
    assert!(before > 0 && before < super::FIRST_TICK, "{before}");
    assert_eq!(content.ledger.touched(40), 0, "absent");
    assert_read(&torrent, 0, LEN, 3 * PIECE, 10).await;
    assert!(content.ledger.touched(3) >= super::FIRST_TICK);
    assert_eq!(content.ledger.touched(4), before);
    content.save_recency();
    second.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_torrents_left_that_are_not_there_counts_and_goes_first() {
    let (seeded, other) = (seed(FILES, LEN).await, seed(2, LEN).await);
    let cache = tempfile::tempdir().unwrap();
    let small = session(cache.path(), |config| config.cache_bytes = Some(2 * LEN)).await;
    let left = add(&small, &other.metainfo, vec![other.addr]).await;
    assert_read(&left, 0, LEN, 0, LEN as u32).await;
    let torrent = add(&small, &seeded.metainfo, vec![seeded.addr]).await;
    assert_read(&torrent, 0, LEN, 0, LEN as u32 / 4).await;
    let hash = left.info_hash();
    drop(left);
    assert!(small.remove(hash, RemovedData::Keep).await);
    // A read may be answered before its piece is stored.
    until("it counts", || small.status().cache.used_bytes >= LEN + LEN / 4).await;
    let data = data_dir(cache.path(), hash);
    assert!(data.exists());
    assert_read(&torrent, 1, LEN, 0, LEN as u32).await;
    until("it goes", || !data.exists()).await;
    // What is in use was spared, and the other can come back.
    let local = |number| torrent.file_local_bytes(file(&torrent, number));
    until("all that was read is stored", || local(0) + local(1) >= LEN + LEN / 4).await;
    let again = add(&small, &other.metainfo, vec![other.addr]).await;
    assert_read(&again, 0, LEN, 0, LEN as u32).await;
    small.shutdown().await;
    seeded.session.shutdown().await;
    other.session.shutdown().await;
}

/// A disk of its own size, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without the privilege to mount.
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path());
        let is_mounted =
            mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        is_mounted.then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Without the privilege to mount a disk of its own there is nothing to test on.
async fn a_disk_gives_way(disk_bytes: u64) {
    let Some(disk) = SmallDisk::new(disk_bytes) else {
        assert!(std::env::var_os("WTFS_REQUIRE_FUSE").is_none(), "no disk of its own can be mounted here");
        return;
    };
    let seeded = seed(FILES, LEN).await;
    // Nothing is configured: only the disk says no.
    let small = session(disk.0.path(), |_| {}).await;
    assert_eq!(small.status().cache.limit_bytes, None);
    let torrent = add(&small, &seeded.metainfo, vec![seeded.addr]).await;
    for number in 0..FILES as usize {
        assert_read(&torrent, number, LEN, 0, LEN as u32).await;
    }
    read_at_random(&torrent, 2, 20).await;
    let overflow = FILES * LEN - disk_bytes;
    assert!(small.status().cache.evicted_bytes >= overflow, "{:?}", small.status().cache);
    // With pins on more than fits there comes a read that cannot be served; what is there still is.
    for number in 0..FILES as usize {
        within(torrent.pin(file(&torrent, number))).await.unwrap();
    }
    let mut failed = 0;
    for number in 0..FILES as usize {
        let reader = torrent.open(file(&torrent, number)).unwrap();
        match within(reader.read_at(0, LEN as u32)).await {
            Ok(bytes) => assert!(bytes == ramp(number as u64 * LEN..(number as u64 + 1) * LEN)),
            Err(ReadError::NoSpace) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    // Eight pinned files of a mebibyte cannot all be on it.
    assert!(failed > 0);
    // And with the pins off everything fits in its turn again.
    for number in 0..FILES as usize {
        within(torrent.unpin(file(&torrent, number))).await.unwrap();
    }
    for number in 0..FILES as usize {
        assert_read(&torrent, number, LEN, 0, LEN as u32).await;
    }
    small.shutdown().await;
    seeded.session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_gives_way_to_what_is_read_and_fails_only_what_cannot_fit() {
    a_disk_gives_way(3 * LEN + LEN / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_somewhat_larger_full_disk_gives_way_too() {
    a_disk_gives_way(5 * LEN + LEN / 2).await;
}

/// Ends the runtime of a session without any goodbye, in the middle of reading and evicting, several times over.
#[test]
fn dying_under_eviction_never_leaves_a_wrong_byte() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outer = runtime();
    let seeded = outer.block_on(seed(FILES, LEN));
    let cache = tempfile::tempdir().unwrap();
    for round in 0..6_u64 {
        let inner = runtime();
        let small = inner.block_on(session(cache.path(), |config| config.cache_bytes = Some(QUARTER)));
        let torrent = inner.block_on(add(&small, &seeded.metainfo, vec![seeded.addr]));
        assert!(small.status().cache.used_bytes <= FILES * LEN);
        // What the last life left is right before anything is fetched.
        let present = torrent.shared.content().unwrap().present.to_bitfield();
        inner.block_on(async {
            for piece in present.iter_ones().step_by(3) {
                let at = u64::from(piece) * PIECE;
                assert_read(&torrent, (at / LEN) as usize, LEN, at % LEN, PIECE as u32).await;
            }
        });
        let load = {
            let torrent = torrent.clone();
            inner.spawn(async move { read_at_random(&torrent, 4, 1_000).await })
        };
        let evicted = || small.status().cache.evicted_bytes;
        inner.block_on(until("pieces are evicted", || evicted() > QUARTER / 4 + round * 3 * PIECE));
        load.abort();
        inner.shutdown_timeout(PATIENCE);
        // Only what keeps the store's lock in this process: nothing is written.
        small.engine.torrents.lock().unwrap().clear();
    }
    outer.block_on(seeded.session.shutdown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_saved_torrents_open_without_hashing() {
    let cache = tempfile::tempdir().unwrap();
    let seeding = tempfile::tempdir().unwrap();
    let config = |config: &mut SessionConfig| config.network = NetworkPolicy::Offline;
    let first = session(cache.path(), config).await;
    for number in 0..100_u64 {
        let path = seeding.path().join(format!("{number}.bin"));
        std::fs::write(&path, ramp(number..number + 200_000)).unwrap();
        let torrent = add(&first, &make(path).await, Vec::new()).await;
        let content = torrent.shared.content().unwrap().clone();
        for piece in content.geometry().pieces() {
            let start = number + content.geometry().piece_offset(piece);
            let bytes = ramp(start..start + u64::from(content.geometry().piece_len(piece)));
            content.store.write_piece(piece, &[bytes.into()]).unwrap();
            content.mark_present(piece);
        }
        content.store.checkpoint().unwrap();
    }
    let written = |torrent: &Torrent| {
        let name = torrent.metainfo().unwrap().info.name.clone();
        data_dir(cache.path(), torrent.info_hash()).join(name)
    };
    let files: Vec<_> = first.torrents().iter().map(written).collect();
    first.shutdown().await;
    drop(first);
    // Whoever hashed would not find its pieces: each has another byte, and is as it was for who only looks at the file.
    for path in &files {
        let modified = path.metadata().unwrap().modified().unwrap();
        let mut content = std::fs::read(path).unwrap();
        content.iter_mut().step_by(PIECE as usize).for_each(|byte| *byte = !*byte);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
        file.set_modified(modified).unwrap();
    }
    let second = session(cache.path(), config).await;
    for state in list_states(cache.path()).unwrap() {
        let metainfo = state.load_metainfo().unwrap().unwrap();
        second.add(Source::Metainfo(Box::new(metainfo)), AddOptions::default()).await.unwrap();
    }
    assert_eq!(second.torrents().len(), 100);
    assert!(second.torrents().iter().all(Torrent::is_complete));
    assert_eq!(second.status().cache.used_bytes, 100 * 200_000);
    second.shutdown().await;
}
