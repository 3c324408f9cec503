//! A tunnel through an HTTP proxy (RFC 9110, section 9.3.6), for web sockets without TLS: most proxies do not pass an
//! upgrade on, and RFC 6455 (section 4.1) asks for a tunnel. With TLS the HTTP library makes one by itself.
//!
//! Owns the request and the reading of its answer, of which a few kilobytes are taken at most. Which proxy there is for a
//! host says the environment, by the same rules as for any other request.

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

use super::{HttpError, host_of};

/// The longest answer of a proxy that is read.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// The proxy that the environment names for `url`, if it is one that tunnels without TLS of its own.
pub(super) fn proxy_for(url: &url::Url) -> Option<Intercept> {
    let uri: Uri = url.as_str().parse().ok()?;
    Matcher::from_env().intercept(&uri).filter(|proxy| proxy.uri().scheme_str() == Some("http"))
}

/// Whether a request for `url` goes through a proxy, of whatever kind.
pub(super) fn is_proxied(url: &url::Url) -> bool {
    let uri: Option<Uri> = url.as_str().parse().ok();
    uri.is_some_and(|uri| Matcher::from_env().intercept(&uri).is_some())
}

/// Has `proxy` connect to the host of `url`. The proxy's name is looked up here, the host's by the proxy.
pub(super) async fn open(proxy: &Intercept, url: &url::Url) -> Result<TcpStream, HttpError> {
    let host = host_of(url);
    let proxy_host = proxy.uri().host().unwrap_or_default().trim_matches(['[', ']']);
    let failed = |reason: String| HttpError::Connect { host: host.clone(), reason };
    let through = |error: std::io::Error| failed(format!("the proxy {proxy_host}: {error}"));
    let port = proxy.uri().port_u16().unwrap_or(80);
    let mut stream = TcpStream::connect((proxy_host, port)).await.map_err(through)?;
    let to = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(credentials) = proxy.basic_auth() {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(credentials.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await.map_err(through)?;
    let mut answer = Vec::new();
    // By bytes: what comes after the head is no longer the proxy's, and must stay in the socket.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_HEAD_BYTES {
            return Err(failed(format!("the proxy {proxy_host} sends too much")));
        }
        answer.push(stream.read_u8().await.map_err(through)?);
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).unwrap_or_default();
    if !line.starts_with("HTTP/1.") || !status.starts_with('2') || status.len() != 3 {
        let first: String = line.lines().next().unwrap_or_default().chars().take(80).collect();
        return Err(failed(format!("the proxy {proxy_host} refuses: {first}")));
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that answers with `answer`; gives its address and what it was asked.
    async fn proxy(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            stream.write_all(answer).await.expect("taken");
            String::from_utf8(head).expect("text")
        });
        (addr, asked)
    }

    fn intercept(addr: SocketAddr) -> Intercept {
        let matcher = Matcher::builder().http(format!("http://ada:secret@{addr}")).build();
        matcher
            .intercept(&"http://tracker.test:81/announce".parse().expect("a URI"))
            .expect("there is a proxy")
    }

    fn url() -> url::Url {
        "http://tracker.test:81/announce".parse().expect("a URL")
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_what_comes_through_it_is_left_alone() {
        let (addr, asked) = proxy(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello").await;
        let mut stream = open(&intercept(addr), &url()).await.expect("opened");
        let mut came = String::new();
        stream.read_to_string(&mut came).await.expect("read");
        assert_eq!(came, "hello");
        let asked = asked.await.expect("asked");
        assert!(
            asked.starts_with("CONNECT tracker.test:81 HTTP/1.1\r\nHost: tracker.test:81\r\n"),
            "{asked}"
        );
        assert!(asked.contains("Proxy-Authorization: Basic YWRhOnNlY3JldA=="), "{asked}");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_or_talks_on_is_an_error() {
        for (answer, reason) in [
            (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "refuses: HTTP/1.1 403 Forbidden"),
            (&b"220 mail ready\r\n\r\n"[..], "refuses: 220 mail ready"),
            (&[b'x'; 100_000][..], "sends too much"),
            (&b""[..], "the proxy 127.0.0.1:"),
        ] {
            let (addr, _asked) = proxy(answer).await;
            let error = open(&intercept(addr), &url()).await.expect_err("refused").to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
