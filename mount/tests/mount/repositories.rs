//! Of more repositories than are held in memory those are forgotten that nobody uses: the kernel lets go of what it knows
//! of them when it is asked to, and who is in one notices nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::ops::Range;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use wtfs_mount::{
    BoxFuture, Content, FsError, HfTree, HfTreeConfig, Local, MemoryContent, RepoError, RepoRevision,
    RepoSource,
};
use wtfs_proto::hf::{Commit, Repo, Revision, TreeFile, TreePages};
use wtfs_testkit::wait::eventually;

use crate::support::{Mounted, PATIENCE, program, shell};

/// How many revisions are held.
const HELD: usize = 4;

/// Has every repository of every owner, with the file `d/b` in each.
#[derive(Debug, Default)]
struct Everything {
    asked: Mutex<Vec<String>>,
}

impl RepoSource for Everything {
    fn resolve(&self, repo: Repo, _: Revision) -> BoxFuture<'static, Result<RepoRevision, RepoError>> {
        if repo.id.owner().is_none() {
            // It is an owner's name then.
            let why = std::io::Error::other("no such repository");
            return Box::pin(async move { Err(RepoError::NoRepo(Arc::new(why))) });
        }
        self.asked.lock().expect("no panic").push(repo.to_string());
        let oid = "1".repeat(40);
        let mut pages = TreePages::default();
        let page = format!(r#"[{{"type":"file","path":"d/b","oid":"{oid}","size":{}}}]"#, text(&repo).len());
        pages.push(page.as_bytes()).expect("a page");
        let commit: Commit = oid.parse().expect("a commit");
        let (modified, tree) = (SystemTime::UNIX_EPOCH, Arc::new(pages.finish(commit)));
        Box::pin(async move { Ok(RepoRevision { repo, commit, modified, is_public: true, tree }) })
    }

    fn look(&self, _: Repo, _: Revision) -> BoxFuture<'static, Option<Commit>> {
        Box::pin(async { None })
    }

    fn is_pinned(&self, _: &TreeFile) -> bool {
        false
    }

    fn remembered(&self) -> Vec<(Repo, Revision)> {
        Vec::new()
    }

    fn local(&self, file: &TreeFile) -> Local {
        Local { bytes: file.bytes, is_verified: true }
    }

    fn local_ranges(&self, _: &TreeFile, _: usize) -> Vec<Range<u64>> {
        Vec::new()
    }

    fn open(&self, revision: &RepoRevision, _: &TreeFile) -> Result<Arc<dyn Content>, FsError> {
        Ok(Arc::new(MemoryContent::new(text(&revision.repo))))
    }
}

fn text(repo: &Repo) -> String {
    format!("this is {repo}\n")
}

struct World {
    mounted: Mounted<HfTree>,
    source: Arc<Everything>,
}

impl World {
    fn start() -> Option<Self> {
        let source = Arc::new(Everything::default());
        let hour = Duration::from_secs(3600);
        let config = HfTreeConfig {
            refresh: hour,
            absence: hour,
            look: hour,
            revisions: HELD,
            rest: Duration::ZERO,
            ..HfTreeConfig::default()
        };
        let known = Arc::clone(&source) as Arc<dyn RepoSource>;
        let tree = |runtime: &Runtime| HfTree::new(known, runtime.handle().clone(), Vec::new(), config);
        let mounted = Mounted::of(|runtime| Arc::new(tree(runtime)), |config| config)?;
        Some(Self { mounted, source })
    }

    #[track_caller]
    fn reads(&self, name: &str) {
        let read = shell(&self.mounted.dir(), &format!("cat {name}/d/b"));
        assert_eq!(String::from_utf8_lossy(&read.stdout), format!("this is {name}\n"), "{read:?}");
    }

    fn holds(&self, name: &str) -> bool {
        self.mounted.tree.pinned().iter().any(|pinned| pinned.repo.to_string() == name)
    }

    fn asked(&self, name: &str) -> usize {
        self.source.asked.lock().expect("no panic").iter().filter(|asked| *asked == name).count()
    }
}

#[test]
fn the_kernel_lets_go_of_what_nobody_uses_and_who_is_in_a_repository_notices_nothing() {
    let Some(world) = World::start() else { return };
    let mut sitter = program(["bash", "-c", "cd org/sat-in/d && echo in && read -r _ && cat b && pwd -P"]);
    sitter.current_dir(world.mounted.dir()).stdin(Stdio::piped());
    let mut sitter = sitter.spawn().expect("the program starts");
    let mut said = BufReader::new(sitter.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it speaks");
    assert_eq!(line, "in\n");
    // What is over the number goes with those that come after it, once the kernel has let go.
    let mut next = 0;
    let mut reads_another = || {
        next += 1;
        world.reads(&format!("org/other-{next}"));
    };
    (0..5 * HELD).for_each(|_| reads_another());
    eventually("others are forgotten", PATIENCE, || {
        reads_another();
        (world.mounted.tree.pinned().len() <= 2 * HELD).then_some(())
    });
    assert!(world.holds("org/sat-in") && !world.holds("org/other-1"));
    sitter.stdin.take().expect("piped").write_all(b"\n").expect("it listens");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("it speaks");
    assert_eq!(
        rest,
        format!(
            "this is org/sat-in\n{}/org/sat-in/d\n",
            world.mounted.dir().canonicalize().expect("there").display()
        )
    );
    assert!(sitter.wait().expect("it ends").success());
    assert_eq!(world.asked("org/sat-in"), 1);
    // Nobody is in it any more.
    eventually("it is forgotten too", PATIENCE, || {
        reads_another();
        (!world.holds("org/sat-in")).then_some(())
    });
    world.reads("org/sat-in");
    assert_eq!(world.asked("org/sat-in"), 2);
}
