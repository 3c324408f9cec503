//! Announce and scrape over HTTP(S) (BEP 3, 7, 23, 48).
//!
//! The announce URL is kept as it is, with whatever its query holds (passkeys live there); our parameters are appended.
//! A host with addresses of both families is announced to over both (BEP 7). A tracker that refuses with an error
//! status and a proper `failure reason` is quoted; any other status is reported as such.

use std::net::SocketAddr;
use std::time::Duration;

use wtfs_proto::id::InfoHash;
use wtfs_proto::tracker::http as messages;
use wtfs_proto::tracker::http::AnnounceResponse;
use wtfs_proto::tracker::{AnnounceRequest, ScrapeEntry};

use super::{AnnounceError, FAMILY_GRACE, over_both};
use crate::http::{Family, Fetched, HttpClient, host_of};

#[cfg(test)]
mod tests;

/// Largest answer read. 200 peers take 1.2 kB in the compact form and some 20 kB as dictionaries.
const MAX_RESPONSE_BYTES: usize = 2 * 1024 * 1024;

/// Announces over the families the host has; one answer for each that worked.
pub(super) async fn announce(
    client: &HttpClient,
    url: &str,
    request: &AnnounceRequest,
    total: Duration,
) -> Result<(AnnounceResponse, Option<AnnounceResponse>), AnnounceError> {
    let url = parse(url)?;
    let host = host_of(&url);
    let full = with_query(&url, &messages::announce_query(request));
    let over = |family| {
        let (full, host) = (&full, &host);
        async move {
            let fetched = client.fetch(full, family, MAX_RESPONSE_BYTES, total).await?;
            read_announce(&fetched, host)
        }
    };
    if has_both_families(&url, client.config().connect_timeout).await {
        over_both(over(Family::V4), over(Family::V6), FAMILY_GRACE).await
    } else {
        Ok((over(Family::Any).await?, None))
    }
}

/// Scrapes the counts of `hashes`.
pub(super) async fn scrape(
    client: &HttpClient,
    url: &str,
    hashes: &[InfoHash],
    total: Duration,
) -> Result<Vec<Option<ScrapeEntry>>, AnnounceError> {
    let scrape_url = messages::scrape_url(url)
        .ok_or(AnnounceError::Unsupported("this tracker's URL has no counterpart for scrapes"))?;
    let url = parse(&scrape_url)?;
    let full = with_query(&url, &messages::scrape_query(hashes));
    let fetched = client.fetch(&full, Family::Any, MAX_RESPONSE_BYTES, total).await?;
    let host = host_of(&url);
    let fetched = fetched.successful(&host)?;
    let response = messages::decode_scrape_response(&fetched.body).map_err(AnnounceError::from)?;
    Ok(hashes.iter().map(|hash| response.entries.get(hash).copied()).collect())
}

fn parse(url: &str) -> Result<url::Url, AnnounceError> {
    url::Url::parse(url).map_err(|error| AnnounceError::InvalidUrl(error.to_string()))
}

/// `url` with `query` after the query it has. Its bytes are not touched: the info hash is percent-encoded binary.
fn with_query(url: &url::Url, query: &str) -> String {
    let mut base = url.clone();
    base.set_fragment(None);
    let joint = match base.query() {
        None => "?",
        Some("") => "",
        Some(_) => "&",
    };
    format!("{base}{joint}{query}")
}

fn read_announce(fetched: &Fetched, host: &str) -> Result<AnnounceResponse, AnnounceError> {
    match messages::decode_announce_response(&fetched.body).map_err(AnnounceError::from) {
        // Many trackers send their refusals with status 400 or 403.
        Err(refused @ AnnounceError::Refused { .. }) => Err(refused),
        decoded if fetched.status.is_success() => decoded,
        _ => Err(fetched.status_error(host).into()),
    }
}

/// Whether the name in `url` has addresses of both families. A failure is left to the request itself, which reports it
/// better, and which may go through a proxy that resolves names for us.
async fn has_both_families(url: &url::Url, timeout: Duration) -> bool {
    let (Some(url::Host::Domain(name)), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return false;
    };
    match tokio::time::timeout(timeout, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            addresses.iter().any(SocketAddr::is_ipv4) && addresses.iter().any(SocketAddr::is_ipv6)
        }
        _ => false,
    }
}
