//! Moves the packets of one direction from one device to the other; what becomes of them is the path's to decide.
//!
//! Packets are read into the path's own memory and written from it, as many at a time as there are: no copy beside
//! the two of the system calls, and no allocation.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use wtfs_testkit::path::Direction;

use crate::tun::Tun;

/// Packets read before those that are due are written: a bound on how late one can be for the others' sake.
const BATCH: usize = 128;
/// The shortest sleep. Waking for every packet at 100,000 a second would cost a core; a tenth of a millisecond late
/// is nothing beside the delays that are asked for.
const NAP: Duration = Duration::from_micros(100);

/// Counters that other threads read.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    carried: AtomicU64,
    carried_bytes: AtomicU64,
    lost: AtomicU64,
    queue_full: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    pub(crate) fn as_json(&self) -> String {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{{\"carried\":{},\"carried_bytes\":{},\"lost\":{},\"queue_full\":{},\"refused\":{}}}",
            value(&self.carried),
            value(&self.carried_bytes),
            value(&self.lost),
            value(&self.queue_full),
            value(&self.refused),
        )
    }
}

/// One direction between two devices.
#[derive(Debug)]
pub(crate) struct Pump {
    path: Direction,
    from: Arc<Tun>,
    to: Arc<Tun>,
    start: Instant,
    shared: Arc<Shared>,
}

/// Whether the device may have more packets now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intake {
    MayHaveMore,
    Empty,
    /// The path's memory is full; the device's own queue has to hold what comes.
    NoRoom,
}

impl Pump {
    pub(crate) fn new(path: Direction, from: Arc<Tun>, to: Arc<Tun>, start: Instant) -> Self {
        Self { path, from, to, start, shared: Arc::default() }
    }

    pub(crate) fn counters(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Runs until a device fails.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let intake = self.take_in()?;
            self.give_out();
            self.publish();
            if intake != Intake::MayHaveMore {
                self.wait(intake)?;
            }
        }
    }

    fn take_in(&mut self) -> io::Result<Intake> {
        for _ in 0..BATCH {
            let Some(slot) = self.path.slot() else { return Ok(Intake::NoRoom) };
            match self.from.receive(slot) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    // Asked anew for each: with a time from before it came, one would be out early.
                    let _fate = self.path.commit(self.start.elapsed(), len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Intake::Empty),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Intake::MayHaveMore)
    }

    fn give_out(&mut self) {
        let now = self.start.elapsed();
        while let Some(packet) = self.path.due(now) {
            if self.to.send(packet).is_err() {
                // A device that is down or a kernel that has no memory: a lost packet, as on a real line.
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            self.path.pop();
        }
    }

    fn publish(&self) {
        let counters = self.path.counters();
        self.shared.carried.store(counters.carried, Ordering::Relaxed);
        self.shared.carried_bytes.store(counters.carried_bytes, Ordering::Relaxed);
        self.shared.lost.store(counters.lost, Ordering::Relaxed);
        self.shared.queue_full.store(counters.queue_full, Ordering::Relaxed);
    }

    fn wait(&self, intake: Intake) -> io::Result<()> {
        let due = self.path.next_due().map(|due| due.saturating_sub(self.start.elapsed()).max(NAP));
        let timeout = due.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut interest = [PollFd::new(&*self.from, PollFlags::IN)];
        let interest = if intake == Intake::NoRoom { &mut interest[..0] } else { &mut interest[..] };
        match poll(interest, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
