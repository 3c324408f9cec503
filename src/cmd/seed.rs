//! `wtfs seed`: serves data to others until a signal. Data on disk is verified first; wrong pieces are not served.

use std::path::PathBuf;
use std::time::Duration;

use wtfs_torrent::{ExistingData, Phase, Session, Source, StorageKind, Torrent};

use super::print_text;
use crate::cli::Seed;
use crate::config::{Loaded, Settings};
use crate::control::Role;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::metrics;
use crate::progress::{Progress, Show};
use crate::reporter::Reporter;
use crate::signals::Stop;
use crate::table::printable;
use crate::units::ByteSize;

/// How often the progress of hashing is looked at.
const TICK: Duration = Duration::from_millis(200);

pub(super) fn run(args: &Seed, loaded: Loaded, show: Show) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(args.engine.layer())?;
    engine::block_on(async {
        let stop = Stop::install(|| {})?;
        let session = engine::open(&settings).await?;
        let _metrics = engine::metrics(args.metrics.as_ref(), metrics::Subject::of(&session)).await?;
        let outcome = tokio::select! {
            outcome = seed(args, &settings, &session, show) => outcome,
            () = stop.wait() => {
                settings.notify.stopping();
                Ok(Exit::Success)
            }
        };
        session.shutdown().await;
        outcome
    })
}

/// Returns only with an error: seeding ends when the user says so.
async fn seed(args: &Seed, settings: &Settings, session: &Session, show: Show) -> anyhow::Result<Exit> {
    let source = engine::with_web_seeds(engine::source(&args.source).await?, &args.engine.web_seeds)?;
    let peers = engine::peers(&args.engine.peers).await?;
    let mut options = engine::add_options(settings, &source, &peers);
    let shown_at = place_data(args, &source, &mut options)?;
    let torrent = engine::add(session, source, options).await?;
    let _control = Reporter::new(session, Role::Seed, shown_at).show(settings);
    wait_checked(&torrent, show).await?;
    let status = torrent.status();
    let name = printable(&torrent.name());
    if status.pieces_present == 0 {
        return Err(match &args.data {
            Some(data) => ended(Exit::BadData, format!("no piece of {name} in {} is right", data.display())),
            None => ended(Exit::Source, format!("the cache holds nothing of {name}; say where its data is")),
        });
    }
    if status.pieces_present < status.pieces {
        tracing::warn!(
            "{} of {} pieces of {name} are right; the others are not served",
            status.pieces_present,
            status.pieces
        );
    }
    let size = ByteSize(status.total_bytes);
    print_text(&format!("seeding {name} ({size}, {}), {}\n", status.info_hash, engine::listening(session)))?;
    settings.notify.ready();
    std::future::pending().await
}

fn place_data(
    args: &Seed,
    source: &Source,
    options: &mut wtfs_torrent::AddOptions,
) -> anyhow::Result<Option<PathBuf>> {
    let Some(data) = &args.data else { return Ok(None) };
    let Source::Metainfo(metainfo) = source else {
        return Err(ended(Exit::Source, "a magnet link does not say what data to serve; give the .torrent"));
    };
    let dir = engine::data_dir(metainfo, data)?;
    let shown_at = dir.join(&metainfo.info.name);
    options.storage = StorageKind::Directory(dir);
    options.existing = ExistingData::Verify;
    Ok(Some(shown_at))
}

/// Waits until what is there is known, showing how far the hashing is.
async fn wait_checked(torrent: &Torrent, show: Show) -> anyhow::Result<()> {
    let ready = torrent.wait_metainfo();
    tokio::pin!(ready);
    let progress = Progress::bytes(0, "checking", show);
    loop {
        tokio::select! {
            ready = &mut ready => {
                ready.or_end(Exit::Source, || format!("{} cannot be served", printable(&torrent.name())))?;
                return Ok(());
            }
            () = tokio::time::sleep(TICK) => {
                if let Phase::Checking { done_bytes, total_bytes } = torrent.phase() {
                    progress.set_total(total_bytes);
                    progress.set(done_bytes);
                }
            }
        }
    }
}
