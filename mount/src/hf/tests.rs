//! The tree of repositories against a stand-in for the hub: what shows, what is asked for and how often, what follows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::SystemTime;

use wtfs_proto::hf::{RepoTree, TreeFile, TreePages};

use super::*;

/// A hub with some repositories; each question is written down.
#[derive(Debug, Default)]
struct Fake {
    /// What each repository's revisions stand for: its name now, the commit, the files.
    repos: Mutex<BTreeMap<String, Stands>>,
    asked: Mutex<Vec<String>>,
    is_down: std::sync::atomic::AtomicBool,
    remembered: Vec<(Repo, Revision)>,
}

/// A name, a commit and the files.
type Stands = (String, String, Vec<&'static str>);

const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";

fn tree(commit: &str, files: &[&str]) -> RepoTree {
    let entries: Vec<String> = files
        .iter()
        .map(|path| {
            // A hub may make lengths up.
            let size = if path.starts_with("endless") { i64::MAX as u64 } else { 100 + path.len() as u64 };
            format!(r#"{{"type":"file","path":"{path}","oid":"{ONE}","size":{size}}}"#)
        })
        .collect();
    let mut pages = TreePages::default();
    pages.push(format!("[{}]", entries.join(",")).as_bytes()).expect("a page");
    pages.finish(commit.parse().expect("a commit"))
}

impl Fake {
    fn with(repos: &[(&str, &str, &str, &[&'static str])]) -> Arc<Self> {
        let fake = Self::default();
        for (asked, name, commit, files) in repos {
            fake.put(asked, name, commit, files);
        }
        Arc::new(fake)
    }

    /// `asked` is a repository and a revision.
    fn put(&self, asked: &str, name: &str, commit: &str, files: &[&'static str]) {
        let entry = (name.to_owned(), commit.to_owned(), files.to_vec());
        self.repos.lock().unwrap().insert(asked.to_owned(), entry);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl RepoSource for Fake {
    fn resolve(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Result<RepoRevision, RepoError>> {
        let asked = format!("{repo}@{revision}");
        self.asked.lock().unwrap().push(asked.clone());
        let why = |text: &str| -> crate::errno::Cause { Arc::new(std::io::Error::other(text.to_owned())) };
        let found = if self.is_down.load(std::sync::atomic::Ordering::SeqCst) {
            Err(RepoError::Unreachable(why("the hub does not answer")))
        } else {
            let found = self.repos.lock().unwrap().get(&asked).cloned();
            found.ok_or_else(|| RepoError::NoRepo(why("no such repository"))).map(|(name, commit, files)| {
                RepoRevision {
                    repo: Repo::parse(&name).expect("a repository"),
                    commit: commit.parse().expect("a commit"),
                    modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                    is_public: true,
                    tree: Arc::new(tree(&commit, &files)),
                }
            })
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            found
        })
    }

    fn look(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Option<Commit>> {
        let asked = format!("{repo}@{revision}");
        self.asked.lock().unwrap().push(format!("look {asked}"));
        let found = self.repos.lock().unwrap().get(&asked).map(|(_, commit, _)| commit.clone());
        Box::pin(async move { found?.parse().ok() })
    }

    fn is_pinned(&self, file: &TreeFile) -> bool {
        file.path.as_str().ends_with(".pinned")
    }

    fn remembered(&self) -> Vec<(Repo, Revision)> {
        self.remembered.clone()
    }

    fn local(&self, file: &TreeFile) -> Local {
        Local { bytes: file.bytes / 2, is_verified: false }
    }

    fn local_ranges(&self, file: &TreeFile, _limit: usize) -> Vec<Range<u64>> {
        std::iter::once(0..file.bytes / 2).collect()
    }

    fn open(&self, revision: &RepoRevision, file: &TreeFile) -> Result<Arc<dyn Content>, FsError> {
        Ok(Arc::new(MemoryContent::new(format!("{}:{}", revision.commit, file.path))))
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// Asked again at once where time passes, never where it does not.
const LASTING: HfTreeConfig =
    HfTreeConfig { refresh: HOUR, absence: HOUR, look: HOUR, revisions: 100, files: 1000, rest: HOUR };
const FLEETING: HfTreeConfig = HfTreeConfig {
    refresh: Duration::ZERO,
    absence: Duration::ZERO,
    look: Duration::from_millis(1),
    ..LASTING
};
/// Holds two revisions.
const NARROW: HfTreeConfig = HfTreeConfig { revisions: 2, rest: Duration::ZERO, ..LASTING };

fn mounted(fake: &Arc<Fake>, config: HfTreeConfig) -> HfTree {
    let source: Arc<dyn RepoSource> = Arc::clone(fake) as Arc<dyn RepoSource>;
    HfTree::new(source, Handle::current(), vec![ControlFile::new("status.json", Vec::new)], config)
}

/// As the adapter does it: what is known at once, else what a search finds.
async fn step(tree: &HfTree, parent: InodeNo, name: &str) -> Result<Node, FsError> {
    match tree.lookup(parent, OsStr::new(name)) {
        Err(FsError::NotFound) => match tree.search(parent, OsStr::new(name)) {
            Some(search) => search.await,
            None => Err(FsError::NotFound),
        },
        found => found,
    }
}

async fn walk(tree: &HfTree, path: &str) -> Result<Node, FsError> {
    let mut node = tree.node(InodeNo::ROOT).expect("a root");
    for name in path.split('/').filter(|name| !name.is_empty()) {
        node = step(tree, node.ino, name).await?;
    }
    Ok(node)
}

fn names(tree: &HfTree, dir: InodeNo) -> Vec<String> {
    let mut names = Vec::new();
    let mut last = Cookie::START;
    tree.list(dir, Cookie::START, &mut |entry| {
        assert!(entry.cookie > last, "cookies grow");
        last = entry.cookie;
        names.push(entry.name.to_str().unwrap().to_owned());
        ControlFlow::Continue(())
    })
    .expect("a directory");
    names
}

fn read(tree: &HfTree, node: &Node) -> String {
    let content = tree.open(node.ino).expect("opened");
    String::from_utf8(content.try_read_at(0, u32::MAX).expect("in memory").to_vec()).unwrap()
}

#[tokio::test]
async fn a_repository_is_asked_about_when_it_is_entered_and_its_misses_cost_nothing() {
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, &["config.json", "onnx/model.onnx"])]);
    let tree = mounted(&fake, LASTING);
    assert_eq!(names(&tree, InodeNo::ROOT), [".wtfs", ".cache-view", "datasets", "spaces"]);
    let file = walk(&tree, "org/repo/onnx/model.onnx").await.expect("found");
    assert_eq!((file.bytes, file.local_bytes), (115, 57));
    // The owner's name could have been a repository's.
    assert_eq!(fake.asked(), ["org@main", "org/repo@main"]);
    for probe in
        ["adapter_config.json", "chat_template.jinja", "additional_chat_templates/x", "onnx/x", ".git"]
    {
        let missing = walk(&tree, &format!("org/repo/{probe}")).await.unwrap_err();
        assert_eq!(missing.errno(), libc::ENOENT, "{probe}");
    }
    assert_eq!(read(&tree, &file), format!("{ONE}:onnx/model.onnx"));
    assert_eq!(fake.asked(), Vec::<String>::new());
    assert_eq!(names(&tree, InodeNo::ROOT).last().map(String::as_str), Some("org"));
    assert_eq!(names(&tree, walk(&tree, "org").await.unwrap().ino), ["repo"]);
    assert_eq!(names(&tree, walk(&tree, "org/repo").await.unwrap().ino), ["config.json", "onnx"]);
    assert_eq!(file.modified, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
}

#[tokio::test]
async fn what_is_not_there_is_asked_about_once_and_impossible_names_never() {
    let fake = Fake::with(&[]);
    let tree = mounted(&fake, LASTING);
    for _ in 0..3 {
        assert_eq!(walk(&tree, "org/nothing").await.unwrap_err().errno(), libc::ENOENT);
    }
    assert_eq!(fake.asked(), ["org@main", "org/nothing@main"]);
    for name in
        [".git", ".Trash-0", "autorun.inf", "a b", "org/.hidden", "org/x.git", "org/a--b", "spaces/x/y@ "]
    {
        assert_eq!(walk(&tree, name).await.unwrap_err().errno(), libc::ENOENT, "{name}");
    }
    assert_eq!(fake.asked(), Vec::<String>::new());
    // Nothing that was only looked for is listed.
    assert_eq!(names(&tree, InodeNo::ROOT), [".wtfs", ".cache-view", "datasets", "spaces"]);
}

#[tokio::test]
async fn many_who_look_at_once_have_it_asked_once() {
    let fake = Fake::with(&[("org/repo@v1", "org/repo", ONE, &["a"])]);
    let tree = mounted(&fake, LASTING);
    let org = walk(&tree, "org").await.unwrap().ino;
    fake.asked();
    let looking: Vec<_> = (0..20).map(|_| tree.search(org, OsStr::new("repo@v1")).expect("can be")).collect();
    let mut numbers = std::collections::HashSet::new();
    for search in looking {
        numbers.insert(search.await.expect("found").ino);
    }
    assert_eq!((numbers.len(), fake.asked()), (1, vec!["org/repo@v1".to_owned()]));
}

#[tokio::test]
async fn a_hub_that_is_down_is_an_error_and_no_absence() {
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, &["a"])]);
    let tree = mounted(&fake, LASTING);
    fake.is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = walk(&tree, "org").await.unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    assert!(error.to_string().contains("the hub does not answer"), "{error}");
    fake.is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(walk(&tree, "org/repo/a").await.is_ok());
}

#[tokio::test]
async fn names_that_were_given_up_are_links_to_those_of_today() {
    let fake = Fake::with(&[
        ("gpt2@main", "openai-community/gpt2", ONE, &["config.json"]),
        ("old/name@v1", "new/name", TWO, &["a"]),
    ]);
    let tree = mounted(&fake, LASTING);
    let link = walk(&tree, "gpt2").await.expect("found");
    assert_eq!(link.kind, NodeKind::Symlink);
    assert_eq!(tree.read_link(link.ino).unwrap(), PathBuf::from("openai-community/gpt2"));
    // Known by its other name already.
    fake.asked();
    assert!(walk(&tree, "openai-community/gpt2/config.json").await.is_ok());
    assert_eq!(fake.asked(), Vec::<String>::new());
    let link = walk(&tree, "old/name@v1").await.expect("found");
    assert_eq!(tree.read_link(link.ino).unwrap(), PathBuf::from("../new/name@v1"));
    assert_eq!(walk(&tree, "new/name@v1/a").await.unwrap().bytes, 101);
}

#[tokio::test]
async fn data_sets_and_spaces_stand_beside_the_models() {
    let fake = Fake::with(&[
        ("datasets/squad@main", "datasets/squad", ONE, &["train.parquet"]),
        ("datasets/org/set@main", "datasets/org/set", ONE, &["a"]),
        ("spaces/org/app@main", "spaces/org/app", TWO, &["app.py"]),
    ]);
    let tree = mounted(&fake, LASTING);
    assert!(walk(&tree, "datasets/squad/train.parquet").await.is_ok());
    assert!(walk(&tree, "datasets/org/set/a").await.is_ok());
    assert!(walk(&tree, "spaces/org/app/app.py").await.is_ok());
    // A space always has an owner.
    assert!(!fake.asked().contains(&"spaces/org@main".to_owned()));
    assert_eq!(names(&tree, walk(&tree, "datasets").await.unwrap().ino), ["squad", "org"]);
}

#[tokio::test]
async fn a_branch_is_followed_only_while_nobody_reads() {
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, &["a"])]);
    let tree = mounted(&fake, FLEETING);
    let file = walk(&tree, "org/repo/a").await.unwrap();
    let open = tree.open(file.ino).expect("opened");
    fake.put("org/repo@main", "org/repo", TWO, &["a", "b"]);
    for _ in 0..3 {
        let dir = walk(&tree, "org/repo").await.unwrap();
        // Whatever it was the cause of has ended.
        while !tree.shared.flights.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(&tree, dir.ino), ["a"]);
    }
    drop(open);
    let moved = async {
        loop {
            let dir = walk(&tree, "org/repo").await.unwrap();
            if names(&tree, dir.ino) == ["a", "b"] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), moved).await.expect("the new commit shows");
    let newer = walk(&tree, "org/repo/a").await.unwrap();
    assert_ne!(newer.ino, file.ino);
    // Who sits in the old one goes on reading the old one.
    assert_eq!(read(&tree, &file), format!("{ONE}:a"));
    assert_eq!(read(&tree, &newer), format!("{TWO}:a"));
}

#[tokio::test]
async fn one_commit_has_one_set_of_files_wherever_it_stands() {
    let fake = Fake::with(&[
        ("org/repo@main", "org/repo", ONE, &["d/a"]),
        ("org/repo@v1", "org/repo", ONE, &["d/a"]),
    ]);
    let tree = mounted(&fake, LASTING);
    let paths = [
        "org/repo".to_owned(),
        "org/repo@v1".to_owned(),
        format!(".cache-view/models--org--repo/snapshots/{ONE}"),
    ];
    let mut files = std::collections::HashSet::new();
    let mut dirs = std::collections::HashSet::new();
    for path in &paths {
        files.insert(walk(&tree, &format!("{path}/d/a")).await.expect("found").ino);
        let dir = walk(&tree, &format!("{path}/d")).await.unwrap();
        let top = walk(&tree, path).await.unwrap();
        assert_eq!((dir.parent, tree.node(dir.ino).map(|node| node.parent)), (top.ino, Some(top.ino)));
        dirs.extend([dir.ino, top.ino]);
    }
    assert_eq!((files.len(), dirs.len()), (1, 6));
    // Another process gives the same numbers.
    let again = mounted(&fake, LASTING);
    for path in &paths {
        let path = format!("{path}/d/a");
        assert_eq!(walk(&again, &path).await.unwrap().ino, walk(&tree, &path).await.unwrap().ino);
    }
}

#[tokio::test]
async fn the_view_for_caches_has_what_clients_look_for() {
    let fake = Fake::with(&[
        ("org/repo@main", "org/repo", ONE, &["config.json", "sub/x.bin"]),
        ("org/repo@refs/pr/1", "org/repo", TWO, &["config.json"]),
        (&format!("org/repo@{TWO}"), "org/repo", TWO, &["config.json"]),
    ]);
    let tree = mounted(&fake, LASTING);
    let at = |path: &str| format!(".cache-view/models--org--repo/{path}");
    let reference = walk(&tree, &at("refs/main")).await.expect("found");
    assert_eq!((read(&tree, &reference), reference.bytes), (ONE.to_owned(), 40));
    let pull = walk(&tree, &at("refs/refs/pr/1")).await.expect("found");
    assert_eq!(read(&tree, &pull), TWO);
    assert_eq!(walk(&tree, &at(&format!("snapshots/{ONE}/sub/x.bin"))).await.unwrap().bytes, 109);
    assert!(walk(&tree, &at(&format!("snapshots/{TWO}/config.json"))).await.is_ok());
    let listing = walk(&tree, &at(&format!("trees/{ONE}.json"))).await.expect("found");
    let listing: serde_json::Value = serde_json::from_str(&read(&tree, &listing)).expect("JSON");
    assert_eq!(listing["files"]["sub/x.bin"]["size"], 109);
    assert_eq!(listing["files"]["config.json"]["blob_id"], ONE);
    // A marker for what is not there, none for what is.
    fake.asked();
    for (path, is_marked) in [
        ("adapter_config.json", true),
        ("additional_chat_templates/x.jinja", true),
        ("sub/y.bin", true),
        ("config.json", false),
        ("sub/x.bin", false),
    ] {
        let found = walk(&tree, &at(&format!(".no_exist/{ONE}/{path}"))).await;
        let is_file = found.as_ref().is_ok_and(|node| node.kind == NodeKind::File && node.bytes == 0);
        assert_eq!(is_file, is_marked, "{path}");
    }
    assert_eq!(fake.asked(), Vec::<String>::new());
    assert!(walk(&tree, ".cache-view/.locks/models--org--repo").await.is_ok());
    let dir = walk(&tree, &at("")).await.unwrap().ino;
    assert_eq!(names(&tree, dir), ["refs", "snapshots", "trees", ".no_exist", "blobs"]);
    assert_eq!(names(&tree, walk(&tree, &at("refs")).await.unwrap().ino), ["main", "refs"]);
    assert_eq!(names(&tree, walk(&tree, ".cache-view").await.unwrap().ino), ["models--org--repo"]);
}

#[tokio::test]
async fn one_repository_or_a_directory_of_it_can_be_the_root() {
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, &["config.json", "onnx/q/model.onnx"])]);
    let (repo, main) = (Repo::parse("org/repo").unwrap(), Revision::main());
    let tree = mounted(&fake, LASTING);
    assert_eq!(tree.set_root(&repo, &main, None), Err(RootError::NotPinned));
    tree.pin(repo.clone(), main.clone()).await.expect("pinned");
    for (path, error) in [
        ("x", RootError::NotThere(FilePath::parse("x").unwrap())),
        ("config.json", RootError::NotADirectory(FilePath::parse("config.json").unwrap())),
    ] {
        assert_eq!(tree.set_root(&repo, &main, FilePath::parse(path).ok().as_ref()), Err(error));
    }
    tree.set_root(&repo, &main, FilePath::parse("onnx").ok().as_ref()).expect("the root");
    assert_eq!(names(&tree, InodeNo::ROOT), ["q"]);
    let dir = walk(&tree, "q").await.unwrap();
    assert_eq!((dir.parent, tree.node(InodeNo::ROOT).unwrap().kind), (InodeNo::ROOT, NodeKind::Directory));
    let file = walk(&tree, "q/model.onnx").await.unwrap();
    assert_eq!(tree.attribute(file.ino, OsStr::new("user.wtfs.commit")), Some(ONE.into()));
    assert_eq!(tree.attribute(file.ino, OsStr::new("user.wtfs.local_ranges")), Some(b"0-57".to_vec()));
    assert!(walk(&tree, ".wtfs/status.json").await.is_ok());
    let cached = format!(".cache-view/models--org--repo/snapshots/{ONE}/onnx/q/model.onnx");
    assert_eq!(walk(&tree, &cached).await.unwrap().ino, file.ino);
    assert_eq!(walk(&tree, "config.json").await.unwrap_err().errno(), libc::ENOENT);
    let pinned = tree.pinned();
    assert_eq!((pinned[0].files, pinned[0].total_bytes), (2, 111 + 117));
}

#[tokio::test]
async fn lengths_that_a_hub_made_up_are_counted_without_wrapping_around() {
    let names = ["endless.1.pinned", "endless.2.pinned", "endless.3.pinned", "endless.4", "endless.5"];
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, &names)]);
    let tree = mounted(&fake, LASTING);
    tree.pin(Repo::parse("org/repo").unwrap(), Revision::main()).await.expect("pinned");
    let pinned = tree.pinned().remove(0);
    assert_eq!((pinned.files, pinned.pinned_files), (5, 3));
    assert_eq!((pinned.total_bytes, pinned.local_bytes, pinned.pinned_bytes), (u64::MAX, u64::MAX, u64::MAX));
}

#[tokio::test]
async fn what_an_earlier_process_knew_is_listed_and_asked_about_when_it_is_entered() {
    let known = (Repo::parse("org/repo").unwrap(), Revision::main());
    let fake = Arc::new(Fake { remembered: vec![known], ..Fake::default() });
    fake.put("org/repo@main", "org/repo", ONE, &["a"]);
    let tree = mounted(&fake, LASTING);
    assert_eq!(names(&tree, InodeNo::ROOT).last().map(String::as_str), Some("org"));
    assert_eq!(names(&tree, walk(&tree, "org").await.unwrap().ino), ["repo"]);
    assert_eq!(fake.asked(), Vec::<String>::new());
    assert!(walk(&tree, "org/repo/a").await.is_ok());
    assert_eq!(fake.asked(), ["org/repo@main"]);
}

#[tokio::test]
async fn a_repository_that_is_the_root_stays_at_its_commit_and_a_newer_one_is_told() {
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, &["a.pinned", "b"])]);
    let tree = mounted(&fake, FLEETING);
    let (repo, main) = (Repo::parse("org/repo").unwrap(), Revision::main());
    tree.pin(repo.clone(), main.clone()).await.expect("there");
    tree.set_root(&repo, &main, None).expect("a directory");
    let told = async |newer: Option<&str>| {
        for _ in 0..10_000 {
            let pinned = tree.pinned().remove(0);
            assert_eq!(pinned.commit.to_string(), ONE);
            if pinned.newer.map(|commit| commit.to_string()).as_deref() == newer {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{newer:?} is never told");
    };
    fake.put("org/repo@main", "org/repo", TWO, &["a.pinned", "b", "c"]);
    told(Some(TWO)).await;
    assert!(tree.lookup(InodeNo::ROOT, OsStr::new("c")).is_err());
    assert_eq!((tree.pinned()[0].pinned_files, tree.pinned()[0].pinned_bytes), (1, 108));
    fake.put("org/repo@main", "org/repo", ONE, &["a.pinned", "b"]);
    told(None).await;
}

#[tokio::test]
async fn files_are_named_by_their_place_or_by_their_repository() {
    let files = &["a", "d/b", "d/e/c", "de"];
    let fake = Fake::with(&[("org/repo@main", "org/repo", ONE, files)]);
    let tree = mounted(&fake, LASTING);
    let (repo, main) = (Repo::parse("org/repo").unwrap(), Revision::main());
    tree.pin(repo.clone(), main.clone()).await.expect("there");
    let names = |chosen: Result<Chosen, ChoiceError>| -> Result<Vec<String>, ChoiceError> {
        Ok(chosen?.files.iter().map(|file| file.path.to_string()).collect())
    };
    assert_eq!(names(tree.files_at("org/repo")).expect("all").len(), 4);
    assert_eq!(names(tree.files_at("org/repo/d")).expect("two"), ["d/b", "d/e/c"]);
    assert_eq!(names(tree.files_at("org/repo/d/b")).expect("one"), ["d/b"]);
    assert_eq!(names(tree.files_at("org")), Err(ChoiceError::NoRepository));
    assert_eq!(names(tree.files_at("org/repo/x")), Err(ChoiceError::NotThere));
    assert_eq!(names(tree.files_at("org/repo/a/x")), Err(ChoiceError::NotThere));
    let path = |text| FilePath::parse(text).expect("a path");
    assert_eq!(names(tree.files_of(&repo, &main, Some(&path("d")))).expect("two"), ["d/b", "d/e/c"]);
    assert_eq!(names(tree.files_of(&repo, &main, Some(&path("x")))), Err(ChoiceError::NotThere));
    assert_eq!(names(tree.files_of_root(None)), Err(ChoiceError::NoRepository));
    tree.set_root(&repo, &main, Some(&path("d"))).expect("a directory");
    assert_eq!(names(tree.files_at(".")).expect("two"), ["d/b", "d/e/c"]);
    assert_eq!(names(tree.files_of_root(Some(&path("a")))).expect("one"), ["a"]);
}

/// Forgets as the kernel does what it was told of `node`.
fn let_go(tree: &HfTree, node: &Node) {
    tree.forgotten(node.ino, 1);
}

#[tokio::test]
async fn what_was_used_longest_ago_is_forgotten_and_found_out_again() {
    let repos: Vec<(String, String)> =
        (0..5).map(|n| (format!("org/r{n}@main"), format!("org/r{n}"))).collect();
    let fake = Arc::new(Fake::default());
    for (asked, name) in &repos {
        fake.put(asked, name, ONE, &["a", "d/b"]);
    }
    let tree = mounted(&fake, NARROW);
    let mut before = Vec::new();
    for (_, name) in &repos {
        before.push(walk(&tree, &format!("{name}/d/b")).await.expect("found"));
    }
    let held = |tree: &HfTree| -> Vec<String> {
        tree.pinned().into_iter().map(|pinned| pinned.repo.to_string()).collect()
    };
    assert_eq!(held(&tree), ["org/r3", "org/r4"]);
    // Their names stay.
    assert_eq!(names(&tree, walk(&tree, "org").await.unwrap().ino), ["r0", "r1", "r2", "r3", "r4"]);
    fake.asked();
    let again = walk(&tree, "org/r0/d/b").await.expect("found");
    assert_eq!((again.ino, fake.asked()), (before[0].ino, vec!["org/r0@main".to_owned()]));
    assert_eq!(held(&tree), ["org/r0", "org/r4"]);
    assert_eq!(read(&tree, &again), format!("{ONE}:d/b"));
    let files = tree.volume().entries;
    assert!(files <= 2 * 4, "{files} entries are held");
}

#[tokio::test]
async fn what_is_open_pinned_or_known_to_the_kernel_is_never_forgotten() {
    let fake = Arc::new(Fake::default());
    for n in 0..9 {
        fake.put(&format!("org/r{n}@main"), &format!("org/r{n}"), ONE, &["a", "d/b"]);
    }
    fake.put("org/kept@main", "org/kept", ONE, &["x.pinned"]);
    let tree = mounted(&fake, NARROW);
    let changes = Changes::default();
    tree.attach(changes.clone());
    let pinned = walk(&tree, "org/kept/x.pinned").await.expect("found");
    let open = tree.open(walk(&tree, "org/r0/a").await.expect("found").ino).expect("opened");
    let dir = walk(&tree, "org/r1/d").await.expect("found");
    let file = walk(&tree, "org/r1/d/b").await.expect("found");
    let view = format!(".cache-view/models--org--r1/snapshots/{ONE}");
    let seen = walk(&tree, &view).await.expect("found");
    for node in [&dir, &file, &seen] {
        tree.told(node.ino);
    }
    for n in 2..6 {
        walk(&tree, &format!("org/r{n}/a")).await.expect("found");
    }
    let held = |tree: &HfTree| -> Vec<String> {
        tree.pinned().into_iter().map(|pinned| pinned.repo.id.name().to_owned()).collect()
    };
    assert_eq!(held(&tree), ["kept", "r0", "r1", "r5"]);
    fake.asked();
    assert_eq!(tree.lookup(dir.ino, OsStr::new("b")).expect("found").ino, file.ino);
    assert!(tree.node(seen.ino).is_some() && tree.node(pinned.ino).is_some());
    assert_eq!(fake.asked(), Vec::<String>::new());
    // The kernel is asked to forget it, in each place that it stands in.
    walk(&tree, "org/r6/a").await.expect("found");
    let mut asked_back: Vec<(InodeNo, String)> = changes
        .next()
        .expect("names")
        .into_iter()
        .map(|(dir, name)| (dir, name.into_string().unwrap()))
        .collect();
    asked_back.sort();
    let r1 = walk(&tree, "org/r1").await.expect("found");
    let mut expected = [(r1.parent, "r1".to_owned()), (seen.parent, ONE.to_owned())];
    expected.sort();
    assert_eq!(asked_back, expected);
    // Once it has forgotten all that it was told of, and nothing is open, they go like others.
    for node in [&dir, &file] {
        let_go(&tree, node);
    }
    walk(&tree, "org/r7/a").await.expect("found");
    assert!(held(&tree).contains(&"r1".to_owned()));
    let_go(&tree, &seen);
    drop(open);
    walk(&tree, "org/r8/a").await.expect("found");
    assert_eq!(held(&tree), ["kept", "r8"]);
    assert_eq!(tree.node(file.ino).map(|node| node.ino), None);
    assert_eq!(walk(&tree, "org/r1/d/b").await.expect("found").ino, file.ino);
}
