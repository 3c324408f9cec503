//! Reading blobs through a session, from an origin in memory that does everything right: what is fetched, what is kept, and
//! what others may read of it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::scripted::*;
use super::*;
use crate::config::{ListenConfig, NetworkPolicy, PortPolicy, SessionConfig};
use crate::session::Session;

pub(super) const MIB: usize = 1 << 20;

pub(super) async fn session(dir: &std::path::Path, tweak: impl FnOnce(&mut SessionConfig)) -> Session {
    let mut config = SessionConfig::new(dir.to_owned());
    config.listen = ListenConfig {
        port: 0,
        port_policy: PortPolicy::Exact,
        addrs: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    config.min_free_bytes = 0;
    config.read_timeout = Duration::from_secs(30);
    tweak(&mut config);
    Session::open(config).await.unwrap()
}

/// Waits for something that is about to be.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads all of it in order, as a server does.
pub(super) async fn stream(blob: &Blob, origin: &Arc<dyn BlobOrigin>) -> Result<Vec<u8>, BlobError> {
    let mut all = Vec::new();
    loop {
        let bytes = blob.read_some_at(all.len() as u64, 256 << 10, origin).await?;
        if bytes.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&bytes);
    }
}

pub(super) fn files_below(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.join("hf")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { dirs.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    files
}

/// How many bytes of a partial blob its record says are there.
pub(super) fn recorded(dir: &std::path::Path, blob: &Blob) -> u64 {
    let logs = files_below(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.map(|log| record::Record::load(log, blob.id(), blob.len()).1.bytes()).sum()
}

/// Copies what a process that died now would leave: records before what they speak of, which may only have grown since.
pub(super) fn copy_as_of_now(from: &std::path::Path, to: &std::path::Path) {
    let files = files_below(from);
    let (logs, others): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|path| path.extension().is_some_and(|end| end == "log"));
    for path in logs.into_iter().chain(others) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        match std::fs::copy(&path, target) {
            // Moved or removed since.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => assert!(copied.is_ok()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_fetched_once_verified_and_then_a_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    for (number, make) in [sha256, git_sha1].into_iter().enumerate() {
        let content = content(5 * MIB + 77, number as u64);
        let (id, origin) = (make(&content), Scripted::new(content.clone()));
        let blob = session.blobs().get(id, content.len() as u64);
        assert_eq!((blob.len(), blob.is_whole(), blob.present_bytes()), (content.len() as u64, false, 0));
        assert!(
            blob.file().is_none()
                && blob.try_file().is_none()
                && blob.path().is_none()
                && blob.try_read_at(0, 10).is_none()
        );
        let all = stream(&blob, &via(&origin)).await.unwrap();
        assert!(all == content);
        blob.whole().await.unwrap();
        assert!(blob.is_whole());
        // What is read past us: the file itself, and only to be read.
        let held = blob.file().expect("whole");
        assert!(blob.try_file().is_some());
        let (there, handed) = (blob.path().unwrap().metadata().unwrap(), held.file.metadata().unwrap());
        assert_eq!((handed.ino(), handed.len()), (there.ino(), content.len() as u64));
        let flags = rustix::fs::fcntl_getfl(&held.file).unwrap();
        assert_eq!(flags & rustix::fs::OFlags::ACCMODE, rustix::fs::OFlags::RDONLY);
        let mut read = vec![0; content.len()];
        read_exact(&held.file, &mut read, 0).unwrap();
        assert!(read == content);
        assert!(std::fs::read(blob.path().unwrap()).unwrap() == content);
        assert_eq!(origin.given(), content.len() as u64);
        assert_eq!(
            blob.try_read_at(content.len() as u64 - 3, 10).unwrap(),
            content.slice(content.len() - 3..)
        );
    }
    let status = session.blobs().status();
    assert_eq!((status.whole, status.partial, status.fills, status.corrupt), (2, 0, 0, 0));
    assert_eq!(status.origin_bytes, 2 * (5 * MIB as u64 + 77));
    assert_eq!(session.status().cache.used_bytes, status.whole_bytes);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_readers_of_a_cold_blob_are_one_copy_from_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(24 * MIB + 5, 1);
    let (id, origin) = (sha256(&content), Scripted::new(content.clone()));
    let readers: Vec<_> = (0..50)
        .map(|number| {
            let blob = session.blobs().get(id, content.len() as u64);
            let (content, origin) = (content.clone(), via(&origin));
            tokio::spawn(async move {
                if number % 2 == 0 {
                    blob.expect(0..blob.len());
                }
                assert!(stream(&blob, &origin).await.unwrap() == content);
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(origin.given(), content.len() as u64);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_read_far_inside_fetches_a_block_at_most_and_begins_where_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(64 * MIB, 2);
    let origin = Scripted::new(content.clone());
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    for (number, at) in [40_000_000, 3_000_000, 60_000_001, 22_222_222].into_iter().enumerate() {
        let read = blob.read_at(at, 4096, &via(&origin)).await.unwrap();
        assert_eq!(read, content.slice(at as usize..at as usize + 4096));
        until("fetches end", || session.blobs().fills().is_empty()).await;
        let requests = origin.requests();
        assert_eq!(requests.len(), number + 1);
        assert!(requests[number].start <= at && at - requests[number].start < 16 << 10);
        assert!(requests[number].end - requests[number].start <= BLOCK_BYTES + (16 << 10));
        assert!(origin.given() <= (number as u64 + 1) * (BLOCK_BYTES + (16 << 10)));
    }
    assert_eq!(blob.present_bytes(), origin.given());
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_passed_on_as_they_arrive_and_a_seek_far_ahead_does_not_wait_for_what_is_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(64 * MIB, 3);
    let origin = Scripted::new(content.clone());
    origin.script([Fault::Hold(100_000)]);
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    blob.expect(0..blob.len());
    let mut first = 0;
    while first < 100_000 {
        let bytes = blob.read_some_at(first, 1 << 20, &via(&origin)).await.unwrap();
        assert_eq!(bytes, content[first as usize..first as usize + bytes.len()]);
        first += bytes.len() as u64;
    }
    assert_eq!((first, origin.given()), (100_000, 100_000), "much less than a block");
    let other = session.blobs().get(blob.id(), blob.len());
    let at = 50 * MIB;
    let there = other.read_at(at as u64, 1000, &via(&origin)).await.unwrap();
    assert_eq!(there, content.slice(at..at + 1000));
    assert_eq!(blob.present_ranges()[0], 0..100_000, "what is in between did not come first");
    origin.release();
    assert!(stream(&blob, &via(&origin)).await.unwrap() == content);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_takes_few_large_requests_and_is_not_fetched_far_ahead_of_a_reader_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |config| config.max_readahead_bytes = 8 << 20).await;
    let content = content(100 * MIB, 4);
    let origin = Scripted::prompt(content.clone(), 0);
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    blob.expect(0..blob.len());
    blob.read_at(0, 1 << 20, &via(&origin)).await.unwrap();
    let given = || origin.given();
    until("the window is filled", || given() >= 5 * MIB as u64).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(given() <= 8 * MIB as u64, "the window and what was on its way: {}", given());
    let mut at = 1 << 20;
    while at < blob.len() {
        let bytes = blob.read_at(at, 1 << 20, &via(&origin)).await.unwrap();
        assert!(bytes == content[at as usize..at as usize + bytes.len()]);
        at += bytes.len() as u64;
    }
    assert_eq!(origin.given(), content.len() as u64);
    assert!(origin.requests().len() <= 3, "{:?}", origin.requests());
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_leaves_what_was_fetched_and_stops_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(64 * MIB, 5);
    let origin = Scripted::paced(content.clone(), 64 << 10, Duration::from_millis(2));
    let id = sha256(&content);
    {
        let blob = session.blobs().get(id, content.len() as u64);
        blob.expect(0..blob.len());
        for at in 0..4 {
            blob.read_at(at << 20, 1 << 20, &via(&origin)).await.unwrap();
        }
    }
    until("the fetch ends", || session.blobs().fills().is_empty()).await;
    let given = origin.given();
    assert!((4 * MIB as u64..20 * MIB as u64).contains(&given), "{given}");
    let blob = session.blobs().get(id, content.len() as u64);
    assert!(blob.present_bytes() >= 4 * MIB as u64);
    assert!(stream(&blob, &via(&origin)).await.unwrap() == content);
    // What was on its way when the reader went may come twice.
    assert!(origin.given() <= content.len() as u64 + (2 << 20), "{}", origin.given());
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_fetches_all_behind_a_read_and_tells_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(30 * MIB, 6);
    let origin = Scripted::new(content.clone());
    origin.script([Fault::Hold(MIB as u64)]);
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    blob.fetch_all(&via(&origin));
    // A part of it: one that is held for long is not waited for with what is behind.
    until("it begins", || blob.has(0..MIB as u64)).await;
    let before = blob.present_bytes();
    let [fill] = &session.blobs().fills()[..] else { panic!("one fill") };
    assert_eq!((fill.id, fill.bytes), (blob.id(), blob.len()));
    assert!((before..=blob.present_bytes()).contains(&fill.present_bytes), "{fill:?}");
    let at = 25 * MIB;
    assert_eq!(blob.read_at(at as u64, 100, &via(&origin)).await.unwrap(), content.slice(at..at + 100));
    assert!(!blob.has(0..2 << 20), "the read did not wait for the fill");
    origin.release();
    blob.whole().await.unwrap();
    assert!(origin.given() <= content.len() as u64 + (1 << 20), "{}", origin.given());
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_and_partial_blobs_are_found_again_without_asking_or_hashing() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, part) = (content(3 * MIB, 7), content(40 * MIB, 8));
    let (whole_origin, part_origin) = (Scripted::new(whole.clone()), Scripted::new(part.clone()));
    let first = session(dir.path(), |_| {}).await;
    let blob = first.blobs().get(sha256(&whole), whole.len() as u64);
    blob.fetch_all(&via(&whole_origin));
    blob.whole().await.unwrap();
    let blob = first.blobs().get(sha256(&part), part.len() as u64);
    blob.read_at(10 << 20, 5 << 20, &via(&part_origin)).await.unwrap();
    until("fetches end", || first.blobs().fills().is_empty()).await;
    let kept = blob.present_bytes();
    until("it is recorded", || recorded(dir.path(), &blob) == kept).await;
    drop(blob);
    first.shutdown().await;

    let second = session(dir.path(), |_| {}).await;
    let status = second.blobs().status();
    assert_eq!((status.whole, status.partial), (1, 1));
    assert!(second.status().cache.used_bytes >= (3 + 5) * MIB as u64);
    let blob = second.blobs().get(sha256(&whole), whole.len() as u64);
    assert!(blob.is_whole());
    assert!(stream(&blob, &via(&whole_origin)).await.unwrap() == whole);
    assert_eq!(whole_origin.given(), whole.len() as u64);
    let blob = second.blobs().get(sha256(&part), part.len() as u64);
    let read = blob.read_at(12 << 20, 1 << 20, &via(&part_origin)).await.unwrap();
    assert!(read == part.slice(12 << 20..13 << 20));
    assert_eq!((part_origin.given(), blob.present_bytes()), (kept, kept));
    assert!(stream(&blob, &via(&part_origin)).await.unwrap() == part);
    blob.whole().await.unwrap();
    assert_eq!(part_origin.given(), part.len() as u64);
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_pieces_come_with_the_blob_and_in_another_length_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(3 * MIB + 100, 9);
    let (id, origin) = (sha256(&content), Scripted::new(content.clone()));
    let naive = |piece_bytes: u32| {
        let mut hasher = hashes::PiecesHasher::new(piece_bytes, content.len() as u64);
        hasher.hashes().into_iter().for_each(|hash| hash.update(&content));
        hasher.finish()
    };
    let blob = session.blobs().get(id, content.len() as u64);
    blob.want_hashes(1 << 20);
    blob.fetch_all(&via(&origin));
    assert_eq!(*blob.piece_hashes(1 << 20).await.unwrap(), naive(1 << 20));
    assert_eq!(*blob.piece_hashes(1 << 18).await.unwrap(), naive(1 << 18));
    assert!(matches!(blob.piece_hashes(1000).await, Err(BlobError::PieceLength { .. })));
    session.shutdown().await;
    // Kept beside the blob: the next session reads them back, and makes damaged ones again.
    let kept: Vec<_> = files_below(dir.path())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/pieces/"))
        .collect();
    assert_eq!(kept.len(), 2);
    std::fs::write(&kept[0], b"damaged").unwrap();
    let session = self::session(dir.path(), |_| {}).await;
    let blob = session.blobs().get(id, content.len() as u64);
    for length in [1 << 20, 1 << 18] {
        assert_eq!(*blob.piece_hashes(length).await.unwrap(), naive(length));
    }
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hashes_of_a_short_blob_take_no_room_and_those_of_a_longer_one_hardly_any() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    for (number, len) in [1, MIB - 1, MIB, 3 * MIB].into_iter().enumerate() {
        let content = content(len, 40 + number as u64);
        let blob = session.blobs().get(sha256(&content), len as u64);
        blob.want_hashes(1 << 18);
        blob.fetch_all(&via(&Scripted::new(content)));
        assert_eq!(blob.piece_hashes(1 << 18).await.unwrap().v1.len(), len.div_ceil(1 << 18));
        let id = blob.id().to_string();
        let files = files_below(dir.path()).into_iter().filter(|path| {
            let path = path.to_string_lossy();
            path.contains("/pieces/") && path.contains(&id)
        });
        let kept: Vec<u64> = files.map(|path| path.metadata().unwrap().len()).collect();
        let expected = if len < MIB { vec![] } else { vec![108 + 52 * (len as u64 >> 18)] };
        assert_eq!(kept, expected, "{len}");
    }
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_is_whole_from_the_start_and_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let origin = Scripted::new(Bytes::new());
    for id in [sha256(b""), git_sha1(b"")] {
        let blob = session.blobs().get(id, 0);
        assert!(blob.is_whole() && blob.is_empty());
        assert_eq!(blob.read_at(0, 10, &via(&origin)).await.unwrap(), Bytes::new());
        blob.whole().await.unwrap();
        assert_eq!(blob.file().expect("made").file.metadata().unwrap().len(), 0);
        let hashes = blob.piece_hashes(1 << 14).await.unwrap();
        assert_eq!((hashes.v1.len(), hashes.v2_root), (0, [0; 32]));
    }
    let blob = session.blobs().get(sha256(b"x"), 0);
    assert!(matches!(blob.read_at(0, 1, &via(&origin)).await, Err(BlobError::Corrupt)));
    assert!(matches!(blob.whole().await, Err(BlobError::Corrupt)));
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_another_length_of_a_whole_blob_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(1000, 10);
    let (id, origin) = (sha256(&content), Scripted::new(content.clone()));
    let blob = session.blobs().get(id, 1000);
    blob.fetch_all(&via(&origin));
    blob.whole().await.unwrap();
    let wrong = session.blobs().get(id, 999);
    assert!(matches!(wrong.read_at(0, 1, &via(&origin)).await, Err(BlobError::Corrupt)));
    assert_eq!(origin.given(), 1000);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_what_is_here_is_read_and_the_rest_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(2 * MIB, 11);
    let (id, origin) = (sha256(&content), Scripted::new(content.clone()));
    let online = session(dir.path(), |_| {}).await;
    let blob = online.blobs().get(id, content.len() as u64);
    blob.read_at(0, 10, &via(&origin)).await.unwrap();
    until("small blobs are fetched to their end", || blob.present_bytes() >= 1 << 20).await;
    until("fetches end", || online.blobs().fills().is_empty()).await;
    let kept = blob.present_bytes();
    until("it is kept", || blob.is_whole() || recorded(dir.path(), &blob) == kept).await;
    drop(blob);
    online.shutdown().await;
    let offline = session(dir.path(), |config| config.network = NetworkPolicy::Offline).await;
    let blob = offline.blobs().get(id, content.len() as u64);
    assert_eq!(blob.read_at(5, 10, &via(&origin)).await.unwrap(), content.slice(5..15));
    if kept < content.len() as u64 {
        let at = content.len() as u64 - 10;
        assert!(matches!(blob.read_at(at, 10, &via(&origin)).await, Err(BlobError::Offline)));
    }
    let other = offline.blobs().get(sha256(b"other"), 5);
    other.fetch_all(&via(&origin));
    until("it is told", || other.reader.state.lock().fill_error.is_some()).await;
    assert!(matches!(other.whole().await, Err(BlobError::Offline)));
    offline.shutdown().await;
}
