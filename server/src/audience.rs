//! Who may see what the hub says of itself.
//!
//! Owns one rule: everybody, or clients in some networks. A request that was forwarded by a proxy nobody configured has no
//! client that can be known, so such a request is of no network: a hub behind a proxy on its own machine must not take
//! the whole world for that machine.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Extensions, HeaderMap, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;

use crate::client_addr::{ClientAddr, Network, ParseNetworkError, TrustedProxies};

/// Who may see something. Clones share the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Whoever reaches the hub.
    Everybody,
    /// Clients in these networks; with none, nobody.
    Networks(Arc<[Network]>),
}

impl Audience {
    /// Programs on the hub's own machine.
    pub fn own_machine() -> Self {
        // Both are networks, as a test sees.
        let networks = ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| Network::from_str(text).ok());
        Self::Networks(networks.collect())
    }

    /// Of texts: `all` among them is everybody, the others are networks.
    ///
    /// # Errors
    /// Names the first text that is neither.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseNetworkError> {
        let mut networks = Vec::new();
        let mut is_everybody = false;
        for text in texts {
            match text {
                "all" => is_everybody = true,
                text => networks.push(text.parse()?),
            }
        }
        Ok(if is_everybody { Self::Everybody } else { Self::Networks(networks.into()) })
    }

    /// Whether the client of a request is among them.
    pub(crate) fn admits(&self, headers: &HeaderMap, extensions: &Extensions) -> bool {
        let Self::Networks(networks) = self else { return true };
        let Some(ClientAddr(client)) = ClientAddr::find(extensions, headers) else { return false };
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let is_vouched_for = extensions
            .get::<TrustedProxies>()
            .is_some_and(|proxies| peer.is_some_and(|peer| proxies.trusts(peer)));
        let was_forwarded =
            headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED);
        (is_vouched_for || !was_forwarded) && networks.iter().any(|network| network.contains(client.ip()))
    }
}

/// Lets only requests of an audience through.
pub(crate) async fn admit(State(audience): State<Audience>, request: Request, next: Next) -> Response<Body> {
    if audience.admits(request.headers(), request.extensions()) {
        return next.run(request).await;
    }
    refusal()
}

/// For who is not among an audience.
pub(crate) fn refusal() -> Response<Body> {
    (StatusCode::FORBIDDEN, "this is not for your address to see\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(audience: &Audience, peer: &str, forwarded_for: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(client) = forwarded_for {
            headers.insert("x-forwarded-for", client.parse().expect("a value"));
        }
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo::<SocketAddr>(peer.parse().expect("an address")));
        extensions.insert(TrustedProxies::parse(["10.0.0.1"]).expect("a network"));
        audience.admits(&headers, &extensions)
    }

    #[test]
    fn only_its_networks_are_admitted() {
        let own = Audience::own_machine();
        assert!(admits(&own, "127.0.0.1:1", None) && admits(&own, "[::1]:1", None));
        assert!(admits(&own, "[::ffff:127.0.0.1]:1", None));
        assert!(!admits(&own, "192.0.2.1:1", None));
        assert!(admits(&Audience::Everybody, "192.0.2.1:1", None));
        assert!(!Audience::own_machine().admits(&HeaderMap::new(), &Extensions::new()));
    }

    #[test]
    fn what_an_unknown_proxy_forwards_is_of_no_network() {
        let own = Audience::own_machine();
        assert!(!admits(&own, "127.0.0.1:1", Some("192.0.2.1")));
        assert!(!admits(&own, "127.0.0.1:1", Some("127.0.0.1")));
        let some = Audience::parse(["192.0.2.0/24"]).expect("a network");
        assert!(admits(&some, "10.0.0.1:1", Some("192.0.2.1")));
        assert!(!admits(&some, "10.0.0.1:1", Some("198.51.100.1")));
    }

    #[test]
    fn an_audience_is_written_as_networks_or_all() {
        assert_eq!(Audience::parse(["10.0.0.0/8", "all"]), Ok(Audience::Everybody));
        assert_eq!(Audience::parse([]), Ok(Audience::Networks([].into())));
        assert!(Audience::parse(["everyone"]).is_err());
        let Audience::Networks(own) = Audience::own_machine() else { panic!("not everybody") };
        assert_eq!(own.len(), 2);
    }
}
