//! Look-ups that have to ask others wait in a task: nobody else waits with them, and they end when their caller is
//! called away or the mount is.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Notify;
use wtfs_mount::{
    BoxFuture, Caching, Content, Cookie, FsError, InodeNo, Listed, MemoryContent, Node, NodeKind, Tree,
};
use wtfs_testkit::wait::eventually;

use crate::support::{Mounted, PATIENCE, Reader, program, shell};

/// `known` is there; `never` is asked about for ever, `later` until it is let go, `refused` is refused.
#[derive(Debug, Default)]
struct Asking {
    waiting: Arc<AtomicUsize>,
    let_go: Arc<Notify>,
}

/// Counts a search as long as it lives.
struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn node(number: u64, kind: NodeKind) -> Node {
    Node {
        ino: InodeNo::new(number).expect("not zero"),
        parent: InodeNo::ROOT,
        kind,
        bytes: if kind == NodeKind::File { 5 } else { 0 },
        local_bytes: 5,
        permissions: 0o555,
        links: 1,
        modified: SystemTime::UNIX_EPOCH,
        caching: Caching::Volatile,
    }
}

impl Tree for Asking {
    fn node(&self, ino: InodeNo) -> Option<Node> {
        Some(node(ino.get(), if ino == InodeNo::ROOT { NodeKind::Directory } else { NodeKind::File }))
    }

    fn lookup(&self, _: InodeNo, name: &OsStr) -> Result<Node, FsError> {
        if name == "known" { Ok(node(10, NodeKind::File)) } else { Err(FsError::NotFound) }
    }

    fn search(&self, _: InodeNo, name: &OsStr) -> Option<BoxFuture<'static, Result<Node, FsError>>> {
        let name = name.to_str()?.to_owned();
        if !["never", "later", "refused"].contains(&name.as_str()) {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let (waits, let_go) = (Waits(Arc::clone(&self.waiting)), Arc::clone(&self.let_go));
        Some(Box::pin(async move {
            let _waits = waits;
            match name.as_str() {
                "never" => std::future::pending().await,
                "later" => {
                    let_go.notified().await;
                    Ok(node(11, NodeKind::File))
                }
                _ => Err(FsError::Denied(Arc::new(std::io::Error::other("set a token")))),
            }
        }))
    }

    fn list(
        &self,
        _: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        if after == Cookie::START {
            let listed =
                Listed { cookie: Cookie(1), name: OsStr::new("known"), node: node(10, NodeKind::File) };
            let _end = visit(listed);
        }
        Ok(())
    }

    fn read_link(&self, _: InodeNo) -> Result<PathBuf, FsError> {
        Err(FsError::InvalidArgument)
    }

    fn open(&self, _: InodeNo) -> Result<Arc<dyn Content>, FsError> {
        Ok(Arc::new(MemoryContent::new(&b"hello"[..])))
    }
}

struct World(Mounted<Asking>);

impl World {
    fn start() -> Option<Self> {
        Mounted::of(|_| Arc::new(Asking::default()), |config| config).map(Self)
    }

    fn looks_at(&self, name: &str) -> Reader {
        let reader = Reader::of([OsStr::new("stat"), self.0.path(name).as_os_str()]);
        eventually("the search begins", PATIENCE, || (self.waiting() > 0).then_some(()));
        reader
    }

    fn waiting(&self) -> usize {
        self.0.tree.waiting.load(Ordering::SeqCst)
    }
}

fn works(dir: &Path, script: &str) {
    let output = shell(dir, script);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn who_waits_for_a_name_is_found_by_signals_and_keeps_nobody_else_waiting() {
    let Some(world) = World::start() else { return };
    for how in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut stuck = world.looks_at("never");
        // The name is never found: none of these would end that waits with it.
        works(&world.0.dir(), "ls -l . > /dev/null && cat known > /dev/null && stat known > /dev/null");
        assert!(stuck.is_running());
        let pid = Pid::from_raw(stuck.pid().cast_signed()).expect("a child's pid");
        kill_process(pid, how).expect("signalling a child");
        stuck.ends();
        eventually("the search is given up", PATIENCE, || (world.waiting() == 0).then_some(()));
    }
}

#[test]
fn a_name_that_is_found_later_is_there_for_who_waited() {
    let Some(world) = World::start() else { return };
    let mut waits = world.looks_at("later");
    assert!(waits.is_running());
    world.0.tree.let_go.notify_one();
    waits.ends();
    assert_eq!(waits.exit_code(), Some(0));
    let refused = program(["cat".into(), world.0.path("refused")]).output().expect("cat starts");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    assert!(!world.0.path("nothing").exists());
}

#[test]
fn a_mount_that_goes_away_lets_go_of_who_waits_for_a_name() {
    let Some(mut world) = World::start() else { return };
    let mut stuck = world.looks_at("never");
    world.0.unmount();
    stuck.ends();
    eventually("the search is given up", PATIENCE, || (world.waiting() == 0).then_some(()));
}
