//! What the hub says of itself and its torrents. Handlers translate between HTTP and the library, and decide nothing
//! else.
//!
//! `/healthz` answers while the process lives, `/readyz` once all roots were listed; `/torrents` lists as JSON;
//! `/torrent/{name or info hash}[.torrent]` is the `.torrent`, `/magnet/{name or info hash}` the magnet link, as text or
//! as JSON (`Accept: application/json` or `?format=json`). Trackers and web seeds in them are this hub's.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use axum::routing::get;
use serde::Serialize;
use wtfs_proto::hub::{MagnetAnswer, TorrentList};
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;

use crate::library::{Item, Library};
use crate::names::{attachment, percent_decode};
use crate::places::PublicUrl;

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    pub(crate) library: Arc<dyn Library>,
    /// Where the hub is to be found, if that is configured.
    pub(crate) public_url: Option<PublicUrl>,
    pub(crate) udp_port: Option<u16>,
    /// Whether it has found out what it has.
    pub(crate) is_ready: IsReady,
}

/// Asks whether the hub is ready.
#[derive(Clone)]
pub(crate) struct IsReady(pub(crate) Arc<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for IsReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IsReady({})", (self.0)())
    }
}

pub(crate) fn router(routes: Routes) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/torrents", get(list))
        .route("/torrent/{name}", get(torrent))
        .route("/magnet/{name}", get(magnet))
        .with_state(routes)
}

/// An answer that nobody keeps.
pub(crate) fn respond(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Lists change, and links may hold what this one client calls us.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(json) => respond(StatusCode::OK, "application/json", json),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written\n")
        }
    }
}

async fn ready(State(routes): State<Routes>) -> Response<Body> {
    if (routes.is_ready.0)() {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "the shared directories are still being listed\n")
    }
}

async fn list(State(routes): State<Routes>) -> Response<Body> {
    json(&TorrentList { torrents: routes.library.list() })
}

/// What the last part of a path names: an info hash or a name, with or without `.torrent` behind it.
fn find(library: &dyn Library, path: &str) -> Option<Arc<Item>> {
    let typed = percent_decode(path.rsplit('/').next()?)?;
    let bare = typed.strip_suffix(".torrent").unwrap_or(&typed);
    let by_hash = bare.parse().ok().and_then(|hash| library.by_hash(hash));
    by_hash.or_else(|| library.by_name(bare)).or_else(|| library.by_name(&typed))
}

fn missing() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "no such torrent here, or it is not ready yet\n")
}

impl Routes {
    fn place(&self, parts: &Parts) -> Option<PublicUrl> {
        self.public_url.clone().or_else(|| PublicUrl::of_request(parts))
    }

    /// The torrent with this hub's trackers in front and its web seeds added.
    fn with_places(&self, item: &Item, place: &PublicUrl) -> Metainfo {
        let mut metainfo = Metainfo::clone(item.metainfo());
        if !metainfo.info.is_private {
            metainfo.announce.insert(0, place.trackers(self.udp_port));
        }
        metainfo.url_list.insert(0, place.web_seed(item.info_hash()));
        metainfo.http_seeds.insert(0, place.http_seed());
        metainfo
    }
}

async fn torrent(State(routes): State<Routes>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let Some(item) = find(&*routes.library, parts.uri.path()) else { return missing() };
    let bytes = match routes.place(&parts) {
        Some(place) => routes.with_places(&item, &place).to_bytes(),
        None => item.metainfo().to_bytes(),
    };
    let mut response = respond(StatusCode::OK, "application/x-bittorrent", bytes);
    let name = format!("{}.torrent", item.metainfo().info.name);
    if let Ok(value) = HeaderValue::from_str(&attachment(&name)) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    response
}

async fn magnet(State(routes): State<Routes>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let Some(item) = find(&*routes.library, parts.uri.path()) else { return missing() };
    let hash = item.info_hash().to_string();
    let mut magnet = Magnet::from_metainfo(item.metainfo());
    let mut torrent = String::new();
    if let Some(place) = routes.place(&parts) {
        magnet = Magnet::from_metainfo(&routes.with_places(&item, &place));
        // By its hash: another torrent may get the name.
        torrent = place.torrent(&hash);
        magnet.exact_sources.push(torrent.clone());
    }
    let mut response = if wants_json(&parts) {
        let name = item.metainfo().info.name.clone();
        json(&MagnetAnswer { name, info_hash: hash, magnet: magnet.to_string(), torrent })
    } else {
        text(StatusCode::OK, format!("{magnet}\n"))
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Whether the answer is to be JSON where it may be text too.
pub(crate) fn wants_json(parts: &Parts) -> bool {
    let is_asked = parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "format=json"));
    let accepted = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    is_asked
        || accepted.flat_map(|list| list.split(',')).any(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        })
}
