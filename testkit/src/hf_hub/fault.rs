//! What can go wrong upstream, and for which requests: by side, by path, and by count.
//!
//! Faults lie in one list. A request takes all that fit it, in order; each fault skips its first requests if told to, and
//! is spent after its count. One that shows only in some answers meets only those: neither a HEAD nor a redirect uses up a
//! fault of a body, nor does an answer that ends before the byte where it would show. So a fault that is to happen once
//! does happen, whichever of several requests comes first.

use std::ops::Range;
use std::time::Duration;

/// One of the two origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the API and `/resolve/` are.
    Hub,
    /// Where the signed URLs of large files lead to.
    Cdn,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// This status, with a short body.
    Status(u16),
    /// 429 with the headers of the hub's limiter: nothing is left for so many seconds.
    RateLimit {
        /// Until the window ends.
        seconds: u64,
    },
    /// The answer waits so long before its first byte.
    Delay(Duration),
    /// The body flows at so many bytes a second.
    Slow {
        /// Bytes a second.
        rate: u64,
    },
    /// The connection is closed in order after so many bytes of the body, less than were announced.
    Truncate {
        /// Bytes of the body.
        after: u64,
    },
    /// After so many bytes of the body nothing comes any more; the connection stays open.
    Stall {
        /// Bytes of the body.
        after: u64,
    },
    /// The connection is reset: before any byte of the answer, or after so many bytes of the body.
    Reset {
        /// Bytes of the body; `None` for before the head.
        after: Option<u64>,
    },
    /// Content-Length is wrong by this much: the body is that of the right length, as far as HTTP lets it through.
    WrongLength(i64),
    /// No Content-Length: the body is chunked.
    NoLength,
    /// One bit of the byte at this offset of the file is flipped, in whichever answer carries it.
    Corrupt {
        /// In the file, in bytes.
        at: u64,
    },
    /// Nothing from this offset of the file on is sent as long as this fault is in the list; the rest follows then.
    Hold {
        /// In the file, in bytes.
        at: u64,
    },
    /// Range is ignored: 200 and all of it.
    NoRange,
    /// Another window than the asked one is served, so many bytes further on, and Content-Range says so.
    BadRange {
        /// In bytes.
        by: u64,
    },
    /// Redirects there, whatever was asked.
    Redirect(String),
    /// Redirects to the asked URL itself, for ever.
    RedirectLoop,
    /// ETag and X-Linked-Etag are left out.
    NoEtag,
    /// Sets this header, or takes it away with an empty value.
    Header(String, String),
    /// Status 200 with this HTML instead of the answer, as a captive portal does.
    Page(String),
}

/// What of an exchange faults show in, in the order in which it comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The request, whatever its answer.
    Request,
    /// A range that is about to be answered as one.
    Range,
    /// These bytes of a file, or of another answer that is no error.
    Body(Range<u64>),
}

impl FaultKind {
    /// Whether it shows there.
    fn shows_in(&self, part: &Part) -> bool {
        match self {
            Self::Slow { .. } | Self::NoLength => matches!(part, Part::Body(span) if !span.is_empty()),
            Self::Truncate { after } | Self::Stall { after } | Self::Reset { after: Some(after) } => {
                matches!(part, Part::Body(span) if span.end - span.start > *after)
            }
            Self::Corrupt { at } => matches!(part, Part::Body(span) if span.contains(at)),
            Self::Hold { at } => matches!(part, Part::Body(span) if span.end > *at),
            Self::NoRange | Self::BadRange { .. } => *part == Part::Range,
            Self::Status(_)
            | Self::RateLimit { .. }
            | Self::Delay(_)
            | Self::Reset { after: None }
            | Self::WrongLength(_)
            | Self::Redirect(_)
            | Self::RedirectLoop
            | Self::NoEtag
            | Self::Header(..)
            | Self::Page(_) => *part == Part::Request,
        }
    }

    /// A word for the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::RateLimit { .. } => "ratelimit",
            Self::Delay(_) => "delay",
            Self::Slow { .. } => "slow",
            Self::Truncate { .. } => "truncate",
            Self::Stall { .. } => "stall",
            Self::Reset { .. } => "reset",
            Self::WrongLength(_) => "wronglen",
            Self::NoLength => "nolength",
            Self::Corrupt { .. } => "corrupt",
            Self::Hold { .. } => "hold",
            Self::NoRange => "norange",
            Self::BadRange { .. } => "badrange",
            Self::Redirect(_) | Self::RedirectLoop => "redirect",
            Self::NoEtag => "noetag",
            Self::Header(..) => "header",
            Self::Page(_) => "page",
        }
    }
}

/// A fault, and which requests it meets: unless told otherwise all of them, for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    kind: FaultKind,
    side: Option<Side>,
    pattern: String,
    method: Option<String>,
    left: Option<u32>,
    skip: u32,
}

impl Fault {
    /// Meets every request.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, side: None, pattern: "*".to_owned(), method: None, left: None, skip: 0 }
    }

    /// As [`Fault::new`], at the CDN only.
    #[must_use]
    pub fn cdn(kind: FaultKind) -> Self {
        Self { side: Some(Side::Cdn), ..Self::new(kind) }
    }

    /// As [`Fault::new`], at the hub only.
    #[must_use]
    pub fn hub(kind: FaultKind) -> Self {
        Self { side: Some(Side::Hub), ..Self::new(kind) }
    }

    /// Only paths that fit: `*` stands for anything, and what is compared is the decoded path and the query. On the
    /// CDN the path of the file in its repository stands at the end of the path (`…/<hash>/org/name/file`), though the
    /// URL does not show it.
    #[must_use]
    pub fn path(mut self, pattern: &str) -> Self {
        pattern.clone_into(&mut self.pattern);
        self
    }

    /// Only this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only so many requests.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.left = Some(count);
        self
    }

    /// Lets so many fitting requests through first.
    #[must_use]
    pub fn skip(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }

    /// What goes wrong.
    pub(super) fn kind(&self) -> &FaultKind {
        &self.kind
    }

    /// Whether it meets this part of an exchange; counts it.
    fn meets(&mut self, side: Side, method: &str, path: &str, part: &Part) -> bool {
        let fits = self.side.is_none_or(|wanted| wanted == side)
            && self.method.as_deref().is_none_or(|wanted| wanted == method)
            && (method == "GET" || *part == Part::Request)
            && self.kind.shows_in(part)
            && self.left != Some(0)
            && fits(&self.pattern, path);
        if !fits {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        true
    }
}

/// What a part of an exchange meets, in order.
pub(super) fn met(faults: &mut [Fault], side: Side, method: &str, path: &str, part: &Part) -> Vec<FaultKind> {
    let met = faults
        .iter_mut()
        .filter_map(|fault| fault.meets(side, method, path, part).then(|| fault.kind.clone()));
    met.collect()
}

/// Whether a text fits a pattern in which `*` stands for anything.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("*b", "ab", true),
            ("a*", "ab", true),
            ("*/tree/*", "/api/models/a/b/tree/main?recursive=true", true),
            ("*/tree/*", "/api/models/a/b/refs", false),
            ("*a*b", "aab", true),
            ("*a*b", "ba", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_fault_skips_then_is_spent() {
        let mut faults = [Fault::cdn(FaultKind::Status(503)).skip(1).times(2)];
        let mut turn = |side| met(&mut faults, side, "GET", "/x", &Part::Request).len();
        assert_eq!(turn(Side::Hub), 0);
        assert_eq!([turn(Side::Cdn), turn(Side::Cdn), turn(Side::Cdn), turn(Side::Cdn)], [0, 1, 1, 0]);
    }

    #[test]
    fn an_answer_that_a_fault_does_not_show_in_does_not_use_it_up() {
        use FaultKind::{BadRange, Corrupt, Hold, NoRange, Reset, Slow, Stall, Status, Truncate};
        let body = |start, end| Part::Body(start..end);
        for (kind, passed_by, shown) in [
            (Truncate { after: 10 }, [Part::Request, body(0, 10)], body(0, 11)),
            (Stall { after: 0 }, [Part::Range, body(3, 3)], body(3, 4)),
            (Reset { after: Some(1) }, [Part::Request, body(7, 8)], body(7, 9)),
            (Corrupt { at: 10 }, [body(11, 20), body(0, 10)], body(10, 11)),
            (Hold { at: 10 }, [Part::Request, body(0, 10)], body(15, 20)),
            (Slow { rate: 1 }, [Part::Request, body(0, 0)], body(0, 1)),
            (NoRange, [Part::Request, body(0, 9)], Part::Range),
            (BadRange { by: 1 }, [Part::Request, body(0, 9)], Part::Range),
            (Status(503), [Part::Range, body(0, 9)], Part::Request),
        ] {
            let mut faults = [Fault::new(kind.clone()).times(1)];
            let mut turn = |method, part: &Part| met(&mut faults, Side::Cdn, method, "/x", part).len();
            for part in &passed_by {
                assert_eq!(turn("GET", part), 0, "{kind:?} {part:?}");
            }
            if shown != Part::Request {
                assert_eq!(turn("HEAD", &shown), 0, "{kind:?}");
            }
            assert_eq!([turn("GET", &shown), turn("GET", &shown)], [1, 0], "{kind:?}");
        }
    }
}
