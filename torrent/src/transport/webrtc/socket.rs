//! The UDP socket below a connection: large buffers, batches of the kernel taken apart, and few data datagrams handed
//! up before the library sends what they call for.
//!
//! The library takes datagrams until a socket has no more, and acknowledges them together. So after the data datagrams
//! that [`FlushRule`] allows, the socket says that it has none, and wakes whoever asked: the library then sends, and comes
//! back. Batches (GRO) are taken apart here, because the library would take a whole one before it sends.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::Interest;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use super::pacing::{Burst, Pace};
use super::policy::{BurstRule, FlushRule};

/// What the kernel may put into one batch: an IP packet's length.
const BATCH_BYTES: usize = 65_536;

/// A socket of one connection.
pub(super) struct PacedSocket {
    io: tokio::net::UdpSocket,
    batching: UdpSocketState,
    flush: FlushRule,
    pace: Arc<Pace>,
    received: Mutex<Received>,
    burst: Mutex<Burst>,
    burst_max: usize,
}

/// Buffers that no batch is in, for all sockets: one that is idle needs none.
static BUFFERS: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Buffers that are kept. More are in use only while more sockets have half a batch each.
const BUFFERS_KEPT: usize = 8;

fn buffers() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The batch being handed up.
struct Received {
    /// None while nothing is pending.
    buffer: Option<Box<[u8]>>,
    /// What of the buffer is still to be handed up.
    pending: std::ops::Range<usize>,
    /// The length of each datagram but the last.
    stride: usize,
    from: SocketAddr,
    /// Data datagrams handed up that the library has not acknowledged yet.
    unflushed: u32,
}

impl PacedSocket {
    /// Wraps a bound socket. Must be called on the runtime that will poll it.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        buffer_bytes: usize,
        flush: FlushRule,
        burst: BurstRule,
        pace: Arc<Pace>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        enlarge(&socket, buffer_bytes);
        let from = socket.local_addr()?;
        let io = tokio::net::UdpSocket::from_std(socket)?;
        let batching = UdpSocketState::new(UdpSockRef::from(&io))?;
        let received = Received { buffer: None, pending: 0..0, stride: 1, from, unflushed: 0 };
        let (received, burst_max) = (Mutex::new(received), burst.datagrams);
        Ok(Self { io, batching, flush, pace, received, burst: Mutex::new(Burst::new(burst)), burst_max })
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a datagram, or several of one length, may leave. Short ones always may.
    fn poll_burst(&self, context: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<()> {
        let len = transmit.contents.len();
        if len < self.flush.data_bytes_min || self.pace.is_kin() {
            return Poll::Ready(());
        }
        let datagrams = len.div_ceil(transmit.segment_size.unwrap_or(len).max(1));
        self.burst.lock().unwrap_or_else(PoisonError::into_inner).poll_take(context, datagrams)
    }

    /// Fetches a batch from the kernel.
    fn poll_fill(&self, context: &mut Context<'_>, received: &mut Received) -> Poll<io::Result<()>> {
        loop {
            std::task::ready!(self.io.poll_recv_ready(context))?;
            let mut meta = [RecvMeta::default()];
            let buffer = received.buffer.get_or_insert_with(|| {
                let kept = buffers().pop();
                kept.unwrap_or_else(|| vec![0; BATCH_BYTES].into_boxed_slice())
            });
            let outcome = self.io.try_io(Interest::READABLE, || {
                let mut buffers = [IoSliceMut::new(buffer)];
                match self.batching.recv(UdpSockRef::from(&self.io), &mut buffers, &mut meta)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match outcome {
                // `try_io` has taken note: the next turn waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                // An empty datagram means nothing to any protocol here.
                Ok(()) if meta[0].len == 0 => {}
                Ok(()) => {
                    received.pending = 0..meta[0].len;
                    received.stride = meta[0].stride.max(1);
                    received.from = meta[0].addr;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl Received {
    /// Gives the buffer of a batch that is handed up to whoever needs one next.
    fn give_back(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        let mut kept = buffers();
        if kept.len() < BUFFERS_KEPT {
            kept.push(buffer);
        }
    }
}

impl AsyncUdpSocket for PacedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn poll_send(&self, context: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(self.io.poll_send_ready(context))?;
            std::task::ready!(self.poll_burst(context, transmit));
            let sent = self
                .io
                .try_io(Interest::WRITABLE, || self.batching.try_send(UdpSockRef::from(&self.io), transmit));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent.map(|()| transmit.contents.len())),
            }
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut received = self.lock();
        if received.pending.is_empty() {
            match self.poll_fill(context, &mut received) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    received.give_back();
                    // The library sends now; but of one alone it waits for the next before it acknowledges (RFC 9260).
                    if received.unflushed >= self.flush.datagrams {
                        received.unflushed = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        let start = received.pending.start;
        let end = (start + received.stride).min(received.pending.end);
        let len = end - start;
        if len >= self.flush.data_bytes_min {
            if received.unflushed >= self.pace.taken(&self.flush) {
                received.unflushed = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            received.unflushed += 1;
        }
        // Longer than any datagram of ours or a browser's can be: cut, it fails its check and is dropped.
        let taken = len.min(buffer.len());
        if let Some(batch) = &received.buffer {
            buffer[..taken].copy_from_slice(&batch[start..start + taken]);
        }
        received.pending.start = end;
        *meta = RecvMeta::default();
        meta.addr = received.from;
        meta.len = taken;
        meta.stride = taken;
        Poll::Ready(Ok(1))
    }

    fn max_gso_segments(&self) -> usize {
        let most = self.batching.max_gso_segments();
        if self.pace.is_kin() { most } else { most.min(self.burst_max) }
    }

    fn max_gro_segments(&self) -> usize {
        1
    }
}

impl fmt::Debug for PacedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacedSocket").field("io", &self.io).finish_non_exhaustive()
    }
}

/// Asks for large buffers; what the kernel does not give is done without.
fn enlarge(socket: &std::net::UdpSocket, bytes: usize) {
    let socket = socket2::SockRef::from(socket);
    for (option, result) in
        [("SO_RCVBUF", socket.set_recv_buffer_size(bytes)), ("SO_SNDBUF", socket.set_send_buffer_size(bytes))]
    {
        if let Err(error) = result {
            tracing::trace!(option, %error, "socket option not set");
        }
    }
    if let (Ok(receive), Ok(send)) = (socket.recv_buffer_size(), socket.send_buffer_size()) {
        tracing::trace!(receive, send, "socket buffers");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pair() -> (PacedSocket, std::net::UdpSocket) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        let flush = FlushRule::default();
        (PacedSocket::new(socket, 1 << 20, flush, BurstRule::default(), Arc::default()).unwrap(), sender)
    }

    fn poll(socket: &PacedSocket, waker: &Waker) -> Poll<usize> {
        let mut buffer = [0; 2000];
        let mut meta = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(&mut buffer)];
        socket
            .poll_recv(&mut Context::from_waker(waker), &mut buffers, &mut meta)
            .map(|result| result.map(|count| meta[0].len * count).unwrap())
    }

    /// What came of reading.
    #[derive(Debug, Default)]
    struct Taken {
        lens: Vec<usize>,
        /// The most that were handed up without the socket saying in between that it has none.
        longest_run: usize,
        /// How often it said so though it had more, and woke whoever asked.
        held_back: usize,
    }

    async fn receive(socket: &PacedSocket, count: usize) -> Taken {
        let (mut taken, mut run) = (Taken::default(), 0);
        while taken.lens.len() < count {
            let wakes = Arc::new(Wakes::default());
            match poll(socket, &Waker::from(Arc::clone(&wakes))) {
                Poll::Ready(len) => {
                    taken.lens.push(len);
                    run += 1;
                    taken.longest_run = taken.longest_run.max(run);
                }
                Poll::Pending => {
                    run = 0;
                    taken.held_back += usize::from(wakes.0.load(Ordering::SeqCst) > 0);
                    // If it has none, the next may be on its way through the kernel.
                    tokio::task::yield_now().await;
                }
            }
        }
        taken
    }

    #[tokio::test]
    async fn two_data_datagrams_are_handed_up_between_pauses() {
        let (socket, sender) = pair();
        for _ in 0..6 {
            sender.send(&[1; 1200]).unwrap();
        }
        let taken = receive(&socket, 6).await;
        assert_eq!(taken.lens, [1200; 6]);
        assert!(taken.longest_run <= 2, "{taken:?}");
        let wakes = Arc::new(Wakes::default());
        sender.send(&[1; 1200]).unwrap();
        let waker = Waker::from(Arc::clone(&wakes));
        // Whoever is told that there is nothing, though there is, is woken.
        while poll(&socket, &waker).is_pending() {
            tokio::task::yield_now().await;
        }
        assert!(wakes.0.load(Ordering::SeqCst) > 0);
    }

    #[tokio::test]
    async fn more_are_handed_up_at_once_where_the_peer_allows_it() {
        let (socket, sender) = pair();
        socket.pace.set_kin();
        for _ in 0..30 {
            sender.send(&[1; 1200]).unwrap();
        }
        let taken = receive(&socket, 30).await;
        assert_eq!((taken.lens, taken.held_back), (vec![1200; 30], 0));
    }

    #[tokio::test]
    async fn short_datagrams_are_not_held_back() {
        let (socket, sender) = pair();
        for _ in 0..20 {
            sender.send(&[1; 100]).unwrap();
        }
        let taken = receive(&socket, 20).await;
        assert_eq!((taken.lens, taken.held_back), (vec![100; 20], 0));
    }

    #[tokio::test]
    async fn a_batch_of_the_kernel_is_taken_apart() {
        let (socket, sender) = pair();
        let batching = UdpSocketState::new(UdpSockRef::from(&sender)).unwrap();
        let contents = [7; 1200 * 3 + 700];
        let destination = socket.local_addr().unwrap();
        let transmit =
            Transmit { destination, ecn: None, contents: &contents, segment_size: Some(1200), src_ip: None };
        if batching.max_gso_segments() < 4 {
            return;
        }
        batching.try_send(UdpSockRef::from(&sender), &transmit).unwrap();
        assert_eq!(receive(&socket, 4).await.lens, [1200, 1200, 1200, 700]);
    }
}
