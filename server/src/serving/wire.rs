//! One connection's socket: what hyper reads from and writes to.
//!
//! Sends marker frames by sendfile(2) (see [`lane`](super::lane)), and everything in front of them with `MSG_MORE`, so
//! that a header travels with the first bytes of its file. Notes since when a write has waited, so that a peer that
//! takes nothing can be given up. Holds the connection's seat: it is free again when the socket closes, also after an
//! upgrade.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::lane::{Lane, place_in_marker};
use super::seats::Seat;

/// Since when a connection's peer has taken nothing of what waits for it.
#[derive(Debug)]
pub(crate) struct Stall {
    start: Instant,
    /// Milliseconds from `start`, plus one; 0 while nothing waits.
    since: AtomicU64,
}

impl Stall {
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now, since: AtomicU64::new(0) }
    }

    /// How long a write has waited.
    pub(crate) fn waited(&self, now: Instant) -> std::time::Duration {
        match self.since.load(Ordering::Relaxed).checked_sub(1) {
            Some(since) => (now - self.start).saturating_sub(std::time::Duration::from_millis(since)),
            None => std::time::Duration::ZERO,
        }
    }

    fn begin(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        // Only the first of several waits counts.
        let _already = self.since.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Notes how a write went.
    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            self.begin();
        } else {
            self.end();
        }
        outcome
    }
}

/// A connection over TLS: its bytes are encrypted here, so that nothing goes past this process.
#[derive(Debug)]
pub(crate) struct Sealed {
    stream: TlsStream<TcpStream>,
    stall: Arc<Stall>,
    _seat: Seat,
}

impl Sealed {
    pub(crate) fn new(stream: TlsStream<TcpStream>, stall: Arc<Stall>, seat: Seat) -> Self {
        Self { stream, stall, _seat: seat }
    }
}

impl AsyncRead for Sealed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.stall.note(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.stall.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is encrypted waits here for the socket.
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.stall.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    lane: Lane,
    stall: Arc<Stall>,
    _seat: Seat,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, lane: Lane, stall: Arc<Stall>, seat: Seat) -> Self {
        Self { stream, lane, stall, _seat: seat }
    }

    /// Sends slices that are to be followed by more at once.
    fn poll_send_ahead(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                let mut nothing = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(&self.stream, slices, &mut nothing, flags)?)
            });
            match sent {
                Err(error) if is_again(&error) => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Sends bytes of the part that a frame stands for.
    fn poll_send_part(&self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<io::Result<usize>> {
        let most = frame.len();
        let mut parts = self.lane.parts();
        let front = parts.waiting.front_mut();
        let announced =
            front.filter(|front| Some(front.place) == place_in_marker(frame) && most <= front.part.bytes);
        let announced = announced.ok_or_else(|| io::Error::other("a frame stands for no part of a file"))?;
        let part = &mut announced.part;
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                Ok(rustix::fs::sendfile(&self.stream, part.source.file(), Some(&mut part.offset), most)?)
            });
            let sent = match sent {
                Err(error) if is_again(&error) => continue,
                // The file ends early: it was cut.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                sent => sent?,
            };
            part.bytes = part.bytes.saturating_sub(sent);
            announced.place += sent;
            if part.bytes == 0 {
                // Stays in front if it fails: then no later write gets past it either.
                part.source.check()?;
                parts.waiting.pop_front();
            }
            return Poll::Ready(Ok(sent));
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let plain = slices.iter().take_while(|slice| place_in_marker(slice).is_none()).count();
        let (ahead, rest) = slices.split_at(plain);
        let ahead_bytes: usize = ahead.iter().map(|slice| slice.len()).sum();
        let Some(frame) = rest.first() else { return Poll::Ready(Err(io::ErrorKind::WriteZero.into())) };
        let mut sent = 0;
        if ahead_bytes > 0 {
            sent = ready!(self.poll_send_ahead(cx, ahead))?;
            if sent < ahead_bytes {
                return Poll::Ready(Ok(sent));
            }
        }
        match self.poll_send_part(cx, frame) {
            Poll::Ready(Ok(more)) => Poll::Ready(Ok(sent + more)),
            Poll::Pending if sent > 0 => Poll::Ready(Ok(sent)),
            outcome => outcome,
        }
    }
}

fn is_again(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::INTR.raw_os_error())
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = if place_in_marker(buf).is_some() {
            self.poll_send(cx, &[IoSlice::new(buf)])
        } else {
            Pin::new(&mut self.stream).poll_write(cx, buf)
        };
        self.stall.note(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = if bufs.iter().any(|slice| place_in_marker(slice).is_some()) {
            self.poll_send(cx, bufs)
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        };
        self.stall.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::lane::{Part, Vouched};
    use super::super::seats::Seats;
    use super::*;
    use crate::client_addr::TrustedProxies;

    #[derive(Debug)]
    struct Letters(File);

    impl Vouched for Letters {
        fn file(&self) -> &File {
            &self.0
        }

        fn check(&self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn wire() -> (Wire, Lane, TcpStream, Arc<Letters>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let there = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (here, peer) = listener.accept().await.expect("accepted");
        let seats = Seats::new(1, 1, TrustedProxies::default());
        let seat = seats.seat(seats.place().await.expect("open"), peer.ip()).expect("free");
        let lane = Lane::default();
        let wire = Wire::new(here, lane.clone(), Arc::new(Stall::new(Instant::now())), seat);
        let mut letters = tempfile::tempfile().expect("a file");
        letters.write_all(b"abcdefghij").expect("written");
        (wire, lane, there, Arc::new(Letters(letters)))
    }

    #[tokio::test]
    async fn frames_become_their_parts_of_the_file_between_other_bytes() {
        let (mut wire, lane, mut there, letters) = wire().await;
        let part = |offset, bytes| Part { source: letters.clone(), offset, bytes };
        let (one, two) =
            (lane.announce(part(2, 3)).expect("a frame"), lane.announce(part(0, 1)).expect("a frame"));
        let slices = [
            IoSlice::new(b"<"),
            IoSlice::new(&one),
            IoSlice::new(b"|"),
            IoSlice::new(&two),
            IoSlice::new(b">"),
        ];
        let mut slices = &mut slices.to_vec()[..];
        while !slices.is_empty() {
            let sent = wire.write_vectored(slices).await.expect("sent");
            IoSlice::advance_slices(&mut slices, sent);
        }
        drop(wire);
        let mut received = String::new();
        there.read_to_string(&mut received).await.expect("received");
        assert_eq!(received, "<cde|a>");
    }

    #[tokio::test]
    async fn a_frame_that_is_not_the_part_in_front_is_never_sent() {
        let (mut wire, lane, mut there, letters) = wire().await;
        let part = |bytes| Part { source: letters.clone(), offset: 0, bytes };
        let _dropped = lane.announce(part(5)).expect("a frame");
        let later = lane.announce(part(5)).expect("a frame");
        assert!(wire.write(&later).await.is_err());
        drop(wire);
        let mut received = Vec::new();
        there.read_to_end(&mut received).await.expect("received");
        assert!(received.is_empty());
    }
}
