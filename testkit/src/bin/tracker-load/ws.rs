//! Announces with offers over web sockets, as WebTorrent clients make them; offers that arrive are answered.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::poll::Poll;
use crate::{Load, Outcome, Who};

/// As long as the session description of a data channel with a few candidates.
const SDP_BYTES: usize = 700;

/// One socket's conversation.
struct Peer {
    who: Who,
    is_upgraded: bool,
    asked: Instant,
    is_waiting: bool,
    has_asked: bool,
}

struct Clients {
    poll: Poll,
    peers: Vec<Peer>,
    outcome: Outcome,
}

impl Clients {
    fn open(load: &Load) -> io::Result<Self> {
        let upgrade = "GET /announce HTTP/1.1\r\nHost: tracker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (poll, refused) = Poll::connect(load.addr, load.clients, upgrade.as_bytes())?;
        let (now, count) = (Instant::now(), poll.connections.len());
        let who = |index| Who { torrent: (index % load.torrents.max(1)) as u64, peer: index as u64, port: 0 };
        let peers = (0..count).map(|index| Peer {
            who: who(index),
            is_upgraded: false,
            asked: now,
            is_waiting: false,
            has_asked: false,
        });
        let outcome = Outcome { errors: refused, ..Outcome::default() };
        Ok(Self { peers: peers.collect(), poll, outcome })
    }

    fn announce(&mut self, index: usize, offers: usize) {
        let peer = &mut self.peers[index];
        (peer.asked, peer.is_waiting, peer.has_asked) = (Instant::now(), true, true);
        let sdp = "a=candidate:1 1 udp 2113937151 192.0.2.7 50000 typ host\\r\\n".repeat(SDP_BYTES / 58);
        let offers: Vec<String> = (0..offers)
            .map(|n| {
                format!(
                    r#"{{"offer_id":"{n:08}{:012}","offer":{{"type":"offer","sdp":"v=0\r\n{sdp}"}}}}"#,
                    peer.who.peer
                )
            })
            .collect();
        let text = format!(
            r#"{{"action":"announce","info_hash":"{}","peer_id":"{}","uploaded":0,"downloaded":0,"left":1000,"event":"started","numwant":{},"offers":[{}]}}"#,
            peer.who.info_hash(),
            peer.who.peer_id(),
            offers.len(),
            offers.join(",")
        );
        self.poll.send(index, &frame(1, text.as_bytes()));
    }

    /// Deals with what has arrived. Gives those that were answered, or have just been upgraded.
    fn turn(&mut self) -> io::Result<Vec<usize>> {
        let mut free = Vec::new();
        for index in self.poll.wait(Duration::from_millis(100))? {
            if !self.peers[index].is_upgraded {
                let received = &mut self.poll.connections[index].received;
                let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                if !received.starts_with(b"HTTP/1.1 101") {
                    self.outcome.errors += 1;
                    received.clear();
                    continue;
                }
                received.drain(..head + 4);
                self.peers[index].is_upgraded = true;
                free.push(index);
            }
            while let Some((opcode, payload)) = take_frame(&mut self.poll.connections[index].received) {
                match opcode {
                    1 | 2 => self.message(index, &String::from_utf8_lossy(&payload), &mut free),
                    9 => self.poll.send(index, &frame(10, &payload)),
                    _ => (),
                }
            }
        }
        Ok(free)
    }

    fn message(&mut self, index: usize, text: &str, free: &mut Vec<usize>) {
        if text.contains("\"failure reason\"") {
            self.outcome.errors += 1;
            free.push(index);
        } else if text.contains("\"offer\":") {
            self.outcome.relayed += 1;
            let (Some(to), Some(offer)) = (string(text, "peer_id"), string(text, "offer_id")) else { return };
            let who = self.peers[index].who;
            let answer = format!(
                r#"{{"action":"announce","info_hash":"{}","peer_id":"{}","to_peer_id":"{to}","offer_id":"{offer}","answer":{{"type":"answer","sdp":"v=0\r\n{}"}}}}"#,
                who.info_hash(),
                who.peer_id(),
                "a".repeat(SDP_BYTES)
            );
            self.poll.send(index, &frame(1, answer.as_bytes()));
        } else if text.contains("\"answer\":") {
            self.outcome.relayed += 1;
        } else if self.peers[index].is_waiting {
            self.peers[index].is_waiting = false;
            self.outcome.answered(self.peers[index].asked);
            free.push(index);
        }
    }
}

pub(crate) fn run(load: &Load) -> io::Result<Outcome> {
    let mut clients = Clients::open(load)?;
    let (began, end) = (Instant::now(), load.end());
    while Instant::now() < end && clients.poll.open() > 0 {
        for index in clients.turn()? {
            clients.announce(index, load.offers);
        }
    }
    clients.outcome.errors += (clients.peers.len() - clients.poll.open()) as u64;
    clients.outcome.seconds = began.elapsed().as_secs_f64();
    Ok(clients.outcome)
}

/// Opens all, has each announce once, says so, and keeps them until standard input ends.
pub(crate) fn hold(load: &Load) -> io::Result<Outcome> {
    let began = Instant::now();
    let mut clients = Clients::open(load)?;
    let patience = Instant::now() + Duration::from_secs(120);
    let mut told = false;
    let (sender, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    loop {
        for index in clients.turn()? {
            if !clients.peers[index].has_asked {
                clients.announce(index, load.offers);
            }
        }
        let all = clients.outcome.answers + clients.outcome.errors >= clients.peers.len() as u64;
        if !told && (all || Instant::now() > patience) {
            told = true;
            println!(
                "{{\"open\":{},\"answers\":{},\"errors\":{},\"seconds\":{:.3}}}",
                clients.poll.open(),
                clients.outcome.answers,
                clients.outcome.errors,
                began.elapsed().as_secs_f64()
            );
            io::stdout().flush()?;
        }
        if ended.try_recv().is_ok() {
            break;
        }
    }
    clients.outcome.errors += (clients.peers.len() - clients.poll.open()) as u64;
    clients.outcome.seconds = began.elapsed().as_secs_f64();
    Ok(clients.outcome)
}

/// A frame of a client: masked with a key of zeros, which leaves the payload as it is.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        short @ ..126 => out.push(0x80 | short as u8),
        long @ ..65_536 => {
            out.push(0x80 | 126);
            out.extend((long as u16).to_be_bytes());
        }
        longer => {
            out.push(0x80 | 127);
            out.extend((longer as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(payload);
    out
}

/// Takes one whole unmasked frame off the front.
fn take_frame(received: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (received.first()?, received.get(1)?);
    let (start, length) = match second & 0x7F {
        126 => (4, usize::from(u16::from_be_bytes([*received.get(2)?, *received.get(3)?]))),
        127 => (10, usize::try_from(u64::from_be_bytes(received.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    let payload = received.get(start..start + length)?.to_vec();
    received.drain(..start + length);
    Some((first & 15, payload))
}

/// The value of a string key, which holds nothing escaped.
fn string<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let start = text.find(&format!("\"{key}\":\""))? + key.len() + 4;
    let rest = &text[start..];
    Some(&rest[..rest.find('"')?])
}
