//! The hub as others use it: through its public interface and real sockets.

#[path = "hub/hf.rs"]
mod hf;
#[path = "hub/hf_bytes.rs"]
mod hf_bytes;
#[path = "hub/hf_lists.rs"]
mod hf_lists;
#[path = "hub/hf_swarm.rs"]
mod hf_swarm;
#[path = "hub/hf_swarm_private.rs"]
mod hf_swarm_private;
#[path = "hub/links.rs"]
mod links;
#[path = "hub/roots.rs"]
mod roots;
#[path = "hub/serving.rs"]
mod serving;
#[path = "hub/stage.rs"]
mod stage;
#[path = "hub/stats.rs"]
mod stats;
#[path = "hub/web_seed.rs"]
mod web_seed;
