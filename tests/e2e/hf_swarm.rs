//! What the hub keeps of Hugging Face is a swarm that other people's clients take part in: libtorrent reads the torrent of a
//! revision as it was meant, and gets the revision from the address of its files, and from the hub as a peer that it finds
//! at the hub's tracker. And a peer in it that lies changes no byte of what a mount reads.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use wtfs_proto::metainfo::Metainfo;
use wtfs_testkit::{
    bencode,
    hf_hub::{Content, HfHub, RepoKind, Side},
    net,
    peer::{self, Fault, ScriptedPeer, Start},
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait,
};

use crate::support::{
    hf::{ALICE, BOB, Way, World, bearer, standard},
    libtorrent::{self, Libtorrent},
    mount::Mount,
    need::{Need, missing},
    stage::{self, PATIENCE, text},
};

/// Clients take their time: they rest between announces and choke in rounds of ten seconds.
const LONG: Duration = Duration::from_secs(180);

const FILES: [(&str, u64); 6] = [
    ("config.json", 700),
    ("a/b.json", 10),
    ("a-b.json", 20),
    ("empty.txt", 0),
    ("sub dir/we ird#1%.safetensors", 9_000_000),
    ("w-00001.safetensors", 5_000_001),
];

fn world(name: &str) -> World {
    let builder =
        (1..).zip(FILES).fold(HfHub::builder().model("org/model"), |builder, (seed, (path, bytes))| {
            builder.ramp(path, seed, bytes)
        });
    World::with_hub(name, builder, &[])
}

/// The torrent of the revision, changed, as a file.
fn torrent(world: &World, change: impl FnOnce(&mut Metainfo)) -> PathBuf {
    let answer = wait::eventually("the torrent is ready", PATIENCE, || {
        Some(world.get("/torrent/org/model")).filter(|answer| answer.status != 202)
    });
    assert_eq!(answer.status, 200, "{}", answer.head);
    let mut metainfo = Metainfo::parse(&answer.body).expect("a torrent");
    change(&mut metainfo);
    let path = world.stage.join("revision.torrent");
    fs::write(&path, metainfo.to_bytes()).expect("the scratch directory can be written");
    path
}

/// What the logs of the hub hold.
fn said(world: &World) -> String {
    let logs = world.stage.join("logs");
    let names = stage::walk(&logs).into_iter().filter(|name| name.to_string_lossy().starts_with("serve"));
    names.filter_map(|name| fs::read_to_string(logs.join(name)).ok()).collect()
}

#[test]
fn a_private_torrent_is_for_who_may_read_the_repository_and_for_their_peers() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let builder = standard();
    let flags = ["--hf-swarm-private", "org/gated"];
    let world = World::with_hub("hf-swarm-private", builder, &flags);
    assert!(said(&world).contains("torrents are made of repositories that not everybody may read"));
    let alice = bearer(ALICE);
    let path = "/torrent/org/gated";
    for (token, status) in [(None, 401), (Some(bearer(BOB)), 403)] {
        let headers: Vec<_> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
        assert_eq!(world.ask("GET", path, &headers).status, status);
    }
    let answer = wait::eventually("the torrent is ready", PATIENCE, || {
        Some(world.ask("GET", path, &[("Authorization", &alice)])).filter(|answer| answer.status != 202)
    });
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(
        world.ask("GET", "/torrent/org/secret", &[("Authorization", &alice)]).status,
        403,
        "not named"
    );
    // The web seed in it is shut to who sends no token, as other clients do: they have the hub as a peer.
    let torrent = world.stage.join("gated.torrent");
    fs::write(&torrent, &answer.body).expect("the scratch directory can be written");
    let saved = world.stage.subdir("saved");
    let mut leecher = Libtorrent::leecher(&world.stage, &torrent, &saved, &[]);
    let stats = leecher.wait_complete(LONG);
    assert_eq!(stats.failed_bytes, 0, "{stats:?}");
    let commit = world.upstream.commit_of(RepoKind::Model, "org/gated", "main");
    let expected = Content::ramp(5, 300_000).read(0, 300_000);
    wait::eventually("every byte is there and right", LONG, || {
        (fs::read(saved.join(&commit).join("weights.bin")).ok()? == expected).then_some(())
    });
    let told = wait_for_peer_bytes(&world, 300_000);
    assert!(!told.to_string().contains("gated"), "{told}");
}

#[test]
fn without_being_told_to_a_hub_makes_no_private_torrents() {
    let world = World::with_hub("hf-swarm-public", standard(), &[]);
    let headers = [("Authorization", bearer(ALICE))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    for path in ["/torrent/org/gated", "/magnet/org/secret", "/torrent/org/gated/weights.bin"] {
        assert_eq!(world.ask("GET", path, &headers).status, 403, "{path}");
    }
    assert!(!said(&world).contains("not everybody may read"));
}

#[track_caller]
fn assert_downloaded(world: &World, torrent: &Path, saved: &Path) {
    let mut leecher = Libtorrent::leecher(&world.stage, torrent, saved, &[]);
    let stats = leecher.wait_complete(LONG);
    assert_eq!(stats.failed_bytes, 0, "{stats:?}");
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    for (seed, (path, bytes)) in (1..).zip(FILES) {
        let expected = Content::ramp(seed, bytes).read(0, bytes as usize);
        // libtorrent counts a piece before it is written.
        wait::eventually("every byte is there and right", LONG, || {
            (fs::read(saved.join(&commit).join(path)).ok()? == expected).then_some(())
        });
    }
    // Some comes twice on a machine that stands still for a moment.
    let fetched = world.upstream.log().at(Side::Cdn).sent_bytes();
    assert!(fetched < 2 * 14_000_000, "{fetched} bytes came from upstream");
}

/// What the hub tells once it has counted so much as given to peers.
#[track_caller]
fn wait_for_peer_bytes(world: &World, bytes: u64) -> Value {
    wait::eventually("what peers were given is counted", PATIENCE, || {
        Some(world.get("/hf-stats").json()).filter(|told| told["peer_bytes"].as_u64() >= Some(bytes))
    })
}

#[test]
fn libtorrent_reads_the_torrent_of_a_revision_as_it_was_meant() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let world = world("hf-swarm-read");
    assert!(matches!(world.get("/torrent/org/model").status, 200 | 202));
    let path = torrent(&world, |_| {});
    let ours = Metainfo::parse(&fs::read(&path).expect("just written")).expect("a torrent");
    let said = libtorrent::describe(&world.stage, &path);
    assert_eq!(said["info_hash"], ours.hashes.primary().to_string(), "{said}");
    let text = said.to_string();
    assert!(text.contains("we ird#1%.safetensors") && text.contains("empty.txt"), "{said}");
}

#[test]
fn libtorrent_downloads_a_revision_from_the_address_of_its_files() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let world = world("hf-swarm-web");
    assert!(matches!(world.get("/torrent/org/model").status, 200 | 202));
    let path = torrent(&world, |metainfo| metainfo.announce.clear());
    assert_downloaded(&world, &path, &world.stage.subdir("saved"));
    assert_eq!(world.get("/hf-stats").json()["peer_bytes"], 0);
}

#[test]
fn libtorrent_downloads_a_revision_from_the_hub_as_a_peer() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let world = world("hf-swarm-peer");
    assert!(matches!(world.get("/torrent/org/model").status, 200 | 202));
    let path = torrent(&world, |metainfo| metainfo.url_list.clear());
    assert_downloaded(&world, &path, &world.stage.subdir("saved"));
    wait_for_peer_bytes(&world, 14_000_000);
}

#[test]
fn a_peer_that_lies_changes_no_byte_of_a_file_that_a_mount_reads() {
    if missing(&[Need::Fuse]) {
        return;
    }
    const LENGTH: u64 = 8 << 20;
    let ramp = Ramp::new(13);
    let builder = HfHub::builder().model("org/big").ramp("model.safetensors", 13, LENGTH);
    let world = World::with_hub("hf-swarm-liar", builder, &[]);
    let answer = wait::eventually("the torrent is ready", PATIENCE, || {
        Some(world.get("/torrent/org/big/model.safetensors")).filter(|answer| answer.status == 200)
    });
    let (metainfo, _) = bencode::Value::decode_prefix(&answer.body).expect("a torrent");
    let torrent = TorrentFile::from_info(metainfo.get("info").expect("it has one"), LENGTH, &[]);
    let liar = ScriptedPeer::with_fault(&torrent, peer::Content::Ramp(ramp), Fault::WrongBytes { every: 1 });
    // Nobody tells the truth until the liar has lied, for the hub is gone by then.
    let honest = ScriptedPeer::seeder(&torrent, peer::Content::Ramp(ramp), Start::Held);
    let (lying, telling) = (liar.addr().to_string(), honest.addr().to_string());
    let cache = text(&world.stage.subdir("cache-of-the-mount"));
    let flags = ["--peer", &lying, "--peer", &telling, "--cache-dir", &cache, "--read-timeout", "400s"];
    let hub = world.endpoint(Way::HubBelow);
    let dir = world.stage.subdir("mnt");
    let mount = Mount::start(&world.stage, &[&hub], &flags, &dir, net::fresh_addr());
    let path = mount.join("org/big/model.safetensors");
    // Open, so that its torrent is asked for, and not read.
    let _held = fs::File::open(&path).expect("opened");
    let torrents = || mount.process_status()["torrents"].as_array().cloned().unwrap_or_default();
    wait::eventually("the torrent is joined", PATIENCE, || {
        torrents().into_iter().find(|torrent| torrent["total_bytes"] == LENGTH)
    });
    let hub = i32::try_from(world.hub().process.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(hub.expect("a process"), rustix::process::Signal::KILL).expect("killed");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // Who reads while nobody has it may be told so; what is read is right.
            wait::eventually("it is read", PATIENCE, || {
                let bytes = fs::read(&path).ok()?;
                ramp.check(0, &bytes).expect("no wrong byte");
                (bytes.len() as u64 == LENGTH).then_some(())
            });
        });
        wait::eventually("the liar was believed, and found out", PATIENCE, || {
            let counts = liar.counts();
            (counts.faults > 0 && counts.ended > 0).then_some(())
        });
        honest.release();
        reader.join().expect("no panic");
    });
    mount.unmount();
}
