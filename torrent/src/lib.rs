//! torrent
pub mod http;
pub mod store;
pub mod verify;
