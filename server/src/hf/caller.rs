//! Who asks: the token of a request, or the hub's own token for those who may use it.
//!
//! A token is never logged, shown or written down: what is remembered is its fingerprint. A page in a browser never
//! reads with the hub's own token: it would do so for whoever made it.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::request::Parts;
use wtfs_torrent::hf::Token;

use super::refusal::Asker;
use super::rights::Viewer;
use crate::audience::Audience;
use crate::client_addr::ClientAddr;
use crate::places::PublicUrl;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) viewer: Viewer,
    pub(crate) client: IpAddr,
    token: Option<Token>,
}

/// The hub's own token, and who may use it.
#[derive(Debug, Clone)]
pub(crate) struct OwnToken {
    pub(crate) token: Token,
    pub(crate) audience: Audience,
}

impl Caller {
    /// Who sent a request.
    pub(crate) fn of(parts: &Parts, own: Option<&OwnToken>, public_url: Option<&PublicUrl>) -> Self {
        let sent = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = sent.and_then(Token::of_authorization).or_else(|| {
            let own = own.filter(|own| own.audience.admits(&parts.headers, &parts.extensions))?;
            (!is_of_a_page(parts) && is_by_our_name(parts, public_url)).then(|| own.token.clone())
        });
        let viewer = token.as_ref().map_or(Viewer::Anonymous, |token| Viewer::Token(token.fingerprint()));
        let client = ClientAddr::find(&parts.extensions, &parts.headers);
        let client = client.map_or(Ipv4Addr::UNSPECIFIED.into(), |ClientAddr(addr)| addr.ip());
        Self { viewer, client, token }
    }

    /// Nobody in particular: what this caller may read, everybody may.
    pub(crate) fn nobody() -> Self {
        Self { viewer: Viewer::Anonymous, client: Ipv4Addr::UNSPECIFIED.into(), token: None }
    }

    /// The token to ask with as `viewer`, who is this caller or everybody.
    pub(crate) fn token_as(&self, viewer: Viewer) -> Option<&Token> {
        self.token.as_ref().filter(|_| viewer != Viewer::Anonymous && viewer == self.viewer)
    }

    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    pub(crate) fn asker(&self) -> Asker {
        self.viewer.into()
    }
}

fn is_of_a_page(parts: &Parts) -> bool {
    let is_elsewhere = |value: &axum::http::HeaderValue| value != "none";
    parts.headers.contains_key(ORIGIN) || parts.headers.get(SEC_FETCH_SITE).is_some_and(is_elsewhere)
}

/// A name of somebody else's that was made to lead here, in a page of theirs, is not ours.
fn is_by_our_name(parts: &Parts, public_url: Option<&PublicUrl>) -> bool {
    let Some(host) = parts.headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || public_url.is_some_and(|url| url.host().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::extract::ConnectInfo;
    use axum::http::Request;

    use super::*;

    fn caller(peer: &str, headers: &[(&str, &str)]) -> Caller {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        parts.extensions.insert(ConnectInfo::<SocketAddr>(peer.parse().expect("an address")));
        let own =
            OwnToken { token: Token::parse("hf_own").expect("a token"), audience: Audience::own_machine() };
        let public = "https://hub.example".parse().expect("a URL");
        Caller::of(&parts, Some(&own), Some(&public))
    }

    fn viewer(token: &str) -> Viewer {
        Viewer::Token(Token::parse(token).expect("a token").fingerprint())
    }

    #[test]
    fn a_callers_own_token_comes_before_the_hubs() {
        let sent = caller("127.0.0.1:1", &[("host", "localhost"), ("authorization", "Bearer hf_x")]);
        assert_eq!(sent.viewer, viewer("hf_x"));
        assert!(sent.token_as(sent.viewer).is_some() && sent.token_as(Viewer::Anonymous).is_none());
        assert!(sent.token_as(viewer("hf_own")).is_none());
        assert!(!format!("{sent:?}").contains("hf_x"));
    }

    #[test]
    fn the_hubs_token_is_for_its_audience_and_never_for_a_page() {
        for host in ["127.0.0.1:8080", "[::1]:8080", "localhost", "hub.example:443"] {
            assert_eq!(caller("127.0.0.1:1", &[("host", host)]).viewer, viewer("hf_own"), "{host}");
        }
        let refused: [(&str, &[(&str, &str)]); 6] = [
            ("192.0.2.1:1", &[("host", "localhost")]),
            ("127.0.0.1:1", &[("host", "rebound.example")]),
            ("127.0.0.1:1", &[]),
            ("127.0.0.1:1", &[("host", "localhost"), ("origin", "http://evil.example")]),
            ("127.0.0.1:1", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]),
            ("127.0.0.1:1", &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]),
        ];
        for (peer, headers) in refused {
            assert_eq!(caller(peer, headers).viewer, Viewer::Anonymous, "{peer} {headers:?}");
        }
    }
}
