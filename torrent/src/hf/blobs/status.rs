//! What the blobs are doing, for people and their dashboards.

use serde::Serialize;
use wtfs_proto::hf::ContentId;

/// Counters since the session began, and what there is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BlobsStatus {
    /// Blobs that are whole and verified, on the disk.
    pub whole: u64,
    /// Their bytes.
    pub whole_bytes: u64,
    /// Blobs of which some is on the disk.
    pub partial: u64,
    /// Bytes of them that are.
    pub partial_bytes: u64,
    /// Blobs that are being fetched now.
    pub fills: u64,
    /// Requests to origins.
    pub requests: u64,
    /// Bytes that origins gave, also those that were thrown away.
    pub origin_bytes: u64,
    /// Bytes that readers were given.
    pub read_bytes: u64,
    /// Of those, bytes that were here when they were asked for.
    pub hit_bytes: u64,
    /// Errors of origins, the ones that readers never noticed among them.
    pub origin_errors: u64,
    /// Times that a blob was fetched and was not what its hash says.
    pub corrupt: u64,
    /// Blobs given up for others.
    pub evicted: u64,
}

/// One blob that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillStatus {
    /// Which.
    pub id: ContentId,
    /// Its length.
    pub bytes: u64,
    /// How much of it is here.
    pub present_bytes: u64,
    /// Reads that wait for it.
    pub waiting: usize,
    /// Requests under way.
    pub requests: usize,
    /// Whom the first of them asks.
    pub origin: String,
}
