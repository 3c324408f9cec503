//! `wtfs get hf://...`: a repository, a directory or a file of it, each file verified by its hash before it is put where it
//! was asked for.
//!
//! What was fetched stays in the cache, so a run that was stopped goes on where it was. A file that stands there with the
//! revision's time and the right length was put there by an earlier run, and is left alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;
use wtfs_mount::{RepoFile, RepoRevision, RepoSource as _};
use wtfs_proto::hf::{HfSource, Revision, TreeFile};
use wtfs_torrent::{HeldFile, Session};

use super::{TICK, print_json, print_text};
use crate::cli::Get;
use crate::config::Settings;
use crate::control::Role;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::progress::{Progress, Show};
use crate::reporter::Reporter;
use crate::repositories::{self, Typed};
use crate::signals::Stop;
use crate::table::printable;
use crate::units::{ByteSize, TimeSpan, count, rate};

/// Files fetched at once: enough to hide the waits of small ones.
const AT_ONCE: usize = 8;

/// Copied in one call.
const COPY_BYTES: usize = 1 << 30;

/// What was fetched.
#[derive(Debug, Serialize)]
struct Fetched {
    repo: String,
    commit: String,
    path: PathBuf,
    files: usize,
    total_bytes: u64,
    /// Received in this run; less than the total when some was there before.
    downloaded_bytes: u64,
    elapsed_ms: u64,
}

pub(super) fn run(args: &Get, settings: &Settings, show: Show) -> anyhow::Result<Exit> {
    let typed = Typed::of(std::slice::from_ref(&args.source))?;
    let Some([source]) = typed.as_ref().map(|typed| typed.named.as_slice()) else {
        return Err(ended(Exit::Usage, "name one repository: hf://OWNER/NAME[@REVISION][/PATH]"));
    };
    engine::block_on(async {
        let stop = Stop::install(|| {})?;
        let session = engine::open(settings).await?;
        let stopped = || ended(Exit::Incomplete, "stopped; run the same command again to go on");
        let outcome = tokio::select! {
            fetched = get(args, source, settings, &session, show) => fetched,
            () = stop.wait() => Err(stopped()),
        };
        session.shutdown().await;
        let fetched = outcome?;
        if args.json {
            print_json(&fetched)?
        } else {
            print_text(&fetched.text())?
        }
        Ok(Exit::Success)
    })
}

async fn get(
    args: &Get,
    source: &HfSource,
    settings: &Settings,
    session: &Session,
    show: Show,
) -> anyhow::Result<Fetched> {
    let started = Instant::now();
    let output = std::path::absolute(&args.output)?;
    let _control = Reporter::new(session, Role::Get, Some(output.clone())).show(settings);
    let (repositories, hubs) =
        repositories::open(&args.hub, &args.engine.peers, None, settings, session, show).await?;
    let wanted = source.revision.clone().unwrap_or_else(Revision::main);
    let resolved = hubs.wait_for(repositories.resolve(source.repo.clone(), wanted)).await;
    let revision = Arc::new(resolved.map_err(|error| repositories::refusal(&error))?);
    let jobs = jobs(source, &revision, &output)?;
    let (files, total_bytes) = (jobs.len(), jobs.iter().map(|job| job.file.bytes).sum());
    let path = match &source.path {
        Some(path) => output.join(path.file_name()),
        None => output.join(source.repo.id.name()),
    };
    let progress = Progress::bytes(total_bytes, &printable(&source.to_string()), show);
    let done = Arc::new(AtomicU64::new(0));
    let mut queue = jobs.into_iter();
    let mut running: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut under_way: Vec<Arc<RepoFile>> = Vec::new();
    let mut patience = Patience::new(args);
    loop {
        while running.len() < AT_ONCE
            && let Some(job) = queue.next()
        {
            let file = Arc::new(repositories.file(&revision, &job.file));
            under_way.push(Arc::clone(&file));
            let (revision, done) = (Arc::clone(&revision), Arc::clone(&done));
            running.spawn(async move {
                job.carry_out(&file, &revision).await?;
                done.fetch_add(job.file.bytes, Ordering::Relaxed);
                Ok(())
            });
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(ended) => ended??,
                None => break,
            },
            () = tokio::time::sleep(TICK) => {}
        }
        // A task that has ended has let go of its file.
        under_way.retain(|file| Arc::strong_count(file) > 1);
        let partial: u64 = under_way.iter().map(|file| file.local_bytes()).sum();
        let present = done.load(Ordering::Relaxed).saturating_add(partial).min(total_bytes);
        progress.set(present);
        patience.look(present, total_bytes)?;
    }
    Ok(Fetched {
        repo: revision.repo.to_string(),
        commit: revision.commit.to_string(),
        path,
        files,
        total_bytes,
        downloaded_bytes: session.blobs().status().origin_bytes,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// One file, and where it goes.
#[derive(Debug)]
struct Job {
    file: TreeFile,
    target: PathBuf,
}

fn jobs(source: &HfSource, revision: &RepoRevision, output: &Path) -> anyhow::Result<Vec<Job>> {
    let files = revision.tree.files().iter();
    let Some(path) = &source.path else {
        let top = output.join(source.repo.id.name());
        let job =
            |file: &TreeFile| Job { target: top.join(file.path.to_relative_path()), file: file.clone() };
        return Ok(files.map(job).collect());
    };
    let top = output.join(path.file_name());
    let below = |file: &TreeFile| -> Option<PathBuf> {
        if file.path == *path {
            return Some(top.clone());
        }
        let skipped = path.segments().count();
        let rest: PathBuf = file.path.segments().skip(skipped).collect();
        file.path.is_below(path).then(|| top.join(rest))
    };
    let found: Vec<Job> =
        files.filter_map(|file| Some(Job { target: below(file)?, file: file.clone() })).collect();
    if found.is_empty() {
        return Err(ended(Exit::Source, format!("{source}: the revision has no {path}")));
    }
    Ok(found)
}

impl Job {
    async fn carry_out(&self, file: &RepoFile, revision: &RepoRevision) -> anyhow::Result<()> {
        let (target, modified, bytes) = (self.target.clone(), revision.modified, self.file.bytes);
        let is_there = fs::symlink_metadata(&target).is_ok_and(|there| {
            there.is_file() && there.len() == bytes && there.modified().is_ok_and(|time| time == modified)
        });
        if is_there {
            return Ok(());
        }
        let held = if bytes == 0 {
            None
        } else {
            let fetched = file.fetch().await;
            let held = fetched.map_err(|error| ended(Exit::Incomplete, error.to_string()))?;
            let given_up = || {
                ended(
                    Exit::Incomplete,
                    format!("{} did not stay in the cache; allow more with --cache-size", self.file.path),
                )
            };
            Some(held.ok_or_else(given_up)?)
        };
        let placed = tokio::task::spawn_blocking(move || {
            place(held, &target, modified)
                .or_end(Exit::Failure, || format!("{} cannot be written", target.display()))
        });
        placed.await?
    }
}

/// Copies a verified file, sharing its blocks where the file system can, and puts it in place when it is whole.
fn place(held: Option<HeldFile>, target: &Path, modified: std::time::SystemTime) -> io::Result<()> {
    let dir = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let copy = tempfile::NamedTempFile::new_in(dir)?;
    if let Some(held) = held {
        copy_all(&held.file, copy.as_file())?;
    }
    copy.as_file().set_modified(modified)?;
    copy.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    copy.as_file().sync_all()?;
    copy.persist(target)?;
    Ok(())
}

/// By offsets of our own: others may read through the same descriptor.
fn copy_all(from: &fs::File, to: &fs::File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let (mut read, mut written) = (0, 0);
    while read < length {
        let left = usize::try_from(length - read).unwrap_or(usize::MAX).min(COPY_BYTES);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            // Two file systems that cannot do it between them.
            Err(_) => return copy_bytes(from, to, read, length),
        }
    }
    Ok(())
}

fn copy_bytes(from: &fs::File, to: &fs::File, mut at: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(1 << 20)];
    while at < length {
        let left = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..left], at)?;
        to.write_all_at(&buffer[..left], at)?;
        at += left as u64;
    }
    Ok(())
}

/// The end of patience, where there is one.
#[derive(Debug)]
struct Patience {
    longest: Option<Duration>,
    present: u64,
    moved: Instant,
}

impl Patience {
    fn new(args: &Get) -> Self {
        Self { longest: args.stall_timeout.map(|span| span.0), present: 0, moved: Instant::now() }
    }

    fn look(&mut self, present: u64, total_bytes: u64) -> anyhow::Result<()> {
        if present != self.present {
            (self.present, self.moved) = (present, Instant::now());
        }
        match self.longest {
            Some(longest) if self.moved.elapsed() > longest => {
                let percent = present.saturating_mul(100) / total_bytes.max(1);
                let waited = TimeSpan(longest);
                let text =
                    format!("nothing came for {waited} at {percent} %; run the same command again to go on");
                Err(ended(Exit::Incomplete, text))
            }
            _ => Ok(()),
        }
    }
}

impl Fetched {
    fn text(&self) -> String {
        let path = printable(&self.path.display().to_string());
        let (files, size) = (count(self.files, "file"), ByteSize(self.total_bytes));
        if self.downloaded_bytes == 0 {
            return format!("{path}: {files}, {size}, all of it was there\n");
        }
        let elapsed = Duration::from_millis(self.elapsed_ms);
        let (fetched, speed) = (ByteSize(self.downloaded_bytes), rate(self.downloaded_bytes, elapsed));
        format!(
            "{path}: {files}, {size}, {fetched} fetched in {} ({speed}/s), every file verified\n",
            TimeSpan(elapsed)
        )
    }
}
