//! Real mounts of a tree in memory: what programs see through the kernel, and that nothing can hang them.
//!
//! Readers are child processes under `timeout`, never threads of this process: a reader in this process whose mount went
//! away would hang the test run itself.

#[path = "mount/content.rs"]
mod content;
#[path = "mount/control.rs"]
mod control;
#[path = "mount/ending.rs"]
mod ending;
#[path = "mount/passthrough.rs"]
mod passthrough;
#[path = "mount/reading.rs"]
mod reading;
#[path = "mount/repositories.rs"]
mod repositories;
#[path = "mount/searching.rs"]
mod searching;
#[path = "mount/stalling.rs"]
mod stalling;
#[path = "mount/support.rs"]
mod support;
