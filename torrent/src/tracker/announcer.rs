//! The task that keeps one torrent announced: it asks the schedule what is due, runs those announces side by side, and
//! passes the peers found on to the torrent.
//!
//! The schedule sits behind a lock that is held only for single steps and never across an await, so that the handle's
//! methods never wait: they change the schedule and wake the task. The task alone opens connections. It ends when told
//! to stop (after saying `stopped`), when cancelled, and when its handle is dropped (both without a word to trackers).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
#[cfg(feature = "webrtc")]
use wtfs_proto::announce::WebSockets;
use wtfs_proto::announce::{
    Announce, AnnounceOutcome, AnnounceSchedule, TrackerIndex, TrackerKind, TrackerState,
};
use wtfs_proto::id::{InfoHashes, PeerId};
use wtfs_proto::time::Moment;
use wtfs_proto::tracker::http::AnnounceResponse;
use wtfs_proto::tracker::{AnnounceEvent, AnnounceRequest};

#[cfg(feature = "webrtc")]
use super::ws::Swarm;
use super::{AnnounceError, Caller, TrackerClient};
use crate::http::host_of;

#[cfg(test)]
mod tests;

/// Lists of peers that may wait for a torrent whose inbox is full; more are dropped, since by then it has plenty.
const MAX_WAITING_DELIVERIES: usize = 16;

/// What a torrent announces itself as, and how.
#[derive(Debug, Clone)]
pub struct AnnouncerConfig {
    /// The torrent. A hybrid is in two swarms, and is announced to both.
    pub hashes: InfoHashes,
    /// Our id in this session.
    pub peer_id: PeerId,
    /// The TCP port we accept peers on.
    pub port: u16,
    /// A number that stays the same when our address changes (BEP 7); random for each session.
    pub key: u32,
    /// Peers asked for in each announce. Default 200; most trackers give 50 unless asked for more.
    pub num_want: u32,
    /// Longest time for all `stopped` announces together. Default 2 s: a shutdown must not hang on a dead tracker.
    pub stop_timeout: Duration,
    /// Takes the connections that WebSocket trackers bring about. Default none: these are not used then.
    #[cfg(feature = "webrtc")]
    pub(crate) swarm: Option<Arc<dyn Swarm>>,
}

impl AnnouncerConfig {
    /// The defaults for a torrent of the session with `peer_id`, listening at TCP `port`.
    pub fn new(hashes: impl Into<InfoHashes>, peer_id: PeerId, port: u16) -> Self {
        let (hashes, key) = (hashes.into(), fastrand::u32(..));
        Self {
            hashes,
            peer_id,
            port,
            key,
            num_want: 200,
            stop_timeout: Duration::from_secs(2),
            #[cfg(feature = "webrtc")]
            swarm: None,
        }
    }
}

/// Bytes moved so far, as trackers want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferStats {
    /// Payload bytes sent since `started`.
    pub uploaded: u64,
    /// Payload bytes received since `started`.
    pub downloaded: u64,
    /// Bytes still missing; `u64::MAX` while the size is not known (0 would make us a seeder).
    pub left: u64,
}

/// State of a tracker, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TrackerStateName {
    /// Not announced to so far.
    Idle,
    /// An announce is under way.
    Announcing,
    /// The last announce was answered.
    Working,
    /// The last announce failed, or the URL cannot be used; `message` says why.
    Error,
    /// A WebSocket tracker, listed and not used: there is no WebRTC in this session.
    #[serde(rename = "needs-webrtc")]
    NeedsWebRtc,
}

/// One tracker of a torrent, for people and for scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrackerStatus {
    /// Its announce URL, as given (a passkey in it is shown).
    pub url: String,
    /// Its tier, from 0.
    pub tier: usize,
    /// What it is doing.
    pub state: TrackerStateName,
    /// The error, or the warning the tracker sent.
    pub message: Option<String>,
    /// Seconds since the last announce was begun.
    pub last_announce_s: Option<u64>,
    /// Seconds until the next announce; `None` when none is planned.
    pub next_announce_s: Option<u64>,
    /// Complete peers, as of its last answer.
    pub seeders: Option<u32>,
    /// Incomplete peers, as of its last answer.
    pub leechers: Option<u32>,
    /// Addresses that came with its last answer.
    pub peers: usize,
    /// Failures since its last answer.
    pub failures: u32,
    /// Where it sees us (BEP 24), as of its last answer. Not to be trusted.
    pub external_ip: Option<IpAddr>,
}

/// Starts the announcing of a torrent. See [`Announcer::spawn`].
#[derive(Debug)]
pub struct Announcer<S> {
    config: AnnouncerConfig,
    client: TrackerClient,
    stats: S,
    peers: mpsc::Sender<Vec<SocketAddr>>,
    shared: Arc<Shared>,
    running: JoinSet<Done>,
    under_way: HashMap<Id, TrackerIndex>,
}

#[derive(Debug)]
struct Shared {
    schedule: Mutex<AnnounceSchedule>,
    changed: Notify,
    start: Instant,
}

/// What a piece of the task's work came back with.
#[derive(Debug)]
enum Done {
    Announced(Result<AnnounceResponse, AnnounceError>),
    Delivered,
}

/// An announce that is to be made.
#[derive(Debug)]
struct ToMake {
    index: TrackerIndex,
    url: String,
    request: AnnounceRequest,
    caller: Option<Caller>,
}

/// Holds a torrent's announcer. Its methods never wait, but for [`Self::stop`]. Dropping it ends the task.
#[derive(Debug)]
pub struct AnnouncerHandle {
    shared: Arc<Shared>,
    stop: CancellationToken,
    finished: CancellationToken,
    _cancel: DropGuard,
}

impl Shared {
    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    fn schedule(&self) -> MutexGuard<'_, AnnounceSchedule> {
        // A panic while the lock was held leaves the schedule whole: each of its steps is a plain assignment.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Fn() -> TransferStats + Send + Sync + 'static> Announcer<S> {
    /// Spawns the task that announces over `tiers`, until `cancel` is cancelled or the handle is stopped or dropped.
    ///
    /// `stats` is asked at each announce and must not block. Peers found are sent to `peers`; while that is full up to
    /// 16 lists wait, and further ones are dropped. Must be called within a tokio runtime.
    pub fn spawn(
        config: AnnouncerConfig,
        client: TrackerClient,
        tiers: &[Vec<String>],
        stats: S,
        peers: mpsc::Sender<Vec<SocketAddr>>,
        cancel: &CancellationToken,
    ) -> AnnouncerHandle {
        #[cfg(feature = "webrtc")]
        let web_sockets = if config.swarm.is_some() { client.web_sockets() } else { WebSockets::Unused };
        #[cfg(not(feature = "webrtc"))]
        let web_sockets = client.web_sockets();
        let schedule = AnnounceSchedule::new(tiers, web_sockets, Duration::ZERO, &mut || fastrand::u64(..));
        let shared = Arc::new(Shared {
            schedule: Mutex::new(schedule),
            changed: Notify::new(),
            start: Instant::now(),
        });
        let (stop, finished, cancel) =
            (CancellationToken::new(), CancellationToken::new(), cancel.child_token());
        let announcer = Self {
            config,
            client,
            stats,
            peers,
            shared: Arc::clone(&shared),
            running: JoinSet::new(),
            under_way: HashMap::new(),
        };
        let (inner_stop, inner_cancel, at_end) =
            (stop.clone(), cancel.clone(), finished.clone().drop_guard());
        tokio::spawn(async move {
            let _at_end = at_end;
            tokio::select! {
                biased;
                () = inner_cancel.cancelled() => {}
                () = announcer.announcer_task(inner_stop) => {}
            }
        });
        AnnouncerHandle { shared, stop, finished, _cancel: cancel.drop_guard() }
    }

    async fn announcer_task(mut self, stop: CancellationToken) {
        loop {
            let wake = self.start_due();
            let shared = Arc::clone(&self.shared);
            let wait = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(shared.start + wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.running.join_next_with_id() => self.handle_done(done),
                () = shared.changed.notified() => {}
                () = wait => {}
            }
        }
        self.say_stopped().await;
    }

    /// Starts every announce that is due; returns when the next will be.
    fn start_due(&mut self) -> Option<Moment> {
        let now = self.shared.now();
        loop {
            let (due, wake) = {
                let mut schedule = self.shared.schedule();
                let due = schedule.poll(now);
                (due.and_then(|announce| self.request(&schedule, announce)), schedule.next_wake(now))
            };
            let Some(announce) = due else { return wake };
            let (client, hashes, index) = (self.client.clone(), self.config.hashes, announce.index);
            let task = self
                .running
                .spawn(async move { Done::Announced(announce_all(&client, &hashes, &announce).await) });
            self.under_way.insert(task.id(), index);
        }
    }

    /// Who announces to the tracker at `index`, as a WebSocket tracker has to know.
    #[cfg(feature = "webrtc")]
    fn caller(&self, index: TrackerIndex) -> Option<Caller> {
        let (swarm, shared) = (self.config.swarm.clone()?, Arc::downgrade(&self.shared));
        let lost = move |error: &AnnounceError| {
            let Some(shared) = shared.upgrade() else { return };
            let now = shared.now();
            shared.schedule().handle_lost(index, now, error.to_string(), &mut || fastrand::u64(..));
            shared.changed.notify_one();
        };
        Some(Caller { swarm, lost: Arc::new(lost) })
    }

    #[cfg(not(feature = "webrtc"))]
    #[expect(clippy::unused_self, reason = "as in a build with WebRTC")]
    fn caller(&self, _: TrackerIndex) -> Option<Caller> {
        None
    }

    fn request(&self, schedule: &AnnounceSchedule, announce: Announce) -> Option<ToMake> {
        let tracker = schedule.tracker(announce.tracker)?;
        let stats = (self.stats)();
        let num_want = match announce.event {
            AnnounceEvent::Stopped => 0,
            _ => self.config.num_want,
        };
        let request = AnnounceRequest {
            info_hash: self.config.hashes.primary(),
            peer_id: self.config.peer_id,
            port: self.config.port,
            uploaded: stats.uploaded,
            downloaded: stats.downloaded,
            left: stats.left,
            event: announce.event,
            num_want: Some(num_want),
            key: self.config.key,
            ip: None,
            tracker_id: tracker.last_outcome().tracker_id.clone(),
        };
        let (index, url) = (announce.tracker, tracker.url().to_owned());
        let caller = self.caller(index).filter(|_| tracker.kind() == TrackerKind::WebSocket);
        Some(ToMake { index, url, request, caller })
    }

    fn handle_done(&mut self, done: Result<(Id, Done), JoinError>) {
        let (id, result) = match done {
            Ok((id, Done::Announced(result))) => (id, result),
            Ok((_, Done::Delivered)) => return,
            Err(error) => {
                // A bug in the client must not stop the tier for ever: it counts as a failure.
                tracing::error!(%error, "an announce ended in a panic");
                (error.id(), Err(AnnounceError::Unsupported("the announce ended in an internal error")))
            }
        };
        let Some(index) = self.under_way.remove(&id) else { return };
        let now = self.shared.now();
        match result {
            Ok(response) => {
                let AnnounceResponse {
                    interval_s,
                    min_interval_s,
                    seeders,
                    leechers,
                    peers,
                    tracker_id,
                    warning,
                    external_ip,
                    ..
                } = response;
                let outcome = AnnounceOutcome {
                    interval_s,
                    min_interval_s,
                    seeders,
                    leechers,
                    peers: peers.len(),
                    tracker_id,
                    warning,
                    external_ip,
                };
                tracing::debug!(peers = outcome.peers, ?seeders, ?leechers, interval_s, "tracker answered");
                self.shared.schedule().handle_success(index, now, outcome);
                self.deliver(peers);
            }
            Err(error) => {
                let mut schedule = self.shared.schedule();
                if let Some(tracker) = schedule.tracker(index) {
                    let place = place_of(tracker.url());
                    let torrent = self.config.hashes.primary();
                    // Told once until it works again: it is asked for as long as the torrent is there, and `wtfs status`
                    // shows how it is.
                    match tracker.failures() {
                        0 => tracing::warn!(tracker = place, %torrent, %error, "tracker failed"),
                        failures => {
                            tracing::debug!(tracker = place, %torrent, %error, failures, "tracker failed again");
                        }
                    }
                }
                let retry_after = error.retry_after();
                let message = error.to_string();
                schedule.handle_failure(index, now, message, retry_after, &mut || fastrand::u64(..));
            }
        }
    }

    /// Passes peers on without making the schedule wait for a torrent that is busy.
    fn deliver(&mut self, peers: Vec<SocketAddr>) {
        if peers.is_empty() {
            return;
        }
        let Err(mpsc::error::TrySendError::Full(peers)) = self.peers.try_send(peers) else { return };
        let waiting = self.running.len() - self.under_way.len();
        if waiting >= MAX_WAITING_DELIVERIES {
            tracing::debug!(peers = peers.len(), "peers dropped: the torrent has not taken the earlier ones");
            return;
        }
        let sender = self.peers.clone();
        self.running.spawn(async move {
            // Fails only when the torrent is gone.
            let _ = sender.send(peers).await;
            Done::Delivered
        });
    }

    /// Says `stopped` to all who know us, side by side, within the configured time.
    async fn say_stopped(mut self) {
        self.running.abort_all();
        let requests: Vec<_> = {
            let mut schedule = self.shared.schedule();
            let known_there = schedule.stop();
            let announces =
                known_there.into_iter().map(|tracker| Announce { tracker, event: AnnounceEvent::Stopped });
            announces.filter_map(|announce| self.request(&schedule, announce)).collect()
        };
        let mut saying = JoinSet::new();
        for announce in requests {
            let (client, hashes) = (self.client.clone(), self.config.hashes);
            saying.spawn(async move {
                if let Err(error) = announce_all(&client, &hashes, &announce).await {
                    tracing::debug!(%error, "a tracker could not be told of the stop");
                }
            });
        }
        let all = async { while saying.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.stop_timeout, all).await.is_err() {
            tracing::debug!("some trackers did not answer to the stop in time");
        }
    }
}

/// Which tracker `url` leads to, for logs: without user, path and query, which may hold a passkey.
fn place_of(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(parsed) => format!("{}://{}", parsed.scheme(), host_of(&parsed)),
        Err(_) => "(no URL)".to_owned(),
    }
}

/// Announces to each swarm of a torrent, side by side. One answer is an answer: a tracker may know one of the swarms only.
async fn announce_all(
    client: &TrackerClient,
    hashes: &InfoHashes,
    announce: &ToMake,
) -> Result<AnnounceResponse, AnnounceError> {
    let announces = hashes.iter().map(|info_hash| {
        let request = AnnounceRequest { info_hash, ..announce.request.clone() };
        async move { client.announce_as(&announce.url, &request, announce.caller.as_ref()).await }
    });
    let answers = futures_util::future::join_all(announces).await;
    answers
        .into_iter()
        .reduce(merge)
        .unwrap_or(Err(AnnounceError::Unsupported("the torrent has no info hash")))
}

/// What two swarms of one torrent are together. Peers of a hybrid are mostly in both: numbers are not added up.
fn merge(
    one: Result<AnnounceResponse, AnnounceError>,
    other: Result<AnnounceResponse, AnnounceError>,
) -> Result<AnnounceResponse, AnnounceError> {
    let (mut all, other) = match (one, other) {
        (Ok(one), Ok(other)) => (one, other),
        (Ok(answer), Err(error)) | (Err(error), Ok(answer)) => {
            tracing::debug!(%error, "a tracker knows one swarm of the torrent only");
            return Ok(answer);
        }
        (Err(error), Err(_)) => return Err(error),
    };
    let known: HashSet<SocketAddr> = all.peers.iter().copied().collect();
    all.peers.extend(other.peers.into_iter().filter(|peer| !known.contains(peer)));
    all.interval_s = all.interval_s.max(other.interval_s);
    all.min_interval_s = all.min_interval_s.max(other.min_interval_s);
    all.seeders = all.seeders.max(other.seeders);
    all.leechers = all.leechers.max(other.leechers);
    all.warning = all.warning.or(other.warning);
    all.external_ip = all.external_ip.or(other.external_ip);
    all.tracker_id = all.tracker_id.or(other.tracker_id);
    Ok(all)
}

impl AnnouncerHandle {
    /// The torrent needs peers: trackers are asked again as early as they allow.
    pub fn want_peers(&self) {
        self.shared.schedule().want_peers(self.shared.now());
        self.shared.changed.notify_one();
    }

    /// All data is there: trackers are told once, however often this is called.
    pub fn completed(&self) {
        self.shared.schedule().handle_completed(self.shared.now());
        self.shared.changed.notify_one();
    }

    /// Adds each of `urls` that is not known yet as a tier of its own, due at once.
    pub fn add_trackers(&self, urls: Vec<String>) {
        let now = self.shared.now();
        {
            let mut schedule = self.shared.schedule();
            for url in urls {
                schedule.add_tier(std::slice::from_ref(&url), now, &mut || fastrand::u64(..));
            }
        }
        self.shared.changed.notify_one();
    }

    /// Every tracker, in the order of tiers and of trial.
    pub fn status(&self) -> Vec<TrackerStatus> {
        let now = self.shared.now();
        let schedule = self.shared.schedule();
        let status = schedule.iter().map(|(tier, tracker, next)| {
            let outcome = tracker.last_outcome();
            let (state, message) = match tracker.state() {
                TrackerState::Idle => (TrackerStateName::Idle, None),
                TrackerState::Announcing => (TrackerStateName::Announcing, None),
                TrackerState::Working => (TrackerStateName::Working, outcome.warning.clone()),
                TrackerState::Failing(reason) | TrackerState::Unusable(reason) => {
                    (TrackerStateName::Error, Some(reason.clone()))
                }
                TrackerState::NeedsWebRtc => {
                    (TrackerStateName::NeedsWebRtc, Some("needs WebRTC, not used".to_owned()))
                }
            };
            TrackerStatus {
                url: tracker.url().to_owned(),
                tier,
                state,
                message,
                last_announce_s: tracker.last_announce().map(|last| now.saturating_sub(last).as_secs()),
                next_announce_s: next.map(|next| next.saturating_sub(now).as_secs()),
                seeders: outcome.seeders,
                leechers: outcome.leechers,
                peers: outcome.peers,
                failures: tracker.failures(),
                external_ip: outcome.external_ip,
            }
        });
        status.collect()
    }

    /// Ends the announcing: `stopped` is said to every tracker that knows us, side by side, within
    /// [`AnnouncerConfig::stop_timeout`]. Returns when the task has ended; later calls return at once.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the stop under way, and it still ends within its time.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.finished.cancelled().await;
    }
}
