//! The task of one tracker's socket: opens it while somebody announces, says what has to be said, and hands on what
//! comes.
//!
//! Handlers do not wait: what they say goes into a queue, which is written while what comes is read, and what takes long
//! is a job that comes back as [`Done`]. When the line is lost so is everybody's place with the tracker: all are told and forgotten,
//! unanswered offers too. They announce again when their schedules say so, with offers made then.
//!
//! An announce goes out with the offers that are open. If the answer tells of others, and peers are wanted, new offers are
//! made and a second announce takes them along: so that a thousand torrents that nobody else has make none.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::time::Moment;
use wtfs_proto::tracker::http::AnnounceResponse;
use wtfs_proto::tracker::ws::{Announce, Answer, OfferId, Request, Response, Sdp};
use wtfs_proto::tracker::{AnnounceEvent, AnnounceRequest};

use super::line::{Heard, Hearing, Line, Said, Turn};
use super::offers::{MAX_OFFERS, Offers};
use super::shares::{self, Share};
use super::{Answered, Caller, Described, Dialer, Factory, Offered, Place};
use crate::tracker::AnnounceError;
use crate::transport::webrtc::RtcError;

/// Messages taken in a second; more wait in the network.
const MESSAGES_PER_SECOND: u32 = 500;
/// Messages without meaning in a row after which it is taken for no tracker.
const MALFORMED_MAX: u32 = 20;
/// Offers of others being answered at once. Each costs sockets, and a tracker may send any number.
const ANSWERING_MAX: usize = 32;
/// Offers of others that wait until some of these are done. Each is a message of the tracker, so of at most 64 KiB.
const WAITING_MAX: usize = 128;
/// With this much to be said no more announces are taken.
const OUTBOX_MAX: usize = 256;

/// Times of a socket's task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// How long an offer waits for its answer. Clients in browsers give theirs up after 50 s, and so might their NATs.
    pub(super) offer_life: Duration,
    /// How long the tracker may take to take what we write.
    pub(super) write: Duration,
    /// After this much silence the tracker is asked for a sign of life.
    pub(super) ping_after: Duration,
    /// After this much it is given up.
    pub(super) silence_max: Duration,
    /// How often offers, silence and those who are gone are looked at.
    pub(super) look: Duration,
    /// The wait after the first attempt to open that failed; it doubles. Schedules wait longer: this is for when many
    /// swarms share the tracker.
    pub(super) retry_first: Duration,
    /// The longest such wait.
    pub(super) retry_max: Duration,
    /// A task with nobody to announce ends after this.
    pub(super) linger: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            offer_life: Duration::from_secs(50),
            write: Duration::from_secs(10),
            ping_after: Duration::from_secs(30),
            silence_max: Duration::from_secs(75),
            look: Duration::from_secs(5),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            linger: Duration::from_secs(10),
        }
    }
}

/// An announce that somebody wants made.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) request: AnnounceRequest,
    pub(super) caller: Caller,
    pub(super) reply: Reply,
}

type Reply = oneshot::Sender<Result<AnnounceResponse, AnnounceError>>;

/// A swarm that is announced here.
struct Member {
    caller: Caller,
    request: AnnounceRequest,
    /// Who waits for the answer to the announce.
    waiting: Option<Reply>,
    offers: Offers<Box<dyn Offered>>,
    is_gathering: bool,
    /// How many others may want us, as of the tracker's last answer. It passes each offer on to another one of them, so
    /// that more offers than that are for nobody.
    others: usize,
    /// Others are there, but no offer could be made: there were too many at once.
    is_owed: bool,
}

/// Where an offer of somebody else came from.
type From = (InfoHash, PeerId);

/// An offer of somebody else that is not looked at yet.
struct Waiting {
    from: From,
    offer_id: OfferId,
    sdp: String,
    since: Moment,
}

/// What comes back from a job.
enum Done {
    Dialled(Result<Line, AnnounceError>),
    Gathered {
        info_hash: InfoHash,
        made: Vec<(String, Box<dyn Offered>)>,
    },
    Answered {
        from: From,
        offer_id: OfferId,
        answer: Described<dyn Answered>,
        place: shares::Place,
    },
    /// A connection was handed on, or came to nothing.
    Met {
        from: Option<From>,
        error: Option<RtcError>,
    },
}

/// See the module's documentation.
pub(super) struct SocketTask {
    times: Times,
    host: String,
    dialer: Dialer,
    factory: Arc<dyn Factory>,
    /// Of the connections that may be under way at all sockets.
    share: Share,
    inbox: mpsc::Receiver<Command>,
    start: Instant,
    line: Option<Line>,
    is_dialling: bool,
    /// Why it cannot be opened, and until when that is believed.
    failed: Option<(AnnounceError, Instant)>,
    failures: u32,
    members: HashMap<InfoHash, Member>,
    answering: HashMap<From, AbortHandle>,
    waiting: VecDeque<Waiting>,
    jobs: JoinSet<Done>,
    /// What is to be said, since when it is, and those who are told once all of it is.
    outbox: VecDeque<Said>,
    writing_since: Option<Instant>,
    leaving: Vec<Reply>,
    heard_at: Instant,
    malformed: u32,
}

impl SocketTask {
    pub(super) fn new(
        times: Times,
        host: String,
        dialer: Dialer,
        factory: Arc<dyn Factory>,
        share: Share,
        inbox: mpsc::Receiver<Command>,
    ) -> Self {
        let now = Instant::now();
        Self {
            times,
            host,
            dialer,
            factory,
            share,
            inbox,
            start: now,
            line: None,
            is_dialling: false,
            failed: None,
            failures: 0,
            members: HashMap::new(),
            answering: HashMap::new(),
            waiting: VecDeque::new(),
            jobs: JoinSet::new(),
            outbox: VecDeque::new(),
            writing_since: None,
            leaving: Vec::new(),
            heard_at: now,
            malformed: 0,
        }
    }

    /// Runs until `cancel`, or until nobody has announced for a while.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut next_look = Instant::now() + self.times.look;
        let mut idle_since = Instant::now();
        let (mut second, mut messages) = (Instant::now(), 0);
        loop {
            let now = Instant::now();
            if now.duration_since(second) >= Duration::from_secs(1) {
                (second, messages) = (now, 0);
            }
            let is_paced = messages >= MESSAGES_PER_SECOND;
            let wake = if is_paced { next_look.min(second + Duration::from_secs(1)) } else { next_look };
            let hearing = if is_paced { Hearing::Off } else { Hearing::On };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.handle_done(done),
                    Err(error) => if error.is_panic() {
                        tracing::error!(%error, "a job of a tracker's socket ended in a panic");
                    },
                },
                turn = turn(&mut self.line, &mut self.outbox, hearing) => match turn {
                    Ok(Turn::Heard(heard)) => {
                        messages += 1;
                        self.heard_at = Instant::now();
                        if let Heard::Text(text) = heard {
                            self.handle_text(&text);
                        }
                    }
                    Ok(Turn::Written) => self.writing_since = None,
                    Err(reason) => self.handle_lost(reason),
                },
                command = self.inbox.recv(), if self.outbox.len() < OUTBOX_MAX => match command {
                    Some(command) => self.handle_command(command),
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            let now = Instant::now();
            if now >= next_look {
                next_look = now + self.times.look;
                self.look(now);
            }
            if self.line.is_none() {
                self.outbox.clear();
            }
            if self.outbox.is_empty() {
                if self.line.is_none() || self.writing_since.is_none() {
                    for reply in self.leaving.drain(..) {
                        // Whoever left may not wait for it.
                        let _gone = reply.send(Ok(AnnounceResponse::default()));
                    }
                }
            } else {
                self.writing_since.get_or_insert(now);
            }
            if !self.members.is_empty() || !self.jobs.is_empty() || !self.outbox.is_empty() {
                idle_since = now;
            }
            let has_failed = self.failed.as_ref().is_some_and(|(_, until)| *until > now);
            if now.duration_since(idle_since) >= self.times.linger && !has_failed && self.inbox.is_empty() {
                // What comes now finds the queue closed, and starts another task.
                return;
            }
        }
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// What is due by the clock.
    fn look(&mut self, now: Instant) {
        let moment = self.now();
        // Answers take a second or two. Where there is no place for further offers, those go sooner that nobody takes.
        let is_short = self.members.values().any(|member| member.is_owed);
        let life = self.times.offer_life / if is_short { 4 } else { 1 };
        for member in self.members.values_mut() {
            member.offers.expire_after(life, moment);
        }
        // Somebody who ends without a word is forgotten like one who says `stopped`.
        let gone: Vec<InfoHash> = self
            .members
            .iter()
            .filter(|(_, member)| member.caller.swarm.is_gone())
            .map(|(hash, _)| *hash)
            .collect();
        for info_hash in gone {
            self.leave(info_hash);
        }
        self.gather_owed(usize::MAX);
        self.answer_waiting();
        let silence = now.saturating_duration_since(self.heard_at);
        if self.writing_since.is_some_and(|since| now.duration_since(since) >= self.times.write) {
            self.handle_lost("it takes nothing any more".to_owned());
        } else if self.line.as_ref().is_some_and(Line::can_die_silently) {
            if silence >= self.times.silence_max {
                self.handle_lost(format!(
                    "nothing was heard of it for {} s",
                    self.times.silence_max.as_secs()
                ));
            } else if silence >= self.times.ping_after {
                self.outbox.push_back(Said::Ping);
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        let Command { request, caller, reply } = command;
        let info_hash = request.info_hash;
        if request.event == AnnounceEvent::Stopped {
            if let Some(member) = self.members.get_mut(&info_hash) {
                member.request = request;
            }
            self.leave(info_hash);
            self.leaving.push(reply);
            return;
        }
        if let Some((error, until)) = &self.failed
            && self.line.is_none()
            && *until > Instant::now()
        {
            let _gone = reply.send(Err(error.clone()));
            return;
        }
        let member = self.members.entry(info_hash).or_insert_with(|| Member {
            caller: caller.clone(),
            request: request.clone(),
            waiting: None,
            offers: Offers::new(self.times.offer_life),
            is_gathering: false,
            others: 0,
            is_owed: false,
        });
        (member.caller, member.request, member.waiting) = (caller, request, Some(reply));
        if self.line.is_some() {
            self.say_announce(info_hash, self.now());
        } else if !self.is_dialling {
            self.is_dialling = true;
            let dialer = self.dialer.clone();
            self.jobs.spawn(async move { Done::Dialled(dialer.dial().await) });
        }
    }

    /// Takes a swarm out, and says so where that can be heard.
    fn leave(&mut self, info_hash: InfoHash) {
        let Some(mut member) = self.members.remove(&info_hash) else { return };
        if self.line.is_some() {
            member.request.event = AnnounceEvent::Stopped;
            self.outbox.push_back(Said::Text(announce_text(&member.request, Vec::new())));
        }
    }

    fn say_announce(&mut self, info_hash: InfoHash, now: Moment) {
        let Some(member) = self.members.get_mut(&info_hash) else { return };
        let open = member.offers.open(now);
        self.outbox.push_back(Said::Text(announce_text(&member.request, open)));
        // Said once; an announce with more offers is none of its own.
        member.request.event = AnnounceEvent::None;
    }

    fn handle_done(&mut self, done: Done) {
        match done {
            Done::Dialled(Ok(line)) => {
                tracing::debug!("the tracker's socket is open");
                self.is_dialling = false;
                (self.failed, self.failures, self.malformed) = (None, 0, 0);
                (self.line, self.heard_at) = (Some(line), Instant::now());
                let (waiting, now) = (self.members.keys().copied().collect::<Vec<InfoHash>>(), self.now());
                waiting.into_iter().for_each(|info_hash| self.say_announce(info_hash, now));
            }
            Done::Dialled(Err(error)) => {
                self.is_dialling = false;
                self.failures = self.failures.saturating_add(1);
                let wait = self
                    .times
                    .retry_first
                    .saturating_mul(1 << (self.failures - 1).min(10))
                    .min(self.times.retry_max);
                self.dismiss_all(&error);
                self.failed = Some((error, Instant::now() + wait));
            }
            Done::Gathered { info_hash, made } => {
                let now = self.now();
                let Some(member) = self.members.get_mut(&info_hash) else { return };
                member.is_gathering = false;
                member.is_owed = made.is_empty();
                if made.is_empty() || self.line.is_none() {
                    return;
                }
                for (sdp, pending) in made {
                    let offer_id = OfferId(std::array::from_fn(|_| fastrand::u8(..)));
                    member.offers.add(offer_id, &sdp, pending, now);
                }
                self.say_announce(info_hash, now);
            }
            Done::Answered { from, offer_id, answer, place } => {
                self.handle_answered(from, offer_id, answer, place);
            }
            Done::Met { from, error } => {
                if let Some(from) = from {
                    self.answering.remove(&from);
                }
                if let Some(error) = error {
                    tracing::debug!(%error, "nothing came of an offer");
                }
                self.answer_waiting();
            }
        }
    }

    /// Our answer to somebody's offer is made: it is said, and the peer awaited.
    fn handle_answered(
        &mut self,
        from: From,
        offer_id: OfferId,
        answer: Described<dyn Answered>,
        place: shares::Place,
    ) {
        self.answering.remove(&from);
        let (info_hash, peer_id) = from;
        let (sdp, pending) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(peer = %peer_id, %error, "an offer cannot be answered");
                drop(place);
                return self.answer_waiting();
            }
        };
        let Some(member) = self.members.get(&info_hash).filter(|_| self.line.is_some()) else { return };
        let text = Request::Answer(Answer {
            info_hash,
            peer_id: member.request.peer_id,
            to_peer_id: peer_id,
            offer_id,
            sdp: Sdp::new(&sdp),
        });
        self.outbox.push_back(Said::Text(text.encode()));
        let swarm = member.caller.swarm.clone();
        let meeting = self.jobs.spawn(async move {
            let _until_done = place;
            let error = match pending.connected().await {
                Ok(connection) => {
                    swarm.welcome(connection, info_hash).await;
                    None
                }
                Err(error) => Some(error),
            };
            Done::Met { from: Some(from), error }
        });
        self.answering.insert(from, meeting);
    }

    fn handle_text(&mut self, text: &str) {
        let response = match Response::decode(text) {
            Ok(response) => response,
            Err(error) => {
                self.malformed += 1;
                tracing::debug!(%error, "a message of the tracker means nothing");
                if self.malformed >= MALFORMED_MAX {
                    self.handle_lost("what it says is not what a tracker says".to_owned());
                }
                return;
            }
        };
        self.malformed = 0;
        match response {
            Response::Announce { info_hash, interval_s, complete, incomplete } => {
                let Some(member) = self.members.get_mut(&info_hash) else { return };
                let Some(reply) = member.waiting.take() else { return };
                let answer = AnnounceResponse {
                    interval_s,
                    seeders: Some(complete),
                    leechers: Some(incomplete),
                    ..AnnounceResponse::default()
                };
                let _gone = reply.send(Ok(answer));
                // We are one of those it counts; and two that lack nothing have nothing to say to each other.
                let others = match member.request.left {
                    0 => incomplete,
                    _ => complete.saturating_add(incomplete).saturating_sub(1),
                };
                member.others = others as usize;
                // Those we are connected with would be offered a connection again.
                if member.others > member.caller.swarm.connected() {
                    self.gather(info_hash);
                }
            }
            Response::Offer { info_hash, peer_id, offer } => {
                self.handle_offer((info_hash, peer_id), offer.offer_id, offer.sdp.text());
            }
            Response::Answer { info_hash, peer_id, offer_id, sdp } => {
                let now = self.now();
                let Some(member) = self.members.get_mut(&info_hash) else { return };
                let Some(pending) = member.offers.take(offer_id, now) else { return };
                let swarm = member.caller.swarm.clone();
                if swarm.is_connected(peer_id) {
                    return;
                }
                let Some(place) = self.share.take() else {
                    tracing::debug!(peer = %peer_id, "an answer is not taken: there are too many at once");
                    return;
                };
                let accepting = pending.accept(sdp.text());
                self.jobs.spawn(async move {
                    let _until_done = place;
                    let error = match accepting.await {
                        Ok(connection) => {
                            swarm.welcome(connection, info_hash).await;
                            None
                        }
                        Err(error) => Some(error),
                    };
                    Done::Met { from: None, error }
                });
                // One that is answered takes no place any more.
                self.gather_owed(1);
            }
            Response::Failure { info_hash, reason } => {
                let error = AnnounceError::Refused { reason };
                for (hash, member) in &mut self.members {
                    if info_hash.is_none_or(|about| about == *hash)
                        && let Some(reply) = member.waiting.take()
                    {
                        let _gone = reply.send(Err(error.clone()));
                    }
                }
            }
            Response::Scrape(_) => {}
        }
    }

    /// Makes as many offers as peers are wanted, beside those that are open.
    fn gather(&mut self, info_hash: InfoHash) {
        let place = self.place();
        let Some(member) = self.members.get_mut(&info_hash) else { return };
        let count = member.caller.swarm.wanted().min(member.others).min(MAX_OFFERS);
        let count = count.saturating_sub(member.offers.len());
        member.is_owed = false;
        if count == 0 || member.is_gathering {
            return;
        }
        member.is_gathering = true;
        let offers: Vec<_> = (0..count).map(|_| self.factory.offer(place)).collect();
        self.jobs.spawn(async move {
            let mut made = Vec::new();
            for offer in futures_util::future::join_all(offers).await {
                match offer {
                    Ok(offer) => made.push(offer),
                    Err(error) => tracing::debug!(%error, "no offer can be made"),
                }
            }
            Done::Gathered { info_hash, made }
        });
    }

    /// Makes the offers, of at most `count` swarms, for which there was no place.
    fn gather_owed(&mut self, count: usize) {
        let owed = self.members.iter().filter(|(_, member)| member.is_owed && !member.is_gathering);
        for info_hash in owed.map(|(hash, _)| *hash).take(count).collect::<Vec<_>>() {
            self.gather(info_hash);
        }
    }

    /// Somebody offers a connection. A later offer of the same peer takes the place of the one before it: it has given
    /// that up.
    fn handle_offer(&mut self, from: From, offer_id: OfferId, sdp: String) {
        let (info_hash, peer_id) = from;
        let Some(member) = self.members.get(&info_hash) else { return };
        let swarm = &member.caller.swarm;
        if peer_id == member.request.peer_id || swarm.is_connected(peer_id) || !swarm.has_room() {
            return;
        }
        if let Some(earlier) = self.answering.remove(&from) {
            earlier.abort();
        }
        self.waiting.retain(|earlier| earlier.from != from);
        if self.waiting.len() >= WAITING_MAX {
            tracing::debug!(peer = %peer_id, "an offer is not answered: there are too many at once");
            return;
        }
        self.waiting.push_back(Waiting { from, offer_id, sdp, since: self.now() });
        self.answer_waiting();
    }

    /// Answers those who wait, as many as may be answered at once.
    fn answer_waiting(&mut self) {
        let now = self.now();
        while self.answering.len() < ANSWERING_MAX && !self.waiting.is_empty() {
            // Without a place it is tried again when one of ours is free, or at the next look.
            let Some(place) = self.share.take() else { return };
            let Some(Waiting { from, offer_id, sdp, since }) = self.waiting.pop_front() else { return };
            let is_wanted = self.members.get(&from.0).is_some_and(|member| {
                let swarm = &member.caller.swarm;
                !swarm.is_connected(from.1) && swarm.has_room()
            });
            if !is_wanted || now.saturating_sub(since) >= self.times.offer_life {
                continue;
            }
            let answer = self.factory.answer(sdp, self.place());
            let job = self
                .jobs
                .spawn(async move { Done::Answered { from, offer_id, answer: answer.await, place } });
            self.answering.insert(from, job);
        }
    }

    fn place(&self) -> Place {
        self.line.as_ref().map_or(Place::Near, Line::place)
    }

    /// The line broke. What has been answered goes on by itself: it needs the tracker no more.
    fn handle_lost(&mut self, reason: String) {
        let error = AnnounceError::Lost { host: self.host.clone(), reason };
        tracing::debug!(%error, "a tracker is lost");
        self.line = None;
        (self.writing_since, self.malformed) = (None, 0);
        // Nobody could be told the answers.
        self.waiting.clear();
        self.dismiss_all(&error);
        self.failed = Some((error, Instant::now() + self.times.retry_first));
    }

    /// Tells everybody, and forgets them with their offers.
    fn dismiss_all(&mut self, error: &AnnounceError) {
        for (_, member) in self.members.drain() {
            (member.caller.lost)(error);
            if let Some(reply) = member.waiting {
                let _gone = reply.send(Err(error.clone()));
            }
        }
    }
}

/// A turn of the line, if there is one. Cancel safe.
async fn turn(
    line: &mut Option<Line>,
    outbox: &mut VecDeque<Said>,
    hearing: Hearing,
) -> Result<Turn, String> {
    match line {
        Some(line) => line.turn(outbox, hearing).await,
        None => std::future::pending().await,
    }
}

fn announce_text(request: &AnnounceRequest, offers: Vec<wtfs_proto::tracker::ws::Offer<'static>>) -> String {
    let announce = Announce {
        info_hash: request.info_hash,
        peer_id: request.peer_id,
        uploaded: request.uploaded,
        downloaded: request.downloaded,
        left: Some(request.left).filter(|left| *left != u64::MAX),
        event: request.event,
        num_want: Some(u32::try_from(offers.len()).unwrap_or(u32::MAX)),
        offers,
    };
    Request::Announce(announce).encode()
}
