//! The clients of Hugging Face get through the hub, at its root and below `/hf`, what they get from upstream: old clients
//! and new ones, whole snapshots and single files, odd names, other names, branches and commits.

use std::process::Command;

use serde_json::{Value, json};
use wtfs_testkit::{
    hf_hub::{Content, RepoKind, Side},
    process,
};

use crate::support::{
    hf::{
        ALICE, CLIENTS, NEWEST, Way, World, cache_dir, expected_files, failed_as, model_files, ok, standard,
    },
    need::{self, Need, missing},
    stage::PATIENCE,
};

const ORG_MODEL: (RepoKind, &str) = (RepoKind::Model, "org/model");

fn world(name: &str, way: Way) -> Option<World> {
    if missing(&[Need::HfClient(NEWEST)]) {
        return None;
    }
    let mut world = World::new(name, standard().page_size(7));
    if way != Way::Upstream {
        world.start_hub(&[]);
    }
    Some(world)
}

/// Whole repositories, cold and again, by every client there is.
#[track_caller]
fn snapshots(way: Way) {
    let Some(world) = world("hf-snapshots", way) else { return };
    let commit = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "main");
    let expected = expected_files(&model_files());
    for version in CLIENTS {
        if missing(&[Need::HfClient(version)]) {
            continue;
        }
        let client = world.client(version, way);
        let cache = cache_dir(&world, version);
        let model = json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache });
        let data = json!({ "do": "snapshot", "id": "org/data", "repo_type": "dataset", "cache_dir": cache });
        let space = json!({ "do": "snapshot", "id": "org/space", "repo_type": "space", "cache_dir": cache });
        let done = client.steps(&[model.clone(), model, data, space]);
        for turn in &done[..2] {
            assert_eq!(ok(turn)["commit"], *commit, "{version}");
            assert_eq!(ok(turn)["files"], expected, "{version}");
        }
        let part = &ok(&done[2])["files"]["data/part.parquet"];
        assert_eq!(part[1], Content::ramp(4, 50_000).sha256(), "{version}");
        assert_eq!(ok(&done[3])["files"]["app.py"][0], 15, "{version}");
    }
    world.upstream.log().assert_no_token_at_cdn();
    if way != Way::Upstream {
        world.upstream.log().assert_identity();
    }
}

#[test]
fn every_client_takes_snapshots_from_upstream() {
    snapshots(Way::Upstream);
}

#[test]
fn every_client_takes_snapshots_through_the_hub() {
    snapshots(Way::Hub);
}

#[test]
fn every_client_takes_snapshots_through_the_hub_below_a_path() {
    snapshots(Way::HubBelow);
}

/// Single files by every way of naming them.
#[track_caller]
fn single_files(way: Way) {
    let Some(world) = world("hf-files", way) else { return };
    let main = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "main");
    for version in CLIENTS {
        if missing(&[Need::HfClient(version)]) {
            continue;
        }
        let cache = cache_dir(&world, version);
        let step = |id: &str, file: &str, revision: &str| json!({ "do": "download", "id": id, "file": file, "revision": revision, "cache_dir": cache });
        let files = model_files();
        let mut steps: Vec<Value> = files.iter().map(|(path, _)| step("org/model", path, "main")).collect();
        let mut hashes: Vec<String> = files.iter().map(|(_, content)| content.sha256()).collect();
        let old = Content::from("{\"model_type\": \"old\"}").sha256();
        let new = Content::from("{\"model_type\": \"bert\"}").sha256();
        for (id, revision, expected) in [
            ("org/model", "v1", &old),
            ("org/model", "feature/x", &old),
            ("org/model", "refs/pr/1", &new),
            ("org/model", &*main, &new),
            ("canonical", "main", &new),
            ("old-org/old-name", "main", &new),
            ("ORG/Model", "main", &new),
        ] {
            steps.push(step(id, "config.json", revision));
            hashes.push(expected.clone());
        }
        let done = world.client(version, way).steps(&steps);
        for ((step, result), expected) in steps.iter().zip(&done).zip(&hashes) {
            assert_eq!(ok(result)["sha256"], **expected, "{version}: {step}");
        }
        for ((_, content), result) in files.iter().zip(&done) {
            let etag = ok(result)["etag"].as_str().expect("a name").to_owned();
            assert!([content.sha256(), content.git_sha1()].contains(&etag), "{version}: {result}");
        }
    }
}

#[test]
fn every_client_takes_single_files_from_upstream() {
    single_files(Way::Upstream);
}

#[test]
fn every_client_takes_single_files_through_the_hub() {
    single_files(Way::Hub);
}

#[test]
fn every_client_takes_single_files_through_the_hub_below_a_path() {
    single_files(Way::HubBelow);
}

/// What the API tells.
#[track_caller]
fn metadata(way: Way) {
    let Some(world) = world("hf-metadata", way) else { return };
    let main = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "main");
    let v1 = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "v1");
    let client = world.client(NEWEST, way);
    let cache = cache_dir(&world, "metadata");
    let done = client.steps(&[
        json!({ "do": "info", "id": "canonical", "files_metadata": true }),
        json!({ "do": "tree", "id": "org/model", "recursive": true }),
        json!({ "do": "tree", "id": "org/model", "recursive": true, "expand": true }),
        json!({ "do": "tree", "id": "org/model", "path_in_repo": "sub dir" }),
        json!({ "do": "paths_info", "id": "org/model", "paths": ["config.json", "nested", "none"] }),
        json!({ "do": "refs", "id": "org/model", "include_pull_requests": true }),
        json!({ "do": "commits", "id": "org/model" }),
        json!({ "do": "metadata", "id": "org/model", "file": "large.bin" }),
        json!({ "do": "safetensors", "id": "org/model" }),
        json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache }),
        json!({ "do": "verify", "id": "org/model", "cache_dir": cache }),
        json!({ "do": "no_exist", "id": "org/model", "file": "none.json", "cache_dir": cache }),
        json!({ "do": "repo_exists", "id": "org/model" }),
    ]);
    let ok = |at: usize| ok(&done[at]);
    let files = model_files();
    assert_eq!((&ok(0)["id"], &ok(0)["sha"]), (&json!("org/model"), &json!(main)));
    assert_eq!(ok(0)["siblings"].as_object().map(serde_json::Map::len), Some(files.len()));
    for listing in [1, 2] {
        for (path, content) in &files {
            let id = ok(listing)[path].as_str().expect("a file");
            assert!([content.sha256(), content.git_sha1()].contains(&id.to_owned()), "{path}");
        }
        assert_eq!(ok(listing).as_object().map(serde_json::Map::len), Some(files.len() + 5), "5 directories");
    }
    let listed: Vec<_> = ok(3).as_object().expect("entries").keys().collect();
    assert_eq!(listed, ["sub dir/a+b&c=d?.txt", "sub dir/we ird#1%.bin"]);
    assert_eq!(*ok(4), json!({ "config.json": "RepoFile", "nested": "RepoFolder" }));
    assert_eq!(ok(5)["refs/tags/v1"], *v1);
    assert_eq!(ok(5)["refs/pr/1"], *main);
    assert_eq!(ok(5)["refs/heads/feature/x"], *v1);
    assert_eq!(*ok(6), json!([main, v1]));
    let large = Content::ramp(2, 12_000_000);
    assert_eq!(ok(7)["etag"], *large.sha256());
    assert_eq!((&ok(7)["size"], &ok(7)["commit"]), (&json!(12_000_000), &json!(main)));
    assert_eq!(ok(8)["model.safetensors"], json!(["a.weight", "b.weight"]));
    assert_eq!(*ok(10), json!({ "checked": files.len(), "wrong": 0 }));
    assert_eq!(ok(11)["remembered"], true, "{}", ok(11));
    assert_eq!(*ok(12), true);
}

#[test]
fn the_api_tells_from_upstream() {
    metadata(Way::Upstream);
}

#[test]
fn the_api_tells_the_same_through_the_hub() {
    metadata(Way::Hub);
}

#[test]
fn the_api_tells_the_same_through_the_hub_below_a_path() {
    metadata(Way::HubBelow);
}

/// Which repositories there are, page by page, to everybody and to who may see more.
#[track_caller]
fn lists(way: Way) {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let mut builder = standard().page_size(2);
    for n in 1..=3 {
        builder = builder.model(&format!("org/other-{n}")).file("config.json", "{}");
    }
    let mut world = World::new("hf-lists", builder);
    if way != Way::Upstream {
        world.start_hub(&[]);
    }
    for version in CLIENTS {
        if missing(&[Need::HfClient(version)]) {
            continue;
        }
        let done = world.client(version, way).steps(&[
            json!({ "do": "listed" }),
            json!({ "do": "listed", "token": ALICE }),
            json!({ "do": "listed", "search": "MODEL", "author": "org", "full": true }),
            json!({ "do": "listed", "limit": 2 }),
            json!({ "do": "listed", "repo_type": "dataset", "search": "data" }),
            json!({ "do": "listed", "repo_type": "space" }),
            json!({ "do": "listed", "search": "nothing of the kind" }),
        ]);
        let all = ["org/model", "org/gated", "org/other-1", "org/other-2", "org/other-3"];
        let with_token =
            ["org/model", "org/gated", "org/secret", "org/other-1", "org/other-2", "org/other-3"];
        for (at, expected) in [
            (0, &all[..]),
            (1, &with_token),
            (2, &["org/model"]),
            (3, &["org/model", "org/gated"]),
            (4, &["org/data"]),
            (5, &["org/space"]),
            (6, &[]),
        ] {
            assert_eq!(*ok(&done[at]), json!(expected), "{version}: {at}");
        }
    }
    let mut command = Command::new(need::hf_python(NEWEST).with_file_name("hf"));
    world.client(NEWEST, way).dress(&mut command);
    command.args(["models", "ls", "--search", "other", "--limit", "10", "--format", "json"]);
    let said = process::run(command, PATIENCE).expect_success("hf models ls");
    for id in ["org/other-1", "org/other-2", "org/other-3"] {
        assert!(said.contains(id), "{said}");
    }
}

#[test]
fn every_client_lists_repositories_from_upstream() {
    lists(Way::Upstream);
}

#[test]
fn every_client_lists_repositories_through_the_hub() {
    lists(Way::Hub);
}

#[test]
fn every_client_lists_repositories_through_the_hub_below_a_path() {
    lists(Way::HubBelow);
}

#[test]
fn what_was_fetched_once_is_there_for_all_when_upstream_is_gone() {
    let Some(mut world) = world("hf-warm", Way::Hub) else { return };
    let commit = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "main");
    let expected = expected_files(&model_files());
    let _first = world
        .client(NEWEST, Way::Hub)
        .does(json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache_dir(&world, "first") }));
    let fetched = world.upstream.log().at(Side::Cdn).sent_bytes();
    let large: u64 = model_files().iter().map(|(_, content)| content.len()).filter(|len| *len > 60_000).sum();
    // Some comes twice on a machine that stands still for a moment.
    assert!(fetched < 2 * large, "{fetched} of {large} bytes were fetched for one copy");
    world.upstream.clear_log();
    world.upstream.stop();
    for version in CLIENTS {
        if missing(&[Need::HfClient(version)]) {
            continue;
        }
        for revision in ["main", &commit] {
            let cache = cache_dir(&world, &format!("{version}-{revision}"));
            let step =
                json!({ "do": "snapshot", "id": "org/model", "revision": revision, "cache_dir": cache });
            let done = world.client(version, Way::Hub).does(step);
            assert_eq!(done["files"], expected, "{version} {revision}");
        }
    }
}

#[test]
fn a_second_snapshot_of_a_commit_asks_upstream_for_nothing() {
    let Some(world) = world("hf-silent", Way::Hub) else { return };
    let commit = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "main");
    let take = |name: &str| {
        let cache = cache_dir(&world, name);
        let step = json!({ "do": "snapshot", "id": "org/model", "revision": commit, "cache_dir": cache });
        world.client(NEWEST, Way::Hub).does(step)
    };
    let first = take("one");
    world.upstream.clear_log();
    assert_eq!(take("two")["files"], first["files"]);
    world.upstream.log().assert_silent("at the second snapshot of a commit");
}

#[test]
fn a_branch_that_moves_is_followed_and_its_commits_stay() {
    let Some(mut world) = world("hf-moves", Way::Upstream) else { return };
    world.stage.set_variable("WTFS_HUB_HF_REF_TTL", "0s");
    world.start_hub(&[]);
    let client = world.client(NEWEST, Way::Hub);
    let cache = cache_dir(&world, "moves");
    let step = |revision: &str| json!({ "do": "download", "id": "org/model", "file": "config.json", "revision": revision, "cache_dir": cache });
    let before = world.upstream.commit_of(ORG_MODEL.0, ORG_MODEL.1, "main");
    let old = client.does(step("main"))["sha256"].clone();
    world.upstream.push(ORG_MODEL.0, ORG_MODEL.1, "main", [("config.json".to_owned(), "{\"new\": 1}")]);
    let done = client.steps(&[step("main"), step(&before)]);
    assert_eq!(ok(&done[0])["sha256"], Content::from("{\"new\": 1}").sha256());
    assert_eq!(ok(&done[1])["sha256"], old);
}

#[test]
fn xet_is_not_seen_through_the_hub_so_that_every_byte_is() {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let world = World::with_hub("hf-xet", standard().with_xet(), &[]);
    let client = world.client(NEWEST, Way::Hub);
    let taken =
        client.does(json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache_dir(&world, "xet") }));
    assert_eq!(taken["files"], expected_files(&model_files()));
    assert_eq!(world.upstream.log().of("*/cas/*").count(), 0);
    assert_eq!(world.upstream.log().of("*xet-read-token*").count(), 0);
    for path in ["/api/models/org/model/tree/main?recursive=true", "/api/models/org/model?blobs=true"] {
        let answer = world.get(path);
        assert!(!String::from_utf8_lossy(&answer.body).to_lowercase().contains("xet"), "{path}");
    }
    let answer = world.ask("HEAD", "/org/model/resolve/main/large.bin", &[]);
    assert!(!answer.head.to_lowercase().contains("xet"), "{}", answer.head);
    // With the emulator itself this client goes to the store that it is told of, and fails: the test sees something.
    let direct = world.client(NEWEST, Way::Upstream);
    let step = json!({ "do": "download", "id": "org/model", "file": "large.bin", "cache_dir": cache_dir(&world, "d") });
    let done = direct.steps(&[step]).remove(0);
    assert!(failed_as(&done, "Exception"), "{done}");
    assert_ne!(world.upstream.log().of("*xet-read-token*").count(), 0, "hf_xet is not installed");
}
