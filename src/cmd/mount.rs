//! `wtfs mount`: torrents as a directory, until a signal or until somebody unmounts it.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use wtfs_mount::{Audience, ControlFile, Mount as Mounted, MountConfig, TorrentTree, unmount_path};
use wtfs_torrent::Session;

use super::{Place, print_text};
use crate::cli::Mount;
use crate::config::{Layer, Loaded, Settings};
use crate::control::Role;
use crate::daemon;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::place;
use crate::reporter::Reporter;
use crate::roster::{Memory, Origin, Roster};
use crate::signals::Stop;
use crate::units::count;

pub(super) fn run(args: &Mount, loaded: Loaded, place: Place) -> anyhow::Result<Exit> {
    let allow_other = args.allow_other.then_some(true);
    let settings = loaded.resolve(Layer { allow_other, ..args.engine.layer() })?;
    match place {
        Place::Foreground if args.daemon => leave_behind(args, &settings),
        _ => engine::block_on(serve(args, &settings, place)),
    }
}

fn leave_behind(args: &Mount, settings: &Settings) -> anyhow::Result<Exit> {
    let (pid, log) = daemon::start(&settings.directories.state()?, &std::path::absolute(&args.dir)?)?;
    print_text(&format!(
        "mounted on {} by process {pid}; its log is {}\n",
        args.dir.display(),
        log.display()
    ))?;
    Ok(Exit::Success)
}

async fn serve(args: &Mount, settings: &Settings, place: Place) -> anyhow::Result<Exit> {
    let stop = Stop::install({
        let dir = args.dir.clone();
        move || {
            // Lazy when it is busy: whatever the clean end waits for, the name is gone.
            let _nothing_more_to_try = unmount_path(&dir);
        }
    })?;
    let session = engine::open(settings).await?;
    let outcome = tokio::select! {
        mounted = mount(args, settings, &session) => match mounted {
            Ok((mounted, roster)) => stay(settings, &session, mounted, roster, &stop, place).await,
            Err(error) => Err(error),
        },
        () = stop.wait() => Err(ended(Exit::Incomplete, "stopped before the mount was made")),
    };
    session.shutdown().await;
    outcome
}

async fn mount(
    args: &Mount,
    settings: &Settings,
    session: &Session,
) -> anyhow::Result<(Mounted, Arc<Roster>)> {
    let peers = engine::peers(&args.engine.peers).await?;
    let runtime = Handle::current();
    let place = place::mount_point(&args.dir)?;
    let reporter = Reporter::new(session, Role::Mount, Some(place.clone()));
    let status = move || serde_json::to_vec_pretty(&reporter.status()).unwrap_or_default();
    let tree = TorrentTree::new(runtime.clone(), vec![ControlFile::new("status.json", status)]);
    let roster = Arc::new(Roster::new(session, &tree, settings, peers, memory(args, settings, &place)?));
    for typed in &args.sources {
        roster.add(engine::source(typed).await?, Origin::CommandLine).await?;
    }
    roster.recall().await;
    let audience = if settings.allow_other { Audience::Everybody } else { Audience::Owner };
    let config = MountConfig { audience, ..MountConfig::new(&args.dir) };
    let mounted =
        tokio::task::spawn_blocking(move || Mounted::start(config, Arc::new(tree), runtime)).await?;
    Ok((mounted.map_err(|error| ended(Exit::Mount, error.to_string()))?, roster))
}

/// What was added to this mount point before. A mount works without.
fn memory(args: &Mount, settings: &Settings, place: &Path) -> anyhow::Result<Option<Memory>> {
    let Ok(state) = settings.directories.state() else { return Ok(None) };
    let mut memory = Memory::open(&state, place);
    if args.fresh {
        memory.clear().or_end(Exit::Failure, || "what was added before cannot be forgotten".into())?;
    }
    Ok(Some(memory))
}

/// Serves until the user or somebody else ends it. The mount is always gone when this returns.
async fn stay(
    settings: &Settings,
    session: &Session,
    mounted: Mounted,
    roster: Arc<Roster>,
    stop: &Stop,
    place: Place,
) -> anyhow::Result<Exit> {
    let path = mounted.mount_point().to_owned();
    let _control = Reporter::new(session, Role::Mount, Some(path)).with_roster(roster).show(settings);
    let told = match place {
        Place::Background => daemon::report_ready(),
        Place::Foreground => {
            let listening: Vec<String> = session.listening().iter().map(ToString::to_string).collect();
            let torrents = count(session.torrents().len(), "torrent");
            let dir = mounted.mount_point().display();
            let line = format!("mounted {torrents} on {dir}, listening on {}\n", listening.join(" "));
            print_text(&line).map_err(std::io::Error::other)
        }
    };
    if let Err(error) = told {
        mounted.unmount().await.or_end(Exit::Mount, || "the mount stays".into())?;
        return Err(error)
            .or_end(Exit::Failure, || "nobody could be told of the mount, so it was taken away".into());
    }
    tokio::select! {
        () = stop.wait() => {
            mounted.unmount().await.or_end(Exit::Mount, || "the mount could not be taken away cleanly".into())?;
        }
        () = mounted.wait() => tracing::info!("unmounted from outside"),
    }
    Ok(Exit::Success)
}
