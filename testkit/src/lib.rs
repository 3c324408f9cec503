//! What the tests stand on: content whose every byte tells its offset, guards that leave nothing behind, and
//! the other side of each protocol (trackers and peers, honest or not) written in raw bytes.
//!
//! This crate depends on no crate of the workspace. That keeps it usable from the unit tests of all of them,
//! and it makes the peer and the trackers here a second opinion: a mistake in the product's own codec cannot
//! hide behind the same mistake on the other side.
//!
//! Everything is plain threads and blocking sockets, but for the hub of `hf_hub`, which keeps a runtime to itself.
//! Helpers panic with a message when the *test's own* set-up fails; what the product under test does wrong is returned
//! or counted, for the test to judge.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bencode;
pub mod hf_hub;
pub mod http_tracker;
pub mod lan;
pub mod mount_guard;
pub mod net;
pub mod origin;
pub mod path;
pub mod peer;
pub mod process;
pub mod ramp;
pub mod scratch;
pub mod torrent_file;
pub mod udp_relay;
pub mod udp_tracker;
pub mod wait;
