//! The HTTP client of trackers against answers good and bad.

use std::net::SocketAddr;

use super::*;
use crate::http::HttpError;
use crate::http::test_origin::{Behaviour, Origin};
use crate::tracker::tests::{INFO_HASH, PATIENCE, http_client, request};
use crate::tracker::{TrackerClient, TrackerLimits};

fn client() -> TrackerClient {
    client_within(PATIENCE)
}

fn client_within(http_total: Duration) -> TrackerClient {
    TrackerClient::new(http_client(), TrackerLimits { http_total, ..TrackerLimits::default() })
}

async fn announce(behaviour: Behaviour) -> Result<AnnounceResponse, AnnounceError> {
    let origin = Origin::start([("/announce", behaviour)]).await;
    client().announce(&origin.url("/announce"), &request()).await
}

fn compact() -> Vec<u8> {
    let v6 = [&[0x20; 16][..], &[0x1a, 0xe2]].concat();
    [
        &b"d8:completei9e10:incompletei4e8:intervali900e12:min intervali300e5:peers12:"[..],
        &[10, 1, 2, 3, 0x1a, 0xe1, 10, 1, 2, 4, 0, 0],
        b"6:peers618:",
        &v6,
        b"10:tracker id2:xye",
    ]
    .concat()
}

#[tokio::test]
async fn compact_answer_gives_peers_of_both_families() {
    let response = announce(Behaviour::ok(compact())).await.unwrap();
    let v4 = "10.1.2.3:6881".parse::<SocketAddr>().unwrap();
    let v6 = "[2020:2020:2020:2020:2020:2020:2020:2020]:6882".parse::<SocketAddr>().unwrap();
    assert_eq!(response.peers, [v4, v6], "the one at port 0 is none");
    assert_eq!((response.interval_s, response.min_interval_s), (900, Some(300)));
    assert_eq!((response.seeders, response.leechers), (Some(9), Some(4)));
    assert_eq!(response.tracker_id.as_deref(), Some("xy"));
}

#[tokio::test]
async fn dictionary_answer_gives_peers() {
    let body = "d8:intervali900e5:peersld2:ip8:10.1.2.37:peer id20:-XX0000-0000000000004:porti6881eed2:ip3:::14:porti1eeee";
    let response = announce(Behaviour::ok(body)).await.unwrap();
    assert_eq!(
        response.peers,
        ["10.1.2.3:6881".parse::<SocketAddr>().unwrap(), "[::1]:1".parse::<SocketAddr>().unwrap()]
    );
}

#[tokio::test]
async fn parameters_follow_the_passkey_of_the_url() {
    let origin = Origin::start([("/announce", Behaviour::ok("d8:intervali900e5:peers0:e"))]).await;
    client().announce(&origin.url("/announce?passkey=s%2Fcret#part"), &request()).await.unwrap();
    let head = origin.requests().remove(0);
    assert!(head.starts_with("GET /announce?passkey=s%2Fcret&"), "{head}");
    for part in ["info_hash=%", "peer_id=", "port=6881", "left=1000", "event=started", "compact=1", "key="] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!head.contains('#'));
}

#[tokio::test]
async fn refusal_is_quoted_whatever_its_status() {
    let body = "d14:failure reason14:unknown friende";
    for status in ["200 OK", "403 Forbidden"] {
        let error = announce(Behaviour::Answer(status, String::new(), body.into())).await.unwrap_err();
        assert_eq!(error, AnnounceError::Refused { reason: "unknown friend".to_owned() });
    }
}

#[tokio::test]
async fn status_500_is_an_error_even_with_a_good_body() {
    let error =
        announce(Behaviour::Answer("500 Internal Server Error", String::new(), compact())).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Http(HttpError::Status { .. })), "{error}");
}

#[tokio::test]
async fn wait_asked_for_by_a_busy_tracker_is_passed_on() {
    let headers = "Retry-After: 77\r\n".to_owned();
    let error =
        announce(Behaviour::Answer("503 Service Unavailable", headers, Vec::new())).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(77)));
}

#[tokio::test]
async fn garbage_is_named_as_such() {
    for body in [&b"<html>It works!</html>"[..], b"", b"de trailing", b"i1e", &[0xff; 100]] {
        let error = announce(Behaviour::ok(body)).await.unwrap_err();
        assert!(matches!(error, AnnounceError::Garbage(_)), "{body:?}: {error}");
    }
}

#[tokio::test]
async fn every_fault_of_transport_is_a_sentence_without_the_passkey() {
    let loops = Behaviour::redirect("/announce");
    for behaviour in [loops, Behaviour::Close, Behaviour::Silence, Behaviour::Endless] {
        let origin = Origin::start([("/announce", behaviour.clone())]).await;
        let url = origin.url("/announce?passkey=secret");
        let client = client_within(Duration::from_secs(2));
        let error = client.announce(&url, &request()).await.unwrap_err();
        assert!(matches!(error, AnnounceError::Http(_)), "{behaviour:?}: {error:?}");
        assert!(!error.to_string().contains("secret") && !error.to_string().contains('\n'), "{error}");
    }
}

/// As opentracker does, which says nothing of it: what goes over such a connection meanwhile is lost.
#[tokio::test]
async fn a_tracker_that_hangs_up_after_its_answer_is_announced_to_each_time() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let attend = |mut stream: tokio::net::TcpStream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let body = "d8:intervali900e5:peers0:e";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        // As if its hanging up were slow to arrive.
        let _further = stream.read_u8().await;
    };
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(attend(stream));
        }
    });
    let client = client();
    for _ in 0..3 {
        client.announce(&url, &request()).await.unwrap();
    }
    let error = client.scrape(&url, &[INFO_HASH]).await.unwrap_err();
    server.abort();
    assert!(matches!(error, AnnounceError::Garbage(_)), "it answers as to an announce: {error}");
}

#[tokio::test]
async fn scrape_finds_the_counts_of_each_hash() {
    let mut body = b"d5:filesd20:".to_vec();
    body.extend_from_slice(INFO_HASH.as_bytes());
    body.extend_from_slice(b"d8:completei5e10:downloadedi50e10:incompletei10eeee");
    let origin = Origin::start([("/scrape", Behaviour::ok(body))]).await;
    let unknown = InfoHash::new([7; 20]);
    let entries = client().scrape(&origin.url("/announce"), &[unknown, INFO_HASH]).await.unwrap();
    assert!(entries[0].is_none());
    let entry = entries[1].unwrap();
    assert_eq!((entry.complete, entry.downloaded, entry.incomplete), (5, 50, 10));
}

#[tokio::test]
async fn url_without_counterpart_cannot_be_scraped() {
    let error = client().scrape("http://127.0.0.1:1/tell", &[INFO_HASH]).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unsupported(_)), "{error}");
}

#[tokio::test]
async fn websocket_tracker_is_refused_with_the_reason() {
    let error = client().announce("wss://tracker.example/", &request()).await.unwrap_err();
    assert!(error.to_string().contains("WebRTC"), "{error}");
}

#[test]
fn announce_url_with_any_query_takes_ours() {
    let full = |url: &str| with_query(&url::Url::parse(url).unwrap(), "a=%ff");
    assert_eq!(full("http://t/announce"), "http://t/announce?a=%ff");
    assert_eq!(full("http://t/announce?"), "http://t/announce?a=%ff");
    assert_eq!(full("http://t/announce?k=1"), "http://t/announce?k=1&a=%ff");
    assert_eq!(full("http://t/%41nnounce?k=%2f#x"), "http://t/%41nnounce?k=%2f&a=%ff");
}
