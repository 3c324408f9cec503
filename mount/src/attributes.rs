//! How what is local is told in extended attributes: the same words for torrents and repositories.

use std::ops::Range;

/// What the names of all attributes begin with.
pub(crate) const PREFIX: &[u8] = b"user.wtfs.";

/// Ranges told of one file: a value of 64 KiB, the kernel's limit, holds them whatever their numbers are.
pub(crate) const RANGES_MAX: usize = 1024;

/// `first-last` of each range as HTTP counts them, with commas between; dots at the end when there are more.
pub(crate) fn ranges_text(ranges: &[Range<u64>]) -> String {
    let shown = ranges.iter().take(RANGES_MAX);
    let mut texts: Vec<String> =
        shown.map(|range| format!("{}-{}", range.start, range.end.saturating_sub(1))).collect();
    if ranges.len() > RANGES_MAX {
        texts.push("...".to_owned());
    }
    texts.join(",")
}

/// With two decimals, rounded down: 100.00 means all of it.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let hundredths =
        if whole == 0 { 10_000 } else { u128::from(part.min(whole)) * 10_000 / u128::from(whole) };
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_told_as_far_as_a_value_holds_them() {
        assert_eq!(ranges_text(&[]), "");
        assert_eq!(ranges_text(&[0..1, 5..10]), "0-0,5-9");
        let last = u64::MAX;
        let many: Vec<Range<u64>> = (0..2000).map(|n| last - n - 1..last - n).collect();
        let text = ranges_text(&many);
        assert!(text.len() <= 65_536 && text.ends_with("-18446744073709550591,..."), "{text:.80}");
    }

    #[test]
    fn progress_says_all_only_when_it_is_all() {
        assert_eq!(percent(0, 0), "100.00");
        assert_eq!(percent(9_999_999, 10_000_000), "99.99");
        assert_eq!(percent(1, 3), "33.33");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.00");
    }
}
