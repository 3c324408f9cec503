//! The hub's numbers reach whoever may see them: as events for a bounded number of viewers, none of whom holds up its end.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wtfs_server::{Audience, TrustedProxies};

use super::stage::{PATIENCE, Served, Stage, ask};

/// A viewer of the stream, once it has heard something.
async fn viewer(served: &Served) -> TcpStream {
    let mut stream = TcpStream::connect(served.addr).await.expect("connects");
    stream.write_all(b"GET /stats/stream HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
    assert!(hear(&mut stream, "\n\n").await.contains("event: stats"));
    stream
}

/// Reads until a text has come.
async fn hear(stream: &mut TcpStream, text: &str) -> String {
    let mut heard = Vec::new();
    let all = async {
        while !String::from_utf8_lossy(&heard).contains(text) {
            let mut part = [0; 4096];
            let bytes = stream.read(&mut part).await.expect("goes on");
            assert!(bytes > 0, "ended: {}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&part[..bytes]);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("in time");
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn a_viewer_hears_of_what_comes_and_is_let_go_at_once_at_the_end() {
    let stage = Stage::new();
    let mut config = stage.config();
    // For those who download: a viewer is not waited for.
    config.serving.grace = Duration::from_secs(3600);
    let served = Served::start(config).await;
    let mut stream = viewer(&served).await;
    stage.write("new", &[1; 20_000]);
    hear(&mut stream, "\"ready\":1").await;
    served.stop.cancel();
    tokio::time::timeout(PATIENCE, served.serving)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("ends well");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("closed in good order");
    assert!(rest.ends_with(b"0\r\n\r\n"), "the stream has an end");
    served.hub.shutdown().await;
}

/// A viewer behind a proxy; `None` if it is not let in.
async fn view_as(served: &Served, address: u8) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(served.addr).await.expect("connects");
    let request =
        format!("GET /stats/stream HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.{address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let head = hear(&mut stream, "\r\n\r\n").await;
    head.starts_with("HTTP/1.1 200").then_some(stream)
}

#[tokio::test]
async fn there_are_no_more_viewers_than_seats_and_one_who_goes_leaves_a_seat() {
    let stage = Stage::new();
    let mut config = stage.config();
    config.serving.connections_per_ip = 1000;
    config.trusted_proxies = TrustedProxies::parse(["127.0.0.0/8"]).expect("a network");
    let served = Served::start(config).await;
    let mut viewers = Vec::new();
    for address in 0..16 {
        for _ in 0..16 {
            viewers.push(view_as(&served, address).await.expect("its share"));
        }
        assert!(view_as(&served, address).await.is_none(), "more than its share");
    }
    assert!(view_as(&served, 16).await.is_none(), "more than there are");
    // They can ask without a stream, for numbers that are a second old at most.
    let began = Instant::now();
    loop {
        let stats: Value = serde_json::from_slice(&served.get("/stats").await.body).expect("JSON");
        assert_eq!(stats["version"], 1);
        if stats["hub"]["viewers"] == 256 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{stats}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    viewers.pop();
    while view_as(&served, 16).await.is_none() {
        assert!(began.elapsed() < PATIENCE, "the seat was never free again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    served.end().await;
}

#[tokio::test]
async fn the_table_shows_who_announced_and_the_history_has_equal_columns() {
    let stage = Stage::new();
    stage.write("b.bin", &[1; 50_000]);
    stage.write("a.bin", &[2; 70_000]);
    let served = stage.start().await;
    let hash = served.hash_of("a.bin").await;
    served.hash_of("b.bin").await;
    let escaped: String =
        hash.as_bytes().chunks(2).map(|two| format!("%{}", String::from_utf8_lossy(two))).collect();
    let announce = format!("/announce?info_hash={escaped}&peer_id=-XX0000-abcdefghijkl&port=7000&left=5");
    assert_eq!(served.get(&announce).await.status, 200);
    let began = Instant::now();
    loop {
        let answer = served.get("/stats/torrents?sort=peers&order=desc&q=bin").await;
        let page: Value = serde_json::from_slice(&answer.body).expect("JSON");
        if page["rows"][0]["leechers"] == 1 {
            assert_eq!((&page["rows"][0]["name"], &page["matching"]), (&"a.bin".into(), &2.into()));
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stats: Value = serde_json::from_slice(&served.get("/stats").await.body).expect("JSON");
    assert!(stats["addresses"]["loopback"].as_u64().is_some_and(|count| count >= 1), "{stats}");
    let history: Value = serde_json::from_slice(&served.get("/stats/history").await.body).expect("JSON");
    let times = history["unix_s"].as_array().expect("a column").len();
    for column in history["series"].as_array().expect("columns") {
        assert_eq!(column["values"].as_array().expect("a column").len(), times);
    }
    served.end().await;
}

#[tokio::test]
async fn who_is_not_among_the_audience_sees_no_numbers_but_may_use_the_tracker() {
    let stage = Stage::new();
    let mut config = stage.config();
    config.stats_audience = Audience::parse(["192.0.2.0/24"]).expect("a network");
    config.metrics_audience = Audience::parse([]).expect("nobody");
    let served = Served::start(config).await;
    for path in [
        "/",
        "/stats",
        "/stats/stream",
        "/stats/torrents",
        "/stats/history",
        "/assets/dashboard.js",
        "/metrics",
    ] {
        assert_eq!(served.ask("GET", path, &["Accept: text/html"]).await.status, 403, "{path}");
    }
    for path in ["/announce", "/torrents", "/healthz"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    served.end().await;
}

#[tokio::test]
async fn below_a_path_of_another_application_the_page_finds_its_parts() {
    let stage = Stage::new();
    let served = stage.start().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let app = axum::Router::new().nest("/some/hub", served.hub.router());
    let other = tokio::spawn(async move { axum::serve(listener, app).await });
    let page = ask(addr, "GET", "/some/hub", &["Accept: text/html"]).await;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    let script =
        text.split("<script src=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a script");
    assert_eq!(ask(addr, "GET", script, &[]).await.status, 200, "{script}");
    assert_eq!(ask(addr, "GET", "/some/hub/stats", &[]).await.status, 200);
    // That application does not tell clients' addresses: then nobody is of this machine.
    assert_eq!(ask(addr, "GET", "/some/hub/metrics", &[]).await.status, 403);
    other.abort();
    served.end().await;
}
