//! Files over HTTP, as web seeds are asked for them and as people are.
//!
//! - `/seed/{info hash}/{name}/{path}`: BEP 19. `/seed/{info hash}/` stands in a torrent's `url-list`; what it leads to
//!   never changes, and when the file does it is gone (404). It is itself the one file of a torrent that is no directory:
//!   some clients (webtorrent.js) do not append the name.
//! - `/files/{name}/{path}`: the same by name, for people: what has that name now.
//! - `/seed?info_hash=..&piece=..&ranges=..`: BEP 17 (in [`by_piece`]).
//!
//! Pages of any origin may read what is named by an info hash, as browsers' BitTorrent clients do; who does not know the
//! hash learns nothing. What goes by name is for pages of the hub alone.
//!
//! A path from a request is only ever compared with the names in a torrent; none is joined to a directory. What is sent
//! is a stranger's data: it is never named anything that a browser would show as a page.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_DISPOSITION,
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use axum::routing::get;
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::id::InfoHash;

use crate::library::{Item, Library};
use crate::names;
use crate::serving::lane::Lane;

pub(crate) mod body;
mod by_piece;
pub(crate) mod conditions;
pub(crate) mod range;

pub(crate) use body::Source;
use conditions::{Validators, Verdict, weigh};
use range::Wanted;

type Shared = Arc<dyn Library>;

/// How long a response may be kept by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// For good: the address names its content.
    Forever,
    /// Only if it is asked about again: another file may have the name.
    Ask,
}

pub(crate) fn router(library: Shared) -> Router {
    Router::new()
        .route("/seed", get(by_piece::serve).options(preflight))
        .route("/seed/{info_hash}/", get(by_hash).options(preflight))
        .route("/seed/{info_hash}/{*path}", get(by_hash).options(preflight))
        .route("/files/{*path}", get(by_name))
        .with_state(library)
}

async fn by_hash(State(library): State<Shared>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let found = below(&parts, "/seed/").and_then(|path| {
        let (hash, path) = path.split_once('/')?;
        let item = library.by_hash(hash.parse::<InfoHash>().ok()?)?;
        let file = if path.is_empty() { item.sole_file()? } else { item.file_at(path)? };
        Some((item, file))
    });
    serve_found(found, parts, Keep::Forever).await
}

/// Lets a page of another origin ask for ranges.
async fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    allow_everybody(headers);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("range, if-range, cache-control, user-agent"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Lets pages of all origins read the answer.
pub(crate) fn allow_everybody(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let shown = HeaderValue::from_static("accept-ranges, content-length, content-range, etag");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, shown);
}

async fn by_name(State(library): State<Shared>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let found = below(&parts, "/files/").and_then(|path| {
        let name = path.split('/').next()?;
        let item = library.by_name(name)?;
        let file = item.file_at(&path)?;
        Some((item, file))
    });
    serve_found(found, parts, Keep::Ask).await
}

/// The decoded path behind a prefix. A slash that was written as `%2F` is not one: no name holds it.
fn below(parts: &Parts, prefix: &str) -> Option<String> {
    let path = parts.uri.path().strip_prefix(prefix)?;
    let mut decoded = String::with_capacity(path.len());
    for (at, component) in path.split('/').enumerate() {
        if at > 0 {
            decoded.push('/');
        }
        let component = names::percent_decode(component)?;
        if component.contains(['/', '\0']) {
            return None;
        }
        decoded.push_str(&component);
    }
    Some(decoded)
}

async fn serve_found(found: Option<(Arc<Item>, FileIndex)>, parts: Parts, keep: Keep) -> Response<Body> {
    match found {
        Some((item, file)) => serve(&item, file, &parts, keep).await,
        None => missing(),
    }
}

fn missing() -> Response<Body> {
    let mut response = Response::new(Body::from("no such file here\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn serve(item: &Item, file: FileIndex, parts: &Parts, keep: Keep) -> Response<Body> {
    let Some(entry) = usize::try_from(file.get()).ok().and_then(|at| item.metainfo().info.files.get(at))
    else {
        return missing();
    };
    let len = entry.bytes;
    // Opened also when nothing will be sent: a file that is not what it was must not be vouched for.
    let Ok(source) = item.open(file).await else { return missing() };
    let own =
        Validators { tag: format!("\"{}-{}\"", item.info_hash(), file.get()), modified: item.modified() };
    let verdict = weigh(&parts.headers, &own, len);

    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, ETAG, &own.tag);
    if let Some(modified) = own.modified {
        insert(headers, LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    }
    if keep == Keep::Forever {
        allow_everybody(headers);
    }
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static(match keep {
            Keep::Forever => "public, max-age=31536000, immutable",
            Keep::Ask => "no-cache",
        }),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let range = match verdict {
        Verdict::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        Verdict::PreconditionFailed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            return response;
        }
        Verdict::Give(Wanted::Unsatisfiable) => {
            insert(headers, CONTENT_RANGE, &format!("bytes */{len}"));
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return response;
        }
        Verdict::Give(Wanted::Whole) => 0..len,
        Verdict::Give(Wanted::Part(range)) => {
            insert(headers, CONTENT_RANGE, &format!("bytes {}-{}/{len}", range.start, range.end - 1));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // Whatever a browser makes of it, nothing in it may run.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    insert(headers, CONTENT_DISPOSITION, &names::attachment(entry.path.file_name()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if parts.method != Method::HEAD {
        let lane = parts.extensions.get::<Lane>().cloned();
        *response.body_mut() = body::body(source, range, lane);
    }
    response
}

/// Values of ours, which are all visible ASCII.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(error) => tracing::error!(%name, %error, "a header was left out"),
    }
}
