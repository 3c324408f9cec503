//! Getting a mounted `/dev/fuse` and taking the mount down again, as root and as an ordinary user.
//!
//! Not left to the FUSE library for three reasons: it mounts as type `fuse` where `fuse.wtfs` is to be seen, it reports
//! a refusal as text only, and at its end it unmounts whatever is mounted at the path then, which may be a new mount.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::mountinfo::FS_TYPE;
use crate::session::error::{MountError, UnmountError};
use crate::session::{Audience, FS_NAME, Writes};

const DEVICE: &str = "/dev/fuse";

/// The set-user-id helper of Debian's and everybody's package `fuse3`.
const HELPER: &str = "fusermount3";

/// Mounts and returns the connection.
pub(super) fn mount(mount_point: &Path, audience: Audience, writes: Writes) -> Result<OwnedFd, MountError> {
    match open_device() {
        Ok(device) => match mount_directly(&device, mount_point, audience, writes) {
            Ok(()) => Ok(device.into()),
            Err(rustix::io::Errno::PERM) => mount_by_helper(mount_point, audience, writes),
            Err(error) => Err(MountError::Refused(error.into())),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            mount_by_helper(mount_point, audience, writes)
        }
        Err(error) => Err(MountError::NoDevice(error)),
    }
}

/// True when further threads can open a channel of their own to the kernel.
pub(super) fn can_open_channels() -> bool {
    open_device().is_ok()
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

fn mount_directly(
    device: &File,
    mount_point: &Path,
    audience: Audience,
    writes: Writes,
) -> rustix::io::Result<()> {
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let everybody = match audience {
        Audience::Owner => "",
        Audience::Everybody => ",allow_other",
    };
    let descriptor = device.as_raw_fd();
    let options = format!(
        "fd={descriptor},rootmode=40000,user_id={user},group_id={group},default_permissions{everybody}"
    );
    let options = CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if writes == Writes::Refused {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(FS_NAME, mount_point, FS_TYPE, flags, options.as_c_str())
}

/// The helper opens the device, mounts, and sends the descriptor over the socket it was given, here its standard input.
fn mount_by_helper(mount_point: &Path, audience: Audience, writes: Writes) -> Result<OwnedFd, MountError> {
    let access = match writes {
        Writes::Refused => "ro",
        Writes::Asked => "rw",
    };
    let mut options = format!("{access},nosuid,nodev,default_permissions,fsname={FS_NAME},subtype=wtfs");
    if audience == Audience::Everybody {
        options.push_str(",allow_other");
    }
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Refused)?;
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mount_point)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoHelper,
            _ => MountError::Refused(error),
        })?;
    // Reads the end of the stream when the helper gives up: it holds the only other end.
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(MountError::Refused)?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => Err(refusal(&String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(MountError::Refused(error)),
    }
}

fn refusal(helper_says: &str) -> MountError {
    let says = helper_says.trim();
    if says.contains("user_allow_other") {
        MountError::AllowOtherRefused
    } else if says.contains("failed to open /dev/fuse") {
        // It opens the device as the user who calls it.
        MountError::NoDevice(io::Error::other(says.to_owned()))
    } else {
        MountError::Refused(io::Error::other(says.to_owned()))
    }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut byte = [0_u8; 1];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => {
                let descriptors = ancillary.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                });
                return Ok(descriptors.last());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How a mount went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Completely.
    Cleanly,
    /// Its name is gone; the rest goes when the last program closes its files or leaves the directory.
    Lazily,
}

/// Unmounts, lazily if it is in use. The caller has made sure that the mount at this place is the right one.
pub(super) fn unmount(mount_point: &Path) -> Result<Unmounted, UnmountError> {
    match detach(mount_point, UnmountFlags::empty()) {
        Ok(()) => Ok(Unmounted::Cleanly),
        Err(UnmountError::Busy) => {
            detach(mount_point, UnmountFlags::DETACH)?;
            Ok(Unmounted::Lazily)
        }
        Err(error) => Err(error),
    }
}

fn detach(mount_point: &Path, flags: UnmountFlags) -> Result<(), UnmountError> {
    match rustix::mount::unmount(mount_point, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(UnmountError::Busy),
        Err(rustix::io::Errno::PERM) => detach_by_helper(mount_point, flags),
        Err(error) => Err(UnmountError::Refused(error.into())),
    }
}

fn detach_by_helper(mount_point: &Path, flags: UnmountFlags) -> Result<(), UnmountError> {
    let how = if flags.contains(UnmountFlags::DETACH) { "-uz" } else { "-u" };
    let output = Command::new(HELPER)
        .args([OsStr::new(how), OsStr::new("--"), mount_point.as_os_str()])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(UnmountError::Refused)?;
    let says = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if says.contains("busy") {
        Err(UnmountError::Busy)
    } else {
        Err(UnmountError::Refused(io::Error::other(says.trim().to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_allow_other_names_the_file_to_change() {
        let says =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n";
        assert!(matches!(refusal(says), MountError::AllowOtherRefused));
        assert!(refusal(says).to_string().contains("/etc/fuse.conf"));
        let says = "fusermount3: failed to open /dev/fuse: Permission denied";
        assert!(matches!(refusal(says), MountError::NoDevice(_)));
        assert!(refusal("fusermount3: no such thing").to_string().contains("no such thing"));
    }

    #[test]
    fn a_helper_that_hangs_up_gives_no_descriptor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none());
    }
}
