//! Torrents of repositories that not everybody may read, where the hub was told to make them: private, in no list, and for
//! callers alone whom upstream lets in. Where it was not told, there are none: see `hf_swarm`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use wtfs_proto::metainfo::{Metainfo, Version};
use wtfs_server::{HubConfig, PrivateSwarms};
use wtfs_testkit::hf_hub::{Access, Content, Fault, FaultKind, HfHub, RepoKind};
use wtfs_torrent::{AddOptions, NetworkPolicy, Session, SessionConfig, Source, StorageKind};

use crate::hf::before;
use crate::stage::{self, Answer, PATIENCE, Served, Stage};

const ADA: &str = "Authorization: Bearer hf_ada";
const BOB: &str = "Authorization: Bearer hf_bob";
const BYTES: u64 = 500_000;
const FILE: &str = "/org/gated/resolve/main/model.bin";

fn upstream() -> HfHub {
    HfHub::builder()
        .account("ada", "hf_ada")
        .account("bob", "hf_bob")
        .model("org/gated")
        .file("config.json", "{}\n")
        .ramp("model.bin", 2, BYTES)
        .gated()
        .grant("hf_ada")
        .model("org/private")
        .ramp("other.bin", 3, BYTES)
        .private()
        .grant("hf_ada")
        .model("bob/trick")
        .ramp("mine.bin", 2, BYTES)
        .private()
        .grant("hf_bob")
        .start()
}

fn config(stage: &Stage, upstream: &HfHub, swarms: &[&str]) -> HubConfig {
    let mut config = before(stage, upstream);
    let hf = config.hf.as_mut().expect("a proxy");
    hf.private_swarms = PrivateSwarms::parse(swarms.iter().copied()).expect("ids");
    (hf.ref_ttl, hf.public_ttl, hf.grant_ttl, hf.denial_ttl) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    config
}

/// Asks until it is no longer being prepared.
async fn settled(hub: &Served, path: &str, headers: &[&str]) -> Answer {
    let asked = async {
        loop {
            let answer = hub.ask("GET", path, headers).await;
            if answer.status != 202 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it is prepared in time")
}

fn code(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("x-error-code"))
}

/// What a peer gets that knows the metainfo and these peers alone.
async fn read(stage: &Stage, torrent: &Metainfo, peers: Vec<SocketAddr>) -> Vec<u8> {
    let mut config = SessionConfig::new(stage.dir.path().join("reader"));
    config.network = NetworkPolicy::Online;
    config.listen.port = 0;
    config.listen.addrs = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    let session = Session::open(config).await.expect("opened");
    let options = AddOptions { storage: StorageKind::Memory, peers, ..AddOptions::default() };
    let alone = Metainfo { announce: Vec::new(), url_list: Vec::new(), ..torrent.clone() };
    let added = session.add(Source::Metainfo(Box::new(alone)), options).await.expect("added");
    let index = torrent.info.files.iter().position(|file| file.path.to_string() == "model.bin");
    let file = torrent.info.geometry.file(index.expect("listed")).expect("a file");
    let reader = added.open(file).expect("opened");
    let bytes = reader.read_at(0, u32::try_from(BYTES).expect("small")).await.expect("read");
    session.shutdown().await;
    bytes.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_was_named_has_private_torrents_for_who_may_read_it_alone() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(config(&stage, &upstream, &["org/gated"])).await;
    let torrent = settled(&hub, "/torrent/org/gated", &[ADA]).await;
    assert_eq!(torrent.status, 200, "{}", torrent.text());
    let torrent = Metainfo::parse(&torrent.body).expect("a torrent");
    assert!(torrent.info.is_private && torrent.info.version == Version::Hybrid);
    assert!(
        torrent.announce.iter().flatten().all(|url| url.contains("//hub.test:99/")),
        "its own tracker alone"
    );
    assert_eq!(torrent.url_list, ["http://hub.test:99/org/gated/resolve/"]);
    let hash = torrent.hashes.primary();
    for path in ["org/gated", "org/gated/model.bin"] {
        for route in ["torrent", "magnet", "model"] {
            let path = format!("/{route}/{path}");
            assert_eq!(code(&hub.get(&path).await), (401, Some("GatedRepo")), "{path}");
            assert_eq!(code(&hub.ask("GET", &path, &[BOB]).await), (403, Some("GatedRepo")), "{path}");
            assert_eq!(settled(&hub, &path, &[ADA]).await.status, 200, "{path}");
        }
    }
    // The web seed is the address of the file, and wants the token too.
    assert_eq!(code(&hub.get(FILE).await), (401, Some("GatedRepo")));
    assert_eq!(hub.ask("GET", FILE, &[ADA]).await.body.len() as u64, BYTES);
    // The hub's tracker has the hub itself as a seed, and nothing else that everybody sees has the info hash.
    stage::until("it is announced", || hub.hub.tracker().swarm(hash).is_some_and(|swarm| swarm.seeders == 1))
        .await;
    assert_eq!(hub.hub.session().torrents().len(), 2);
    for path in ["/torrents", "/hf-stats", "/stats", "/stats/torrents", "/metrics"] {
        let answer = hub.get(path).await;
        assert!(!answer.text().contains(&hash.to_string()), "{path}: {}", answer.text());
        assert!(!answer.text().contains("model.bin") && !answer.text().contains("org/gated"), "{path}");
    }
    let commit = upstream.commit_of(RepoKind::Model, "org/gated", "main");
    for path in [
        format!("/torrent/{hash}.torrent"),
        format!("/magnet/{hash}"),
        format!("/torrent/{commit}"),
        format!("/seed/{hash}/{commit}/model.bin"),
        format!("/files/{commit}/model.bin"),
    ] {
        assert_eq!(hub.get(&path).await.status, 404, "{path}");
    }
    let bytes = read(&stage, &torrent, hub.hub.session().listening().to_vec()).await;
    assert!(bytes == Content::ramp(2, BYTES).read(0, BYTES as usize));
    // Another repository was not named.
    let other = hub.ask("GET", "/torrent/org/private", &[ADA]).await;
    let status: Value = serde_json::from_slice(&other.body).expect("JSON");
    assert_eq!((other.status, &status["state"]), (403, &"restricted".into()));
    // A right that was taken back is none, although all is there.
    upstream.revoke(RepoKind::Model, "org/gated", "hf_ada");
    assert_eq!(code(&hub.ask("GET", "/torrent/org/gated", &[ADA]).await), (403, Some("GatedRepo")));
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn naming_the_hash_of_somebody_elses_file_makes_no_torrent_of_it() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(config(&stage, &upstream, &["all"])).await;
    assert_eq!(hub.ask("GET", FILE, &[ADA]).await.status, 200);
    // Upstream lists it there and does not give it.
    upstream.fault(Fault::hub(FaultKind::Status(403)).path("/bob/trick/resolve/*"));
    let refused = settled(&hub, "/torrent/bob/trick", &[BOB]).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(hub.hub.session().torrents().is_empty());
    // The one whose it is.
    assert_eq!(settled(&hub, "/torrent/org/gated/model.bin", &[ADA]).await.status, 200);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_torrent_outlives_a_restart_only_as_long_as_the_hub_is_told_to() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(config(&stage, &upstream, &["org/gated"])).await;
    assert_eq!(settled(&hub, "/torrent/org/gated", &[ADA]).await.status, 200);
    hub.end().await;
    let hub = Served::start(config(&stage, &upstream, &["org/gated"])).await;
    upstream.clear_log();
    assert_eq!(hub.ask("GET", "/torrent/org/gated", &[ADA]).await.status, 200, "without preparing it again");
    assert_eq!(hub.get("/torrent/org/gated").await.status, 401);
    assert_eq!(upstream.log().of("*/resolve/*").count(), 0);
    hub.end().await;
    for swarms in [&[][..], &["org/private"]] {
        let hub = Served::start(config(&stage, &upstream, swarms)).await;
        assert_eq!(hub.ask("GET", "/torrent/org/gated", &[ADA]).await.status, 403);
        assert_eq!(hub.get("/torrent/org/gated").await.status, 403);
        assert!(hub.hub.session().torrents().is_empty());
        hub.end().await;
    }
    let kept = std::fs::read_dir(stage.dir.path().join("cache/hf/torrents")).expect("a directory");
    assert_eq!(kept.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_opens_or_closes_has_another_torrent() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(config(&stage, &upstream, &["org/gated"])).await;
    let mut hashes = Vec::new();
    for (access, headers, is_private) in
        [(Access::Gated, &[ADA][..], true), (Access::Public, &[], false), (Access::Gated, &[ADA], true)]
    {
        upstream.set_access(RepoKind::Model, "org/gated", access);
        let torrent = settled(&hub, "/torrent/org/gated", headers).await;
        assert_eq!(torrent.status, 200, "{access:?}: {}", torrent.text());
        let torrent = Metainfo::parse(&torrent.body).expect("a torrent");
        assert_eq!(torrent.info.is_private, is_private);
        stage::until("the other one is gone", || hub.hub.session().torrents().len() == 1).await;
        let is_listed = hub.list().await.contains(&torrent.hashes.primary().to_string());
        assert_eq!(is_listed, !is_private);
        hashes.push(torrent.hashes);
    }
    assert!(hashes[0] == hashes[2] && hashes[0] != hashes[1]);
    hub.end().await;
}
