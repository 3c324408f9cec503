//! Hugging Face repositories: the blobs of their files, kept by their hashes, and the client of the hubs that
//! they come from.

pub mod blobs;
mod client;

pub use client::{
    ApiAnswer, ApiMethod, ApiRequest, DEFAULT_ENDPOINT, RANGE_BYTES_MAX, RangeBody, Token, TokenError,
    Upstream, UpstreamConfig, UpstreamCounters, UpstreamError, UpstreamFile, UpstreamSetupError,
};
