//! What the head of a web seed's answer means: bytes to take, or what is wrong with the seed.
//!
//! Pure: told the head, what was asked and the time of day. Nothing that a server says about lengths is believed unless
//! it fits what the torrent says; what cannot be checked here is checked by the pieces' hashes.

use std::time::{Duration, UNIX_EPOCH};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, RETRY_AFTER};
use wtfs_proto::geometry::FileIndex;

/// A server that ignores `Range` sends a file from its beginning: no more than this is read in vain. On a path of 10
/// MB/s it is a tenth of a second.
const MOST_SKIPPED: u64 = 1 << 20;

/// A wait asked for is kept up to this long; who asks for days would never be asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What is wrong, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The seed has no such file (or, if it is asked for pieces, no such torrent); others it may have.
    Gone { file: Option<FileIndex>, reason: String },
    /// It wants to be left alone, for this long if it said so.
    Busy { after: Option<Duration>, reason: String },
    /// It did not work this time.
    Broken { reason: String },
    /// It will never work.
    Useless { reason: String },
}

impl Fault {
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into() }
    }

    pub(super) fn useless(reason: impl Into<String>) -> Self {
        Self::Useless { reason: reason.into() }
    }
}

/// What a GET asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// A range of a file, by a `Range` header.
    File { file: FileIndex, start: u64, bytes: u64, file_bytes: u64 },
    /// A range of a piece, by the query.
    Piece { bytes: u64 },
}

/// How to read a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Body {
    /// Bytes to pass over first.
    pub(super) skip: u64,
}

/// Judges the head of an answer.
pub(super) fn judge(
    asked: Asked,
    status: StatusCode,
    headers: &HeaderMap,
    unix_now: u64,
) -> Result<Body, Fault> {
    let file = match asked {
        Asked::File { file, .. } => Some(file),
        Asked::Piece { .. } => None,
    };
    match status.as_u16() {
        200 | 206 => {}
        429 | 503 => {
            let after = text(headers, RETRY_AFTER).and_then(|text| wait(text, unix_now));
            return Err(Fault::Busy { after, reason: format!("answered with HTTP status {status}") });
        }
        416 => {
            let reason = format!("answered with HTTP status {status}: its file is another");
            return Err(Fault::Gone { file, reason });
        }
        408 | 425 => return Err(Fault::broken(format!("answered with HTTP status {status}"))),
        400..=499 => return Err(Fault::Gone { file, reason: format!("answered with HTTP status {status}") }),
        _ => return Err(Fault::broken(format!("answered with HTTP status {status}"))),
    }
    if let Some(encoding) = text(headers, CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(Fault::useless("compresses although it was asked not to"));
    }
    let length = text(headers, CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    match asked {
        Asked::Piece { bytes } => match length {
            Some(length) if length != bytes => {
                Err(Fault::broken(format!("sends {length} bytes of the {bytes} asked for")))
            }
            _ => Ok(Body { skip: 0 }),
        },
        Asked::File { start, bytes, file_bytes, .. } if status == StatusCode::PARTIAL_CONTENT => {
            partial(headers, length, start, bytes, file_bytes, file)
        }
        Asked::File { start, file_bytes, .. } => match length {
            Some(length) if length != file_bytes => Err(another_size(file, length, file_bytes)),
            _ if start <= MOST_SKIPPED => Ok(Body { skip: start }),
            _ => Err(Fault::useless("ignores Range: it sends whole files from their beginning")),
        },
    }
}

/// A 206: the range it says it sends must begin where it was asked to, and lie within what was asked for.
fn partial(
    headers: &HeaderMap,
    length: Option<u64>,
    start: u64,
    bytes: u64,
    file_bytes: u64,
    file: Option<FileIndex>,
) -> Result<Body, Fault> {
    let range =
        text(headers, CONTENT_RANGE).ok_or_else(|| Fault::broken("sends a part without saying which"))?;
    let Some((first, last, whole)) = content_range(range) else {
        return Err(Fault::broken("sends a Content-Range that cannot be read"));
    };
    if let Some(whole) = whole.filter(|whole| *whole != file_bytes) {
        return Err(another_size(file, whole, file_bytes));
    }
    if first != start || last >= start + bytes {
        return Err(Fault::broken("sends another range than was asked for"));
    }
    if length.is_some_and(|length| length != last - first + 1) {
        return Err(Fault::broken("sends another length than its Content-Range says"));
    }
    Ok(Body { skip: 0 })
}

fn another_size(file: Option<FileIndex>, theirs: u64, ours: u64) -> Fault {
    let reason = format!("its file has {theirs} bytes, {ours} in the torrent");
    Fault::Gone { file, reason }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// `bytes FIRST-LAST/WHOLE`, or `*` for the whole (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, rest) = text.split_once(' ')?;
    let (range, whole) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    (unit.eq_ignore_ascii_case("bytes") && first <= last).then_some((first, last, whole))
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3). BEP 17's bodies are seconds too.
pub(super) fn wait(text: &str, unix_now: u64) -> Option<Duration> {
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => unix_time(text)?.saturating_sub(unix_now),
    };
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Seconds since 1970 of a date as HTTP writes it (RFC 9110, 5.6.7).
fn unix_time(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use wtfs_proto::geometry::{Alignment, FileLayout, Geometry};

    use super::*;

    const FILE_BYTES: u64 = 10_000_000;

    fn file() -> FileIndex {
        let files = [FileLayout { bytes: FILE_BYTES, alignment: Alignment::Packed, is_pad: false }];
        Geometry::new(1 << 20, &files).expect("valid").file(0).expect("a file")
    }

    fn head(status: u16, headers: &[(&'static str, &str)], start: u64) -> Result<Body, Fault> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a value"));
        }
        let asked = Asked::File { file: file(), start, bytes: 1000, file_bytes: FILE_BYTES };
        judge(asked, StatusCode::from_u16(status).expect("a status"), &map, 784_111_777)
    }

    #[test]
    fn the_range_asked_for_is_taken() {
        for range in ["bytes 5000-5999/10000000", "bytes 5000-5999/*", "Bytes 5000-5000/10000000"] {
            assert_eq!(head(206, &[("content-range", range)], 5000), Ok(Body { skip: 0 }), "{range}");
        }
        let both = [("content-range", "bytes 5000-5999/*"), ("content-length", "1000")];
        assert_eq!(head(206, &both, 5000), Ok(Body { skip: 0 }));
    }

    #[test]
    fn ranges_that_do_not_fit_are_not_taken() {
        let wrong = [
            "bytes 0-999/10000000",
            "bytes 5001-5999/10000000",
            "bytes 5000-6000/10000000",
            "bytes 5999-5000/10000000",
            "bytes */10000000",
            "items 5000-5999/10000000",
            "bytes 5000-99999999999999999999999/*",
            "",
        ];
        for range in wrong {
            let judged = head(206, &[("content-range", range)], 5000);
            assert!(matches!(judged, Err(Fault::Broken { .. })), "{range}: {judged:?}");
        }
        assert!(matches!(head(206, &[], 5000), Err(Fault::Broken { .. })));
        let lengths = [("content-range", "bytes 5000-5999/*"), ("content-length", "999")];
        assert!(matches!(head(206, &lengths, 5000), Err(Fault::Broken { .. })));
    }

    #[test]
    fn a_file_of_another_size_is_another_file() {
        let judged = head(206, &[("content-range", "bytes 5000-5999/10000001")], 5000);
        assert!(matches!(judged, Err(Fault::Gone { file: Some(_), .. })), "{judged:?}");
        let judged = head(200, &[("content-length", "5")], 0);
        assert!(matches!(judged, Err(Fault::Gone { file: Some(_), .. })), "{judged:?}");
    }

    #[test]
    fn whole_files_are_used_as_far_as_little_is_read_in_vain() {
        assert_eq!(head(200, &[("content-length", "10000000")], 0), Ok(Body { skip: 0 }));
        assert_eq!(head(200, &[], MOST_SKIPPED), Ok(Body { skip: MOST_SKIPPED }));
        assert!(matches!(head(200, &[], MOST_SKIPPED + 1), Err(Fault::Useless { .. })));
    }

    #[test]
    fn compressed_bodies_are_refused() {
        let encoded = [("content-range", "bytes 0-999/*"), ("content-encoding", "gzip")];
        assert!(matches!(head(206, &encoded, 0), Err(Fault::Useless { .. })));
        let plain = [("content-range", "bytes 0-999/*"), ("content-encoding", "Identity")];
        assert_eq!(head(206, &plain, 0), Ok(Body { skip: 0 }));
    }

    #[test]
    fn statuses_are_told_apart_by_what_is_to_be_done() {
        for status in [401, 403, 404, 410, 416, 451] {
            assert!(matches!(head(status, &[], 0), Err(Fault::Gone { file: Some(_), .. })), "{status}");
        }
        for status in [204, 304, 408, 425, 500, 502, 504] {
            assert!(matches!(head(status, &[], 0), Err(Fault::Broken { .. })), "{status}");
        }
        let waits = [
            ("120", Some(120)),
            ("0", Some(0)),
            ("999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
        ];
        for (value, expected) in waits {
            for status in [429, 503] {
                let judged = head(status, &[("retry-after", value)], 0);
                let expected = expected.map(Duration::from_secs);
                assert!(
                    matches!(&judged, Err(Fault::Busy { after, .. }) if *after == expected),
                    "{judged:?}"
                );
            }
        }
        assert!(matches!(head(503, &[], 0), Err(Fault::Busy { after: None, .. })));
    }

    #[test]
    fn dates_are_seconds_and_what_is_none_is_nothing() {
        let dates = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Sat, 01 Mar 2025 12:00:00 GMT", Some(1_740_830_400)),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 99:49:37 GMT", None),
            ("Sun, 06 Nov", None),
        ];
        for (text, expected) in dates {
            assert_eq!(unix_time(text), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_for_a_piece_has_its_length() {
        let of = |length: &str| {
            let mut map = HeaderMap::new();
            map.insert("content-length", length.parse().expect("a value"));
            judge(Asked::Piece { bytes: 100 }, StatusCode::OK, &map, 0)
        };
        assert_eq!(of("100"), Ok(Body { skip: 0 }));
        assert!(matches!(of("99"), Err(Fault::Broken { .. })));
        let none = judge(Asked::Piece { bytes: 100 }, StatusCode::NOT_FOUND, &HeaderMap::new(), 0);
        assert!(matches!(none, Err(Fault::Gone { file: None, .. })));
    }
}
