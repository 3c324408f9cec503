//! Files over HTTP are given byte for byte, in the ranges asked for, and never a byte that is not the torrent's.

use std::fs;
use std::io::Write as _;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use tokio::net::TcpListener;

use super::stage::{Served, Stage, ask, noise};

/// Larger than what is copied at once, than a frame, and no multiple of either.
const LONG: usize = 3 * (1 << 20) + 12_345;

async fn check_ranges(addr: std::net::SocketAddr, path: &str, content: &[u8]) {
    let len = content.len();
    let whole = ask(addr, "GET", path, &[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, Some(&*len.to_string())));
    assert!(whole.body == content, "the whole file");
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=0-999", 0..1000),
        ("bytes=1000-40999", 1000..41_000),
        ("bytes=7-1048582", 7..1_048_583),
        ("bytes=-1", len - 1..len),
        ("bytes=-100000", len - 100_000..len),
        ("bytes=5-", 5..len),
        ("bytes=1048570-99999999999", 1_048_570..len),
    ];
    for (header, range) in cases {
        let answer = ask(addr, "GET", path, &[&format!("Range: {header}")]).await;
        assert_eq!(answer.status, 206, "{header}");
        let expected = format!("bytes {}-{}/{len}", range.start, range.end - 1);
        assert_eq!(answer.header("content-range"), Some(&*expected), "{header}");
        assert_eq!(answer.header("content-length"), Some(&*range.len().to_string()), "{header}");
        assert!(answer.body == content[range], "{header}");
    }
    for (header, status) in [("bytes=0-1,5-6", 200), ("items=0-1", 200), ("bytes=5-4", 200)] {
        let answer = ask(addr, "GET", path, &[&format!("Range: {header}")]).await;
        assert_eq!((answer.status, answer.body.len()), (status, len), "{header}");
    }
    let answer = ask(addr, "GET", path, &[&format!("Range: bytes={len}-")]).await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), Some(&*format!("bytes */{len}")));
    assert!(answer.body.is_empty());
    let head = ask(addr, "HEAD", path, &["Range: bytes=10-19"]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (206, Some("10"), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_range_is_right_by_hash_and_by_name_from_the_page_cache_and_copied() {
    let stage = Stage::new();
    let content = noise(LONG);
    stage.write("model/weights/a b.bin", &content);
    stage.write("model/config.json", b"{}");
    stage.write("single.bin", &content);
    let served = stage.start().await;
    let (model, single) = (served.hash_of("model").await, served.hash_of("single.bin").await);
    check_ranges(served.addr, &format!("/seed/{model}/model/weights/a%20b.bin"), &content).await;
    check_ranges(served.addr, &format!("/seed/{single}/single.bin"), &content).await;
    // As clients ask that do not append the name of a torrent's only file.
    check_ranges(served.addr, &format!("/seed/{single}/"), &content).await;
    assert_eq!(served.get(&format!("/seed/{model}/")).await.status, 404);
    check_ranges(served.addr, "/files/model/weights/a%20b.bin", &content).await;

    // In somebody else's application, which knows nothing of our connections.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let app: IntoMakeServiceWithConnectInfo<Router, std::net::SocketAddr> =
        Router::new().nest("/hub", served.hub.router()).into_make_service_with_connect_info();
    let strangers = tokio::spawn(async move { axum::serve(listener, app).await });
    check_ranges(addr, &format!("/hub/seed/{model}/model/weights/a%20b.bin"), &content).await;
    check_ranges(addr, "/hub/files/single.bin", &content).await;
    strangers.abort();
    served.end().await;
}

#[tokio::test]
async fn many_files_on_one_connection_come_in_order() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stage = Stage::new();
    let content = noise(LONG);
    stage.write("one", &content);
    let served = stage.start().await;
    served.hash_of("one").await;
    let mut stream = tokio::net::TcpStream::connect(served.addr).await.expect("connects");
    // Sent together, so that answers wait behind each other.
    let mut expected = Vec::new();
    let mut requests = String::new();
    for at in 0..20_usize {
        let range = at * 100_000..at * 100_000 + 1_000 + at * 50_000;
        requests += &format!(
            "GET /files/one HTTP/1.1\r\nHost: h\r\nRange: bytes={}-{}\r\n\r\n",
            range.start,
            range.end - 1
        );
        expected.push(&content[range]);
    }
    requests += "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.expect("sent");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.expect("received");
    let mut rest = received.as_slice();
    for bytes in expected {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        assert!(rest.starts_with(b"HTTP/1.1 206"));
        assert!(rest[end..end + bytes.len()] == *bytes);
        rest = &rest[end + bytes.len()..];
    }
    assert!(rest.starts_with(b"HTTP/1.1 200") && rest.ends_with(b"ok\n"));
    served.end().await;
}

#[tokio::test]
async fn an_answer_says_what_it_is_and_is_not_sent_again() {
    let stage = Stage::new();
    stage.write("page.html", b"<script>alert(1)</script>");
    stage.write("d/empty", b"");
    stage.write("d/x", b"x");
    let served = stage.start().await;
    let hash = served.hash_of("page.html").await;
    let d = served.hash_of("d").await;
    let path = format!("/seed/{hash}/page.html");
    let answer = served.get(&path).await;
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"page.html\""));
    assert!(answer.header("content-security-policy").is_some_and(|policy| policy.contains("sandbox")));
    let tag = answer.header("etag").expect("a tag").to_owned();
    assert_eq!(tag, format!("\"{hash}-0\""));
    let modified = answer.header("last-modified").expect("a date").to_owned();
    for header in [format!("If-None-Match: {tag}"), format!("If-Modified-Since: {modified}")] {
        let again = served.ask("GET", &path, &[&header]).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{header}");
        assert_eq!(again.header("etag"), Some(&*tag));
    }
    let other = served.ask("GET", &path, &["If-Match: \"x\""]).await;
    assert_eq!(other.status, 412);
    let range = ["Range: bytes=0-1", "If-Range: \"x\""];
    assert_eq!(served.ask("GET", &path, &range).await.status, 200);
    let range = ["Range: bytes=0-1".to_owned(), format!("If-Range: {tag}")];
    assert_eq!(served.ask("GET", &path, &[&range[0], &range[1]]).await.body, b"<s");
    let empty = served.get(&format!("/seed/{d}/d/empty")).await;
    assert_eq!((empty.status, empty.header("content-length"), empty.body.len()), (200, Some("0"), 0));
    let empty = served.ask("GET", &format!("/seed/{d}/d/empty"), &["Range: bytes=0-"]).await;
    assert_eq!((empty.status, empty.header("content-range")), (416, Some("bytes */0")));
    assert_eq!(served.ask("POST", &path, &["Content-Length: 0"]).await.status, 405);
    served.end().await;
}

#[tokio::test]
async fn pages_of_other_origins_read_what_they_know_the_hash_of() {
    let stage = Stage::new();
    stage.write("f", b"shared");
    let served = stage.start().await;
    let hash = served.hash_of("f").await;
    let origin = ["Origin: https://elsewhere.example"];
    let allowed =
        |answer: &super::stage::Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    let by_hash = format!("/seed/{hash}/f");
    for path in [by_hash.clone(), format!("/seed?info_hash={hash}&piece=0")] {
        let answer = served.ask("GET", &path, &origin).await;
        assert_eq!((answer.status, allowed(&answer).as_deref()), (200, Some("*")), "{path}");
        let asked = served.ask("OPTIONS", &path, &[origin[0], "Access-Control-Request-Headers: range"]).await;
        assert_eq!((asked.status, allowed(&asked).as_deref()), (204, Some("*")), "{path}");
        assert!(
            asked.header("access-control-allow-headers").is_some_and(|headers| headers.contains("range"))
        );
    }
    for path in ["/files/f", "/torrents", "/torrent/f.torrent", "/magnet/f"] {
        let answer = served.ask("GET", path, &origin).await;
        assert_eq!((answer.status, allowed(&answer)), (200, None), "{path}");
    }
    served.end().await;
}

#[tokio::test]
async fn no_path_leads_out_of_a_torrent() {
    let stage = Stage::new();
    stage.write("d/x", b"shared");
    stage.write("d/.hidden", b"SECRET");
    stage.write("d/y.part", b"SECRET");
    stage.write(".secret", b"SECRET");
    fs::write(stage.dir.path().join("secret"), b"SECRET").expect("written");
    std::os::unix::fs::symlink(stage.dir.path().join("secret"), stage.root().join("d/link")).expect("linked");
    std::os::unix::fs::symlink(stage.dir.path().join("secret"), stage.root().join("link")).expect("linked");
    let served = stage.start().await;
    let hash = served.hash_of("d").await;
    assert_eq!(served.get(&format!("/seed/{hash}/d/x")).await.body, b"shared");
    let up = ["..", "%2e%2e", ".%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..%5c..", "%c0%ae%c0%ae", "....//.."];
    let mut paths = vec![
        format!("/seed/{hash}/d/.hidden"),
        format!("/seed/{hash}/d/y.part"),
        format!("/seed/{hash}/d/link"),
        format!("/seed/{hash}//d/x"),
        format!("/seed/{hash}/d//x"),
        format!("/seed/{hash}/d/./x"),
        format!("/seed/{hash}/d/x/"),
        format!("/seed/{hash}/d%2Fx"),
        format!("/seed/{hash}/d/x%00"),
        format!("/seed/{hash}/x"),
        "/files/link".to_owned(),
        "/files/.secret".to_owned(),
        "/files//etc/passwd".to_owned(),
        "/files/etc/passwd".to_owned(),
    ];
    for up in up {
        for target in ["secret", "root/.secret", "etc/passwd", "x"] {
            paths.push(format!("/seed/{hash}/d/{up}/{target}"));
            paths.push(format!("/seed/{hash}/{up}/{target}"));
            paths.push(format!("/files/{up}/{target}"));
            paths.push(format!("/files/d/{up}/{up}/{up}/{target}"));
        }
    }
    for path in paths {
        let answer = served.get(&path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.text().contains("SECRET") && !answer.text().contains("root:"), "{path}");
    }
    let list = served.list().await;
    assert!(!list.contains("secret") && !list.contains("link"), "{list}");
    served.end().await;
}

#[tokio::test]
async fn a_file_that_changed_is_gone_at_once() {
    let stage = Stage::new();
    let path = stage.write("f", &noise(200_000));
    let mut config = stage.config();
    // Neither the kernel's word nor a rescan has had the time.
    config.quiet = std::time::Duration::from_secs(3600);
    let served = Served::start(config).await;
    let hash = served.hash_of("f").await;
    let address = format!("/seed/{hash}/f");
    assert_eq!(served.get(&address).await.status, 200);
    let mut file = fs::OpenOptions::new().write(true).open(&path).expect("there");
    file.write_all(b"changed").expect("written");
    drop(file);
    let answer = served.get(&address).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    served.end().await;
}

#[tokio::test]
async fn an_answer_whose_file_changes_meanwhile_ends_too_early() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for request in ["Range: bytes=0-", "Range: bytes=0-199999"] {
        let stage = Stage::new();
        // More than sockets buffer.
        let path = stage.write("f", &noise(40 << 20));
        let served = stage.start().await;
        served.hash_of("f").await;
        let mut stream = tokio::net::TcpStream::connect(served.addr).await.expect("connects");
        let is_long = request.ends_with('-');
        let wanted = if is_long { 40 << 20 } else { 200_000 };
        let text = format!("GET /files/f HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{request}\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut first = [0; 1000];
        stream.read_exact(&mut first).await.expect("begins");
        let mut file = fs::OpenOptions::new().write(true).open(&path).expect("there");
        file.write_all(b"changed").expect("written");
        let mut received = first.to_vec();
        // Cut off, by a reset perhaps.
        let _cut = stream.read_to_end(&mut received).await;
        let head = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let body = received.len() - head;
        // A short one may have been on its way already.
        assert!(body < wanted || !is_long, "{body} of {wanted} bytes came");
        served.end().await;
    }
}

#[tokio::test]
async fn pieces_are_given_across_files() {
    let stage = Stage::new();
    let (a, b) = (noise(100_000), noise(300_001));
    stage.write("d/a", &a);
    stage.write("d/b", &b);
    let served = stage.start().await;
    let hash = served.hash_of("d").await;
    let content = [a, b].concat();
    let torrent = served.get(&format!("/torrent/{hash}")).await;
    let metainfo = wtfs_proto::metainfo::Metainfo::parse(&torrent.body).expect("a torrent");
    let piece_bytes = metainfo.info.piece_bytes as usize;
    for (piece, expected) in content.chunks(piece_bytes).enumerate() {
        let answer = served.get(&format!("/seed?info_hash={hash}&piece={piece}")).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == expected, "piece {piece}");
    }
    let parts = served.get(&format!("/seed?info_hash={hash}&piece=0&ranges=5-9,0-0")).await;
    assert_eq!(parts.body, [&content[5..10], &content[..1]].concat());
    for query in ["piece=0", &format!("info_hash={hash}&piece=0&ranges=0-99999999")] {
        assert_eq!(served.get(&format!("/seed?{query}")).await.status, 400, "{query}");
    }
    assert_eq!(served.get(&format!("/seed?info_hash={hash}&piece=99999")).await.status, 404);
    served.end().await;
}
