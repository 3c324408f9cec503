//! `wtfs demo`: the main job on this machine alone. Makes a model repository, seeds it from one engine, mounts it with
//! another, has a third process read it back in every way, compares each byte, and shows who gave what and how fast.
//!
//! All it makes stands in one temporary directory, which goes when it ends, however it ends; only where the mount could
//! not be taken away does the directory stay, since deleting would go through the mount.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::runtime::Handle;
use wtfs_mount::{Mount as Mounted, MountConfig, TorrentTree};
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::create::{CreateOptions, CreateProgress, create};
use wtfs_torrent::{
    AddOptions, ExistingData, ListenConfig, PortPolicy, Session, SessionConfig, Source, StorageKind, Torrent,
    TorrentStatus,
};

use super::print_text;
use crate::cli::{Demo, ReadBack};
use crate::demo::readback::{self, Locality, Pattern, Row};
use crate::demo::repository::{self, Repository};
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::progress::{Progress, Show};
use crate::signals::Stop;
use crate::table::{Align, Table};
use crate::units::{ByteSize, TimeSpan, rate};

/// The repository's name, and so the torrent's and the mounted directory's.
const NAME: &str = "demo-model";
/// Any: the same data at each run.
const SEED: u64 = 2026;
/// Each engine has a loopback address of its own, so that the table can tell them apart.
const SEEDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const READER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// Less leaves no file with several pieces.
const BYTES_MIN: u64 = 4 << 20;

pub(super) fn run(args: &Demo, show: Show) -> anyhow::Result<Exit> {
    if args.size.0 < BYTES_MIN {
        return Err(ended(Exit::Usage, format!("--size must be at least {}", ByteSize(BYTES_MIN))));
    }
    let scratch =
        tempfile::Builder::new().prefix("wtfs-demo-").tempdir().context("no temporary directory")?;
    let mount_point = scratch.path().join("mnt");
    let outcome = engine::block_on(async {
        let stop = Stop::install({
            let mount_point = mount_point.clone();
            move || {
                let _nothing_more_to_try = wtfs_mount::unmount_path(&mount_point);
            }
        })?;
        tokio::select! {
            outcome = demonstrate(args, scratch.path(), &mount_point, show) => outcome,
            () = stop.wait() => Err(ended(Exit::Incomplete, "stopped; what was made is gone again")),
        }
    });
    if is_mounted(&mount_point) {
        let left = scratch.keep();
        let outcome = outcome.err().unwrap_or_else(|| anyhow::anyhow!("the mount could not be taken away"));
        return Err(outcome.context(format!("{} is left behind", left.display())));
    }
    scratch.close().context("the temporary directory cannot be removed")?;
    outcome
}

fn is_mounted(mount_point: &Path) -> bool {
    wtfs_mount::list_mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.mount_point == mount_point))
}

/// The other half: see [`readback`].
pub(super) fn read_back(args: &ReadBack) -> anyhow::Result<Exit> {
    readback::say(&readback::run(&args.mounted, &args.source)?)?;
    Ok(Exit::Success)
}

async fn demonstrate(args: &Demo, scratch: &Path, mount_point: &Path, show: Show) -> anyhow::Result<Exit> {
    let source = scratch.join("source");
    std::fs::create_dir(&source)?;
    std::fs::create_dir(mount_point)?;
    let (repository, metainfo) = make(&source, args.size.0, show).await?;
    let (files, size) = (repository.files.len(), ByteSize(repository.total_bytes));
    let (pieces, piece) = (metainfo.info.geometry.piece_count(), ByteSize(metainfo.info.piece_bytes.into()));
    print_text(&format!("made     {NAME}: {files} files, {size}, {pieces} pieces of {piece}\n"))?;

    let seeder = open(&scratch.join("seeder"), SEEDER).await?;
    let reader = open(&scratch.join("reader"), READER).await?;
    let outcome = async {
        let data = StorageKind::Directory(source.clone());
        let options = AddOptions { storage: data, existing: ExistingData::Verify, ..AddOptions::default() };
        let seeded = engine::add(&seeder, Source::Metainfo(Box::new(metainfo.clone())), options).await?;
        seeded.wait_complete().await?;
        let at = seeder.listening().first().copied().context("the seeding engine does not listen")?;
        print_text(&format!("seeded   by an engine of its own at {at}\n"))?;

        let options = AddOptions { peers: vec![at], ..AddOptions::default() };
        let torrent = engine::add(&reader, Source::Metainfo(Box::new(metainfo)), options).await?;
        let mounted = mount(mount_point, torrent.clone()).await?;
        print_text(&format!("mounted  on {}\n\n", mount_point.display()))?;
        let rows = in_another_process(&mount_point.join(NAME), &repository.root).await;
        let (gave, got) = (seeded.status(), torrent.status());
        mounted.unmount().await.or_end(Exit::Mount, || "the mount could not be taken away".into())?;
        let rows = rows?;
        print_text(&format!("{}\n{}", rows_table(&rows), sources_table(at, &gave, &got, &rows)))
    }
    .await;
    tokio::join!(reader.shutdown(), seeder.shutdown());
    outcome?;
    print_text("\nEvery byte read was equal to its source. Unmounted; nothing is left behind.\n")?;
    Ok(Exit::Success)
}

async fn make(source: &Path, bytes: u64, show: Show) -> anyhow::Result<(Repository, Metainfo)> {
    let root = source.join(NAME);
    tokio::task::spawn_blocking(move || {
        let repository = repository::make(&root, bytes, SEED)
            .with_context(|| format!("{} cannot be written", root.display()))?;
        let progress = Progress::bytes(repository.total_bytes, "hashing", show);
        let options = CreateOptions::new(&repository.root);
        let on_progress = |made: CreateProgress| progress.set(made.hashed_bytes);
        let metainfo = create(&options, &on_progress, &AtomicBool::new(false))?;
        Ok((repository, metainfo))
    })
    .await?
}

async fn open(cache_dir: &Path, addr: IpAddr) -> anyhow::Result<Session> {
    let listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs: vec![addr] };
    let config = SessionConfig { listen, ..SessionConfig::new(cache_dir.to_owned()) };
    Session::open(config).await.context("an engine cannot start")
}

async fn mount(mount_point: &Path, torrent: Torrent) -> anyhow::Result<Mounted> {
    let runtime = Handle::current();
    let tree = TorrentTree::new(runtime.clone(), Vec::new());
    tree.add(Arc::new(torrent))?;
    let config = MountConfig::new(mount_point);
    let mounted =
        tokio::task::spawn_blocking(move || Mounted::start(config, Arc::new(tree), runtime)).await?;
    mounted.map_err(|error| ended(Exit::Mount, error.to_string()))
}

async fn in_another_process(mounted: &Path, source: &Path) -> anyhow::Result<Vec<Row>> {
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut child = Command::new(program)
        .arg("read-back")
        .args([mounted, source])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the reading process cannot be started")?;
    let mut said = String::new();
    if let Some(output) = &mut child.stdout {
        output.read_to_string(&mut said).await?;
    }
    let status = child.wait().await?;
    if !status.success() {
        let exit = status.code().map_or(Exit::Failure, Exit::from_code);
        return Err(ended(exit, format!("reading back failed ({status})")));
    }
    Ok(serde_json::from_str(&said)?)
}

fn rows_table(rows: &[Row]) -> String {
    let mut table = Table::new([
        ("read", Align::Left),
        ("how", Align::Left),
        ("bytes", Align::Right),
        ("time", Align::Right),
        ("rate", Align::Right),
        ("first byte", Align::Right),
    ]);
    for row in rows {
        let how = match row.pattern {
            Pattern::InOrder => "in order",
            Pattern::AtRandom => "at random, 4 KiB",
            Pattern::Mapped => "memory-mapped",
        };
        table.row([
            row.what.clone(),
            how.into(),
            ByteSize(row.bytes).to_string(),
            TimeSpan(row.elapsed).to_string(),
            format!("{}/s", rate(row.bytes, row.elapsed)),
            TimeSpan(row.first_byte).to_string(),
        ]);
    }
    table.render(0)
}

/// Who gave what, how fast while it was read cold. Told by the counters of the giving side: a source that is no longer
/// needed is no longer connected, so the reading side does not list it.
fn sources_table(at: SocketAddr, gave: &TorrentStatus, got: &TorrentStatus, rows: &[Row]) -> String {
    let cold: Duration = rows.iter().filter(|row| row.state == Locality::Cold).map(|row| row.elapsed).sum();
    let mut table =
        Table::new([("fetched from", Align::Left), ("bytes", Align::Right), ("rate", Align::Right)]);
    let speed = rate(gave.uploaded_bytes, cold);
    table.row([at.to_string(), ByteSize(gave.uploaded_bytes).to_string(), format!("{speed}/s")]);
    let (received, wasted) = (ByteSize(got.downloaded_bytes), ByteSize(got.wasted_bytes));
    format!(
        "{}received {received}, of which {wasted} in vain; {} of {} pieces are local now\n",
        table.render(0),
        got.pieces_present,
        got.pieces
    )
}
