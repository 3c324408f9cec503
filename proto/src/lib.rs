//! The protocols of wtfs as pure values and functions: bencode, metainfo and magnets, peer and tracker messages, the
//! arithmetic of pieces, and the decisions a swarm needs (which block, from whom, whom to unchoke).
//!
//! Nothing in this crate opens a file or a socket, reads a clock or draws a random number. Time comes in as a
//! [`time::Moment`], randomness as bytes or as a closure. That keeps every decision replayable: the same inputs give
//! the same outputs, in a unit test, in a simulated swarm with a virtual clock, and in a fuzzer.
//!
//! Two rules hold for everything that decodes:
//!
//! - Input is hostile. No decoder panics, recurses without a limit, or allocates more than a small multiple of the
//!   bytes it was given.
//! - A value that exists is valid. A [`path::TorrentPath`] has no component that leaves its directory, an index made
//!   by a geometry lies inside the torrent, an info hash is the hash of bytes as they came off the wire.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod announce;
pub mod bencode;
pub mod bitfield;
pub mod blame;
pub mod choke;
pub mod compact;
pub mod geometry;
pub mod hf;
pub mod hub;
pub mod id;
pub mod magnet;
pub mod merkle;
pub mod metainfo;
pub mod path;
pub mod peer;
pub mod rate;
pub mod readahead;
pub mod swarm;
pub mod time;
pub mod tracker;
pub mod weights;
pub mod wire;
