//! The client against a scripted tracker and a factory that makes connections of nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::time::Instant;
use wtfs_proto::id::InfoHashes;
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_proto::tracker::ws::{Announce, Answer, OfferId, Request, Response, Sdp};

use super::offers::MAX_OFFERS;
use super::socket::Times;
use super::*;
use crate::tracker::local::{LocalLine, LocalTracker};
use crate::tracker::tests::http_client;
use crate::transport::memory;

const URL: &str = "ws://tracker.test/announce";
const OURS: PeerId = PeerId::new(*b"-WT0001-ourselves000");
const THEIRS: PeerId = PeerId::new(*b"-WT0001-somebodyelse");
const NEVER: Duration = Duration::from_secs(3600);

/// What the tests wait for is soon; what they do not is never, however slow the machine.
const TIMES: Times = Times {
    offer_life: NEVER,
    write: NEVER,
    ping_after: NEVER,
    silence_max: NEVER,
    look: Duration::from_millis(5),
    retry_first: Duration::from_millis(200),
    retry_max: Duration::from_secs(1),
    linger: Duration::from_millis(50),
};

/// Waits until something that is under way has come about.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Makes offers that are nothing but a number, and counts those that somebody still holds.
#[derive(Debug, Default)]
struct FakeFactory {
    is_full: std::sync::atomic::AtomicBool,
    made: AtomicUsize,
    alive: Arc<AtomicUsize>,
}

/// A description of ours; counts as long as it is there.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FakeFactory {
    fn hold(&self) -> (String, Held) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.alive.fetch_add(1, Ordering::Relaxed);
        (format!("v=0 of {number}"), Held(self.alive.clone()))
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }
}

fn addr() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1))
}

impl Factory for FakeFactory {
    fn offer(&self, _: Place) -> BoxFuture<'static, Described<dyn Offered>> {
        if self.is_full.load(Ordering::Relaxed) {
            return async { Err(RtcError::TooMany) }.boxed();
        }
        let (sdp, held) = self.hold();
        async move { Ok((sdp, Box::new(held) as Box<dyn Offered>)) }.boxed()
    }

    fn answer(&self, offer: String, _: Place) -> BoxFuture<'static, Described<dyn Answered>> {
        let (sdp, held) = self.hold();
        async move {
            match offer.starts_with("v=0") {
                true => Ok((sdp, Box::new(held) as Box<dyn Answered>)),
                false => Err(RtcError::BadSdp("no version".to_owned())),
            }
        }
        .boxed()
    }
}

impl Offered for Held {
    fn accept(self: Box<Self>, answer: String) -> BoxFuture<'static, Result<Connection, RtcError>> {
        let _until_done = self;
        async move {
            match answer.starts_with("v=0") {
                true => Ok(memory::pair(addr(), addr(), 1).0),
                false => Err(RtcError::BadSdp("no version".to_owned())),
            }
        }
        .boxed()
    }
}

impl Answered for Held {
    fn connected(self: Box<Self>) -> BoxFuture<'static, Result<Connection, RtcError>> {
        async move {
            let _until_done = self;
            Ok(memory::pair(addr(), addr(), 1).1)
        }
        .boxed()
    }
}

/// A torrent that looks for a number of peers.
#[derive(Debug)]
struct FakeSwarm {
    wanted: usize,
    connected: Mutex<HashSet<PeerId>>,
    welcomed: mpsc::Sender<(Connection, InfoHash)>,
    is_gone: std::sync::atomic::AtomicBool,
}

impl Swarm for FakeSwarm {
    fn wanted(&self) -> usize {
        self.wanted
    }

    fn has_room(&self) -> bool {
        self.wanted > 0
    }

    fn connected(&self) -> usize {
        self.connected.lock().unwrap().len()
    }

    fn is_connected(&self, peer_id: PeerId) -> bool {
        self.connected.lock().unwrap().contains(&peer_id)
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    fn welcome(&self, connection: Connection, info_hash: InfoHash) -> BoxFuture<'static, ()> {
        let welcomed = self.welcomed.clone();
        async move {
            let _gone = welcomed.send((connection, info_hash)).await;
        }
        .boxed()
    }
}

/// The tracker's end of each line that was opened.
#[derive(Debug)]
struct Script {
    lines: mpsc::Sender<(mpsc::Receiver<String>, mpsc::Sender<String>)>,
    is_down: std::sync::atomic::AtomicBool,
}

impl LocalTracker for Script {
    fn connect(&self) -> LocalLine {
        let (line, heard, says) = LocalLine::new();
        if !self.is_down.load(Ordering::Relaxed) {
            self.lines.try_send((heard, says)).expect("the test takes the lines");
        }
        line
    }
}

struct Rig {
    client: WsClient,
    factory: Arc<FakeFactory>,
    script: Arc<Script>,
    lines: mpsc::Receiver<(mpsc::Receiver<String>, mpsc::Sender<String>)>,
    swarm: Arc<FakeSwarm>,
    welcomed: mpsc::Receiver<(Connection, InfoHash)>,
    lost: Arc<Mutex<Vec<String>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

fn rig(wanted: usize) -> Rig {
    rig_with(wanted, TIMES, NEVER)
}

fn rig_with(wanted: usize, times: Times, announce_timeout: Duration) -> Rig {
    let (lines, opened) = mpsc::channel(64);
    let script = Arc::new(Script { lines, is_down: false.into() });
    let own = OwnTracker { url: URL.to_owned(), tracker: script.clone() };
    let (factory, tasks, cancel) =
        (Arc::<FakeFactory>::default(), TaskTracker::new(), CancellationToken::new());
    let client = WsClient(Arc::new(Shared {
        http: http_client(),
        factory: factory.clone(),
        own: Some(own),
        sockets: Mutex::default(),
        shares: Shares::new(UNDER_WAY),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
        announce_timeout,
        times,
    }));
    let (welcomes, welcomed) = mpsc::channel(64);
    let swarm = FakeSwarm { wanted, connected: Mutex::default(), welcomed: welcomes, is_gone: false.into() };
    let (swarm, lost) = (Arc::new(swarm), Arc::default());
    Rig { client, factory, script, lines: opened, swarm, welcomed, lost, tasks, cancel }
}

/// The same, and the tracker has heard its first announce, which it has not answered.
async fn announced(
    wanted: usize,
) -> (Rig, tokio::task::JoinHandle<Result<AnnounceResponse, AnnounceError>>, Tracker) {
    let mut rig = rig(wanted);
    let announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let mut tracker = rig.line().await;
    tracker.announce().await;
    (rig, announcing, tracker)
}

fn hash(n: u8) -> InfoHash {
    InfoHash::new([n; 20])
}

fn request(info_hash: InfoHash, event: AnnounceEvent) -> AnnounceRequest {
    AnnounceRequest {
        info_hash,
        peer_id: OURS,
        port: 1,
        uploaded: 11,
        downloaded: 22,
        left: 33,
        event,
        num_want: Some(200),
        key: 1,
        ip: None,
        tracker_id: None,
    }
}

impl Rig {
    fn caller(&self) -> Caller {
        let lost = self.lost.clone();
        Caller {
            swarm: self.swarm.clone(),
            lost: Arc::new(move |error: &AnnounceError| lost.lock().unwrap().push(error.to_string())),
        }
    }

    fn announce(
        &self,
        info_hash: InfoHash,
        event: AnnounceEvent,
    ) -> tokio::task::JoinHandle<Result<AnnounceResponse, AnnounceError>> {
        let (client, caller) = (self.client.clone(), self.caller());
        tokio::spawn(async move { client.announce(URL, &request(info_hash, event), &caller).await })
    }

    async fn line(&mut self) -> Tracker {
        let (heard, says) = self.lines.recv().await.expect("a line is opened");
        Tracker { heard, says }
    }

    /// Announces until the tracker, which was lost, is asked again.
    async fn line_again(
        &mut self,
    ) -> (tokio::task::JoinHandle<Result<AnnounceResponse, AnnounceError>>, Tracker) {
        loop {
            let mut announcing = self.announce(hash(1), AnnounceEvent::Started);
            tokio::select! {
                line = self.line() => return (announcing, line),
                refused = &mut announcing => assert!(refused.unwrap().is_err(), "answered by nobody"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        assert_eq!(self.factory.alive(), 0, "nothing is left of offers and answers");
    }
}

/// The tracker, as the test plays it.
struct Tracker {
    heard: mpsc::Receiver<String>,
    says: mpsc::Sender<String>,
}

impl Tracker {
    async fn next(&mut self) -> Request<'static> {
        let text = self.heard.recv().await.expect("something is said");
        // The test lives longer than what it hears.
        Request::decode(Box::leak(text.into_boxed_str())).expect("it is of the protocol")
    }

    async fn announce(&mut self) -> Announce<'static> {
        match self.next().await {
            Request::Announce(announce) => announce,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&mut self) -> Answer<'static> {
        match self.next().await {
            Request::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn say(&self, response: Response<'_>) {
        self.says.send(response.encode()).await.expect("it is listened to");
    }

    async fn say_counts(&self, info_hash: InfoHash, complete: u32, incomplete: u32) {
        self.say(Response::Announce { info_hash, interval_s: 120, complete, incomplete }).await;
    }

    async fn say_offer(&self, info_hash: InfoHash, peer_id: PeerId, n: u8, sdp: &str) {
        let offer = wtfs_proto::tracker::ws::Offer { offer_id: OfferId([n; 20]), sdp: Sdp::new(sdp) };
        self.say(Response::Offer { info_hash, peer_id, offer }).await;
    }

    async fn say_answer(&self, info_hash: InfoHash, offer_id: OfferId, sdp: &str) {
        let sdp = Sdp::new(sdp);
        self.say(Response::Answer { info_hash, peer_id: THEIRS, offer_id, sdp }).await;
    }
}

#[tokio::test]
async fn who_is_alone_makes_no_offers_and_who_is_not_makes_as_many_as_peers_are_wanted() {
    let mut rig = rig(3);
    let announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let mut tracker = rig.line().await;
    let first = tracker.announce().await;
    assert_eq!((first.event, first.offers.len(), first.left), (AnnounceEvent::Started, 0, Some(33)));
    assert_eq!(first.peer_id, OURS);
    tracker.say_counts(hash(1), 0, 1).await;
    let answer = announcing.await.unwrap().expect("answered");
    assert_eq!((answer.interval_s, answer.seeders, answer.leechers), (120, Some(0), Some(1)));
    assert_eq!(rig.factory.alive(), 0);
    let announcing = rig.announce(hash(1), AnnounceEvent::None);
    assert_eq!(tracker.announce().await.offers, []);
    tracker.say_counts(hash(1), 3, 1).await;
    announcing.await.unwrap().expect("answered");
    let second = tracker.announce().await;
    assert_eq!((second.event, second.offers.len(), second.num_want), (AnnounceEvent::None, 3, Some(3)));
    let ids: HashSet<_> = second.offers.iter().map(|offer| offer.offer_id).collect();
    assert_eq!(ids.len(), 3);
    // The answer to that asks for nothing more.
    tracker.say_counts(hash(1), 3, 1).await;
    let announcing = rig.announce(hash(1), AnnounceEvent::Completed);
    let third = tracker.announce().await;
    assert_eq!(third.event, AnnounceEvent::Completed);
    assert_eq!(third.offers, second.offers, "what nobody answered is offered again");
    tracker.say_counts(hash(1), 2, 0).await;
    announcing.await.unwrap().expect("answered");
    rig.end().await;
}

#[tokio::test]
async fn an_answer_to_an_offer_becomes_a_connection_once() {
    let (mut rig, _announcing, mut tracker) = announced(2).await;
    tracker.say_counts(hash(1), 2, 1).await;
    let offers = tracker.announce().await.offers;
    // Of another swarm, of an offer that was never made, and one that makes no sense: all are ignored.
    tracker.say_answer(hash(2), offers[0].offer_id, "v=0").await;
    tracker.say_answer(hash(1), OfferId([9; 20]), "v=0").await;
    tracker.say_answer(hash(1), offers[1].offer_id, "nonsense").await;
    tracker.say_answer(hash(1), offers[0].offer_id, "v=0").await;
    tracker.say_answer(hash(1), offers[0].offer_id, "v=0").await;
    let (connection, info_hash) = rig.welcomed.recv().await.expect("a connection comes");
    assert_eq!((connection.direction, info_hash), (crate::transport::Direction::Outgoing, hash(1)));
    eventually("all offers are used up", || rig.factory.alive() == 0).await;
    assert!(rig.welcomed.try_recv().is_err(), "an offer is answered once");
    rig.end().await;
}

#[tokio::test]
async fn an_offer_is_answered_for_swarms_that_want_peers_they_do_not_have() {
    let (mut rig, _announcing, mut tracker) = announced(2).await;
    tracker.say_counts(hash(1), 0, 1).await;
    let known = PeerId::new([7; 20]);
    rig.swarm.connected.lock().unwrap().insert(known);
    tracker.say_offer(hash(1), known, 1, "v=0").await;
    tracker.say_offer(hash(2), THEIRS, 2, "v=0").await;
    tracker.say_offer(hash(1), OURS, 3, "v=0").await;
    tracker.say_offer(hash(1), PeerId::new([8; 20]), 4, "garbage").await;
    tracker.say_offer(hash(1), THEIRS, 5, "v=0").await;
    let answer = tracker.answer().await;
    assert_eq!((answer.offer_id, answer.to_peer_id, answer.peer_id), (OfferId([5; 20]), THEIRS, OURS));
    assert!(answer.sdp.text().starts_with("v=0"));
    let (connection, info_hash) = rig.welcomed.recv().await.expect("a connection comes");
    assert_eq!((connection.direction, info_hash), (crate::transport::Direction::Incoming, hash(1)));
    rig.end().await;
}

#[tokio::test]
async fn a_thousand_offers_that_nobody_answers_leave_nothing_behind() {
    let mut rig = rig_with(9, Times { offer_life: Duration::from_millis(50), ..TIMES }, NEVER);
    let _announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let mut tracker = rig.line().await;
    let mut sent = HashSet::new();
    while sent.len() < 1000 {
        let announce = tracker.announce().await;
        sent.extend(announce.offers.iter().map(|offer| offer.offer_id));
        assert!(rig.factory.alive() <= MAX_OFFERS, "{} at once", rig.factory.alive());
        tracker.say_counts(hash(1), 9, 1).await;
        if !announce.offers.is_empty() {
            eventually("they are given up without an announce", || rig.factory.alive() == 0).await;
            let announcing = rig.announce(hash(1), AnnounceEvent::None);
            drop(announcing);
        }
    }
    assert_eq!(rig.factory.made.load(Ordering::Relaxed), sent.len());
    rig.end().await;
}

#[tokio::test]
async fn a_tracker_that_goes_is_told_of_and_gets_fresh_offers_when_it_is_back() {
    let (mut rig, announcing, mut tracker) = announced(2).await;
    tracker.say_counts(hash(1), 2, 1).await;
    announcing.await.unwrap().expect("answered");
    let before = tracker.announce().await.offers;
    rig.script.is_down.store(true, Ordering::Relaxed);
    drop(tracker);
    eventually("old offers are given up", || rig.factory.alive() == 0).await;
    eventually("it is said", || !rig.lost.lock().unwrap().is_empty()).await;
    assert_eq!(*rig.lost.lock().unwrap(), ["the connection to tracker.test broke: it was closed"]);
    let refused = rig.announce(hash(1), AnnounceEvent::Started).await.unwrap();
    assert!(matches!(refused, Err(AnnounceError::Lost { .. })), "{refused:?}");
    rig.script.is_down.store(false, Ordering::Relaxed);
    // It may take a while until it is asked again.
    let (announcing, mut tracker) = rig.line_again().await;
    assert_eq!(tracker.announce().await.event, AnnounceEvent::Started);
    tracker.say_counts(hash(1), 2, 1).await;
    announcing.await.unwrap().expect("answered");
    let after = tracker.announce().await.offers;
    assert_eq!((before.len(), after.len()), (2, 2));
    assert!(after.iter().all(|offer| !before.iter().any(|old| old.offer_id == offer.offer_id)));
    rig.end().await;
}

#[tokio::test]
async fn all_swarms_share_a_socket_and_each_leaves_by_itself() {
    let mut rig = rig(0);
    let hybrid = InfoHashes { v1: Some(hash(1)), v2: Some(wtfs_proto::id::InfoHashV2::of_info(b"hybrid")) };
    let hashes: Vec<InfoHash> = hybrid.iter().chain((10..200).map(hash)).collect();
    let announcing: Vec<_> = hashes.iter().map(|h| rig.announce(*h, AnnounceEvent::Started)).collect();
    let mut tracker = rig.line().await;
    let mut heard = HashSet::new();
    for _ in &hashes {
        let announce = tracker.announce().await;
        heard.insert(announce.info_hash);
        tracker.say_counts(announce.info_hash, 1, 0).await;
    }
    assert_eq!(heard, hashes.iter().copied().collect::<HashSet<_>>());
    for announcing in announcing {
        announcing.await.unwrap().expect("answered");
    }
    assert!(rig.lines.try_recv().is_err(), "one line is enough");
    rig.announce(hash(10), AnnounceEvent::Stopped).await.unwrap().expect("said");
    let last = tracker.announce().await;
    assert_eq!((last.info_hash, last.event), (hash(10), AnnounceEvent::Stopped));
    // Those that end without a word are taken out too.
    rig.swarm.is_gone.store(true, Ordering::Relaxed);
    for _ in 1..hashes.len() {
        assert_eq!(tracker.announce().await.event, AnnounceEvent::Stopped);
    }
    // And with nobody left the line is hung up.
    assert!(tracker.heard.recv().await.is_none());
    rig.end().await;
}

#[tokio::test]
async fn a_tracker_that_talks_nonsense_is_given_up() {
    let mut rig = rig(2);
    let announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let tracker = rig.line().await;
    for text in
        ["", "nonsense", "[]", "{}", "{\"action\":\"announce\",\"info_hash\":7}"].iter().cycle().take(40)
    {
        if tracker.says.send((*text).to_owned()).await.is_err() {
            break;
        }
    }
    let error = announcing.await.unwrap().expect_err("it is none");
    assert!(error.to_string().contains("not what a tracker says"), "{error}");
    drop(tracker);
    let (announcing, mut tracker) = rig.line_again().await;
    tracker.announce().await;
    tracker.say_counts(hash(1), 0, 1).await;
    announcing.await.unwrap().expect("it has come to its senses");
    rig.end().await;
}

#[tokio::test]
async fn a_tracker_that_says_nothing_is_not_waited_for() {
    let mut rig = rig_with(2, TIMES, Duration::from_millis(100));
    let announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let _silent = rig.line().await;
    let error = announcing.await.unwrap().expect_err("it is silent");
    assert_eq!(error.to_string(), "tracker.test did not answer in time");
    rig.end().await;
}

#[tokio::test]
async fn a_refusal_reaches_who_asked() {
    let mut rig = rig(2);
    let first = rig.announce(hash(1), AnnounceEvent::Started);
    let mut tracker = rig.line().await;
    tracker.announce().await;
    let second = rig.announce(hash(2), AnnounceEvent::Started);
    tracker.announce().await;
    tracker.say(Response::Failure { info_hash: Some(hash(2)), reason: "not tracked".into() }).await;
    let refused = second.await.unwrap();
    assert_eq!(refused, Err(AnnounceError::Refused { reason: "not tracked".into() }));
    assert!(!first.is_finished());
    tracker.say(Response::Failure { info_hash: None, reason: "go away".into() }).await;
    assert_eq!(first.await.unwrap(), Err(AnnounceError::Refused { reason: "go away".into() }));
    rig.end().await;
}

#[tokio::test]
async fn offers_of_others_are_answered_in_bounded_numbers() {
    let (mut rig, _announcing, mut tracker) = announced(2).await;
    tracker.say_counts(hash(1), 0, 1).await;
    // Nobody takes the connections, so that each answer stays under way.
    let began = Instant::now();
    for n in 0..1100_u32 {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_be_bytes());
        tracker.say_offer(hash(1), PeerId::new(id), 1, "v=0").await;
        while tracker.heard.try_recv().is_ok() {}
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "what comes is taken at a bounded rate");
    // The queue of connections holds 64, and as many answers as may be under way wait for it.
    assert!(rig.factory.made.load(Ordering::Relaxed) <= 64 + 32 + 1, "{:?}", rig.factory.made);
    drop(rig.welcomed.try_recv());
    rig.end().await;
}

#[tokio::test]
async fn offers_that_could_not_be_made_are_made_once_there_is_room() {
    let mut rig = rig(2);
    rig.factory.is_full.store(true, Ordering::Relaxed);
    let announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let mut tracker = rig.line().await;
    tracker.announce().await;
    tracker.say_counts(hash(1), 3, 1).await;
    announcing.await.unwrap().expect("answered");
    rig.factory.is_full.store(false, Ordering::Relaxed);
    assert_eq!(tracker.announce().await.offers.len(), 2);
    rig.end().await;
}

#[tokio::test]
async fn no_more_offers_are_made_than_there_are_others() {
    let mut rig = rig(5);
    let mut announcing = rig.announce(hash(1), AnnounceEvent::Started);
    let mut tracker = rig.line().await;
    for (n, (complete, incomplete), expected) in [(1, (1, 1), 1), (2, (2, 1), 2), (3, (40, 1), 5)] {
        tracker.announce().await;
        tracker.say_counts(hash(n), complete, incomplete).await;
        announcing.await.unwrap().expect("answered");
        assert_eq!(tracker.announce().await.offers.len(), expected);
        announcing = rig.announce(hash(n + 1), AnnounceEvent::Started);
    }
    drop(announcing);
    rig.end().await;
}

#[tokio::test]
async fn a_seed_makes_offers_only_where_somebody_lacks_something() {
    let mut rig = rig(2);
    let complete = AnnounceRequest { left: 0, ..request(hash(1), AnnounceEvent::Started) };
    let mut lines = Vec::new();
    for (complete_count, incomplete) in [(5, 0), (1, 4)] {
        let (client, caller, complete) = (rig.client.clone(), rig.caller(), complete.clone());
        let announcing = tokio::spawn(async move { client.announce(URL, &complete, &caller).await });
        if lines.is_empty() {
            lines.push(rig.line().await);
        }
        assert_eq!(lines[0].announce().await.offers, []);
        lines[0].say_counts(hash(1), complete_count, incomplete).await;
        announcing.await.unwrap().expect("answered");
    }
    assert_eq!(lines[0].announce().await.offers.len(), 2, "the first time there were none");
    rig.end().await;
}

#[tokio::test]
async fn the_peers_of_one_tracker_get_in_whatever_those_of_others_take() {
    let (mut rig, _announcing, mut tracker) = announced(2).await;
    let greedy: Vec<_> = (1..MAX_SOCKETS).map(|_| rig.client.0.shares.join()).collect();
    let held: Vec<_> = greedy.iter().flat_map(|share| std::iter::from_fn(|| share.take())).collect();
    assert_eq!(held.len(), 2 * (MAX_SOCKETS - 1));
    for n in 0..20 {
        tracker.say_offer(hash(1), PeerId::new([n; 20]), n, "v=0").await;
    }
    let mut answered = HashSet::new();
    while answered.len() < 20 {
        answered.insert(tracker.answer().await.to_peer_id);
        rig.welcomed.recv().await.expect("a connection comes");
    }
    assert_eq!(answered, (0..20).map(|n| PeerId::new([n; 20])).collect::<HashSet<_>>());
    rig.end().await;
}

#[tokio::test]
async fn no_more_are_answered_than_there_are_places_for_all_trackers() {
    let (rig, announcing, tracker) = announced(2).await;
    let other = rig.client.0.shares.join();
    let _held: Vec<_> = std::iter::from_fn(|| other.take()).collect();
    // Nobody takes the connections beyond those that the queue holds.
    for n in 0..200 {
        tracker.say_offer(hash(1), PeerId::new([n; 20]), n, "v=0").await;
    }
    // What is said comes after all that was said before it has been looked at.
    tracker.say(Response::Failure { info_hash: None, reason: "enough".into() }).await;
    announcing.await.unwrap().expect_err("it was refused");
    let made = rig.factory.made.load(Ordering::Relaxed);
    assert!(made <= 64 + UNDER_WAY.own + UNDER_WAY.shared / 2, "{made}");
    rig.end().await;
}
