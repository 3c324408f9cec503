//! Headers of the Hub that carry more than a word: `Link`, `RateLimit`, `Content-Range`.

use std::ops::Range;
use std::time::Duration;

/// The longest wait that is believed; a server that asks for more is asked again by then.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The target of `rel="next"` in a `Link` header (RFC 8288), as it stands there.
pub fn link_of_next(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (_, from_target) = rest.split_once('<')?;
        let (target, after) = from_target.split_once('>')?;
        let (parameters, others) = split_unquoted(after, ',');
        let mut parameters = Some(parameters);
        while let Some(list) = parameters {
            let (parameter, further) = split_unquoted(list, ';');
            if is_rel_next(parameter) {
                return Some(target);
            }
            parameters = further;
        }
        rest = others?;
    }
}

/// What stands before and after the first `separator` that is not inside quotes.
fn split_unquoted(text: &str, separator: char) -> (&str, Option<&str>) {
    let mut is_quoted = false;
    let at = text.find(|c: char| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    });
    at.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])))
}

fn is_rel_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    name.trim().eq_ignore_ascii_case("rel")
        && value.trim().trim_matches('"').split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
}

/// The `Link` header that leads to `url`, which must be absolute: a client drops a relative one without a word.
pub fn next_link(url: &str) -> String {
    format!("<{url}>; rel=\"next\"")
}

/// How long to wait before asking again, from `RateLimit` (`"resolvers";r=0;t=58`) and `Retry-After` (seconds); at most
/// an hour. `None` when neither says.
pub fn rate_limit_wait(rate_limit: Option<&str>, retry_after: Option<&str>) -> Option<Duration> {
    let by_limit = rate_limit.and_then(|header| {
        let of = |key: &str| {
            let mut parameters = header.split([';', ',']).map(str::trim);
            parameters
                .find_map(|parameter| parameter.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        (of("r")? == 0).then(|| of("t")).flatten()
    });
    let by_retry = || retry_after.and_then(|header| header.trim().parse::<u64>().ok());
    // The window ends within the second it names.
    let seconds = by_limit.map(|t| t.saturating_add(1)).or_else(by_retry)?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// `Content-Range` of an answer with a part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes that follow.
    pub bytes: Range<u64>,
    /// The file's length, when it is told.
    pub total_bytes: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes 0-99/1000`; `None` for anything else, for `bytes */1000` and for a range that is empty or passes the
    /// end of the file.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, rest) = header.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (number(first)?, number(last)?);
        let total_bytes = if total == "*" { None } else { Some(number(total)?) };
        let end = last.checked_add(1)?;
        let fits = first < end && total_bytes.is_none_or(|total| end <= total);
        (unit.eq_ignore_ascii_case("bytes") && fits).then_some(Self { bytes: first..end, total_bytes })
    }
}

/// Digits alone: `u64` takes a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        let url = "https://huggingface.co/api/models/a/b/tree/main?recursive=true&cursor=a,b%3D%3D";
        assert_eq!(link_of_next(&next_link(url)), Some(url));
        let many = format!("<https://x/>; rel=\"prev\"; title=\"a, <b>; rel=next\", <{url}> ;REL = next");
        assert_eq!(link_of_next(&many), Some(url));
        for none in
            ["", "<", "<x>", "<x>; rel=\"prev\"", "x; rel=\"next\"", "<x; rel=\"next\"", "<x>; rel=nexta"]
        {
            assert_eq!(link_of_next(none), None, "{none}");
        }
    }

    #[test]
    fn a_wait_is_what_the_server_asks_for_within_reason() {
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(rate_limit_wait(Some("\"resolvers\";r=0;t=58"), Some("5")), seconds(59));
        assert_eq!(rate_limit_wait(Some("\"api\";r=7;t=58"), Some("5")), seconds(5));
        assert_eq!(rate_limit_wait(None, Some(" 5 ")), seconds(5));
        assert_eq!(rate_limit_wait(Some("\"api\";r=0;t=99999999999999"), None), seconds(3600));
        assert_eq!(rate_limit_wait(Some("r=0"), Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
        assert_eq!(rate_limit_wait(None, None), None);
    }

    #[test]
    fn a_range_is_read_only_if_it_makes_sense() {
        let whole = ContentRange { bytes: 0..100, total_bytes: Some(100) };
        assert_eq!(ContentRange::parse("bytes 0-99/100"), Some(whole));
        let open = ContentRange { bytes: 5..6, total_bytes: None };
        assert_eq!(ContentRange::parse("bytes 5-5/*"), Some(open));
        for text in [
            "",
            "bytes */100",
            "bytes 0-100/100",
            "bytes 9-5/100",
            "items 0-1/2",
            "bytes -1/2",
            "bytes +0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1",
        ] {
            assert_eq!(ContentRange::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_trouble(text in "[<>;=\",relnxt0-9 /*bytes-]{0,40}") {
            let _ = link_of_next(&text);
            let _ = rate_limit_wait(Some(&text), Some(&text));
            let _ = ContentRange::parse(&text);
        }
    }
}
