//! `/metrics`: the hub's numbers for Prometheus. docs/metrics.md lists every name; a test holds it to that.
//!
//! The engine's numbers are written by the engine; what is the hub's own stands here.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use wtfs_proto::hub::{TorrentEntry, TorrentState};
use wtfs_torrent::prometheus::{self, Exposition, Kind};

use crate::hf::{HfNumbers, Swarms};
use crate::stats::Stats;
use crate::tracker::TrackerStats;

pub(crate) mod process;
pub(crate) mod traffic;

use process::ProcessStats;
use traffic::{BOUNDS_MS, CLASS_NAMES, TrafficStats};

/// What the numbers are taken from.
#[derive(Clone)]
struct Source {
    stats: Stats,
    /// How many entries of the roots were hashed.
    hashed: Arc<dyn Fn() -> u64 + Send + Sync>,
    swarms: Option<Swarms>,
}

pub(crate) fn router(
    stats: Stats,
    hashed: Arc<dyn Fn() -> u64 + Send + Sync>,
    swarms: Option<Swarms>,
) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Source { stats, hashed, swarms })
}

async fn metrics(State(source): State<Source>) -> Response<Body> {
    // With many torrents it takes a while.
    let Ok(text) = tokio::task::spawn_blocking(move || text(&source)).await else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the numbers cannot be had\n").into_response();
    };
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::CONTENT_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(source: &Source) -> String {
    let sources = source.stats.sources();
    let mut out = Exposition::new();
    let mut session = sources.session.status();
    if let Some(swarms) = &source.swarms {
        // Who has an info hash can fetch all of it.
        session.torrents.retain(|torrent| !swarms.is_closed(&torrent.info_hash));
    }
    out.session(&session);
    tracker(&mut out, &sources.tracker.stats());
    http(&mut out, &sources.traffic.snapshot());
    library(&mut out, &sources.library.list(), (source.hashed)());
    if let Some(swarms) = &source.swarms {
        hugging_face(&mut out, &swarms.numbers());
    }
    process(&mut out, &source.stats);
    out.into_text()
}

fn tracker(out: &mut Exposition, stats: &TrackerStats) {
    use Kind::{Counter, Gauge};
    let protocols = [("http", &stats.http), ("udp", &stats.udp), ("websocket", &stats.websocket)];
    let name = "wtfs_tracker_requests_total";
    out.family(name, Counter, "Requests to the tracker");
    for (protocol, of) in protocols {
        for (outcome, count) in [
            ("announce", of.announces),
            ("scrape", of.scrapes),
            ("rejected", of.rejected),
            ("malformed", of.malformed),
        ] {
            out.sample(name, &[("protocol", protocol), ("outcome", outcome)], count);
        }
    }
    out.one("wtfs_tracker_udp_connects_total", Counter, "Connection ids given out", stats.udp_connects);
    out.one("wtfs_tracker_torrents", Gauge, "Torrents that the tracker knows", stats.torrents);
    out.one("wtfs_tracker_peers", Gauge, "Peers that the tracker knows", stats.peers);
    out.one("wtfs_tracker_seeders", Gauge, "Peers of them that have everything", stats.seeders);
    let name = "wtfs_tracker_reachable_peers";
    out.family(name, Gauge, "Peers by what they can be reached by");
    for (by, count) in
        [("ipv4", stats.peers_v4), ("ipv6", stats.peers_v6), ("websocket", stats.peers_browser)]
    {
        out.sample(name, &[("by", by)], count);
    }
    out.one("wtfs_tracker_map_bytes", Gauge, "Memory of the swarm map", stats.map_bytes);
    let relay = &stats.relay;
    out.one("wtfs_tracker_sockets", Gauge, "Web sockets open", relay.sockets);
    out.one("wtfs_tracker_sockets_opened_total", Counter, "Web sockets opened", relay.sockets_opened);
    let name = "wtfs_tracker_sockets_refused_total";
    out.one(name, Counter, "Web sockets that were not let in", relay.sockets_refused);
    let name = "wtfs_tracker_sockets_slow_total";
    out.one(name, Counter, "Web sockets closed because they took nothing", relay.sockets_slow);
    let name = "wtfs_tracker_relayed_total";
    out.family(name, Counter, "Offers and answers passed on, or dropped");
    for (what, count) in [("offer", relay.offers), ("answer", relay.answers), ("dropped", relay.dropped)] {
        out.sample(name, &[("what", what)], count);
    }
    out.one("wtfs_tracker_queued_bytes", Gauge, "Bytes that wait in web sockets", relay.queued_bytes);
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
fn http(out: &mut Exposition, stats: &TrafficStats) {
    use Kind::{Counter, Gauge, Histogram};
    let name = "wtfs_http_requests_total";
    out.family(name, Counter, "Requests answered");
    for area in &stats.areas {
        for (class, count) in CLASS_NAMES.into_iter().zip(area.requests) {
            out.sample(name, &[("area", area.area), ("status", class)], count);
        }
    }
    let name = "wtfs_http_sent_bytes_total";
    out.family(name, Counter, "Bytes of bodies sent");
    for area in &stats.areas {
        out.sample(name, &[("area", area.area)], area.sent_bytes);
    }
    let name = "wtfs_http_cut_responses_total";
    out.family(name, Counter, "Responses that ended too early");
    for area in &stats.areas {
        out.sample(name, &[("area", area.area)], area.cut);
    }
    out.one("wtfs_http_requests_under_way", Gauge, "Requests whose response is not over", stats.under_way);
    let name = "wtfs_http_response_seconds";
    out.family(name, Histogram, "Time from a request to the end of its response");
    for area in &stats.areas {
        let bounds = BOUNDS_MS.iter().map(|ms| Some(*ms as f64 / 1e3)).chain([None]);
        let buckets = bounds.zip(area.took);
        out.histogram(name, ("area", area.area), buckets, area.took_us as f64 / 1e6);
    }
}

fn library(out: &mut Exposition, entries: &[TorrentEntry], hashed: u64) {
    let name = "wtfs_hub_torrents";
    out.family(name, Kind::Gauge, "Torrents that the hub lists");
    for (word, state) in [
        ("ready", TorrentState::Ready),
        ("hashing", TorrentState::Hashing),
        ("waiting", TorrentState::Waiting),
        ("metadata", TorrentState::Metadata),
        ("refused", TorrentState::Refused),
    ] {
        let count = entries.iter().filter(|entry| entry.state == state).count();
        out.sample(name, &[("state", word)], count);
    }
    let left = entries.iter().filter_map(|entry| Some(entry.total_bytes.saturating_sub(entry.hashed_bytes?)));
    let name = "wtfs_hub_hashing_left_bytes";
    out.one(name, Kind::Gauge, "Bytes still to hash of what is being hashed", left.sum::<u64>());
    out.one("wtfs_hub_hashed_total", Kind::Counter, "Shared files and directories hashed", hashed);
}

fn hugging_face(out: &mut Exposition, numbers: &HfNumbers) {
    use Kind::{Counter, Gauge};
    let HfNumbers { counters, blobs, .. } = numbers;
    let upstream = &counters.upstream;
    let name = "wtfs_hf_upstream_requests_total";
    out.one(name, Counter, "Requests to the hub upstream", upstream.requests);
    let name = "wtfs_hf_upstream_refused_total";
    out.family(name, Counter, "Of those, without an answer that can be used");
    for (why, count) in [("rate_limited", upstream.rate_limited), ("failed", upstream.failed)] {
        out.sample(name, &[("why", why)], count);
    }
    out.one("wtfs_hf_upstream_bytes_total", Counter, "Bytes of files from upstream", upstream.file_bytes);
    let name = "wtfs_hf_asked_bytes_total";
    out.family(name, Counter, "Bytes of files that clients asked for");
    for (state, bytes) in [("warm", counters.warm_bytes), ("cold", counters.cold_bytes)] {
        out.sample(name, &[("state", state)], bytes);
    }
    let name = "wtfs_hf_peer_bytes_total";
    out.one(name, Counter, "Bytes of files that peers were given", numbers.peer_bytes);
    let name = "wtfs_hf_exchanged_bytes_total";
    out.one(name, Counter, "Bytes that peers say they gave each other", numbers.exchanged_bytes);
    let name = "wtfs_hf_stale_answers_total";
    out.one(name, Counter, "Answers of what may be out of date", counters.stale);
    out.one("wtfs_hf_refused_total", Counter, "Requests that were refused", counters.refused);
    out.one("wtfs_hf_blobs", Gauge, "Files that are whole and verified", blobs.whole);
    out.one("wtfs_hf_blob_bytes", Gauge, "Bytes of them", blobs.whole_bytes);
    out.one("wtfs_hf_fills", Gauge, "Files that are being fetched", blobs.fills);
    let name = "wtfs_hf_corrupt_total";
    out.one(name, Counter, "Files that came and were not what their hash says", blobs.corrupt);
    out.one("wtfs_hf_evicted_total", Counter, "Files given up for others", blobs.evicted);
    let name = "wtfs_hf_torrents";
    out.family(name, Gauge, "Torrents of revisions and files");
    for (state, count) in [
        ("seeded", numbers.seeded),
        ("kept", numbers.kept),
        ("preparing", numbers.preparing),
        ("failed", numbers.failed),
    ] {
        out.sample(name, &[("state", state)], count);
    }
}

fn process(out: &mut Exposition, stats: &Stats) {
    use Kind::{Counter, Gauge};
    out.family("wtfs_build", Gauge, "The program, as a label");
    out.sample("wtfs_build", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.one("wtfs_uptime_seconds", Gauge, "Time since the start", stats.uptime().as_secs());
    // These four are called as in every other program's metrics.
    let name = "process_start_time_seconds";
    out.one(name, Gauge, "Start of the process, in seconds since 1970", stats.began_unix_s());
    let seen = ProcessStats::look();
    if let Some(bytes) = seen.resident_bytes {
        out.one("process_resident_memory_bytes", Gauge, "Memory in use", bytes);
    }
    if let Some(count) = seen.open_files {
        out.one("process_open_fds", Gauge, "Open file descriptors", count);
    }
    if let Some(count) = seen.open_files_max {
        out.one("process_max_fds", Gauge, "Most file descriptors it may have open", count);
    }
    if let Some(seconds) = seen.cpu_seconds {
        out.one("process_cpu_seconds_total", Counter, "Time on the CPUs", seconds);
    }
}
