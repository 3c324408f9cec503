//! A body as it flows: made as it is sent, counted, and cut short, slowed, stalled or changed where a fault says so.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};

use super::{
    answer::Reply,
    content::Content,
    fault::{Fault, FaultKind},
    lock,
    serve::Doom,
};

/// How many bytes are made and sent at a time.
const STEP: u64 = 64 << 10;
/// How long what was written before a cut has to reach the connection.
const LINGER: Duration = Duration::from_millis(30);
/// How often a body that is held back looks whether it may go on.
const HOLD_LOOK: Duration = Duration::from_millis(10);

/// How a body ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Close,
    Stall,
    Reset,
}

/// Bytes `at..end` of some content on their way.
pub(super) struct Flow {
    content: Content,
    at: u64,
    end: u64,
    sent: Arc<AtomicU64>,
    doom: Doom,
    corrupt: Vec<u64>,
    rate: Option<u64>,
    /// When the next piece of a slow body may go.
    due: Instant,
    cut: Option<(u64, Ending)>,
    hold: Option<Hold>,
    sleep: Option<Pin<Box<Sleep>>>,
    is_lingering: bool,
}

/// Where a body waits, and for whose going.
struct Hold {
    at: u64,
    faults: Arc<Mutex<Vec<Fault>>>,
}

impl Hold {
    fn is_over(&self) -> bool {
        let is_it = |fault: &Fault| *fault.kind() == FaultKind::Hold { at: self.at };
        !lock(&self.faults).iter().any(is_it)
    }
}

impl Flow {
    pub(super) fn of(reply: &Reply, sent: Arc<AtomicU64>, doom: Doom) -> Self {
        let (at, end) = reply.span;
        Self {
            content: reply.content.clone(),
            at,
            end,
            sent,
            doom,
            corrupt: Vec::new(),
            rate: None,
            due: Instant::now(),
            cut: None,
            hold: None,
            sleep: None,
            is_lingering: false,
        }
    }

    /// Takes on those faults that a body shows; `all` is the list that they are of.
    pub(super) fn meet(&mut self, faults: &[FaultKind], all: &Arc<Mutex<Vec<Fault>>>) {
        let start = self.at;
        for fault in faults {
            match fault {
                FaultKind::Corrupt { at } => self.corrupt.push(*at),
                FaultKind::Hold { at } => self.hold = Some(Hold { at: *at, faults: Arc::clone(all) }),
                FaultKind::Slow { rate } => self.rate = Some((*rate).max(1)),
                FaultKind::Truncate { after } => self.cut = Some((start + after, Ending::Close)),
                FaultKind::Stall { after } => self.cut = Some((start + after, Ending::Stall)),
                FaultKind::Reset { after: Some(after) } => self.cut = Some((start + after, Ending::Reset)),
                _ => {}
            }
        }
    }

    fn wait_until(&mut self, due: Instant) {
        self.sleep = Some(Box::pin(tokio::time::sleep_until(due)));
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            let cut = this.cut.filter(|(cut, _)| *cut < this.end);
            if let Some((_, ending)) = cut.filter(|(cut, _)| this.at >= *cut) {
                if ending == Ending::Stall {
                    return Poll::Pending;
                }
                if !this.is_lingering {
                    this.is_lingering = true;
                    this.wait_until(Instant::now() + LINGER);
                    continue;
                }
                if ending == Ending::Reset {
                    this.doom.seal();
                }
                return Poll::Ready(Some(Err(io::Error::other("cut short on purpose"))));
            }
            if this.at >= this.end {
                return Poll::Ready(None);
            }
            if this.hold.as_ref().is_some_and(Hold::is_over) {
                this.hold = None;
            }
            let mut end = cut.map_or(this.end, |(cut, _)| cut);
            if let Some(hold) = &this.hold {
                if this.at >= hold.at {
                    this.wait_until(Instant::now() + HOLD_LOOK);
                    continue;
                }
                end = end.min(hold.at);
            }
            // A slow body comes in twenty pieces a second.
            let step = this.rate.map_or(STEP, |rate| (rate / 20).clamp(1, STEP));
            let take = step.min(end - this.at);
            let mut bytes = this.content.read(this.at, usize::try_from(take).expect("a step is small"));
            for at in &this.corrupt {
                if let Some(byte) =
                    at.checked_sub(this.at).and_then(|i| bytes.get_mut(usize::try_from(i).ok()?))
                {
                    *byte ^= 1;
                }
            }
            this.at += take;
            this.sent.fetch_add(take, Ordering::Relaxed);
            if let Some(rate) = this.rate {
                // Of what a reader did not take in time a little may be caught up.
                let earliest = Instant::now().checked_sub(LINGER).unwrap_or(this.due);
                this.due = this.due.max(earliest) + Duration::from_secs_f64(take as f64 / rate as f64);
                this.wait_until(this.due);
            }
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes)))));
        }
    }
}
