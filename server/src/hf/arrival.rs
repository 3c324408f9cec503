//! The body of a response with bytes of a blob: from its file when it is whole, else as they arrive.
//!
//! What arrives was not verified yet, and its sender may lie. So a file that is not long is held back until it is
//! verified, as long as the client's patience allows; of a longer one that is sent from its beginning to its end, the
//! last bytes are. What turns out to be wrong thus ends in a status of 5xx or in a response that ends too early, never in
//! a whole one.

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use wtfs_torrent::hf::blobs::{Blob, BlobError, BlobOrigin};

use super::limits::Place;
use super::taints::Taints;
use crate::serving::lane::Lane;
use crate::webseed::{Source, body};

/// Files of at most so many bytes are verified before any of them is sent, if that does not take too long.
const HELD_BYTES_MAX: u64 = 32 << 20;

/// The same where a part is asked for: the rest is fetched for the sake of verifying alone.
const HELD_FOR_PART_BYTES_MAX: u64 = 1 << 20;

/// Most bytes that are passed on at once.
const STEP_BYTES: u64 = 256 << 10;

/// What is kept back of a whole file until it is verified.
const TAIL_BYTES: u64 = 1 << 10;

/// How long a file of which all bytes came may take to be verified: its disk may be slow.
const VERIFY_MAX: Duration = Duration::from_secs(120);

/// What is to be sent, and how.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) blob: Blob,
    /// Not empty, and inside the blob.
    pub(crate) range: Range<u64>,
    pub(crate) origin: Arc<dyn BlobOrigin>,
    pub(crate) lane: Option<Lane>,
    pub(crate) client: IpAddr,
    /// How long the client waits for the first bytes: half of that a file is held back, and all of it the head of the
    /// response, since until then a failure has a status.
    pub(crate) patience: Duration,
    /// Held until the body ends.
    pub(crate) _place: Place,
    /// Learns of it when what was sent turns out to be wrong.
    pub(crate) taints: Arc<Mutex<Taints>>,
}

/// The body, if the blob is whole.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn whole(blob: &Blob, range: &Range<u64>, lane: Option<&Lane>) -> Option<Body> {
    if !blob.is_whole() {
        return None;
    }
    let held = match blob.try_file() {
        Some(held) => held,
        None => {
            let blob = blob.clone();
            tokio::task::spawn_blocking(move || blob.file()).await.ok()??
        }
    };
    Some(body::body(Source::File(Arc::new(held)), range.clone(), lane.cloned()))
}

/// The body of a blob that is not whole yet. Ends once there is something to send, or it took too long for a client to
/// wait without a sign of life.
///
/// # Errors
/// Why there is nothing to send.
///
/// # Cancel safety
/// Cancel safe: what is fetched already goes on being fetched only if all of the blob was asked for.
pub(crate) async fn arriving(wish: Wish) -> Result<Body, BlobError> {
    let began = tokio::time::Instant::now();
    let len = wish.blob.len();
    let is_all = wish.range == (0..len);
    let is_held = len <= if is_all { HELD_BYTES_MAX } else { HELD_FOR_PART_BYTES_MAX };
    if is_all || is_held {
        // Goes on when the client goes, and is verified in the end.
        wish.blob.fetch_all(&wish.origin);
    }
    if is_held {
        match tokio::time::timeout(wish.patience / 2, wish.blob.verified()).await {
            // What cannot be kept can still be passed on.
            Ok(Ok(()) | Err(BlobError::NoSpace)) | Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
    wish.blob.expect(wish.range.clone());
    let generation = wish.blob.generation();
    let patience = wish.patience;
    let mut cold = Cold { wish, is_all, generation };
    let first = match tokio::time::timeout_at(began + patience, cold.next()).await {
        Ok(first) => Some(first?),
        Err(_elapsed) => None,
    };
    let rest = stream::try_unfold(State::Cold(cold), State::next);
    Ok(match first {
        Some(first) => Body::from_stream(stream::once(async { Ok(first) }).chain(rest)),
        None => Body::from_stream(rest),
    })
}

/// What is left of a response whose bytes arrive.
#[derive(Debug)]
struct Cold {
    wish: Wish,
    is_all: bool,
    /// What the blob's was at the beginning: another means that what was sent already was wrong.
    generation: u32,
}

enum State {
    Cold(Cold),
    /// It became whole: the rest goes as from any file.
    Whole(BodyDataStream),
}

impl Cold {
    /// At least one byte; the range must not be empty.
    async fn next(&mut self) -> Result<Bytes, BlobError> {
        let Wish { blob, range, origin, .. } = &mut self.wish;
        let left = range.end - range.start;
        let most = if self.is_all && left > TAIL_BYTES {
            (left - TAIL_BYTES).min(STEP_BYTES)
        } else {
            if self.is_all {
                let verified = tokio::time::timeout(VERIFY_MAX, blob.verified()).await;
                match verified.unwrap_or(Err(BlobError::Timeout { waited: VERIFY_MAX })) {
                    // What cannot be kept cannot be verified either.
                    Ok(()) | Err(BlobError::NoSpace) => {}
                    Err(error) => return Err(error),
                }
            }
            left.min(STEP_BYTES)
        };
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let bytes = blob.read_some_at(range.start, most, origin).await?;
        if blob.generation() != self.generation {
            return Err(BlobError::Replaced);
        }
        if bytes.is_empty() {
            return Err(BlobError::Closed);
        }
        range.start += bytes.len() as u64;
        Ok(bytes)
    }

    fn taint(&self) {
        let mut taints = self.wish.taints.lock().unwrap_or_else(PoisonError::into_inner);
        taints.note(self.wish.blob.id(), self.wish.client, Instant::now());
    }

    async fn rest(&self) -> Option<BodyDataStream> {
        let body = whole(&self.wish.blob, &self.wish.range, self.wish.lane.as_ref()).await?;
        (self.wish.blob.generation() == self.generation).then(|| body.into_data_stream())
    }
}

impl State {
    async fn next(self) -> io::Result<Option<(Bytes, Self)>> {
        let mut cold = match self {
            Self::Whole(mut rest) => {
                let Some(bytes) = rest.next().await else { return Ok(None) };
                return Ok(Some((bytes.map_err(io::Error::other)?, Self::Whole(rest))));
            }
            Self::Cold(cold) => cold,
        };
        if cold.wish.range.is_empty() {
            return Ok(None);
        }
        if let Some(mut rest) = cold.rest().await {
            let Some(bytes) = rest.next().await else { return Ok(None) };
            return Ok(Some((bytes.map_err(io::Error::other)?, Self::Whole(rest))));
        }
        match cold.next().await {
            Ok(bytes) => Ok(Some((bytes, Self::Cold(cold)))),
            Err(error) => {
                tracing::warn!(%error, blob = ?cold.wish.blob.id(), "a response ends too early");
                if matches!(error, BlobError::Corrupt | BlobError::Replaced) {
                    cold.taint();
                }
                Err(io::Error::other(error))
            }
        }
    }
}
