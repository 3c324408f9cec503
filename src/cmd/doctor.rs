//! `wtfs doctor`: what a mount, a seed or a download needs of this machine, looked at one thing after the other. Asks no
//! network, and leaves nothing behind.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use wtfs_mount::{MountError, check_mount_point, list_mounts};

use super::{print_json, print_text};
use crate::cli::Doctor;
use crate::config::{Layer, Loaded, Settings};
use crate::exit::Exit;
use crate::table::printable;
use crate::units::ByteSize;

/// Fewer open files than this, and a few hundred peers take them all.
const FILES_ENOUGH: u64 = 4096;

/// Set-user-id: what lets an ordinary user's `fusermount3` mount.
const SET_USER_ID: u32 = 0o4000;

pub(super) fn run(args: &Doctor, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let findings = look(&settings);
    if args.json {
        print_json(&findings)?;
    } else {
        print_text(&findings.iter().map(Finding::text).collect::<String>())?;
    }
    let is_well = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
    Ok(if is_well { Exit::Success } else { Exit::Failure })
}

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    /// It works, but not as well as it could.
    Fair,
    /// Something will fail.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// How it is and, unless that is good, what to do.
    detail: String,
}

impl Finding {
    fn text(&self) -> String {
        let mark = match self.verdict {
            Verdict::Good => "ok  ",
            Verdict::Fair => "note",
            Verdict::Bad => "BAD ",
        };
        format!("{mark}  {:<12}  {}\n", self.what, printable(&self.detail))
    }
}

fn good(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Good, detail: detail.into() }
}

fn fair(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Fair, detail: detail.into() }
}

fn bad(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Bad, detail: detail.into() }
}

fn look(settings: &Settings) -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    let mut findings = vec![device(), helper(is_root, settings.directories.programs())];
    findings.extend(stale_mounts());
    findings.push(cache(&settings.session.cache_dir, settings.session.min_free_bytes));
    findings.push(match settings.directories.state() {
        Ok(dir) => writable("state", &dir, "logs of background mounts go there"),
        Err(error) => bad("state", error.to_string()),
    });
    findings.push(open_files());
    findings.push(port(settings));
    findings.push(match settings.hugging_face.token() {
        Ok(Some(_)) => good("Hugging Face", "there is a token; it is shown nowhere"),
        Ok(None) => good("Hugging Face", "no token: public repositories can be read"),
        Err(error) => bad("Hugging Face", crate::exit::sentence_of(&error)),
    });
    findings
}

fn device() -> Finding {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => good("/dev/fuse", "it can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => bad(
            "/dev/fuse",
            "there is none: `modprobe fuse`, or give it to the container with `--device /dev/fuse`",
        ),
        Err(error) => bad("/dev/fuse", format!("{error}; this user needs access to it")),
    }
}

/// An ordinary user mounts by a helper; root alone may do without.
fn helper(is_root: bool, dirs: &[PathBuf]) -> Finding {
    const WHAT: &str = "fusermount3";
    let found = dirs.iter().map(|dir| dir.join(WHAT)).find(|file| file.is_file());
    let mode = |file: &Path| fs::metadata(file).map_or(0, |found| found.permissions().mode());
    match found {
        _ if is_root => good(WHAT, "root needs none"),
        Some(file) if mode(&file) & SET_USER_ID != 0 => good(WHAT, file.display().to_string()),
        Some(file) => {
            bad(WHAT, format!("{} is not set-user-id root; install the package anew", file.display()))
        }
        None => bad(WHAT, "not found in PATH; an ordinary user needs it to mount: install the package fuse3"),
    }
}

fn stale_mounts() -> Vec<Finding> {
    let Ok(mounts) = list_mounts() else {
        return vec![fair("mounts", "the mount table cannot be read")];
    };
    let is_stale = |place: &PathBuf| matches!(check_mount_point(place), Err(MountError::Stale(_)));
    let stale = mounts.into_iter().map(|mount| mount.mount_point).filter(is_stale);
    let told = |place: PathBuf| {
        let place = place.display();
        bad("mounts", format!("{place} has lost its process: `wtfs unmount {place}` clears it"))
    };
    stale.map(told).collect()
}

fn cache(dir: &Path, min_free: u64) -> Finding {
    const WHAT: &str = "cache";
    let finding = writable(WHAT, dir, "pieces are kept there; choose another with --cache-dir");
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(disk) if finding.verdict == Verdict::Good => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{}, {} free", dir.display(), ByteSize(free));
            // The engine never keeps more than a quarter of the disk free.
            let floor = min_free.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 4);
            if free > floor {
                good(WHAT, detail)
            } else {
                let floor = ByteSize(floor);
                fair(
                    WHAT,
                    format!("{detail}, of which {floor} stay free: little can be kept; make room there"),
                )
            }
        }
        _ => finding,
    }
}

/// Whether files can be made in `dir`, or where it will stand.
fn writable(what: &'static str, dir: &Path, why: &str) -> Finding {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match tempfile::tempfile_in(there) {
        Ok(_) => good(what, dir.display().to_string()),
        Err(error) => {
            let error = error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
            bad(what, format!("nothing can be written in {}: {error}; {why}", there.display()))
        }
    }
}

fn open_files() -> Finding {
    let most = getrlimit(Resource::Nofile).maximum;
    match most {
        Some(most) if most < FILES_ENOUGH => fair(
            "open files",
            format!(
                "{most} at most, too few for hundreds of peers: raise `ulimit -Hn`, or LimitNOFILE of the service"
            ),
        ),
        Some(most) => good("open files", format!("{most} at most")),
        None => good("open files", "without a limit"),
    }
}

fn port(settings: &Settings) -> Finding {
    const WHAT: &str = "port";
    let listen = &settings.session.listen;
    let taken = listen.addrs.iter().map(|ip| SocketAddr::new(*ip, listen.port)).find_map(|addr| {
        let error = TcpListener::bind(addr).err()?;
        // A machine without IPv6 is none the worse.
        (error.kind() == io::ErrorKind::AddrInUse).then_some(addr)
    });
    match taken {
        None => good(WHAT, format!("{} is free for peers to connect to", listen.port)),
        Some(addr) => fair(
            WHAT,
            format!(
                "{addr} is in use, by another wtfs perhaps; a free one is taken unless --listen says otherwise"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_without_its_rights_is_of_no_use_to_an_ordinary_user() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = &[dir.path().to_owned()];
        assert_eq!(helper(false, path).verdict, Verdict::Bad);
        assert_eq!(helper(true, path).verdict, Verdict::Good);
        let file = dir.path().join("fusermount3");
        fs::write(&file, "").expect("written");
        assert!(helper(false, path).detail.contains("set-user-id"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("set");
        assert_eq!(helper(false, path).verdict, Verdict::Good);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_where_it_will_stand() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(writable("state", &dir.path().join("a/b"), "").verdict, Verdict::Good);
        assert!(!dir.path().join("a").exists());
        let nowhere = Path::new("/proc/nothing/here");
        let finding = writable("state", nowhere, "logs go there");
        assert_eq!(finding.verdict, Verdict::Bad);
        assert!(finding.text().starts_with("BAD   state "), "{}", finding.text());
        assert!(!finding.detail.contains(".tmp"), "{}", finding.detail);
    }

    #[test]
    fn a_disk_with_less_than_is_to_stay_free_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(cache(dir.path(), 0).detail.ends_with(" free"));
    }
}
