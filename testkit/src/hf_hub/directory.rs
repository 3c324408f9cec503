//! Repositories read from a directory: `models/org/name`, `datasets/org/name`, `spaces/org/name`; `name@rev` is a branch.
//!
//! Files stay on disk and are read when they are asked for; symlinks are followed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    content::Content,
    repo::{Entry, RepoKind, Tree},
};

/// A repository as it was found.
pub(super) struct Found {
    pub(super) kind: RepoKind,
    pub(super) id: String,
    pub(super) main: Tree,
    pub(super) branches: BTreeMap<String, Tree>,
}

/// All repositories below a directory.
pub(super) fn read(dir: &Path) -> Vec<Found> {
    let mut all: BTreeMap<(RepoKind, String), Found> = BTreeMap::new();
    for kind in RepoKind::ALL {
        for (org, path) in directories(&dir.join(kind.api())) {
            for (name, path) in directories(&path) {
                let (name, revision) = name.split_once('@').unwrap_or((&name, "main"));
                let id = format!("{org}/{name}");
                let found = all.entry((kind, id.clone())).or_insert_with(|| Found {
                    kind,
                    id,
                    main: Tree::new(),
                    branches: BTreeMap::new(),
                });
                let files = tree(&path);
                if revision == "main" {
                    found.main = files;
                } else {
                    // A slash cannot stand in the name of a directory.
                    found.branches.insert(revision.replace("%2F", "/"), files);
                }
            }
        }
    }
    all.into_values().collect()
}

fn directories(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    let mut found: Vec<_> =
        paths.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path))).collect();
    found.sort();
    found
}

fn tree(root: &Path) -> Tree {
    let mut files = Tree::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for entry in entries {
            let path = entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())).path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).ok().and_then(Path::to_str);
                let name = name.unwrap_or_else(|| panic!("{}: no UTF-8", path.display())).to_owned();
                let entry = Arc::new(Entry::new(&name, Content::File(path)));
                files.insert(name, entry);
            }
        }
    }
    files
}
