//! Hugging Face repositories: the blobs of their files, kept by their hashes.

pub mod blobs;
