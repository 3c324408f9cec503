//! A server is not held up by clients that are slow, silent or many, and finishes what it has begun.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stage::{PATIENCE, Served, Stage, answer, noise};

async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let end =
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("closed in time");
    // A reset is a close too.
    drop(end);
    received
}

#[tokio::test]
async fn a_response_that_has_begun_is_finished() {
    let stage = Stage::new();
    let content = noise(30 << 20);
    stage.write("f", &content);
    let served = stage.start().await;
    served.hash_of("f").await;
    let mut stream = TcpStream::connect(served.addr).await.expect("connects");
    stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
    let mut first = vec![0; 5000];
    stream.read_exact(&mut first).await.expect("begins");
    let mut idle = TcpStream::connect(served.addr).await.expect("connects");
    served.stop.cancel();
    assert!(closed(&mut idle).await.is_empty(), "who asked for nothing is let go");
    // New ones are refused while this one is still being served.
    let start = Instant::now();
    while TcpStream::connect(served.addr).await.is_ok() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.extend(closed(&mut stream).await);
    assert!(answer(&first).expect("an answer").body == content);
    served.serving.await.expect("no panic").expect("ends well");
    served.hub.shutdown().await;
}

#[tokio::test]
async fn a_response_that_nobody_takes_is_cut_off_after_the_grace_time() {
    let stage = Stage::new();
    stage.write("f", &noise(30 << 20));
    let mut config = stage.config();
    config.serving.grace = Duration::from_millis(300);
    let served = Served::start(config).await;
    served.hash_of("f").await;
    let mut stream = TcpStream::connect(served.addr).await.expect("connects");
    stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
    stream.read_exact(&mut [0; 100]).await.expect("begins");
    served.stop.cancel();
    tokio::time::timeout(PATIENCE, served.serving)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("ends well");
    assert!(closed(&mut stream).await.len() < 30 << 20);
    served.hub.shutdown().await;
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed_and_others_served() {
    let stage = Stage::new();
    let mut config = stage.config();
    config.serving.header_timeout = Duration::from_millis(500);
    let served = Served::start(config).await;
    let mut silent = TcpStream::connect(served.addr).await.expect("connects");
    let mut slow = TcpStream::connect(served.addr).await.expect("connects");
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: ").await.expect("sent");
    let mut idle = TcpStream::connect(served.addr).await.expect("connects");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
    assert_eq!(served.get("/healthz").await.status, 200);
    assert!(closed(&mut silent).await.is_empty());
    let told = closed(&mut slow).await;
    assert!(told.is_empty() || told.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&told));
    assert!(closed(&mut idle).await.ends_with(b"ok\n"));
    served.end().await;
}

#[tokio::test]
async fn who_takes_nothing_of_a_response_is_closed() {
    let stage = Stage::new();
    stage.write("f", &noise(30 << 20));
    let mut config = stage.config();
    config.serving.write_timeout = Duration::from_millis(200);
    let served = Served::start(config).await;
    served.hash_of("f").await;
    let mut stream = TcpStream::connect(served.addr).await.expect("connects");
    stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
    // Read from before that, it would have taken something.
    served.until_metric(r#"wtfs_http_cut_responses_total{area="web_seed"} 1"#).await;
    assert!(closed(&mut stream).await.len() < 30 << 20);
    served.end().await;
}

#[tokio::test]
async fn one_address_has_its_share_of_connections() {
    let stage = Stage::new();
    let mut config = stage.config();
    config.serving.connections_per_ip = 3;
    let served = Served::start(config).await;
    let mut seated = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(served.addr).await.expect("connects");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
        stream.read_exact(&mut [0; 12]).await.expect("served");
        seated.push(stream);
    }
    let mut fourth = TcpStream::connect(served.addr).await.expect("connects");
    let _reset = fourth.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(closed(&mut fourth).await.is_empty());
    seated.clear();
    // Its places are free again.
    let start = Instant::now();
    loop {
        let mut stream = TcpStream::connect(served.addr).await.expect("connects");
        let _reset = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        if closed(&mut stream).await.starts_with(b"HTTP/1.1 200") {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
    }
    served.end().await;
}

#[tokio::test]
async fn heads_without_end_and_nonsense_are_refused() {
    let stage = Stage::new();
    let served = stage.start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X-A: b\r\n".repeat(10_000));
    for (request, what) in [
        (long.as_str(), "a long path"),
        (many.as_str(), "many headers"),
        ("\0\0\0\0\r\n\r\n", "zeros"),
        ("GET /healthz HTTP/9.9\r\n\r\n", "a version to come"),
        ("GET /healthz HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "two lengths"),
    ] {
        let mut stream = TcpStream::connect(served.addr).await.expect("connects");
        let _reset = stream.write_all(request.as_bytes()).await;
        let told = closed(&mut stream).await;
        assert!(
            told.is_empty() || told.starts_with(b"HTTP/1.1 4"),
            "{what}: {}",
            String::from_utf8_lossy(&told).chars().take(80).collect::<String>()
        );
    }
    assert_eq!(served.get("/healthz").await.status, 200);
    served.end().await;
}
