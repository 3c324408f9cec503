//! Everything that is answered instead of what was asked for, as the Hub's clients tell refusals apart: by the status
//! and the `X-Error-*` headers, never by the body.
//!
//! A repository is only ever said not to exist when upstream said so: while it cannot be asked, clients get a 5xx, for
//! which they fall back on what they have.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Response, StatusCode};
use wtfs_proto::hf::{Commit, DISABLED_MESSAGE, ErrorCode};

use super::rights::{Denial, Viewer};

pub(crate) const X_ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
pub(crate) const X_ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
pub(crate) const X_REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

/// When to come back if upstream did not say.
const RETRY: Duration = Duration::from_secs(5);

/// Why something is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The caller has no right.
    Denied(Denial, Asker),
    /// The repository has no such revision.
    Revision(String),
    /// The revision has no such file or directory.
    Entry { commit: Commit, path: String },
    /// The address leads nowhere.
    Nowhere,
    /// Something that only reads are answered for; the methods that are.
    Method(&'static str),
    /// The request makes no sense.
    Request(&'static str),
    /// A body that is longer than anybody needs.
    TooLong,
    /// The range begins behind the end of a file of so many bytes.
    Range { bytes: u64 },
    /// Upstream asks us to wait.
    RateLimited(Option<Duration>),
    /// The client has too much under way.
    Busy,
    /// Too many torrents are being prepared, so many of them of this client's.
    Preparing { of_client: usize },
    /// Upstream cannot be reached, and what is here is not enough.
    Unavailable(Option<Duration>),
    /// The hub was told not to ask upstream, and what is here is not enough.
    Offline,
    /// Upstream did not answer in time.
    Timeout,
    /// What upstream answered cannot be passed on. The text is for people and holds no URL.
    BadGateway(String),
    /// No room on the disk.
    Full,
    /// A fault of this hub's.
    Internal,
}

/// Whether who asked had a token: the Hub tells them different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Anonymous,
    SignedIn,
}

impl From<Viewer> for Asker {
    fn from(viewer: Viewer) -> Self {
        match viewer {
            Viewer::Anonymous => Self::Anonymous,
            Viewer::Token(_) => Self::SignedIn,
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Denied(Denial::Hidden | Denial::Gated, Asker::Anonymous)
            | Self::Denied(Denial::BadToken, _) => StatusCode::UNAUTHORIZED,
            Self::Denied(Denial::Gated, Asker::SignedIn) | Self::Denied(Denial::Disabled, _) => {
                StatusCode::FORBIDDEN
            }
            Self::Denied(Denial::Hidden, Asker::SignedIn)
            | Self::Revision(_)
            | Self::Entry { .. }
            | Self::Nowhere => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::RateLimited(_) | Self::Busy | Self::Preparing { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) | Self::Offline => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BadGateway(_) => StatusCode::BAD_GATEWAY,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> Option<&'static str> {
        let code = match self {
            // The Hub says nothing to who has no token; over plain HTTP its clients then cannot tell what is wrong.
            Self::Denied(Denial::Hidden, _) => ErrorCode::RepoNotFound,
            Self::Denied(Denial::Gated, _) => ErrorCode::GatedRepo,
            Self::Revision(_) => ErrorCode::RevisionNotFound,
            Self::Entry { .. } => ErrorCode::EntryNotFound,
            _ => return None,
        };
        code.header()
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Denied(Denial::Hidden, Asker::Anonymous) => "Invalid username or password.".into(),
            Self::Denied(Denial::Hidden, Asker::SignedIn) => "Repository not found".into(),
            Self::Denied(Denial::Gated, Asker::Anonymous) => {
                "Access to this repository is restricted: sign in with a token that was granted access".into()
            }
            Self::Denied(Denial::Gated, Asker::SignedIn) => {
                "Access to this repository is restricted, and this token was not granted it".into()
            }
            Self::Denied(Denial::Disabled, _) => DISABLED_MESSAGE.into(),
            Self::Denied(Denial::BadToken, _) => "Invalid credentials in Authorization header".into(),
            Self::Revision(typed) => format!("Invalid rev id: {typed}"),
            Self::Entry { path, .. } => format!("{path} does not exist in this revision"),
            Self::Nowhere => {
                "Nothing is served at this address: a file is at OWNER/NAME/resolve/REVISION/PATH".into()
            }
            Self::Method(_) => "This hub only reads".into(),
            Self::Request(why) => (*why).into(),
            Self::TooLong => "The request is too long".into(),
            Self::Range { bytes } => format!("The range lies behind the end of {bytes} bytes"),
            Self::RateLimited(_) => "The upstream hub asks to wait".into(),
            Self::Busy => "Too much that is not here yet is being fetched for you".into(),
            Self::Preparing { of_client: 0 } => {
                "Too many torrents are being prepared: ask again later".into()
            }
            Self::Preparing { of_client } => format!(
                "{of_client} torrents that you asked for are being prepared: ask again when some are ready"
            ),
            Self::Unavailable(_) => "The upstream hub cannot be reached, and this is not in the cache".into(),
            Self::Offline => "This hub is offline, and this is not in its cache".into(),
            Self::Timeout => "The upstream hub did not answer in time".into(),
            Self::BadGateway(why) => why.clone(),
            Self::Full => "The cache's disk is full".into(),
            Self::Internal => "This hub failed".into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(after) | Self::Unavailable(after) => Some(after.unwrap_or(RETRY)),
            Self::Busy | Self::Timeout => Some(RETRY),
            Self::Preparing { .. } => Some(Duration::from_secs(10)),
            // It stays so, and clients wait as long several times before they say it.
            Self::Offline => Some(Duration::from_secs(1)),
            Self::Full => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let message = self.message();
        let body = serde_json::json!({ "error": message }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        insert(headers, X_ERROR_MESSAGE, &message);
        if let Some(code) = self.code() {
            headers.insert(X_ERROR_CODE, HeaderValue::from_static(code));
        }
        if let Some(after) = self.retry_after() {
            // Clients read whole seconds only. A zero would have them spin.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.clamp(1, 3600)));
        }
        match &self {
            // With the commit, clients remember that it has no such file.
            Self::Entry { commit, .. } => insert(headers, X_REPO_COMMIT, &commit.to_string()),
            Self::Method(allowed) => drop(headers.insert(ALLOW, HeaderValue::from_static(allowed))),
            Self::Range { bytes } => {
                insert(headers, axum::http::header::CONTENT_RANGE, &format!("bytes */{bytes}"));
            }
            _ => {}
        }
        response
    }
}

/// Puts a text into a header; what no header may hold becomes a question mark.
pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let plain: String = value.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    match HeaderValue::from_str(&plain) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(error) => tracing::error!(%name, %error, "a header was left out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(refusal: Refusal) -> (u16, Option<String>, Option<String>) {
        let response = refusal.into_response();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().expect("text").to_owned());
        (response.status().as_u16(), header("x-error-code"), header("retry-after"))
    }

    #[test]
    fn each_refusal_is_what_clients_know_it_by() {
        use Asker::{Anonymous, SignedIn};
        use Refusal::*;
        let commit = Commit([7; 20]);
        let cases = [
            (Denied(Denial::Hidden, Anonymous), 401, Some("RepoNotFound")),
            (Denied(Denial::Hidden, SignedIn), 404, Some("RepoNotFound")),
            (Denied(Denial::Gated, Anonymous), 401, Some("GatedRepo")),
            (Denied(Denial::Gated, SignedIn), 403, Some("GatedRepo")),
            (Denied(Denial::Disabled, SignedIn), 403, None),
            (Denied(Denial::BadToken, SignedIn), 401, None),
            (Revision("x".into()), 404, Some("RevisionNotFound")),
            (Entry { commit, path: "x".into() }, 404, Some("EntryNotFound")),
            (Nowhere, 404, None),
            (Method("GET, HEAD"), 405, None),
            (Request("x"), 400, None),
            (TooLong, 413, None),
            (Range { bytes: 3 }, 416, None),
            (RateLimited(None), 429, None),
            (Busy, 429, None),
            (Preparing { of_client: 3 }, 429, None),
            (Unavailable(None), 503, None),
            (Offline, 503, None),
            (Timeout, 504, None),
            (BadGateway("x".into()), 502, None),
            (Full, 507, None),
            (Internal, 500, None),
        ];
        for (refusal, status, code) in cases {
            let name = format!("{refusal:?}");
            let (seen_status, seen_code, retry) = seen(refusal);
            assert_eq!((seen_status, seen_code.as_deref()), (status, code), "{name}");
            assert_eq!(retry.is_some(), matches!(status, 429 | 503 | 504 | 507), "{name}");
        }
        // huggingface_hub waits that long five times before it says what is wrong.
        assert_eq!(seen(Offline).2.as_deref(), Some("1"));
        let disabled = Denied(Denial::Disabled, Anonymous).into_response();
        assert_eq!(disabled.headers()["x-error-message"], "Access to this resource is disabled.");
        let entry = Entry { commit, path: "x".into() }.into_response();
        assert_eq!(entry.headers()["x-repo-commit"], "07".repeat(20));
        assert_eq!(Range { bytes: 3 }.into_response().headers()["content-range"], "bytes */3");
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_a_name_never_breaks_a_header() {
        assert_eq!(seen(Refusal::RateLimited(Some(Duration::from_millis(1500)))).2.as_deref(), Some("2"));
        assert_eq!(seen(Refusal::RateLimited(Some(Duration::ZERO))).2.as_deref(), Some("1"));
        let odd =
            Refusal::Entry { commit: Commit([0; 20]), path: "ü\r\nSet-Cookie: a".into() }.into_response();
        let message = odd.headers()["x-error-message"].to_str().expect("text");
        assert_eq!(message, "???Set-Cookie: a does not exist in this revision");
    }
}
