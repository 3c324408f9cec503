//! Announces, offers and answers as JSON over a web socket: what WebTorrent clients and their trackers say to each
//! other, both directions.
//!
//! No BEP describes it; the form is that of the `bittorrent-tracker` package. Ids and hashes are strings of 20
//! characters, each of which stands for the byte of its number (Latin-1). A peer sends offers with its announce, the
//! tracker hands each to another peer, and the answer comes back by the peer id and the offer's id. There are no
//! addresses in it: those are in the session descriptions, which nobody here looks into.
//!
//! Owns the texts of messages, not the frames. A session description is kept as the JSON string it came as, so that a
//! tracker passes it on without unescaping and escaping it.
//!
//! Invariant: unknown keys are ignored, and nothing read is longer than the message it came in; limits on counts and
//! lengths hold for both directions.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{AnnounceEvent, MAX_TEXT_BYTES, ScrapeEntry};
use crate::id::{InfoHash, PeerId};

mod encode;

/// Most offers that are read from one announce. Clients send 5 to 10.
pub const MAX_OFFERS: usize = 32;

/// Longest session description, in bytes of JSON. Those of data channels have one to three thousand.
pub const MAX_SDP_BYTES: usize = 16 * 1024;

/// Most torrents of one scrape.
pub const MAX_SCRAPE_HASHES: usize = 256;

/// The number by which an answer finds its offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId(pub [u8; 20]);

/// A session description (RFC 8866): a JSON string, with its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sdp<'a>(Cow<'a, str>);

impl<'a> Sdp<'a> {
    /// Wraps a description.
    pub fn new(text: &str) -> Self {
        let mut json = String::with_capacity(text.len() + text.len() / 8 + 2);
        encode::push_string(&mut json, text.chars());
        Self(Cow::Owned(json))
    }

    /// The description itself.
    pub fn text(&self) -> String {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The same without what it borrows.
    pub fn into_owned(self) -> Sdp<'static> {
        Sdp(Cow::Owned(self.0.into_owned()))
    }

    fn read(json: &'a RawValue) -> Option<Self> {
        let json = json.get();
        (json.starts_with('"') && json.len() <= MAX_SDP_BYTES).then_some(Self(Cow::Borrowed(json)))
    }
}

/// An offer that waits for somebody to answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Of the offering peer's choice.
    pub offer_id: OfferId,
    /// What it offers.
    pub sdp: Sdp<'a>,
}

/// An announce, with offers for other peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce<'a> {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The client.
    pub peer_id: PeerId,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes fetched.
    pub downloaded: u64,
    /// Bytes missing; `None` when not known.
    pub left: Option<u64>,
    /// Why now.
    pub event: AnnounceEvent,
    /// How many peers are wanted. No more than there are offers can be had.
    pub num_want: Option<u32>,
    /// One for each peer that is to be met.
    pub offers: Vec<Offer<'a>>,
}

/// An answer to an offer, on its way to who offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Who answers.
    pub peer_id: PeerId,
    /// Who offered.
    pub to_peer_id: PeerId,
    /// Which offer.
    pub offer_id: OfferId,
    /// The answer.
    pub sdp: Sdp<'a>,
}

/// What a tracker receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Announces to a swarm.
    Announce(Announce<'a>),
    /// Answers an offer.
    Answer(Answer<'a>),
    /// Asks for the numbers of torrents.
    Scrape(Vec<InfoHash>),
}

/// What a client receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// To an announce.
    Announce {
        /// The torrent.
        info_hash: InfoHash,
        /// Seconds until the next announce.
        interval_s: u32,
        /// Peers that have everything.
        complete: u32,
        /// Peers that lack something.
        incomplete: u32,
    },
    /// Another peer's offer.
    Offer {
        /// The torrent.
        info_hash: InfoHash,
        /// Who offers.
        peer_id: PeerId,
        /// The offer.
        offer: Offer<'a>,
    },
    /// Another peer's answer to an offer of the client.
    Answer {
        /// The torrent.
        info_hash: InfoHash,
        /// Who answers.
        peer_id: PeerId,
        /// Which offer.
        offer_id: OfferId,
        /// The answer.
        sdp: Sdp<'a>,
    },
    /// To a scrape.
    Scrape(Vec<(InfoHash, ScrapeEntry)>),
    /// A refusal.
    Failure {
        /// What it is about, if the tracker says so.
        info_hash: Option<InfoHash>,
        /// In the tracker's words.
        reason: String,
    },
}

/// Why a message means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// No JSON, or not an object of these keys.
    #[error("no message of this protocol: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// A key without which the message means nothing.
    #[error("the message has no {key} that is {expected}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What should be there.
        expected: &'static str,
    },
}

/// All keys of both directions, each as it came: clients differ in what they send numbers as.
#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    info_hash: Option<&'a RawValue>,
    #[serde(borrow)]
    peer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    to_peer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    uploaded: Option<&'a RawValue>,
    #[serde(borrow)]
    downloaded: Option<&'a RawValue>,
    #[serde(borrow)]
    left: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    numwant: Option<&'a RawValue>,
    #[serde(borrow)]
    offers: Option<&'a RawValue>,
    #[serde(borrow)]
    offer: Option<&'a RawValue>,
    #[serde(borrow)]
    answer: Option<&'a RawValue>,
    #[serde(borrow)]
    interval: Option<&'a RawValue>,
    #[serde(borrow)]
    complete: Option<&'a RawValue>,
    #[serde(borrow)]
    incomplete: Option<&'a RawValue>,
    #[serde(borrow)]
    files: Option<&'a RawValue>,
    #[serde(borrow, rename = "failure reason")]
    failure: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OfferKeys<'a> {
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    offer: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Description<'a> {
    #[serde(borrow)]
    sdp: Option<&'a RawValue>,
}

const TWENTY: &str = "20 characters below U+0100";

impl<'a> Request<'a> {
    /// Reads a client's message. An announce that holds an answer is one, whatever else it says; offers that cannot be
    /// read, and those past [`MAX_OFFERS`], are left out.
    ///
    /// # Errors
    /// Says what is wrong, for the client to be told.
    pub fn decode(text: &'a str) -> Result<Self, MessageError> {
        let keys: Keys<'a> = parse(text)?;
        match keys.action.and_then(string).as_deref() {
            Some("announce") => (),
            Some("scrape") => return Ok(Self::Scrape(scraped(keys.info_hash)?)),
            _ => return Err(MessageError::Missing { key: "action", expected: "announce or scrape" }),
        }
        let info_hash = InfoHash::new(twenty(keys.info_hash, "info_hash")?);
        let peer_id = PeerId::new(twenty(keys.peer_id, "peer_id")?);
        if let Some(answer) = keys.answer {
            return Ok(Self::Answer(Answer {
                info_hash,
                peer_id,
                to_peer_id: PeerId::new(twenty(keys.to_peer_id, "to_peer_id")?),
                offer_id: OfferId(twenty(keys.offer_id, "offer_id")?),
                sdp: description(answer).ok_or(NO_ANSWER)?,
            }));
        }
        let event = match keys.event.and_then(string).as_deref() {
            Some("started") => AnnounceEvent::Started,
            Some("stopped") => AnnounceEvent::Stopped,
            Some("completed") => AnnounceEvent::Completed,
            _ => AnnounceEvent::None,
        };
        let number = |key: Option<&RawValue>| key.and_then(number);
        Ok(Self::Announce(Announce {
            info_hash,
            peer_id,
            uploaded: number(keys.uploaded).unwrap_or(0),
            downloaded: number(keys.downloaded).unwrap_or(0),
            left: number(keys.left),
            event,
            num_want: number(keys.numwant).map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            offers: keys.offers.map(offers).unwrap_or_default(),
        }))
    }
}

impl<'a> Response<'a> {
    /// Reads a tracker's message.
    ///
    /// # Errors
    /// When it is no message, or has none of the forms that mean something to a client.
    pub fn decode(text: &'a str) -> Result<Self, MessageError> {
        let keys: Keys<'a> = parse(text)?;
        if let Some(reason) = keys.failure {
            let reason = string(reason).map(|reason| super::shown(reason.as_bytes())).unwrap_or_default();
            let info_hash = twenty(keys.info_hash, "info_hash").ok().map(InfoHash::new);
            return Ok(Self::Failure { info_hash, reason });
        }
        if let Some(files) = keys.files {
            return Ok(Self::Scrape(encode::read_files(files)?));
        }
        let info_hash = InfoHash::new(twenty(keys.info_hash, "info_hash")?);
        let peer = || Ok::<_, MessageError>(PeerId::new(twenty(keys.peer_id, "peer_id")?));
        let offer_id = || Ok::<_, MessageError>(OfferId(twenty(keys.offer_id, "offer_id")?));
        let count = |key: Option<&RawValue>| {
            key.and_then(number).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
        };
        if let Some(offer) = keys.offer {
            let missing = MessageError::Missing { key: "offer", expected: "a session description" };
            let sdp = description(offer).ok_or(missing)?;
            let offer = Offer { offer_id: offer_id()?, sdp };
            return Ok(Self::Offer { info_hash, peer_id: peer()?, offer });
        }
        if let Some(answer) = keys.answer {
            let sdp = description(answer).ok_or(NO_ANSWER)?;
            return Ok(Self::Answer { info_hash, peer_id: peer()?, offer_id: offer_id()?, sdp });
        }
        let interval_s = count(keys.interval)
            .ok_or(MessageError::Missing { key: "interval", expected: "a number of seconds" })?;
        let (complete, incomplete) = (count(keys.complete), count(keys.incomplete));
        Ok(Self::Announce {
            info_hash,
            interval_s,
            complete: complete.unwrap_or(0),
            incomplete: incomplete.unwrap_or(0),
        })
    }
}

const NO_ANSWER: MessageError = MessageError::Missing { key: "answer", expected: "a session description" };

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, MessageError> {
    serde_json::from_str(text).map_err(|error| {
        let mut reason = error.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_TEXT_BYTES));
        MessageError::Json { reason }
    })
}

fn string(json: &RawValue) -> Option<Cow<'_, str>> {
    let json = json.get();
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        // Without a backslash what stands between the quotes is the text.
        Some(inner) if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(json).ok().map(Cow::Owned),
        None => None,
    }
}

/// A number that is no less than zero. What has a fraction or is too large is cut; anything else says nothing, as
/// `null` does, which is what JavaScript makes of infinity.
fn number(json: &RawValue) -> Option<u64> {
    let text = json.get();
    let whole = text.parse::<u64>().ok();
    // `as` saturates, and the filter leaves no NaN.
    whole.or_else(|| text.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number as u64))
}

fn twenty(json: Option<&RawValue>, key: &'static str) -> Result<[u8; 20], MessageError> {
    let bytes = json.and_then(string).and_then(|text| latin1(&text));
    bytes.ok_or(MessageError::Missing { key, expected: TWENTY })
}

fn latin1(text: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    let mut chars = text.chars();
    for byte in &mut bytes {
        *byte = u8::try_from(u32::from(chars.next()?)).ok()?;
    }
    chars.next().is_none().then_some(bytes)
}

fn description(json: &RawValue) -> Option<Sdp<'_>> {
    let Description { sdp } = serde_json::from_str(json.get()).ok()?;
    Sdp::read(sdp?)
}

fn offers(json: &RawValue) -> Vec<Offer<'_>> {
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(json.get()) else { return Vec::new() };
    list.into_iter().filter_map(read_offer).take(MAX_OFFERS).collect()
}

fn read_offer(json: &RawValue) -> Option<Offer<'_>> {
    let keys: OfferKeys<'_> = serde_json::from_str(json.get()).ok()?;
    let offer_id = OfferId(twenty(keys.offer_id, "offer_id").ok()?);
    Some(Offer { offer_id, sdp: description(keys.offer?)? })
}

/// One hash or a list of them; the first [`MAX_SCRAPE_HASHES`].
fn scraped(json: Option<&RawValue>) -> Result<Vec<InfoHash>, MessageError> {
    let list = json.and_then(|json| serde_json::from_str::<Vec<&RawValue>>(json.get()).ok());
    match list {
        Some(list) => {
            let hash = |json| twenty(Some(json), "info_hash").map(InfoHash::new);
            list.into_iter().take(MAX_SCRAPE_HASHES).map(hash).collect()
        }
        None if json.is_none() => Ok(Vec::new()),
        None => Ok(vec![InfoHash::new(twenty(json, "info_hash")?)]),
    }
}

#[cfg(test)]
mod tests;
