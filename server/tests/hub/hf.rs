//! The proxy of Hugging Face before an emulated one: who may see what, what it costs upstream, and what is served while
//! upstream is away.

use std::time::Duration;

use serde_json::Value;
use wtfs_proto::hf::ContentId;
use wtfs_server::{HfConfig, HfMode, HubConfig};
use wtfs_testkit::hf_hub::{Access, Content, Fault, FaultKind, HfHub, RepoKind, Side};
use wtfs_testkit::ramp::Ramp;
use wtfs_torrent::hf::blobs::{Blob, BlobError};

use crate::stage::{Answer, PATIENCE, Served, Stage};

const TOKEN: &str = "Authorization: Bearer hf_ada";
const OTHER: &str = "Authorization: Bearer hf_bob";

/// Upstream, and a hub before it.
pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) upstream: HfHub,
    pub(crate) hub: Served,
}

fn upstream() -> HfHub {
    HfHub::builder()
        .account("ada", "hf_ada")
        .account("bob", "hf_bob")
        .page_size(3)
        .model("org/model")
        .file("config.json", "{\"a\": 1}\n")
        .file("sub dir/we ird#1%.txt", "odd\n")
        .file("pkg/__init__.py", "")
        .file("pkg/page.html", "<script>alert(1)</script>\n")
        .ramp("model.safetensors", 1, 3_000_000)
        .tag("v1")
        .file("later.txt", "later\n")
        .alias("old-name")
        .model("org/gated")
        .file("config.json", "{}\n")
        .ramp("model.bin", 2, 2_000_000)
        .gated()
        .grant("hf_ada")
        .model("org/private")
        .file("config.json", "{}\n")
        .private()
        .grant("hf_ada")
        .model("org/gone")
        .file("config.json", "{}\n")
        .access(Access::Disabled)
        .dataset("org/data")
        .file("a.csv", "1,2\n")
        .with_xet()
        .start()
}

pub(crate) fn before(stage: &Stage, upstream: &HfHub) -> HubConfig {
    let mut config = stage.config();
    config.hf = Some(HfConfig {
        upstream: upstream.endpoint(),
        allowed_hosts: vec![upstream.cdn_addr().to_string()],
        // Tests wait for what they mean, however long the machine takes.
        patience: PATIENCE,
        ..HfConfig::default()
    });
    config
}

/// The blob behind a file that can be asked for.
pub(crate) async fn blob_of(hub: &Served, file: &str, headers: &[&str]) -> Blob {
    let head = hub.ask("HEAD", file, headers).await;
    let id = ContentId::from_etag(head.header("etag").expect("a tag")).expect("a hash");
    let bytes = head.header("content-length").expect("a length").parse().expect("a number");
    hub.hub.session().blobs().get(id, bytes)
}

/// Waits until all of a file is in the cache for good.
pub(crate) async fn until_whole(hub: &Served, file: &str, headers: &[&str]) {
    let blob = blob_of(hub, file, headers).await;
    tokio::time::timeout(PATIENCE, blob.whole()).await.expect("in time").expect("it becomes whole");
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut HfConfig)) -> Self {
        let (stage, upstream) = (Stage::new(), upstream());
        let mut config = before(&stage, &upstream);
        adjust(config.hf.as_mut().expect("a proxy"));
        let hub = Served::start(config).await;
        Self { stage, upstream, hub }
    }

    /// Another hub over the same cache.
    async fn restarted(self, adjust: impl FnOnce(&mut HfConfig)) -> Self {
        let Self { stage, upstream, hub } = self;
        hub.end().await;
        let mut config = before(&stage, &upstream);
        adjust(config.hf.as_mut().expect("a proxy"));
        let hub = Served::start(config).await;
        Self { stage, upstream, hub }
    }

    async fn get(&self, path: &str) -> Answer {
        self.hub.get(path).await
    }

    async fn with_token(&self, path: &str, token: &str) -> Answer {
        self.hub.ask("GET", path, &[token]).await
    }

    fn commit(&self, id: &str, revision: &str) -> String {
        self.upstream.commit_of(RepoKind::Model, id, revision)
    }
}

fn code(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("x-error-code"))
}

fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_served_at_the_root_and_below_hf_under_every_name_of_a_repository() {
    let world = World::new().await;
    let commit = world.commit("org/model", "main");
    for prefix in ["", "/hf"] {
        for id in ["org/model", "old-name", "ORG/Model"] {
            let info = parsed(&world.get(&format!("{prefix}/api/models/{id}")).await);
            assert_eq!((&info["id"], &info["sha"]), (&"org/model".into(), &Value::from(commit.as_str())));
            let at = parsed(&world.get(&format!("{prefix}/api/models/{id}/revision/v1")).await);
            assert_eq!(at["sha"], world.commit("org/model", "v1"));
            let odd = format!("{prefix}/{id}/resolve/main/sub%20dir/we%20ird%231%25.txt");
            let odd = world.hub.ask("HEAD", &odd, &[]).await;
            assert_eq!((odd.status, odd.header("x-repo-commit")), (200, Some(&*commit)), "{prefix} {id}");
            assert_eq!(odd.header("content-length"), Some("4"));
        }
        let data = parsed(&world.get(&format!("{prefix}/api/datasets/org/data/tree/main")).await);
        assert_eq!(data[0]["path"], "a.csv");
        let refs = parsed(&world.get(&format!("{prefix}/api/models/org/model/refs")).await);
        assert_eq!(refs["branches"][0]["targetCommit"], commit);
        let commits = parsed(&world.get(&format!("{prefix}/api/models/org/model/commits/main")).await);
        assert_eq!(commits[0]["id"], commit);
    }
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_paged_here_by_links_to_this_hub_and_costs_upstream_one_listing() {
    let world = World::new().await;
    for prefix in ["", "/hf"] {
        let mut paths = Vec::new();
        let mut next = format!("{prefix}/api/models/org/model/tree/main?recursive=True&limit=2");
        loop {
            let page = world.get(&next).await;
            let entries = parsed(&page);
            assert!(!page.text().contains("xet"), "{}", page.text());
            let of = |entry: &Value| entry["path"].as_str().expect("a path").to_owned();
            paths.extend(entries.as_array().expect("a list").iter().map(of));
            let Some(link) = page.header("link") else { break };
            let url = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("a link").0;
            assert!(link.ends_with("rel=\"next\""), "{link}");
            let at_us = format!("http://hub.test:99{prefix}/api/models/org/model/tree/main?");
            assert!(url.starts_with(&at_us), "{url}");
            next = url.strip_prefix("http://hub.test:99").expect("ours").to_owned();
        }
        let all = [
            "config.json",
            "later.txt",
            "model.safetensors",
            "pkg",
            "pkg/__init__.py",
            "pkg/page.html",
            "sub dir",
            "sub dir/we ird#1%.txt",
        ];
        assert_eq!(paths, all);
    }
    // Eight entries are three pages of upstream's.
    assert_eq!(world.upstream.log().of("*/tree/*").count(), 3);
    let expanded = world.get("/hf/api/models/org/model/tree/main?expand=true&recursive=true").await;
    assert!(parsed(&expanded)[0]["lastCommit"]["date"].is_string() && !expanded.text().contains("xet"));
    let next = expanded.header("link").expect("another page");
    assert!(next.starts_with("<http://hub.test:99/hf/api/models/org/model/tree/"), "{next}");
    let below = parsed(&world.get("/api/models/org/model/tree/main/pkg").await);
    assert_eq!(below.as_array().map(Vec::len), Some(2));
    let absent = world.get("/api/models/org/model/tree/main/none").await;
    assert_eq!(code(&absent), (404, Some("EntryNotFound")));
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_asked_for_by_forms_and_by_json_and_all_else_only_reads() {
    let world = World::new().await;
    let url = "/api/models/org/model/paths-info/main";
    let ask = async |kind: &str, body: &str| {
        let headers = [format!("Content-Type: {kind}"), format!("Content-Length: {}", body.len())];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        world.hub.ask_with_body("POST", url, &headers, body.as_bytes()).await
    };
    for (kind, body) in [
        ("application/x-www-form-urlencoded", "paths=config.json&paths=none&paths=pkg&expand=False"),
        ("application/json", "{\"paths\": [\"config.json\", \"none\", \"pkg/\"], \"expand\": false}"),
    ] {
        let entries = parsed(&ask(kind, body).await);
        assert_eq!(entries.as_array().map(Vec::len), Some(2), "{kind}");
        assert_eq!((&entries[0]["path"], &entries[1]["type"]), (&"config.json".into(), &"directory".into()));
    }
    // Asked for often, a path is told of once: a short question has no long answer.
    let often = format!("{{\"paths\": [{}\"pkg\"]}}", "\"config.json\",".repeat(5000));
    let entries = parsed(&ask("application/json", &often).await);
    assert_eq!(entries.as_array().map(Vec::len), Some(2));
    assert_eq!(ask("application/json", "[").await.status, 400);
    for (method, path) in [
        ("GET", url),
        ("POST", "/api/models/org/model"),
        ("PUT", "/org/model/resolve/main/config.json"),
        ("DELETE", "/hf/api/models/org/model"),
        ("POST", "/api/repos/create"),
    ] {
        assert_eq!(world.hub.ask(method, path, &["Content-Length: 0"]).await.status, 405, "{method} {path}");
    }
    for path in
        ["/api/agent-harnesses", "/hf", "/hf/", "/nothing", "/api/models/org/model/xet-read-token/main"]
    {
        assert_eq!(world.get(path).await.status, 404, "{path}");
    }
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_upstream_reaches_clients_as_they_know_it() {
    let world = World::new().await;
    let commit = world.commit("org/model", "main");
    for prefix in ["", "/hf"] {
        for (path, expected) in [
            ("/api/models/org/absent", (401, Some("RepoNotFound"))),
            ("/org/absent/resolve/main/config.json", (401, Some("RepoNotFound"))),
            ("/api/models/org/private", (401, Some("RepoNotFound"))),
            ("/api/models/org/model/revision/absent", (404, Some("RevisionNotFound"))),
            ("/org/model/resolve/absent/config.json", (404, Some("RevisionNotFound"))),
            ("/org/model/resolve/main/absent.json", (404, Some("EntryNotFound"))),
            ("/org/gated/resolve/main/config.json", (401, Some("GatedRepo"))),
            ("/api/models/org/gated/auth-check", (401, Some("GatedRepo"))),
            ("/api/models/org/gated", (200, None)),
            ("/api/models/org/gated/tree/main", (200, None)),
            ("/api/models/org/model/auth-check", (200, None)),
            ("/org/gone/resolve/main/config.json", (403, None)),
            ("/org/model/resolve/main/..%2f..%2fetc%2fpasswd", (404, None)),
            ("/org/model/resolve/main/../../../etc/passwd", (404, None)),
        ] {
            let path = format!("{prefix}{path}");
            for method in ["GET", "HEAD"] {
                let answer = world.hub.ask(method, &path, &[]).await;
                assert_eq!(code(&answer), expected, "{method} {path}: {}", answer.text());
            }
        }
        for (path, expected) in [
            ("/api/models/org/absent", (404, Some("RepoNotFound"))),
            ("/api/models/org/private", (404, Some("RepoNotFound"))),
            ("/org/gated/resolve/main/config.json", (403, Some("GatedRepo"))),
            ("/api/models/org/gated/auth-check", (403, Some("GatedRepo"))),
        ] {
            let path = format!("{prefix}{path}");
            let answer = world.with_token(&path, OTHER).await;
            assert_eq!(code(&answer), expected, "{path}: {}", answer.text());
        }
    }
    let entry = world.get("/org/model/resolve/main/absent.json").await;
    assert_eq!(entry.header("x-repo-commit"), Some(&*commit));
    let gone = world.get("/org/gone/resolve/main/config.json").await;
    assert_eq!(gone.header("x-error-message"), Some("Access to this resource is disabled."));
    assert_eq!(world.get("/api/whoami-v2").await.status, 401);
    assert_eq!(world.with_token("/api/whoami-v2", "Authorization: Bearer hf_nobody").await.status, 401);
    assert_eq!(parsed(&world.with_token("/api/whoami-v2", TOKEN).await)["name"], "ada");
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_closed_is_for_tokens_with_a_right_also_once_it_is_in_the_cache() {
    let world = World::with(|hf| hf.grant_ttl = Duration::ZERO).await;
    for id in ["gated", "private"] {
        let file = format!("/org/{id}/resolve/main/config.json");
        let got = world.with_token(&file, TOKEN).await;
        assert_eq!((got.status, got.text().as_str()), (200, "{}\n"), "{id}");
        let cache = got.header("cache-control").expect("a rule");
        assert!(cache.contains("private") && !cache.contains("public"), "{cache}");
        for method in ["GET", "HEAD"] {
            assert_eq!(world.hub.ask(method, &file, &[]).await.status, 401, "{id}");
            assert!(matches!(world.hub.ask(method, &file, &[OTHER]).await.status, 403 | 404), "{id}");
            let bad = world.hub.ask(method, &file, &["Authorization: Bearer hf_nobody"]).await;
            assert!(matches!(bad.status, 401 | 403 | 404), "{id}: {}", bad.status);
        }
        assert_eq!(world.with_token(&file, TOKEN).await.status, 200, "{id}");
        world.upstream.revoke(RepoKind::Model, &format!("org/{id}"), "hf_ada");
        assert!(matches!(world.with_token(&file, TOKEN).await.status, 403 | 404), "{id}");
    }
    world.upstream.log().assert_no_token_at_cdn();
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_upstream_is_away_what_was_public_is_served_and_nothing_is_said_not_to_exist() {
    let mut world = World::with(|hf| {
        hf.ref_ttl = Duration::ZERO;
        hf.public_ttl = Duration::ZERO;
        hf.grant_ttl = Duration::ZERO;
    })
    .await;
    let file = "/org/model/resolve/main/config.json";
    let (commit, gated) = (world.commit("org/model", "main"), "/org/gated/resolve/main/config.json");
    assert_eq!(world.get(file).await.status, 200);
    assert_eq!(world.get("/api/models/org/model/refs").await.status, 200);
    assert_eq!(world.with_token(gated, TOKEN).await.status, 200);
    // What follows is about what a hub keeps.
    until_whole(&world.hub, file, &[]).await;
    until_whole(&world.hub, gated, &[TOKEN]).await;
    world.upstream.stop();
    for _again in 0..2 {
        let stale = world.get(file).await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "{\"a\": 1}\n"));
        assert!(stale.header("x-hf-warning").is_some());
        assert_eq!(world.get(&format!("/org/model/resolve/{commit}/config.json")).await.status, 200);
        assert_eq!(world.get("/api/models/org/model/refs").await.status, 200);
        // A right that cannot be checked any more is none, and what is not known is not denied.
        for (path, token) in
            [(gated, TOKEN), ("/api/models/org/absent", TOKEN), ("/api/models/org/data", OTHER)]
        {
            let answer = world.with_token(path, token).await;
            assert!(matches!(answer.status, 503 | 504), "{path}: {}", answer.status);
            assert!(answer.header("retry-after").is_some() && answer.header("x-error-code").is_none());
        }
        assert_eq!(code(&world.get(gated).await), (401, Some("GatedRepo")));
    }
    // The same by a hub that was never asked for it, from the disk alone.
    let world = world.restarted(|hf| hf.mode = HfMode::Offline).await;
    let offline = &world.hub;
    let kept = offline.get(file).await;
    assert_eq!((kept.status, kept.text().as_str()), (200, "{\"a\": 1}\n"));
    assert_eq!(offline.get("/api/models/org/model").await.status, 200);
    assert_eq!(offline.get("/api/models/org/model/refs").await.status, 200);
    assert_eq!(offline.get("/api/models/org/gated").await.status, 200);
    assert_eq!(code(&offline.get(gated).await), (401, Some("GatedRepo")));
    assert_eq!(offline.ask("GET", gated, &[TOKEN]).await.status, 503);
    assert_eq!(offline.get("/api/models/org/absent").await.status, 503);
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_follows_upstream_after_its_time_and_a_commit_costs_nothing_again() {
    let world = World::with(|hf| hf.ref_ttl = Duration::ZERO).await;
    let (first, last) = (world.commit("org/model", "v1"), world.commit("org/model", "main"));
    let seen = async |revision: &str| {
        let answer = world.hub.ask("HEAD", &format!("/org/model/resolve/{revision}/config.json"), &[]).await;
        answer.header("x-repo-commit").expect("a commit").to_owned()
    };
    assert_eq!(seen("main").await, last);
    world.upstream.set_ref(RepoKind::Model, "org/model", "main", &first);
    assert_eq!(seen("main").await, first);
    assert_eq!(seen(&last).await, last);
    world.upstream.clear_log();
    assert_eq!(seen(&last).await, last);
    assert_eq!(seen(&first.to_uppercase()).await, first);
    world.upstream.log().assert_silent("a commit that is known");
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_ask_upstream_once_and_a_busy_upstream_is_no_missing_repository() {
    let world = World::new().await;
    let asks = (0..30).map(|_| world.hub.ask("HEAD", "/org/model/resolve/main/config.json", &[]));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(world.upstream.log().of("*/revision/*").count(), 1);
    assert_eq!(world.upstream.log().of("*/tree/*").count(), 3);
    for (fault, statuses) in [
        (FaultKind::Status(503), &[503][..]),
        (FaultKind::RateLimit { seconds: 60 }, &[429]),
        (FaultKind::Page("<html>sign in</html>".into()), &[502]),
        (FaultKind::Redirect("http://169.254.169.254/".into()), &[502]),
        (FaultKind::Redirect("file:///etc/passwd".into()), &[502]),
        (FaultKind::RedirectLoop, &[502]),
    ] {
        world.upstream.clear_faults();
        world.upstream.fault(Fault::hub(fault.clone()));
        let answer = world.get("/api/datasets/org/data").await;
        assert!(statuses.contains(&answer.status), "{fault:?}: {}: {}", answer.status, answer.text());
        assert_eq!(answer.header("x-error-code"), None, "{fault:?}");
    }
    world.upstream.clear_faults();
    assert_eq!(world.get("/api/datasets/org/data").await.status, 200);
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_file_is_fetched_once_verified_and_served_from_the_disk_afterwards() {
    let world = World::new().await;
    let file = "/org/model/resolve/main/model.safetensors";
    let cold = world.get(file).await;
    assert_eq!((cold.status, cold.body.len()), (200, 3_000_000));
    world.upstream.clear_log();
    let warm = world.get(file).await;
    assert!(warm.body == cold.body);
    let part = world.hub.ask("GET", file, &["Range: bytes=1000000-1999999"]).await;
    assert!(part.status == 206 && part.body[..] == cold.body[1_000_000..2_000_000]);
    // The same bytes by another name.
    let tagged = world.get("/hf/old-name/resolve/v1/model.safetensors").await;
    assert!(tagged.body == cold.body);
    assert_eq!(world.upstream.log().at(Side::Cdn).count(), 0);
    let page = world.get("/org/model/resolve/main/pkg/page.html").await;
    assert_eq!(page.header("content-type"), Some("application/octet-stream"));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("sandbox")));
    let pointer = world.get("/org/model/raw/main/model.safetensors").await;
    assert!(pointer.text().starts_with("version https://git-lfs"), "{}", pointer.text());
    assert_eq!(world.get("/org/model/raw/main/config.json").await.text(), "{\"a\": 1}\n");
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_corrupt_upstream_is_an_error_and_what_was_so_once_is_not_noticed() {
    let mut world = World::new().await;
    let file = "/org/model/resolve/main/model.safetensors";
    world.upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 1_500_000 }));
    let corrupt = world.get(file).await;
    assert_eq!(corrupt.status, 502, "{}", corrupt.body.len());
    let blob = blob_of(&world.hub, file, &[]).await;
    assert!(matches!(blob.verified().await, Err(BlobError::Corrupt)), "{blob:?}");
    world.upstream.clear_faults();
    // Nothing of it was kept: another hub over the same cache has to fetch all.
    world = world.restarted(|_| {}).await;
    world.upstream.clear_log();
    let right = world.get(file).await;
    assert_eq!((right.status, right.body.len()), (200, 3_000_000));
    assert!(world.upstream.log().at(Side::Cdn).sent_bytes() >= 3_000_000);
    world.upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 5 }).times(1));
    let gated = "/org/gated/resolve/main/model.bin";
    let once = world.with_token(gated, TOKEN).await;
    let again = world.with_token(gated, TOKEN).await;
    assert_eq!((once.status, once.body.len()), (200, 2_000_000));
    Ramp::new(2).check(0, &once.body).expect("the right bytes");
    assert!(once.body == again.body);
    let met = world.upstream.log().at(Side::Cdn).0.iter().filter(|asked| !asked.faults().is_empty()).count();
    assert_eq!(met, 1, "it was wrong once");
    world.hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_file_that_turns_out_to_be_wrong_ends_too_early_and_is_not_gone_on_with() {
    const BYTES: u64 = 40_000_000;
    let stage = Stage::new();
    let upstream = HfHub::builder().model("org/long").ramp("model.bin", 3, BYTES).start();
    let hub = Served::start(before(&stage, &upstream)).await;
    let file = "/org/long/resolve/main/model.bin";
    upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 10 }).times(1));
    // Not all of it can have come, and been judged, before the client has the wrong byte.
    upstream.fault(Fault::cdn(FaultKind::Hold { at: BYTES / 2 }));
    let mut stream = hub.send(&format!("GET {file} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
    let begun = stream.until(|answer| answer.body.len() > 10).await;
    assert_eq!(begun.status, 200);
    assert_eq!(Ramp::new(3).check(0, &begun.body).expect_err("the wrong byte").offset, 10);
    upstream.clear_faults();
    let cut = stream.finish().await;
    assert!((cut.body.len() as u64) < BYTES, "wrong bytes were given as a whole file");
    let resumed = hub.ask("GET", file, &[&format!("Range: bytes={}-", cut.body.len())]).await;
    assert_eq!(resumed.status, 502, "{}", resumed.text());
    let again = hub.get(file).await;
    assert_eq!((again.status, again.body.len() as u64), (200, BYTES));
    Ramp::new(3).check(0, &again.body).expect("the right bytes");
    assert_eq!(hub.ask("GET", file, &["Range: bytes=39999990-"]).await.status, 206);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_the_cache_is_passed_on_whole() {
    const BYTES: u64 = 24_000_000;
    let stage = Stage::new();
    let upstream = HfHub::builder().model("org/long").ramp("model.bin", 3, BYTES).start();
    let mut config = before(&stage, &upstream);
    config.session.cache_bytes = Some(16 << 20);
    config.session.max_readahead_bytes = 4 << 20;
    let hub = Served::start(config).await;
    let answer = hub.get("/org/long/resolve/main/model.bin").await;
    assert_eq!((answer.status, answer.body.len() as u64), (200, BYTES));
    Ramp::new(3).check(0, &answer.body).expect("the right bytes");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_of_a_slow_cold_file_come_at_once_and_its_head_waits_for_none() {
    const BYTES: u64 = 200_000_000;
    let stage = Stage::new();
    let vast = Content::Vast { seed: 4, len: BYTES };
    let upstream = HfHub::builder().model("org/vast").file("model.safetensors", vast).start();
    let hub = Served::start(before(&stage, &upstream)).await;
    upstream.fault(Fault::cdn(FaultKind::Delay(Duration::from_secs(600))));
    let file = "/org/vast/resolve/main/model.safetensors";
    let head = hub.ask("HEAD", file, &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("200000000")));
    assert_eq!(upstream.log().at(Side::Cdn).count(), 0);
    upstream.clear_faults();
    let hold = Fault::cdn(FaultKind::Hold { at: 100_000 });
    upstream.fault(Fault::cdn(FaultKind::Slow { rate: 1_000_000 }));
    upstream.fault(hold.clone());
    let mut stream = hub.send(&format!("GET {file} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    let begun = stream.until(|answer| answer.body.len() >= 64 << 10).await;
    Ramp::new(4).check(0, &begun.body).expect("the right bytes");
    drop(stream);
    upstream.faults().lock().expect("whole").retain(|fault| *fault != hold);
    // What comes before takes 150 s by now.
    // A part far away needs no more than its neighbourhood, and does not wait for what comes before it.
    let part = hub.ask("GET", file, &["Range: bytes=150000000-150000999"]).await;
    assert_eq!((part.status, part.body.len()), (206, 1000));
    Ramp::new(4).check(150_000_000, &part.body).expect("the right bytes");
    hub.stop.cancel();
    hub.hub.shutdown().await;
}
