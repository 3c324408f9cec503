//! The hashes of a blob's pieces, as torrents of it need them: made in one pass, kept beside the blob with a checksum.

/// The hashes of the pieces of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceHashes {
    /// Length of a piece: a power of two, at least 16 KiB.
    pub piece_bytes: u32,
    /// SHA-1 of each piece, the last one of the bytes that there are.
    pub v1: Vec<[u8; 20]>,
    /// SHA-1 of the last piece filled up with zeros to its whole length, as in a torrent with padding files (BEP 47).
    /// That of the last piece itself when it needs none; zeros for an empty blob.
    pub v1_last_padded: [u8; 20],
    /// Root of the blob's hash tree (BEP 52); zeros for an empty blob.
    pub v2_root: [u8; 32],
    /// The tree's layer of pieces; empty for a blob that is not longer than a piece, as in the metainfo.
    pub v2_layer: Vec<[u8; 32]>,
}
