//! A WebSocket tracker in the process of the test: passes offers and answers on, and can be told to misbehave.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_proto::tracker::ws::{Request, Response, Sdp};
use wtfs_torrent::tracker::local::{LocalLine, LocalTracker, OwnTracker};

/// What becomes of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// They reach who offered.
    PassedOn,
    /// They are lost.
    Dropped,
    /// Something else comes in their place.
    Garbled,
    /// They are kept until they may be passed on.
    Held,
}

#[derive(Debug)]
struct Member {
    says: mpsc::Sender<String>,
    is_seed: bool,
    line: u32,
}

#[derive(Debug)]
pub(crate) struct Relay {
    members: Mutex<HashMap<(InfoHash, PeerId), Member>>,
    answers: Mutex<Answers>,
    /// Answers that are kept, and who offered.
    held: Mutex<Vec<((InfoHash, PeerId), String)>>,
    /// While it is down nobody is let in.
    up: Mutex<Option<CancellationToken>>,
    lines: AtomicU32,
    offers: AtomicUsize,
    farewells: AtomicUsize,
    interval_s: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            members: Mutex::default(),
            answers: Mutex::new(Answers::PassedOn),
            held: Mutex::default(),
            up: Mutex::new(Some(CancellationToken::new())),
            lines: AtomicU32::new(0),
            offers: AtomicUsize::new(0),
            farewells: AtomicUsize::new(0),
            interval_s: 30,
        })
    }

    pub(crate) fn as_own_tracker(self: &Arc<Self>, url: &str) -> OwnTracker {
        OwnTracker { url: url.to_owned(), tracker: Arc::new(Door(self.clone())) }
    }

    /// Peers in all swarms.
    pub(crate) fn members(&self) -> usize {
        lock(&self.members).len()
    }

    /// Offers that were sent with announces, or passed on to nobody.
    pub(crate) fn offers(&self) -> usize {
        self.offers.load(Ordering::Relaxed)
    }

    /// Who they are.
    pub(crate) fn keys(&self) -> Vec<(InfoHash, PeerId)> {
        lock(&self.members).keys().copied().collect()
    }

    /// Those of them that lack nothing.
    pub(crate) fn seeds(&self) -> usize {
        lock(&self.members).values().filter(|member| member.is_seed).count()
    }

    /// How often somebody said that he leaves.
    pub(crate) fn farewells(&self) -> usize {
        self.farewells.load(Ordering::Relaxed)
    }

    /// What becomes of answers from now on, and of those that are kept if they are passed on.
    pub(crate) fn set_answers(&self, answers: Answers) {
        let members = lock(&self.members);
        *lock(&self.answers) = answers;
        if answers == Answers::PassedOn {
            for (to, message) in lock(&self.held).drain(..) {
                let _gone = members.get(&to).map(|member| member.says.try_send(message));
            }
        }
    }

    /// Answers that are kept.
    pub(crate) fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// Hangs up on everybody and lets nobody in.
    pub(crate) fn go_down(&self) {
        if let Some(up) = lock(&self.up).take() {
            up.cancel();
        }
    }

    pub(crate) fn come_back(&self) {
        lock(&self.up).get_or_insert_with(CancellationToken::new);
    }

    /// Says something to everybody.
    pub(crate) fn say_to_all(&self, text: &str) {
        for member in lock(&self.members).values() {
            let _full = member.says.try_send(text.to_owned());
        }
    }

    fn handle(&self, text: &str, says: &mpsc::Sender<String>, line: u32) {
        let mut members = lock(&self.members);
        match Request::decode(text).expect("the engine says what the protocol has") {
            Request::Announce(announce) => {
                let own = (announce.info_hash, announce.peer_id);
                if announce.event == AnnounceEvent::Stopped {
                    members.remove(&own);
                    self.farewells.fetch_add(1, Ordering::Relaxed);
                } else {
                    let is_seed = announce.left == Some(0);
                    members.insert(own, Member { says: says.clone(), is_seed, line });
                }
                let of_swarm = || members.iter().filter(|((hash, _), _)| *hash == announce.info_hash);
                let complete = of_swarm().filter(|(_, member)| member.is_seed).count() as u32;
                let response = Response::Announce {
                    info_hash: announce.info_hash,
                    interval_s: self.interval_s,
                    complete,
                    incomplete: of_swarm().count() as u32 - complete,
                };
                let _full = says.try_send(response.encode());
                self.offers.fetch_add(announce.offers.len(), Ordering::Relaxed);
                let others = of_swarm().filter(|(key, _)| **key != own);
                for (offer, (_, member)) in announce.offers.into_iter().zip(others) {
                    let (info_hash, peer_id) = own;
                    let message = Response::Offer { info_hash, peer_id, offer }.encode();
                    let _full = member.says.try_send(message);
                }
            }
            Request::Answer(answer) => {
                let to = (answer.info_hash, answer.to_peer_id);
                let fate = *lock(&self.answers);
                let sdp = match fate {
                    Answers::PassedOn | Answers::Held => answer.sdp,
                    Answers::Dropped => return,
                    Answers::Garbled => Sdp::new("v=0\r\no=- \u{0} nonsense\r\na=candidate:x\r\n"),
                };
                let (info_hash, peer_id, offer_id) = (answer.info_hash, answer.peer_id, answer.offer_id);
                let message = Response::Answer { info_hash, peer_id, offer_id, sdp }.encode();
                if fate == Answers::Held {
                    lock(&self.held).push((to, message));
                } else {
                    let _gone = members.get(&to).map(|member| member.says.try_send(message));
                }
            }
            Request::Scrape(_) => {}
        }
    }
}

/// Where it is entered.
#[derive(Debug)]
struct Door(Arc<Relay>);

impl LocalTracker for Door {
    fn connect(&self) -> LocalLine {
        let (line, mut heard, says) = LocalLine::new();
        let Some(up) = lock(&self.0.up).clone() else { return line };
        let (relay, number) = (self.0.clone(), self.0.lines.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(async move {
            loop {
                let text = tokio::select! {
                    () = up.cancelled() => break,
                    text = heard.recv() => text,
                };
                let Some(text) = text else { break };
                relay.handle(&text, &says, number);
            }
            lock(&relay.members).retain(|_, member| member.line != number);
        });
        line
    }
}
