//! From what a person types to a torrent: a path, a magnet link, a URL of a `.torrent`, or a bare info hash.
//!
//! Nothing here talks to peers or trackers; a magnet stays a magnet until its metadata is found. What comes from a file
//! or a server is read with a limit and parsed off the runtime's threads, and metadata fetched for a magnet is accepted
//! only if its hash is the one asked for. Each error says what to do next.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use bytes::Bytes;
use wtfs_proto::id::{InfoHash, InfoHashV2, InfoHashes};
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;

use crate::http::{Family, HttpClient, HttpError, host_of};

#[cfg(test)]
mod tests;

/// Largest `.torrent` read. One with a million pieces takes 20 MB; anything larger is a mistake or an attack.
pub const MAX_METAINFO_BYTES: usize = 32 * 1024 * 1024;
/// Longest time for a `.torrent` over HTTP, redirects and body included.
const FETCH_TOTAL: Duration = Duration::from_secs(60);
/// URLs of a magnet that are tried for its metadata. A magnet comes from a stranger: it may not list a host to flood.
const MAX_METADATA_URLS: usize = 8;

/// What a torrent is added from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Its metainfo is at hand.
    Metainfo(Box<Metainfo>),
    /// Only its hash and some hints are; the metadata comes from peers or URLs.
    Magnet(Box<Magnet>),
}

/// Why a source could not be understood or read. The texts say what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nothing of the kinds accepted, and no file of that name.
    #[error(
        "there is no file {0}; give the path of a .torrent, a magnet link, an http(s) URL of a .torrent, or an info hash of 40 hex digits"
    )]
    NotFound(String),
    /// A directory.
    #[error("{0} is a directory; give a .torrent, or make one of the directory with `wtfs create`")]
    Directory(String),
    /// The file cannot be read.
    #[error("{path} cannot be read ({reason}); check its permissions")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Larger than any `.torrent`.
    #[error("{0} is larger than 32 MiB, so it is not a .torrent; check that it is not the content itself")]
    TooLarge(String),
    /// A URL of a scheme we cannot fetch.
    #[error("URLs that begin with {0}: are not supported; use http, https or magnet")]
    Scheme(String),
    /// HTTP failed.
    #[error("the .torrent could not be fetched: {0}")]
    Http(#[from] HttpError),
    /// A web page instead of a `.torrent`.
    #[error(
        "{0} is a web page, not a .torrent; open it in a browser and copy the link of its download button or its magnet link"
    )]
    WebPage(String),
    /// It is no `.torrent`.
    #[error("{what} is not a valid .torrent: {reason}; fetch it again or ask its source for a good one")]
    Metainfo {
        /// The file or host it came from.
        what: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// It is no magnet link.
    #[error("the magnet link is not valid: {0}; copy it again, in quotes, since a shell cuts it at each `&`")]
    Magnet(String),
    /// What a URL of the magnet gave is another torrent.
    #[error("{0} gave a .torrent with another info hash; it was not used")]
    OtherTorrent(String),
    /// The magnet names no URL for its metadata.
    #[error("the magnet link names no http(s) URL for its metadata; it has to come from peers")]
    NoMetadataUrl,
    /// The file is changing or the machine is out of threads.
    #[error("the .torrent could not be read: {0}; try again")]
    Interrupted(String),
}

/// Finds out what `text` is, and reads it.
///
/// A path that looks like an info hash or a URL can be given as `./name`.
///
/// # Errors
/// See [`ResolveError`]; each is for the caller to show as it is.
///
/// # Cancel safety
/// Dropping the future ends a transfer; reading a file runs on to its end unseen.
pub async fn source(text: &str, client: &HttpClient) -> Result<Source, ResolveError> {
    let text = text.trim();
    if has_prefix(text, "magnet:") {
        return magnet(text);
    }
    if has_prefix(text, "http://") || has_prefix(text, "https://") {
        return Ok(Source::Metainfo(Box::new(fetch(text, client).await?)));
    }
    if let Some(link) = magnet_of_hash(text) {
        return magnet(&link);
    }
    if has_prefix(text, "file://") {
        let path = url::Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        let path = path.ok_or_else(|| ResolveError::NotFound(text.to_owned()))?;
        return read_file(path).await;
    }
    if let Some((scheme, _)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+')
    {
        return Err(ResolveError::Scheme(scheme.to_owned()));
    }
    read_file(PathBuf::from(text)).await
}

/// The metadata of a magnet from the http(s) ones of `urls` (its `xs` and `as`), tried in order.
///
/// # Errors
/// [`ResolveError::NoMetadataUrl`] when none is http(s); else the error of the last one tried. A `.torrent` of another
/// hash than `expected` is an error, never a result.
///
/// # Cancel safety
/// Dropping the future ends the transfer.
pub async fn fetch_metadata_http(
    client: &HttpClient,
    urls: &[String],
    expected: &InfoHashes,
) -> Result<Metainfo, ResolveError> {
    let mut last = ResolveError::NoMetadataUrl;
    let usable = urls.iter().filter(|url| has_prefix(url, "http://") || has_prefix(url, "https://"));
    for url in usable.take(MAX_METADATA_URLS) {
        match fetch(url, client).await {
            Ok(metainfo) if expected.matches(&metainfo.info_bytes) => return Ok(metainfo),
            Ok(_) => last = ResolveError::OtherTorrent(name_of(url)),
            Err(error) => last = error,
        }
        tracing::debug!(error = %last, "a URL of the magnet gave no metadata");
    }
    Err(last)
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

fn magnet(link: &str) -> Result<Source, ResolveError> {
    let magnet = Magnet::parse(link).map_err(|error| ResolveError::Magnet(error.to_string()))?;
    Ok(Source::Magnet(Box::new(magnet)))
}

/// The magnet link of a bare info hash: v1 in hex or Base32, v2 as a multihash (`1220` and 64 hex digits).
fn magnet_of_hash(text: &str) -> Option<String> {
    if let Ok(hash) = InfoHash::from_str(text) {
        return Some(format!("magnet:?xt=urn:btih:{hash}"));
    }
    let v2 = InfoHashV2::from_str(text.strip_prefix("1220")?).ok()?;
    Some(format!("magnet:?xt=urn:btmh:1220{v2}"))
}

/// What errors call the server of `url`.
fn name_of(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| "the URL".to_owned(), |url| host_of(&url))
}

async fn fetch(url: &str, client: &HttpClient) -> Result<Metainfo, ResolveError> {
    let what = name_of(url);
    let fetched = match client.fetch(url, Family::Any, MAX_METAINFO_BYTES, FETCH_TOTAL).await {
        Err(HttpError::TooLarge { .. }) => return Err(ResolveError::TooLarge(what)),
        fetched => fetched?.successful(&what)?,
    };
    let is_html = fetched.content_type.is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
    // Servers often send .torrent files as text/html or text/plain: what counts is how the content begins.
    let looks_like_markup = fetched.body.trim_ascii_start().starts_with(b"<");
    if looks_like_markup || (is_html && !fetched.body.starts_with(b"d")) {
        return Err(ResolveError::WebPage(what));
    }
    parse(what, fetched.body).await
}

async fn read_file(path: PathBuf) -> Result<Source, ResolveError> {
    let what = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read_bounded(&path)).await;
    let body = read.map_err(|error| ResolveError::Interrupted(error.to_string()))??;
    Ok(Source::Metainfo(Box::new(parse(what, Bytes::from(body)).await?)))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ResolveError> {
    let name = || path.display().to_string();
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidFilename => ResolveError::NotFound(name()),
        _ => ResolveError::Unreadable { path: name(), reason: error.to_string() },
    };
    // Looked at before it is opened: to open a FIFO waits for a writer that may never come.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(ResolveError::Directory(name()));
    }
    if !metadata.is_file() {
        return Err(ResolveError::Unreadable { path: name(), reason: "it is not a regular file".to_owned() });
    }
    let limit = u64::try_from(MAX_METAINFO_BYTES).expect("32 MiB fits");
    let mut body = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1).read_to_end(&mut body).map_err(unreadable)?;
    if body.len() > MAX_METAINFO_BYTES {
        return Err(ResolveError::TooLarge(name()));
    }
    Ok(body)
}

/// Parses on a blocking thread: a large torrent takes longer than a runtime thread may be kept.
async fn parse(what: String, body: Bytes) -> Result<Metainfo, ResolveError> {
    let parsed = tokio::task::spawn_blocking(move || Metainfo::parse(&body)).await;
    let parsed = parsed.map_err(|error| ResolveError::Interrupted(error.to_string()))?;
    parsed.map_err(|error| ResolveError::Metainfo { what, reason: error.to_string() })
}
