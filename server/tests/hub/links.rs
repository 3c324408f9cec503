//! Torrents and magnet links lead back to the hub: to its trackers and its web seed.

use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;

use super::stage::{Served, Stage, noise};

#[tokio::test]
async fn a_torrent_names_this_hub_as_the_client_calls_it() {
    let stage = Stage::new();
    stage.write("model", &noise(50_000));
    let mut config = stage.config();
    config.udp_port = Some(7);
    let served = Served::start(config).await;
    let hash = served.hash_of("model").await;
    let answer = served.get("/torrent/model.torrent").await;
    assert_eq!(answer.header("content-type"), Some("application/x-bittorrent"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let metainfo = Metainfo::parse(&answer.body).expect("a torrent");
    assert_eq!(metainfo.hashes.primary().to_string(), hash);
    let trackers = ["http://hub.test:99/announce", "udp://hub.test:7/announce", "ws://hub.test:99/announce"];
    assert_eq!(metainfo.announce, [trackers.map(str::to_owned).to_vec()]);
    assert_eq!(metainfo.url_list, [format!("http://hub.test:99/seed/{hash}/")]);
    assert_eq!(metainfo.http_seeds, ["http://hub.test:99/seed"]);
    for path in [format!("/torrent/{hash}"), format!("/torrent/{hash}.torrent"), "/torrent/model".into()] {
        assert_eq!(served.get(&path).await.body, answer.body, "{path}");
    }
    assert_eq!(served.get("/torrent/absent.torrent").await.status, 404);
    assert_eq!(served.get(&format!("/torrent/{}", "0".repeat(40))).await.status, 404);

    let forged = served.ask("GET", "/torrent/model.torrent", &["Host: a\"b"]).await;
    let metainfo = Metainfo::parse(&forged.body).map(|metainfo| metainfo.announce.len());
    assert!(forged.status == 400 || metainfo == Ok(0), "{}", forged.status);
    served.end().await;
}

#[tokio::test]
async fn a_public_url_goes_before_what_a_client_says() {
    let stage = Stage::new();
    stage.write("a model", &noise(50_000));
    let mut config = stage.config();
    config.public_url = Some("https://hub.example/base".parse().expect("a URL"));
    let served = Served::start(config).await;
    let hash = served.hash_of("a model").await;
    let metainfo = Metainfo::parse(&served.get("/torrent/a%20model.torrent").await.body).expect("a torrent");
    assert_eq!(metainfo.url_list, [format!("https://hub.example/base/seed/{hash}/")]);
    let text = served.get("/magnet/a%20model").await;
    let magnet = Magnet::parse(text.text().trim()).expect("a magnet link");
    assert_eq!(magnet.hashes.primary().to_string(), hash);
    assert_eq!(magnet.display_name.as_deref(), Some("a model"));
    assert_eq!(magnet.trackers, ["https://hub.example/base/announce", "wss://hub.example/base/announce"]);
    assert_eq!(magnet.web_seeds, [format!("https://hub.example/base/seed/{hash}/")]);
    assert_eq!(magnet.exact_sources, [format!("https://hub.example/base/torrent/{hash}.torrent")]);
    for (path, headers) in
        [("/magnet/a%20model?format=json", &[][..]), ("/magnet/a%20model", &["Accept: application/json"][..])]
    {
        let json = served.ask("GET", path, headers).await;
        assert_eq!(json.header("content-type"), Some("application/json"));
        let read: serde_json::Value = serde_json::from_slice(&json.body).expect("JSON");
        assert_eq!(read["magnet"], magnet.to_string());
        assert_eq!(read["info_hash"], hash);
    }
    served.end().await;
}

#[tokio::test]
async fn the_hub_is_a_seed_of_what_it_shares_and_tells_its_tracker() {
    let stage = Stage::new();
    stage.write("model", &noise(50_000));
    let served = stage.start().await;
    let hash = served.hash_of("model").await;
    let escaped: String =
        hash.as_bytes().chunks(2).map(|two| format!("%{}", String::from_utf8_lossy(two))).collect();
    let announce = format!(
        "/announce?info_hash={escaped}&peer_id=-XX0000-000000000000&port=9&uploaded=0&downloaded=0&left=1&compact=1"
    );
    let port = served.hub.session().listening()[0].port();
    let start = std::time::Instant::now();
    loop {
        let answer = served.get(&announce).await;
        assert_eq!(answer.status, 200);
        let told = [&[127, 0, 0, 1][..], &port.to_be_bytes()].concat();
        if answer.body.windows(6).any(|six| six == told) {
            break;
        }
        assert!(start.elapsed() < super::stage::PATIENCE, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    served.end().await;
}
