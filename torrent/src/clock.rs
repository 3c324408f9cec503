//! The one place where the engine turns the machine's clock into the protocol's [`Moment`].

use std::time::Instant;

use wtfs_proto::time::Moment;

/// Counts from the start of a torrent's task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Moment {
        self.0.elapsed()
    }
}
