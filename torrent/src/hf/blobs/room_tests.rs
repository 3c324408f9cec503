//! Blobs under the one budget, and on a disk that is full: what goes, what stays, and that nothing of it is seen by readers.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::scripted::*;
use super::tests::{MIB, files_below, session, stream, until};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_longest_ago_goes_and_what_is_held_stays() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |config| config.cache_bytes = Some(12 << 20)).await;
    let all: Vec<_> = (0..8).map(|number| content(2 * MIB, 40 + number)).collect();
    let origins: Vec<_> = all.iter().map(|content| Scripted::new(content.clone())).collect();
    let get = |number: usize| session.blobs().get(sha256(&all[number]), all[number].len() as u64);
    let mut held = Vec::new();
    for number in 0..8 {
        let blob = get(number);
        assert!(stream(&blob, &via(&origins[number])).await.unwrap() == all[number]);
        blob.whole().await.unwrap();
        if number == 0 {
            held.push(blob.file().expect("whole"));
        }
        assert!(session.status().cache.used_bytes <= 13 << 20);
    }
    let on_disk = || -> u64 {
        let files = files_below(dir.path());
        files.iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum()
    };
    // What goes is counted as gone first, and then removed.
    until("something went, to the end", || {
        let (status, used) = (session.blobs().status(), session.status().cache.used_bytes);
        used < 12 << 20
            && status.whole == 8 - status.evicted
            && (status.whole_bytes, on_disk()) == (used, used)
    })
    .await;
    assert!(get(0).is_whole(), "held");
    assert!(get(7).is_whole(), "just used");
    assert!(!get(1).is_whole() && get(1).present_bytes() == 0, "the oldest");
    let status = session.blobs().status();
    assert!(status.evicted >= 2 && status.whole == 8 - status.evicted);
    // It comes again, and the bytes of the held one are still right.
    assert!(stream(&get(1), &via(&origins[1])).await.unwrap() == all[1]);
    let mut read = vec![0; all[0].len()];
    read_exact(&held[0].file, &mut read, 0).unwrap();
    assert!(read == all[0]);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_larger_than_the_cache_is_read_through_it() {
    const CACHE: u64 = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |config| {
        (config.cache_bytes, config.max_readahead_bytes) = (Some(CACHE), 4 << 20);
    })
    .await;
    let content = content(90 * MIB, 50);
    let origin = Scripted::new(content.clone());
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    let mut most_on_disk = 0;
    for round in 0..2 {
        let mut at = 0;
        while at < blob.len() {
            let bytes = blob.read_at(at, 1 << 20, &via(&origin)).await.unwrap();
            assert!(bytes == content[at as usize..at as usize + bytes.len()], "round {round} at {at}");
            at += bytes.len() as u64;
            let files = files_below(dir.path());
            let found = files.iter().filter_map(|path| path.metadata().ok());
            most_on_disk = most_on_disk.max(found.map(|found| found.blocks() * 512).sum());
        }
    }
    assert!(most_on_disk < CACHE + (16 << 20), "{most_on_disk}");
    blob.fetch_all(&via(&origin));
    assert!(matches!(blob.whole().await, Err(BlobError::NoSpace)), "it cannot be kept");
    session.shutdown().await;
    // What is left of it is right for the next session too.
    let second = self::session(dir.path(), |config| config.cache_bytes = Some(CACHE)).await;
    let blob = second.blobs().get(sha256(&content), content.len() as u64);
    for at in (0..content.len()).step_by(7 * MIB + 13) {
        let read = blob.read_at(at as u64, 5000, &via(&origin)).await.unwrap();
        assert!(read == content[at..(at + 5000).min(content.len())], "at {at}");
    }
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_finds_no_room_ends_with_an_error_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |config| {
        (config.cache_bytes, config.read_timeout) = (Some(8 << 20), Duration::from_secs(10));
    })
    .await;
    let (kept, more) = (content(5 * MIB, 51), content(6 * MIB, 52));
    let (kept_origin, more_origin) = (Scripted::new(kept.clone()), Scripted::new(more.clone()));
    let blob = session.blobs().get(sha256(&kept), kept.len() as u64);
    blob.fetch_all(&via(&kept_origin));
    blob.whole().await.unwrap();
    let held = blob.file().expect("whole");
    let blob = session.blobs().get(sha256(&more), more.len() as u64);
    blob.fetch_all(&via(&more_origin));
    assert!(matches!(blob.whole().await, Err(BlobError::NoSpace)));
    assert!(stream(&blob, &via(&more_origin)).await.unwrap() == more);
    drop(held);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_lost_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(20 * MIB, 53);
    let origin = Scripted::new(content.clone());
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    blob.read_at(0, 6 << 20, &via(&origin)).await.unwrap();
    until("fetches end", || session.blobs().fills().is_empty()).await;
    let state = blob.reader.state.clone();
    until("it is hashed as far as it is here", || {
        let inner = state.lock();
        // What is less than this is hashed with what comes next.
        !inner.verify.is_running && inner.verify.hashed() + verify::LEAST_LAG_BYTES > 6 << 20
    })
    .await;
    let part = state.lock().files.part.clone().expect("partial");
    let mut lost = ranges::RangeSet::default();
    lost.insert(MIB as u64..2 * MIB as u64);
    rustix::fs::fallocate(
        &part.file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        MIB as u64,
        MIB as u64,
    )
    .unwrap();
    state.lose(&part, &lost);
    assert!(!blob.has(0..2 << 20));
    assert!(stream(&blob, &via(&origin)).await.unwrap() == content);
    blob.whole().await.unwrap();
    assert_eq!(origin.given(), (21 * MIB) as u64);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_its_place_is_being_freed_is_not_freed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |config| config.max_readahead_bytes = 0).await;
    let content = content(20 * MIB, 54);
    let origin = Scripted::new(content.clone());
    let blob = session.blobs().get(sha256(&content), content.len() as u64);
    blob.read_at(0, 6 << 20, &via(&origin)).await.unwrap();
    until("fetches end", || session.blobs().fills().is_empty()).await;
    let state = blob.reader.state.clone();
    let mut taken = None;
    until("it can be spared", || {
        taken = state.take_segments(&[0]);
        taken.as_ref().is_some_and(|(_, ranges)| ranges.bytes() == 6 << 20)
    })
    .await;
    let (part, ranges) = taken.unwrap();
    // It comes from the origin, and waits for its place on the disk; longer than any write takes.
    let origin = via(&origin);
    let first = blob.read_at(1 << 20, 1000, &origin);
    assert!(tokio::time::timeout(Duration::from_millis(300), first).await.is_err());
    part.give_up(&ranges).unwrap();
    state.given_up(&ranges);
    for _ in 0..2 {
        let read = blob.read_at(1 << 20, 1000, &origin).await.unwrap();
        assert_eq!(read, content.slice(MIB..MIB + 1000));
    }
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_pieces_without_their_blob_are_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..2).map(|number| content(MIB, 65 + number)).collect();
    let first = session(dir.path(), |_| {}).await;
    for content in &all {
        let blob = first.blobs().get(sha256(content), MIB as u64);
        blob.fetch_all(&via(&Scripted::new(content.clone())));
        blob.piece_hashes(1 << 18).await.unwrap();
    }
    let lost = first.blobs().get(sha256(&all[0]), MIB as u64).path().unwrap();
    first.shutdown().await;
    let pieces = || -> Vec<PathBuf> {
        let files = files_below(dir.path());
        files.into_iter().filter(|path| path.to_string_lossy().contains("/pieces/")).collect()
    };
    assert_eq!(pieces().len(), 2);
    let half_written = pieces()[0].with_extension("262144.new");
    std::fs::write(half_written, b"half").unwrap();
    std::fs::remove_file(lost).unwrap();
    let second = session(dir.path(), |_| {}).await;
    let [kept] = &pieces()[..] else { panic!("{:?}", pieces()) };
    assert!(kept.to_string_lossy().contains(&sha256(&all[1]).to_string()));
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_blobs_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(|number| content(MIB, 60 + number)).collect();
    let origins: Vec<_> = all.iter().map(|content| Scripted::new(content.clone())).collect();
    let first = session(dir.path(), |_| {}).await;
    for (content, origin) in all.iter().zip(&origins) {
        let blob = first.blobs().get(sha256(content), MIB as u64);
        blob.fetch_all(&via(origin));
        blob.whole().await.unwrap();
    }
    let whole = first.blobs().get(sha256(&all[0]), MIB as u64);
    let before = whole.path().unwrap().metadata().unwrap();
    first.shutdown().await;
    let after = whole.path().unwrap().metadata().unwrap();
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    // The first and the last were used a day before the second.
    let day = std::time::SystemTime::now() - Duration::from_secs(86_400);
    for number in [0, 2] {
        let path = whole.path().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let name = sha256(&all[number]).to_string();
        let file = File::options().write(true).open(path.join(&name[..2]).join(&name)).unwrap();
        file.set_times(std::fs::FileTimes::new().set_accessed(day).set_modified(day)).unwrap();
    }
    drop(whole);
    let second = session(dir.path(), |config| config.cache_bytes = Some(5 << 20 >> 1)).await;
    let get = |number: usize| second.blobs().get(sha256(&all[number]), MIB as u64);
    until("some went", || second.status().cache.used_bytes <= 2 << 20).await;
    assert!(get(1).is_whole());
    assert!(!get(0).is_whole() || !get(2).is_whole());
    second.shutdown().await;
}

/// A disk of its own size, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without the privilege to mount.
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(dir.path());
        let mounted = mount.stderr(std::process::Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_gives_way_to_what_is_read_and_fails_only_what_cannot_fit() {
    let Some(disk) = SmallDisk::new(9 << 20) else {
        assert!(std::env::var_os("WTFS_REQUIRE_FUSE").is_none(), "no disk of its own can be mounted here");
        return;
    };
    let session = session(disk.0.path(), |config| config.cache_bytes = None).await;
    let all: Vec<_> = (0..6).map(|number| content(2 * MIB + 7, 70 + number)).collect();
    let origins: Vec<_> = all.iter().map(|content| Scripted::new(content.clone())).collect();
    let get = |number: usize| session.blobs().get(sha256(&all[number]), all[number].len() as u64);
    for _ in 0..2 {
        for number in 0..6 {
            let blob = get(number);
            assert!(stream(&blob, &via(&origins[number])).await.unwrap() == all[number]);
            blob.whole().await.unwrap();
        }
    }
    // Held, they leave no room for another one.
    let mut held = Vec::new();
    let mut failed = 0;
    for number in 0..6 {
        let blob = get(number);
        match stream(&blob, &via(&origins[number])).await {
            Ok(read) => {
                assert!(read == all[number]);
                // The last move may find no block for a directory.
                if blob.whole().await.is_ok() {
                    held.extend(blob.file());
                }
            }
            Err(BlobError::NoSpace) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failed > 0 && held.len() >= 3, "{failed} {}", held.len());
    drop(held);
    for number in 0..6 {
        assert!(stream(&get(number), &via(&origins[number])).await.unwrap() == all[number]);
    }
    session.shutdown().await;
}
