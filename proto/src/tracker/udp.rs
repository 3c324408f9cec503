//! Announces and scrapes as datagrams (BEP 15) with the URL data option (BEP 41), both directions.
//!
//! Owns the bytes. Peers have 6 bytes over IPv4 and 18 over IPv6: nothing in a datagram says which, so reading and
//! writing are told the [`Family`] of the socket. Connection ids are issued and checked by the tracker's owner;
//! transaction ids are matched by the client's.
//!
//! Invariant: fields behind those known are ignored, as BEP 15 asks; lists of entries hold whole entries; a response
//! fits one datagram without fragments.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use crate::compact::Family;

use super::{AnnounceEvent, MAX_PEERS, ScrapeEntry, TrackerError, shown};
use crate::compact;
use crate::id::{InfoHash, PeerId};

/// What a connect request begins with.
pub const PROTOCOL_ID: u64 = 0x0417_2710_1980;

/// Most torrents in one scrape (BEP 15).
pub const MAX_SCRAPE_HASHES: usize = 74;

/// Longest path and query that is sent as URL data; a longer one is left out, since a part of a token is a wrong
/// token.
pub const MAX_URL_DATA_BYTES: usize = 1024;

/// Most bytes of a response: an Ethernet frame less the headers of IPv6 and UDP.
const MAX_RESPONSE_BYTES: usize = 1452;

const ANNOUNCE_RESPONSE_BYTES: usize = 20;
const SCRAPE_ENTRY_BYTES: usize = 12;

mod action {
    pub(super) const CONNECT: u32 = 0;
    pub(super) const ANNOUNCE: u32 = 1;
    pub(super) const SCRAPE: u32 = 2;
    pub(super) const ERROR: u32 = 3;
}

mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const URL_DATA: u8 = 2;
}

/// Asks for a connection id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Comes back in the response.
    pub transaction_id: u32,
}

/// Announces to a torrent's swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// From the connect response.
    pub connection_id: u64,
    /// Comes back in the response.
    pub transaction_id: u32,
    /// The announce. Its tracker id is not carried, and of its address only IPv4.
    pub request: super::AnnounceRequest,
    /// Path and query of the tracker's URL (BEP 41), see [`url_data`]; empty for none.
    pub url_data: String,
}

/// Asks for the numbers of torrents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeRequest {
    /// From the connect response.
    pub connection_id: u64,
    /// Comes back in the response.
    pub transaction_id: u32,
    /// The torrents, 1 to [`MAX_SCRAPE_HASHES`].
    pub info_hashes: Vec<InfoHash>,
}

/// What a tracker receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Asks for a connection id.
    Connect(ConnectRequest),
    /// Announces to a swarm.
    Announce(AnnounceRequest),
    /// Asks for numbers.
    Scrape(ScrapeRequest),
}

/// What a tracker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To a connect request.
    Connect {
        /// Of the request.
        transaction_id: u32,
        /// To be used for two minutes at the most, from the same address.
        connection_id: u64,
    },
    /// To an announce.
    Announce {
        /// Of the request.
        transaction_id: u32,
        /// Seconds until the next announce.
        interval_s: u32,
        /// Peers that lack something.
        leechers: u32,
        /// Peers that have everything.
        seeders: u32,
        /// Peers of the socket's family, none with port 0.
        peers: Vec<SocketAddr>,
    },
    /// To a scrape.
    Scrape {
        /// Of the request.
        transaction_id: u32,
        /// In the order of the request.
        entries: Vec<ScrapeEntry>,
    },
    /// A refusal.
    Error {
        /// Of the request.
        transaction_id: u32,
        /// In the tracker's words.
        message: String,
    },
}

/// What goes into [`AnnounceRequest::url_data`]: path and query of a tracker's URL, without the fragment; nothing when
/// they say no more than the address does.
pub fn url_data(announce_url: &str) -> &str {
    let without_scheme = announce_url.split_once("://").map_or(announce_url, |(_, rest)| rest);
    let without_fragment = without_scheme.split('#').next().unwrap_or_default();
    let path = without_fragment.find(['/', '?']).map_or("", |at| &without_fragment[at..]);
    if path == "/" { "" } else { path }
}

impl ConnectRequest {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = PROTOCOL_ID.to_be_bytes().to_vec();
        out.extend(action::CONNECT.to_be_bytes());
        out.extend(self.transaction_id.to_be_bytes());
        out
    }
}

impl AnnounceRequest {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let request = &self.request;
        let event: u32 = match request.event {
            AnnounceEvent::None => 0,
            AnnounceEvent::Completed => 1,
            AnnounceEvent::Started => 2,
            AnnounceEvent::Stopped => 3,
        };
        let ip = match request.ip.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => ip,
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        };
        let num_want = request.num_want.map_or(-1, |count| i32::try_from(count).unwrap_or(i32::MAX));
        let mut out = self.connection_id.to_be_bytes().to_vec();
        out.extend(action::ANNOUNCE.to_be_bytes());
        out.extend(self.transaction_id.to_be_bytes());
        out.extend(request.info_hash.as_bytes());
        out.extend(request.peer_id.as_bytes());
        out.extend(request.downloaded.to_be_bytes());
        out.extend(request.left.to_be_bytes());
        out.extend(request.uploaded.to_be_bytes());
        out.extend(event.to_be_bytes());
        out.extend(ip.octets());
        out.extend(request.key.to_be_bytes());
        out.extend(num_want.to_be_bytes());
        out.extend(request.port.to_be_bytes());
        if self.url_data.len() <= MAX_URL_DATA_BYTES {
            for part in self.url_data.as_bytes().chunks(usize::from(u8::MAX)) {
                // A part is no longer than a length byte can say.
                out.extend([option::URL_DATA, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                out.extend(part);
            }
        }
        out
    }
}

impl ScrapeRequest {
    /// The datagram, with the first [`MAX_SCRAPE_HASHES`] hashes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.connection_id.to_be_bytes().to_vec();
        out.extend(action::SCRAPE.to_be_bytes());
        out.extend(self.transaction_id.to_be_bytes());
        for hash in self.info_hashes.iter().take(MAX_SCRAPE_HASHES) {
            out.extend(hash.as_bytes());
        }
        out
    }
}

impl Request {
    /// Reads a datagram of a client. The connection id is for the caller to check before anything else is done.
    ///
    /// # Errors
    /// When the datagram is too short, of an unknown action, or not of this protocol. None of them deserves an answer.
    pub fn decode(datagram: &[u8]) -> Result<Self, TrackerError> {
        let mut reader = Reader(datagram);
        let header = (reader.u64(), reader.u32(), reader.u32());
        let (Some(connection_id), Some(action), Some(transaction_id)) = header else {
            return Err(length("a request", "at least 16", datagram));
        };
        match action {
            action::CONNECT if connection_id != PROTOCOL_ID => {
                Err(TrackerError::Protocol { found: connection_id })
            }
            action::CONNECT => Ok(Self::Connect(ConnectRequest { transaction_id })),
            action::ANNOUNCE => {
                let short = length("an announce request", "at least 98", datagram);
                let request = reader.announce().ok_or(short)?;
                let url_data = read_url_data(reader);
                Ok(Self::Announce(AnnounceRequest { connection_id, transaction_id, request, url_data }))
            }
            action::SCRAPE => {
                let (hashes, rest) = reader.0.as_chunks::<20>();
                if hashes.is_empty() || hashes.len() > MAX_SCRAPE_HASHES || !rest.is_empty() {
                    return Err(length(
                        "a scrape request",
                        "16 and 20 for each of 1 to 74 torrents",
                        datagram,
                    ));
                }
                let info_hashes = hashes.iter().copied().map(InfoHash::new).collect();
                Ok(Self::Scrape(ScrapeRequest { connection_id, transaction_id, info_hashes }))
            }
            found => Err(TrackerError::Action { expected: "0 to 2", found }),
        }
    }
}

impl Response {
    /// The datagram. Peers of the other family, and those that would not fit 1,452 bytes, are left out.
    pub fn encode(&self, family: Family) -> Vec<u8> {
        let header = |action: u32, transaction_id: u32| {
            let mut out = action.to_be_bytes().to_vec();
            out.extend(transaction_id.to_be_bytes());
            out
        };
        match self {
            Self::Connect { transaction_id, connection_id } => {
                let mut out = header(action::CONNECT, *transaction_id);
                out.extend(connection_id.to_be_bytes());
                out
            }
            Self::Announce { transaction_id, interval_s, leechers, seeders, peers } => {
                let mut out = header(action::ANNOUNCE, *transaction_id);
                for number in [interval_s, leechers, seeders] {
                    out.extend(number.to_be_bytes());
                }
                let room = (MAX_RESPONSE_BYTES - ANNOUNCE_RESPONSE_BYTES) / family.addr_bytes();
                for peer in peers.iter().filter(|peer| Family::of(peer.ip()) == family).take(room) {
                    compact::encode(*peer, &mut out);
                }
                out
            }
            Self::Scrape { transaction_id, entries } => {
                let mut out = header(action::SCRAPE, *transaction_id);
                for entry in entries.iter().take(MAX_SCRAPE_HASHES) {
                    for number in [entry.complete, entry.downloaded, entry.incomplete] {
                        out.extend(number.to_be_bytes());
                    }
                }
                out
            }
            Self::Error { transaction_id, message } => {
                let mut out = header(action::ERROR, *transaction_id);
                out.extend(message.bytes().take(MAX_RESPONSE_BYTES - out.len()));
                out
            }
        }
    }

    /// Reads a datagram of a tracker that came over a socket of this family. Whether the transaction is one's own is
    /// for the caller to check.
    ///
    /// # Errors
    /// When the datagram is too short, ends in the middle of an entry, or is of an unknown action.
    pub fn decode(datagram: &[u8], family: Family) -> Result<Self, TrackerError> {
        let mut reader = Reader(datagram);
        let (Some(action), Some(transaction_id)) = (reader.u32(), reader.u32()) else {
            return Err(length("a response", "at least 8", datagram));
        };
        match action {
            action::CONNECT => {
                let short = length("a connect response", "at least 16", datagram);
                Ok(Self::Connect { transaction_id, connection_id: reader.u64().ok_or(short)? })
            }
            action::ANNOUNCE => {
                let numbers = (reader.u32(), reader.u32(), reader.u32());
                let (Some(interval_s), Some(leechers), Some(seeders)) = numbers else {
                    return Err(length("an announce response", "at least 20", datagram));
                };
                let peers = compact::decode(reader.0, family)
                    .map_err(|source| TrackerError::Peers { key: "peers", source })?
                    .filter(|peer| peer.port() != 0)
                    .take(MAX_PEERS)
                    .collect();
                Ok(Self::Announce { transaction_id, interval_s, leechers, seeders, peers })
            }
            action::SCRAPE => {
                if !reader.0.len().is_multiple_of(SCRAPE_ENTRY_BYTES) {
                    return Err(length("a scrape response", "8 and 12 for each torrent", datagram));
                }
                let entry = || {
                    let numbers = (reader.u32()?, reader.u32()?, reader.u32()?);
                    let (complete, downloaded, incomplete) = numbers;
                    Some(ScrapeEntry { complete, downloaded, incomplete })
                };
                let entries = std::iter::from_fn(entry).take(MAX_SCRAPE_HASHES).collect();
                Ok(Self::Scrape { transaction_id, entries })
            }
            action::ERROR => Ok(Self::Error { transaction_id, message: shown(reader.0) }),
            found => Err(TrackerError::Action { expected: "0 to 3", found }),
        }
    }

    /// The transaction that is answered.
    pub const fn transaction_id(&self) -> u32 {
        match self {
            Self::Connect { transaction_id, .. }
            | Self::Announce { transaction_id, .. }
            | Self::Scrape { transaction_id, .. }
            | Self::Error { transaction_id, .. } => *transaction_id,
        }
    }
}

/// The URL data among the options behind an announce (BEP 41). A malformed option ends them: older dialects put
/// other things there.
fn read_url_data(mut reader: Reader<'_>) -> String {
    let mut data = Vec::new();
    while let Some([kind]) = reader.array() {
        match kind {
            option::END => break,
            option::NOP => continue,
            _ => (),
        }
        let Some([length]) = reader.array() else { break };
        let Some((part, rest)) = reader.0.split_at_checked(usize::from(length)) else { break };
        reader = Reader(rest);
        if kind == option::URL_DATA {
            data.extend_from_slice(part);
        }
    }
    data.truncate(MAX_URL_DATA_BYTES);
    String::from_utf8(data).unwrap_or_default()
}

const fn length(message: &'static str, expected: &'static str, datagram: &[u8]) -> TrackerError {
    TrackerError::Length { message, expected, found: datagram.len() }
}

/// Takes big-endian numbers off the front of a datagram.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn announce(&mut self) -> Option<super::AnnounceRequest> {
        let info_hash = InfoHash::new(self.array()?);
        let peer_id = PeerId::new(self.array()?);
        let (downloaded, left, uploaded) = (self.u64()?, self.u64()?, self.u64()?);
        let event = match self.u32()? {
            1 => AnnounceEvent::Completed,
            2 => AnnounceEvent::Started,
            3 => AnnounceEvent::Stopped,
            _ => AnnounceEvent::None,
        };
        let ip = Some(Ipv4Addr::from(self.array::<4>()?)).filter(|ip| !ip.is_unspecified());
        let key = self.u32()?;
        let num_want = u32::try_from(i32::from_be_bytes(self.array()?)).ok();
        let port = u16::from_be_bytes(self.array()?);
        Some(super::AnnounceRequest {
            info_hash,
            peer_id,
            port,
            uploaded,
            downloaded,
            left,
            event,
            num_want,
            key,
            ip: ip.map(IpAddr::V4),
            tracker_id: None,
        })
    }
}

#[cfg(test)]
mod tests;
