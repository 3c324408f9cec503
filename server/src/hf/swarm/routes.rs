//! HTTP over the swarms: `/torrent/…`, `/magnet/…` and `/model/…` of `org/repo[@rev]` and `org/repo[@rev]/file`, also below
//! `/hf`, and `/hf-stats`.
//!
//! A torrent that is not there yet is answered with 202 and how far it is; asking for it (or for its magnet link) begins
//! to prepare it, asking for `/model/…` only looks. Trackers are this hub's, and the web seed is the address of the files
//! in its API: where not everybody may read them, it is for clients alone that send a token.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_DISPOSITION, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use axum::routing::get;
use serde::Serialize;
use wtfs_proto::hf::{Revision, encode_path};
use wtfs_proto::hub::{MagnetAnswer, ModelState, ModelStatus};
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;

use super::super::refusal::Refusal;
use super::super::{Caller, routes::PREFIX};
use super::asked::{self, Asked};
use super::made::Key;
use super::{Found, Swarms, Wish};
use crate::metrics::traffic::Traffic;
use crate::names::attachment;
use crate::places::PublicUrl;
use crate::routes::{respond, wants_json};

/// When to ask again for a torrent that is being prepared.
const ASK_AGAIN: &str = "2";

#[derive(Debug, Clone)]
struct Routes {
    swarms: Swarms,
    public_url: Option<PublicUrl>,
    udp_port: Option<u16>,
}

/// The routes of torrents of repositories.
pub(crate) fn router(swarms: Swarms, public_url: Option<PublicUrl>, udp_port: Option<u16>) -> Router {
    let mut router = Router::new();
    for prefix in ["", PREFIX] {
        router = router
            .route(&format!("{prefix}/torrent/{{name}}/{{*rest}}"), get(torrent))
            .route(&format!("{prefix}/magnet/{{name}}/{{*rest}}"), get(magnet))
            .route(&format!("{prefix}/model/{{*rest}}"), get(model));
    }
    router.with_state(Routes { swarms, public_url, udp_port })
}

/// Numbers about all of them; `null` from a hub without a proxy.
pub(crate) fn stats_router(swarms: Option<Swarms>, traffic: Arc<Traffic>) -> Router {
    Router::new().route("/hf-stats", get(stats)).with_state((swarms, traffic))
}

async fn stats(State((swarms, traffic)): State<(Option<Swarms>, Arc<Traffic>)>) -> Response<Body> {
    match swarms {
        Some(swarms) => json(StatusCode::OK, &swarms.stats(traffic.snapshot().hugging_face_bytes()).await),
        None => json(StatusCode::OK, &()),
    }
}

impl Routes {
    fn place(&self, parts: &Parts) -> Option<PublicUrl> {
        self.public_url.clone().or_else(|| PublicUrl::of_request(parts))
    }

    async fn find(&self, parts: &Parts, asked: Option<Asked>, wish: Wish) -> Result<Found, Refusal> {
        let asked = asked.ok_or(Refusal::Nowhere)?;
        let proxy = &self.swarms.0.proxy;
        let caller = Caller::of(parts, proxy.0.own_token.as_ref(), proxy.0.public_url.as_ref());
        self.swarms.find(asked, &caller, wish).await
    }

    /// The torrent that is asked for behind the word of a route; what to answer instead where there is none yet.
    async fn made(&self, parts: &Parts, word: &str) -> Result<(Key, Arc<Metainfo>), Box<Response<Body>>> {
        match self.find(parts, asked::parse_torrent(below(parts, word)), Wish::Make).await {
            Ok(Found::Torrent { key, metainfo }) => Ok((key, metainfo)),
            Ok(Found::Status(status)) => Err(Box::new(not_yet(&status))),
            Err(refusal) => Err(Box::new(refusal.into_response())),
        }
    }

    /// The torrent with this hub's addresses.
    fn with_places(&self, key: &Key, metainfo: &Metainfo, place: Option<&PublicUrl>) -> Metainfo {
        let mut metainfo = metainfo.clone();
        if let Some(place) = place {
            metainfo.announce.insert(0, place.trackers(self.udp_port));
            let revision = Revision::from(key.commit);
            metainfo.url_list.push(match &key.path {
                Some(path) => format!("{place}{}", key.repo.resolve_path(&revision, path)),
                // Its name, which clients append, is the commit.
                None => format!("{place}/{}/resolve/", key.repo),
            });
        }
        metainfo
    }

    fn magnet(&self, key: &Key, metainfo: &Metainfo, place: Option<&PublicUrl>) -> MagnetAnswer {
        let mut magnet = Magnet::from_metainfo(&self.with_places(key, metainfo, place));
        let path = key.path.as_ref().map(|path| format!("/{}", encode_path(path))).unwrap_or_default();
        let torrent = place.map(|place| format!("{place}/torrent/{}@{}{path}", key.repo, key.commit));
        magnet.exact_sources.extend(torrent.clone());
        MagnetAnswer {
            name: metainfo.info.name.clone(),
            info_hash: metainfo.hashes.primary().to_string(),
            magnet: magnet.to_string(),
            torrent: torrent.unwrap_or_default(),
        }
    }
}

/// What stands in a path behind the word of the route.
fn below<'a>(parts: &'a Parts, word: &str) -> &'a str {
    let path = parts.uri.path();
    let path = path.strip_prefix(PREFIX).filter(|rest| rest.starts_with('/')).unwrap_or(path);
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(word))
        .map_or("", |path| path.trim_start_matches('/'))
}

async fn torrent(State(routes): State<Routes>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let (key, metainfo) = match routes.made(&parts, "torrent").await {
        Ok(made) => made,
        Err(answer) => return *answer,
    };
    let place = routes.place(&parts);
    let bytes = routes.with_places(&key, &metainfo, place.as_ref()).to_bytes();
    let mut response = respond(StatusCode::OK, "application/x-bittorrent", bytes);
    let name = match &key.path {
        Some(path) => format!("{}.torrent", path.file_name()),
        None => format!("{}-{:.8}.torrent", key.repo.id.name(), key.commit.to_string()),
    };
    if let Ok(value) = HeaderValue::from_str(&attachment(&name)) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    with_commit(response, &key)
}

async fn magnet(State(routes): State<Routes>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let (key, metainfo) = match routes.made(&parts, "magnet").await {
        Ok(made) => made,
        Err(answer) => return *answer,
    };
    let answer = routes.magnet(&key, &metainfo, routes.place(&parts).as_ref());
    let response = if wants_json(&parts) {
        json(StatusCode::OK, &answer)
    } else {
        respond(StatusCode::OK, "text/plain; charset=utf-8", format!("{}\n", answer.magnet))
    };
    with_commit(response, &key)
}

async fn model(State(routes): State<Routes>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let asked = asked::parse(below(&parts, "model"));
    match routes.find(&parts, asked, Wish::Look).await {
        Ok(Found::Torrent { key, metainfo }) => {
            let entry = routes.swarms.0.state().torrents.get(&key).cloned();
            // It may have been forgotten just now.
            let Some(entry) = entry else { return Refusal::Busy.into_response() };
            let status = routes.swarms.status(&key, entry).await;
            let answer = routes.magnet(&key, &metainfo, routes.place(&parts).as_ref());
            let torrent = Some(answer.torrent).filter(|torrent| !torrent.is_empty());
            json(StatusCode::OK, &ModelStatus { magnet: Some(answer.magnet), torrent, ..status })
        }
        Ok(Found::Status(status)) if status.state == ModelState::Preparing => not_yet(&status),
        Ok(Found::Status(status)) => json(StatusCode::OK, &status),
        Err(refusal) => refusal.into_response(),
    }
}

/// There is no torrent: why, and what to do.
fn not_yet(status: &ModelStatus) -> Response<Body> {
    match status.state {
        ModelState::Restricted => json(StatusCode::FORBIDDEN, status),
        ModelState::Failed => {
            let mut response = json(StatusCode::SERVICE_UNAVAILABLE, status);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("30"));
            response
        }
        ModelState::Absent | ModelState::Preparing | ModelState::Ready => {
            let mut response = json(StatusCode::ACCEPTED, status);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(ASK_AGAIN));
            response
        }
    }
}

fn with_commit(mut response: Response<Body>, key: &Key) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&key.commit.to_string()) {
        response.headers_mut().insert(HeaderName::from_static("x-repo-commit"), value);
    }
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(json) => respond(status, "application/json", json),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            Refusal::Internal.into_response()
        }
    }
}
