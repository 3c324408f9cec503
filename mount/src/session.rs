//! A mount's life: made, served, taken down, also with reads stuck and also from outside.
//!
//! Threads of a mount: those that serve the kernel (`wtfs-fuse` and fuser's own), one that looks after slow reads
//! (`wtfs-watch`), one that tells the kernel about names that changed (`wtfs-names`). Tasks: one per read that waits, and
//! one that watches the mount table, because `umount -l` from outside leaves the connection alive for as long as
//! somebody holds a file open, and a reader stuck in a read does.
//!
//! Taking down begins with the `closing` token: every pending read is answered `ENOTCONN` and so are later ones. After
//! that the kernel can let go.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Notifier, Session, SessionACL};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::changes::Changes;
use crate::control::Control;
use crate::fs::FileSystem;
use crate::fuse::{Adapter, Errands, Opens, Owner};
use crate::inode::InodeNo;
use crate::interrupt::Watch;
use crate::mountinfo::{self, MountedAt};
use crate::reads::Reads;
use crate::tree::Tree;

mod check;
mod device;
mod error;

pub use device::Unmounted;
pub use error::{MountError, UnmountError};

/// The source field of /proc/mounts.
pub(super) const FS_NAME: &str = "wtfs";

/// Default of [`MountConfig::read_ahead_kib`].
const READ_AHEAD_KIB: u32 = 4096;

/// Default of [`MountConfig::in_flight_bytes`].
const IN_FLIGHT_BYTES: u64 = 64 << 20;

/// How long pending reads may take to be answered at the end; answering is all they have left to do.
const DRAIN: Duration = Duration::from_millis(500);

/// How long umount(2) and the helper may take: tens of milliseconds, but on a machine with too much to do a thread waits
/// seconds for its turn, and a mount that only went late is no failure.
const DETACH: Duration = Duration::from_secs(5);

/// Who may see into the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audience {
    /// The user who mounts (the kernel's default; root of the same machine is kept out as well).
    #[default]
    Owner,
    /// Everybody (`allow_other`); as an ordinary user this needs `user_allow_other` in /etc/fuse.conf.
    Everybody,
}

/// Whether complete local files may be read by the kernel alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// With Linux 6.9 or later and `CAP_SYS_ADMIN`; otherwise they are read through this process.
    #[default]
    WherePossible,
    /// All reads go through this process.
    Never,
}

/// Whether the kernel lets writes through to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    Refused,
    Asked,
}

impl Writes {
    fn of(config: &MountConfig) -> Self {
        if config.control.is_some() { Self::Asked } else { Self::Refused }
    }
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// An existing directory; what is in it is hidden while the mount lasts.
    pub mount_point: PathBuf,
    /// Who may see into the mount.
    pub audience: Audience,
    /// Threads that talk to the kernel, 1 to 16. They never wait, so a few serve any number of readers; more only
    /// compete for the cores. Default: the number of cores, at least 2 and at most 4.
    pub threads: usize,
    /// The kernel's read-ahead in KiB; needs the privilege to write `/sys/class/bdi/*/read_ahead_kb`, otherwise the
    /// kernel's 128 KiB stay. Default 4096: four requests of 1 MiB at once let a sequential reader overlap the waits for
    /// several pieces. Larger values fetch more around each fault of a memory map that turns out to be random; 0 leaves
    /// the kernel's value.
    pub read_ahead_kib: u32,
    /// Bytes of answers that may be under way at once, over all reads of the mount. Default 64 MiB; below 1 MiB reads
    /// go one after the other.
    pub in_flight_bytes: u64,
    /// Whether complete local files may be read by the kernel alone.
    pub passthrough: Passthrough,
    /// Who carries out what users ask for by writing into the mount. `None`: the kernel itself refuses every write.
    /// With it the mount cannot be read-only for the kernel; everything else is refused here with the same error.
    pub control: Option<Arc<dyn Control>>,
}

impl MountConfig {
    /// The defaults for this mount point.
    pub fn new(mount_point: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            mount_point: mount_point.into(),
            audience: Audience::default(),
            threads: cores.clamp(2, 4),
            read_ahead_kib: READ_AHEAD_KIB,
            in_flight_bytes: IN_FLIGHT_BYTES,
            passthrough: Passthrough::default(),
            control: None,
        }
    }
}

/// A mounted tree. Dropping it takes the mount down as [`Mount::unmount`] does, without waiting for the end.
#[derive(Debug)]
pub struct Mount {
    place: MountedAt,
    reads: Arc<Reads>,
    closing: CancellationToken,
    ended: watch::Receiver<bool>,
    runtime: Handle,
}

impl Mount {
    /// Mounts `tree`. The mount can be used when this returns. Blocks for some milliseconds.
    ///
    /// Reads run on `runtime`, which must have I/O and time enabled.
    ///
    /// # Errors
    /// Nothing is left mounted then.
    pub fn start(config: MountConfig, tree: Arc<dyn Tree>, runtime: Handle) -> Result<Self, MountError> {
        let mount_point = check::usable(&config.mount_point)?;
        let device = device::mount(&mount_point, config.audience, Writes::of(&config))?;
        Self::serve(&config, &mount_point, device, tree, runtime).inspect_err(|_| {
            let _already_failing = device::unmount(&mount_point);
        })
    }

    fn serve(
        config: &MountConfig,
        mount_point: &Path,
        device: OwnedFd,
        tree: Arc<dyn Tree>,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let place = mountinfo::find(mount_point)
            .and_then(|found| {
                found.ok_or_else(|| io::Error::other("the new mount is not in the mount table"))
            })
            .map_err(MountError::Handshake)?;
        let closing = CancellationToken::new();
        let watch = Watch::default();
        let reads = Reads::new(runtime.clone(), config.in_flight_bytes, closing.clone(), watch.clone());
        let reads = Arc::new(reads);
        let adapter = Adapter {
            fs: FileSystem::new(Arc::clone(&tree)),
            reads: Arc::clone(&reads),
            opens: Opens::new(runtime.clone()),
            errands: config
                .control
                .clone()
                .map(|control| Errands::new(control, runtime.clone(), closing.clone())),
            passthrough: config.passthrough,
            owner: Owner { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() },
        };
        let acl = match config.audience {
            Audience::Owner => SessionACL::Owner,
            Audience::Everybody => SessionACL::All,
        };
        let session = Session::from_fd(adapter, device, acl, fuser_config(config, acl))
            .map_err(MountError::Handshake)?;
        let changes = Changes::default();
        let notifier = session.notifier();
        let _watching = watch.spawn().map_err(MountError::Threads)?;
        spawn_names(changes.clone(), notifier).map_err(MountError::Threads)?;
        let (end, ended) = watch::channel(false);
        let server =
            Server { session, end: end.clone(), closing: closing.clone(), watch, changes: changes.clone() };
        server.spawn().map_err(MountError::Threads)?;
        tree.attach(changes);
        raise_read_ahead(&place, config.read_ahead_kib);
        runtime.spawn(notice_detach(place.id, closing.clone(), end));
        tracing::info!(mount_point = %mount_point.display(), "mounted");
        Ok(Self { place, reads, closing, ended, runtime })
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.place.mount_point
    }

    /// Waits until the mount is gone, whoever took it down.
    ///
    /// # Cancel safety
    /// Safe: dropping the future changes nothing.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        // An error means that the sender is gone, and with it the threads that served.
        let _gone = ended.wait_for(|is_over| *is_over).await;
    }

    /// Takes the mount down within seconds. Pending reads end with `ENOTCONN` first; when files are still open or
    /// a program sits in a directory, the name goes now and the rest when they let go.
    ///
    /// # Errors
    /// When the kernel refuses, or it takes too long. Reads have ended nevertheless.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the mount up or take it down; reads end in any case.
    pub async fn unmount(self) -> Result<Unmounted, UnmountError> {
        self.closing.cancel();
        if !self.reads.drained(DRAIN).await {
            tracing::warn!("some reads could not be answered in time");
        }
        let place = self.place.clone();
        let detached = self.runtime.spawn_blocking(move || detach_ours(&place));
        let outcome = match tokio::time::timeout(DETACH, detached).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(UnmountError::TimedOut),
        };
        if matches!(outcome, Ok(Unmounted::Cleanly)) {
            let _still_ending = tokio::time::timeout(DRAIN / 2, self.wait()).await;
        }
        outcome
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.closing.cancel();
        if let Err(error) = detach_ours(&self.place) {
            tracing::warn!(mount_point = %self.place.mount_point.display(), "{error}");
        }
    }
}

/// Takes down the mount with this id if it is still there, and never another one at the same place.
fn detach_ours(place: &MountedAt) -> Result<Unmounted, UnmountError> {
    match mountinfo::find(&place.mount_point).map_err(UnmountError::Refused)? {
        Some(found) if found.id == place.id => {
            let outcome = device::unmount(&place.mount_point);
            if matches!(outcome, Ok(Unmounted::Lazily)) {
                tracing::warn!(
                    mount_point = %place.mount_point.display(),
                    "the mount is in use: detached lazily, it ends when the last program lets go"
                );
            }
            outcome
        }
        Some(_) | None => Ok(Unmounted::Cleanly),
    }
}

/// Whether `dir` may be mounted on, as [`Mount::start`] finds it. The answer is the directory's path without links and dots.
///
/// # Errors
/// What [`Mount::start`] would refuse it for; whether this user may mount at all is not looked at.
pub fn check_mount_point(dir: &Path) -> Result<PathBuf, MountError> {
    check::usable(dir)
}

/// Takes down the wtfs mounted at `dir`, by whomever; lazily when it is in use. Works on stale mounts.
///
/// # Errors
/// When there is none, or the kernel refuses.
pub fn unmount_path(dir: &Path) -> Result<Unmounted, UnmountError> {
    let absolute = check::absolute(dir).map_err(UnmountError::Refused)?;
    match mountinfo::find(&absolute).map_err(UnmountError::Refused)? {
        Some(place) => device::unmount(&place.mount_point),
        None => Err(UnmountError::NotMounted(dir.to_owned())),
    }
}

fn fuser_config(config: &MountConfig, acl: SessionACL) -> Config {
    let mut settings = Config::default();
    settings.acl = acl;
    settings.n_threads = Some(config.threads.clamp(1, 16));
    // A channel of its own per thread spares them the common queue's lock, where the device may be opened again.
    settings.clone_fd = device::can_open_channels();
    settings
}

/// What the serving thread owns.
struct Server {
    session: Session<Adapter>,
    end: watch::Sender<bool>,
    closing: CancellationToken,
    watch: Watch,
    changes: Changes,
}

impl Server {
    fn spawn(self) -> io::Result<()> {
        std::thread::Builder::new().name("wtfs-fuse".into()).spawn(move || self.run()).map(drop)
    }

    /// Serves until the connection is gone.
    fn run(self) {
        let Self { session, end, closing, watch, changes } = self;
        if let Err(error) = session.run() {
            tracing::error!("serving the kernel ended: {error}");
        }
        closing.cancel();
        watch.close();
        changes.close();
        end.send_replace(true);
    }
}

/// The thread that tells the kernel about names.
fn spawn_names(changes: Changes, notifier: Notifier) -> io::Result<()> {
    let tell = move || {
        while let Some(names) = changes.next() {
            for (parent, name) in names {
                invalidate(&notifier, parent, &name);
            }
        }
    };
    std::thread::Builder::new().name("wtfs-names".into()).spawn(tell).map(drop)
}

fn invalidate(notifier: &Notifier, parent: InodeNo, name: &OsString) {
    if let Err(error) = notifier.inval_entry(fuser::INodeNo(parent.get()), name) {
        tracing::debug!(%parent, ?name, "the kernel keeps a name: {error}");
    }
}

/// Ends the mount when it leaves the mount table. Polling that file wakes at each change of the table (proc(5)).
async fn notice_detach(id: u64, closing: CancellationToken, end: watch::Sender<bool>) {
    let table = std::fs::File::open("/proc/self/mountinfo").and_then(|file| {
        // SAFETY: the AsyncFd owns the file, which keeps its descriptor open until both are dropped.
        let table = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY | Interest::ERROR) };
        table.map_err(io::Error::from)
    });
    let table = match table {
        Ok(table) => table,
        Err(error) => {
            tracing::debug!("cannot watch the mount table: {error}");
            return;
        }
    };
    loop {
        let is_there =
            mountinfo::list_mounts().map_or(true, |mounts| mounts.iter().any(|mount| mount.id == id));
        if !is_there {
            closing.cancel();
            end.send_replace(true);
            return;
        }
        tokio::select! {
            () = closing.cancelled() => return,
            changed = table.ready(Interest::PRIORITY | Interest::ERROR) => match changed {
                Ok(mut changed) => changed.clear_ready(),
                Err(_) => return,
            },
        }
    }
}

/// The kernel caps read-ahead at the 128 KiB of the mount's backing device info, which only the administrator may raise.
fn raise_read_ahead(place: &MountedAt, kib: u32) {
    if kib > 0 {
        let (major, minor) = place.device;
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        match std::fs::write(&path, kib.to_string()) {
            Ok(()) => tracing::debug!(kib, "read-ahead raised"),
            Err(error) => tracing::debug!("read-ahead stays as it is: {path}: {error}"),
        }
    }
}
