//! A mount ends: by its owner, from outside, with reads stuck, in use, and after a crash.
//!
//! Stuck reads get no bytes ever: what ends them, and the mount with them, is the unmounting.

use std::process::{Command, Stdio};

use wtfs_mount::{MountError, UnmountError, Unmounted, list_mounts, unmount_path};
use wtfs_testkit::scratch::{self, Scratch};
use wtfs_testkit::wait::eventually;

use crate::content::{Supply, TestTree};
use crate::support::{Mounted, PATIENCE, Reader, has_fuse, program, run, runtime, start_at};

fn is_listed(dir: &std::path::Path) -> bool {
    list_mounts().expect("the mount table").iter().any(|mount| mount.mount_point == dir)
}

#[test]
fn an_idle_mount_ends_cleanly_and_can_be_made_again_at_once() {
    let Some(mut mounted) = Mounted::with(&[("file", Supply::Remote, 4096)]) else { return };
    for _ in 0..5 {
        assert!(run(["cat".into(), mounted.path("file")]).status.success());
        let (how, _) = mounted.unmount();
        assert_eq!(how, Unmounted::Cleanly);
        assert!(!is_listed(&mounted.dir()));
        let again =
            start_at(&mounted.dir(), TestTree::with(&[("file", Supply::Remote, 4096)]), &mounted.runtime);
        assert!(is_listed(&mounted.dir()));
        mounted.adopt(again.expect("mounting again"));
    }
}

#[test]
fn unmounting_with_reads_stuck_ends_them() {
    let Some(mut mounted) = Mounted::with(&[("stuck", Supply::Never, 64 << 20)]) else { return };
    let mut readers: Vec<Reader> = (0..20).map(|_| Reader::cat(&mounted.path("stuck"))).collect();
    eventually("the reads arrive", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    let (_, took) = mounted.unmount();
    assert!(!is_listed(&mounted.dir()));
    for reader in &mut readers {
        reader.ends();
    }
    eprintln!("unmounting with 20 stuck readers took {took:?}");
}

#[test]
fn a_mount_in_use_loses_its_name_at_once() {
    let Some(mut mounted) = Mounted::with(&[("file", Supply::Local, 4096)]) else { return };
    let mut sitting = Reader::spawn(Command::new("sleep").arg("1000").current_dir(mounted.dir()));
    let (how, _) = mounted.unmount();
    assert_eq!(how, Unmounted::Lazily);
    assert!(!is_listed(&mounted.dir()));
    assert!(sitting.is_running());
}

#[test]
fn umount_from_outside_is_noticed() {
    let Some(mounted) = Mounted::with(&[("file", Supply::Local, 4096)]) else { return };
    assert!(run(["umount".into(), mounted.dir()]).status.success());
    let waited =
        mounted.runtime.block_on(async { tokio::time::timeout(PATIENCE, mounted.mount().wait()).await });
    assert!(waited.is_ok());
}

/// The connection lives on while a stuck reader holds its file; the mount must end nevertheless.
#[test]
fn a_lazy_unmount_from_outside_ends_stuck_readers_too() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 64 << 20)]) else { return };
    let mut cat = Reader::cat(&mounted.path("stuck"));
    eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    assert_eq!(unmount_path(&mounted.dir()).expect("unmounting by path"), Unmounted::Lazily);
    let waited =
        mounted.runtime.block_on(async { tokio::time::timeout(PATIENCE, mounted.mount().wait()).await });
    assert!(waited.is_ok());
    cat.ends();
}

#[test]
fn dropping_a_mount_unmounts_it() {
    let Some(mut mounted) = Mounted::with(&[("stuck", Supply::Never, 4096)]) else { return };
    let mut cat = Reader::cat(&mounted.path("stuck"));
    eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    mounted.drop_mount();
    assert!(!is_listed(&mounted.dir()));
    cat.ends();
}

#[test]
fn a_second_mount_at_the_same_place_is_refused_and_the_first_lives_on() {
    let Some(mounted) = Mounted::with(&[("file", Supply::Local, 4096)]) else { return };
    let second = start_at(&mounted.dir(), TestTree::default(), &mounted.runtime);
    let error = second.expect_err("mounted twice");
    assert!(matches!(error, MountError::AlreadyMounted(_)), "{error}");
    assert!(error.to_string().contains("wtfs unmount"));
    assert!(run(["cat".into(), mounted.path("file")]).status.success());
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() {
    let scratch = Scratch::new("none");
    assert!(matches!(unmount_path(scratch.path()), Err(UnmountError::NotMounted(_))));
    assert!(unmount_path(&scratch.join("missing")).is_err());
}

/// Set for the child of the next test: the place it mounts at before it waits to be killed.
const CRASH_AT: &str = "WTFS_TEST_CRASH_AT";

/// Not a test of its own: does nothing unless the next one starts it in a child.
#[test]
fn child_that_mounts_and_waits() {
    if let Some(dir) = std::env::var_os(CRASH_AT) {
        let runtime = runtime();
        let tree = TestTree::with(&[("file", Supply::Local, 4096)]);
        let mount = start_at(dir.as_ref(), tree, &runtime).expect("mounting in the child");
        runtime.block_on(mount.wait());
    }
}

#[test]
fn the_mount_of_a_killed_daemon_is_recognised_and_cleared() {
    if !has_fuse() {
        return;
    }
    let scratch = Scratch::new("stale");
    let dir = scratch.subdir("mnt");
    let this = std::env::current_exe().expect("this test binary");
    let mut child = Reader::spawn(
        Command::new(this)
            .args(["--exact", "ending::child_that_mounts_and_waits", "--nocapture"])
            .env(CRASH_AT, &dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    eventually("the child mounts", PATIENCE, || is_listed(&dir).then_some(()));
    // Attributes get into the kernel's cache, from where a `stat` would be answered later.
    assert!(run(["ls".into(), dir.clone()]).status.success());
    child.kill();
    let runtime = runtime();
    let error = start_at(&dir, TestTree::default(), &runtime).expect_err("a stale mount was mounted over");
    assert!(matches!(error, MountError::Stale(_)), "{error}");
    assert!(error.to_string().contains("fusermount3 -u"), "{error}");
    assert_eq!(unmount_path(&dir).expect("clearing a stale mount"), Unmounted::Cleanly);
    let again = start_at(&dir, TestTree::default(), &runtime).expect("mounting where a stale mount was");
    drop(again);
    scratch::detach(&dir);
}

/// Set for this test binary once it runs where other users may do what a user's mount takes.
const WHERE_OTHERS_MAY: &str = "WTFS_TEST_WHERE_OTHERS_MAY";

/// Runs the next test again in a mount namespace of its own, with a `/dev/fuse` that anybody may open and a temporary
/// directory that anybody may enter: on many machines both are root's alone, and the machine's are not ours to change.
fn run_where_others_may() {
    let this = std::env::current_exe().expect("this test binary").display().to_string();
    let script = "mount -t tmpfs -o mode=755 tmpfs /mnt && mknod /mnt/fuse c 10 229 && chmod 666 /mnt/fuse && \
                  mount --bind /mnt/fuse /dev/fuse && cp \"$1\" /mnt/this && chmod 755 /mnt/this && \
                  TMPDIR=/mnt exec /mnt/this --exact \"$2\" --nocapture";
    let name = "ending::an_ordinary_user_mounts_and_reads_and_the_daemon_notices_its_end";
    let words = ["unshare", "-m", "sh", "-c", script, "sh", this.as_str(), name];
    let child = program(words).env(WHERE_OTHERS_MAY, "1").output().expect("unshare starts");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed") && !said.contains("skipped:"), "{child:?}");
}

/// Not root: the set-user-id helper opens the device and mounts.
#[test]
fn an_ordinary_user_mounts_and_reads_and_the_daemon_notices_its_end() {
    const NOBODY: u32 = 65534;
    let is_root = rustix::process::geteuid().is_root();
    let has_helper = run(["fusermount3", "-V"]).status.success();
    if !has_fuse() || !is_root || !has_helper {
        assert!(std::env::var_os("WTFS_REQUIRE_FUSE").is_none(), "needs root and fusermount3");
        eprintln!("skipped: needs root, to become another user, and fusermount3");
        return;
    }
    if std::env::var_os(WHERE_OTHERS_MAY).is_none() {
        return run_where_others_may();
    }
    let scratch = Scratch::new("user");
    let dir = scratch.subdir("mnt");
    for path in [scratch.path(), dir.as_path()] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("giving the directory away");
    }
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let this = std::env::current_exe().expect("this test binary").display().to_string();
    let child = ["--exact", "ending::child_that_mounts_and_waits", "--nocapture"];
    let mut daemon = program(as_nobody.iter().copied().chain([this.as_str()]).chain(child));
    let mut daemon = Reader::spawn(daemon.env(CRASH_AT, &dir).stdout(Stdio::null()).stderr(Stdio::inherit()));
    eventually("the user's daemon mounts", PATIENCE, || is_listed(&dir).then_some(()));
    let file = dir.join("file").display().to_string();
    let read = run(as_nobody.iter().copied().chain(["cat", file.as_str()]));
    assert_eq!(TestTree::ramp("file").check(0, &read.stdout), Ok(()));
    assert_eq!(read.stdout.len(), 4096, "{read:?}");
    assert_eq!(unmount_path(&dir).expect("unmounting by path"), Unmounted::Cleanly);
    daemon.ends();
}
