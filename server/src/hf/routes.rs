//! HTTP over the proxy: which request asks for what, and what of an answer is made for this request.
//!
//! The API is served at the root and under `/hf`, so that `HF_ENDPOINT` may be either. Everything that no other route of
//! the hub takes comes here; what the Hub does not have either is 404, and all but reading is 405.
//!
//! Addresses in answers are this hub's. No header of a client's goes upstream but its token, and none of upstream's comes
//! back.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LOCATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{Method, Response};
use wtfs_proto::hf::{Repo, RepoRoute, Revision, Route, RouteError};

use super::counters::add;
use super::refusal::{Refusal, insert};
use super::repos::Age;
use super::rights::Denial;
use super::{Caller, HfProxy, Pinned};
use crate::places::PublicUrl;

mod api;
mod query;
mod resolve;

/// Shown to people by the Hub's clients.
const X_HF_WARNING: HeaderName = HeaderName::from_static("x-hf-warning");

/// Where the API is besides the root.
pub(super) const PREFIX: &str = "/hf";

/// The routes of the proxy, as what is asked when no other route is meant.
pub(crate) fn router(proxy: HfProxy) -> Router {
    Router::new().fallback(serve).with_state(proxy)
}

/// A request, and what is known of who sent it.
#[derive(Debug)]
struct Asked {
    parts: Parts,
    caller: Caller,
    /// What stands before the path of the API in this hub's addresses.
    prefix: &'static str,
}

async fn serve(State(proxy): State<HfProxy>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts, proxy.0.own_token.as_ref(), proxy.0.public_url.as_ref());
    let below = parts.uri.path().strip_prefix(PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let (prefix, path) = match below {
        Some(rest) => (PREFIX, rest),
        None => ("", parts.uri.path()),
    };
    let route = Route::parse(path);
    let asked = Asked { caller, prefix, parts };
    let answer = answer(&proxy, route, &asked, body).await;
    answer.unwrap_or_else(|refusal| {
        add(&proxy.0.counters.refused, 1);
        refusal.into_response()
    })
}

async fn answer(
    proxy: &HfProxy,
    route: Result<Route, RouteError>,
    asked: &Asked,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let is_question = matches!(route, Ok(Route::Repo(_, RepoRoute::PathsInfo { .. })));
    match (&asked.parts.method, is_question) {
        (&Method::POST, true) | (&Method::GET | &Method::HEAD, false) => {}
        (_, true) => return Err(Refusal::Method("POST")),
        _ => return Err(Refusal::Method("GET, HEAD")),
    }
    let (repo, route) = match route {
        Ok(Route::Repo(repo, route)) => (repo, route),
        Ok(Route::WhoAmI) => return Ok(json(proxy.who_am_i(&asked.caller).await?.body)),
        Ok(Route::List(kind)) => return api::list(proxy, asked, kind).await,
        Err(RouteError::Name(_)) => return Err(Refusal::Denied(Denial::Hidden, asked.caller.asker())),
        Err(RouteError::Revision(error)) => return Err(Refusal::Revision(error.to_string())),
        Err(_) => return Err(Refusal::Nowhere),
    };
    match route {
        RepoRoute::Info { revision } => {
            let revision = revision.unwrap_or_else(Revision::main);
            api::info(proxy, asked, &repo, &revision).await
        }
        RepoRoute::Tree { revision, directory } => {
            api::tree(proxy, asked, &repo, &revision, directory.as_ref()).await
        }
        RepoRoute::PathsInfo { revision } => api::paths_info(proxy, asked, &repo, &revision, body).await,
        RepoRoute::Refs => api::refs(proxy, asked, &repo).await,
        RepoRoute::Commits { revision } => api::commits(proxy, asked, &repo, &revision).await,
        RepoRoute::AuthCheck => api::auth_check(proxy, asked, &repo).await,
        RepoRoute::WriteCheck => {
            proxy.may_write(&repo, &asked.caller).await?;
            Ok(json("{}"))
        }
        // Xet is never offered, so nobody has a reason to ask.
        RepoRoute::XetReadToken { .. } => Err(Refusal::Nowhere),
        RepoRoute::Resolve { revision, file } => {
            resolve::resolve(proxy, asked, &repo, &revision, &file).await
        }
        RepoRoute::Raw { revision, file } => resolve::raw(proxy, asked, &repo, &revision, &file).await,
    }
}

impl Asked {
    /// This hub's address of the API, as it was asked by, without a slash at the end.
    fn endpoint(&self, proxy: &HfProxy) -> Option<String> {
        let place = proxy.0.public_url.clone().or_else(|| PublicUrl::of_request(&self.parts))?;
        Some(format!("{place}{}", self.prefix))
    }

    /// Says what is asked for by another name is called upstream: clients are spared a redirect, which old ones follow
    /// wrongly, and can still find out (RFC 9110, 8.7).
    fn name(
        &self,
        proxy: &HfProxy,
        headers: &mut HeaderMap,
        typed: &Repo,
        pinned: &Pinned,
        path: impl FnOnce() -> String,
    ) {
        if pinned.repo != *typed
            && let Some(endpoint) = self.endpoint(proxy)
        {
            insert(headers, CONTENT_LOCATION, &format!("{endpoint}{}", path()));
        }
    }

    async fn pin(&self, proxy: &HfProxy, repo: &Repo, revision: &Revision) -> Result<Pinned, Refusal> {
        let pinned = proxy.pin(repo, revision, &self.caller).await?;
        if pinned.age == Age::Stale {
            add(&proxy.0.counters.stale, 1);
        }
        Ok(pinned)
    }
}

fn json(body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What it says depends on who asks.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
}

/// Says so where an answer may be out of date.
fn with_age(response: Response<Body>, pinned: &Pinned) -> Response<Body> {
    with_warning(response, pinned.age)
}

fn with_warning(mut response: Response<Body>, age: Age) -> Response<Body> {
    if age == Age::Stale {
        let warning = "offline; The upstream hub cannot be asked: this is what was known last";
        response.headers_mut().insert(X_HF_WARNING, HeaderValue::from_static(warning));
    }
    response
}
