//! The task as its torrent sees it: peers come, events are said, dead trackers are passed over, nothing hangs.

use super::*;
use crate::http::test_origin::{Behaviour, NO_SUCH_HOST, Origin};
use crate::tracker::TrackerLimits;
use crate::tracker::tests::{INFO_HASH, PATIENCE, http_client};
use wtfs_proto::id::InfoHashV2;
use wtfs_testkit::net;

fn good() -> Behaviour {
    let body = [&b"d8:intervali900e5:peers6:"[..], &[10, 1, 2, 3, 0x1a, 0xe1], b"e"].concat();
    Behaviour::ok(body)
}

struct Rig {
    handle: AnnouncerHandle,
    peers: mpsc::Receiver<Vec<SocketAddr>>,
    cancel: CancellationToken,
}

fn spawn(tiers: &[Vec<String>]) -> Rig {
    spawn_for(INFO_HASH, tiers)
}

fn spawn_for(hashes: impl Into<InfoHashes>, tiers: &[Vec<String>]) -> Rig {
    spawn_within(PATIENCE, hashes, tiers)
}

/// Trackers have this time to answer, and what is said at the end has all.
fn spawn_within(http_total: Duration, hashes: impl Into<InfoHashes>, tiers: &[Vec<String>]) -> Rig {
    let client = TrackerClient::new(http_client(), TrackerLimits { http_total, ..TrackerLimits::default() });
    let base = AnnouncerConfig::new(hashes, PeerId::generate([b'z'; 12]), 6881);
    let config = AnnouncerConfig { stop_timeout: PATIENCE, ..base };
    let stats = || TransferStats { uploaded: 11, downloaded: 22, left: 33 };
    let (sender, peers) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let handle = Announcer::spawn(config, client, tiers, stats, sender, &cancel);
    Rig { handle, peers, cancel }
}

async fn next_peers(rig: &mut Rig) -> Vec<SocketAddr> {
    tokio::time::timeout(PATIENCE, rig.peers.recv()).await.expect("peers come").expect("the task runs")
}

/// Waits until the status satisfies `is_so`.
async fn wait_status(rig: &Rig, is_so: impl Fn(&[TrackerStatus]) -> bool) -> Vec<TrackerStatus> {
    let wait = async {
        loop {
            let status = rig.handle.status();
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(status) => status,
        Err(_) => panic!("the status stayed {:?}", rig.handle.status()),
    }
}

fn of<'a>(status: &'a [TrackerStatus], url: &str) -> &'a TrackerStatus {
    status.iter().find(|tracker| tracker.url == url).expect("it is listed")
}

fn events(origin: &Origin) -> Vec<String> {
    let event = |head: &String| {
        let query = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let value = query.split('&').find_map(|pair| pair.strip_prefix("event=")).unwrap_or("none");
        value.to_owned()
    };
    origin.requests().iter().map(event).collect()
}

#[tokio::test]
async fn peers_are_passed_on_and_stop_says_stopped() {
    let origin = Origin::start([("/announce", good())]).await;
    let mut rig = spawn(&[vec![origin.url("/announce")]]);
    assert_eq!(next_peers(&mut rig).await, ["10.1.2.3:6881".parse::<SocketAddr>().unwrap()]);
    rig.handle.stop().await;
    rig.handle.stop().await;
    assert_eq!(events(&origin), ["started", "stopped"]);
    let first = origin.requests().remove(0);
    for part in ["uploaded=11", "downloaded=22", "left=33", "port=6881", "numwant=200"] {
        assert!(first.contains(part), "{part} in {first}");
    }
    assert_eq!(rig.peers.recv().await, None, "the task is gone");
}

#[tokio::test]
async fn a_hybrid_is_announced_to_both_of_its_swarms_and_told_where_it_is_seen() {
    let answer = b"d11:external ip4:\xc0\x00\x02\x078:intervali900e5:peers6:\x0a\x01\x02\x03\x1a\xe1e";
    let origin = Origin::start([("/announce", Behaviour::ok(answer.to_vec()))]).await;
    let hashes = InfoHashes { v1: Some(INFO_HASH), v2: Some(InfoHashV2::of_info(b"hybrid")) };
    let mut rig = spawn_for(hashes, &[vec![origin.url("/announce")]]);
    assert_eq!(
        next_peers(&mut rig).await,
        ["10.1.2.3:6881".parse::<SocketAddr>().unwrap()],
        "each peer once"
    );
    let status = wait_status(&rig, |status| status[0].state == TrackerStateName::Working).await;
    assert_eq!(status[0].external_ip, Some([192, 0, 2, 7].into()));
    rig.handle.stop().await;
    let mut events = events(&origin);
    events.sort();
    assert_eq!(events, ["started", "started", "stopped", "stopped"]);
    let named = |head: &String| {
        head.split(['?', '&', ' ']).find_map(|pair| pair.strip_prefix("info_hash=").map(str::to_owned))
    };
    let names: HashSet<Option<String>> = origin.requests().iter().map(named).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn one_swarm_that_answers_is_enough_and_two_are_merged() {
    let answer = |seeders, peers: &[&str]| AnnounceResponse {
        seeders: Some(seeders),
        peers: peers.iter().map(|peer| peer.parse::<SocketAddr>().unwrap()).collect(),
        ..AnnounceResponse::default()
    };
    let refused = || AnnounceError::Refused { reason: "not registered".into() };
    let (one, other) = (answer(3, &["10.0.0.1:1", "10.0.0.2:2"]), answer(5, &["10.0.0.2:2", "10.0.0.3:3"]));
    assert_eq!(merge(Ok(one.clone()), Err(refused())), Ok(one.clone()));
    assert_eq!(merge(Err(refused()), Ok(one.clone())), Ok(one.clone()));
    assert_eq!(merge(Err(refused()), Err(AnnounceError::Unsupported("x"))), Err(refused()));
    let merged = merge(Ok(one), Ok(other)).unwrap();
    assert_eq!((merged.seeders, merged.peers.len()), (Some(5), 3));
}

#[tokio::test]
async fn dead_trackers_are_passed_over_and_shown() {
    let origin = Origin::start([
        ("/good", good()),
        ("/500", Behaviour::Answer("500 Internal Server Error", String::new(), Vec::new())),
        ("/garbage", Behaviour::ok("garbage")),
        ("/loop", Behaviour::redirect("/loop")),
        ("/close", Behaviour::Close),
    ])
    .await;
    let bad = ["/500", "/garbage", "/loop", "/close"].map(|path| origin.url(path));
    let dns = format!("http://{NO_SUCH_HOST}/announce");
    let dead_udp = format!("udp://{}/announce", net::refused_addr());
    let ws = "wss://tracker.example/".to_owned();
    let unknown = "gopher://tracker.example/".to_owned();
    let mut tiers: Vec<Vec<String>> = bad.iter().map(|url| vec![url.clone()]).collect();
    tiers.extend([vec![dns.clone()], vec![dead_udp.clone()], vec![ws.clone(), unknown.clone()]]);
    tiers.push(vec![origin.url("/good")]);
    let mut rig = spawn(&tiers);
    assert_eq!(next_peers(&mut rig).await.len(), 1);
    let failing = |status: &[TrackerStatus]| {
        let with_failures = status.iter().filter(|tracker| tracker.failures > 0).count();
        with_failures == bad.len() + 2
    };
    let status = wait_status(&rig, failing).await;
    let message = |url: &str| of(&status, url).message.clone().unwrap_or_default();
    assert!(message(&bad[0]).contains("500"), "{}", message(&bad[0]));
    assert!(message(&bad[1]).contains("not that of a tracker"), "{}", message(&bad[1]));
    assert!(message(&bad[2]).contains("loop"), "{}", message(&bad[2]));
    assert!(message(&dns).contains("resolved"), "{}", message(&dns));
    assert!(message(&dead_udp).contains("cannot be reached"), "{}", message(&dead_udp));
    assert_eq!(of(&status, &ws).state, TrackerStateName::NeedsWebRtc);
    assert_eq!(message(&ws), "needs WebRTC, not used");
    assert_eq!(of(&status, &unknown).state, TrackerStateName::Error);
    let good = of(&status, &origin.url("/good"));
    assert_eq!((good.state, good.peers, good.failures), (TrackerStateName::Working, 1, 0));
    assert!(good.next_announce_s.is_some_and(|next| (800..=900).contains(&next)));
    rig.handle.stop().await;
}

#[tokio::test]
async fn a_tracker_that_says_nothing_is_given_up_and_shown() {
    let origin = Origin::start([("/silence", Behaviour::Silence)]).await;
    let rig = spawn_within(Duration::from_secs(1), INFO_HASH, &[vec![origin.url("/silence")]]);
    let status = wait_status(&rig, |status| status[0].failures > 0).await;
    let message = status[0].message.clone().unwrap_or_default();
    assert!(message.contains("in time"), "{message}");
}

#[tokio::test]
async fn completed_is_said_once() {
    let origin = Origin::start([("/announce", good())]).await;
    let mut rig = spawn(&[vec![origin.url("/announce")]]);
    next_peers(&mut rig).await;
    wait_status(&rig, |status| status[0].state == TrackerStateName::Working).await;
    rig.handle.completed();
    rig.handle.completed();
    next_peers(&mut rig).await;
    rig.handle.completed();
    rig.handle.stop().await;
    assert_eq!(events(&origin), ["started", "completed", "stopped"]);
}

#[tokio::test]
async fn trackers_added_later_are_announced_to() {
    let origin = Origin::start([("/announce", good())]).await;
    let mut rig = spawn(&[]);
    assert!(rig.handle.status().is_empty());
    rig.handle.add_trackers(vec![origin.url("/announce"), origin.url("/announce")]);
    assert_eq!(next_peers(&mut rig).await.len(), 1);
    assert_eq!(rig.handle.status().len(), 1);
}

#[tokio::test]
async fn stop_is_bounded_when_a_tracker_falls_silent() {
    // It answers to `started` and to nothing after that.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let body = "d8:intervali900e5:peers6:\x0a\x01\x02\x03\x1a\x61e";
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        drop(stream);
        let silent = listener.accept().await;
        std::future::pending::<()>().await;
        drop(silent);
    });
    let limits = TrackerLimits { http_total: Duration::from_secs(600), ..TrackerLimits::default() };
    let client = TrackerClient::new(http_client(), limits);
    let base = AnnouncerConfig::new(INFO_HASH, PeerId::generate([b'z'; 12]), 6881);
    let config = AnnouncerConfig { stop_timeout: Duration::from_millis(200), ..base };
    let (sender, peers) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let handle = Announcer::spawn(config, client, &[vec![url]], TransferStats::default, sender, &cancel);
    let mut rig = Rig { handle, peers, cancel };
    next_peers(&mut rig).await;
    tokio::time::timeout(PATIENCE, rig.handle.stop()).await.expect("the stop is bounded");
    server.abort();
}

#[tokio::test]
async fn torrent_that_takes_no_peers_does_not_hold_up_the_announces() {
    let paths = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"];
    let origin = Origin::start(paths.map(|path| (path, good()))).await;
    let rig = spawn(&paths.map(|path| vec![origin.url(path)]));
    let all_work =
        |status: &[TrackerStatus]| status.iter().all(|tracker| tracker.state == TrackerStateName::Working);
    wait_status(&rig, all_work).await;
    rig.handle.stop().await;
    assert_eq!(events(&origin).iter().filter(|event| *event == "stopped").count(), paths.len());
}

#[tokio::test]
async fn dropping_the_handle_ends_the_task_without_a_word() {
    let origin = Origin::start([("/announce", good())]).await;
    let mut rig = spawn(&[vec![origin.url("/announce")]]);
    next_peers(&mut rig).await;
    let Rig { handle, mut peers, cancel } = rig;
    drop(handle);
    assert_eq!(tokio::time::timeout(PATIENCE, peers.recv()).await.expect("the task ends"), None);
    assert!(!cancel.is_cancelled(), "the caller's own token is untouched");
    assert_eq!(events(&origin), ["started"]);
}

#[tokio::test]
async fn cancelled_token_ends_the_task_and_stop_returns() {
    let origin = Origin::start([("/announce", Behaviour::Silence)]).await;
    let rig = spawn(&[vec![origin.url("/announce")]]);
    rig.cancel.cancel();
    tokio::time::timeout(PATIENCE, rig.handle.stop()).await.expect("it ends");
}

#[tokio::test]
async fn status_is_plain_json() {
    let rig = spawn(&[vec!["wss://a/".to_owned()]]);
    let json = serde_json::to_value(rig.handle.status()).unwrap();
    assert_eq!(json[0]["state"], "needs-webrtc");
    assert_eq!(json[0]["url"], "wss://a/");
    assert!(json[0]["next_announce_s"].is_null());
}

#[test]
fn logs_name_a_tracker_without_what_may_be_secret() {
    for (url, place) in [
        ("https://user:word@t.example:8443/announce?passkey=secret", "https://t.example:8443"),
        ("http://t.example/secret/announce", "http://t.example"),
        ("udp://10.0.0.1:6969/secret", "udp://10.0.0.1:6969"),
        ("wss://[::1]:8000/", "wss://[::1]:8000"),
        ("secret", "(no URL)"),
    ] {
        assert_eq!(place_of(url), place, "{url}");
    }
}
