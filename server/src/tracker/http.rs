//! Announces and scrapes over HTTP (BEP 3, 7, 23, 24, 48).
//!
//! Owns routes, and the translation between queries and the map. A refusal is a bencoded reason with status 200, since
//! clients do not show the body of another status.
//!
//! Invariant: the address that is told to others is the connection's (or what a trusted proxy says of it), never the one
//! that the query claims.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response};
use axum::routing::get;
use wtfs_proto::id::PeerId;
use wtfs_proto::tracker::http::{self as codec, AnnounceResponse, ResponseForm, ScrapeResponse};
use wtfs_proto::tracker::{AnnounceRequest, TrackerError};

use super::swarm::{Announce, Contact, Progress, Wanted};
use super::{Denied, Tracker, canonical, ws};
use crate::client_addr::ClientAddr;

pub(super) fn router(tracker: Tracker) -> Router {
    let announce = get(async |State(tracker), request: Request| announced(tracker, None, request).await);
    let announce_with = get(async |State(tracker), Path(passkey): Path<String>, request: Request| {
        announced(tracker, Some(passkey), request).await
    });
    let scrape =
        get(async |State(tracker): State<Tracker>, request: Request| scraped(&tracker, None, &request));
    let scrape_with =
        get(async |State(tracker): State<Tracker>, Path(passkey): Path<String>, request: Request| {
            scraped(&tracker, Some(&passkey), &request)
        });
    Router::new()
        .route("/announce", announce)
        .route("/announce/{passkey}", announce_with.clone())
        .route("/{passkey}/announce", announce_with)
        .route("/scrape", scrape)
        .route("/scrape/{passkey}", scrape_with.clone())
        .route("/{passkey}/scrape", scrape_with)
        .with_state(tracker)
}

/// Why a request has no answer but a reason.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Malformed(#[from] TrackerError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("a scrape has to name torrents")]
    FullScrape,
    #[error("the server does not tell clients' addresses")]
    NoAddress,
}

async fn announced(tracker: Tracker, passkey: Option<String>, request: Request) -> Response<Body> {
    if is_upgrade(request.headers()) {
        return ws::upgrade(tracker, passkey, request).await;
    }
    let (parts, _) = request.into_parts();
    let counters = &tracker.shared.counters.http;
    let body = announce(&tracker, passkey.as_deref(), &parts);
    respond(count(body, &counters.announces, counters))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    ws::is_upgrade(headers)
}

fn announce(tracker: &Tracker, passkey: Option<&str>, parts: &Parts) -> Result<Vec<u8>, Failure> {
    let shared = &tracker.shared;
    let ClientAddr(client) = ClientAddr::of(parts).ok_or(Failure::NoAddress)?;
    let from = canonical(client);
    shared.admit(from, passkey)?;
    let query = parts.uri.query().unwrap_or_default();
    let request = codec::parse_announce_query(query)?;
    let form = codec::response_form(query);
    let want = request.num_want.map_or(shared.config.default_peers, |count| count as usize);
    let mut peers: Vec<SocketAddr> = Vec::new();
    let mut ids: Vec<PeerId> = Vec::new();
    let announce =
        Announce { wanted: Wanted::Addresses, ..told(&request, from, want.min(shared.config.max_peers)) };
    let answer = shared.announce(announce, |drawn| {
        for addr in drawn.v4.map(SocketAddr::V4).into_iter().chain(drawn.v6.map(SocketAddr::V6)) {
            peers.push(addr);
            if form == ResponseForm::Dictionaries {
                ids.push(*drawn.peer_id);
            }
        }
    })?;
    let response = AnnounceResponse {
        interval_s: shared.jittered(shared.config.interval),
        min_interval_s: u32::try_from(shared.config.min_interval.as_secs()).ok(),
        seeders: Some(answer.counts.complete),
        leechers: Some(answer.counts.incomplete),
        peers,
        external_ip: Some(from),
        ..AnnounceResponse::default()
    };
    Ok(match form {
        ResponseForm::Compact => codec::encode_announce_response(&response),
        ResponseForm::Dictionaries => codec::encode_announce_dictionaries(&response, &ids),
        ResponseForm::DictionariesWithoutId => codec::encode_announce_dictionaries(&response, &[]),
    })
}

/// An announce of HTTP or UDP as the map takes it.
pub(super) fn told(request: &AnnounceRequest, from: std::net::IpAddr, want: usize) -> Announce {
    Announce {
        info_hash: request.info_hash,
        peer_id: request.peer_id,
        from,
        contact: Contact::Port(request.port),
        key: request.key,
        progress: if request.left == 0 { Progress::Seed } else { Progress::Leecher },
        event: request.event,
        wanted: Wanted::Addresses,
        want,
        uploaded_bytes: request.uploaded,
    }
}

fn scraped(tracker: &Tracker, passkey: Option<&str>, request: &Request) -> Response<Body> {
    let counters = &tracker.shared.counters.http;
    respond(count(scrape(tracker, passkey, request), &counters.scrapes, counters))
}

fn scrape(tracker: &Tracker, passkey: Option<&str>, request: &Request) -> Result<Vec<u8>, Failure> {
    let shared = &tracker.shared;
    let ClientAddr(client) = ClientAddr::of_request(request).ok_or(Failure::NoAddress)?;
    shared.admit(canonical(client), passkey)?;
    let hashes = codec::parse_scrape_query(request.uri().query().unwrap_or_default())?;
    if hashes.is_empty() {
        return Err(Failure::FullScrape);
    }
    // BEP 48 has no way to refuse one of several: it is left out.
    let tracked = hashes.into_iter().filter_map(|hash| Some((hash, shared.scrape(hash)?)));
    let entries: BTreeMap<_, _> = tracked.collect();
    let min_interval_s = u32::try_from(shared.config.min_interval.as_secs()).ok();
    Ok(codec::encode_scrape_response(&ScrapeResponse { entries, min_interval_s }))
}

fn count(
    body: Result<Vec<u8>, Failure>,
    answered: &super::stats::Counter,
    counters: &super::stats::ProtocolCounters,
) -> Vec<u8> {
    match body {
        Ok(body) => {
            answered.add_one();
            body
        }
        Err(failure) => {
            match &failure {
                Failure::Malformed(_) | Failure::FullScrape => counters.malformed.add_one(),
                Failure::Denied(_) => counters.rejected.add_one(),
                Failure::NoAddress => tracing::error!(
                    "the tracker is mounted on a server that does not tell clients' addresses"
                ),
            }
            codec::encode_failure(&failure.to_string())
        }
    }
}

fn respond(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    // What trackers commonly say: browsers show it, and no client looks.
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
pub(super) mod tests;
