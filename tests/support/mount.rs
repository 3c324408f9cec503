//! A running `wtfs mount` of the test, with what a test wants to know of it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use wtfs_testkit::{mount_guard::MountGuard, process::Process, wait};

use super::stage::{PATIENCE, Stage, text};

/// No mount of a test lives longer: its daemon is killed then, so that no reader hangs for ever.
const MAX_AGE: Duration = Duration::from_secs(1200);

/// A mount and its daemon.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    stage: &'a Stage,
    guard: MountGuard,
    listen: SocketAddr,
}

impl<'a> Mount<'a> {
    #[track_caller]
    pub(crate) fn start(
        stage: &'a Stage,
        sources: &[&str],
        flags: &[&str],
        dir: &Path,
        listen: SocketAddr,
    ) -> Self {
        Self::start_by(stage, stage.wtfs(), sources, flags, dir, listen)
    }

    /// As [`Mount::start`], in a network namespace.
    #[track_caller]
    pub(crate) fn start_in(
        stage: &'a Stage,
        space: &Path,
        sources: &[&str],
        flags: &[&str],
        dir: &Path,
        listen: SocketAddr,
    ) -> Self {
        // Not `ip netns exec`: that makes a mount namespace too, and a mount made in it is seen nowhere else.
        let wtfs = stage.wtfs();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", text(space))).arg("--").arg(wtfs.get_program());
        stage.isolate(&mut command);
        Self::start_by(stage, command, sources, flags, dir, listen)
    }

    #[track_caller]
    fn start_by(
        stage: &'a Stage,
        mut command: Command,
        sources: &[&str],
        flags: &[&str],
        dir: &Path,
        listen: SocketAddr,
    ) -> Self {
        let (listen_text, dir_text) = (listen.to_string(), text(dir));
        let args = [&["mount", "--listen", &listen_text][..], flags, sources, &[&dir_text]].concat();
        command.args(args);
        let process = Process::spawn("mount", command, &stage.log("mount"));
        let mut guard = MountGuard::new(dir, process, MAX_AGE);
        let process = guard.process();
        process.wait_for_line("the mount is usable", PATIENCE, 0, |line| {
            line.starts_with("mounted ").then_some(())
        });
        guard.wait_mounted(PATIENCE);
        Self { stage, guard, listen }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.guard.dir()
    }

    /// A path below the mount point.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir().join(path)
    }

    /// Where peers can connect to it.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.guard.process()
    }

    /// What its process tells of itself. `wtfs status` leaves out who says nothing for some seconds, as a process may on
    /// a machine with too much to do.
    #[track_caller]
    pub(crate) fn process_status(&self) -> Value {
        let pid = self.guard.daemon_id();
        wait::eventually(&format!("process {pid} is in the status"), PATIENCE, || {
            let status = self.stage.try_status()?;
            status.as_array()?.iter().find(|process| process["pid"] == pid).cloned()
        })
    }

    /// The status of the only torrent of this mount.
    #[track_caller]
    pub(crate) fn torrent_status(&self) -> Value {
        let status = self.process_status();
        match status["torrents"].as_array().map(Vec::as_slice) {
            Some([one]) => one.clone(),
            _ => panic!("not one torrent in the status: {status}"),
        }
    }

    /// Waits until the metadata of a magnet has come: the entry is then the torrent itself.
    #[track_caller]
    pub(crate) fn wait_for_entry(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        wait::eventually(&format!("{name} is shown"), PATIENCE, || fs::symlink_metadata(&path).ok());
        path
    }

    /// Kills the daemon with SIGKILL, as a crash would, and clears the mount point.
    pub(crate) fn crash(mut self) {
        self.process().kill();
    }

    /// Unmounts with `wtfs unmount` and waits for the daemon.
    #[track_caller]
    pub(crate) fn unmount(mut self) {
        let dir = text(self.dir());
        let _said = self.stage.run(&["unmount", &dir]).expect_success("wtfs unmount");
        let status = self.process().wait(PATIENCE);
        assert!(status.success(), "the daemon ended with {status} after an unmount");
    }
}

impl Drop for Mount<'_> {
    /// No test passes on a daemon in which something panicked, whatever else it shows.
    fn drop(&mut self) {
        let panicked = |line: &String| line.contains("panicked at");
        if !std::thread::panicking()
            && let Some(line) = self.guard.process().lines().into_iter().find(panicked)
        {
            panic!("the daemon panicked: {line}");
        }
    }
}
