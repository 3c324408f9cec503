//! The open web sockets, and how a message reaches one.
//!
//! Owns the seats: how many sockets there are, of whom, and the queue into each. A socket is known to the map by a
//! number alone.
//!
//! Invariant: nobody waits for a socket to take a message. What does not fit into its queue closes it, and all queues
//! together hold a bounded number of bytes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::mpsc;
use wtfs_proto::time::Moment;

use crate::tracker::address::subscriber;
use crate::tracker::config::SocketConfig;
use crate::tracker::swarm::SocketId;

/// A message on its way; its bytes count until it is written or dropped.
#[derive(Debug)]
pub(super) struct Queued {
    text: Utf8Bytes,
    total: Arc<AtomicUsize>,
}

impl Queued {
    pub(super) fn text(&self) -> Utf8Bytes {
        self.text.clone()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.total.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    queue: mpsc::Sender<Queued>,
    heard_s: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Table {
    sockets: HashMap<SocketId, Entry>,
    of_subscriber: HashMap<u64, usize>,
    last: u32,
}

/// All sockets. Clones are the same registry.
#[derive(Debug, Clone)]
pub(in crate::tracker) struct Registry {
    table: Arc<Mutex<Table>>,
    queued_bytes: Arc<AtomicUsize>,
    max: usize,
    max_per_subscriber: usize,
    max_queued_bytes: usize,
    queue: usize,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It waits in the socket's queue.
    Queued,
    /// There is no such socket, or no room for what waits.
    Dropped,
    /// The socket's queue was full: it is closed for that.
    Slow,
}

impl Registry {
    pub(in crate::tracker) fn new(config: &SocketConfig) -> Self {
        Self {
            table: Arc::default(),
            queued_bytes: Arc::default(),
            max: config.max,
            max_per_subscriber: config.max_per_subscriber,
            max_queued_bytes: config.max_queued_bytes,
            queue: config.queue.max(1),
        }
    }

    /// Open sockets.
    pub(in crate::tracker) fn len(&self) -> usize {
        self.lock().sockets.len()
    }

    /// Bytes that wait in all queues.
    pub(in crate::tracker) fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// A place for one more socket of a client, unless there are too many. It is given back when dropped.
    pub(super) fn seat(&self, from: IpAddr) -> Option<Seat> {
        let subscriber = subscriber(from);
        let mut guard = self.lock();
        let table = &mut *guard;
        let own = table.of_subscriber.get(&subscriber).copied().unwrap_or(0);
        if table.sockets.len() >= self.max || own >= self.max_per_subscriber {
            return None;
        }
        // Numbers go round; after four billion sockets one may still be in use.
        let id = loop {
            table.last = table.last.wrapping_add(1);
            match SocketId::new(table.last) {
                Some(id) if !table.sockets.contains_key(&id) => break id,
                _ => (),
            }
        };
        let (queue, inbox) = mpsc::channel(self.queue);
        let heard_s = Arc::new(AtomicU32::new(u32::MAX));
        table.sockets.insert(id, Entry { queue, heard_s: heard_s.clone() });
        *table.of_subscriber.entry(subscriber).or_default() += 1;
        Some(Seat { registry: self.clone(), id, subscriber, inbox, heard_s })
    }

    /// Puts a message into a socket's queue. Never waits.
    pub(super) fn send(&self, to: SocketId, text: String) -> Sent {
        let bytes = text.len();
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.max_queued_bytes {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Sent::Dropped;
        }
        let queued = Queued { text: text.into(), total: self.queued_bytes.clone() };
        let mut table = self.lock();
        let Some(entry) = table.sockets.get_mut(&to) else { return Sent::Dropped };
        match entry.queue.try_send(queued) {
            Ok(()) => Sent::Queued,
            Err(mpsc::error::TrySendError::Closed(_)) => Sent::Dropped,
            Err(mpsc::error::TrySendError::Full(_)) => {
                close(entry);
                Sent::Slow
            }
        }
    }

    /// Closes a socket that has said nothing since a moment, so that its place can be taken. Says whether it has.
    pub(super) fn close_silent(&self, id: SocketId, since: Moment) -> bool {
        let mut table = self.lock();
        let Some(entry) = table.sockets.get_mut(&id) else { return true };
        let heard_s = entry.heard_s.load(Ordering::Relaxed);
        let is_silent = heard_s != u32::MAX && u64::from(heard_s) < since.as_secs();
        if is_silent {
            close(entry);
        }
        is_silent
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the queue, which ends the socket. The entry stays until the socket is gone, as the seat it takes.
fn close(entry: &mut Entry) {
    let (closed, _) = mpsc::channel(1);
    entry.queue = closed;
}

/// The place of one socket among the others.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Registry,
    id: SocketId,
    subscriber: u64,
    inbox: mpsc::Receiver<Queued>,
    heard_s: Arc<AtomicU32>,
}

impl Seat {
    pub(super) fn id(&self) -> SocketId {
        self.id
    }

    /// The next message for this socket; `None` once it is to be closed.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Queued> {
        self.inbox.recv().await
    }

    /// A message that waits already.
    pub(super) fn try_next(&mut self) -> Option<Queued> {
        self.inbox.try_recv().ok()
    }

    /// The client has said something.
    pub(super) fn heard(&self, now: Moment) {
        self.heard_s.store(u32::try_from(now.as_secs()).unwrap_or(u32::MAX - 1), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        table.sockets.remove(&self.id);
        if let Some(own) = table.of_subscriber.get_mut(&self.subscriber) {
            *own -= 1;
            if *own == 0 {
                table.of_subscriber.remove(&self.subscriber);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(queue: usize, max_queued_bytes: usize) -> Registry {
        Registry::new(&SocketConfig {
            max: 3,
            max_per_subscriber: 2,
            queue,
            max_queued_bytes,
            ..SocketConfig::default()
        })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn seats_are_limited_and_given_back() {
        let registry = registry(1, 100);
        let first = registry.seat(ip(1)).expect("a seat");
        let second = registry.seat(ip(1)).expect("a seat");
        assert!(registry.seat(ip(1)).is_none(), "two of one client");
        let third = registry.seat(ip(2)).expect("a seat");
        assert!(registry.seat(ip(3)).is_none(), "three in all");
        drop((first, third));
        assert!(registry.seat(ip(1)).is_some());
        drop(second);
        assert_eq!(registry.len(), 0);
        assert!(registry.lock().of_subscriber.is_empty());
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_is_closed_and_the_others_go_on() {
        let registry = registry(2, 100);
        let (mut slow, mut quick) =
            (registry.seat(ip(1)).expect("a seat"), registry.seat(ip(2)).expect("a seat"));
        let send = |to: &Seat| registry.send(to.id(), "x".repeat(10));
        assert_eq!(
            [send(&slow), send(&slow), send(&slow), send(&slow)],
            [Sent::Queued, Sent::Queued, Sent::Slow, Sent::Dropped]
        );
        assert_eq!(send(&quick), Sent::Queued);
        assert_eq!(registry.queued_bytes(), 30);
        assert!(quick.next().await.is_some());
        assert!(slow.next().await.is_some() && slow.next().await.is_some());
        assert!(slow.next().await.is_none(), "closed");
        assert_eq!(registry.queued_bytes(), 0);
    }

    #[test]
    fn all_queues_together_hold_no_more_than_the_limit() {
        let registry = registry(50, 100);
        let seat = registry.seat(ip(1)).expect("a seat");
        let queued = (0..50).filter(|_| registry.send(seat.id(), "x".repeat(30)) == Sent::Queued).count();
        assert_eq!((queued, registry.queued_bytes()), (3, 90));
        drop(seat);
        assert_eq!(registry.queued_bytes(), 0);
    }

    #[test]
    fn only_a_silent_socket_gives_way() {
        let registry = registry(1, 100);
        let seat = registry.seat(ip(1)).expect("a seat");
        assert!(!registry.close_silent(seat.id(), Moment::from_secs(50)), "just opened");
        seat.heard(Moment::from_secs(10));
        assert!(!registry.close_silent(seat.id(), Moment::from_secs(10)));
        assert!(registry.close_silent(seat.id(), Moment::from_secs(11)));
        let id = seat.id();
        drop(seat);
        assert!(registry.close_silent(id, Moment::ZERO), "gone");
    }
}
