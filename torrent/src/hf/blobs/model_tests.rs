//! A session's blobs against a list of bytes: whatever is read, broken, evicted, or killed in between, bytes are right or
//! there is an error that something explains.

use std::time::Duration;

use proptest::prelude::*;

use super::scripted::*;
use super::tests::{copy_as_of_now, session, until};
use super::*;
use crate::session::Session;

const LEN: u64 = (5 << 19) + 321;

#[derive(Debug, Clone)]
enum Op {
    Read {
        blob: usize,
        at: u64,
        len: u32,
    },
    /// Several at once.
    Burst {
        blob: usize,
        at: Vec<u64>,
        len: u32,
    },
    /// Begun, and dropped soon.
    Abandon {
        blob: usize,
        at: u64,
        micros: u64,
    },
    Fill {
        blob: usize,
    },
    Fault {
        blob: usize,
        fault: Fault,
    },
    Evict,
    Restart,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let (blob, at) = (0..2_usize, 0..LEN);
    let len = prop_oneof![1..5000_u32, 1..1_000_000_u32];
    let fault = prop_oneof![
        (0..LEN).prop_map(Fault::Truncate),
        (0..LEN).prop_map(Fault::Reset),
        (0..LEN).prop_map(Fault::Flip),
        Just(Fault::Chatter),
        Just(Fault::Refuse(OriginFault::Transient, Some(Duration::from_millis(2)))),
    ];
    prop_oneof![
        6 => (blob.clone(), at.clone(), len.clone()).prop_map(|(blob, at, len)| Op::Read { blob, at, len }),
        2 => (blob.clone(), prop::collection::vec(0..LEN, 2..6), len)
            .prop_map(|(blob, at, len)| Op::Burst { blob, at, len }),
        1 => (blob.clone(), at, 0..3000_u64).prop_map(|(blob, at, micros)| Op::Abandon { blob, at, micros }),
        1 => blob.clone().prop_map(|blob| Op::Fill { blob }),
        3 => (blob, fault).prop_map(|(blob, fault)| Op::Fault { blob, fault }),
        1 => Just(Op::Evict),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

struct World {
    dir: tempfile::TempDir,
    session: Session,
    content: [Bytes; 2],
    origins: [Arc<Scripted>; 2],
    /// Flips that may have reached the disk, for each blob.
    flips: [bool; 2],
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let session = session(dir.path(), |_| {}).await;
        let content = [content(LEN as usize, 80), content(LEN as usize, 81)];
        let origins =
            content.clone().map(|content| Scripted::paced(content, 48 << 10, Duration::from_micros(50)));
        Self { dir, session, content, origins, flips: [false; 2] }
    }

    fn get(&self, blob: usize) -> Blob {
        let id = if blob == 0 { sha256(&self.content[0]) } else { git_sha1(&self.content[1]) };
        self.session.blobs().get(id, LEN)
    }

    fn expected(&self, blob: usize, at: u64, len: u32) -> Bytes {
        self.content[blob].slice(at as usize..(at + u64::from(len)).min(LEN) as usize)
    }

    /// Right, or explained. Where the origin lied, bytes may be wrong until the blob was judged.
    fn judge(&self, blob: usize, expected: &Bytes, read: Result<Bytes, BlobError>) {
        match read {
            Ok(bytes) if self.flips[blob] => assert_eq!(bytes.len(), expected.len()),
            Ok(bytes) => assert!(bytes == expected),
            Err(BlobError::Corrupt | BlobError::Replaced) => assert!(self.flips[blob], "nobody lied"),
            Err(error) => panic!("{error}"),
        }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Read { blob, at, len } => {
                let read = self.get(blob).read_at(at, len, &via(&self.origins[blob])).await;
                self.judge(blob, &self.expected(blob, at, len), read);
            }
            Op::Burst { blob, at, len } => {
                let one = self.get(blob);
                let origin = via(&self.origins[blob]);
                let reads = at.iter().map(|at| one.read_at(*at, len, &origin));
                let reads = futures_util::future::join_all(reads).await;
                for (at, read) in at.iter().zip(reads) {
                    self.judge(blob, &self.expected(blob, *at, len), read);
                }
            }
            Op::Abandon { blob, at, micros } => {
                let (one, origin) = (self.get(blob), via(&self.origins[blob]));
                let _ended =
                    tokio::time::timeout(Duration::from_micros(micros), one.read_at(at, 1 << 20, &origin))
                        .await;
            }
            Op::Fill { blob } => self.get(blob).fetch_all(&via(&self.origins[blob])),
            Op::Fault { blob, fault } => {
                self.flips[blob] |= matches!(fault, Fault::Flip(_));
                self.origins[blob].script([fault]);
            }
            Op::Evict => {
                let shared = self.session.blobs().shared.clone();
                let evict = move || shared.evict(&shared.spare());
                tokio::task::spawn_blocking(evict).await.unwrap();
            }
            Op::Restart => {
                self.session.shutdown().await;
                self.session = session(self.dir.path(), |_| {}).await;
            }
            Op::Crash => {
                let next = tempfile::tempdir().unwrap();
                copy_as_of_now(self.dir.path(), next.path());
                self.session.shutdown().await;
                self.session = session(next.path(), |_| {}).await;
                self.dir = next;
            }
        }
    }

    /// In the end every blob can be had, and is right.
    async fn end(self) {
        for blob in 0..2 {
            let (one, origin) = (self.get(blob), Scripted::new(self.content[blob].clone()));
            one.fetch_all(&via(&origin));
            match one.whole().await {
                Ok(()) => assert!(std::fs::read(one.path().unwrap()).unwrap() == self.content[blob]),
                Err(BlobError::Corrupt) => assert!(self.flips[blob], "nobody lied"),
                Err(error) => panic!("{error}"),
            }
        }
        until("fetches end", || self.session.blobs().fills().is_empty()).await;
        let status = self.session.blobs().status();
        assert_eq!(status.whole_bytes + status.partial_bytes, self.session.status().cache.used_bytes);
        self.session.shutdown().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_right_whatever_happens(ops in prop::collection::vec(op(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in ops {
                let applied = tokio::time::timeout(Duration::from_secs(60), world.apply(op.clone())).await;
                assert!(applied.is_ok(), "{op:?} does not end");
            }
            world.end().await;
        });
    }
}
