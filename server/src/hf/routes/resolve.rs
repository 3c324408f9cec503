//! Files of repositories: their bytes, from the cache or while they come.
//!
//! All headers are made of the tree, so that HEAD and the head of a GET are the same and wait for no bytes. The hash is
//! the `ETag`, and what clients name their files by.

use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, Response, StatusCode};
use wtfs_proto::hf::{ContentId, FilePath, Repo, Revision, TreeFile};

use super::super::arrival::{self, Wish};
use super::super::counters::add;
use super::super::refusal::{Refusal, X_REPO_COMMIT, insert};
use super::super::swarm::piece_bytes;
use super::super::taints::RangeEnd;
use super::super::trouble::of_blob;
use super::super::{HfProxy, Pinned, Snapshot};
use super::{Asked, with_age};
use crate::names;
use crate::serving::lane::Lane;
use crate::webseed::conditions::{Validators, Verdict, weigh};
use crate::webseed::range::{Wanted, is_open_ended};

const X_LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const X_LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");

/// How long a client that has much under way waits for its turn: it gives up after 10 s.
const PLACE_WAIT: Duration = Duration::from_secs(7);

/// A file that a caller may read.
struct Found {
    snapshot: Snapshot,
    file: TreeFile,
    token: Option<wtfs_torrent::hf::Token>,
}

async fn find(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
    path: &FilePath,
) -> Result<Found, Refusal> {
    let pinned = asked.pin(proxy, repo, revision).await?;
    let token = proxy.may_read(&pinned, &asked.caller).await?;
    let (snapshot, file) = proxy.file_at(pinned, path, &asked.caller).await?;
    Ok(Found { snapshot, file, token })
}

pub(super) async fn resolve(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
    path: &FilePath,
) -> Result<Response<Body>, Refusal> {
    let Found { snapshot, file, token } = find(proxy, asked, repo, revision, path).await?;
    let pinned = &snapshot.pinned;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    describe(headers, pinned, &file);
    asked.name(proxy, headers, repo, pinned, || pinned.repo.resolve_path(revision, path));
    let is_fixed = revision.commit().is_some() && snapshot.is_public;
    headers.insert(
        CACHE_CONTROL,
        // Who compresses it on the way takes its length away, which clients need.
        HeaderValue::from_static(if is_fixed {
            "public, max-age=31536000, immutable, no-transform"
        } else {
            "private, no-cache, no-transform"
        }),
    );
    let range = match wanted(&asked.parts.headers, &asked.parts.method, &file) {
        Portion::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(with_age(response, pinned));
        }
        Portion::Failed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            return Ok(response);
        }
        Portion::Behind => {
            let mut refused = Refusal::Range { bytes: file.bytes }.into_response();
            describe(refused.headers_mut(), pinned, &file);
            return Ok(refused);
        }
        Portion::Nothing => {
            insert(headers, CONTENT_RANGE, "bytes */0");
            0..0
        }
        Portion::Whole => 0..file.bytes,
        Portion::Part(part) => {
            insert(headers, CONTENT_RANGE, &format!("bytes {}-{}/{}", part.start, part.end - 1, file.bytes));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            part
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    insert(headers, CONTENT_DISPOSITION, &names::attachment(path.file_name()));
    if asked.parts.method != Method::HEAD && !range.is_empty() {
        let end = range_end(&asked.parts.headers);
        *response.body_mut() = bytes(proxy, asked, &snapshot, &file, (range, end), token).await?;
    }
    Ok(with_age(response, pinned))
}

fn range_end(headers: &HeaderMap) -> RangeEnd {
    let header = headers.get(RANGE).and_then(|range| range.to_str().ok());
    if header.is_some_and(is_open_ended) { RangeEnd::Open } else { RangeEnd::Given }
}

/// What a file is known by, in every answer about it.
fn describe(headers: &mut HeaderMap, pinned: &Pinned, file: &TreeFile) {
    let tag = format!("\"{}\"", file.id);
    insert(headers, ETAG, &tag);
    insert(headers, X_LINKED_ETAG, &tag);
    insert(headers, X_LINKED_SIZE, &file.bytes.to_string());
    insert(headers, X_REPO_COMMIT, &pinned.commit().to_string());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    disarm(headers);
}

/// Whatever a browser makes of a file, nothing in it may run.
fn disarm(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
}

/// What of a file a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Portion {
    Whole,
    Part(std::ops::Range<u64>),
    /// A range of a file without bytes: all of it, and told as a range, since clients read its length there.
    Nothing,
    Behind,
    NotModified,
    Failed,
}

fn wanted(headers: &HeaderMap, method: &Method, file: &TreeFile) -> Portion {
    let mut headers = headers.clone();
    let has_range = headers.contains_key(RANGE);
    if method == Method::HEAD || file.bytes == 0 {
        headers.remove(RANGE);
    }
    let listed = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    // Some clients send the hash as they keep it: without quotes.
    let is_bare = |tag: &str| ContentId::from_etag(tag) == Ok(file.id);
    if listed.is_some_and(|tags| tags.split(',').any(is_bare)) {
        return Portion::NotModified;
    }
    let own = Validators { tag: format!("\"{}\"", file.id), modified: None };
    match weigh(&headers, &own, file.bytes) {
        Verdict::NotModified => Portion::NotModified,
        Verdict::PreconditionFailed => Portion::Failed,
        Verdict::Give(Wanted::Unsatisfiable) => Portion::Behind,
        Verdict::Give(Wanted::Part(part)) => Portion::Part(part),
        Verdict::Give(Wanted::Whole) if file.bytes == 0 && has_range && method != Method::HEAD => {
            Portion::Nothing
        }
        Verdict::Give(Wanted::Whole) => Portion::Whole,
    }
}

async fn bytes(
    proxy: &HfProxy,
    asked: &Asked,
    snapshot: &Snapshot,
    file: &TreeFile,
    (range, end): (std::ops::Range<u64>, RangeEnd),
    token: Option<wtfs_torrent::hf::Token>,
) -> Result<Body, Refusal> {
    let counters = &proxy.0.counters;
    let blob = proxy.blob_of(file);
    let lane = asked.parts.extensions.get::<Lane>().cloned();
    let len = range.end - range.start;
    let client = asked.caller.client;
    let taints = &proxy.0.taints;
    let may_go_on = taints.lock().unwrap_or_else(PoisonError::into_inner).allows(
        file.id,
        client,
        (&range, end),
        blob.discarded(),
        (Instant::now(), SystemTime::now()),
    );
    if !may_go_on {
        let why = "what was sent of this file before was wrong: remove the partial download and begin again (huggingface_hub: \
                   force_download)";
        return Err(Refusal::BadGateway(why.to_owned()));
    }
    let asker = asked.caller.asker();
    proxy.vouch(snapshot, file, token.as_ref(), asker).await?;
    if let Some(body) = arrival::whole(&blob, &range, lane.as_ref()).await {
        proxy.vouch(snapshot, file, token.as_ref(), asker).await?;
        add(&counters.warm, 1);
        add(&counters.warm_bytes, len);
        return Ok(body);
    }
    if snapshot.is_public || proxy.0.config.private_swarms.include(&snapshot.pinned.repo) {
        // For its torrent, in the pass that verifies it.
        blob.want_hashes(piece_bytes(file.bytes));
    }
    let pinned = &snapshot.pinned;
    let place = proxy.0.limits.take(client, PLACE_WAIT).await.ok_or(Refusal::Busy)?;
    let origin = proxy.origin_of(pinned, file, token.clone());
    let patience = proxy.0.config.patience;
    let wish = Wish { blob, range, origin, lane, client, patience, _place: place, taints: taints.clone() };
    let body = arrival::arriving(wish).await.map_err(|error| {
        tracing::info!(%error, repo = %pinned.repo, file = %file.path, "a file cannot be had");
        of_blob(&error, asker)
    })?;
    // Others may have begun to fetch it meanwhile, by a repository that not everybody may read.
    proxy.vouch(snapshot, file, token.as_ref(), asker).await?;
    add(&counters.cold, 1);
    add(&counters.cold_bytes, len);
    Ok(body)
}

/// What git holds of a file: its bytes, or the pointer of one in LFS.
pub(super) async fn raw(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
    path: &FilePath,
) -> Result<Response<Body>, Refusal> {
    let Found { snapshot, file, token } = find(proxy, asked, repo, revision, path).await?;
    let pinned = &snapshot.pinned;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    insert(headers, X_REPO_COMMIT, &pinned.commit().to_string());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    disarm(headers);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache, no-transform"));
    if file.lfs.is_some() {
        let pointer = pointer(&file);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(pointer.len()));
        *response.body_mut() = Body::from(pointer);
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(file.bytes));
        if asked.parts.method != Method::HEAD && file.bytes > 0 {
            let whole = (0..file.bytes, RangeEnd::Given);
            *response.body_mut() = bytes(proxy, asked, &snapshot, &file, whole, token).await?;
        }
    }
    Ok(with_age(response, pinned))
}

/// The text that git holds in the place of a file in LFS.
fn pointer(file: &TreeFile) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n", file.id, file.bytes)
}

#[cfg(test)]
mod tests {
    use wtfs_proto::hf::Lfs;

    use super::*;

    fn file(bytes: u64) -> TreeFile {
        TreeFile {
            path: FilePath::parse("a").expect("a path"),
            bytes,
            id: ContentId::Sha256([0xab; 32]),
            git_oid: [1; 20],
            lfs: Some(Lfs { pointer_bytes: 127 }),
            security: None,
            last_commit: None,
        }
    }

    fn asked(method: Method, headers: &[(HeaderName, &str)], bytes: u64) -> Portion {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value")));
        wanted(&headers.collect(), &method, &file(bytes))
    }

    #[test]
    fn ranges_are_clamped_and_a_head_has_none() {
        let range = |text| asked(Method::GET, &[(RANGE, text)], 10);
        assert_eq!(range("bytes=0-0"), Portion::Part(0..1));
        assert_eq!(range("bytes=5-10"), Portion::Part(5..10));
        assert_eq!(range("bytes=-7"), Portion::Part(3..10));
        assert_eq!(range("bytes=10-"), Portion::Behind);
        assert_eq!(range("bytes=0-1,4-5"), Portion::Whole);
        assert_eq!(asked(Method::HEAD, &[(RANGE, "bytes=5-")], 10), Portion::Whole);
        assert_eq!(asked(Method::HEAD, &[(RANGE, "bytes=10-")], 10), Portion::Whole);
    }

    #[test]
    fn every_range_of_an_empty_file_is_all_of_it() {
        for text in ["bytes=0-0", "bytes=0-", "bytes=-5", "bytes=-0", "bytes=7-9"] {
            assert_eq!(asked(Method::GET, &[(RANGE, text)], 0), Portion::Nothing, "{text}");
        }
        assert_eq!(asked(Method::GET, &[], 0), Portion::Whole);
    }

    #[test]
    fn who_has_the_file_is_told_so_however_the_hash_is_written() {
        let hash = "ab".repeat(32);
        for tag in
            [format!("\"{hash}\""), format!("W/\"{hash}\""), hash.clone(), format!("\"x\", \"{hash}\"")]
        {
            assert_eq!(asked(Method::GET, &[(IF_NONE_MATCH, &tag)], 10), Portion::NotModified, "{tag}");
        }
        assert_eq!(asked(Method::GET, &[(IF_NONE_MATCH, "\"x\"")], 10), Portion::Whole);
    }

    #[test]
    fn a_pointer_is_the_text_that_git_lfs_writes() {
        let text = pointer(&file(12345));
        let hash = "ab".repeat(32);
        assert_eq!(
            text,
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hash}\nsize 12345\n")
        );
    }
}
