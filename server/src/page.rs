//! How the parts of the hub's own pages are sent: with a tag, so that what is known is not sent again, and with the
//! headers that keep anything else from running in them.
//!
//! Invariant: no part of a page goes out without a policy.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::body::{Body, Bytes};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Response, StatusCode};

/// A part of a page.
#[derive(Debug)]
pub(crate) struct Part {
    /// Its media type.
    pub(crate) kind: &'static str,
    /// What caches may do with it: `Cache-Control`.
    pub(crate) keep: &'static str,
    /// What the page may load and do: `Content-Security-Policy`.
    pub(crate) policy: &'static str,
    pub(crate) bytes: Bytes,
}

impl Part {
    /// The answer to a request with these headers.
    pub(crate) fn respond(self, asked: &HeaderMap) -> Response<Body> {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let is_known = asked.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let mut response = Response::new(if is_known { Body::empty() } else { Body::from(self.bytes) });
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        for (name, value) in [
            (CONTENT_TYPE, self.kind),
            (CACHE_CONTROL, self.keep),
            (CONTENT_SECURITY_POLICY, self.policy),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
