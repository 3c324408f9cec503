//! A mount that cannot outlive its test, nor hold it up for ever.
//!
//! Order at drop: the daemon is killed and waited for (that aborts the kernel's connection, so every stuck reader
//! wakes), then the mount point is detached lazily. A watchdog does the same first half when the mount grows
//! too old, which ends even a test whose own thread sits in an unanswered read.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{process::Process, scratch, wait};

/// A daemon and the directory it serves.
#[derive(Debug)]
pub struct MountGuard {
    dir: PathBuf,
    /// Dropped before the detaching, by hand.
    process: Option<Process>,
    /// Dropping it tells the watchdog that all is well.
    watchdog: Option<Sender<()>>,
}

impl MountGuard {
    /// Takes over a daemon that serves, or is about to serve, `dir`. After `max_age` it is killed.
    #[must_use]
    pub fn new(dir: &Path, process: Process, max_age: Duration) -> Self {
        let (watchdog, ended) = channel::<()>();
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        thread::spawn(move || {
            // The guard waits for its child only after it has dropped the sender, so the id is still the child's.
            if let (Err(RecvTimeoutError::Timeout), Some(pid)) = (ended.recv_timeout(max_age), pid) {
                eprintln!("a mount is older than {max_age:?}: its daemon is killed");
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self { dir: dir.to_owned(), process: Some(process), watchdog: Some(watchdog) }
    }

    /// The mount point.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon.
    ///
    /// # Panics
    /// Never: it is taken only at drop.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("taken only at drop")
    }

    /// The id of the daemon.
    ///
    /// # Panics
    /// Never: it is taken only at drop.
    #[must_use]
    pub fn daemon_id(&self) -> u32 {
        self.process.as_ref().expect("taken only at drop").id()
    }

    /// Waits until the kernel lists the mount.
    ///
    /// # Panics
    /// At the deadline, or when the daemon ends first.
    #[track_caller]
    pub fn wait_mounted(&mut self, deadline: Duration) {
        let dir = self.dir.clone();
        let process = self.process();
        wait::eventually("the directory is mounted", deadline, || {
            if let Some(status) = process.try_status() {
                panic!("the daemon ended ({status}) before it mounted");
            }
            scratch::is_mount_point(&dir).then_some(())
        });
    }

    fn end(&mut self) {
        drop(self.watchdog.take());
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        if scratch::is_mount_point(&self.dir) {
            scratch::detach(&self.dir);
        }
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        self.end();
    }
}
