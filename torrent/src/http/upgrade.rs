//! Requests that turn into web sockets (RFC 6455, section 4): TLS, proxies, time limits and reach are those of any other
//! request.
//!
//! Owns the handshake alone; what is said afterwards is the caller's. Redirects are not followed: browsers do not, and a
//! tracker that moves says so in its torrents. Through a proxy there is a `tunnel`.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config, tungstenite};

use super::reach::{NamedHosts, Reach};
use super::{
    Connections, Family, HttpClient, HttpError, ProxyPolicy, header_text, host_of, is_public, retry_after,
    tunnel,
};

/// What a web socket stands on.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A web socket.
pub(crate) type WebSocket = WebSocketStream<Box<dyn Duplex>>;

/// An open web socket.
pub(crate) struct Opened {
    pub(crate) socket: WebSocket,
    /// Whether its host is in the internet, as far as can be told: a proxy is not asked where it connects to.
    pub(crate) is_public: bool,
}

impl HttpClient {
    /// Opens the web socket at `url`, which is one of `ws`, `wss`, `http` or `https`, within `total_timeout`.
    ///
    /// # Errors
    /// All but [`HttpError::TooLarge`] and those of redirects: these are a [`HttpError::Status`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn web_socket(
        &self,
        url: &str,
        config: WebSocketConfig,
        total_timeout: Duration,
    ) -> Result<Opened, HttpError> {
        let url = plain(url)?;
        let host = host_of(&url);
        let opening = self.open_web_socket(url, config);
        tokio::time::timeout(total_timeout, opening).await.unwrap_or(Err(HttpError::Timeout { host }))
    }

    async fn open_web_socket(&self, url: url::Url, config: WebSocketConfig) -> Result<Opened, HttpError> {
        let host = host_of(&url);
        let reach = Reach::of(&url, &NamedHosts::of([url.as_str()]), self.config().private_hosts);
        if let Some(what) = reach.refuses_host(&url) {
            return Err(HttpError::OutOfReach { host, what });
        }
        let proxy = (url.scheme() == "http" && self.config().proxies == ProxyPolicy::System)
            .then(|| tunnel::proxy_for(&url))
            .flatten();
        if let Some(proxy) = proxy {
            let stream = tunnel::open(&proxy, &url).await?;
            let is_public = is_host_public(&url, None);
            return handshake(Box::new(stream), &url, config)
                .await
                .map(|socket| Opened { socket, is_public });
        }
        let broken = |reason: &str| HttpError::Broken { host: host.clone(), reason: reason.to_owned() };
        let key = generate_key();
        let key_value = HeaderValue::from_str(&key).map_err(|error| HttpError::Setup(error.to_string()))?;
        let headers = HeaderMap::from_iter([
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (UPGRADE, HeaderValue::from_static("websocket")),
            (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            (SEC_WEBSOCKET_KEY, key_value),
        ]);
        let request = self.client_of(Family::Any, Connections::Fresh, reach)?.get(url).headers(headers);
        let response = request.send().await.map_err(|error| self.classify(&host, &error))?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            if status.is_success() {
                return Err(broken("it does not speak WebSocket there"));
            }
            let retry_after = retry_after(response.headers());
            return Err(HttpError::Status { host, status: status.to_string(), retry_after });
        }
        let is_web_socket =
            header_text(response.headers(), &UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
        let accepted = header_text(response.headers(), &SEC_WEBSOCKET_ACCEPT);
        if !is_web_socket || accepted.as_deref() != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(broken("its answer is not that of a web socket"));
        }
        let is_proxied = self.config().proxies == ProxyPolicy::System && tunnel::is_proxied(response.url());
        let is_public = is_host_public(response.url(), response.remote_addr().filter(|_| !is_proxied));
        let stream = response.upgrade().await.map_err(|error| self.classify(&host, &error))?;
        let stream: Box<dyn Duplex> = Box::new(stream);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
        Ok(Opened { socket, is_public })
    }
}

/// The handshake over a connection that leads to the host of `url`.
async fn handshake(
    stream: Box<dyn Duplex>,
    url: &url::Url,
    config: WebSocketConfig,
) -> Result<WebSocket, HttpError> {
    let host = host_of(url);
    let mut request = url.clone();
    // Fails for none of the schemes that come here.
    let _unchanged = request.set_scheme("ws");
    let shaken = client_async_with_config(request.as_str(), stream, Some(config)).await;
    match shaken {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            Err(HttpError::Status { host, status: answer.status().to_string(), retry_after: None })
        }
        Err(error) => Err(HttpError::Broken { host, reason: error.to_string() }),
    }
}

/// Whether the host of `url`, which answered from `addr`, is in the internet. Where only its name is known the name decides:
/// those of a private network have no dot, or end in what is kept for such.
fn is_host_public(url: &url::Url, addr: Option<SocketAddr>) -> bool {
    match (url.host(), addr) {
        (_, Some(addr)) => is_public(addr.ip()),
        (Some(url::Host::Ipv4(ip)), None) => is_public(ip.into()),
        (Some(url::Host::Ipv6(ip)), None) => is_public(ip.into()),
        (Some(url::Host::Domain(name)), None) => {
            let last = name.trim_end_matches('.').rsplit_once('.').map_or("", |(_, last)| last);
            !["", "arpa", "home", "internal", "lan", "local", "localhost"].contains(&last)
        }
        (None, None) => false,
    }
}

/// The URL with the scheme of the request that opens it.
fn plain(url: &str) -> Result<url::Url, HttpError> {
    let invalid = |reason: &str| HttpError::InvalidUrl(reason.to_owned());
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "ws" | "http" => "http",
        "wss" | "https" => "https",
        _ => return Err(invalid("its scheme is not ws or wss")),
    };
    let mut url =
        url::Url::parse(&format!("{scheme}://{rest}")).map_err(|error| invalid(&error.to_string()))?;
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_tracker_is_is_told_by_its_address_or_else_by_its_name() {
        let is_far = |url: &str, addr: Option<&str>| {
            is_host_public(&url.parse().expect("a URL"), addr.map(|addr| addr.parse().expect("an address")))
        };
        assert!(is_far("http://tracker.example.org/announce", Some("8.8.8.8:80")));
        assert!(!is_far("http://tracker.example.org/announce", Some("10.0.0.9:80")));
        // Through a proxy.
        assert!(is_far("https://tracker.example.org/announce", None));
        assert!(is_far("https://8.8.8.8/announce", None));
        for near in ["http://tracker/", "http://tracker.lan./", "http://10.0.0.9/", "http://[::1]/"] {
            assert!(!is_far(near, None), "{near}");
        }
    }
}
