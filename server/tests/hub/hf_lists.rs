//! Lists of repositories through the proxy: upstream's, by pages of this hub, and to each caller what upstream tells it.

use serde_json::Value;
use wtfs_server::{HfMode, HubConfig};
use wtfs_testkit::hf_hub::HfHub;

use crate::hf::before;
use crate::stage::{Answer, Served, Stage};

const ADA: &str = "Authorization: Bearer hf_ada";

fn upstream() -> HfHub {
    let mut builder = HfHub::builder().account("ada", "hf_ada").page_size(3).with_xet();
    for n in 0..7 {
        builder = builder.model(&format!("org/bert-{n}")).ramp("model.bin", n, 1000);
    }
    builder
        .model("other/bert")
        .file("config.json", "{}\n")
        .model("org/private-bert")
        .file("config.json", "{}\n")
        .private()
        .grant("hf_ada")
        .dataset("org/data")
        .file("a.csv", "1\n")
        .start()
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let list: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let list = list.as_array().expect("a list").iter();
    list.map(|entry| entry["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_listed_by_pages_of_this_hub() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(before(&stage, &upstream)).await;
    for prefix in ["", "/hf"] {
        let mut next = format!("{prefix}/api/models?search=BERT&author=org&full=true&evil=1&limit=1000");
        let mut all = Vec::new();
        loop {
            let page = hub.get(&next).await;
            all.extend(ids(&page));
            assert!(
                !page.text().contains("xet") && !page.text().contains(&upstream.endpoint()),
                "{}",
                page.text()
            );
            let Some(link) = page.header("link") else { break };
            let at_us = format!("<http://hub.test:99{prefix}/api/models?");
            assert!(link.starts_with(&at_us) && link.ends_with(">; rel=\"next\""), "{link}");
            next =
                format!("{prefix}/api/models?{}", &link[at_us.len()..link.len() - ">; rel=\"next\"".len()]);
        }
        let expected: Vec<String> = (0..7).map(|n| format!("org/bert-{n}")).collect();
        assert_eq!(all, expected);
    }
    // Three pages, asked for once; and nothing that is not known goes upstream.
    let log = upstream.log();
    assert_eq!(log.of("/api/models*").count(), 3);
    assert_eq!(log.of("*evil*").count(), 0);
    assert_eq!(ids(&hub.get("/api/datasets").await), ["org/data"]);
    assert_eq!(ids(&hub.get("/api/spaces?search=x").await), Vec::<String>::new());
    assert_eq!(hub.ask("POST", "/api/models", &[]).await.status, 405);
    assert_eq!(hub.get(&format!("/api/models?search={}", "x".repeat(5000))).await.status, 400);
    assert_eq!(hub.get("/api/kernels").await.status, 404);
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_is_listed_what_upstream_tells_that_caller() {
    let (stage, upstream) = (Stage::new(), upstream());
    let hub = Served::start(before(&stage, &upstream)).await;
    let path = "/api/models?search=private";
    for _ in 0..2 {
        assert_eq!(ids(&hub.ask("GET", path, &[ADA]).await), ["org/private-bert"]);
        assert_eq!(ids(&hub.get(path).await), Vec::<String>::new());
    }
    assert_eq!(hub.ask("GET", path, &["Authorization: Bearer hf_nobody"]).await.status, 401);
    upstream.log().assert_no_token_at_cdn();
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_upstream_is_away_what_was_listed_lately_is_and_else_it_is_said() {
    let (stage, mut upstream) = (Stage::new(), upstream());
    let mut config: HubConfig = before(&stage, &upstream);
    let hub = Served::start(config.clone()).await;
    let known = "/api/models?search=bert-1";
    assert_eq!(ids(&hub.get(known).await), ["org/bert-1"]);
    upstream.stop();
    assert_eq!(ids(&hub.get(known).await), ["org/bert-1"]);
    let unknown = hub.get("/api/models?search=bert-2").await;
    assert!((500..=504).contains(&unknown.status), "{}", unknown.status);
    assert!(unknown.header("retry-after").is_some() && unknown.header("x-error-code").is_none());
    hub.end().await;
    config.hf.as_mut().expect("a proxy").mode = HfMode::Offline;
    let hub = Served::start(config).await;
    let offline = hub.get(known).await;
    assert_eq!(offline.status, 503);
    assert!(offline.text().contains("offline"), "{}", offline.text());
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_asked_for_by_another_name_is_served_at_once_and_its_name_is_told() {
    let stage = Stage::new();
    let upstream = HfHub::builder().model("org/new").file("a b.txt", "x\n").alias("old").start();
    let hub = Served::start(before(&stage, &upstream)).await;
    for (prefix, id) in [("", "old"), ("/hf", "ORG/new")] {
        let path = format!("{prefix}/{id}/resolve/main/a%20b.txt");
        for method in ["HEAD", "GET"] {
            let answer = hub.ask(method, &path, &[]).await;
            assert_eq!((answer.status, answer.header("location")), (200, None), "{method} {path}");
            let canonical = format!("http://hub.test:99{prefix}/org/new/resolve/main/a%20b.txt");
            assert_eq!(answer.header("content-location"), Some(&*canonical), "{method} {path}");
        }
        let info = hub.get(&format!("{prefix}/api/models/{id}")).await;
        let json: Value = serde_json::from_slice(&info.body).expect("JSON");
        assert_eq!((info.status, &json["id"]), (200, &"org/new".into()));
        let canonical = format!("http://hub.test:99{prefix}/api/models/org/new/revision/main");
        assert_eq!(info.header("content-location"), Some(&*canonical));
    }
    let own = hub.get("/org/new/resolve/main/a%20b.txt").await;
    assert_eq!((own.status, own.header("content-location")), (200, None));
    hub.end().await;
}
