//! May this directory be mounted on? Asked before anything is changed, so that the answer can say what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::mountinfo;
use crate::session::error::MountError;

/// How long a mount that is there already may take to show that it is alive. A dead one shows it at once, but to a thread
/// that a busy machine may keep waiting; only a daemon that is stopped is waited for all this time.
const ALIVE: Duration = Duration::from_secs(5);

/// The mount point's path without links and dots.
pub(super) fn usable(mount_point: &Path) -> Result<PathBuf, MountError> {
    let unusable = |error| MountError::Unusable { mount_point: mount_point.to_owned(), error };
    let place = absolute(mount_point).map_err(unusable)?;
    if mountinfo::find(&place).map_err(unusable)?.is_some() {
        return Err(if is_alive(&place) {
            MountError::AlreadyMounted(place)
        } else {
            MountError::Stale(place)
        });
    }
    if place.parent().is_none() {
        return Err(unusable(io::Error::other("it is the directory of everything")));
    }
    match std::fs::metadata(&place) {
        Ok(found) if found.is_dir() => Ok(place),
        Ok(_) => Err(MountError::NotADirectory(place)),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOTCONN) => MountError::Stale(place),
            Some(libc::ENOENT) => MountError::Missing(place),
            _ => MountError::Unusable { mount_point: place, error },
        }),
    }
}

/// Resolves all but the last component, so that a dead file system mounted at the path itself is not asked anything;
/// the last one is resolved too when it is a link.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.canonicalize();
    };
    match parent.canonicalize() {
        Ok(parent) => {
            let place = parent.join(name);
            // Of what is mounted there nothing is asked: its daemon may be stuck.
            let is_link = mountinfo::find(&place)?.is_none() && place.is_symlink();
            if is_link { place.canonicalize() } else { Ok(place) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
        Err(error) => Err(error),
    }
}

/// A mount without its daemon answers ENOTCONN. Opening asks the daemon, unlike `stat`, which the kernel may answer from
/// its cache; a daemon that is stopped does not answer at all, hence the thread.
fn is_alive(place: &Path) -> bool {
    let (tell, told) = mpsc::sync_channel(1);
    let place = place.to_owned();
    let looking = std::thread::Builder::new().name("wtfs-look".into()).spawn(move || {
        let refused = std::fs::read_dir(&place).err().and_then(|error| error.raw_os_error());
        let _nobody_waits = tell.send(refused != Some(libc::ENOTCONN));
    });
    looking.is_ok() && told.recv_timeout(ALIVE).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_mounted_on_is_told_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert!(matches!(usable(&file), Err(MountError::NotADirectory(_))));
        assert!(matches!(usable(&dir.path().join("missing")), Err(MountError::Missing(_))));
        assert!(matches!(usable(&dir.path().join("no/such")), Err(MountError::Missing(_))));
        assert!(matches!(usable(Path::new("/")), Err(MountError::Unusable { .. })));
        assert!(matches!(usable(Path::new("/../tmp/..")), Err(MountError::Unusable { .. })));
        assert_eq!(usable(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn links_and_dots_lead_to_the_directory_itself() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let real = real.canonicalize().unwrap();
        assert_eq!(usable(&dir.path().join("link")).unwrap(), real);
        assert_eq!(usable(&dir.path().join("real/.")).unwrap(), real);
        assert_eq!(usable(&dir.path().join("link/../real/")).unwrap(), real);
    }
}
