//! Sizes, rates and times as people type and read them. Pure text in, number out, and back; no I/O.
//!
//! Sizes are binary: `10M`, `10MiB` and `10m` are 10 * 1024 * 1024 bytes, as in `truncate`, `dd` and `fio`; only an
//! explicit `MB` is decimal. What is printed is binary too, with its unit spelt out (`MiB`), so that it can be typed
//! back in. A value that does not fit 64 bits is an error, never a wrap.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes, or of bytes a second where the key says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Typed", into = "String")]
pub(crate) struct ByteSize(pub(crate) u64);

/// A span of time as typed: `60s`, `500ms`, `2m`, `1h`; a bare number counts seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Typed", into = "String")]
pub(crate) struct TimeSpan(pub(crate) Duration);

/// How large something on a disk may be: so many bytes, or a share of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Typed", into = "String")]
pub(crate) enum DiskShare {
    Bytes(u64),
    /// 1 to 100.
    Percent(u8),
}

/// A part of a file as typed: `START-END` (END not included), `START-` to its end, `-BYTES` its last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ByteRange {
    All,
    From(u64),
    Between(u64, u64),
    Last(u64),
}

/// A value of the configuration file, which may say `10` or `"10M"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Typed {
    Number(u64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitError {
    typed: String,
    wanted: &'static str,
}

impl std::error::Error for UnitError {}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.typed, self.wanted)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        parse_size(typed).map(ByteSize).ok_or_else(|| UnitError {
            typed: typed.to_owned(),
            wanted: "a size such as 500K, 10M, 1.5GiB or a plain number of bytes",
        })
    }
}

fn parse_size(typed: &str) -> Option<u64> {
    let (number, unit) = split_unit(typed)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    scale(number, factor)
}

impl FromStr for DiskShare {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        let percent = typed.trim().strip_suffix('%').map(|number| number.trim_end().parse::<u8>());
        let share = match percent {
            Some(percent) => percent.ok().filter(|p| (1..=100).contains(p)).map(Self::Percent),
            None => parse_size(typed).map(Self::Bytes),
        };
        share.ok_or_else(|| UnitError {
            typed: typed.to_owned(),
            wanted: "a size such as 50G, or a share of the disk such as 80%",
        })
    }
}

impl FromStr for ByteRange {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        parse_range(typed).ok_or_else(|| UnitError {
            typed: typed.to_owned(),
            wanted: "a range such as 0-64M, 1G- or -16M",
        })
    }
}

fn parse_range(typed: &str) -> Option<ByteRange> {
    match typed.split_once('-')? {
        ("", last) => Some(ByteRange::Last(parse_size(last)?)),
        (start, "") => Some(ByteRange::From(parse_size(start)?)),
        (start, end) => {
            let (start, end) = (parse_size(start)?, parse_size(end)?);
            (start <= end).then_some(ByteRange::Between(start, end))
        }
    }
}

impl ByteRange {
    /// The part of a file of `bytes` bytes that it means.
    pub(crate) fn within(self, bytes: u64) -> std::ops::Range<u64> {
        let (start, end) = match self {
            Self::All => (0, bytes),
            Self::From(start) => (start, bytes),
            Self::Between(start, end) => (start, end),
            Self::Last(last) => (bytes.saturating_sub(last), bytes),
        };
        start.min(bytes)..end.min(bytes)
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        parse_span(typed).map(TimeSpan).ok_or_else(|| UnitError {
            typed: typed.to_owned(),
            wanted: "a time such as 500ms, 60s, 2m or 1h",
        })
    }
}

fn parse_span(typed: &str) -> Option<Duration> {
    let (number, unit) = split_unit(typed)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    scale(number, milliseconds).map(Duration::from_millis)
}

fn split_unit(typed: &str) -> Option<(&str, &str)> {
    let typed = typed.trim();
    let end = typed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(typed.len());
    let (number, unit) = typed.split_at(end);
    (!number.is_empty()).then_some((number, unit.trim_start()))
}

/// `number * factor` in whole units; a fraction (`1.5`) is taken to its ninth digit.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let parts: u128 = fraction.parse().ok()?;
        total += parts * u128::from(factor) / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    }
    u64::try_from(total).ok()
}

impl TryFrom<Typed> for ByteSize {
    type Error = UnitError;

    fn try_from(typed: Typed) -> Result<Self, UnitError> {
        match typed {
            Typed::Number(bytes) => Ok(Self(bytes)),
            Typed::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<Typed> for DiskShare {
    type Error = UnitError;

    fn try_from(typed: Typed) -> Result<Self, UnitError> {
        match typed {
            Typed::Number(bytes) => Ok(Self::Bytes(bytes)),
            Typed::Text(text) => text.parse(),
        }
    }
}

impl From<DiskShare> for String {
    fn from(share: DiskShare) -> Self {
        match share {
            DiskShare::Bytes(bytes) => ByteSize(bytes).to_string(),
            DiskShare::Percent(percent) => format!("{percent}%"),
        }
    }
}

impl TryFrom<Typed> for TimeSpan {
    type Error = UnitError;

    fn try_from(typed: Typed) -> Result<Self, UnitError> {
        match typed {
            Typed::Number(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Typed::Text(text) => text.parse(),
        }
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> Self {
        span.to_string()
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let text = match UNITS.iter().find(|(_, unit)| self.0 >= *unit) {
            None => format!("{} B", self.0),
            Some((name, unit)) if self.0.is_multiple_of(*unit) => format!("{} {name}", self.0 / unit),
            #[expect(clippy::cast_precision_loss, reason = "two digits are printed")]
            Some((name, unit)) => format!("{:.1} {name}", self.0 as f64 / *unit as f64),
        };
        f.pad(&text)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_whole = self.0.subsec_nanos() == 0 || self.0.as_secs() >= 100;
        let text = if is_whole {
            format!("{} s", self.0.as_secs())
        } else if self.0.as_secs() > 0 {
            format!("{:.1} s", self.0.as_secs_f64())
        } else if self.0.as_millis() > 0 {
            format!("{} ms", self.0.as_millis())
        } else {
            format!("{} µs", self.0.as_micros())
        };
        f.pad(&text)
    }
}

/// `1 peer`, `2 peers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `bytes` moved in `elapsed`, as bytes a second; 0 where no time has passed.
pub(crate) fn rate(bytes: u64, elapsed: Duration) -> ByteSize {
    let nanos = elapsed.as_nanos();
    let per_second = (u128::from(bytes) * 1_000_000_000).checked_div(nanos).unwrap_or(0);
    ByteSize(u64::try_from(per_second).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(typed: &str) -> Option<u64> {
        typed.parse::<ByteSize>().ok().map(|size| size.0)
    }

    #[test]
    fn sizes_are_binary_unless_they_say_otherwise() {
        assert_eq!(size("10M"), Some(10 << 20));
        assert_eq!(size("10 MiB"), Some(10 << 20));
        assert_eq!(size("10MB"), Some(10_000_000));
        assert_eq!(size("1.5g"), Some(3 << 29));
        assert_eq!(size(".5k"), Some(512));
        assert_eq!(size("0"), Some(0));
    }

    #[test]
    fn a_share_of_a_disk_is_a_size_or_a_percentage() {
        let share = |typed: &str| typed.parse::<DiskShare>().ok();
        assert_eq!(share("50G"), Some(DiskShare::Bytes(50 << 30)));
        assert_eq!(share("80%"), Some(DiskShare::Percent(80)));
        assert_eq!(share("80 %"), Some(DiskShare::Percent(80)));
        for typed in ["0%", "101%", "%", "-1%", "1.5%", "x"] {
            assert_eq!(share(typed), None, "{typed}");
        }
    }

    #[test]
    fn a_range_is_cut_to_its_file() {
        let within = |typed: &str, bytes| typed.parse::<ByteRange>().expect("a range").within(bytes);
        assert_eq!(within("0-64K", 100), 0..100);
        assert_eq!(within("1K-2K", 4096), 1024..2048);
        assert_eq!(within("1K-", 4096), 1024..4096);
        assert_eq!(within("-1K", 4096), 3072..4096);
        assert_eq!(within("-1M", 4096), 0..4096);
        assert_eq!(within("1M-", 4096), 4096..4096);
        assert_eq!(ByteRange::All.within(7), 0..7);
        for typed in ["", "-", "5", "2K-1K", "a-b"] {
            assert!(typed.parse::<ByteRange>().is_err(), "{typed}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for typed in ["", "M", "-1", "1..5", "1.2.3", "10X", "99999999999T", "1e6", "."] {
            assert_eq!(size(typed), None, "{typed}");
        }
    }

    #[test]
    fn a_span_of_time_counts_seconds_unless_it_says_otherwise() {
        let span = |typed: &str| typed.parse::<TimeSpan>().ok().map(|span| span.0);
        assert_eq!(span("60"), Some(Duration::from_secs(60)));
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("1.5m"), Some(Duration::from_secs(90)));
        assert_eq!(span("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(span("1d"), None);
    }

    #[test]
    fn a_printed_size_can_be_typed_back_in() {
        for bytes in [0, 1, 1023, 1024, 10 << 20, 3 << 29, 7 << 40] {
            assert_eq!(size(&ByteSize(bytes).to_string()), Some(bytes));
        }
    }

    #[test]
    fn times_are_as_fine_as_they_are_short() {
        let text = |micros| TimeSpan(Duration::from_micros(micros)).to_string();
        assert_eq!([text(0), text(250), text(2_500), text(1_500_000)], ["0 s", "250 µs", "2 ms", "1.5 s"]);
        assert_eq!(text(200_500_000), "200 s");
    }

    #[test]
    fn a_count_agrees_with_its_noun() {
        assert_eq!([count(0, "peer"), count(1, "peer"), count(2, "peer")], ["0 peers", "1 peer", "2 peers"]);
    }

    #[test]
    fn a_rate_without_time_is_zero() {
        assert_eq!(rate(5, Duration::ZERO), ByteSize(0));
        assert_eq!(rate(5 << 20, Duration::from_millis(500)), ByteSize(10 << 20));
    }
}
