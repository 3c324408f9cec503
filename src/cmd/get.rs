//! `wtfs get`: downloads a torrent, verifying every piece before it counts, or a repository. Goes on where it was when run
//! again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use wtfs_proto::hf::HfSource;
use wtfs_torrent::{ExistingData, Fill, NetworkPolicy, Phase, Session, StorageKind, Torrent, TorrentStatus};

use super::{print_json, print_text};
use crate::cli::Get;
use crate::config::{Loaded, Settings};
use crate::control::Role;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::progress::{Progress, Show};
use crate::reporter::Reporter;
use crate::signals::Stop;
use crate::table::printable;
use crate::units::{ByteSize, TimeSpan, count, rate};

mod repository;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(200);

pub(super) fn run(args: &Get, loaded: Loaded, show: Show) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(args.engine.layer())?;
    if HfSource::is_meant_by(&args.source) {
        return repository::run(args, &settings, show);
    }
    engine::block_on(async {
        let stop = Stop::install(|| {})?;
        let session = engine::open(&settings).await?;
        let started = Instant::now();
        let outcome = get(args, &settings, &session, &stop, show).await;
        session.shutdown().await;
        let (torrent, path) = outcome?;
        let result = Fetched::of(&torrent, path, started.elapsed());
        if args.json {
            print_json(&result)?
        } else {
            print_text(&result.text())?
        }
        Ok(Exit::Success)
    })
}

async fn get(
    args: &Get,
    settings: &Settings,
    session: &Session,
    stop: &Stop,
    show: Show,
) -> anyhow::Result<(TorrentStatus, PathBuf)> {
    let stopped = || ended(Exit::Incomplete, "stopped; run the same command again to go on");
    let torrent = tokio::select! {
        torrent = begin(args, settings, session) => torrent?,
        () = stop.wait() => return Err(stopped()),
    };
    let output = std::path::absolute(&args.output)?;
    let _control = Reporter::new(session, Role::Get, Some(output.clone())).show(settings);
    let complete = torrent.wait_complete();
    tokio::pin!(complete);
    let progress = Progress::bytes(0, &printable(&torrent.name()), show);
    let mut watched = Watched::new(args.stall_timeout, settings.session.network);
    loop {
        tokio::select! {
            complete = &mut complete => {
                complete.or_end(Exit::Source, || format!("{} cannot be fetched", printable(&torrent.name())))?;
                return Ok((torrent.status(), output.join(torrent.name())));
            }
            () = tokio::time::sleep(TICK) => watched.look(&torrent, &progress)?,
            () = stop.wait() => {
                let share = share(&torrent.status());
                return Err(ended(Exit::Incomplete, format!("stopped at {share} %; run the same command again to go on")));
            }
        }
    }
}

async fn begin(args: &Get, settings: &Settings, session: &Session) -> anyhow::Result<Torrent> {
    let source = engine::with_web_seeds(engine::source(&args.source).await?, &args.engine.web_seeds)?;
    let peers = engine::peers(&args.engine.peers).await?;
    let output = std::path::absolute(&args.output)?;
    let made = std::fs::create_dir_all(&output);
    made.or_end(Exit::Failure, || format!("{} cannot be made; choose another with -o", output.display()))?;
    let options = wtfs_torrent::AddOptions {
        storage: StorageKind::Directory(output),
        fill: Fill::Everything,
        existing: if args.check { ExistingData::Verify } else { ExistingData::TrustRecord },
        ..engine::add_options(settings, &source, &peers)
    };
    engine::warn_of_nobody(settings, &source, &options);
    engine::add(session, source, options).await
}

/// Progress on the bar, and the end of patience.
struct Watched {
    patience: Option<Duration>,
    network: NetworkPolicy,
    pieces: u32,
    downloaded: u64,
    moved: Instant,
}

impl Watched {
    fn new(patience: Option<TimeSpan>, network: NetworkPolicy) -> Self {
        let patience = patience.map(|span| span.0);
        Self { patience, network, pieces: 0, downloaded: 0, moved: Instant::now() }
    }

    fn look(&mut self, torrent: &Torrent, progress: &Progress) -> anyhow::Result<()> {
        let status = torrent.status();
        match &status.phase {
            Phase::Metadata => {
                progress.say(format!("asking {} for metadata", count(status.peers.len(), "peer")))
            }
            Phase::Checking { done_bytes, total_bytes } => {
                progress.say("checking what is there".into());
                progress.set_total(*total_bytes);
                progress.set(*done_bytes);
                self.moved = Instant::now();
            }
            Phase::Ready | Phase::Failed { .. } => {
                let peers = count(status.peers.len(), "peer");
                progress.say(format!("{} from {peers}", printable(&status.name)));
                progress.set_total(status.total_bytes);
                progress.set(present_bytes(&status));
            }
        }
        if let Some(why) = hopeless(&status, self.network) {
            return Err(ended(Exit::Incomplete, why));
        }
        if (status.pieces_present, status.downloaded_bytes) != (self.pieces, self.downloaded) {
            (self.pieces, self.downloaded) = (status.pieces_present, status.downloaded_bytes);
            self.moved = Instant::now();
        }
        match self.patience {
            Some(patience) if self.moved.elapsed() > patience => Err(ended(
                Exit::Incomplete,
                format!(
                    "nothing came for {} at {} %, with {}{}; run the same command again to go on",
                    TimeSpan(patience),
                    share(&status),
                    count(status.peers.len(), "peer"),
                    complaints(&status)
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Why waiting longer is of no use, with what to do; nothing while it may be.
fn hopeless(status: &TorrentStatus, network: NetworkPolicy) -> Option<String> {
    let share = share(status);
    if let Some(why) = &status.waits.not_stored {
        let why = printable(why);
        return Some(format!(
            "stopped at {share} %: {why}; make room, and run the same command again to go on"
        ));
    }
    let is_offline = network == NetworkPolicy::Offline && status.phase == Phase::Ready;
    (is_offline && status.pieces_present < status.pieces).then(|| {
        format!("{share} % of it is here, and there is no network; do without --offline to fetch the rest")
    })
}

/// What is wrong with which tracker and web seed; empty where nothing is.
fn complaints(status: &TorrentStatus) -> String {
    let trackers = status.servers.trackers.iter().filter_map(|tracker| {
        Some(format!("; {}: {}", printable(&tracker.url), printable(tracker.message.as_deref()?)))
    });
    let seeds = status.servers.web_seeds.iter().filter_map(|seed| {
        Some(format!("; {} {}", printable(&seed.url), printable(seed.reason.as_deref()?)))
    });
    trackers.chain(seeds).collect()
}

fn present_bytes(status: &TorrentStatus) -> u64 {
    (u64::from(status.pieces_present) * u64::from(status.piece_bytes)).min(status.total_bytes)
}

fn share(status: &TorrentStatus) -> u64 {
    u64::from(status.pieces_present) * 100 / u64::from(status.pieces.max(1))
}

#[derive(Debug, Serialize)]
struct Fetched {
    name: String,
    info_hash: String,
    path: PathBuf,
    total_bytes: u64,
    /// Received in this run; less than the total when some was there before.
    downloaded_bytes: u64,
    elapsed_ms: u64,
}

impl Fetched {
    fn of(status: &TorrentStatus, path: PathBuf, elapsed: Duration) -> Self {
        Self {
            name: status.name.clone(),
            info_hash: status.info_hash.clone(),
            path,
            total_bytes: status.total_bytes,
            downloaded_bytes: status.downloaded_bytes,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn text(&self) -> String {
        let path = printable(&self.path.display().to_string());
        let size = ByteSize(self.total_bytes);
        if self.downloaded_bytes == 0 {
            return format!("{path}: {size}, all of it was there\n");
        }
        let elapsed = Duration::from_millis(self.elapsed_ms);
        let (fetched, speed) = (ByteSize(self.downloaded_bytes), rate(self.downloaded_bytes, elapsed));
        format!(
            "{path}: {size}, {fetched} fetched in {} ({speed}/s), every piece verified\n",
            TimeSpan(elapsed)
        )
    }
}
