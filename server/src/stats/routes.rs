//! The hub's numbers over HTTP: `/stats` now, `/stats/history` of the last hour, `/stats/torrents` as a table, and
//! `/stats/stream`, which tells of changes by server-sent events until the viewer goes or the hub ends.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::history::{SERIES, STEP};
use super::listing::Query;
use super::{Stats, VERSION, Viewing};
use crate::client_addr::ClientAddr;
use crate::serving::Stopping;

/// How often a comment is sent down a stream on which nothing else is: proxies commonly wait a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) fn router(stats: Stats) -> Router {
    Router::new()
        .route("/stats", get(now))
        .route("/stats/history", get(history))
        .route("/stats/torrents", get(torrents))
        .route("/stats/stream", get(stream))
        .with_state(stats)
}

fn json(body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn failed() -> Response<Body> {
    (StatusCode::INTERNAL_SERVER_ERROR, "the numbers cannot be had\n").into_response()
}

fn written(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => json(text),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            failed()
        }
    }
}

async fn now(State(stats): State<Stats>) -> Response<Body> {
    match stats.newest().await {
        Some(looked) => json(looked.json),
        None => failed(),
    }
}

/// The points by columns: one name for many values.
#[derive(Serialize)]
struct HistoryAnswer {
    version: u32,
    step_s: u64,
    unix_s: Vec<u64>,
    series: Vec<Column>,
}

#[derive(Serialize)]
struct Column {
    name: &'static str,
    values: Vec<f32>,
}

async fn history(State(stats): State<Stats>) -> Response<Body> {
    let answer = {
        let history = stats.history();
        let column = |(at, name): (usize, &'static str)| Column {
            name,
            values: history.points().map(|point| point.values[at]).collect(),
        };
        HistoryAnswer {
            version: VERSION,
            step_s: STEP.as_secs(),
            unix_s: history.points().map(|point| point.unix_s).collect(),
            series: SERIES.into_iter().enumerate().map(column).collect(),
        }
    };
    written(&answer)
}

async fn torrents(State(stats): State<Stats>, request: Request) -> Response<Body> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let Some(looked) = stats.newest().await else { return failed() };
    // Sorting thousands of names takes a while: not on the network's threads.
    let answer = tokio::task::spawn_blocking(move || written(&query.page(&looked.rows))).await;
    answer.unwrap_or_else(|_lost| failed())
}

/// What one viewer's stream goes on with.
struct Viewer {
    frames: watch::Receiver<Bytes>,
    first: Option<Bytes>,
    stats: Stats,
    stopping: Option<CancellationToken>,
    _seat: Viewing,
}

impl Viewer {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        let frame = match self.first.take() {
            Some(first) => first,
            None => {
                let stopped = async {
                    match &self.stopping {
                        Some(stopping) => stopping.cancelled().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = stopped => return None,
                    () = self.stats.inner.stop.cancelled() => return None,
                    changed = self.frames.changed() => changed.ok()?,
                }
                self.frames.borrow_and_update().clone()
            }
        };
        // Ours, and JSON of one line.
        let text = String::from_utf8_lossy(&frame);
        Some((Ok(Event::default().event("stats").data(text)), self))
    }
}

async fn stream(State(stats): State<Stats>, request: Request) -> Response<Body> {
    let addr = ClientAddr::of_request(&request).map(|ClientAddr(addr)| addr.ip());
    let Some(seat) = stats.seat(addr) else {
        let mut refusal =
            (StatusCode::SERVICE_UNAVAILABLE, "too many are watching; ask /stats now and then\n")
                .into_response();
        refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("30"));
        return refusal;
    };
    let stopping = request.extensions().get::<Stopping>().map(|Stopping(token)| token.clone());
    let frames = stats.inner.frames.subscribe();
    let first = stats.newest().await.map(|looked| looked.json);
    let viewer = Viewer { frames, first, stats, stopping, _seat: seat };
    let events = stream::unfold(viewer, Viewer::next);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise keep events back until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
