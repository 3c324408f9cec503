//! Which mount a path of the user's belongs to, and what the path is called inside of it.
//!
//! A mount whose process is stuck must not make these hang where it can be helped: a mount point itself is never
//! looked into.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use wtfs_proto::hf::HfSource;

use crate::config::Settings;
use crate::control::{self, Shows, Who};
use crate::exit::{Exit, OrEnd as _, ended};
use crate::table::printable;

/// A mount point as the mount table has it: absolute, without links and dots above its last component.
pub(crate) fn mount_point(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = std::path::absolute(dir).with_context(|| dir.display().to_string())?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(dir) };
    let Ok(parent) = parent.canonicalize() else { return Ok(dir) };
    let place = parent.join(name);
    // What is mounted on is a directory, of which nothing is asked: its daemon may be stuck. A link is one to it.
    let mounts = wtfs_mount::list_mounts().unwrap_or_default();
    let is_link = mounts.iter().all(|mount| mount.mount_point != place) && place.is_symlink();
    let resolved = if is_link { place.canonicalize().ok() } else { None };
    Ok(resolved.unwrap_or(place))
}

/// The control socket of the running mount at `dir`.
///
/// # Errors
/// None of this user's processes serves it.
pub(crate) fn socket_of(settings: &Settings, dir: &Path) -> anyhow::Result<PathBuf> {
    let place = mount_point(dir)?;
    let found = control::find_mount(&settings.directories.runtimes(), &place);
    let found = found.or_end(Exit::Failure, || "running processes cannot be asked".into())?;
    found.ok_or_else(|| {
        let place = place.display();
        ended(
            Exit::Mount,
            format!("no running wtfs of this user serves {place}; `wtfs status` lists those that run"),
        )
    })
}

/// The control socket of the mount that `path` is in, and what the path is called there.
///
/// # Errors
/// There is no such file, or it is in no mount of this user's.
pub(crate) fn inside(settings: &Settings, path: &Path) -> anyhow::Result<(PathBuf, String)> {
    let path = path.canonicalize().or_end(Exit::Usage, || {
        format!("{} cannot be found; give the path of a file or directory in a mount", path.display())
    })?;
    let mounts = wtfs_mount::list_mounts().context("the mount table cannot be read")?;
    let around = mounts.into_iter().map(|mount| mount.mount_point).filter(|place| path.starts_with(place));
    let mount = around.max_by_key(|place| place.components().count());
    let mount = mount.ok_or_else(|| {
        ended(Exit::Usage, format!("{} is in no wtfs mount; `wtfs status` lists the mounts", path.display()))
    })?;
    let below = path.strip_prefix(&mount).context("a mount point begins its paths")?;
    let below =
        below.to_str().ok_or_else(|| ended(Exit::Usage, "no torrent has names that are not UTF-8"))?;
    Ok((socket_of(settings, &mount)?, below.to_owned()))
}

/// As [`inside`] for what may be `hf://...` too: the mount that shows that repository.
///
/// # Errors
/// As [`inside`]; none of this user's mounts shows it, or several do.
pub(crate) fn meant(settings: &Settings, typed: &str) -> anyhow::Result<(PathBuf, String)> {
    if !HfSource::is_meant_by(typed) {
        return inside(settings, Path::new(typed));
    }
    let source = HfSource::parse(typed).or_end(Exit::Usage, || printable(typed))?;
    let mounts = control::mounts(&settings.directories.runtimes());
    let mounts = mounts.or_end(Exit::Failure, || "running processes cannot be asked".into())?;
    let alone: Vec<_> = mounts.iter().filter(|(_, who)| is_alone(who, &source)).collect();
    let among = mounts.iter().filter(|(_, who)| who.shows == Some(Shows::Namespace));
    let found = if alone.is_empty() { among.collect() } else { alone };
    match found.as_slice() {
        [(socket, _)] => Ok((socket.clone(), typed.to_owned())),
        [] => Err(ended(
            Exit::Mount,
            format!(
                "no running mount of this user shows {}; make one with `wtfs mount`, or fetch it with `wtfs get`",
                printable(typed)
            ),
        )),
        several => {
            let places: Vec<&str> = several.iter().filter_map(|(_, who)| who.path.as_deref()).collect();
            let text = format!("several mounts show it; name a path in one of them: {}", places.join(", "));
            Err(ended(Exit::Usage, text))
        }
    }
}

/// Whether a mount is this repository and no other.
fn is_alone(who: &Who, source: &HfSource) -> bool {
    let Some(Shows::Repository { repo, revision }) = &who.shows else { return false };
    let is_revision = source.revision.as_ref().is_none_or(|asked| asked.as_str() == revision);
    *repo == source.repo.to_string() && is_revision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_has_one_name_however_it_is_typed() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("there").join("mnt");
        std::fs::create_dir(&real).expect("made");
        std::os::unix::fs::symlink(&real, dir.path().join("link")).expect("linked");
        for typed in ["mnt", "mnt/", "mnt/.", "link", "./mnt/../mnt"] {
            let typed = dir.path().join(typed);
            let found = mount_point(&typed).expect("absolute");
            // `..` behind the last component is resolved by the file system alone.
            assert_eq!(found.canonicalize().expect("there"), real, "{}", typed.display());
        }
        assert_eq!(mount_point(&dir.path().join("link")).expect("absolute"), real);
    }
}
