//! An origin in memory for the tests: bytes by a formula, and what goes wrong by a script. Counts all that it gives.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use wtfs_proto::hf::ContentId;

use super::origin::{BlobBody, BlobOrigin, OriginError, OriginFault};

/// What the next request meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error at once.
    Refuse(OriginFault, Option<Duration>),
    /// So many bytes and then the end.
    Truncate(u64),
    /// So many bytes and then an error.
    Reset(u64),
    /// So many bytes and then nothing, for ever.
    Stall(u64),
    /// In the first request from the beginning of the blob: so many bytes, and the others once [`Scripted::release`] was called.
    Hold(u64),
    /// The byte at this place of the blob is another one.
    Flip(u64),
    /// More than was asked for.
    Chatter,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) content: Bytes,
    faults: Mutex<VecDeque<Fault>>,
    requests: Mutex<Vec<Range<u64>>>,
    given: AtomicU64,
    /// Bytes that were sent in answers that are over: those given, and those that sockets held when nobody read on.
    sent: AtomicU64,
    /// What sockets hold.
    ahead: u64,
    /// Bytes given at once.
    step: usize,
    /// Between two of these; without one, others go first each time, or not even that.
    pause: Option<Duration>,
    /// While set, nothing is given.
    is_closed: AtomicBool,
    /// Nothing is given once so much was.
    most: AtomicU64,
    opened: Notify,
    is_released: AtomicBool,
    site: String,
}

impl Scripted {
    pub(crate) fn new(content: Bytes) -> Arc<Self> {
        Self::paced(content, 64 << 10, Duration::ZERO)
    }

    pub(crate) fn paced(content: Bytes, step: usize, pause: Duration) -> Arc<Self> {
        Self::eager(content, step, pause, 0)
    }

    /// One that sends so far ahead of who reads.
    pub(crate) fn eager(content: Bytes, step: usize, pause: Duration, ahead: u64) -> Arc<Self> {
        Self::with(content, step, Some(pause), ahead)
    }

    /// One that has whatever is asked for at once: as fast as an origin can be, whoever takes the processor from us.
    pub(crate) fn prompt(content: Bytes, ahead: u64) -> Arc<Self> {
        Self::with(content, 64 << 10, None, ahead)
    }

    fn with(content: Bytes, step: usize, pause: Option<Duration>, ahead: u64) -> Arc<Self> {
        Arc::new(Self {
            content,
            faults: Mutex::default(),
            requests: Mutex::default(),
            given: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            ahead,
            step,
            pause,
            is_closed: AtomicBool::new(false),
            most: AtomicU64::new(u64::MAX),
            opened: Notify::new(),
            is_released: AtomicBool::new(false),
            site: "origin.test".to_owned(),
        })
    }

    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(crate) fn close_gate(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open_gate(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    /// Gives not much more than so many bytes in all, until it is told otherwise.
    pub(crate) fn stop_at(&self, most: u64) {
        self.most.store(most, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    pub(crate) fn release(&self) {
        self.is_released.store(true, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::SeqCst)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<Range<u64>> {
        self.requests.lock().unwrap().clone()
    }

    async fn pass_gate(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_closed.load(Ordering::SeqCst) && self.given() < self.most.load(Ordering::SeqCst) {
                return;
            }
            opened.await;
        }
    }
}

/// The same origin in another Arc: what another client brings along.
#[derive(Debug)]
pub(crate) struct Via(pub(crate) Arc<Scripted>, pub(crate) Option<OriginFault>);

impl BlobOrigin for Via {
    fn open(&self, range: Range<u64>) -> BoxFuture<'_, Result<Box<dyn BlobBody>, OriginError>> {
        match self.1 {
            Some(fault) => {
                self.0.requests.lock().unwrap().push(range);
                std::future::ready(Err(OriginError::new(fault, "not with this token"))).boxed()
            }
            None => open(self.0.clone(), range),
        }
    }

    fn describe(&self) -> String {
        self.0.site.clone()
    }
}

pub(crate) fn via(origin: &Arc<Scripted>) -> Arc<dyn BlobOrigin> {
    Arc::new(Via(origin.clone(), None))
}

pub(crate) fn via_failing(origin: &Arc<Scripted>, fault: OriginFault) -> Arc<dyn BlobOrigin> {
    Arc::new(Via(origin.clone(), Some(fault)))
}

fn open(
    origin: Arc<Scripted>,
    range: Range<u64>,
) -> BoxFuture<'static, Result<Box<dyn BlobBody>, OriginError>> {
    async move {
        assert!(range.start < range.end && range.end <= origin.content.len() as u64, "{range:?}");
        origin.requests.lock().unwrap().push(range.clone());
        let fault = {
            let mut faults = origin.faults.lock().unwrap();
            let is_not_for_it = matches!(faults.front(), Some(Fault::Hold(_))) && range.start > 0;
            if is_not_for_it { None } else { faults.pop_front() }
        };
        origin.pass_gate().await;
        if let Some(Fault::Refuse(fault, retry_after)) = fault {
            return Err(OriginError::new(fault, "refused").retry_after(retry_after));
        }
        let end = if fault == Some(Fault::Chatter) { origin.content.len() as u64 } else { range.end };
        Ok(Box::new(Body { origin, start: range.start, at: range.start, end, fault }) as Box<dyn BlobBody>)
    }
    .boxed()
}

struct Body {
    origin: Arc<Scripted>,
    start: u64,
    at: u64,
    end: u64,
    fault: Option<Fault>,
}

impl Drop for Body {
    fn drop(&mut self) {
        let sent = self.end.min(self.at + self.origin.ahead) - self.start;
        self.origin.sent.fetch_add(sent, Ordering::SeqCst);
    }
}

impl BlobBody for Body {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, OriginError>>> {
        async move {
            self.origin.pass_gate().await;
            match self.origin.pause {
                Some(Duration::ZERO) => tokio::task::yield_now().await,
                Some(pause) => tokio::time::sleep(pause).await,
                None => {}
            }
            let given = self.at - self.start;
            let mut most = self.origin.step as u64;
            match &self.fault {
                Some(Fault::Truncate(after)) if given >= *after => return None,
                Some(Fault::Reset(after)) if given >= *after => {
                    return Some(Err(OriginError::new(OriginFault::Transient, "reset")));
                }
                Some(Fault::Stall(after)) if given >= *after => std::future::pending().await,
                Some(Fault::Hold(after)) if given >= *after => loop {
                    let opened = self.origin.opened.notified();
                    if self.origin.is_released.load(Ordering::SeqCst) {
                        break;
                    }
                    opened.await;
                },
                Some(
                    Fault::Truncate(after) | Fault::Reset(after) | Fault::Stall(after) | Fault::Hold(after),
                ) => {
                    most = most.min(after - given);
                }
                _ => {}
            }
            let to = (self.at + most).min(self.end);
            if self.at >= to {
                return None;
            }
            let mut bytes = self.origin.content.slice(self.at as usize..to as usize);
            if let Some(Fault::Flip(at)) = self.fault
                && (self.at..to).contains(&at)
            {
                let mut flipped = bytes.to_vec();
                flipped[(at - self.at) as usize] ^= 1;
                bytes = flipped.into();
            }
            self.at = to;
            self.origin.given.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            Some(Ok(bytes))
        }
        .boxed()
    }
}

/// Bytes that tell their place.
pub(crate) fn content(len: usize, seed: u64) -> Bytes {
    let word = |at: usize| {
        (at as u64 / 8).wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[at % 8]
    };
    (0..len).map(word).collect::<Vec<u8>>().into()
}

pub(crate) fn sha256(content: &[u8]) -> ContentId {
    ContentId::Sha256(Sha256::digest(content).into())
}

pub(crate) fn git_sha1(content: &[u8]) -> ContentId {
    let head = format!("blob {}\0", content.len());
    ContentId::GitSha1(Sha1::new().chain_update(head).chain_update(content).finalize().into())
}
