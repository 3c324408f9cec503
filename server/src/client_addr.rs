//! Whose request this is: the client's address, also behind reverse proxies.
//!
//! Owns the rule of which forwarded address is believed: none, unless the connection comes from a configured proxy;
//! then the right-most address that is no proxy itself, since everything left of it is what the client wrote.
//!
//! Invariant: a client that is no proxy cannot choose the address it is taken for.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Request, StatusCode, header};

/// Most addresses that are looked at in forwarding headers; a chain of proxies has two or three.
const MAX_HOPS: usize = 32;

/// Addresses that begin alike, as `10.0.0.0/8` or `fd00::/8`; one address alone is a network too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address and no network; expected one like 10.0.0.0/8, fd00::/8 or 127.0.0.1")]
pub struct ParseNetworkError {
    text: String,
}

impl Network {
    /// Whether an address lies in it. An IPv4 address mapped into IPv6 is IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                base.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                base.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let wrong = || ParseNetworkError { text: text.to_owned() };
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let whole = if base.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => whole,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= whole).ok_or_else(wrong)?,
        };
        Ok(Self { base, prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

/// The proxies whose forwarding headers are believed. As an extension of requests it is what [`ClientAddr`] goes by;
/// without it, no header is believed. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[Network]>);

impl TrustedProxies {
    /// The proxies in these networks.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// The proxies in these networks, given as texts.
    ///
    /// # Errors
    /// Names the first text that is no network.
    pub fn parse<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseNetworkError> {
        Ok(Self(networks.into_iter().map(str::parse).collect::<Result<_, _>>()?))
    }

    /// Whether an address is a proxy's.
    pub(crate) fn trusts(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(ip))
    }

    /// The client of a request that came over a connection from `peer`.
    ///
    /// `X-Forwarded-For` goes before `Forwarded` (RFC 7239), since a proxy that sets neither passes the client's own on,
    /// and most set the first. An entry that is no address ends the search: what stands left of it is not vouched for.
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let peer = canonical(peer);
        if !self.trusts(peer.ip()) {
            return peer;
        }
        let mut client = peer;
        let mut consider = |hop: Option<SocketAddr>| match hop {
            Some(hop) => {
                client = canonical(hop);
                self.trusts(client.ip())
            }
            None => false,
        };
        let values = |name| headers.get_all(name).iter().rev().filter_map(|value| value.to_str().ok());
        if headers.contains_key(X_FORWARDED_FOR) {
            let mut hops = values(X_FORWARDED_FOR).flat_map(|value| value.rsplit(',')).take(MAX_HOPS);
            while hops.next().is_some_and(|hop| consider(hop_addr(hop))) {}
        } else {
            let hops = values(header::FORWARDED.as_str()).flat_map(|value| value.rsplit(','));
            let mut hops = hops.take(MAX_HOPS);
            while hops.next().is_some_and(|hop| consider(forwarded_for(hop))) {}
        }
        client
    }
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// One address of a list: with or without a port, IPv6 perhaps in brackets. Without a port it is 0.
fn hop_addr(text: &str) -> Option<SocketAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let without_port = bare.parse().ok().map(|ip| SocketAddr::new(ip, 0));
    without_port.or_else(|| text.parse().ok())
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<SocketAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for"));
    hop_addr(named.next()?.1)
}

/// The address of the client of a request, its IP in its own family.
///
/// As an extractor it takes the extension of this type where something has put one, else the connection's address
/// ([`ConnectInfo`]) and the [`TrustedProxies`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub SocketAddr);

impl ClientAddr {
    /// Of the head of a request; `None` if the server does not tell connections' addresses.
    pub fn of(parts: &Parts) -> Option<Self> {
        Self::find(&parts.extensions, &parts.headers)
    }

    /// Of a whole request, as [`Self::of`] does it.
    pub fn of_request<B>(request: &Request<B>) -> Option<Self> {
        Self::find(request.extensions(), request.headers())
    }

    pub(crate) fn find(extensions: &Extensions, headers: &HeaderMap) -> Option<Self> {
        if let Some(known) = extensions.get::<Self>() {
            return Some(*known);
        }
        let ConnectInfo(peer) = *extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(Self(match extensions.get::<TrustedProxies>() {
            Some(proxies) => proxies.client(peer, headers),
            None => TrustedProxies::default().client(peer, headers),
        }))
    }
}

/// A request without any address: the server was started without `into_make_service_with_connect_info`.
const NO_ADDRESS: (StatusCode, &str) =
    (StatusCode::INTERNAL_SERVER_ERROR, "the server does not tell clients' addresses\n");

impl<S: Sync> FromRequestParts<S> for ClientAddr {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::of(parts).ok_or(NO_ADDRESS)
    }
}

/// Never fails: for handlers that only log.
impl<S: Sync> axum::extract::OptionalFromRequestParts<S> for ClientAddr {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::of(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let proxies = TrustedProxies::parse(["10.0.0.0/8", "fd00::/8", "192.0.2.7"]).expect("networks");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header"));
        }
        proxies.client(peer.parse().expect("an address"), &map).ip().to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let forged = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(client("203.0.113.9:1", &forged), "203.0.113.9");
        assert_eq!(client("[::ffff:203.0.113.9]:1", &forged), "203.0.113.9");
        assert_eq!(client("10.1.1.1:1", &[]), "10.1.1.1");
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_is_the_client() {
        let one = |value| client("10.1.1.1:1", &[("x-forwarded-for", value)]);
        assert_eq!(one("6.6.6.6, 1.2.3.4"), "1.2.3.4");
        assert_eq!(one("6.6.6.6, 1.2.3.4 , 10.2.2.2,192.0.2.7"), "1.2.3.4");
        assert_eq!(one("1.2.3.4:5678"), "1.2.3.4");
        assert_eq!(one("[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(one("2001:db8::1"), "2001:db8::1");
        assert_eq!(one("10.9.9.9, 10.2.2.2"), "10.9.9.9");
        assert_eq!(one("1.2.3.4, unknown, 10.2.2.2"), "10.2.2.2");
        assert_eq!(one("nonsense"), "10.1.1.1");
        let twice = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4, 10.2.2.2")];
        assert_eq!(client("10.1.1.1:1", &twice), "1.2.3.4");
    }

    #[test]
    fn the_standard_header_is_read_too() {
        let one = |value| client("[fd00::1]:1", &[("forwarded", value)]);
        assert_eq!(one("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60");
        assert_eq!(one("for=6.6.6.6, For=\"[2001:db8:cafe::17]:4711\""), "2001:db8:cafe::17");
        assert_eq!(one("proto=http"), "fd00::1");
        assert_eq!(one("for=_hidden, for=10.2.2.2"), "10.2.2.2");
    }

    #[test]
    fn networks_are_read_and_matched_by_their_prefix() {
        let network = |text: &str| text.parse::<Network>();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(network("0.0.0.0/0").expect("all").contains(ip("9.9.9.9")));
        assert!(!network("0.0.0.0/0").expect("all").contains(ip("::9")));
        assert!(network("::/0").expect("all").contains(ip("2001::9")));
        let eight = network("10.255.0.0/8").expect("a network");
        assert!(eight.contains(ip("10.0.0.1")) && !eight.contains(ip("11.0.0.1")));
        assert!(eight.contains(ip("::ffff:10.0.0.1")));
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/x", "example.org"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
        let message = network("x").expect_err("no network").to_string();
        assert_eq!(
            message,
            "\"x\" is no address and no network; expected one like 10.0.0.0/8, fd00::/8 or 127.0.0.1"
        );
    }
}
