//! Announces and scrapes over UDP (BEP 15), with passkeys in the URL data (BEP 41).
//!
//! Owns the loop over one socket. It answers a request only to an address that has shown that it receives what is sent
//! there; a connect request, which anybody can forge, is answered with no more bytes than it has.
//!
//! Invariant: nothing is remembered of a client between its datagrams, and nothing that cannot be read is answered.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use wtfs_proto::compact::Family;
use wtfs_proto::tracker::udp::{self as codec, Request, Response};

use super::swarm::{Announce, Wanted};
use super::{Denied, Shared, Tracker, http};
use connection_id::ConnectionIds;

mod connection_id;

/// Longest datagram that is read. An announce with all the URL data that is taken has 1,130 bytes, a scrape 1,496.
const MAX_DATAGRAM_BYTES: usize = 2048;

/// Datagrams that are answered in a row before other tasks get their turn.
const BATCH: usize = 64;

/// Bytes that wait in the kernel while the loop is busy; it gives less if its limit is lower.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

pub(super) async fn serve(tracker: &Tracker, socket: UdpSocket, stop: CancellationToken) -> io::Result<()> {
    // A larger buffer only spares clients from asking again: without it the tracker works too.
    if let Err(error) = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer keeps its size");
    }
    let mut ids = ConnectionIds::new(tracker.shared.now());
    let mut buffer = [0; MAX_DATAGRAM_BYTES];
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = socket.readable() => ready?,
        }
        for _ in 0..BATCH {
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An earlier answer came back as undeliverable (ICMP); the socket is fine.
                Err(error) if is_of_one_answer(&error) => continue,
                Err(error) => return Err(error),
            };
            if let Some(answer) = answer(&tracker.shared, &mut ids, &buffer[..length], from) {
                // What the kernel has no room for is lost, as it might be on the way; the client asks again.
                if let Err(error) = socket.try_send_to(&answer, from) {
                    tracing::trace!(%error, %from, "an answer was not sent");
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

fn is_of_one_answer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// What a datagram is answered with, if anything.
fn answer(shared: &Shared, ids: &mut ConnectionIds, datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let ip = from.ip().to_canonical();
    let family = Family::of(ip);
    let counters = &shared.counters.udp;
    // Port 0 is nobody's: such a sender is forged.
    let request = Request::decode(datagram).ok().filter(|_| from.port() != 0);
    let Some(request) = request else {
        counters.malformed.add_one();
        return None;
    };
    let now = shared.now();
    let response = match request {
        Request::Connect(connect) => {
            shared.counters.connects.add_one();
            Ok(Response::Connect {
                transaction_id: connect.transaction_id,
                connection_id: ids.issue(now, ip),
            })
        }
        Request::Announce(announce) => {
            if !ids.is_issued(now, ip, announce.connection_id) {
                counters.rejected.add_one();
                return None;
            }
            let transaction_id = announce.transaction_id;
            announced(shared, ip, family, &announce).map_err(|denied| (transaction_id, denied))
        }
        Request::Scrape(scrape) => {
            if !ids.is_issued(now, ip, scrape.connection_id) {
                counters.rejected.add_one();
                return None;
            }
            // A scrape carries no URL data: with passkeys there is no telling whose it is, and it is refused.
            match shared.admit(ip, None) {
                Ok(()) => {
                    let entry = |hash: &_| shared.scrape(*hash).unwrap_or_default();
                    let entries = scrape.info_hashes.iter().map(entry).collect();
                    counters.scrapes.add_one();
                    Ok(Response::Scrape { transaction_id: scrape.transaction_id, entries })
                }
                Err(denied) => Err((scrape.transaction_id, denied)),
            }
        }
    };
    let response = response.unwrap_or_else(|(transaction_id, denied)| {
        counters.rejected.add_one();
        Response::Error { transaction_id, message: denied.to_string() }
    });
    Some(response.encode(family))
}

fn announced(
    shared: &Shared,
    ip: IpAddr,
    family: Family,
    announce: &codec::AnnounceRequest,
) -> Result<Response, Denied> {
    shared.admit(ip, passkey(&announce.url_data))?;
    let request = &announce.request;
    let wanted = match family {
        Family::V4 => Wanted::V4,
        Family::V6 => Wanted::V6,
    };
    let want = request.num_want.map_or(shared.config.default_peers, |count| count as usize);
    let want = want.min(shared.config.max_peers);
    let mut peers = Vec::with_capacity(want.min(64));
    let answer = shared.announce(Announce { wanted, ..http::told(request, ip, want) }, |drawn| {
        peers.extend(drawn.v4.map(SocketAddr::V4).or(drawn.v6.map(SocketAddr::V6)));
    })?;
    shared.counters.udp.announces.add_one();
    Ok(Response::Announce {
        transaction_id: announce.transaction_id,
        interval_s: shared.jittered(shared.config.interval),
        leechers: answer.counts.incomplete,
        seeders: answer.counts.complete,
        peers,
    })
}

/// The word before or behind `announce` in a path.
fn passkey(url_data: &str) -> Option<&str> {
    let path = url_data.split('?').next()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next()?, parts.next(), parts.next()) {
        ("announce", Some(word), None) | (word, Some("announce"), None) => Some(word),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
