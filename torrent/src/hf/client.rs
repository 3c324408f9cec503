//! The client of a Hugging Face hub: repositories, listings and ranges of files, from huggingface.co, a mirror or one of
//! our own hubs.
//!
//! It follows redirects itself, within the hosts that are allowed ([`hosts`]), sends a [`Token`] to the hub's own origin
//! alone, believes no length or range that does not fit what was asked, and reads no answer without a limit. What is
//! fetched is not verified here: blobs are, by their hash. Nothing secret is in its errors or logs: they name hosts,
//! never the URLs, which are signed.
//!
//! Requests for metadata are tried a few times when the hub is busy or away for a moment. A range is not: who reads it
//! knows best how long to go on.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use url::Url;
use wtfs_proto::hf::{Commit, FilePath, Repo, RepoInfo, RepoTree, Revision, TreePages};

pub use self::answer::ApiAnswer;
pub use self::body::RangeBody;
pub use self::error::{UpstreamError, UpstreamSetupError};
pub use self::origin::UpstreamFile;
pub use self::token::{Token, TokenError};

use self::hosts::Hosts;
use self::request::{Follow, Outgoing};
use crate::http::{HttpClient, NamedHosts};

mod answer;
mod body;
mod error;
mod hosts;
mod origin;
mod request;
#[cfg(test)]
mod tests;
mod token;

/// The hub that is meant when none is named.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Longest range of one request. The origin's servers send files over 50 GB by ranges only, and a link expires.
pub const RANGE_BYTES_MAX: u64 = 1 << 30;

/// Longest answer of the API that is read. A thousand entries of a listing are some 300 KB, the description of a
/// repository with a hundred thousand files some 10 MB.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Bounds of a whole listing.
const PAGES_MAX: usize = 2_000;
const ENTRIES_MAX: usize = 1_000_000;

/// Between tries, before chance adds up to as much again.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// A wait that the hub asks for is kept here up to this long; a longer one is the caller's affair, whose clients wait.
const PATIENCE: Duration = Duration::from_secs(3);

/// A link to a file's bytes that does not work, or leads to what cannot be the file, is asked for again so often.
const FRESH_LINKS: usize = 2;

/// Settings of an [`Upstream`].
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The hub's address without a slash at the end; it may have a path (`http://hub:8080/hf`).
    pub endpoint: String,
    /// Hosts it may send us to besides its own and those of huggingface.co: `host`, `host:port` or `*.domain`. Without a
    /// port the usual one alone.
    pub allowed_hosts: Vec<String>,
    /// Whether the endpoint may lie in a private network. So may hosts of [`Self::allowed_hosts`] that are named whole,
    /// and no others. False suits a public hub, true one that a person named.
    pub may_be_private: bool,
    /// Longest wait for the head of an answer, redirects included. Default 10 s: clients of a hub wait as long for
    /// theirs.
    pub answer_timeout: Duration,
    /// Longest wait for the next bytes of an answer. Default 15 s.
    pub idle_timeout: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            allowed_hosts: Vec::new(),
            may_be_private: false,
            answer_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15),
        }
    }
}

impl UpstreamConfig {
    /// The settings for a hub that a person named.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), may_be_private: true, ..Self::default() }
    }
}

/// What was asked of a hub, and what came. Sums since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpstreamCounters {
    /// Requests, each hop of a redirect counted.
    pub requests: u64,
    /// Of those, answered with 429.
    pub rate_limited: u64,
    /// Of those, without an answer or with a status of 5xx.
    pub failed: u64,
    /// Bytes of files that came.
    pub file_bytes: u64,
}

/// How a request of [`Upstream::pass`] reads or writes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiMethod {
    /// A body comes back.
    Get,
    /// Headers only. A redirect to another host is the answer, and is not followed.
    Head,
    /// A question too long for an address, which changes nothing.
    Post,
}

/// A request to the API that is passed on.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// How.
    pub method: ApiMethod,
    /// The path below the endpoint, encoded, with its slash.
    pub path: String,
    /// The query, encoded, without its question mark.
    pub query: Option<String>,
    /// `Content-Type` and body of a POST.
    pub body: Option<(&'static str, Bytes)>,
}

impl ApiRequest {
    /// A GET without a query.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: ApiMethod::Get, path: path.into(), query: None, body: None }
    }

    /// A HEAD without a query.
    pub fn head(path: impl Into<String>) -> Self {
        Self { method: ApiMethod::Head, ..Self::get(path) }
    }
}

/// A hub. Clones are the same.
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: HttpClient,
    config: UpstreamConfig,
    endpoint: Url,
    hosts: Hosts,
    named: NamedHosts,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    rate_limited: AtomicU64,
    failed: AtomicU64,
    file_bytes: AtomicU64,
}

impl Upstream {
    /// A client of the configured hub. Asks nothing yet.
    ///
    /// # Errors
    /// [`UpstreamSetupError`] for an endpoint or a host that is none.
    pub fn new(http: HttpClient, mut config: UpstreamConfig) -> Result<Self, UpstreamSetupError> {
        config.endpoint.truncate(config.endpoint.trim_end_matches('/').len());
        let endpoint = Url::parse(&config.endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .filter(|url| url.query().is_none() && url.fragment().is_none())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .ok_or(UpstreamSetupError::Endpoint)?;
        let hosts = Hosts::new(&endpoint, &config.allowed_hosts)?;
        let of_endpoint = config.may_be_private.then(|| config.endpoint.clone());
        let named: Vec<String> = hosts.whole_names().chain(of_endpoint).collect();
        let named = NamedHosts::of(named.iter().map(String::as_str));
        let counters = Counters::default();
        Ok(Self { inner: Arc::new(Inner { http, config, endpoint, hosts, named, counters }) })
    }

    /// The hub's address, without a slash at the end.
    pub fn endpoint(&self) -> &str {
        &self.inner.config.endpoint
    }

    /// The hub's host, for people and logs.
    pub fn host(&self) -> String {
        crate::http::host_of(&self.inner.endpoint)
    }

    /// Sums since the start.
    pub fn counters(&self) -> UpstreamCounters {
        let counters = &self.inner.counters;
        UpstreamCounters {
            requests: counters.requests.load(Ordering::Relaxed),
            rate_limited: counters.rate_limited.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            file_bytes: counters.file_bytes.load(Ordering::Relaxed),
        }
    }

    /// What the hub tells of a repository at a revision. A renamed one is found by its old name too: see
    /// [`RepoInfo::id`].
    ///
    /// # Errors
    /// [`UpstreamError`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub async fn info(
        &self,
        repo: &Repo,
        revision: &Revision,
        token: Option<&Token>,
    ) -> Result<RepoInfo, UpstreamError> {
        let url = self.url(&repo.api_path_at("revision", revision), None);
        let answer = self.ask_patiently(&url, token).await?;
        RepoInfo::parse(&answer.body)
            .map_err(|error| self.garbage(format!("it should describe a repository, but {error}")))
    }

    /// All files of a repository at a commit: as many requests as the listing has pages, of a thousand files each.
    ///
    /// # Errors
    /// [`UpstreamError`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub async fn tree(
        &self,
        repo: &Repo,
        commit: Commit,
        token: Option<&Token>,
    ) -> Result<RepoTree, UpstreamError> {
        let path = repo.api_path_at("tree", &commit.into());
        let mut url = self.url(&path, Some("recursive=true&limit=1000"));
        let mut visited = Vec::new();
        let mut pages = TreePages::default();
        loop {
            let answer = self.ask_patiently(&url, token).await?;
            pages
                .push(&answer.body)
                .map_err(|error| self.garbage(format!("it should list files, but {error}")))?;
            let Some(next) = answer.next_page else { return Ok(pages.finish(commit)) };
            visited.push(url);
            url = visited[visited.len() - 1]
                .join(&next)
                .map_err(|_| self.garbage("the address of the next page is none"))?;
            if visited.contains(&url) {
                return Err(self.garbage("its listing has no end"));
            }
            if visited.len() >= PAGES_MAX || pages.len() > ENTRIES_MAX {
                return Err(UpstreamError::TooLarge { host: self.host() });
            }
        }
    }

    /// Passes a request on, once, and gives the whole answer whatever its status.
    ///
    /// # Errors
    /// [`UpstreamError`] when there is no answer that can be used.
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub async fn pass(&self, request: ApiRequest, token: Option<&Token>) -> Result<ApiAnswer, UpstreamError> {
        let mut headers = HeaderMap::new();
        let (method, follow) = match request.method {
            ApiMethod::Get => (Method::GET, Follow::Allowed),
            ApiMethod::Head => (Method::HEAD, Follow::SameOrigin),
            ApiMethod::Post => (Method::POST, Follow::SameOrigin),
        };
        let body = request.body.map(|(content_type, body)| {
            headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            body
        });
        let url = self.url(&request.path, request.query.as_deref());
        let landed = self.send(Outgoing { method, url, headers, body, follow }, token).await?;
        ApiAnswer::read(landed, ANSWER_BYTES_MAX, self.inner.config.idle_timeout).await
    }

    /// Begins to fetch a range of a file: as much of it as one request may have, at least one byte.
    ///
    /// `total_bytes` is the file's length by the listing; an answer that says otherwise is refused. The range must not
    /// be empty nor pass the end.
    ///
    /// # Errors
    /// [`UpstreamError`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub async fn open(
        &self,
        repo: &Repo,
        commit: Commit,
        file: &FilePath,
        range: Range<u64>,
        total_bytes: u64,
        token: Option<&Token>,
    ) -> Result<RangeBody, UpstreamError> {
        debug_assert!(range.start < range.end && range.end <= total_bytes, "{range:?} of {total_bytes}");
        let range = range.start..range.end.min(range.start.saturating_add(RANGE_BYTES_MAX));
        let url = self.url(&repo.resolve_path(&commit.into(), file), None);
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let header = HeaderValue::from_str(&header).expect("digits are a header");
        let mut fresh_links = FRESH_LINKS;
        loop {
            let outgoing = Outgoing {
                method: Method::GET,
                url: url.clone(),
                headers: HeaderMap::from_iter([(RANGE, header.clone())]),
                body: None,
                follow: Follow::Allowed,
            };
            let landed = self.send(outgoing, token).await?;
            match RangeBody::begin(self, landed, commit, range.clone(), total_bytes, token.into()) {
                Err(UpstreamError::Garbage { .. } | UpstreamError::Expired { .. }) if fresh_links > 0 => {
                    fresh_links -= 1;
                    tokio::time::sleep(jittered(PAUSES[0])).await;
                }
                result => return result,
            }
        }
    }

    /// A file as something that blobs are fetched from.
    pub fn file(
        &self,
        repo: Repo,
        commit: Commit,
        path: FilePath,
        bytes: u64,
        token: Option<Token>,
    ) -> UpstreamFile {
        UpstreamFile::new(self.clone(), repo, commit, path, bytes, token)
    }

    /// GETs an answer of the API, again when it was the hub's bad moment. Anything but a success is an error.
    async fn ask_patiently(&self, url: &Url, token: Option<&Token>) -> Result<ApiAnswer, UpstreamError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let outgoing = Outgoing {
                method: Method::GET,
                url: url.clone(),
                headers: HeaderMap::new(),
                body: None,
                follow: Follow::Allowed,
            };
            let result = match self.send(outgoing, token).await {
                Ok(landed) => {
                    let idle = self.inner.config.idle_timeout;
                    let answer = ApiAnswer::read(landed, ANSWER_BYTES_MAX, idle).await;
                    answer.and_then(|answer| answer.successful(token))
                }
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let asked = error.retry_after().unwrap_or_default();
            let pause = pauses.next().filter(|_| error.is_transient() && asked <= PATIENCE);
            let Some(pause) = pause else { return Err(error) };
            tracing::debug!(%error, "asking the hub again");
            tokio::time::sleep(jittered(pause).max(asked)).await;
        }
    }

    /// An address below the endpoint. `path` is encoded and begins with a slash.
    fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.inner.endpoint.clone();
        let prefix = self.inner.endpoint.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        url.set_query(query);
        url
    }

    fn garbage(&self, why: impl Into<String>) -> UpstreamError {
        UpstreamError::Garbage { host: self.host(), why: why.into() }
    }
}

/// Spread, so that those who were refused together do not come again together.
fn jittered(pause: Duration) -> Duration {
    pause + pause.mul_f64(fastrand::f64())
}
