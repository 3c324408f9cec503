//! What a mount learnt of repositories is there for the next one while nobody answers: names and bytes that are here, an error
//! for the rest, and nothing of what only somebody else may see.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use wtfs_testkit::hf_hub::{Access, Content, RepoKind};
use wtfs_testkit::{net, wait};

use crate::support::{
    hf::{ALICE, BOB, Way, World, model_files, standard},
    mount::Mount,
    need::{Need, missing},
    reading::{attribute, names},
    stage::PATIENCE,
};

const EIO: Option<i32> = Some(rustix::io::Errno::IO.raw_os_error());

#[track_caller]
fn mount<'a>(world: &'a World, source: &str, flags: &[String]) -> Mount<'a> {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    world.stage.mount(&[source], &flags)
}

fn bytes(content: &Content) -> Vec<u8> {
    content.read(0, usize::try_from(content.len()).expect("small"))
}

/// What was read of it before a mount goes is kept over that.
#[track_caller]
fn is_kept(path: &Path) {
    let length = fs::metadata(path).expect("there").len().to_string();
    wait::eventually("it is verified", PATIENCE, || {
        (attribute(path, "user.wtfs.verified_bytes") == length).then_some(())
    });
}

/// A hub and a mount of `source` through it, which shows `org/model` at `below`.
#[track_caller]
fn goes_on_without_its_hub(name: &str, source: &str, below: &str) {
    let hub = net::fresh_addr();
    let mut world = World::with_hub_at(name, standard(), hub, &[]);
    // Nobody but the hub can be asked.
    let nowhere = format!("http://{}", net::fresh_addr());
    let flags = ["--hub", &world.endpoint(Way::Hub), "--hf-endpoint", &nowhere, "--read-timeout", "10s"];
    let flags = flags.map(str::to_owned);
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    let (known, unread): (Vec<_>, Vec<_>) =
        model_files().into_iter().partition(|(path, _)| *path != "sub dir/we ird#1%.bin");
    let (unread, content) = unread.first().expect("it is one of them");
    let read = |mount: &Mount<'_>| {
        let repo = mount.join(below);
        for (path, content) in &known {
            assert!(fs::read(repo.join(path)).expect(path) == bytes(content), "{path} differs");
            is_kept(&repo.join(path));
        }
        assert_eq!(attribute(&repo.join("config.json"), "user.wtfs.commit"), commit);
        assert_eq!(fs::metadata(repo.join(unread)).expect("there").len(), content.len());
        for absent in ["adapter_config.json", "sub dir/nothing"] {
            assert_eq!(fs::read(repo.join(absent)).expect_err(absent).kind(), ErrorKind::NotFound);
        }
    };
    let first = mount(&world, source, &flags);
    read(&first);
    first.unmount();
    world.kill_hub();
    let again = mount(&world, source, &flags);
    read(&again);
    let failed = fs::read(again.join(below).join(unread)).expect_err("nobody has it");
    assert_eq!(failed.raw_os_error(), EIO, "{failed}");
    let log = fs::read_to_string(again.join(".wtfs/log")).expect("read");
    assert!(log.contains("we ird#1%.bin") && log.contains("can be reached"), "{log}");
    // It comes back, with what it has.
    let back = world.another_hub_at(hub, &[]);
    let read_now = wait::eventually("the hub gives the rest", PATIENCE, || {
        fs::read(again.join(below).join(unread)).ok()
    });
    assert!(read_now == bytes(content), "{unread} differs");
    read(&again);
    again.unmount();
    back.end();
}

#[test]
fn a_repository_that_is_the_root_is_there_when_its_hub_is_gone() {
    if missing(&[Need::Fuse]) {
        return;
    }
    goes_on_without_its_hub("hf-kept-root", "hf://org/model", "");
}

#[test]
fn a_namespace_is_there_when_its_hub_is_gone() {
    if missing(&[Need::Fuse]) {
        return;
    }
    goes_on_without_its_hub("hf-kept-namespace", "hf://", "org/model");
}

/// Whether a mount shows and gives `repo`, and lists its owner.
fn is_shown(mount: &Mount<'_>, repo: &str, seed: u64) -> bool {
    let owner = mount.join("org");
    let is_listed = names(mount.dir()).contains(&"org".into()) && names(&owner).contains(&repo.into());
    let read = fs::read(owner.join(repo).join("weights.bin"));
    assert_eq!(read.is_ok(), is_listed, "{repo}: {read:?}");
    if let Ok(read) = &read {
        assert!(*read == bytes(&Content::ramp(seed, 300_000)), "{repo} differs");
    }
    is_listed
}

#[test]
fn what_is_not_for_everybody_is_there_without_a_hub_only_for_who_was_let_in() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut world = World::new("hf-kept-closed", standard());
    let flags = world.straight();
    let closed = [("gated", 5), ("secret", 6)];
    let becomes =
        |world: &mut World, token: Option<&str>| world.stage.set_variable("HF_TOKEN", token.unwrap_or(""));
    becomes(&mut world, Some(ALICE));
    {
        let mount = mount(&world, "hf://", &flags);
        for (repo, _) in closed {
            let weights = mount.join("org").join(repo).join("weights.bin");
            assert_eq!(fs::read(&weights).expect("read").len(), 300_000);
            is_kept(&weights);
        }
        mount.unmount();
    }
    world.upstream.stop();
    for extra in [None, Some("--offline")] {
        let flags: Vec<String> = flags.iter().cloned().chain(extra.map(str::to_owned)).collect();
        for (token, sees) in [(None, false), (Some(BOB), false), (Some(ALICE), true)] {
            becomes(&mut world, token);
            let mount = mount(&world, "hf://", &flags);
            for (repo, seed) in closed {
                assert_eq!(is_shown(&mount, repo, seed), sees, "{repo} {token:?} {extra:?}");
            }
            mount.unmount();
        }
    }
    // Once who was let in was sent away, nothing is shown any more.
    world.upstream.restart();
    for (repo, _) in closed {
        world.upstream.set_access(RepoKind::Model, &format!("org/{repo}"), Access::Private);
        world.upstream.revoke(RepoKind::Model, &format!("org/{repo}"), ALICE);
    }
    {
        let mount = mount(&world, "hf://", &flags);
        for (repo, _) in closed {
            assert!(fs::read(mount.join("org").join(repo).join("weights.bin")).is_err(), "{repo}");
        }
        mount.unmount();
    }
    world.upstream.stop();
    let mount = mount(&world, "hf://", &flags);
    for (repo, seed) in closed {
        assert!(!is_shown(&mount, repo, seed), "{repo}");
    }
    mount.unmount();
}
