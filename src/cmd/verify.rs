//! `wtfs verify`: hashes data on disk against a torrent, on all cores, and says what is wrong where.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::metainfo::{FileEntry, Layout, Metainfo};
use wtfs_torrent::store::{CheckReport, StoreError, check_data};

use super::{print_json, print_text};
use crate::cli::Verify;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::progress::{Progress, Show};
use crate::signals::Stop;
use crate::table::printable;

/// Wrong files named for people; `--json` names all.
const FILES_SHOWN: usize = 20;

pub(super) fn run(args: &Verify, show: Show) -> anyhow::Result<Exit> {
    let verdict = engine::block_on(async {
        let metainfo = Arc::new(*engine::metainfo(&args.source).await?);
        let data_dir = engine::data_dir(&metainfo, &args.data)?;
        let stop = Stop::install(|| {})?;
        let cancel = Arc::new(AtomicBool::new(false));
        let progress = Progress::bytes(metainfo.info.geometry.total_bytes(), "checking", show);
        let checking = tokio::task::spawn_blocking({
            let (metainfo, cancel) = (Arc::clone(&metainfo), Arc::clone(&cancel));
            move || {
                let report = check_data(&metainfo, &data_dir, &|done, _| progress.set(done), &cancel)?;
                Ok(Verdict::of(&metainfo, &report, &data_dir))
            }
        });
        tokio::pin!(checking);
        let verdict = tokio::select! {
            verdict = &mut checking => verdict?,
            () = stop.wait() => {
                cancel.store(true, Ordering::Relaxed);
                checking.await?
            }
        };
        match verdict {
            Err(StoreError::Cancelled) => {
                Err(ended(Exit::Incomplete, "stopped before all of it was checked"))
            }
            verdict => verdict.or_end(Exit::Failure, || "the data cannot be checked".into()),
        }
    })?;
    if args.json {
        print_json(&verdict)?
    } else {
        print_text(&verdict.text())?
    }
    Ok(if verdict.is_right { Exit::Success } else { Exit::BadData })
}

#[derive(Debug, Serialize)]
struct Verdict {
    name: String,
    is_right: bool,
    pieces: u32,
    right: u32,
    wrong: u32,
    unreadable: u32,
    /// Files with at least one piece that is wrong or cannot be read, and empty files and links that are not there.
    bad_files: Vec<String>,
}

impl Verdict {
    fn of(metainfo: &Metainfo, report: &CheckReport, data_dir: &Path) -> Self {
        let info = &metainfo.info;
        let mut bad_files: Vec<usize> = report
            .missing_files
            .iter()
            .filter_map(|file| usize::try_from(file.get()).ok())
            .chain(files_of(metainfo, &report.bad))
            .chain(files_of(metainfo, &report.unreadable))
            .chain(missing_without_bytes(metainfo, data_dir))
            .collect();
        bad_files.sort_unstable();
        bad_files.dedup();
        let pieces = info.geometry.piece_count();
        let right = report.present.count_ones();
        Self {
            name: info.name.clone(),
            is_right: right == pieces && bad_files.is_empty(),
            pieces,
            right,
            wrong: report.bad.count_ones(),
            unreadable: report.unreadable.count_ones(),
            bad_files: bad_files
                .into_iter()
                .filter_map(|file| Some(info.files.get(file)?.path.to_string()))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let name = printable(&self.name);
        if self.is_right {
            return format!("{name}: all {} pieces are right\n", self.pieces);
        }
        let mut text = format!(
            "{name}: {} of {} pieces are right, {} wrong, {} missing or unreadable\n",
            self.right, self.pieces, self.wrong, self.unreadable
        );
        for file in self.bad_files.iter().take(FILES_SHOWN) {
            text += &format!("  bad: {}\n", printable(file));
        }
        if self.bad_files.len() > FILES_SHOWN {
            text += &format!("  and {} more; --json names all\n", self.bad_files.len() - FILES_SHOWN);
        }
        text + "`wtfs get --check -o DIR SOURCE` on the same data fetches what is wrong or missing\n"
    }
}

fn files_of(metainfo: &Metainfo, pieces: &Bitfield) -> Vec<usize> {
    let geometry = &metainfo.info.geometry;
    let spans = pieces
        .iter_ones()
        .filter_map(|piece| geometry.piece(piece))
        .flat_map(|piece| geometry.spans(piece, 0..geometry.piece_len(piece)));
    spans.filter(|span| !span.is_pad).filter_map(|span| usize::try_from(span.file.get()).ok()).collect()
}

/// No piece tells of a file that has no bytes.
fn missing_without_bytes(metainfo: &Metainfo, data_dir: &Path) -> Vec<usize> {
    let info = &metainfo.info;
    let root = data_dir.join(&info.name);
    let is_missing = |file: &FileEntry| root.join(file.path.to_relative_path()).symlink_metadata().is_err();
    let without_bytes = info.files.iter().enumerate().filter(|(_, file)| file.bytes == 0 && !file.is_pad);
    match info.layout {
        Layout::SingleFile => Vec::new(),
        Layout::Directory => {
            without_bytes.filter(|(_, file)| is_missing(file)).map(|(index, _)| index).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use wtfs_torrent::create::{CreateOptions, create};

    use super::*;

    #[test]
    fn an_empty_file_that_is_gone_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("data");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(root.join("a"), "some bytes").expect("written");
        std::fs::write(root.join("empty"), "").expect("written");
        let never = AtomicBool::new(false);
        let metainfo = create(&CreateOptions::new(&root), &|_| {}, &never).expect("made");
        let verdict = || {
            let report = check_data(&metainfo, dir.path(), &|_, _| {}, &never).expect("checked");
            Verdict::of(&metainfo, &report, dir.path())
        };
        assert!(verdict().is_right);
        std::fs::remove_file(root.join("empty")).expect("removed");
        assert!(!verdict().is_right);
        assert_eq!(verdict().bad_files, ["empty"]);
        std::fs::write(root.join("a"), "other byte").expect("written");
        assert_eq!(verdict().bad_files, ["a", "empty"]);
        assert_eq!((verdict().right, verdict().wrong), (0, 1));
    }
}
