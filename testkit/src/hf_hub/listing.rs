//! Entries of a tree as JSON, and lists cut into pages that an absolute Link joins.

use serde_json::{Value, json};

use super::{
    State,
    answer::{Asked, Reply},
    repo::{Commit, Entry},
    route,
};

/// How many entries a page has at most when they are expanded.
const EXPANDED_PAGE: usize = 50;

/// Whether entries carry what costs more to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Plain,
    Expanded,
}

impl Detail {
    pub(super) fn of(value: Option<&str>) -> Self {
        if value.is_some_and(is_true) { Self::Expanded } else { Self::Plain }
    }
}

/// Booleans come as Python writes them, or as everybody else does.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text, "true" | "True" | "1")
}

/// A file.
pub(super) fn file(state: &State, commit: &Commit, path: &str, entry: &Entry, detail: Detail) -> Value {
    let mut value = json!({ "type": "file", "oid": entry.oid, "size": entry.bytes, "path": path });
    if let Some(lfs) = &entry.lfs {
        value["lfs"] = json!({ "oid": lfs.sha256, "size": entry.bytes, "pointerSize": lfs.pointer.len() });
        if state.settings.advertises_xet {
            value["xetHash"] = json!(lfs.xet_hash);
        }
    }
    expand(&mut value, commit, detail);
    if detail == Detail::Expanded {
        value["securityFileStatus"] = json!({
            "status": "safe", "jFrogScan": null, "protectAiScan": null, "virusTotalScan": null,
            "avScan": { "status": "safe" }, "pickleImportScan": null,
        });
    }
    value
}

/// A directory.
pub(super) fn directory(commit: &Commit, path: &str, detail: Detail) -> Value {
    let mut value =
        json!({ "type": "directory", "oid": commit.directory_oid(path), "size": 0, "path": path });
    expand(&mut value, commit, detail);
    value
}

fn expand(value: &mut Value, commit: &Commit, detail: Detail) {
    if detail == Detail::Expanded {
        value["lastCommit"] = json!({ "id": commit.sha, "title": commit.title, "date": commit.date });
    }
}

/// The page that is asked for, and a Link to the next one.
pub(super) fn page(state: &State, asked: &Asked, entries: &[Value], detail: Detail) -> Reply {
    let most = match detail {
        Detail::Plain => state.settings.page_size,
        Detail::Expanded => state.settings.page_size.min(EXPANDED_PAGE),
    };
    let limit = asked.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(most);
    let limit = limit.clamp(1, most);
    let start = match asked.parameter("cursor").map(|cursor| offset(&cursor)) {
        None => 0,
        Some(Some(offset)) if offset <= entries.len() => offset,
        Some(_) => return Reply::error(400, None, "Invalid cursor"),
    };
    let end = entries.len().min(start + limit);
    let mut reply = Reply::json(&json!(entries[start..end]));
    if end < entries.len() {
        let kept = asked.pairs().into_iter().filter(|(key, _)| key != "cursor");
        let mut query: Vec<_> =
            kept.map(|(key, value)| format!("{}={}", route::encode(&key), route::encode(&value))).collect();
        query.push(format!("cursor={}", route::encode(&cursor(end))));
        let link = format!("<http://{}{}?{}>; rel=\"next\"", state.hub, asked.path, query.join("&"));
        reply = reply.with("Link", &link);
    }
    reply
}

/// Opaque to whoever has not read this: it is no number of a page, and has to be encoded in a URL.
fn cursor(offset: usize) -> String {
    format!("ZXlK{:08x}==", offset ^ 0x5a5a_5a5a)
}

fn offset(cursor: &str) -> Option<usize> {
    let hex = cursor.strip_prefix("ZXlK")?.strip_suffix("==")?;
    Some(usize::from_str_radix(hex, 16).ok()? ^ 0x5a5a_5a5a)
}
