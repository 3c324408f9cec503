//! The bytes of one range of a file, as they arrive.
//!
//! Invariant: what comes out is at most the range, in order, from its first byte on. Nothing that a server says about
//! lengths is believed unless it fits what was asked and how long the file is.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};
use wtfs_proto::hf::{Commit, ContentRange};

use super::error::UpstreamError;
use super::request::{HadToken, Landed, Side, header};
use super::{RANGE_BYTES_MAX, Upstream};

/// A server that ignores ranges sends a file from its beginning: no more than this is read in vain.
const SKIPPED_BYTES_MAX: u64 = RANGE_BYTES_MAX;

/// The bytes of a range.
#[derive(Debug)]
pub struct RangeBody {
    upstream: Upstream,
    response: Response,
    host: String,
    idle: Duration,
    range: Range<u64>,
    /// Bytes before the range that the server sends all the same.
    skip: u64,
    /// Bytes of the range that have not come out.
    left: u64,
}

/// How to read a body.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    skip: u64,
    range: Range<u64>,
}

/// The head of an answer, as far as it matters here.
#[derive(Debug, Clone, Copy, Default)]
struct Head<'a> {
    status: u16,
    content_range: Option<&'a str>,
    content_length: Option<u64>,
    content_encoding: Option<&'a str>,
}

impl RangeBody {
    pub(super) fn begin(
        upstream: &Upstream,
        landed: Landed,
        commit: Commit,
        asked: Range<u64>,
        total_bytes: u64,
        had_token: HadToken,
    ) -> Result<Self, UpstreamError> {
        let verdict = landed.verdict();
        let host = landed.host.clone();
        let garbage = |why: &str| UpstreamError::Garbage { host: host.clone(), why: why.to_owned() };
        let (status, retry_after) = (verdict.status.as_u16(), verdict.retry_after);
        if !verdict.status.is_success() && status != 416 {
            return Err(match landed.side {
                Side::Hub => verdict.error(&host, had_token, landed.commit),
                // What keeps the files knows nothing of repositories and rights: its links are good or they are not.
                Side::Elsewhere => match status {
                    401 | 403 | 404 | 410 => Some(UpstreamError::Expired { host: host.clone() }),
                    429 => Some(UpstreamError::RateLimited { host: host.clone(), retry_after }),
                    _ => Some(UpstreamError::Unavailable { host: host.clone(), status, retry_after }),
                },
            }
            .unwrap_or_else(|| garbage("its answer contradicts itself")));
        }
        match landed.commit {
            None => return Err(garbage("it names no commit, as a hub does")),
            Some(named) if named != commit => return Err(garbage("it is of another commit")),
            Some(_) => {}
        }
        if landed.linked_bytes.is_some_and(|bytes| bytes != total_bytes) {
            return Err(garbage("the file has another length"));
        }
        let response = landed.response;
        let head = Head {
            status,
            content_range: header(&response, &CONTENT_RANGE),
            content_length: header(&response, &CONTENT_LENGTH).and_then(|text| text.parse().ok()),
            content_encoding: header(&response, &CONTENT_ENCODING),
        };
        let Plan { skip, range } = plan(head, asked, total_bytes).map_err(garbage)?;
        let (idle, left) = (upstream.inner.config.idle_timeout, range.end - range.start);
        Ok(Self { upstream: upstream.clone(), response, host, idle, range, skip, left })
    }

    /// Which bytes it is going to give: from where was asked, and maybe not as many.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The next bytes as they arrive; `None` once all of [`Self::range`] came.
    ///
    /// # Errors
    /// [`UpstreamError::CutShort`] and [`UpstreamError::Timeout`]; nothing comes after it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        while self.left > 0 {
            let mut part = match tokio::time::timeout(self.idle, self.response.chunk()).await {
                Ok(Ok(Some(part))) => part,
                Ok(Ok(None) | Err(_)) => {
                    self.left = 0;
                    return Some(Err(UpstreamError::CutShort { host: self.host.clone() }));
                }
                Err(_) => {
                    self.left = 0;
                    return Some(Err(UpstreamError::Timeout { host: self.host.clone() }));
                }
            };
            let arrived = part.len() as u64;
            self.upstream.inner.counters.file_bytes.fetch_add(arrived, Ordering::Relaxed);
            let skipped = self.skip.min(arrived);
            self.skip -= skipped;
            // Both fit: they are no longer than the part.
            part.advance(skipped as usize);
            part.truncate(self.left.min(part.len() as u64) as usize);
            self.left -= part.len() as u64;
            if !part.is_empty() {
                return Some(Ok(part));
            }
        }
        None
    }
}

/// How to read the body that follows `head`, or what is wrong with it.
fn plan(head: Head<'_>, asked: Range<u64>, total_bytes: u64) -> Result<Plan, &'static str> {
    if head.content_encoding.is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err("it is compressed, unasked");
    }
    match head.status {
        206 => {
            let range = head.content_range.and_then(ContentRange::parse);
            let range = range.ok_or("it does not say which part of the file it is")?;
            if range.total_bytes.is_some_and(|total| total != total_bytes) {
                return Err("the file has another length");
            }
            if range.bytes.start != asked.start {
                return Err("it is another part of the file");
            }
            if head.content_length.is_some_and(|bytes| bytes != range.bytes.end - range.bytes.start) {
                return Err("it has another length than it says");
            }
            Ok(Plan { skip: 0, range: asked.start..asked.end.min(range.bytes.end) })
        }
        200 if head.content_length.is_some_and(|bytes| bytes != total_bytes) => {
            Err("the file has another length")
        }
        200 if asked.start > SKIPPED_BYTES_MAX => Err("it ignores ranges"),
        200 => Ok(Plan { skip: asked.start, range: asked }),
        416 => Err("the file is shorter"),
        _ => Err("a status that says nothing here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part<'a>(content_range: &'a str, bytes: u64) -> Head<'a> {
        let content_range = Some(content_range);
        Head { status: 206, content_range, content_length: Some(bytes), content_encoding: None }
    }

    #[test]
    fn a_part_that_fits_is_read_from_its_first_byte() {
        let whole = Ok(Plan { skip: 0, range: 10..20 });
        assert_eq!(plan(part("bytes 10-19/100", 10), 10..20, 100), whole);
        assert_eq!(plan(part("bytes 10-19/*", 10), 10..20, 100), whole);
        assert_eq!(plan(part("bytes 10-99/100", 90), 10..20, 100), whole, "more than was asked");
        let shorter = Ok(Plan { skip: 0, range: 10..15 });
        assert_eq!(plan(part("bytes 10-14/100", 5), 10..20, 100), shorter);
    }

    #[test]
    fn a_whole_file_instead_of_a_part_is_read_past_what_was_not_asked() {
        let head = |content_length| Head { status: 200, content_length, ..Head::default() };
        assert_eq!(plan(head(Some(100)), 10..20, 100), Ok(Plan { skip: 10, range: 10..20 }));
        assert_eq!(plan(head(None), 0..100, 100), Ok(Plan { skip: 0, range: 0..100 }));
        assert!(plan(head(Some(99)), 0..20, 100).is_err());
        let far = SKIPPED_BYTES_MAX + 1;
        assert!(plan(head(None), far..far + 1, u64::MAX).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for head in [
            part("bytes 0-9/100", 10),
            part("bytes 11-19/100", 9),
            part("bytes 10-19/101", 10),
            part("bytes 10-19/100", 11),
            part("bytes 10-19", 10),
            part("", 10),
            Head { status: 206, ..Head::default() },
            Head { content_encoding: Some("gzip"), ..part("bytes 10-19/100", 10) },
            Head { status: 416, ..Head::default() },
            Head { status: 204, ..Head::default() },
        ] {
            assert!(plan(head, 10..20, 100).is_err(), "{head:?}");
        }
    }
}
