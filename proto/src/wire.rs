//! The peer wire protocol as bytes: handshakes, messages, and the extension messages carried inside them.
//!
//! Owns encoding and decoding only. What a message means for a torrent (is the piece there, was the block asked for)
//! is checked against a [`crate::geometry::Geometry`] by whoever holds one; nothing here keeps state between messages
//! except [`metadata::MetadataAssembler`], which gathers one `info` dictionary.
//!
//! Invariant: decoding never panics, never allocates more than it was given, and on an error leaves its input as it
//! was.

pub mod allowed_fast;
pub mod extended;
pub mod handshake;
pub mod message;
pub mod metadata;
pub mod pex;
