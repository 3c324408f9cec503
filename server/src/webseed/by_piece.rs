//! BEP 17, "GetRight" in reverse: `GET /seed?info_hash=..&piece=..&ranges=a-b,c-d` gives bytes of one piece, whatever
//! files they lie in. Ranges include both ends and stay within the piece; without them it is the whole piece.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Method, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use std::ops::Range;
use wtfs_proto::geometry::PieceIndex;
use wtfs_proto::id::InfoHash;

use super::body::body;
use super::{Shared, missing};
use crate::library::Item;
use crate::names;

/// Ranges in one request.
const RANGES_MAX: usize = 64;

/// The longest answer: a piece is held in memory while it is put together.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

pub(super) async fn serve(State(library): State<Shared>, request: Request) -> Response<Body> {
    let Some(asked) = request.uri().query().and_then(Asked::parse) else {
        return text(StatusCode::BAD_REQUEST, "expected info_hash, piece and, if you like, ranges\n");
    };
    let Some(item) = library.by_hash(asked.info_hash) else { return missing() };
    let Some(piece) = item.metainfo().info.geometry.piece(asked.piece) else { return missing() };
    let len = item.metainfo().info.geometry.piece_len(piece);
    let ranges = if asked.ranges.is_empty() { std::iter::once(0..len).collect() } else { asked.ranges };
    let total: u64 = ranges.iter().map(|range| u64::from(range.end - range.start)).sum();
    if ranges.iter().any(|range| range.end > len) || total > ANSWER_BYTES_MAX {
        return text(StatusCode::BAD_REQUEST, "the ranges do not lie in the piece\n");
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(total));
    super::allow_everybody(headers);
    if request.method() == Method::HEAD {
        return response;
    }
    let mut answer = BytesMut::with_capacity(usize::try_from(total).unwrap_or_default());
    for range in ranges {
        match bytes_of(&item, piece, range).await {
            Some(bytes) => answer.extend_from_slice(&bytes),
            None => return missing(),
        }
    }
    *response.body_mut() = answer.freeze().into();
    response
}

/// Bytes of a piece, or nothing when a file of it cannot be had.
async fn bytes_of(item: &Item, piece: PieceIndex, range: Range<u32>) -> Option<Bytes> {
    let spans: Vec<_> = item.metainfo().info.geometry.spans(piece, range).collect();
    let mut answer = BytesMut::new();
    for span in spans {
        let bytes = u64::from(span.bytes);
        if span.is_pad {
            answer.resize(answer.len() + usize::try_from(bytes).ok()?, 0);
            continue;
        }
        let source = item.open(span.file).await.ok()?;
        let mut frames = body(source, span.file_offset..span.file_offset + bytes, None).into_data_stream();
        while let Some(frame) = frames.next().await {
            answer.extend_from_slice(&frame.ok()?);
        }
    }
    Some(answer.freeze())
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    info_hash: InfoHash,
    piece: u32,
    /// End excluded; empty for all of the piece.
    ranges: Vec<Range<u32>>,
}

impl Asked {
    /// Later parameters of a name that was seen already are passed over, and so are unknown ones.
    fn parse(query: &str) -> Option<Self> {
        let (mut info_hash, mut piece, mut ranges) = (None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "info_hash" if info_hash.is_none() => info_hash = Some(hash(value)?),
                "piece" if piece.is_none() => piece = Some(value.parse().ok()?),
                "ranges" if ranges.is_none() => ranges = Some(ranges_of(value)?),
                _ => {}
            }
        }
        Some(Self { info_hash: info_hash?, piece: piece?, ranges: ranges.unwrap_or_default() })
    }
}

/// 20 bytes, percent-encoded as trackers are sent them; hexadecimal digits are taken too.
fn hash(value: &str) -> Option<InfoHash> {
    let bytes = names::percent_decode_bytes(value)?;
    match <[u8; 20]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Some(InfoHash::new(bytes)),
        Err(_) => std::str::from_utf8(&bytes).ok()?.parse().ok(),
    }
}

fn ranges_of(value: &str) -> Option<Vec<Range<u32>>> {
    let value = names::percent_decode(value)?;
    if value.is_empty() {
        return Some(Vec::new());
    }
    let mut ranges = Vec::new();
    for text in value.split(',') {
        let (first, last) = text.split_once('-')?;
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || ranges.len() == RANGES_MAX {
            return None;
        }
        ranges.push(first..last.checked_add(1)?);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_the_hash_in_either_form() {
        let hash = InfoHash::new(*b"0123456789abcdefghi\xff");
        let asked = Some(Asked { info_hash: hash, piece: 7, ranges: vec![0..16_384, 32_768..32_769] });
        let ranges = "ranges=0-16383,32768-32768";
        assert_eq!(Asked::parse(&format!("info_hash=0123456789abcdefghi%FF&piece=7&{ranges}")), asked);
        assert_eq!(Asked::parse(&format!("piece=7&{ranges}&info_hash={hash}&piece=9")), asked);
        let whole = Asked::parse(&format!("info_hash={hash}&piece=0")).expect("read");
        assert!(whole.ranges.is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let hash = "0".repeat(40);
        for query in [
            "",
            "piece=1",
            &format!("info_hash={hash}"),
            &format!("info_hash={hash}&piece=-1"),
            &format!("info_hash={hash}&piece=1&ranges=5-4"),
            &format!("info_hash={hash}&piece=1&ranges=5"),
            &format!("info_hash={hash}&piece=1&ranges=0-4294967295"),
            &format!("info_hash={hash}&piece=1&ranges={}", vec!["0-0"; 65].join(",")),
            "info_hash=%zz&piece=1",
            "info_hash=short&piece=1",
        ] {
            assert_eq!(Asked::parse(query), None, "{query}");
        }
    }
}
