//! Magnet links (BEP 9, BEP 53): a torrent by hash, with advice on where to find it.
//!
//! Only the hashes are binding: a link without a usable one, or with two different ones of one kind, is refused. The
//! rest is advice in any order and number, so parts that make no sense are skipped, except a selection of files,
//! where skipping would mean another set of files.
//!
//! Written by people, web pages and chat programs, so: any case of scheme and keys, numbered keys (`tr.1`), `&amp;`
//! for `&`, and raw characters that should have been escaped are all read. Writing is canonical: one order, everything
//! escaped that is not unreserved (RFC 3986).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

use crate::id::{InfoHash, InfoHashV2, InfoHashes, ParseIdError};
use crate::metainfo::Metainfo;
use crate::path::safe_component;

/// Longest link that is looked at. Those with every public tracker there is have about 10 KiB.
pub const MAX_MAGNET_BYTES: usize = 64 * 1024;

/// Most entries kept of one kind; what comes after is dropped.
const MAX_ENTRIES: usize = 1000;

/// A parsed magnet link. Lists are in the order of the link, without repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnet {
    /// `xt`: the hash or, of a hybrid, both.
    pub hashes: InfoHashes,
    /// `dn`, for people; not a safe file name (see [`Magnet::safe_name`]).
    pub display_name: Option<String>,
    /// `tr`: trackers. A link knows no tiers.
    pub trackers: Vec<String>,
    /// `ws`: web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// `xs`: places of the `.torrent` itself.
    pub exact_sources: Vec<String>,
    /// `as`: places that may have the content in another form.
    pub acceptable_sources: Vec<String>,
    /// `x.pe`: peers to ask at once.
    pub peers: Vec<PeerAddr>,
    /// `so`: indices of the files wanted (BEP 53), each range non-empty; `None` is all.
    pub selected: Option<Vec<RangeInclusive<u32>>>,
}

/// A peer as a link names it: a host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// Host name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl PeerAddr {
    /// The address if the host is one; a name must be resolved by someone with a network.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(address, self.port))
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl FromStr for PeerAddr {
    type Err = MagnetError;

    /// `host:port`, an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, MagnetError> {
        let wrong = || MagnetError::Peer { text: shorten(text) };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|ip| ip.parse::<Ipv6Addr>().is_ok()),
            // A name is letters, digits, dots, hyphens; underscores occur. This keeps spaces and slashes out.
            None => Some(host).filter(|host| {
                let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
                !host.is_empty() && host.len() <= 253 && host.chars().all(is_name)
            }),
        };
        Ok(Self { host: host.ok_or_else(wrong)?.to_owned(), port })
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is no magnet link.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MagnetError {
    /// Another scheme or none.
    #[error("not a magnet link: it does not begin with 'magnet:?'")]
    NotMagnet,
    /// Longer than any honest link.
    #[error("the link has {bytes} bytes, at most {MAX_MAGNET_BYTES} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No `xt` that names a torrent.
    #[error("the link names no torrent: no xt=urn:btih: or xt=urn:btmh:")]
    NoInfoHash,
    /// An `xt` with a broken hash.
    #[error("xt: {0}")]
    InfoHash(#[from] ParseIdError),
    /// A `urn:btmh` that is not SHA-256.
    #[error("xt: urn:btmh must be 1220 and 64 hex digits (SHA-256)")]
    Multihash,
    /// Two different hashes of one kind.
    #[error("the link names two different torrents: {first} and {second}")]
    Conflict {
        /// The hash that came first.
        first: String,
        /// The one that differs.
        second: String,
    },
    /// A selection of files that cannot be read.
    #[error("so: '{text}' is no list of file indices such as 0,2,4-7")]
    Selection {
        /// The part at fault, shortened.
        text: String,
    },
    /// A peer that is not `host:port`.
    #[error("'{text}' is no peer: expected host:port, an IPv6 address in brackets")]
    Peer {
        /// The text, shortened.
        text: String,
    },
}

fn shorten(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

impl Magnet {
    /// A link that is only hashes.
    pub const fn new(hashes: InfoHashes) -> Self {
        Self {
            hashes,
            display_name: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            exact_sources: Vec::new(),
            acceptable_sources: Vec::new(),
            peers: Vec::new(),
            selected: None,
        }
    }

    /// The link to a torrent that is known: its hashes, name, trackers and web seeds.
    pub fn from_metainfo(metainfo: &Metainfo) -> Self {
        let mut magnet = Self::new(metainfo.hashes);
        magnet.display_name = Some(metainfo.info.name.clone());
        magnet.trackers = metainfo.announce.iter().flatten().cloned().collect();
        magnet.web_seeds = metainfo.url_list.clone();
        magnet
    }

    /// Reads a link.
    ///
    /// # Errors
    /// [`MagnetError`], for the hashes and the selection alone.
    pub fn parse(link: &str) -> Result<Self, MagnetError> {
        const SCHEME: &str = "magnet:?";
        let link = link.trim();
        if link.len() > MAX_MAGNET_BYTES {
            return Err(MagnetError::TooLong { bytes: link.len() });
        }
        let query = match link.split_at_checked(SCHEME.len()) {
            Some((scheme, query)) if scheme.eq_ignore_ascii_case(SCHEME) => query,
            _ => return Err(MagnetError::NotMagnet),
        };
        let mut magnet = Self::new(InfoHashes { v1: None, v2: None });
        for part in query.split('&') {
            // "&amp;" is how a link looks when it was copied out of HTML.
            let part = part.strip_prefix("amp;").unwrap_or(part);
            if let Some((key, value)) = part.split_once('=') {
                magnet.parameter(&plain_key(key), value)?;
            }
        }
        if magnet.hashes.iter().next().is_none() {
            return Err(MagnetError::NoInfoHash);
        }
        Ok(magnet)
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), MagnetError> {
        let list = match key {
            "xt" => return self.exact_topic(&String::from_utf8_lossy(&unescape(value))),
            "dn" => {
                if self.display_name.is_none() {
                    // Only a name may have been through a form, where a space becomes '+'; in a URL it is itself.
                    let name = unescape(&value.replace('+', " "));
                    let name = String::from_utf8_lossy(&name);
                    self.display_name = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
                }
                return Ok(());
            }
            "x.pe" => {
                let peer = String::from_utf8_lossy(&unescape(value)).trim().parse();
                if let Ok(peer) = peer {
                    push_new(&mut self.peers, peer);
                }
                return Ok(());
            }
            "so" => {
                let value = unescape(value);
                let ranges = selection(&String::from_utf8_lossy(&value))?;
                self.selected.get_or_insert_default().extend(ranges);
                return Ok(());
            }
            "tr" => &mut self.trackers,
            "ws" => &mut self.web_seeds,
            "xs" => &mut self.exact_sources,
            "as" => &mut self.acceptable_sources,
            _ => return Ok(()),
        };
        if let Ok(url) = String::from_utf8(unescape(value)) {
            let url = url.trim();
            if !url.is_empty() {
                push_new(list, url.to_owned());
            }
        }
        Ok(())
    }

    /// `urn:btih:` and `urn:btmh:`; other kinds (`urn:sha1:`, `urn:tree:tiger:`) are of other networks.
    fn exact_topic(&mut self, urn: &str) -> Result<(), MagnetError> {
        let urn = urn.trim();
        let Some((kind, hash)) = urn.split_at_checked("urn:btih:".len()) else { return Ok(()) };
        match kind.to_ascii_lowercase().as_str() {
            "urn:btih:" => set_once(&mut self.hashes.v1, hash.parse::<InfoHash>()?),
            "urn:btmh:" => {
                let digest =
                    hash.strip_prefix("1220").filter(|hex| hex.len() == 64).ok_or(MagnetError::Multihash)?;
                set_once(&mut self.hashes.v2, digest.parse::<InfoHashV2>()?)
            }
            _ => Ok(()),
        }
    }

    /// A name for a directory entry while the torrent's own is not known: `dn` if it is a safe component, else the
    /// hash.
    pub fn safe_name(&self) -> String {
        let name = self.display_name.as_deref().and_then(|name| safe_component(name.as_bytes()).ok());
        name.unwrap_or_else(|| self.hashes.primary().to_string())
    }
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(link: &str) -> Result<Self, MagnetError> {
        Self::parse(link)
    }
}

fn set_once<T: PartialEq + fmt::Display>(slot: &mut Option<T>, value: T) -> Result<(), MagnetError> {
    match slot {
        Some(first) if *first != value => {
            Err(MagnetError::Conflict { first: first.to_string(), second: value.to_string() })
        }
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if list.len() < MAX_ENTRIES && !list.contains(&value) {
        list.push(value);
    }
}

/// Lower case, and without the number of `tr.1`.
fn plain_key(key: &str) -> String {
    let numbered =
        key.rsplit_once('.').filter(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    numbered.map_or(key, |(plain, _)| plain).to_ascii_lowercase()
}

fn selection(text: &str) -> Result<Vec<RangeInclusive<u32>>, MagnetError> {
    let wrong = |part: &str| MagnetError::Selection { text: shorten(part) };
    let parts = text.split(',').map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse::<u32>().ok()).flatten()
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(first..=last),
            _ => Err(wrong(part)),
        }
    });
    parts.collect()
}

/// Undoes percent escapes; a `%` that begins none stands for itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        match escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Escapes all but the unreserved characters of RFC 3986.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => write!(f, "{}", char::from(byte))?,
                _ if byte.is_ascii_alphanumeric() => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        let v1 = self.hashes.v1.map(|hash| format!("xt=urn:btih:{hash}"));
        let v2 = self.hashes.v2.map(|hash| format!("xt=urn:btmh:1220{hash}"));
        let topics: Vec<String> = v1.into_iter().chain(v2).collect();
        f.write_str(&topics.join("&"))?;
        if let Some(name) = &self.display_name {
            write!(f, "&dn={}", Escaped(name))?;
        }
        let lists = [
            ("tr", &self.trackers),
            ("ws", &self.web_seeds),
            ("xs", &self.exact_sources),
            ("as", &self.acceptable_sources),
        ];
        for (key, urls) in lists {
            for url in urls {
                write!(f, "&{key}={}", Escaped(url))?;
            }
        }
        for peer in &self.peers {
            write!(f, "&x.pe={peer}")?;
        }
        if let Some(ranges) = self.selected.as_ref().filter(|ranges| !ranges.is_empty()) {
            let parts: Vec<String> = ranges
                .iter()
                .map(|range| match (range.start(), range.end()) {
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("{first}-{last}"),
                })
                .collect();
            write!(f, "&so={}", parts.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
