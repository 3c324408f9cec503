//! Where a blob's bytes come from: the port that a hub, an upstream or a test stands behind.
//!
//! Knows nothing of HTTP. What an origin says went wrong decides what is done about it: [`OriginFault`].

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Somebody who has the blob, asked in the name of somebody who may read it.
///
/// Each reader brings its own: two origins of one blob may stand for the same server and different tokens. Two `Arc`s
/// of one origin are the same one.
pub trait BlobOrigin: Send + Sync + std::fmt::Debug {
    /// Begins to fetch a range of the blob, which is not empty and lies inside it. It may be up to 1 GiB; who asked may
    /// stop reading at any time.
    ///
    /// # Errors
    /// [`OriginError`], by which it is decided whether to try again.
    fn open(&self, range: Range<u64>) -> BoxFuture<'_, Result<Box<dyn BlobBody>, OriginError>>;

    /// For logs and status: no secrets.
    fn describe(&self) -> String;

    /// What server this is, as far as connections to it are bounded together.
    fn site(&self) -> String {
        self.describe()
    }
}

/// The bytes of one request, in order.
pub trait BlobBody: Send {
    /// The next bytes as they arrive; `None` at the end, which may come too early. What passes the range that was asked
    /// for is ignored.
    ///
    /// # Cancel safety
    /// Dropped while waiting, the whole body is dropped with it.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, OriginError>>>;
}

/// What is to be done about an error of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OriginFault {
    /// Try again after a pause, from where it broke off: cut short, reset, stalled, 429, 5xx, an expired link.
    Transient,
    /// Who asks may not read it (any more): others may, with an origin of theirs.
    Forbidden,
    /// It does not have it.
    Gone,
    /// It answered what cannot be this blob: another length or range, a page for people.
    Lying,
    /// It is not to be asked.
    Offline,
}

/// Why an origin gave nothing, or nothing more.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct OriginError {
    /// What to do about it.
    pub fault: OriginFault,
    /// For people.
    pub why: Arc<str>,
    /// When it says to come again, with a transient fault.
    pub retry_after: Option<Duration>,
    /// What the origin's own client makes of it: a caller that knows that client finds its error in here.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl OriginError {
    /// An error of this kind.
    pub fn new(fault: OriginFault, why: impl Into<Arc<str>>) -> Self {
        Self { fault, why: why.into(), retry_after: None, source: None }
    }

    /// As [`Self::new`], from the error of a client.
    pub fn with_source(fault: OriginFault, source: Arc<dyn std::error::Error + Send + Sync>) -> Self {
        Self { fault, why: source.to_string().into(), retry_after: None, source: Some(source) }
    }

    /// With the time after which to come again.
    #[must_use]
    pub fn retry_after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }
}
