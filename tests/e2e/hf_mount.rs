//! Hugging Face repositories as directories: what is in them, what is asked for it and what is not, straight from the
//! origin and through a hub, and that programs which know only the clients' cache read from a mount of it.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wtfs_testkit::hf_hub::{Content, Fault, FaultKind, HfHub, RepoKind, Side};
use wtfs_testkit::wait;

use crate::support::{
    hf::{ALICE, BOB, CLIENTS, NEWEST, Way, World, expected_files, model_files, ok, standard},
    mount::Mount,
    need::{Need, missing},
    reading::attribute,
    stage::{PATIENCE, text},
};

/// What a loader looks for that no repository here has.
const PROBES: [&str; 10] = [
    "adapter_config.json",
    "additional_chat_templates",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "video_preprocessor_config.json",
];

#[track_caller]
fn mount<'a>(world: &'a World, source: &str, flags: &[String]) -> Mount<'a> {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    world.stage.mount(&[source], &flags)
}

/// Each file with its length and bytes, and nothing else.
#[track_caller]
fn assert_holds(dir: &Path, files: &[(&str, Content)]) {
    let mut found: Vec<String> = crate::support::stage::walk(dir)
        .into_iter()
        .filter(|path| dir.join(path).is_file())
        .map(|path| text(&path))
        .collect();
    found.sort();
    let mut expected: Vec<String> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    for (path, content) in files {
        let there = dir.join(path);
        assert_eq!(fs::metadata(&there).expect(path).len(), content.len(), "{path}");
        let bytes = fs::read(&there).expect(path);
        let length = usize::try_from(content.len()).expect("small");
        assert!(bytes == content.read(0, length), "{path} differs");
    }
}

#[test]
fn a_repository_straight_from_its_origin_is_a_directory() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-mount-straight", standard().page_size(7));
    let mount = mount(&world, "hf://org/model", &world.straight());
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    assert_holds(mount.dir(), &model_files());
    let (weights, config) = (mount.join("large.bin"), mount.join("config.json"));
    assert_eq!(attribute(&weights, "user.wtfs.commit"), commit);
    assert_eq!(attribute(&weights, "user.wtfs.sha256"), Content::ramp(2, 12_000_000).sha256());
    assert_eq!(attribute(&config, "user.wtfs.git_sha1").len(), 40);
    wait::eventually("it is verified", PATIENCE, || {
        (attribute(&weights, "user.wtfs.verified_bytes") == "12000000").then_some(())
    });
    assert_eq!(attribute(&weights, "user.wtfs.progress"), "100.00");
    // Nothing can be changed, and all files have one time that is not today's.
    assert_eq!(
        fs::write(mount.join("new"), "x").expect_err("refused").kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    let (one, other) = (fs::metadata(&weights).expect("there"), fs::metadata(&config).expect("there"));
    assert_eq!(one.mtime(), other.mtime());
    let status = world.stage.run(&["status"]).expect_success("wtfs status");
    assert!(status.contains("org/model@main") && status.contains("10 files"), "{status}");
    let own: Value =
        serde_json::from_slice(&fs::read(mount.join(".wtfs/status.json")).expect("read")).expect("JSON");
    assert_eq!(own["repositories"][0]["commit"], *commit);
    world.upstream.log().assert_no_token_at_cdn();
    world.upstream.log().assert_identity();
    mount.unmount();
}

#[test]
fn names_sizes_and_what_is_not_there_are_asked_for_once() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-mount-names", standard());
    let mount = mount(&world, "hf://", &world.straight());
    let repo = mount.join("org/model");
    assert!(repo.is_dir());
    world.upstream.clear_log();
    for probe in PROBES {
        assert!(!repo.join(probe).exists(), "{probe}");
        assert!(!repo.join("nested").join(probe).exists(), "{probe}");
    }
    for (path, content) in model_files() {
        assert_eq!(fs::metadata(repo.join(path)).expect(path).len(), content.len());
    }
    for impossible in [".git", ".Trash-0", "autorun.inf", "org/.hidden", "org/x.git", "org/a--b"] {
        assert!(!mount.join(impossible).exists(), "{impossible}");
    }
    world.upstream.log().assert_silent("while names are looked at");
    // What is not there is asked about once, however often it is looked for.
    for _ in 0..5 {
        assert!(!mount.join("org/nothing").exists());
    }
    assert_eq!(world.upstream.log().of("*org/nothing*").count(), 1);
}

#[test]
fn a_read_in_a_cold_file_fetches_what_is_near_it() {
    if missing(&[Need::Fuse]) {
        return;
    }
    const LENGTH: u64 = 200 << 20;
    let builder = HfHub::builder().model("org/big").ramp("model.safetensors", 9, LENGTH);
    let world = World::new("hf-mount-cold", builder);
    let mount = mount(&world, "hf://org/big", &world.straight());
    let path = mount.join("model.safetensors");
    let mut file = fs::File::open(&path).expect("opened");
    let mut bytes = vec![0; 4096];
    file.seek(SeekFrom::Start(LENGTH / 2)).expect("sought");
    file.read_exact(&mut bytes).expect("read");
    assert_eq!(bytes, Content::ramp(9, LENGTH).read(LENGTH / 2, 4096));
    let sent = world.upstream.log().at(Side::Cdn).sent_bytes();
    assert!(sent < 32 << 20, "{sent} bytes for one page");
    assert_eq!(attribute(&path, "user.wtfs.verified_bytes"), "0");
    assert!(fs::metadata(&path).expect("there").blocks() * 512 < LENGTH / 2);
}

#[test]
fn a_namespace_has_models_datasets_spaces_revisions_and_former_names() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-mount-namespace", standard());
    let mount = mount(&world, "hf://", &world.straight());
    let read =
        |path: &str| fs::read_to_string(mount.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(read("org/model/config.json"), "{\"model_type\": \"bert\"}");
    assert_eq!(read("org/model@v1/config.json"), "{\"model_type\": \"old\"}");
    assert_eq!(read("org/model@feature%2Fx/config.json"), "{\"model_type\": \"old\"}");
    assert_eq!(read("org/model@refs%2Fpr%2F1/config.json"), "{\"model_type\": \"bert\"}");
    assert_eq!(read("datasets/org/data/data/train.csv"), "a,b\n1,2\n");
    assert_eq!(read("spaces/org/space/app.py"), "print('hello')\n");
    for (former, target) in [("canonical", "org/model"), ("old-org/old-name", "../org/model")] {
        assert_eq!(fs::read_link(mount.join(former)).expect("a link"), Path::new(target));
        assert_eq!(read(&format!("{former}/config.json")), "{\"model_type\": \"bert\"}");
    }
    let mut names = crate::support::reading::names(mount.dir());
    names.retain(|name| !text(name).starts_with('.'));
    for expected in ["canonical", "datasets", "old-org", "org", "spaces"] {
        assert!(names.iter().any(|name| name.ends_with(expected)), "{expected} is not among {names:?}");
    }
    // One file, wherever it stands.
    let ino = |path: &str| fs::metadata(mount.join(path)).expect(path).ino();
    assert_eq!(ino("org/model/config.json"), ino("org/model@refs%2Fpr%2F1/config.json"));
}

#[test]
fn what_was_seen_and_read_is_there_again_without_a_network() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut world = World::new("hf-mount-offline", standard());
    let flags = world.straight();
    let numbers = |mount: &Mount<'_>| -> Vec<(u64, i64)> {
        let files = model_files();
        let metadata =
            files.iter().map(|(path, _)| fs::metadata(mount.join("org/model").join(path)).expect(path));
        metadata.map(|metadata| (metadata.ino(), metadata.mtime())).collect()
    };
    let first = mount(&world, "hf://", &flags);
    assert_holds(&first.join("org/model"), &model_files());
    let before = numbers(&first);
    first.unmount();
    world.upstream.stop();
    // Upstream is down, and then nobody is to be asked at all.
    for extra in [None, Some("--offline")] {
        let flags: Vec<String> = flags.iter().cloned().chain(extra.map(str::to_owned)).collect();
        let again = mount(&world, "hf://", &flags);
        assert!(crate::support::reading::names(again.dir()).iter().any(|name| name.ends_with("org")));
        assert_holds(&again.join("org/model"), &model_files());
        assert_eq!(numbers(&again), before);
        assert!(!again.join("org/model/adapter_config.json").exists());
        again.unmount();
    }
}

#[test]
fn the_clients_read_through_the_view_of_their_cache_online_and_offline() {
    if missing(&[Need::Fuse, Need::HfClient(NEWEST)]) {
        return;
    }
    // The oldest writes what it knows already into a cache that holds it, and cannot use any that is read-only.
    for version in CLIENTS.into_iter().filter(|version| *version != "0.23.4") {
        if !missing(&[Need::HfClient(version)]) {
            reads_through_the_view(version);
        }
    }
}

#[track_caller]
fn reads_through_the_view(version: &'static str) {
    let world = World::new("hf-mount-cache-view", standard());
    let mount = mount(&world, "hf://", &world.straight());
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    let cache = text(&mount.join(".cache-view"));
    let client = world.client(version, Way::Upstream);
    let download =
        |file: &str| json!({ "do": "download", "id": "org/model", "file": file, "cache_dir": cache });
    let snapshot = json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache });
    let data = json!({ "do": "snapshot", "id": "org/data", "repo_type": "dataset", "cache_dir": cache });
    let steps = [download("config.json"), download("large.bin"), snapshot, data];
    for variables in [&[][..], &[("HF_HUB_OFFLINE", "1")]] {
        let done = client.steps_with(variables, &steps);
        assert_eq!(ok(&done[0])["sha256"], Content::from("{\"model_type\": \"bert\"}").sha256());
        assert_eq!(ok(&done[1])["sha256"], Content::ramp(2, 12_000_000).sha256());
        assert_eq!(
            (&ok(&done[2])["commit"], &ok(&done[2])["files"]),
            (&json!(commit), &expected_files(&model_files()))
        );
        assert_eq!(ok(&done[3])["files"]["data/train.csv"][0], 8);
        for result in &done {
            assert!(ok(result)["path"].as_str().is_some_and(|path| path.starts_with(&cache)), "{result}");
        }
    }
    let absent =
        json!({ "do": "download", "id": "org/model", "file": "adapter_config.json", "cache_dir": cache });
    let done = client.steps_with(&[("HF_HUB_OFFLINE", "1")], &[absent]);
    assert!(crate::support::hf::failed_as(&done[0], "EntryNotFoundError"), "{done:?}");
}

#[test]
fn a_token_opens_what_is_gated_and_is_shown_nowhere() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut world = World::new("hf-mount-token", standard());
    let flags = world.straight();
    // Without one: what there is shows, what is in it does not.
    {
        let mount = mount(&world, "hf://", &flags);
        assert_eq!(fs::metadata(mount.join("org/gated/weights.bin")).expect("there").len(), 300_000);
        let refused = fs::read(mount.join("org/gated/weights.bin")).expect_err("refused");
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        let log = fs::read_to_string(mount.join(".wtfs/log")).expect("read");
        assert!(log.contains("accept its licence at") && log.contains("HF_TOKEN"), "{log}");
        assert!(!mount.join("org/secret").exists());
    }
    let named = |world: &World, source: &str| {
        let dir = text(&world.stage.subdir("nowhere"));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let ended = world.stage.run(&[&["mount"][..], &flags, &[source, &dir]].concat());
        assert_eq!(ended.code(), Some(3), "{source}: {}", ended.stderr);
        ended.stderr
    };
    let said = named(&world, "hf://org/secret");
    assert!(said.contains("HF_TOKEN"), "{said}");
    let said = named(&world, "hf://org/model@nothing");
    assert!(said.contains("branch, a tag"), "{said}");
    world.stage.set_variable("HF_TOKEN", ALICE);
    let mut mount = mount(&world, "hf://", &flags);
    for (repo, seed) in [("org/gated", 5), ("org/secret", 6)] {
        let bytes = fs::read(mount.join(repo).join("weights.bin")).expect("read");
        assert_eq!(bytes, Content::ramp(seed, 300_000).read(0, 300_000), "{repo}");
    }
    world.upstream.log().assert_no_token_at_cdn();
    let status = world.stage.run(&["status", "--json"]).expect_success("wtfs status");
    let own = fs::read_to_string(mount.join(".wtfs/status.json")).expect("read");
    let said = mount.process().lines().join("\n");
    for (place, text) in [("the status", &status), ("status.json", &own), ("the log", &said)] {
        assert!(!text.contains(ALICE), "the token is in {place}");
    }
    drop(mount);
    for path in crate::support::stage::walk(&world.stage.join("cache")) {
        let path = world.stage.join("cache").join(path);
        let bytes = if path.is_file() { fs::read(&path).expect("read") } else { continue };
        assert!(
            !bytes.windows(ALICE.len()).any(|bytes| bytes == ALICE.as_bytes()),
            "the token is in {path:?}"
        );
    }
    world.stage.set_variable("HF_TOKEN", BOB);
    let said = named(&world, "hf://org/secret");
    assert!(said.contains("token") && !said.contains(BOB), "{said}");
}

/// A cache of its own, as another machine has.
fn apart(world: &World, name: &str) -> Vec<String> {
    vec!["--cache-dir".to_owned(), text(&world.stage.subdir(format!("cache-{name}")))]
}

#[test]
fn a_hubs_whole_namespace_can_be_mounted_and_its_upstream_may_go() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut world = World::with_hub("hf-mount-hub", standard().page_size(7), &[]);
    let hub = world.endpoint(Way::HubBelow);
    {
        let mount = mount(&world, &hub, &apart(&world, "one"));
        assert_holds(&mount.join("org/model"), &model_files());
        let read =
            |path: &str| fs::read_to_string(mount.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(read("canonical/config.json"), "{\"model_type\": \"bert\"}");
        assert_eq!(read("datasets/org/data/data/train.csv"), "a,b\n1,2\n");
        assert_eq!(read("org/model@v1/config.json"), "{\"model_type\": \"old\"}");
        assert!(!mount.join("org/nothing").exists());
    }
    world.upstream.log().assert_identity();
    world.upstream.stop();
    // Another machine gets it from the hub all the same.
    let mount = mount(&world, &hub, &apart(&world, "two"));
    assert_holds(&mount.join("org/model"), &model_files());
}

#[test]
fn three_mounts_through_one_hub_cost_upstream_one_copy() {
    if missing(&[Need::Fuse]) {
        return;
    }
    const LENGTH: u64 = 48 << 20;
    let builder = HfHub::builder().model("org/big").ramp("model.safetensors", 11, LENGTH);
    let world = World::with_hub("hf-mount-three", builder, &[]);
    world.upstream.clear_log();
    let hub = world.endpoint(Way::Hub);
    // Nobody but the hub can ask upstream.
    let nowhere = format!("http://{}", wtfs_testkit::net::fresh_addr());
    let flags = ["--hub", &hub, "--hf-endpoint", &nowhere].map(str::to_owned).to_vec();
    let mounts: Vec<Mount<'_>> = ["one", "two", "three"]
        .map(|name| mount(&world, "hf://org/big", &[flags.clone(), apart(&world, name)].concat()))
        .into_iter()
        .collect();
    let expected = Content::ramp(11, LENGTH).read(0, usize::try_from(LENGTH).expect("small"));
    std::thread::scope(|scope| {
        let readers: Vec<_> = mounts
            .iter()
            .map(|mount| scope.spawn(|| fs::read(mount.join("model.safetensors")).expect("read") == expected))
            .collect();
        assert!(readers.into_iter().all(|reader| reader.join().expect("no panic")), "bytes differ");
    });
    let came = world.get("/hf-stats").json()["upstream_bytes"].as_u64().expect("a sum");
    assert!((LENGTH..2 * LENGTH).contains(&came), "{came} bytes came from upstream for {LENGTH}");
    // What is on its way when a request is cut short is sent in vain: how much, hangs on how this machine keeps up.
    let asked = world.upstream.log().at(Side::Cdn);
    let sent = asked.sent_bytes();
    let asked: Vec<_> = asked.0.iter().map(|one| (one.range.clone(), one.sent_bytes())).collect();
    assert!(sent < 2 * LENGTH, "upstream sent {sent} bytes for {LENGTH}: {asked:?}");
    eprintln!("upstream sent {sent} bytes for {LENGTH} in {} answers", asked.len());
}

#[test]
fn where_the_hub_is_gone_the_origin_is_asked() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut world = World::with_hub("hf-mount-fallback", standard(), &[]);
    let mut flags = world.straight();
    flags.extend(["--hub".to_owned(), world.endpoint(Way::Hub)]);
    {
        let mount = mount(&world, "hf://org/model", &[flags.clone(), apart(&world, "before")].concat());
        assert_holds(mount.dir(), &model_files());
    }
    world.kill_hub();
    let mount = mount(&world, "hf://org/model", &[flags, apart(&world, "after")].concat());
    assert_holds(mount.dir(), &model_files());
}

/// What `wtfs status` says of the torrents of a mount.
fn torrents_of(world: &World, mount: &Mount<'_>) -> Vec<Value> {
    let dir = json!(text(mount.dir()));
    let status = world.stage.status();
    let ours = status.as_array().into_iter().flatten().find(|process| process["path"] == dir);
    ours.and_then(|process| process["torrents"].as_array().cloned()).unwrap_or_default()
}

#[test]
fn a_torrent_that_the_hub_makes_later_is_joined_and_peers_go_on_when_it_is_gone() {
    if missing(&[Need::Fuse]) {
        return;
    }
    const LENGTH: u64 = 24 << 20;
    let builder = HfHub::builder().model("org/big").ramp("model.safetensors", 13, LENGTH);
    let world = World::with_hub("hf-mount-swarm", builder, &[]);
    let hub = world.endpoint(Way::HubBelow);
    let expected = Content::ramp(13, LENGTH).read(0, usize::try_from(LENGTH).expect("small"));
    let (one, two) = (world.stage.subdir("mnt/one"), world.stage.subdir("mnt/two"));
    let (first_addr, second_addr) = (wtfs_testkit::net::fresh_addr(), wtfs_testkit::net::fresh_addr());
    let cache = |name: &str| text(&world.stage.subdir(format!("cache-{name}")));
    let (cache_one, cache_two) = (cache("one"), cache("two"));
    let first = Mount::start(&world.stage, &[&hub], &["--cache-dir", &cache_one], &one, first_addr);
    // Read from the start before there is any torrent, and held open.
    let path = first.join("org/big/model.safetensors");
    let mut file = fs::File::open(&path).expect("opened");
    let mut bytes = vec![0; 4096];
    file.read_exact(&mut bytes).expect("read");
    assert!(bytes == expected[..4096]);
    // It is listed a moment before what it holds is known.
    let joined = wait::eventually("the torrent is joined", PATIENCE, || {
        torrents_of(&world, &first).pop().filter(|torrent| torrent["total_bytes"] != 0)
    });
    assert_eq!((&joined["name"], &joined["total_bytes"]), (&json!("model.safetensors"), &json!(LENGTH)));
    assert!(fs::read(&path).expect("read") == expected, "bytes differ");
    drop(file);
    wait::eventually("it is verified", PATIENCE, || {
        (attribute(&path, "user.wtfs.verified_bytes") == LENGTH.to_string()).then_some(())
    });
    // The pieces that the torrent kept go: the file is in the cache once.
    let kept = || -> u64 {
        crate::support::stage::walk(Path::new(&cache_one))
            .into_iter()
            .filter_map(|path| fs::metadata(Path::new(&cache_one).join(path)).ok())
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.blocks() * 512)
            .sum()
    };
    wait::eventually("it is kept once", PATIENCE, || (kept() < LENGTH + LENGTH / 4).then_some(()));
    wait::eventually("all of it is given to peers", PATIENCE, || {
        let torrent = torrents_of(&world, &first).pop()?;
        (torrent["total_bytes"] == json!(LENGTH) && torrent["pieces_present"] == torrent["pieces"])
            .then_some(())
    });

    let peer = first_addr.to_string();
    let flags = ["--cache-dir", &cache_two, "--peer", &peer];
    let second = Mount::start(&world.stage, &[&hub], &flags, &two, second_addr);
    let path = second.join("org/big/model.safetensors");
    let mut file = fs::File::open(&path).expect("opened");
    file.read_exact(&mut bytes).expect("read");
    wait::eventually("the torrent is joined here too", PATIENCE, || {
        torrents_of(&world, &second).pop().filter(|torrent| torrent["total_bytes"] == json!(LENGTH))
    });
    // The hub is gone: what is left comes from the other mount.
    let hub = i32::try_from(world.hub().process.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(hub.expect("a process"), rustix::process::Signal::KILL).expect("killed");
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("read");
    assert!(rest == expected[4096..], "bytes differ");
    wait::eventually("the upload is counted", PATIENCE, || {
        torrents_of(&world, &first).pop()?["uploaded_bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
}

#[test]
fn get_fetches_a_repository_a_directory_or_a_file_and_verifies_it() {
    let mut world = World::new("hf-mount-get", standard().page_size(7));
    let flags = world.straight();
    let get = |world: &World, source: &str, dir: &Path| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let dir = text(dir);
        let args = [&["get", "--json", "-o"][..], &[&dir], &flags, &[source]].concat();
        world.stage.run(&args)
    };
    let out = world.stage.subdir("out");
    let said = get(&world, "hf://org/model", &out).expect_success("wtfs get");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&said["files"], &said["repo"]), (&json!(10), &json!("org/model")));
    assert_holds(&out.join("model"), &model_files());
    let nested = get(&world, "hf://org/model@main/nested", &out).expect_success("wtfs get");
    assert!(nested.contains("\"downloaded_bytes\": 0"), "{nested}");
    assert_eq!(fs::read_to_string(out.join("nested/deep/file.txt")).expect("read"), "deep");
    let _one = get(&world, "hf://org/model@v1/config.json", &out).expect_success("wtfs get");
    assert_eq!(fs::read_to_string(out.join("config.json")).expect("read"), "{\"model_type\": \"old\"}");
    for (source, why) in [("hf://org/nothing", "HF_TOKEN"), ("hf://org/model/no/such", "no no/such")] {
        let ended = get(&world, source, &out);
        assert_eq!(ended.code(), Some(3), "{source}: {}", ended.stderr);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
    let gated = get(&world, "hf://org/gated", &out);
    assert_eq!(gated.code(), Some(5), "{}", gated.stderr);
    assert!(gated.stderr.contains("licence"), "{}", gated.stderr);
    // What comes damaged twice is not put anywhere.
    world.upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 1000 }).path("*large.bin*"));
    let fresh = world.stage.subdir("fresh");
    world.stage.set_variable("WTFS_CACHE_DIR", &text(&world.stage.subdir("cache-fresh")));
    let damaged = get(&world, "hf://org/model/large.bin", &fresh);
    assert_eq!(damaged.code(), Some(5), "{}", damaged.stderr);
    assert!(!fresh.join("large.bin").exists());
}

#[test]
fn a_file_that_came_damaged_once_is_right_when_it_is_opened_again() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-mount-damaged", standard());
    world.upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 1000 }).path("*large.bin*").times(1));
    let mount = mount(&world, "hf://org/model", &world.straight());
    let expected = Content::ramp(2, 12_000_000).read(0, 12_000_000);
    let path = mount.join("large.bin");
    // Whoever reads before all of it is here may be given what is wrong, and cannot read on when that is found out.
    let _first = fs::read(&path);
    wait::eventually("it is right", PATIENCE, || fs::read(&path).ok().filter(|bytes| *bytes == expected));
    wait::eventually("it is verified", PATIENCE, || {
        (attribute(&path, "user.wtfs.verified_bytes") == "12000000").then_some(())
    });
    // No page of what was wrong stays with the kernel.
    assert!(fs::read(&path).expect("read") == expected);
}

#[test]
fn a_network_that_swallows_everything_keeps_nobody_waiting_for_what_is_known() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let world = World::new("hf-mount-swallowed", standard());
    let flags = world.straight();
    let first = mount(&world, "hf://", &flags);
    assert_holds(&first.join("org/model"), &model_files());
    assert_holds(
        &first.join("datasets/org/data/data"),
        &[("part.parquet", Content::ramp(4, 50_000)), ("train.csv", "a,b\n1,2\n".into())],
    );
    first.unmount();
    world.upstream.fault(Fault::hub(FaultKind::Delay(Duration::from_secs(3600))));
    let mount = mount(&world, "hf://", &flags);
    let began = Instant::now();
    assert_holds(&mount.join("org/model"), &model_files());
    assert_eq!(
        fs::read_to_string(mount.join("datasets/org/data/data/train.csv")).expect("read"),
        "a,b\n1,2\n"
    );
    // Five seconds of it are waited for whoever does not answer, once; what is beyond is this machine's own pace.
    eprintln!("known names and bytes were there after {:?}", began.elapsed());
    let asked = world.upstream.log().of("/api/*").0.iter().filter(|asked| asked.status() == 0).count();
    assert!(asked > 0, "nobody was asked");
}
