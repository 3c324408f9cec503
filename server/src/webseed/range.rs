//! Which bytes a request asks for: the `Range` header of RFC 9110, section 14. Pure.
//!
//! A header that does not parse, that speaks of another unit, or that asks for several ranges at once is passed over,
//! as the RFC allows: the answer is then the whole file. Of several ranges of which only one can be satisfied, that one
//! is given.

use std::ops::Range;

/// More ranges in one header are nobody's honest wish.
const RANGES_MAX: usize = 64;

/// What to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// 200 and all of it.
    Whole,
    /// 206 and these bytes, at least one.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `len` bytes.
pub(crate) fn wanted(header: &str, len: u64) -> Wanted {
    let Some(specs) = specs(header) else { return Wanted::Whole };
    if specs.contains(&Spec::Suffix(0)) || specs.len() > 1 || len > 0 {
        let mut found = specs.iter().filter_map(|spec| spec.within(len));
        return match (found.next(), found.next()) {
            (None, _) => Wanted::Unsatisfiable,
            (Some(range), None) => Wanted::Part(range),
            (Some(_), Some(_)) => Wanted::Whole,
        };
    }
    match specs.first() {
        // The last bytes of nothing are nothing, which no 206 can say.
        Some(Spec::Suffix(_)) => Wanted::Whole,
        _ => Wanted::Unsatisfiable,
    }
}

/// Whether a `Range` header asks for whatever is left from somewhere on.
pub(crate) fn is_open_ended(header: &str) -> bool {
    specs(header).is_some_and(|specs| specs.iter().any(|spec| matches!(spec, Spec::From(_))))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    From(u64),
    /// Both ends included.
    Between(u64, u64),
    Suffix(u64),
}

impl Spec {
    fn within(self, len: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first) => first..len,
            Self::Between(first, last) => first..last.saturating_add(1).min(len),
            Self::Suffix(bytes) => len.saturating_sub(bytes)..len,
        };
        (range.start < range.end).then_some(range)
    }
}

fn specs(header: &str) -> Option<Vec<Spec>> {
    let (unit, list) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for text in list.split(',').map(|text| text.trim_matches([' ', '\t'])) {
        // A list may have empty elements (RFC 9110, section 5.6.1).
        if text.is_empty() {
            continue;
        }
        specs.push(spec(text)?);
        if specs.len() > RANGES_MAX {
            return None;
        }
    }
    (!specs.is_empty()).then_some(specs)
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first, last) {
        ("", bytes) => number(bytes).map(Spec::Suffix),
        (first, "") => number(first).map(Spec::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::Between(first, last))
        }
    }
}

/// Digits alone. What passes 64 bits lies behind the end of every file.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_no_end_is_told_from_what_names_one() {
        assert!(["bytes=0-", "bytes=5-", "Bytes= 7- "].iter().all(|header| is_open_ended(header)));
        for header in ["bytes=0-0", "bytes=5-99999999999999999999", "bytes=-5", "bytes=-", "lines=5-", ""] {
            assert!(!is_open_ended(header), "{header}");
        }
    }

    #[test]
    fn each_form_gives_its_bytes() {
        use Wanted::{Part, Unsatisfiable, Whole};
        let cases = [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-9", 10, Part(0..10)),
            ("bytes=3-", 10, Part(3..10)),
            ("bytes=9-", 10, Part(9..10)),
            ("bytes=-4", 10, Part(6..10)),
            ("bytes=-400", 10, Part(0..10)),
            ("bytes=5-100", 10, Part(5..10)),
            ("BYTES = 5-6", 10, Part(5..7)),
            ("bytes=0-99999999999999999999999", 10, Part(0..10)),
            ("bytes=4294967296-4294967297", 5_000_000_000, Part(4_294_967_296..4_294_967_298)),
            ("bytes=-1", 5_000_000_000, Part(4_999_999_999..5_000_000_000)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-20", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-0", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
            ("bytes=20-30, 40-", 10, Unsatisfiable),
            ("bytes=20-30, 1-2", 10, Part(1..3)),
            ("bytes= , 1-2 ,", 10, Part(1..3)),
            ("bytes=0-1,4-5", 10, Whole),
            ("bytes=5-4", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1--2", 10, Whole),
            ("bytes", 10, Whole),
            ("items=0-1", 10, Whole),
            ("", 10, Whole),
        ];
        for (header, len, expected) in cases {
            assert_eq!(wanted(header, len), expected, "{header} of {len}");
        }
    }

    #[test]
    fn a_header_of_a_thousand_ranges_is_passed_over() {
        let header = format!("bytes={}", vec!["1-2"; 1000].join(","));
        assert_eq!(wanted(&header, 10), Wanted::Whole);
    }

    /// Byte by byte, for one range.
    fn naive(first: Option<u64>, last: Option<u64>, len: u64) -> Vec<u64> {
        (0..len)
            .filter(|&at| match (first, last) {
                (Some(first), Some(last)) => at >= first && at <= last,
                (Some(first), None) => at >= first,
                (None, Some(suffix)) => at >= len.saturating_sub(suffix),
                (None, None) => false,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn one_range_is_the_bytes_that_lie_in_it(
            len in 1_u64..300,
            first in prop::option::of(0_u64..400),
            last in prop::option::of(0_u64..400),
        ) {
            let text = |bound: Option<u64>| bound.map(|b| b.to_string()).unwrap_or_default();
            let header = format!("bytes={}-{}", text(first), text(last));
            let is_backward = matches!((first, last), (Some(first), Some(last)) if first > last);
            let expected = naive(first, last, len);
            match wanted(&header, len) {
                Wanted::Whole => prop_assert!((first, last) == (None, None) || is_backward),
                Wanted::Part(range) => prop_assert_eq!(range.collect::<Vec<_>>(), expected),
                Wanted::Unsatisfiable => prop_assert!(expected.is_empty() && !is_backward),
            }
        }

        #[test]
        fn no_header_panics_or_leaves_the_file(header in "(bytes)?=?[0-9, -]{0,40}|\\PC{0,40}", len in any::<u64>()) {
            if let Wanted::Part(range) = wanted(&header, len) {
                prop_assert!(range.start < range.end && range.end <= len);
            }
        }
    }
}
