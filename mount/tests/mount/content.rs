//! A tree in memory whose files are known byte for byte, stall for ever, or fail.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use wtfs_mount::Changes;
use wtfs_mount::{
    BackingFile, BoxFuture, Caching, Content, Cookie, FsError, InodeNo, Listed, Node, NodeKind, Tree, Volume,
};
use wtfs_proto::id::InfoHash;
use wtfs_testkit::ramp::Ramp;

/// How a file's bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supply {
    /// At once, on the kernel-facing thread.
    Local,
    /// From a task, a moment later.
    Remote,
    /// Never.
    Never,
    /// Not at all.
    Fails,
    /// Another text at each look; control files are like that.
    Changes,
    /// As remote until the counters say that all is whole; from then on there is a file on disk too.
    Filling,
}

/// What the test sees of the reads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) waiting: AtomicUsize,
    pub(crate) opened: AtomicUsize,
    /// Reads that reached the content.
    pub(crate) reads: AtomicUsize,
    /// Whether files that fill are complete by now.
    pub(crate) is_whole: AtomicBool,
    /// Guards of data files that the mount holds.
    pub(crate) held: AtomicUsize,
}

impl Counters {
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

/// Counted for as long as the mount keeps it.
#[derive(Debug)]
struct Held(Arc<Counters>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct File {
    supply: Supply,
    bytes: u64,
    ramp: Ramp,
    counters: Arc<Counters>,
    on_disk: Option<PathBuf>,
}

#[derive(Debug)]
struct Waiting<'a>(&'a Counters);

impl<'a> Waiting<'a> {
    fn begin(counters: &'a Counters) -> Self {
        counters.waiting.fetch_add(1, Ordering::SeqCst);
        Self(counters)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl File {
    fn ramp(&self, offset: u64, len: u32) -> Bytes {
        let len = u64::from(len).min(self.bytes.saturating_sub(offset));
        self.ramp.bytes(offset, usize::try_from(len).expect("a read fits memory")).into()
    }
}

impl Content for File {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        self.counters.reads.fetch_add(1, Ordering::SeqCst);
        matches!(self.supply, Supply::Local | Supply::Changes).then(|| self.ramp(offset, len))
    }

    fn read_at(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, FsError>> {
        Box::pin(async move {
            let _waiting = Waiting::begin(&self.counters);
            match self.supply {
                Supply::Never => std::future::pending().await,
                Supply::Fails => Err(FsError::io(std::io::Error::other("no source has piece 3"))),
                Supply::Local | Supply::Remote | Supply::Changes | Supply::Filling => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Ok(self.ramp(offset, len))
                }
            }
        })
    }

    fn is_backed(&self) -> bool {
        self.on_disk.is_some() && self.counters.is_whole.load(Ordering::SeqCst)
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let file = fs::File::open(self.on_disk.as_ref()?).ok()?;
        self.counters.held.fetch_add(1, Ordering::SeqCst);
        Some(BackingFile { file, guard: Box::new(Held(Arc::clone(&self.counters))) })
    }
}

/// A root directory with files and one subdirectory of `many` files.
#[derive(Debug, Default)]
pub(crate) struct TestTree {
    files: BTreeMap<u64, (String, Supply, u64)>,
    many: u64,
    /// Where the data files of `Supply::Filling` lie.
    data_dir: Option<PathBuf>,
    removed: Mutex<HashSet<String>>,
    changes: OnceLock<Changes>,
    pub(crate) counters: Arc<Counters>,
}

/// Stands for a torrent whose entry has this name.
fn hash_of(name: &str) -> InfoHash {
    InfoHash::new([name.as_bytes()[0]; 20])
}

/// The file that takes lines, where there is one.
const LINES: &str = "add";

const FIRST_FILE: u64 = 100;
const MANY: u64 = 50;
const FIRST_OF_MANY: u64 = 1_000_000;

impl TestTree {
    pub(crate) fn with(files: &[(&str, Supply, u64)]) -> Self {
        let files = files
            .iter()
            .zip(FIRST_FILE..)
            .map(|((name, supply, bytes), ino)| (ino, ((*name).to_owned(), *supply, *bytes)));
        Self { files: files.collect(), ..Self::default() }
    }

    /// Adds a directory `many` with so many empty-looking local files.
    pub(crate) fn and_many(mut self, many: u64) -> Self {
        self.many = many;
        self
    }

    /// Says where the data files of `Supply::Filling` lie, and writes them.
    pub(crate) fn and_data_in(mut self, dir: &Path) -> Self {
        for (name, _, bytes) in self.files.values().filter(|(_, supply, _)| *supply == Supply::Filling) {
            Self::ramp(name).write_file(&dir.join(name), *bytes).expect("writing a data file");
        }
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// The entry that stands for this torrent.
    pub(crate) fn name_of(&self, torrent: InfoHash) -> Option<String> {
        let names = self.files.values().map(|(name, _, _)| name.as_str()).chain(["many"]);
        names.filter(|name| !self.is_removed(name)).find(|name| hash_of(name) == torrent).map(str::to_owned)
    }

    /// Takes a file out while mounted.
    pub(crate) fn remove(&self, name: &str) {
        self.removed.lock().expect("no test panics with it").insert(name.to_owned());
        if let Some(changes) = self.changes.get() {
            changes.entry_changed(InodeNo::ROOT, OsStr::new(name));
        }
    }

    fn is_removed(&self, name: &str) -> bool {
        self.removed.lock().expect("no test panics with it").contains(name)
    }

    /// The bytes of the file `name`.
    pub(crate) fn ramp(name: &str) -> Ramp {
        Ramp::new(name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte)))
    }

    fn describe(&self, ino: u64, parent: u64, kind: NodeKind, bytes: u64) -> Node {
        Node {
            ino: InodeNo::new(ino).expect("test inodes are not zero"),
            parent: InodeNo::new(parent).expect("test inodes are not zero"),
            kind,
            bytes,
            local_bytes: 0,
            permissions: if kind == NodeKind::Directory { 0o555 } else { 0o444 },
            links: if kind == NodeKind::Directory { 2 } else { 1 },
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            caching: Caching::Immutable,
        }
    }

    fn find(&self, ino: u64) -> Option<Node> {
        match ino {
            1 => Some(Node { caching: Caching::Volatile, ..self.describe(1, 1, NodeKind::Directory, 0) }),
            MANY => Some(self.describe(MANY, 1, NodeKind::Directory, 0)),
            _ if ino >= FIRST_OF_MANY && ino < FIRST_OF_MANY + self.many => {
                Some(self.describe(ino, MANY, NodeKind::File, ino % 10))
            }
            _ => self.files.get(&ino).map(|(_, supply, bytes)| {
                let caching = if *supply == Supply::Changes { Caching::Volatile } else { Caching::Immutable };
                Node { caching, ..self.describe(ino, 1, NodeKind::File, *bytes) }
            }),
        }
    }
}

impl Tree for TestTree {
    fn node(&self, ino: InodeNo) -> Option<Node> {
        self.find(ino.get())
    }

    fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Node, FsError> {
        let name = name.to_str().ok_or(FsError::NotFound)?;
        let found = match parent.get() {
            1 if self.is_removed(name) => None,
            1 if name == "many" && self.many > 0 => Some(MANY),
            1 => self.files.iter().find(|(_, (entry, _, _))| entry == name).map(|(ino, _)| *ino),
            MANY => name.strip_prefix('f').and_then(|n| n.parse::<u64>().ok()).map(|n| FIRST_OF_MANY + n),
            _ => return Err(FsError::NotADirectory),
        };
        found.and_then(|ino| self.find(ino)).ok_or(FsError::NotFound)
    }

    fn list(
        &self,
        dir: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let mut show = |cookie: u64, name: &str, ino: u64| {
            let node = self.find(ino).expect("listed entries exist");
            visit(Listed { cookie: Cookie(cookie), name: OsStr::new(name), node })
        };
        if dir == InodeNo::ROOT {
            let many = (self.many > 0 && !self.is_removed("many")).then(|| (MANY, "many".to_owned()));
            let files = self.files.iter().map(|(ino, (name, _, _))| (*ino, name.clone()));
            let files = files.filter(|(_, name)| !self.is_removed(name));
            for (ino, name) in many.into_iter().chain(files).filter(|(ino, _)| *ino > after.0) {
                if show(ino, &name, ino).is_break() {
                    break;
                }
            }
        } else {
            for n in after.0..self.many {
                if show(n + 1, &format!("f{n}"), FIRST_OF_MANY + n).is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn read_link(&self, _ino: InodeNo) -> Result<PathBuf, FsError> {
        Err(FsError::InvalidArgument)
    }

    fn open(&self, ino: InodeNo) -> Result<Arc<dyn Content>, FsError> {
        self.counters.opened.fetch_add(1, Ordering::SeqCst);
        let counters = Arc::clone(&self.counters);
        let (name, supply, bytes) = match self.files.get(&ino.get()) {
            Some((name, supply, bytes)) => (name.as_str(), *supply, *bytes),
            None if ino.get() >= FIRST_OF_MANY => ("many", Supply::Local, ino.get() % 10),
            None => return Err(FsError::IsADirectory),
        };
        let ramp = if supply == Supply::Changes {
            Ramp::new(self.counters.opened.load(Ordering::SeqCst) as u64)
        } else {
            Self::ramp(name)
        };
        let on_disk = self.data_dir.as_ref().filter(|_| supply == Supply::Filling).map(|dir| dir.join(name));
        Ok(Arc::new(File { supply, bytes, ramp, counters, on_disk }))
    }

    fn attribute_names(&self, _ino: InodeNo) -> Vec<String> {
        vec!["user.wtfs.infohash".into()]
    }

    fn attribute(&self, _ino: InodeNo, name: &OsStr) -> Option<Vec<u8>> {
        (name == "user.wtfs.infohash").then(|| b"0123456789abcdef".to_vec())
    }

    fn torrent_at(&self, name: &OsStr) -> Option<InfoHash> {
        let name = name.to_str().filter(|name| *name != LINES)?;
        self.name_of(hash_of(name))?;
        Some(hash_of(name))
    }

    fn lines_file(&self) -> Option<InodeNo> {
        let (ino, _) = self.files.iter().find(|(_, (name, _, _))| name == LINES)?;
        InodeNo::new(*ino)
    }

    fn attach(&self, changes: Changes) {
        self.changes.set(changes).expect("a test tree is mounted once");
    }

    fn volume(&self) -> Volume {
        Volume { total_bytes: 8 << 30, free_bytes: 2 << 30, entries: 77 }
    }
}
