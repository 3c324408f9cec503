//! `wtfs mount`: torrents or repositories as a directory, until a signal or until somebody unmounts it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use wtfs_mount::{
    Audience, Control, ControlFile, HfTree, HfTreeConfig, Mount as Mounted, MountConfig, Passthrough,
    TorrentTree, Tree, check_mount_point, unmount_path,
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
use crate::metrics;
use crate::place;
use crate::progress::Show;
use crate::reporter::Reporter;
use crate::repositories::{self, Collection, Root, Typed};
use crate::roster::{Errands, Memory, Origin, Roster};
use crate::signals::Stop;
use crate::units::count;

/// What reading `.wtfs/add` shows.
const ADD_HELP: &str = "\
Write a line into this file: a magnet link, a URL, the whole path of a .torrent, or an info hash.
A .torrent can also be copied into the mount; rmdir (or rm for a single file) removes an entry.
Why something was refused stands in the file log beside this one.
";

pub(super) fn run(args: &Mount, loaded: Loaded, place: Place, show: Show) -> anyhow::Result<Exit> {
    let allow_other = args.allow_other.then_some(true);
    let settings = loaded.resolve(Layer { allow_other, ..args.engine.layer() })?;
    if place == Place::Foreground {
        look_at_place(&args.dir)?;
    }
    match place {
        Place::Foreground if args.daemon => leave_behind(args, &settings),
        _ => engine::block_on(serve(args, &settings, place, show)),
    }
}

/// What is wrong with the directory is said before a torrent is opened for it, or a tracker told of one.
fn look_at_place(dir: &Path) -> anyhow::Result<()> {
    let place = check_mount_point(dir).map_err(|error| ended(Exit::Mount, error.to_string()))?;
    let is_empty = std::fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        tracing::warn!("what is in {} cannot be seen while it is mounted on", place.display());
    }
    Ok(())
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

async fn serve(args: &Mount, settings: &Settings, place: Place, show: Show) -> anyhow::Result<Exit> {
    let stop = Stop::install({
        let dir = args.dir.clone();
        move || {
            // Lazy when it is busy: whatever the clean end waits for, the name is gone.
            let _nothing_more_to_try = unmount_path(&dir);
        }
    })?;
    let session = engine::open(settings).await?;
    let subject = metrics::Subject::of(&session);
    let shown = Arc::clone(&subject.collection);
    let _metrics = engine::metrics(args.metrics.as_ref(), subject).await?;
    let outcome = tokio::select! {
        mounted = mount(args, settings, &session, shown, show) => match mounted {
            Ok((mounted, shown)) => stay(args, settings, &session, mounted, shown, &stop, place).await,
            Err(error) => Err(error),
        },
        () = stop.wait() => Err(ended(Exit::Incomplete, "stopped before the mount was made")),
    };
    session.shutdown().await;
    outcome
}

/// What a mount shows.
enum Shown {
    Torrents(Arc<Roster>),
    Repositories(Collection),
}

impl Shown {
    /// For the line that says that the mount can be used.
    fn describe(&self, session: &Session) -> String {
        match self {
            Self::Torrents(_) => match session.torrents().len() {
                0 => "no torrent yet (`wtfs add DIR SOURCE` adds them)".to_owned(),
                torrents => count(torrents, "torrent"),
            },
            Self::Repositories(collection) => match collection.tree.pinned().as_slice() {
                [] => "repositories".to_owned(),
                [pinned] => format!("{}@{} ({})", pinned.repo, pinned.revision, pinned.commit),
                pinned => format!("{} repositories", pinned.len()),
            },
        }
    }
}

async fn mount(
    args: &Mount,
    settings: &Settings,
    session: &Session,
    shown: Arc<OnceLock<Collection>>,
    show: Show,
) -> anyhow::Result<(Mounted, Shown)> {
    match Typed::of(&args.sources)? {
        Some(typed) => mount_repositories(args, &typed, settings, session, shown, show).await,
        None => mount_torrents(args, settings, session).await,
    }
}

/// Each that was named is found out before there is a mount, so that what is wrong with it is said at once.
async fn mount_repositories(
    args: &Mount,
    typed: &Typed,
    settings: &Settings,
    session: &Session,
    shown: Arc<OnceLock<Collection>>,
    show: Show,
) -> anyhow::Result<(Mounted, Shown)> {
    let place = place::mount_point(&args.dir)?;
    let namespace_of = typed.namespace_of.as_deref();
    let peers = &args.engine.peers;
    let (source, hubs) = repositories::open(&args.hub, peers, namespace_of, settings, session, show).await?;
    if namespace_of.is_some() {
        hubs.check().await?;
    }
    let reporter = Reporter::new(session, Role::Mount, Some(place));
    let status = {
        let shown = Arc::clone(&shown);
        move || {
            let reporter = reporter.clone();
            let reporter = match shown.get() {
                Some(collection) => reporter.with_collection(collection.clone()),
                None => reporter,
            };
            serde_json::to_vec_pretty(&reporter.status()).unwrap_or_default()
        }
    };
    let files =
        vec![ControlFile::new("status.json", status), ControlFile::new("log", logging::recent_warnings)];
    let tree = HfTree::new(Arc::new(source.clone()), Handle::current(), files, HfTreeConfig::default());
    let mut in_root = Root::Namespace;
    for named in &typed.named {
        let revision = hubs.wait_for(repositories::pin(&tree, named)).await?;
        if !typed.is_namespace {
            in_root = Root::Repository(named.repo.clone(), revision.clone());
            let root = tree.set_root(&named.repo, &revision, named.path.as_ref());
            root.map_err(|error| ended(Exit::Source, format!("{named}: {error}")))?;
        }
    }
    let collection = Collection::new(tree.clone(), source, in_root);
    let _only_once = shown.set(collection.clone());
    for path in args.pins.clone() {
        let collection = collection.clone();
        tokio::spawn(async move {
            if let Err(error) = collection.pin_at_start(&path).await {
                tracing::warn!(path, "--pin: {error:#}");
            }
        });
    }
    let mounted = start(args, settings, Arc::new(tree), None).await?;
    Ok((mounted, Shown::Repositories(collection)))
}

async fn start(
    args: &Mount,
    settings: &Settings,
    tree: Arc<dyn Tree>,
    control: Option<Arc<dyn Control>>,
) -> anyhow::Result<Mounted> {
    let audience = if settings.allow_other { Audience::Everybody } else { Audience::Owner };
    let passthrough = if args.no_passthrough { Passthrough::Never } else { Passthrough::WherePossible };
    let config = MountConfig { audience, control, passthrough, ..MountConfig::new(&args.dir) };
    let runtime = Handle::current();
    let mounted = tokio::task::spawn_blocking(move || Mounted::start(config, tree, runtime)).await?;
    mounted.map_err(|error| ended(Exit::Mount, error.to_string()))
}

async fn mount_torrents(
    args: &Mount,
    settings: &Settings,
    session: &Session,
) -> anyhow::Result<(Mounted, Shown)> {
    let peers = engine::peers(&args.engine.peers).await?;
    let place = place::mount_point(&args.dir)?;
    let reporter = Reporter::new(session, Role::Mount, Some(place.clone()));
    let status = move || serde_json::to_vec_pretty(&reporter.status()).unwrap_or_default();
    let files = vec![
        ControlFile::new("status.json", status),
        ControlFile::for_sources("add", ADD_HELP),
        ControlFile::new("log", logging::recent_warnings),
    ];
    let tree = TorrentTree::new(Handle::current(), files);
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
    let removed = if args.rm_drops_data { Fate::Drop } else { Fate::Keep };
    let control: Option<Arc<dyn Control>> = Some(Arc::new(Errands::new(&roster, removed)));
    let mounted = start(args, settings, Arc::new(tree), control).await?;
    Ok((mounted, Shown::Torrents(roster)))
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
    shown: Shown,
    stop: &Stop,
    place: Place,
) -> anyhow::Result<Exit> {
    let path = mounted.mount_point().to_owned();
    let described = shown.describe(session);
    let reporter = Reporter::new(session, Role::Mount, Some(path));
    let reporter = match shown {
        Shown::Torrents(roster) => reporter.with_roster(roster),
        Shown::Repositories(collection) => reporter.with_collection(collection),
    };
    let _control = reporter.show(settings);
    let pid_file = args.pid_file.as_deref().map(PidFile::write).transpose();
    let _pid_file = match pid_file {
        Ok(pid_file) => pid_file,
        Err(error) => {
            mounted.unmount().await.or_end(Exit::Mount, || "the mount stays".into())?;
            let shown = args.pid_file.as_deref().unwrap_or(Path::new("")).display();
            return Err(error).or_end(Exit::Failure, || format!("the pid file {shown} cannot be written"));
        }
    };
    let told = match place {
        Place::Background => daemon::report_ready(),
        Place::Foreground => {
            let dir = mounted.mount_point().display();
            let line = format!("mounted {described} on {dir}, {}\n", engine::listening(session));
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
