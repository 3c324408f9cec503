//! What a raw request path means. Segments are split first and decoded afterwards, since revisions and the names of
//! files may hold encoded slashes.

use super::repo::RepoKind;

/// The words that follow an id in the API, and so are no names of repositories there.
const VERBS: &[&str] = &["revision", "tree", "paths-info", "refs", "commits", "auth-check", "xet-read-token"];

/// What is asked of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `/api/models/id`, or with `/revision/rev`.
    Info(Option<String>),
    /// A revision, and the directory in it.
    Tree(String, String),
    PathsInfo(String),
    Refs,
    Commits(String),
    AuthCheck,
    XetToken(String),
    /// A revision and a file.
    Resolve(String, String),
    Raw(String, String),
    /// A commit and a file, where a git file is redirected to.
    ResolveCache(String, String),
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Whoami,
    /// `/_admin/…`: not of the real hub.
    Admin(String),
    List(RepoKind),
    Repo {
        kind: RepoKind,
        id: String,
        place: Place,
        /// The raw path before and after the id, for redirects to another id.
        around: (String, String),
    },
    Unknown,
}

/// Reads a raw path, without the query.
pub(super) fn parse(path: &str) -> Route {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments[..] {
        ["api", "whoami-v2"] => Route::Whoami,
        ["_admin", ref rest @ ..] => Route::Admin(rest.join("/")),
        ["api", "resolve-cache", kind, ref rest @ ..] => of_kind(kind, |kind| cached(kind, rest)),
        ["api", kind] => of_kind(kind, |kind| Some(Route::List(kind))),
        ["api", kind, ref rest @ ..] => of_kind(kind, |kind| in_api(kind, rest)),
        ["datasets", ref rest @ ..] => file(RepoKind::Dataset, rest).unwrap_or(Route::Unknown),
        ["spaces", ref rest @ ..] => file(RepoKind::Space, rest).unwrap_or(Route::Unknown),
        ref rest => file(RepoKind::Model, rest).unwrap_or(Route::Unknown),
    }
}

fn of_kind(kind: &str, then: impl FnOnce(RepoKind) -> Option<Route>) -> Route {
    RepoKind::of_api(kind).and_then(then).unwrap_or(Route::Unknown)
}

fn in_api(kind: RepoKind, rest: &[&str]) -> Option<Route> {
    let is_short = rest.len() == 1 || VERBS.contains(&rest[1]);
    let (id, rest) = rest.split_at(if is_short { 1 } else { 2 });
    let place = match rest {
        [] => Place::Info(None),
        ["revision", revision] => Place::Info(Some(decode(revision)?)),
        ["tree", revision, path @ ..] => Place::Tree(decode(revision)?, join(path)?),
        ["paths-info", revision] => Place::PathsInfo(decode(revision)?),
        ["refs"] => Place::Refs,
        ["commits", revision] => Place::Commits(decode(revision)?),
        ["auth-check", ..] => Place::AuthCheck,
        ["xet-read-token", revision] => Place::XetToken(decode(revision)?),
        _ => return None,
    };
    repo(kind, id, place, &format!("/api/{}/", kind.api()), rest)
}

fn cached(kind: RepoKind, rest: &[&str]) -> Option<Route> {
    let at = rest.iter().position(|word| word.len() == 40 && word.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let (id, rest) = rest.split_at(at);
    let [commit, path @ ..] = rest else { return None };
    let place = Place::ResolveCache((*commit).to_owned(), join(path)?);
    repo(kind, id, place, &format!("/api/resolve-cache/{}/", kind.api()), rest)
}

fn file(kind: RepoKind, rest: &[&str]) -> Option<Route> {
    let at = rest.iter().position(|word| matches!(*word, "resolve" | "raw"))?;
    let (id, rest) = rest.split_at(at);
    let [verb, revision, path @ ..] = rest else { return None };
    let (revision, path) = (decode(revision)?, join(path)?);
    let place = if *verb == "raw" { Place::Raw(revision, path) } else { Place::Resolve(revision, path) };
    repo(kind, id, place, &format!("/{}", kind.prefix()), rest)
}

fn repo(kind: RepoKind, id: &[&str], place: Place, before: &str, after: &[&str]) -> Option<Route> {
    if id.is_empty() || id.len() > 2 || id.iter().any(|word| word.is_empty()) {
        return None;
    }
    let after = after.iter().map(|word| format!("/{word}")).collect();
    Some(Route::Repo { kind, id: join(id)?, place, around: (before.to_owned(), after) })
}

fn join(segments: &[&str]) -> Option<String> {
    let decoded: Option<Vec<_>> = segments.iter().map(|segment| decode(segment)).collect();
    Some(decoded?.join("/").trim_end_matches('/').to_owned())
}

/// Decodes percent-encoding; `None` when what comes out is no UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// As [`decode`] in a query or a form, where `+` is a space.
pub(super) fn decode_form(text: &str) -> Option<String> {
    decode(&text.replace('+', " "))
}

/// Encodes all but the unreserved characters of RFC 3986, slashes too.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The pairs of a query or a form.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    let pairs = parts.filter_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        Some((decode_form(key)?, decode_form(value)?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> (RepoKind, String, Place) {
        match parse(path) {
            Route::Repo { kind, id, place, .. } => (kind, id, place),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn ids_of_one_word_and_of_two_are_told_apart() {
        let model = |id: &str, place| (RepoKind::Model, id.to_owned(), place);
        assert_eq!(parsed("/api/models/gpt2/refs"), model("gpt2", Place::Refs));
        assert_eq!(parsed("/api/models/a/b/refs"), model("a/b", Place::Refs));
        assert_eq!(parsed("/api/models/gpt2"), model("gpt2", Place::Info(None)));
        assert_eq!(parsed("/api/models/a/b"), model("a/b", Place::Info(None)));
        let place = Place::Resolve("refs/pr/1".to_owned(), "sub dir/a#1".to_owned());
        assert_eq!(parsed("/a/b/resolve/refs%2Fpr%2F1/sub%20dir/a%231"), model("a/b", place));
        let place = Place::Resolve("main".to_owned(), "f".to_owned());
        assert_eq!(parsed("/datasets/x/resolve/main/f"), (RepoKind::Dataset, "x".to_owned(), place));
    }

    #[test]
    fn a_path_in_a_tree_may_come_with_encoded_slashes() {
        let place = Place::Tree("main".to_owned(), "a/b".to_owned());
        assert_eq!(parsed("/api/models/o/n/tree/main/a%2Fb").2, place);
        assert_eq!(parsed("/api/models/o/n/tree/main/a/b").2, place);
        assert_eq!(parsed("/api/models/o/n/tree/main/").2, Place::Tree("main".to_owned(), String::new()));
    }

    #[test]
    fn decoding_turns_encoding_back() {
        for text in ["", "a b", "we ird#1%.bin", "日本", "a/b?c&d=e+f"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
    }
}
