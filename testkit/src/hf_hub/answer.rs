//! One request from its head to its answer: logged, met by faults, answered by the part whose it is, and dressed with the
//! headers that the real site sends around everything.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    State, admin, api,
    body::Flow,
    content::{Content, hex},
    fault::{self, FaultKind, Part, Side},
    files, lock,
    log::Request,
    route::{self, Route},
    serve::Doom,
    signed,
};

/// How large a body of a request may be.
const BODY_BYTES_MAX: usize = 8 << 20;

/// What is asked, as far as the answer depends on it.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Raw, without the query.
    pub(super) path: String,
    /// Raw.
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) faults: Vec<FaultKind>,
}

impl Asked {
    /// A header's text.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All parameters of the query, decoded.
    pub(super) fn pairs(&self) -> Vec<(String, String)> {
        route::pairs(&self.query)
    }

    /// One parameter of the query, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.pairs().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether it meets such a fault.
    pub(super) fn meets(&self, fits: impl Fn(&FaultKind) -> bool) -> bool {
        self.faults.iter().any(fits)
    }

    fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

/// What is answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    /// What of the content is sent.
    pub(super) span: (u64, u64),
    pub(super) is_chunked: bool,
}

impl Reply {
    pub(super) fn new(status: u16, media_type: &str, content: impl Into<Content>) -> Self {
        let content = content.into();
        let span = (0, content.len());
        let headers = vec![("Content-Type".to_owned(), media_type.to_owned())];
        Self { status, headers, content, span, is_chunked: false }
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::new(200, "application/json; charset=utf-8", value.to_string())
    }

    /// An error as the hub tells it: in headers, and once more in the body.
    pub(super) fn error(status: u16, code: Option<&str>, message: &str) -> Self {
        let mut reply =
            Self::new(status, "application/json; charset=utf-8", json!({ "error": message }).to_string());
        reply = reply.with("X-Error-Message", message);
        if let Some(code) = code { reply.with("X-Error-Code", code) } else { reply }
    }

    pub(super) fn redirect(status: u16, location: &str) -> Self {
        let word = if status == 307 { "Temporary Redirect" } else { "Found" };
        let text = format!("{word}. Redirecting to {location}");
        Self::new(status, "text/plain; charset=utf-8", text).with("Location", location).with("Vary", "Accept")
    }

    /// Sets a header, in place of one that may be there.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Answers one request.
pub(super) async fn answer(
    state: Arc<State>,
    side: Side,
    doom: Doom,
    request: axum::extract::Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let mut asked = Asked {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: body.map(|body| body.to_bytes().to_vec()).unwrap_or_default(),
        faults: Vec::new(),
    };
    if side == Side::Hub
        && let Route::Admin(what) = route::parse(&asked.path)
    {
        // Neither logged nor met by faults.
        let reply = admin::answer(&state, &asked, &what);
        let flow = Flow::of(&reply, Arc::default(), doom);
        return finish(&asked, reply, flow);
    }
    let entry = enter(&state, side, &mut asked);
    for fault in &asked.faults {
        if let FaultKind::Delay(time) = fault {
            tokio::time::sleep(*time).await;
        }
    }
    if asked.meets(|fault| matches!(fault, FaultKind::Reset { after: None })) {
        doom.seal();
    }
    let reply = instead(&state, side, &asked).unwrap_or_else(|| {
        let reply = of_site(&state, side, &asked);
        let is_changed = reply.status == 206 && meet(&state, &mut asked, &entry, Part::Range);
        if is_changed { of_site(&state, side, &asked) } else { reply }
    });
    if matches!(reply.status, 200 | 206) {
        let (start, end) = reply.span;
        meet(&state, &mut asked, &entry, Part::Body(start..end));
    }
    entry.status.store(reply.status, Ordering::Relaxed);
    let mut flow = Flow::of(&reply, entry.sent, doom);
    flow.meet(&asked.faults, &state.faults);
    finish(&asked, dress(side, reply), flow)
}

/// What the site answers.
fn of_site(state: &State, side: Side, asked: &Asked) -> Reply {
    match side {
        Side::Hub => hub(state, asked),
        Side::Cdn => files::cdn(state, asked),
    }
}

/// Logs a request, with the faults that it meets whatever is answered.
fn enter(state: &State, side: Side, asked: &mut Asked) -> Request {
    let mut what = route::decode(&asked.path).unwrap_or_else(|| asked.path.clone());
    if side == Side::Cdn
        && let Some(found) = signed::find(state, &asked.path)
    {
        what = format!("{what}/{}", found.name);
    }
    if !asked.query.is_empty() {
        what = format!("{what}?{}", route::decode_form(&asked.query).unwrap_or_default());
    }
    let header = |name| asked.header(name).map(str::to_owned);
    let authorization = header(header::AUTHORIZATION);
    let entry = Request {
        side,
        method: asked.method.to_string(),
        target: asked.target(),
        what,
        authorization: authorization.map(|text| hex(&Sha256::digest(text)[..16])),
        range: header(header::RANGE),
        accept_encoding: header(header::ACCEPT_ENCODING),
        user_agent: header(header::USER_AGENT),
        cookie: header(header::COOKIE),
        faults: Arc::default(),
        status: Arc::default(),
        sent: Arc::default(),
    };
    meet(state, asked, &entry, Part::Request);
    lock(&state.log).push(entry.clone());
    entry
}

/// Takes the faults that a part of an exchange meets; whether there are any.
fn meet(state: &State, asked: &mut Asked, entry: &Request, part: Part) -> bool {
    let met = fault::met(&mut lock(&state.faults), entry.side, &entry.method, &entry.what, &part);
    entry.meets(&met);
    let is_any = !met.is_empty();
    asked.faults.extend(met);
    is_any
}

/// What a fault has answered in place of the site.
fn instead(state: &State, side: Side, asked: &Asked) -> Option<Reply> {
    let addr = if side == Side::Hub { state.hub } else { state.cdn };
    asked.faults.iter().find_map(|fault| match fault {
        FaultKind::Status(status) => Some(Reply::error(*status, None, "It broke")),
        FaultKind::RateLimit { seconds } => Some(
            Reply::error(429, None, "We had to rate limit your IP")
                .with("RateLimit", &format!("\"resolvers\";r=0;t={seconds}"))
                .with("RateLimit-Policy", "\"fixed window\";\"resolvers\";q=3000;w=300"),
        ),
        FaultKind::Redirect(location) => Some(Reply::redirect(302, location)),
        FaultKind::RedirectLoop => Some(Reply::redirect(302, &format!("http://{addr}{}", asked.target()))),
        FaultKind::Page(html) => Some(Reply::new(200, "text/html", html.as_str())),
        _ => None,
    })
}

fn hub(state: &State, asked: &Asked) -> Reply {
    match route::parse(&asked.path) {
        Route::Whoami => api::whoami(state, asked),
        Route::List(kind) => api::list(state, asked, kind),
        Route::Repo { kind, id, place, around } => api::repo(state, asked, (kind, &id), place, &around),
        Route::Admin(_) | Route::Unknown => {
            Reply::error(404, None, "Sorry, we can't find the page you are looking for.")
        }
    }
}

/// What the site sends around everything, and what no proxy should pass on.
fn dress(side: Side, reply: Reply) -> Reply {
    match side {
        Side::Hub => reply
            .with("X-Powered-By", "huggingface-moon")
            .with("X-Request-Id", "Root=1-66554433-0123456789abcdef01234567")
            .with("Set-Cookie", "token=of-the-upstream; Path=/; HttpOnly")
            .with("Cross-Origin-Opener-Policy", "same-origin")
            .with("Access-Control-Allow-Origin", "https://huggingface.co")
            .with("Access-Control-Expose-Headers", "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Linked-Size,X-Linked-ETag,X-Xet-Hash,Link,ETag,Accept-Ranges,Content-Range")
            .with("Referrer-Policy", "strict-origin-when-cross-origin"),
        Side::Cdn => reply.with("Via", "1.1 0123456789abcdef.cloudfront.net (CloudFront)").with("X-Cache", "Miss from cloudfront"),
    }
}

/// Puts the answer together, changed as faults of headers and bodies say.
fn finish(asked: &Asked, mut reply: Reply, flow: Flow) -> Response {
    let (start, end) = reply.span;
    let mut length = Some(end - start).filter(|_| !reply.is_chunked);
    for fault in &asked.faults {
        match fault {
            FaultKind::NoLength => length = None,
            FaultKind::WrongLength(by) => {
                length = length.map(|length| length.saturating_add_signed(*by));
            }
            FaultKind::NoEtag => {
                let is_etag = |name: &str| {
                    name.eq_ignore_ascii_case("ETag") || name.eq_ignore_ascii_case("X-Linked-Etag")
                };
                reply.headers.retain(|(name, _)| !is_etag(name));
            }
            FaultKind::Header(name, value) => {
                reply = reply.with(name, value);
                reply.headers.retain(|(_, value)| !value.is_empty());
            }
            _ => {}
        }
    }
    let mut response = Response::new(Body::new(flow));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &reply.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("names of headers are tokens");
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("values of headers are one line");
        response.headers_mut().append(name, value);
    }
    if let Some(length) = length.filter(|_| reply.status != 304) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}
