//! What one connection decides for itself, apart from the swarm: how many requests to keep outstanding at the other
//! side.
//!
//! Nothing here knows of sockets or of other peers. Which block is requested next is the picker's business; this
//! module only says how many, and how long to wait for them.

pub mod pipeline;
