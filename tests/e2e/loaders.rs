//! What loads model weights by path gets the bytes that are on disk from a cold mount too, in one process and in eight at
//! once, and little more is fetched than is read.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use wtfs_testkit::process;

use crate::support::{
    libtorrent::{self, Libtorrent},
    mount::Mount,
    need::{self, Need, missing},
    stage::{Stage, text},
};

/// Far beyond what a load takes; only a hang reaches it.
const LOAD_DEADLINE: Duration = Duration::from_secs(400);
/// Fetched bytes for each byte of the files, at most.
const MOST_FETCHED: f64 = 1.15;
const PROCESSES: usize = 8;

const MAKE: &str = "
import os, sys, numpy, safetensors.numpy
random = numpy.random.default_rng(5)
for shard in range(4):
    tensors = {f'layer.{shard}.{n}': random.standard_normal((256, 512)).astype('f4') for n in range(32)}
    safetensors.numpy.save_file(tensors, os.path.join(sys.argv[1], f'model-{shard + 1:05}-of-00004.safetensors'))
";

/// Prints a digest of what it loaded in the way that is asked for.
const LOAD: &str = "
import glob, hashlib, os, sys, numpy, safetensors, safetensors.numpy
way, model = sys.argv[1:]
digest = hashlib.sha256()
for file in sorted(glob.glob(os.path.join(model, '*.safetensors'))):
    if way == 'safe_open':
        with safetensors.safe_open(file, framework='np') as opened:
            for name in sorted(opened.keys(), reverse=True):
                digest.update(opened.get_tensor(name).tobytes())
    elif way == 'load_file':
        tensors = safetensors.numpy.load_file(file)
        for name in sorted(tensors):
            digest.update(tensors[name].tobytes())
    else:
        digest.update(numpy.memmap(file, dtype='u1', mode='r')[::4096].tobytes())
print(digest.hexdigest())
";

struct Model {
    dir: PathBuf,
    torrent: PathBuf,
    seeder: Libtorrent,
    // Last: its directory goes when nobody writes there any more.
    stage: Stage,
}

fn model(name: &str) -> Option<Model> {
    if missing(&[Need::Fuse, Need::Libtorrent, Need::Safetensors]) {
        return None;
    }
    let stage = Stage::new(name);
    let dir = stage.subdir("origin/model");
    let mut make = Command::new(need::python());
    make.args(["-c", MAKE]).arg(&dir);
    let _said = process::run(make, LOAD_DEADLINE).expect_success("the weights are made");
    let torrent = libtorrent::create(&stage, &dir, 1 << 20, &[]).path;
    let seeder = Libtorrent::seeder(&stage, &torrent, dir.parent().expect("it is in a directory"));
    Some(Model { stage, dir, torrent, seeder })
}

impl Model {
    /// A mount with a cache of its own, into which nothing was fetched yet.
    fn cold_mount(&self, turn: &str) -> Mount<'_> {
        let cache = text(&self.stage.subdir(format!("cache-{turn}")));
        let peer = self.seeder.addr().to_string();
        self.stage.mount(&[&text(&self.torrent)], &["--peer", &peer, "--cache-dir", &cache])
    }

    #[track_caller]
    fn assert_little_was_wasted(mount: &Mount<'_>, turn: &str) {
        let torrent = mount.torrent_status();
        let count = |key: &str| torrent[key].as_f64().expect("a number");
        let ratio = count("downloaded_bytes") / count("total_bytes");
        assert!(ratio <= MOST_FETCHED, "{turn}: {ratio:.3} times the bytes of the files were fetched");
    }
}

#[track_caller]
fn load(way: &str, dir: &Path) -> String {
    let mut load = Command::new(need::python());
    load.args(["-c", LOAD, way]).arg(dir);
    process::run(load, LOAD_DEADLINE).expect_success(way)
}

#[track_caller]
fn shell(line: &str, dir: &Path) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(dir);
    process::run(command, LOAD_DEADLINE).expect_success(line)
}

#[test]
fn weights_load_from_a_cold_mount_as_from_disk_in_one_process_and_in_eight() {
    let Some(model) = model("loaders") else { return };
    for way in ["safe_open", "load_file", "memmap"] {
        let expected = load(way, &model.dir);
        for processes in [1, PROCESSES] {
            let turn = format!("{way}-{processes}");
            let mount = model.cold_mount(&turn);
            let dir = mount.join("model");
            thread::scope(|scope| {
                let loads: Vec<_> = (0..processes).map(|_| scope.spawn(|| load(way, &dir))).collect();
                for loaded in loads {
                    assert_eq!(loaded.join().expect("it loads"), expected, "{turn}");
                }
            });
            Model::assert_little_was_wasted(&mount, &turn);
            mount.unmount();
        }
    }
}

#[test]
fn tools_read_a_cold_mount_as_they_read_a_disk() {
    if missing(&[Need::Program("git"), Need::Program("fio"), Need::Program("rsync")]) {
        return;
    }
    let Some(model) = model("tools") else { return };
    let lines = ["sha256sum *", "cat * | git hash-object --stdin", "cat $(ls -r) | cksum"];
    for (turn, line) in lines.iter().enumerate() {
        let turn = format!("line-{turn}");
        let mount = model.cold_mount(&turn);
        assert_eq!(shell(line, &mount.join("model")), shell(line, &model.dir), "{line}");
        Model::assert_little_was_wasted(&mount, &turn);
        mount.unmount();
    }
    for copier in ["cp -r", "rsync -a", "rsync -aS --checksum"] {
        let turn = copier.replace(' ', "");
        let mount = model.cold_mount(&turn);
        let copy = model.stage.join(format!("copy-{turn}"));
        let _said = shell(&format!("{copier} ./ {}", text(&copy)), &mount.join("model"));
        let _same = shell(&format!("diff -r . {}", text(&copy)), &model.dir);
        Model::assert_little_was_wasted(&mount, copier);
        mount.unmount();
    }
    for engine in ["psync", "mmap"] {
        let mount = model.cold_mount(engine);
        let line = format!(
            "fio --name=r --filename=model-00001-of-00004.safetensors --readonly --rw=randread --bs=4k --size=16m \
             --io_size=4m --numjobs=16 --ioengine={engine} --group_reporting --minimal"
        );
        let _said = shell(&line, &mount.join("model"));
        Model::assert_little_was_wasted(&mount, engine);
        mount.unmount();
    }
}
