//! Writing the messages, and reading the one value that is an object by hash: the numbers of a scrape.
//!
//! Written by hand into one string: a tracker writes a message for every offer, and the parts are few.
//!
//! Invariant: what is written is JSON, whatever bytes the ids hold.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Answer, MAX_SCRAPE_HASHES, MessageError, Offer, OfferId, Request, Response, Sdp, latin1, number,
};
use crate::id::InfoHash;
use crate::tracker::{AnnounceEvent, ScrapeEntry};

/// Appends a JSON string.
pub(super) fn push_string(out: &mut String, chars: impl Iterator<Item = char>) {
    out.push('"');
    for char in chars {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\r' => out.push_str("\\r"),
            '\n' => out.push_str("\\n"),
            // Control characters have to be escaped; the others of Latin-1 need not be.
            char if char < ' ' => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let code = usize::from(u8::try_from(char).unwrap_or_default());
                out.push_str("\\u00");
                out.push(char::from(DIGITS[code >> 4]));
                out.push(char::from(DIGITS[code & 15]));
            }
            char => out.push(char),
        }
    }
    out.push('"');
}

/// Writes the keys of one object.
struct Object(String);

impl Object {
    fn new(action: &str) -> Self {
        let mut out = String::with_capacity(256);
        out.push_str("{\"action\":\"");
        out.push_str(action);
        out.push('"');
        Self(out)
    }

    fn raw(mut self, key: &str, json: &str) -> Self {
        self.0.reserve(json.len() + key.len() + 8);
        self.key(key);
        self.0.push_str(json);
        self
    }

    fn bytes(mut self, key: &str, bytes: &[u8; 20]) -> Self {
        self.key(key);
        push_string(&mut self.0, bytes.iter().copied().map(char::from));
        self
    }

    fn text(mut self, key: &str, text: &str) -> Self {
        self.key(key);
        push_string(&mut self.0, text.chars());
        self
    }

    fn number(mut self, key: &str, number: u64) -> Self {
        self.key(key);
        push_number(&mut self.0, number);
        self
    }

    fn description(mut self, key: &str, kind: &str, sdp: &Sdp<'_>) -> Self {
        self.0.reserve(sdp.0.len() + 64);
        self.key(key);
        push_description(&mut self.0, kind, sdp);
        self
    }

    fn key(&mut self, key: &str) {
        self.0.push_str(",\"");
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn push_number(out: &mut String, number: u64) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{number}");
}

fn push_description(out: &mut String, kind: &str, sdp: &Sdp<'_>) {
    out.push_str("{\"type\":\"");
    out.push_str(kind);
    out.push_str("\",\"sdp\":");
    out.push_str(&sdp.0);
    out.push('}');
}

impl Request<'_> {
    /// The message. Numbers of bytes that JavaScript cannot count to come out as they are.
    pub fn encode(&self) -> String {
        match self {
            Self::Announce(announce) => {
                let mut offers = String::from("[");
                for Offer { offer_id: OfferId(id), sdp } in &announce.offers {
                    if offers.len() > 1 {
                        offers.push(',');
                    }
                    offers.push_str("{\"offer_id\":");
                    push_string(&mut offers, id.iter().copied().map(char::from));
                    offers.push_str(",\"offer\":");
                    push_description(&mut offers, "offer", sdp);
                    offers.push('}');
                }
                offers.push(']');
                let mut out = Object::new("announce")
                    .bytes("info_hash", announce.info_hash.as_bytes())
                    .bytes("peer_id", announce.peer_id.as_bytes())
                    .number("uploaded", announce.uploaded)
                    .number("downloaded", announce.downloaded);
                out = match announce.left {
                    Some(left) => out.number("left", left),
                    None => out.raw("left", "null"),
                };
                let event = match announce.event {
                    AnnounceEvent::None => None,
                    AnnounceEvent::Started => Some("started"),
                    AnnounceEvent::Stopped => Some("stopped"),
                    AnnounceEvent::Completed => Some("completed"),
                };
                if let Some(event) = event {
                    out = out.text("event", event);
                }
                if let Some(count) = announce.num_want {
                    out = out.number("numwant", u64::from(count));
                }
                out.raw("offers", &offers).finish()
            }
            Self::Answer(Answer { info_hash, peer_id, to_peer_id, offer_id: OfferId(offer_id), sdp }) => {
                Object::new("announce")
                    .bytes("info_hash", info_hash.as_bytes())
                    .bytes("peer_id", peer_id.as_bytes())
                    .bytes("to_peer_id", to_peer_id.as_bytes())
                    .bytes("offer_id", offer_id)
                    .description("answer", "answer", sdp)
                    .finish()
            }
            Self::Scrape(hashes) => {
                let mut list = String::from("[");
                for hash in hashes {
                    if list.len() > 1 {
                        list.push(',');
                    }
                    push_string(&mut list, hash.as_bytes().iter().copied().map(char::from));
                }
                list.push(']');
                Object::new("scrape").raw("info_hash", &list).finish()
            }
        }
    }
}

impl Response<'_> {
    /// The message.
    pub fn encode(&self) -> String {
        match self {
            Self::Announce { info_hash, interval_s, complete, incomplete } => Object::new("announce")
                .bytes("info_hash", info_hash.as_bytes())
                .number("interval", u64::from(*interval_s))
                .number("complete", u64::from(*complete))
                .number("incomplete", u64::from(*incomplete))
                .finish(),
            Self::Offer { info_hash, peer_id, offer } => Object::new("announce")
                .bytes("info_hash", info_hash.as_bytes())
                .bytes("peer_id", peer_id.as_bytes())
                .bytes("offer_id", &offer.offer_id.0)
                .description("offer", "offer", &offer.sdp)
                .finish(),
            Self::Answer { info_hash, peer_id, offer_id: OfferId(offer_id), sdp } => Object::new("announce")
                .bytes("info_hash", info_hash.as_bytes())
                .bytes("peer_id", peer_id.as_bytes())
                .bytes("offer_id", offer_id)
                .description("answer", "answer", sdp)
                .finish(),
            Self::Scrape(entries) => {
                let mut files = String::from("{");
                for (hash, entry) in entries {
                    if files.len() > 1 {
                        files.push(',');
                    }
                    push_string(&mut files, hash.as_bytes().iter().copied().map(char::from));
                    for (text, number) in [
                        (":{\"complete\":", entry.complete),
                        (",\"incomplete\":", entry.incomplete),
                        (",\"downloaded\":", entry.downloaded),
                    ] {
                        files.push_str(text);
                        push_number(&mut files, u64::from(number));
                    }
                    files.push('}');
                }
                files.push('}');
                Object::new("scrape").raw("files", &files).finish()
            }
            Self::Failure { info_hash, reason } => {
                let out = Object::new("announce");
                let out = match info_hash {
                    Some(hash) => out.bytes("info_hash", hash.as_bytes()),
                    None => out,
                };
                out.text("failure reason", reason).finish()
            }
        }
    }
}

#[derive(Deserialize)]
struct Numbers<'a> {
    #[serde(borrow)]
    complete: Option<&'a RawValue>,
    #[serde(borrow)]
    incomplete: Option<&'a RawValue>,
    #[serde(borrow)]
    downloaded: Option<&'a RawValue>,
}

/// Reads the object of a scrape's answer; keys that are no hash are left out.
pub(super) fn read_files(json: &RawValue) -> Result<Vec<(InfoHash, ScrapeEntry)>, MessageError> {
    let missing = MessageError::Missing { key: "files", expected: "an object of numbers" };
    let files: BTreeMap<Cow<'_, str>, Numbers<'_>> = serde_json::from_str(json.get()).map_err(|_| missing)?;
    let count =
        |json: Option<&RawValue>| u32::try_from(json.and_then(number).unwrap_or(0)).unwrap_or(u32::MAX);
    let entry = |numbers: &Numbers<'_>| ScrapeEntry {
        complete: count(numbers.complete),
        downloaded: count(numbers.downloaded),
        incomplete: count(numbers.incomplete),
    };
    let read =
        files.iter().filter_map(|(hash, numbers)| Some((InfoHash::new(latin1(hash)?), entry(numbers))));
    Ok(read.take(MAX_SCRAPE_HASHES).collect())
}
