//! What goes wrong with origins, with bytes, with the disk and with the process, seen from a reader: right bytes, or an
//! error, and never a wrong byte.

use std::time::{Duration, Instant};

use super::scripted::*;
use super::tests::{MIB, copy_as_of_now, files_below, recorded, session, stream, until};
use super::*;

const LEN: usize = 3 * MIB + 1234;

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_does_wrong_now_and_then_no_reader_notices() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let soon = Some(Duration::from_millis(20));
    let scripts: &[&[Fault]] = &[
        &[Fault::Truncate(300_000)],
        &[Fault::Truncate(0), Fault::Truncate(1), Fault::Truncate(99_999)],
        &[Fault::Reset(500_000), Fault::Reset(0), Fault::Reset(200_000)],
        &[Fault::Refuse(OriginFault::Transient, soon), Fault::Refuse(OriginFault::Transient, soon)],
        &[Fault::Refuse(OriginFault::Lying, soon)],
        &[Fault::Chatter],
    ];
    for (number, script) in scripts.iter().enumerate() {
        let content = content(LEN, number as u64);
        let origin = Scripted::new(content.clone());
        let errors = || session.blobs().status().origin_errors;
        let before = errors();
        origin.script(script.iter().cloned());
        let blob = session.blobs().get(sha256(&content), LEN as u64);
        assert!(stream(&blob, &via(&origin)).await.unwrap() == content, "{script:?}");
        blob.whole().await.unwrap();
        if script[0] != Fault::Chatter {
            assert_eq!(origin.given(), LEN as u64, "resumed, not begun again: {script:?}");
            assert!(errors() > before, "{script:?}");
        }
    }
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stalls_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(LEN, 20);
    let origin = Scripted::new(content.clone());
    origin.script([Fault::Stall(700_000)]);
    let blob = session.blobs().get(sha256(&content), LEN as u64);
    assert!(stream(&blob, &via(&origin)).await.unwrap() == content);
    assert_eq!(origin.given(), LEN as u64);
    assert_eq!(session.blobs().status().origin_errors, 1);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_for_good_are_told_with_what_the_origin_said() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(LEN, 21);
    for fault in [OriginFault::Forbidden, OriginFault::Gone, OriginFault::Offline, OriginFault::Lying] {
        let origin = Scripted::new(content.clone());
        origin.script((0..10).map(|_| Fault::Refuse(fault, Some(Duration::from_millis(1)))));
        let blob = session.blobs().get(sha256(&content), LEN as u64);
        let error = blob.read_at(0, 10, &via(&origin)).await.unwrap_err();
        assert_eq!(error.origin().map(|error| error.fault), Some(fault));
        assert_eq!(error.to_string(), "origin.test: refused");
    }
    // It says to come again, but later than anybody waits.
    let origin = Scripted::new(content.clone());
    let later = Some(Duration::from_secs(300));
    origin.script([Fault::Refuse(OriginFault::Transient, later)]);
    let blob = session.blobs().get(sha256(&content), LEN as u64);
    let error = blob.read_at(0, 10, &via(&origin)).await.unwrap_err();
    assert_eq!(error.origin().and_then(|error| error.retry_after), later);
    session.shutdown().await;
    // Nothing at all comes.
    let session = self::session(dir.path(), |config| config.read_timeout = Duration::from_secs(2)).await;
    let blob = session.blobs().get(sha256(&content), LEN as u64);
    let origin = Scripted::new(content.clone());
    origin.close_gate();
    let since = Instant::now();
    let error = blob.read_at(0, 10, &via(&origin)).await.unwrap_err();
    assert!(matches!(error, BlobError::Timeout { .. }), "{error}");
    assert!(since.elapsed() >= Duration::from_secs(2));
    assert!(files_below(dir.path()).is_empty(), "nothing is made before bytes come");
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_right_is_gone_fails_and_the_others_are_served_by_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(LEN, 22);
    let origin = Scripted::new(content.clone());
    origin.close_gate();
    let (good, bad) = (via(&origin), via_failing(&origin, OriginFault::Forbidden));
    let get = || session.blobs().get(sha256(&content), LEN as u64);
    let (first, second) = (get(), get());
    let asked_first = tokio::spawn(async move { first.read_at(0, 100, &bad).await });
    until("it asked", || !origin.requests().is_empty()).await;
    let asked_second = tokio::spawn(async move { second.read_at(0, 100, &good).await });
    assert!(asked_first.await.unwrap().is_err());
    origin.open_gate();
    assert_eq!(asked_second.await.unwrap().unwrap(), content.slice(0..100));
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_thrown_away_and_fetched_once_more_and_its_reader_never_has_a_mixture() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    for (number, make) in [sha256, git_sha1].into_iter().enumerate() {
        let content = content(LEN, 23 + number as u64);
        let origin = Scripted::new(content.clone());
        origin.script([Fault::Flip(5)]);
        let blob = session.blobs().get(make(&content), LEN as u64);
        let waiting = session.blobs().get(make(&content), LEN as u64);
        origin.stop_at(MIB as u64);
        assert!(!blob.read_some_at(0, 1000, &via(&origin)).await.unwrap().is_empty());
        origin.stop_at(u64::MAX);
        // It has had bytes, so it must fail before it has had them all.
        let error = stream(&blob, &via(&origin)).await.map(|read| read.len()).unwrap_err();
        assert!(matches!(error, BlobError::Replaced), "{error}");
        assert_eq!(blob.generation(), 1);
        // One that has had none is simply served.
        assert!(stream(&waiting, &via(&origin)).await.unwrap() == content);
        waiting.whole().await.unwrap();
        assert!(matches!(blob.read_at(0, 1, &via(&origin)).await, Err(BlobError::Replaced)));
    }
    assert_eq!(session.blobs().status().corrupt, 2);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_meets_wrong_content_once_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let content = content(LEN, 25);
    let origin = Scripted::new(content.clone());
    origin.script([Fault::Flip(LEN as u64 - 1)]);
    let blob = session.blobs().get(sha256(&content), LEN as u64);
    blob.fetch_all(&via(&origin));
    blob.whole().await.unwrap();
    assert!(std::fs::read(blob.path().unwrap()).unwrap() == content);
    assert_eq!(session.blobs().status().corrupt, 1);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_stays_wrong_ends_in_an_error_and_an_empty_cache() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), |_| {}).await;
    let (right, wrong) = (content(LEN, 26), content(LEN, 27));
    let origin = Scripted::new(wrong);
    let blob = session.blobs().get(sha256(&right), LEN as u64);
    blob.fetch_all(&via(&origin));
    assert!(matches!(blob.whole().await, Err(BlobError::Corrupt)));
    assert_eq!(origin.given(), 2 * LEN as u64);
    let other = session.blobs().get(sha256(&right), LEN as u64);
    assert!(matches!(other.read_at(0, 1, &via(&origin)).await, Err(BlobError::Corrupt)));
    assert_eq!(origin.given(), 2 * LEN as u64, "nobody is asked again at once");
    let is_note = |path: &PathBuf| path.file_stem().is_some_and(|name| name == "discards");
    until("files are removed", || files_below(dir.path()).iter().all(is_note)).await;
    assert_eq!(other.discarded().map(|discard| discard.times), Some(2));
    let status = session.blobs().status();
    assert_eq!((status.whole, status.partial, status.corrupt), (0, 0, 2));
    assert_eq!(session.status().cache.used_bytes, 0);
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moment_a_process_dies_at_the_next_one_reads_right_bytes_and_keeps_most() {
    let dir = tempfile::tempdir().unwrap();
    let first = session(dir.path(), |_| {}).await;
    let content = content(24 * MIB, 28);
    let origin = Scripted::paced(content.clone(), 64 << 10, Duration::from_millis(10));
    let id = sha256(&content);
    let blob = first.blobs().get(id, content.len() as u64);
    blob.fetch_all(&via(&origin));
    let mut copies = Vec::new();
    for part in [0, 2, 8, 14, 20] {
        // It goes on while it is copied, and cannot become whole.
        origin.stop_at(((part + 3) * MIB) as u64);
        until("it gets on", || blob.present_bytes() >= (part * MIB) as u64).await;
        if part >= 14 {
            until("something is recorded", || recorded(dir.path(), &blob) > 0).await;
        }
        let copy = tempfile::tempdir().unwrap();
        copy_as_of_now(dir.path(), copy.path());
        copies.push((part, copy));
    }
    origin.stop_at(u64::MAX);
    blob.whole().await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_as_of_now(dir.path(), copy.path());
    copies.push((24, copy));
    first.shutdown().await;
    for (part, copy) in copies {
        let session = session(copy.path(), |_| {}).await;
        let origin = Scripted::new(content.clone());
        let blob = session.blobs().get(id, content.len() as u64);
        assert_eq!(blob.is_whole(), part == 24);
        assert!(stream(&blob, &via(&origin)).await.unwrap() == content, "died at {part}");
        blob.whole().await.unwrap();
        assert!(std::fs::read(blob.path().unwrap()).unwrap() == content);
        if part >= 14 {
            assert!(origin.given() < content.len() as u64, "something was kept at {part}");
        }
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_without_its_record_or_of_another_length_counts_as_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(20 * MIB, 29);
    let id = sha256(&content);
    let origin = Scripted::new(content.clone());
    for damage in ["remove", "cut", "flip"] {
        let first = session(dir.path(), |_| {}).await;
        let blob = first.blobs().get(id, content.len() as u64);
        blob.read_at(0, 9 << 20, &via(&origin)).await.unwrap();
        until("it is recorded", || recorded(dir.path(), &blob) >= 9 << 20).await;
        drop(blob);
        first.shutdown().await;
        let files = files_below(dir.path());
        let log =
            files.iter().find(|path| path.extension().is_some_and(|end| end == "log")).expect("recorded");
        let part = log.with_extension("");
        match damage {
            "remove" => {
                std::fs::remove_file(log).unwrap();
                std::fs::write(&part, vec![0; content.len()]).unwrap();
            }
            "cut" => File::options().write(true).open(&part).unwrap().set_len(5).unwrap(),
            _ => {
                let mut bytes = std::fs::read(log).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
                std::fs::write(log, bytes).unwrap();
                std::fs::write(&part, vec![0; content.len()]).unwrap();
            }
        }
        let second = session(dir.path(), |_| {}).await;
        let blob = second.blobs().get(id, content.len() as u64);
        let read = blob.read_at(1 << 20, 1 << 20, &via(&origin)).await.unwrap();
        assert!(read == content.slice(1 << 20..2 << 20), "{damage}");
        drop(blob);
        second.shutdown().await;
        std::fs::remove_dir_all(dir.path().join("hf")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_blob_that_somebody_removed_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(LEN, 30);
    let origin = Scripted::new(content.clone());
    let first = session(dir.path(), |_| {}).await;
    let blob = first.blobs().get(sha256(&content), LEN as u64);
    blob.fetch_all(&via(&origin));
    blob.whole().await.unwrap();
    let path = blob.path().unwrap();
    drop(blob);
    first.shutdown().await;
    let second = session(dir.path(), |_| {}).await;
    std::fs::remove_file(&path).unwrap();
    let blob = second.blobs().get(sha256(&content), LEN as u64);
    assert!(blob.is_whole(), "so it was found");
    assert!(blob.file().is_none());
    assert!(!blob.is_whole());
    assert!(stream(&blob, &via(&origin)).await.unwrap() == content);
    assert_eq!(origin.given(), 2 * LEN as u64);
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_cache_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(LEN, 31);
    let origin = Scripted::paced(content.clone(), 64 << 10, Duration::from_millis(2));
    let (one, other) = (session(dir.path(), |_| {}).await, session(dir.path(), |_| {}).await);
    let readers = [&one, &other].map(|session| {
        let (blob, origin) = (session.blobs().get(sha256(&content), LEN as u64), via(&origin));
        tokio::spawn(async move {
            let all = stream(&blob, &origin).await.unwrap();
            blob.whole().await.unwrap();
            all
        })
    });
    for reader in readers {
        assert!(reader.await.unwrap() == content);
    }
    one.shutdown().await;
    other.shutdown().await;
    let parts: Vec<_> = files_below(dir.path())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/part/"))
        .collect();
    assert!(parts.is_empty(), "{parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_on_leave_their_lanes_to_those_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    // Memory for four flights.
    let session = session(dir.path(), |config| {
        (config.memory_bytes, config.max_readahead_bytes) = (1, 1 << 20);
    })
    .await;
    let content = content(40 * MIB, 32);
    let origin = Scripted::new(content.clone());
    let (mut idle, since) = (Vec::new(), Instant::now());
    for number in 0..28_u64 {
        // Each its own blob, as far as the store knows.
        let id = git_sha1(&number.to_le_bytes());
        let blob = session.blobs().get(id, content.len() as u64);
        blob.expect(0..blob.len());
        assert_eq!(blob.read_at(0, 1000, &via(&origin)).await.unwrap(), content.slice(0..1000));
        idle.push(blob);
    }
    // Had each to wait for one that gives up by itself, after ten seconds, it would be twice as long.
    assert!(since.elapsed() < Duration::from_secs(30), "all waited {:?}", since.elapsed());
    session.shutdown().await;
}
