//! The JSON of the API, and who gets to see it.

use axum::http::{Method, header};
use serde_json::{Value, json};

use super::{
    State,
    answer::{Asked, Reply},
    files,
    listing::{self, Detail, is_true},
    lock,
    repo::{Access, Commit, Repo, RepoKind},
    route::{self, Place},
};

/// What every repository is tagged with.
const TAGS: &[&str] = &["region:us"];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Caller {
    Anonymous,
    Known {
        token: String,
        name: String,
    },
    /// A token that nobody has.
    Unknown,
}

/// What of a repository is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Metadata,
    Content,
}

impl Caller {
    fn of(state: &State, asked: &Asked) -> Self {
        let Some(text) = asked.header(header::AUTHORIZATION) else { return Self::Anonymous };
        let token = text.strip_prefix("Bearer ").unwrap_or_default();
        let accounts = lock(&state.accounts);
        let known = accounts.iter().find(|(known, _)| known == token);
        known.map_or(Self::Unknown, |(token, name)| Self::Known { token: token.clone(), name: name.clone() })
    }

    fn is_granted(&self, repo: &Repo) -> bool {
        matches!(self, Self::Known { token, .. } if repo.granted.contains(token))
    }
}

fn bad_token() -> Reply {
    Reply::error(401, None, "Invalid credentials in Authorization header")
        .with("WWW-Authenticate", "Bearer realm=\"Authentication required\", charset=\"UTF-8\"")
}

/// What is not there, and what is not to be known of, look alike.
fn hidden(caller: &Caller) -> Reply {
    if *caller == Caller::Anonymous {
        return Reply::error(401, None, "Invalid username or password.");
    }
    Reply::error(404, Some("RepoNotFound"), "Repository not found")
}

fn refusal(repo: &Repo, caller: &Caller, need: Need) -> Option<Reply> {
    match repo.access {
        Access::Private if !caller.is_granted(repo) => Some(hidden(caller)),
        Access::Disabled => Some(Reply::error(403, None, "Access to this resource is disabled.")),
        Access::Gated if need == Need::Content && !caller.is_granted(repo) => {
            let what = format!("{} {}", repo.kind.api().trim_end_matches('s'), repo.id);
            Some(if *caller == Caller::Anonymous {
                let text = format!("Access to {what} is restricted. You must be authenticated to access it.");
                Reply::error(401, Some("GatedRepo"), &text)
            } else {
                let text = format!("Access to {what} is restricted and you are not in the authorized list.");
                Reply::error(403, Some("GatedRepo"), &text)
            })
        }
        _ => None,
    }
}

pub(super) fn whoami(state: &State, asked: &Asked) -> Reply {
    match Caller::of(state, asked) {
        Caller::Anonymous => Reply::error(401, None, "Invalid username or password."),
        Caller::Unknown => bad_token(),
        Caller::Known { name, .. } => Reply::json(&json!({
            "type": "user", "id": "5f0000000000000000000001", "name": name, "fullname": name, "isPro": false,
            "orgs": [],
            "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": "read" } },
        })),
    }
}

/// All repositories of a kind that the caller may know of, by what they are searched by. Files are told of for `full`.
pub(super) fn list(state: &State, asked: &Asked, kind: RepoKind) -> Reply {
    let caller = Caller::of(state, asked);
    if caller == Caller::Unknown {
        return bad_token();
    }
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        return Reply::error(405, None, "Method not allowed");
    }
    let pairs = asked.pairs();
    let all = |key: &'static str| {
        pairs.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    };
    let is_wanted = |repo: &Repo| {
        let (id, owner) = (repo.id.to_lowercase(), repo.id.split_once('/').map(|(owner, _)| owner));
        all("search").all(|word| id.contains(&word.to_lowercase()))
            && all("author").all(|author| owner == Some(author))
            && all("filter").all(|tag| TAGS.contains(&tag))
    };
    let repos = lock(&state.repos);
    let mut seen: Vec<&Repo> = repos.iter().filter(|repo| repo.kind == kind && is_wanted(repo)).collect();
    seen.retain(|repo| refusal(repo, &caller, Need::Metadata).is_none());
    if all("sort").any(|key| key == "lastModified") {
        let changed = |repo: &Repo| repo.resolve("main").map(|commit| commit.date.clone());
        seen.sort_by_key(|repo| std::cmp::Reverse(changed(repo)));
    }
    let is_full = asked.parameter("full").is_some_and(|full| is_true(&full));
    let entries = seen.into_iter().filter_map(|repo| {
        let mut entry = info(repo, repo.resolve("main")?, Detail::Plain);
        if let Some(fields) = entry.as_object_mut().filter(|_| !is_full) {
            fields.remove("siblings");
            fields.remove("sha");
        }
        Some(entry)
    });
    listing::page(state, asked, &entries.collect::<Vec<_>>(), Detail::Plain)
}

/// Whatever is asked of one repository.
pub(super) fn repo(
    state: &State,
    asked: &Asked,
    (kind, id): (RepoKind, &str),
    place: Place,
    (before, after): &(String, String),
) -> Reply {
    let caller = Caller::of(state, asked);
    if caller == Caller::Unknown {
        return bad_token();
    }
    let is_form = matches!(place, Place::PathsInfo(_));
    if !(matches!(asked.method, Method::GET | Method::HEAD) || is_form && asked.method == Method::POST) {
        return Reply::error(405, None, "Method not allowed");
    }
    let repos = lock(&state.repos);
    let of_kind = || repos.iter().filter(|repo| repo.kind == kind);
    let Some(repo) = of_kind().find(|repo| repo.id == id) else {
        let other = of_kind().find(|repo| {
            repo.id.eq_ignore_ascii_case(id)
                || repo.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(id))
        });
        let Some(other) = other.filter(|repo| refusal(repo, &caller, Need::Metadata).is_none()) else {
            return hidden(&caller);
        };
        let query = if asked.query.is_empty() { String::new() } else { format!("?{}", asked.query) };
        return Reply::redirect(307, &format!("{before}{}{after}{query}", other.id));
    };
    let need = match place {
        Place::Info(_) | Place::Tree(..) | Place::PathsInfo(_) | Place::Refs | Place::Commits(_) => {
            Need::Metadata
        }
        Place::AuthCheck
        | Place::XetToken(_)
        | Place::Resolve(..)
        | Place::Raw(..)
        | Place::ResolveCache(..) => Need::Content,
    };
    if let Some(refusal) = refusal(repo, &caller, need) {
        return refusal;
    }
    let at = |revision: &str| {
        let message = format!("Invalid rev id: {revision}");
        repo.resolve(revision).ok_or_else(|| Reply::error(404, Some("RevisionNotFound"), &message))
    };
    let answered = match &place {
        Place::Info(revision) => at(revision.as_deref().unwrap_or("main")).map(|commit| {
            let detail = asked.parameter("blobs").is_some_and(|blobs| is_true(&blobs));
            Reply::json(&info(repo, commit, if detail { Detail::Expanded } else { Detail::Plain }))
        }),
        Place::Tree(revision, path) => at(revision).map(|commit| tree(state, asked, commit, path)),
        Place::PathsInfo(revision) => at(revision).map(|commit| paths_info(state, asked, commit)),
        Place::Refs => Ok(refs(asked, repo)),
        Place::Commits(revision) => at(revision).map(|commit| commits(state, asked, repo, commit)),
        Place::AuthCheck => Ok(Reply::new(200, "text/plain; charset=utf-8", "OK")),
        Place::XetToken(revision) => at(revision).map(|_| xet_token(state)),
        Place::Resolve(revision, path) => {
            at(revision).map(|commit| files::resolve(state, asked, repo, commit, path))
        }
        Place::Raw(revision, path) => at(revision).map(|commit| files::raw(asked, commit, path)),
        Place::ResolveCache(commit, path) => at(commit).map(|commit| files::cached(asked, commit, path)),
    };
    answered.unwrap_or_else(|error| error)
}

fn info(repo: &Repo, commit: &Commit, detail: Detail) -> Value {
    let siblings: Vec<Value> = commit
        .files
        .iter()
        .map(|(path, entry)| {
            let mut value = json!({ "rfilename": path });
            if detail == Detail::Expanded {
                value["size"] = json!(entry.bytes);
                value["blobId"] = json!(entry.oid);
                if let Some(lfs) = &entry.lfs {
                    value["lfs"] =
                        json!({ "sha256": lfs.sha256, "size": entry.bytes, "pointerSize": lfs.pointer.len() });
                }
            }
            value
        })
        .collect();
    let gated = if repo.access == Access::Gated { json!("auto") } else { json!(false) };
    let used: u64 = commit.files.values().map(|entry| entry.bytes).sum();
    let mut value = json!({
        "_id": "65f000000000000000000001",
        "id": repo.id,
        "author": repo.id.split('/').next(),
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": "2024-05-01T12:00:00.000Z",
        "private": repo.access == Access::Private,
        "gated": gated,
        "disabled": false,
        "tags": TAGS,
        "downloads": 17,
        "likes": 3,
        "siblings": siblings,
        "usedStorage": used,
        "spaces": [],
    });
    match repo.kind {
        RepoKind::Model => {
            value["modelId"] = json!(repo.id);
            value["pipeline_tag"] = json!("text-generation");
            value["library_name"] = json!("transformers");
        }
        RepoKind::Dataset => value["description"] = json!("A dataset."),
        RepoKind::Space => {
            value["sdk"] = json!("static");
            value["subdomain"] = json!(repo.id.replace('/', "-"));
        }
    }
    value
}

fn tree(state: &State, asked: &Asked, commit: &Commit, path: &str) -> Reply {
    let directories = commit.directories();
    if !path.is_empty() && !directories.contains(path) {
        let message = format!("{path} does not exist on \"{}\"", commit.sha);
        return Reply::error(404, Some("EntryNotFound"), &message);
    }
    let is_recursive = asked.parameter("recursive").is_some_and(|recursive| is_true(&recursive));
    let detail = Detail::of(asked.parameter("expand").as_deref());
    let is_listed = |name: &str| {
        let below = if path.is_empty() {
            Some(name)
        } else {
            name.strip_prefix(path).and_then(|r| r.strip_prefix('/'))
        };
        below.is_some_and(|below| is_recursive || !below.contains('/'))
    };
    let mut entries: Vec<Value> = directories
        .iter()
        .filter(|name| is_listed(name))
        .map(|name| listing::directory(commit, name, detail))
        .collect();
    let files = commit.files.iter().filter(|(name, _)| is_listed(name));
    entries.extend(files.map(|(name, entry)| listing::file(state, commit, name, entry, detail)));
    listing::page(state, asked, &entries, detail)
}

/// The paths come as a form or as JSON; what is not there is left out without a word.
fn paths_info(state: &State, asked: &Asked, commit: &Commit) -> Reply {
    let body = String::from_utf8_lossy(&asked.body);
    let is_json = asked.header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let (paths, expand) = if is_json {
        let Ok(value) = serde_json::from_str::<Value>(&body) else {
            return Reply::error(400, None, "Invalid JSON");
        };
        let listed = value["paths"].as_array().cloned().unwrap_or_default();
        let paths: Vec<String> = listed.iter().filter_map(|path| path.as_str().map(str::to_owned)).collect();
        (paths, value["expand"].to_string())
    } else {
        let pairs = route::pairs(&body);
        let of =
            |key: &str| pairs.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        (of("paths"), of("expand").pop().unwrap_or_default())
    };
    let detail = Detail::of(Some(&expand));
    let directories = commit.directories();
    let found = paths.iter().filter_map(|path| {
        let path = path.trim_end_matches('/');
        if let Some(entry) = commit.files.get(path) {
            return Some(listing::file(state, commit, path, entry, detail));
        }
        directories.contains(path).then(|| listing::directory(commit, path, detail))
    });
    Reply::json(&Value::Array(found.collect()))
}

fn refs(asked: &Asked, repo: &Repo) -> Reply {
    let below = |prefix: &str| -> Vec<Value> {
        let of = repo.refs.iter().filter_map(|(name, sha)| Some((name.strip_prefix(prefix)?, name, sha)));
        of.map(|(short, name, sha)| json!({ "name": short, "ref": name, "targetCommit": sha })).collect()
    };
    let mut value = json!({
        "branches": below("refs/heads/"), "converts": below("refs/convert/"), "tags": below("refs/tags/"),
    });
    if asked.parameter("include_prs").is_some_and(|wanted| is_true(&wanted)) {
        value["pullRequests"] = json!(below("refs/pr/"));
    }
    Reply::json(&value)
}

fn commits(state: &State, asked: &Asked, repo: &Repo, head: &Commit) -> Reply {
    let mut entries = Vec::new();
    let mut at = Some(head);
    while let Some(commit) = at {
        entries.push(json!({
            "id": commit.sha, "title": commit.title, "message": "", "date": commit.date,
            "authors": [{ "user": "author", "avatar": "" }],
        }));
        at = commit.parent.as_ref().and_then(|parent| repo.commits.get(parent));
    }
    listing::page(state, asked, &entries, Detail::Expanded).with("X-Total-Count", &entries.len().to_string())
}

/// The store that it names is the CDN, which knows nothing of it: who goes there has not seen that Xet was taken away.
fn xet_token(state: &State) -> Reply {
    if !state.settings.advertises_xet {
        return Reply::error(404, None, "Not found");
    }
    let (url, exp) = (format!("http://{}/cas", state.cdn), 4_102_444_800_u64);
    Reply::json(&json!({ "casUrl": url, "accessToken": "xet-token", "exp": exp }))
        .with("X-Xet-Cas-Url", &url)
        .with("X-Xet-Access-Token", "xet-token")
        .with("X-Xet-Token-Expiration", &exp.to_string())
}
