//! Verification, under the name by which the engine knows it: of a piece in memory before it is published, and of what
//! lies in a data directory.
//!
//! The code is the store's, which needs both for itself when it opens; nothing of its own is here.

pub use crate::store::{CheckReport, PieceHasher, check_data, verify_piece};
