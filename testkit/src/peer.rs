//! A scripted BitTorrent peer in raw bytes: it seeds correctly, or does one thing wrong, and counts everything.
//!
//! It listens; each connection is served by its own threads until the other side closes it. Counts are of the
//! peer, over all its connections, so that "after N blocks" means N blocks however often the client comes back.
//! A peer may start *held*: it takes part in everything but keeps the client choked until it is released, so
//! that a test can let a bad peer have its turn first without guessing at times.

mod fault;
mod script;
mod serve;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

pub use self::fault::{BitfieldFault, Fault, LengthFault, MetadataFault, RequestFault, Stream};
use crate::{net, ramp::Ramp, torrent_file::TorrentFile, wait};

/// What the peer has, as a function of the offset in the torrent.
#[derive(Clone, Debug)]
pub enum Content {
    /// The ramp from its start.
    Ramp(Ramp),
    /// Zeros all over.
    Zeros,
    /// These bytes.
    Bytes(Arc<Vec<u8>>),
}

impl Content {
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        match self {
            Self::Ramp(ramp) => ramp.bytes(offset, len),
            Self::Zeros => vec![0; len],
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let mut part: Vec<u8> = bytes[from..].iter().take(len).copied().collect();
                part.resize(len, 0);
                part
            }
        }
    }
}

/// Whether the client may request at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Unchokes as soon as the client is interested.
    Open,
    /// Keeps the client choked until [`ScriptedPeer::release`].
    Held,
}

/// What a peer is made of.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The address to listen at; a fresh one when `None`.
    pub listen: Option<SocketAddr>,
    /// The torrent it takes part in. It gives its metadata to whoever asks (BEP 9).
    pub torrent: TorrentFile,
    /// What it has.
    pub content: Content,
    /// What it does wrong.
    pub fault: Fault,
    /// Whether it uploads at once.
    pub start: Start,
    /// Peers it tells the client of (BEP 11), as soon as the client says that it listens to such news.
    pub introduces: Vec<SocketAddr>,
}

/// What a peer has seen and done, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections that have ended.
    pub ended: u64,
    /// Handshakes with the right info hash.
    pub handshakes: u64,
    /// Requests for blocks.
    pub requests: u64,
    /// Requests that were not inside a piece, or not 1 byte to 128 KiB.
    pub bad_requests: u64,
    /// Blocks sent, right and wrong.
    pub blocks_sent: u64,
    /// Bytes in them.
    pub payload_sent: u64,
    /// How often the fault was committed.
    pub faults: u64,
    /// All bytes sent while committing endless faults.
    pub flood_bytes: u64,
    /// Blocks received, asked for or not.
    pub blocks_received: u64,
    /// Blocks received that are exactly what was asked for and hold the right bytes.
    pub good_blocks_received: u64,
    /// Requests of ours that were answered with a reject (BEP 6).
    pub rejects_received: u64,
    /// Pieces of metadata sent.
    pub metadata_sent: u64,
    /// Times a client was told of the peers to introduce.
    pub introductions: u64,
}

#[derive(Debug)]
struct Shared {
    config: PeerConfig,
    counts: Mutex<Counts>,
    open: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running peer.
#[derive(Debug)]
pub struct ScriptedPeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl ScriptedPeer {
    /// Starts the peer.
    ///
    /// # Panics
    /// When its address cannot be bound.
    #[must_use]
    pub fn start(config: PeerConfig) -> Self {
        let addr = config.listen.unwrap_or_else(net::fresh_addr);
        let listener = bind(addr);
        let addr = listener.local_addr().expect("a bound socket has an address");
        let open = AtomicBool::new(config.start == Start::Open);
        let shared =
            Arc::new(Shared { config, counts: Mutex::default(), open, stop: AtomicBool::new(false) });
        let (serving, watched) = (Arc::clone(&shared), Arc::clone(&shared));
        let is_over = move || watched.stop.load(Ordering::Acquire);
        net::attend_all(listener, is_over, move |stream| attend(stream, &serving));
        Self { addr, shared }
    }

    /// An honest seeder of a torrent.
    #[must_use]
    pub fn seeder(torrent: &TorrentFile, content: Content, start: Start) -> Self {
        let introduces = Vec::new();
        let torrent = torrent.clone();
        Self::start(PeerConfig { listen: None, torrent, content, fault: Fault::None, start, introduces })
    }

    /// A peer with this fault, uploading at once.
    #[must_use]
    pub fn with_fault(torrent: &TorrentFile, content: Content, fault: Fault) -> Self {
        let introduces = Vec::new();
        let torrent = torrent.clone();
        Self::start(PeerConfig { listen: None, torrent, content, fault, start: Start::Open, introduces })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has seen and done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts()
    }

    /// Lets a held peer unchoke its clients, those of now and those to come.
    pub fn release(&self) {
        self.shared.open.store(true, Ordering::Release);
    }

    /// Connects to a client that listens, and behaves there as on any other connection.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn dial(&self, client: SocketAddr) -> std::io::Result<()> {
        let stream = TcpStream::connect_timeout(&client, Duration::from_secs(60))?;
        self.shared.counts().connections += 1;
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let _ = serve::run(stream, serve::Side::Dialled, &shared);
            shared.counts().ended += 1;
        });
        Ok(())
    }
}

impl Drop for ScriptedPeer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the listener's thread.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

/// A peer that was dropped a moment ago gives its address up only when its thread has woken.
fn bind(addr: SocketAddr) -> TcpListener {
    let what = format!("{addr} can be bound");
    wait::eventually(&what, Duration::from_secs(60), || TcpListener::bind(addr).ok())
}

fn attend(stream: TcpStream, shared: &Arc<Shared>) {
    shared.counts().connections += 1;
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        // However the connection ends, that is the client's right; what counts is counted.
        let _ = serve::run(stream, serve::Side::Accepted, &shared);
        shared.counts().ended += 1;
    });
}

#[cfg(test)]
mod tests;
