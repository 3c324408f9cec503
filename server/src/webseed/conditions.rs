//! What the conditional headers of a request ask for: RFC 9110, section 13. Pure.
//!
//! Every file has a strong tag, made of the info hash and its index in the torrent: the bytes under one tag never
//! change.

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use axum::http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

use super::range::{Wanted, wanted};

/// What a file is known by.
#[derive(Debug, Clone)]
pub(crate) struct Validators {
    /// A strong entity tag, with its quotes.
    pub(crate) tag: String,
    /// When it was last written, if that is known.
    pub(crate) modified: Option<SystemTime>,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Bytes.
    Give(Wanted),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Weighs a GET or HEAD request for a file of `len` bytes, in the order of RFC 9110, section 13.2.2.
pub(crate) fn weigh(headers: &HeaderMap, own: &Validators, len: u64) -> Verdict {
    if let Some(tags) = text(headers, &IF_MATCH) {
        if !lists(tags, &own.tag, Comparison::Strong) {
            return Verdict::PreconditionFailed;
        }
    } else if let (Some(since), Some(modified)) = (date(headers, &IF_UNMODIFIED_SINCE), own.modified)
        && whole_seconds(modified) > since
    {
        return Verdict::PreconditionFailed;
    }
    if let Some(tags) = text(headers, &IF_NONE_MATCH) {
        if lists(tags, &own.tag, Comparison::Weak) {
            return Verdict::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(headers, &IF_MODIFIED_SINCE), own.modified)
        && whole_seconds(modified) <= since
    {
        return Verdict::NotModified;
    }
    let Some(range) = text(headers, &RANGE) else { return Verdict::Give(Wanted::Whole) };
    if let Some(condition) = text(headers, &IF_RANGE) {
        let condition = condition.trim();
        let holds = match httpdate::parse_http_date(condition) {
            Ok(since) => own.modified.is_some_and(|modified| whole_seconds(modified) == since),
            // A weak tag is no promise about single bytes.
            Err(_) => condition == own.tag,
        };
        if !holds {
            return Verdict::Give(Wanted::Whole);
        }
    }
    Verdict::Give(wanted(range, len))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of entity tags names `own`. Tags of ours hold no comma.
fn lists(tags: &str, own: &str, comparison: Comparison) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = match comparison {
            Comparison::Strong => tag,
            Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag),
        };
        tag == "*" || tag == own
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?.trim()).ok()
}

/// HTTP's dates have no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(HeaderName, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().expect("a header value"));
        }
        // Sun, 06 Nov 1994 08:49:37 GMT and a half.
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        weigh(&map, &Validators { tag: "\"abc-0\"".into(), modified: Some(modified) }, 10)
    }

    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    #[test]
    fn a_copy_that_is_still_right_is_not_sent_again() {
        use Verdict::NotModified;
        assert_eq!(verdict(&[(IF_NONE_MATCH, "\"x\", \"abc-0\"")]), NotModified);
        assert_eq!(verdict(&[(IF_NONE_MATCH, "W/\"abc-0\"")]), NotModified);
        assert_eq!(verdict(&[(IF_NONE_MATCH, "*")]), NotModified);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, SAME)]), NotModified);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, BEFORE)]), Verdict::Give(Wanted::Whole));
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, "yesterday")]), Verdict::Give(Wanted::Whole));
        // The tag decides where there is one.
        assert_eq!(
            verdict(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, SAME)]),
            Verdict::Give(Wanted::Whole)
        );
        assert_eq!(verdict(&[(IF_NONE_MATCH, "\"abc-0\""), (RANGE, "bytes=0-1")]), NotModified);
    }

    #[test]
    fn preconditions_that_do_not_hold_fail() {
        use Verdict::{Give, PreconditionFailed};
        assert_eq!(verdict(&[(IF_MATCH, "\"abc-0\"")]), Give(Wanted::Whole));
        assert_eq!(verdict(&[(IF_MATCH, "W/\"abc-0\"")]), PreconditionFailed);
        assert_eq!(verdict(&[(IF_MATCH, "\"x\"")]), PreconditionFailed);
        assert_eq!(verdict(&[(IF_UNMODIFIED_SINCE, BEFORE)]), PreconditionFailed);
        assert_eq!(verdict(&[(IF_UNMODIFIED_SINCE, SAME)]), Give(Wanted::Whole));
    }

    #[test]
    fn a_range_is_given_only_of_the_file_that_the_asker_has_the_rest_of() {
        use Verdict::Give;
        let part = Give(Wanted::Part(0..2));
        let range = (RANGE, "bytes=0-1");
        assert_eq!(verdict(std::slice::from_ref(&range)), part);
        assert_eq!(verdict(&[range.clone(), (IF_RANGE, "\"abc-0\"")]), part);
        assert_eq!(verdict(&[range.clone(), (IF_RANGE, SAME)]), part);
        for other in ["W/\"abc-0\"", "\"x\"", BEFORE, "nonsense"] {
            assert_eq!(verdict(&[range.clone(), (IF_RANGE, other)]), Give(Wanted::Whole), "{other}");
        }
    }
}
