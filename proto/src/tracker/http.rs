//! Announces and scrapes as HTTP queries and bencoded bodies (BEP 3, 7, 21, 23, 24, 48), both directions.
//!
//! Owns query strings without their `?` and response bodies. Knows no URL beyond the rule of BEP 48, no status codes
//! and no headers.
//!
//! Invariant: reading is tolerant of what trackers and clients in the wild leave out or get wrong beside the point,
//! and exact about lengths: a hash has 20 bytes, a list of peers whole entries. Writing is the strict common form:
//! compact peers, percent-encoded bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{AnnounceEvent, AnnounceRequest, MAX_PEERS, ScrapeEntry, TrackerError, shown};
use crate::bencode::{Dict, DictEncoder, Encoder, Value, decode};
use crate::compact::{self, Family};
use crate::id::{InfoHash, PeerId};

mod query;

use query::percent_encode;

/// Interval that is taken for a response that names none: half an hour, which trackers commonly ask for.
pub const DEFAULT_INTERVAL_S: u32 = 1800;

/// Most torrents of one scrape query that are answered.
pub const MAX_SCRAPE_HASHES: usize = 256;

/// A tracker's answer to an announce.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnnounceResponse {
    /// Seconds until the next announce.
    pub interval_s: u32,
    /// Seconds before which no announce may come at all.
    pub min_interval_s: Option<u32>,
    /// Peers that have everything, as the tracker counts.
    pub seeders: Option<u32>,
    /// Peers that lack something, as the tracker counts.
    pub leechers: Option<u32>,
    /// Peers of both families, none with port 0.
    pub peers: Vec<SocketAddr>,
    /// To be sent back with later announces.
    pub tracker_id: Option<String>,
    /// Words for the user; the announce was accepted all the same.
    pub warning: Option<String>,
    /// The client's address as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

/// A tracker's answer to a scrape.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrapeResponse {
    /// The numbers of each torrent that the tracker knows.
    pub entries: BTreeMap<InfoHash, ScrapeEntry>,
    /// Seconds before which no scrape may come again, if the tracker says so.
    pub min_interval_s: Option<u32>,
}

/// The query of an announce, without the leading `?`. Asks for compact peers (BEP 23).
pub fn announce_query(request: &AnnounceRequest) -> String {
    let mut query = format!(
        "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&compact=1&key={:08X}",
        percent_encode(request.info_hash.as_bytes()),
        percent_encode(request.peer_id.as_bytes()),
        request.port,
        request.uploaded,
        request.downloaded,
        // Trackers read signed numbers.
        request.left.min(i64::MAX.unsigned_abs()),
        request.key,
    );
    let event = match request.event {
        AnnounceEvent::None => None,
        AnnounceEvent::Started => Some("started"),
        AnnounceEvent::Stopped => Some("stopped"),
        AnnounceEvent::Completed => Some("completed"),
    };
    let num_want = request.num_want.map(|count| count.to_string());
    let ip = request.ip.map(|ip| percent_encode(ip.to_string().as_bytes()));
    let tracker_id = request.tracker_id.as_ref().map(|id| percent_encode(id.as_bytes()));
    for (name, value) in [
        ("event", event),
        ("numwant", num_want.as_deref()),
        ("ip", ip.as_deref()),
        ("trackerid", tracker_id.as_deref()),
    ] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={value}"));
        }
    }
    query
}

/// Reads the query of an announce. Unknown parameters, and the content of all but `info_hash`, `peer_id` and `port`,
/// are taken as they come: what is missing or no number is as if not said. `left` then reads as unknown
/// (`u64::MAX`), and the event `paused` (BEP 21) as none.
///
/// # Errors
/// Names the parameter that is missing or wrong.
pub fn parse_announce_query(query: &str) -> Result<AnnounceRequest, TrackerError> {
    // One pass, and of a parameter that comes twice the first counts: a tracker reads very many of these.
    let mut values: [Option<&str>; NAMES.len()] = [None; NAMES.len()];
    for (name, value) in query::pairs(query) {
        if let Some(known) = NAMES.iter().position(|own| *own == name) {
            values[known].get_or_insert(value);
        }
    }
    let [hash, peer_id, port, uploaded, downloaded, left, event, num_want, key, id, ip, ipv4, ipv6] = values;
    let missing = |name, expected| TrackerError::Parameter { name, expected };
    let hash = hash.and_then(query::twenty).ok_or(missing("info_hash", TWENTY_BYTES))?;
    let peer_id = peer_id.and_then(query::twenty).ok_or(missing("peer_id", TWENTY_BYTES))?;
    let count = |value: Option<&str>| value.and_then(query::number::<u64>);
    Ok(AnnounceRequest {
        info_hash: InfoHash::new(hash),
        peer_id: PeerId::new(peer_id),
        port: port.and_then(query::number).ok_or(missing("port", "a number up to 65535"))?,
        uploaded: count(uploaded).unwrap_or(0),
        downloaded: count(downloaded).unwrap_or(0),
        left: count(left).filter(|&left| left < i64::MAX.unsigned_abs()).unwrap_or(u64::MAX),
        event: match event.and_then(query::text).as_deref() {
            Some("started") => AnnounceEvent::Started,
            Some("stopped") => AnnounceEvent::Stopped,
            Some("completed") => AnnounceEvent::Completed,
            _ => AnnounceEvent::None,
        },
        num_want: num_want.and_then(query::number),
        key: key.and_then(query::text).map_or(0, |key| client_key(&key)),
        ip: [ip, ipv4, ipv6].into_iter().flatten().find_map(|ip| query::text(ip)?.parse().ok()),
        tracker_id: id.and_then(query::percent_decode).map(|id| shown(&id)).filter(|id| !id.is_empty()),
    })
}

/// The parameters of an announce, in the order in which [`parse_announce_query`] takes them apart.
const NAMES: [&str; 13] = [
    "info_hash",
    "peer_id",
    "port",
    "uploaded",
    "downloaded",
    "left",
    "event",
    "numwant",
    "key",
    "trackerid",
    "ip",
    "ipv4",
    "ipv6",
];

const TWENTY_BYTES: &str = "20 bytes, percent-encoded";

/// Clients' keys are hexadecimal by custom only; any other text is folded into a number (FNV-1a), which still stays
/// the same.
fn client_key(key: &str) -> u32 {
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    u32::from_str_radix(key, 16).unwrap_or_else(|_| key.bytes().fold(0x811c_9dc5, fold))
}

/// How a client wants to be told peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ResponseForm {
    /// As strings of 6 or 18 bytes each (BEP 23, BEP 7).
    #[default]
    Compact,
    /// As dictionaries (BEP 3).
    Dictionaries,
    /// As dictionaries without the peers' ids.
    DictionariesWithoutId,
}

/// Which form the query of an announce asks for. BEP 23 has trackers send the compact one unless it is declined.
pub fn response_form(query: &str) -> ResponseForm {
    let is = |name: &str, value: &str| query::all(query, name).next() == Some(value);
    match (is("compact", "0"), is("no_peer_id", "1")) {
        (false, _) => ResponseForm::Compact,
        (true, false) => ResponseForm::Dictionaries,
        (true, true) => ResponseForm::DictionariesWithoutId,
    }
}

/// Reads the body of a response to an announce. Peers may be compact (BEP 23, BEP 7) or dictionaries (BEP 3), of which
/// those with a host name or without a port are left out; [`MAX_PEERS`] are taken.
///
/// # Errors
/// [`TrackerError::Failure`] when the tracker refuses; others when the body is not a response.
pub fn decode_announce_response(body: &[u8]) -> Result<AnnounceResponse, TrackerError> {
    let value = decode(body)?;
    let dict = accepted(&value)?;
    let mut peers: Vec<SocketAddr> = Vec::new();
    match dict.get("peers") {
        Some(Value::List(entries)) => peers.extend(entries.iter().filter_map(peer_entry)),
        Some(Value::Bytes(bytes)) => peers.extend(compact_peers(bytes, "peers", Family::V4)?),
        None => (),
        Some(_) => {
            return Err(TrackerError::Missing { key: "peers", expected: "a string or a list" });
        }
    }
    if let Some(bytes) = dict.get_bytes("peers6") {
        peers.extend(compact_peers(bytes, "peers6", Family::V6)?);
    }
    peers.retain(|peer| peer.port() != 0);
    peers.truncate(MAX_PEERS);
    Ok(AnnounceResponse {
        interval_s: count(dict, "interval").unwrap_or(DEFAULT_INTERVAL_S),
        min_interval_s: count(dict, "min interval"),
        seeders: count(dict, "complete"),
        leechers: count(dict, "incomplete"),
        peers,
        tracker_id: dict.get_bytes("tracker id").map(shown).filter(|id| !id.is_empty()),
        warning: dict.get_bytes("warning message").map(shown),
        external_ip: dict.get_bytes("external ip").and_then(compact::decode_ip),
    })
}

/// The body of a response to an announce, with compact peers of both families. Peers past [`MAX_PEERS`] are left out.
pub fn encode_announce_response(response: &AnnounceResponse) -> Vec<u8> {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for peer in response.peers.iter().take(MAX_PEERS) {
        let list = match Family::of(peer.ip()) {
            Family::V4 => &mut v4,
            Family::V6 => &mut v6,
        };
        compact::encode(*peer, list);
    }
    encode_announce(response, |dict| {
        dict.bytes("peers", v4);
        if !v6.is_empty() {
            dict.bytes("peers6", v6);
        }
    })
}

/// The same with a dictionary for each peer (BEP 3), and in it the id that stands at the peer's place in `ids`, if one
/// does.
pub fn encode_announce_dictionaries(response: &AnnounceResponse, ids: &[PeerId]) -> Vec<u8> {
    let ids = ids.iter().map(Some).chain(std::iter::repeat(None));
    encode_announce(response, |dict| {
        dict.list("peers", |list| {
            for (peer, id) in response.peers.iter().zip(ids).take(MAX_PEERS) {
                list.dict(|entry| {
                    entry.bytes("ip", peer.ip().to_canonical().to_string());
                    if let Some(id) = id {
                        entry.bytes("peer id", id.as_bytes());
                    }
                    entry.int("port", i64::from(peer.port()));
                });
            }
        });
    })
}

fn encode_announce(response: &AnnounceResponse, peers: impl FnOnce(&mut DictEncoder)) -> Vec<u8> {
    let mut out = Encoder::new();
    out.dict(|dict| {
        dict.int("interval", i64::from(response.interval_s));
        for (key, number) in [
            ("min interval", response.min_interval_s),
            ("complete", response.seeders),
            ("incomplete", response.leechers),
        ] {
            if let Some(number) = number {
                dict.int(key, i64::from(number));
            }
        }
        peers(dict);
        if let Some(id) = &response.tracker_id {
            dict.bytes("tracker id", id);
        }
        if let Some(warning) = &response.warning {
            dict.bytes("warning message", warning);
        }
        if let Some(ip) = response.external_ip {
            let mut bytes = Vec::new();
            compact::encode_ip(ip, &mut bytes);
            dict.bytes("external ip", bytes);
        }
    });
    out.finish()
}

/// The body of a refusal, of an announce or of a scrape. Trackers send it with status 200, so that clients read it.
pub fn encode_failure(reason: &str) -> Vec<u8> {
    let mut out = Encoder::new();
    out.dict(|dict| dict.bytes("failure reason", reason));
    out.finish()
}

/// The scrape URL of an announce URL: `announce` right behind the last `/` becomes `scrape` (BEP 48). `None` when
/// another word stands there, by which the tracker says that it answers no scrapes.
pub fn scrape_url(announce_url: &str) -> Option<String> {
    let (before, last) = announce_url.rsplit_once('/')?;
    let rest = last.strip_prefix("announce")?;
    Some(format!("{before}/scrape{rest}"))
}

/// The query of a scrape, without the leading `?`. Without a hash it asks for everything the tracker has.
pub fn scrape_query(hashes: &[InfoHash]) -> String {
    let one = |hash: &InfoHash| format!("info_hash={}", percent_encode(hash.as_bytes()));
    hashes.iter().map(one).collect::<Vec<_>>().join("&")
}

/// Reads the query of a scrape: the first [`MAX_SCRAPE_HASHES`] hashes, perhaps none.
///
/// # Errors
/// When one of them is not 20 bytes.
pub fn parse_scrape_query(query: &str) -> Result<Vec<InfoHash>, TrackerError> {
    let wrong = TrackerError::Parameter { name: "info_hash", expected: TWENTY_BYTES };
    let hashes = query::all(query, "info_hash").take(MAX_SCRAPE_HASHES);
    hashes.map(|value| query::twenty(value).map(InfoHash::new).ok_or(wrong.clone())).collect()
}

/// Reads the body of a response to a scrape. Keys that are no info hash are left out.
///
/// # Errors
/// [`TrackerError::Failure`] when the tracker refuses; others when the body is not a response.
pub fn decode_scrape_response(body: &[u8]) -> Result<ScrapeResponse, TrackerError> {
    let value = decode(body)?;
    let dict = accepted(&value)?;
    let missing = TrackerError::Missing { key: "files", expected: "a dictionary" };
    let mut entries = BTreeMap::new();
    for (key, file) in dict.get_dict("files").ok_or(missing)?.iter() {
        if let (Ok(hash), Some(file)) = (key.try_into(), file.as_dict()) {
            let number = |key| count(file, key).unwrap_or(0);
            entries.entry(InfoHash::new(hash)).or_insert(ScrapeEntry {
                complete: number("complete"),
                downloaded: number("downloaded"),
                incomplete: number("incomplete"),
            });
        }
    }
    let min_interval_s = dict.get_dict("flags").and_then(|flags| count(flags, "min_request_interval"));
    Ok(ScrapeResponse { entries, min_interval_s })
}

/// The body of a response to a scrape.
pub fn encode_scrape_response(response: &ScrapeResponse) -> Vec<u8> {
    let mut out = Encoder::new();
    out.dict(|dict| {
        dict.dict("files", |files| {
            for (hash, entry) in &response.entries {
                files.dict(hash.as_bytes(), |file| {
                    file.int("complete", i64::from(entry.complete));
                    file.int("downloaded", i64::from(entry.downloaded));
                    file.int("incomplete", i64::from(entry.incomplete));
                });
            }
        });
        if let Some(seconds) = response.min_interval_s {
            dict.dict("flags", |flags| flags.int("min_request_interval", i64::from(seconds)));
        }
    });
    out.finish()
}

/// The dictionary of a response that is no refusal.
fn accepted<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Dict<'a>, TrackerError> {
    let dict = value.as_dict().ok_or(TrackerError::NotADictionary { found: value.kind() })?;
    match dict.get("failure reason") {
        Some(reason) => {
            Err(TrackerError::Failure { reason: reason.as_bytes().map(shown).unwrap_or_default() })
        }
        None => Ok(dict),
    }
}

/// A number that counts something: clipped to 32 bits, no less than zero.
fn count(dict: &Dict<'_>, key: &str) -> Option<u32> {
    dict.get_int(key).map(|number| u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

fn compact_peers<'a>(
    bytes: &'a [u8],
    key: &'static str,
    family: Family,
) -> Result<impl Iterator<Item = SocketAddr> + 'a, TrackerError> {
    compact::decode(bytes, family).map_err(|source| TrackerError::Peers { key, source })
}

fn peer_entry(entry: &Value<'_>) -> Option<SocketAddr> {
    let dict = entry.as_dict()?;
    let ip = dict.get_str("ip")?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(dict.get_int("port")?).ok()?))
}

#[cfg(test)]
mod tests;
