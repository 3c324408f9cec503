//! What one connection decides for itself, apart from the swarm: how many requests to keep outstanding at the other
//! side, and how much of no use to put up with from it.
//!
//! Nothing here knows of sockets or of other peers. Which block is requested next is the picker's business; this
//! module only says how many, and how long to wait for them.

pub mod conduct;
pub mod pipeline;
