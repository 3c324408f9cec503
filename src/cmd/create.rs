//! `wtfs create`: a `.torrent` of a file or directory, hashed on all cores. The output appears whole or not at all.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;
use serde::Serialize;
use wtfs_proto::announce::TrackerKind;
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::{MAX_PIECE_BYTES, Metainfo, Privacy};
use wtfs_torrent::create::{CreateError, CreateOptions, CreateProgress, create};

use super::{print_json, print_text};
use crate::cli::Create;
use crate::config::check_tracker;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::progress::{Progress, Show};
use crate::signals::Stop;
use crate::table::printable;
use crate::units::{ByteSize, count};

/// Names as many a reader's own tool would give the file.
const MODE: u32 = 0o644;

/// Piece sizes that other clients read too.
const PIECE_BYTES: std::ops::RangeInclusive<u32> = 16 << 10..=MAX_PIECE_BYTES;

pub(super) fn run(args: &Create, show: Show) -> anyhow::Result<Exit> {
    let path = std::path::absolute(&args.path)?;
    let output = output(args, &path)?;
    if output.exists() && !args.force {
        return Err(ended(
            Exit::Usage,
            format!("{} is there already; --force replaces it", output.display()),
        ));
    }
    if let Err(error) = path.metadata()
        && error.kind() == ErrorKind::NotFound
    {
        return Err(ended(
            Exit::Usage,
            format!("{} does not exist; give a file or directory that does", path.display()),
        ));
    }
    let options = options(args, path, &output)?;
    let metainfo = engine::block_on(hash(options, show))?;
    save(&metainfo.to_bytes(), &output, args)
        .with_context(|| format!("{} cannot be written", output.display()))?;
    let made = Made::of(&metainfo, output);
    if args.json {
        print_json(&made)?;
    } else {
        print_text(&made.text())?;
        if args.magnet {
            print_text(&format!("{}\n", made.magnet))?;
        }
    }
    Ok(Exit::Success)
}

fn output(args: &Create, path: &Path) -> anyhow::Result<PathBuf> {
    let output = match &args.output {
        Some(output) => output.clone(),
        None => {
            let no_name = || ended(Exit::Usage, format!("{} has no name; say -o FILE", path.display()));
            let mut name = path.file_name().ok_or_else(no_name)?.to_owned();
            name.push(".torrent");
            name.into()
        }
    };
    Ok(std::path::absolute(output)?)
}

fn options(args: &Create, path: PathBuf, output: &Path) -> anyhow::Result<CreateOptions> {
    let fits = |size: ByteSize| {
        let bytes = u32::try_from(size.0).ok()?;
        (bytes.is_power_of_two() && PIECE_BYTES.contains(&bytes)).then_some(bytes)
    };
    let piece_bytes = args.piece_size.map(|size| {
        let text = || format!("--piece-size {size}: give a power of two from 16K to 512M, such as 1M");
        fits(size).ok_or_else(|| ended(Exit::Usage, text()))
    });
    args.trackers.iter().try_for_each(|url| check_tracker(url))?;
    if let Some(url) = args.webseeds.iter().find(|url| TrackerKind::of(url) != TrackerKind::Http) {
        let url = printable(url);
        return Err(ended(
            Exit::Usage,
            format!("--web-seed {url}: give the http or https URL the data is at"),
        ));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
    Ok(CreateOptions {
        piece_bytes: piece_bytes.transpose()?,
        trackers: args.trackers.iter().map(|url| vec![url.clone()]).collect(),
        web_seeds: args.webseeds.clone(),
        privacy: if args.private { Privacy::Private } else { Privacy::Public },
        comment: args.comment.clone(),
        source: args.source.clone(),
        created_by: Some(concat!("wtfs/", env!("CARGO_PKG_VERSION")).to_owned()),
        creation_date: now.and_then(|now| i64::try_from(now.as_secs()).ok()),
        output: Some(output.to_owned()),
        ..CreateOptions::new(path)
    })
}

async fn hash(options: CreateOptions, show: Show) -> anyhow::Result<Metainfo> {
    let stop = Stop::install(|| {})?;
    let cancel = Arc::new(AtomicBool::new(false));
    let hashing = tokio::task::spawn_blocking({
        let cancel = Arc::clone(&cancel);
        move || {
            let progress = Progress::bytes(0, "hashing", show);
            let on_progress = |made: CreateProgress| {
                progress.set_total(made.total_bytes);
                progress.set(made.hashed_bytes);
            };
            create(&options, &on_progress, &cancel)
        }
    });
    tokio::pin!(hashing);
    let made = tokio::select! {
        made = &mut hashing => made?,
        () = stop.wait() => {
            cancel.store(true, Ordering::Relaxed);
            hashing.await?
        }
    };
    match made {
        Err(CreateError::Cancelled) => Err(ended(Exit::Incomplete, "stopped; nothing was written")),
        made => made.or_end(Exit::Failure, || "no torrent was made".into()),
    }
}

fn save(torrent: &[u8], output: &Path, args: &Create) -> anyhow::Result<()> {
    let dir = output.parent().context("it has no directory")?;
    if !dir.is_dir() {
        return Err(ended(
            Exit::Usage,
            format!("{} does not exist; make the directory first", dir.display()),
        ));
    }
    let permissions = std::fs::Permissions::from_mode(MODE);
    let mut draft = tempfile::Builder::new().prefix(".wtfs-").permissions(permissions).tempfile_in(dir)?;
    draft.write_all(torrent)?;
    draft.as_file().sync_all()?;
    if args.force {
        draft.persist(output)?;
    } else {
        draft.persist_noclobber(output)?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Made {
    path: PathBuf,
    name: String,
    info_hash: String,
    total_bytes: u64,
    files: usize,
    piece_bytes: u32,
    pieces: u32,
    magnet: String,
}

impl Made {
    fn of(metainfo: &Metainfo, path: PathBuf) -> Self {
        let info = &metainfo.info;
        Self {
            path,
            name: info.name.clone(),
            info_hash: metainfo.hashes.primary().to_string(),
            total_bytes: info.display_total(),
            files: info.files.len(),
            piece_bytes: info.piece_bytes,
            pieces: info.geometry.piece_count(),
            magnet: Magnet::from_metainfo(metainfo).to_string(),
        }
    }

    fn text(&self) -> String {
        let path = printable(&self.path.display().to_string());
        let (size, piece) = (ByteSize(self.total_bytes), ByteSize(self.piece_bytes.into()));
        let files = count(self.files, "file");
        let pieces = count(self.pieces as usize, "piece");
        format!("{path}: {files}, {size}, {pieces} of {piece}\ninfo hash {}\n", self.info_hash)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::exit::exit_of;

    fn create_with(dir: &Path, more: &[&str]) -> anyhow::Result<Exit> {
        let (data, out) = (dir.join("data.bin"), dir.join("x.torrent"));
        let typed = ["wtfs", "create", "-o"].map(Into::into).into_iter().chain([out.into(), data.into()]);
        let typed = typed.chain(more.iter().map(Into::<std::ffi::OsString>::into));
        let Command::Create(args) = Cli::try_parse_from(typed).expect("parsed").command else {
            panic!("another")
        };
        run(&args, Show::Never)
    }

    #[test]
    fn what_was_typed_stands_in_the_torrent() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("data.bin"), vec![7; 100_000]).expect("written");
        let more =
            ["-t", "udp://a:1", "-t", "http://b/announce", "-w", "http://c/", "--private", "--source", "S"];
        create_with(dir.path(), &[&more[..], &["--piece-size", "32K", "--comment", "C"]].concat())
            .expect("made");
        let metainfo =
            Metainfo::parse(&std::fs::read(dir.path().join("x.torrent")).expect("read")).expect("valid");
        assert_eq!(metainfo.announce, [["udp://a:1"], ["http://b/announce"]]);
        assert_eq!(metainfo.url_list, ["http://c/"]);
        assert_eq!((metainfo.info.piece_bytes, metainfo.info.geometry.piece_count()), (32 << 10, 4));
        assert!(metainfo.info.is_private);
        assert_eq!(metainfo.info.source.as_deref(), Some("S"));
        assert_eq!(metainfo.comment.as_deref(), Some("C"));
        assert!(metainfo.creation_date.is_some());
    }

    #[test]
    fn an_output_that_is_there_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("data.bin"), "x").expect("written");
        std::fs::write(dir.path().join("x.torrent"), "mine").expect("written");
        let error = create_with(dir.path(), &[]).expect_err("refused");
        assert_eq!(exit_of(&error), Exit::Usage);
        assert_eq!(std::fs::read(dir.path().join("x.torrent")).expect("read"), b"mine");
        create_with(dir.path(), &["--force"]).expect("made");
        assert!(std::fs::read(dir.path().join("x.torrent")).expect("read").starts_with(b"d"));
    }

    #[test]
    fn what_is_not_there_is_told_to_be_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = create_with(dir.path(), &[]).expect_err("refused");
        assert_eq!(exit_of(&error), Exit::Usage);
        let said = error.to_string();
        assert!(said.contains("data.bin does not exist; give"), "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }

    #[test]
    fn nothing_is_left_when_it_cannot_be_made() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("data.bin"), "").expect("written");
        create_with(dir.path(), &[]).expect_err("an empty file is no torrent");
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
