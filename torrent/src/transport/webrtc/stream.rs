//! The two halves of a connection: byte streams over the channel's messages, whose boundaries mean nothing.
//!
//! Not reading leaves messages with the library, whose window then closes: the peer stops. Dropping both halves, or the
//! writing one, closes the connection once what was written has gone out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use webrtc::data_channel::{DataChannel, DataChannelEvent};

use super::EndReason;
use super::outbox::Outbox;
use super::runtime::Watch;

/// Events looked at in one turn: a peer that sends empty messages must not hold up others.
const EVENTS_A_TURN: usize = 64;

/// How a connection ended, known to all of its parts. The first reason stays.
#[derive(Debug, Default)]
pub(super) struct End {
    reason: OnceLock<EndReason>,
    token: CancellationToken,
    /// Cancelled once the peer's side is down too.
    gone: CancellationToken,
    /// Cancelled once nobody will read any more.
    read: CancellationToken,
    /// Messages that were read.
    taken: AtomicU64,
}

impl End {
    pub(super) fn set(&self, reason: EndReason) {
        if self.reason.set(reason).is_ok() {
            tracing::debug!(%reason, "data channel ended");
        }
        self.token.cancel();
    }

    pub(super) fn reason(&self) -> Option<EndReason> {
        self.reason.get().copied()
    }

    /// Waits for it.
    pub(super) async fn wait(&self) -> EndReason {
        self.token.cancelled().await;
        self.reason().unwrap_or(EndReason::Broken)
    }

    /// The library says that there is no connection any more.
    pub(super) fn set_gone(&self) {
        self.gone.cancel();
    }

    /// Waits for that.
    pub(super) async fn is_gone(&self) {
        self.gone.cancelled().await;
    }

    /// Waits until all was read, or the reader dropped, or nothing was read for `stalled`.
    pub(super) async fn is_read(&self, stalled: Duration) {
        loop {
            let before = self.taken.load(Ordering::Relaxed);
            let read = tokio::time::timeout(stalled, self.read.cancelled()).await;
            if read.is_ok() || self.taken.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    fn to_io(&self) -> io::Result<()> {
        match self.reason() {
            None | Some(EndReason::Closed | EndReason::Local) => Ok(()),
            Some(reason) => Err(io::Error::new(reason.kind(), reason)),
        }
    }
}

impl EndReason {
    /// What reads and writes fail with.
    pub(super) fn kind(self) -> io::ErrorKind {
        match self {
            Self::Closed | Self::Local => io::ErrorKind::BrokenPipe,
            Self::Unreachable => io::ErrorKind::TimedOut,
            Self::Violation => io::ErrorKind::InvalidData,
            Self::Broken => io::ErrorKind::ConnectionAborted,
        }
    }
}

type NextEvent = Pin<Box<dyn Future<Output = Option<DataChannelEvent>> + Send>>;
type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The half that is read.
pub(super) struct RtcReader {
    channel: Arc<dyn DataChannel>,
    /// What is left of a message.
    message: BytesMut,
    next: Option<NextEvent>,
    end: Arc<End>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    watch: Arc<Watch>,
    /// The peer has closed: what came before may still be on its way through the library, which can tell of the end first.
    settling: Option<Settling>,
    is_at_end: bool,
}

impl RtcReader {
    /// Reads `message` first, then what the channel brings.
    pub(super) fn new(
        channel: Arc<dyn DataChannel>,
        message: BytesMut,
        end: Arc<End>,
        watch: Arc<Watch>,
    ) -> Self {
        let ended = Box::pin(end.token.clone().cancelled_owned());
        Self { channel, message, next: None, end, ended, watch, settling: None, is_at_end: false }
    }

    /// Whether it has ended, and nothing more will come.
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.settling.is_none() {
            std::task::ready!(self.ended.as_mut().poll(context));
            if self.end.reason() != Some(EndReason::Closed) {
                return Poll::Ready(());
            }
        }
        let watch = &self.watch;
        let settling = self.settling.get_or_insert_with(|| {
            let watch = Arc::clone(watch);
            Box::pin(async move { watch.settled().await })
        });
        settling.as_mut().poll(context)
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<DataChannelEvent>> {
        let channel = &self.channel;
        let next = self.next.get_or_insert_with(|| {
            let channel = Arc::clone(channel);
            Box::pin(async move { channel.poll().await })
        });
        let event = std::task::ready!(next.as_mut().poll(context));
        self.next = None;
        Poll::Ready(event)
    }
}

impl AsyncRead for RtcReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        for _ in 0..EVENTS_A_TURN {
            if !this.message.is_empty() {
                let len = this.message.len().min(buffer.remaining());
                buffer.put_slice(&this.message[..len]);
                this.message.advance(len);
                return Poll::Ready(Ok(()));
            }
            if this.is_at_end {
                return Poll::Ready(this.end.to_io());
            }
            match this.poll_event(context) {
                Poll::Ready(Some(DataChannelEvent::OnMessage(message))) if message.is_string => {
                    this.end.set(EndReason::Violation);
                    this.is_at_end = true;
                }
                Poll::Ready(Some(DataChannelEvent::OnMessage(message))) => {
                    this.message = message.data;
                    this.end.taken.fetch_add(1, Ordering::Relaxed);
                    // There may be more behind it.
                    this.settling = None;
                }
                Poll::Ready(Some(DataChannelEvent::OnClose | DataChannelEvent::OnClosing)) => {
                    this.end.set(EndReason::Closed);
                }
                Poll::Ready(None) => {
                    this.end.set(EndReason::Closed);
                    this.is_at_end = true;
                }
                Poll::Ready(Some(_)) => {}
                Poll::Pending => {
                    // Only once all that came before it was read.
                    std::task::ready!(this.poll_ended(context));
                    this.is_at_end = true;
                }
            }
            if this.is_at_end {
                this.end.read.cancel();
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for RtcReader {
    fn drop(&mut self) {
        self.end.read.cancel();
    }
}

/// The half that is written.
pub(super) struct RtcWriter(pub(super) Arc<Outbox>);

impl AsyncWrite for RtcWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, bytes)
    }

    /// As with a TCP socket, what was written is on its way by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shut();
        Poll::Ready(Ok(()))
    }
}

impl Drop for RtcWriter {
    fn drop(&mut self) {
        self.0.shut();
    }
}
