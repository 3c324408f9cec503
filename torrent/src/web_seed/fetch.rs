//! Fetching one run: GET after GET, the bodies streamed into blocks as they come.
//!
//! A body that breaks off is gone on with where it stopped, as long as it moves at all. Never holds more of a body than
//! one block and what the HTTP library read at once; the events' queue holds it back beyond that.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, RANGE};
use url::Url;
use wtfs_proto::geometry::BLOCK_BYTES;

use super::Seed;
use super::answer::{Asked, Fault, judge, wait};
use super::run::{Cutter, Part, Run};
use crate::http::{Connections, Family, HttpError, host_of};
use crate::peer_task::{Block, PeerEvent};

/// A seed that has not begun to answer after this long is of no use to a reader now.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A body of which nothing comes for this long is given up: TCP has sent again several times by then.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that broke off later than this is gone on with at once; one that did not counts as a failure.
const LEAST_PROGRESS: u64 = 16 * 1024;

/// The body of a BEP 17 seed that is busy: a number of seconds.
const MAX_BUSY_BODY: usize = 64;

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// All that was wanted of it was handed on.
    Done,
    /// Nobody wants it any more.
    Cancelled,
    /// The seed is at fault.
    Failed(Fault),
}

/// Fetches a run and hands its blocks to the torrent's task.
///
/// # Cancel safety
/// Dropping it ends the request; what was handed on is counted in the run.
pub(super) async fn fetch(seed: Arc<Seed>, run: Arc<Run>) -> End {
    let geometry = seed.content.geometry();
    let lane = Lane { cutter: Cutter::new(&run.blocks, geometry), seed: &seed, run: &run };
    tokio::select! {
        biased;
        () = run.cancel.cancelled() => End::Cancelled,
        end = lane.fetch() => end,
    }
}

/// One run under way.
struct Lane<'a> {
    seed: &'a Seed,
    run: &'a Run,
    cutter: Cutter,
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    More,
    Enough,
}

impl Lane<'_> {
    async fn fetch(mut self) -> End {
        for part in &self.run.parts {
            match self.part(*part).await {
                Ok(Flow::More) => {}
                Ok(Flow::Enough) => return End::Done,
                Err(fault) => return End::Failed(fault),
            }
        }
        End::Done
    }

    async fn part(&mut self, part: Part) -> Result<Flow, Fault> {
        let mut done = 0;
        while done < part.bytes() {
            let before = done;
            let flow = match part {
                Part::Zeros { bytes } => self.zeros(bytes, &mut done).await,
                Part::File { .. } | Part::Piece { .. } => self.attempt(part, &mut done).await,
            };
            match flow {
                Ok(Flow::Enough) => return Ok(Flow::Enough),
                Ok(Flow::More) if done == part.bytes() => {}
                Ok(Flow::More) if done - before >= LEAST_PROGRESS => {}
                Ok(Flow::More) => return Err(Fault::broken("sends less than it says")),
                // It moved: what is missing is asked for anew.
                Err(Fault::Broken { reason }) if done - before >= LEAST_PROGRESS => {
                    tracing::debug!(
                        seed = self.seed.shown,
                        reason,
                        "a body broke off; going on where it stopped"
                    );
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(Flow::More)
    }

    /// Padding: known without asking.
    async fn zeros(&mut self, bytes: u64, done: &mut u64) -> Result<Flow, Fault> {
        static ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
        while *done < bytes {
            let step = usize::try_from(bytes - *done).unwrap_or(usize::MAX).min(ZEROS.len());
            *done += step as u64;
            if self.take(Bytes::from_static(&ZEROS[..step])).await == Flow::Enough {
                return Ok(Flow::Enough);
            }
        }
        Ok(Flow::More)
    }

    /// One GET for what is left of a part.
    async fn attempt(&mut self, part: Part, done: &mut u64) -> Result<Flow, Fault> {
        // Never closed; an error cannot happen.
        let _permit = self.seed.engine.web_requests.acquire().await;
        let (asked, mut response) = self.ask(part, *done).await?;
        let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let body = match judge(asked, response.status(), response.headers(), unix_now) {
            Err(Fault::Busy { after: None, reason }) => {
                return Err(Fault::Busy { after: busy_body(response, unix_now).await, reason });
            }
            judged => judged?,
        };
        self.run.handle_moved(self.seed.now_ms());
        let mut skip = body.skip;
        let left = |done: u64| part.bytes() - done;
        while left(*done) > 0 {
            let mut chunk = match tokio::time::timeout(STALL_TIMEOUT, response.chunk()).await {
                Err(_) => {
                    return Err(Fault::broken(format!("sent nothing for {} s", STALL_TIMEOUT.as_secs())));
                }
                Ok(Err(error)) => {
                    let host = host_of(response.url());
                    return Err(fault_of(self.seed.engine.http.classify(&host, &error)));
                }
                Ok(Ok(None)) => return Ok(Flow::More),
                Ok(Ok(Some(chunk))) => chunk,
            };
            self.run.handle_moved(self.seed.now_ms());
            self.seed.engine.download_limit.take(chunk.len() as u64).await;
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= passed as u64;
            let mut chunk = chunk.split_off(passed);
            chunk.truncate(usize::try_from(left(*done)).unwrap_or(usize::MAX));
            *done += chunk.len() as u64;
            if self.take(chunk).await == Flow::Enough {
                return Ok(Flow::Enough);
            }
        }
        // Lets the library see the end, so that the connection can be used again; a body that goes on is dropped.
        let _end = tokio::time::timeout(Duration::from_millis(1), response.chunk()).await;
        Ok(Flow::More)
    }

    /// Sends the request; returns with the head of the answer.
    async fn ask(&self, part: Part, done: u64) -> Result<(Asked, Response), Fault> {
        let no_url = || Fault::useless("has no valid URL for a file of this torrent");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let (url, asked) = match part {
            Part::File { file, offset, bytes } => {
                let info = &self.seed.content.metainfo.info;
                let (start, bytes) = (offset + done, bytes - done);
                let range = format!("bytes={start}-{}", start + bytes - 1);
                headers.insert(RANGE, HeaderValue::try_from(range).map_err(|_| no_url())?);
                let file_bytes = self.seed.content.geometry().file_len(file);
                let url = self.seed.address.file(info, file).ok_or_else(no_url)?;
                (url, Asked::File { file, start, bytes, file_bytes })
            }
            Part::Piece { piece, begin, bytes } => {
                let end = begin + u32::try_from(bytes).unwrap_or(u32::MAX - begin);
                let begin = begin + u32::try_from(done).unwrap_or(u32::MAX);
                let url =
                    self.seed.address.piece(self.seed.info_hash, piece, begin..end).ok_or_else(no_url)?;
                (url, Asked::Piece { bytes: bytes - done })
            }
            // Nobody is asked for padding.
            Part::Zeros { .. } => return Err(no_url()),
        };
        let remembered = self.seed.moved_to(&url);
        let asked_of = remembered.clone().unwrap_or_else(|| url.clone());
        let kind = (Family::Any, Connections::Kept);
        let getting = self.seed.engine.http.get(asked_of, kind, &headers, &self.seed.named);
        let landed = match tokio::time::timeout(ANSWER_TIMEOUT, getting).await {
            Err(_) => return Err(Fault::broken(format!("did not answer in {} s", ANSWER_TIMEOUT.as_secs()))),
            Ok(Err(error)) => {
                self.seed.forget_move(&url);
                return Err(fault_of(error));
            }
            Ok(Ok(landed)) => landed,
        };
        if remembered.is_some() && !landed.response.status().is_success() {
            // It was for good, and is not: the seed is asked again where it stands.
            self.seed.forget_move(&url);
            return Err(Fault::broken(format!("answered with HTTP status {}", landed.response.status())));
        }
        if remembered.is_none() && landed.is_for_good && landed.url != url {
            self.seed.remember_move(&url, landed.url);
        }
        Ok((asked, landed.response))
    }

    /// Hands on what has become whole.
    async fn take(&mut self, bytes: Bytes) -> Flow {
        let whole = self.cutter.push(bytes);
        if whole.is_empty() {
            return Flow::More;
        }
        let keys = self.run.left().iter();
        let blocks = keys.zip(whole).map(|(key, data)| Block {
            piece: key.piece.get(),
            begin: key.block * BLOCK_BYTES,
            data,
        });
        let blocks: Vec<Block> = blocks.collect();
        let count = blocks.len();
        // Counted first: whoever takes them may cancel the rest at once. Fails only when the torrent is gone.
        self.run.handle_delivered(count);
        let _gone = self.seed.events.send((self.seed.source, PeerEvent::Blocks(blocks))).await;
        if self.run.is_enough() { Flow::Enough } else { Flow::More }
    }
}

/// What a BEP 17 seed that is busy says in its body.
async fn busy_body(response: Response, unix_now: u64) -> Option<Duration> {
    let body = tokio::time::timeout(STALL_TIMEOUT, crate::http::read_limited(response, MAX_BUSY_BODY)).await;
    let body = body.ok()?.ok()?;
    wait(std::str::from_utf8(&body).ok()?.trim(), unix_now)
}

fn fault_of(error: HttpError) -> Fault {
    match error {
        HttpError::OutOfReach { .. }
        | HttpError::InvalidUrl(_)
        | HttpError::RedirectLoop { .. }
        | HttpError::TooManyRedirects { .. } => Fault::useless(error.to_string()),
        error => Fault::broken(error.to_string()),
    }
}

impl Seed {
    /// Where a URL has moved for good.
    fn moved_to(&self, url: &Url) -> Option<Url> {
        self.moves().get(url).cloned()
    }

    fn remember_move(&self, from: &Url, to: Url) {
        let mut moves = self.moves();
        if moves.len() >= super::MAX_MOVES {
            moves.clear();
        }
        moves.insert(from.clone(), to);
    }

    fn forget_move(&self, from: &Url) {
        self.moves().remove(from);
    }
}
