//! One mount per test, always taken down; readers as child processes that cannot outlive it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use wtfs_mount::{Mount, MountConfig, MountError, Tree, Unmounted};
use wtfs_testkit::scratch::{self, Scratch};

use crate::content::{Counters, Supply, TestTree};

/// Far beyond what anything here takes, on a machine that is busy too: only what never ends reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A mounted tree.
pub(crate) struct Mounted<T: Tree = TestTree> {
    mount: Option<Mount>,
    pub(crate) runtime: Runtime,
    pub(crate) tree: Arc<T>,
    scratch: Scratch,
}

/// True when the kernel offers FUSE. Without it a test says so and passes, unless WTFS_REQUIRE_FUSE=1.
pub(crate) fn has_fuse() -> bool {
    let is_there = Path::new("/dev/fuse").exists();
    let is_required = std::env::var_os("WTFS_REQUIRE_FUSE").is_some_and(|value| value == "1");
    assert!(is_there || !is_required, "WTFS_REQUIRE_FUSE=1 and no /dev/fuse");
    if !is_there {
        eprintln!("skipped: no /dev/fuse here");
    }
    is_there
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

impl Mounted {
    /// Mounts, or `None` where there is no FUSE.
    pub(crate) fn start(tree: TestTree) -> Option<Self> {
        Self::configured(Arc::new(tree), |config| config)
    }

    /// As [`Mounted::start`], with other settings.
    pub(crate) fn configured(
        tree: Arc<TestTree>,
        settings: impl FnOnce(MountConfig) -> MountConfig,
    ) -> Option<Self> {
        Self::of(|_| tree, settings)
    }

    pub(crate) fn with(files: &[(&str, Supply, u64)]) -> Option<Self> {
        Self::start(TestTree::with(files))
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.tree.counters
    }

    pub(crate) fn waiting(&self) -> usize {
        self.counters().waiting.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl<T: Tree> Mounted<T> {
    /// Mounts a tree of any kind, which may need the runtime; `None` where there is no FUSE.
    pub(crate) fn of(
        tree: impl FnOnce(&Runtime) -> Arc<T>,
        settings: impl FnOnce(MountConfig) -> MountConfig,
    ) -> Option<Self> {
        if !has_fuse() {
            return None;
        }
        let scratch = Scratch::new("mount");
        let dir = scratch.subdir("mnt");
        let runtime = runtime();
        let tree = tree(&runtime);
        let shown = Arc::clone(&tree) as Arc<dyn Tree>;
        let config = settings(MountConfig::new(&dir));
        let mount = Mount::start(config, shown, runtime.handle().clone()).expect("mounting");
        Some(Self { mount: Some(mount), runtime, tree, scratch })
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("mounted until unmounted")
    }

    /// Unmounts; returns how and how long it took.
    pub(crate) fn unmount(&mut self) -> (Unmounted, Duration) {
        let mount = self.mount.take().expect("mounted until unmounted");
        let started = Instant::now();
        let how = self.runtime.block_on(mount.unmount()).expect("unmounting");
        (how, started.elapsed())
    }

    /// Takes over another mount at the same place.
    pub(crate) fn adopt(&mut self, mount: Mount) {
        self.mount = Some(mount);
    }

    pub(crate) fn drop_mount(&mut self) {
        drop(self.mount.take());
    }
}

impl<T: Tree> Drop for Mounted<T> {
    fn drop(&mut self) {
        // The mount first, then its runtime; the scratch directory detaches whatever is left.
        drop(self.mount.take());
        scratch::detach(&self.dir());
    }
}

pub(crate) fn start_at(dir: &Path, tree: TestTree, runtime: &Runtime) -> Result<Mount, MountError> {
    Mount::start(MountConfig::new(dir), Arc::new(tree), runtime.handle().clone())
}

/// A program under `timeout`, which kills it when it does not end by itself. It says what it says in English, and signals
/// do to it what they do by default: who runs the tests in the background has them ignore SIGINT, and that is inherited.
pub(crate) fn program<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", "timeout", "-k1"]).arg((2 * PATIENCE.as_secs()).to_string());
    command.args(words).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end.
pub(crate) fn run<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Output {
    program(words).output().expect("the program starts")
}

/// Runs a shell script in the directory `dir`.
pub(crate) fn shell(dir: &Path, script: &str) -> Output {
    program(["bash", "-c", script]).current_dir(dir).output().expect("bash starts")
}

/// A child that is killed and waited for when its test ends.
pub(crate) struct Reader(Child);

impl Reader {
    /// Without `timeout` between, so that signals hit the program.
    pub(crate) fn of<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new("env");
        command.arg("--default-signal").args(words);
        Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    pub(crate) fn cat(path: &Path) -> Self {
        Self::of([OsStr::new("cat"), path.as_os_str()])
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("the program starts"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end; says how long that took.
    pub(crate) fn ends(&mut self) -> Duration {
        let started = Instant::now();
        wtfs_testkit::wait::eventually("the reader ends", PATIENCE, || {
            self.0.try_wait().expect("waiting for a child")
        });
        started.elapsed()
    }

    /// `None` while it runs and when a signal ended it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.0.try_wait().expect("waiting for a child")?.code()
    }

    /// Kills it with SIGKILL and waits for it.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("killing a child");
        self.0.wait().expect("waiting for a child");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("waiting for a child").is_none()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Killed only; its end is waited for by whoever takes the mount away first.
        let _already_gone = self.0.kill();
        let _status = wtfs_testkit::wait::within(Duration::from_secs(3), || self.0.try_wait().ok().flatten());
    }
}
