//! The client against an emulated hub, with what goes wrong upstream: each ends in the right bytes, or in the error that
//! says what is wrong.

use std::ops::Range;
use std::time::Duration;

use wtfs_proto::hf::{Commit, Depth, ErrorCode, FilePath, Repo, Revision};
use wtfs_testkit::hf_hub::{Access, Content, Fault, FaultKind, HfHub, HfHubBuilder, RepoKind};

use super::*;
use crate::http::{HttpConfig, ProxyPolicy};

const BIG: &str = "sub dir/we ird#1%.safetensors";
const BIG_BYTES: u64 = 300_000;

fn builder() -> HfHubBuilder {
    HfHub::builder()
        .model("org/name")
        .file("config.json", b"{\"a\":1}".to_vec())
        .file("empty", Vec::new())
        .ramp(BIG, 7, BIG_BYTES)
}

fn upstream_with(hub: &HfHub, change: impl FnOnce(&mut UpstreamConfig)) -> Upstream {
    let http = HttpConfig { proxies: ProxyPolicy::Direct, ..HttpConfig::default() };
    let mut config = UpstreamConfig::at(hub.endpoint());
    config.allowed_hosts = vec![hub.cdn_addr().to_string()];
    change(&mut config);
    Upstream::new(HttpClient::new(http).expect("a client"), config).expect("settings that work")
}

fn upstream(hub: &HfHub) -> Upstream {
    upstream_with(hub, |_| ())
}

fn repo(text: &str) -> Repo {
    Repo::parse(text).expect("a repository")
}

fn path(text: &str) -> FilePath {
    FilePath::parse(text).expect("a path")
}

fn main_of(hub: &HfHub) -> Commit {
    hub.commit_of(RepoKind::Model, "org/name", "main").parse().expect("a commit")
}

async fn read(mut body: RangeBody) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

/// A range of the large file.
async fn fetch(upstream: &Upstream, hub: &HfHub, range: Range<u64>) -> Result<Vec<u8>, UpstreamError> {
    let body = upstream.open(&repo("org/name"), main_of(hub), &path(BIG), range, BIG_BYTES, None).await?;
    read(body).await
}

fn ramp(range: Range<u64>) -> Vec<u8> {
    Content::ramp(7, BIG_BYTES).read(range.start, (range.end - range.start) as usize)
}

#[tokio::test]
async fn a_repository_is_described_listed_and_read() {
    let hub = builder().with_xet().start();
    let (upstream, org) = (upstream(&hub), repo("org/name"));
    let info = upstream.info(&org, &Revision::main(), None).await.expect("described");
    assert_eq!((info.id.as_str(), info.commit), ("org/name", main_of(&hub)));
    assert!(info.is_public() && !info.json.to_string().contains("xetHash"));
    let tree = upstream.tree(&org, info.commit, None).await.expect("listed");
    let big = tree.find(BIG).expect("it is there");
    assert_eq!(big.bytes, BIG_BYTES);
    assert_eq!(big.id.to_string(), Content::ramp(7, BIG_BYTES).sha256());
    assert_eq!(fetch(&upstream, &hub, 1000..5000).await.expect("read"), ramp(1000..5000));
    let small = tree.find("config.json").expect("it is there");
    let body = upstream.open(&org, info.commit, &small.path, 2..7, small.bytes, None).await.expect("begun");
    assert_eq!(body.range(), 2..7);
    assert_eq!(read(body).await.expect("read"), b"a\":1}");
    hub.log().assert_identity();
    assert_eq!(upstream.counters().file_bytes, 4005);
}

#[tokio::test]
async fn a_listing_is_followed_through_all_of_its_pages() {
    let mut builder = HfHub::builder().page_size(7).repo(RepoKind::Dataset, "org/many");
    for n in 0..40 {
        builder = builder.file(&format!("d{}/{n}.txt", n % 3), vec![0; n]);
    }
    let hub = builder.start();
    let upstream = upstream(&hub);
    let many = repo("datasets/org/many");
    let info = upstream.info(&many, &Revision::main(), None).await.expect("described");
    let tree = upstream.tree(&many, info.commit, None).await.expect("listed");
    assert_eq!((tree.files().len(), tree.directories().len(), tree.refused()), (40, 3, 0));
    assert_eq!(tree.list(Some(&path("d1")), Depth::Children).expect("listed").len(), 13);
    assert!(hub.log().of("*/tree/*").count() >= 6);
}

#[tokio::test]
async fn names_that_changed_and_kinds_of_refusal_are_told_apart() {
    let hub = builder()
        .alias("gpt2")
        .model("org/gated")
        .file("a", b"x".to_vec())
        .gated()
        .model("org/private")
        .private()
        .grant("hf_good")
        .model("org/disabled")
        .access(Access::Disabled)
        .account("somebody", "hf_good")
        .account("nobody", "hf_poor")
        .start();
    let upstream = upstream(&hub);
    let (good, bad) = (Token::parse("hf_good").expect("a token"), Token::parse("hf_bad").expect("a token"));
    let main = Revision::main();
    let renamed = upstream.info(&repo("gpt2"), &main, None).await.expect("found by another name");
    assert_eq!(renamed.id.as_str(), "org/name");
    let missing = |code| move |error: UpstreamError| matches!(error, UpstreamError::NotFound { code: is, .. } if is == code);
    let info = async |name: &str, revision: &str, token: Option<&Token>| {
        let revision = Revision::parse(revision).expect("a revision");
        upstream.info(&repo(name), &revision, token).await.expect_err(name)
    };
    assert!(missing(ErrorCode::RepoNotFound)(info("org/nothing", "main", None).await));
    assert!(missing(ErrorCode::RepoNotFound)(info("org/nothing", "main", Some(&good)).await));
    assert!(missing(ErrorCode::RepoNotFound)(info("org/private", "main", None).await));
    assert!(missing(ErrorCode::RevisionNotFound)(info("org/name", "nowhere", None).await));
    let unauthorized = info("org/name", "main", Some(&bad)).await;
    assert!(matches!(unauthorized, UpstreamError::Unauthorized { .. }), "{unauthorized:?}");
    let disabled = info("org/disabled", "main", None).await;
    assert!(matches!(disabled, UpstreamError::Disabled { .. }), "{disabled:?}");
    assert!(upstream.info(&repo("org/private"), &main, Some(&good)).await.expect("let in").is_private);

    let gated = upstream.info(&repo("org/gated"), &main, None).await.expect("its description is public");
    assert!(gated.is_gated);
    let (of_gated, a) = (repo("org/gated"), path("a"));
    for token in [None, Token::parse("hf_poor").ok()] {
        let open = upstream.open(&of_gated, gated.commit, &a, 0..1, 1, token.as_ref());
        let error = open.await.expect_err("its content is not");
        assert!(matches!(error, UpstreamError::Gated { .. }), "{error:?}");
    }
    let commit = main_of(&hub);
    let absent = upstream.open(&repo("org/name"), commit, &path("no"), 0..1, 1, None).await;
    let absent = absent.expect_err("no such file");
    let is_named = matches!(&absent, UpstreamError::NotFound { code: ErrorCode::EntryNotFound, commit: Some(is), .. } if *is == commit);
    assert!(is_named, "{absent:?}");
    for error in [unauthorized, disabled, absent] {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hf_") && !text.contains("/resolve/"), "{text}");
    }
}

#[tokio::test]
async fn a_token_goes_to_the_hub_and_to_nobody_else() {
    let hub = builder().account("somebody", "hf_good").start();
    let upstream = upstream(&hub);
    let token = Token::parse("hf_good").expect("a token");
    let (org, big) = (repo("org/name"), path(BIG));
    let open = upstream.open(&org, main_of(&hub), &big, 0..10, BIG_BYTES, Some(&token));
    assert_eq!(read(open.await.expect("begun")).await.expect("read"), ramp(0..10));
    hub.log().assert_no_token_at_cdn();
    assert!(hub.log().at(wtfs_testkit::hf_hub::Side::Cdn).count() > 0);
}

#[tokio::test]
async fn a_hub_that_sends_us_elsewhere_is_not_followed() {
    let inner = HfHub::builder().start();
    let elsewhere = [
        format!("{}/secret", inner.endpoint()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "https://127.0.0.1/".to_owned(),
        "https://evilhf.co/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "https://user:pw@huggingface.co/".to_owned(),
    ];
    for target in elsewhere {
        let hub = builder().start();
        hub.fault(Fault::hub(FaultKind::Redirect(target.clone())));
        let upstream = upstream(&hub);
        let error = fetch(&upstream, &hub, 0..10).await.expect_err(&target);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{target}: {error:?}");
        let error = upstream.info(&repo("org/name"), &Revision::main(), None).await.expect_err(&target);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{target}: {error:?}");
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("pw"), "{error}");
    }
    inner.log().assert_silent("it is not allowed");
    let hub = builder().start();
    hub.fault(Fault::hub(FaultKind::RedirectLoop));
    let error = fetch(&upstream(&hub), &hub, 0..10).await.expect_err("a loop");
    assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
}

#[tokio::test]
async fn the_next_page_of_a_listing_is_asked_for_where_we_may_go_only() {
    let inner = HfHub::builder().start();
    let hub = builder().start();
    let link = format!("<{}/api/models/org/name/tree/main>; rel=\"next\"", inner.endpoint());
    hub.fault(Fault::hub(FaultKind::Header("Link".to_owned(), link)).path("*/tree/*"));
    let error = upstream(&hub).tree(&repo("org/name"), main_of(&hub), None).await.expect_err("elsewhere");
    assert!(matches!(error, UpstreamError::Refused { .. }), "{error:?}");
    inner.log().assert_silent("it is not allowed");

    let hub = builder().start();
    let commit = main_of(&hub);
    let itself = format!("</api/models/org/name/tree/{commit}?recursive=true&limit=1000>; rel=\"next\"");
    hub.fault(Fault::hub(FaultKind::Header("Link".to_owned(), itself)).path("*/tree/*"));
    let error = upstream(&hub).tree(&repo("org/name"), commit, None).await.expect_err("without end");
    assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
}

#[tokio::test]
async fn pages_for_people_are_no_answers() {
    let hub = builder().start();
    hub.fault(Fault::new(FaultKind::Page("<html>Sign in to the wireless network</html>".to_owned())));
    let upstream = upstream(&hub);
    let error = upstream.info(&repo("org/name"), &Revision::main(), None).await.expect_err("a portal");
    assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
    let error = upstream.tree(&repo("org/name"), main_of(&hub), None).await.expect_err("a portal");
    assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
    let error = fetch(&upstream, &hub, 0..10).await.expect_err("a portal");
    assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_not_the_range_that_was_asked_for_is_asked_for_again_or_refused() {
    let hub = builder().start();
    let upstream = upstream(&hub);
    for kind in [FaultKind::BadRange { by: 5 }, FaultKind::Status(403), FaultKind::WrongLength(-3)] {
        hub.fault(Fault::cdn(kind.clone()).times(1));
        assert_eq!(
            fetch(&upstream, &hub, 100..200).await.expect("by another link"),
            ramp(100..200),
            "{kind:?}"
        );
    }
    hub.fault(Fault::cdn(FaultKind::NoRange));
    assert_eq!(fetch(&upstream, &hub, 200_000..200_100).await.expect("skipped to"), ramp(200_000..200_100));
    hub.clear_faults();
    for kind in [FaultKind::BadRange { by: 5 }, FaultKind::Header("X-Linked-Size".to_owned(), "5".to_owned())]
    {
        hub.fault(Fault::new(kind));
        let error = fetch(&upstream, &hub, 0..10).await.expect_err("never right");
        assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
        hub.clear_faults();
    }
    hub.fault(Fault::hub(FaultKind::Header("X-Repo-Commit".to_owned(), "b".repeat(40))));
    let error = fetch(&upstream, &hub, 0..10).await.expect_err("another commit");
    assert!(matches!(error, UpstreamError::Garbage { .. }), "{error:?}");
}

#[tokio::test]
async fn bytes_that_break_off_or_stall_are_told_from_the_end() {
    let hub = builder().start();
    let upstream = upstream_with(&hub, |config| config.idle_timeout = Duration::from_millis(300));
    let cases = [
        FaultKind::Truncate { after: 1000 },
        FaultKind::Reset { after: Some(1000) },
        FaultKind::Stall { after: 1000 },
    ];
    for kind in cases {
        hub.fault(Fault::cdn(kind.clone()).times(1));
        let mut body = upstream
            .open(&repo("org/name"), main_of(&hub), &path(BIG), 50..BIG_BYTES, BIG_BYTES, None)
            .await
            .expect("begun");
        let mut bytes = Vec::new();
        let error = loop {
            match body.next().await {
                Some(Ok(part)) => bytes.extend_from_slice(&part),
                Some(Err(error)) => break error,
                None => panic!("{kind:?}: it ended as if all were there"),
            }
        };
        assert!(error.is_transient(), "{error:?}");
        assert!(ramp(50..BIG_BYTES).starts_with(&bytes), "{kind:?}");
        assert!(body.next().await.is_none());
    }
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_for_what_it_tells_and_its_wait_is_told_for_what_it_gives() {
    let hub = builder().start();
    let upstream = upstream(&hub);
    let main = Revision::main();
    hub.fault(Fault::hub(FaultKind::Status(503)).times(2));
    upstream.info(&repo("org/name"), &main, None).await.expect("at the third try");
    hub.fault(Fault::hub(FaultKind::Status(500)));
    let error = upstream.info(&repo("org/name"), &main, None).await.expect_err("never");
    assert!(matches!(error, UpstreamError::Unavailable { status: 500, .. }), "{error:?}");
    hub.clear_faults();
    hub.fault(Fault::hub(FaultKind::RateLimit { seconds: 50 }));
    let error = upstream.info(&repo("org/name"), &main, None).await.expect_err("later");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(51)));
    let error = fetch(&upstream, &hub, 0..10).await.expect_err("later");
    assert!(matches!(error, UpstreamError::RateLimited { .. }), "{error:?}");
    let counters = upstream.counters();
    assert_eq!((counters.rate_limited, counters.failed), (2, 5));
}

#[tokio::test]
async fn silence_and_absence_are_told_apart() {
    let mut hub = builder().start();
    let quick = |config: &mut UpstreamConfig| config.answer_timeout = Duration::from_millis(200);
    hub.fault(Fault::new(FaultKind::Delay(Duration::from_secs(60))));
    let error = fetch(&upstream_with(&hub, quick), &hub, 0..10).await.expect_err("silent");
    assert!(matches!(error, UpstreamError::Timeout { .. }), "{error:?}");
    let commit = main_of(&hub);
    hub.stop();
    let open = upstream(&hub).open(&repo("org/name"), commit, &path(BIG), 0..10, BIG_BYTES, None).await;
    let error = open.expect_err("away");
    assert!(matches!(error, UpstreamError::Unreachable(_)) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn requests_are_passed_on_and_answered_whatever_the_status() {
    let hub = builder().account("somebody", "hf_good").start();
    let upstream = upstream(&hub);
    let token = Token::parse("hf_good").expect("a token");
    let refs = upstream.pass(ApiRequest::get("/api/models/org/name/refs"), None).await.expect("answered");
    assert_eq!(refs.status, 200);
    assert!(String::from_utf8_lossy(&refs.body).contains("refs/heads/main"));
    let who = upstream.pass(ApiRequest::get("/api/whoami-v2"), Some(&token)).await.expect("answered");
    assert!(String::from_utf8_lossy(&who.body).contains("somebody"));
    let form = ApiRequest {
        method: ApiMethod::Post,
        body: Some(("application/json", Bytes::from_static(br#"{"paths":["config.json","none"]}"#))),
        ..ApiRequest::get("/api/models/org/name/paths-info/main")
    };
    let answer = upstream.pass(form, None).await.expect("answered");
    assert!(String::from_utf8_lossy(&answer.body).contains("config.json"), "{answer:?}");
    let nothing =
        upstream.pass(ApiRequest::get("/api/models/org/nothing"), Some(&token)).await.expect("answered");
    assert_eq!((nothing.status, nothing.error_code), (404, Some(ErrorCode::RepoNotFound)));
    assert!(nothing.successful(Some(&token)).is_err());
    let file = repo("org/name").resolve_path(&Revision::main(), &path(BIG));
    let head = upstream.pass(ApiRequest::head(file), None).await.expect("answered");
    assert_eq!((head.status, head.commit), (302, Some(main_of(&hub))), "the CDN is not asked");
}

#[tokio::test]
async fn an_endpoint_may_have_a_path_and_must_be_one() {
    let http = || HttpClient::new(HttpConfig::default()).expect("a client");
    let config = UpstreamConfig::at("http://hub:8080/hf/");
    let upstream = Upstream::new(http(), config).expect("settings that work");
    assert_eq!((upstream.endpoint(), upstream.host().as_str()), ("http://hub:8080/hf", "hub:8080"));
    assert_eq!(upstream.url("/api/x", Some("a=b")).as_str(), "http://hub:8080/hf/api/x?a=b");
    for wrong in ["", "hub:8080", "ftp://hub", "http://", "http://u:p@hub", "http://hub/?a", "http://hub/#a"]
    {
        let result = Upstream::new(http(), UpstreamConfig::at(wrong));
        assert_eq!(result.expect_err(wrong), UpstreamSetupError::Endpoint);
    }
}
