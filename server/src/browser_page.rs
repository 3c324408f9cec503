//! The page at `/browser`: a BitTorrent peer in a browser tab, part of the program when it was built before it.
//!
//! Owns what is served below `/browser/` and the policy of the page. The page itself is in `web/`; it lives by what all
//! clients use: `/torrents`, `/torrent`, `/seed`, and the tracker over web sockets.
//!
//! Invariant: nothing a torrent holds is served from here, so nothing of it can run as part of this site.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::get;
use serde::Serialize;
use wtfs_torrent::{DEFAULT_STUN, IceServer};

use crate::page::Part;
use crate::places::PublicUrl;

/// The files of the built page by name; empty where it was not built.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/browser_page.rs"));

/// What the page may load and do. It connects to any tracker, and to web seeds over TLS besides the hub's own, since a
/// magnet link may name them; media are played out of memory (`blob:`) or by its service worker.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; worker-src 'self'; \
                      connect-src 'self' ws: wss: https:; img-src 'self' data: blob:; media-src 'self' blob:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const NOT_BUILT: &str = "\
wtfs: this program was built without the page for browsers.

To have it, build the page and then the program again:

    scripts/web
    cargo build --release
";

/// A STUN or TURN server as browsers want it described (`RTCIceServer`).
#[derive(PartialEq, Eq, Serialize)]
struct Described {
    urls: String,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// For TURN: whoever may open the page learns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

impl From<&IceServer> for Described {
    fn from(server: &IceServer) -> Self {
        Self {
            urls: server.url(),
            username: server.user().map(str::to_owned),
            credential: server.password().map(str::to_owned),
        }
    }
}

impl fmt::Debug for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.urls)
    }
}

/// `GET /browser/config.json`.
#[derive(Debug, Serialize)]
struct PageConfig {
    ice_servers: Vec<Described>,
}

/// Which servers pages are told of, by which peers reach each other.
#[derive(Debug, Clone)]
pub(crate) struct IceServers {
    /// As configured for the engine: `None` is the usual ones, for pages that reach the hub over the internet.
    pub(crate) configured: Option<Arc<[IceServer]>>,
    /// Where the hub is to be found, if that is configured.
    pub(crate) public_url: Option<PublicUrl>,
}

impl IceServers {
    /// For a page that calls the hub `host`. On one machine or in one private network no server is needed, and none is
    /// told who is here.
    fn for_host(&self, host: Option<&str>) -> Vec<Described> {
        match &self.configured {
            Some(servers) => servers.iter().map(Described::from).collect(),
            None if host.is_some_and(is_far) => {
                let urls = DEFAULT_STUN.map(str::to_owned);
                urls.map(|urls| Described { urls, username: None, credential: None }).into()
            }
            None => Vec::new(),
        }
    }
}

/// Whether a host is to be found in the internet.
fn is_far(host: &str) -> bool {
    match host.parse::<IpAddr>().map(|addr| addr.to_canonical()) {
        Ok(IpAddr::V4(v4)) => !(v4.is_loopback() || v4.is_private() || v4.is_link_local()),
        Ok(IpAddr::V6(v6)) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
        Err(_) => {
            let last = host.trim_end_matches('.').rsplit_once('.').map_or("", |(_, last)| last);
            !["", "arpa", "home", "internal", "lan", "local", "localhost"].contains(&last)
        }
    }
}

/// The page and its parts.
pub(crate) fn router(servers: IceServers) -> Router {
    Router::new()
        // Its parts are asked for relative to it: the slash matters.
        .route("/browser", get(async || redirect("browser/")))
        .route("/browser/", get(async |headers: HeaderMap| serve(FILES, "index.html", &headers)))
        .route("/browser/config.json", get(config))
        .route(
            "/browser/{*name}",
            get(async |Path(name): Path<String>, headers: HeaderMap| serve(FILES, &name, &headers)),
        )
        .with_state(servers)
}

fn redirect(place: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(place));
    response
}

async fn config(State(servers): State<IceServers>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let place = servers.public_url.clone().or_else(|| PublicUrl::of_request(&parts));
    let ice_servers = servers.for_host(place.as_ref().map(PublicUrl::host));
    match serde_json::to_vec(&PageConfig { ice_servers }) {
        Ok(json) => respond(&parts.headers, "application/json", "no-cache", json.into()),
        Err(error) => {
            tracing::error!(%error, "the page's configuration cannot be written");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

fn serve(files: &[(&'static str, &'static [u8])], name: &str, headers: &HeaderMap) -> Response<Body> {
    if files.is_empty() {
        let mut response = respond(
            &HeaderMap::new(),
            "text/plain; charset=utf-8",
            "no-store",
            Bytes::from_static(NOT_BUILT.as_bytes()),
        );
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let Some((name, bytes)) = files.iter().find(|(known, _)| *known == name) else {
        let mut response = Response::new(Body::from("no such part of the page\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return response;
    };
    // What has a hash in its name never changes.
    let keep = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    respond(headers, kind(name), keep, Bytes::from_static(bytes))
}

/// The media type of a part, by its name.
fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("md" | "txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn respond(asked: &HeaderMap, kind: &'static str, keep: &'static str, bytes: Bytes) -> Response<Body> {
    Part { kind, keep, policy: POLICY, bytes }.respond(asked)
}

#[cfg(test)]
mod tests {
    use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, IF_NONE_MATCH};
    use serde_json::json;

    use super::*;

    const BUILT: &[(&str, &[u8])] =
        &[("assets/page-1.js", b"let a"), ("index.html", b"<!doctype html>"), ("sw.js", b"let b")];

    fn header(response: &Response<Body>, name: HeaderName) -> &str {
        response.headers()[name].to_str().expect("text")
    }

    #[test]
    fn parts_with_a_hash_are_kept_for_good_and_the_page_is_asked_about_again() {
        let none = HeaderMap::new();
        let page = serve(BUILT, "index.html", &none);
        assert_eq!(
            (page.status(), header(&page, CONTENT_TYPE)),
            (StatusCode::OK, "text/html; charset=utf-8")
        );
        assert_eq!(header(&page, CACHE_CONTROL), "no-cache");
        assert_eq!(header(&page, CONTENT_SECURITY_POLICY), POLICY);
        let script = serve(BUILT, "assets/page-1.js", &none);
        assert_eq!(header(&script, CONTENT_TYPE), "text/javascript; charset=utf-8");
        assert!(header(&script, CACHE_CONTROL).contains("immutable"));
        // The worker's address never changes, so its content may.
        assert_eq!(header(&serve(BUILT, "sw.js", &none), CACHE_CONTROL), "no-cache");
        let mut known = HeaderMap::new();
        known.insert(IF_NONE_MATCH, page.headers()[ETAG].clone());
        assert_eq!(serve(BUILT, "index.html", &known).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve(BUILT, "sw.js", &known).status(), StatusCode::OK);
        assert_eq!(serve(BUILT, "../index.html", &none).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_program_without_the_page_says_how_to_build_it() {
        let response = serve(&[], "index.html", &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(header(&response, CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(header(&response, CACHE_CONTROL), "no-store");
        assert!(NOT_BUILT.contains("scripts/web"));
    }

    #[test]
    fn pages_ask_no_server_unless_the_hub_is_far_or_one_is_configured() {
        let usual = IceServers { configured: None, public_url: None };
        for near in
            ["127.0.0.1", "10.1.2.3", "::1", "fd00::1", "::ffff:192.168.0.1", "hub", "hub.lan", "hub.local."]
        {
            assert_eq!(usual.for_host(Some(near)), [], "{near}");
        }
        assert!(usual.for_host(None).is_empty());
        for far in ["203.0.113.9", "2001:db8::1", "hub.example.org"] {
            assert_eq!(usual.for_host(Some(far)).len(), DEFAULT_STUN.len(), "{far}");
        }
        let named = ["stun:a.example", "turn:ada:secret@b.example:99"];
        let named = named.map(|url| url.parse().expect("a server"));
        let own = IceServers { configured: Some(named.into()), public_url: None };
        let told = serde_json::to_value(own.for_host(Some("127.0.0.1"))).expect("JSON");
        let relay =
            json!({"urls": "turn:b.example:99?transport=udp", "username": "ada", "credential": "secret"});
        assert_eq!(told, json!([{"urls": "stun:a.example:3478"}, relay]));
        assert!(!format!("{:?}", own.for_host(None)).contains("secret"));
        let none = IceServers { configured: Some([].into()), public_url: None };
        assert!(none.for_host(Some("hub.example.org")).is_empty());
    }

    #[test]
    fn the_policy_lets_no_foreign_script_run() {
        assert!(POLICY.contains("default-src 'none'") && POLICY.contains("script-src 'self';"));
        assert!(!POLICY.contains("unsafe"));
        for (name, bytes) in FILES.iter().filter(|(name, _)| name.ends_with(".html")) {
            let text = String::from_utf8_lossy(bytes);
            for word in ["<script>", "<style", "style=\"", "onclick", "onload", "src=\"http"] {
                assert!(!text.contains(word), "{word} in {name}");
            }
        }
    }
}
