//! A running mount of repositories does what it is told, as one of torrents does: another repository is added, files are
//! pinned and fetched before they are read, by their paths or as hf://; and its numbers say what came from whom.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use wtfs_testkit::hf_hub::RepoKind;
use wtfs_testkit::process::Finished;

use crate::support::{
    hf::{World, standard},
    mount::Mount,
    need::{Need, missing},
    stage::text,
};

#[track_caller]
fn mount<'a>(world: &'a World, source: &str, more: &[&str]) -> Mount<'a> {
    let flags = world.straight();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    world.stage.mount(&[source], &flags)
}

#[track_caller]
fn said(done: &Finished) -> Value {
    serde_json::from_str(&done.expect_success("an order")).expect("JSON")
}

/// What the status says of the only repository of that name in a mount.
#[track_caller]
fn repository(world: &World, dir: &Path, name: &str) -> Value {
    let status = world.stage.status();
    let ours = status.as_array().into_iter().flatten().find(|process| process["path"] == json!(text(dir)));
    let all = ours.and_then(|process| process["repositories"].as_array()).cloned().unwrap_or_default();
    let found = all.into_iter().find(|repository| repository["repo"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {status}"))
}

fn metrics(socket: &Path) -> String {
    let mut asker = UnixStream::connect(socket).expect("the mount answers");
    asker.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("asked");
    let mut said = String::new();
    asker.read_to_string(&mut said).expect("answered");
    said
}

#[test]
fn repositories_are_added_pinned_and_fetched_by_path_and_by_name() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-orders", standard());
    let socket = world.stage.join("metrics");
    let mount = mount(&world, "hf://", &["--metrics", &format!("unix:{}", text(&socket))]);
    let dir = text(mount.dir());
    let run = |args: &[&str]| world.stage.run(args);
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    let added = said(&run(&["add", "--json", &dir, "hf://org/model", "hf://datasets/org/data"]));
    assert_eq!(
        added,
        json!([
            { "commit": commit, "name": "org/model" },
            { "commit": world.upstream.commit_of(RepoKind::Dataset, "org/data", "main"), "name": "datasets/org/data" },
        ])
    );
    assert_eq!(repository(&world, mount.dir(), "org/model")["commit"], commit);
    // By path, a directory; then by name, one file of another revision that nobody looked at.
    let nested = text(&mount.join("org/model/nested"));
    assert_eq!(said(&run(&["pin", "--json", &nested])), json!({ "files": 1, "bytes": 4 }));
    assert_eq!(said(&run(&["pin", "--json", "hf://org/model@v1/config.json"]))["files"], 1);
    assert_eq!(repository(&world, mount.dir(), "org/model")["pinned_files"], 1);
    assert_eq!(said(&run(&["unpin", "--json", &nested]))["files"], 1);
    assert_eq!(repository(&world, mount.dir(), "org/model")["pinned_files"], 0);
    let part = said(&run(&["prefetch", "--json", "hf://org/model/large.bin:0-1M"]));
    assert_eq!(part, json!({ "files": 1, "bytes": 1 << 20 }));
    let local = repository(&world, mount.dir(), "org/model")["local_bytes"].as_u64().expect("a sum");
    assert!((1 << 20..12_000_000).contains(&local), "{local}");
    let all = said(&run(&["prefetch", "--json", &text(&mount.join("org/model"))]));
    let after = repository(&world, mount.dir(), "org/model");
    assert_eq!((&all["files"], &all["bytes"]), (&after["files"], &after["total_bytes"]));
    assert_eq!(after["local_bytes"], after["total_bytes"]);
    let numbers = metrics(&socket);
    let value = |name: &str| -> u64 {
        let line = numbers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {numbers}")).parse().expect("a number")
    };
    assert!(value("wtfs_repositories_source_bytes_total{source=\"origin\"}") >= 12_000_000);
    assert_eq!(value("wtfs_repositories_source_bytes_total{source=\"peers\"}"), 0);
    assert!(value("wtfs_repositories") >= 3 && value("wtfs_blobs{state=\"whole\"}") > 0);
    let docs = include_str!("../../docs/metrics.md");
    for name in numbers.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(docs.contains(&format!("| `{name}` |")), "docs/metrics.md does not list {name}");
    }
}

#[test]
fn what_cannot_be_done_is_said_with_what_to_do() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-orders-refused", standard());
    let none = world.stage.run(&["prefetch", "hf://org/model"]);
    assert!(none.code() == Some(4) && none.stderr.contains("no running mount"), "{}", none.stderr);
    let mount = mount(&world, "hf://org/model", &["--pin", "config.json"]);
    let dir = text(mount.dir());
    for (args, why) in [
        (&["add", &dir, "hf://org/data"][..], "org/model@main alone"),
        (&["add", &dir, "/tmp/x.torrent"], "mount of repositories"),
        (&["pin", "hf://org/other"], "no running mount"),
        (&["prefetch", "hf://org/model/absent"], "no such file"),
        (&["pin", "hf://org/model@nothing/config.json"], "no running mount"),
        (&["remove", &dir, "config.json"], "not removed"),
    ] {
        let done = world.stage.run(args);
        assert!(!done.success() && done.stderr.contains(why), "{args:?}: {}", done.stderr);
    }
    // What was told at the start stands, and survives.
    assert_eq!(repository(&world, mount.dir(), "org/model")["pinned_files"], 1);
    let done = world.stage.run(&["prefetch", "--json", "hf://org/model/config.json"]);
    assert_eq!(said(&done)["files"], 1);
    mount.unmount();
    let again = self::mount(&world, "hf://org/model", &[]);
    assert_eq!(repository(&world, again.dir(), "org/model")["pinned_files"], 1);
}
