//! Says what an emulator holds: repositories one after the other, and in each its files, commits and names.
//!
//! What is said of a repository is about the one begun last. Files gather until a commit is made of them, by
//! [`HfHubBuilder::commit`], by a name, or at the end; a later commit starts from the files of the one before.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::net;

use super::{
    HfHub, State,
    content::Content,
    directory,
    repo::{Access, Entry, Repo, RepoKind, Tree},
};

/// What holds for the whole emulator.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) page_size: usize,
    pub(super) cdn_expiry: Duration,
    pub(super) advertises_xet: bool,
    pub(super) secret: Vec<u8>,
}

/// A repository in the making.
#[derive(Debug)]
struct Draft {
    repo: Repo,
    head: Option<String>,
    files: Tree,
    is_changed: bool,
}

impl Draft {
    fn new(kind: RepoKind, id: &str) -> Self {
        Self { repo: Repo::new(kind, id), head: None, files: Tree::new(), is_changed: false }
    }

    /// Makes a commit of what gathered, if anything did, and moves `main` there.
    fn seal(&mut self, title: &str) -> String {
        if self.is_changed || self.head.is_none() {
            let sha = self.repo.add_commit(self.head.take(), title, self.files.clone());
            self.repo.refs.insert("refs/heads/main".to_owned(), sha.clone());
            self.head = Some(sha);
            self.is_changed = false;
        }
        self.head.clone().expect("just set, or there before")
    }
}

/// What an emulator will hold.
#[derive(Debug)]
#[must_use]
pub struct HfHubBuilder {
    settings: Settings,
    addrs: Option<(SocketAddr, SocketAddr)>,
    accounts: Vec<(String, String)>,
    drafts: Vec<Draft>,
}

impl HfHubBuilder {
    pub(super) fn new() -> Self {
        let settings = Settings {
            page_size: 1000,
            cdn_expiry: Duration::from_secs(3600),
            advertises_xet: false,
            secret: b"the secret of the signed URLs".to_vec(),
        };
        Self { settings, addrs: None, accounts: Vec::new(), drafts: Vec::new() }
    }

    /// Begins a repository; with no file of its own it has an empty first commit.
    pub fn repo(mut self, kind: RepoKind, id: &str) -> Self {
        self.drafts.push(Draft::new(kind, id));
        self
    }

    /// As [`HfHubBuilder::repo`] for a model.
    pub fn model(self, id: &str) -> Self {
        self.repo(RepoKind::Model, id)
    }

    /// As [`HfHubBuilder::repo`] for a dataset.
    pub fn dataset(self, id: &str) -> Self {
        self.repo(RepoKind::Dataset, id)
    }

    /// Sets a file. What is larger than 10 MiB, or ends as weights do, lies in LFS; all else in git.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn file(mut self, path: &str, content: impl Into<Content>) -> Self {
        let draft = self.draft();
        draft.files.insert(path.to_owned(), Arc::new(Entry::new(path, content.into())));
        draft.is_changed = true;
        self
    }

    /// Sets a file to a ramp of this length.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn ramp(self, path: &str, seed: u64, len: u64) -> Self {
        self.file(path, Content::ramp(seed, len))
    }

    /// Takes a file away.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn without(mut self, path: &str) -> Self {
        let draft = self.draft();
        draft.is_changed |= draft.files.remove(path).is_some();
        self
    }

    /// Makes a commit of the files so far.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn commit(mut self, title: &str) -> Self {
        self.draft().seal(title);
        self
    }

    /// Points a branch at the present commit; `main` goes on without it.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn branch(self, name: &str) -> Self {
        self.name(&format!("refs/heads/{name}"))
    }

    /// Points a tag at the present commit.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn tag(self, name: &str) -> Self {
        self.name(&format!("refs/tags/{name}"))
    }

    /// Points a name at the present commit, given in full, such as `refs/pr/1` or `refs/convert/parquet`.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn name(mut self, name: &str) -> Self {
        let draft = self.draft();
        let sha = draft.seal("Add files");
        draft.repo.refs.insert(name.to_owned(), sha);
        self
    }

    /// The repository is asked for by this id too, and redirects: an earlier name, or a canonical one such as `gpt2`.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn alias(mut self, id: &str) -> Self {
        self.draft().repo.aliases.push(id.to_owned());
        self
    }

    /// Who may read it; everybody, unless told otherwise.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn access(mut self, access: Access) -> Self {
        self.draft().repo.access = access;
        self
    }

    /// As [`HfHubBuilder::access`] with [`Access::Gated`].
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn gated(self) -> Self {
        self.access(Access::Gated)
    }

    /// As [`HfHubBuilder::access`] with [`Access::Private`].
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn private(self) -> Self {
        self.access(Access::Private)
    }

    /// Lets a token read the repository.
    ///
    /// # Panics
    /// When no repository was begun.
    #[track_caller]
    pub fn grant(mut self, token: &str) -> Self {
        self.draft().repo.granted.insert(token.to_owned());
        self
    }

    /// A user with this token.
    pub fn account(mut self, name: &str, token: &str) -> Self {
        self.accounts.push((token.to_owned(), name.to_owned()));
        self
    }

    /// All repositories of a directory: see [`HfHub::start`].
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn directory(mut self, dir: &Path) -> Self {
        for found in directory::read(dir) {
            let mut draft = Draft::new(found.kind, &found.id);
            draft.files = found.main;
            draft.is_changed = true;
            let main = draft.seal("Add files");
            for (branch, files) in found.branches {
                let sha = draft.repo.add_commit(Some(main.clone()), "Add files", files);
                draft.repo.refs.insert(format!("refs/heads/{branch}"), sha);
            }
            self.drafts.push(draft);
        }
        self
    }

    /// How many entries a page of a listing has; 1000, unless told otherwise.
    pub fn page_size(mut self, entries: usize) -> Self {
        self.settings.page_size = entries.max(1);
        self
    }

    /// How long a signed URL holds; an hour, unless told otherwise.
    pub fn cdn_expiry(mut self, expiry: Duration) -> Self {
        self.settings.cdn_expiry = expiry;
        self
    }

    /// Advertises Xet for what lies in LFS, in headers and in listings.
    pub fn with_xet(mut self) -> Self {
        self.settings.advertises_xet = true;
        self
    }

    /// Listens at these addresses, hub and CDN; on two loopback addresses of its own, unless told otherwise.
    pub fn listen(mut self, hub: SocketAddr, cdn: SocketAddr) -> Self {
        self.addrs = Some((hub, cdn));
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When an address cannot be bound.
    #[must_use]
    pub fn start(mut self) -> HfHub {
        for draft in &mut self.drafts {
            draft.seal("Add files");
        }
        let (hub, cdn) = self.addrs.unwrap_or_else(|| (net::fresh_addr(), net::fresh_addr()));
        HfHub::launch(State {
            settings: self.settings,
            hub,
            cdn,
            repos: Mutex::new(self.drafts.into_iter().map(|draft| draft.repo).collect()),
            accounts: Mutex::new(self.accounts),
            faults: Arc::default(),
            log: Mutex::default(),
        })
    }

    #[track_caller]
    fn draft(&mut self) -> &mut Draft {
        self.drafts.last_mut().expect("a repository was begun")
    }
}
