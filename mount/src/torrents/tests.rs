//! The tree of torrents against stand-ins for the engine: what shows, under which names and numbers, and when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::watch;
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::metainfo::{FileEntry, Metainfo};
use wtfs_proto::metainfo::{InfoBuilder, MetainfoBuilder};
use wtfs_proto::path::TorrentPath;

use super::*;
use crate::content::{BoxFuture, MemoryContent};

/// A torrent whose metadata may come later; file `n` holds the byte `n`, again and again.
#[derive(Debug)]
struct Fake {
    hash: InfoHash,
    name: String,
    metainfo: watch::Sender<Option<Result<Arc<Metainfo>, String>>>,
    local: AtomicU64,
}

impl Fake {
    fn waiting(hash: u8, name: &str) -> Arc<Self> {
        let hash = InfoHash::new([hash; 20]);
        Arc::new(Self {
            hash,
            name: name.into(),
            metainfo: watch::Sender::new(None),
            local: AtomicU64::new(0),
        })
    }

    fn ready(hash: u8, metainfo: Metainfo) -> Arc<Self> {
        let fake = Self::waiting(hash, &metainfo.info.name);
        fake.metainfo.send_replace(Some(Ok(Arc::new(metainfo))));
        fake
    }
}

impl TorrentSource for Fake {
    fn info_hash(&self) -> InfoHash {
        self.hash
    }
    fn name(&self) -> String {
        self.name.clone()
    }
    fn metainfo(&self) -> Option<Arc<Metainfo>> {
        self.metainfo.borrow().clone()?.ok()
    }
    fn arrival(&self) -> BoxFuture<'static, Result<Arc<Metainfo>, String>> {
        let mut arrived = self.metainfo.subscribe();
        Box::pin(async move {
            let found = arrived.wait_for(Option::is_some).await.map_err(|_| "gone".to_owned())?;
            found.clone().expect("waited for it")
        })
    }
    fn describe_wait(&self) -> String {
        "Connected to 0 peers.\n".into()
    }
    fn progress(&self) -> Progress {
        Progress { pieces_present: 1, pieces: 4 }
    }
    fn local_bytes(&self, file: FileIndex) -> u64 {
        let bytes = self.metainfo().map_or(0, |metainfo| metainfo.info.geometry.file_len(file));
        self.local.load(Ordering::Relaxed).min(bytes)
    }
    fn local_ranges(&self, file: FileIndex, limit: usize) -> Vec<std::ops::Range<u64>> {
        let local = self.local_bytes(file);
        if local > 0 && limit > 0 { std::iter::once(0..local).collect() } else { Vec::new() }
    }
    fn open(&self, file: FileIndex) -> Result<Arc<dyn Content>, FsError> {
        Ok(Arc::new(MemoryContent::new(Bytes::from(vec![file.get() as u8; 10]))))
    }
}

fn path(text: &str) -> TorrentPath {
    TorrentPath::from_components(text.split('/')).unwrap()
}

fn finish(builder: &InfoBuilder) -> Metainfo {
    let pieces = vec![7; 20 * builder.geometry().unwrap().piece_count() as usize];
    MetainfoBuilder::new(builder.finish(&pieces).unwrap()).unwrap().finish()
}

fn single(name: &str) -> Metainfo {
    finish(&InfoBuilder::single_file(name, 50_000, 16_384).unwrap())
}

fn repository(name: &str) -> Metainfo {
    let mut builder = InfoBuilder::directory(name, 16_384);
    builder.push(FileEntry::new(path("config.json"), 100));
    let mut pad = FileEntry::new(path(".pad/16284"), 16_284);
    pad.is_pad = true;
    builder.push(pad);
    let mut run = FileEntry::new(path("bin/run"), 5);
    run.is_executable = true;
    builder.push(run);
    builder.push(FileEntry::link(path("bin/link"), path("config.json")));
    builder.push(FileEntry::new(path("weights/模型.bin"), 0));
    finish(&builder)
}

fn tree() -> TorrentTree {
    TorrentTree::new(Handle::current(), vec![ControlFile::new("status.json", || b"{}".to_vec())])
}

fn names(tree: &TorrentTree, dir: InodeNo) -> Vec<String> {
    let mut names = Vec::new();
    tree.list(dir, Cookie::START, &mut |listed| {
        assert_eq!(tree.lookup(dir, listed.name).unwrap(), listed.node);
        assert_eq!(tree.node(listed.node.ino).as_ref(), Some(&listed.node));
        names.push(listed.name.to_str().unwrap().to_owned());
        ControlFlow::Continue(())
    })
    .unwrap();
    names
}

fn walk(tree: &TorrentTree, text: &str) -> Result<Node, FsError> {
    text.split('/')
        .try_fold(tree.node(InodeNo::ROOT).unwrap(), |at, name| tree.lookup(at.ino, OsStr::new(name)))
}

fn text_of(tree: &TorrentTree, at: &str) -> String {
    let content = tree.open(walk(tree, at).unwrap().ino).unwrap();
    let bytes = content.try_read_at(0, u32::MAX).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_repository_is_a_directory_and_a_single_file_is_itself() {
    let tree = tree();
    tree.add(Fake::ready(1, repository("repo"))).unwrap();
    tree.add(Fake::ready(2, single("model.gguf"))).unwrap();
    assert_eq!(names(&tree, InodeNo::ROOT), [".wtfs", "repo", "model.gguf"]);
    let repo = walk(&tree, "repo").unwrap();
    assert_eq!((repo.kind, repo.links, repo.parent), (NodeKind::Directory, 4, InodeNo::ROOT));
    // The padding file's directory is not there either.
    assert_eq!(names(&tree, repo.ino), ["bin", "config.json", "weights"]);
    let model = walk(&tree, "model.gguf").unwrap();
    assert_eq!((model.kind, model.bytes, model.parent), (NodeKind::File, 50_000, InodeNo::ROOT));
    assert_eq!(walk(&tree, "repo/bin/run").unwrap().permissions, 0o555);
    let link = walk(&tree, "repo/bin/link").unwrap();
    assert_eq!(tree.read_link(link.ino).unwrap(), PathBuf::from("../config.json"));
    assert_eq!(walk(&tree, "repo/missing").unwrap_err().errno(), libc::ENOENT);
    assert_eq!(walk(&tree, "model.gguf/x").unwrap_err().errno(), libc::ENOTDIR);
    assert_eq!(tree.read_link(model.ino).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(tree.open(repo.ino).unwrap_err().errno(), libc::EISDIR);
    assert_eq!(tree.volume(), Volume { total_bytes: 50_105, free_bytes: 0, entries: 8 });
}

#[tokio::test]
async fn the_right_file_is_opened_behind_hidden_padding() {
    let tree = tree();
    tree.add(Fake::ready(1, repository("repo"))).unwrap();
    let run = walk(&tree, "repo/bin/run").unwrap();
    assert_eq!(tree.open(run.ino).unwrap().try_read_at(0, 1).as_deref(), Some(&[2_u8][..]));
}

#[tokio::test]
async fn numbers_are_the_same_in_another_mount_and_in_another_order() {
    let numbers = |order: [u8; 2]| {
        let tree = tree();
        for hash in order {
            tree.add(Fake::ready(hash, repository(&format!("repo{hash}")))).unwrap();
        }
        let at = ["repo1", "repo1/bin/run", "repo2", "repo2/bin/run"];
        at.map(|path| (path, walk(&tree, path).unwrap().ino)).into_iter().collect::<BTreeMap<_, _>>()
    };
    let first = numbers([1, 2]);
    assert_eq!(first, numbers([2, 1]));
    assert_ne!(first["repo1/bin/run"], first["repo2/bin/run"]);
}

#[tokio::test]
async fn torrents_of_one_name_are_both_reachable_and_none_hides_the_control_files() {
    let tree = tree();
    for hash in [1, 2] {
        tree.add(Fake::ready(hash, single("model.gguf"))).unwrap();
    }
    tree.add(Fake::ready(3, repository(".wtfs"))).unwrap();
    let expected = [".wtfs", "model.gguf", "model [02020202].gguf", ".wtfs [03030303]"];
    assert_eq!(names(&tree, InodeNo::ROOT), expected);
    assert_eq!(names(&tree, control::DIRECTORY), ["status.json"]);
    assert_eq!(text_of(&tree, ".wtfs/status.json"), "{}");
    let again = tree.add(Fake::ready(1, single("other")));
    assert_eq!(again, Err(EntryError::Duplicate(InfoHash::new([1; 20]))));
}

#[tokio::test]
async fn a_magnet_says_what_it_waits_for_until_its_metadata_arrives() {
    let tree = tree();
    let changes = Changes::default();
    tree.attach(changes.clone());
    let magnet = Fake::waiting(1, "../my repo");
    let waiting_name = tree.add(Arc::clone(&magnet) as Arc<dyn TorrentSource>).unwrap();
    assert_eq!(waiting_name, ".._my repo.waiting-for-metadata");
    let waiting = walk(&tree, &waiting_name).unwrap();
    assert_eq!((waiting.kind, waiting.caching), (NodeKind::File, Caching::Volatile));
    assert_eq!(names(&tree, InodeNo::ROOT), [".wtfs", waiting_name.as_str()]);
    let text = text_of(&tree, &waiting_name);
    for part in ["../my repo", "0101010101", "Waiting for the metadata", "Connected to 0 peers"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    magnet.metainfo.send_replace(Some(Ok(Arc::new(repository("repo")))));
    let patience = std::time::Duration::from_secs(120);
    let arrived = async {
        while tree.entry_name(magnet.hash).as_deref() != Some("repo") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(patience, arrived).await.unwrap();
    assert_eq!(names(&tree, InodeNo::ROOT), [".wtfs", "repo"]);
    assert_eq!(walk(&tree, &waiting_name).unwrap_err().errno(), libc::ENOENT);
    assert_eq!(tree.node(waiting.ino), None);
    let told = changes.next().unwrap();
    assert!(told.contains(&(InodeNo::ROOT, waiting_name.into())), "{told:?}");
}

#[tokio::test]
async fn a_magnet_that_cannot_be_had_says_why() {
    let tree = tree();
    let magnet = Fake::waiting(1, "repo");
    tree.add(Arc::clone(&magnet) as Arc<dyn TorrentSource>).unwrap();
    magnet.metainfo.send_replace(Some(Err("the info does not match its hash".into())));
    let failed = async {
        while tree.entry_name(magnet.hash).as_deref() != Some("repo.failed") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), failed).await.unwrap();
    assert!(text_of(&tree, "repo.failed").contains("does not match its hash"));
}

#[tokio::test]
async fn a_removed_torrent_is_gone_and_the_others_keep_their_places() {
    let tree = tree();
    for hash in 1..=3 {
        tree.add(Fake::ready(hash, single(&format!("file{hash}")))).unwrap();
    }
    let second = walk(&tree, "file2").unwrap();
    let mut cookies = BTreeMap::new();
    tree.list(InodeNo::ROOT, Cookie::START, &mut |listed| {
        cookies.insert(listed.name.to_owned(), listed.cookie);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(tree.remove(InfoHash::new([2; 20])));
    assert!(!tree.remove(InfoHash::new([2; 20])));
    assert_eq!(names(&tree, InodeNo::ROOT), [".wtfs", "file1", "file3"]);
    assert_eq!(tree.node(second.ino), None);
    assert_eq!(tree.open(second.ino).unwrap_err().errno(), libc::ESTALE);
    let mut behind = Vec::new();
    tree.list(InodeNo::ROOT, cookies[OsStr::new("file2")], &mut |listed| {
        behind.push(listed.name.to_owned());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(behind, ["file3"]);
    // It may come back, with the same number.
    tree.add(Fake::ready(2, single("file2"))).unwrap();
    assert_eq!(walk(&tree, "file2").unwrap().ino, second.ino);
}

#[tokio::test]
async fn attributes_tell_what_is_local() {
    let tree = tree();
    let model = Fake::ready(1, single("model.gguf"));
    model.local.store(16_384, Ordering::Relaxed);
    tree.add(Arc::clone(&model) as Arc<dyn TorrentSource>).unwrap();
    tree.add(Fake::ready(2, repository("repo"))).unwrap();
    let read = |at: &str, name: &str| {
        let value = tree.attribute(walk(&tree, at).unwrap().ino, OsStr::new(name))?;
        Some(String::from_utf8(value).unwrap())
    };
    let node = walk(&tree, "model.gguf").unwrap();
    assert_eq!((node.local_bytes, node.caching), (16_384, Caching::Filling));
    assert_eq!(read("model.gguf", "user.wtfs.infohash").unwrap(), "01".repeat(20));
    assert_eq!(read("model.gguf", "user.wtfs.piece_size").as_deref(), Some("16384"));
    assert_eq!(read("model.gguf", "user.wtfs.verified_bytes").as_deref(), Some("16384"));
    assert_eq!(read("model.gguf", "user.wtfs.progress").as_deref(), Some("32.76"));
    assert_eq!(read("repo", "user.wtfs.pieces_verified").as_deref(), Some("1"));
    assert_eq!(read("repo", "user.wtfs.progress").as_deref(), Some("25.00"));
    assert_eq!(read("repo", "user.other"), None);
    assert!(tree.attribute_names(InodeNo::ROOT).is_empty());
    for name in tree.attribute_names(node.ino) {
        assert!(tree.attribute(node.ino, OsStr::new(&name)).is_some());
    }
    model.local.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(walk(&tree, "model.gguf").unwrap().caching, Caching::Immutable);
}

#[tokio::test]
async fn a_thousand_torrents_are_all_listed_and_found() {
    let tree = tree();
    for n in 0..1000_u32 {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        let metainfo = watch::Sender::new(Some(Ok(Arc::new(single(&format!("file{n}"))))));
        let hash = InfoHash::new(hash);
        tree.add(Arc::new(Fake { hash, name: String::new(), metainfo, local: AtomicU64::new(0) })).unwrap();
    }
    let listed = names(&tree, InodeNo::ROOT);
    assert_eq!(listed.len(), 1001);
    for n in 0..1000 {
        assert!(listed.contains(&format!("file{n}")) && walk(&tree, &format!("file{n}")).is_ok(), "{n}");
    }
}

#[tokio::test]
async fn names_in_the_root_lead_to_torrents_and_one_control_file_takes_lines() {
    let control =
        vec![ControlFile::new("status.json", Vec::new), ControlFile::for_sources("add", "one a line\n")];
    let tree = TorrentTree::new(Handle::current(), control);
    assert!(tree.torrent_at(OsStr::new("model")).is_none());
    let fake = Fake::ready(9, repository("model"));
    tree.add(Arc::clone(&fake) as Arc<dyn TorrentSource>).unwrap();
    assert_eq!(tree.torrent_at(OsStr::new("model")), Some(fake.hash));
    assert_eq!(tree.torrent_at(OsStr::new(".wtfs")), None);
    let add = tree.lookup(control::DIRECTORY, OsStr::new("add")).unwrap();
    assert_eq!((tree.lines_file(), add.permissions), (Some(add.ino), 0o644));
    let shown = tree.open(add.ino).unwrap().try_read_at(0, 100).unwrap();
    assert_eq!(&shown[..], b"one a line\n");
}

#[tokio::test]
async fn what_is_local_of_a_file_is_told_in_ranges_and_other_attributes_cost_nothing() {
    let tree = TorrentTree::new(Handle::current(), Vec::new());
    let fake = Fake::ready(9, single("model.gguf"));
    tree.add(Arc::clone(&fake) as Arc<dyn TorrentSource>).unwrap();
    let file = tree.lookup(InodeNo::ROOT, OsStr::new("model.gguf")).unwrap();
    let ranges = || tree.attribute(file.ino, OsStr::new("user.wtfs.verified_ranges"));
    assert_eq!(ranges().as_deref(), Some(&b""[..]));
    fake.local.store(20_000, Ordering::Relaxed);
    assert_eq!(ranges().as_deref(), Some(&b"0-19999"[..]));
    assert!(tree.attribute(file.ino, OsStr::new("security.capability")).is_none());
}
