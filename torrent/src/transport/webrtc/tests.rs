//! The factory against itself.
