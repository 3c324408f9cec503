//! The map against a naive one, and what its promises mean one by one.
