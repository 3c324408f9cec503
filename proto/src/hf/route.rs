//! What a request to the Hub API asks for, by its path as it stands in the request.
//!
//! The path is split before it is decoded: `refs%2Fpr%2F1` is one component and `..%2f` is none. What is decoded is
//! checked like every other name; nothing here is ever a path of this machine. Ids are not decoded at all: no character
//! of theirs needs it.

use thiserror::Error;

use super::repo::VERBS;
use super::{
    Commit, FilePath, FilePathError, NameError, Repo, RepoId, RepoKind, Revision, RevisionError,
    decode_segment,
};

/// A request that the Hub API has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/api/whoami-v2`: whose token it is.
    WhoAmI,
    /// `/api/models`: which repositories there are.
    List(RepoKind),
    /// Something of a repository.
    Repo(Repo, RepoRoute),
}

/// What is asked of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoRoute {
    /// `/api/models/{id}[/revision/{rev}]`.
    Info {
        /// The branch that is usual, when none.
        revision: Option<Revision>,
    },
    /// `/api/models/{id}/tree/{rev}[/{path}]`.
    Tree {
        /// Of which revision.
        revision: Revision,
        /// Of which directory, when not of all.
        directory: Option<FilePath>,
    },
    /// `/api/models/{id}/paths-info/{rev}`.
    PathsInfo {
        /// Of which revision.
        revision: Revision,
    },
    /// `/api/models/{id}/refs`.
    Refs,
    /// `/api/models/{id}/commits/{rev}`.
    Commits {
        /// Up to which revision.
        revision: Revision,
    },
    /// `/api/models/{id}/auth-check`.
    AuthCheck,
    /// `/api/models/{id}/auth-check/write`.
    WriteCheck,
    /// `/api/models/{id}/xet-read-token/{rev}`.
    XetReadToken {
        /// For which revision.
        revision: Revision,
    },
    /// `/{id}/resolve/{rev}/{file}`, and the `/api/resolve-cache/models/{id}/{commit}/{file}` that the Hub redirects to.
    Resolve {
        /// Of which revision.
        revision: Revision,
        /// Which file.
        file: FilePath,
    },
    /// `/{id}/raw/{rev}/{file}`.
    Raw {
        /// Of which revision.
        revision: Revision,
        /// Which file.
        file: FilePath,
    },
}

/// Why a path is no request of the Hub API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Nothing of the kind: another route of the server, perhaps.
    #[error("the Hub API has no such address")]
    Unknown,
    /// The repository's id.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The revision.
    #[error(transparent)]
    Revision(#[from] RevisionError),
    /// The file's path.
    #[error(transparent)]
    Path(#[from] FilePathError),
    /// An escape that stands for no text.
    #[error("the address is not UTF-8")]
    NotText,
}

impl Route {
    /// Reads the path of a request as it came, without its query and without the prefix that the API is served under.
    ///
    /// # Errors
    /// [`RouteError`]: all but [`RouteError::Unknown`] mean that a route was recognised, and a name in it is wrong.
    pub fn parse(raw_path: &str) -> Result<Self, RouteError> {
        let path = raw_path.strip_prefix('/').ok_or(RouteError::Unknown)?;
        let segments: Vec<&str> = path.split('/').collect();
        match segments[..] {
            ["api", "whoami-v2"] => Ok(Self::WhoAmI),
            ["api", kind] => RepoKind::of_api(kind).map(Self::List).ok_or(RouteError::Unknown),
            ["api", "resolve-cache", kind, ref rest @ ..] => resolve_cache(kind, rest),
            ["api", kind, ref rest @ ..] => {
                let kind = RepoKind::of_api(kind).ok_or(RouteError::Unknown)?;
                let (id, rest) = split_id(rest).ok_or(RouteError::Unknown)?;
                // The route first: an unknown one is nobody's wrong name.
                let route = api(rest)?;
                Ok(Self::Repo(Repo { kind, id: RepoId::parse(&id)? }, route))
            }
            [kind @ ("datasets" | "spaces"), ref rest @ ..] => {
                content(RepoKind::of_api(kind).ok_or(RouteError::Unknown)?, rest)
            }
            _ => content(RepoKind::Model, &segments),
        }
    }
}

/// The id at the beginning of `segments`, of one or two components, and what follows. The second component is a verb
/// rather than a name wherever it can be.
fn split_id<'a, 'b>(segments: &'b [&'a str]) -> Option<(String, &'b [&'a str])> {
    match segments {
        [name] => Some(((*name).to_owned(), &[])),
        [name, verb, ..] if VERBS.contains(verb) => Some(((*name).to_owned(), &segments[1..])),
        [owner, name, rest @ ..] => Some((format!("{owner}/{name}"), rest)),
        [] => None,
    }
}

fn api(segments: &[&str]) -> Result<RepoRoute, RouteError> {
    match segments {
        [] => Ok(RepoRoute::Info { revision: None }),
        ["revision", rev] => Ok(RepoRoute::Info { revision: Some(revision(rev)?) }),
        ["tree", rev] | ["tree", rev, ""] => {
            Ok(RepoRoute::Tree { revision: revision(rev)?, directory: None })
        }
        ["tree", rev, path @ ..] => {
            let path = path.strip_suffix(&[""]).unwrap_or(path);
            Ok(RepoRoute::Tree { revision: revision(rev)?, directory: Some(file(path)?) })
        }
        ["paths-info", rev] => Ok(RepoRoute::PathsInfo { revision: revision(rev)? }),
        ["refs"] => Ok(RepoRoute::Refs),
        ["commits", rev] => Ok(RepoRoute::Commits { revision: revision(rev)? }),
        ["auth-check"] => Ok(RepoRoute::AuthCheck),
        ["auth-check", "write"] => Ok(RepoRoute::WriteCheck),
        ["xet-read-token", rev] => Ok(RepoRoute::XetReadToken { revision: revision(rev)? }),
        _ => Err(RouteError::Unknown),
    }
}

fn content(kind: RepoKind, segments: &[&str]) -> Result<Route, RouteError> {
    let (id, rest) = split_id(segments).ok_or(RouteError::Unknown)?;
    let (verb, rev, path) = match rest {
        [verb @ ("resolve" | "raw"), rev, path @ ..] if !path.is_empty() => (*verb, rev, path),
        _ => return Err(RouteError::Unknown),
    };
    let repo = Repo { kind, id: RepoId::parse(&id)? };
    let (revision, file) = (revision(rev)?, file(path)?);
    let route = match verb {
        "raw" => RepoRoute::Raw { revision, file },
        _ => RepoRoute::Resolve { revision, file },
    };
    Ok(Route::Repo(repo, route))
}

fn resolve_cache(kind: &str, segments: &[&str]) -> Result<Route, RouteError> {
    let kind = RepoKind::of_api(kind).ok_or(RouteError::Unknown)?;
    let (id, commit, path) = match segments {
        [name, commit, path @ ..] if commit.parse::<Commit>().is_ok() => ((*name).to_owned(), commit, path),
        [owner, name, commit, path @ ..] => (format!("{owner}/{name}"), commit, path),
        _ => return Err(RouteError::Unknown),
    };
    let commit: Commit = commit.parse().map_err(|_| RouteError::Unknown)?;
    let repo = Repo { kind, id: RepoId::parse(&id)? };
    Ok(Route::Repo(repo, RepoRoute::Resolve { revision: commit.into(), file: file(path)? }))
}

fn revision(raw: &str) -> Result<Revision, RouteError> {
    Ok(Revision::parse(&decode_segment(raw).ok_or(RouteError::NotText)?)?)
}

/// Some clients send a path's slashes as `%2F`: they are slashes once decoded, and what is between them is checked.
fn file(raw: &[&str]) -> Result<FilePath, RouteError> {
    let decoded = decode_segment(&raw.join("/")).ok_or(RouteError::NotText)?;
    Ok(FilePath::parse(&decoded)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parsed(path: &str) -> (String, RepoRoute) {
        match Route::parse(path).unwrap_or_else(|error| panic!("{path}: {error}")) {
            Route::Repo(repo, route) => (repo.to_string(), route),
            Route::WhoAmI | Route::List(_) => panic!("{path}"),
        }
    }

    fn rev(text: &str) -> Revision {
        Revision::parse(text).expect("a revision")
    }

    fn path(text: &str) -> FilePath {
        FilePath::parse(text).expect("a path")
    }

    #[test]
    fn requests_of_the_api_are_recognised_for_ids_of_one_and_two_components() {
        for id in ["gpt2", "org/name"] {
            for (kind, prefix) in [("models", ""), ("datasets", "datasets/"), ("spaces", "spaces/")] {
                let at = |rest: &str| parsed(&format!("/api/{kind}/{id}{rest}"));
                let repo = format!("{prefix}{id}");
                assert_eq!(at(""), (repo.clone(), RepoRoute::Info { revision: None }));
                let info = RepoRoute::Info { revision: Some(rev("refs/pr/1")) };
                assert_eq!(at("/revision/refs%2Fpr%2F1"), (repo.clone(), info));
                let tree = |directory| RepoRoute::Tree { revision: rev("main"), directory };
                assert_eq!(at("/tree/main"), (repo.clone(), tree(None)));
                assert_eq!(at("/tree/main/"), (repo.clone(), tree(None)));
                for spelling in ["/tree/main/a%20b/c", "/tree/main/a%20b%2Fc", "/tree/main/a%20b/c/"] {
                    assert_eq!(at(spelling), (repo.clone(), tree(Some(path("a b/c")))), "{spelling}");
                }
                assert_eq!(at("/refs"), (repo.clone(), RepoRoute::Refs));
                assert_eq!(at("/auth-check"), (repo.clone(), RepoRoute::AuthCheck));
                assert_eq!(at("/auth-check/write"), (repo.clone(), RepoRoute::WriteCheck));
                assert_eq!(at("/commits/v1"), (repo.clone(), RepoRoute::Commits { revision: rev("v1") }));
                assert_eq!(
                    at("/paths-info/v1"),
                    (repo.clone(), RepoRoute::PathsInfo { revision: rev("v1") })
                );
                let token = RepoRoute::XetReadToken { revision: rev("v1") };
                assert_eq!(at("/xet-read-token/v1"), (repo, token));
            }
        }
        assert_eq!(Route::parse("/api/whoami-v2"), Ok(Route::WhoAmI));
        assert_eq!(Route::parse("/api/spaces"), Ok(Route::List(RepoKind::Space)));
    }

    #[test]
    fn files_are_recognised_however_their_names_are_encoded() {
        let resolve =
            |revision: &str, file: &str| RepoRoute::Resolve { revision: rev(revision), file: path(file) };
        let cases = [
            ("/gpt2/resolve/main/config.json", "gpt2", resolve("main", "config.json")),
            ("/o/n/resolve/refs%2Fpr%2F1/a/b", "o/n", resolve("refs/pr/1", "a/b")),
            ("/o/n/resolve/main/we%20ird%231%25.bin", "o/n", resolve("main", "we ird#1%.bin")),
            ("/o/n/resolve/main/100%.bin", "o/n", resolve("main", "100%.bin")),
            ("/datasets/squad/resolve/main/a", "datasets/squad", resolve("main", "a")),
            ("/spaces/o/n/raw/v1/a", "spaces/o/n", RepoRoute::Raw { revision: rev("v1"), file: path("a") }),
        ];
        for (raw, repo, route) in cases {
            assert_eq!(parsed(raw), (repo.to_owned(), route), "{raw}");
        }
        for id in ["gpt2", "o/n"] {
            let raw = format!("/api/resolve-cache/models/{id}/{SHA}/a%2Fb");
            assert_eq!(parsed(&raw), (id.to_owned(), resolve(SHA, "a/b")));
        }
    }

    #[test]
    fn hostile_paths_are_no_requests() {
        for raw in [
            "",
            "/",
            "//",
            "api/models/gpt2",
            "/api",
            "/api/kernels",
            "/api/models/",
            "/api/kernels/o/n",
            "/api/models/o/n/x",
            "/o/n/resolve/main",
            "/o/n/resolve/main/",
            "/o/n",
            "/resolve/main/a",
            "/datasets/resolve/main/a",
            "/o/n/resolve/main/../../../etc/passwd",
            "/o/n/resolve/main/..%2f..%2fetc%2fpasswd",
            "/o/n/resolve/..%2f/a",
            "/o/n/resolve/main/%2e%2e/a",
            "/o/n/resolve/main/a%00b",
            "/o/n/resolve/main/a%5cb",
            "/o/n/resolve/main/a//b",
            "/o/n/resolve/main/%2Fetc",
            "/../n/resolve/main/a",
            "/o/..%2fn/resolve/main/a",
            "/o%2Fn/resolve/main/a",
            "/o/n/resolve/%ff/a",
            "/o/n/resolve/main/%ff",
            "/api/models/../x",
            "/api/models/o/n/tree/main/..",
            "/o/n/resolve/ma%20in/a",
            "/api/models/o/n/tree/",
            "/torrent/o/n/resolve/main/a",
        ] {
            assert!(Route::parse(raw).is_err(), "{raw}: {:?}", Route::parse(raw));
        }
    }

    #[test]
    fn a_wrong_name_is_told_from_an_unknown_route() {
        assert_eq!(Route::parse("/api/models/o/n/x"), Err(RouteError::Unknown));
        assert_eq!(Route::parse("/stats"), Err(RouteError::Unknown));
        assert!(matches!(Route::parse("/api/models/.git"), Err(RouteError::Name(_))));
        assert!(matches!(Route::parse("/o/n/resolve/a..b/x"), Err(RouteError::Revision(_))));
        assert!(matches!(Route::parse("/o/n/resolve/main/../x"), Err(RouteError::Path(_))));
    }

    proptest! {
        #[test]
        fn whatever_is_recognised_holds_checked_names(
            raw in prop_oneof!["(/(api|models|a|b|resolve|tree|main|\\.\\.|%2[fF]|%2e|\\.|%00|\\\\)){1,9}", "/\\PC{0,60}"]
        ) {
            if let Ok(Route::Repo(repo, route)) = Route::parse(&raw) {
                prop_assert_eq!(Repo::parse(&repo.to_string()), Ok(repo));
                if let RepoRoute::Resolve { revision, file } = route {
                    prop_assert!(file.segments().all(|part| !matches!(part, "" | "." | "..")));
                    prop_assert!(!revision.as_str().contains(".."));
                }
            }
        }

        #[test]
        fn an_address_made_here_is_read_back(file in "[a-z #%?ü]{1,8}(/[a-z.]{1,4}x){0,2}", revision in "[a-z]{1,4}(/[a-z]{1,3})?") {
            let (revision, file) = (rev(&revision), path(&file));
            let repo = Repo::parse("datasets/org/name").expect("a repository");
            let resolve = RepoRoute::Resolve { revision: revision.clone(), file: file.clone() };
            prop_assert_eq!(Route::parse(&repo.resolve_path(&revision, &file)), Ok(Route::Repo(repo.clone(), resolve)));
            let info = RepoRoute::Info { revision: Some(revision.clone()) };
            prop_assert_eq!(Route::parse(&repo.api_path_at("revision", &revision)), Ok(Route::Repo(repo, info)));
        }
    }
}
