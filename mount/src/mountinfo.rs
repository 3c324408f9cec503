//! Which wtfs mounts there are, read from `/proc/self/mountinfo`.
//!
//! Nothing here looks at a mounted file system itself: a mount whose daemon is gone or stuck would hang the looker. That
//! is also why the device number is taken from here and not from `stat`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type of our mounts in /proc/mounts. Some loaders turn memory mapping off for file systems of certain names; this
/// is none of them.
pub(crate) const FS_TYPE: &str = "fuse.wtfs";

/// One mounted wtfs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountedAt {
    /// The kernel's number for this mount; another mount at the same place has another.
    pub id: u64,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Major and minor device number.
    pub device: (u32, u32),
    /// Mount options such as `ro,nosuid,nodev`.
    pub options: String,
}

/// All wtfs mounts of this mount namespace, in the order they were mounted.
///
/// # Errors
/// When /proc cannot be read.
pub fn list_mounts() -> io::Result<Vec<MountedAt>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The uppermost wtfs mount at exactly this place.
pub(crate) fn find(mount_point: &Path) -> io::Result<Option<MountedAt>> {
    Ok(list_mounts()?.into_iter().rev().find(|mount| mount.mount_point == mount_point))
}

fn parse(text: &[u8]) -> Vec<MountedAt> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<MountedAt> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let _parent = fields.next()?;
    let (major, minor) = text(fields.next()?)?.split_once(':')?;
    let _root = fields.next()?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape_octal(fields.next()?)));
    let options = text(fields.next()?)?.to_owned();
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    (fs_type == FS_TYPE.as_bytes()).then_some(MountedAt {
        id,
        mount_point,
        device: (major.parse().ok()?, minor.parse().ok()?),
        options,
    })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Reads a field of a mount table (mountinfo, fstab(5)), where a blank and other odd bytes stand as three octal digits
/// behind a backslash: `\040`. What is no such escape stays as it is.
pub fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        match behind.get(..3).and_then(octal) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &behind[3..];
            }
            _ => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_found_among_others_with_their_odd_names() {
        let text = b"22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            61 28 0:51 / /mnt/my\\040models\\134x\\011\\012end ro,nosuid,nodev shared:3 master:9 - fuse.wtfs wtfs ro,user_id=0\n\
            62 28 0:52 / /mnt/btfs ro - fuse.btfs btfs ro\n\
            63 28 0:53 / /mnt/caf\xc3\xa9 ro - fuse.wtfs wtfs ro\n\
            garbage\n\n64 28 x:y / /bad ro - fuse.wtfs wtfs ro\n65 28 0:54 / /short ro -\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].mount_point, PathBuf::from("/mnt/my models\\x\t\nend"));
        assert_eq!((found[0].id, found[0].device), (61, (0, 51)));
        assert_eq!(found[0].options, "ro,nosuid,nodev");
        assert_eq!(found[1].mount_point, PathBuf::from("/mnt/café"));
    }

    #[test]
    fn broken_escapes_are_kept_as_they_are() {
        assert_eq!(unescape_octal(b"a\\04"), b"a\\04");
        assert_eq!(unescape_octal(b"a\\999\\"), b"a\\999\\");
        assert_eq!(unescape_octal(b"\\777"), b"\\777");
    }
}
