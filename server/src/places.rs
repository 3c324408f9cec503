//! Where this hub is to be found: the addresses that go into torrents and magnet links.
//!
//! From the configured public URL, or from what the request calls us. The `Host` header is the client's word, so it is
//! taken only if it is nothing but a host and a port, and what is made with it must not be kept by caches.

use std::fmt;
use std::str::FromStr;

use axum::extract::NestedPath;
use axum::http::header::HOST;
use axum::http::request::Parts;
use wtfs_proto::id::InfoHash;

use crate::names::percent_encode;

/// The longest host with a port: a name has 253 bytes at most.
const AUTHORITY_BYTES_MAX: usize = 260;

/// In a request's extensions: it came over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverTls;

/// `http://host:port/prefix` or `https://..`, without a slash at the end: the hub's own root as others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    is_tls: bool,
    /// Host and port.
    authority: String,
    /// Empty, or begins with a slash.
    prefix: String,
}

/// Not a URL that a hub can stand at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{typed}` is not http://HOST[:PORT][/PREFIX] or https://..")]
pub struct PublicUrlError {
    typed: String,
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    fn from_str(typed: &str) -> Result<Self, PublicUrlError> {
        let wrong = || PublicUrlError { typed: typed.to_owned() };
        let (scheme, rest) = typed.split_once("://").ok_or_else(wrong)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = match path.trim_end_matches('/') {
            "" => String::new(),
            path => format!("/{path}"),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%".contains(c);
        if !is_authority(authority) || !prefix.chars().all(is_plain) {
            return Err(wrong());
        }
        Ok(Self { is_tls, authority: authority.to_ascii_lowercase(), prefix })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

impl PublicUrl {
    /// What the request calls this hub; `None` without a usable `Host`.
    pub(crate) fn of_request(parts: &Parts) -> Option<Self> {
        let authority = parts.headers.get(HOST)?.to_str().ok().filter(|host| is_authority(host))?;
        let prefix = parts.extensions.get::<NestedPath>().map_or("", NestedPath::as_str);
        let is_tls = parts.extensions.get::<OverTls>().is_some();
        Some(Self {
            is_tls,
            authority: authority.to_ascii_lowercase(),
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        };
        host.trim_matches(['[', ']'])
    }

    /// Where the hub's trackers are, as one tier: they share their swarms. UDP only where a port is told.
    pub(crate) fn trackers(&self, udp_port: Option<u16>) -> Vec<String> {
        let mut urls = vec![format!("{self}/announce")];
        if let Some(port) = udp_port {
            let host = self.host();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            urls.push(format!("udp://{host}:{port}/announce"));
        }
        let scheme = if self.is_tls { "wss" } else { "ws" };
        urls.push(format!("{scheme}://{}{}/announce", self.authority, self.prefix));
        urls
    }

    /// The web seed of a torrent (BEP 19): clients append its name and paths.
    pub(crate) fn web_seed(&self, info_hash: InfoHash) -> String {
        format!("{self}/seed/{info_hash}/")
    }

    /// The web seed by pieces (BEP 17).
    pub(crate) fn http_seed(&self) -> String {
        format!("{self}/seed")
    }

    /// The `.torrent` of a torrent.
    pub(crate) fn torrent(&self, name: &str) -> String {
        format!("{self}/torrent/{}.torrent", percent_encode(name))
    }
}

/// A host name or address with or without a port, and nothing else.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.parse::<u16>().is_ok();
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    text.len() <= AUTHORITY_BYTES_MAX && is_host && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_leads_to_trackers_and_seeds() {
        let url: PublicUrl = "HTTPS://Hub.example:8443/a/b/".parse().expect("a URL");
        assert_eq!(url.to_string(), "https://hub.example:8443/a/b");
        assert_eq!(
            url.trackers(Some(99)),
            [
                "https://hub.example:8443/a/b/announce",
                "udp://hub.example:99/announce",
                "wss://hub.example:8443/a/b/announce"
            ]
        );
        let hash = InfoHash::new([1; 20]);
        assert_eq!(url.web_seed(hash), format!("https://hub.example:8443/a/b/seed/{hash}/"));
        assert_eq!(url.torrent("a b"), "https://hub.example:8443/a/b/torrent/a%20b.torrent");
        let v6: PublicUrl = "http://[2001:db8::1]".parse().expect("a URL");
        assert_eq!(v6.trackers(Some(99))[1], "udp://[2001:db8::1]:99/announce");
        assert_eq!(v6.host(), "2001:db8::1");
    }

    #[test]
    fn what_is_no_host_is_not_taken() {
        for host in ["a", "a.example", "1.2.3.4:80", "[::1]:80", "[::1]", "x_y-z.local:65535"] {
            assert!(is_authority(host), "{host}");
        }
        let long = "a".repeat(300);
        for host in [
            "",
            ":80",
            "a:",
            "a:x",
            "a:99999",
            "a:123456",
            "a b",
            "a/b",
            "a\"b",
            "u@a",
            "[::1",
            "::1",
            "[x]",
            "a,b",
            "<a>",
            long.as_str(),
        ] {
            assert!(!is_authority(host), "{host}");
            assert!(format!("http://{host}").parse::<PublicUrl>().is_err() || host.contains('/'), "{host}");
        }
        for url in ["", "a", "ftp://a", "http://", "http://a/b?c", "http://a/b c", "http://a/#x"] {
            assert!(url.parse::<PublicUrl>().is_err(), "{url}");
        }
    }
}
