//! What a connection's writer has written and its task has not yet sent: a bounded buffer, waited for at both ends.
//!
//! The writer waits when it is full, so that a peer that takes nothing makes whoever writes wait. The task takes what is
//! there, up to a message: a block written behind its header leaves as one.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::sync::Notify;

/// The buffer between them.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    /// The writer, if it waits for room.
    writer: Option<Waker>,
    /// The writer will write no more.
    is_shut: bool,
    /// The connection takes no more.
    ended: Option<io::ErrorKind>,
}

impl Outbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), bytes_max }
    }

    /// Takes what fits of `bytes`.
    pub(super) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if let Some(kind) = state.ended {
            return Poll::Ready(Err(kind.into()));
        }
        if state.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = bytes.len().min(self.bytes_max.saturating_sub(state.bytes.len()));
        if taken == 0 && !bytes.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.bytes.extend_from_slice(&bytes[..taken]);
        drop(state);
        self.changed.notify_one();
        Poll::Ready(Ok(taken))
    }

    /// The writer writes no more; what it wrote still goes out.
    pub(super) fn shut(&self) {
        self.lock().is_shut = true;
        self.changed.notify_one();
    }

    /// The connection takes no more: writers fail from now on.
    pub(super) fn end(&self, kind: io::ErrorKind) {
        let mut state = self.lock();
        state.ended.get_or_insert(kind);
        state.bytes = BytesMut::new();
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }

    /// The next bytes to send, at most `bytes_max`; none once the writer has shut and all is taken. For one task alone.
    ///
    /// Cancel safe: dropped, nothing was taken.
    pub(super) async fn take(&self, bytes_max: usize) -> Option<BytesMut> {
        loop {
            {
                let mut state = self.lock();
                if !state.bytes.is_empty() {
                    let len = state.bytes.len().min(bytes_max);
                    let taken = state.bytes.split_to(len);
                    if let Some(writer) = state.writer.take() {
                        writer.wake();
                    }
                    return Some(taken);
                }
                if state.is_shut {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn write(outbox: &Outbox, bytes: &[u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| outbox.poll_write(context, bytes)).await
    }

    #[tokio::test]
    async fn a_full_buffer_makes_the_writer_wait_until_something_is_taken() {
        let outbox = Arc::new(Outbox::new(100));
        assert_eq!(write(&outbox, &[1; 150]).await.unwrap(), 100);
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { write(&outbox, &[2; 50]).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(outbox.take(30).await.unwrap().len(), 30);
        assert_eq!(waiting.await.unwrap().unwrap(), 30);
    }

    #[tokio::test]
    async fn a_header_and_its_block_leave_as_one_message() {
        let outbox = Outbox::new(64 << 10);
        write(&outbox, &[0; 13]).await.unwrap();
        write(&outbox, &[1; 16 << 10]).await.unwrap();
        assert_eq!(outbox.take((16 << 10) + 13).await.unwrap().len(), (16 << 10) + 13);
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_of_writing_is_still_taken() {
        let outbox = Outbox::new(100);
        write(&outbox, &[1; 10]).await.unwrap();
        outbox.shut();
        assert_eq!(outbox.take(100).await.unwrap().len(), 10);
        assert!(outbox.take(100).await.is_none());
        assert_eq!(write(&outbox, &[1]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_waiting_writer_fails_when_the_connection_ends() {
        let outbox = Arc::new(Outbox::new(10));
        write(&outbox, &[1; 10]).await.unwrap();
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { write(&outbox, &[2]).await }
        });
        tokio::task::yield_now().await;
        outbox.end(io::ErrorKind::ConnectionReset);
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
