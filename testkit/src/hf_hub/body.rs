//! A body as it flows: made as it is sent, counted, and cut short, slowed, stalled or changed where a fault says so.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};

use super::{content::Content, fault::FaultKind, serve::Doom};

/// How many bytes are made and sent at a time.
const STEP: u64 = 64 << 10;
/// How long what was written before a cut has to reach the connection.
const LINGER: Duration = Duration::from_millis(30);

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
    sleep: Option<Pin<Box<Sleep>>>,
    is_lingering: bool,
}

impl Flow {
    pub(super) fn new(content: Content, at: u64, end: u64, sent: Arc<AtomicU64>, doom: Doom) -> Self {
        Self {
            content,
            at,
            end,
            sent,
            doom,
            corrupt: Vec::new(),
            rate: None,
            due: Instant::now(),
            cut: None,
            sleep: None,
            is_lingering: false,
        }
    }

    /// Takes on those faults that a body shows.
    pub(super) fn meet(&mut self, faults: &[FaultKind]) {
        let start = self.at;
        for fault in faults {
            match fault {
                FaultKind::Corrupt { at } => self.corrupt.push(*at),
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
            let end = cut.map_or(this.end, |(cut, _)| cut);
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
