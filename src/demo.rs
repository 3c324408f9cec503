//! The parts of `wtfs demo`: the repository it makes, and the process that reads it back and compares.

pub(crate) mod readback;
pub(crate) mod repository;
