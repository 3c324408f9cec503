//! One flight: fetches a claim from its origin, through whatever goes wrong on the way, and writes what comes.
//!
//! What arrives while one batch is written makes up the next one, so that a slow origin's bytes are written, and given to
//! who waits for them, as they come, and a fast one's in few large writes. A flight holds two batches at most. It asks
//! again from where it is when an answer breaks off, stalls, or asks it to come later; that no reader notices. It ends
//! when nobody wants more of its claim.
//!
//! It says how fast its origin is, by which the board decides who waits for it: bytes for the time that it waited for
//! them. Waiting for its own disk or for its reader is none of the origin's slowness; counted as that, it would make
//! readers ask again for what is about to come.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::OptionFuture;
use futures_util::{StreamExt, stream};

use super::board::{Class, Leave, MOST_NEAR_BYTES, REST_BYTES};
use super::error::BlobError;
use super::lanes::{BATCH_BYTES, Lane};
use super::origin::{BlobBody, OriginError, OriginFault};
use super::state::{Origin, State};
use crate::budget::Room;
use crate::store::StoreError;
use crate::store::spans::{TransferError, write_all};

/// An origin that does not answer within this is asked again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer that brings nothing for so long is given up, and asked for again.
const STALL_TIMEOUT: Duration = Duration::from_secs(12);

/// A body that waits for its reader is held open for so long.
pub(super) const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Failures one after the other, without getting on in between, before the reads fail. With the pauses between them: half a
/// minute, less than the usual read time-out.
const MAX_FAILURES: u32 = 8;

/// As many for an origin that gives answers of something else.
const MAX_LIES: u32 = 3;

/// An answer that brought so much got on.
const PROGRESS_BYTES: u64 = 64 << 10;

/// The pause after the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What is about to arrive: within this time, and within bounds. A read of it waits rather than asks by itself.
const NEAR_TIME: Duration = Duration::from_millis(500);
const NEAR_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=MOST_NEAR_BYTES;

/// What was measured counts for so long: half of it goes then.
const PACE_TIME: Duration = Duration::from_secs(2);

/// Where nothing came for so long, before the first byte and after it, nothing is about to come: others need not wait.
const LATE_ANSWER: Duration = Duration::from_secs(2);
pub(super) const LATE_BYTES: Duration = Duration::from_secs(1);

/// A flight that has brought this much since it took its lane, or has had it for so long, lets others go first.
const TURN_BYTES: u64 = 8 << 20;
const TURN_TIME: Duration = Duration::from_secs(2);

/// How often one that waits for its reader looks whether somebody else waits for its lane.
const PAUSE_LOOK: Duration = Duration::from_millis(100);

/// How often it is looked whether the cache has room again.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// Times that a write to a full disk is tried, space being made before each further one.
const MAX_WRITES: u32 = 4;

/// Why a request is over.
enum Over {
    /// All of it is here.
    Complete,
    /// Nobody wants more.
    Unwanted,
    /// Others are to go first.
    Turn,
    Origin(OriginError),
    Here(BlobError),
}

/// Fetches a claim of a blob.
pub(super) async fn fly(state: Arc<State>, claim: u64) {
    let Some((origin, _)) = state.claimed(claim) else { return };
    let outcome = tokio::select! {
        biased;
        () = state.shared.cancel().cancelled() => Err(BlobError::Closed),
        outcome = fetch(&state, claim, &origin) => outcome,
    };
    match outcome {
        Ok(()) => state.land(claim),
        Err(error) => {
            tracing::debug!(id = %state.id, origin = origin.describe(), %error, "a fetch came to nothing");
            state.fail(claim, &origin, &error);
        }
    }
}

async fn fetch(state: &Arc<State>, claim: u64, origin: &Origin) -> Result<(), BlobError> {
    state.load().await?;
    let shared = &state.shared;
    let mut failures = 0;
    loop {
        let Some(class) = wait_for_room(state, claim).await? else { return Ok(()) };
        let Some(lane) = take_lane(state, claim, origin, class).await else { return Ok(()) };
        // Much may have happened meanwhile.
        let (range, leave) = state.leave(claim);
        if range.is_empty() || !matches!(leave, Leave::Until(_)) {
            return Ok(());
        }
        shared.counters.requests.add(1);
        let start = range.start;
        let over = request(state, claim, origin, range, &lane).await;
        drop(lane);
        let error = match over {
            Over::Complete | Over::Unwanted => return Ok(()),
            Over::Turn => continue,
            Over::Here(error) => return Err(error),
            Over::Origin(error) => error,
        };
        shared.counters.origin_errors.add(1);
        // What came of it and was not written is gone.
        let brought = state.leave_at(claim, start).0.start.saturating_sub(start);
        if brought >= PROGRESS_BYTES {
            failures = 0;
        }
        failures += 1;
        let most = match error.fault {
            OriginFault::Transient => MAX_FAILURES,
            OriginFault::Lying => MAX_LIES,
            OriginFault::Forbidden | OriginFault::Gone | OriginFault::Offline => 0,
        };
        let pause = error.retry_after.unwrap_or_else(|| pause_after(failures));
        if failures > most || pause > shared.read_timeout() {
            return Err(BlobError::Origin { from: origin.describe().into(), error });
        }
        tracing::debug!(id = %state.id, origin = origin.describe(), %error, ?pause, "a fetch is tried again");
        tokio::time::sleep(pause).await;
    }
}

/// Waits longer from failure to failure, and not as long as everybody else.
fn pause_after(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    pause.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Waits until the cache has room for what a claim fetches; how urgent it is then, or `None` once nobody wants it.
///
/// # Errors
/// [`BlobError::NoSpace`] when there was none for as long as a read may take, and no read waits for it.
async fn wait_for_room(state: &Arc<State>, claim: u64) -> Result<Option<Class>, BlobError> {
    let since = Instant::now();
    loop {
        let Some((_, class)) = state.claimed(claim) else { return Ok(None) };
        let least = match class {
            Class::Demand => Room::ReadsOnly,
            Class::Ahead | Class::Fill => Room::Demands,
        };
        if state.shared.budget().room() >= least {
            return Ok(Some(class));
        }
        if state.leave(claim).1 == Leave::End {
            return Ok(None);
        }
        if class != Class::Demand && since.elapsed() > state.shared.read_timeout() {
            return Err(BlobError::NoSpace);
        }
        tokio::time::sleep(ROOM_PAUSE).await;
    }
}

/// Waits for a lane, as a read does once a read waits for the claim. `None` once the claim is gone.
async fn take_lane(state: &Arc<State>, claim: u64, origin: &Origin, mut class: Class) -> Option<Lane> {
    let (lanes, site) = (&state.shared.lanes, origin.site());
    let mut lane = pin!(lanes.take(&site, class));
    loop {
        let mut moved = pin!(state.moved.notified());
        moved.as_mut().enable();
        let (_, now) = state.claimed(claim)?;
        if now != class {
            class = now;
            lane.set(lanes.take(&site, class));
        }
        tokio::select! {
            biased;
            lane = &mut lane => return Some(lane),
            () = &mut moved => {}
        }
    }
}

/// How fast bytes come that are waited for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: u64,
    waited: Duration,
}

impl Pace {
    pub(super) fn add(&mut self, bytes: u64, waited: Duration) {
        if self.waited >= PACE_TIME {
            (self.bytes, self.waited) = (self.bytes / 2, self.waited / 2);
        }
        (self.bytes, self.waited) = (self.bytes + bytes, self.waited + waited);
    }

    /// What comes within a moment.
    pub(super) fn near(&self) -> u64 {
        // The first bytes came while nobody waited.
        let rate = self.bytes as f64 / self.waited.as_secs_f64().max(0.002);
        ((rate * NEAR_TIME.as_secs_f64()) as u64).clamp(*NEAR_BYTES.start(), *NEAR_BYTES.end())
    }
}

/// Bytes that arrived and are to be written.
#[derive(Default)]
struct Batch {
    parts: Vec<Bytes>,
    bytes: u64,
}

impl Batch {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        self.parts.push(bytes);
    }

    /// Throws so many of its last bytes away, or all it has; returns how many that were.
    fn cut(&mut self, bytes: u64) -> u64 {
        let cut = bytes.min(self.bytes);
        let mut left = cut;
        self.bytes -= cut;
        while left > 0
            && let Some(mut last) = self.parts.pop()
        {
            let kept = (last.len() as u64).saturating_sub(left);
            left = left.saturating_sub(last.len() as u64);
            if kept > 0 {
                // Less than it had.
                last.truncate(kept as usize);
                self.parts.push(last);
            }
        }
        cut
    }
}

/// One request for what is missing of a claim.
async fn request(state: &Arc<State>, claim: u64, origin: &Origin, range: Range<u64>, lane: &Lane) -> Over {
    let since = Instant::now();
    state.asks(claim);
    let mut opening = pin!(tokio::time::timeout(OPEN_TIMEOUT, origin.open(range.clone())));
    let opened = match tokio::time::timeout(LATE_ANSWER, &mut opening).await {
        Ok(opened) => opened,
        Err(_late) => {
            state.is_late(claim);
            opening.await
        }
    };
    let body = match opened {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Over::Origin(error),
        Err(_) => return Over::Origin(OriginError::new(OriginFault::Transient, "it does not answer")),
    };
    let mut body = pin!(stream::unfold(body, |mut body: Box<dyn BlobBody>| async move {
        let next = body.next().await?;
        Some((next, body))
    }));
    let begin = range.start;
    let mut arrived = range.start;
    let mut batch = Batch::default();
    let mut writing = pin!(OptionFuture::from(None));
    let mut is_writing = false;
    let mut over = None;
    let mut last_arrival = tokio::time::Instant::now();
    let mut paused_since: Option<tokio::time::Instant> = None;
    let mut pace = Pace::default();
    let mut is_late = false;
    loop {
        let mut moved = pin!(state.moved.notified());
        moved.as_mut().enable();
        let (missing, leave) = state.leave_at(claim, arrived);
        // The claim was cut while they came, or has gone: they are another's to bring and to write.
        arrived -= batch.cut(arrived.saturating_sub(missing.end));
        if over.is_none() {
            over = match leave {
                _ if arrived >= missing.end => Some(Over::Complete),
                Leave::End => Some(Over::Unwanted),
                Leave::Pause if lane.is_wanted() => Some(Over::Unwanted),
                Leave::Until(_) => {
                    // What is on its way of a request that is nearly over would be sent in vain.
                    let is_long = arrived - begin >= TURN_BYTES && missing.end - arrived > REST_BYTES;
                    let has_had_its_turn = is_long || since.elapsed() >= TURN_TIME;
                    (has_had_its_turn && lane.is_wanted()).then_some(Over::Turn)
                }
                Leave::Pause => None,
            };
        }
        let may_go = matches!(leave, Leave::Until(until) if arrived < until);
        let may_read = over.is_none() && may_go && batch.bytes < BATCH_BYTES;
        let is_paused = over.is_none() && !may_go;
        paused_since =
            if is_paused { paused_since.or_else(|| Some(tokio::time::Instant::now())) } else { None };
        if !is_writing {
            if batch.bytes > 0 {
                let full = std::mem::take(&mut batch);
                let at = arrived - full.bytes;
                writing.set(OptionFuture::from(Some(write(state, claim, at, full))));
                is_writing = true;
            } else if let Some(over) = over {
                return over;
            }
        }
        let pause_ends = paused_since.unwrap_or(last_arrival) + PAUSE_TIMEOUT;
        let waits_since = may_read.then(Instant::now);
        tokio::select! {
            biased;
            Some(written) = &mut writing, if is_writing => {
                is_writing = false;
                pace.add(0, waits_since.map_or(Duration::ZERO, |since| since.elapsed()));
                match written {
                    Ok((part, range)) => state.stored(claim, &part, range, pace.near()),
                    Err(ended) => return ended,
                }
            }
            next = body.next(), if may_read => {
                is_late = false;
                match next {
                    Some(Ok(bytes)) => {
                        state.shared.counters.origin_bytes.add(bytes.len() as u64);
                        let room = usize::try_from(missing.end - arrived).unwrap_or(usize::MAX);
                        let bytes = bytes.slice(..bytes.len().min(room));
                        // All flights share it: one more may well be faster than this one.
                        state.shared.download_limit().take(bytes.len() as u64).await;
                        pace.add(bytes.len() as u64, waits_since.map_or(Duration::ZERO, |since| since.elapsed()));
                        arrived += bytes.len() as u64;
                        batch.push(bytes);
                    }
                    Some(Err(error)) => over = Some(Over::Origin(error)),
                    None => over = Some(Over::Origin(cut_short())),
                }
                last_arrival = tokio::time::Instant::now();
            }
            () = tokio::time::sleep_until(last_arrival + LATE_BYTES), if may_read && !is_late => {
                is_late = true;
                state.is_late(claim);
            }
            () = tokio::time::sleep_until(last_arrival + STALL_TIMEOUT), if may_read => {
                over = Some(Over::Origin(OriginError::new(OriginFault::Transient, "it stalls")));
            }
            // Somebody reads on, or the claim was cut.
            () = &mut moved, if is_paused && !is_writing => last_arrival = tokio::time::Instant::now(),
            () = tokio::time::sleep(PAUSE_LOOK), if is_paused && !is_writing => {
                if tokio::time::Instant::now() >= pause_ends {
                    over = Some(Over::Unwanted);
                }
            }
        }
    }
}

fn cut_short() -> OriginError {
    OriginError::new(OriginFault::Transient, "it broke off")
}

type Written = Result<(Arc<super::place::Part>, Range<u64>), Over>;

/// Writes a batch; on a full disk after others gave something up.
async fn write(state: &Arc<State>, claim: u64, at: u64, batch: Batch) -> Written {
    match wait_for_room(state, claim).await {
        Ok(Some(_)) => {}
        Ok(None) => return Err(Over::Unwanted),
        Err(error) => return Err(Over::Here(error)),
    }
    let part = match state.part().await {
        Ok(Some(part)) => part,
        // Whole by other ways.
        Ok(None) => return Err(Over::Unwanted),
        Err(error) => return Err(Over::Here(error)),
    };
    state.until_given_up(&(at..at + batch.bytes)).await;
    let parts: Arc<[Bytes]> = batch.parts.into();
    for _ in 0..MAX_WRITES {
        let (target, parts) = (part.clone(), parts.clone());
        let job = move || write_all(&target.file, parts.iter().map(|part| &part[..]), at);
        let error = match state.shared.disk().run(job).await {
            Ok(Ok(())) => return Ok((part, at..at + batch.bytes)),
            Ok(Err(TransferError::Errno(errno))) => StoreError::errno("write", &part.path)(errno),
            Ok(Err(TransferError::Short)) => StoreError::Vanished { path: part.path.clone() },
            Err(_lost) => return Err(Over::Here(BlobError::Closed)),
        };
        let is_full = matches!(error, StoreError::NoSpace { .. });
        if !is_full || state.shared.budget().relieve(BATCH_BYTES).await == 0 {
            return Err(Over::Here(error.into()));
        }
    }
    Err(Over::Here(BlobError::NoSpace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_follows_the_rate_within_bounds() {
        let near = |bytes, waited| Pace { bytes, waited }.near();
        assert_eq!(near(1 << 18, Duration::from_secs(1)), 256 << 10, "a slow one is not waited for long");
        assert_eq!(near(10 << 20, Duration::from_secs(1)), 5 << 20);
        assert_eq!(near(1 << 30, Duration::from_millis(1)), MOST_NEAR_BYTES);
        assert_eq!(near(0, Duration::ZERO), 256 << 10);
    }

    #[test]
    fn a_batch_is_cut_wherever_that_is() {
        for cut in [0, 1, 4, 5, 8, 9, 100] {
            let mut batch = Batch::default();
            b"abcd efg".chunks(4).for_each(|part| batch.push(Bytes::copy_from_slice(part)));
            batch.push(Bytes::from_static(b"h"));
            let gone = batch.cut(cut);
            assert_eq!((gone, batch.bytes), (cut.min(9), 9 - gone));
            assert_eq!(batch.parts.concat(), b"abcd efgh"[..batch.bytes as usize]);
        }
    }

    #[test]
    fn an_origin_that_became_slow_is_known_to_be_slow_soon() {
        let mut pace = Pace::default();
        pace.add(100 << 20, Duration::from_secs(1));
        for _ in 0..20 {
            pace.add(1 << 20, Duration::from_secs(1));
        }
        assert!(pace.near() < 1 << 20, "{pace:?}");
    }

    #[test]
    fn pauses_grow_and_end() {
        for (failures, least, most) in [(1, 150, 250), (2, 300, 500), (5, 2400, 4000), (99, 6000, 10_000)] {
            let pause = pause_after(failures).as_millis();
            assert!((least..=most).contains(&pause), "{failures}: {pause}");
        }
    }
}
