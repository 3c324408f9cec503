//! Everything a person may type ends in a source or in a sentence that says what to do.

use super::*;
use crate::http::test_origin::{Behaviour, Origin};
use crate::http::{HttpConfig, ProxyPolicy};

fn client() -> HttpClient {
    let config = HttpConfig { proxies: ProxyPolicy::Direct, ..HttpConfig::default() };
    HttpClient::new(config).expect("the client can be built")
}

/// A torrent of one file of five bytes.
fn torrent(name: &str) -> Vec<u8> {
    let info = format!("d6:lengthi5e4:name{}:{name}12:piece lengthi16384e6:pieces20:", name.len());
    [b"d4:info", info.as_bytes(), &[7; 20], b"ee"].concat()
}

async fn resolve(text: &str) -> Result<Source, ResolveError> {
    source(text, &client()).await
}

fn name(source: &Source) -> &str {
    match source {
        Source::Metainfo(metainfo) => &metainfo.info.name,
        Source::Magnet(_) => panic!("it is a magnet"),
    }
}

fn magnet_hashes(source: Source) -> InfoHashes {
    match source {
        Source::Magnet(magnet) => magnet.hashes,
        Source::Metainfo(_) => panic!("it is a metainfo"),
    }
}

#[tokio::test]
async fn path_of_a_torrent_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.torrent");
    std::fs::write(&path, torrent("a")).unwrap();
    let text = path.to_str().unwrap();
    assert_eq!(name(&resolve(text).await.unwrap()), "a");
    assert_eq!(name(&resolve(&format!("file://{text}")).await.unwrap()), "a");
}

#[tokio::test]
async fn url_of_a_torrent_is_fetched_whatever_type_its_server_claims() {
    let html = "Content-Type: text/html\r\n".to_owned();
    let origin = Origin::start([
        ("/x.torrent", Behaviour::ok(torrent("a"))),
        ("/mislabelled", Behaviour::Answer("200 OK", html, torrent("b"))),
        ("/redirect", Behaviour::redirect("/x.torrent")),
    ])
    .await;
    for (path, expected) in [("/x.torrent", "a"), ("/mislabelled", "b"), ("/redirect", "a")] {
        assert_eq!(name(&resolve(&origin.url(path)).await.unwrap()), expected, "{path}");
    }
}

#[tokio::test]
async fn web_page_is_told_from_a_torrent() {
    let html = "Content-Type: text/html; charset=utf-8\r\n".to_owned();
    let origin = Origin::start([
        ("/page", Behaviour::ok("\n<!DOCTYPE html><title>Download</title>")),
        ("/typed", Behaviour::Answer("200 OK", html, b"just text".to_vec())),
        ("/other", Behaviour::ok("just text")),
        ("/missing", Behaviour::Answer("404 Not Found", String::new(), b"<html>".to_vec())),
    ])
    .await;
    for path in ["/page", "/typed"] {
        let error = resolve(&origin.url(path)).await.unwrap_err();
        assert!(matches!(error, ResolveError::WebPage(_)), "{path}: {error}");
    }
    let error = resolve(&origin.url("/other")).await.unwrap_err();
    assert!(matches!(error, ResolveError::Metainfo { .. }), "{error}");
    let error = resolve(&origin.url("/missing")).await.unwrap_err();
    assert!(matches!(error, ResolveError::Http(HttpError::Status { .. })), "{error}");
}

#[tokio::test]
async fn content_in_place_of_a_torrent_is_not_read_to_its_end() {
    let origin = Origin::start([("/endless", Behaviour::Endless)]).await;
    let error = resolve(&origin.url("/endless")).await.unwrap_err();
    assert!(matches!(error, ResolveError::TooLarge(_)), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = resolve(path.to_str().unwrap()).await.unwrap_err();
    assert!(matches!(error, ResolveError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn bare_hashes_are_magnets() {
    let hex = "0123456789abcdef0123456789ABCDEF01234567";
    let hashes = magnet_hashes(resolve(hex).await.unwrap());
    assert_eq!(hashes.v1.unwrap().to_string(), hex.to_lowercase());
    let base32 = "AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH";
    assert_eq!(magnet_hashes(resolve(base32).await.unwrap()), hashes);
    let v2 = format!("1220{}", "ab".repeat(32));
    let hashes = magnet_hashes(resolve(&v2).await.unwrap());
    assert_eq!((hashes.v1, hashes.v2.unwrap().to_string()), (None, "ab".repeat(32)));
}

#[tokio::test]
async fn magnet_links_are_parsed_and_their_faults_told() {
    let link = "Magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567&dn=a";
    assert!(magnet_hashes(resolve(link).await.unwrap()).v1.is_some());
    let error = resolve("magnet:?dn=only-a-name").await.unwrap_err();
    assert!(matches!(error, ResolveError::Magnet(_)), "{error}");
}

#[tokio::test]
async fn what_is_no_source_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let cases = [
        ("no/such/file.torrent".to_owned(), "there is no file"),
        (String::new(), "there is no file"),
        ("a\0b".to_owned(), "cannot be read"),
        ("x".repeat(5000), "there is no file"),
        (dir.path().display().to_string(), "wtfs create"),
        (fifo.display().to_string(), "not a regular file"),
        ("ftp://host/x.torrent".to_owned(), "use http, https or magnet"),
        ("0123456789abcdef".to_owned(), "40 hex digits"),
    ];
    for (text, advice) in cases {
        let error = resolve(&text).await.unwrap_err().to_string();
        assert!(error.contains(advice), "{text:.60}: {error}");
    }
}

#[tokio::test]
async fn metadata_is_taken_from_the_url_whose_hash_matches() {
    let wanted = Metainfo::parse(&torrent("wanted")).unwrap();
    let origin = Origin::start([
        ("/other", Behaviour::ok(torrent("other"))),
        ("/page", Behaviour::ok("<html>")),
        ("/wanted", Behaviour::ok(torrent("wanted"))),
    ])
    .await;
    let urls = ["urn:btih:x".to_owned(), origin.url("/other"), origin.url("/page"), origin.url("/wanted")];
    let found = fetch_metadata_http(&client(), &urls, &wanted.hashes).await.unwrap();
    assert_eq!(found.info_bytes, wanted.info_bytes);
    let error = fetch_metadata_http(&client(), &urls[..2], &wanted.hashes).await.unwrap_err();
    assert!(matches!(error, ResolveError::OtherTorrent(_)), "{error}");
    let error = fetch_metadata_http(&client(), &urls[..1], &wanted.hashes).await.unwrap_err();
    assert_eq!(error, ResolveError::NoMetadataUrl);
}
