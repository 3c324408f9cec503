//! When to announce to which tracker, and with which event (BEP 3, BEP 12).
//!
//! [`AnnounceSchedule`] owns the tiers of one torrent and what is known of each tracker. It is told the time and the
//! randomness, is asked what is due (`poll`), and is told how that went (`handle_success`, `handle_failure`). It never
//! opens a socket and never reads a clock.
//!
//! Tiers are shuffled once. One tracker of *each* tier is announced to: within a tier the trackers are tried in order
//! until one answers, and that one moves to the front and is kept until it fails. BEP 12 would stop at the first tier
//! that works; announcing to every tier finds more peers and survives a tracker that answers but knows nobody, and is
//! what most clients do today.
//!
//! WebSocket trackers of a tier make up a tier of their own, since none of the others can do what they do: bring
//! browsers and us together.
//!
//! Invariants: at most one announce is under way in a tier; a working tracker is never asked again before its minimum
//! interval, except to say `completed`; a failing one waits an exponentially growing, jittered time; `completed` is
//! said at most once to a tracker, and only to one that accepted `started`.

use std::net::IpAddr;
use std::time::Duration;

use crate::time::Moment;
use crate::tracker::AnnounceEvent;

/// Shortest time between two announces to a tracker, whatever it asks for.
///
/// A tracker that answers `interval 0` must not make the whole swarm announce in a loop.
pub const INTERVAL_FLOOR: Duration = Duration::from_secs(30);
/// Longest time between two announces to a working tracker, whatever it asks for.
///
/// Trackers forget peers, and a swarm changes: with a day between announces the torrent would be left alone.
pub const INTERVAL_CEILING: Duration = Duration::from_secs(60 * 60);
/// Minimum interval assumed of a tracker that states none (UDP trackers cannot).
pub const DEFAULT_MIN_INTERVAL: Duration = Duration::from_secs(60);
/// Wait after the first failure. Short, because the usual first failure is a packet lost or a network not up yet.
pub const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest wait after a failure.
pub const RETRY_CEILING: Duration = Duration::from_secs(60 * 60);
/// Longest wait after a failure while the torrent needs peers: an outage that ended must be noticed within minutes.
pub const RETRY_CEILING_IN_NEED: Duration = Duration::from_secs(5 * 60);
/// Trackers kept for a torrent; more are dropped. A hostile list must cost neither memory nor a flood of requests.
pub const MAX_TRACKERS: usize = 200;
/// Longest announce URL kept, in bytes; longer ones are dropped.
pub const MAX_URL_BYTES: usize = 2048;
/// Longest message of a tracker kept for the status, in bytes.
const MAX_MESSAGE_BYTES: usize = 300;

/// Identity of a tracker within one [`AnnounceSchedule`]; never reused, made only by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerIndex(usize);

/// How a tracker is spoken to, by the scheme of its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackerKind {
    /// `http://` or `https://` (BEP 3).
    Http,
    /// `udp://` (BEP 15).
    Udp,
    /// `ws://` or `wss://`: hands out WebRTC offers rather than addresses.
    WebSocket,
    /// Anything else.
    Unknown,
}

impl TrackerKind {
    /// The kind of tracker at `url`, by its scheme alone (case does not matter).
    pub fn of(url: &str) -> Self {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Self::Http,
            "udp" => Self::Udp,
            "ws" | "wss" => Self::WebSocket,
            _ => Self::Unknown,
        }
    }
}

/// Whether WebSocket trackers are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WebSockets {
    /// There is nobody to make offers: they are listed and left alone.
    #[default]
    Unused,
    /// They are announced to like any other.
    Used,
}

/// What became of the last announce to a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackerState {
    /// Not announced to so far: another tracker of its tier works, or its turn has not come.
    Idle,
    /// An announce is under way.
    Announcing,
    /// The last announce was answered.
    Working,
    /// The last announce failed; the text is a sentence for people.
    Failing(String),
    /// A WebSocket tracker where these are [`WebSockets::Unused`]; it is never announced to.
    NeedsWebRtc,
    /// Its URL is of no kind we can speak to; it is never announced to.
    Unusable(String),
}

/// What an announce brought, as far as the schedule cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnounceOutcome {
    /// `interval`, in seconds.
    pub interval_s: u32,
    /// `min interval`, in seconds.
    pub min_interval_s: Option<u32>,
    /// Complete peers in the swarm.
    pub seeders: Option<u32>,
    /// Incomplete peers in the swarm.
    pub leechers: Option<u32>,
    /// How many addresses came with the answer.
    pub peers: usize,
    /// `tracker id`, to be sent back with later announces.
    pub tracker_id: Option<String>,
    /// `warning message`.
    pub warning: Option<String>,
    /// Where the tracker sees us (BEP 24), as it says.
    pub external_ip: Option<IpAddr>,
}

/// An announce that is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The tracker to announce to.
    pub tracker: TrackerIndex,
    /// The event to announce.
    pub event: AnnounceEvent,
}

/// All that is known of one tracker.
#[derive(Debug, Clone)]
pub struct Tracker {
    url: String,
    kind: TrackerKind,
    state: TrackerState,
    under_way: Option<AnnounceEvent>,
    accepted_started: bool,
    owes_completed: bool,
    last_announce: Option<Moment>,
    last_success: Option<Moment>,
    next: Moment,
    min_interval: Duration,
    failures: u32,
    swarm: AnnounceOutcome,
}

impl Tracker {
    fn new(url: String, web_sockets: WebSockets, now: Moment) -> Self {
        let kind = TrackerKind::of(&url);
        let state = match kind {
            TrackerKind::WebSocket if web_sockets == WebSockets::Unused => TrackerState::NeedsWebRtc,
            TrackerKind::Http | TrackerKind::Udp | TrackerKind::WebSocket => TrackerState::Idle,
            TrackerKind::Unknown => TrackerState::Unusable(
                "the scheme of this URL is not known; use http, https, udp, ws or wss".to_owned(),
            ),
        };
        Self {
            url,
            kind,
            state,
            under_way: None,
            accepted_started: false,
            owes_completed: false,
            last_announce: None,
            last_success: None,
            next: now,
            min_interval: DEFAULT_MIN_INTERVAL,
            failures: 0,
            swarm: AnnounceOutcome::default(),
        }
    }

    /// Its announce URL, as given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How it is spoken to.
    pub fn kind(&self) -> TrackerKind {
        self.kind
    }

    /// What became of the last announce.
    pub fn state(&self) -> &TrackerState {
        &self.state
    }

    /// When the last announce to it was begun.
    pub fn last_announce(&self) -> Option<Moment> {
        self.last_announce
    }

    /// When it last answered.
    pub fn last_success(&self) -> Option<Moment> {
        self.last_success
    }

    /// Failures since its last answer.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What its last answer said; all zero before the first.
    pub fn last_outcome(&self) -> &AnnounceOutcome {
        &self.swarm
    }

    /// Whether it knows of us: it accepted `started`, and so is owed `stopped`.
    pub fn accepted_started(&self) -> bool {
        self.accepted_started
    }

    fn is_usable(&self) -> bool {
        !matches!(self.state, TrackerState::NeedsWebRtc | TrackerState::Unusable(_))
    }

    fn event(&self) -> AnnounceEvent {
        if !self.accepted_started {
            AnnounceEvent::Started
        } else if self.owes_completed {
            AnnounceEvent::Completed
        } else {
            AnnounceEvent::None
        }
    }
}

/// One tier: its trackers in the order of trial, and the one that answered last.
#[derive(Debug, Clone, Default)]
struct Tier {
    /// As people count them: the WebSocket trackers of a tier have its number.
    number: usize,
    order: Vec<usize>,
    active: Option<usize>,
}

/// Whether the torrent runs, has all its data, or was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Completed,
    Stopped,
}

/// The announces of one torrent. See the module's documentation for the rules.
#[derive(Debug, Clone)]
pub struct AnnounceSchedule {
    trackers: Vec<Tracker>,
    tiers: Vec<Tier>,
    web_sockets: WebSockets,
    phase: Phase,
}

impl AnnounceSchedule {
    /// A schedule over `tiers` in which every tier is due at `now`.
    ///
    /// Each tier is shuffled with `random`. A URL that appears twice keeps its first place; empty and over-long URLs
    /// and those past [`MAX_TRACKERS`] are dropped.
    pub fn new(
        tiers: &[Vec<String>],
        web_sockets: WebSockets,
        now: Moment,
        random: &mut impl FnMut() -> u64,
    ) -> Self {
        let mut schedule =
            Self { trackers: Vec::new(), tiers: Vec::new(), web_sockets, phase: Phase::Running };
        for tier in tiers {
            schedule.add_tier(tier, now, random);
        }
        schedule
    }

    /// Appends `urls` as one tier, due at `now`; known ones are skipped. Returns how many were new.
    pub fn add_tier(&mut self, urls: &[String], now: Moment, random: &mut impl FnMut() -> u64) -> usize {
        let (mut order, mut sockets) = (Vec::new(), Vec::new());
        for url in urls {
            let url = url.trim();
            let is_known = self.trackers.iter().any(|tracker| tracker.url == url);
            if url.is_empty() || url.len() > MAX_URL_BYTES || is_known || self.trackers.len() >= MAX_TRACKERS
            {
                continue;
            }
            let is_socket = TrackerKind::of(url) == TrackerKind::WebSocket;
            if is_socket { &mut sockets } else { &mut order }.push(self.trackers.len());
            self.trackers.push(Tracker::new(url.to_owned(), self.web_sockets, now));
        }
        let added = order.len() + sockets.len();
        let number = self.tiers.last().map_or(0, |tier| tier.number + 1);
        for mut order in [order, sockets] {
            // Fisher-Yates; the modulo's bias over a list of at most 200 is of no account.
            for i in (1..order.len()).rev() {
                let bound = u64::try_from(i).expect("an index of a short list fits 64 bits") + 1;
                let j = usize::try_from(random() % bound).expect("not over i, which is an index");
                order.swap(i, j);
            }
            if !order.is_empty() {
                self.tiers.push(Tier { number, order, active: None });
            }
        }
        added
    }

    /// The next announce that is due at `now`, marked as under way. Call until it returns `None`.
    ///
    /// Each one taken must be answered by [`Self::handle_success`] or [`Self::handle_failure`]; its tier waits for it.
    pub fn poll(&mut self, now: Moment) -> Option<Announce> {
        let index = (0..self.tiers.len()).find_map(|tier| {
            let (index, due) = self.candidate(tier, now)?;
            (due <= now).then_some(index)
        })?;
        let tracker = &mut self.trackers[index];
        let event = tracker.event();
        tracker.under_way = Some(event);
        tracker.state = TrackerState::Announcing;
        tracker.last_announce = Some(now);
        Some(Announce { tracker: TrackerIndex(index), event })
    }

    /// When [`Self::poll`] has something next; `None` while all waits for answers, or nothing is left to announce to.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        (0..self.tiers.len()).filter_map(|tier| self.candidate(tier, now)).map(|(_, due)| due).min()
    }

    /// The tracker at `index` answered.
    pub fn handle_success(&mut self, index: TrackerIndex, now: Moment, outcome: AnnounceOutcome) {
        let Some(tracker) = self.trackers.get_mut(index.0) else { return };
        let Some(event) = tracker.under_way.take() else { return };
        match event {
            AnnounceEvent::Started => tracker.accepted_started = true,
            AnnounceEvent::Completed => tracker.owes_completed = false,
            AnnounceEvent::None | AnnounceEvent::Stopped => {}
        }
        let stated = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let interval = stated(outcome.interval_s).clamp(INTERVAL_FLOOR, INTERVAL_CEILING);
        let min_interval = outcome.min_interval_s.map_or(DEFAULT_MIN_INTERVAL.min(interval), stated);
        tracker.min_interval = min_interval.clamp(INTERVAL_FLOOR, INTERVAL_CEILING);
        tracker.next = now.saturating_add(interval.max(tracker.min_interval));
        if tracker.owes_completed {
            // The data became complete while `started` was under way.
            tracker.next = now;
        }
        tracker.state = TrackerState::Working;
        tracker.failures = 0;
        tracker.last_success = Some(now);
        // A tracker that leaves `tracker id` out means the one it gave before (BEP 3).
        let tracker_id = outcome.tracker_id.filter(|id| id.len() <= MAX_MESSAGE_BYTES);
        let tracker_id = tracker_id.or_else(|| tracker.swarm.tracker_id.take());
        tracker.swarm = AnnounceOutcome { tracker_id, warning: outcome.warning.map(shorten), ..outcome };
        if let Some(tier) = self.tiers.iter_mut().find(|tier| tier.order.contains(&index.0)) {
            tier.order.retain(|&other| other != index.0);
            tier.order.insert(0, index.0);
            tier.active = Some(index.0);
        }
    }

    /// The announce to the tracker at `index` failed, for the reason `message` (a sentence for people).
    ///
    /// The next tracker of its tier becomes due at once. `retry_after` is the wait the tracker itself asked for: it is
    /// respected up to [`RETRY_CEILING`], and never makes the wait shorter than the back-off.
    pub fn handle_failure(
        &mut self,
        index: TrackerIndex,
        now: Moment,
        message: String,
        retry_after: Option<Duration>,
        random: &mut impl FnMut() -> u64,
    ) {
        let Some(tracker) = self.trackers.get_mut(index.0) else { return };
        if tracker.under_way.take().is_none() {
            return;
        }
        tracker.failures = tracker.failures.saturating_add(1);
        let wait = backoff(tracker.failures, random).max(retry_after.unwrap_or_default().min(RETRY_CEILING));
        tracker.next = now.saturating_add(wait);
        tracker.state = TrackerState::Failing(shorten(message));
        for tier in &mut self.tiers {
            if tier.active == Some(index.0) {
                tier.active = None;
            }
        }
    }

    /// The connection to the tracker at `index` broke, and with it our place in its swarm: it is announced to anew, as if
    /// never before, after the wait of a first failure. `message` is a sentence for people. Told again, of another swarm of
    /// the same torrent, nothing changes.
    pub fn handle_lost(
        &mut self,
        index: TrackerIndex,
        now: Moment,
        message: String,
        random: &mut impl FnMut() -> u64,
    ) {
        let Some(tracker) = self.trackers.get_mut(index.0) else { return };
        let was_known_there = std::mem::take(&mut tracker.accepted_started);
        if was_known_there && tracker.under_way.is_none() {
            // As if an announce had found it out.
            tracker.under_way = Some(AnnounceEvent::None);
            self.handle_failure(index, now, message, None, random);
        }
    }

    /// The torrent needs peers: announces come forward, but not before a tracker's minimum interval, and a tracker that
    /// fails is tried again after [`RETRY_CEILING_IN_NEED`] at the latest.
    pub fn want_peers(&mut self, now: Moment) {
        for tracker in &mut self.trackers {
            let Some(last) = tracker.last_announce else { continue };
            let wait = if tracker.failures > 0 { RETRY_CEILING_IN_NEED } else { tracker.min_interval };
            tracker.next = tracker.next.min(last.saturating_add(wait).max(now));
        }
    }

    /// All data is there: each tracker that knows of us is told `completed`, once. Later calls do nothing.
    ///
    /// A tracker that has not been told `started` needs no `completed`: its `started` will say that nothing is left.
    pub fn handle_completed(&mut self, now: Moment) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::Completed;
        for tracker in &mut self.trackers {
            if tracker.accepted_started || tracker.under_way == Some(AnnounceEvent::Started) {
                tracker.owes_completed = true;
                if tracker.failures == 0 {
                    tracker.next = tracker.next.min(now);
                }
            }
        }
    }

    /// Ends the schedule: nothing is due any more. Returns those to be told `stopped`: all that accepted `started`.
    pub fn stop(&mut self) -> Vec<TrackerIndex> {
        if self.phase == Phase::Stopped {
            return Vec::new();
        }
        self.phase = Phase::Stopped;
        let known_there = self.trackers.iter().enumerate().filter(|(_, tracker)| tracker.accepted_started);
        known_there.map(|(index, _)| TrackerIndex(index)).collect()
    }

    /// The tracker at `index`.
    pub fn tracker(&self, index: TrackerIndex) -> Option<&Tracker> {
        self.trackers.get(index.0)
    }

    /// Every tracker with the number of its tier and the time of its next announce (`None`: no time is set, because it
    /// is under way, never will be, or another of its tier works), in the order of trial.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Tracker, Option<Moment>)> {
        self.tiers.iter().flat_map(move |tier| {
            tier.order.iter().map(move |&index| {
                let tracker = &self.trackers[index];
                let is_scheduled = self.phase != Phase::Stopped
                    && tracker.is_usable()
                    && tracker.under_way.is_none()
                    && tier.active.is_none_or(|active| active == index);
                (tier.number, tracker, is_scheduled.then_some(tracker.next))
            })
        })
    }

    /// The tracker of `tier` to announce to next, and when.
    fn candidate(&self, tier: usize, now: Moment) -> Option<(usize, Moment)> {
        if self.phase == Phase::Stopped {
            return None;
        }
        let tier = &self.tiers[tier];
        if tier.order.iter().any(|&index| self.trackers[index].under_way.is_some()) {
            return None;
        }
        if let Some(active) = tier.active {
            return Some((active, self.trackers[active].next));
        }
        let usable = tier.order.iter().copied().filter(|&index| self.trackers[index].is_usable());
        let first_due = usable.clone().find(|&index| self.trackers[index].next <= now);
        let index = first_due.or_else(|| usable.min_by_key(|&index| self.trackers[index].next))?;
        Some((index, self.trackers[index].next))
    }
}

/// The wait after the `failures`-th failure in a row: 5 s, 10 s, 20 s ... one hour, spread so that the clients of a
/// tracker that was down do not all come back at once.
fn backoff(failures: u32, random: &mut impl FnMut() -> u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let base = RETRY_FIRST.saturating_mul(1 << doublings);
    let low = base.min(RETRY_CEILING.mul_f64(0.75));
    let high = (base + base / 2).min(RETRY_CEILING);
    let spread_ms = u64::try_from((high - low).as_millis()).unwrap_or(u64::MAX);
    low + Duration::from_millis(random() % spread_ms.saturating_add(1))
}

/// Cuts what a tracker said to a length fit for a status line, and drops control characters: it goes to a terminal.
fn shorten(message: String) -> String {
    let mut kept = String::new();
    for c in message.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + c.len_utf8() > MAX_MESSAGE_BYTES {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests;
