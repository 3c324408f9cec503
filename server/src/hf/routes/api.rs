//! The API of repositories: JSON made of what is known, or passed on.
//!
//! Listings are paged here, whatever upstream's pages were: a cursor is the number of entries before it, in the order of
//! a tree that never changes.

use std::collections::HashSet;

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CONTENT_TYPE, LINK};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use wtfs_proto::hf::{
    Depth, FilePath, Repo, RepoKind, RepoTree, Revision, TreeEntry, encode_path, encode_segment,
    entries_to_json, next_link,
};
use wtfs_torrent::hf::{ApiMethod, ApiRequest};

use super::super::passing::Passed;
use super::super::refusal::{Refusal, X_REPO_COMMIT, insert};
use super::super::{HfProxy, Pinned, Snapshot};
use super::query::{Flag, Query, pairs};
use super::{Asked, json as json_response, with_age, with_warning};

/// Entries of one page.
const PAGE_MAX: usize = 1000;

/// The longest query of a list of repositories.
const QUERY_BYTES_MAX: usize = 4096;

/// What lists of repositories are asked for with: by search, owner and tags, in an order, by pages, with more or fewer
/// fields. Nothing else goes upstream.
const LIST_KEYS: &[&str] = &[
    "search",
    "author",
    "filter",
    "tags",
    "library",
    "language",
    "license",
    "pipeline_tag",
    "trained_dataset",
    "dataset",
    "datasets",
    "models",
    "linked",
    "benchmark",
    "apps",
    "gated",
    "inference",
    "inference_provider",
    "num_parameters",
    "sort",
    "direction",
    "limit",
    "cursor",
    "p",
    "full",
    "config",
    "cardData",
    "expand",
    "expand[]",
];

/// The longest body of a question.
const QUESTION_BYTES_MAX: usize = 1 << 20;

pub(super) async fn info(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(asked.parts.uri.query());
    let pinned = asked.pin(proxy, repo, revision).await?;
    let mut info = pinned.info.json.clone();
    if !query.fields.is_empty() {
        // Some fields are told only to who asks for them; what is known already serves while they cannot be had.
        let fields: Vec<String> =
            query.fields.iter().map(|field| format!("expand={}", encode_segment(field))).collect();
        let path = pinned.repo.api_path_at("revision", &pinned.commit().into());
        let request = ApiRequest { query: Some(fields.join("&")), ..ApiRequest::get(path) };
        let passed = proxy.pass_of(&pinned, request, &asked.caller).await;
        if let Ok(Ok(expanded)) = passed.map(|passed| serde_json::from_slice(&passed.body)) {
            return Ok(with_age(json_response(Value::to_string(&expanded)), &pinned));
        }
    }
    let mut pinned = pinned;
    if query.blobs == Flag::On {
        let snapshot = proxy.snapshot(pinned, &asked.caller).await?;
        let siblings = siblings(&snapshot.tree);
        if let Some(fields) = info.as_object_mut() {
            fields.insert("siblings".to_owned(), siblings);
        }
        pinned = snapshot.pinned;
    }
    let mut response = json_response(info.to_string());
    let path = || pinned.repo.api_path_at("revision", revision);
    asked.name(proxy, response.headers_mut(), repo, &pinned, path);
    Ok(with_age(response, &pinned))
}

/// The files of a tree as an info lists them.
fn siblings(tree: &RepoTree) -> Value {
    let hex = |hash: &[u8]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let files = tree.files().iter().map(|file| {
        let mut sibling = json!({
            "rfilename": file.path.as_str(),
            "size": file.bytes,
            "blobId": hex(&file.git_oid),
        });
        if let (Some(lfs), Some(fields)) = (file.lfs, sibling.as_object_mut()) {
            let lfs = json!({
                "sha256": file.id.to_string(),
                "size": file.bytes,
                "pointerSize": lfs.pointer_bytes,
            });
            fields.insert("lfs".to_owned(), lfs);
        }
        sibling
    });
    Value::Array(files.collect())
}

pub(super) async fn tree(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
    directory: Option<&FilePath>,
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(asked.parts.uri.query());
    let pinned = asked.pin(proxy, repo, revision).await?;
    if query.expand == Flag::On
        && let Some(answer) = expanded(proxy, asked, &pinned, directory, &query).await
    {
        return answer.map(|response| with_age(response, &pinned));
    }
    let Snapshot { pinned, tree, .. } = proxy.snapshot(pinned, &asked.caller).await?;
    let depth = if query.recursive == Flag::On { Depth::All } else { Depth::Children };
    let entries = tree.list(directory, depth).ok_or_else(|| Refusal::Entry {
        commit: tree.commit,
        path: directory.map(ToString::to_string).unwrap_or_default(),
    })?;
    let limit = query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let begin = query.cursor.as_deref().map_or(Ok(0), str::parse::<usize>);
    let begin = begin.map_err(|_| Refusal::Request("that cursor is none of this hub's"))?.min(entries.len());
    let end = begin.saturating_add(limit).min(entries.len());
    let page = entries.get(begin..end).unwrap_or_default();
    let mut response = json_response(entries_to_json(page.iter().copied()));
    insert(response.headers_mut(), X_REPO_COMMIT, &tree.commit.to_string());
    if end < entries.len()
        && let Some(endpoint) = asked.endpoint(proxy)
    {
        // By the path it was asked by, so that pages are of the same revision as far as the client cares to say.
        let path = asked.parts.uri.path();
        let path = path.strip_prefix(asked.prefix).unwrap_or(path);
        let recursive = if depth == Depth::All { "recursive=true&" } else { "" };
        let url = format!("{endpoint}{path}?{recursive}limit={limit}&cursor={end}");
        insert(response.headers_mut(), LINK, &next_link(&url));
    }
    Ok(with_age(response, &pinned))
}

#[derive(Debug, Deserialize)]
struct Question {
    #[serde(default)]
    paths: Paths,
    #[serde(default)]
    expand: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Paths {
    Many(Vec<String>),
    One(String),
}

impl Default for Paths {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

pub(super) async fn paths_info(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let body = Limited::new(body, QUESTION_BYTES_MAX).collect().await.map_err(|_| Refusal::TooLong)?;
    let body = body.to_bytes();
    let kind = asked.parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let (paths, expand) = if kind.trim_start().starts_with("application/json") {
        let question: Question = serde_json::from_slice(&body)
            .map_err(|_| Refusal::Request("the body is no JSON object with a list of paths"))?;
        let paths = match question.paths {
            Paths::Many(paths) => paths,
            Paths::One(path) => vec![path],
        };
        (paths, if question.expand { Flag::On } else { Flag::Off })
    } else {
        let text = std::str::from_utf8(&body).map_err(|_| Refusal::Request("the form is not text"))?;
        let paths = pairs(text).filter(|(key, _)| key == "paths" || key == "paths[]").map(|(_, path)| path);
        (paths.collect(), Query::parse(Some(text)).expand)
    };
    let pinned = asked.pin(proxy, repo, revision).await?;
    if expand == Flag::On {
        let path = pinned.repo.api_path_at("paths-info", &pinned.commit().into());
        let question = json!({ "paths": paths, "expand": true }).to_string();
        let body = Some(("application/json", Bytes::from(question)));
        let request = ApiRequest { method: ApiMethod::Post, body, ..ApiRequest::get(path) };
        if let Ok(answer) = proxy.pass_of(&pinned, request, &asked.caller).await {
            return Ok(with_age(json_response(answer.body), &pinned));
        }
    }
    let Snapshot { pinned, tree, .. } = proxy.snapshot(pinned, &asked.caller).await?;
    // Each once: an answer is no longer than the listing, whatever is asked.
    let mut asked_before = HashSet::new();
    let paths = paths.iter().map(|path| path.trim_matches('/')).filter(|path| asked_before.insert(*path));
    let entries = paths.filter_map(|path| {
        let directory = || tree.find_directory(path).map(TreeEntry::Directory);
        tree.find(path).map(TreeEntry::File).or_else(directory)
    });
    Ok(with_age(json_response(entries_to_json(entries)), &pinned))
}

pub(super) async fn refs(proxy: &HfProxy, asked: &Asked, repo: &Repo) -> Result<Response<Body>, Refusal> {
    let pinned = asked.pin(proxy, repo, &Revision::main()).await?;
    let wants_all = pairs(asked.parts.uri.query().unwrap_or_default())
        .any(|(key, value)| key == "include_prs" && !matches!(value.as_str(), "0" | "false" | "False"));
    let query = wants_all.then(|| "include_prs=1".to_owned());
    let answer = proxy.refs(&pinned, query, &asked.caller).await?;
    Ok(with_age(with_warning(json_response(answer.body), answer.age), &pinned))
}

/// Which repositories there are: upstream's word, of which only the pages' addresses are changed.
pub(super) async fn list(proxy: &HfProxy, asked: &Asked, kind: RepoKind) -> Result<Response<Body>, Refusal> {
    let text = asked.parts.uri.query().unwrap_or_default();
    if text.len() > QUERY_BYTES_MAX {
        return Err(Refusal::Request("the query is too long"));
    }
    let query: Vec<String> = pairs(text)
        .filter(|(key, _)| LIST_KEYS.contains(&key.as_str()))
        .map(|(key, value)| format!("{}={}", encode_segment(&key), encode_segment(&value)))
        .collect();
    let query = (!query.is_empty()).then(|| query.join("&"));
    let answer = proxy.list(kind, query, &asked.caller).await?;
    Ok(passed_on(proxy, asked, answer))
}

pub(super) async fn commits(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
    revision: &Revision,
) -> Result<Response<Body>, Refusal> {
    let pinned = asked.pin(proxy, repo, revision).await?;
    let path = pinned.repo.api_path_at("commits", revision);
    // What pages and details are asked for; nothing else goes upstream.
    let known = ["p", "limit", "cursor", "expand", "expand[]"];
    let query: Vec<String> = pairs(asked.parts.uri.query().unwrap_or_default())
        .filter(|(key, _)| known.contains(&key.as_str()))
        .map(|(key, value)| format!("{}={}", encode_segment(&key), encode_segment(&value)))
        .collect();
    let query = (!query.is_empty()).then(|| query.join("&"));
    let request = ApiRequest { query, ..ApiRequest::get(path) };
    let answer = proxy.pass_of(&pinned, request, &asked.caller).await?;
    Ok(with_age(passed_on(proxy, asked, answer), &pinned))
}

/// An answer of upstream's, with its next page at this hub.
fn passed_on(proxy: &HfProxy, asked: &Asked, answer: Passed) -> Response<Body> {
    let mut response = with_warning(json_response(answer.body), answer.age);
    if let (Some(next), Some(endpoint)) = (&answer.next, asked.endpoint(proxy)) {
        insert(response.headers_mut(), LINK, &next_link(&format!("{endpoint}{next}")));
    }
    response
}

/// A page of a listing with what upstream alone knows: who changed a file last, what scanners say of it. `None` where it
/// cannot be asked, and what is known here has to do.
async fn expanded(
    proxy: &HfProxy,
    asked: &Asked,
    pinned: &Pinned,
    directory: Option<&FilePath>,
    query: &Query,
) -> Option<Result<Response<Body>, Refusal>> {
    let mut path = pinned.repo.api_path_at("tree", &pinned.commit().into());
    if let Some(directory) = directory {
        path = format!("{path}/{}", encode_path(directory));
    }
    let mut wanted = vec!["expand=true".to_owned()];
    if query.recursive == Flag::On {
        wanted.push("recursive=true".to_owned());
    }
    if let Some(limit) = query.limit {
        wanted.push(format!("limit={}", limit.clamp(1, PAGE_MAX)));
    }
    if let Some(cursor) = &query.cursor {
        wanted.push(format!("cursor={}", encode_segment(cursor)));
    }
    let request = ApiRequest { query: Some(wanted.join("&")), ..ApiRequest::get(path) };
    match proxy.pass_of(pinned, request, &asked.caller).await {
        Ok(answer) => Some(Ok(passed_on(proxy, asked, answer))),
        // A listing that was begun with upstream's cursors cannot be gone on with by ours.
        Err(refusal) if query.cursor.is_some() => Some(Err(refusal)),
        Err(_) => None,
    }
}

pub(super) async fn auth_check(
    proxy: &HfProxy,
    asked: &Asked,
    repo: &Repo,
) -> Result<Response<Body>, Refusal> {
    let pinned = asked.pin(proxy, repo, &Revision::main()).await?;
    proxy.may_read(&pinned, &asked.caller).await?;
    Ok(json_response("{}"))
}
