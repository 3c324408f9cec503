//! torrent
pub mod http;
