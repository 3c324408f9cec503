//! The pure decisions of one swarm: which block to ask of which source.
//!
//! Nothing here knows a socket, a clock or a disk. The engine's torrent task owns one
//! [`picker::Picker`], tells it what happened and the time, and does what it answers.

mod contested;
pub mod hash_answers;
pub mod hashes;
pub mod picker;
pub mod spread;
mod wants;

pub use wants::{DemandId, Urgency};
