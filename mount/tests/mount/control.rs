//! What is written into the mount reaches whoever controls it, refusals reach the program that wrote, and nothing else
//! can be changed.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use wtfs_mount::{BoxFuture, Control, MountConfig};
use wtfs_proto::id::InfoHash;
use wtfs_testkit::scratch::Scratch;

use crate::content::{Supply, TestTree};
use crate::support::{Mounted, run, shell};

/// Notes what it is asked; refuses what says `bad`, and removals of `kept`.
#[derive(Debug)]
struct Notes {
    tree: Arc<TestTree>,
    asked: Mutex<Vec<String>>,
}

impl Notes {
    fn note(&self, text: String) -> Result<(), String> {
        let outcome = if text.contains("bad") { Err("it is bad".to_owned()) } else { Ok(()) };
        self.asked.lock().expect("no test panics with it").push(text);
        outcome
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no test panics with it"))
    }
}

impl Control for Notes {
    fn add_torrent(&self, bytes: Bytes) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
            self.note(format!("torrent {} {start}", bytes.len()))
        })
    }

    fn add_source(&self, text: String) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.note(format!("source {text}")) })
    }

    fn remove_entry(&self, torrent: InfoHash) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let name = self.tree.name_of(torrent).ok_or("there is no such torrent")?;
            if name == "kept" {
                return Err("it is kept".to_owned());
            }
            self.tree.remove(&name);
            self.note(format!("remove {name}"))
        })
    }
}

fn controlled() -> Option<(Mounted, Arc<Notes>)> {
    let files =
        [("add", Supply::Changes, 0), ("single.gguf", Supply::Local, 1000), ("kept", Supply::Local, 1000)];
    let tree = Arc::new(TestTree::with(&files).and_many(20));
    let notes = Arc::new(Notes { tree: Arc::clone(&tree), asked: Mutex::default() });
    let control = Arc::clone(&notes) as Arc<dyn Control>;
    let mounted = Mounted::configured(tree, |config| MountConfig { control: Some(control), ..config })?;
    Some((mounted, notes))
}

#[test]
fn a_torrent_file_put_into_the_root_is_handed_over_whole() {
    let Some((mounted, notes)) = controlled() else { return };
    let scratch = Scratch::new("torrents");
    let source = scratch.join("x.torrent");
    let body = format!("d4:info{}e", "z".repeat(3_000_000));
    fs::write(&source, &body).expect("written");
    let (from, to) = (source.display().to_string(), mounted.dir().display().to_string());
    for script in [
        format!("cp {from} {to}/"),
        format!("cp -p {from} {to}/y.torrent"),
        format!("cat {from} > {to}/x.torrent"),
        format!("dd if={from} of={to}/x.torrent bs=100k status=none"),
        format!("python3 -c \"import shutil; shutil.copyfile('{from}', '{to}/x.torrent')\""),
        format!("cp {from} {from}.2 && mv {from}.2 {to}/z.torrent"),
    ] {
        let done = shell(scratch.path(), &script);
        assert!(done.status.success(), "{script}: {done:?}");
        assert_eq!(notes.take(), [format!("torrent {} d4:infoz", body.len())], "{script}");
    }
    let listed = run(["ls".into(), "-A".into(), mounted.dir()]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("torrent"), "{listed:?}");
    assert!(!mounted.path("x.torrent").exists());
}

#[test]
fn a_refused_torrent_file_fails_the_program_that_copies_it() {
    let Some((mounted, notes)) = controlled() else { return };
    let scratch = Scratch::new("torrents");
    fs::write(scratch.join("x.torrent"), "bad").expect("written");
    let copied = run(["cp".into(), scratch.join("x.torrent"), mounted.dir()]);
    assert!(String::from_utf8_lossy(&copied.stderr).contains("Invalid argument"), "{copied:?}");
    assert_eq!(notes.take(), ["torrent 3 bad"]);
    let other = shell(&mounted.dir(), "echo hello > notes.txt");
    assert!(String::from_utf8_lossy(&other.stderr).contains("Read-only file system"), "{other:?}");
    let touched = shell(&mounted.dir(), "touch empty.torrent");
    assert!(touched.status.success(), "{touched:?}");
    assert!(notes.take().is_empty());
}

#[test]
fn lines_are_sources_and_a_refused_one_fails_the_echo_that_wrote_it() {
    let Some((mounted, notes)) = controlled() else { return };
    let script =
        "echo 'magnet:?xt=urn:btih:1' > add && echo ' /a b.torrent ' >> add && printf %s http://x > add";
    let added = shell(&mounted.dir(), script);
    assert!(added.status.success(), "{added:?}");
    assert_eq!(notes.take(), ["source magnet:?xt=urn:btih:1", "source /a b.torrent", "source http://x"]);
    let refused = shell(&mounted.dir(), "printf 'first\\nbad one\\nlast\\n' > add");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Invalid argument"), "{refused:?}");
    assert_eq!(notes.take(), ["source first", "source bad one", "source last"]);
}

#[test]
fn entries_of_the_root_are_removed_as_a_whole_and_nothing_inside_them_is() {
    let Some((mounted, notes)) = controlled() else { return };
    for (script, says) in [
        ("rm -f many/f3", "Read-only file system"),
        ("rm -rf many", "Read-only file system"),
        ("rm -f kept", "Device or resource busy"),
        ("rm -f add", "Read-only file system"),
    ] {
        let refused = shell(&mounted.dir(), script);
        assert!(!refused.status.success(), "{script}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(says), "{script}: {refused:?}");
    }
    assert!(notes.take().is_empty());
    assert!(mounted.path("many/f3").exists() && mounted.path("kept").exists());
    let removed = shell(&mounted.dir(), "rmdir many && rm -f single.gguf && ls -A");
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(notes.take(), ["remove many", "remove single.gguf"]);
    assert_eq!(String::from_utf8_lossy(&removed.stdout), "add\nkept\n");
    assert!(!mounted.path("many/f3").exists() && !mounted.path("single.gguf").exists());
}

#[test]
fn everything_else_is_refused_as_read_only_though_the_kernel_lets_it_through() {
    let Some((mounted, notes)) = controlled() else { return };
    for attempt in [
        "echo x > kept",
        "echo x >> many/f1",
        "echo x > many/new.torrent",
        "mkdir new",
        "mkdir new.torrent",
        "mv kept other",
        "mv kept x.torrent",
        "ln kept hard.torrent",
        "ln -s kept soft.torrent",
        "chmod 777 kept",
        "chmod 777 .",
        "touch kept",
        "truncate -s 0 kept",
        "truncate -s 5 add",
        "mknod pipe.torrent p",
        "python3 -c \"import os; os.setxattr('kept', 'user.x', b'1')\"",
        "python3 -c \"import os; os.removexattr('kept', 'user.wtfs.infohash')\"",
    ] {
        let output = shell(&mounted.dir(), attempt);
        assert!(!output.status.success(), "{attempt} succeeded");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(says.contains("Read-only file system"), "{attempt}: {says}");
    }
    assert!(notes.take().is_empty());
}
