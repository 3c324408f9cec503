//! `wtfs mount`: torrents as a directory, until a signal or until somebody unmounts it.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use wtfs_mount::{
    Audience, Control, ControlFile, Mount as Mounted, MountConfig, Passthrough, TorrentTree, unmount_path,
};
use wtfs_torrent::Session;

use super::{Place, print_text};
use crate::cli::Mount;
use crate::config::{Layer, Loaded, Settings};
use crate::control::{Fate, Role};
use crate::daemon::{self, PidFile};
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::logging;
use crate::place;
use crate::reporter::Reporter;
use crate::roster::{Errands, Memory, Origin, Roster};
use crate::signals::Stop;
use crate::units::count;

/// What reading `.wtfs/add` shows.
const ADD_HELP: &str = "\
Write a line into this file: a magnet link, a URL, the whole path of a .torrent, or an info hash.
A .torrent can also be copied into the mount; rmdir (or rm for a single file) removes an entry.
Why something was refused stands in the file log beside this one.
";

pub(super) fn run(args: &Mount, loaded: Loaded, place: Place) -> anyhow::Result<Exit> {
    let allow_other = args.allow_other.then_some(true);
    let settings = loaded.resolve(Layer { allow_other, ..args.engine.layer() })?;
    match place {
        Place::Foreground if args.daemon => leave_behind(args, &settings),
        _ => engine::block_on(serve(args, &settings, place)),
    }
}

fn leave_behind(args: &Mount, settings: &Settings) -> anyhow::Result<Exit> {
    let (pid, log) = {
        let state = settings.directories.state()?;
        daemon::start(&state, &std::path::absolute(&args.dir)?, &args.typed)?
    };
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
    let _metrics = engine::metrics(args.metrics.as_ref(), &session).await?;
    let outcome = tokio::select! {
        mounted = mount(args, settings, &session) => match mounted {
            Ok((mounted, roster)) => stay(args, settings, &session, mounted, roster, &stop, place).await,
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
    let files = vec![
        ControlFile::new("status.json", status),
        ControlFile::for_sources("add", ADD_HELP),
        ControlFile::new("log", logging::recent_warnings),
    ];
    let tree = TorrentTree::new(runtime.clone(), files);
    let roster = Arc::new(Roster::new(session, &tree, settings, peers, memory(args, settings, &place)?));
    for typed in &args.sources {
        let source = engine::with_web_seeds(engine::source(typed).await?, &args.engine.web_seeds)?;
        roster.add(source, Origin::CommandLine).await?;
    }
    roster.recall().await;
    for path in args.pins.clone() {
        let roster = Arc::clone(&roster);
        tokio::spawn(async move {
            if let Err(error) = roster.pin_when_known(&path).await {
                tracing::warn!(path, "--pin: {error:#}");
            }
        });
    }
    let audience = if settings.allow_other { Audience::Everybody } else { Audience::Owner };
    let removed = if args.rm_drops_data { Fate::Drop } else { Fate::Keep };
    let control: Option<Arc<dyn Control>> = Some(Arc::new(Errands::new(&roster, removed)));
    let passthrough = if args.no_passthrough { Passthrough::Never } else { Passthrough::WherePossible };
    let config = MountConfig { audience, control, passthrough, ..MountConfig::new(&args.dir) };
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
    args: &Mount,
    settings: &Settings,
    session: &Session,
    mounted: Mounted,
    roster: Arc<Roster>,
    stop: &Stop,
    place: Place,
) -> anyhow::Result<Exit> {
    let path = mounted.mount_point().to_owned();
    let _control = Reporter::new(session, Role::Mount, Some(path)).with_roster(roster).show(settings);
    let pid_file = args.pid_file.as_deref().map(PidFile::write).transpose();
    let _pid_file = match pid_file {
        Ok(pid_file) => pid_file,
        Err(error) => {
            mounted.unmount().await.or_end(Exit::Mount, || "the mount stays".into())?;
            return Err(error).or_end(Exit::Failure, || "the pid file cannot be written".into());
        }
    };
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
    settings.notify.ready();
    tokio::select! {
        () = stop.wait() => {
            settings.notify.stopping();
            mounted.unmount().await.or_end(Exit::Mount, || "the mount could not be taken away cleanly".into())?;
        }
        () = mounted.wait() => {
            settings.notify.stopping();
            tracing::info!("unmounted from outside");
        }
    }
    Ok(Exit::Success)
}
