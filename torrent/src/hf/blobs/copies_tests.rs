//! What many readers of one cold blob cost its origin: what it sends, not only what arrives here.

use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::scripted::*;
use super::tests::{MIB, session, until};
use super::*;

/// What sockets of a fast network hold.
const AHEAD: u64 = 32 << 20;

/// Reads all of it as a mount behind us does: by ranges that grow, each by a reader of its own, some at once.
async fn reads_like_a_mount(blobs: Blobs, origin: Arc<Scripted>, first: u64, pause: Duration) {
    let (id, len) = (sha256(&origin.content), origin.content.len() as u64);
    let mut ranges = Vec::new();
    let (mut at, mut step) = (0, first);
    while at < len {
        let end = (at + step).min(len);
        ranges.push(at..end);
        (at, step) = (end, (2 * step).min(8 << 20));
    }
    let reads = ranges.into_iter().map(|range| {
        let (blob, content, origin) = (blobs.get(id, len), origin.content.clone(), via(&origin));
        async move {
            blob.expect(range.clone());
            let mut at = range.start;
            while at < range.end {
                let most = (range.end - at).min(256 << 10) as u32;
                let bytes = blob.read_some_at(at, most, &origin).await.unwrap();
                assert!(bytes == content[at as usize..at as usize + bytes.len()]);
                at += bytes.len() as u64;
                tokio::time::sleep(pause).await;
            }
        }
    });
    stream::iter(reads).buffered(3).collect::<()>().await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    AFill,
}

/// What comes is as fast as can be, so that no time of this machine is its pace; `copies_sim_tests` has all the others.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_go_through_a_cold_blob_at_their_own_pace_make_a_fast_origin_send_one_copy() {
    let content = content(40 * MIB + 99, 95);
    for beside in [Beside::Nothing, Beside::AFill] {
        let dir = tempfile::tempdir().unwrap();
        let session = session(dir.path(), |_| {}).await;
        let origin = Scripted::prompt(content.clone(), AHEAD);
        let blob = session.blobs().get(sha256(&content), content.len() as u64);
        if beside == Beside::AFill {
            blob.fetch_all(&via(&origin));
        }
        let mounts = [(256 << 10, 0), (1 << 20, 1), (1 << 20, 3)].map(|(first, pause)| {
            let pause = Duration::from_millis(pause);
            tokio::spawn(reads_like_a_mount(session.blobs().clone(), origin.clone(), first, pause))
        });
        for mount in mounts {
            mount.await.unwrap();
        }
        until("fetches end", || session.blobs().fills().is_empty()).await;
        let len = content.len() as u64;
        // Where a flight is cut, a part of what arrives with its last bytes is another one's.
        assert!(origin.given() <= len + len / 50, "{} arrived: {:?}", origin.given(), origin.requests());
        assert!(origin.sent() <= len + len / 10, "{} sent: {:?}", origin.sent(), origin.requests());
        session.shutdown().await;
    }
}
