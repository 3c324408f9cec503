//! How this crate is told the time.
//!
//! The crate never asks a clock. A caller measures from any start it likes (the opening of a session, the epoch of a
//! simulation) and passes the distance; only differences between two moments of one caller mean anything. A plain
//! [`Duration`] rather than an `Instant`, because a test can make any value of it out of thin air.

use std::time::Duration;

/// A point in time: how long after the caller's arbitrary but fixed start.
pub type Moment = Duration;
