//! One web socket: reads a client's messages, answers them, and writes what others send it.
//!
//! Owns the socket and which swarms its client is in. One task does both directions; nothing is read while an answer
//! waits to be written, so a client that does not read is not listened to either.
//!
//! Invariant: when the task ends, its client is out of every swarm whose place it still holds.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_proto::tracker::ws::{self as codec, Offer, Request, Response};

use super::registry::{Seat, Sent};
use super::silence;
use crate::tracker::own::OWN_KEY;
use crate::tracker::rates::Rate;
use crate::tracker::swarm::{self, Contact, Progress, Refusal, SocketId, Wanted};
use crate::tracker::{Denied, Shared, Tracker, lock};

/// Messages that mean nothing after which a client is taken for none.
const MOST_MALFORMED: u32 = 20;

/// When the hub's own engine comes back: well below the shortest memory.
const OWN_INTERVAL: Duration = Duration::from_secs(300);

/// Why a socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed it, or the connection broke.
    Gone,
    /// The client did not take what was written, or was silent.
    Stalled,
    /// The client sends what is no message of the protocol.
    Malformed,
    /// The tracker ends.
    Closing,
}

/// A swarm that the client is in, and as whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    info_hash: InfoHash,
    peer_id: PeerId,
}

/// Whose the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A stranger's.
    Guest,
    /// The hub's own engine, within the process.
    Own,
}

struct Client {
    standing: Standing,
    tracker: Tracker,
    seat: Seat,
    from: IpAddr,
    passkey: Option<Box<str>>,
    swarms: Vec<Membership>,
    malformed: u32,
}

pub(super) async fn serve(
    tracker: Tracker,
    mut socket: WebSocket,
    seat: Seat,
    from: IpAddr,
    passkey: Option<String>,
) {
    let write_timeout = tracker.shared.config.sockets.write_timeout;
    seat.heard(tracker.shared.now());
    let passkey = passkey.map(String::into_boxed_str);
    let standing = Standing::Guest;
    let mut client = Client { standing, tracker, seat, from, passkey, swarms: Vec::new(), malformed: 0 };
    let end = client.run(&mut socket).await;
    tracing::trace!(%from, ?end, "a web socket ends");
    let frame = match end {
        End::Gone => return,
        End::Stalled => {
            client.tracker.shared.counters.sockets_slow.add_one();
            return;
        }
        End::Malformed => {
            CloseFrame { code: close_code::POLICY, reason: "no message of this protocol".into() }
        }
        End::Closing => CloseFrame { code: close_code::AWAY, reason: "the tracker ends".into() },
    };
    // The place in the swarms is given up before the last words, which may take their time.
    drop(client);
    let farewell = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // Whether they arrive is of no interest any more.
    let _ = tokio::time::timeout(write_timeout.min(Duration::from_secs(2)), farewell).await;
}

/// Serves the hub's own engine, until it hangs up or the tracker ends.
pub(in crate::tracker) async fn serve_own(
    tracker: Tracker,
    mut heard: mpsc::Receiver<String>,
    says: mpsc::Sender<String>,
) {
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(seat) = tracker.shared.registry.seat(from) else {
        tracing::warn!("there is no place for the hub's own peer among the web sockets");
        return;
    };
    let closing = tracker.shared.closing.clone();
    let (standing, swarms) = (Standing::Own, Vec::new());
    let mut client = Client { standing, tracker, seat, from, passkey: None, swarms, malformed: 0 };
    loop {
        let answer = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            queued = client.seat.next() => match queued {
                Some(queued) => Some(queued.text().as_str().to_owned()),
                None => return,
            },
            text = heard.recv() => match text {
                Some(text) => client.handle(&text),
                None => return,
            },
        };
        let Some(answer) = answer else { continue };
        let said = tokio::select! {
            () = closing.cancelled() => return,
            said = says.send(answer) => said,
        };
        if said.is_err() {
            return;
        }
    }
}

impl Client {
    async fn run(&mut self, socket: &mut WebSocket) -> End {
        let config = self.tracker.shared.config.sockets.clone();
        let closing = self.tracker.shared.closing.clone();
        let rate = Rate::new(config.messages_per_second, config.message_burst);
        let mut paid_ns = 0;
        let mut heard = Instant::now();
        let mut may_read = heard;
        let mut next_ping = heard + config.ping_interval;
        loop {
            let now = Instant::now();
            let is_reading = now >= may_read;
            let wake = if is_reading { next_ping } else { next_ping.min(may_read) };
            let message = tokio::select! {
                biased;
                () = closing.cancelled() => return End::Closing,
                queued = self.seat.next() => {
                    let Some(first) = queued else { return End::Stalled };
                    match tokio::time::timeout(config.write_timeout, self.write_queued(socket, first)).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(_)) => return End::Gone,
                        Err(_) => return End::Stalled,
                    }
                }
                message = socket.recv(), if is_reading => match message {
                    Some(Ok(message)) => message,
                    Some(Err(_)) | None => return End::Gone,
                },
                () = tokio::time::sleep_until(wake) => {
                    let now = Instant::now();
                    if now < next_ping {
                        continue;
                    }
                    if now.duration_since(heard) > silence(config.ping_interval) {
                        return End::Stalled;
                    }
                    next_ping = now + config.ping_interval;
                    if now.duration_since(heard) >= config.ping_interval {
                        let ping = socket.send(Message::Ping(Default::default()));
                        if !matches!(tokio::time::timeout(config.write_timeout, ping).await, Ok(Ok(()))) {
                            return End::Stalled;
                        }
                    }
                    continue;
                }
            };
            heard = Instant::now();
            let moment = self.tracker.shared.now();
            self.seat.heard(moment);
            let text = match &message {
                Message::Text(text) => text.as_str(),
                // Some clients send their JSON as bytes.
                Message::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
                Message::Ping(_) | Message::Pong(_) => "",
                Message::Close(_) => return End::Gone,
            };
            if let Some(rate) = &rate {
                // This message is answered; the next one waits in the network.
                may_read = heard + rate.charge_served(moment, &mut paid_ns);
            }
            if matches!(message, Message::Ping(_) | Message::Pong(_)) {
                continue;
            }
            if let Some(response) = self.handle(text) {
                let write = socket.send(Message::Text(response.into()));
                match tokio::time::timeout(config.write_timeout, write).await {
                    Ok(Ok(())) => (),
                    Ok(Err(_)) => return End::Gone,
                    Err(_) => return End::Stalled,
                }
            }
            if self.malformed >= MOST_MALFORMED {
                return End::Malformed;
            }
        }
    }

    /// Writes what waits in one go.
    async fn write_queued(
        &mut self,
        socket: &mut WebSocket,
        first: super::registry::Queued,
    ) -> Result<(), axum::Error> {
        let mut next = Some(first);
        while let Some(queued) = next {
            socket.feed(Message::Text(queued.text())).await?;
            next = self.seat.try_next();
        }
        socket.flush().await
    }

    /// Does what a message asks for; the answer is for the client itself.
    fn handle(&mut self, text: &str) -> Option<String> {
        let shared = self.tracker.shared.clone();
        let counters = &shared.counters.socket;
        match Request::decode(text) {
            Ok(Request::Announce(announce)) => Some(match self.announce(&shared, &announce) {
                Ok(response) => {
                    counters.announces.add_one();
                    response.encode()
                }
                Err(reason) => {
                    counters.rejected.add_one();
                    Response::Failure { info_hash: Some(announce.info_hash), reason }.encode()
                }
            }),
            Ok(Request::Answer(answer)) => {
                self.answer(&shared, &answer);
                None
            }
            Ok(Request::Scrape(hashes)) => {
                let response = match shared.admit(self.from, self.passkey.as_deref()) {
                    Ok(()) if hashes.is_empty() => {
                        counters.rejected.add_one();
                        let reason = "a scrape has to name torrents".to_owned();
                        Response::Failure { info_hash: None, reason }
                    }
                    Ok(()) => {
                        counters.scrapes.add_one();
                        let tracked =
                            hashes.into_iter().filter_map(|hash| Some((hash, shared.scrape(hash)?)));
                        Response::Scrape(tracked.collect())
                    }
                    Err(denied) => {
                        counters.rejected.add_one();
                        Response::Failure { info_hash: None, reason: denied.to_string() }
                    }
                };
                Some(response.encode())
            }
            Err(error) => {
                counters.malformed.add_one();
                self.malformed += 1;
                Some(Response::Failure { info_hash: None, reason: error.to_string() }.encode())
            }
        }
    }

    fn announce(
        &mut self,
        shared: &Shared,
        announce: &codec::Announce<'_>,
    ) -> Result<Response<'static>, String> {
        let is_own = self.standing == Standing::Own;
        if !is_own {
            shared.admit(self.from, self.passkey.as_deref()).map_err(|denied| denied.to_string())?;
        }
        let config = &shared.config.sockets;
        let own = Membership { info_hash: announce.info_hash, peer_id: announce.peer_id };
        // Programs with several clients of one torrent share a socket among them: each is a peer.
        let place = self.swarms.iter().position(|known| *known == own);
        let is_leaving = announce.event == AnnounceEvent::Stopped;
        if place.is_none() && !is_leaving && !is_own && self.swarms.len() >= config.max_swarms {
            return Err("too many torrents on one connection".to_owned());
        }
        let want = announce.num_want.map_or(usize::MAX, |count| count as usize);
        let offers = &announce.offers[..announce.offers.len().min(config.max_offers)];
        let told = swarm::Announce {
            info_hash: announce.info_hash,
            peer_id: announce.peer_id,
            from: if is_own { shared.own_addr() } else { self.from },
            contact: Contact::Socket(self.seat.id()),
            key: if is_own { OWN_KEY } else { 0 },
            progress: if announce.left == Some(0) { Progress::Seed } else { Progress::Leecher },
            event: announce.event,
            wanted: Wanted::Sockets,
            want: want.min(offers.len()),
            uploaded_bytes: announce.uploaded,
        };
        let mut chosen: Vec<SocketId> = Vec::with_capacity(told.want);
        let mut ask = || shared.announce(told, |drawn| chosen.extend(drawn.socket));
        let answer = match ask() {
            // The other one may be the same client's, on a connection that broke without a word.
            Err(Denied::Refused(Refusal::Taken { by })) if self.takes_over(shared, &told, by) => ask(),
            answer => answer,
        };
        let answer = answer.map_err(|denied| denied.to_string())?;
        match place {
            Some(place) if is_leaving => drop(self.swarms.swap_remove(place)),
            None if !is_leaving => self.swarms.push(own),
            _ => (),
        }
        for (offer, to) in offers.iter().zip(chosen) {
            self.pass_on(shared, announce, offer, to);
        }
        Ok(Response::Announce {
            info_hash: announce.info_hash,
            interval_s: shared.jittered(if is_own { OWN_INTERVAL } else { shared.config.socket_interval }),
            complete: answer.counts.complete,
            incomplete: answer.counts.incomplete,
        })
    }

    /// Frees a peer id of a socket that has not been heard of for longer than a ping takes.
    fn takes_over(&self, shared: &Shared, told: &swarm::Announce, by: SocketId) -> bool {
        let quiet_for = shared.config.sockets.ping_interval * 3 / 2;
        let since = shared.now().saturating_sub(quiet_for);
        let is_free = shared.registry.close_silent(by, since);
        if is_free {
            let mut shard = shared.lock_counted(shared.shard(told.info_hash));
            shard.shard.leave(told.info_hash, told.peer_id, by);
        }
        is_free
    }

    fn pass_on(&self, shared: &Shared, announce: &codec::Announce<'_>, offer: &Offer<'_>, to: SocketId) {
        let (info_hash, peer_id) = (announce.info_hash, announce.peer_id);
        let message = Response::Offer { info_hash, peer_id, offer: offer.clone() }.encode();
        match shared.registry.send(to, message) {
            Sent::Queued => shared.counters.offers.add_one(),
            Sent::Dropped | Sent::Slow => shared.counters.dropped.add_one(),
        }
    }

    /// Hands an answer to who offered. Only members of a swarm may, under the peer id they announced.
    fn answer(&self, shared: &Shared, answer: &codec::Answer<'_>) {
        let is_own = |own: &Membership| own.info_hash == answer.info_hash && own.peer_id == answer.peer_id;
        let to = if self.swarms.iter().any(is_own) {
            lock(shared.shard(answer.info_hash)).socket_of(answer.info_hash, answer.to_peer_id)
        } else {
            None
        };
        let sent = to.map(|to| {
            let message = Response::Answer {
                info_hash: answer.info_hash,
                peer_id: answer.peer_id,
                offer_id: answer.offer_id,
                sdp: answer.sdp.clone(),
            };
            shared.registry.send(to, message.encode())
        });
        match sent {
            Some(Sent::Queued) => shared.counters.answers.add_one(),
            Some(Sent::Dropped | Sent::Slow) | None => shared.counters.dropped.add_one(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let shared = &self.tracker.shared;
        for Membership { info_hash, peer_id } in &self.swarms {
            shared.lock_counted(shared.shard(*info_hash)).shard.leave(*info_hash, *peer_id, self.seat.id());
        }
    }
}
