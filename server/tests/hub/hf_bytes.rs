//! Bytes of files through the proxy: one copy from upstream however many ask and however they leave, within limits, and
//! with the hub's own token only for whom it is.

use std::time::Duration;

use futures_util::future::join_all;
use wtfs_testkit::hf_hub::{Access, Fault, FaultKind, HfHub, RepoKind, Side};
use wtfs_testkit::ramp::Ramp;

use crate::hf::{before, until_whole};
use crate::stage::{PATIENCE, Served, Stage};

const FILE: &str = "/org/model/resolve/main/model.bin";
const BYTES: u64 = 36_000_000;

fn upstream() -> HfHub {
    HfHub::builder()
        .account("ada", "hf_ada")
        .model("org/model")
        .ramp("model.bin", 5, BYTES)
        .model("org/gated")
        .file("a.txt", "closed\n")
        .gated()
        .grant("hf_ada")
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_for_a_cold_file_at_once_get_it_from_one_copy() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(before(&stage, &upstream)).await;
    let expected = Ramp::new(5).bytes(0, usize::try_from(BYTES).expect("fits"));
    let asks = (0..16).map(|_| async {
        let answer = hub.get(FILE).await;
        assert!(answer.status == 200 && answer.body == expected, "{}", answer.status);
    });
    join_all(asks).await;
    let sent = upstream.log().at(Side::Cdn).sent_bytes();
    // What was sent ahead of a request that is then cut short is lost: the more of it the more often the machine stops.
    assert!(sent < 2 * BYTES, "{sent} bytes of {BYTES}");
    upstream.log().assert_identity();
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_cold_file_that_are_asked_for_all_over_it_are_right() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(before(&stage, &upstream)).await;
    let asks = (0..40_u64).map(|n| {
        let hub = &hub;
        async move {
            let start = n * 7_654_321 % BYTES;
            let end = (start + 1 + n * 100_003).min(BYTES);
            let range = format!("Range: bytes={start}-{}", end - 1);
            let answer = hub.ask("GET", FILE, &[&range]).await;
            assert_eq!((answer.status, answer.body.len() as u64), (206, end - start), "{range}");
            Ramp::new(5).check(start, &answer.body).unwrap_or_else(|wrong| panic!("{range}: {wrong}"));
        }
    });
    join_all(asks).await;
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_goes_on_when_who_asked_for_it_has_gone() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(before(&stage, &upstream)).await;
    upstream.fault(Fault::cdn(FaultKind::Hold { at: BYTES / 2 }));
    let mut stream = hub.send(&format!("GET {FILE} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    stream.until(|answer| answer.body.len() >= 1000).await;
    drop(stream);
    hub.until_metric(r#"wtfs_http_cut_responses_total{area="hugging_face"} 1"#).await;
    upstream.clear_faults();
    until_whole(&hub, FILE, &[]).await;
    upstream.clear_log();
    let answer = hub.get(FILE).await;
    assert_eq!((answer.status, answer.body.len() as u64), (200, BYTES));
    Ramp::new(5).check(0, &answer.body).expect("the right bytes");
    assert_eq!(upstream.log().at(Side::Cdn).count(), 0);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_begun_before_its_file_was_thrown_away_is_not_gone_on_with_and_one_begun_since_is() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(before(&stage, &upstream)).await;
    upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 10 }).times(1));
    // It cannot have been judged before the client has the wrong byte, and breaks off by itself.
    upstream.fault(Fault::cdn(FaultKind::Hold { at: BYTES / 2 }));
    let mut stream = hub.send(&format!("GET {FILE} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    let begun = stream.until(|answer| answer.body.len() > 1000).await;
    assert_eq!(Ramp::new(5).check(0, &begun.body).expect_err("the wrong byte").offset, 10);
    drop(stream);
    hub.until_metric(r#"wtfs_http_cut_responses_total{area="hugging_face"} 1"#).await;
    let resume = format!("Range: bytes={}-", begun.body.len());
    upstream.clear_faults();
    hub.until_metric("wtfs_hf_corrupt_total 1").await;
    let head = hub.ask("HEAD", FILE, &[]).await;
    let tag = format!("If-Range: {}", head.header("etag").expect("a tag"));
    let probe = hub.ask("GET", FILE, &["Range: bytes=0-0"]).await;
    assert_eq!((probe.status, probe.body.len()), (206, 1));
    for headers in [&[&resume[..]][..], &[&resume, &tag]] {
        let refused = hub.ask("GET", FILE, headers).await;
        assert_eq!(refused.status, 502, "{headers:?}: {}", refused.text());
    }
    assert_eq!(
        hub.ask("GET", FILE, &["Range: bytes=1000-1999"]).await.status,
        206,
        "it reads here and there"
    );
    hub.end().await;
    // Also by who was not there then.
    let hub = Served::start(before(&stage, &upstream)).await;
    assert_eq!(hub.ask("GET", FILE, &[&resume]).await.status, 502);
    let again = hub.get(FILE).await;
    assert_eq!(again.status, 200);
    Ramp::new(5).check(0, &again.body).expect("the right bytes");
    let resumed = hub.ask("GET", FILE, &[&resume, &tag]).await;
    assert_eq!((resumed.status, resumed.body.len() as u64), (206, BYTES - begun.body.len() as u64));
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_its_share_of_cold_files_under_way_is_told_to_wait_and_warm_ones_are_not_counted() {
    let (stage, upstream) = (Stage::new(), upstream());
    let mut config = before(&stage, &upstream);
    config.hf.as_mut().expect("a proxy").fetches_per_client = 1;
    let hub = Served::start(config).await;
    upstream.fault(Fault::cdn(FaultKind::Stall { after: 2_000_000 }));
    let mut stream = hub.send(&format!("GET {FILE} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    stream.until(|answer| answer.body.len() >= 1000).await;
    let busy = hub.ask("GET", FILE, &["Range: bytes=30000000-30000009"]).await;
    assert_eq!(busy.status, 429, "{}", busy.text());
    assert!(busy.header("retry-after").is_some());
    assert_eq!(hub.ask("HEAD", FILE, &[]).await.status, 200);
    drop(stream);
    upstream.clear_faults();
    // The place is free again once the hub knows that the client has gone.
    hub.wait_for(FILE, 200).await;
    let both = async {
        loop {
            let (one, other) = tokio::join!(hub.get(FILE), hub.get(FILE));
            if (one.status, other.status) == (200, 200) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("it is warm once it is durable");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_own_token_opens_what_it_may_for_its_audience_and_for_no_page() {
    let (stage, upstream) = (Stage::new(), upstream());
    let token = stage.dir.path().join("token");
    std::fs::write(&token, "hf_ada\n").expect("written");
    let mut config = before(&stage, &upstream);
    config.hf.as_mut().expect("a proxy").token_file = Some(token.clone());
    let hub = Served::start(config).await;
    let file = "/org/gated/resolve/main/a.txt";
    let own = hub.ask("GET", file, &["Host: localhost"]).await;
    assert_eq!((own.status, own.text().as_str()), (200, "closed\n"));
    for headers in [
        &["Host: evil.example"][..],
        &["Host: localhost", "Origin: http://evil.example"],
        &["Host: localhost", "Sec-Fetch-Site: cross-site"],
        &["Host: localhost", "X-Forwarded-For: 192.0.2.1"],
    ] {
        assert_eq!(hub.ask("GET", file, headers).await.status, 401, "{headers:?}");
    }
    upstream.log().assert_no_token_at_cdn();
    upstream.revoke(RepoKind::Model, "org/gated", "hf_ada");
    hub.end().await;
    std::fs::write(&token, "not a token\n").expect("written");
    let mut config = before(&stage, &upstream);
    config.hf.as_mut().expect("a proxy").token_file = Some(token);
    let error = wtfs_server::Hub::open(config).await.expect_err("no token");
    assert!(!error.to_string().contains("not a token"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_repository_that_was_opened_upstream_is_asked_once_however_many_read_while_it_does_not_say() {
    let (stage, upstream) = (Stage::new(), upstream());
    let mut config = before(&stage, &upstream);
    let hf = config.hf.as_mut().expect("a proxy");
    (hf.ref_ttl, hf.public_ttl, hf.denial_ttl) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let hub = Served::start(config).await;
    let file = "/org/gated/resolve/main/a.txt";
    let token = "Authorization: Bearer hf_ada";
    assert_eq!(hub.ask("GET", file, &[token]).await.text(), "closed\n");
    until_whole(&hub, file, &[token]).await;
    upstream.set_access(RepoKind::Model, "org/gated", Access::Public);
    upstream.fault(Fault::hub(FaultKind::Status(500)).path("*/resolve/*"));
    upstream.clear_log();
    for answer in join_all((0..8).map(|_| hub.get(file))).await {
        assert_eq!((answer.status, answer.text().as_str()), (200, "closed\n"));
    }
    assert_eq!(hub.get(file).await.status, 200);
    let asked = upstream.log().at(Side::Hub).of("*/resolve/*").count();
    upstream.clear_faults();
    assert_eq!(asked, 1);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_repository_whose_listing_takes_long_is_found_by_itself() {
    let (stage, upstream) = (Stage::new(), upstream());
    let mut config = before(&stage, &upstream);
    config.hf.as_mut().expect("a proxy").patience = Duration::from_secs(20);
    let hub = Served::start(config).await;
    upstream.fault(Fault::hub(FaultKind::Delay(Duration::from_secs(600))).path("*/tree/*"));
    let head = hub.ask("HEAD", FILE, &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("36000000")));
    let part = hub.ask("GET", FILE, &["Range: bytes=30000000-30000099"]).await;
    assert_eq!(part.status, 206);
    Ramp::new(5).check(30_000_000, &part.body).expect("the right bytes");
    // What it does not say is waited for: nothing is said not to exist because a listing is slow.
    assert_eq!(hub.get("/org/model/resolve/main/absent.bin").await.status, 504);
    hub.stop.cancel();
    hub.hub.shutdown().await;
}
