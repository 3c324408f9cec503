//! One request and its redirects, followed by hand: bounded, each hop within what [`Hosts`](super::hosts::Hosts) allows.
//!
//! The token goes to the hub's own origin, and only as long as no hop led away from it: coming back, an address was
//! chosen by somebody else. What the hub says of a file (commit, hash, length) stands on the hops of its own, before the
//! last redirect to where the bytes are.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use url::Url;
use wtfs_proto::hf::{Commit, ErrorCode, rate_limit_wait};

use super::error::UpstreamError;
use super::{Token, Upstream};
use crate::http::{HttpClient, host_of};

/// The Hub's own need two.
const HOPS_MAX: usize = 5;

const X_REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const X_LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const X_ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const X_ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Which redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// All that lead to where we may go.
    Allowed,
    /// Those within the hub; another one is the answer.
    SameOrigin,
}

/// A request.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) follow: Follow,
}

/// Who gave the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The hub itself.
    Hub,
    /// A host it sent us to.
    Elsewhere,
}

/// The last answer, its body still to be read, and what the hub said on the way.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) response: Response,
    pub(super) host: String,
    pub(super) side: Side,
    /// `X-Repo-Commit` of a hop at the hub.
    pub(super) commit: Option<Commit>,
    /// `X-Linked-Size` of a hop at the hub.
    pub(super) linked_bytes: Option<u64>,
}

/// What the headers of an answer say about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: StatusCode,
    pub(super) code: Option<ErrorCode>,
    pub(super) retry_after: Option<Duration>,
}

impl Upstream {
    /// Sends a request, and follows where it leads. Any status but that of a redirect that is followed is an `Ok`.
    pub(super) async fn send(
        &self,
        outgoing: Outgoing,
        token: Option<&Token>,
    ) -> Result<Landed, UpstreamError> {
        let limit = self.inner.config.answer_timeout;
        let first = host_of(&outgoing.url);
        let hops = self.follow(outgoing, token);
        tokio::time::timeout(limit, hops).await.unwrap_or_else(|_| {
            self.inner.counters.failed.fetch_add(1, Ordering::Relaxed);
            Err(UpstreamError::Timeout { host: first })
        })
    }

    async fn follow(&self, outgoing: Outgoing, token: Option<&Token>) -> Result<Landed, UpstreamError> {
        let Outgoing { mut method, mut url, mut headers, mut body, follow } = outgoing;
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let (mut visited, mut has_left) = (Vec::new(), false);
        let (mut commit, mut linked_bytes) = (None, None);
        loop {
            let host = host_of(&url);
            if let Some(why) = self.inner.hosts.refuses(&url) {
                return Err(UpstreamError::Refused { host, why });
            }
            has_left |= !self.inner.hosts.is_own(&url);
            let mut hop_headers = headers.clone();
            if let Some(token) = token.filter(|_| !has_left) {
                hop_headers.insert(AUTHORIZATION, token.header());
            }
            let response = self.hop(&method, url.clone(), hop_headers, body.clone()).await?;
            if !has_left {
                commit = header(&response, &X_REPO_COMMIT).and_then(|text| text.parse().ok()).or(commit);
                linked_bytes =
                    header(&response, &X_LINKED_SIZE).and_then(|text| text.parse().ok()).or(linked_bytes);
            }
            let side = if has_left { Side::Elsewhere } else { Side::Hub };
            let landed = |response, host| Ok(Landed { response, host, side, commit, linked_bytes });
            let Some(next) = HttpClient::redirected(&response, &url) else { return landed(response, host) };
            let next =
                next.map_err(|why| UpstreamError::Garbage { host: host.clone(), why: why.to_string() })?;
            if follow == Follow::SameOrigin && !self.inner.hosts.is_own(&next) {
                return landed(response, host);
            }
            if response.status() == StatusCode::SEE_OTHER {
                (method, body) = (Method::GET, None);
            }
            visited.push(url);
            if visited.contains(&next) || visited.len() > HOPS_MAX {
                return Err(UpstreamError::Garbage { host, why: "it redirects without end".to_owned() });
            }
            url = next;
        }
    }

    async fn hop(
        &self,
        method: &Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, UpstreamError> {
        let counters = &self.inner.counters;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let sent = self.inner.http.send_once(method.clone(), url, headers, body, &self.inner.named).await;
        let has_failed = sent.as_ref().map_or(true, |response| response.status().is_server_error());
        if has_failed {
            counters.failed.fetch_add(1, Ordering::Relaxed);
        }
        if sent.as_ref().is_ok_and(|response| response.status() == StatusCode::TOO_MANY_REQUESTS) {
            counters.rate_limited.fetch_add(1, Ordering::Relaxed);
        }
        sent.map_err(UpstreamError::of_http)
    }
}

pub(super) fn header<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

impl Landed {
    /// What the answer's headers say, if it is a refusal or not.
    pub(super) fn verdict(&self) -> Verdict {
        let text = |name| header(&self.response, name);
        Verdict {
            status: self.response.status(),
            code: ErrorCode::of_headers(text(&X_ERROR_CODE), text(&X_ERROR_MESSAGE)),
            retry_after: rate_limit_wait(text(&RATE_LIMIT), text(&reqwest::header::RETRY_AFTER)),
        }
    }

    /// `X-Error-Message`, for people.
    pub(super) fn message(&self) -> Option<String> {
        header(&self.response, &X_ERROR_MESSAGE).map(str::to_owned)
    }
}

impl Verdict {
    /// The error that an answer of the hub stands for; `None` for a success.
    ///
    /// Without a token, the Hub answers 401 for a repository that is not there or not for everybody: to say which would
    /// tell.
    pub(super) fn error(
        &self,
        host: &str,
        had_token: HadToken,
        commit: Option<Commit>,
    ) -> Option<UpstreamError> {
        let host = || host.to_owned();
        let not_found = |code| UpstreamError::NotFound { host: host(), code, commit };
        let retry_after = self.retry_after;
        match (self.status.as_u16(), self.code) {
            (200..=299, _) => None,
            (401 | 403 | 404, Some(ErrorCode::GatedRepo)) => Some(UpstreamError::Gated { host: host() }),
            (401 | 403 | 404, Some(ErrorCode::DisabledRepo)) => {
                Some(UpstreamError::Disabled { host: host() })
            }
            (401 | 403 | 404, Some(code)) => Some(not_found(code)),
            (401, None) if had_token == HadToken::No => Some(not_found(ErrorCode::RepoNotFound)),
            (401, None) => Some(UpstreamError::Unauthorized { host: host() }),
            (403, None) => Some(UpstreamError::Forbidden { host: host() }),
            (429, _) => Some(UpstreamError::RateLimited { host: host(), retry_after }),
            (status @ (408 | 500..=599), _) => {
                Some(UpstreamError::Unavailable { host: host(), status, retry_after })
            }
            (status, _) => {
                let why = format!(
                    "HTTP status {status}, as no hub of Hugging Face answers; look whether its address is right"
                );
                Some(UpstreamError::Garbage { host: host(), why })
            }
        }
    }
}

/// Whether the request carried a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HadToken {
    No,
    Yes,
}

impl From<Option<&Token>> for HadToken {
    fn from(token: Option<&Token>) -> Self {
        if token.is_some() { Self::Yes } else { Self::No }
    }
}
