//! One test's own world: a scratch directory, a home and XDG directories inside it, and the binary under test
//! started there. Nothing of the user's is read or written, so tests run side by side.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use wtfs_testkit::{
    net,
    process::{self, Finished, Process},
    scratch::Scratch,
    torrent_file::TorrentFile,
};

use super::mount::Mount;

/// How long a command may take that proves nothing about speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The world of one test.
#[derive(Debug)]
pub(crate) struct Stage {
    scratch: Scratch,
    count: AtomicU32,
    variables: Vec<(&'static str, String)>,
}

impl Stage {
    pub(crate) fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        for dir in ["home", "config", "cache", "data", "state", "run", "logs", "torrents"] {
            let _made = scratch.subdir(dir);
        }
        Self { scratch, count: AtomicU32::new(0), variables: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.scratch.join(path)
    }

    pub(crate) fn subdir(&self, path: impl AsRef<Path>) -> PathBuf {
        self.scratch.subdir(path)
    }

    /// A file system of its own of so many MiB, which goes with the stage. `None` where it cannot be made and need not be:
    /// only root may mount it.
    pub(crate) fn small_disk(&self, mib: u32) -> Option<PathBuf> {
        let disk = self.subdir("disk");
        let mut small = Command::new("mount");
        small.args(["-t", "tmpfs", "-o", &format!("size={mib}M"), "tmpfs"]).arg(&disk);
        if process::run(small, PATIENCE).success() {
            return Some(disk);
        }
        assert!(
            std::env::var_os("WTFS_REQUIRE_FUSE").is_none(),
            "no file system of its own can be mounted here"
        );
        eprintln!("skipped: no file system of its own can be mounted here");
        None
    }

    /// Sets a variable of the environment for every command from now on.
    pub(crate) fn set_variable(&mut self, name: &'static str, value: &str) {
        self.variables.push((name, value.to_owned()));
    }

    /// A number that no other call gets, for names.
    fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// A log file of its own for a process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.join(format!("logs/{name}-{}.log", self.next()))
    }

    /// Writes a hand-made .torrent and gives its path.
    pub(crate) fn write_torrent(&self, torrent: &TorrentFile) -> PathBuf {
        let path = self.join(format!("torrents/{}.torrent", torrent.hash_hex()));
        torrent.write(&path).expect("the scratch directory can be written");
        path
    }

    /// The binary under test in this world.
    pub(crate) fn wtfs(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wtfs"));
        self.isolate(&mut command);
        command
    }

    /// Points a command's home and XDG directories into this world.
    pub(crate) fn isolate(&self, command: &mut Command) {
        let ours = std::env::vars_os().map(|(key, _)| key);
        for key in
            ours.filter(|key| key.to_str().is_some_and(|k| k.starts_with("WTFS_") || k.ends_with("_proxy")))
        {
            command.env_remove(key);
        }
        let log = std::env::var("WTFS_TEST_LOG").unwrap_or_else(|_| "info".to_owned());
        command
            .env("HOME", self.join("home"))
            .env("XDG_CONFIG_HOME", self.join("config"))
            .env("XDG_CACHE_HOME", self.join("cache"))
            .env("XDG_DATA_HOME", self.join("data"))
            .env("XDG_STATE_HOME", self.join("state"))
            // What else runs on this machine is not asked.
            .env("WTFS_RUNTIME_DIR", self.join("run/wtfs"))
            // What plays sound makes a directory in /tmp otherwise, and leaves it there.
            .env("PULSE_RUNTIME_PATH", self.join("run/pulse"))
            .env("RUST_LOG", log)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .envs(self.variables.iter().cloned())
            .current_dir(self.path());
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.run_within(PATIENCE, args)
    }

    /// Runs the binary to its end, or kills it at the deadline.
    #[track_caller]
    pub(crate) fn run_within(&self, deadline: Duration, args: &[&str]) -> Finished {
        let mut command = self.wtfs();
        command.args(args);
        process::run(command, deadline)
    }

    /// Starts the binary and leaves it running.
    #[track_caller]
    pub(crate) fn spawn(&self, name: &str, args: &[&str]) -> Process {
        let mut command = self.wtfs();
        command.args(args);
        Process::spawn(name, command, &self.log(name))
    }

    /// Mounts `sources` with these further flags, at a mount point and a listening address of their own, and waits
    /// until the mount is there. Mounts of one stage share its cache.
    #[track_caller]
    pub(crate) fn mount(&self, sources: &[&str], flags: &[&str]) -> Mount<'_> {
        let dir = self.subdir(format!("mnt/{}", self.next()));
        let listen = net::fresh_addr();
        Mount::start(self, sources, flags, &dir, listen)
    }

    /// Starts `wtfs seed` and waits until it says that it serves.
    #[track_caller]
    pub(crate) fn seed(&self, source: &Path, data: &Path, flags: &[&str]) -> (Process, SocketAddr) {
        let listen = net::fresh_addr();
        let (listen_text, source, data) = (listen.to_string(), text(source), text(data));
        let args = [&["seed", "--listen", &listen_text][..], flags, &[&source, &data]].concat();
        let mut seed = self.spawn("seed", &args);
        seed.wait_for_line("wtfs seed serves", PATIENCE, 0, |line| {
            line.starts_with("seeding ").then_some(())
        });
        (seed, listen)
    }

    /// What `wtfs status --json` prints.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let out = self.run(&["status", "--json"]).expect_success("wtfs status --json");
        serde_json::from_str(&out).expect("status --json prints JSON")
    }

    /// As [`Stage::status`], `None` when it fails.
    pub(crate) fn try_status(&self) -> Option<Value> {
        let done = self.run(&["status", "--json"]);
        serde_json::from_slice(&done.stdout).ok().filter(|_| done.success())
    }
}

/// The torrents of all processes in a status.
pub(crate) fn torrents(status: &Value) -> impl Iterator<Item = &Value> {
    let processes = status.as_array().into_iter().flatten();
    processes.filter_map(|process| process.get("torrents")).filter_map(Value::as_array).flatten()
}

/// A path as text; the paths of the tests are all UTF-8.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("paths of the tests are UTF-8").to_owned()
}

/// All entries below a directory, sorted, relative to it. Symlinks are not followed.
pub(crate) fn walk(root: &Path) -> Vec<PathBuf> {
    fn enter(dir: &Path, root: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("the directory can be listed") {
            let entry = entry.expect("the entry can be read");
            let path = entry.path();
            into.push(path.strip_prefix(root).expect("below the root").to_owned());
            if entry.file_type().expect("the entry has a type").is_dir() {
                enter(&path, root, into);
            }
        }
    }
    let mut all = Vec::new();
    enter(root, root, &mut all);
    all.sort();
    all
}
