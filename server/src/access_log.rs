//! What is seen of each request: it is counted, traced in a span, and, if wanted, logged once it is over.
//!
//! Owns the layer around all routes. A line is an event of the target `wtfs::access`, with its parts as fields; the
//! program decides where it goes and how it looks. What stands behind `?` in a URL, and passkeys in paths, are secrets of
//! clients and never part of it.
//!
//! Invariant: a response is finished exactly once, when its last byte was handed to the connection or its body dropped.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, RANGE, USER_AGENT};
use axum::http::{Method, Response, StatusCode};
use axum::middleware::Next;
use http_body::{Frame, SizeHint};
use tracing::Instrument as _;

use crate::client_addr::ClientAddr;
use crate::metrics::traffic::{Area, Ending, Finished, Traffic};

/// The target of the lines.
pub const ACCESS_TARGET: &str = "wtfs::access";

/// Most bytes of a header that are kept for a line.
const HEADER_BYTES_MAX: usize = 200;

/// Whether requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// They are not.
    #[default]
    Off,
    /// One event a request, of the target [`ACCESS_TARGET`].
    On,
}

/// What the layer needs.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) log: AccessLog,
}

/// What is known of a request before it is answered.
#[derive(Debug)]
struct Line {
    client: Option<ClientAddr>,
    method: String,
    path: String,
    range: String,
    agent: String,
}

/// The layer.
pub(crate) async fn observe(
    State(observer): State<Observer>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let began = Instant::now();
    let area = Area::of(request.uri().path());
    let line = (observer.log == AccessLog::On).then(|| Line::of(&request));
    let span = tracing::debug_span!(
        "request",
        method = %request.method(),
        path = %without_passkey(request.uri().path()),
        client = ClientAddr::of_request(&request).map(|ClientAddr(addr)| tracing::field::display(addr)),
    );
    let is_head = request.method() == Method::HEAD;
    observer.traffic.begin();
    let mut end = End { observer, line, area, began, status: StatusCode::OK, sent_bytes: 0, expected: None };
    let response = next.run(request).instrument(span).await;
    let (parts, body) = response.into_parts();
    end.status = parts.status;
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Response::from_parts(parts, body);
    }
    end.expected = body.size_hint().exact().or_else(|| {
        let length = parts.headers.get(CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    });
    if is_head {
        // Its body is made and not sent.
        end.expected = None;
    }
    Response::from_parts(parts, Body::new(Observed { body, end }))
}

impl Line {
    fn of(request: &Request) -> Self {
        let header = |name| {
            let value = request.headers().get(name).map(|value| value.as_bytes()).unwrap_or_default();
            String::from_utf8_lossy(value.get(..HEADER_BYTES_MAX).unwrap_or(value)).into_owned()
        };
        Self {
            client: ClientAddr::of_request(request),
            method: request.method().to_string(),
            path: without_passkey(request.uri().path()).into_owned(),
            range: header(RANGE),
            agent: header(USER_AGENT),
        }
    }
}

/// A path as it may be shown: passkeys are left out.
fn without_passkey(path: &str) -> Cow<'_, str> {
    let mut words = path.split('/').skip(1);
    let is_tracker = |word: &str| matches!(word, "announce" | "scrape");
    match (words.next(), words.next()) {
        (Some(first), Some(_)) if is_tracker(first) => format!("/{first}/*").into(),
        (Some(_), Some(second)) if is_tracker(second) => format!("/*/{second}").into(),
        _ => path.into(),
    }
}

/// Finishes when dropped.
#[derive(Debug)]
struct End {
    observer: Observer,
    line: Option<Line>,
    area: Area,
    began: Instant,
    status: StatusCode,
    sent_bytes: u64,
    /// Bytes that the response was to have.
    expected: Option<u64>,
}

impl Drop for End {
    fn drop(&mut self) {
        let is_cut = self.expected.is_some_and(|expected| self.sent_bytes < expected);
        let finished = Finished {
            area: self.area,
            status: self.status.as_u16(),
            sent_bytes: self.sent_bytes,
            ending: if is_cut { Ending::Cut } else { Ending::Whole },
            took: self.began.elapsed(),
        };
        self.observer.traffic.finish(&finished);
        let Some(line) = self.line.take() else { return };
        tracing::info!(
            target: ACCESS_TARGET,
            client = line.client.map(|ClientAddr(addr)| tracing::field::display(addr.ip())),
            method = line.method,
            path = line.path,
            status = finished.status,
            bytes = finished.sent_bytes,
            ms = finished.took.as_secs_f64() * 1e3,
            whole = !is_cut,
            range = line.range,
            agent = line.agent,
        );
    }
}

/// A body that is counted.
#[derive(Debug)]
struct Observed {
    body: Body,
    end: End,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.end.sent_bytes = self.end.sent_bytes.saturating_add(bytes as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::metrics::traffic::TrafficStats;

    #[test]
    fn passkeys_are_left_out() {
        for (path, shown) in [
            ("/announce/secret", "/announce/*"),
            ("/secret/announce", "/*/announce"),
            ("/secret/scrape", "/*/scrape"),
            ("/scrape/secret/more", "/scrape/*"),
            ("/announce", "/announce"),
            ("/seed/a/b", "/seed/a/b"),
            ("/", "/"),
        ] {
            assert_eq!(without_passkey(path), shown);
        }
    }

    async fn seen(path: &str, read: impl AsyncFnOnce(Body)) -> TrafficStats {
        let observer = Observer { traffic: Arc::default(), log: AccessLog::On };
        let traffic = observer.traffic.clone();
        let router = Router::new()
            .route("/files/x", get(async || "twelve bytes"))
            .layer(from_fn_with_state(observer, observe));
        let service = TowerToHyperService::new(router);
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = service.call(request).await.expect("answered");
        assert_eq!(traffic.snapshot().under_way, 1);
        read(response.into_body()).await;
        traffic.snapshot()
    }

    #[tokio::test]
    async fn a_response_is_counted_once_it_was_taken() {
        let stats = seen("/files/x?secret", async |body| {
            assert_eq!(body.collect().await.expect("a body").to_bytes(), "twelve bytes");
        })
        .await;
        let area = &stats.areas[Area::WebSeed as usize];
        assert_eq!((area.requests[2], area.sent_bytes, area.cut), (1, 12, 0));
        assert_eq!(stats.under_way, 0);
    }

    #[tokio::test]
    async fn a_response_that_was_not_taken_is_cut() {
        let stats = seen("/files/x", async |body| drop(body)).await;
        let area = &stats.areas[Area::WebSeed as usize];
        assert_eq!((area.requests[2], area.sent_bytes, area.cut), (1, 0, 1));
        assert_eq!(stats.under_way, 0);
    }
}
