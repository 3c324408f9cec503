//! The dashboard: one page, its style and its script, part of the program.
//!
//! Owns what is served at `/` and `/assets`, and the policy that keeps anything else from running in the page. All it
//! shows it asks of `/stats`; names of torrents reach it as data and are put in as text.
//!
//! Invariant: nothing in the page comes from another place, and nothing a torrent is called becomes part of it.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{NestedPath, Request};
use axum::http::header::{ACCEPT, HeaderValue, VARY};
use axum::http::{HeaderMap, Response};
use axum::response::IntoResponse as _;
use axum::routing::get;

use crate::page::Part;

const PAGE: &str = include_str!("../assets/dashboard.html");
const STYLE: &str = include_str!("../assets/dashboard.css");
const SCRIPT: &str = include_str!("../assets/dashboard.js");
const ICON: &str = include_str!("../assets/icon.svg");

/// What the page may load and do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What [`PAGE`] has in common with the page for browsers, and what stands in its place there.
const SHARED: [(&str, &str); 2] = [
    ("<!-- shared: head -->\n", include_str!("../assets/shared/head.html")),
    ("<!-- shared: theme -->\n", include_str!("../assets/shared/theme.html")),
];

/// Where the page's parts stand for the page; what is in their place in [`PAGE`].
const HERE: &str = "{here}";

/// The page's parts.
pub(crate) fn router() -> Router {
    Router::new()
        .route(
            "/assets/dashboard.css",
            get(async |headers| asset(&headers, "text/css; charset=utf-8", STYLE)),
        )
        .route(
            "/assets/dashboard.js",
            get(async |headers| asset(&headers, "text/javascript; charset=utf-8", SCRIPT)),
        )
        .route("/assets/icon.svg", get(async |headers| asset(&headers, "image/svg+xml", ICON)))
}

/// The page, for browsers; programs that do not ask for HTML are told where else to look.
pub(crate) fn page(request: &Request) -> Response<Body> {
    let mut response = if accepts_html(request.headers()) {
        let here = request.extensions().get::<NestedPath>().map_or(".", NestedPath::as_str);
        let here = here.trim_end_matches('/').replace(['"', '<', '>', '&'], "");
        respond(request.headers(), "text/html; charset=utf-8", whole().replace(HERE, &here))
    } else {
        "wtfs: torrents are listed at /torrents, numbers at /stats\n".into_response()
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// The page with all its parts.
fn whole() -> String {
    SHARED.iter().fold(PAGE.to_owned(), |page, (place, part)| page.replace(place, part))
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = lists.flat_map(|list| list.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html")))
}

fn asset(headers: &HeaderMap, kind: &'static str, text: &'static str) -> Response<Body> {
    respond(headers, kind, text)
}

fn respond(asked: &HeaderMap, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    Part { kind, keep: "no-cache", policy: POLICY, bytes: bytes.into() }.respond(asked)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};

    use super::*;

    fn asked(accept: Option<&str>) -> Response<Body> {
        let mut request = Request::builder().uri("/");
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        page(&request.body(Body::empty()).expect("a request"))
    }

    #[test]
    fn browsers_get_the_page_and_programs_a_line() {
        let kind =
            |response: &Response<Body>| response.headers()[CONTENT_TYPE].to_str().expect("text").to_owned();
        let html = asked(Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"));
        assert_eq!(kind(&html), "text/html; charset=utf-8");
        assert_eq!(html.headers()[CONTENT_SECURITY_POLICY], POLICY);
        for accept in [None, Some("*/*"), Some("application/json")] {
            assert_eq!(kind(&asked(accept)), "text/plain; charset=utf-8", "{accept:?}");
        }
    }

    #[test]
    fn the_page_asks_nobody_else_and_runs_nothing_that_stands_in_it() {
        let page = whole();
        for text in [&page, STYLE, SCRIPT] {
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://") && !text.contains("//cdn"));
        }
        for word in ["<script>", "<style", "style=\"", "onclick", "onload"] {
            assert!(!page.contains(word), "{word}");
        }
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        assert!(page.contains(HERE) && page.contains(r#"id="theme""#) && !page.contains("<!--"));
    }

    #[test]
    fn a_part_that_is_known_is_not_sent_again() {
        let first = asset(&HeaderMap::new(), "text/css", STYLE);
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(asset(&headers, "text/css", STYLE).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(asset(&headers, "text/css", SCRIPT).status(), StatusCode::OK);
    }
}
