//! Programs that know nothing but paths and names load models and data sets out of mounts and through the hub, and make of
//! them what they make of the same files on disk: transformers with PyTorch, llama.cpp, datasets.

use std::path::Path;

use serde_json::{Value, json};
use wtfs_testkit::hf_hub::{Content, Fault, FaultKind, HfHub, RepoKind, Side};

use crate::{
    hf_weights::{COPIES, ID, computed, model_on_disk, upstream},
    support::{
        hf::{CLIENTS, NEWEST, Way, World, expected_files, failed_as, model_files, ok, standard},
        mount::Mount,
        need::{Need, missing},
        stage::{text, walk},
    },
};

const SENTENCES: [&str; 2] = ["A man is eating food.", "Someone eats a meal."];
/// Between one program's arithmetic and another's.
const TOLERANCE: f64 = 1e-4;

/// The hub's whole namespace, with a cache of its own that is empty.
fn mount<'a>(world: &'a World, name: &str) -> Mount<'a> {
    let cache = text(&world.stage.subdir(format!("mount-cache-{name}")));
    world.stage.mount(&[&world.endpoint(Way::HubBelow)], &["--cache-dir", &cache])
}

/// One step of a client that goes to the hub, with these variables set.
#[track_caller]
fn done(world: &World, way: Way, variables: &[(&str, &str)], step: &Value) -> Value {
    let done = world.client(NEWEST, way).steps_with(variables, std::slice::from_ref(step));
    ok(&done[0]).clone()
}

fn by_path(what: &str, path: &Path) -> Value {
    json!({ "do": what, "path": text(path), "sentences": SENTENCES, "prompt": "Once" })
}

fn by_name(what: &str, id: &str) -> Value {
    json!({ "do": what, "id": id, "sentences": SENTENCES })
}

#[test]
fn transformers_loads_a_model_from_a_mount_by_its_path_and_by_its_name() {
    if missing(&[Need::Fuse, Need::Loaders]) {
        return;
    }
    let Some(model) = model_on_disk() else { return };
    let world = World::with_hub("hf-transformers", upstream(&model), &[]);
    let expected = done(&world, Way::Hub, &[], &by_path("load_model", &model));
    assert_eq!(expected["class"], "BertModel", "{expected}");
    let difference =
        expected["alike"].as_f64().expect("a number") - computed(&model)["alike"].as_f64().expect("a number");
    assert!(difference.abs() < TOLERANCE, "{difference}: it is not the model");

    let cold = mount(&world, "path");
    assert_eq!(done(&world, Way::Hub, &[], &by_path("load_model", &cold.join(ID))), expected);
    cold.unmount();
    // By its name, with the view in the place of the cache: what the client would download it finds there, also where it
    // may ask nobody.
    for (name, offline) in [("online", "0"), ("offline", "1")] {
        let cold = mount(&world, name);
        let view = text(&cold.join(".cache-view"));
        let variables = [("HF_HUB_CACHE", &*view), ("HF_HUB_OFFLINE", offline)];
        assert_eq!(done(&world, Way::Hub, &variables, &by_name("load_model", ID)), expected, "{name}");
        cold.unmount();
    }
    // And with what it downloads itself.
    for way in [Way::Hub, Way::HubBelow] {
        assert_eq!(done(&world, way, &[], &by_name("load_model", ID)), expected, "{way:?}");
    }
    let fetched = world.upstream.log().at(Side::Cdn).of("*model.safetensors*").sent_bytes();
    let weights = model.join("model.safetensors").metadata().expect("it is there").len();
    assert!(fetched < COPIES * weights, "{fetched} of {weights}: it was fetched more than once");
}

#[test]
fn a_model_of_several_shards_is_loaded_whatever_befalls_the_way_to_its_origin() {
    if missing(&[Need::Fuse, Need::Loaders]) {
        return;
    }
    const SHARDS: u64 = 4;
    let builder = HfHub::builder().model("org/sharded").file("README.md", "#");
    let world = World::with_hub("hf-shards", builder, &[]);
    let disk = world.stage.join("shards");
    let _written = done(&world, Way::Hub, &[], &by_path("write_shards", &disk));
    let expected = done(&world, Way::Hub, &[], &by_path("generate", &disk));
    assert_eq!(expected["class"], "LlamaForCausalLM", "{expected}");
    let files: Vec<_> =
        walk(&disk).into_iter().map(|path| (text(&path), Content::File(disk.join(path)))).collect();
    let shards = files.iter().filter(|(path, _)| path.ends_with(".safetensors")).count();
    assert_eq!(shards as u64, SHARDS);
    let _commit = world.upstream.push(RepoKind::Model, "org/sharded", "main", files);
    // One for each shard, by each of two ways.
    let befall = || {
        let faults = [
            FaultKind::Truncate { after: 1_000_001 },
            FaultKind::Reset { after: Some(700_000) },
            FaultKind::Status(503),
            FaultKind::RateLimit { seconds: 1 },
        ];
        for (n, fault) in (1..=SHARDS).zip(faults) {
            world.upstream.fault(Fault::cdn(fault).path(&format!("*model-0000{n}-*")).times(1));
        }
    };
    befall();
    let (hub, cdn) = (world.upstream.hub_addr().to_string(), world.upstream.cdn_addr().to_string());
    let (origin, cache) = (world.upstream.endpoint(), text(&world.stage.subdir("cache-of-the-origin")));
    let mut flags = vec!["--cache-dir", &cache, "--hf-endpoint", &origin];
    flags.extend(["--allow-upstream-host", &hub, "--allow-upstream-host", &cdn]);
    let straight = world.stage.mount(&["hf://org/sharded"], &flags);
    let load = by_path("generate", straight.dir());
    assert_eq!(done(&world, Way::Upstream, &[], &load), expected);
    straight.unmount();
    befall();
    let through = mount(&world, "shards");
    assert_eq!(done(&world, Way::Hub, &[], &by_path("generate", &through.join("org/sharded"))), expected);
    through.unmount();
    let log = world.upstream.log();
    for n in 1..=SHARDS {
        let met = log
            .of(&format!("*model-0000{n}-*"))
            .0
            .iter()
            .map(|request| request.faults().len())
            .sum::<usize>();
        assert_eq!(met, 2, "shard {n} met {met} faults");
    }
}

#[test]
fn pytorch_maps_a_checkpoint_in_a_mount() {
    if missing(&[Need::Fuse, Need::Loaders]) {
        return;
    }
    let world =
        World::with_hub("hf-checkpoint", HfHub::builder().model("org/old").file("README.md", "#"), &[]);
    let disk = world.stage.join("pytorch_model.bin");
    let _written = done(&world, Way::Hub, &[], &by_path("write_checkpoint", &disk));
    let expected = done(&world, Way::Hub, &[], &by_path("load_checkpoint", &disk));
    let files = [("pytorch_model.bin".to_owned(), Content::File(disk))];
    let _commit = world.upstream.push(RepoKind::Model, "org/old", "main", files);
    let mount = mount(&world, "checkpoint");
    let found =
        done(&world, Way::Hub, &[], &by_path("load_checkpoint", &mount.join("org/old/pytorch_model.bin")));
    assert_eq!(found, expected);
    assert_eq!(found["mapped"], json!(["rw-p"]));
    mount.unmount();
}

#[test]
fn llama_cpp_maps_a_model_in_a_mount_and_goes_on_as_from_disk() {
    if missing(&[Need::Fuse, Need::Loaders]) {
        return;
    }
    const FILE: &str = "tiny-F32.gguf";
    let mut world =
        World::with_hub("hf-llama", HfHub::builder().model("org/tiny").file("README.md", "#"), &[]);
    let disk = world.stage.join(FILE);
    let _written = done(&world, Way::Hub, &[], &by_path("write_gguf", &disk));
    let expected = done(&world, Way::Hub, &[], &by_path("complete", &disk));
    assert_eq!(expected["mapped"], json!(["r--s"]), "{expected}");
    assert!(expected["tokens"].as_array().is_some_and(|tokens| tokens.len() > 10), "{expected}");
    let commit =
        world.upstream.push(RepoKind::Model, "org/tiny", "main", [(FILE.to_owned(), Content::File(disk))]);

    let cold = mount(&world, "path");
    assert_eq!(
        done(&world, Way::Hub, &[], &by_path("complete", &cold.join("org/tiny").join(FILE))),
        expected
    );
    // Where the clients' cache would have it, too.
    let cached = format!(".cache-view/models--org--tiny/snapshots/{commit}/{FILE}");
    assert_eq!(done(&world, Way::Hub, &[], &by_path("complete", &cold.join(cached))), expected);
    cold.unmount();
    // A mount that knows nothing yet has it from the hub alone.
    world.upstream.stop();
    let second = mount(&world, "second");
    assert_eq!(
        done(&world, Way::Hub, &[], &by_path("complete", &second.join("org/tiny").join(FILE))),
        expected
    );
    second.unmount();
}

#[test]
fn datasets_loads_tables_by_name_through_the_hub_and_by_path_from_a_mount() {
    if missing(&[Need::Fuse, Need::Loaders]) {
        return;
    }
    let builder = HfHub::builder().dataset("org/parquet").file("README.md", "# Tables\n");
    let world =
        World::with_hub("hf-datasets", builder.dataset("org/csv").file("README.md", "# Tables\n"), &[]);
    let tables = world.stage.join("tables");
    let _written = done(&world, Way::Hub, &[], &by_path("write_tables", &tables));
    let cold = {
        for format in ["parquet", "csv"] {
            let root = tables.join(format);
            let files = walk(&root).into_iter().filter(|path| root.join(path).is_file());
            let files = files.map(|path| (text(&path), Content::File(root.join(path))));
            let _commit = world.upstream.push(
                RepoKind::Dataset,
                &format!("org/{format}"),
                "main",
                files.collect::<Vec<_>>(),
            );
        }
        mount(&world, "tables")
    };
    let expected = done(&world, Way::Hub, &[], &by_path("load_dataset", &tables.join("parquet")));
    assert_eq!((&expected["train"][0], &expected["test"][0]), (&json!(6000), &json!(3000)));
    let view = text(&cold.join(".cache-view"));
    for format in ["parquet", "csv"] {
        let id = format!("org/{format}");
        let step = by_name("load_dataset", &id);
        for way in [Way::Upstream, Way::Hub, Way::HubBelow] {
            assert_eq!(done(&world, way, &[], &step), expected, "{format} {way:?}");
        }
        let streamed = json!({ "do": "load_dataset", "id": id, "streaming": true });
        assert_eq!(done(&world, Way::Hub, &[], &streamed), expected, "{format}, streamed");
        let path = by_path("load_dataset", &cold.join("datasets").join(&id));
        assert_eq!(done(&world, Way::Hub, &[("HF_HUB_OFFLINE", "1")], &path), expected, "{format}, mounted");
        let cached = done(&world, Way::Hub, &[("HF_HUB_CACHE", &*view)], &step);
        assert_eq!(cached, expected, "{format}, with the view for a cache");
    }
    cold.unmount();
    world.upstream.log().assert_no_token_at_cdn();
}

#[test]
fn the_oldest_client_reads_files_through_the_view_and_whole_snapshots_offline() {
    let oldest = CLIENTS[CLIENTS.len() - 1];
    if missing(&[Need::Fuse, Need::HfClient(oldest)]) {
        return;
    }
    let world = World::with_hub("hf-oldest", standard(), &[]);
    let mount = mount(&world, "view");
    let cache = text(&mount.join(".cache-view"));
    let file = json!({ "do": "download", "id": "org/model", "file": "large.bin", "cache_dir": cache });
    let all = json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache });
    let client = world.client(oldest, Way::Hub);
    let online = client.steps(&[file.clone(), all.clone()]);
    assert_eq!(ok(&online[0])["sha256"], Content::ramp(2, 12_000_000).sha256());
    // It writes the commit of a branch into its cache whether or not it stands there. It is told why it may not.
    assert!(failed_as(&online[1], "OSError"), "{online:?}");
    assert!(
        online[1]["text"].as_str().is_some_and(|text| text.contains("Read-only file system")),
        "{online:?}"
    );
    let offline = client.steps_with(&[("HF_HUB_OFFLINE", "1")], &[file, all]);
    assert_eq!(ok(&offline[0])["sha256"], ok(&online[0])["sha256"]);
    assert_eq!(ok(&offline[1])["files"], expected_files(&model_files()));
    mount.unmount();
}

#[test]
fn the_view_is_scanned_and_verified_as_the_cache_that_it_looks_like() {
    if missing(&[Need::Fuse, Need::HfClient(NEWEST)]) {
        return;
    }
    let world = World::with_hub("hf-scan", standard(), &[]);
    let mount = mount(&world, "view");
    let cache = text(&mount.join(".cache-view"));
    let file = json!({ "do": "download", "id": "org/model", "file": "config.json", "cache_dir": cache });
    let verify = json!({ "do": "verify", "id": "org/model", "cache_dir": cache });
    let scan = json!({ "do": "scan", "cache_dir": cache });
    let done = world.client(NEWEST, Way::Hub).steps(&[file, verify, scan]);
    assert!(done[0]["ok"].is_object(), "{done:?}");
    let files = model_files();
    assert_eq!(*ok(&done[1]), json!({ "checked": files.len(), "wrong": 0 }));
    let bytes: u64 = files.iter().map(|(_, content)| content.len()).sum();
    let found = json!({ "org/model": ["model", ["main"], files.len(), bytes] });
    assert_eq!(*ok(&done[2]), json!({ "repos": found, "warnings": [] }));
    mount.unmount();
}
