//! The one HTTP client of the engine: trackers, `.torrent` URLs and web seeds all go through [`HttpClient`].
//!
//! It owns the choices every request shares: TLS by rustls on ring, time limits, the user agent, proxies; redirects are
//! followed in `hops`, within what `reach` allows. It never reads a body without a limit, and its errors never hold a
//! URL: a tracker's URL often carries a passkey, and errors end up in logs.
//!
//! A machine without any CA certificate still gets a client, since most trackers speak plain HTTP; only its `https`
//! requests fail, and the error says what to install.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Response, StatusCode, redirect};

#[cfg(feature = "webrtc")]
pub(crate) use self::reach::is_public;
use self::reach::{GuardedResolver, OutOfReach, Reach};
pub use self::reach::{NamedHosts, PrivateHosts};

mod hops;
mod reach;
#[cfg(test)]
pub(crate) mod test_origin;
#[cfg(test)]
mod tests;
#[cfg(feature = "webrtc")]
mod tunnel;
#[cfg(feature = "webrtc")]
pub(crate) mod upgrade;

/// The user agent sent by default: `wtfs/<version>`.
pub const USER_AGENT: &str = concat!("wtfs/", env!("CARGO_PKG_VERSION"));

/// Which proxies requests go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyPolicy {
    /// Those of the environment: `http_proxy`, `https_proxy`, `all_proxy`, with the exceptions of `no_proxy`.
    #[default]
    System,
    /// None: every request goes straight to its host.
    Direct,
}

/// Which address family a request is sent over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Whichever connects first.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Which connection a request goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Connections {
    /// One that was kept, if there is one: for hosts that are asked again and again.
    Kept,
    /// One of its own. Some servers hang up after an answer that does not say so (opentracker is one): a request that
    /// went over their connection before that was seen would be lost.
    Fresh,
}

/// Settings of an [`HttpClient`].
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Longest time for DNS, TCP and TLS together, for one connection. Default 10 s; under 1 s far hosts are lost.
    pub connect_timeout: Duration,
    /// Longest time with no byte received. Default 30 s. It bounds a stalled transfer without limiting a long one.
    pub idle_timeout: Duration,
    /// Redirects followed before giving up. Default 10, as browsers allow 20 and curl's users rarely need 3.
    pub max_redirects: usize,
    /// Which proxies are used.
    pub proxies: ProxyPolicy,
    /// Which hosts may be private.
    pub private_hosts: PrivateHosts,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            user_agent: USER_AGENT.to_owned(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            max_redirects: 10,
            proxies: ProxyPolicy::System,
            private_hosts: PrivateHosts::default(),
        }
    }
}

/// Why a request over HTTP failed. The texts are sentences without the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The URL cannot be parsed, or is not `http` or `https`.
    #[error("the URL is not a valid http or https URL: {0}")]
    InvalidUrl(String),
    /// The host's name has no address.
    #[error("the name {host} could not be resolved; check its spelling and this machine's DNS ({reason})")]
    Dns {
        /// The host of the URL.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No connection could be made.
    #[error("could not connect to {host}: {reason}")]
    Connect {
        /// The host of the URL.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// TLS failed: the certificate is not trusted, or the other end does not speak it.
    #[error("no secure connection to {host}: {reason}")]
    Tls {
        /// The host of the URL.
        host: String,
        /// What rustls said, or that this machine has no CA certificates.
        reason: String,
    },
    /// One of the time limits passed.
    #[error("{host} did not answer in time")]
    Timeout {
        /// The host of the URL.
        host: String,
    },
    /// A redirect led back to a URL already visited.
    #[error("{host} redirects in a loop")]
    RedirectLoop {
        /// The host of the URL.
        host: String,
    },
    /// The host is where nobody asked us to go: in a private network, say, by way of a redirect.
    #[error(
        "{host} is not asked: it is {what}, and only hosts that the torrent itself names may be; if it is to be trusted, allow private hosts"
    )]
    OutOfReach {
        /// The host of the URL.
        host: String,
        /// What lies there.
        what: &'static str,
    },
    /// More redirects than allowed.
    #[error("{host} redirects more than {limit} times")]
    TooManyRedirects {
        /// The host of the URL.
        host: String,
        /// [`HttpConfig::max_redirects`].
        limit: usize,
    },
    /// A status other than success.
    #[error("{host} answered with HTTP status {status}")]
    Status {
        /// The host of the URL.
        host: String,
        /// The status code and its reason phrase.
        status: String,
        /// `Retry-After` in seconds, when given as a number.
        retry_after: Option<Duration>,
    },
    /// The body is longer than the caller accepts.
    #[error("the answer of {host} is larger than the {limit} bytes accepted here")]
    TooLarge {
        /// The host of the URL.
        host: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the answer of {host} broke off or is not HTTP: {reason}")]
    Broken {
        /// The host of the URL.
        host: String,
        /// What the HTTP library said.
        reason: String,
    },
    /// The client could not be built.
    #[error("the HTTP client could not be set up: {0}")]
    Setup(String),
}

/// A whole answer, within the limit its caller set.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The status, success or not.
    pub status: StatusCode,
    /// `Content-Type`, when it is text.
    pub content_type: Option<String>,
    /// `Retry-After`, when given in seconds.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

/// The engine's HTTP client. A clone shares connections with its original.
#[derive(Debug, Clone)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: HttpConfig,
    roots: Roots,
    /// Made at first use: few sessions need more than one.
    clients: Mutex<HashMap<(Family, Connections, Reach), Client>>,
}

/// Where the trusted certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Roots {
    /// The machine's store.
    Platform,
    /// The machine has none, for this reason: `https` cannot be verified, so it fails.
    Missing(String),
}

impl HttpClient {
    /// A client. Reads the machine's CA certificates, which takes some milliseconds of blocking file access.
    ///
    /// Makes ring the process's default TLS provider unless there is one already; that one is then used.
    ///
    /// # Errors
    /// [`HttpError::Setup`] when the settings cannot work, such as a user agent that is no header value.
    pub fn new(config: HttpConfig) -> Result<Self, HttpError> {
        match Self::with_roots(config.clone(), Roots::Platform) {
            Ok(client) => Ok(client),
            Err(error) => {
                // Tell a machine without certificates, which is workable, from settings that are wrong.
                let client = Self::with_roots(config, Roots::Missing(error.to_string()))?;
                tracing::warn!(%error, "no CA certificates were found: https will fail, http works; install the ca-certificates package");
                Ok(client)
            }
        }
    }

    fn with_roots(config: HttpConfig, roots: Roots) -> Result<Self, HttpError> {
        let reach = match config.private_hosts {
            PrivateHosts::NamedOnly => Reach::Named,
            PrivateHosts::Any => Reach::Anywhere,
        };
        let first = build(&config, &roots, (Family::Any, Connections::Kept, reach))?;
        let clients = Mutex::new(HashMap::from([((Family::Any, Connections::Kept, reach), first)]));
        Ok(Self { shared: Arc::new(Shared { config, roots, clients }) })
    }

    /// The settings it was made with.
    pub fn config(&self) -> &HttpConfig {
        &self.shared.config
    }

    fn client_of(&self, family: Family, connections: Connections, reach: Reach) -> Result<Client, HttpError> {
        let kind = (family, connections, reach);
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let client = build(&self.shared.config, &self.shared.roots, kind)?;
        clients.insert(kind, client.clone());
        Ok(client)
    }

    /// GETs `url` and reads an answer of at most `max_bytes`, all within `total_timeout`. Any status is an `Ok`. For what is
    /// asked once in a while: each request has a connection of its own.
    ///
    /// The host of `url` counts as named; those it redirects to do not.
    ///
    /// # Errors
    /// All but [`HttpError::Status`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub async fn fetch(
        &self,
        url: &str,
        family: Family,
        max_bytes: usize,
        total_timeout: Duration,
    ) -> Result<Fetched, HttpError> {
        let parsed = url::Url::parse(url).map_err(|error| HttpError::InvalidUrl(error.to_string()))?;
        let host = host_of(&parsed);
        let named = NamedHosts::of([url]);
        let whole = async {
            let headers = HeaderMap::new();
            let response = self.get(parsed, (family, Connections::Fresh), &headers, &named).await?.response;
            let status = response.status();
            let content_type = header_text(response.headers(), &CONTENT_TYPE);
            let retry_after = retry_after(response.headers());
            let body = read_limited(response, max_bytes).await?;
            Ok(Fetched { status, content_type, retry_after, body })
        };
        tokio::time::timeout(total_timeout, whole).await.unwrap_or(Err(HttpError::Timeout { host }))
    }

    /// The error of this module for one of reqwest, for a request to `host`.
    pub fn classify(&self, host: &str, error: &reqwest::Error) -> HttpError {
        let error = classify(host, error);
        match (&self.shared.roots, error) {
            (Roots::Missing(_), HttpError::Tls { host, .. }) => HttpError::Tls {
                host,
                reason: "this machine has no CA certificates to check it against; install the ca-certificates package"
                    .to_owned(),
            },
            (_, error) => error,
        }
    }
}

impl Fetched {
    /// The answer if its status is a success, else [`HttpError::Status`] in the name of `host`.
    ///
    /// # Errors
    /// [`HttpError::Status`].
    pub fn successful(self, host: &str) -> Result<Self, HttpError> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(self.status_error(host))
    }

    /// [`HttpError::Status`] with the status of this answer, in the name of `host`.
    pub fn status_error(&self, host: &str) -> HttpError {
        HttpError::Status {
            host: host.to_owned(),
            status: self.status.to_string(),
            retry_after: self.retry_after,
        }
    }
}

/// Reads the body of `response`, up to `max_bytes`.
///
/// # Errors
/// [`HttpError::TooLarge`] as soon as the limit is known to be passed, without reading on; else what broke.
///
/// # Cancel safety
/// Dropping the future ends the transfer.
pub async fn read_limited(mut response: Response, max_bytes: usize) -> Result<Bytes, HttpError> {
    let host = host_of(response.url());
    let too_large = || HttpError::TooLarge { host: host.clone(), limit: max_bytes };
    if response.content_length().is_some_and(|length| usize::try_from(length).is_ok_and(|n| n > max_bytes)) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(|error| classify(&host, &error))? {
        if body.len() + part.len() > max_bytes {
            return Err(too_large());
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// The host of `url` with its port when it is not the usual one: what errors name, since a path may hold a secret.
pub(crate) fn host_of(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or("the host");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn build(
    config: &HttpConfig,
    roots: &Roots,
    (family, connections, reach): (Family, Connections, Reach),
) -> Result<Client, HttpError> {
    // Fails only when another provider is installed already, and then that one is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = ClientBuilder::new()
        .user_agent(&config.user_agent)
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.idle_timeout)
        // Followed by `hops`.
        .redirect(redirect::Policy::none())
        // A URL with a passkey must not be told to the host it redirects to.
        .referer(false);
    builder = match family {
        Family::Any => builder,
        // Binding the local end leaves only the host's addresses of that family.
        Family::V4 => builder.local_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => builder.local_address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    if connections == Connections::Fresh {
        builder = builder.pool_max_idle_per_host(0);
    }
    if reach != Reach::Anywhere {
        builder = builder.dns_resolver(GuardedResolver(reach));
    }
    if config.proxies == ProxyPolicy::Direct {
        builder = builder.no_proxy();
    }
    if let Roots::Missing(_) = roots {
        // An empty store trusts nobody: every https request fails at the handshake, and is never sent unverified.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpError::Setup(error.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.tls_backend_preconfigured(tls);
    }
    builder.build().map_err(|error| HttpError::Setup(innermost(&error)))
}

fn header_text(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    header_text(headers, &RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

/// The chain of causes of `error`, itself first. An `io::Error` hides the error it wraps from `source`; it is unwrapped.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut chain = Vec::new();
    let mut next: Option<&'a (dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        chain.push(error);
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    chain
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn classify(host: &str, error: &reqwest::Error) -> HttpError {
    let host = host.to_owned();
    let chain = causes(error);
    let reason = innermost(error);
    if let Some(found) = chain.iter().find_map(|cause| cause.downcast_ref::<OutOfReach>()) {
        HttpError::OutOfReach { host, what: found.what }
    } else if let Some(tls) = chain.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        HttpError::Tls { host, reason: tls.to_string() }
    } else if error.is_timeout() {
        HttpError::Timeout { host }
    } else if chain.iter().any(|cause| cause.to_string() == "dns error") {
        HttpError::Dns { host, reason }
    } else if error.is_connect() {
        HttpError::Connect { host, reason }
    } else if error.is_builder() {
        HttpError::InvalidUrl(reason)
    } else {
        HttpError::Broken { host, reason }
    }
}
