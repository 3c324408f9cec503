//! Following redirects, hop by hop: bounded, without loops, and each hop only within the reach it has.
//!
//! The HTTP library's own following is switched off, because it cannot tell a host that was named beforehand from one
//! that a server sends us to. Every hop is a GET without the headers of a credential: those in a URL are that URL's own.

use bytes::Bytes;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::reach::{NamedHosts, Reach};
use super::{Connections, Family, HttpClient, HttpError, host_of};

/// An answer, and where it came from.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) response: Response,
    /// The URL that answered.
    pub(crate) url: Url,
    /// All redirects on the way said that they are for good (301, 308): `url` may be asked at once the next time.
    pub(crate) is_for_good: bool,
}

impl HttpClient {
    /// GETs `url` with these headers, following redirects; the answer's body is still to be read. Any status but
    /// that of a redirect is an `Ok`.
    ///
    /// Each hop has the client's time limits for itself; a limit for all of them is the caller's to set.
    ///
    /// # Errors
    /// All but [`HttpError::Status`] and [`HttpError::TooLarge`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub(crate) async fn get(
        &self,
        url: Url,
        (family, connections): (Family, Connections),
        headers: &HeaderMap,
        named: &NamedHosts,
    ) -> Result<Landed, HttpError> {
        let first = host_of(&url);
        let mut visited: Vec<Url> = Vec::new();
        let (mut url, mut is_for_good) = (url, true);
        loop {
            if !matches!(url.scheme(), "http" | "https") {
                return Err(HttpError::InvalidUrl(format!("its scheme is {}", url.scheme())));
            }
            let host = host_of(&url);
            let reach = Reach::of(&url, named, self.config().private_hosts);
            if let Some(what) = reach.refuses_host(&url) {
                return Err(HttpError::OutOfReach { host, what });
            }
            let request = self.client_of(family, connections, reach)?.get(url.clone());
            let request = request.headers(headers.clone());
            let response = request.send().await.map_err(|error| self.classify(&host, &error))?;
            let Some(next) = Self::redirected(&response, &url) else {
                return Ok(Landed { response, url, is_for_good });
            };
            let next = next.map_err(|reason| HttpError::Broken { host, reason })?;
            is_for_good &=
                matches!(response.status(), StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT);
            visited.push(url);
            let limit = self.config().max_redirects;
            if visited.contains(&next) {
                return Err(HttpError::RedirectLoop { host: first });
            }
            if visited.len() > limit {
                return Err(HttpError::TooManyRedirects { host: first, limit });
            }
            url = next;
        }
    }

    /// Sends one request and follows nothing: for a client with rules of its own about where it may be sent. The reach is
    /// guarded as in [`Self::get`]. Any status is an `Ok`.
    ///
    /// # Errors
    /// All but [`HttpError::Status`], [`HttpError::TooLarge`] and those of redirects.
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub(crate) async fn send_once(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Bytes>,
        named: &NamedHosts,
    ) -> Result<Response, HttpError> {
        let host = host_of(&url);
        let reach = Reach::of(&url, named, self.config().private_hosts);
        if let Some(what) = reach.refuses_host(&url) {
            return Err(HttpError::OutOfReach { host, what });
        }
        let mut request =
            self.client_of(Family::Any, Connections::Kept, reach)?.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        request.send().await.map_err(|error| self.classify(&host, &error))
    }

    /// Where an answer sends us, if it is a redirect that says where.
    pub(crate) fn redirected(response: &Response, from: &Url) -> Option<Result<Url, String>> {
        let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().get(LOCATION).filter(|_| is_redirect)?;
        let next = location.to_str().map_err(|_| "it redirects to what is no URL".to_owned());
        Some(
            next.and_then(|text| {
                from.join(text).map_err(|error| format!("it redirects to no URL ({error})"))
            }),
        )
    }
}
