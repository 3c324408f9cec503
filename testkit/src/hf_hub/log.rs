//! What was asked of the two origins, request by request, with what a test wants to know of them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU16, AtomicU64, Ordering},
};

use super::{
    fault::{FaultKind, Side, fits},
    lock,
};

/// One request as it came, and how it was answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// At which origin.
    pub side: Side,
    /// `GET` and so on.
    pub method: String,
    /// Path and query as they stood in the request.
    pub target: String,
    /// The decoded path and query; on the CDN the repository and the file as well: see [`super::Fault::path`].
    pub what: String,
    /// The first half of the sha256 of the Authorization header in hex, if there was one.
    pub authorization: Option<String>,
    /// The header as it came.
    pub range: Option<String>,
    /// The header as it came.
    pub accept_encoding: Option<String>,
    /// The header as it came.
    pub user_agent: Option<String>,
    /// The header as it came.
    pub cookie: Option<String>,
    pub(super) faults: Arc<Mutex<Vec<&'static str>>>,
    pub(super) status: Arc<AtomicU16>,
    pub(super) sent: Arc<AtomicU64>,
}

impl Request {
    /// The status it was answered with; 0 while it is not answered.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Bytes of body handed to the connection so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Names of the faults it met so far: those of its body once the head of its answer is made.
    #[must_use]
    pub fn faults(&self) -> Vec<&'static str> {
        lock(&self.faults).clone()
    }

    pub(super) fn meets(&self, faults: &[FaultKind]) {
        lock(&self.faults).extend(faults.iter().map(FaultKind::name));
    }

    /// Whether [`Request::what`] fits a pattern in which `*` stands for anything.
    #[must_use]
    pub fn fits(&self, pattern: &str) -> bool {
        fits(pattern, &self.what)
    }
}

/// All requests since the start, or since the log was cleared.
#[derive(Clone, Debug, Default)]
pub struct Log(pub Vec<Request>);

impl Log {
    /// Those to one origin.
    #[must_use]
    pub fn at(&self, side: Side) -> Self {
        Self(self.0.iter().filter(|request| request.side == side).cloned().collect())
    }

    /// Those that fit a pattern: see [`Request::fits`].
    #[must_use]
    pub fn of(&self, pattern: &str) -> Self {
        Self(self.0.iter().filter(|request| request.fits(pattern)).cloned().collect())
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes of their bodies.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.0.iter().map(Request::sent_bytes).sum()
    }

    /// # Panics
    /// When a request to the CDN carried Authorization or a cookie.
    #[track_caller]
    pub fn assert_no_token_at_cdn(&self) {
        let leaked =
            self.0.iter().find(|r| r.side == Side::Cdn && (r.authorization.is_some() || r.cookie.is_some()));
        assert!(leaked.is_none(), "the CDN was shown a token: {leaked:?}");
    }

    /// # Panics
    /// When a request for the bytes of a file would have taken them compressed.
    #[track_caller]
    pub fn assert_identity(&self) {
        let files = self.0.iter().filter(|r| r.side == Side::Cdn || r.target.contains("/resolve"));
        for request in files {
            let encoding = request.accept_encoding.as_deref();
            assert_eq!(encoding, Some("identity"), "{} {}", request.method, request.target);
        }
    }

    /// # Panics
    /// When anything was asked at all.
    #[track_caller]
    pub fn assert_silent(&self, when: &str) {
        let asked: Vec<_> =
            self.0.iter().map(|r| format!("{:?} {} {}", r.side, r.method, r.target)).collect();
        assert!(asked.is_empty(), "{when}, upstream was asked:\n{}", asked.join("\n"));
    }
}
