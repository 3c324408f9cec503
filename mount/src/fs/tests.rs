//! The operations against a tree in memory: no kernel, no runtime but where a read waits.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::content::{BoxFuture, Content, MemoryContent};
use crate::tree::{Caching, Listed};

/// A root directory whose entries come and go; file `n` has inode `n + 10`.
#[derive(Debug, Default)]
struct FlatTree {
    entries: Mutex<Vec<(u64, String)>>,
    has_short_content: AtomicBool,
}

/// Claims ten bytes and gives one.
#[derive(Debug)]
struct ShortContent;

impl Content for ShortContent {
    fn len(&self) -> u64 {
        10
    }
    fn try_read_at(&self, offset: u64, _len: u32) -> Option<Bytes> {
        (offset == 0).then(|| Bytes::from_static(b"x"))
    }
    fn read_at(&self, _offset: u64, _len: u32) -> BoxFuture<'_, Result<Bytes, FsError>> {
        Box::pin(async { Ok(Bytes::from_static(b"x")) })
    }
}

impl FlatTree {
    fn with(names: &[&str]) -> Self {
        let entries = names.iter().zip(1..).map(|(name, cookie)| (cookie, (*name).to_owned())).collect();
        Self { entries: Mutex::new(entries), has_short_content: AtomicBool::new(false) }
    }

    fn describe(cookie: u64) -> Node {
        Node {
            ino: InodeNo::new(cookie + 10).unwrap(),
            parent: InodeNo::ROOT,
            kind: NodeKind::File,
            bytes: 10,
            local_bytes: 0,
            permissions: 0o444,
            links: 1,
            modified: SystemTime::UNIX_EPOCH,
            caching: Caching::Immutable,
        }
    }
}

impl Tree for FlatTree {
    fn node(&self, ino: InodeNo) -> Option<Node> {
        if ino == InodeNo::ROOT {
            return Some(Node { ino, kind: NodeKind::Directory, ..Self::describe(0) });
        }
        let entries = self.entries.lock().unwrap();
        entries.iter().map(|(cookie, _)| Self::describe(*cookie)).find(|node| node.ino == ino)
    }

    fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Node, FsError> {
        if parent != InodeNo::ROOT {
            return Err(FsError::NotADirectory);
        }
        let entries = self.entries.lock().unwrap();
        let found = entries.iter().find(|(_, entry)| OsStr::new(entry) == name);
        found.map(|(cookie, _)| Self::describe(*cookie)).ok_or(FsError::NotFound)
    }

    fn list(
        &self,
        _dir: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        for (cookie, name) in self.entries.lock().unwrap().iter().filter(|(cookie, _)| *cookie > after.0) {
            let listed =
                Listed { cookie: Cookie(*cookie), name: OsStr::new(name), node: Self::describe(*cookie) };
            if visit(listed).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, _ino: InodeNo) -> Result<PathBuf, FsError> {
        Err(FsError::InvalidArgument)
    }

    fn open(&self, ino: InodeNo) -> Result<Arc<dyn Content>, FsError> {
        if ino == InodeNo::ROOT {
            return Err(FsError::IsADirectory);
        }
        if self.has_short_content.load(Ordering::Relaxed) {
            return Ok(Arc::new(ShortContent));
        }
        Ok(Arc::new(MemoryContent::new(&b"0123456789"[..])))
    }

    fn attribute_names(&self, _ino: InodeNo) -> Vec<String> {
        vec!["user.wtfs.infohash".into(), "user.wtfs.progress".into()]
    }

    fn attribute(&self, _ino: InodeNo, name: &OsStr) -> Option<Vec<u8>> {
        match name.to_str()? {
            "user.wtfs.infohash" => Some(vec![b'a'; 40]),
            "user.wtfs.huge" => Some(vec![0; 70_000]),
            _ => None,
        }
    }
}

fn mounted(names: &[&str]) -> (Arc<FlatTree>, FileSystem) {
    let tree = Arc::new(FlatTree::with(names));
    (Arc::clone(&tree), FileSystem::new(tree))
}

/// Lists in portions of `portion` entries, as a small buffer does, calling `between` after each.
fn list_in_portions(fs: &FileSystem, portion: usize, mut between: impl FnMut()) -> Vec<String> {
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let before = names.len();
        fs.list(1, offset, &mut |entry| {
            if names.len() == before + portion {
                return ControlFlow::Break(());
            }
            assert!(entry.offset > offset);
            offset = entry.offset;
            names.push(entry.name.to_str().unwrap().to_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
        if names.len() == before {
            return names;
        }
        between();
    }
}

fn ready(step: ReadStep) -> Bytes {
    match step {
        ReadStep::Ready(bytes) => bytes,
        ReadStep::Later { .. } => panic!("bytes in memory need no waiting"),
    }
}

#[test]
fn a_listing_begins_with_the_two_dots_and_goes_on_where_it_stopped() {
    let (_, fs) = mounted(&["a", "b", "c", "d"]);
    for portion in 1..8 {
        assert_eq!(list_in_portions(&fs, portion, || ()), [".", "..", "a", "b", "c", "d"]);
    }
}

#[test]
fn entries_that_come_and_go_hide_no_other_and_show_none_twice() {
    let (tree, fs) = mounted(&["a", "b", "c", "d", "e"]);
    let mut round = 0;
    let names = list_in_portions(&fs, 2, || {
        round += 1;
        let mut entries = tree.entries.lock().unwrap();
        if round == 2 {
            // After ".", "..", "a", "b": one that was shown goes, one that was not goes, one comes.
            entries.retain(|(_, name)| name != "a" && name != "d");
            entries.push((6, "f".into()));
        }
    });
    assert_eq!(names, [".", "..", "a", "b", "c", "e", "f"]);
}

#[test]
fn reads_are_exact_up_to_the_end_and_empty_behind_it() {
    let (_, fs) = mounted(&["a"]);
    let (handle, _) = fs.open(11, OpenIntent::Read).unwrap();
    let read = |offset, len| ready(fs.read(handle, offset, len).unwrap());
    assert_eq!(read(0, 4), "0123");
    assert_eq!(read(8, 4096), "89");
    assert_eq!(read(10, 1), "");
    assert_eq!(read(u64::MAX, 1), "");
    assert_eq!(read(3, 0), "");
    assert!(matches!(fs.read(handle, 0, u32::MAX), Err(FsError::InvalidArgument)));
}

#[tokio::test]
async fn a_content_that_answers_short_is_an_error_and_not_zeros() {
    let (tree, fs) = mounted(&["a"]);
    tree.has_short_content.store(true, Ordering::Relaxed);
    let (handle, _) = fs.open(11, OpenIntent::Read).unwrap();
    assert_eq!(fs.read(handle, 0, 10).unwrap_err().errno(), libc::EIO);
    match fs.read(handle, 1, 9).unwrap() {
        ReadStep::Later { file, offset, len } => {
            assert_eq!((offset, len), (1, 9));
            assert_eq!(read_waiting(&file, offset, len).await.unwrap_err().errno(), libc::EIO);
        }
        ReadStep::Ready(bytes) => panic!("{bytes:?}"),
    }
}

#[test]
fn writing_is_refused_and_odd_numbers_are_errors() {
    let (_, fs) = mounted(&["a"]);
    let errno = |outcome: Result<(HandleId, Arc<OpenFile>), FsError>| outcome.unwrap_err().errno();
    assert_eq!(errno(fs.open(11, OpenIntent::Write)), libc::EROFS);
    assert_eq!(errno(fs.open(1, OpenIntent::Read)), libc::EISDIR);
    assert_eq!(errno(fs.open(99, OpenIntent::Read)), libc::ESTALE);
    assert_eq!(errno(fs.open(0, OpenIntent::Read)), libc::ESTALE);
    assert_eq!(fs.read(HandleId(77), 0, 1).unwrap_err().errno(), libc::EBADF);
    assert_eq!(fs.lookup(1, OsStr::new("zz")).unwrap_err().errno(), libc::ENOENT);
    let (longest, longer) = ("n".repeat(255), "n".repeat(256));
    assert_eq!(fs.lookup(1, OsStr::new(&longest)).unwrap_err().errno(), libc::ENOENT);
    assert_eq!(fs.lookup(1, OsStr::new(&longer)).unwrap_err().errno(), libc::ENAMETOOLONG);
    assert_eq!(fs.lookup(11, OsStr::new("zz")).unwrap_err().errno(), libc::ENOTDIR);
    assert_eq!(fs.read_link(11).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(fs.open_directory(11).unwrap_err().errno(), libc::ENOTDIR);
}

#[test]
fn an_open_file_outlives_its_entry() {
    let (tree, fs) = mounted(&["a"]);
    let (handle, _) = fs.open(11, OpenIntent::Read).unwrap();
    tree.entries.lock().unwrap().clear();
    assert_eq!(fs.attributes(11, None).unwrap_err().errno(), libc::ESTALE);
    assert_eq!(fs.attributes(11, Some(handle)).unwrap().bytes, 10);
    assert_eq!(ready(fs.read(handle, 0, 3).unwrap()), "012");
    fs.release(handle);
    assert_eq!(fs.attributes(11, Some(handle)).unwrap_err().errno(), libc::EBADF);
}

#[test]
fn attributes_tell_their_size_first_and_need_room() {
    let (_, fs) = mounted(&["a"]);
    let hash = OsStr::new("user.wtfs.infohash");
    assert_eq!(fs.attribute(11, hash, 0).unwrap(), AttributeReply::Size(40));
    assert_eq!(fs.attribute(11, hash, 40).unwrap(), AttributeReply::Value(vec![b'a'; 40]));
    assert_eq!(fs.attribute(11, hash, 39).unwrap_err().errno(), libc::ERANGE);
    assert_eq!(fs.attribute(11, OsStr::new("user.other"), 0).unwrap_err().errno(), libc::ENODATA);
    assert_eq!(fs.attribute(11, OsStr::new("user.wtfs.huge"), 0).unwrap_err().errno(), libc::ERANGE);
    let list = b"user.wtfs.infohash\0user.wtfs.progress\0";
    assert_eq!(fs.attribute_names(11, 0).unwrap(), AttributeReply::Size(list.len() as u32));
    assert_eq!(fs.attribute_names(11, 4096).unwrap(), AttributeReply::Value(list.to_vec()));
    assert_eq!(fs.attribute_names(11, 5).unwrap_err().errno(), libc::ERANGE);
}

#[test]
fn bytes_that_are_not_local_are_no_hole() {
    let (_, fs) = mounted(&["a"]);
    let (handle, file) = fs.open(11, OpenIntent::Read).unwrap();
    let node = file.node.clone();
    assert_eq!(node.local_bytes, 0);
    assert_eq!(fs.seek(handle, 3, Seek::Data).unwrap(), 3);
    assert_eq!(fs.seek(handle, 3, Seek::Hole).unwrap(), 10);
    for beyond in [10, -1, i64::MIN, i64::MAX] {
        assert_eq!(fs.seek(handle, beyond, Seek::Data).unwrap_err().errno(), libc::ENXIO);
    }
}

proptest! {
    #[test]
    fn any_offset_reads_what_a_slice_would_give(offset in prop_oneof![0_u64..20, any::<u64>()], len in 0_u32..30) {
        let (_, fs) = mounted(&["a"]);
        let (handle, _) = fs.open(11, OpenIntent::Read).unwrap();
        let model: Vec<u8> = (b'0'..=b'9').skip(usize::try_from(offset).unwrap_or(99)).take(len as usize).collect();
        prop_assert_eq!(ready(fs.read(handle, offset, len).unwrap()), model);
    }
}
