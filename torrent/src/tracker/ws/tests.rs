//! The client against a scripted tracker and a factory that makes connections of nothing.
