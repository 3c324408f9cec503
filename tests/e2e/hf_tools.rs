//! What else stands on the Hub's API works through the hub as it is: the file system of fsspec, the `hf` command, and the
//! crate that Rust programs use.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::json;
use wtfs_testkit::{
    hf_hub::{HfHub, RepoKind, Side},
    process,
    ramp::Ramp,
};

use crate::support::{
    hf::{ALICE, NEWEST, Way, World, cache_dir, expected_files, model_files, ok, standard},
    need::{self, Need, missing},
    stage::text,
};

const PATIENCE: Duration = Duration::from_secs(300);
const BYTES: u64 = 40_000_000;

/// A tree of many pages, and one large file.
#[track_caller]
fn file_system(way: Way) {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let mut builder = HfHub::builder().page_size(7).dataset("org/many").ramp("large.bin", 1, BYTES).tag("v1");
    for n in 0..2_100 {
        builder = builder.file(&format!("d{}/f{n}.txt", n % 5), "x");
    }
    let mut world = World::new("hf-fs", builder);
    if way != Way::Upstream {
        world.start_hub(&[]);
    }
    let disk = world.stage.join("large.bin");
    Ramp::new(1).write_file(&disk, BYTES).expect("the scratch directory can be written");
    let reads =
        |path: &str| json!({ "do": "fs_read", "path": path, "seed": 7, "reads": 20, "most": 100_000 });
    let done = world.client(NEWEST, way).steps(&[
        reads("datasets/org/many/large.bin"),
        reads("datasets/org/many@v1/large.bin"),
        reads(&text(&disk)),
        json!({ "do": "fs_list", "path": "datasets/org/many", "glob": "d1/*" }),
    ]);
    assert_eq!(ok(&done[0]), ok(&done[2]));
    assert_eq!(ok(&done[1]), ok(&done[2]));
    let fetched = world.upstream.log().at(Side::Cdn).sent_bytes();
    // Twenty reads of up to 100 kB, each a fetch of what is near it: some 15 MB.
    assert!(way == Way::Upstream || fetched <= BYTES, "{fetched}");
    assert_eq!(
        *ok(&done[3]),
        json!({ "ls": ["d0", "d1", "d2", "d3", "d4", "large.bin"], "find": 2101, "glob": 420 })
    );
}

#[test]
fn the_file_system_of_fsspec_reads_from_upstream() {
    file_system(Way::Upstream);
}

#[test]
fn the_file_system_of_fsspec_reads_through_the_hub() {
    file_system(Way::Hub);
}

#[test]
fn the_file_system_of_fsspec_reads_through_the_hub_below_a_path() {
    file_system(Way::HubBelow);
}

#[test]
fn a_file_that_is_streamed_comes_whole() {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let world = World::with_hub("hf-stream", standard(), &[]);
    let done =
        world.client(NEWEST, Way::Hub).does(json!({ "do": "fs_stream", "path": "org/model/large.bin" }));
    let (_, content) = model_files().into_iter().find(|(path, _)| *path == "large.bin").expect("it is there");
    assert_eq!(done, content.sha256());
}

/// The `hf` command as a client.
fn hf(world: &World, client: &crate::support::hf::Client<'_>, args: &[&str]) -> process::Finished {
    let program = need::hf_python(NEWEST).with_file_name("hf");
    let mut command = Command::new(program);
    client.dress(&mut command);
    command.args(args).env("HF_HUB_CACHE", cache_dir(world, "hf-command"));
    process::run(command, PATIENCE)
}

#[test]
fn the_hf_command_downloads_verifies_and_knows_who_it_is() {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let world = World::with_hub("hf-command", standard(), &[]);
    for way in [Way::Hub, Way::HubBelow] {
        let client = world.client(NEWEST, way);
        let dir = world.stage.join(format!("downloaded-{way:?}"));
        let _said = hf(&world, &client, &["download", "org/model", "--local-dir", &text(&dir)])
            .expect_success("hf download --local-dir");
        for (path, content) in model_files() {
            let found = std::fs::read(dir.join(path)).expect(path);
            assert!(found == content.read(0, found.len()) && found.len() as u64 == content.len(), "{path}");
        }
        let _said = hf(&world, &client, &["download", "org/model"]).expect_success("hf download");
        let said = hf(&world, &client, &["cache", "verify", "org/model"]).expect_success("hf cache verify");
        eprintln!("hf cache verify: {said}");
        let mut who = Command::new(need::hf_python(NEWEST).with_file_name("hf"));
        client.dress(&mut who);
        who.args(["auth", "whoami"]).env("HF_TOKEN", ALICE);
        let said = process::run(who, PATIENCE).expect_success("hf auth whoami");
        assert!(said.contains("alice"), "{said}");
    }
}

/// The lines that the client on the crate `hf-hub` has to print for these files.
fn lines_of(files: &[&str], commit: &str) -> String {
    let all = model_files();
    let mut lines = String::new();
    for file in files {
        let (_, content) = all.iter().find(|(path, _)| path == file).expect("it is there");
        let bytes = content.read(0, usize::try_from(content.len()).expect("small"));
        let sum = (1_u64..)
            .zip(&bytes)
            .fold(0_u64, |sum, (place, byte)| sum.wrapping_add(place.wrapping_mul(u64::from(*byte))));
        lines.push_str(&format!("{} {sum}\n", bytes.len()));
    }
    lines.push_str(&format!("{commit} {}\n", all.len()));
    lines
}

/// What the client on the crate `hf-hub` prints when it takes these files.
#[track_caller]
fn rust_client_says(world: &World, way: Way, flavour: &str, files: &[&str]) -> String {
    let mut command = Command::new(need::hf_hub_crate());
    world.stage.isolate(&mut command);
    let cache = PathBuf::from(cache_dir(world, flavour));
    command.args([flavour, &world.endpoint(way)]).arg(cache).args(["org/model", "main"]).args(files);
    process::run(command, PATIENCE).expect_success(flavour)
}

#[track_caller]
fn rust_client(way: Way) {
    if missing(&[Need::HfHubCrate]) {
        return;
    }
    let mut world = World::new("hf-crate", standard());
    if way != Way::Upstream {
        world.start_hub(&[]);
    }
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    // What it asks for first is `bytes=0-0`, of a file of a few bytes too. Names are not encoded by it, so plain ones.
    let mut files = vec!["config.json", "large.bin", "model.safetensors", "nested/deep/file.txt"];
    if way != Way::Upstream {
        // Upstream itself refuses a range of nothing, and this client cannot take that.
        files.push("pkg/__init__.py");
    }
    for flavour in ["sync", "tokio", "sync-0.4", "tokio-0.4"] {
        assert_eq!(rust_client_says(&world, way, flavour, &files), lines_of(&files, &commit), "{flavour}");
    }
    // The newest takes all of it, whatever the names.
    let files: Vec<_> = model_files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(rust_client_says(&world, way, "1.0", &files), lines_of(&files, &commit));
}

#[test]
fn the_crate_hf_hub_takes_more_files_than_a_page_of_the_listing_holds() {
    if missing(&[Need::HfHubCrate]) {
        return;
    }
    const FILES: usize = 1_200;
    let mut builder = HfHub::builder().model("org/model");
    for n in 0..FILES {
        builder = builder.file(&format!("d{}/f{n}.txt", n % 5), "x");
    }
    let world = World::with_hub("hf-crate-pages", builder, &[]);
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    let said = rust_client_says(&world, Way::HubBelow, "1.0", &["d4/f1199.txt"]);
    // One byte, an `x`.
    assert_eq!(said, format!("1 120\n{commit} {FILES}\n"));
}

#[test]
fn the_crate_hf_hub_takes_files_from_upstream() {
    rust_client(Way::Upstream);
}

#[test]
fn the_crate_hf_hub_takes_files_through_the_hub() {
    rust_client(Way::Hub);
}

#[test]
fn the_crate_hf_hub_takes_files_through_the_hub_below_a_path() {
    rust_client(Way::HubBelow);
}

#[test]
fn snapshots_hold_what_upstream_has_and_only_that() {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let world = World::with_hub("hf-local", standard(), &[]);
    let dir = text(&world.stage.join("local"));
    let client = world.client(NEWEST, Way::Hub);
    let step = json!({ "do": "snapshot", "id": "org/model", "local_dir": dir, "allow_patterns": ["*.json", "nested/*"] });
    let mut found = client.does(step)["files"].clone();
    let files = found.as_object_mut().expect("files");
    files.retain(|path, _| !path.starts_with(".cache"));
    let wanted: Vec<_> = model_files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".json") || path.starts_with("nested/"))
        .collect();
    assert_eq!(found, expected_files(&wanted));
}
