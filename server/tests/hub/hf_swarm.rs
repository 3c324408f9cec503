//! Torrents of what the proxy keeps: the same at every hub, given to peers out of the cache, there after a restart, and
//! never of what not everybody may read.

use std::time::{Duration, Instant};

use serde_json::Value;
use wtfs_proto::metainfo::{Metainfo, Version};
use wtfs_server::{HubConfig, TrustedProxies};
use wtfs_testkit::hf_hub::{Access, Content, Fault, FaultKind, HfHub, RepoKind};
use wtfs_torrent::{AddOptions, NetworkPolicy, Session, SessionConfig, Source, StorageKind};

use crate::hf::{before, until_whole};
use crate::stage::{self, Answer, PATIENCE, Served, Stage};

const BIG: &str = "sub dir/we ird#1%.safetensors";
const BIG_BYTES: u64 = 1_500_000;

fn upstream() -> HfHub {
    HfHub::builder()
        .account("ada", "hf_ada")
        .model("org/model")
        .file("config.json", "{\"a\": 1}\n")
        .file("a-b.txt", "before a/\n")
        .file("a/b.txt", "below a\n")
        .file("pkg/__init__.py", "")
        .ramp(BIG, 1, BIG_BYTES)
        .dataset("org/data")
        .file("a.csv", "1,2\n")
        .model("org/gated")
        .ramp("model.bin", 2, 500_000)
        .gated()
        .grant("hf_ada")
        .model("org/private")
        .ramp("model.bin", 3, 500_000)
        .private()
        .grant("hf_ada")
        .model("org/other")
        .ramp("other.bin", 4, 1_800_000)
        .start()
}

async fn start(stage: &Stage, upstream: &HfHub) -> Served {
    Served::start(before(stage, upstream)).await
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

fn metainfo(answer: &Answer) -> Metainfo {
    Metainfo::parse(&answer.body).expect("a torrent")
}

/// Waits until `/model/…` says so.
pub(crate) async fn until(hub: &Served, model: &str, what: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let status = json(&hub.get(&format!("/model/{model}")).await);
        if what(&status) {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "{model}: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn commit(upstream: &HfHub) -> String {
    upstream.commit_of(RepoKind::Model, "org/model", "main")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hubs_make_the_same_torrent_of_a_revision_and_of_a_file() {
    let (stages, upstream) = ([Stage::new(), Stage::new()], upstream());
    let mut hashes = Vec::new();
    for (stage, prefix) in stages.iter().zip(["", "/hf"]) {
        let hub = start(stage, &upstream).await;
        let idle = json(&hub.get(&format!("{prefix}/model/org/model")).await);
        assert_eq!((&idle["state"], &idle["files"]), (&"absent".into(), &5.into()), "{idle}");
        let asked = hub.get(&format!("{prefix}/torrent/org/model")).await;
        assert!(matches!(asked.status, 200 | 202), "{}", asked.text());
        let revision = metainfo(&hub.wait_for(&format!("{prefix}/torrent/org/model"), 200).await);
        let encoded = "sub%20dir/we%20ird%231%25.safetensors";
        let file = metainfo(&hub.wait_for(&format!("{prefix}/torrent/org/model@main/{encoded}"), 200).await);
        let commit = commit(&upstream);
        for torrent in [&revision, &file] {
            assert_eq!(torrent.info.version, Version::Hybrid);
            assert_eq!((torrent.creation_date, &torrent.comment), (None, &None));
            assert!(!torrent.info.is_private);
            assert_eq!(torrent.announce[0][0], "http://hub.test:99/announce");
        }
        assert_eq!((&revision.info.name, revision.info.display_total()), (&commit, BIG_BYTES + 27));
        assert_eq!(revision.url_list, ["http://hub.test:99/org/model/resolve/"]);
        assert_eq!(file.info.name, "we ird#1%.safetensors");
        assert_eq!(file.url_list, [format!("http://hub.test:99/org/model/resolve/{commit}/{encoded}")]);
        let short = metainfo(&hub.get(&format!("{prefix}/torrent/org/model@{commit}.torrent")).await);
        assert_eq!(short.hashes, revision.hashes, "by its commit");
        let magnet = hub.get(&format!("{prefix}/magnet/org/model")).await;
        assert!(magnet.text().starts_with("magnet:?xt=urn:btih:"), "{}", magnet.text());
        let ready = json(&hub.get(&format!("{prefix}/model/org/model")).await);
        assert_eq!((&ready["state"], &ready["files_present"]), (&"ready".into(), &5.into()), "{ready}");
        assert_eq!(ready["info_hash"], revision.hashes.primary().to_string());
        hashes.push((revision.hashes, file.hashes));
        hub.end().await;
    }
    assert_eq!(hashes[0], hashes[1]);
}

/// An engine that knows a torrent and whatever else it is told.
async fn reader(stage: &Stage, torrent: &Metainfo, peers: Vec<std::net::SocketAddr>) -> (Session, Vec<u8>) {
    let mut config = SessionConfig::new(stage.dir.path().join(format!("reader-{}", peers.len())));
    config.network = NetworkPolicy::Online;
    config.listen.port = 0;
    config.listen.addrs = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    let session = Session::open(config).await.expect("opened");
    let options = AddOptions { storage: StorageKind::Memory, peers, ..AddOptions::default() };
    let added = session.add(Source::Metainfo(Box::new(torrent.clone())), options).await.expect("added");
    let name = if torrent.info.files.len() == 1 { "we ird#1%.safetensors" } else { BIG };
    let index = torrent.info.files.iter().position(|file| file.path.to_string() == name).expect("listed");
    let file = torrent.info.geometry.file(index).expect("a file");
    let read = added.open(file).expect("opened").read_at(0, BIG_BYTES as u32).await.expect("read");
    (session, read.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_given_a_revision_by_the_engine_and_by_the_address_of_its_files() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    let bytes = Content::ramp(1, BIG_BYTES).read(0, BIG_BYTES as usize);
    for path in ["org/model", "org/model/sub%20dir/we%20ird%231%25.safetensors"] {
        let host = format!("Host: {}", hub.addr);
        hub.wait_for(&format!("/torrent/{path}"), 200).await;
        let torrent = metainfo(&hub.ask("GET", &format!("/torrent/{path}"), &[&host]).await);
        until(&hub, path, |status| status["is_seeded"] == true).await;
        let alone = Metainfo { announce: Vec::new(), ..torrent.clone() };
        let (session, read) = reader(&stage, &alone, Vec::new()).await;
        assert!(read == bytes, "{path} by the web seed");
        session.shutdown().await;
        let alone = Metainfo { announce: Vec::new(), url_list: Vec::new(), ..torrent };
        let (session, read) = reader(&stage, &alone, hub.hub.session().listening().to_vec()).await;
        assert!(read == bytes, "{path} by the engine");
        session.shutdown().await;
    }
    let start = Instant::now();
    let stats = loop {
        // What an engine gave is counted a moment after it was given.
        let stats = json(&hub.get("/hf-stats").await);
        if stats["peer_bytes"].as_u64().expect("a number") >= 2 * BIG_BYTES {
            break stats;
        }
        assert!(start.elapsed() < PATIENCE, "{stats}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(stats["upstream_bytes"].as_u64().expect("a number") < BIG_BYTES + 1000, "{stats}");
    assert_eq!(stats["models"].as_array().map(Vec::len), Some(2), "{stats}");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_is_there_at_once_after_a_restart_without_upstream() {
    let (stage, mut upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    let path = format!("/torrent/org/model@{}", commit(&upstream));
    let before = metainfo(&hub.wait_for(&path, 200).await);
    hub.end().await;
    upstream.stop();
    upstream.clear_log();
    let hub = start(&stage, &upstream).await;
    let status = until(&hub, &path["/torrent/".len()..], |status| status["is_seeded"] == true).await;
    assert_eq!(status["info_hash"], before.hashes.primary().to_string());
    let after = hub.get(&path).await;
    assert_eq!((after.status, metainfo(&after).hashes), (200, before.hashes));
    assert_eq!(hub.hub.session().blobs().status().requests, 0);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_not_everybody_may_read_has_no_torrent_whoever_asks() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    let token = ["Authorization: Bearer hf_ada"];
    // In the cache, by who may.
    for id in ["org/gated", "org/private"] {
        let path = format!("/{id}/resolve/main/model.bin");
        assert_eq!(hub.ask("GET", &path, &token).await.body.len(), 500_000, "{id}");
    }
    for path in ["org/gated", "org/gated/model.bin"] {
        for headers in [&token[..], &[]] {
            for route in ["torrent", "magnet"] {
                let answer = hub.ask("GET", &format!("/{route}/{path}"), headers).await;
                assert_eq!((answer.status, &json(&answer)["state"]), (403, &"restricted".into()), "{path}");
            }
        }
    }
    let hidden = hub.get("/torrent/org/private").await;
    assert_eq!((hidden.status, hidden.header("x-error-code")), (401, Some("RepoNotFound")));
    assert_eq!(hub.ask("GET", "/torrent/org/private", &token).await.status, 403);
    for path in [
        "/torrent/org/nothing",
        "/model/org/..%2fx",
        "/torrent/org/model/absent",
        "/magnet/org/model@nowhere",
    ] {
        let status = hub.get(path).await.status;
        assert!(matches!(status, 401 | 404), "{path}: {status}");
    }
    assert_eq!(json(&hub.get("/hf-stats").await)["models"], Value::Array(Vec::new()));
    assert!(!hub.list().await.contains("model.bin"));
    hub.end().await;
}

/// A hub that asks upstream each time whether something is still open to all.
fn forgetful(stage: &Stage, upstream: &HfHub) -> HubConfig {
    let mut config = before(stage, upstream);
    let hf = config.hf.as_mut().expect("a proxy");
    (hf.ref_ttl, hf.public_ttl) = (Duration::ZERO, Duration::ZERO);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_closed_takes_its_torrents_along() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(forgetful(&stage, &upstream)).await;
    hub.wait_for("/torrent/org/model", 200).await;
    until(&hub, "org/model", |status| status["is_seeded"] == true).await;
    upstream.set_access(RepoKind::Model, "org/model", Access::Gated);
    assert_eq!(hub.wait_for("/torrent/org/model", 403).await.status, 403);
    stage::until("none is left", || hub.hub.session().torrents().is_empty()).await;
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_closed_takes_its_torrents_along_also_when_nobody_asks_for_them() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(forgetful(&stage, &upstream)).await;
    hub.wait_for("/torrent/org/model", 200).await;
    hub.wait_for("/torrent/org/other", 200).await;
    until(&hub, "org/model", |status| status["is_seeded"] == true).await;
    until(&hub, "org/other", |status| status["is_seeded"] == true).await;
    upstream.set_access(RepoKind::Model, "org/model", Access::Private);
    stage::until("it is seeded no more", || hub.hub.session().torrents().len() == 1).await;
    let listed = hub.list().await;
    assert!(!listed.contains(&commit(&upstream)), "{listed}");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_was_closed_while_the_hub_was_down_takes_its_torrents_along() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    hub.wait_for("/torrent/org/model", 200).await;
    hub.end().await;
    let kept = stage.dir.path().join("cache/hf/torrents");
    let is_kept = || std::fs::read_dir(&kept).is_ok_and(|mut found| found.next().is_some());
    assert!(is_kept());
    upstream.set_access(RepoKind::Model, "org/model", Access::Private);
    let hub = start(&stage, &upstream).await;
    stage::until("it is kept no more", || !is_kept() && hub.hub.session().torrents().is_empty()).await;
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_peers_tell_the_tracker_of_each_other_is_added_up() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    hub.wait_for("/torrent/org/model", 200).await;
    let status = until(&hub, "org/model", |status| status["is_seeded"] == true).await;
    let hash = status["info_hash"].as_str().expect("a hash");
    let encoded: String = (0..20).map(|at| format!("%{}", &hash[2 * at..2 * at + 2])).collect();
    for (peer, uploaded, event) in [
        ('a', 0, "started"),
        ('b', 0, "started"),
        ('a', 700_000, ""),
        ('b', 50_000, "stopped"),
        ('a', 800_000, ""),
    ] {
        let id = peer.to_string().repeat(20);
        let query =
            format!("info_hash={encoded}&peer_id={id}&port=1&downloaded=0&left=0&uploaded={uploaded}");
        let answer = hub.get(&format!("/announce?{query}&event={event}")).await;
        assert!(answer.status == 200 && !answer.text().contains("failure"), "{}", answer.text());
    }
    assert_eq!(json(&hub.get("/hf-stats").await)["exchanged_bytes"], 850_000);
    let metrics = hub.get("/metrics").await.text();
    assert!(metrics.contains("\nwtfs_hf_exchanged_bytes_total 850000\n"), "{metrics}");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_does_not_take_all_the_places_where_torrents_are_prepared() {
    let stage = Stage::new();
    let mut builder = HfHub::builder();
    for n in 0..20 {
        builder = builder.model(&format!("org/m{n}")).ramp("slow.bin", n, 100_000);
    }
    let upstream = builder.model("org/quick").ramp("quick.bin", 99, 100_000).start();
    upstream.fault(Fault::cdn(FaultKind::Delay(Duration::from_secs(600))).path("*slow*"));
    let mut config = before(&stage, &upstream);
    config.trusted_proxies = TrustedProxies::parse(["127.0.0.1"]).expect("an address");
    let hub = Served::start(config).await;
    let greedy = ["X-Forwarded-For: 192.0.2.1"];
    let mut refused = Vec::new();
    for n in 0..20 {
        let answer = hub.ask("GET", &format!("/torrent/org/m{n}"), &greedy).await;
        match answer.status {
            202 => assert!(refused.is_empty(), "{n}"),
            _ => refused.push(answer),
        }
    }
    assert_eq!(refused.len(), 4);
    for answer in &refused {
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("10")), "{}", answer.text());
        let text = json(answer)["error"].as_str().expect("a text").to_owned();
        assert!(text.starts_with("16 torrents that you asked for are being prepared"), "{text}");
    }
    // What is being prepared already is told of all the same.
    assert_eq!(hub.ask("GET", "/torrent/org/m3", &greedy).await.status, 202);
    // Another client has a place, and a turn.
    let other = ["X-Forwarded-For: 192.0.2.2"];
    let start = Instant::now();
    while hub.ask("GET", "/torrent/org/quick", &other).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "it has no turn");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_torrent_of_what_is_here_is_the_first_answer_and_nobody_waits_for_what_is_not() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    let encoded = "sub%20dir/we%20ird%231%25.safetensors";
    let file = format!("/org/model/resolve/main/{encoded}");
    assert_eq!(hub.get(&file).await.status, 200);
    until_whole(&hub, &file, &[]).await;
    // Neither is there to be fetched any more.
    let late = FaultKind::Delay(Duration::from_secs(600));
    upstream.fault(Fault::cdn(late.clone()));
    upstream.fault(Fault::hub(late).path("*/resolve/*"));
    let torrent = hub.get(&format!("/torrent/org/model/{encoded}")).await;
    assert_eq!(torrent.status, 200, "{}", torrent.text());
    assert_eq!(metainfo(&torrent).info.display_total(), BIG_BYTES);
    let other = hub.get("/torrent/org/other").await;
    assert_eq!((other.status, &json(&other)["state"]), (202, &"preparing".into()));
    hub.stop.cancel();
    hub.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_came_one_by_one_make_a_torrent_once_all_are_here() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = start(&stage, &upstream).await;
    for file in
        ["config.json", "a-b.txt", "a/b.txt", "pkg/__init__.py", "sub%20dir/we%20ird%231%25.safetensors"]
    {
        let answer = hub.get(&format!("/org/model/resolve/main/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
    }
    let status = until(&hub, "org/model", |status| status["is_seeded"] == true).await;
    assert_eq!(status["state"], "ready");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_had_to_go_takes_the_seed_along_and_leaves_the_torrent() {
    let (stage, upstream) = (Stage::new(), upstream());
    let mut config: HubConfig = before(&stage, &upstream);
    config.session.cache_bytes = Some(2_500_000);
    let hub = Served::start(config).await;
    let torrent = metainfo(&hub.wait_for("/torrent/org/model", 200).await);
    until(&hub, "org/model", |status| status["is_seeded"] == true).await;
    assert_eq!(hub.get("/org/other/resolve/main/other.bin").await.body.len(), 1_800_000);
    let status = until(&hub, "org/model", |status| status["is_seeded"] == false).await;
    assert_eq!(status["state"], "ready");
    assert_eq!(metainfo(&hub.get("/torrent/org/model").await).hashes, torrent.hashes);
    // Asked for again it comes again.
    let file = "/org/model/resolve/main/sub%20dir/we%20ird%231%25.safetensors";
    assert_eq!(hub.get(file).await.body.len() as u64, BIG_BYTES);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_that_cannot_be_made_says_why() {
    let (stage, upstream) = (Stage::new(), upstream());
    let mut config = before(&stage, &upstream);
    config.session.cache_bytes = Some(1_000_000);
    config.session.read_timeout = Duration::from_secs(3);
    let hub = Served::start(config).await;
    let answer = hub.wait_for("/torrent/org/model", 503).await;
    let status = json(&answer);
    assert_eq!(status["state"], "failed");
    assert!(status["reason"].as_str().expect("a reason").contains("the cache holds"), "{status}");
    upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 5 }));
    upstream.fault(Fault::hub(FaultKind::Corrupt { at: 2 }).path("*a.csv*"));
    let answer = hub.wait_for("/torrent/datasets/org/data", 503).await;
    assert_eq!(json(&answer)["state"], "failed", "{}", answer.text());
    hub.end().await;
}
