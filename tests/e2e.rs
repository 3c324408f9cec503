//! The one end-to-end test binary: the real `wtfs`, real mounts, other people's clients.
//!
//! Each file under `e2e/` opens with the sentence it proves. Tests run side by side: each has a world of its own
//! (`support/stage.rs`) and loopback addresses of its own. What a machine lacks makes a test say so and end, or
//! fail where `WTFS_REQUIRE_FUSE=1` or `WTFS_REQUIRE_INTEROP=1` is set.
//!
//! `WTFS_TEST_LOG` is the `RUST_LOG` of the binary under test; `WTFS_TEST_KEEP=1` keeps the scratch directories.

#[path = "support/parts.rs"]
mod support;

#[path = "e2e/blocks.rs"]
mod blocks;
#[path = "e2e/browser_faults.rs"]
mod browser_faults;
#[path = "e2e/browser_limits.rs"]
mod browser_limits;
#[path = "e2e/browser_mixed.rs"]
mod browser_mixed;
#[path = "e2e/browser_page.rs"]
mod browser_page;
#[path = "e2e/browser_swarm.rs"]
mod browser_swarm;
#[path = "e2e/cli.rs"]
mod cli;
#[path = "e2e/control.rs"]
mod control;
#[path = "e2e/crash.rs"]
mod crash;
#[path = "e2e/dashboard.rs"]
mod dashboard;
#[path = "e2e/data_channels.rs"]
mod data_channels;
#[path = "e2e/dead_ends.rs"]
mod dead_ends;
#[path = "e2e/disk_full.rs"]
mod disk_full;
#[path = "e2e/fidelity.rs"]
mod fidelity;
#[path = "e2e/hf_clients.rs"]
mod hf_clients;
#[path = "e2e/hf_errors.rs"]
mod hf_errors;
#[path = "e2e/hf_faults.rs"]
mod hf_faults;
#[path = "e2e/hf_hostile.rs"]
mod hf_hostile;
#[path = "e2e/hf_http.rs"]
mod hf_http;
#[path = "e2e/hf_kept.rs"]
mod hf_kept;
#[path = "e2e/hf_load.rs"]
mod hf_load;
#[path = "e2e/hf_loaders.rs"]
mod hf_loaders;
#[path = "e2e/hf_mount.rs"]
mod hf_mount;
#[path = "e2e/hf_orders.rs"]
mod hf_orders;
#[path = "e2e/hf_sharing.rs"]
mod hf_sharing;
#[path = "e2e/hf_swarm.rs"]
mod hf_swarm;
#[path = "e2e/hf_tools.rs"]
mod hf_tools;
#[path = "e2e/hf_weights.rs"]
mod hf_weights;
#[path = "e2e/hostile_names.rs"]
mod hostile_names;
#[path = "e2e/hostile_peers.rs"]
mod hostile_peers;
#[path = "e2e/hostile_swarm.rs"]
mod hostile_swarm;
#[path = "e2e/hostile_torrents.rs"]
mod hostile_torrents;
#[path = "e2e/hub.rs"]
mod hub;
#[path = "e2e/hub_hostile.rs"]
mod hub_hostile;
#[path = "e2e/hub_trackers.rs"]
mod hub_trackers;
#[path = "e2e/interop_seeding.rs"]
mod interop_seeding;
#[path = "e2e/loaders.rs"]
mod loaders;
#[path = "e2e/mount_life.rs"]
mod mount_life;
#[path = "e2e/network.rs"]
mod network;
#[path = "e2e/no_peers.rs"]
mod no_peers;
#[path = "e2e/operations.rs"]
mod operations;
#[path = "e2e/relays.rs"]
mod relays;
#[path = "e2e/seeding.rs"]
mod seeding;
#[path = "e2e/semantics.rs"]
mod semantics;
#[path = "e2e/soak.rs"]
mod soak;
#[path = "e2e/sparse.rs"]
mod sparse;
#[path = "e2e/trackers.rs"]
mod trackers;
#[path = "e2e/web_seeds.rs"]
mod web_seeds;
