//! What the names in a mount of repositories mean: `org/repo@revision`, and the folders of the clients' cache.
//!
//! Checked before anybody is asked: shells and desktops probe each directory for names that no repository can have.

use wtfs_proto::hf::{Repo, RepoId, RepoKind, Revision, decode_segment};

/// What desktops and media players look for in every directory, and what an owner could be called too.
const PROBED: &[&str] = &["autorun.inf", "desktop.ini", "thumbs.db", "bdmv", "video_ts", "lost+found"];

/// The repository and the revision that `name` is below `owner`, or in the root where there is none.
pub(super) fn repository(kind: RepoKind, owner: Option<&str>, name: &str) -> Option<(Repo, Revision)> {
    let (name, revision) = match name.split_once('@') {
        Some((name, escaped)) => {
            let revision = Revision::parse(&decode_segment(escaped)?).ok()?;
            // One name for one thing: other spellings of the same revision are no names.
            if escape(&revision) != escaped {
                return None;
            }
            (name, revision)
        }
        None => (name, Revision::main()),
    };
    if name.contains('/') || PROBED.contains(&name.to_ascii_lowercase().as_str()) {
        return None;
    }
    let id = match owner {
        Some(owner) => RepoId::parse(&format!("{owner}/{name}")),
        None => RepoId::parse(name),
    };
    Some((Repo { kind, id: id.ok()? }, revision))
}

/// The name of a repository's directory inside that of its owner, for a revision.
pub(super) fn entry(repo: &Repo, revision: &Revision) -> String {
    let name = repo.id.name();
    if *revision == Revision::main() { name.to_owned() } else { format!("{name}@{}", escape(revision)) }
}

/// Slashes as the field writes them in one component.
fn escape(revision: &Revision) -> String {
    revision.as_str().replace('/', "%2F")
}

/// The folder of a repository in the clients' cache.
pub(super) fn folder(repo: &Repo) -> String {
    format!("{}--{}", repo.kind.api(), repo.id.as_str().replace('/', "--"))
}

/// The repository whose folder in the clients' cache this is.
pub(super) fn of_folder(name: &str) -> Option<Repo> {
    let (kind, id) = name.split_once("--")?;
    let repo = Repo { kind: RepoKind::of_api(kind)?, id: RepoId::parse(&id.replacen("--", "/", 1)).ok()? };
    (folder(&repo) == name).then_some(repo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_a_repository_at_a_revision() {
        let parsed = |owner, name| {
            let (repo, revision) = repository(RepoKind::Model, owner, name)?;
            Some((repo.to_string(), revision.to_string(), entry(&repo, &revision)))
        };
        let some = |repo: &str, revision: &str, name: &str| Some((repo.into(), revision.into(), name.into()));
        assert_eq!(parsed(Some("org"), "repo"), some("org/repo", "main", "repo"));
        assert_eq!(parsed(Some("org"), "repo@v1"), some("org/repo", "v1", "repo@v1"));
        let odd = "repo@refs%2Fpr%2F1";
        assert_eq!(parsed(Some("org"), odd), some("org/repo", "refs/pr/1", odd));
        assert_eq!(parsed(None, "gpt2"), some("gpt2", "main", "gpt2"));
    }

    #[test]
    fn names_that_are_probed_everywhere_ask_nobody() {
        for name in
            [".git", ".Trash", ".hidden", "autorun.inf", "BDMV", "a b", "datasets", "api", "x@", "x@a b", "é"]
        {
            assert_eq!(repository(RepoKind::Model, None, name), None, "{name}");
        }
        for name in ["x@refs%2fpr%2F1", "x@a%2f..%2fb", "-x", "a--b", "x.git", "a/b"] {
            assert_eq!(repository(RepoKind::Model, Some("org"), name), None, "{name}");
        }
    }

    #[test]
    fn folders_of_the_cache_are_those_of_the_clients() {
        for (folder_name, text) in [
            ("models--gpt2", "gpt2"),
            ("models--org--na.me_x-1", "org/na.me_x-1"),
            ("datasets--a--b", "datasets/a/b"),
        ] {
            let repo = of_folder(folder_name).expect(folder_name);
            assert_eq!((repo.to_string(), folder(&repo)), (text.to_owned(), folder_name.to_owned()));
        }
        for name in
            ["models", "models--", "models--a--b--c", "kernels--a--b", ".locks", "models--a/b", "models--.x"]
        {
            assert_eq!(of_folder(name), None, "{name}");
        }
    }
}
