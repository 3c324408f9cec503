//! Which revision or file the path of a request for a torrent means. Pure.

use wtfs_proto::hf::{FilePath, Repo, RepoId, RepoKind, Revision, decode_segment};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) repo: Repo,
    pub(super) revision: Revision,
    /// One file; all when none.
    pub(super) path: Option<FilePath>,
}

/// Reads `[datasets/|spaces/][owner/]name[@revision][/file]`, as it stands in the request: split first, decoded after. A
/// name of one component is told from an owner by the `@` behind it, or by being alone.
pub(super) fn parse(raw: &str) -> Option<Asked> {
    let segments: Option<Vec<String>> = raw.split('/').map(decode_segment).collect();
    let segments = segments?;
    let (kind, rest) = match segments.split_first()? {
        (word, rest) if !rest.is_empty() && word != RepoKind::Model.api() => {
            RepoKind::of_api(word).map_or((RepoKind::Model, &segments[..]), |kind| (kind, rest))
        }
        _ => (RepoKind::Model, &segments[..]),
    };
    let (first, after) = rest.split_first()?;
    let (id, revision, files) = match (first.split_once('@'), after.split_first()) {
        (Some((name, revision)), _) => (name.to_owned(), Some(revision), after),
        (None, None) => (first.clone(), None, after),
        (None, Some((second, files))) => match second.split_once('@') {
            Some((name, revision)) => (format!("{first}/{name}"), Some(revision), files),
            None => (format!("{first}/{second}"), None, files),
        },
    };
    let path = match files {
        [] => None,
        // A file's slashes may have been escaped too.
        files => Some(FilePath::parse(&files.join("/")).ok()?),
    };
    let revision = match revision {
        Some(text) => Revision::parse(text).ok()?,
        None => Revision::main(),
    };
    Some(Asked { repo: Repo { kind, id: RepoId::parse(&id).ok()? }, revision, path })
}

/// As [`parse`], without the `.torrent` at the end that says what is wanted.
pub(super) fn parse_torrent(raw: &str) -> Option<Asked> {
    parse(raw.strip_suffix(".torrent").unwrap_or(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(raw: &str) -> Option<(String, String, Option<String>)> {
        let asked = parse_torrent(raw)?;
        Some((asked.repo.to_string(), asked.revision.to_string(), asked.path.map(|path| path.to_string())))
    }

    #[test]
    fn revisions_and_files_are_told_apart() {
        let cases = [
            ("gpt2", "gpt2", "main", None),
            ("gpt2@v1", "gpt2", "v1", None),
            ("gpt2@v1/a/b", "gpt2", "v1", Some("a/b")),
            ("org/name", "org/name", "main", None),
            ("org/name.torrent", "org/name", "main", None),
            ("org/name@refs%2Fpr%2F1.torrent", "org/name", "refs/pr/1", None),
            ("org/name%40v1/a%20b.bin", "org/name", "v1", Some("a b.bin")),
            ("org/name/sub%2Fx@y", "org/name", "main", Some("sub/x@y")),
            ("datasets/squad", "datasets/squad", "main", None),
            ("datasets/org/name@v1/x", "datasets/org/name", "v1", Some("x")),
            ("spaces/org/name", "spaces/org/name", "main", None),
        ];
        for (raw, repo, revision, path) in cases {
            let expected = (repo.to_owned(), revision.to_owned(), path.map(str::to_owned));
            assert_eq!(parts(raw), Some(expected), "{raw}");
        }
    }

    #[test]
    fn what_names_nothing_is_not_guessed_at() {
        for raw in [
            "",
            "/",
            "org/",
            "org/name/",
            "org/name/..",
            "org/name/..%2f..%2fx",
            "org/name/a//b",
            "../name",
            "datasets",
            "models/org/name",
            "org/name@",
            "org/name@../x",
            "%ff/name",
            "org/name@a%20b",
            "x/resolve/main/a",
        ] {
            assert_eq!(parse(raw), None, "{raw}");
        }
    }
}
