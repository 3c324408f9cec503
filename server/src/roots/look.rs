//! The blocking work of the roots: listing one, looking at an entry, hashing it. No decision is made here.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use wtfs_proto::metainfo::{InfoBuilder, Layout, Metainfo, MetainfoBuilder};
use wtfs_torrent::Stamp;
use wtfs_torrent::create::{CreateError, CreateOptions, HiddenFiles, Survey, SymbolicLinks, is_unfinished};

use super::entry::{Hashing, Mark};

/// What stands in a root and can become a torrent: no hidden and no unfinished names, no links.
pub(super) fn list(root: &Path) -> io::Result<HashSet<String>> {
    let mut names = HashSet::new();
    for found in std::fs::read_dir(root)? {
        let found = found?;
        let Ok(kind) = found.file_type() else { continue };
        if let Some(name) = shareable(&found.file_name())
            && (kind.is_file() || kind.is_dir())
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The name, if it is one that is shared.
pub(super) fn shareable(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    (!name.starts_with('.') && !is_unfinished(name)).then(|| name.to_owned())
}

/// What a look saw.
#[derive(Debug)]
pub(super) enum Seen {
    Files(Box<Survey>, Mark),
    Gone,
    Unusable(String),
}

fn options(root: &Path, name: &str) -> CreateOptions {
    CreateOptions {
        hidden_files: HiddenFiles::SkipWithUnfinished,
        symbolic_links: SymbolicLinks::KeepInside,
        ..CreateOptions::new(root.join(name))
    }
}

/// Looks at an entry.
pub(super) fn look(root: &Path, name: &str) -> Seen {
    let path = root.join(name);
    // The entry itself is not followed: a link may lead anywhere.
    match path.symlink_metadata() {
        Ok(found) if found.is_file() || found.is_dir() => {}
        Ok(_) => return Seen::Gone,
        Err(error) if is_gone(&error) => return Seen::Gone,
        Err(error) => return Seen::Unusable(error.to_string()),
    }
    match Survey::of(&options(root, name)) {
        Ok(survey) => {
            let mark = mark(&survey);
            Seen::Files(Box::new(survey), mark)
        }
        // Removed in the middle of the walk: looked at again when the kernel tells, or at the next rescan.
        Err(error) => Seen::Unusable(error.to_string()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn mark(survey: &Survey) -> Mark {
    let mut hasher = DefaultHasher::new();
    for (path, stamp) in survey.files() {
        (path, stamp).hash(&mut hasher);
    }
    for link in survey.links() {
        link.hash(&mut hasher);
    }
    hasher.finish()
}

/// How long ago the youngest file was written. The future is now.
pub(super) fn age(survey: &Survey) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let written = |(_, stamp): (_, Stamp)| {
        let seconds = Duration::from_secs(u64::try_from(stamp.modified_s).unwrap_or(0));
        seconds + Duration::from_nanos(u64::try_from(stamp.modified_ns).unwrap_or(0))
    };
    let youngest = survey.files().map(written).max().unwrap_or_default();
    // A time that lies ahead says nothing about when it was written.
    if youngest > now + Duration::from_secs(60) { Duration::MAX } else { now.saturating_sub(youngest) }
}

/// Whether a torrent, remembered from before, is of these very files.
pub(super) fn is_of(metainfo: &Metainfo, survey: &Survey) -> bool {
    let entries = || metainfo.info.files.iter().filter(|entry| !entry.is_pad);
    let files = entries().filter(|entry| entry.symlink.is_none());
    let links = entries().filter_map(|entry| Some((&entry.path, entry.symlink.as_ref()?)));
    files.map(|entry| &entry.path).eq(survey.files().map(|(path, _)| path)) && links.eq(survey.links())
}

/// The torrent of files that were moved: the old pieces under the new name. `None` where it would not be theirs.
pub(super) fn renamed(old: &Metainfo, survey: &Survey, name: &str) -> Option<Metainfo> {
    let info = &old.info;
    let mut builder = match info.layout {
        Layout::SingleFile => {
            InfoBuilder::single_file(name, info.files.first()?.bytes, info.piece_bytes).ok()?
        }
        Layout::Directory => InfoBuilder::directory(name, info.piece_bytes),
    };
    for entry in &info.files {
        let mut entry = entry.clone();
        if info.layout == Layout::SingleFile {
            entry.path = builder.files().first()?.path.clone();
        }
        builder.push(entry);
    }
    let made = MetainfoBuilder::new(builder.finish(&info.pieces).ok()?).ok()?.finish();
    // Of one piece length and of just these paths, or it is hashed as if it were new.
    (made.info.geometry == info.geometry && is_of(&made, survey)).then_some(made)
}

/// Hashes what was seen, and looks again: a file that was added meanwhile would be missing.
pub(super) fn hash(root: &Path, name: &str, survey: &Survey, job: &Hashing) -> Result<Metainfo, CreateError> {
    let progress = |progress: wtfs_torrent::create::CreateProgress| {
        job.done_bytes.store(progress.hashed_bytes, Ordering::Relaxed);
    };
    let metainfo = survey.hash(&options(root, name), &progress, &job.cancel)?;
    match look(root, name) {
        Seen::Files(_, now) if now == mark(survey) => Ok(metainfo),
        _ => Err(CreateError::Changed { path: root.join(name) }),
    }
}
